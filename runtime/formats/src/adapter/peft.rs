//! The tensors of a PEFT adapter, each put in its place by its name.
//!
//! Names are `base_model.model.<module>.<suffix>`; between `lora_A` and `weight` some writers leave the adapter's name.

use std::collections::BTreeMap;

use super::{Adapter, Bias, CONFIG_BYTES_MAX, LoraKind, LoraPair, PeftConfig, SavedModule, config::is_or_contains};
use crate::{FileSet, FormatError, Result, TensorRef, error::excerpt, gguf::rows::RowOrder, safetensors::SafeTensors};

pub(super) const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// What a tensor is for its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    A,
    B,
    BBias,
    Magnitude,
    EmbeddingA,
    EmbeddingB,
    Weight,
    Bias,
}

impl Slot {
    fn name(self) -> &'static str {
        match self {
            Slot::A => "lora_A",
            Slot::B => "lora_B",
            Slot::BBias => "the bias of lora_B",
            Slot::Magnitude => "lora_magnitude_vector",
            Slot::EmbeddingA => "lora_embedding_A",
            Slot::EmbeddingB => "lora_embedding_B",
            Slot::Weight => "weight",
            Slot::Bias => "bias",
        }
    }
}

/// Opens the two files and proves that they belong together.
pub(super) fn open(files: &FileSet) -> Result<Adapter> {
    let file = format!("{}/{CONFIG}", files.label());
    let config = PeftConfig::parse(&file, &files.read(CONFIG, CONFIG_BYTES_MAX)?)?;
    if let Some(task) = config.task_type.as_deref().filter(|task| *task != "CAUSAL_LM") {
        return Err(FormatError::unsupported(
            file,
            format!(
                "the adapter's `task_type` is `{}`; the runtime generates text, which is CAUSAL_LM",
                excerpt(task)
            ),
            "use an adapter trained with task_type CAUSAL_LM",
        ));
    }
    if files.get(WEIGHTS).is_none() {
        return Err(files.no_weights("file `adapter_model.safetensors`"));
    }
    let tensors = SafeTensors::open_one(files, WEIGHTS)?;
    let mut modules: BTreeMap<String, BTreeMap<Slot, TensorRef>> = BTreeMap::new();
    for (name, tensor) in tensors.iter() {
        let (module, slot) = place(name, tensors.label())?;
        let taken = modules
            .entry(module.to_owned())
            .or_default()
            .insert(slot, tensor.clone());
        if taken.is_some() {
            return Err(FormatError::malformed(
                tensors.label(),
                format!("tensor `{}`", excerpt(name)),
                format!("one {} for `{}`", slot.name(), excerpt(module)),
                "a second one",
            ));
        }
    }
    let mut pairs = Vec::new();
    let mut saved = Vec::new();
    for (module, mut slots) in modules {
        let (weight, bias) = (slots.remove(&Slot::Weight), slots.remove(&Slot::Bias));
        if weight.is_some() || bias.is_some() {
            check_saved(&config, &module, weight.is_some(), tensors.label())?;
            saved.push(SavedModule {
                module: module.clone(),
                weight,
                bias,
            });
        }
        if !slots.is_empty() {
            pairs.push(pair(&config, module, slots, tensors.label())?);
        }
    }
    if pairs.is_empty() && saved.is_empty() {
        return Err(FormatError::missing(
            tensors.label(),
            "tensor of an adapter: it would change nothing",
        ));
    }
    for name in &config.modules_to_save {
        if !saved.iter().any(|saved| is_or_contains(name, &saved.module)) {
            return Err(FormatError::missing(
                tensors.label(),
                format!(
                    "tensor for `{}`, which `{CONFIG}` lists in `modules_to_save`",
                    excerpt(name)
                ),
            ));
        }
    }
    let base_model = config.base_model.clone();
    Ok(Adapter {
        label: files.label().to_owned(),
        pairs,
        saved,
        base_model,
        config: Some(config),
        row_order: RowOrder::Halves,
    })
}

