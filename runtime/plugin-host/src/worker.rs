//! A running worker: the calls of the role `serve`, typed, and jobs.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use witness_plugin_protocol::{
    Descriptor, Diagnostic, GenerateRequest, InspectReply, InspectRequest, Kind, LoadAdapterReply, LoadAdapterRequest,
    LoadReply, LoadRequest, Role, UnloadAdapterRequest,
};

use crate::connection::{Answer, Connection};
use crate::death::Cause;
use crate::frame::{CallHeader, Operation, number_of_role};
use crate::generation::Generation;
use crate::job::Job;

/// Tokens that one answer may have when neither the request nor the model says.
const TOKENS_MAX_DEFAULT: u64 = 1 << 20;
/// How long an `unload` or `unload_adapter` may take.
const UNLOAD_DEADLINE: Duration = Duration::from_secs(60);

/// A process with one plugin in it. Clones share it; the process is ended when the last one is dropped.
#[derive(Clone)]
pub struct Worker(Arc<Handle>);

struct Handle {
    connection: Arc<Connection>,
    descriptor: Descriptor,
    stream_events_max: usize,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.connection.death().is_none() {
            self.connection.end(Cause::Wanted);
        }
    }
}

/// A model that a worker has loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelHandle {
    model: u64,
    num_ctx: u64,
}

impl Worker {
    pub(crate) fn new(connection: Arc<Connection>, descriptor: Descriptor, stream_events_max: usize) -> Self {
        Self(Arc::new(Handle {
            connection,
            descriptor,
            stream_events_max,
        }))
    }

    /// Returns what its plugin says about itself.
    pub fn descriptor(&self) -> &Descriptor {
        &self.0.descriptor
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.0.connection.pid()
    }

    /// Asks what files hold.
    ///
    /// # Errors
    /// The plugin refuses the files, the deadline passes (then the worker is ended), or the worker dies.
    pub async fn inspect(&self, request: &InspectRequest, deadline: Duration) -> Result<InspectReply, Diagnostic> {
        let answer = self.call(Operation::Inspect, 0, request, Some(deadline)).await?;
        self.decode(Operation::Inspect, &answer)
    }

    /// Loads a base model.
    ///
    /// # Errors
    /// As for [`Worker::inspect`].
    pub async fn load(
        &self,
        request: &LoadRequest,
        deadline: Duration,
    ) -> Result<(ModelHandle, LoadReply), Diagnostic> {
        let answer = self.call(Operation::Load, 0, request, Some(deadline)).await?;
        let reply: LoadReply = self.decode(Operation::Load, &answer)?;
        Ok((
            ModelHandle {
                model: answer.0,
                num_ctx: reply.num_ctx,
            },
            reply,
        ))
    }

    /// Frees a model. Its running answers end with an error.
    ///
    /// # Errors
    /// The model is not loaded, or the worker dies.
    pub async fn unload(&self, model: ModelHandle) -> Result<(), Diagnostic> {
        self.call(Operation::Unload, model.model, &(), Some(UNLOAD_DEADLINE))
            .await
            .map(drop)
    }

    /// Attaches an adapter to a loaded model.
    ///
    /// # Errors
    /// As for [`Worker::inspect`].
    pub async fn load_adapter(
        &self,
        model: ModelHandle,
        request: &LoadAdapterRequest,
        deadline: Duration,
    ) -> Result<LoadAdapterReply, Diagnostic> {
        let answer = self
            .call(Operation::LoadAdapter, model.model, request, Some(deadline))
            .await?;
        self.decode(Operation::LoadAdapter, &answer)
    }

    /// Detaches an adapter.
    ///
    /// # Errors
    /// No adapter of that name is loaded, or the worker dies.
    pub async fn unload_adapter(&self, model: ModelHandle, request: &UnloadAdapterRequest) -> Result<(), Diagnostic> {
        self.call(Operation::UnloadAdapter, model.model, request, Some(UNLOAD_DEADLINE))
            .await
            .map(drop)
    }

