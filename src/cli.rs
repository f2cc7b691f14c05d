//! The command line as data: every verb, flag and example. Parsing only; what a verb does is in `commands/`.

mod data;
mod measure;
mod train;
mod transform;

use std::path::PathBuf;

pub(crate) use data::{
    ChecksName, Data, DataMerge, DataPreview, DataSplit, DataStats, DataValidate, Unwanted, WithModel,
};
pub(crate) use measure::{Bench, Chunks, Compare, Cut, ImatrixArguments, ImatrixFormat, OnText, Perplexity};
pub(crate) use train::{
    DialectName, Train, TrainList, TrainLogs, TrainOne, TrainResume, TrainRm, TrainStart, TrainVerb,
};
pub(crate) use transform::{Export, ExportForm, Import, Merge, Quantize, TypeName};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use witness_settings::Overrides;

/// Creates, runs and keeps language models on this machine.
#[derive(Debug, Parser)]
#[command(
    name = "witness",
    version,
    about = "A local model manager for people who make models",
    after_help = "Examples:
  witness create witness-expert -f modelfiles/quickstart/Modelfile   make a model from a recipe
  witness run witness-expert \"How do I attest a Go build?\"          ask it one thing
  witness run witness-expert                                         talk with it
  witness list                                                       what is here

`witness help <COMMAND>` explains a command, `witness help exit-codes` what the program returns.",
    disable_help_subcommand = false,
    arg_required_else_help = true,
    infer_subcommands = false
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every verb takes. Each has an environment variable and a key in the config file, which the flag overrules.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Where things are")]
pub(crate) struct Global {
    /// Directory for everything that witness keeps [env: WITNESS_HOME]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Model store, also one that Ollama wrote [env: WITNESS_MODELS]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) models: Option<PathBuf>,
    /// Address of the daemon [env: WITNESS_HOST] [default: 127.0.0.1:11535]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub(crate) host: Option<String>,
    /// Config file (TOML) [env: WITNESS_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl Global {
    /// Returns the flags as the settings take them.
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            home: self.home.clone(),
            models: self.models.clone(),
            host: self.host.clone(),
            config: self.config.clone(),
            ..Overrides::default()
        }
    }
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon in this terminal
    #[command(after_help = "Examples:
  witness serve
  witness serve --host 127.0.0.1:11434      on Ollama's port, so that editors need no change

Other verbs start the daemon by themselves; `witness stop --daemon` ends it.")]
    Serve(Serve),
    /// Make a model from a Modelfile
    #[command(after_help = "Examples:
  witness create mine                       reads ./Modelfile
  witness create mine -f recipe/Modelfile --link
  witness create mine -q q4_K_M             quantizes the weights on the way
  printf 'FROM ./model.gguf\\n' | witness create mine -f -")]
    Create(Create),
    /// Ask a model, or talk with it
    #[command(after_help = "Examples:
  witness run mine                          talk; /? lists what you can type
  witness run mine \"Explain this\" < notes.txt
  witness run mine --param temperature=0 --param seed=7 \"Write a policy\"
  witness run mine --adapter base \"The same without its adapter\"
  witness run mine --checkpoint 300 \"As it was after 300 steps\"
  witness run mine --estimate               memory it would take; loads nothing

The answer goes to standard output, everything else to standard error.")]
    Run(Run),
    /// List the models that are here
    #[command(
        visible_alias = "ls",
        after_help = "Examples:
  witness list
  witness list qwen                         only names that contain `qwen`
  witness list --json"
    )]
    List(List),
    /// Show what a model is made of
    #[command(after_help = "Examples:
  witness show mine
  witness show mine --modelfile > Modelfile   the recipe that makes it again")]
    Show(Show),
    /// Remove models
    #[command(
        visible_alias = "delete",
        after_help = "Example:
  witness rm mine old:v1

Files that no other model uses are removed with it."
    )]
    Rm(Rm),
    /// Give a model a second name
    #[command(
        visible_alias = "copy",
        after_help = "Example:
  witness cp mine mine:before-tuning        takes no space"
    )]
    Cp(Cp),
    /// List the models that are loaded
    #[command(after_help = "Examples:
  witness ps
  witness ps --json")]
    Ps(Listing),
    /// Unload a model, or stop the daemon
    #[command(after_help = "Examples:
  witness stop mine
  witness stop --daemon")]
    Stop(Stop),
    /// Train a model, or an adapter for one
    #[command(
        subcommand_negates_reqs = true,
        after_help = "Examples:
  witness train --base qwen2.5:0.5b --data train.jsonl --name witness-expert
  witness train axolotl_config.yml --base llama3.1:8b --name witness-expert
  witness train recipe.yml --set lora.r=32 --epochs 1
  witness train recipe.yml --show-recipe    what would be done, and what became of every key
  witness train recipe.yml --estimate       steps, memory and time

