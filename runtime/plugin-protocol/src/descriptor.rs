//! What a plugin says about itself before anything else is asked of it.

use serde::{Deserialize, Serialize};

/// A plugin's account of itself. Static bytes in the plugin; read once by a worker, before `init`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Name, `[a-z0-9-]`, unique per role among the plugins of one machine.
    pub name: String,
    /// Version of the plugin, semver.
    pub version: String,
    /// Version of the JSON messages it speaks ([`crate::PROTOCOL_VERSION`]).
    pub protocol: u32,
    /// One line for `witness plugin list`.
    #[serde(default)]
    pub about: String,
    /// What it can do. Each role needs its table in the ABI.
    pub roles: Vec<Role>,
    /// Model architectures it handles (`llama`, `qwen2`, ...), or `*` for any.
    #[serde(default)]
    pub architectures: Vec<String>,
    /// File formats it reads, with the rule that recognises each.
    #[serde(default)]
    pub formats: Vec<FormatRule>,
    /// Devices it computes on: `cpu`, `cuda`, `metal`.
    #[serde(default)]
    pub devices: Vec<String>,
    /// Instruction sets it cannot do without (`avx2`, `neon`); the host refuses to start it where one is missing.
    #[serde(default)]
    pub isa: Vec<String>,
    /// How well it fits this machine: the highest score wins a role. 0 = works, 100 = tuned for this device.
    #[serde(default)]
    pub score: i32,
}

/// A role of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Loads models and generates tokens.
    Serve,
    /// Trains.
    Train,
    /// Converts, quantizes, merges, exports.
    Quantize,
    /// Measures a model on a text: perplexity, distance from another model, importance of columns.
    Measure,
}

impl Role {
    /// Returns the name that a descriptor has for it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Serve => "serve",
            Role::Train => "train",
            Role::Quantize => "quantize",
            Role::Measure => "measure",
        }
    }
}

/// How a file format is recognised, so that the runtime needs no knowledge of formats. A set of files matches when any file does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormatRule {
    /// Name of the format: `gguf`, `safetensors`.
    pub name: String,
    /// First bytes of a file, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub magic_hex: Option<String>,
    /// End of a file's name, such as `.safetensors`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
}