    /// Starts an answer. It returns when the plugin has admitted the request; tokens follow in the generation.
    ///
    /// # Errors
    /// The plugin refuses the request, or the worker dies. A future that is dropped before it ends cancels the answer.
    pub async fn generate(&self, model: ModelHandle, request: &GenerateRequest) -> Result<Generation, Diagnostic> {
        let body = encode(Operation::Start, request)?;
        let tokens_max = tokens_max(request.sampling.num_predict, model.num_ctx);
        let header = CallHeader {
            operation: Operation::Start,
            model: model.model,
            tokens_max,
        };
        let (stream, reply) = self.0.connection.start(header, &body, self.0.stream_events_max).await?;
        let started = self.decode(Operation::Start, &(model.model, reply))?;
        Ok(Generation::new(started, stream))
    }

    /// Asks what a job of a role would do and take.
    ///
    /// # Errors
    /// As for [`Worker::inspect`].
    pub async fn plan_job(
        &self,
        role: Role,
        request: &impl Serialize,
        deadline: Duration,
    ) -> Result<Value, Diagnostic> {
        let answer = self
            .call(Operation::Plan, number_of_role(role), request, Some(deadline))
            .await?;
        self.decode(Operation::Plan, &answer)
    }

    /// Starts a job of a role. It runs until it has ended by itself, or the worker is; a job that neither reports nor looks whether it
    /// should stop for [`crate::HostConfig::stall_timeout`] is ended with its worker.
    ///
    /// # Errors
    /// The request is too long, or the worker has died. Whether the plugin refuses it shows at the job's end.
    pub fn run_job(&self, role: Role, request: &impl Serialize) -> Result<Job, Diagnostic> {
        let body = encode(Operation::Run, request)?;
        let header = CallHeader {
            operation: Operation::Run,
            model: number_of_role(role),
            tokens_max: 0,
        };
        let connection = Arc::clone(&self.0.connection);
        let (id, events, answer) = connection.run_job(header, &body)?;
        Ok(Job::new(connection, id, self.0.descriptor.name.clone(), events, answer))
    }

    /// Waits until the worker has ended and returns how: the signal or exit code is in the message.
    pub async fn died(&self) -> Diagnostic {
        self.0.connection.died().await
    }

    /// Returns how the worker ended, if it has.
    pub fn death(&self) -> Option<Diagnostic> {
        self.0.connection.death()
    }

    /// Ends the process at once. Whoever waits for it gets `witness::plugin::worker_stopped`.
    pub fn kill(&self) {
        self.0.connection.end(Cause::Wanted);
    }

    /// Lets the plugin shut down and ends the process; after `grace` it is killed.
    ///
    /// # Errors
    /// It did not end by itself or not cleanly. It has ended in either case.
    pub async fn stop(&self, grace: Duration) -> Result<(), Diagnostic> {
        let death = self.0.connection.stop(grace).await;
        if death.kind == Kind::Cancelled {
            Ok(())
        } else {
            Err(death)
        }
    }

    async fn call(
        &self,
        operation: Operation,
        model: u64,
        request: &impl Serialize,
        deadline: Option<Duration>,
    ) -> Result<Answer, Diagnostic> {
        let body = encode(operation, request)?;
        self.0
            .connection
            .call(
                CallHeader {
                    operation,
                    model,
                    tokens_max: 0,
                },
                &body,
                deadline,
            )
            .await
    }

    fn decode<T: DeserializeOwned>(&self, operation: Operation, answer: &Answer) -> Result<T, Diagnostic> {
        let json: &[u8] = if answer.1.is_empty() { b"{}" } else { &answer.1 };
        serde_json::from_slice(json).map_err(|error| {
            Diagnostic::new(
                "witness::plugin::bad_reply",
                Kind::Plugin,
                format!(
                    "the answer of plugin `{}` to `{}` cannot be read",
                    self.0.descriptor.name,
                    operation.name()
                ),
            )
            .cause(error.to_string())
            .hint("report it to the plugin's author")
        })
    }
}

fn encode(operation: Operation, request: &impl Serialize) -> Result<Vec<u8>, Diagnostic> {
    serde_json::to_vec(request).map_err(|error| {
        Diagnostic::new(
            "witness::plugin::bad_request",
            Kind::Internal,
            format!("the request for `{}` cannot be written as JSON", operation.name()),
        )
        .cause(error.to_string())
    })
}

/// Returns how many tokens an answer may have: as many as asked for, and never more than the context holds.
fn tokens_max(num_predict: i64, num_ctx: u64) -> u64 {
    let context = if num_ctx == 0 { TOKENS_MAX_DEFAULT } else { num_ctx };
    u64::try_from(num_predict).unwrap_or(context)
}