Keys of a recipe: ours, and those of Axolotl, Transformers' TrainingArguments and PEFT's LoraConfig. Ctrl-C ends a run with a
checkpoint; `witness train resume` goes on. A recipe that is called like a verb is given with --recipe."
    )]
    Train(Box<Train>),
    /// Make a smaller model of a model
    #[command(after_help = "Examples:
  witness quantize llama q4_K_M                       makes `llama:q4_k_m`
  witness quantize llama q4_K_M --as small            makes `small`
  witness quantize llama q4_K_M --dry-run             what every tensor would become; makes nothing
  witness quantize llama q3_K_M --imatrix llama.imatrix.gguf
  witness quantize llama q4_K_M --tensor-type attn_v=q8_0 --output-tensor-type q6_K
  witness quantize llama --suggest --text held-out.txt --memory 6GB
                                                      tries the types that fit, the nearest first; makes nothing
  witness quantize llama nf4                          a Hugging Face directory, as bitsandbytes quantizes one

Its adapters, texts and parameters stay. Ctrl-C leaves the store as it was.")]
    Quantize(Quantize),
    /// Say how well a model foretells a text
    #[command(after_help = "Examples:
  witness perplexity llama --text held-out.txt
  witness perplexity witness-expert --text held-out.txt --adapter base
  witness perplexity llama --text held-out.txt --chunks 20 --json

Lower is better; the number after ± is the standard error. Measured as llama.cpp's `llama-perplexity` does: numbers of one text, one
context length and one vocabulary can be laid side by side.")]
    Perplexity(Perplexity),
    /// Say how far forms of a model are from it
    #[command(after_help = "Examples:
  witness compare llama llama:q4_k_m --text held-out.txt
  witness compare llama llama:q8_0 llama:q4_k_m llama:q2_k --text held-out.txt --chunks all
  witness compare llama llama:q4_k_m --text held-out.txt --json

RATIO is the perplexity over the first model's; KL how much its probabilities differ from the first's, in nats, on average and for the
worst hundredth of tokens; SAME TOP how often both think the same token the likeliest.")]
    Compare(Compare),
    /// Time how fast a model reads and answers
    #[command(after_help = "Examples:
  witness bench llama:q4_k_m
  witness bench llama:q4_k_m -p 512,4096 -d 128,4096 -n 64       short and long prompts, answers behind little and much
  witness bench llama:q4_k_m --chats 1,4,8,16                    clients at once, over HTTP
  witness bench llama:q4_k_m --adapters 8                        a batch with an adapter each, and the same without
  witness bench llama:q4_k_m --seen 0,480,512                    the first token of 512, none, most or all read before
  witness bench llama:q4_k_m --threads 2 --vs ./llama-bench      beside llama.cpp, in turns
  witness bench llama:q4_k_m --chats 1,4 --vs ./llama-bench      and its llama-server, which lies there too
  witness bench llama:q4_k_m --json

OF LIMIT is the share of what this machine could do at most, as the last line says: answers are limited by reading
memory, prompts by multiplying. Chats begin all at once; their tokens a second count everything from then to the last
token, prompts too; of the times between tokens the table has the median, the 99th percentile and the longest, which is percentile
100 in the JSON. Memory is the most that was resident, with mapped files. For `--chats` and `--seen` the model is
loaded anew, and unloaded. Nothing else should run meanwhile.")]
    Bench(Bench),
    /// Weigh the columns of a model's matrices on a text, for a better small model
    #[command(after_help = "Examples:
  witness imatrix llama --text chats.txt              writes `llama.imatrix.gguf`
  witness imatrix llama --text chats.txt -o llama.dat
  witness quantize llama q3_K_M --imatrix llama.imatrix.gguf

Give a text of the kind that the model is for; some ten thousand tokens are enough. llama.cpp's `llama-quantize` reads the file too.")]
    Imatrix(ImatrixArguments),
    /// Make a model whose weights hold an adapter
    #[command(after_help = "Examples:
  witness merge witness-expert                        makes `witness-expert-merged`
  witness merge witness-expert --checkpoint 300 --as early
  witness merge witness-expert --quantize q4_K_M

