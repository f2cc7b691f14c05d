#!/usr/bin/env python3
"""Records what ggml encodes and decodes, as hashes: `blocks.py LIBGGML_BASE > ../data/blocks.json`. Needs numpy.

The inputs are made by formulas that tests/blocks.rs has too: integers of splitmix64, scaled by powers of two, so that every f32 is exact.
"""
import ctypes, hashlib, json, sys
import numpy as np

LIBRARY = ctypes.CDLL(sys.argv[1])
LIBRARY.ggml_version.restype = ctypes.c_char_p
LIBRARY.ggml_quantize_chunk.restype = ctypes.c_size_t
LIBRARY.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
LIBRARY.ggml_row_size.restype = ctypes.c_size_t
LIBRARY.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
LIBRARY.ggml_get_type_traits.argtypes = [ctypes.c_int]


class Traits(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("block", ctypes.c_int64), ("interleave", ctypes.c_int64), ("bytes", ctypes.c_size_t),
                ("is_quantized", ctypes.c_bool), ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64))]


LIBRARY.ggml_get_type_traits.restype = ctypes.POINTER(Traits)

# Number, name, numbers of a block, whether importance changes anything, places of the f16 fields.
TYPES = [(0, "F32", 1, False, []), (1, "F16", 1, False, [0]), (30, "BF16", 1, False, [0]), (8, "Q8_0", 32, False, [0]), (2, "Q4_0", 32, True, [0]),
         (3, "Q4_1", 32, True, [0, 2]), (6, "Q5_0", 32, True, [0]), (7, "Q5_1", 32, True, [0, 2]), (10, "Q2_K", 256, True, [80, 82]),
         (11, "Q3_K", 256, True, [108]), (12, "Q4_K", 256, True, [0, 2]), (13, "Q5_K", 256, True, [0, 2]), (14, "Q6_K", 256, True, [208]),
         (20, "IQ4_NL", 32, True, [0]), (23, "IQ4_XS", 256, True, [0]), (16, "IQ2_XXS", 256, True, [0]), (17, "IQ2_XS", 256, True, [0]), (22, "IQ2_S", 256, True, [0]),
         (18, "IQ3_XXS", 256, True, [0]), (21, "IQ3_S", 256, True, [0]), (19, "IQ1_S", 256, True, [0]), (29, "IQ1_M", 256, True, []), (34, "TQ1_0", 256, False, [52]), (35, "TQ2_0", 256, False, [64])]
NEED_IMPORTANCE = ["IQ1_S", "IQ2_XXS", "IQ2_XS"]
# Types that are only decoded. The d of IQ1_M is spread over the highest bits of four words; any bytes of the types of 4-bit floating points are numbers.
DECODED = [(41, "Q1_0", 128, [0]), (39, "MXFP4", 32, []), (40, "NVFP4", 64, [])]


