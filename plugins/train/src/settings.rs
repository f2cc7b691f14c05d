//! The settings as a run will follow them: defaults filled in, contradictions refused, and turned into what the training library takes.

use serde_json::{Map, Value, json};
use witness_diagnostics::Diagnostic;
use witness_formats::hf::DecoderConfig;
use witness_instructions::{Isa, Level};
use witness_plugin_protocol::{self as wire, Compat, ExcessLength, TrainMethod, TrainSettings, When};
use witness_training::{BaseStorage, Compute, LoraMethod, Method, Recompute, TrainerOptions};

use crate::error::setting;
use crate::rates;

/// The longest sequence that nobody asked for. What the guide's script takes, and more than most chats have.
const SEQUENCE_LEN: u64 = 2_048;

/// Rank of an adapter that nobody asked for; its alpha is twice that.
const RANK: u64 = 16;

/// Fills in every default that depends on the base or on other settings. What comes out says exactly what will be done. `continued` holds
/// the fields of the adapter that is gone on from.
pub(crate) fn resolve(
    asked: &TrainSettings,
    config: &DecoderConfig,
    continued: Option<&Map<String, Value>>,
) -> TrainSettings {
    let mut settings = asked.clone();
    if settings.scratch.is_some() {
        // There is nothing to put an adapter beside.
        settings.method = TrainMethod::Full;
    }
    // Written down, so that what was computed can be computed again elsewhere.
    settings.compute = match compute(asked) {
        Compute::F32 => wire::Compute::F32,
        Compute::Bf16 => wire::Compute::Bf16,
    };
    let positions = config.max_position_embeddings as u64;
    settings.sequence_len.get_or_insert(SEQUENCE_LEN.min(positions));
    settings
        .learning_rate
        .get_or_insert(match (settings.method, &settings.scratch) {
            (_, Some(_)) => 1e-3,
            (TrainMethod::Full, None) => 2e-5,
            (TrainMethod::Lora | TrainMethod::Qlora, None) => 2e-4,
        });
    settings.eval_batch_size.get_or_insert(settings.micro_batch_size);
    if settings.compat == Some(Compat::Guide) {
        // The script knows neither, and cuts what is too long.
        settings.sample_packing = false;
        settings.excess_length = ExcessLength::Truncate;
    }
    if settings.eval_strategy == When::Steps {
        settings.eval_steps.get_or_insert(settings.logging_steps as f64);
    }
    if settings.method != TrainMethod::Full {
        settings.lora = adapter(&asked.lora, continued);
    }
    settings
}

/// Returns the fields of an adapter: those asked for, then those of the one that is gone on from, then defaults.
fn adapter(asked: &Map<String, Value>, continued: Option<&Map<String, Value>>) -> Map<String, Value> {
    // What the other run wrote about itself, not about what it computed.
    const ITS_OWN: [&str; 3] = ["base_model_name_or_path", "inference_mode", "revision"];
    let mut fields = continued.cloned().unwrap_or_default();
    fields.retain(|key, _| !ITS_OWN.contains(&key.as_str()));
    fields.extend(asked.clone());
    let rank = fields.get("r").cloned().unwrap_or(json!(RANK));
    let alpha = rank.as_u64().map_or(json!(2 * RANK), |rank| json!(2 * rank));
    for (key, value) in [
        ("r", rank),
        ("lora_alpha", alpha),
        ("target_modules", json!("all-linear")),
    ] {
        fields.entry(key).or_insert(value);
    }
    fields
}

