#!/usr/bin/env python3
"""Races this crate's training against Transformers with PEFT, on random weights of a true model's shape.

Needs: `pip install torch transformers peft` (any recent versions) and the program, built by
    cargo build --release -p witness-training --example throughput

Full work (4 rows of 256 tokens, all of them targets, LoRA r 16 on q, k, v and o, AdamW, clipping at 1.0):
    python3 runtime/training/bench/against_peft.py shapes --shape 15m --shape 135m --shape 0.5b
    ... --compute f32 --compute bf16 --rounds 3 --steps 4

Real rows, against a script that pads every row to 2,048 tokens (its labels: all tokens but those equal to the padding token):
    python3 runtime/training/bench/against_peft.py padded --data 'DIRECTORY/**/*.jsonl' --tokenizer DIRECTORY --shape 15m

Both programs load the same weights, adapter and rows, and run one after the other, in turns, so that a busy machine is busy for both. The first step of a run is
not counted. Printed: seconds a step as the median over all runs, tokens (or rows) a second, the ratio of the two, the most resident memory of each, and the
largest difference of a step's loss. bf16 means torch's autocast over a bf16 base there, and `--compute bf16` over the same base here; losses agree to about 1e-2.
The exit status is 1 when losses do not agree.
"""

import argparse
import glob
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SHAPES = {
    "15m": dict(family="llama", layers=6, d=288, f=768, heads=6, kv=6, vocabulary=32000),
    "135m": dict(family="llama", layers=30, d=576, f=1536, heads=9, kv=3, vocabulary=49152),
    "0.5b": dict(family="qwen2", layers=24, d=896, f=4864, heads=14, kv=2, vocabulary=151936),
}
LOSS_TOLERANCE = {"f32": 1e-4, "bf16": 3e-2}
PADDED_TOKENS = 2048


