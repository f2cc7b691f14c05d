#!/usr/bin/env python3
"""Times ggml's encoders and decoders on one thread, as examples/codecs.rs times ours: `throughput.py LIBGGML_BASE [TYPE..]`. Needs numpy.

Both: 4 million near to normal numbers (the big dense types too), rows of 4,096; the best of three runs; millions of numbers a second.
"""
import sys, time
import numpy as np

WANTED = [word.upper() for word in sys.argv[2:]]
sys.argv = sys.argv[:2]
import importlib.util, pathlib
SOURCE = pathlib.Path(__file__).with_name("blocks.py").read_text().rsplit("\nmain()", 1)[0]
exec(compile(SOURCE, "blocks.py", "exec"))

COLUMNS, ROWS = 4096, 1024


def best(run, n):
    times = []
    for _ in range(3):
        start = time.perf_counter(); run(); times.append(time.perf_counter() - start)
    return n / min(times) / 1e6


def main():
    x = inputs("normal", COLUMNS * ROWS); weights = importances("random", COLUMNS)
    print(f"{'type':8}{'encode':>10}{'weighted':>10}{'decode':>10}   millions of numbers a second")
    for kind, name, block, uses, _ in TYPES:
        if WANTED and name not in WANTED: continue
        # The slow searches get a part of the rows.
        rows = ROWS if name in ["F32", "F16", "BF16", "Q8_0"] else ROWS // 8
        part = x[:rows * COLUMNS]
        encoded = encode(kind, part, COLUMNS, weights)
        unweighted = 0.0 if name in NEED_IMPORTANCE else best(lambda: encode(kind, part, COLUMNS, None), len(part))
        speeds = [unweighted, best(lambda: encode(kind, part, COLUMNS, weights), len(part)),
                  best(lambda: decode(kind, encoded, len(part)), len(part))]
        print(f"{name:8}" + "".join(f"{speed:10.1f}" for speed in speeds), flush=True)


main()
