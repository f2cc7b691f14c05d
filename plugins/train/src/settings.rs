//! The settings as a run will follow them: defaults filled in, contradictions refused, and turned into what the training library takes.

use serde_json::{Map, Value, json};
use witness_diagnostics::{Diagnostic, near_miss};
use witness_formats::hf::DecoderConfig;
use witness_plugin_protocol::{BaseStorage, Compat, Compute, TrainMethod, TrainSettings, When};
use witness_training::{AdamW, Decay, LoraMethod, Method, Recompute, Schedule, TrainerOptions};

use crate::error::{setting, unsupported};

/// The longest sequence that nobody asked for. What the guide's script takes, and more than most chats have.
const SEQUENCE_LEN: u64 = 2_048;

/// Rank of an adapter that nobody asked for; its alpha is twice that.
const RANK: u64 = 16;

/// Fills in every default that depends on the base or on other settings. What comes out says exactly what will be done.
pub(crate) fn resolve(asked: &TrainSettings, config: &DecoderConfig, n_validation: usize) -> TrainSettings {
    let mut settings = asked.clone();
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
        settings.excess_length = witness_plugin_protocol::ExcessLength::Truncate;
    }
    if n_validation == 0 {
        settings.eval_strategy = When::No;
    }
    if settings.eval_strategy == When::Steps {
        settings.eval_steps.get_or_insert(settings.logging_steps as f64);
    }
    if settings.method != TrainMethod::Full {
        let rank = settings.lora.get("r").cloned().unwrap_or(json!(RANK));
        let alpha = rank.as_u64().map_or(json!(2 * RANK), |rank| json!(2 * rank));
        for (key, value) in [
            ("r", rank),
            ("lora_alpha", alpha),
            ("target_modules", json!("all-linear")),
        ] {
            settings.lora.entry(key).or_insert(value);
        }
    }
    settings
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
    let wants_measure = settings.load_best_model_at_end
        || settings.early_stopping_patience.is_some()
        || settings.save_strategy == When::Best;
    if wants_measure && settings.eval_strategy == When::No {
        let wanted = "`steps` or `epoch`, with rows to measure on, since the best checkpoint is asked for";
        return Err(setting("eval_strategy", "`no`", wanted));
    }
    if settings.eval_strategy == When::Best {
        return Err(setting("eval_strategy", "`best`", "`no`, `steps` or `epoch`"));
    }
    Ok(())
}

/// Returns how many steps an interval is: a share of all steps counts rounded up, as Transformers does.
pub(crate) fn interval(value: f64, n_steps: u64) -> u64 {
    if value < 1.0 {
        ((n_steps as f64 * value).ceil() as u64).max(1)
    } else {
        value as u64
    }
}

/// Returns what is trained. `continued` holds the fields of the adapter that is gone on from.
pub(crate) fn method(settings: &TrainSettings, continued: Option<&Map<String, Value>>) -> Result<Method, Diagnostic> {
    if settings.method == TrainMethod::Full {
        return Ok(Method::Full);
    }
    let mut fields = continued.cloned().unwrap_or_default();
    fields.extend(settings.lora.clone());
    Ok(Method::Lora(Box::new(LoraMethod::from_json(&fields)?)))
}

/// Returns how the steps are made.
pub(crate) fn options(settings: &TrainSettings, n_steps: u64) -> Result<TrainerOptions, Diagnostic> {
    refuse_what_is_not_there(settings)?;
    let n_threads = settings.threads.map(|threads| {
        let threads = usize::try_from(threads).ok().filter(|threads| *threads <= 1_024);
        threads.ok_or_else(|| setting("threads", settings.threads.unwrap_or(0), "1 to 1024"))
    });
    Ok(TrainerOptions {
        schedule: Schedule {
            learning_rate: settings.learning_rate.unwrap_or(0.0),
            decay: decay(settings)?,
            warmup_steps: warmup_steps(settings, n_steps),
            n_steps,
        },
        adamw: AdamW {
            beta1: settings.adam_beta1,
            beta2: settings.adam_beta2,
            epsilon: settings.adam_epsilon,
            weight_decay: settings.weight_decay,
        },
        max_grad_norm: Some(settings.max_grad_norm).filter(|norm| *norm != 0.0),
        recompute: recompute(settings),
        seed: settings.seed,
        n_threads: n_threads.transpose()?,
    })
}

/// Returns whether activations are kept.
pub(crate) fn recompute(settings: &TrainSettings) -> Recompute {
    match settings.gradient_checkpointing {
        true => Recompute::Layers,
        false => Recompute::Nothing,
    }
}

/// Returns the steps of linear rise; a ratio counts rounded up, as Transformers does, whose `constant` rises never.
pub(crate) fn warmup_steps(settings: &TrainSettings, n_steps: u64) -> u64 {
    if settings.lr_scheduler == "constant" {
        return 0;
    }
    let of_ratio = || (n_steps as f64 * settings.warmup_ratio).ceil() as u64;
    settings.warmup_steps.unwrap_or_else(of_ratio)
}

fn decay(settings: &TrainSettings) -> Result<Decay, Diagnostic> {
    const KNOWN: [&str; 4] = ["linear", "cosine", "constant", "constant_with_warmup"];
    if let Some(key) = settings.lr_scheduler_kwargs.keys().next() {
        return Err(unsupported(
            format!("`lr_scheduler_kwargs` with `{key}`"),
            "leave it out, or take `linear`, `cosine` or `constant`",
        ));
    }
    match settings.lr_scheduler.as_str() {
        "linear" => Ok(Decay::Linear),
        "cosine" => Ok(Decay::Cosine),
        "constant" | "constant_with_warmup" => Ok(Decay::Constant),
        other => Err(unknown("lr_scheduler", other, &KNOWN)),
    }
}

fn unknown(name: &str, found: &str, known: &[&str]) -> Diagnostic {
    let diagnostic = setting(name, format!("`{found}`"), format!("one of {}", known.join(", ")));
    match near_miss(found, known.iter().copied()) {
        Some(near) => diagnostic.hint(format!("did you mean `{near}`?")),
        None => diagnostic,
    }
}

fn refuse_what_is_not_there(settings: &TrainSettings) -> Result<(), Diagnostic> {
    if settings.optimizer != "adamw" {
        return Err(unknown("optimizer", &settings.optimizer, &["adamw"]));
    }
    if settings.method == TrainMethod::Qlora || !matches!(settings.base_storage, BaseStorage::Auto | BaseStorage::F32) {
        return Err(unsupported(
            "a base held in less than 4 bytes a weight",
            "set `method: lora` and `base_storage: auto`",
        ));
    }
    if settings.compute == Compute::Bf16 {
        return Err(unsupported("`compute: bf16`", "set `compute: auto` or `f32`"));
    }
    Ok(())
}
