//! The two names of one tensor: llama.cpp's and Hugging Face's.
//!
//! Covers the architectures that the decoder graph serves: `llama` (also Mistral, which has no name of its own in GGUF) and `qwen2`.
//! Source: the tensor name tables of llama.cpp's converter and the module trees of transformers.

/// Architectures whose tensors are named here.
const ARCHITECTURES: [&str; 2] = ["llama", "qwen2"];

/// Modules outside the layers.
const OUTER: [(&str, &str); 3] = [
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
];

/// Modules of a layer, below `blk.N.` and `model.layers.N.`.
const INNER: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

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

fn translate(
    arch: &str,
    name: &str,
    layers: &str,
    layers_to: &str,
    side: impl Fn(&(&'static str, &'static str)) -> (&'static str, &'static str),
) -> Option<String> {
    if !ARCHITECTURES.contains(&arch) {
        return None;
    }
    let (module, suffix) = name.rsplit_once('.')?;
    if suffix != "weight" && suffix != "bias" {
        return None;
    }
    let find = |table: &[(&'static str, &'static str)], module: &str| {
        table
            .iter()
            .map(&side)
            .find(|(from, _)| *from == module)
            .map(|(_, to)| to)
    };
    if let Some(rest) = module.strip_prefix(layers) {
        let (number, inner) = rest.split_once('.')?;
        // One spelling per layer, so that two tensors cannot claim one place.
        if number.parse::<u32>().ok()?.to_string() != number {
            return None;
        }
        return Some(format!("{layers_to}{number}.{}.{suffix}", find(&INNER, inner)?));
    }
    Some(format!("{}.{suffix}", find(&OUTER, module)?))
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
}
