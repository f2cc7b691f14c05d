//! The rules of the mixtures: which parts get a better type than most, and in which layers.

use witness_formats::gguf::GgmlType::{
    self, IQ2_S, IQ2_XXS, IQ3_S, IQ3_XXS, Q2_K, Q3_K, Q4_1, Q4_K, Q5_1, Q5_K, Q6_K, Q8_0,
};

use super::tensors::{Part, layer};
use super::{ModelFacts, PlanOptions, Tensor};
use crate::error::{QuantizationError, Result};
use crate::mixture::Mixture;

/// Where the rules are in a model: some ask for the how manieth tensor of a part it is.
pub(super) struct Counters<'a> {
    pub(super) mixture: Mixture,
    pub(super) facts: &'a ModelFacts,
    pub(super) options: &'a PlanOptions,
    /// Whether the token embeddings are the output matrix too.
    is_tied: bool,
    n_values: usize,
    value: usize,
    down: usize,
    gate: usize,
    up: usize,
}

impl<'a> Counters<'a> {
    pub(super) fn new(
        mixture: Mixture,
        facts: &'a ModelFacts,
        tensors: &[Tensor<'_>],
        options: &'a PlanOptions,
    ) -> Counters<'a> {
        let parts = || tensors.iter().map(|tensor| Part::of(tensor.name));
        Counters {
            mixture,
            facts,
            options,
            is_tied: !parts().any(|part| part == Part::Output),
            n_values: parts().filter(|part| part.is_like_values()).count(),
            value: 0,
            down: 0,
            gate: 0,
            up: 0,
        }
    }

    /// Returns the type that the mixture's rules give a tensor, and counts it.
    pub(super) fn rule(&mut self, tensor: &Tensor<'_>, part: Part) -> Result<GgmlType> {
        let base = self.mixture.base();
        if self.facts.architecture == "glm5-next" && is_bottleneck(tensor.name) {
            return Ok(Q8_0);
        }
        let kind = match part {
            Part::Output => self.output(tensor),
            Part::TokenEmbeddings if self.is_tied => self.output(tensor),
            Part::TokenEmbeddings => self.token_embeddings(base),
            _ if self.is_of_2_bits() => self.of_2_bits(base, part),
            Part::Value | Part::Fused | Part::Latent => {
                let kind = self.value(base);
                self.value += 1;
                kind
            }
            Part::Key if self.facts.n_experts == 8 => Q8_0,
            Part::Down => {
                let layer = self.layer(tensor, self.down)?;
                self.down += 1;
                self.down(base, layer)
            }
            Part::AttentionOutput => self.attention_output(base),
            Part::Gate | Part::Up => {
                let counted = if part == Part::Gate {
                    &mut self.gate
                } else {
                    &mut self.up
                };
                let counted = std::mem::replace(counted, *counted + 1);
                // A model with experts has to tell their layer also where no rule asks for it.
                let layer = self.layer(tensor, counted)?;
                match self.mixture {
                    Mixture::IQ3_XS if !is_at_an_end(layer, self.facts.n_layers) => IQ3_XXS,
                    _ => base,
                }
            }
            Part::Key | Part::Query => match self.mixture {
                Mixture::IQ3_XS => IQ3_XXS,
                Mixture::IQ3_XXS => IQ2_S,
                _ => base,
            },
            Part::Other => base,
        };
        Ok(kind)
    }

    fn is_falcon(&self) -> bool {
        self.facts.architecture == "falcon"
    }

    /// How many query heads share keys and values; 0 where there are none.
    fn sharing(&self) -> usize {
        self.facts.n_heads.checked_div(self.facts.n_kv_heads).unwrap_or(0)
    }

    fn output(&self, tensor: &Tensor<'_>) -> GgmlType {
        let base = self.mixture.base();
        if let Some(kind) = self.options.output {
            kind
        } else if self.is_falcon() || base.row_bytes(tensor.n_columns()).is_none() || base == Q8_0 {
            Q8_0
        } else if self.is_of_2_bits() || self.mixture == Mixture::IQ3_XXS {
            Q5_K
        } else {
            Q6_K
        }
    }