def make_model(shape, directory):
    """Writes random weights, f32, as Transformers initialises them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    config_class, model_class = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[
        shape["family"]
    ]
    torch.manual_seed(1)
    config = config_class(
        num_hidden_layers=shape["layers"],
        hidden_size=shape["d"],
        intermediate_size=shape["f"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv"],
        vocab_size=shape["vocabulary"],
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        pad_token_id=None,
        bos_token_id=1,
        eos_token_id=2,
    )
    model_class(config).save_pretrained(directory)


def adapted(directory, dtype):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]
    )
    return get_peft_model(model, config)


def make_adapter(model_directory, directory):
    import torch

    adapted(model_directory, torch.float32).save_pretrained(directory)


def child(arguments):
    """Trains with PEFT in a process of its own; prints one line of JSON."""
    import resource
    import time

    import torch
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    torch.set_num_threads(arguments.threads or len(os.sched_getaffinity(0)))
    is_bf16 = arguments.compute == ["bf16"]
    model = adapted(arguments.model, torch.bfloat16 if is_bf16 else torch.float32)
    set_peft_model_state_dict(model, load_file(Path(arguments.adapter) / "adapter_model.safetensors"))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    rows = json.loads(Path(arguments.rows_file).read_text())
    seconds, losses = [], []
    for step in range(arguments.steps):
        batch = [rows[(step * arguments.rows + row) % len(rows)] for row in range(arguments.rows)]
        width = max(len(row["ids"]) for row in batch)
        if arguments.pad_to:
            width = max(width, arguments.pad_to)
        pad = lambda values, filler: values + [filler] * (width - len(values))
        ids = torch.tensor([pad(row["ids"], 0) for row in batch])
        labels = [[i if t else -100 for i, t in zip(row["ids"], row["is_target"])] for row in batch]
        labels = torch.tensor([pad(row, -100) for row in labels])
        mask = torch.tensor([pad([1] * len(row["ids"]), 0) for row in batch])
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
            loss = model(input_ids=ids, labels=labels, attention_mask=mask if width > min(len(r["ids"]) for r in batch) else None).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "losses": losses, "peak_bytes": peak}))


def run(command):
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode != 0:
        sys.exit(f"{command[0]} ended with {finished.returncode}:\n{finished.stderr[-3000:]}")
    return json.loads(finished.stdout.strip().splitlines()[-1])


def race(arguments, compute, directory, rows_file, pad_to):
    """Runs both programs in turns; returns their runs."""
    common = ["--model", f"{directory}/model", "--adapter", f"{directory}/adapter", "--rows-file", rows_file]
    common += ["--rows", str(arguments.rows), "--steps", str(arguments.steps), "--compute", compute]
    common += ["--threads", str(arguments.threads)] if arguments.threads else []
    theirs = [sys.executable, __file__, "child", *common] + (["--pad-to", str(pad_to)] if pad_to else [])
    ours = [arguments.program, *common, "--storage", "bf16" if compute == "bf16" else "f32"]
    ours += ["--recompute"] if arguments.recompute else []
    runs = {"peft": [], "witness": []}
    for _ in range(arguments.rounds):
        runs["peft"].append(run(theirs))
        runs["witness"].append(run(ours))
    return runs


def report(name, compute, runs, per_step, unit):
    """Prints one line; returns whether the losses agree."""
    seconds = {who: statistics.median(s for run in runs[who] for s in run["seconds"][1:]) for who in runs}
    peak = {who: max(run["peak_bytes"] for run in runs[who]) for who in runs}
    differences = (
        abs(a - b) for theirs, ours in zip(runs["peft"], runs["witness"]) for a, b in zip(theirs["losses"], ours["losses"])
    )
    worst = max(differences)
    agree = worst <= LOSS_TOLERANCE[compute]
    print(
        f"{name:>6} {compute:>5}  PEFT {per_step / seconds['peft']:9.1f} {unit}/s {peak['peft'] / 2**30:5.2f} GiB"
        f"   witness {per_step / seconds['witness']:9.1f} {unit}/s {peak['witness'] / 2**30:5.2f} GiB"
        f"   speed x{seconds['peft'] / seconds['witness']:.2f}  memory x{peak['witness'] / peak['peft']:.2f}"
        f"   losses within {worst:.1e}{'' if agree else '  DO NOT AGREE'}",
        flush=True,
    )
    return agree


def synthetic_rows(arguments, vocabulary):
    """Rows of one step, the same for both programs and every step."""
    rows = range(arguments.rows)
    return [
        {
            "ids": [(17 * row + 31 * at) % vocabulary for at in range(arguments.tokens)],
            "is_target": [True] * arguments.tokens,
        }
        for row in rows
    ]


def chat_rows(arguments):
    """Rows as the padded script makes them: its template's text, cut at 2,048 tokens; a token equal to the padding token is no target."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    rows = []
    for path in sorted(path for pattern in arguments.data for path in glob.glob(pattern, recursive=True)):
        for line in Path(path).read_text().splitlines():
            if line.strip():
                text = tokenizer.apply_chat_template(json.loads(line)["messages"], tokenize=False)
                ids = tokenizer(text, truncation=True, max_length=PADDED_TOKENS)["input_ids"]
                rows.append({"ids": ids, "is_target": [token != tokenizer.eos_token_id for token in ids]})
    if not rows:
        sys.exit("--data names no rows")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["shapes", "padded", "child"])
    parser.add_argument("--shape", action="append", choices=SHAPES, help="may be given several times")
    parser.add_argument("--compute", action="append", choices=["f32", "bf16"], help="may be given several times")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each program")
    parser.add_argument("--steps", type=int, default=4, help="steps of a run; the first is not counted")
    parser.add_argument("--rows", type=int, default=4, help="rows of a step")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a row, without --data")
    parser.add_argument("--threads", type=int, help="of both; by default all processors")
    parser.add_argument("--recompute", action="store_true", help="ours makes activations again instead of keeping them")
    parser.add_argument("--program", default="target/release/examples/throughput")
    parser.add_argument("--data", action="append", default=[], help="chat JSONL, a path or pattern")
    parser.add_argument("--tokenizer", help="a directory or name with a chat template")
    for hidden in ["--model", "--adapter", "--rows-file"]:
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--pad-to", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.mode == "child":
        return child(arguments)
    all_agree = True
    for name in arguments.shape or ["15m"]:
        shape = SHAPES[name]
        rows = chat_rows(arguments) if arguments.mode == "padded" else synthetic_rows(arguments, shape["vocabulary"])
        # A few tokens more, where the tokenizer has them.
        shape = dict(shape, vocabulary=max(shape["vocabulary"], 1 + max(max(row["ids"]) for row in rows)))
        with tempfile.TemporaryDirectory() as directory:
            make_model(shape, f"{directory}/model")
            make_adapter(f"{directory}/model", f"{directory}/adapter")
            rows_file = f"{directory}/rows.json"
            Path(rows_file).write_text(json.dumps(rows))
            for compute in arguments.compute or ["f32", "bf16"]:
                if arguments.mode == "padded":
                    runs = race(arguments, compute, directory, rows_file, PADDED_TOKENS)
                    all_agree &= report(name, compute, runs, arguments.rows, "rows")
                else:
                    runs = race(arguments, compute, directory, rows_file, None)
                    all_agree &= report(name, compute, runs, arguments.rows * arguments.tokens, "tokens")
    return 0 if all_agree else 1


if __name__ == "__main__":
    sys.exit(main())
