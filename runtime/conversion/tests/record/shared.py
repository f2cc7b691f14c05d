"""Records the reference on real tokenizers and on the models beside the checkout, for tests/conversion/shared.rs.

    python shared.py LLAMA_CPP_DIRECTORY WORK_DIRECTORY DATA_DIRECTORY SHARED_DIRECTORY

Writes DATA/shared.json. Real tokenizers get a model of one thin layer with a true vocabulary size; its weights are not looked at. Their family is
what the reference itself knows by its hash (`pre` is null), except for the two trained on the spot, whose family the reference is told.
"""
import json, shutil, sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

from reference import DATA, WORK, convert

SHARED = Path(sys.argv[4]).resolve()
THIN = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
WHOLE = {"oracle/llama/base": "llama-bpe", "oracle/qwen2/base": "qwen2", "models/stories260K-hf": None, "models/tinystories-656k-hf": None}
TOKENIZERS = {
    "llama3": ("tokenizers/llama3", {"tokenizer.derived.json": "tokenizer.json"}, "Llama", 128256),
    "qwen2.5": ("tokenizers/qwen2.5", {"tokenizer.derived.json": "tokenizer.json", "tokenizer_config.json": "tokenizer_config.json", "chat_template.jinja": "chat_template.jinja"}, "Qwen2", 151936),
    "mistral-v0.3": ("tokenizers/mistral/7b-instruct-v0.3", {"tokenizer.json": "tokenizer.json", "tokenizer_config.json": "tokenizer_config.json"}, "Mistral", 32768),
    "smollm2": ("tokenizers/smollm2-135m-instruct", {"tokenizer.json": "tokenizer.json", "tokenizer_config.json": "tokenizer_config.json"}, "Llama", 49152),
    "minueza": ("tokenizers/minueza-32m-ultrachat", {"tokenizer.json": "tokenizer.json", "tokenizer.model": "tokenizer.model", "tokenizer_config.json": "tokenizer_config.json", "added_tokens.json": "added_tokens.json"}, "Mistral", 32002),
}

recorded = {"whole": {}, "tokenizers": {}}
for path, pre in WHOLE.items():
    directory = WORK / path.replace("/", "-")
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(SHARED / path, directory)
    keys, tensors = convert(directory, "f16", pre)
    recorded["whole"][path] = {"keys": keys, "tensors": {name: [kind, digest] for name, (kind, _, digest) in tensors.items()}}
    print(path, flush=True)
for name, (path, files, family, vocab_size) in TOKENIZERS.items():
    directory = WORK / f"toy-{name}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    files = {source: target for source, target in files.items() if (SHARED / path / source).exists()}
    for source, target in files.items():
        shutil.copy(SHARED / path / source, directory / target)
    if not (directory / "tokenizer_config.json").exists():
        (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    config = getattr(transformers, family + "Config")(vocab_size=vocab_size, tie_word_embeddings=True, **THIN)
    config.architectures = [family + "ForCausalLM"]
    config.save_pretrained(directory)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in getattr(transformers, family + "ForCausalLM")(config).state_dict().items() if key != "lm_head.weight"}
    save_file({key: torch.zeros(shape, dtype=torch.float16) for key, shape in shapes.items()}, directory / "model.safetensors")
    keys, _ = convert(directory, "f16", None)
    kept = {key: value for key, value in keys.items() if key.startswith("tokenizer.")}
    recorded["tokenizers"][name] = {"path": path, "files": files, "config": json.loads((directory / "config.json").read_text()), "keys": kept}
    print(name, kept["tokenizer.ggml.pre"], flush=True)
(DATA / "shared.json").write_text(json.dumps(recorded, indent=1, ensure_ascii=False))
