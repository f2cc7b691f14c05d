#!/usr/bin/env python3
"""Records what llama-quantize makes of the models of the reference data: `oracle.py LLAMA_QUANTIZE TRANSFORM ORACLE > ../data/oracle.json`. Needs numpy and the PyPI
package gguf.

TRANSFORM is this plugin's example of that name, built: it makes the F32 file that llama-quantize starts from. That this file is the one of llama.cpp's own
converter is shown elsewhere (runtime/conversion/tests/conversion/shared.rs). Stored are the hashes of tensors alone, for llama-quantize puts them in another order.
The importance comes from a formula that tests/quantize/oracle.rs has too.
"""
import hashlib, json, os, subprocess, sys, tempfile
import gguf
import numpy as np

PROGRAM, TRANSFORM, ORACLE = sys.argv[1:4]
MIXTURES = ["IQ1_S", "IQ1_M", "TQ1_0", "TQ2_0", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "Q2_K_S", "Q2_K", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M", "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_XS", "Q4_0", "IQ4_NL", "Q4_K_S", "Q4_K_M", "Q4_1", "Q5_0", "Q5_K_S", "Q5_K_M", "Q5_1", "Q6_K",
            "Q8_0", "F16", "BF16", "F32"]
NEED_IMPORTANCE = ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "Q2_K_S", "IQ3_XXS", "IQ3_XS"]


def importance(seed, n):
    """Squares of the first n numbers of splitmix64, as numbers from 0 to 1."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        u = ((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.int64).astype(np.float32) * np.float32(2.0**-24)
    return u * u


def write_importance(path, tensors):
    writer = gguf.GGUFWriter(path, "imatrix"); writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["none"]); writer.add_uint32("imatrix.chunk_count", 1); writer.add_uint32("imatrix.chunk_size", 4)
    for seed, tensor in enumerate(tensors):
        if not tensor.name.startswith("blk.") or len(tensor.shape) != 2: continue
        writer.add_tensor(f"{tensor.name}.in_sum2", importance(seed, int(tensor.shape[0])).reshape(1, -1) * np.float32(4))
        writer.add_tensor(f"{tensor.name}.counts", np.full((1, 1), 4, np.float32))
    writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()


def digest(data): return hashlib.sha256(data).hexdigest()[:12]


def main():
    models = []
    with tempfile.TemporaryDirectory() as directory:
        weights, out = os.path.join(directory, "imatrix.gguf"), os.path.join(directory, "out.gguf")
        for model in ["llama", "qwen2"]:
            made = os.path.join(directory, model)
            subprocess.run([TRANSFORM, os.path.join(ORACLE, model, "base"), made, "--type", "F32"], check=True, stdout=subprocess.DEVNULL)
            dense = os.path.join(made, "model.gguf")
            tensors = gguf.GGUFReader(dense).tensors
            write_importance(weights, tensors)
            runs = []
            for mixture in MIXTURES:
                for weighted in [False, True]:
                    if mixture in NEED_IMPORTANCE and not weighted: continue
                    ran = subprocess.run([PROGRAM, *(["--imatrix", weights] if weighted else []), dense, out, mixture, "2"], capture_output=True, text=True)
                    assert ran.returncode == 0, ran.stderr[-3000:]
                    found = {t.name: f"{t.tensor_type.name} {digest(t.data.tobytes())}" for t in gguf.GGUFReader(out).tensors}
                    runs.append({"mixture": mixture, "importance": weighted, "tensors": [found[t.name] for t in tensors]})
            models.append({"name": model, "tensors": [t.name for t in tensors], "runs": runs})
            print(model, len(runs), file=sys.stderr, flush=True)
    print(json.dumps({"models": models}).replace('{"mixture"', '\n{"mixture"').replace('{"name"', '\n{"name"'))


main()
