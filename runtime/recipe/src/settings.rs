//! Every setting of a run: its name, what it may be, what it does. One row for each field of
//! [`witness_plugin_protocol::TrainSettings`]; a test holds the two together.

use serde_json::Value as Json;

use crate::node::Node;
use crate::read::{self, Expected, Reading};

/// What a setting may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    Flag,
    Count {
        min: u64,
    },
    Number {
        min: f64,
        max: f64,
    },
    Text,
    Texts,
    Word(&'static [&'static str]),
    Map,
    /// Its own keys are read one by one.
    Nested,
}

/// One setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// Its name: a field of the settings.
    pub name: &'static str,
    /// Settings that belong together.
    pub group: Group,
    pub(crate) shape: Shape,
    /// What it does, in one line.
    pub help: &'static str,
}

/// What settings are about, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// What is trained.
    Method,
    /// What is learned from the rows.
    Data,
    /// How the weights move.
    Optimization,
    /// When something is measured, kept or told.
    Watching,
}

impl Group {
    /// Returns the heading.
    pub fn title(self) -> &'static str {
        match self {
            Group::Method => "what is trained",
            Group::Data => "data",
            Group::Optimization => "optimization",
            Group::Watching => "evaluation, checkpoints, logs",
        }
    }
}

const fn row(name: &'static str, group: Group, shape: Shape, help: &'static str) -> Setting {
    Setting {
        name,
        group,
        shape,
        help,
    }
}

const COUNT: Shape = Shape::Count { min: 1 };
const FROM_ZERO: Shape = Shape::Number {
    min: 0.0,
    max: f64::MAX,
};
const SHARE: Shape = Shape::Number { min: 0.0, max: 1.0 };
const STEPS: Shape = Shape::Number {
    min: 0.0,
    max: f64::MAX,
};

/// Schedules of the learning rate.
pub(crate) const SCHEDULES: &[&str] = &[
    "linear",
    "cosine",
    "constant",
    "constant_with_warmup",
    "polynomial",
    "inverse_sqrt",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "warmup_stable_decay",
];

/// Optimizers.
pub(crate) const OPTIMIZERS: &[&str] = &["adamw", "adamw_8bit", "lion", "adafactor", "sgd"];