/// Splits a tensor's name into its module and what it is there.
fn place<'a>(name: &'a str, label: &str) -> Result<(&'a str, Slot)> {
    let rest = name.strip_prefix(PREFIX).unwrap_or(name);
    find_slot(rest).filter(|(module, _)| !module.is_empty()).ok_or_else(|| {
        FormatError::malformed(
            label,
            format!("tensor `{}`", excerpt(name)),
            "a tensor of a LoRA adapter (lora_A, lora_B, lora_magnitude_vector, lora_embedding_A, lora_embedding_B, modules_to_save, weight or bias)",
            "another, which would be left out",
        )
    })
}

fn find_slot(rest: &str) -> Option<(&str, Slot)> {
    for (marker, slot) in [
        ("lora_embedding_A", Slot::EmbeddingA),
        ("lora_embedding_B", Slot::EmbeddingB),
    ] {
        if let Some((module, after)) = split_at(rest, marker) {
            // After the marker: nothing, or the adapter's name.
            return (!after.contains('.')).then_some((module, slot));
        }
    }
    if let Some((module, after)) = split_at(rest, "lora_magnitude_vector") {
        // After the marker: nothing, the adapter's name, `weight` (PEFT before 0.12), or both.
        let is_known = match after.split_once('.') {
            Some((_, last)) => last == "weight",
            None => true,
        };
        return is_known.then_some((module, Slot::Magnitude));
    }
    for (marker, weight, bias) in [("lora_A", Slot::A, None), ("lora_B", Slot::B, Some(Slot::BBias))] {
        if let Some((module, after)) = split_at(rest, marker) {
            let last = after.split('.').next_back()?;
            let is_short = after.split('.').count() <= 2;
            return match last {
                "weight" if is_short => Some((module, weight)),
                "bias" if is_short => Some((module, bias?)),
                _ => None,
            };
        }
    }
    let (module, last) = rest.rsplit_once('.')?;
    let slot = match last {
        "weight" => Slot::Weight,
        "bias" => Slot::Bias,
        _ => return None,
    };
    if module.contains(".original_module") {
        return None;
    }
    let module = match split_at(module, "modules_to_save") {
        Some((module, after)) => (!after.contains('.')).then_some(module)?,
        None => module
            .strip_suffix(".modules_to_save")
            .or_else(|| module.strip_suffix(".base_layer"))
            .unwrap_or(module),
    };
    Some((module, slot))
}

/// Splits `a.b.MARKER.c` into `a.b` and `c`; without anything behind the marker, the second is empty.
fn split_at<'a>(rest: &'a str, marker: &str) -> Option<(&'a str, &'a str)> {
    for (at, _) in rest.match_indices(marker) {
        let Some(module) = rest[..at].strip_suffix('.') else {
            continue;
        };
        match rest[at + marker.len()..].strip_prefix('.') {
            Some(after) => return Some((module, after)),
            None if at + marker.len() == rest.len() => return Some((module, "")),
            None => {}
        }
    }
    None
}

/// A replaced parameter must be one that the configuration says is replaced.
fn check_saved(config: &PeftConfig, module: &str, has_weight: bool, label: &str) -> Result<()> {
    // PEFT also saves the embedding and the output when the vocabulary was enlarged, without listing them.
    let is_embedding = matches!(module.rsplit('.').next(), Some("embed_tokens" | "lm_head"));
    let is_trained_bias = !has_weight && config.bias != Bias::None;
    if config.saves_module(module) || is_embedding || is_trained_bias {
        return Ok(());
    }
    Err(FormatError::Mismatch {
        left: format!("`{label}`"),
        right: format!("`{}`", config.file),
        why: format!(
            "it holds a new {} for `{}`, which the configuration does not say is replaced (modules_to_save: [{}], bias: {:?})",
            if has_weight { "weight" } else { "bias" },
            excerpt(module),
            excerpt(&config.modules_to_save.join(", ")),
            config.bias,
        ),
        hint: "save the adapter again with current PEFT, so that both files agree".to_owned(),
    })
}

