#!/usr/bin/env python3
"""Records which type llama-quantize gives each tensor: `mixtures.py LLAMA_QUANTIZE > ../data/mixtures.json`. Needs numpy and the PyPI package gguf.

Each model is a file of true names and row lengths, but of two rows a matrix; `--dry-run` prints the types without computing.
"""
import json, os, re, subprocess, sys, tempfile
import gguf
import numpy as np

PROGRAM = sys.argv[1]
MIXTURES = ["IQ1_S", "IQ1_M", "TQ1_0", "TQ2_0", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "Q2_K_S", "Q2_K", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M", "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_XS", "Q4_0", "IQ4_NL", "Q4_K_S", "Q4_K_M", "Q4_1", "Q5_0", "Q5_K_S", "Q5_K_M", "Q5_1", "Q6_K",
            "Q8_0", "F16", "BF16", "F32"]


def dense(d, f, biases=False):
    layer = [["attn_norm.weight", [d]], ["attn_q.weight", [2, d]], ["attn_k.weight", [2, d]], ["attn_v.weight", [2, d]], ["attn_output.weight", [2, d]],
             ["ffn_norm.weight", [d]], ["ffn_gate.weight", [2, d]], ["ffn_up.weight", [2, d]], ["ffn_down.weight", [2, f]]]
    return layer + ([["attn_q.bias", [2]], ["attn_k.bias", [2]], ["attn_v.bias", [2]]] if biases else [])


def fused(d, f): return [["attn_norm.weight", [d]], ["attn_qkv.weight", [2, d]], ["attn_output.weight", [2, d]], ["ffn_up.weight", [2, d]], ["ffn_down.weight", [2, f]]]


def experts(d, f, n, extra=()):
    return dense(d, f)[:6] + [["ffn_gate_inp.weight", [n, d]], ["ffn_gate_exps.weight", [n, 2, d]], ["ffn_up_exps.weight", [n, 2, d]],
                              ["ffn_down_exps.weight", [n, 2, f]], *extra]


def latent(d, f):
    return [["attn_norm.weight", [d]], ["attn_q.weight", [2, d]], ["attn_kv_a_mqa.weight", [2, d]], ["attn_kv_a_norm.weight", [512]], ["attn_kv_b.weight", [2, 512]],
            ["attn_output.weight", [2, d]]] + experts(d, f, 4)[6:]


def ends(d, tied=False): return [["token_embd.weight", [4, d]], ["output_norm.weight", [d]]] + ([] if tied else [["output.weight", [4, d]]])


# Name, architecture, layers, heads, heads of keys and values, experts, tensors of a layer, other tensors, further metadata.
MODELS = [
    ("llama, tied, 4 to 1", "llama", 16, 32, 8, 0, dense(2048, 8192), ends(2048, True) + [["rope_freqs.weight", [32]]], {}),
    ("llama, 1 to 1", "llama", 22, 32, 32, 0, dense(1024, 2816), ends(1024), {}),
    ("llama, 80 layers", "llama", 80, 8, 1, 0, dense(256, 512), ends(256), {}),
    ("qwen2, narrow", "qwen2", 24, 14, 2, 0, dense(896, 4864, True), ends(896, True), {}),
    ("qwen2, untied", "qwen2", 28, 28, 4, 0, dense(3584, 18944, True), ends(3584), {}),
    ("llama, rows of no blocks", "llama", 3, 2, 1, 0, dense(100, 288), ends(100), {}),
    ("falcon", "falcon", 32, 71, 1, 0, fused(4544, 18176), ends(4544), {"attention.layer_norm_epsilon": 1e-5}),
    ("falcon, wide", "falcon", 60, 8, 8, 0, fused(256, 1024), ends(256), {"attention.layer_norm_epsilon": 1e-5}),
    ("gpt2", "gpt2", 12, 12, 12, 0, fused(768, 3072), ends(768, True) + [["position_embd.weight", [16, 768]]], {"attention.layer_norm_epsilon": 1e-5}),
    ("mixtral", "llama", 8, 32, 8, 8, experts(512, 1792, 8), ends(512), {"expert_used_count": 2}),
    ("qwen2moe", "qwen2moe", 24, 16, 16, 60, experts(2048, 1408, 60, [["ffn_gate_inp_shexp.weight", [2048]], ["ffn_down_shexp.weight", [2, 5632]],
                                                                     ["ffn_gate_shexp.weight", [2, 2048]], ["ffn_up_shexp.weight", [2, 2048]]]), ends(2048),
     {"expert_used_count": 4}),
    ("deepseek2", "deepseek2", 9, 16, 16, 4, latent(2048, 1408), ends(2048), {"expert_used_count": 2, "leading_dense_block_count": 1, "attention.kv_lora_rank": 512, "attention.q_lora_rank": 1536, "expert_weights_scale": 1.0,
     "expert_feed_forward_length": 1408, "expert_shared_count": 2, "rope.dimension_count": 64, "attention.key_length": 192, "attention.value_length": 128}),
]

