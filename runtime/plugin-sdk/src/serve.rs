//! The role `serve`: models are loaded, adapters attached, sequences run in steps.

pub(crate) mod table;

use witness_plugin_protocol::{
    Alternative, Diagnostic, Done, GenerateRequest, InspectReply, InspectRequest, LoadAdapterReply, LoadAdapterRequest,
    LoadReply, LoadRequest, Started, UnloadAdapterRequest,
};

use crate::Init;

/// A serving engine. One value per process; every call comes from one thread, never two at once.
///
/// A call that panics costs the worker process: the host answers the request with the panic's message and starts a new worker.
pub trait Serve: Send + Sized + 'static {
    /// One loaded base model with its adapters and running sequences. Dropped when it is unloaded.
    type Model: Send + 'static;

    /// Makes the engine. Settings are the plugin's own JSON object.
    ///
    /// # Errors
    /// The engine cannot run here; the plugin is unusable and the diagnostic says why.
    fn init(init: &Init) -> Result<Self, Diagnostic>;

    /// Looks into files that are not trusted yet and says what they hold. Allocates nothing the size of the weights.
    ///
    /// # Errors
    /// The files are not a model that this plugin can load.
    fn inspect(&mut self, request: InspectRequest) -> Result<InspectReply, Diagnostic>;

    /// Loads a base model.
    ///
    /// # Errors
    /// The files are damaged or not supported.
    fn load(&mut self, request: LoadRequest) -> Result<(Self::Model, LoadReply), Diagnostic>;

    /// Attaches an adapter. The same name and digests again change nothing.
    ///
    /// # Errors
    /// The adapter does not fit the base or is of a kind that cannot be applied exactly.
    fn load_adapter(
        &mut self,
        model: &mut Self::Model,
        request: LoadAdapterRequest,
    ) -> Result<LoadAdapterReply, Diagnostic>;

    /// Detaches an adapter.
    ///
    /// # Errors
    /// No adapter of that name is loaded.
    fn unload_adapter(&mut self, model: &mut Self::Model, request: UnloadAdapterRequest) -> Result<(), Diagnostic>;

    /// Admits a sequence under the caller's number: renders, tokenizes and checks, computes nothing long.
    ///
    /// # Errors
    /// The request is refused; the sequence does not exist.
    fn start(
        &mut self,
        model: &mut Self::Model,
        sequence: u64,
        request: GenerateRequest,
    ) -> Result<Started, Diagnostic>;

    /// Ends a sequence now. It emits nothing more. An unknown number is not an error: the sequence may have ended by itself.
    fn cancel(&mut self, model: &mut Self::Model, sequence: u64);

    /// Advances every admitted sequence of the model by one step (one token, or one chunk of its prompt), emits what came of it
    /// and returns how many sequences are still running.
    ///
    /// # Errors
    /// All sequences of the model failed alike. For one of them, emit [`ServeEvent::Error`].
    fn step(&mut self, model: &mut Self::Model, emit: &mut dyn FnMut(ServeEvent<'_>)) -> Result<usize, Diagnostic>;

    /// Frees a model; its sequences end without events.
    fn unload(&mut self, model: Self::Model) {
        drop(model);
    }
}

/// What a step reports about one sequence.
#[derive(Clone, Debug)]
pub enum ServeEvent<'a> {
    /// A token was generated.
    Token {
        /// The sequence.
        sequence: u64,
        /// Token id.
        id: u32,
        /// Whole characters that the token completes; empty while one is incomplete or a stop text may be starting.
        text: &'a str,
        /// Natural logarithm of its probability, when asked for.
        logprob: Option<f32>,
        /// The most likely tokens at this place, when asked for.
        alternatives: &'a [Alternative],
    },
    /// Tokens of the prompt that are done.
    Progress {
        /// The sequence.
        sequence: u64,
        /// Tokens done.
        tokens_done: u32,
    },
    /// The sequence ended by itself. Nothing follows.
    Done {
        /// The sequence.
        sequence: u64,
        /// What was held back and belongs to the answer.
        text: &'a str,
        /// Reason, counts and times.
        done: Done,
    },
    /// The sequence failed. Nothing follows.
    Error {
        /// The sequence.
        sequence: u64,
        /// Why.
        diagnostic: Diagnostic,
    },
}