def random(seed, n):
    """The first n numbers of splitmix64."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def scaled(x, exponent):
    """Multiplies by a power of two, rounding once where that leaves the normal numbers."""
    return np.ldexp(x.astype(np.float64), exponent).astype(np.float32)


def normal(seed, n):
    """Sums of four uniform numbers, between -2 and 2: near enough to normal."""
    r = random(seed, 4 * n) >> np.uint64(40)
    s = r.reshape(n, 4).sum(axis=1).astype(np.int64) - (1 << 25)
    return scaled(s.astype(np.float32), -24)


def inputs(name, n):
    i = np.arange(n)
    x = scaled(normal(1, n), -5)
    if name == "normal": return x
    if name == "zeros": return np.zeros(n, np.float32)
    if name == "outlier": return np.where(i % 256 == 37, np.float32(8), x).astype(np.float32)
    if name == "denormal": return scaled(x, -130)
    if name == "tiny": return scaled(x, -60)
    if name == "edge": return scaled(x, -44)
    if name == "huge": return scaled(x, 18)
    if name == "negative": return -np.abs(x)
    if name == "positive": return np.abs(x) + np.float32(0.25)
    if name == "constant": return np.full(n, 0.75, np.float32)
    if name == "minus": return np.full(n, -0.3, np.float32)
    if name == "gaps": return np.where(i // 16 % 3 == 0, np.float32(0), x).astype(np.float32)
    if name == "signs": return np.where(i % 3 == 0, np.float32(-0.0), np.where(i % 5 == 0, np.float32(0.125), np.float32(0.0))).astype(np.float32)
    if name == "ties": return scaled((random(2, n) % np.uint64(9)).astype(np.int64).astype(np.float32) - np.float32(4), -2)
    if name == "steps": return np.ldexp(x.astype(np.float64), i // 48 % 14 - 12).astype(np.float32)
    raise ValueError(name)


INPUTS = ["normal", "zeros", "outlier", "denormal", "tiny", "edge", "huge", "negative", "positive", "constant", "minus", "gaps", "signs", "ties", "steps"]


def importances(name, n):
    r = random(3, n)
    u = scaled((r >> np.uint64(40)).astype(np.int64).astype(np.float32), -24)
    if name == "none": return None
    if name == "random": return u * u
    if name == "sparse": return np.where(r % np.uint64(5) == 0, u, np.float32(0)).astype(np.float32)
    if name == "wide": return np.ldexp(np.float64(1), (r % np.uint64(30)).astype(np.int64) - 20).astype(np.float32)
    raise ValueError(name)


def pointer(array): return None if array is None else array.ctypes.data


def digest(array): return hashlib.sha256(array.tobytes()).hexdigest()[:16]


def encode(kind, x, columns, importance):
    rows = len(x) // columns
    out = np.zeros(LIBRARY.ggml_row_size(kind, columns) * rows, np.uint8)
    assert LIBRARY.ggml_quantize_chunk(kind, pointer(x), pointer(out), 0, rows, columns, pointer(importance)) == len(out)
    return out


def decode(kind, data, n):
    if kind == 0: return data.view(np.float32)
    out = np.zeros(n, np.float32)
    LIBRARY.ggml_get_type_traits(kind).contents.to_float(pointer(data), pointer(out), n)
    return out


def arbitrary(size, halves, blocks, is_spread=False):
    """Blocks of any bytes, but for f16 fields of ordinary size."""
    data = (random(4, blocks * size) >> np.uint64(56)).astype(np.uint8).reshape(blocks, size)
    if is_spread: data[:, size - 1] = data[:, size - 1] & 0x8F | 0x20
    for at in halves: data[:, at + 1] = data[:, at + 1] & 0x83 | 0x20 | (data[:, at + 1] >> 4 & 3) << 2
    return np.ascontiguousarray(data).reshape(-1)


def main():
    encoded = []
    for kind, name, block, uses, halves in TYPES:
        for columns, rows in [(512, 5)] + ([(96, 19)] if block <= 32 else []):
            for weight in ["none", "random", "sparse", "wide"] if uses else ["none", "random"]:
                if weight == "none" and name in NEED_IMPORTANCE: continue
                x = {i: inputs(i, columns * rows) for i in INPUTS}
                w = importances(weight, columns)
                found = {i: encode(kind, x[i], columns, w) for i in INPUTS}
                encoded.append({"type": name, "rows": rows, "columns": columns, "importance": weight, "encoded": {i: digest(found[i]) for i in INPUTS},
                                "decoded": {i: digest(decode(kind, found[i], columns * rows)) for i in INPUTS}})
    decoded = {}
    for kind, name, block, halves in [(kind, name, block, halves) for kind, name, block, _, halves in TYPES] + DECODED:
        size = LIBRARY.ggml_get_type_traits(kind).contents.bytes
        n = 40 * 256 // block
        data = arbitrary(size, halves, n, name == "IQ1_M") if block > 1 else encode(kind, inputs("steps", n), n, None)
        decoded[name] = digest(decode(kind, data, n * block))
    record = {"source": f"ggml {LIBRARY.ggml_version().decode()}, x86-64", "encoded": encoded, "decoded": decoded}
    text = json.dumps(record)
    print(text.replace('{"type"', '\n{"type"').replace(', "decoded": {"F32"', ',\n"decoded": {"F32"'))


main()
