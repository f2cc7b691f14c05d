//! The verbs that make another form of a model: `quantize`, `merge`, `export`; `import`, which takes one in. And the names of types, for completions.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{NonEmptyStringValueParser, PossibleValue, TypedValueParser};
use clap::{Arg, Args, Command, Error, ValueEnum, ValueHint};

use super::measure::{Chunks, Cut, chunks};

/// Types that shells complete, as llama.cpp spells them, and bitsandbytes' NF4. Not a list of what is allowed: the plugin that does the work judges, and knows near misses.
const TYPES: [&str; 31] = [
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q3_K_L",
    "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS", "NF4", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M",
    "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "TQ1_0", "TQ2_0",
];

/// Takes any name of a type and completes the usual ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TypeName;

impl TypedValueParser for TypeName {
    type Value = String;

    fn parse_ref(&self, command: &Command, argument: Option<&Arg>, value: &OsStr) -> Result<String, Error> {
        NonEmptyStringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(TYPES.into_iter().map(PossibleValue::new)))
    }
}

/// Flags of `quantize`.
#[derive(Debug, Args)]
pub(crate) struct Quantize {
    /// Name of the model
    pub(crate) name: String,
    /// Storage that its weights are brought to, in any case: `q4_K_M`
    #[arg(value_name = "TYPE", value_parser = TypeName, required_unless_present = "suggest")]
    pub(crate) to: Option<String>,
    /// Name of the model to make [default: NAME with the type as its tag, `llama:q4_k_m`]
    #[arg(long = "as", value_name = "NEW")]
    pub(crate) target: Option<String>,
    /// Importance matrix that says which weights count
    #[arg(long, value_name = "FILE")]
    pub(crate) imatrix: Option<PathBuf>,
    /// Type of the tensors whose GGUF names hold this regular expression; the first that fits counts (repeatable)
    #[arg(long = "tensor-type", value_name = "PATTERN=TYPE", value_parser = tensor_type)]
    pub(crate) tensor_types: Vec<(String, String)>,
    /// Type of the output matrix
    #[arg(long, value_name = "TYPE", value_parser = TypeName, hide_possible_values = true)]
    pub(crate) output_tensor_type: Option<String>,
    /// Type of the token embedding
    #[arg(long, value_name = "TYPE", value_parser = TypeName, hide_possible_values = true)]
    pub(crate) token_embedding_type: Option<String>,
    /// Give all matrices the one type, in place of the mixture that its name stands for
    #[arg(long)]
    pub(crate) pure: bool,
    /// Quantize weights that are quantized already, with the loss of both
    #[arg(long)]
    pub(crate) allow_requantize: bool,
    /// Show what every tensor would become, and make nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print JSON: what was made, or with --dry-run or --suggest what they show
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) suggest: Suggest,
}

/// Flags of `quantize --suggest`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which type")]
pub(crate) struct Suggest {
    /// Make the model in each type that fits the memory, hold it against the model on a text, and throw it away
    #[arg(long, requires = "text", conflicts_with_all = ["to", "target", "dry_run"])]
    pub(crate) suggest: bool,
    /// Text to measure on, UTF-8
    #[arg(long, value_name = "FILE", requires = "suggest")]
    pub(crate) text: Option<PathBuf>,
    /// Memory that the model may take when it is served: `6GB` [default: the daemon's limit]
    #[arg(long, value_name = "SIZE", requires = "suggest", value_parser = memory)]
    pub(crate) memory: Option<u64>,
    /// Types to try [default: nine usual ones]
    #[arg(long, value_name = "TYPE,..", value_delimiter = ',', requires = "suggest", value_parser = TypeName, hide_possible_values = true)]
    pub(crate) types: Vec<String>,
    /// Pieces of the text at most
    #[arg(long, value_name = "N|all", value_parser = chunks, default_value = "32")]
    pub(crate) chunks: Chunks,
    #[command(flatten)]
    pub(crate) cut: Cut,
}

/// Reads a size. A value parser wants an error that owns its text.
fn memory(text: &str) -> Result<u64, String> {
    witness_settings::quantity::parse_size(text)
}

