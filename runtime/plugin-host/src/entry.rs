//! What is known about one plugin file: everything that a table of plugins shows.

use std::path::PathBuf;

use serde::{Serialize, Serializer};
use witness_plugin_protocol::{Descriptor, Diagnostic};

use crate::boot::Identity;

/// One plugin file that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PluginEntry {
    /// Where it lies.
    pub path: PathBuf,
    /// `sha256:<hex>` of the file as it was opened; nothing when it could not be.
    pub sha256: Option<String>,
    /// ABI version of its tables, major and minor.
    #[serde(serialize_with = "as_version")]
    pub abi: Option<(u32, u32)>,
    /// Usable, or why not.
    #[serde(flatten)]
    pub state: PluginState,
    /// Purposes for which it died too often and is not started any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set_aside: Vec<SetAside>,
    #[serde(skip)]
    pub(crate) identity: Option<Identity>,
}

impl PluginEntry {
    /// Returns its account of itself, when it is usable.
    pub fn descriptor(&self) -> Option<&Descriptor> {
        match &self.state {
            PluginState::Ready(descriptor) => Some(descriptor),
            PluginState::Refused(_) => None,
        }
    }

    /// Returns why it is not usable.
    pub fn refusal(&self) -> Option<&Diagnostic> {
        match &self.state {
            PluginState::Ready(_) => None,
            PluginState::Refused(diagnostic) => Some(diagnostic),
        }
    }

    /// Returns its name: its own, or that of its file when it has not said.
    pub fn name(&self) -> String {
        match self.descriptor() {
            Some(descriptor) => descriptor.name.clone(),
            None => self
                .path
                .file_name()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        }
    }
}

/// Whether a plugin can be used.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PluginState {
    /// It can: what it says about itself.
    #[serde(rename = "descriptor")]
    Ready(Descriptor),
    /// It cannot: why.
    Refused(Diagnostic),
}

/// A purpose for which a plugin is not started any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetAside {
    /// [`crate::Limits::purpose`] of the workers that died.
    pub purpose: String,
    /// How many died.
    pub deaths: usize,
    /// How the last one died.
    pub last: Diagnostic,
}

/// What is known about a model's file before any plugin has looked into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Name inside the model's directory.
    pub name: String,
    /// Its first bytes: 8 are enough for every format so far; fewer when the file is shorter.
    pub magic: Vec<u8>,
}

fn as_version<S: Serializer>(abi: &Option<(u32, u32)>, serializer: S) -> Result<S::Ok, S::Error> {
    match abi {
        Some((major, minor)) => serializer.collect_str(&format_args!("{major}.{minor}")),
        None => serializer.serialize_none(),
    }
}
