//! The request as an order: every name, digest and text checked, what a base model brings along merged in.
//!
//! Inheritance, as Ollama has it: template and system of the request take the place of the base's, parameters are merged by name, messages
//! replaced, adapters and licences appended.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};
use witness_api::{CreateRequest, Message, Options, StringMap};
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{
    AdapterSpec, FileRef, ModelForm, ModelSpec, QuantizeOptions, TensorType, TransformRequest,
};
use witness_registry::{Digest, Layer, Lease, ModelName, Registry, media};

use super::draft;
use crate::app::App;
use crate::limits::{ADAPTERS_MAX, FILE_NAME_BYTES_MAX, FILES_MAX};
use crate::models::library::{blocking, free_adapter_name, parse_name};
use crate::models::stored::Stored;
use crate::reply::invalid;

/// What a training run hands over, and the texts that the request for it brought.
pub(crate) struct Trained {
    pub(crate) name: ModelName,
    /// Model that it started from.
    pub(crate) parent: Option<Arc<Stored>>,
    pub(crate) product: Product,
    pub(crate) texts: Texts,
    pub(crate) training: Map<String, Value>,
    pub(crate) check: bool,
    /// As [`Order::yields_name`].
    pub(crate) yields_name: bool,
}

/// Files of a run's product: blobs that are here.
#[derive(Clone, Debug)]
pub(crate) enum Product {
    /// Adapters of the base, the first of which answers when a request names none.
    Adapters(Vec<AdapterSpec>),
    /// A base of its own.
    Model(Vec<FileRef>),
}

/// Texts of a request that go into a model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Texts {
    pub(crate) template: Option<String>,
    pub(crate) system: Option<String>,
    pub(crate) parameters: Option<Map<String, Value>>,
    pub(crate) messages: Option<Vec<Message>>,
    pub(crate) license: Option<witness_api::TextOrList>,
}

/// A model to be made.
pub(crate) struct Order {
    pub(crate) name: ModelName,
    /// Model it is made from, if it is.
    pub(crate) parent: Option<Arc<Stored>>,
    pub(crate) base: ModelSpec,
    /// Layers of the base, in order: taken over or made from `files`.
    pub(crate) base_layers: Vec<Layer>,
    /// All adapters, the inherited first.
    pub(crate) adapters: Vec<AdapterSpec>,
    /// Layers of all adapters.
    pub(crate) adapter_layers: Vec<Layer>,
    /// Those that this request brings.
    pub(crate) new_adapters: Vec<AdapterSpec>,
    /// A small model that guesses for the base.
    pub(crate) draft: Option<AdapterSpec>,
    pub(crate) draft_layers: Vec<Layer>,
    /// Whether this request brings it.
    pub(crate) draft_is_new: bool,
    pub(crate) template: Option<String>,
    pub(crate) system: Option<String>,
    pub(crate) parameters: Map<String, Value>,
    pub(crate) messages: Vec<Message>,
    pub(crate) licenses: Vec<String>,
    /// Layers that we do not understand, taken over.
    pub(crate) other_layers: Vec<Layer>,
    pub(crate) requires: Option<String>,
    /// Whether new adapters are proven.
    pub(crate) check: bool,
    /// Whether the files of the base are others than the parent's.
    pub(crate) base_is_new: bool,
    /// What the training run that made it says about itself.
    pub(crate) training: Option<Map<String, Value>>,
    /// Another form of the base that is to be made first.
    pub(crate) transform: Option<TransformRequest>,
    /// Whether the name must be nobody's, or that of a model which the same run stored, also at the last moment.
    pub(crate) yields_name: bool,
    /// Keeps every blob named here from the collector.
    leases: Vec<Lease>,
}

