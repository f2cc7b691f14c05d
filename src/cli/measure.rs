//! The verbs that say how good a model is: `perplexity`, `compare`, `imatrix`, `bench`; and the flags that `quantize --suggest` shares with them.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum, value_parser};

/// What is measured on.
#[derive(Debug, Args)]
pub(crate) struct OnText {
    /// Text to measure on, UTF-8: of the kind that the model is for, and not what it was trained on
    #[arg(long, value_name = "FILE")]
    pub(crate) text: PathBuf,
    #[command(flatten)]
    pub(crate) cut: Cut,
}

/// How the text is cut.
#[derive(Debug, Args)]
pub(crate) struct Cut {
    /// Tokens of a piece; each is run by itself, and its second half is scored [default: 512]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) context: Option<u64>,
    /// Compute threads [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<u32>,
}

/// Pieces at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunks(pub(crate) Option<u64>);

/// Reads a number or `all`.
pub(crate) fn chunks(text: &str) -> Result<Chunks, String> {
    match text {
        "all" => Ok(Chunks(None)),
        number => match number.parse() {
            Ok(0) | Err(_) => Err("write a number from 1, or `all`".to_owned()),
            Ok(number) => Ok(Chunks(Some(number))),
        },
    }
}

/// Flags of `perplexity`.
#[derive(Debug, Args)]
pub(crate) struct Perplexity {
    /// Name of the model
    pub(crate) name: String,
    /// Adapter to apply, `base` for none [default: the one that answers]
    #[arg(long, value_name = "NAME")]
    pub(crate) adapter: Option<String>,
    #[command(flatten)]
    pub(crate) on: OnText,
    /// Pieces of the text at most
    #[arg(long, value_name = "N|all", value_parser = chunks, default_value = "all")]
    pub(crate) chunks: Chunks,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `compare`.
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// Name of the model that the others are held against
    pub(crate) reference: String,
    /// Names of the others: forms of the same model, with the same vocabulary
    #[arg(required = true, value_name = "NAME")]
    pub(crate) others: Vec<String>,
    #[command(flatten)]
    pub(crate) on: OnText,
    /// Pieces of the text at most
    #[arg(long, value_name = "N|all", value_parser = chunks, default_value = "32")]
    pub(crate) chunks: Chunks,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A number above zero.
fn count() -> RangedU64ValueParser {
    value_parser!(u64).range(1..)
}

/// As many sequences as a model serves at once.
fn places() -> RangedU64ValueParser {
    value_parser!(u64).range(1..=64)
}

/// Flags of `bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Name of the model
    pub(crate) name: String,
    /// Adapter to apply, `base` for none [default: the one that answers]
    #[arg(long, value_name = "NAME")]
    pub(crate) adapter: Option<String>,
    /// Tokens of the prompts that are read
    #[arg(short, long, value_name = "N,..", value_delimiter = ',', default_value = "512", value_parser = count())]
    pub(crate) prompt: Vec<u64>,
    /// Tokens of the answers
    #[arg(short = 'n', long, value_name = "N", default_value = "64", value_parser = count())]
    pub(crate) generate: u64,
    /// Tokens of context that the answers stand behind
    #[arg(short, long, value_name = "N,..", value_delimiter = ',', default_value = "128", value_parser = count())]
    pub(crate) depth: Vec<u64>,
    /// Sequences that the engine answers at once
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1", value_parser = places())]
    pub(crate) parallel: Vec<u64>,
    /// Sequences that the engine answers at once with an adapter each, random ones of rank 16 on all linear layers in 16 bits, and as many without
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = places())]
    pub(crate) adapters: Vec<u64>,
    /// Clients that chat over HTTP at once, each with a prompt of its own, as long as the first depth
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = places())]
    pub(crate) chats: Vec<u64>,
    /// Time the first token that a client gets of an answer to the first of the prompts, of which so many tokens were read before
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    pub(crate) seen: Vec<u64>,
    /// How often each is timed; medians are shown
    #[arg(short, long, value_name = "N", default_value = "5", value_parser = value_parser!(u64).range(1..=1000))]
    pub(crate) repeats: u64,
    /// Compute threads [default: all]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub(crate) threads: Option<u32>,
    /// llama.cpp's `llama-bench`, to be run on the same file in turns; for `--chats` and `--seen` the `llama-server` beside it
    #[arg(long, value_name = "LLAMA_BENCH")]
    pub(crate) vs: Option<PathBuf>,
    /// How long a run of the peer, or a set of answers, may take
    #[arg(long, value_name = "SECONDS", default_value = "900", value_parser = count())]
    pub(crate) limit: u64,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `imatrix`.
#[derive(Debug, Args)]
pub(crate) struct ImatrixArguments {
    /// Name of the model: unquantized, or as near to that as fits
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) on: OnText,
    /// File to write [default: `NAME.imatrix.gguf`]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Form of the file [default: by its name; GGUF unless it ends in `.dat`]
    #[arg(long, value_enum, value_name = "FORM")]
    pub(crate) form: Option<ImatrixFormat>,
    /// Pieces of the text at most
    #[arg(long, value_name = "N|all", value_parser = chunks, default_value = "all")]
    pub(crate) chunks: Chunks,
    /// Write over a file that is there
    #[arg(long)]
    pub(crate) force: bool,
}

/// Forms of an importance matrix.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ImatrixFormat {
    /// llama.cpp's present form
    Gguf,
    /// Its older form
    Dat,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_a_number_or_all() {
        assert_eq!(chunks("all"), Ok(Chunks(None)));
        assert_eq!(chunks("12"), Ok(Chunks(Some(12))));
        for text in ["0", "-1", "some", ""] {
            assert!(chunks(text).is_err(), "{text}");
        }
    }
}
