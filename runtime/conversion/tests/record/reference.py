"""Records what llama.cpp's own converter makes of small models of every family, for tests/conversion/reference.rs.

    python reference.py LLAMA_CPP_DIRECTORY WORK_DIRECTORY DATA_DIRECTORY

needs numpy, torch, transformers, tokenizers, safetensors, sentencepiece and pyyaml; LLAMA_CPP_DIRECTORY is a source tree with convert_hf_to_gguf.py.
For each model it writes DATA/<name>/ (the files of the model but its weights, and expected.json). The weights follow from a formula of the tensor's
name (`values` below), so that they need not be kept. The tokenizers are trained here on this text; the reference knows tokenizers by a hash of ids
and cannot know these, so it is told the family (`pre` in expected.json) and everything else is its own doing.
"""
import hashlib, json, math, os, shutil, subprocess, sys
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA_CPP, WORK, DATA = (Path(argument).resolve() for argument in sys.argv[1:4])
TEXT = [line for line in (__doc__ + Path(__file__).read_text()).splitlines() if line.strip()] * 2
CASELESS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def values(name, shape):
    """Numbers between -0.5 and 0.5 that follow from a name: FNV-1a, then one multiplicative step for each element."""
    seed = 2166136261
    for byte in name.encode():
        seed = (seed ^ byte) * 16777619 % 2**32
    count = math.prod(shape)
    state = (np.arange(count, dtype=np.uint64) * 2654435761 + seed) % 2**32
    state = (state ^ (state >> 15)) * 2246822519 % 2**32
    return ((state >> 8).astype(np.float32) / np.float32(2**24) - np.float32(0.5)).reshape(shape)


