"""Records what PEFT's merge_and_unload() and llama.cpp's convert_lora_to_gguf.py make of small adapters, for tests/conversion/adapters.rs.

    python adapters.py LLAMA_CPP_DIRECTORY WORK_DIRECTORY DATA_DIRECTORY

Writes DATA/adapters/: the base's config.json, and for each case adapter_config.json, adapter.safetensors (PEFT's file) and merged.safetensors (what
changed, and what became of it). The base's weights follow from their names (`values` of reference.py).
"""
import json, shutil, subprocess, sys

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from reference import DATA, LLAMA_CPP, WORK, describe, values

torch.set_num_threads(1)
OUT = DATA / "adapters"
SHAPE = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, vocab_size=40, attention_bias=True)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "plain": (torch.float32, False, dict(r=4, lora_alpha=6, target_modules=ALL)),
    "brain": (torch.bfloat16, False, dict(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"])),
    "half": (torch.float16, False, dict(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"])),
    "patterns": (torch.float32, False, dict(r=4, lora_alpha=6, target_modules=ALL, use_rslora=True, rank_pattern={"q_proj": 2}, alpha_pattern={"k_proj": 10})),
    "dora": (torch.float32, False, dict(r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"], use_dora=True)),
    "bias_all": (torch.float32, False, dict(r=4, lora_alpha=6, target_modules=["q_proj"], bias="all")),
    "bias_lora_only": (torch.float32, False, dict(r=4, lora_alpha=6, target_modules=["q_proj"], bias="lora_only")),
    "lora_bias": (torch.float32, False, dict(r=4, lora_alpha=6, target_modules=["q_proj"], lora_bias=True)),
    "saved": (torch.float32, False, dict(r=4, lora_alpha=6, target_modules=["v_proj"], modules_to_save=["lm_head"])),
    "embedding": (torch.float32, False, dict(r=4, lora_alpha=6, target_modules=["embed_tokens", "v_proj"])),
    "saved_tied": (torch.float32, True, dict(r=4, lora_alpha=6, target_modules=["v_proj"], modules_to_save=["lm_head"])),
}


def base(dtype, tied):
    config = transformers.LlamaConfig(tie_word_embeddings=tied, **SHAPE)
    config.architectures = ["LlamaForCausalLM"]
    model = transformers.LlamaForCausalLM(config).to(dtype)
    for name, tensor in model.state_dict().items():
        if not (tied and name == "lm_head.weight"):
            tensor.copy_(torch.from_numpy(values(name, list(tensor.shape))).to(dtype))
    return model


shutil.rmtree(OUT, ignore_errors=True)
recorded = {}
for name, (dtype, tied, settings) in CASES.items():
    model = base(dtype, tied)
    before = {key: value.clone() for key, value in model.state_dict().items() if not (tied and key == "lm_head.weight")}
    if name == "plain":
        (OUT).mkdir(parents=True)
        (WORK / "adapter-base").mkdir(parents=True, exist_ok=True)
        model.config.save_pretrained(WORK / "adapter-base")
        shutil.copy(WORK / "adapter-base" / "config.json", OUT / "config.json")
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    for key, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            numbers = torch.from_numpy(values(key, list(parameter.shape)))
            parameter.data.copy_(numbers.abs() + 1.0 if "magnitude" in key else numbers)
    saved = WORK / "adapters" / name
    adapted.save_pretrained(saved)
    merged = PeftModel.from_pretrained(base(dtype, tied), saved).merge_and_unload().state_dict()
    changed = {key: value.contiguous().clone() for key, value in merged.items() if key not in before or not torch.equal(before[key], value)}
    if tied and torch.equal(merged["model.embed_tokens.weight"], before["model.embed_tokens.weight"]):
        changed.pop("model.embed_tokens.weight", None)
    kept = OUT / name
    kept.mkdir()
    shutil.copy(saved / "adapter_config.json", kept)
    shutil.copy(saved / "adapter_model.safetensors", kept / "adapter.safetensors")
    save_file(changed, kept / "merged.safetensors")
    recorded[name] = {"dtype": str(dtype).removeprefix("torch."), "tied": tied, "weights": {key: list(value.shape) for key, value in before.items()}}
    if name in ("plain", "brain", "patterns"):
        out = WORK / f"{name}.lora.gguf"
        command = [sys.executable, str(LLAMA_CPP / "convert_lora_to_gguf.py"), "--base", str(WORK / "adapter-base"), "--outtype", "f32", "--outfile", str(out), str(saved)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        keys, tensors = describe(out)
        recorded[name]["gguf"] = {"keys": keys, "tensors": tensors}
    print(name, sorted(changed), flush=True)
(OUT / "recorded.json").write_text(json.dumps(recorded, indent=1))
