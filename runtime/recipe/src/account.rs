//! What became of every key of a recipe.

use serde::Serialize;

/// Keys whose values are for nobody else: an account and what is kept beside a run do not repeat them.
const SECRETS: &[&str] = &[
    "hub_token",
    "push_to_hub_token",
    "hf_use_auth_token",
    "use_auth_token",
    "token",
    "api_key",
    "comet_api_key",
    "swanlab_api_key",
    "swanlab_lark_secret",
    "wandb_api_key",
];

/// What stands in place of a secret.
pub(crate) const HIDDEN: &str = "(hidden)";

/// Whether the value of a key is a secret. `label` may have the keys around it before it.
pub(crate) fn is_secret(label: &str) -> bool {
    let key = label.rsplit(['.', ' ']).next().unwrap_or(label);
    SECRETS.contains(&key.trim_start_matches('-').replace('-', "_").as_str())
}

/// Returns the text of a recipe without the values of keys that are secrets: fit to be kept.
pub fn without_secrets(text: &str) -> String {
    let hide = |line: &str| {
        let cut = SECRETS.iter().filter_map(|key| value_of(line, key)).min()?;
        Some(format!("{} {HIDDEN}", &line[..cut]))
    };
    let lines = text
        .lines()
        .map(|line| hide(line).unwrap_or_else(|| line.to_owned()) + "\n");
    lines.collect()
}

/// Returns where the value of a key begins in a line: what follows is the rest of the line, more keys perhaps.
fn value_of(line: &str, key: &str) -> Option<usize> {
    line.match_indices(key).find_map(|(at, _)| {
        let is_whole = !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let behind = &line[at + key.len()..];
        let sign = behind.trim_start_matches(['"', '\'', ' ']);
        let is_key = is_whole && sign.starts_with([':', '=']);
        is_key.then(|| line.len() - sign.len() + 1)
    })
}

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
