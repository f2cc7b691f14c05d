//! Whose file it is, and what that program does where a key is absent.

use serde::Serialize;
use serde_json::json;

use crate::draft::Draft;
use crate::node::Entry;

/// Whose keys a recipe is written in. Keys of all of them are understood in each; the defaults differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// Ours.
    #[default]
    Witness,
    /// Axolotl's configuration.
    Axolotl,
    /// Transformers' TrainingArguments, with PEFT's LoraConfig beside them.
    Transformers,
}

/// Keys that only Axolotl has.
const AXOLOTL: &[&str] = &[
    "base_model",
    "datasets",
    "adapter",
    "pretraining_dataset",
    "test_datasets",
    "load_in_4bit",
];

/// Keys that only we have.
const WITNESS: &[&str] = &[
    "base",
    "data",
    "method",
    "lora",
    "scratch",
    "num_epochs",
    "micro_batch_size",
    "epochs",
    "sequence_len",
];

/// Keys that only Transformers has.
const TRANSFORMERS: &[&str] = &[
    "per_device_train_batch_size",
    "per_gpu_train_batch_size",
    "num_train_epochs",
    "per_device_eval_batch_size",
    "evaluation_strategy",
    "lr_scheduler_type",
    "optim",
    "model_name_or_path",
    "task_type",
];

impl Dialect {
    /// Every dialect.
    pub const ALL: [Dialect; 3] = [Dialect::Witness, Dialect::Axolotl, Dialect::Transformers];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Witness => "witness",
            Dialect::Axolotl => "axolotl",
            Dialect::Transformers => "transformers",
        }
    }

    /// Tells whose keys these are.
    pub(crate) fn of(entries: &[Entry]) -> Dialect {
        let has = |names: &[&str]| entries.iter().any(|entry| names.contains(&entry.key.as_str()));
        let named = entries.iter().find(|entry| entry.key == "dialect");
        let named = named.and_then(|entry| entry.node.to_json().as_str().map(str::to_ascii_lowercase));
        if let Some(dialect) = Dialect::ALL
            .into_iter()
            .find(|dialect| Some(dialect.name()) == named.as_deref())
        {
            return dialect;
        }
        if has(AXOLOTL) {
            Dialect::Axolotl
        } else if has(WITNESS) || !has(TRANSFORMERS) {
            Dialect::Witness
        } else {
            Dialect::Transformers
        }
    }

    /// Sets what the program does where no key says otherwise. Ours are the defaults of the settings themselves.
    pub(crate) fn defaults(self, draft: &mut Draft) {
        let pairs = match self {
            Dialect::Witness => json!({}),
            Dialect::Axolotl => json!({
                "num_epochs": 1,
                "micro_batch_size": 1,
                "gradient_accumulation_steps": 1,
                "sequence_len": 512,
                "sample_packing": false,
                "excess_length": "drop",
                "train_on_inputs": false,
                "train_on_eos": "turn",
                "val_set_size": 0,
                "optimizer": "adamw",
                "lr_scheduler": "cosine",
                "weight_decay": 0,
                "max_grad_norm": 1,
                "seed": 42,
                "save_total_limit": 4,
                "compute": "auto",
                "gradient_checkpointing": false,
            }),
            Dialect::Transformers => json!({
                "num_epochs": 3,
                "micro_batch_size": 8,
                "gradient_accumulation_steps": 1,
                "eval_batch_size": 8,
                "sample_packing": false,
                "excess_length": "truncate",
                "learning_rate": 5e-5,
                "lr_scheduler": "linear",
                "optimizer": "adamw",
                "weight_decay": 0,
                "max_grad_norm": 1,
                "seed": 42,
                "logging_steps": 500,
                "eval_strategy": "no",
                "save_strategy": "steps",
                "save_steps": 500,
                "compute": "f32",
                "gradient_checkpointing": false,
            }),
        };
        for (target, value) in pairs.as_object().into_iter().flatten() {
            draft.assume(target, value.clone());
        }
    }

    /// The fields of the LoRA configuration where no key says otherwise.
    pub(crate) fn lora_defaults(self, draft: &mut Draft) {
        match self {
            // As wide as costs little, and the customary ratio of 2.
            Dialect::Witness => {
                draft.assume("lora.r", 16);
                let rank = draft.number("lora.r").unwrap_or(16.0);
                draft.assume("lora.lora_alpha", crate::read::json_number(2.0 * rank));
                draft.assume("lora.lora_dropout", 0);
                draft.assume("lora.target_modules", "all-linear");
            }
            // PEFT's, whose choice of modules for the families that are here is this.
            Dialect::Axolotl | Dialect::Transformers => {
                draft.assume("lora.r", 8);
                draft.assume("lora.lora_alpha", 8);
                draft.assume("lora.lora_dropout", 0);
                draft.assume("lora.target_modules", json!(["q_proj", "v_proj"]));
            }
        }
    }
}