impl Order {
    /// Checks a request.
    pub(crate) async fn read(app: &Arc<App>, request: CreateRequest) -> Result<Self, Diagnostic> {
        let name = parse_name(&request.model)?;
        refuse_what_is_not_there(&request)?;
        let parent = match request.from.as_deref().filter(|from| !from.is_empty()) {
            Some(from) => Some(app.library.stored(from).await?),
            None => None,
        };
        let draft = draft::Wanted::read(app, &request).await?;
        let files = request.files.clone().unwrap_or_default();
        match (&parent, files.0.is_empty()) {
            (None, true) => {
                return Err(invalid(
                    "create_from",
                    "neither `from` nor `files` says what the model is made of",
                )
                .hint("name a model in `from`, or files as `{\"model.gguf\": \"sha256:..\"}` in `files`"));
            }
            (Some(parent), false) => {
                return Err(invalid(
                    "create_from",
                    format!(
                        "both `from` (`{}`) and `files` say what the model is made of",
                        parent.name
                    ),
                )
                .hint("leave one of them out"));
            }
            _ => {}
        }
        let registry = app.library.registry.clone();
        blocking(move || Self::assemble(&registry, name, parent, (&files, draft), request)).await
    }

    fn assemble(
        registry: &Registry,
        name: ModelName,
        parent: Option<Arc<Stored>>,
        (files, draft): (&StringMap, Option<draft::Wanted>),
        mut request: CreateRequest,
    ) -> Result<Self, Diagnostic> {
        let mut digests: Vec<Digest> = parent.as_ref().map(|parent| parent.digests()).unwrap_or_default();
        let given = files
            .0
            .iter()
            .chain(request.adapters.iter().flat_map(|adapters| &adapters.0));
        for (file, digest) in given {
            digests.push(parse_digest(file, digest)?);
        }
        if let Some(draft) = &draft {
            digests.extend(draft.digests()?);
        }
        let imatrix = request.quantize_options.as_ref();
        if let Some(digest) = imatrix.and_then(|options| options.imatrix.as_deref()) {
            digests.push(parse_digest("imatrix", digest)?);
        }
        let mut order = Self::empty(registry, name, parent, &digests);
        order.requires = request.requires.take();
        order.check = request.check.unwrap_or(true);
        order.inherit();
        order.take_files(registry, files)?;
        order.take_adapters(registry, &request.adapters.take().unwrap_or_default())?;
        order.take_draft(registry, draft)?;
        order.take_transform(registry, &request)?;
        order.take_texts(Texts {
            template: request.template,
            system: request.system,
            parameters: request.parameters,
            messages: request.messages,
            license: request.license,
        })?;
        Ok(order)
    }

    /// Makes the order for what a training run made: the texts of the model that it started from, and the run's files.
    pub(crate) fn of_training(registry: &Registry, trained: Trained) -> Result<Self, Diagnostic> {
        let Trained {
            name,
            parent,
            product,
            texts,
            training,
            check,
            yields_name,
        } = trained;
        let mut digests: Vec<Digest> = parent.as_ref().map(|parent| parent.digests()).unwrap_or_default();
        let files: Vec<&FileRef> = match &product {
            Product::Adapters(adapters) => adapters.iter().flat_map(|adapter| &adapter.files).collect(),
            Product::Model(files) => files.iter().collect(),
        };
        for file in files {
            check_file_name(&file.name, &file.name)?;
            digests.push(parse_digest(&file.name, &file.digest)?);
        }
        let mut order = Self::empty(registry, name, parent, &digests);
        order.check = check;
        order.training = Some(training);
        order.yields_name = yields_name;
        order.inherit();
        // What the base could do with adapters of its own was not trained on.
        order.adapters.clear();
        order.adapter_layers.clear();
        match product {
            Product::Adapters(adapters) => {
                for adapter in adapters {
                    check_adapter_name(&adapter.name)?;
                    order.add_adapter_files(adapter)?;
                }
                order.adapters = order.new_adapters.clone();
                order.refuse_many_adapters()?;
            }
            Product::Model(files) => {
                order.base_is_new = true;
                order.base.files.clear();
                order.base_layers.clear();
                order.other_layers.clear();
                // Training may have added tokens that its draft does not know.
                order.draft = None;
                order.draft_layers.clear();
                for file in files {
                    order.add_base_file(file)?;
                }
            }
        }
        order.take_texts(texts)?;
        Ok(order)
    }

