//! The verbs of `data`: files of conversations in, files and facts out.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// The verbs of `data`.
#[derive(Debug, Subcommand)]
pub(crate) enum Data {
    /// Check every row, and name each fault with file, line and column
    #[command(after_help = "Examples:
  witness data validate data/
  witness data validate 'data/**/*.jsonl' --checks guide
  witness data validate train.jsonl --against val.jsonl    rows that both hold
  witness data validate data/ --json

Rows may be {\"messages\": ..}, {\"prompt\", \"completion\"}, {\"instruction\", \"input\", \"output\"}, {\"conversations\": ..} (ShareGPT)
or {\"text\": ..}; a .txt or .md file is one row of text. Ends with 2 when a row cannot be used.")]
    Validate(DataValidate),
    /// Put the rows of many files into one
    #[command(after_help = "Examples:
  witness data merge data/attestors/*.jsonl data/policies/*.jsonl --out train.jsonl
  witness data merge data/ -o clean.jsonl --skip-bad --drop-duplicates
  witness data merge sharegpt.jsonl -o - --messages       every shape as `messages`, to standard output")]
    Merge(DataMerge),
    /// Share rows out for training and validation, as the guide's Python does
    #[command(after_help = "Examples:
  witness data split all.jsonl                             9 of 10 rows to train.jsonl, the rest to val.jsonl
  witness data split data/ --train-fraction 0.8 --seed 7 --train a.jsonl --validation b.jsonl

The rows, their order and the bytes are those of random.seed(42); random.shuffle(rows); json.dumps(row).")]
    Split(DataSplit),
    /// Count rows, roles and lengths
    #[command(after_help = "Examples:
  witness data stats data/
  witness data stats train.jsonl --json
  witness data stats data/ --model qwen2.5:0.5b            tokens per row too")]
    Stats(DataStats),
    /// Show rows as a model is taught them
    #[command(after_help = "Examples:
  witness data preview train.jsonl --model qwen2.5:0.5b    the first row
  witness data preview data/ --model mine --row 7 --row 8
  witness data preview train.jsonl --model mine --set train_on_inputs=true

What is learned stands out; without colours its lines begin with `>`, the others with `|`.")]
    Preview(DataPreview),
}

/// Flags of `data validate`.
#[derive(Debug, Args)]
pub(crate) struct DataValidate {
    /// Files, folders or patterns
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// What a row has to pass: `guide` adds the checks of the guide's script
    #[arg(long, value_enum, default_value_t = ChecksName::Training)]
    pub(crate) checks: ChecksName,
    /// Files of the other part of a split: rows that are in both are told (repeatable)
    #[arg(long, value_name = "FILE")]
    pub(crate) against: Vec<PathBuf>,
    /// Succeed although there are bad rows; they are counted
    #[arg(long)]
    pub(crate) skip_bad: bool,
    /// Fail on warnings too
    #[arg(long, conflicts_with = "skip_bad")]
    pub(crate) strict: bool,
    /// Most faults to print; all are counted
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A set of checks.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ChecksName {
    /// What training needs
    Training,
    /// Also: exactly system, user, assistant; closed code blocks; short answers, answers without a command, questions asked before
    Guide,
}

/// What becomes of rows that cannot or need not be used.
#[derive(Debug, Args)]
pub(crate) struct Unwanted {
    /// Leave out rows that cannot be used, and count them
    #[arg(long)]
    pub(crate) skip_bad: bool,
    /// Leave out rows that are exactly an earlier one, and count them
    #[arg(long)]
    pub(crate) drop_duplicates: bool,
}

/// Flags of `data merge`.
#[derive(Debug, Args)]
pub(crate) struct DataMerge {
    /// Files, folders or patterns, in this order
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// The file to write; `-` = standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) unwanted: Unwanted,
    /// Write every row in the `messages` (or `text`) shape
    #[arg(long)]
    pub(crate) messages: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `data split`.
#[derive(Debug, Args)]
pub(crate) struct DataSplit {
    /// Files, folders or patterns, in this order
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// The file to train on
    #[arg(long, value_name = "FILE", default_value = "train.jsonl")]
    pub(crate) train: PathBuf,
    /// The file to validate on
    #[arg(long, value_name = "FILE", default_value = "val.jsonl")]
    pub(crate) validation: PathBuf,
    /// Seed of the shuffle
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Share of the rows that train
    #[arg(long, value_name = "SHARE", default_value_t = 0.9)]
    pub(crate) train_fraction: f64,
    #[command(flatten)]
    pub(crate) unwanted: Unwanted,
    /// Write rows as they stand, not as json.dumps does
    #[arg(long)]
    pub(crate) as_is: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `data stats`.
#[derive(Debug, Args)]
pub(crate) struct DataStats {
    /// Files, folders or patterns
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Model whose tokens are counted
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `data preview`.
#[derive(Debug, Args)]
pub(crate) struct DataPreview {
    /// Files, folders or patterns
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) with: WithModel,
    /// Row to show, from 1 (repeatable)
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) row: Vec<u64>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The model that rows are prepared for, and how.
#[derive(Debug, Args)]
pub(crate) struct WithModel {
    /// Model that is taught
    #[arg(long, value_name = "NAME")]
    pub(crate) model: String,
    /// A recipe whose settings hold
    #[arg(long, value_name = "FILE")]
    pub(crate) recipe: Option<PathBuf>,
    /// Set a key of a recipe (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}
