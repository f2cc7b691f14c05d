//! Other forms of a model: what one would be (`/api/witness/plan`), and files for other programs (`/api/witness/export`).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::lenient::{is_zero, null_default};
use crate::{ErrorBody, Progress};

/// Answer of `POST /api/witness/plan`, whose body is that of `POST /api/create`: what the base would become. Nothing is made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TransformPlan {
    /// Architecture in GGUF's spelling.
    pub architecture: String,
    /// Storage of most weights now.
    pub from: String,
    /// Storage of most weights then.
    pub to: String,
    /// Bytes of all tensors now.
    pub source_bytes: u64,
    /// Bytes of all tensors then.
    pub target_bytes: u64,
    /// Bits a weight then.
    pub bits_per_weight: f64,
    /// Memory that the work takes at most.
    pub memory_bytes: u64,
    /// The tensors, in the order of the new file.
    pub tensors: Vec<PlannedTensor>,
    /// What should be known.
    pub warnings: Vec<String>,
}

/// A tensor before and after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlannedTensor {
    /// Name in the new form.
    pub name: String,
    /// Shape, row-major.
    pub shape: Vec<u64>,
    /// Type now, by GGUF's name.
    pub from: String,
    /// Type then.
    pub to: String,
    /// Bytes then.
    pub bytes: u64,
}

/// Body of `POST /api/witness/export` (unix socket only).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExportRequest {
    /// Name of the model.
    #[serde(alias = "name", deserialize_with = "null_default")]
    pub model: String,
    /// Name of the adapter; nothing = the one that answers when a request names none. With a form of a whole model it is the one that is merged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// Directory to write into: new or empty; for the form `ollama` also a store. Absolute.
    #[serde(skip_serializing_if = "is_nowhere")]
    pub directory: PathBuf,
    /// File to write, for the form `bundle`, in place of `directory`. Absolute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Form of the files: `peft` or `gguf_adapter` of an adapter, `safetensors` or `gguf` of a whole model, `bundle` of all that makes a model, `ollama` of all that
    /// Ollama takes. Nothing = the adapter's files as they are stored, or the base's where `adapter` is `base`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<String>,
    /// Storage that the weights are brought to, by a name of llama.cpp's; for the form `gguf`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize: Option<String>,
    /// Merge the adapter into the base; without it a whole model is the base alone.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "std::ops::Not::not")]
    pub merge: bool,
    /// Name the base in a bundle, and leave it out.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "std::ops::Not::not")]
    pub without_base: bool,
    /// Write over files that are there; in a store, replace the model of that name.
    #[serde(deserialize_with = "null_default")]
    pub force: bool,
    /// Send progress lines ([`ExportProgress`]); false when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
}

fn is_nowhere(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

impl ExportRequest {
    /// Returns whether progress lines are sent.
    pub fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }
}

/// Answer of `POST /api/witness/export`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExportResponse {
    /// Where the files are.
    pub directory: PathBuf,
    /// Their names.
    pub files: Vec<String>,
}

/// A line of `POST /api/witness/export` with `"stream": true`; the last one has `directory` and `files`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExportProgress {
    /// What is being done; `success` on the last line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// Bytes in all.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    /// Bytes done.
    #[serde(skip_serializing_if = "is_zero")]
    pub completed: u64,
    /// Where the files are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Their names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Why it broke off, on a last line that is an error.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ErrorBody>,
}

impl From<Progress> for ExportProgress {
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

    // What a client of an older version sends means what it meant; what is not asked for is not sent.
    #[test]
    fn an_export_says_only_what_it_wants() {
        let old = json!({"model": "m", "directory": "/out", "form": "peft", "force": false});
        let request: ExportRequest = serde_json::from_value(old.clone()).unwrap();
        assert!(!request.streams() && !request.merge);
        assert_eq!(serde_json::to_value(&request).unwrap(), old);
        let request: ExportRequest =
            serde_json::from_value(json!({"name": "m", "merge": null, "stream": true})).unwrap();
        assert!(request.streams() && !request.merge);
        let bundle = json!({"model": "m", "file": "/a.tar", "form": "bundle", "without_base": true, "force": true});
        let request: ExportRequest = serde_json::from_value(bundle.clone()).unwrap();
        assert_eq!(serde_json::to_value(&request).unwrap(), bundle);
    }

    #[test]
    fn the_last_line_of_an_export_holds_the_files() {
        let wire = json!({"status": "success", "directory": "/out", "files": ["model.gguf"]});
        let line: ExportProgress = serde_json::from_value(wire.clone()).unwrap();
        assert_eq!((line.files.len(), line.failure.is_none()), (1, true));
        assert_eq!(serde_json::to_value(&line).unwrap(), wire);
        let told = ExportProgress::from(Progress {
            status: "quantizing".into(),
            total: 10,
            completed: 5,
            ..Progress::default()
        });
        let wire = json!({"status": "quantizing", "total": 10, "completed": 5});
        assert_eq!(serde_json::to_value(&told).unwrap(), wire);
    }
}
