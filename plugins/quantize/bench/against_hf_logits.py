#!/usr/bin/env python3
"""Converts models to GGUF, has llama.cpp compute their logits, and compares these with what Transformers computed from the directories.

Needs `llama_logits` (build it from llama_logits.cpp, which says how), numpy, the reference data beside the checkout, and
    cargo build --release -p witness-plugin-quantize --example transform

    python3 plugins/quantize/bench/against_hf_logits.py ORACLE MODELS --llama-logits PATH

Printed for each model: the largest and the mean difference, the largest logit, and whether the most likely token is the same everywhere. The exit status is 1 where a
difference is above 1e-3, or a greedy token differs where the two most likely ones are further apart than that.
"""

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

TYPES = {"F32": np.float32, "I64": np.int64}


def safetensors(path):
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    head, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    read = lambda about: np.frombuffer(body[slice(*about["data_offsets"])], TYPES[about["dtype"]]).reshape(about["shape"])
    return {name: read(about) for name, about in head.items() if name != "__metadata__"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("oracle", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("--llama-logits", required=True)
    parser.add_argument("--program", default="target/release/examples/transform")
    arguments = parser.parse_args()
    is_good = True
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)

        def transform(name, *options):
            out = directory / name
            subprocess.run([arguments.program, *map(str, options), str(out)], check=True, stdout=subprocess.DEVNULL)
            return out

        def logits(model, ids, adapter=None):
            ids_path, out = directory / "ids", directory / "logits"
            ids_path.write_text(" ".join(map(str, ids)))
            subprocess.run([arguments.llama_logits, model, ids_path, out, *([adapter] if adapter else [])], check=True)
            return np.fromfile(out, np.float32).reshape(len(ids), -1)

        def against(what, gguf, recorded, adapter=None):
            nonlocal is_good
            recorded, differences, largest, same = safetensors(recorded), [], 0, True
            for prompt in sorted({name.split(".")[0] for name in recorded}):
                theirs = recorded[f"{prompt}.logits_last8"]
                ours = logits(gguf, recorded[f"{prompt}.input_ids"].tolist(), adapter)[-8:, : theirs.shape[1]]
                differences.append(np.abs(ours - theirs)); largest = max(largest, np.abs(theirs).max())
                same &= bool((ours.argmax(axis=1) == theirs.argmax(axis=1)).all())
            difference = np.concatenate(differences)
            is_good &= bool(difference.max() < 1e-3)
            print(f"{what:44} {difference.max():.2e} largest, {difference.mean():.2e} mean, of {largest:.1f}; greedy tokens {'the same' if same else 'differ'}", flush=True)

        for model in ["llama", "qwen2"]:
            base = arguments.oracle / model / "base"
            gguf = transform(f"{model}-f32", base, "--type", "F32") / "model.gguf"
            against(model, gguf, arguments.oracle / model / "base_logits.safetensors")
            for case in sorted(arguments.oracle.glob(f"{model}/*/final_adapter")):
                name, peft = case.parent.name, case
                merged = transform(f"{model}-{name}-merged", base, "--adapter", peft, "--type", "F32") / "model.gguf"
                if (case.parent / "merged_logits.safetensors").exists():
                    against(f"{model}, {name} merged", merged, case.parent / "merged_logits.safetensors")
                if name.startswith("dora"): continue  # GGUF has no form for its magnitudes.
                adapter = transform(f"{model}-{name}", base, "--adapter", peft, "--to", "gguf-adapter") / "adapter.gguf"
                if (case.parent / "adapter_logits.safetensors").exists():
                    against(f"{model}, {name} as an adapter", gguf, case.parent / "adapter_logits.safetensors", adapter)
        truth = json.loads((arguments.models / "ground-truth.json").read_text())
        for case in truth["cases"]:
            base = {"stories260K": "stories260K-hf"}.get(case["model"], "tinystories-656k-hf")
            gguf = directory / base / "model.gguf"
            if not gguf.exists(): transform(base, arguments.models / base, "--type", "F32")
            ids = case["prompt_ids"] + case["generated_ids"]
            found = logits(gguf, ids)[len(case["prompt_ids"]) - 1 : -1]
            wrong = sum(1 for row, wanted in zip(found, case["generated_ids"]) if row.argmax() != wanted and row.max() - row[wanted] > 1e-3)
            is_good &= wrong == 0
            print(f"{case['model']:44} {len(found)} greedy tokens, {wrong} differ", flush=True)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