# Options of the program, on the first model, and what they are called in the plan.
OPTIONS = [
    ("llama, tied, 4 to 1", ["--output-tensor-type", "q8_0"], {"output": "Q8_0"}),
    ("llama, tied, 4 to 1", ["--token-embedding-type", "q5_k"], {"token_embeddings": "Q5_K"}),
    ("llama, 1 to 1", ["--output-tensor-type", "q5_1", "--token-embedding-type", "f16"], {"output": "Q5_1", "token_embeddings": "F16"}),
    ("llama, 1 to 1", ["--pure"], {"pure": True}),
    ("llama, 1 to 1", ["--leave-output-tensor"], {"leave_output": True}),
    ("llama, 1 to 1", ["--tensor-type", "ffn_down=q8_0", "--tensor-type", r"blk\.[0-3]\.attn_v=q6_k", "--tensor-type", "attn_v=q5_0"],
     {"overrides": ["ffn_down=q8_0", r"blk\.[0-3]\.attn_v=q6_k", "attn_v=q5_0"]}),
    ("qwen2, narrow", ["--tensor-type", "attn=iq4_xs"], {"overrides": ["attn=iq4_xs"]}),
]


def write(path, model):
    name, arch, layers, heads, kv, n_experts, layer, rest, further = model
    d = next(shape for name, shape in rest if name == "token_embd.weight")[-1]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(layers); writer.add_context_length(2048); writer.add_embedding_length(d); writer.add_feed_forward_length(4 * d)
    writer.add_head_count(heads); writer.add_head_count_kv(kv); writer.add_layer_norm_rms_eps(1e-5); writer.add_vocab_size(4)
    if n_experts: writer.add_expert_count(n_experts)
    for key, value in further.items():
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(f"{arch}.{key}", value)
    names = [(name, shape) for name, shape in rest] + [(f"blk.{i}.{name}", shape) for i in range(layers) for name, shape in layer]
    for name, shape in names: writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
    return [name for name, _ in names]


def write_importance(path):
    writer = gguf.GGUFWriter(path, "imatrix"); writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["none"]); writer.add_uint32("imatrix.chunk_count", 1); writer.add_uint32("imatrix.chunk_size", 1)
    writer.add_tensor("unused.weight.in_sum2", np.ones((1, 32), np.float32)); writer.add_tensor("unused.weight.counts", np.ones((1, 1), np.float32))
    writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()


def types(path, names, mixture, options):
    ran = subprocess.run([PROGRAM, "--dry-run", *options, path, mixture], capture_output=True, text=True)
    text = ran.stdout + ran.stderr
    assert ran.returncode == 0, text[-3000:]
    found = {}
    for line in re.split(r"\n(?=\[ *\d+/ *\d+\])", text):
        head = re.match(r"\[ *\d+/ *\d+\] +(\S+) +- \[.*?\], type = +(\w+), ", line)
        if head is None: continue
        to = re.search(r"-> +[\d.]+ MiB \((\w+)\)", line)
        found[head[1]] = (to[1] if to else head[2]).upper()
    return [found[name] for name in names]


def main():
    with tempfile.TemporaryDirectory() as directory:
        importance = os.path.join(directory, "imatrix.gguf"); write_importance(importance)
        legend, models, files = [], [], {}

        def letters(types):
            for one in types:
                if one not in legend: legend.append(one)
            return "".join(chr(ord("A") + legend.index(one)) for one in types)

        for model in MODELS:
            path = os.path.join(directory, "model.gguf"); names = write(path, model)
            runs = []
            for mixture in MIXTURES:
                for has_importance in [False, True]:
                    options = ["--imatrix", importance] if has_importance else []
                    runs.append({"mixture": mixture, "importance": has_importance, "options": {}, "types": letters(types(path, names, mixture, options))})
            for of, options, called in OPTIONS:
                if of != model[0]: continue
                for mixture in ["Q2_K", "IQ4_XS", "Q4_K_M", "F16"]:
                    runs.append({"mixture": mixture, "importance": False, "options": called, "types": letters(types(path, names, mixture, options))})
            name, arch, layers, heads, kv, n_experts, layer, rest, _ = model
            models.append({"name": name, "architecture": arch, "layers": layers, "heads": heads, "kv_heads": kv, "experts": n_experts, "layer": layer, "rest": rest,
                           "runs": runs})
            print(name, len(runs), file=sys.stderr)
    print(json.dumps({"legend": legend, "models": models}).replace('{"mixture"', '\n{"mixture"').replace('{"name"', '\n{"name"'))


main()
