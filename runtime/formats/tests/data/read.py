"""Reads `written.gguf`, which this crate's writer made, with PyPI `gguf` (0.19.0), and proves each part of it.

    pip install gguf==0.19.0 && python read.py
"""
import numpy as np
from gguf import GGUFReader

reader = GGUFReader("written.gguf")
value = lambda key: reader.fields[key].contents()
assert value("general.architecture") == "llama"
assert value("llama.rope.freq_base") == 10000.0
assert [value(f"test.{t}") for t in "u8 i8 u16 i16 i32 u64 i64 f64 bool".split()] == [1, -1, 2, -2, -3, 4, -4, 0.25, True]
assert value("tokenizer.ggml.tokens") == [f"<{i}>" for i in range(16)]
shapes = {t.name: (t.tensor_type.name, [int(d) for d in t.shape[::-1]]) for t in reader.tensors}
assert shapes == {
    "token_embd.weight": ("Q8_0", [16, 32]),
    "blk.0.attn_norm.weight": ("F32", [32]),
    "blk.0.attn_q.weight": ("Q4_0", [32, 32]),
    "blk.0.attn_k.weight": ("F16", [16, 32]),
    "output.weight": ("BF16", [16, 32]),
}, shapes
for tensor in reader.tensors:
    data = tensor.data.view(np.uint8).reshape(-1)
    assert np.array_equal(data, np.arange(data.size) % 251), tensor.name
print("written.gguf is as it should be")
