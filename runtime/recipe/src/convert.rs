//! Keys whose values other programs write in another way: names of optimizers and precisions, steps per epoch, trackers.

use serde_json::{Map, Value as Json, json};
use witness_diagnostics::near_miss;

use crate::draft::{Draft, Field, shown};
use crate::error::{Fault, Problem};
use crate::keys;
use crate::node::Value;
use crate::read::{self, Expected};
use crate::settings::{OPTIMIZERS, SCHEDULES};

type Done = Result<(), Fault>;

/// Names of optimizers by what they are here, with what is lost on the way.
const OPTIMIZER_NAMES: &[(&[&str], &str, &str)] = &[
    (
        &[
            "adamw_torch",
            "adamw_torch_fused",
            "adamw_hf",
            "adamw_anyprecision",
            "adamw_apex_fused",
            "adamw_torch_xla",
            "adamw_torch_npu_fused",
            "paged_adamw",
            "paged_adamw_32bit",
            "adamw_bnb",
            "optimi_adamw",
            "flash_adamw",
        ],
        "adamw",
        "",
    ),
    (
        &[
            "adamw_bnb_8bit",
            "paged_adamw_8bit",
            "adamw_torch_8bit",
            "ao_adamw_8bit",
            "adamw_8bit",
        ],
        "adamw_8bit",
        "",
    ),
    (
        &["adamw_torch_4bit", "ao_adamw_4bit", "ao_adamw_fp8"],
        "adamw_8bit",
        "its states are kept in 8 bits here",
    ),
    (
        &["lion_32bit", "paged_lion", "paged_lion_32bit", "flash_lion"],
        "lion",
        "",
    ),
    (
        &["lion_8bit", "paged_lion_8bit"],
        "lion",
        "its state is kept in 32 bits here",
    ),
    (&["flash_sgd"], "sgd", ""),
];

pub(crate) fn optimizer(draft: &mut Draft, field: &Field) -> Done {
    let said = field.read(read::text)?.trim().to_ascii_lowercase();
    if let Some(own) = OPTIMIZERS.iter().find(|own| **own == said) {
        return draft.set(field, "optimizer", json!(own));
    }
    if let Some((_, own, loss)) = OPTIMIZER_NAMES
        .iter()
        .find(|(names, ..)| names.contains(&said.as_str()))
    {
        if !loss.is_empty() {
            draft.warn(format!("`{}: {said}`: {loss}", field.label));
        }
        return draft.set(field, "optimizer", json!(own));
    }
    let known = OPTIMIZER_NAMES.iter().flat_map(|(names, ..)| names.iter());
    let near = near_miss(&said, OPTIMIZERS.iter().chain(known).copied());
    let hint = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the optimizers are {}", OPTIMIZERS.join(", ")),
    };
    Err(Fault::new(
        Problem::Value,
        field.position,
        format!("`{}` is not an optimizer that is here", shown(&field.node)),
        hint,
    ))
}

pub(crate) fn adafactor(draft: &mut Draft, field: &Field) -> Done {
    match field.read(read::flag)? {
        true => draft.set(field, "optimizer", json!("adafactor")),
        false => {
            draft.no_effect(field, "off, as it is here");
            Ok(())
        }
    }
}

pub(crate) fn lr_scheduler(draft: &mut Draft, field: &Field) -> Done {
    let said = field.read(read::text)?.trim().to_ascii_lowercase();
    let own = match said.as_str() {
        "cosine_warmup_with_min_lr" => "cosine_with_min_lr",
        other => other,
    };
    if SCHEDULES.contains(&own) {
        return draft.set(field, "lr_scheduler", json!(own));
    }
    match said.as_str() {
        "one_cycle" | "rex" | "reduce_lr_on_plateau" | "greedy" => Err(field.not_yet("a schedule of another kind")),
        _ => field.read(|node| read::word(node, SCHEDULES)).map(drop),
    }
}

/// A number of steps; below 1 a share of all steps.
pub(crate) fn warmup(draft: &mut Draft, field: &Field) -> Done {
    let number = field.read(|node| read::number_within(node, 0.0, f64::MAX))?;
    if number > 0.0 && number < 1.0 {
        return draft.set(field, "warmup_ratio", read::json_number(number));
    }
    let steps = field.read(|node| read::count(node, 0))?;
    draft.set(field, "warmup_steps", json!(steps))
}

