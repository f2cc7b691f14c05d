//! What a tensor's name says: its part in the model, its layer, whether it is quantized at all.

use std::cmp::Ordering;

use super::{ModelFacts, PlanOptions, Tensor};

/// The part that a tensor plays, as far as the rules tell parts apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Output,
    TokenEmbeddings,
    /// Query, key and value in one.
    Fused,
    /// What keys and values are made of, in latent attention.
    Latent,
    Value,
    Key,
    Query,
    AttentionOutput,
    Up,
    Gate,
    Down,
    Other,
}

/// What the name of a part contains; the first that does counts.
const PARTS: [(&str, Part); 9] = [
    ("attn_qkv.weight", Part::Fused),
    ("attn_kv_b.weight", Part::Latent),
    ("attn_v.weight", Part::Value),
    ("attn_k.weight", Part::Key),
    ("attn_q.weight", Part::Query),
    ("attn_output.weight", Part::AttentionOutput),
    ("ffn_up", Part::Up),
    ("ffn_gate", Part::Gate),
    ("ffn_down", Part::Down),
];

impl Part {
    pub(super) fn of(name: &str) -> Part {
        match name {
            "output.weight" => Part::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Part::TokenEmbeddings,
            _ => {
                let found = PARTS.iter().find(|(contained, _)| name.contains(contained));
                found.map_or(Part::Other, |(_, part)| *part)
            }
        }
    }

    /// Says whether it is as sensitive as values are.
    pub(super) fn is_like_values(self) -> bool {
        matches!(self, Part::Value | Part::Fused | Part::Latent)
    }
}

/// Matrices that are small, or that more than rounding would harm; a name that contains one of these stays.
const KEPT: [&str; 35] = [
    "_norm.weight",
    // What chooses experts.
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    // Some numbers wide.
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    // Positions, and what looks at pictures or listens.
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// The same, in one architecture.
const KEPT_IN_GLM5_NEXT: [&str; 14] = [
    "hc_",
    "indexer.attn_q_b",
    "indexer.attn_k",
    "indexer.proj",
    "indexer_compressor_gate",
    "indexer_compressor_ape",
    "ssm_f_a.weight",
    "ssm_f_b.weight",
    "ssm_g_a.weight",
    "ssm_g_b.weight",
    "ssm_beta.weight",
    "attn_kv_a_mqa.weight",
    "attn_k_b.weight",
    "attn_v_b.weight",
];

/// Says whether a tensor stays as it is.
pub(super) fn is_kept(tensor: &Tensor<'_>, facts: &ModelFacts, options: &PlanOptions) -> bool {
    let name = tensor.name;
    let contains = |names: &[&str]| names.iter().any(|contained| name.contains(contained));
    tensor.n_dimensions() < 2
        || !name.ends_with("weight")
        || contains(&KEPT)
        || (facts.architecture == "glm5-next" && contains(&KEPT_IN_GLM5_NEXT))
        || matches!(name, "position_embd.weight" | "token_types.weight")
        || (options.leave_output && name == "output.weight")
}

/// Returns the layer that a name begins with, `blk.<layer>.`.
pub(super) fn layer(name: &str) -> Option<usize> {
    let (number, _) = name.strip_prefix("blk.")?.split_once('.')?;
    number.parse().ok()
}

/// Orders names as the reference does: by layer, those without one first, then by bytes.
pub(super) fn reference_order(a: &str, b: &str) -> Ordering {
    layer(a).cmp(&layer(b)).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ordered_by_layer_as_a_number() {
        let mut names = [
            "blk.10.attn_q.weight",
            "token_embd.weight",
            "blk.2.ffn_up.weight",
            "blk.2.attn_q.weight",
            "output.weight",
        ];
        names.sort_by(|a, b| reference_order(a, b));
        assert_eq!(
            names,
            [
                "output.weight",
                "token_embd.weight",
                "blk.2.attn_q.weight",
                "blk.2.ffn_up.weight",
                "blk.10.attn_q.weight"
            ]
        );
    }

    #[test]
    fn experts_play_the_part_of_their_projection() {
        assert_eq!(Part::of("blk.3.ffn_down_exps.weight"), Part::Down);
        assert_eq!(Part::of("blk.3.ffn_gate_shexp.weight"), Part::Gate);
        assert_eq!(Part::of("blk.3.attn_kv_b.weight"), Part::Latent);
        assert_eq!(Part::of("blk.3.ssm_in.weight"), Part::Other);
    }
}
