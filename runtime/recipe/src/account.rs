//! What became of every key of a recipe.

use serde::Serialize;

/// One key and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    /// The key as written, with the keys around it: `datasets[0].path`; a flag with its dashes.
    pub key: String,
    /// Its value as written, on one line, shortened.
    pub value: String,
    /// Line of the text, from 1; 0 for a flag.
    pub line: u64,
    /// What became of it.
    #[serde(flatten)]
    pub fate: Fate,
}

/// What became of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
pub enum Fate {
    /// It is done.
    Honoured {
        /// As which setting, with its value.
        #[serde(rename = "as")]
        as_: String,
    },
    /// It can make no difference here.
    NoEffect {
        /// Why.
        why: String,
    },
    /// Another key is stronger.
    Overridden {
        /// Which.
        by: String,
        /// Why.
        why: String,
    },
}

impl Fate {
    /// Returns the fate in words.
    pub fn text(&self) -> String {
        match self {
            Fate::Honoured { as_ } => as_.clone(),
            Fate::NoEffect { why } => format!("no effect: {why}"),
            Fate::Overridden { by, why } => format!("overridden by `{by}`: {why}"),
        }
    }
}
