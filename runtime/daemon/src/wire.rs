//! [`Engine`] over the plugin host: which plugin, which worker, which limits and deadlines.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use witness_api::PluginReport;
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_host::{FileFacts, GenEvent, Generation, Host, HostConfig, Job, Limits, ModelHandle, PluginEntry};
use witness_plugin_protocol::{
    GenerateRequest, InspectReply, InspectRequest, LoadAdapterReply, LoadAdapterRequest, LoadRequest, MeasurePlan,
    MeasureRequest, ModelSpec, Role, TrainRequest, TransformPlan, TransformRequest, UnloadAdapterRequest,
};
use witness_settings::Settings;

use crate::engine::{Answer, Boxed, Engine, Event, Events, LoadedBase, RunningJob, Worker, magic_of};
use crate::limits::TRAIN_PLAN_TIMEOUT;
use crate::memory;
use crate::models::library::blocking;

/// The host with the daemon's settings.
pub(crate) struct Wire {
    host: Host,
    load_timeout: Duration,
    inspect_timeout: Duration,
    inspect_memory_bytes: u64,
    memory_budget_bytes: u64,
}

impl Wire {
    /// Makes a host. Finds nothing and starts nothing yet.
    pub(crate) fn new(settings: &Settings, worker_program: PathBuf, directories: Vec<PathBuf>) -> Self {
        let config = HostConfig {
            directories,
            heartbeat: settings.heartbeat,
            stall_timeout: settings.stall_timeout,
            isa: settings.isa.clone(),
            ..HostConfig::new(worker_program)
        };
        Self {
            host: Host::new(config),
            load_timeout: settings.load_timeout,
            inspect_timeout: settings.inspect_timeout,
            inspect_memory_bytes: settings.inspect_memory_bytes,
            memory_budget_bytes: memory::budget_bytes(settings),
        }
    }

    /// Returns the plugin that has a role for a model. An empty architecture is any.
    async fn choose(&self, role: Role, model: &ModelSpec, architecture: &str) -> Result<Arc<PluginEntry>, Diagnostic> {
        let architecture = Some(architecture).filter(|name| !name.is_empty());
        let model = model.clone();
        let facts = blocking(move || {
            let facts = magic_of(&model)
                .into_iter()
                .map(|(name, magic)| FileFacts { name, magic });
            Ok::<Vec<FileFacts>, Diagnostic>(facts.collect())
        })
        .await?;
        self.host.choose(role, &facts, architecture).await
    }

    /// Asks for the plan of a job, in a worker that ends with it.
    async fn plan<P: DeserializeOwned>(
        &self,
        entry: &PluginEntry,
        role: Role,
        request: &(impl Serialize + Sync),
        purpose: &str,
    ) -> Result<P, Diagnostic> {
        let worker = self.host.start(entry, Limits::for_purpose(purpose)).await?;
        let plan = worker.plan_job(role, request, self.inspect_timeout).await;
        worker.kill();
        serde_json::from_value(plan?).map_err(|error| {
            Diagnostic::new(
                "witness::daemon::plugin_reply",
                Kind::Plugin,
                format!("plugin `{}` answered with what is no plan", entry.name()),
            )
            .cause(error.to_string())
            .hint("report it to the plugin's author")
        })
    }

    /// Runs a job in a worker that stands behind all other work of the machine.
    async fn run_behind(
        &self,
        entry: &PluginEntry,
        role: Role,
        request: &(impl Serialize + Sync),
        purpose: &str,
    ) -> Result<Box<dyn RunningJob>, Diagnostic> {
        let limits = Limits {
            is_background: true,
            ..Limits::for_purpose(purpose)
        };
        let worker = self.host.start(entry, limits).await?;
        let job = worker.run_job(role, request)?;
        Ok(Box::new(HostJob {
            worker,
            job,
            plugin: entry.name(),
        }))
    }
}