    fn token_embeddings(&self, base: GgmlType) -> GgmlType {
        match self.mixture {
            Mixture::IQ1_S | Mixture::IQ1_M | Mixture::IQ2_XXS | Mixture::IQ2_XS => Q2_K,
            Mixture::IQ2_S | Mixture::IQ2_M | Mixture::IQ3_XXS => IQ3_S,
            Mixture::TQ1_0 | Mixture::TQ2_0 => Q4_K,
            _ => base,
        }
    }

    /// Says whether it is one of the mixtures of 1 or 2 bits, which have rules of their own.
    fn is_of_2_bits(&self) -> bool {
        matches!(
            self.mixture,
            Mixture::IQ1_S | Mixture::IQ1_M | Mixture::IQ2_XXS | Mixture::IQ2_XS | Mixture::IQ2_S | Mixture::IQ2_M
        )
    }

    fn of_2_bits(&mut self, base: GgmlType, part: Part) -> GgmlType {
        let n_experts = self.facts.n_experts;
        let better = match self.mixture {
            Mixture::IQ2_S | Mixture::IQ2_M => IQ3_S,
            _ => Q2_K,
        };
        match part {
            Part::Value | Part::Fused | Part::Latent if self.sharing() >= 4 || n_experts >= 4 => Q4_K,
            Part::Value | Part::Fused | Part::Latent => better,
            Part::Key if n_experts == 8 => Q4_K,
            Part::Down => {
                let layer = self.down;
                self.down += 1;
                if layer < self.facts.n_layers / 8 { better } else { base }
            }
            Part::AttentionOutput if n_experts == 8 => Q5_K,
            Part::AttentionOutput => match self.mixture {
                Mixture::IQ1_S | Mixture::IQ1_M => IQ2_XXS,
                Mixture::IQ2_S | Mixture::IQ2_M => IQ3_S,
                _ => base,
            },
            _ => base,
        }
    }

    fn value(&self, base: GgmlType) -> GgmlType {
        let is_shared = self.sharing() >= 4;
        let mut kind = match self.mixture {
            Mixture::Q2_K if is_shared => Q4_K,
            Mixture::Q2_K => Q3_K,
            Mixture::Q2_K_S if is_shared => Q4_K,
            Mixture::IQ3_XXS | Mixture::IQ3_XS | Mixture::IQ3_S if is_shared => Q4_K,
            Mixture::IQ3_XXS if !self.options.has_importance => IQ3_S,
            Mixture::IQ3_M => Q4_K,
            Mixture::Q3_K_M if self.value < 2 => Q5_K,
            Mixture::Q3_K_M => Q4_K,
            Mixture::Q3_K_L => Q5_K,
            Mixture::IQ4_NL | Mixture::IQ4_XS if is_shared => Q5_K,
            Mixture::Q4_K_M | Mixture::Q5_K_M if gets_more(self.value, self.n_values) => Q6_K,
            Mixture::Q4_K_S if self.value < 4 => Q5_K,
            _ => base,
        };
        // There these matrices are an eighth of those of queries: better ones cost next to nothing.
        if is_70b(self.facts) && matches!(kind, Q3_K | Q4_K) {
            kind = Q5_K;
        }
        if self.facts.n_experts == 8 { Q8_0 } else { kind }
    }

