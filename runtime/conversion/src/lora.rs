//! Adapters from one form to the other: a PEFT directory as a GGUF LoRA file, and back.
//!
//! A GGUF LoRA file has one alpha and no settings, so only plain LoRA goes there, with one scale per rank: DoRA, trained biases, replaced modules and
//! alphas that differ in what they mean have no place and are refused by name. rsLoRA goes there with the alpha that gives its scale. The
//! tensors keep type and bytes; the rows of B on q and k take the base's order, and A of an embedding lies transposed.

use std::io::Write;

use serde_json::{Map, Value, json};
use witness_formats::{
    TensorRef,
    adapter::{Adapter, Heads, LoraKind, LoraPair},
    gguf::{self, GgmlType, names, rows::RowOrder},
    safetensors,
};

use crate::{ConversionError, Family, Result, tensor::encode_dense};

const QUANTIZATION_VERSION: u32 = 2;

/// Writes an adapter as a GGUF LoRA file for a base of this family. `name` is what the adapter is called.
pub fn adapter_to_gguf<W: Write>(adapter: Adapter, family: Family, heads: Heads, name: &str, sink: W) -> Result<W> {
    let alpha = one_alpha(&adapter)?;
    refuse_what_gguf_cannot_say(&adapter)?;
    let adapter = adapter.in_row_order(family.row_order(), heads)?;
    let mut writer = gguf::Writer::new();
    writer.set("general.architecture", family.architecture())?;
    writer.set("general.type", "adapter")?;
    writer.set("adapter.type", "lora")?;
    writer.set("general.name", name)?;
    if let Some(base) = adapter.base_model() {
        writer.set("general.base_model.count", 1u32)?;
        writer.set("general.base_model.0.name", base)?;
    }
    writer.set("adapter.lora.alpha", alpha as f32)?;
    writer.set("general.quantization_version", QUANTIZATION_VERSION)?;
    let mut tensors = Vec::new();
    for pair in adapter.pairs() {
        let base = names::from_hf(family.architecture(), &format!("{}.weight", pair.module)).ok_or_else(|| {
            ConversionError::unsupported(
                adapter.label(),
                format!(
                    "it changes `{}`, which has no place in a GGUF file of architecture `{}`",
                    pair.module,
                    family.architecture()
                ),
                "serve it in its PEFT form, or merge it into its base first",
            )
        })?;
        let a = if pair.kind == LoraKind::Embedding {
            transposed(&pair.a)?
        } else {
            pair.a.clone()
        };
        tensors.push((format!("{base}.lora_a"), a));
        tensors.push((format!("{base}.lora_b"), pair.b.clone()));
    }
    for (name, tensor) in &tensors {
        writer.tensor(name, tensor.shape(), dense_type(tensor, adapter.label())?)?;
    }
    let mut body = writer.begin(sink)?;
    for (name, tensor) in &tensors {
        body.tensor(name, tensor.bytes())?;
    }
    Ok(body.finish()?)
}

fn dense_type(tensor: &TensorRef, label: &str) -> Result<GgmlType> {
    GgmlType::of_weights(tensor.dtype()).ok_or_else(|| {
        ConversionError::unsupported(
            label,
            format!("its tensors are of type {}", tensor.dtype().name()),
            "save the adapter with float32, float16 or bfloat16 tensors",
        )
    })
}

/// Returns the alpha that gives every pair its scale: llama.cpp takes `alpha / rank`.
fn one_alpha(adapter: &Adapter) -> Result<f64> {
    let alphas: Vec<(f64, &LoraPair)> = adapter
        .pairs()
        .iter()
        .map(|pair| (pair.scale * pair.rank as f64, pair))
        .collect();
    let Some((first, one)) = alphas.first() else {
        return Err(ConversionError::missing(
            adapter.label(),
            "low-rank change: as a GGUF LoRA it would change nothing",
        ));
    };
    match alphas
        .iter()
        .find(|(alpha, _)| (alpha - first).abs() > 1e-9 * first.abs())
    {
        None => Ok(*first),
        Some((other, pair)) => Err(ConversionError::unsupported(
            adapter.label(),
            format!(
                "a GGUF LoRA has one alpha, and this one needs {first} for `{}` and {other} for `{}`",
                one.module, pair.module
            ),
            "serve it in its PEFT form, or merge it into its base first",
        )),
    }
}

