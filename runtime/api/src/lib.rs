//! The wire types of the HTTP interface: Ollama's native API field for field, and our own routes beside it.
//!
//! Types only: what a body looks like, how leniently it is read and how it is validated once. No HTTP library, no I/O, no clock
//! (the one use of time is formatting a given instant). Wire types are not domain types; the daemon converts them.
//!
//! Reading is lenient where Ollama's own clients need it: a JSON `null` means "not given" for every optional field, unknown fields
//! are ignored, `name` is accepted for `model`. Writing is exact: field names, presence and number types follow Ollama's API document.

mod bundle;
mod chat;
mod create;
mod error;
mod generate;
mod keep_alive;
mod lenient;
mod measure;
mod models;
mod native;
mod options;
mod time;
mod train;
mod transform;

pub use bundle::{UnbundleProgress, UnbundleRequest};
pub use chat::{ChatRequest, ChatResponse, Message, ToolCall, ToolFunction};
pub use create::{CreateRequest, Progress, QuantizeFields, StringMap, TextOrList};
pub use error::ErrorBody;
pub use generate::{GenerateRequest, GenerateResponse, Logprob, Metrics, TOP_LOGPROBS_MAX, Think, TokenLogprob};
pub use keep_alive::{KeepAlive, parse_duration};
pub use measure::{
    BenchRequest, Divergence, ImatrixRequest, MeasureLine, MeasureRequest, Measured, MeasuredModel, MeasuredText,
    ProcessMemory, SpeedCase, SpeedFound, SpeedLimits, SuggestRequest,
};
pub use models::{
    CopyRequest, DeleteRequest, ListModel, ListResponse, ModelDetails, ProcessModel, ProcessResponse, ShowRequest,
    ShowResponse, ShowWitness, VersionResponse,
};
pub use native::{
    EstimateRequest, EstimateResponse, FsckProblem, FsckProgress, FsckRequest, ImportProgress, ImportRequest,
    LoadedModel, PluginCheckRequest, PluginReport, PluginsResponse, StatusResponse, UnloadRequest, UnloadResponse,
};
pub use options::{KNOWN_OPTIONS, Options};
pub use time::{UNKNOWN_TIME, rfc3339};
pub use train::{
    DataFile, EVENT_STREAM, TrainJob, TrainJobLine, TrainJobResponse, TrainJobsResponse, TrainLine, TrainPlanResponse,
    TrainRequest, TrainState,
};
pub use transform::{ExportProgress, ExportRequest, ExportResponse, PlannedTensor, TransformPlan};

/// Media type of a stream of JSON values, one a line.
pub const NDJSON: &str = "application/x-ndjson";
