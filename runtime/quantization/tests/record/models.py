#!/usr/bin/env python3
"""Records what llama-quantize makes of layers of true shapes: `models.py LLAMA_QUANTIZE > ../data/models.json`. Needs numpy and the PyPI package gguf.

Each model has one layer of a real model's shapes and a small vocabulary. Its numbers come from the formulas below, which tests/models.rs has too, so nothing of it
is stored but the hash of each tensor of each result. Some 60 million numbers, 39 times: minutes.
"""
import hashlib, json, os, subprocess, sys, tempfile
import gguf
import numpy as np

PROGRAM = sys.argv[1]
MIXTURES = ["Q2_K_S", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_XS", "Q4_0", "IQ4_NL", "Q4_K_S", "Q4_K_M", "Q4_1", "Q5_0", "Q5_K_S", "Q5_K_M", "Q5_1", "Q6_K",
            "Q8_0", "F16", "BF16", "F32"]
# Their searches are slow: they get few rows.
OF_GRIDS = ["IQ1_S", "IQ1_M", "TQ1_0", "TQ2_0", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M"]
NEED_IMPORTANCE = ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "Q2_K_S", "IQ3_XXS", "IQ3_XS"]


def layer(d, f, kv, has_biases=False):
    matrices = [["attn_q.weight", [d, d]], ["attn_k.weight", [kv, d]], ["attn_v.weight", [kv, d]], ["attn_output.weight", [d, d]], ["ffn_gate.weight", [f, d]],
                ["ffn_up.weight", [f, d]], ["ffn_down.weight", [d, f]]]
    vectors = [["attn_norm.weight", [d]], ["ffn_norm.weight", [d]]]
    if has_biases: vectors += [["attn_q.bias", [d]], ["attn_k.bias", [kv]], ["attn_v.bias", [kv]]]
    ends = [["token_embd.weight", [96, d]], ["output_norm.weight", [d]]]
    return ends + [[f"blk.0.{name}", shape] for name, shape in vectors + matrices]


def few_rows(tensors): return [[name, [min(16, shape[0]), *shape[1:]] if len(shape) == 2 else shape] for name, shape in tensors]


# Name, architecture, heads, heads of keys and values, tensors, mixtures.
MODELS = [("Llama 3.2 1B", "llama", 32, 8, layer(2048, 8192, 512), MIXTURES), ("Qwen 2.5 0.5B", "qwen2", 14, 2, layer(896, 4864, 128, True), MIXTURES),
          ("Llama 3.2 1B, 16 rows a matrix", "llama", 32, 8, few_rows(layer(2048, 8192, 512)), OF_GRIDS)]


def random(seed, n):
    """The first n numbers of splitmix64."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def numbers(seed, n):
    """Sums of four uniform numbers, between -1/16 and 1/16, each 1,021st of them eight times as large. Exact in f32."""
    s = (random(seed, 4 * n) >> np.uint64(40)).reshape(n, 4).sum(axis=1).astype(np.int64) - (1 << 25)
    x = s.astype(np.float32) * np.float32(2.0**-29)
    x[::1021] *= np.float32(8)
    return x


def importance(seed, n):
    u = (random(1000 + seed, n) >> np.uint64(40)).astype(np.int64).astype(np.float32) * np.float32(2.0**-24)
    return u * u


def has_importance(name, shape): return name.startswith("blk.") and len(shape) == 2


def finish(writer): writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()


def write_model(path, arch, heads, kv, tensors):
    shapes = dict((name, shape) for name, shape in tensors)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(1); writer.add_context_length(2048); writer.add_embedding_length(shapes["token_embd.weight"][1])
    writer.add_feed_forward_length(shapes["blk.0.ffn_down.weight"][1]); writer.add_head_count(heads); writer.add_head_count_kv(kv)
    writer.add_layer_norm_rms_eps(1e-5); writer.add_vocab_size(shapes["token_embd.weight"][0])
    for seed, (name, shape) in enumerate(tensors): writer.add_tensor(name, numbers(seed, int(np.prod(shape))).reshape(shape))
    finish(writer)


def write_importance(path, tensors):
    writer = gguf.GGUFWriter(path, "imatrix"); writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["none"]); writer.add_uint32("imatrix.chunk_count", 1); writer.add_uint32("imatrix.chunk_size", 4)
    for seed, (name, shape) in enumerate(tensors):
        if not has_importance(name, shape): continue
        writer.add_tensor(f"{name}.in_sum2", importance(seed, shape[1]).reshape(1, -1) * np.float32(4))
        writer.add_tensor(f"{name}.counts", np.full((1, 1), 4, np.float32))
    finish(writer)


def main():
    models = []
    with tempfile.TemporaryDirectory() as directory:
        path, weights, out = (os.path.join(directory, name) for name in ["model.gguf", "imatrix.gguf", "out.gguf"])
        for name, arch, heads, kv, tensors, mixtures in MODELS:
            write_model(path, arch, heads, kv, tensors); write_importance(weights, tensors)
            runs = []
            for mixture in mixtures:
                for weighted in [False, True]:
                    if mixture in NEED_IMPORTANCE and not weighted: continue
                    ran = subprocess.run([PROGRAM, *(["--imatrix", weights] if weighted else []), path, out, mixture, "2"], capture_output=True, text=True)
                    assert ran.returncode == 0, ran.stderr[-3000:]
                    made = {t.name: f"{t.tensor_type.name} {hashlib.sha256(t.data.tobytes()).hexdigest()[:12]}" for t in gguf.GGUFReader(out).tensors}
                    runs.append({"mixture": mixture, "importance": weighted, "made": [made[name] for name, _ in tensors]})
                    print(name, mixture, weighted, file=sys.stderr, flush=True)
            models.append({"name": name, "architecture": arch, "heads": heads, "kv_heads": kv, "tensors": tensors, "runs": runs})
    print(json.dumps({"models": models}).replace('{"mixture"', '\n{"mixture"').replace('{"name"', '\n{"name"'))


main()