    fn empty(registry: &Registry, name: ModelName, parent: Option<Arc<Stored>>, digests: &[Digest]) -> Self {
        Self {
            name,
            base: ModelSpec { files: Vec::new() },
            base_layers: Vec::new(),
            adapters: Vec::new(),
            adapter_layers: Vec::new(),
            new_adapters: Vec::new(),
            draft: None,
            draft_layers: Vec::new(),
            draft_is_new: false,
            template: None,
            system: None,
            parameters: Map::new(),
            messages: Vec::new(),
            licenses: Vec::new(),
            other_layers: Vec::new(),
            requires: None,
            check: true,
            base_is_new: parent.is_none(),
            training: None,
            transform: None,
            yields_name: false,
            parent,
            leases: vec![registry.lease(digests)],
        }
    }

    /// Puts the request's texts in place of, or beside, those that were inherited.
    fn take_texts(&mut self, texts: Texts) -> Result<(), Diagnostic> {
        let template = texts.template.filter(|text| !text.is_empty());
        self.template = template.or_else(|| self.template.take());
        self.system = texts.system.or_else(|| self.system.take());
        if let Some(parameters) = texts.parameters {
            check_parameters(&parameters)?;
            self.parameters
                .extend(parameters.into_iter().filter(|(_, value)| !value.is_null()));
        }
        if let Some(messages) = texts.messages {
            self.messages = messages;
        }
        for license in texts.license.map(witness_api::TextOrList::into_vec).unwrap_or_default() {
            if !license.is_empty() && !self.licenses.contains(&license) {
                self.licenses.push(license);
            }
        }
        Ok(())
    }

    fn inherit(&mut self) {
        let Some(parent) = self.parent.clone() else { return };
        self.base = parent.base.clone();
        self.adapters = parent.adapters.clone();
        self.draft = parent.draft.clone();
        self.template = parent.template.clone();
        self.system = parent.system.clone();
        self.parameters = parent.parameters.clone();
        self.messages = parent.messages.clone();
        self.licenses = parent.licenses.clone();
        for layer in &parent.manifest.layers {
            match layer.media_type.as_str() {
                media::MODEL | media::WITNESS_MODEL_FILE => self.base_layers.push(layer.clone()),
                media::ADAPTER | media::WITNESS_ADAPTER_FILE => self.adapter_layers.push(layer.clone()),
                media::WITNESS_DRAFT_FILE => self.draft_layers.push(layer.clone()),
                media::TEMPLATE | media::PROMPT | media::SYSTEM | media::PARAMS | media::MESSAGES | media::LICENSE => {}
                _ => self.other_layers.push(layer.clone()),
            }
        }
        // The order of adapters is that of their layers; each keeps the name that it was read under.
        for (adapter, file) in parent
            .adapters
            .iter()
            .flat_map(|a| a.files.iter().map(move |file| (a, file)))
        {
            let layer = self
                .adapter_layers
                .iter_mut()
                .find(|layer| layer.digest.as_str() == file.digest && layer.annotation(media::ADAPTER_NAME).is_none());
            if let Some(layer) = layer {
                layer
                    .annotations
                    .insert(media::ADAPTER_NAME.to_owned(), adapter.name.clone());
            }
        }
    }

