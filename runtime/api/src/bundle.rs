//! A model that comes in one file (`/api/witness/unbundle`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::lenient::{is_zero, null_default};
use crate::{ErrorBody, Progress};

/// Body of `POST /api/witness/unbundle` (unix socket only).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnbundleRequest {
    /// The file. Absolute.
    pub path: PathBuf,
    /// Name of the model; nothing = the name that it had where it was packed.
    #[serde(alias = "name", skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Replace a model of that name.
    #[serde(deserialize_with = "null_default")]
    pub force: bool,
    /// Send progress lines ([`UnbundleProgress`]); false when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
}

impl UnbundleRequest {
    /// Returns whether progress lines are sent.
    pub fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }
}

/// Answer of `POST /api/witness/unbundle`, and a line of it with `"stream": true`; the last one has `model` and `digest`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnbundleProgress {
    /// What is being done; `success` on the last line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// Bytes in all.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    /// Bytes done.
    #[serde(skip_serializing_if = "is_zero")]
    pub completed: u64,
    /// Name that the model has here.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// Digest of its manifest.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Why it broke off, on a last line that is an error.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ErrorBody>,
}

impl From<Progress> for UnbundleProgress {
    fn from(line: Progress) -> Self {
        Self {
            status: line.status,
            total: line.total,
            completed: line.completed,
            failure: line.failure,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_import_says_only_what_it_wants() {
        let wire = json!({"path": "/a.tar", "force": false});
        let request: UnbundleRequest = serde_json::from_value(json!({"path": "/a.tar", "force": null})).unwrap();
        assert!(!request.streams() && !request.force && request.model.is_none());
        assert_eq!(serde_json::to_value(&request).unwrap(), wire);
        let named: UnbundleRequest = serde_json::from_value(json!({"name": "m", "stream": true})).unwrap();
        assert!(named.streams() && named.model.as_deref() == Some("m"));
    }

    #[test]
    fn the_last_line_names_the_model() {
        let wire = json!({"status": "success", "model": "m:latest", "digest": "sha256:0"});
        let line: UnbundleProgress = serde_json::from_value(wire.clone()).unwrap();
        assert_eq!(serde_json::to_value(&line).unwrap(), wire);
    }
}
