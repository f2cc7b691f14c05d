//! Recipes of training runs: text in any of four spellings to [`witness_plugin_protocol::TrainSettings`], with an account of every key.
//!
//! The spellings: flags, steps of a Modelfile, our own YAML, and an Axolotl YAML as it stands; field names of Transformers'
//! TrainingArguments and PEFT's LoraConfig are understood in each. Pure: no file is opened, nothing is looked up.
//!
//! What it must not know: what is in a model or a data file, how long a run will be (see [`unreachable`], which is told), what a plugin
//! can do.
//!
//! Layout, in reading order: `node` (YAML to a tree with places) -> `keys` (the table of names) -> `convert`, `lora`, `data` (values that
//! are written in other ways) -> `draft` (layers, conflicts, the account) -> `dialect` (defaults of each program) -> `recipe` (all of it) ·
//! `script` (a training script of Transformers, read and not run) · `settings` (our own settings) · `read` (values) · `account` · `unreachable` · `error`.
//!
//! **Invariant:** every key of a text is in [`Recipe::account`] or in the error.
//! **Invariant:** any text is answered within limits of size, depth and aliases, and without a panic.
//!
//! ```
//! use witness_recipe::{Layers, Recipe, Text};
//!
//! let text = "base_model: mine\ndatasets: [{path: a.jsonl, type: chat_template}]\nadapter: lora\nlora_r: 8\nlearning_rate: 2e-4\n";
//! let text = Some(Text { name: "recipe.yml", text });
//! let recipe = Recipe::resolve(Layers { text, ..Layers::default() })?;
//! assert_eq!(recipe.settings.lr_scheduler, "cosine"); // Axolotl's default, not ours
//! assert_eq!(recipe.account.len(), 6);
//! # Ok::<(), witness_recipe::RecipeError>(())
//! ```

mod account;
mod convert;
mod data;
mod dialect;
mod draft;
mod error;
mod keys;
mod lora;
mod node;
mod read;
mod recipe;
mod script;
mod settings;
mod unreachable;

pub use account::{Account, Fate, without_secrets};
pub use data::{DataSource, RowFields};
pub use dialect::Dialect;
pub use error::{Fault, Problem, RecipeError};
pub use node::{DEPTH_MAX, NODES_MAX, Position, TEXT_BYTES_MAX};
pub use recipe::{Given, GivenValue, Layers, Recipe, Text};
pub use settings::{Group, SETTINGS, Setting};
pub use unreachable::{Extent, interval, unbounded, unreachable};
