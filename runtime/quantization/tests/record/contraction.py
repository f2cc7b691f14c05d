#!/usr/bin/env python3
"""Counts the blocks that differ between two builds of ggml's encoders; see contraction.sh."""
import ctypes, sys
import numpy as np

BASE, FUSED = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL), ctypes.CDLL(sys.argv[2])
TYPES = [("q8_0", 34, 32), ("q4_0", 18, 32), ("q4_1", 20, 32), ("q5_0", 22, 32), ("q5_1", 24, 32), ("q2_K", 84, 256), ("q3_K", 110, 256), ("q4_K", 144, 256),
         ("q5_K", 176, 256), ("q6_K", 210, 256), ("iq4_nl", 18, 32), ("iq4_xs", 136, 256)]
ROWS, COLUMNS = 2048, 2048


def encode(library, name, x, importance, size):
    function = getattr(library, f"quantize_{name}")
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    out = np.zeros(size, np.uint8)
    assert function(x.ctypes.data, out.ctypes.data, ROWS, COLUMNS, None if importance is None else importance.ctypes.data) == size
    return out


random = np.random.default_rng(0)
x = (random.standard_normal(ROWS * COLUMNS) * 0.02).astype(np.float32)
importance = (random.standard_normal(COLUMNS) ** 2).astype(np.float32)
print("| type | without importance | with importance |\n| --- | --- | --- |")
for name, size, numbers in TYPES:
    shares = []
    for weights in [None, importance]:
        blocks = len(x) // numbers
        one, other = (encode(library, name, x, weights, blocks * size).reshape(blocks, size) for library in (BASE, FUSED))
        shares.append(f"{100 * (one != other).any(axis=1).mean():.3g} %")
    print(f"| {name.upper()} | {shares[0]} | {shares[1]} |")