/// Refuses settings that make no sense, whatever the base. Numbers that the training library checks are left to it.
pub(crate) fn check(settings: &TrainSettings) -> Result<(), Diagnostic> {
    for (name, value) in [
        ("logging_steps", settings.logging_steps),
        ("micro_batch_size", settings.micro_batch_size),
        ("gradient_accumulation_steps", settings.gradient_accumulation_steps),
        ("sequence_len", settings.sequence_len.unwrap_or(1)),
        ("eval_batch_size", settings.eval_batch_size.unwrap_or(1)),
        ("threads", settings.threads.unwrap_or(1)),
    ] {
        if value == 0 {
            return Err(setting(name, 0, "1 or more"));
        }
    }
    for (name, value) in [
        ("save_steps", settings.save_steps),
        ("eval_steps", settings.eval_steps.unwrap_or(1.0)),
    ] {
        let is_share = value > 0.0 && value < 1.0;
        if !(is_share || (value >= 1.0 && value.fract() == 0.0)) {
            return Err(setting(
                name,
                value,
                "a whole number of steps, or a share of all steps below 1",
            ));
        }
    }
    if !(0.0..=1.0).contains(&settings.warmup_ratio) {
        return Err(setting("warmup_ratio", settings.warmup_ratio, "a share from 0 to 1"));
    }
    if settings.save_total_limit == Some(0) {
        return Err(setting("save_total_limit", 0, "1 or more, or left out to keep all"));
    }
    if settings.early_stopping_patience == Some(0) {
        return Err(setting("early_stopping_patience", 0, "1 or more, or left out"));
    }
    crate::watch::check(settings)?;
    if settings.eval_strategy == When::Best {
        return Err(setting("eval_strategy", "`best`", "`no`, `steps` or `epoch`"));
    }
    Ok(())
}

/// Returns what is trained.
pub(crate) fn method(settings: &TrainSettings) -> Result<Method, Diagnostic> {
    match settings.method {
        TrainMethod::Full => Ok(Method::Full),
        TrainMethod::Lora | TrainMethod::Qlora => Ok(Method::Lora(Box::new(LoraMethod::from_json(&settings.lora)?))),
    }
}

/// Returns how the steps are made.
pub(crate) fn options(settings: &TrainSettings, n_steps: u64, is_gguf: bool) -> Result<TrainerOptions, Diagnostic> {
    let n_threads = settings.threads.map(|threads| {
        let threads = usize::try_from(threads).ok().filter(|threads| *threads <= 1_024);
        threads.ok_or_else(|| setting("threads", settings.threads.unwrap_or(0), "1 to 1024"))
    });
    Ok(TrainerOptions {
        schedule: rates::schedule(settings, n_steps)?,
        optimizer: rates::optimizer(settings)?,
        max_grad_norm: Some(settings.max_grad_norm).filter(|norm| *norm != 0.0),
        recompute: recompute(settings),
        seed: settings.seed,
        n_threads: n_threads.transpose()?,
        compute: compute(settings),
        base_storage: storage(settings, is_gguf)?,
    })
}

/// Returns what products are computed in.
pub(crate) fn compute(settings: &TrainSettings) -> Compute {
    match settings.compute {
        wire::Compute::F32 => Compute::F32,
        wire::Compute::Bf16 => Compute::Bf16,
        // Where there are quick products of bf16.
        wire::Compute::Auto => match Isa::current().at_least(Level::Avx512Bf16) {
            true => Compute::Bf16,
            false => Compute::F32,
        },
    }
}

/// Returns how the frozen base is held. A quantized file is used as it lies.
pub(crate) fn storage(settings: &TrainSettings, is_gguf: bool) -> Result<BaseStorage, Diagnostic> {
    match (settings.base_storage, settings.method) {
        (wire::BaseStorage::AsIs, _) => Ok(BaseStorage::AsIs),
        (wire::BaseStorage::F32, _) => Ok(BaseStorage::F32),
        (wire::BaseStorage::Bf16, _) => Ok(BaseStorage::Bf16),
        (wire::BaseStorage::Nf4, _) => Ok(BaseStorage::Nf4 { double: false }),
        (wire::BaseStorage::Nf4Double, _) => Ok(BaseStorage::Nf4 { double: true }),
        (wire::BaseStorage::Auto, _) if is_gguf => Ok(BaseStorage::AsIs),
        (wire::BaseStorage::Auto, TrainMethod::Qlora) => Ok(BaseStorage::Nf4 { double: true }),
        (wire::BaseStorage::Auto, TrainMethod::Lora | TrainMethod::Full) => Ok(match compute(settings) {
            Compute::F32 => BaseStorage::F32,
            Compute::Bf16 => BaseStorage::AsIs,
        }),
    }
}

/// Returns whether activations are kept.
pub(crate) fn recompute(settings: &TrainSettings) -> Recompute {
    match settings.gradient_checkpointing {
        true => Recompute::Layers,
        false => Recompute::Nothing,
    }
}