impl Engine for Wire {
    fn inspect<'a>(&'a self, request: &'a InspectRequest) -> Boxed<'a, Result<(String, InspectReply), Diagnostic>> {
        Box::pin(async move {
            let entry = self.choose(Role::Serve, &request.model, "").await?;
            let limits = Limits {
                memory_bytes: Some(self.inspect_memory_bytes),
                purpose: "looking into a new model".into(),
                is_untrusted: true,
                is_background: false,
            };
            let worker = self.host.start(&entry, limits).await?;
            let reply = worker.inspect(request, self.inspect_timeout).await;
            worker.kill();
            Ok((entry.name(), reply?))
        })
    }

    fn load<'a>(
        &'a self,
        request: &'a LoadRequest,
        architecture: &'a str,
        purpose: &'a str,
    ) -> Boxed<'a, Result<LoadedBase, Diagnostic>> {
        Box::pin(async move {
            let entry = self.choose(Role::Serve, &request.model, architecture).await?;
            let worker = self.host.start(&entry, Limits::for_purpose(purpose)).await?;
            match worker.load(request, self.load_timeout).await {
                Ok((model, reply)) => {
                    let loaded = Loaded {
                        worker,
                        model,
                        plugin: entry.name(),
                        load_timeout: self.load_timeout,
                    };
                    Ok((Arc::new(loaded) as Arc<dyn Worker>, reply))
                }
                Err(error) => {
                    worker.kill();
                    Err(error)
                }
            }
        })
    }

    fn plan_training<'a>(
        &'a self,
        request: &'a TrainRequest,
        architecture: &'a str,
    ) -> Boxed<'a, Result<(String, Value), Diagnostic>> {
        Box::pin(async move {
            let entry = self.choose(Role::Train, &request.model, architecture).await?;
            // Nobody vouches for the rows, and what is taken for a trial is given back with the process.
            let limits = Limits {
                memory_bytes: Some(self.memory_budget_bytes),
                purpose: "planning a training run".into(),
                is_untrusted: true,
                is_background: true,
            };
            let worker = self.host.start(&entry, limits).await?;
            let plan = worker.plan_job(Role::Train, request, TRAIN_PLAN_TIMEOUT).await;
            worker.kill();
            Ok((entry.name(), plan?))
        })
    }

    fn train<'a>(
        &'a self,
        request: &'a TrainRequest,
        architecture: &'a str,
        purpose: &'a str,
    ) -> Boxed<'a, Result<Box<dyn RunningJob>, Diagnostic>> {
        Box::pin(async move {
            let entry = self.choose(Role::Train, &request.model, architecture).await?;
            self.run_behind(&entry, Role::Train, request, purpose).await
        })
    }

    fn plan_transform<'a>(
        &'a self,
        request: &'a TransformRequest,
        architecture: &'a str,
    ) -> Boxed<'a, Result<(String, TransformPlan), Diagnostic>> {
        Box::pin(async move {
            let entry = self.choose(Role::Quantize, &request.model, architecture).await?;
            let purpose = "planning another form of a model";
            let plan = self.plan(&entry, Role::Quantize, request, purpose).await?;
            Ok((entry.name(), plan))
        })
    }

    fn transform<'a>(
        &'a self,
        request: &'a TransformRequest,
        architecture: &'a str,
        purpose: &'a str,
    ) -> Boxed<'a, Result<Box<dyn RunningJob>, Diagnostic>> {
        Box::pin(async move {
            let entry = self.choose(Role::Quantize, &request.model, architecture).await?;
            self.run_behind(&entry, Role::Quantize, request, purpose).await
        })
    }

    fn plan_measure<'a>(
        &'a self,
        request: &'a MeasureRequest,
        architecture: &'a str,
    ) -> Boxed<'a, Result<MeasurePlan, Diagnostic>> {
        Box::pin(async move {
            let entry = self.choose(Role::Measure, &request.model, architecture).await?;
            self.plan(&entry, Role::Measure, request, "planning a measurement")
                .await
        })
    }

    fn measure<'a>(
        &'a self,
        request: &'a MeasureRequest,
        architecture: &'a str,
        purpose: &'a str,
    ) -> Boxed<'a, Result<Box<dyn RunningJob>, Diagnostic>> {
        Box::pin(async move {
            let entry = self.choose(Role::Measure, &request.model, architecture).await?;
            self.run_behind(&entry, Role::Measure, request, purpose).await
        })
    }

    fn plugins(&self) -> Boxed<'_, Vec<PluginReport>> {
        Box::pin(async move { self.host.plugins().await.iter().map(|entry| report(entry)).collect() })
    }

    fn check(&self, path: PathBuf) -> Boxed<'_, PluginReport> {
        Box::pin(async move { report(&self.host.check(&path).await) })
    }

    fn directories(&self) -> Vec<PathBuf> {
        self.host.config().directories.clone()
    }
}