    fn take_files(&mut self, registry: &Registry, files: &StringMap) -> Result<(), Diagnostic> {
        if files.0.len() > FILES_MAX {
            return Err(files_many("a model", files.0.len()));
        }
        for (name, digest) in &files.0 {
            let file = file_ref(registry, name, name, digest)?;
            self.add_base_file(file)?;
        }
        // Parts of a split file are opened in the order of their numbers, which is that of their names.
        if !files.0.is_empty() && self.base_layers.iter().all(|layer| layer.media_type == media::MODEL) {
            self.base.files.sort_by(|a, b| a.name.cmp(&b.name));
            self.base_layers
                .sort_by(|a, b| a.annotation(media::TITLE).cmp(&b.annotation(media::TITLE)));
        }
        Ok(())
    }

    fn take_adapters(&mut self, registry: &Registry, adapters: &StringMap) -> Result<(), Diagnostic> {
        if adapters.0.len() > FILES_MAX {
            return Err(files_many("adapters", adapters.0.len()));
        }
        let unnamed = free_adapter_name(&self.adapters);
        for (key, digest) in &adapters.0 {
            let (name, file_name) = match key.split_once('/') {
                Some((name, file)) => (name.to_owned(), file),
                None => (unnamed.clone(), key.as_str()),
            };
            check_adapter_name(&name)?;
            if self.adapters.iter().any(|known| known.name == name) {
                return Err(Diagnostic::new(
                    "witness::daemon::adapter_twice",
                    Kind::Conflict,
                    format!("the base already has an adapter `{name}`"),
                )
                .hint("give the new adapter another name"));
            }
            let file = file_ref(registry, key, file_name, digest)?;
            self.add_adapter_files(AdapterSpec {
                name,
                files: vec![file],
            })?;
        }
        self.adapters.extend(self.new_adapters.iter().cloned());
        self.refuse_many_adapters()
    }

    /// Reads what the base is to become before it is taken.
    fn take_transform(&mut self, registry: &Registry, request: &CreateRequest) -> Result<(), Diagnostic> {
        let quantization = request.quantize.clone().filter(|name| !name.is_empty());
        let fields = request.quantize_options.clone().unwrap_or_default();
        if quantization.is_none() && request.quantize_options.is_some() {
            return Err(invalid(
                "quantize_options",
                "`quantize_options` says how, and `quantize` does not say to what",
            )
            .hint("name a type in `quantize`, such as `q4_K_M`"));
        }
        let adapter = match request.merge.as_deref() {
            None => None,
            Some(name) => Some(self.adapter_to_merge(name)?),
        };
        if quantization.is_none() && adapter.is_none() {
            return Ok(());
        }
        let imatrix = fields.imatrix.as_deref();
        let imatrix = imatrix.map(|digest| file_ref(registry, "imatrix", "imatrix", digest));
        let is_gguf = self.base_layers.iter().any(|layer| layer.media_type == media::MODEL);
        let form = match (&quantization, is_gguf) {
            (Some(name), _) => ModelForm::of_quantization(name),
            (None, true) => ModelForm::Gguf,
            (None, false) => ModelForm::Safetensors,
        };
        let types = fields.tensor_types.0.into_iter();
        self.transform = Some(TransformRequest {
            model: self.base.clone(),
            adapter,
            model_name: self
                .parent
                .as_ref()
                .map_or_else(|| self.name.display_short(), |parent| parent.name.display_short()),
            form,
            quantization,
            options: QuantizeOptions {
                imatrix: imatrix.transpose()?,
                tensor_types: types.map(|(pattern, kind)| TensorType { pattern, kind }).collect(),
                output_type: fields.output_type,
                embedding_type: fields.embedding_type,
                pure: fields.pure,
                requantize: fields.requantize,
                shard_bytes: None,
            },
            template: None,
            directory: PathBuf::new(),
            num_thread: None,
        });
        Ok(())
    }