    fn down(&self, base: GgmlType, layer: usize) -> GgmlType {
        let n_layers = self.facts.n_layers;
        let is_first = |part: usize| layer < n_layers / part;
        let gets_more = gets_more(layer, n_layers);
        let has_importance = self.options.has_importance;
        match self.mixture {
            Mixture::Q2_K => Q3_K,
            Mixture::Q2_K_S if is_first(8) => Q4_K,
            Mixture::IQ3_XXS if !has_importance && is_first(8) => Q4_K,
            Mixture::IQ3_XXS if !has_importance => Q3_K,
            Mixture::IQ3_M if is_first(8) || self.facts.n_experts == 8 && gets_more => Q4_K,
            Mixture::Q3_K_M if is_first(16) => Q5_K,
            Mixture::Q3_K_M if !self.is_falcon() || gets_more => Q4_K,
            Mixture::Q3_K_L if self.is_falcon() => Q4_K,
            Mixture::Q3_K_L => Q5_K,
            Mixture::Q4_K_M if self.is_falcon() && is_first(16) => Q6_K,
            Mixture::Q4_K_M if self.is_falcon() && gets_more => Q5_K,
            Mixture::Q4_K_M if !self.is_falcon() && gets_more => Q6_K,
            Mixture::IQ4_NL | Mixture::IQ4_XS if is_first(8) && !has_importance => Q5_K,
            Mixture::Q5_K_M if gets_more => Q6_K,
            Mixture::Q4_K_S if !self.is_falcon() && is_first(8) => Q5_K,
            // Only with importance, so that without it files stay what they have always been.
            Mixture::Q4_0 if is_first(8) && has_importance => Q4_1,
            Mixture::Q5_0 if is_first(8) && has_importance => Q5_1,
            _ => base,
        }
    }

    fn attention_output(&self, base: GgmlType) -> GgmlType {
        match self.mixture {
            Mixture::Q3_K_L if self.is_falcon() => Q4_K,
            _ if self.is_falcon() => base,
            Mixture::Q2_K
            | Mixture::Q3_K_S
            | Mixture::Q3_K_M
            | Mixture::IQ3_XXS
            | Mixture::IQ3_XS
            | Mixture::IQ3_S
            | Mixture::IQ3_M
            | Mixture::IQ4_NL
            | Mixture::IQ4_XS
            | Mixture::Q4_K_S
            | Mixture::Q4_K_M
                if self.facts.n_experts == 8 =>
            {
                Q5_K
            }
            _ if self.facts.n_experts == 8 => base,
            Mixture::Q2_K => Q3_K,
            Mixture::IQ3_XXS => IQ3_S,
            Mixture::Q3_K_M | Mixture::IQ3_M => Q4_K,
            Mixture::Q3_K_L => Q5_K,
            _ => base,
        }
    }

    /// Returns the layer of a feed-forward tensor: as counted, or as its name says in a model with experts, whose tensors come in any order.
    fn layer(&self, tensor: &Tensor<'_>, counted: usize) -> Result<usize> {
        if self.facts.n_experts <= 1 {
            return Ok(counted);
        }
        let found = layer(tensor.name).filter(|layer| *layer < self.facts.n_layers);
        found.ok_or_else(|| QuantizationError::Layer {
            name: tensor.name.to_owned(),
            n_layers: self.facts.n_layers,
        })
    }
}

/// Says whether a layer is one of those that the `_M` mixtures treat better: the first and the last eighth, and every third between.
fn gets_more(layer: usize, n_layers: usize) -> bool {
    let first = n_layers / 8;
    is_at_an_end(layer, n_layers) || (layer - first) % 3 == 2
}

/// Says whether a layer is one of the first or of the last eighth.
fn is_at_an_end(layer: usize, n_layers: usize) -> bool {
    layer < n_layers / 8 || layer >= 7 * n_layers / 8
}

/// Says whether the reference takes a model for one of 70 billion weights, going by its layers.
fn is_70b(facts: &ModelFacts) -> bool {
    match facts.architecture.as_str() {
        "llama" => facts.n_layers == 80 && facts.n_heads != facts.n_kv_heads,
        "qwen2" | "deci" | "olmo" => facts.n_layers == 80,
        "jais2" => facts.n_layers == 68,
        _ => false,
    }
}

fn is_bottleneck(name: &str) -> bool {
    ["attn_q_a", "attn_q_b", "nextn.eh_proj"]
        .iter()
        .any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_layers_are_at_both_ends_and_every_third_between() {
        let better: Vec<usize> = (0..32).filter(|layer| gets_more(*layer, 32)).collect();
        assert_eq!(better, [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]);
    }
}