/// Reads `PATTERN=TYPE`. The last `=` counts: a pattern may hold one.
fn tensor_type(text: &str) -> Result<(String, String), String> {
    match text.rsplit_once('=') {
        Some((pattern, name)) if !pattern.is_empty() && !name.is_empty() => Ok((pattern.to_owned(), name.to_owned())),
        _ => Err("write a pattern and a type: `attn_v=q8_0`".to_owned()),
    }
}

/// Flags of `merge`.
#[derive(Debug, Args)]
pub(crate) struct Merge {
    /// Name of the model
    pub(crate) name: String,
    /// Adapter to merge [default: the one that answers]
    #[arg(long, value_name = "NAME")]
    pub(crate) adapter: Option<String>,
    /// Merge the adapter of this checkpoint
    #[arg(long, value_name = "STEP", conflicts_with = "adapter")]
    pub(crate) checkpoint: Option<u64>,
    /// Name of the model to make [default: `NAME-merged`]
    #[arg(long = "as", value_name = "NEW")]
    pub(crate) target: Option<String>,
    /// Bring the merged weights to this storage: `q4_K_M`
    #[arg(long, value_name = "TYPE", value_parser = TypeName, hide_possible_values = true)]
    pub(crate) quantize: Option<String>,
}

/// Flags of `export`.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Name of the model
    pub(crate) name: String,
    /// Folder to write into: new or empty; with `--to bundle` the file, with `--to ollama` also Ollama's `models`
    pub(crate) target: PathBuf,
    /// Form of the files
    #[arg(long, value_enum, value_name = "FORM", default_value_t = ExportForm::Peft)]
    pub(crate) to: ExportForm,
    /// Adapter to write, or to merge [default: the one that answers; in a bundle all]; `base` = none
    #[arg(long, value_name = "NAME")]
    pub(crate) adapter: Option<String>,
    /// The adapter of this checkpoint
    #[arg(long, value_name = "STEP", conflicts_with = "adapter")]
    pub(crate) checkpoint: Option<u64>,
    /// Merge the adapter into the model; without it `safetensors` and `gguf` hold the base alone
    #[arg(long)]
    pub(crate) merge: bool,
    /// Bring the weights to this storage: `q4_K_M` (with `--to gguf`), `nf4` (with `--to safetensors`)
    #[arg(long, value_name = "TYPE", value_parser = TypeName, hide_possible_values = true)]
    pub(crate) quantize: Option<String>,
    /// With `--to bundle`: name the base and leave it out, for a machine that has it
    #[arg(long)]
    pub(crate) without_base: bool,
    /// Write over files that are there; with `--to ollama`, replace the model of that name
    #[arg(long)]
    pub(crate) force: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `import`.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// File that `witness export --to bundle` wrote
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Name of the model [default: the name that it had where it was exported]
    pub(crate) name: Option<String>,
    /// Replace a model of that name
    #[arg(long)]
    pub(crate) force: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Forms that files are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportForm {
    /// The adapter as PEFT's adapter_config.json and adapter_model.safetensors
    Peft,
    /// The model as a Hugging Face folder
    Safetensors,
    /// The model as one GGUF file
    Gguf,
    /// The adapter as a GGUF file, for llama.cpp
    GgufAdapter,
    /// All that makes the model in one file, for `witness import` on another machine
    Bundle,
    /// All that Ollama takes, as a store that it opens
    Ollama,
}

impl ExportForm {
    /// Returns its name on the wire.
    pub(crate) fn as_wire(self) -> &'static str {
        match self {
            ExportForm::Peft => "peft",
            ExportForm::Safetensors => "safetensors",
            ExportForm::Gguf => "gguf",
            ExportForm::GgufAdapter => "gguf_adapter",
            ExportForm::Bundle => "bundle",
            ExportForm::Ollama => "ollama",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_may_hold_an_equals_sign() {
        let pair = |pattern: &str, name: &str| Ok((pattern.to_owned(), name.to_owned()));
        assert_eq!(tensor_type("attn_v=q8_0"), pair("attn_v", "q8_0"));
        assert_eq!(tensor_type(r"blk\.(0|1)=.*=f16"), pair(r"blk\.(0|1)=.*", "f16"));
        for text in ["attn_v", "=q8_0", "attn_v=", "="] {
            assert!(tensor_type(text).is_err(), "{text}");
        }
    }
}
