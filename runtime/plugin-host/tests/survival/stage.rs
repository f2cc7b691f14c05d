//! What every case needs: a directory with the hostile plugin and a model in it, a host, and a worker's whole life.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use witness_plugin_host::{GenEvent, Generation, Host, HostConfig, Limits, ModelHandle, PluginEntry, Worker};
use witness_plugin_protocol::{
    AdapterSpec, Diagnostic, FileRef, GenerateRequest, InspectRequest, LoadAdapterRequest, LoadOptions, LoadRequest,
    ModelSpec, Prompt, Role, SamplingOptions, UnloadAdapterRequest,
};

/// Longer than anything that is not a hang takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(30);
/// As long as a hang is waited for.
pub(crate) const SHORT: Duration = Duration::from_millis(400);
/// Memory of a worker in tests.
pub(crate) const MEMORY_BYTES: u64 = 192 << 20;

/// A directory of its own with the plugin and a model.
pub(crate) struct Stage {
    pub(crate) directory: tempfile::TempDir,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("plugins")).unwrap();
        let stage = Self { directory };
        std::fs::copy(hostile_library(), stage.plugin()).unwrap();
        stage.write_model("");
        stage
    }

    pub(crate) fn plugins(&self) -> PathBuf {
        self.directory.path().join("plugins")
    }

    pub(crate) fn plugin(&self) -> PathBuf {
        self.plugins().join("libwitness_plugin_hostile.so")
    }

    pub(crate) fn model(&self) -> PathBuf {
        self.directory.path().join("model.hostile")
    }

    pub(crate) fn write_model(&self, lines: &str) {
        std::fs::write(self.model(), format!("HOSTILE1\n{lines}\n")).unwrap();
    }

    /// A configuration whose times are long, so that only what is meant to be slow is.
    pub(crate) fn config(&self) -> HostConfig {
        let mut config = HostConfig::new(std::env::current_exe().unwrap());
        config.directories = vec![self.plugins()];
        config.heartbeat = Duration::from_millis(50);
        config.heartbeat_timeout = LONG;
        config.stall_timeout = LONG;
        config.start_timeout = LONG;
        config.describe_memory_bytes = Some(MEMORY_BYTES);
        config
    }

    pub(crate) fn host(&self) -> Host {
        Host::new(self.config())
    }

    /// A host whose workers misbehave.
    pub(crate) fn hostile(&self, wish: &str, change: impl FnOnce(&mut HostConfig)) -> Host {
        let mut config = self.config();
        config.environment = vec![("WITNESS_HOSTILE".into(), wish.into())];
        change(&mut config);
        Host::new(config)
    }

    fn files(&self) -> ModelSpec {
        let file = FileRef {
            name: "model.hostile".into(),
            path: self.model(),
            digest: String::new(),
            size: 0,
        };
        ModelSpec { files: vec![file] }
    }

    pub(crate) fn inspect_request(&self) -> InspectRequest {
        InspectRequest {
            model: self.files(),
            adapters: vec![],
            template: None,
            draft: None,
        }
    }

    pub(crate) fn load_request(&self) -> LoadRequest {
        LoadRequest {
            model: self.files(),
            options: LoadOptions::default(),
            chats: None,
            packed: None,
        }
    }

    /// Starts a worker and loads the model.
    pub(crate) async fn loaded(&self, host: &Host) -> (Worker, ModelHandle) {
        let worker = start(host).await.unwrap();
        let (model, _) = worker.load(&self.load_request(), LONG).await.unwrap();
        (worker, model)
    }

    /// Shows that the plugin works in a worker of its own.
    pub(crate) async fn prove_good(&self) {
        let (worker, model) = self.loaded(&self.host()).await;
        let generation = worker.generate(model, &request("all is well")).await.unwrap();
        assert_eq!(collect(generation).await.unwrap(), "all is well");
    }
}

static LIBRARY: OnceLock<PathBuf> = OnceLock::new();

/// Copies the plugin's library, which cargo leaves beside the test programs of a package that depends on it: a build that runs
/// meanwhile may replace it. The copy lives as long as the returned directory.
pub(crate) fn copy_library() -> tempfile::TempDir {
    let beside = std::env::current_exe()
        .unwrap()
        .with_file_name("libwitness_plugin_hostile.so");
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("hostile.so");
    std::fs::copy(&beside, &copy).unwrap_or_else(|error| panic!("{}: {error}", beside.display()));
    LIBRARY.set(copy).unwrap();
    directory
}