The adapter that answers is merged unless another is named; the new model has none. Ctrl-C leaves the store as it was.")]
    Merge(Merge),
    /// Write a model or an adapter out: for other programs, for Ollama, for another machine
    #[command(after_help = "Examples:
  witness export witness-expert ./adapter             the adapter, as PEFT loads it
  witness export witness-expert ./adapter --checkpoint 300
  witness export witness-expert ./adapter --to gguf-adapter
  witness export witness-expert ./model --to safetensors --merge
  witness export witness-expert ./model --to gguf --merge --quantize q4_K_M
  witness export witness-expert /mnt/usb/expert.witness.tar --to bundle
  witness export witness-expert expert.witness.tar --to bundle --without-base
  witness export witness-expert ~/.ollama/models --to ollama --merge

`safetensors` and `gguf` hold the base alone unless --merge is given. A bundle is read by `witness import`. The store stays as it is.")]
    Export(Export),
    /// Make a model of a bundle that `witness export` wrote
    #[command(after_help = "Examples:
  witness import /mnt/usb/expert.witness.tar          under the name that it had
  witness import expert.witness.tar expert:new
  witness import expert.witness.tar --force           replaces a model of that name

Every byte is checked before the model has a name. A bundle without a base needs that base here. Ctrl-C leaves no model behind.")]
    Import(Import),
    /// Check and prepare training data
    #[command(subcommand)]
    Data(Data),
    /// See and check the plugins that do the work
    #[command(subcommand)]
    Plugin(Plugin),
    /// Check every stored byte
    #[command(after_help = "Examples:
  witness fsck
  witness fsck --repair                     sets damaged files aside; never deletes a named model silently")]
    Fsck(Fsck),
    /// Look for what could be in the way on this machine
    #[command(after_help = "Examples:
  witness doctor
  witness doctor --json")]
    Doctor(Listing),
    /// Print the versions of this program and of the daemon
    #[command(after_help = "Example:
  witness version --json")]
    Version(Listing),
    /// Print completions for a shell
    #[command(after_help = "Examples:
  witness completions bash > ~/.local/share/bash-completion/completions/witness
  witness completions zsh  > \"${fpath[1]}/_witness\"
  witness completions fish > ~/.config/fish/completions/witness.fish")]
    Completions(Completions),
    /// Print what each exit code means
    #[command(name = "exit-codes", long_about = crate::commands::exit_codes::text())]
    ExitCodes,
    /// Run one plugin on behalf of the daemon (started by it, never by hand)
    #[command(hide = true)]
    Worker(Worker),
}

/// Flags of `serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Leave the terminal's session (set by verbs that start the daemon).
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
}

/// Flags of `create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Name of the model to make
    pub(crate) name: String,
    /// The recipe; `-` reads it from standard input
    #[arg(short, long, value_name = "MODELFILE", default_value = "Modelfile")]
    pub(crate) file: PathBuf,
    /// Bring the weights to this storage: `q4_K_M`; in place of the recipe's QUANTIZE
    #[arg(short, long, value_name = "TYPE", value_parser = TypeName, hide_possible_values = true)]
    pub(crate) quantize: Option<String>,
    /// Link files into the store instead of copying them, where the file system allows it
    #[arg(long)]
    pub(crate) link: bool,
    /// Skip the run that proves that each adapter changes the answer
    #[arg(long)]
    pub(crate) no_check: bool,
}

/// Flags of `run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Name of the model
    pub(crate) name: String,
    /// What to ask; nothing = talk. Piped input is appended to it
    pub(crate) prompt: Vec<String>,
    /// Adapter to answer with; `base` = none [default: the model's first]
    #[arg(long, value_name = "NAME")]
    pub(crate) adapter: Option<String>,
    /// Answer as after so many steps of training
    #[arg(long, value_name = "STEP", conflicts_with = "adapter")]
    pub(crate) checkpoint: Option<u64>,
    /// System message in place of the model's own
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Form of the answer: `json`, or a JSON schema
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Set a parameter of the model for this run (repeatable)
    #[arg(short, long = "param", value_name = "KEY=VALUE")]
    pub(crate) params: Vec<String>,
    /// How long the model stays loaded afterwards: `5m`, `0`, `-1` = for ever
    #[arg(long, visible_alias = "keep-alive", value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) keepalive: Option<String>,
    /// Print durations and tokens per second after each answer
    #[arg(long)]
    pub(crate) verbose: bool,
    /// Do not wrap lines at the terminal's width
    #[arg(long)]
    pub(crate) nowordwrap: bool,
    /// Continue the prompt as it stands, without a chat template
    #[arg(long)]
    pub(crate) raw: bool,
    /// Drop the oldest tokens of a prompt that is longer than the context, instead of refusing it
    #[arg(long)]
    pub(crate) truncate: bool,
    /// Print the memory that the model takes, and load nothing
    #[arg(long)]
    pub(crate) estimate: bool,
    /// With --estimate: print JSON
    #[arg(long, requires = "estimate")]
    pub(crate) json: bool,
}