pub(crate) fn warmup_steps(draft: &mut Draft, field: &Field) -> Done {
    warmup(draft, field)
}

/// -1 = by epochs.
pub(crate) fn max_steps(draft: &mut Draft, field: &Field) -> Done {
    if read::number(&field.node).is_some_and(|steps| steps <= 0.0) {
        draft.no_effect(field, "the epochs say how long the run is");
        return Ok(());
    }
    keys::as_setting(draft, field, "max_steps")
}

pub(crate) fn batch_size(draft: &mut Draft, field: &Field) -> Done {
    let rows = field.read(|node| read::count(node, 1))?;
    draft.set(field, "batch_size", json!(rows))
}

/// `auto`, `full`, true, false.
pub(crate) fn bf16(draft: &mut Draft, field: &Field) -> Done {
    if let Value::Text(text) = &field.node.value {
        match text.trim().to_ascii_lowercase().as_str() {
            "auto" => return draft.set(field, "bf16", json!("auto")),
            "full" => return draft.set(field, "bf16", json!("bf16")),
            _ => {}
        }
    }
    let flag = field.read(|node| read::flag(node).map_err(|_| Expected::new("true, false or auto")))?;
    draft.set(field, "bf16", json!(if flag { "bf16" } else { "f32" }))
}

pub(crate) fn fp16(draft: &mut Draft, field: &Field) -> Done {
    let is_auto = matches!(&field.node.value, Value::Text(text) if text.trim().eq_ignore_ascii_case("auto"));
    if !is_auto && !field.read(read::flag)? {
        draft.no_effect(field, "off, as it is here");
        return Ok(());
    }
    draft.warn(format!(
        "`{}`: f16 is not computed in here; bf16, which needs no loss scaling, takes its place where the machine is fast in it",
        field.label
    ));
    draft.set(field, "fp16", json!("auto"))
}

pub(crate) fn float32(draft: &mut Draft, field: &Field) -> Done {
    match field.read(read::flag)? {
        true => draft.set(field, "compute", json!("f32")),
        false => {
            draft.no_effect(field, "off, as it is here");
            Ok(())
        }
    }
}

/// What the base is loaded in.
pub(crate) fn dtype(draft: &mut Draft, field: &Field) -> Done {
    let said = field.read(read::text)?;
    let storage = match dtype_name(&said) {
        "bfloat16" | "bf16" => "bf16",
        "float32" | "f32" | "float" | "fp32" => "f32",
        "auto" => "as_is",
        "float16" | "f16" | "half" | "fp16" => {
            draft.warn(format!("`{}: {said}`: the base is held in bf16 instead", field.label));
            "bf16"
        }
        _ => return Err(field.refuse(Expected::new("one of bfloat16, float16, float32, auto"))),
    };
    draft.set(field, "dtype", json!(storage))
}

pub(crate) fn dtype_of_compute(draft: &mut Draft, field: &Field) -> Done {
    let said = field.read(read::text)?;
    let compute = match dtype_name(&said) {
        "bfloat16" | "bf16" => "bf16",
        "float32" | "f32" | "float" | "fp32" => "f32",
        "float16" | "f16" | "half" | "fp16" | "auto" => "auto",
        _ => return Err(field.refuse(Expected::new("one of bfloat16, float16, float32, auto"))),
    };
    draft.set(field, "compute", json!(compute))
}

fn dtype_name(said: &str) -> &str {
    let said = said.trim();
    said.strip_prefix("torch.").unwrap_or(said)
}

/// true, false; Axolotl's `offload` and unsloth's `unsloth` are true too.
pub(crate) fn checkpointing(draft: &mut Draft, field: &Field) -> Done {
    let is_word = matches!(&field.node.value, Value::Text(text) if matches!(text.as_str(), "offload" | "offload_disk" | "unsloth"));
    let flag = is_word || field.read(read::flag)?;
    draft.set(field, "gradient_checkpointing", json!(flag))
}

pub(crate) fn logging_strategy(draft: &mut Draft, field: &Field) -> Done {
    let said = field.read(|node| read::word(node, &["no", "steps", "epoch"]))?;
    match said.as_str() {
        "steps" => draft.honoured(field, "logging_steps"),
        _ => {
            draft.no_effect(field, "the log has an entry every `logging_steps` steps");
            0
        }
    };
    Ok(())
}

