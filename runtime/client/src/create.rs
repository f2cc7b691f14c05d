//! A Modelfile's plan becomes a create request: paths are followed, files are told by their names, stored, and named by digest.

use std::path::{Path, PathBuf};

use witness_api::{CreateRequest, Message, StringMap, TextOrList};
use witness_diagnostics::Kind;
use witness_modelfile::{Plan, Source, resolve_path};

use crate::error::ClientError;
use crate::http::Client;
use crate::source::{SourceFile, adapter_files, model_files};
use crate::upload::FileProgress;

/// Name of an adapter that the Modelfile does not name.
const ADAPTER_UNNAMED: &str = "default";

/// What the paths of a plan lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Name of a model that is already stored; then `base` is empty.
    pub from: Option<String>,
    /// Files of the base.
    pub base: Vec<SourceFile>,
    /// Adapters by name, each with its files.
    pub adapters: Vec<(String, Vec<SourceFile>)>,
    /// Name of a stored model that guesses ahead; then `draft_files` is empty.
    pub draft: Option<String>,
    /// Files of such a draft.
    pub draft_files: Vec<SourceFile>,
}

/// Where the paths of a Modelfile start from.
#[derive(Clone, Copy, Debug)]
pub struct Roots<'a> {
    /// Directory of the Modelfile.
    pub directory: &'a Path,
    /// What `~` means.
    pub user_home: Option<&'a Path>,
}

impl Sources {
    /// Finds the files that a plan names. Opens none of them.
    ///
    /// # Errors
    /// When a path leads nowhere, or to something that is no model or adapter.
    pub fn find(plan: &Plan, roots: Roots<'_>) -> Result<Self, ClientError> {
        let mut sources = Self::default();
        for source in &plan.from {
            match find_model(source, roots)? {
                Some(files) => sources.base.extend(files),
                None => sources.from = Some(source.text.clone()),
            }
        }
        if let Some(draft) = &plan.draft {
            match find_model(draft, roots)? {
                Some(files) => sources.draft_files = files,
                None => sources.draft = Some(draft.text.clone()),
            }
        }
        for adapter in &plan.adapters {
            let name = adapter.name.clone().unwrap_or_else(|| ADAPTER_UNNAMED.to_owned());
            let path = follow(&adapter.path, roots)?;
            sources.adapters.push((name, adapter_files(&path)?));
        }
        Ok(sources)
    }

    /// Returns every file to be stored, in the order of [`Sources::request`].
    pub fn files(&self) -> impl Iterator<Item = &SourceFile> {
        self.base
            .iter()
            .chain(self.adapters.iter().flat_map(|(_, files)| files))
            .chain(&self.draft_files)
    }

    /// Returns the request that makes the model. `digests` are those of [`Sources::files`], in that order.
    pub fn request(&self, model: &str, plan: &Plan, digests: &[String]) -> CreateRequest {
        let mut digests = digests.iter().cloned();
        let mut named = |name: String| digests.next().map(|digest| (name, digest));
        let files: Vec<_> = self.base.iter().filter_map(|file| named(file.name.clone())).collect();
        let adapters: Vec<_> = self
            .adapters
            .iter()
            .flat_map(|(adapter, files)| files.iter().map(move |file| format!("{adapter}/{}", file.name)))
            .filter_map(&mut named)
            .collect();
        let draft_files: Vec<_> = self
            .draft_files
            .iter()
            .filter_map(|file| named(file.name.clone()))
            .collect();
        CreateRequest {
            model: model.to_owned(),
            from: self.from.clone(),
            files: some_map(files),
            adapters: some_map(adapters),
            draft: self.draft.clone(),
            draft_files: some_map(draft_files),
            template: plan.template.clone(),
            license: (!plan.license.is_empty()).then(|| TextOrList::Many(plan.license.clone())),
            system: plan.system.clone(),
            parameters: (!plan.parameters.is_empty()).then(|| plan.parameters_json()),
            messages: messages(plan),
            requires: plan.requires.clone(),
            quantize: plan.quantize.clone(),
            ..CreateRequest::default()
        }
    }
}

impl Client {
    /// Stores the files of a model and returns their digests in order. `progress` is told the index of the file.
    pub async fn store_files(
        &self,
        files: &[&SourceFile],
        link: bool,
        progress: &mut dyn FnMut(usize, FileProgress),
    ) -> Result<Vec<String>, ClientError> {
        let mut digests = Vec::with_capacity(files.len());
        for (index, file) in files.iter().enumerate() {
            let mut report = |state| progress(index, state);
            digests.push(self.store_file(&file.path, link, &mut report).await?.digest);
        }
        Ok(digests)
    }
}