/// Flags of `list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only models whose name contains this
    pub(crate) filter: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Name of the model
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) part: ShowPart,
    /// Print JSON
    #[arg(long, conflicts_with = "part")]
    pub(crate) json: bool,
    /// List the metadata too
    #[arg(short, long, conflicts_with = "part")]
    pub(crate) verbose: bool,
}

/// One part of a model, printed alone.
#[derive(Debug, Args)]
#[group(id = "part", multiple = false)]
pub(crate) struct ShowPart {
    /// Print a Modelfile that makes this model again
    #[arg(long)]
    pub(crate) modelfile: bool,
    /// Print its parameters
    #[arg(long)]
    pub(crate) parameters: bool,
    /// Print its chat template
    #[arg(long)]
    pub(crate) template: bool,
    /// Print its system message
    #[arg(long)]
    pub(crate) system: bool,
    /// Print its licences
    #[arg(long)]
    pub(crate) license: bool,
}

/// Flags of `rm`.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// Names of the models
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}

/// Flags of `cp`.
#[derive(Debug, Args)]
pub(crate) struct Cp {
    /// Name that is there
    pub(crate) source: String,
    /// Name to give
    pub(crate) target: String,
}

/// Flags of a verb that only lists.
#[derive(Debug, Args)]
pub(crate) struct Listing {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `stop`.
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Name of the model to unload
    #[arg(required_unless_present = "daemon", conflicts_with = "daemon")]
    pub(crate) name: Option<String>,
    /// Stop the daemon
    #[arg(long)]
    pub(crate) daemon: bool,
}

/// The verbs of `plugin`.
#[derive(Debug, Subcommand)]
pub(crate) enum Plugin {
    /// List the plugins found, and why others were refused
    #[command(
        visible_alias = "ls",
        after_help = "Example:
  witness plugin list --json"
    )]
    List(Listing),
    /// Show one plugin
    #[command(after_help = "Example:
  witness plugin show serve")]
    Show(PluginShow),
    /// Check a plugin file: owner, ABI, descriptor. It is loaded in a worker process of its own
    #[command(after_help = "Example:
  witness plugin check ./target/debug/libmine.so")]
    Check(PluginCheck),
}

/// Flags of `plugin show`.
#[derive(Debug, Args)]
pub(crate) struct PluginShow {
    /// Name or path of the plugin
    pub(crate) name: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `plugin check`.
#[derive(Debug, Args)]
pub(crate) struct PluginCheck {
    /// The file
    pub(crate) path: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `fsck`.
#[derive(Debug, Args)]
pub(crate) struct Fsck {
    /// Set damaged files aside and remove what an interrupted write left
    #[arg(long)]
    pub(crate) repair: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `completions`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: ShellName,
}

/// A shell that completions can be printed for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ShellName {
    /// GNU bash
    Bash,
    /// Elvish
    Elvish,
    /// fish
    Fish,
    /// PowerShell
    Powershell,
    /// zsh
    Zsh,
}

impl From<ShellName> for Shell {
    fn from(name: ShellName) -> Self {
        match name {
            ShellName::Bash => Shell::Bash,
            ShellName::Elvish => Shell::Elvish,
            ShellName::Fish => Shell::Fish,
            ShellName::Powershell => Shell::PowerShell,
            ShellName::Zsh => Shell::Zsh,
        }
    }
}

/// Arguments of `worker`, passed on as they are.
#[derive(Debug, Args)]
pub(crate) struct Worker {
    /// What the plugin host passes.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<std::ffi::OsString>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    // Every verb that a person types explains itself by an example.
    #[test]
    fn every_verb_has_an_example() {
        fn check(command: &clap::Command) {
            for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
                if verb.has_subcommands() {
                    check(verb);
                } else if verb.get_name() != "exit-codes" {
                    let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
                    assert!(help.contains("Example"), "{} has no example", verb.get_name());
                }
            }
        }
        check(&Cli::command());
    }

    #[test]
    fn a_mistyped_verb_gets_the_right_one() {
        let error = Cli::try_parse_from(["witness", "crate", "x"]).unwrap_err().to_string();
        assert!(error.contains("create"), "{error}");
    }
}