    fn adapter_to_merge(&self, name: &str) -> Result<AdapterSpec, Diagnostic> {
        let found = match name {
            "" => self.adapters.first(),
            name => self.adapters.iter().find(|adapter| adapter.name == name),
        };
        found.cloned().ok_or_else(|| {
            let names: Vec<&str> = self.adapters.iter().map(|adapter| adapter.name.as_str()).collect();
            let which = match name {
                "" => "no adapter".to_owned(),
                name => format!("no adapter `{}`", name.escape_debug()),
            };
            let message = format!("there is {which} to merge");
            let diagnostic = Diagnostic::new("witness::daemon::merge_adapter", Kind::NotFound, message);
            match names.is_empty() {
                true => diagnostic.cause("the model has no adapters"),
                false => diagnostic.hint(format!("its adapters are {}", names.join(", "))),
            }
        })
    }

    /// Puts what was made of the base in its place.
    pub(crate) fn take_made(&mut self, files: Vec<FileRef>, leases: Vec<Lease>) -> Result<(), Diagnostic> {
        let is_merged = self
            .transform
            .take()
            .is_some_and(|transform| transform.adapter.is_some());
        self.leases.extend(leases);
        self.base_is_new = true;
        self.base.files.clear();
        self.base_layers.clear();
        if is_merged {
            self.adapters.clear();
            self.new_adapters.clear();
            self.adapter_layers.clear();
        }
        for file in files {
            self.add_base_file(file)?;
        }
        Ok(())
    }

    fn add_base_file(&mut self, file: FileRef) -> Result<(), Diagnostic> {
        let media_type = if is_gguf(&file) {
            media::MODEL
        } else {
            media::WITNESS_MODEL_FILE
        };
        self.base_layers.push(layer_of(media_type, &file)?);
        self.base.files.push(file);
        Ok(())
    }

    fn add_adapter_files(&mut self, adapter: AdapterSpec) -> Result<(), Diagnostic> {
        for file in &adapter.files {
            let media_type = if is_gguf(file) {
                media::ADAPTER
            } else {
                media::WITNESS_ADAPTER_FILE
            };
            self.adapter_layers
                .push(layer_of(media_type, file)?.with(media::ADAPTER_NAME, adapter.name.clone()));
        }
        match self.new_adapters.iter_mut().find(|known| known.name == adapter.name) {
            Some(known) => known.files.extend(adapter.files),
            None => self.new_adapters.push(adapter),
        }
        Ok(())
    }

    fn refuse_many_adapters(&self) -> Result<(), Diagnostic> {
        if self.adapters.len() > ADAPTERS_MAX {
            return Err(invalid(
                "adapters_many",
                format!(
                    "a model with {} adapters; at most {ADAPTERS_MAX} are taken",
                    self.adapters.len()
                ),
            ));
        }
        Ok(())
    }
}

fn refuse_what_is_not_there(request: &CreateRequest) -> Result<(), Diagnostic> {
    if request.modelfile.as_deref().is_some_and(|text| !text.is_empty())
        && request.from.is_none()
        && request.files.is_none()
    {
        return Err(
            invalid("create_modelfile", "the text of a Modelfile is not read by the server")
                .hint("use `witness create -f Modelfile`, or send `from`, `files`, `template`, .. as fields"),
        );
    }
    Ok(())
}

pub(crate) fn parse_digest(file: &str, digest: &str) -> Result<Digest, Diagnostic> {
    Digest::parse(digest).map_err(|error| {
        let diagnostic = Diagnostic::from(error);
        Diagnostic {
            message: format!("{} (for the file `{file}`)", diagnostic.message),
            ..diagnostic
        }
    })
}

/// Checks a file's name and finds its blob.
pub(crate) fn file_ref(registry: &Registry, key: &str, name: &str, digest: &str) -> Result<FileRef, Diagnostic> {
    check_file_name(key, name)?;
    let digest = parse_digest(key, digest)?;
    let size = registry.has_blob(&digest).ok_or_else(|| {
        Diagnostic::new(
            "witness::daemon::no_blob",
            Kind::Invalid,
            format!("blob `{digest}` of the file `{key}` is not here"),
        )
        .hint(format!("upload it first: POST /api/blobs/{digest}"))
    })?;
    Ok(FileRef {
        name: name.to_owned(),
        path: registry.blob_path(&digest),
        digest: digest.as_str().to_owned(),
        size,
    })
}