/// Returns the copy of the plugin's library.
pub(crate) fn hostile_library() -> &'static Path {
    LIBRARY.get().unwrap()
}

pub(crate) fn limits() -> Limits {
    Limits {
        memory_bytes: Some(MEMORY_BYTES),
        purpose: "a test".into(),
        is_untrusted: false,
        is_background: false,
    }
}

/// Finds the one plugin, usable or not.
pub(crate) async fn entry(host: &Host) -> std::sync::Arc<PluginEntry> {
    let entries = host.plugins().await;
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries[0].clone()
}

pub(crate) async fn start(host: &Host) -> Result<Worker, Diagnostic> {
    host.start(&*entry(host).await, limits()).await
}

pub(crate) fn request(text: &str) -> GenerateRequest {
    GenerateRequest {
        prompt: Prompt::Text {
            text: text.into(),
            context: vec![],
            add_special: true,
        },
        adapter: None,
        draft: None,
        sampling: SamplingOptions::default(),
        format: None,
        top_logprobs: None,
        truncate: false,
        return_prompt_ids: false,
    }
}

/// Reads an answer to its end.
pub(crate) async fn collect(mut generation: Generation) -> Result<String, Diagnostic> {
    let mut answer = String::new();
    while let Some(event) = generation.recv().await {
        match event {
            GenEvent::Token { text, .. } => answer += &text,
            GenEvent::Done(_, text) => return Ok(answer + &text),
            GenEvent::Error(diagnostic) => return Err(diagnostic),
        }
    }
    panic!("the answer `{answer}` has no end");
}

pub(crate) fn adapter() -> LoadAdapterRequest {
    LoadAdapterRequest {
        adapter: AdapterSpec {
            name: "one".into(),
            files: vec![],
        },
        check: true,
        draft: None,
    }
}

/// Takes a worker through every phase and returns the first error. `deadline` is for inspect, load and load_adapter.
pub(crate) async fn whole_life(stage: &Stage, host: &Host, deadline: Duration) -> Result<(), Diagnostic> {
    let worker = start(host).await?;
    worker.inspect(&stage.inspect_request(), deadline).await?;
    let (model, _) = worker.load(&stage.load_request(), deadline).await?;
    worker.load_adapter(model, &adapter(), deadline).await?;
    let with_adapter = GenerateRequest {
        adapter: Some("one".into()),
        ..request("a b c")
    };
    let answer = collect(worker.generate(model, &with_adapter).await?).await?;
    if answer != "[one] a b c" {
        let wrong = Diagnostic::new(
            "test::wrong",
            witness_plugin_protocol::Kind::Plugin,
            format!("wrong answer `{answer}`"),
        );
        return Err(wrong.hint("none"));
    }
    let mut dropped = worker.generate(model, &request("emit 4000")).await?;
    let _ = dropped.recv().await;
    drop(dropped);
    worker
        .unload_adapter(model, &UnloadAdapterRequest { name: "one".into() })
        .await?;
    worker.unload(model).await?;
    worker.stop(deadline).await
}

/// Plans a job and runs it in a worker of its own; returns the first error. `deadline` is for the plan.
pub(crate) async fn job_life(stage: &Stage, host: &Host, deadline: Duration) -> Result<(), Diagnostic> {
    let worker = start(host).await?;
    let request = crate::jobs::request(stage, "row\nstep_ms 2\n");
    // A reply may be any JSON for the worker; who asked reads it as what it should be.
    let read = |value: serde_json::Value, what: &str| match value.is_object() && value != serde_json::json!({}) {
        true => Ok(()),
        false => Err(Diagnostic::new(
            "test::wrong",
            witness_plugin_protocol::Kind::Plugin,
            format!("the {what} cannot be read"),
        )
        .hint("none")),
    };
    read(worker.plan_job(Role::Train, &request, deadline).await?, "plan")?;
    let mut job = worker.run_job(Role::Train, &request)?;
    let mut steps = 0;
    while let Some(event) = job.next().await {
        steps += usize::from(event["type"] == "step");
    }
    read(job.finish().await?, "reply")?;
    assert_eq!(steps, 6);
    worker.stop(LONG).await
}

/// Returns a diagnostic as one text.
pub(crate) fn text_of(diagnostic: &Diagnostic) -> String {
    witness_diagnostics::render(diagnostic, false)
}

pub(crate) fn copy_to(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap();
}
