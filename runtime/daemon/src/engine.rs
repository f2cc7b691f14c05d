//! What the daemon needs of whoever computes: a trait, so that the routes can be tested without a process.
//!
//! `wire` implements it over `witness-plugin-host`; the tests implement it with a few lines of their own.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use witness_api::PluginReport;
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{
    Alternative, Done, GenerateRequest, InspectReply, InspectRequest, LoadAdapterReply, LoadAdapterRequest, LoadReply,
    LoadRequest, MeasurePlan, MeasureRequest, ModelSpec, Started, TrainRequest, TransformPlan, TransformRequest,
};

/// A boxed future: the trait below is used as an object.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A worker with its base loaded, and what it said about it.
pub type LoadedBase = (Arc<dyn Worker>, LoadReply);

/// Finds plugins and starts workers.
pub trait Engine: Send + Sync + 'static {
    /// Looks into untrusted files, in a worker of its own with limits on memory and time. Returns the plugin's name with its findings.
    fn inspect<'a>(&'a self, request: &'a InspectRequest) -> Boxed<'a, Result<(String, InspectReply), Diagnostic>>;
    /// Starts a worker for a model and loads it.
    fn load<'a>(
        &'a self,
        request: &'a LoadRequest,
        architecture: &'a str,
        purpose: &'a str,
    ) -> Boxed<'a, Result<LoadedBase, Diagnostic>>;
    /// Asks what a training run would do and take, in a worker of its own. Returns the plugin's name with the plan.
    fn plan_training<'a>(
        &'a self,
        _request: &'a TrainRequest,
        _architecture: &'a str,
    ) -> Boxed<'a, Result<(String, Value), Diagnostic>> {
        Box::pin(async { Err(does_not("train")) })
    }
    /// Starts a training run in a worker of its own, behind all other work of the machine.
    fn train<'a>(
        &'a self,
        _request: &'a TrainRequest,
        _architecture: &'a str,
        _purpose: &'a str,
    ) -> Boxed<'a, Result<Box<dyn RunningJob>, Diagnostic>> {
        Box::pin(async { Err(does_not("train")) })
    }
    /// Asks what a model would become, in a worker of its own. Returns the plugin's name with the plan.
    fn plan_transform<'a>(
        &'a self,
        _request: &'a TransformRequest,
        _architecture: &'a str,
    ) -> Boxed<'a, Result<(String, TransformPlan), Diagnostic>> {
        Box::pin(async { Err(does_not("quantize")) })
    }
    /// Starts to make another form of a model in a worker of its own, behind all other work of the machine.
    fn transform<'a>(
        &'a self,
        _request: &'a TransformRequest,
        _architecture: &'a str,
        _purpose: &'a str,
    ) -> Boxed<'a, Result<Box<dyn RunningJob>, Diagnostic>> {
        Box::pin(async { Err(does_not("quantize")) })
    }
    /// Asks what a measurement would take, in a worker of its own.
    fn plan_measure<'a>(
        &'a self,
        _request: &'a MeasureRequest,
        _architecture: &'a str,
    ) -> Boxed<'a, Result<MeasurePlan, Diagnostic>> {
        Box::pin(async { Err(does_not("measure")) })
    }
    /// Starts to measure a model in a worker of its own, behind all other work of the machine.
    fn measure<'a>(
        &'a self,
        _request: &'a MeasureRequest,
        _architecture: &'a str,
        _purpose: &'a str,
    ) -> Boxed<'a, Result<Box<dyn RunningJob>, Diagnostic>> {
        Box::pin(async { Err(does_not("measure")) })
    }
    /// Lists plugin files.
    fn plugins(&self) -> Boxed<'_, Vec<PluginReport>>;
    /// Checks one plugin file.
    fn check(&self, path: PathBuf) -> Boxed<'_, PluginReport>;
    /// Returns where plugins are looked for.
    fn directories(&self) -> Vec<PathBuf>;
}

fn does_not(role: &str) -> Diagnostic {
    Diagnostic::new(
        "witness::daemon::no_role",
        Kind::Unsupported,
        format!("this engine does not {role}"),
    )
}

/// A long job in its worker, such as a training run. Dropping it ends the worker.
pub trait RunningJob: Send {
    /// Waits for the next event, a JSON object; nothing after the last, or when the worker is gone. The job waits until it is taken.
    fn next(&mut self) -> Boxed<'_, Option<Value>>;
    /// Asks the job to save and end.
    fn stop(&self);
    /// Ends the worker at once.
    fn kill(&self);
    /// Waits for the end and returns the reply, or why there is none.
    fn finish(self: Box<Self>) -> Boxed<'static, Result<Value, Diagnostic>>;
    /// Returns the process id.
    fn pid(&self) -> u32;
    /// Returns the name of the plugin.
    fn plugin(&self) -> String;
}

/// A worker process with one loaded base.
pub trait Worker: Send + Sync + 'static {
    /// Attaches an adapter or a draft.
    fn load_adapter<'a>(&'a self, request: &'a LoadAdapterRequest) -> Boxed<'a, Result<LoadAdapterReply, Diagnostic>>;
    /// Detaches an adapter or a draft.
    fn unload_adapter<'a>(&'a self, name: &'a str) -> Boxed<'a, Result<(), Diagnostic>>;
    /// Starts an answer.
    fn generate<'a>(&'a self, request: &'a GenerateRequest) -> Boxed<'a, Result<Answer, Diagnostic>>;
    /// Waits until the worker is gone and says why.
    fn died(&self) -> Boxed<'_, Diagnostic>;
    /// Ends the worker: politely, then not.
    fn stop(&self, grace: Duration) -> Boxed<'_, ()>;
    /// Returns its process id.
    fn pid(&self) -> u32;
    /// Returns the name of its plugin.
    fn plugin(&self) -> String;
}

/// A running answer. Dropping it cancels it at the next step.
pub struct Answer {
    /// First report.
    pub started: Started,
    /// What follows.
    pub events: Box<dyn Events>,
}

/// The events of an answer, in order; the last is `Done` or `Error`.
pub trait Events: Send {
    /// Waits for the next event; nothing after the last, or when the worker is gone.
    fn next(&mut self) -> Boxed<'_, Option<Event>>;
}

/// One event of an answer.
#[derive(Clone, Debug)]
pub enum Event {
    /// A token and the text it completes; the text may be empty.
    Token {
        /// Token id.
        id: u32,
        /// Whole characters.
        text: String,
        /// Natural logarithm of its probability, when asked for.
        logprob: Option<f32>,
        /// Likely alternatives, when asked for.
        alternatives: Vec<Alternative>,
    },
    /// The answer ended, with text that was held back.
    Done(Done, String),
    /// The answer broke off.
    Error(Diagnostic),
}

/// Returns what a set of files shows of itself to choose a plugin by: names and first bytes.
pub(crate) fn magic_of(model: &ModelSpec) -> Vec<(String, Vec<u8>)> {
    use std::io::Read;
    let read = |path: &PathBuf| -> std::io::Result<Vec<u8>> {
        let mut magic = Vec::with_capacity(MAGIC_BYTES);
        std::fs::File::open(path)?
            .take(MAGIC_BYTES as u64)
            .read_to_end(&mut magic)?;
        Ok(magic)
    };
    // A file that cannot be read shows nothing; the plugin that opens it will say why.
    model
        .files
        .iter()
        .map(|file| (file.name.clone(), read(&file.path).unwrap_or_default()))
        .collect()
}

/// First bytes of a file that a plugin's rule may ask for.
const MAGIC_BYTES: usize = 8;