/// Every setting, in the order that people read them.
pub const SETTINGS: [Setting; 55] = {
    use Group::{Data, Method, Optimization, Watching};
    use Shape::{Flag, Map, Nested, Text, Texts, Word};
    [
        row(
            "method",
            Method,
            Word(&["lora", "qlora", "full"]),
            "adapters beside a frozen base, the same over a base in 4 bits, or every weight",
        ),
        row(
            "lora",
            Method,
            Nested,
            "fields of PEFT's LoraConfig: r, lora_alpha, lora_dropout, target_modules, ...",
        ),
        row(
            "base_storage",
            Method,
            Word(&["auto", "as_is", "f32", "bf16", "nf4", "nf4_double"]),
            "how a frozen base is held in memory",
        ),
        row(
            "compute",
            Method,
            Word(&["auto", "f32", "bf16"]),
            "numbers that products are computed in",
        ),
        row(
            "scratch",
            Method,
            Nested,
            "makes a base from nothing: config, tokenizer, chat_template",
        ),
        row("sequence_len", Data, COUNT, "longest row in tokens"),
        row(
            "excess_length",
            Data,
            Word(&["drop", "truncate"]),
            "what becomes of a longer row",
        ),
        row(
            "sample_packing",
            Data,
            Flag,
            "several rows in one sequence, attention inside each",
        ),
        row("group_by_length", Data, Flag, "rows of like length in one batch"),
        row("shuffle", Data, Flag, "rows in a new order every epoch"),
        row("train_on_inputs", Data, Flag, "learn the questions too"),
        row(
            "train_on_eos",
            Data,
            Word(&["turn", "all", "last", "none"]),
            "which ends of turns are learned",
        ),
        row("roles_to_train", Data, Texts, "whose turns are learned"),
        row(
            "val_set_size",
            Data,
            SHARE,
            "share of the rows to measure on, where no validation files are given",
        ),
        row("skip_bad", Data, Flag, "pass over rows that cannot be used"),
        row(
            "drop_duplicates",
            Data,
            Flag,
            "leave out rows that are exactly an earlier one",
        ),
        row(
            "compat",
            Data,
            Word(&["guide"]),
            "do as another program does, quirks included",
        ),
        row("num_epochs", Optimization, FROM_ZERO, "passes over the data"),
        row("max_steps", Optimization, COUNT, "steps, in place of num_epochs"),
        row(
            "micro_batch_size",
            Optimization,
            COUNT,
            "rows (packed: sequences) of a micro-batch",
        ),
        row(
            "gradient_accumulation_steps",
            Optimization,
            COUNT,
            "micro-batches of a step",
        ),
        row("eval_batch_size", Optimization, COUNT, "rows of an evaluation batch"),
        row("learning_rate", Optimization, FROM_ZERO, "highest learning rate"),
        row(
            "lr_scheduler",
            Optimization,
            Word(SCHEDULES),
            "shape of the learning rate",
        ),
        row(
            "lr_scheduler_kwargs",
            Optimization,
            Map,
            "more numbers for the shape: min_lr, min_lr_rate, num_cycles, power, ...",
        ),
        row(
            "warmup_steps",
            Optimization,
            Shape::Count { min: 0 },
            "steps of linear rise; wins over the ratio",
        ),
        row("warmup_ratio", Optimization, SHARE, "the same as a share of all steps"),
        row(
            "optimizer",
            Optimization,
            Word(OPTIMIZERS),
            "adamw, adamw_8bit, lion, adafactor, sgd",
        ),
        row("adam_beta1", Optimization, SHARE, "first beta of AdamW and Lion"),
        row("adam_beta2", Optimization, SHARE, "second beta of AdamW and Lion"),
        row("adam_epsilon", Optimization, FROM_ZERO, "AdamW's epsilon"),
        row(
            "weight_decay",
            Optimization,
            FROM_ZERO,
            "decoupled decay, not of biases and norms",
        ),
        row(
            "max_grad_norm",
            Optimization,
            FROM_ZERO,
            "largest norm of all gradients together; 0 = no clipping",
        ),
        row(
            "seed",
            Optimization,
            Shape::Count { min: 0 },
            "seed of everything drawn: initial weights, dropout, order, split",
        ),
        row(
            "gradient_checkpointing",
            Optimization,
            Flag,
            "compute activations again instead of keeping them",
        ),
        row("threads", Optimization, COUNT, "threads"),
        row("logging_steps", Watching, COUNT, "steps between two log entries"),
        row("logging_first_step", Watching, Flag, "log the first step too"),
        row(
            "eval_strategy",
            Watching,
            Word(&["no", "steps", "epoch"]),
            "when validation rows are measured",
        ),
        row(
            "eval_steps",
            Watching,
            STEPS,
            "steps between two evaluations; below 1: share of all steps",
        ),
        row(
            "save_strategy",
            Watching,
            Word(&["no", "steps", "epoch", "best"]),
            "when checkpoints are written",
        ),
        row(
            "save_steps",
            Watching,
            STEPS,
            "steps between two checkpoints; below 1: share of all steps",
        ),
        row("save_total_limit", Watching, COUNT, "checkpoints kept, beside the best"),
        row(
            "load_best_model_at_end",
            Watching,
            Flag,
            "the product is the best checkpoint, not the last",
        ),
        row(
            "early_stopping_patience",
            Watching,
            COUNT,
            "end after so many evaluations that are not better than the best",
        ),
        row(
            "early_stopping_threshold",
            Watching,
            FROM_ZERO,
            "by how much the loss has to fall to count as better",
        ),
        row("report_to", Watching, Texts, "tensorboard, wandb"),
        row("run_name", Watching, Text, "name of the run for people and trackers"),
        row("wandb_project", Watching, Text, "W&B's project"),
        row("wandb_entity", Watching, Text, "W&B's entity"),
        row("wandb_run_id", Watching, Text, "W&B's run id"),
        row(
            "save_dtype",
            Watching,
            Word(&["F32", "BF16"]),
            "storage of a whole model's weights in what is written",
        ),
        // What a run is about, beside its settings.
        row("name", Method, Text, "name of the model to make"),
        row("base", Method, Text, "name, folder or file of the base model"),
        row(
            "output_dir",
            Watching,
            Text,
            "folder that the adapter's files are copied to at the end",
        ),
    ]
};

/// Rows of [`SETTINGS`] that are no fields of the settings.
pub(crate) const BESIDE: [&str; 3] = ["name", "base", "output_dir"];

/// Returns the setting of a name.
pub(crate) fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

impl Setting {
    /// Reads a value of it.
    pub(crate) fn read(&self, node: &Node) -> Reading<Json> {
        Ok(match self.shape {
            Shape::Flag => Json::from(read::flag(node)?),
            Shape::Count { min } => Json::from(read::count(node, min)?),
            Shape::Number { min, max } => read::json_number(read::number_within(node, min, max)?),
            Shape::Text => Json::from(read::text(node)?),
            Shape::Texts => Json::from(read::texts(node)?),
            Shape::Word(words) => Json::from(read::word(node, words)?),
            Shape::Map => Json::Object(read::map(node)?),
            Shape::Nested => return Err(Expected::new("a map of its own keys")),
        })
    }
}
