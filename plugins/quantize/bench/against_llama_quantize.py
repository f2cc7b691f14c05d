#!/usr/bin/env python3
"""Races this plugin against llama-quantize on the same file, and compares what both write, tensor by tensor.

Needs llama.cpp's `llama-quantize` (build it from the source that PyPI's llama-cpp-python carries), `pip install gguf`, and
    cargo build --release -p witness-plugin-quantize --example transform

    python3 plugins/quantize/bench/against_llama_quantize.py MODEL.gguf --llama-quantize PATH --type Q4_K_M --type Q8_0

Both run in turns, A B A B, with the same number of threads, into the same directory. Printed: seconds as the median of all runs, the ratio, the most resident
memory of each, and how many tensors differ. The exit status is 1 where a tensor differs.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def run(command):
    """Runs a program; returns seconds and the most resident bytes."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    stderr = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status != 0:
        sys.exit(f"{command[0]} failed:\n{stderr.decode(errors='replace')[-3000:]}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def print_tensors(path):
    from gguf import GGUFReader

    found = {t.name: [t.tensor_type.name, hashlib.sha256(t.data.tobytes()).hexdigest()] for t in GGUFReader(path).tensors}
    print(json.dumps(found))


def tensors(path):
    # In a process of its own: the memory of this one would count as that of the programs that it starts.
    return json.loads(subprocess.run([sys.executable, __file__, "--tensors-of", path], capture_output=True, check=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--llama-quantize", required=True)
    parser.add_argument("--type", action="append", required=True, help="may be given several times")
    parser.add_argument("--program", default="target/release/examples/transform")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    all_equal = True
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as directory:
        theirs, ours = Path(directory) / "theirs.gguf", Path(directory) / "ours"
        for kind in arguments.type:
            threads = str(arguments.threads)
            runs = {"llama-quantize": [], "witness": []}
            for _ in range(arguments.rounds):
                theirs.unlink(missing_ok=True)
                runs["llama-quantize"].append(run([arguments.llama_quantize, arguments.model, str(theirs), kind, threads]))
                runs["witness"].append(
                    run([arguments.program, arguments.model, str(ours), "--type", kind, "--threads", threads])
                )
            a, b = tensors(theirs), tensors(ours / "model.gguf")
            different = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
            all_equal &= not different
            seconds = {who: statistics.median(s for s, _ in each) for who, each in runs.items()}
            peak = {who: max(p for _, p in each) for who, each in runs.items()}
            print(
                f"{kind:>7}  llama-quantize {seconds['llama-quantize']:7.2f} s {peak['llama-quantize'] / 2**20:7.0f} MiB"
                f"   witness {seconds['witness']:7.2f} s {peak['witness'] / 2**20:7.0f} MiB"
                f"   speed x{seconds['llama-quantize'] / seconds['witness']:.2f}"
                f"   {len(a)} tensors, {len(different)} differ{': ' + ', '.join(different[:4]) if different else ''}",
                flush=True,
            )
    return 0 if all_equal else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--tensors-of"]:
        sys.exit(print_tensors(sys.argv[2]))
    sys.exit(main())
