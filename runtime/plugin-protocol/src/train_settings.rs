//! Everything that steers a training run, with the defaults. A recipe in any spelling becomes this value before a plugin sees it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Settings of a run. Names are those of Transformers' TrainingArguments, PEFT's LoraConfig or Axolotl where one of them has the thing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSettings {
    /// What is trained.
    pub method: TrainMethod,
    /// Fields of PEFT's LoraConfig, in its spelling: `r`, `lora_alpha`, `lora_dropout`, `target_modules`, `use_rslora`, ...
    pub lora: Map<String, Value>,
    /// How the frozen base is held.
    pub base_storage: BaseStorage,
    /// Numbers that products are computed in.
    pub compute: Compute,
    /// Makes a base from nothing, tokenizer included; then there are no model files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scratch: Option<ScratchSettings>,

    /// Longest row in tokens; nothing = what the model was made for, at most 2048.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence_len: Option<u64>,
    /// What becomes of a longer row.
    pub excess_length: ExcessLength,
    /// Several rows in one sequence, attention inside each, so that nothing is spent on padding. Without it rows are batched as they
    /// come, and still not padded.
    pub sample_packing: bool,
    /// Rows of like length in one batch.
    pub group_by_length: bool,
    /// Rows in a new order every epoch; false = as they stand.
    pub shuffle: bool,
    /// Learn the questions too.
    pub train_on_inputs: bool,
    /// Which ends of turns are learned.
    pub train_on_eos: TrainOnEos,
    /// Whose turns are learned.
    pub roles_to_train: Vec<String>,
    /// Share of the data to measure on, where no validation files are given; 0 = none.
    pub val_set_size: f64,
    /// Pass over rows that cannot be used.
    pub skip_bad: bool,
    /// Leave out rows that are exactly an earlier one.
    pub drop_duplicates: bool,
    /// Do as another program does, quirks included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compat: Option<Compat>,

    /// Passes over the data; may be a fraction.
    pub num_epochs: f64,
    /// Steps, in place of `num_epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Rows (packed: sequences) of a micro-batch.
    pub micro_batch_size: u64,
    /// Micro-batches of an optimizer step.
    pub gradient_accumulation_steps: u64,
    /// Rows of an evaluation batch; nothing = `micro_batch_size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_batch_size: Option<u64>,
    /// Highest learning rate; nothing = 2e-4 for adapters, 2e-5 for a whole model, 1e-3 from nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Its shape: `linear`, `cosine`, `constant`, `constant_with_warmup`, `polynomial`, `inverse_sqrt`, `cosine_with_restarts`,
    /// `cosine_with_min_lr`, `warmup_stable_decay`.
    pub lr_scheduler: String,
    /// More numbers for the shape, as Transformers' `lr_scheduler_kwargs`: `min_lr`, `min_lr_rate`, `num_cycles`, `power`, ...
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub lr_scheduler_kwargs: Map<String, Value>,
    /// Steps of linear rise; wins over the ratio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// The same as a share of all steps.
    pub warmup_ratio: f64,
    /// `adamw`, `adamw_8bit`, `lion`, `adafactor`, `sgd`.
    pub optimizer: String,
    /// AdamW's and Lion's first beta.
    pub adam_beta1: f64,
    /// AdamW's and Lion's second beta.
    pub adam_beta2: f64,
    /// AdamW's epsilon.
    pub adam_epsilon: f64,
    /// Decoupled decay, not of biases and norms.
    pub weight_decay: f64,
    /// Largest norm of all gradients together; 0 = no clipping.
    pub max_grad_norm: f64,
    /// Seed of everything drawn: initial weights, dropout, order, split.
    pub seed: u64,
    /// Compute activations again instead of keeping them.
    pub gradient_checkpointing: bool,
    /// Threads; nothing = physical cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u64>,

    /// Steps between two log entries.
    pub logging_steps: u64,
    /// Log the first step too.
    pub logging_first_step: bool,
    /// When validation rows are measured.
    pub eval_strategy: When,
    /// Steps between two evaluations (below 1: share of all steps); nothing = `logging_steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_steps: Option<f64>,
    /// When checkpoints are written.
    pub save_strategy: When,
    /// Steps between two checkpoints (below 1: share of all steps).
    pub save_steps: f64,
    /// Checkpoints kept, beside the best; nothing = all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_total_limit: Option<u64>,
    /// The product is the checkpoint with the lowest loss on the validation rows, not the last.
    pub load_best_model_at_end: bool,
    /// End after so many evaluations in a row that are not better than the best; nothing = never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping_patience: Option<u64>,
    /// By how much the loss has to fall to count as better.
    pub early_stopping_threshold: f64,

    /// `tensorboard`, `wandb`.
    pub report_to: Vec<String>,
    /// Name of the run for people and trackers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_name: Option<String>,
    /// W&B's project.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wandb_project: Option<String>,
    /// W&B's entity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wandb_entity: Option<String>,
    /// W&B's run id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wandb_run_id: Option<String>,
    /// Storage of a whole model's weights in what is written: `F32`, `BF16`.
    pub save_dtype: SaveDtype,
}

