//! The two names of one tensor: llama.cpp's and Hugging Face's.
//!
//! Covers `llama` (also Mistral, which has no name of its own in GGUF), `qwen2`, `qwen3`, `gemma2`, `gemma3` and `phi3`.
//! Source: the tensor name tables of llama.cpp's converter and the module trees of transformers.

/// Two names of one module, llama.cpp's first.
type Pair = (&'static str, &'static str);

/// Modules outside the layers.
const OUTER: &[Pair] = &[
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
];

// Modules of a layer, below `blk.N.` and `model.layers.N.`.
const ATTENTION: &[Pair] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
];
const FEED_FORWARD: &[Pair] = &[
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
const NORM_AFTER_ATTENTION: &[Pair] = &[("ffn_norm", "post_attention_layernorm")];
/// Qwen3 and Gemma 3 also normalise each head of q and k.
const HEAD_NORMS: &[Pair] = &[("attn_q_norm", "self_attn.q_norm"), ("attn_k_norm", "self_attn.k_norm")];
/// Gemma normalises before and after each block, so that `post_attention_layernorm` is another thing than in Llama.
const NORMS_AROUND: &[Pair] = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];
/// Phi-3 keeps q, k and v in one matrix, and gate and up in another; so does llama.cpp.
const FUSED: &[Pair] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_up", "mlp.gate_up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Returns the modules of a layer of an architecture; nothing for architectures that are not named here.
fn inner(arch: &str) -> Option<&'static [&'static [Pair]]> {
    Some(match arch {
        "llama" | "qwen2" => &[ATTENTION, NORM_AFTER_ATTENTION, FEED_FORWARD],
        "qwen3" => &[ATTENTION, HEAD_NORMS, NORM_AFTER_ATTENTION, FEED_FORWARD],
        "gemma2" => &[ATTENTION, NORMS_AROUND, FEED_FORWARD],
        "gemma3" => &[ATTENTION, HEAD_NORMS, NORMS_AROUND, FEED_FORWARD],
        "phi3" => &[FUSED, NORM_AFTER_ATTENTION],
        _ => return None,
    })
}

/// Returns the Hugging Face name of a GGUF tensor: `blk.0.attn_q.weight` is `model.layers.0.self_attn.q_proj.weight`.
///
/// `arch` is `general.architecture`. Nothing when either is not known here.
pub fn to_hf(arch: &str, name: &str) -> Option<String> {
    translate(arch, name, "blk.", "model.layers.", |pair| (pair.0, pair.1))
}

/// Returns the GGUF name of a Hugging Face tensor; the inverse of [`to_hf`].
pub fn from_hf(arch: &str, name: &str) -> Option<String> {
    translate(arch, name, "model.layers.", "blk.", |pair| (pair.1, pair.0))
}

fn translate(arch: &str, name: &str, layers: &str, layers_to: &str, side: impl Fn(&Pair) -> Pair) -> Option<String> {
    let inner = inner(arch)?;
    let (module, suffix) = name.rsplit_once('.')?;
    if suffix != "weight" && suffix != "bias" {
        return None;
    }
    let find = |tables: &[&'static [Pair]], module: &str| {
        let mut pairs = tables.iter().flat_map(|table| table.iter()).map(&side);
        pairs.find(|(from, _)| *from == module).map(|(_, to)| to)
    };
    if let Some(rest) = module.strip_prefix(layers) {
        let (number, name) = rest.split_once('.')?;
        // One spelling per layer, so that two tensors cannot claim one place.
        if number.parse::<u32>().ok()?.to_string() != number {
            return None;
        }
        return Some(format!("{layers_to}{number}.{}.{suffix}", find(inner, name)?));
    }
    Some(format!("{}.{suffix}", find(&[OUTER], module)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_translate_both_ways_and_strangers_do_not() {
        let cases = [
            ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"),
            ("blk.31.attn_k.bias", "model.layers.31.self_attn.k_proj.bias"),
            ("blk.2.attn_output.weight", "model.layers.2.self_attn.o_proj.weight"),
            (
                "blk.2.ffn_norm.weight",
                "model.layers.2.post_attention_layernorm.weight",
            ),
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output.weight", "lm_head.weight"),
            ("output_norm.weight", "model.norm.weight"),
        ];
        for (gguf, hf) in cases {
            assert_eq!(to_hf("llama", gguf).as_deref(), Some(hf));
            assert_eq!(from_hf("qwen2", hf).as_deref(), Some(gguf));
        }
        for name in [
            "rope_freqs.weight",
            "blk.00.attn_q.weight",
            "blk.+1.attn_q.weight",
            "blk.0.attn_q",
            "blk.0.attn_q.scale",
            "",
        ] {
            assert_eq!(to_hf("llama", name), None, "{name}");
        }
        assert_eq!(to_hf("gpt2", "output.weight"), None);
    }

    /// One name of Hugging Face means different things in different architectures.
    #[test]
    fn each_architecture_has_its_own_names() {
        let norm = "model.layers.1.post_attention_layernorm.weight";
        assert_eq!(from_hf("llama", norm).as_deref(), Some("blk.1.ffn_norm.weight"));
        assert_eq!(
            from_hf("gemma3", norm).as_deref(),
            Some("blk.1.post_attention_norm.weight")
        );
        let head = "blk.3.attn_q_norm.weight";
        assert_eq!(
            to_hf("qwen3", head).as_deref(),
            Some("model.layers.3.self_attn.q_norm.weight")
        );
        assert_eq!((to_hf("qwen2", head), to_hf("gemma2", head)), (None, None));
        let fused = "model.layers.0.mlp.gate_up_proj.weight";
        assert_eq!(from_hf("phi3", fused).as_deref(), Some("blk.0.ffn_up.weight"));
        assert_eq!(from_hf("phi3", "model.layers.0.mlp.up_proj.weight"), None);
    }
}