pub(crate) fn logging_steps(draft: &mut Draft, field: &Field) -> Done {
    match read::number(&field.node) {
        Some(share) if share > 0.0 && share < 1.0 => {
            draft.no_effect(field, "the log goes by whole steps, and every step is in the events");
            Ok(())
        }
        _ => keys::as_setting(draft, field, "logging_steps"),
    }
}

pub(crate) fn report_to(draft: &mut Draft, field: &Field) -> Done {
    let said = field.read(|node| match &node.value {
        Value::Bool(false) => Ok(Vec::new()),
        _ => read::texts(node),
    })?;
    let mut trackers: Vec<&str> = Vec::new();
    for name in &said {
        match name.trim().to_ascii_lowercase().as_str() {
            "tensorboard" => trackers.push("tensorboard"),
            "wandb" => trackers.push("wandb"),
            "all" => trackers.extend(["tensorboard", "wandb"]),
            "none" => {}
            "mlflow" | "comet_ml" | "trackio" | "swanlab" | "azure_ml" | "clearml" | "codecarbon" | "dagshub"
            | "dvclive" | "flyte" | "neptune" | "kubeflow" => {
                draft.warn(format!(
                    "`{name}` is not written; of the trackers, tensorboard and wandb are"
                ));
            }
            other => {
                let near = near_miss(other, ["tensorboard", "wandb", "none", "all"]);
                return Err(field.refuse(Expected {
                    what: "tensorboard, wandb, all or none".to_owned(),
                    hint: near.map(|near| format!("did you mean `{near}`?")).unwrap_or_default(),
                }));
            }
        }
    }
    trackers.dedup();
    draft.set(field, "report_to", json!(trackers))
}

pub(crate) fn eval_steps(draft: &mut Draft, field: &Field) -> Done {
    steps(draft, field, "eval_steps")
}

pub(crate) fn save_steps(draft: &mut Draft, field: &Field) -> Done {
    steps(draft, field, "save_steps")
}

/// A number of steps, or below 1 a share of all steps; 0 = not by steps.
fn steps(draft: &mut Draft, field: &Field, target: &str) -> Done {
    if field.node.is_off() {
        draft.no_effect(field, "off: not by steps");
        return Ok(());
    }
    let number = field.read(|node| {
        read::number_within(node, 0.0, f64::MAX)
            .ok()
            .filter(|number| *number < 1.0 || number.fract() == 0.0)
            .ok_or_else(|| Expected::new("a whole number of steps, or a share of all steps below 1"))
    })?;
    draft.set(field, target, read::json_number(number))
}

pub(crate) fn do_eval(draft: &mut Draft, field: &Field) -> Done {
    if field.read(read::flag)? {
        draft.honoured(field, "eval_strategy says when");
        draft.assume("do_eval", true);
    } else {
        draft.no_effect(field, "`eval_strategy` says whether there are evaluations");
    }
    Ok(())
}

pub(crate) fn evals_per_epoch(draft: &mut Draft, field: &Field) -> Done {
    per_epoch(draft, field, "evals_per_epoch")
}

pub(crate) fn saves_per_epoch(draft: &mut Draft, field: &Field) -> Done {
    per_epoch(draft, field, "saves_per_epoch")
}

fn per_epoch(draft: &mut Draft, field: &Field, target: &str) -> Done {
    if field.node.is_off() {
        draft.no_effect(field, "off, as it is here");
        return Ok(());
    }
    let times = field.read(|node| read::count(node, 1))?;
    draft.set(field, target, json!(times))
}

pub(crate) fn metric(draft: &mut Draft, field: &Field) -> Done {
    match field.read(read::text)?.trim() {
        "loss" | "eval_loss" => {
            draft.honoured(
                field,
                "the loss on the validation rows, which is what the best is told by",
            );
            Ok(())
        }
        _ => Err(field.not_yet("another measure than the loss")),
    }
}

pub(crate) fn greater_is_better(draft: &mut Draft, field: &Field) -> Done {
    match field.read(read::flag)? {
        false => {
            draft.honoured(field, "the lowest loss is the best");
            Ok(())
        }
        true => Err(field.not_yet("a measure that should rise, and the measure is the loss")),
    }
}

