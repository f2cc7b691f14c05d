#!/usr/bin/env python3
"""Writes the grids of the IQ types from what ggml decodes: `grids.py LIBGGML_BASE ../../src/grids.bin`. Needs numpy.

For every place of a grid a block is made whose first run stands there, with a scale of 1 and no signs; the numbers that come out are the point. src/grids.rs says
how the points are packed.
"""
import ctypes, sys
import numpy as np

LIBRARY = ctypes.CDLL(sys.argv[1])


class Traits(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("block", ctypes.c_int64), ("interleave", ctypes.c_int64), ("bytes", ctypes.c_size_t),
                ("is_quantized", ctypes.c_bool), ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64))]


LIBRARY.ggml_get_type_traits.argtypes = [ctypes.c_int]
LIBRARY.ggml_get_type_traits.restype = ctypes.POINTER(Traits)


def block(size, fields):
    data = bytearray(size)
    for at, byte in fields.items(): data[at] |= byte
    return bytes(data)


# Number of the type, points, bytes of a block, numbers of a point, a block for a place, the value of each level.
D = {1: 0x3C}
LEVELS_2, LEVELS_3 = {8: 0, 25: 1, 43: 2, 62: 3}, {4: 0, 12: 1, 20: 2, 28: 3, 36: 4, 44: 5, 52: 6, 62: 7}
GRIDS = [
    (16, 256, 66, 8, lambda p: {**D, 2: p}, 8, 0, LEVELS_2),
    (17, 512, 74, 8, lambda p: {**D, 2: p & 255, 3: p >> 8}, 8, 0, LEVELS_2),
    (22, 1024, 82, 8, lambda p: {**D, 2: p & 255, 66: p >> 8}, 8, 0, LEVELS_2),
    (19, 2048, 50, 8, lambda p: {**D, 2: p & 255, 34: p >> 8}, 1, -0.125, {-1: 0, 0: 1, 1: 2}),
    (18, 256, 98, 4, lambda p: {**D, 2: p}, 4, 0, LEVELS_3),
    (21, 512, 110, 4, lambda p: {**D, 2: p & 255, 66: p >> 8}, 1, 0, None),
]


def main():
    packed = []
    for kind, n, size, k, fields, scale, shift, levels in GRIDS:
        assert LIBRARY.ggml_get_type_traits(kind).contents.bytes == size
        for place in range(n):
            data, out = block(size, fields(place)), np.zeros(256, np.float32)
            LIBRARY.ggml_get_type_traits(kind).contents.to_float(data, out.ctypes.data, 256)
            point = out[:k] * np.float32(scale) + np.float32(shift)
            # Points of IQ3_S are the odd numbers themselves.
            found = [(int(value) - 1) // 2 if levels is None else levels[int(value)] for value in point]
            packed.append(sum(level << (2 if k == 8 else 3) * at for at, level in enumerate(found)))
    np.array(packed, "<u2").tofile(sys.argv[2])


main()
