//! Modelfiles: the recipe of a model, from text to a plan and back.
//!
//! Pure: no I/O, no environment. Whether `FROM llama3.2` is a file or a name of the registry is for the caller to find out; [`resolve_path`]
//! says where a path leads when the caller names the two folders it can start from.
//!
//! # Grammar
//! Ollama's, line for line, so that its Modelfiles mean the same here:
//! - An instruction begins a line: a word in any case, blanks, a value. Lines that begin with `#` and empty lines are skipped. A `#` within
//!   a value is part of it.
//! - A value is the rest of its line without outer blanks. `"..."` and `"""..."""` may span lines; they end at the first line that ends with
//!   the same quotes. Nothing is escaped inside, so a body may hold quotes, code fences, JSON and `#`.
//! - `FROM`, `ADAPTER`, `PARAMETER name value`, `TEMPLATE`, `SYSTEM`, `MESSAGE role text`, `LICENSE`, `REQUIRES`.
//!
//! Ours beyond it:
//! - `ADAPTER ./dir AS name` names an adapter, so that several can stand on one base. Without `AS` it is Ollama's line. Quote a path that ends
//!   in ` AS word` itself.
//! - `DRAFT` names a small model that guesses tokens ahead of the base, as `FROM` names one; one a file, and not beside `TRAIN`. No `ADAPTER` goes on it.
//! - `SYSTEM <<<END`, lines, `END` on a line of its own: for a value with a line that ends in `"""`, which quotes cannot hold.
//! - `DATASET path.. [AS validation]`, `TRAIN lora|qlora|full` and `HYPER key value` train the model before it is stored. A path with
//!   blanks stands in `"..."`. What keys there are is not known here: see the crate `witness-recipe`.
//! - `QUANTIZE type` brings the base's weights to a storage by llama.cpp's name for it, such as `q4_K_M`, when the model is made; one a file,
//!   and not beside `TRAIN`. Which names there are is not known here.
//! - The words in [`ReservedWord`] are kept for steps to come: they parse, and [`Modelfile::plan`] says "not yet".
//!
//! **Invariant:** `parse(print(x)) == x` for every Modelfile that was parsed or made from a plan.
//! **Invariant:** any text is answered in time linear in its length, with a modelfile or an error that names line and column.
//!
//! ```
//! let file = witness_modelfile::parse("Modelfile", "FROM ./base\nADAPTER ./lora AS expert\nPARAMETER temperature 0.2\n")?;
//! let plan = file.plan()?;
//! assert_eq!(plan.adapters[0].name.as_deref(), Some("expert"));
//! assert_eq!(witness_modelfile::parse("again", &file.to_string())?, file);
//! # Ok::<(), witness_modelfile::ModelfileError>(())
//! ```

mod ast;
mod decode;
mod draft;
mod error;
pub mod parameters;
mod parse;
mod paths;
mod plan;
mod print;
mod quantize;
mod train;

pub use ast::{Command, Instruction, Modelfile, Position, ReservedWord, Role, TrainMethod};
pub use decode::decode;
pub use error::{ModelfileError, Problem};
pub use parameters::ParameterValue;
pub use parse::{parse, parse_bytes};
pub use paths::{PathError, resolve_path};
pub use plan::{AdapterSource, Dataset, Hyper, Plan, Source, Training};

/// Longest Modelfile in bytes: a thousand times the longest seen, whose licence is inside.
pub const FILE_BYTES_MAX: usize = 8 << 20;

/// Most instructions of one Modelfile. Recorded conversations (`MESSAGE`) are what makes one long.
pub const COMMANDS_MAX: usize = 20_000;

/// Longest name of an adapter in bytes: it becomes part of file and URL names.
pub const ADAPTER_NAME_BYTES_MAX: usize = 64;

/// Most paths of one `DATASET`. Folders and patterns name more.
pub const DATASET_PATHS_MAX: usize = 10_000;