/// 0 = all, which is what nothing means too.
pub(crate) fn save_total_limit(draft: &mut Draft, field: &Field) -> Done {
    if read::number(&field.node) == Some(0.0) {
        draft.unset(field, "save_total_limit");
        return Ok(());
    }
    keys::as_setting(draft, field, "save_total_limit")
}

pub(crate) fn early_stopping(draft: &mut Draft, field: &Field) -> Done {
    if field.node.is_off() {
        draft.no_effect(field, "off, as it is here");
        return Ok(());
    }
    keys::as_setting(draft, field, "early_stopping_patience")
}

pub(crate) fn push_to_hub(draft: &mut Draft, field: &Field) -> Done {
    if field.read(read::flag)? {
        draft.warn(format!(
            "`{}`: nothing is sent anywhere; the adapter stays on this machine",
            field.label
        ));
    }
    draft.no_effect(field, "nothing is sent anywhere");
    Ok(())
}

pub(crate) fn resume(draft: &mut Draft, field: &Field) -> Done {
    if !field.node.is_off() {
        draft.warn(format!(
            "`{}`: this begins a new run; `witness train resume` goes on with one",
            field.label
        ));
    }
    draft.no_effect(field, "`witness train resume` goes on with a run");
    Ok(())
}

pub(crate) fn data_seed(draft: &mut Draft, field: &Field) -> Done {
    let seed = field.read(|node| read::count(node, 0))?;
    draft.set(field, "data_seed", json!(seed))
}

pub(crate) fn sampling(draft: &mut Draft, field: &Field) -> Done {
    match field
        .read(|node| read::word(node, &["random", "sequential", "group_by_length"]))?
        .as_str()
    {
        "sequential" => draft.set(field, "shuffle", json!(false)),
        "group_by_length" => draft.set(field, "group_by_length", json!(true)),
        _ => draft.set(field, "shuffle", json!(true)),
    }
}

pub(crate) fn sequential(draft: &mut Draft, field: &Field) -> Done {
    match field.read(read::flag)? {
        true => draft.set(field, "shuffle", json!(false)),
        false => {
            draft.no_effect(field, "off, as it is here");
            Ok(())
        }
    }
}

pub(crate) fn max_length(draft: &mut Draft, field: &Field) -> Done {
    keys::as_setting(draft, field, "sequence_len")
}

pub(crate) fn truncation(draft: &mut Draft, field: &Field) -> Done {
    let flag = field.read(read::flag)?;
    draft.set(field, "excess_length", json!(if flag { "truncate" } else { "drop" }))
}

pub(crate) fn excess_length(draft: &mut Draft, field: &Field) -> Done {
    match field
        .read(|node| read::word(node, &["drop", "truncate", "raise"]))?
        .as_str()
    {
        "raise" => {
            draft.warn(format!(
                "`{}: raise`: longer rows are left out and counted; `witness train --estimate` tells of them first",
                field.label
            ));
            draft.set(field, "excess_length", json!("drop"))
        }
        other => draft.set(field, "excess_length", json!(other)),
    }
}

pub(crate) fn assistant_only(draft: &mut Draft, field: &Field) -> Done {
    let flag = field.read(read::flag)?;
    draft.set(field, "train_on_inputs", json!(!flag))
}

pub(crate) fn loss_type(draft: &mut Draft, field: &Field) -> Done {
    match field.read(read::text)?.trim() {
        "nll" | "chunked_nll" => {
            draft.honoured(field, "cross-entropy, computed in chunks");
            Ok(())
        }
        _ => Err(field.not_yet("another loss")),
    }
}

pub(crate) fn bnb_quant_type(draft: &mut Draft, field: &Field) -> Done {
    match field.read(|node| read::word(node, &["nf4", "fp4"]))?.as_str() {
        "nf4" => draft.set(field, "bnb_4bit_quant_type", json!("nf4")),
        _ => Err(field.not_yet("a base in FP4")),
    }
}

pub(crate) fn bnb_double_quant(draft: &mut Draft, field: &Field) -> Done {
    let flag = field.read(read::flag)?;
    draft.set(field, "bnb_4bit_use_double_quant", json!(flag))
}