/// A name stays inside its directory: relative, no `..`, no empty part, nothing that a terminal or a file system would misread.
pub(crate) fn check_file_name(key: &str, name: &str) -> Result<(), Diagnostic> {
    let wrong = |why: &str| {
        Err(invalid(
            "file_name",
            format!("the file name `{}` {why}", key.escape_debug()),
        ))
    };
    if name.is_empty() || name.len() > FILE_NAME_BYTES_MAX {
        return wrong(&format!("must have 1 to {FILE_NAME_BYTES_MAX} bytes"));
    }
    if name.chars().any(|c| c.is_control() || c == '\\') {
        return wrong("holds a control character or a backslash");
    }
    if name
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        return wrong("leaves its directory");
    }
    Ok(())
}

pub(crate) fn check_adapter_name(name: &str) -> Result<(), Diagnostic> {
    let is_plain = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if name.is_empty() || name.len() > 64 || !is_plain || name.starts_with('.') {
        return Err(invalid(
            "adapter_name",
            format!("`{}` is no name for an adapter", name.escape_debug()),
        )
        .hint("use 1 to 64 letters, digits, `.`, `_` and `-`, not beginning with `.`"));
    }
    if name == "base" {
        return Err(invalid(
            "adapter_name",
            "no adapter can be called `base`: requests use that name for none",
        ));
    }
    Ok(())
}

/// Parameters of a model must be right, unlike options of a request: they stay.
pub(crate) fn check_parameters(parameters: &Map<String, Value>) -> Result<(), Diagnostic> {
    Options::read(parameters)?;
    let known = witness_api::KNOWN_OPTIONS;
    for name in parameters.keys() {
        if !known.contains(&name.as_str()) {
            let mut diagnostic = invalid(
                "parameter_unknown",
                format!("there is no parameter `{}`", name.escape_debug()),
            );
            if let Some(near) = witness_diagnostics::near_miss(name, known.iter().copied()) {
                diagnostic = diagnostic.hint(format!("did you mean `{near}`?"));
            }
            return Err(diagnostic);
        }
    }
    Ok(())
}

pub(crate) fn files_many(what: &str, count: usize) -> Diagnostic {
    invalid(
        "files_many",
        format!("{what} of {count} files; at most {FILES_MAX} are taken"),
    )
}

pub(super) fn layer_of(media_type: &str, file: &FileRef) -> Result<Layer, Diagnostic> {
    Ok(
        Layer::new(media_type, parse_digest(&file.name, &file.digest)?, file.size)
            .with(media::TITLE, file.name.clone()),
    )
}

/// Tells a GGUF by its first bytes: it is stored under Ollama's media type, so that Ollama can use it too.
pub(crate) fn is_gguf(file: &FileRef) -> bool {
    let spec = ModelSpec {
        files: vec![file.clone()],
    };
    crate::engine::magic_of(&spec)
        .first()
        .is_some_and(|(_, magic)| magic.starts_with(b"GGUF"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_stay_inside() {
        for name in ["model.safetensors", "sub/dir/file", "ünïcode.gguf", "a b", "..a", "a.."] {
            assert!(check_file_name(name, name).is_ok(), "{name}");
        }
        for name in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            ".",
            "a\\b",
            "a\nb",
            "a\0b",
            &"x".repeat(256),
        ] {
            assert!(check_file_name(name, name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn adapter_names() {
        for name in ["default", "tone-2", "A_b.c"] {
            assert!(check_adapter_name(name).is_ok(), "{name}");
        }
        for name in ["", "base", "a b", "é", ".hidden", "a@b", &"x".repeat(65)] {
            assert!(check_adapter_name(name).is_err(), "{name:?}");
        }
    }
}
