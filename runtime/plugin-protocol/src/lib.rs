//! The control messages between the program and its plugins, as versioned JSON.
//!
//! The C ABI (`witness-plugin-abi`) moves bytes; this crate says what the bytes mean. Unknown fields are ignored on both sides and
//! new fields are optional, so that a plugin built against an older minor version keeps working; a change that breaks this raises
//! [`PROTOCOL_VERSION`]. A plugin in another language writes the same JSON by hand: `runtime/plugin-abi/PROTOCOL.md` documents it.
//!
//! Knows no transport, no plugin by name, no model family.

mod descriptor;
mod generate;
mod measure;
mod model;
mod options;
mod train;
mod train_settings;
mod transform;

pub use descriptor::{Descriptor, FormatRule, Role};
pub use generate::{Alternative, Done, DoneReason, GenerateRequest, Message, Prompt, Started, ToolCall, ToolFunction};
pub use measure::{
    Divergence, MeasureEvent, MeasurePlan, MeasureReply, MeasureRequest, MeasureTask, MeasuredText, ProcessMemory,
    SpeedCase, SpeedFound, SpeedLimits,
};
pub use model::{
    AdapterCheck, AdapterInfo, AdapterSpec, ChatsFile, DraftOptions, FileRef, InspectReply, InspectRequest,
    LoadAdapterReply, LoadAdapterRequest, LoadReply, LoadRequest, MemoryEstimate, ModelInfo, ModelSpec, PackedFile,
    UnloadAdapterRequest,
};
pub use options::{KvCacheType, LoadOptions, SamplingOptions};
pub use train::{
    PreviewPiece, PreviewRow, RowCounts, TrainAlternative, TrainEvent, TrainOutcome, TrainPlan, TrainProduct,
    TrainReply, TrainRequest,
};
pub use train_settings::{
    BaseStorage, Compat, Compute, ExcessLength, SaveDtype, ScratchSettings, TokenizerSettings, TrainMethod, TrainOnEos,
    TrainSettings, When,
};
pub use transform::{
    ModelForm, PlannedTensor, QuantizeOptions, TensorType, TransformEvent, TransformPlan, TransformReply,
    TransformRequest,
};
pub use witness_diagnostics::{Diagnostic, Kind};

/// Version of the JSON messages. A plugin states the version it speaks in its descriptor; the host refuses another major number.
pub const PROTOCOL_VERSION: u32 = 1;