fn refuse_what_gguf_cannot_say(adapter: &Adapter) -> Result<()> {
    let what = if let Some(saved) = adapter.saved().first() {
        format!("it replaces `{}`", saved.module)
    } else if let Some(pair) = adapter.pairs().iter().find(|pair| pair.magnitude.is_some()) {
        format!("it is DoRA, with a trained length for the rows of `{}`", pair.module)
    } else if let Some(pair) = adapter.pairs().iter().find(|pair| pair.b_bias.is_some()) {
        format!("it adds a bias to `{}`", pair.module)
    } else {
        return Ok(());
    };
    Err(ConversionError::unsupported(
        adapter.label(),
        format!("{what}, which a GGUF LoRA cannot say"),
        "serve it in its PEFT form, or merge it into its base first",
    ))
}

/// Writes an adapter as a PEFT directory's two files: returns `adapter_config.json`, and writes `adapter_model.safetensors` to the sink.
///
/// `heads` are the base's. An adapter that came from PEFT keeps its own configuration.
pub fn adapter_to_peft<W: Write>(adapter: Adapter, heads: Heads, sink: W) -> Result<(String, W)> {
    let adapter = adapter.in_row_order(RowOrder::Halves, heads)?;
    if !adapter.saved().is_empty()
        || adapter
            .pairs()
            .iter()
            .any(|pair| pair.b_bias.is_some() || pair.magnitude.is_some())
    {
        return Err(ConversionError::unsupported(
            adapter.label(),
            "it has more than plain low-rank changes, so it is a PEFT directory already",
            "copy the directory",
        ));
    }
    let mut tensors = Vec::new();
    for pair in adapter.pairs() {
        let (a, b) = match pair.kind {
            LoraKind::Linear => ("lora_A.weight", "lora_B.weight"),
            LoraKind::Embedding => ("lora_embedding_A", "lora_embedding_B"),
        };
        tensors.push((format!("base_model.model.{}.{a}", pair.module), &pair.a));
        tensors.push((format!("base_model.model.{}.{b}", pair.module), &pair.b));
    }
    let mut writer = safetensors::Writer::new();
    writer.metadata("format", "pt");
    for (name, tensor) in &tensors {
        writer.tensor(name, tensor.dtype(), tensor.shape())?;
    }
    let mut body = writer.begin(sink)?;
    for (name, tensor) in &tensors {
        body.tensor(name, tensor.bytes())?;
    }
    let config = match adapter.config() {
        Some(config) => Value::Object(config.raw.clone()),
        None => config(&adapter),
    };
    Ok((format!("{config:#}\n"), body.finish()?))
}

/// Describes pairs in PEFT's words: the commonest rank and alpha, and patterns for the rest.
fn config(adapter: &Adapter) -> Value {
    let rank = adapter.pairs().first().map_or(8, |pair| pair.rank);
    let alpha = adapter
        .pairs()
        .first()
        .map_or(8.0, |pair| pair.scale * pair.rank as f64);
    let (mut ranks, mut alphas) = (Map::new(), Map::new());
    for pair in adapter.pairs() {
        let own = pair.scale * pair.rank as f64;
        if pair.rank != rank {
            ranks.insert(pair.module.clone(), json!(pair.rank));
        }
        if (own - alpha).abs() > 1e-9 * alpha.abs() {
            alphas.insert(pair.module.clone(), number(own));
        }
    }
    // Whole names, because the last parts alone may name modules of layers that are not changed.
    let mut targets: Vec<&str> = adapter.pairs().iter().map(|pair| pair.module.as_str()).collect();
    targets.sort_unstable();
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base_model(),
        "r": rank,
        "lora_alpha": number(alpha),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "target_modules": targets,
    })
}

/// Writes a whole number without a fraction, as PEFT does.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        json!(value as i64)
    } else {
        json!(value)
    }
}

fn transposed(tensor: &TensorRef) -> Result<TensorRef> {
    let &[rows, columns] = tensor.shape() else {
        return Ok(tensor.clone());
    };
    let values = tensor.to_f32()?;
    let turned: Vec<f32> = (0..rows * columns)
        .map(|at| values[(at % rows) * columns + at / rows])
        .collect();
    Ok(TensorRef::from_bytes(
        tensor.dtype(),
        &[columns, rows],
        encode_dense(tensor.dtype(), &turned),
    )?)
}