/// What is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainMethod {
    /// Low-rank adapters beside a frozen base.
    #[default]
    Lora,
    /// The same; the base is held in 4 bits unless `base_storage` says otherwise.
    Qlora,
    /// Every weight.
    Full,
}

/// How a frozen base is held in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BaseStorage {
    /// QLoRA: NF4 with double quantization, or a quantized file's own blocks. Else: as the computation likes it best.
    #[default]
    Auto,
    /// The file's own form, quantized blocks included.
    AsIs,
    /// 4 bytes a weight.
    F32,
    /// 2 bytes a weight.
    Bf16,
    /// 4 bits and a scale of 4 bytes for each 64.
    Nf4,
    /// 4 bits, the scales in 8 bits themselves.
    Nf4Double,
}

/// Numbers that products are computed in. Sums, norms, adapters and the optimizer are in f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compute {
    /// bf16 where the machine multiplies it faster than f32, else f32.
    #[default]
    Auto,
    /// f32.
    F32,
    /// bf16, as autocast does.
    Bf16,
}

/// What becomes of a row that is longer than a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExcessLength {
    /// It is left out and counted.
    #[default]
    Drop,
    /// It is cut at the end and counted.
    Truncate,
}

/// Which ends of turns are learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainOnEos {
    /// Those of learned turns.
    #[default]
    Turn,
    /// All.
    All,
    /// The last one.
    Last,
    /// None.
    None,
}

/// Programs whose quirks can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compat {
    /// The guide's Transformers script: a second BOS, the whole conversation learned but no end of turn, rows cut, split and ordered as
    /// there.
    Guide,
}

/// When something happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Never.
    No,
    /// Every so many steps.
    #[default]
    Steps,
    /// At the end of each epoch.
    Epoch,
    /// Whenever an evaluation is the best so far.
    Best,
}

/// Storage of weights that are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SaveDtype {
    /// 4 bytes.
    #[default]
    F32,
    /// 2 bytes.
    #[serde(alias = "bf16")]
    BF16,
}

/// A base made from nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScratchSettings {
    /// Fields of a Hugging Face `config.json`: `model_type`, `hidden_size`, ... `vocab_size` follows from the tokenizer.
    pub config: Map<String, Value>,
    /// The tokenizer that is trained on the data.
    pub tokenizer: TokenizerSettings,
    /// Chat template of the new model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
}

/// A tokenizer trained on the data: byte-level BPE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenizerSettings {
    /// Tokens in all, special ones included.
    pub vocab_size: u64,
    /// Pairs seen less often are not merged.
    pub min_frequency: u64,
    /// Special tokens, which take the first ids.
    pub special_tokens: Vec<String>,
    /// The one that begins a text, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos_token: Option<String>,
    /// The one that ends a text and a turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eos_token: Option<String>,
    /// The one that fills, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_token: Option<String>,
}

impl Default for TokenizerSettings {
    fn default() -> Self {
        Self {
            vocab_size: 4_096,
            min_frequency: 2,
            special_tokens: vec!["<|endoftext|>".into(), "<|im_start|>".into(), "<|im_end|>".into()],
            bos_token: None,
            eos_token: Some("<|im_end|>".into()),
            pad_token: Some("<|endoftext|>".into()),
        }
    }
}

impl Default for TrainSettings {
    fn default() -> Self {
        Self {
            method: TrainMethod::default(),
            lora: Map::new(),
            base_storage: BaseStorage::default(),
            compute: Compute::default(),
            scratch: None,
            sequence_len: None,
            excess_length: ExcessLength::default(),
            sample_packing: false,
            group_by_length: false,
            shuffle: true,
            train_on_inputs: false,
            train_on_eos: TrainOnEos::default(),
            roles_to_train: vec!["assistant".into()],
            val_set_size: 0.1,
            skip_bad: false,
            drop_duplicates: false,
            compat: None,
            num_epochs: 3.0,
            max_steps: None,
            micro_batch_size: 4,
            gradient_accumulation_steps: 1,
            eval_batch_size: None,
            learning_rate: None,
            lr_scheduler: "linear".into(),
            lr_scheduler_kwargs: Map::new(),
            warmup_steps: None,
            warmup_ratio: 0.03,
            optimizer: "adamw".into(),
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            seed: 42,
            gradient_checkpointing: false,
            threads: None,
            logging_steps: 10,
            logging_first_step: false,
            eval_strategy: When::Epoch,
            eval_steps: None,
            save_strategy: When::Epoch,
            save_steps: 500.0,
            save_total_limit: None,
            load_best_model_at_end: false,
            early_stopping_patience: None,
            early_stopping_threshold: 0.0,
            report_to: Vec::new(),
            run_name: None,
            wandb_project: None,
            wandb_entity: None,
            wandb_run_id: None,
            save_dtype: SaveDtype::default(),
        }
    }
}
