"""Writes the GGUF files of this folder with PyPI `gguf` (0.19.0) and numpy: what another writer makes of every type.

    pip install gguf==0.19.0 && python write.py
"""
import numpy as np
from gguf import GGMLQuantizationType as T, GGUFEndian, GGUFValueType as V, GGUFWriter
from gguf.quants import quantize


def metadata(w):
    w.add_key_value("test.u8", 200, V.UINT8)
    w.add_key_value("test.i8", -100, V.INT8)
    w.add_key_value("test.u16", 60000, V.UINT16)
    w.add_key_value("test.i16", -30000, V.INT16)
    w.add_key_value("test.u32", 4000000000, V.UINT32)
    w.add_key_value("test.i32", -2000000000, V.INT32)
    w.add_key_value("test.f32", 0.5, V.FLOAT32)
    w.add_key_value("test.bool", True, V.BOOL)
    w.add_key_value("test.string", "größer \U0001f642", V.STRING)
    w.add_key_value("test.u64", 2**63 + 1, V.UINT64)
    w.add_key_value("test.i64", -(2**62), V.INT64)
    w.add_key_value("test.f64", 1e-300, V.FLOAT64)
    w.add_array("test.strings", ["a", "", "▁the", "<0x0A>"])
    w.add_array("test.floats", [1.0, -2.5])
    w.add_array("test.ints", [1, -2, 3])
    w.add_array("test.bools", [True, False])
    w.add_array("test.nested", [[1, 2], [3]])


def tensors(w):
    rng = np.random.default_rng(1)
    w.add_tensor("f32", np.arange(6, dtype=np.float32).reshape(2, 3))
    w.add_tensor("f16", np.arange(6, dtype=np.float16).reshape(3, 2))
    w.add_tensor("i32", np.arange(4, dtype=np.int32))
    for kind in (T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.TQ1_0, T.TQ2_0):
        data = rng.standard_normal((2, 256)).astype(np.float32)
        w.add_tensor(kind.name.lower(), quantize(data, kind), raw_dtype=kind)
    w.add_tensor("q4_k", np.zeros((3, 144), np.uint8), raw_dtype=T.Q4_K)
    w.add_tensor("mxfp4", np.zeros((3, 34), np.uint8), raw_dtype=T.MXFP4)
    w.add_tensor("nvfp4", np.zeros((3, 72), np.uint8), raw_dtype=T.NVFP4)


def write(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


w = GGUFWriter("types.gguf", "llama")
w.add_custom_alignment(64)
metadata(w)
tensors(w)
write(w)

w = GGUFWriter("split.gguf", "llama", split_max_tensors=2)
for i in range(5):
    w.add_tensor(f"t{i}", np.full((2, 2), i, np.float32))
write(w)

w = GGUFWriter("big_endian.gguf", "llama", endianess=GGUFEndian.BIG)
w.add_tensor("t", np.ones((1,), np.float32))
write(w)