fn report(entry: &PluginEntry) -> PluginReport {
    let as_value = serde_json::to_value(entry).and_then(serde_json::from_value);
    as_value.unwrap_or_else(|error| PluginReport {
        path: entry.path.clone(),
        refused: Some(
            Diagnostic::new(
                "witness::daemon::json",
                Kind::Internal,
                "the plugin's entry cannot be written",
            )
            .cause(error.to_string()),
        ),
        ..PluginReport::default()
    })
}

/// A worker with its one model.
struct Loaded {
    worker: witness_plugin_host::Worker,
    model: ModelHandle,
    plugin: String,
    load_timeout: Duration,
}

impl Worker for Loaded {
    fn load_adapter<'a>(&'a self, request: &'a LoadAdapterRequest) -> Boxed<'a, Result<LoadAdapterReply, Diagnostic>> {
        Box::pin(async move { self.worker.load_adapter(self.model, request, self.load_timeout).await })
    }

    fn unload_adapter<'a>(&'a self, name: &'a str) -> Boxed<'a, Result<(), Diagnostic>> {
        Box::pin(async move {
            self.worker
                .unload_adapter(self.model, &UnloadAdapterRequest { name: name.to_owned() })
                .await
        })
    }

    fn generate<'a>(&'a self, request: &'a GenerateRequest) -> Boxed<'a, Result<Answer, Diagnostic>> {
        Box::pin(async move {
            let generation = self.worker.generate(self.model, request).await?;
            Ok(Answer {
                started: generation.started.clone(),
                events: Box::new(FromHost(generation)),
            })
        })
    }

    fn died(&self) -> Boxed<'_, Diagnostic> {
        Box::pin(self.worker.died())
    }

    fn stop(&self, grace: Duration) -> Boxed<'_, ()> {
        Box::pin(async move {
            if let Err(death) = self.worker.stop(grace).await {
                tracing::debug!("a worker did not end by itself: {death}");
            }
        })
    }

    fn pid(&self) -> u32 {
        self.worker.pid()
    }

    fn plugin(&self) -> String {
        self.plugin.clone()
    }
}

/// A worker with its one job. Fields are dropped in this order: the job is told, then its process ends.
struct HostJob {
    job: Job,
    worker: witness_plugin_host::Worker,
    plugin: String,
}

impl RunningJob for HostJob {
    fn next(&mut self) -> Boxed<'_, Option<Value>> {
        Box::pin(self.job.next())
    }

    fn stop(&self) {
        self.job.stop();
    }

    fn kill(&self) {
        self.worker.kill();
    }

    fn finish(self: Box<Self>) -> Boxed<'static, Result<Value, Diagnostic>> {
        Box::pin(async move {
            let reply = self.job.finish().await;
            self.worker.kill();
            reply
        })
    }

    fn pid(&self) -> u32 {
        self.worker.pid()
    }

    fn plugin(&self) -> String {
        self.plugin.clone()
    }
}

struct FromHost(Generation);

impl Events for FromHost {
    fn next(&mut self) -> Boxed<'_, Option<Event>> {
        Box::pin(async move {
            self.0.recv().await.map(|event| match event {
                GenEvent::Token {
                    id,
                    text,
                    logprob,
                    alternatives,
                } => Event::Token {
                    id,
                    text,
                    logprob,
                    alternatives,
                },
                GenEvent::Done(done, text) => Event::Done(done, text),
                GenEvent::Error(diagnostic) => Event::Error(diagnostic),
            })
        })
    }
}