/// The fields of bitsandbytes's configuration as a map of their own.
pub(crate) fn bnb_config(draft: &mut Draft, field: &Field) -> Done {
    let Value::Map(entries) = &field.node.value else {
        return Err(field.refuse(Expected::new("a map, as in `{bnb_4bit_quant_type: nf4}`")));
    };
    for entry in entries {
        keys::apply(draft, &field.inner(&entry.key, &entry.node, Some(entry.position)));
    }
    Ok(())
}

pub(crate) fn load_in_4bit(draft: &mut Draft, field: &Field) -> Done {
    let flag = field.read(read::flag)?;
    draft.set(field, "load_in_4bit", json!(flag))
}

pub(crate) fn load_in_8bit(draft: &mut Draft, field: &Field) -> Done {
    if field.read(read::flag)? {
        draft.warn(format!(
            "`{}`: a base of 16-bit weights is not squeezed into 8; it is held as the computation likes it best. \
             For less memory use `adapter: qlora`, or a GGUF base in Q8_0, which is trained on as it lies",
            field.label
        ));
        draft.no_effect(field, "only the memory of the frozen base depends on it");
    } else {
        draft.no_effect(field, "off, as it is here");
    }
    Ok(())
}

/// Axolotl's floor of a cosine, as a share of the highest rate.
pub(crate) fn cosine_min_lr_ratio(draft: &mut Draft, field: &Field) -> Done {
    let share = field.read(|node| read::number_within(node, 0.0, 1.0))?;
    draft.set(field, "cosine_min_lr_ratio", read::json_number(share))
}

/// Axolotl's plugins: those that only make it faster change nothing.
pub(crate) fn plugins(draft: &mut Draft, field: &Field) -> Done {
    const FASTER: &[&str] = &["liger", "cut_cross_entropy", "kernels"];
    for name in field.read(read::texts)? {
        let is_faster = FASTER
            .iter()
            .any(|part| name.to_ascii_lowercase().split('.').any(|word| word == *part));
        if !is_faster {
            return Err(field.not_yet(&format!("Axolotl's plugin `{name}`")));
        }
    }
    draft.no_effect(field, "they choose among ways to compute the same");
    Ok(())
}

pub(crate) fn special_tokens(draft: &mut Draft, field: &Field) -> Done {
    let Value::Map(entries) = &field.node.value else {
        return Err(field.refuse(Expected::new("a map, as in `{pad_token: \"<|end|>\"}`")));
    };
    for entry in entries {
        let inner = field.inner(&entry.key, &entry.node, Some(entry.position));
        match entry.key.as_str() {
            "pad_token" => draft.no_effect(&inner, "nothing is padded"),
            "unk_token" => draft.no_effect(&inner, "the tokenizer is the model's own"),
            "bos_token" | "eos_token" => {
                draft.warn(format!(
                    "`{}`: the model's own tokenizer is used, and its chat template begins and ends turns; look at a row with `witness data preview`",
                    inner.label
                ));
                draft.no_effect(&inner, "the tokenizer and the chat template are the model's own");
            }
            "additional_special_tokens" if inner.node.is_off() => draft.no_effect(&inner, "empty"),
            "additional_special_tokens" => draft.fault(inner.not_yet("new tokens")),
            other => {
                let near = near_miss(
                    other,
                    [
                        "pad_token",
                        "bos_token",
                        "eos_token",
                        "unk_token",
                        "additional_special_tokens",
                    ],
                );
                let hint = near.map(|near| format!("did you mean `{near}`?"));
                let fault = Fault::new(
                    Problem::UnknownKey,
                    inner.position,
                    format!("`{}` is not a special token", inner.label),
                    hint.unwrap_or_else(|| {
                        "the special tokens are bos_token, eos_token, pad_token, unk_token".to_owned()
                    }),
                );
                draft.fault(fault);
            }
        }
    }
    Ok(())
}

/// ChatML, the one template that is known by name wherever models are trained.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

