//! The verb `train` and its own verbs.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// `train`: starts a run, or one of the verbs about runs.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Train {
    #[command(subcommand)]
    pub(crate) verb: Option<TrainVerb>,
    #[command(flatten)]
    pub(crate) start: TrainStart,
}

/// The verbs of `train`.
#[derive(Debug, Subcommand)]
pub(crate) enum TrainVerb {
    /// List the runs, the newest first
    #[command(
        visible_alias = "ls",
        after_help = "Examples:
  witness train list
  witness train list --json"
    )]
    List(TrainList),
    /// Print what a run reported
    #[command(after_help = "Examples:
  witness train logs witness-expert           the newest run that makes this model
  witness train logs 20261126-7f3a -f         and what it reports from now on
  witness train logs witness-expert --json    every event, one a line")]
    Logs(TrainLogs),
    /// Ask a run to write a checkpoint and end
    #[command(after_help = "Example:
  witness train stop witness-expert")]
    Stop(TrainOne),
    /// Let a run go on from its newest checkpoint
    #[command(after_help = "Examples:
  witness train resume witness-expert
  witness train resume witness-expert --detach")]
    Resume(TrainResume),
    /// Remove runs that have ended, with their checkpoints and logs; models that they made stay
    #[command(after_help = "Example:
  witness train rm 20261126-7f3a")]
    Rm(TrainRm),
}

/// Flags that start a run.
#[derive(Debug, Default, Args)]
pub(crate) struct TrainStart {
    /// A recipe: our YAML, an Axolotl YAML, or keys of Transformers and PEFT
    #[arg(value_name = "RECIPE")]
    pub(crate) file: Option<PathBuf>,
    /// The same, by name
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub(crate) recipe: Option<PathBuf>,
    /// Model to start from: a name, a folder or a file
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) base: Option<String>,
    /// Adapter of that model to go on from, in place of a fresh one
    #[arg(long, value_name = "NAME")]
    pub(crate) adapter: Option<String>,
    /// Files, folders or patterns of rows to learn from (repeatable)
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) data: Vec<String>,
    /// Rows to measure on; without them a share of the data is set apart (repeatable)
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) validation: Vec<String>,
    /// Name of the model to make
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) settings: TrainSettingFlags,
    #[command(flatten)]
    pub(crate) deed: TrainDeed,
}

/// Flags that set keys of the recipe. They are stronger than what a file says.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Settings")]
pub(crate) struct TrainSettingFlags {
    /// Set any key of a recipe, in our spelling or in that of Axolotl, Transformers or PEFT (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Train adapters beside a frozen base (the default)
    #[arg(long, group = "method")]
    pub(crate) lora: bool,
    /// Train adapters beside a base in 4 bits
    #[arg(long, group = "method")]
    pub(crate) qlora: bool,
    /// Train every weight
    #[arg(long, group = "method")]
    pub(crate) full: bool,
    /// Passes over the data [default: 3]
    #[arg(long, value_name = "N")]
    pub(crate) epochs: Option<String>,
    /// Steps, in place of epochs
    #[arg(long, value_name = "N")]
    pub(crate) max_steps: Option<String>,
    /// Highest learning rate [default: 2e-4 for adapters, 2e-5 for every weight]
    #[arg(long, value_name = "RATE")]
    pub(crate) lr: Option<String>,
    /// Rank of the adapters [default: 16]
    #[arg(long, value_name = "R")]
    pub(crate) rank: Option<String>,
    /// Scale of the adapters times their rank [default: twice the rank]
    #[arg(long, value_name = "ALPHA")]
    pub(crate) alpha: Option<String>,
    /// Modules that get an adapter: names, or all-linear [default: all-linear]
    #[arg(long, value_name = "MODULES")]
    pub(crate) targets: Option<String>,
    /// Rows of a micro-batch [default: 4]
    #[arg(long, value_name = "ROWS")]
    pub(crate) batch: Option<String>,
    /// Micro-batches of a step [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) accumulate: Option<String>,
    /// Longest row in tokens [default: what the model was made for, at most 2048]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) seq_len: Option<String>,
    /// Seed of everything drawn [default: 42]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<String>,
    /// Compute products in bf16
    #[arg(long, group = "compute")]
    pub(crate) bf16: bool,
    /// Compute products in f32
    #[arg(long, group = "compute")]
    pub(crate) f32: bool,
    /// Do as another program does, quirks included: `guide` = the guide's Transformers script
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) compat: Option<String>,
    /// Leave out rows that cannot be used, and count them
    #[arg(long)]
    pub(crate) skip_bad: bool,
    /// Write for trackers: tensorboard, wandb
    #[arg(long, value_name = "TRACKERS")]
    pub(crate) report_to: Option<String>,
    /// Folder that the adapter's files are written to at the end too
    #[arg(long, value_name = "DIR")]
    pub(crate) output_dir: Option<String>,
    /// Whose keys the recipe has, where they do not tell
    #[arg(long, value_enum, value_name = "PROGRAM")]
    pub(crate) dialect: Option<DialectName>,
}

/// What is done with the recipe.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "What to do")]
pub(crate) struct TrainDeed {
    /// Print what would be done, what became of every key, and the plan; start nothing
    #[arg(long)]
    pub(crate) show_recipe: bool,
    /// Print the steps, the memory and (by a short trial) the time it would take; start nothing
    #[arg(long)]
    pub(crate) estimate: bool,
    /// With --show-recipe or --estimate: print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Start the run and leave it to itself
    #[arg(long)]
    pub(crate) detach: bool,
    /// Start although the memory will not do by the estimate, and write over files in --output-dir
    #[arg(long)]
    pub(crate) force: bool,
}

/// Programs whose recipes are understood.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DialectName {
    /// This one
    Witness,
    /// Axolotl
    Axolotl,
    /// Transformers and PEFT
    Transformers,
}

/// Flags of `train list`.
#[derive(Debug, Args)]
pub(crate) struct TrainList {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `train logs`.
#[derive(Debug, Args)]
pub(crate) struct TrainLogs {
    /// Id of the run, the beginning of one, or the name of a model: its newest run
    pub(crate) id: String,
    /// Go on until the run ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Begin with this line
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) from: u64,
    /// Print every event as JSON, one a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// A run by name.
#[derive(Debug, Args)]
pub(crate) struct TrainOne {
    /// Id of the run, the beginning of one, or the name of a model: its newest run
    pub(crate) id: String,
}

/// Flags of `train resume`.
#[derive(Debug, Args)]
pub(crate) struct TrainResume {
    /// Id of the run, the beginning of one, or the name of a model: its newest run
    pub(crate) id: String,
    /// Leave it to itself
    #[arg(long)]
    pub(crate) detach: bool,
}

/// Flags of `train rm`.
#[derive(Debug, Args)]
pub(crate) struct TrainRm {
    /// Ids of the runs
    #[arg(required = true)]
    pub(crate) ids: Vec<String>,
}
