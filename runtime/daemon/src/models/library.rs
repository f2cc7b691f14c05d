//! The store as the routes see it: stored models by name, the listing as bytes, facts about bases. Everything is cached by the
//! store's change stamp, so that a request costs no file access while nothing changes.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Semaphore;
use witness_api::{ListModel, ListResponse, UNKNOWN_TIME, rfc3339};
use witness_diagnostics::{Diagnostic, Kind, near_misses};
use witness_plugin_protocol::{AdapterSpec, InspectReply, InspectRequest, ModelInfo, ModelSpec};
use witness_registry::{Digest, Lease, ModelName, Registry, media};

use super::config::ConfigBlob;
use super::stored::{Stored, free_name, read_json};
use crate::engine::Engine;
use crate::limits::{INSPECTIONS_MAX, INSPECTIONS_REMEMBERED_MAX, STORED_CACHED_MAX, UPLOAD_LEASE, UPLOAD_LEASES_MAX};

/// The store with its caches.
pub(crate) struct Library {
    pub(crate) registry: Registry,
    engine: Arc<dyn Engine>,
    /// At most so many untrusted files are looked into at once.
    inspections: Semaphore,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    /// Stamp of the store that the two below were read at.
    generation: u64,
    tags: Option<Bytes>,
    stored: HashMap<ModelName, Arc<Stored>>,
    /// Facts about bases whose config holds none, by base key. True for ever: the files are immutable.
    inspected: HashMap<String, Arc<ModelInfo>>,
    /// Blobs that were uploaded or asked for and that no model may name yet.
    uploads: VecDeque<(Instant, Digest, Lease)>,
}

impl Library {
    pub(crate) fn new(registry: Registry, engine: Arc<dyn Engine>) -> Self {
        Self {
            registry,
            engine,
            inspections: Semaphore::new(INSPECTIONS_MAX),
            cache: Mutex::default(),
        }
    }