/// Returns the files of the model that a source names; nothing where it is the name of a stored one.
fn find_model(source: &Source, roots: Roots<'_>) -> Result<Option<Vec<SourceFile>>, ClientError> {
    match model_files(&follow(&source.text, roots)?) {
        Ok(files) => Ok(Some(files)),
        // `FROM llama3.2` is a name unless a model of that name lies beside the Modelfile.
        Err(refusal) if source.is_path() || refusal.is_pickle() => Err(refusal),
        Err(_) => Ok(None),
    }
}

fn follow(text: &str, roots: Roots<'_>) -> Result<PathBuf, ClientError> {
    resolve_path(text, roots.directory, roots.user_home).map_err(|error| ClientError::Source {
        message: error.to_string(),
        hint: "write a path relative to the Modelfile (`./base`), or a whole one".to_owned(),
        kind: Kind::Invalid,
    })
}

fn some_map(pairs: Vec<(String, String)>) -> Option<StringMap> {
    (!pairs.is_empty()).then_some(StringMap(pairs))
}

fn messages(plan: &Plan) -> Option<Vec<Message>> {
    let messages: Vec<Message> = plan
        .messages
        .iter()
        .map(|(role, content)| Message::new(role.as_str(), content))
        .collect();
    (!messages.is_empty()).then_some(messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_plan_becomes_a_request_with_every_file_under_its_name() {
        let directory = tempfile::tempdir().unwrap();
        for name in [
            "base/config.json",
            "base/model.safetensors",
            "one/adapter_config.json",
            "one/adapter_model.safetensors",
            "two.gguf",
            "small.gguf",
        ] {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let text = "FROM base\nADAPTER ./one\nADAPTER ./two.gguf AS second\nPARAMETER temperature 0\nSYSTEM hi\nQUANTIZE q4_K_M\nDRAFT ./small.gguf\n";
        let plan = witness_modelfile::parse("Modelfile", text).unwrap().plan().unwrap();
        let roots = Roots {
            directory: directory.path(),
            user_home: None,
        };
        let sources = Sources::find(&plan, roots).unwrap();
        let digests: Vec<String> = (0..6).map(|index| format!("sha256:{index}")).collect();
        assert_eq!(sources.files().count(), digests.len());
        let request = serde_json::to_value(sources.request("mine", &plan, &digests)).unwrap();
        assert_eq!(
            request,
            serde_json::json!({
                "model": "mine",
                "files": {"config.json": "sha256:0", "model.safetensors": "sha256:1"},
                "adapters": {
                    "default/adapter_config.json": "sha256:2",
                    "default/adapter_model.safetensors": "sha256:3",
                    "second/two.gguf": "sha256:4"
                },
                "draft_files": {"small.gguf": "sha256:5"},
                "system": "hi",
                "parameters": {"temperature": 0.0},
                "quantize": "q4_K_M"
            })
        );
    }

    #[test]
    fn a_word_is_a_name_unless_it_lies_here() {
        let directory = tempfile::tempdir().unwrap();
        let roots = Roots {
            directory: directory.path(),
            user_home: None,
        };
        let find = |text: &str| {
            let plan = witness_modelfile::parse("Modelfile", text).unwrap().plan().unwrap();
            Sources::find(&plan, roots)
        };
        let with_draft = find("FROM llama3.2:3b\nDRAFT llama3.2:1b").unwrap();
        assert_eq!(with_draft.draft.as_deref(), Some("llama3.2:1b"));
        assert!(matches!(find("FROM x\nDRAFT ./small"), Err(ClientError::File { .. })));
        assert_eq!(find("FROM llama3.2:3b").unwrap().from.as_deref(), Some("llama3.2:3b"));
        assert!(matches!(find("FROM ./llama3.2"), Err(ClientError::File { .. })));
        fs::create_dir(directory.path().join("notes")).unwrap();
        assert_eq!(find("FROM notes").unwrap().from.as_deref(), Some("notes"));
        fs::write(directory.path().join("notes/pytorch_model.bin"), "").unwrap();
        assert!(find("FROM notes").unwrap_err().is_pickle());
    }
}