pub(crate) fn chat_template(draft: &mut Draft, field: &Field) -> Done {
    let said = field.read(read::text)?;
    if said.contains("{%") || said.contains("{{") {
        return draft.set(field, "template", json!(said));
    }
    match said.trim() {
        "tokenizer_default" => {
            draft.honoured(field, "the model's own chat template");
        }
        name if name.starts_with("tokenizer_default_fallback_") => {
            draft.honoured(field, "the model's own chat template");
        }
        "chatml" => {
            draft.set(field, "template", json!(CHATML))?;
        }
        // The text itself stands in `chat_template_jinja`.
        "jinja" => {
            draft.honoured(field, "chat_template_jinja");
        }
        name => {
            draft.warn(format!(
                "`{}: {name}` names a template of another program; the model's own chat template is used. \
                 Give another one with `chat_template_jinja`",
                field.label
            ));
            draft.no_effect(field, "the model's own chat template is used");
        }
    }
    Ok(())
}

pub(crate) fn template(draft: &mut Draft, field: &Field) -> Done {
    let text = field.read(read::text)?;
    draft.set(field, "template", json!(text))
}

pub(crate) fn system(draft: &mut Draft, field: &Field) -> Done {
    let text = field.read(read::text)?;
    draft.set(field, "system", json!(text))
}

pub(crate) fn eot_tokens(draft: &mut Draft, field: &Field) -> Done {
    field.read(read::texts)?;
    draft.no_effect(field, "what the chat template writes behind a turn ends it");
    Ok(())
}

pub(crate) fn use_wandb(draft: &mut Draft, field: &Field) -> Done {
    let flag = field.read(read::flag)?;
    draft.set(field, "use_wandb", json!(flag))
}

pub(crate) fn use_tensorboard(draft: &mut Draft, field: &Field) -> Done {
    let flag = field.read(read::flag)?;
    draft.set(field, "use_tensorboard", json!(flag))
}

pub(crate) fn wandb_mode(draft: &mut Draft, field: &Field) -> Done {
    match field
        .read(|node| read::word(node, &["online", "offline", "disabled", "dryrun", "shared"]))?
        .as_str()
    {
        "disabled" => draft.set(field, "use_wandb", json!(false)),
        "online" | "shared" => {
            draft.warn(format!(
                "`{}`: the run is written to disk; `wandb sync` sends it",
                field.label
            ));
            draft.no_effect(field, "the run is written to disk, and `wandb sync` sends it");
            Ok(())
        }
        _ => {
            draft.honoured(field, "the run is written to disk");
            Ok(())
        }
    }
}

/// A base made from nothing: its three parts, read one by one.
pub(crate) fn scratch(draft: &mut Draft, field: &Field) -> Done {
    let Value::Map(entries) = &field.node.value else {
        return Err(field.refuse(Expected::new("a map with `config` and `tokenizer`")));
    };
    draft.assume("scratch.on", true);
    for entry in entries {
        let inner = field.inner(&entry.key, &entry.node, Some(entry.position));
        let done = match entry.key.as_str() {
            "config" => inner
                .read(read::map)
                .and_then(|config| draft.set(&inner, "scratch.config", Json::Object(config))),
            "tokenizer" => inner.read(read::map).and_then(|tokenizer| {
                known_tokenizer(&inner, &tokenizer)?;
                draft.set(&inner, "scratch.tokenizer", Json::Object(tokenizer))
            }),
            "chat_template" => inner
                .read(read::text)
                .and_then(|text| draft.set(&inner, "scratch.chat_template", json!(text))),
            other => Err(unknown_inner(&inner, other, &["config", "tokenizer", "chat_template"])),
        };
        if let Err(fault) = done {
            draft.fault(fault);
        }
    }
    Ok(())
}

/// Keys of a tokenizer that is trained.
pub(crate) const TOKENIZER_KEYS: [&str; 6] = [
    "vocab_size",
    "min_frequency",
    "special_tokens",
    "bos_token",
    "eos_token",
    "pad_token",
];

fn known_tokenizer(field: &Field, tokenizer: &Map<String, Json>) -> Done {
    match tokenizer.keys().find(|key| !TOKENIZER_KEYS.contains(&key.as_str())) {
        Some(unknown) => {
            let inner = field.inner(unknown, &field.node, None);
            Err(unknown_inner(&inner, unknown, &TOKENIZER_KEYS))
        }
        None => Ok(()),
    }
}

pub(crate) fn unknown_inner(field: &Field, key: &str, known: &[&'static str]) -> Fault {
    let hint = match near_miss(key, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("its keys are {}", known.join(", ")),
    };
    Fault::new(
        Problem::UnknownKey,
        field.position,
        format!("`{}` is not a key of a recipe", field.label),
        hint,
    )
}