    /// Returns the cache, emptied of what the store has outgrown.
    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        let generation = self.registry.generation();
        // The cache is whole after every statement, so a panic elsewhere does not make it wrong.
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.generation != generation {
            cache.generation = generation;
            cache.tags = None;
            cache.stored.clear();
        }
        cache
    }

    /// Returns a stored model. A name that is not here is answered with names that are close to it.
    pub(crate) async fn stored(self: &Arc<Self>, text: &str) -> Result<Arc<Stored>, Diagnostic> {
        let name = parse_name(text)?;
        if let Some(stored) = self.cache().stored.get(&name) {
            return Ok(Arc::clone(stored));
        }
        let library = Arc::clone(self);
        blocking(move || {
            let generation = library.registry.generation();
            let stored = match Stored::read(&library.registry, &name) {
                Ok(stored) => Arc::new(stored),
                Err(error) if error.kind == Kind::NotFound => return Err(library.not_found(&name, error)),
                Err(error) => return Err(error),
            };
            let mut cache = library.cache();
            if cache.generation == generation {
                if cache.stored.len() >= STORED_CACHED_MAX {
                    cache.stored.clear();
                }
                cache.stored.insert(name, Arc::clone(&stored));
            }
            Ok(stored)
        })
        .await
    }

    fn not_found(&self, name: &ModelName, error: Diagnostic) -> Diagnostic {
        let typed = name.display_typed();
        let known: Vec<String> = self
            .registry
            .list()
            .unwrap_or_default()
            .iter()
            .map(|entry| entry.name.display_typed())
            .collect();
        let near = near_misses(&typed, known.iter().map(String::as_str));
        let mut diagnostic = Diagnostic::new(error.code, Kind::NotFound, format!("model `{typed}` is not here"));
        for name in near {
            diagnostic = diagnostic.hint(format!("did you mean `{name}`?"));
        }
        diagnostic.hint("run `witness list` to see what is here")
    }

    /// Returns the body of `/api/tags`.
    pub(crate) async fn tags(self: &Arc<Self>) -> Result<Bytes, Diagnostic> {
        if let Some(tags) = &self.cache().tags {
            return Ok(tags.clone());
        }
        let library = Arc::clone(self);
        blocking(move || {
            let generation = library.registry.generation();
            let list = library.list()?;
            let tags = Bytes::from(serde_json::to_vec(&list).map_err(|error| {
                Diagnostic::new("witness::daemon::json", Kind::Internal, "the listing cannot be written")
                    .cause(error.to_string())
            })?);
            let mut cache = library.cache();
            if cache.generation == generation {
                cache.tags = Some(tags.clone());
            }
            Ok::<_, Diagnostic>(tags)
        })
        .await
    }

    fn list(&self) -> Result<ListResponse, Diagnostic> {
        let mut entries = self.registry.list().map_err(Diagnostic::from)?;
        entries.sort_by(|a, b| b.modified.cmp(&a.modified).then_with(|| a.name.cmp(&b.name)));
        let models = entries
            .into_iter()
            .map(|entry| {
                let name = entry.name.display_short();
                let mut model = ListModel {
                    model: name.clone(),
                    name,
                    modified_at: rfc3339(entry.modified),
                    size: entry.size,
                    ..ListModel::default()
                };
                match entry.result {
                    Err(damage) => model.damage = Some(damage.to_string()),
                    Ok((manifest, digest)) => {
                        model.digest = digest.hex().to_owned();
                        match read_json::<ConfigBlob>(&self.registry, &entry.name, &manifest.config) {
                            Ok(config) => model.details = config.details(),
                            Err(error) => model.damage = Some(error.to_string()),
                        }
                        for layer in &manifest.layers {
                            let name = match layer.media_type.as_str() {
                                media::ADAPTER | media::WITNESS_ADAPTER_FILE => layer.annotation(media::ADAPTER_NAME),
                                _ => continue,
                            };
                            let name = name.unwrap_or("default");
                            if !model.adapters.iter().any(|known| known == name) {
                                model.adapters.push(name.to_owned());
                            }
                        }
                    }
                }
                if model.modified_at == UNKNOWN_TIME {
                    tracing::debug!(model = %model.name, "no modification time");
                }
                model
            })
            .collect();
        Ok(ListResponse { models })
    }

    /// Returns facts about a model's base: from its config, or by inspection, once.
    pub(crate) async fn info(self: &Arc<Self>, stored: &Stored) -> Result<Arc<ModelInfo>, Diagnostic> {
        if let Some(info) = stored.config.witness.as_ref().and_then(|witness| witness.info.as_ref()) {
            return Ok(Arc::new(info.clone()));
        }
        if let Some(info) = self.cache().inspected.get(&stored.base_key) {
            return Ok(Arc::clone(info));
        }
        let (_, reply) = self.inspect(stored.base.clone(), Vec::new(), None, None).await?;
        let info = Arc::new(reply.model);
        let mut cache = self.cache();
        if cache.inspected.len() >= INSPECTIONS_REMEMBERED_MAX {
            cache.inspected.clear();
        }
        cache.inspected.insert(stored.base_key.clone(), Arc::clone(&info));
        Ok(info)
    }

    /// Says whether any name still stands on a model's base.
    pub(crate) async fn is_base_named(&self, stored: &Stored) -> Result<bool, Diagnostic> {
        let registry = self.registry.clone();
        let base: BTreeSet<String> = stored.base.files.iter().map(|file| file.digest.clone()).collect();
        blocking(move || {
            let entries = registry.list()?;
            Ok::<_, witness_registry::RegistryError>(entries.iter().any(|entry| {
                entry
                    .result
                    .as_ref()
                    .is_ok_and(|(manifest, _)| manifest.layers.iter().any(|layer| base.contains(layer.digest.as_str())))
            }))
        })
        .await
    }

    /// Looks into files, in a worker with limits, a few at a time.
    pub(crate) async fn inspect(
        &self,
        model: ModelSpec,
        adapters: Vec<AdapterSpec>,
        template: Option<String>,
        draft: Option<ModelSpec>,
    ) -> Result<(String, InspectReply), Diagnostic> {
        let _place = self.inspections.acquire().await.map_err(|_| shutting_down())?;
        let request = InspectRequest {
            model,
            adapters,
            template,
            draft,
        };
        self.engine.inspect(&request).await
    }

    /// Keeps a blob from the collector for a while, because a client is about to make a model of it.
    pub(crate) fn expect(&self, now: Instant, digest: Digest) {
        let lease = self.registry.lease(&[digest]);
        let mut cache = self.cache();
        while cache.uploads.len() >= UPLOAD_LEASES_MAX
            || cache
                .uploads
                .front()
                .is_some_and(|(since, _, _)| now.duration_since(*since) > UPLOAD_LEASE)
        {
            cache.uploads.pop_front();
        }
        cache.uploads.push_back((now, digest, lease));
    }

    /// Lets go of blobs that a manifest names by now: from here on they live as long as it does.
    pub(crate) fn named(&self, digests: &BTreeSet<Digest>) {
        self.cache().uploads.retain(|(_, digest, _)| !digests.contains(digest));
    }
}

/// Parses a model's name.
pub(crate) fn parse_name(text: &str) -> Result<ModelName, Diagnostic> {
    if text.is_empty() {
        return Err(Diagnostic::new(
            "witness::daemon::model_missing",
            Kind::Invalid,
            "the request names no `model`",
        )
        .hint("add `\"model\": \"NAME\"` to the request"));
    }
    ModelName::parse(text).map_err(Diagnostic::from)
}

/// Returns a name for the next adapter that nobody named.
pub(crate) fn free_adapter_name(adapters: &[AdapterSpec]) -> String {
    free_name(adapters)
}

/// Runs blocking work off the network's threads.
pub(crate) async fn blocking<T, E, F>(work: F) -> Result<T, Diagnostic>
where
    F: FnOnce() -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: Into<Diagnostic> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => Err(Diagnostic::new(
            "witness::daemon::task",
            Kind::Internal,
            "a task ended before it was done",
        )
        .cause(error.to_string())),
    }
}

/// What requests are told that come too late.
pub(crate) fn shutting_down() -> Diagnostic {
    Diagnostic::new(
        "witness::daemon::shutting_down",
        Kind::Busy,
        "the daemon is shutting down",
    )
    .hint("start it again with `witness serve`")
}
