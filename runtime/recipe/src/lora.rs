//! The method and the fields of PEFT's LoraConfig, in PEFT's, Axolotl's and our own spelling.
//!
//! Which fields a plugin can do is the plugin's to say: fields that PEFT has are passed on as they are, and checked there.

use serde_json::{Value as Json, json};
use witness_diagnostics::near_miss;

use crate::convert::unknown_inner;
use crate::draft::{Draft, Field};
use crate::error::Fault;
use crate::keys::{self, Rule};
use crate::node::Value;
use crate::read::{self, Expected, Reading};

type Done = Result<(), Fault>;

/// Sets a field of the LoRA configuration.
pub(crate) fn set(draft: &mut Draft, field: &Field, name: &str) -> Done {
    let value = field.read(|node| -> Reading<Json> {
        Ok(match name {
            "r" => json!(read::count(node, 1)?),
            "lora_alpha" => read::json_number(read::number_within(node, 0.0, f64::MAX)?),
            "lora_dropout" => read::json_number(read::number_within(node, 0.0, 1.0)?),
            "bias" => json!(read::word(node, &["none", "all", "lora_only"])?),
            "use_rslora" | "use_dora" | "fan_in_fan_out" | "lora_bias" | "use_qalora" | "ensure_weight_tying" => {
                json!(read::flag(node)?)
            }
            "target_modules" => targets(node)?,
            "modules_to_save" => json!(read::texts(node)?),
            "exclude_modules" => match &node.value {
                Value::List(_) => json!(read::texts(node)?),
                _ => json!(read::text(node)?),
            },
            "rank_pattern" | "alpha_pattern" => Json::Object(read::map(node)?),
            _ => match &node.value {
                Value::Text(text) => crate::node::parse_value(text).to_json(),
                _ => node.to_json(),
            },
        })
    })?;
    draft.set(field, &format!("lora.{name}"), value)
}

/// A list of names; `all-linear`; or a pattern, which is a text with signs that no name has. Several names may stand in one text.
fn targets(node: &crate::node::Node) -> Reading<Json> {
    let expected = || Expected {
        what: "names of modules, as in `[q_proj, v_proj]`, or all-linear".to_owned(),
        hint: "the modules are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj".to_owned(),
    };
    match &node.value {
        Value::Text(text) => {
            let text = text.trim();
            if text.eq_ignore_ascii_case("all-linear") || text.eq_ignore_ascii_case("all_linear") || text == "all" {
                return Ok(json!("all-linear"));
            }
            let is_names = text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ',' | ' '));
            match is_names {
                true => Ok(json!(read::texts(node)?)),
                false => Ok(json!(text)),
            }
        }
        Value::List(_) => {
            let names = read::texts(node).map_err(|_| expected())?;
            match names.as_slice() {
                [] => Err(expected()),
                [only] if only == "all-linear" => Ok(json!("all-linear")),
                _ => Ok(json!(names)),
            }
        }
        _ => Err(expected()),
    }
}

/// `lora:` with the fields inside.
pub(crate) fn nested(draft: &mut Draft, field: &Field) -> Done {
    let Value::Map(entries) = &field.node.value else {
        return Err(field.refuse(Expected::new("a map of PEFT's fields, as in `{r: 16, lora_alpha: 32}`")));
    };
    for entry in entries {
        let inner = field.inner(&entry.key, &entry.node, Some(entry.position));
        let done = match keys::rule(&entry.key) {
            Some(rule @ (Rule::Lora(_) | Rule::NoEffect(_))) => keys::follow(draft, &inner, rule),
            Some(rule @ Rule::By(_)) if matches!(entry.key.as_str(), "task_type" | "peft_type") => {
                keys::follow(draft, &inner, rule)
            }
            Some(rule @ Rule::As(_)) if entry.key == "base_model_name_or_path" => keys::follow(draft, &inner, rule),
            _ => Err(unknown_inner(&inner, &entry.key, FIELDS)),
        };
        if let Err(fault) = done {
            draft.fault(fault);
        }
    }
    Ok(())
}

/// Fields that near misses are looked for among.
const FIELDS: &[&str] = &[
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "bias",
    "use_rslora",
    "use_dora",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "layers_pattern",
    "init_lora_weights",
    "trainable_token_indices",
    "task_type",
];

/// Axolotl's `peft:`, which holds the configuration of LoftQ.
pub(crate) fn peft(draft: &mut Draft, field: &Field) -> Done {
    if field.node.is_off() {
        draft.no_effect(field, "empty");
        return Ok(());
    }
    Err(field.not_yet("weights that begin as LoftQ has them"))
}

pub(crate) fn target_linear(draft: &mut Draft, field: &Field) -> Done {
    match field.read(read::flag)? {
        true => draft.set(field, "lora_target_linear", json!(true)),
        false => {
            draft.no_effect(field, "off, as it is here");
            Ok(())
        }
    }
}

pub(crate) fn task_type(draft: &mut Draft, field: &Field) -> Done {
    let said = field.read(read::text)?;
    match said.rsplit('.').next().unwrap_or(&said) {
        "CAUSAL_LM" => {
            draft.honoured(field, "the next token is what is learned");
            Ok(())
        }
        _ => Err(field.not_yet("another task than the next token (CAUSAL_LM)")),
    }
}

pub(crate) fn peft_type(draft: &mut Draft, field: &Field) -> Done {
    match field.read(read::text)?.rsplit('.').next() {
        Some("LORA") => {
            draft.honoured(field, "method: lora");
            Ok(())
        }
        _ => Err(field.not_yet("another kind of adapter than LoRA")),
    }
}

/// Axolotl's method: `lora`, `qlora`, or nothing for every weight.
pub(crate) fn adapter(draft: &mut Draft, field: &Field) -> Done {
    let said = field.read(read::text)?;
    match said.trim().to_ascii_lowercase().as_str() {
        "lora" | "qlora" => draft.set(field, "method", json!(said.trim().to_ascii_lowercase())),
        "dora" => {
            draft.set(field, "method", json!("lora"))?;
            draft.set_too(field, "lora.use_dora", json!(true))
        }
        "none" | "full" | "false" => draft.set(field, "method", json!("full")),
        "llama-adapter" | "mora" | "ia3" | "vera" => Err(field.not_yet("another kind of adapter than LoRA")),
        other => Err(field.refuse(Expected {
            what: "lora or qlora".to_owned(),
            hint: near_miss(other, ["lora", "qlora", "none"])
                .map(|near| format!("did you mean `{near}`?"))
                .unwrap_or_else(|| "without `adapter` every weight is trained".to_owned()),
        })),
    }
}

/// Our own name of it.
pub(crate) fn method(draft: &mut Draft, field: &Field) -> Done {
    let said = field.read(|node| read::word(node, &["lora", "qlora", "full", "dora", "none"]))?;
    match said.as_str() {
        "dora" | "none" => adapter(draft, field),
        _ => draft.set(field, "method", json!(said)),
    }
}
