//! The draft of a new model: a stored model's base, or files that the request brings.

use std::path::Path;
use std::sync::Arc;

use witness_api::{CreateRequest, StringMap};
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::AdapterSpec;
use witness_registry::{Digest, Registry, media};

use super::order::{Order, file_ref, files_many, layer_of, parse_digest};
use crate::app::App;
use crate::limits::FILES_MAX;
use crate::models::stored::Stored;
use crate::reply::invalid;

/// Name of a draft whose files say none.
const UNNAMED: &str = "draft";

/// What a request names as its draft.
pub(super) enum Wanted {
    /// The base of a stored model.
    Stored(Arc<Stored>),
    /// Files by name.
    Files(StringMap),
}

impl Wanted {
    /// Reads what a request says; nothing when it names no draft.
    pub(super) async fn read(app: &Arc<App>, request: &CreateRequest) -> Result<Option<Self>, Diagnostic> {
        let name = request.draft.as_deref().filter(|name| !name.is_empty());
        let files = request.draft_files.as_ref().filter(|files| !files.is_empty());
        let name = match (name, files) {
            (None, None) => return Ok(None),
            (None, Some(files)) => return Ok(Some(Self::Files(files.clone()))),
            (Some(name), None) => name,
            (Some(name), Some(_)) => {
                let message = format!("both `draft` (`{name}`) and `draft_files` say what guesses");
                return Err(invalid("create_draft", message).hint("leave one of them out"));
            }
        };
        let stored = app.library.stored(name).await.map_err(|error| Diagnostic {
            message: format!("{}, and `DRAFT` names it", error.message),
            ..error
        })?;
        if stored.base.files.is_empty() {
            let message = format!("model `{}`, which `DRAFT` names, has no weights", stored.name);
            return Err(
                Diagnostic::new("witness::daemon::no_weights", Kind::Unsupported, message)
                    .hint("name a model that runs here"),
            );
        }
        if !stored.adapters.is_empty() {
            let message = format!("`{}` has adapters, and a draft runs without any", stored.name);
            return Err(
                Diagnostic::new("witness::daemon::draft_adapters", Kind::Unsupported, message)
                    .hint(format!(
                        "make one model of both with `witness merge {} NEW`, and name that",
                        stored.name.display_short()
                    ))
                    .hint("or name the base that the adapters were made for"),
            );
        }
        Ok(Some(Self::Stored(stored)))
    }

    /// Returns the blobs that are named.
    pub(super) fn digests(&self) -> Result<Vec<Digest>, Diagnostic> {
        match self {
            Self::Stored(stored) => Ok(stored.digests()),
            Self::Files(files) => files
                .0
                .iter()
                .map(|(name, digest)| parse_digest(name, digest))
                .collect(),
        }
    }

    fn spec(self, registry: &Registry) -> Result<AdapterSpec, Diagnostic> {
        let files = match self {
            Self::Stored(stored) => {
                return Ok(AdapterSpec {
                    name: stored.name.display_short(),
                    files: stored.base.files.clone(),
                });
            }
            Self::Files(files) => files.0,
        };
        if files.len() > FILES_MAX {
            return Err(files_many("a draft", files.len()));
        }
        let files = files
            .iter()
            .map(|(name, digest)| file_ref(registry, name, name, digest));
        let mut files = files.collect::<Result<Vec<_>, _>>()?;
        // Parts of a split file are opened in the order of their numbers.
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let gguf = files.first().map(|file| Path::new(&file.name));
        let gguf = gguf.filter(|name| {
            name.extension()
                .is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
        });
        let name = gguf
            .and_then(Path::file_stem)
            .map(|stem| stem.to_string_lossy().into_owned());
        Ok(AdapterSpec {
            name: name.unwrap_or_else(|| UNNAMED.to_owned()),
            files,
        })
    }
}

impl Order {
    /// Puts a draft in place of the one that was inherited.
    pub(super) fn take_draft(&mut self, registry: &Registry, wanted: Option<Wanted>) -> Result<(), Diagnostic> {
        let Some(wanted) = wanted else { return Ok(()) };
        let draft = wanted.spec(registry)?;
        self.draft_layers.clear();
        for file in &draft.files {
            let layer = layer_of(media::WITNESS_DRAFT_FILE, file)?;
            self.draft_layers
                .push(layer.with(media::DRAFT_NAME, draft.name.clone()));
        }
        self.draft = Some(draft);
        self.draft_is_new = true;
        Ok(())
    }
}