def byte_level(steps, vocab_size=400, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tokenizer


def split(pattern):
    return [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


def llama3(directory):
    tokenizer = byte_level(split(CASELESS + r"\p{N}{1,3}" + REST), ignore_merges=True)
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    tokenizer.add_tokens(["<|plain|>", "many words"])
    first = tokenizer.token_to_id("<|begin_of_text|>")
    template = processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1", special_tokens=[("<|begin_of_text|>", first)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer.get_vocab_size()


def qwen2(directory):
    tokenizer = byte_level(split(CASELESS + r"\p{N}" + REST))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "add_bos_token": False, "tokenizer_class": "PreTrainedTokenizerFast"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "chat_template.jinja").write_text("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}")
    return tokenizer.get_vocab_size() + 3


def smollm(directory):
    tokenizer = byte_level([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer.get_vocab_size()


def pieces(directory, added=(), **options):
    """A SentencePiece model, with the tokens that a fine-tuned model adds behind it."""
    (WORK / "text").write_text("\n".join(TEXT))
    arguments = dict(model_type="bpe", vocab_size=420, byte_fallback=True, character_coverage=0.9999, normalization_rule_name="identity", add_dummy_prefix=True, remove_extra_whitespaces=False, num_threads=1, minloglevel=2)
    # The trainer keeps the paths that it is given in the model, so they are relative.
    os.chdir(WORK)
    sentencepiece.SentencePieceTrainer.train(input="text", model_prefix="pieces", **(arguments | options))
    shutil.copy(WORK / "pieces.model", directory / "tokenizer.model")
    count = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model")).vocab_size()
    decoder = {"1": ("<s>", True), "2": ("</s>", True)} | {str(count + at): token for at, token in enumerate(added)}
    decoder = {id: {"content": text, "special": special, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False} for id, (text, special) in decoder.items()}
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>", "__type": "AddedToken"}, "unk_token": "<unk>", "add_bos_token": True, "add_eos_token": False, "tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": decoder}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return count + len(added)


def spm(directory):
    return pieces(directory, [("<|turn|>", False), ("▁two▁words", False)]) + 2


def gemma(directory):
    return pieces(directory, [("<start_of_turn>", True), ("<unused0>", False)], user_defined_symbols=["<mask>", "\t\t"])


def phi3(directory):
    (directory / "added_tokens.json").unlink(missing_ok=True)
    return pieces(directory, [("<|assistant|>", True), ("<|end|>", True)]) + 1


def spm_json(directory, metaspace=False):
    """The same kind of vocabulary where only tokenizer.json exists."""
    pieces(directory)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    (directory / "tokenizer.model").unlink()
    vocab = {processor.id_to_piece(id): id for id in range(processor.vocab_size())}
    merges = []
    for piece in sorted((piece for piece in vocab if len(piece) > 1 and not processor.is_byte(vocab[piece]) and not processor.is_control(vocab[piece])), key=lambda piece: vocab[piece]):
        merges += [(piece[:at], piece[at:]) for at in range(1, len(piece)) if piece[:at] in vocab and piece[at:] in vocab]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.add_tokens([AddedToken("[NEW]", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": True}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer.get_vocab_size()


SHAPE = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256)
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
SAMPLED = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.05, "eos_token_id": [1, 2]}
CASES = {
    "Toy-Llama-3-8B-Instruct": ("LlamaConfig", "LlamaForCausalLM", torch.bfloat16, llama3, "llama-bpe", SHAPE | dict(rope_parameters=LLAMA3_ROPE, rms_norm_eps=1e-5), SAMPLED),
    "toy-llama-v2-chat": ("LlamaConfig", "LlamaForCausalLM", torch.float32, spm, None, SHAPE | dict(attention_bias=True, mlp_bias=True, num_key_value_heads=4), None),
    "toy-llama-linear": ("LlamaConfig", "LlamaForCausalLM", torch.float16, spm_json, None, SHAPE | dict(rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}, tie_word_embeddings=True), None),
    "toy-smollm2-135M": ("LlamaConfig", "LlamaForCausalLM", torch.bfloat16, smollm, "smollm", SHAPE | dict(tie_word_embeddings=True), None),
    "Toy-Mistral-7B-Instruct-v0.3": ("MistralConfig", "MistralForCausalLM", torch.bfloat16, lambda directory: spm_json(directory, True), None, SHAPE | dict(head_dim=24, sliding_window=32, rope_parameters={"rope_type": "default", "rope_theta": 1e6}), None),
    "toy-qwen2.5-0.5b": ("Qwen2Config", "Qwen2ForCausalLM", torch.bfloat16, qwen2, "qwen2", SHAPE | dict(tie_word_embeddings=True, rope_parameters={"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64}), SAMPLED),
    "toy-qwen3": ("Qwen3Config", "Qwen3ForCausalLM", torch.float32, qwen2, "qwen2", SHAPE | dict(head_dim=32), None),
    "toy-gemma-2-it": ("Gemma2Config", "Gemma2ForCausalLM", torch.float16, gemma, None, SHAPE | dict(head_dim=32, query_pre_attn_scalar=32, sliding_window=16), None),
    "toy-gemma-3-it": ("Gemma3TextConfig", "Gemma3ForCausalLM", torch.bfloat16, gemma, None, SHAPE | dict(head_dim=32, query_pre_attn_scalar=32, sliding_window=16), None),
    "Toy-Phi-3-mini-instruct": ("Phi3Config", "Phi3ForCausalLM", torch.float32, phi3, None, SHAPE | dict(pad_token_id=0, original_max_position_embeddings=64, rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0 + at / 16 for at in range(8)], "long_factor": [2.0 + at / 4 for at in range(8)], "original_max_position_embeddings": 64}), None),
}
RUN = """
import os, sys
sys.path.insert(0, sys.argv[1]); sys.argv = sys.argv[1:]
from conversion import base
if os.environ.get("PRE"):
    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: os.environ["PRE"]
import convert_hf_to_gguf
convert_hf_to_gguf.main()
"""


def digest(data):
    return hashlib.sha256(data).hexdigest()


def describe(path):
    """Keys with type and value (of long arrays a digest), tensors with type, shape and digest."""
    sys.path.insert(0, str(LLAMA_CPP / "gguf-py"))
    import gguf
    reader = gguf.GGUFReader(path)
    keys, tensors = {}, {}
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        value, kinds = field.contents(), [kind.name for kind in field.types]
        if isinstance(value, list) and len(value) > 16:
            if kinds[-1] == "STRING":
                blob = b"".join(len(part).to_bytes(8, "little") + part for part in (bytes(field.parts[at]) for at in field.data))
            else:
                blob = b"".join(bytes(field.parts[at].tobytes()) for at in field.data)
            value = {"count": len(value), "sha256": digest(blob)}
        keys[key] = [".".join(kinds), value]
    for tensor in reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        tensors[tensor.name] = [tensor.tensor_type.name, shape, digest(tensor.data.tobytes())]
    return keys, tensors


def convert(directory, outtype, pre):
    """Runs the reference on a directory, and says what it wrote."""
    out = WORK / f"{directory.name}.{outtype}.gguf"
    environment = os.environ | {"PRE": pre or "", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", RUN, str(LLAMA_CPP), str(directory), "--outtype", outtype, "--outfile", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{directory.name}: {done.stderr[-3000:]}")
    return describe(out)


def record(name, case):
    config_class, model_class, dtype, tokenizer, pre, shape, sampled = case
    directory = WORK / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    size = tokenizer(directory)
    config = getattr(transformers, config_class)(vocab_size=size, **shape)
    config.architectures, config.dtype = [model_class], dtype
    config.save_pretrained(directory)
    if sampled:
        (directory / "generation_config.json").write_text(json.dumps(sampled))
    with torch.device("meta"):
        model = getattr(transformers, model_class)(config)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    weights = {key: list(value.shape) for key, value in model.state_dict().items() if key not in tied}
    save_file({key: torch.from_numpy(values(key, shape)).to(dtype) for key, shape in weights.items()}, directory / "model.safetensors", {"format": "pt"})
    expected = {"dtype": str(dtype).removeprefix("torch."), "pre": pre, "weights": weights, "tensors": {}}
    for outtype in ["f32", "f16", "bf16"]:
        keys, tensors = convert(directory, outtype, pre)
        expected["keys"] = {key: value for key, value in keys.items() if key != "general.file_type"}
        expected["tensors"][outtype] = {tensor: (value if outtype == "f32" else [value[0], value[2]]) for tensor, value in tensors.items()}
    kept = DATA / name
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(directory, kept, ignore=shutil.ignore_patterns("model.safetensors"))
    (kept / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False))
    print(name, len(weights), "tensors", flush=True)


if __name__ == "__main__":
    for name, case in CASES.items():
        if len(sys.argv) < 5 or sys.argv[4] in name:
            record(name, case)