/// Builds the pair of one module from its tensors, and proves rank, shapes and that the configuration names it.
fn pair(config: &PeftConfig, module: String, mut slots: BTreeMap<Slot, TensorRef>, label: &str) -> Result<LoraPair> {
    let kind = if slots.contains_key(&Slot::EmbeddingA) || slots.contains_key(&Slot::EmbeddingB) {
        LoraKind::Embedding
    } else {
        LoraKind::Linear
    };
    let (slot_a, slot_b) = match kind {
        LoraKind::Linear => (Slot::A, Slot::B),
        LoraKind::Embedding => (Slot::EmbeddingA, Slot::EmbeddingB),
    };
    let shown = excerpt(&module);
    let mut take = |slot: Slot| {
        slots
            .remove(&slot)
            .ok_or_else(|| FormatError::missing(label, format!("{} for `{shown}`", slot.name())))
    };
    let (a, b) = (take(slot_a)?, take(slot_b)?);
    let (b_bias, magnitude) = (slots.remove(&Slot::BBias), slots.remove(&Slot::Magnitude));
    if let Some(slot) = slots.keys().next() {
        return Err(FormatError::malformed(
            label,
            format!("`{shown}`"),
            format!("{} and {}", slot_a.name(), slot_b.name()),
            format!("{} as well", slot.name()),
        ));
    }
    if !config.targets_module(&module)? {
        return Err(FormatError::Mismatch {
            left: format!("`{label}`"),
            right: format!("`{}`", config.file),
            why: format!(
                "it changes `{shown}`, which the configuration does not target (target_modules: {})",
                config.targets.describe()
            ),
            hint: "the two files come from different adapters; save the adapter again with PEFT".to_owned(),
        });
    }
    let rank = config.rank_of(&module)?;
    let fits = matches!((a.shape(), b.shape()), ([r_a, _], [_, r_b]) if *r_a == rank && *r_b == rank);
    if !fits {
        return Err(FormatError::Mismatch {
            left: format!("`{label}`"),
            right: format!("`{}`", config.file),
            why: format!(
                "on `{shown}` A is {:?} and B is {:?}; rank {rank} of the configuration asks for [{rank}, in] and [out, {rank}]",
                a.shape(),
                b.shape(),
            ),
            hint: "the two files come from different adapters; save the adapter again with PEFT".to_owned(),
        });
    }
    if b_bias.is_some() != config.lora_bias || b_bias.as_ref().is_some_and(|bias| bias.shape() != &b.shape()[..1]) {
        return Err(FormatError::Mismatch {
            left: format!("`{label}`"),
            right: format!("`{}`", config.file),
            why: format!(
                "`lora_bias` is {}, and on `{shown}` the bias of lora_B is {}",
                config.lora_bias,
                b_bias.map_or_else(|| "absent".to_owned(), |bias| format!("{:?}", bias.shape())),
            ),
            hint: "the two files come from different adapters; save the adapter again with PEFT".to_owned(),
        });
    }
    if config.use_dora && (kind == LoraKind::Embedding || config.lora_bias) {
        return Err(FormatError::unsupported(
            &*config.file,
            format!("DoRA (`use_dora`) on `{shown}`, which is an embedding or has a bias of lora_B"),
            "merge the adapter into its base with PEFT's `merge_and_unload()` and use the merged model",
        ));
    }
    if magnitude.is_some() != config.use_dora
        || magnitude
            .as_ref()
            .is_some_and(|magnitude| magnitude.shape() != &b.shape()[..1])
    {
        return Err(FormatError::Mismatch {
            left: format!("`{label}`"),
            right: format!("`{}`", config.file),
            why: format!(
                "`use_dora` is {}, and on `{shown}` lora_magnitude_vector is {}",
                config.use_dora,
                magnitude.map_or_else(|| "absent".to_owned(), |magnitude| format!("{:?}", magnitude.shape())),
            ),
            hint: "the two files come from different adapters; save the adapter again with PEFT".to_owned(),
        });
    }
    let scale = config.scale_of(&module)?;
    Ok(LoraPair {
        module,
        a,
        b,
        b_bias,
        magnitude,
        rank,
        scale,
        kind,
    })
}
