//! The role `measure`: perplexity, distance from another model, importance of columns and speed, of the very engine that serves.
//!
//! | module | knows |
//! | --- | --- |
//! | `pieces` | the text as pieces of tokens |
//! | `score` | what logits say about the tokens that came, and the statistics |
//! | `reference` | the file through which two models are compared |
//! | `importance` | sums of squares of what goes into linear layers |
//! | `speed` | tokens a second |
//!
//! Cost: one forward pass over the text; beside it a pass over the vocabulary for each token that is scored. Memory: the model, and the logits of [`ROWS`] tokens
//! twice.

mod importance;
mod pieces;
mod reference;
mod score;
mod speed;

use std::time::Instant;

use serde_json::Value;
use witness_diagnostics::{Diagnostic, Kind};
use witness_model::Adapter;
use witness_plugin_protocol::{
    LoadOptions, LoadRequest, MeasureEvent, MeasurePlan, MeasureReply, MeasureRequest, MeasureTask, MeasuredText,
};
use witness_plugin_sdk::{Init, Job, JobEvents, Serve};

use crate::bundle::Bundle;
use crate::engine::{Advance, State};
use crate::inspect;
use crate::model::Loaded;
use crate::serve::CpuServe;
use crate::step::CHUNK_TOKENS;
use pieces::Pieces;
use score::Scores;

/// Tokens whose logits are held at a time: 64 rows of a vocabulary of 128,256 are 33 MB.
const ROWS: usize = 64;

/// The role.
pub struct CpuMeasure;

impl Job for CpuMeasure {
    fn plan(request: Value) -> Result<Value, Diagnostic> {
        encode(&plan(&decode(request)?)?)
    }

    fn run(request: Value, events: &mut JobEvents<'_>) -> Result<Value, Diagnostic> {
        encode(&run(&decode(request)?, events)?)
    }
}

/// Takes what a measurement reports.
pub trait Watch {
    /// Something is done, or is to be known.
    fn tell(&mut self, event: &MeasureEvent);
    /// Returns whether to stop.
    fn should_stop(&self) -> bool;
}

impl Watch for JobEvents<'_> {
    fn tell(&mut self, event: &MeasureEvent) {
        self.report(event);
    }

    fn should_stop(&self) -> bool {
        JobEvents::should_stop(self)
    }
}

/// Says what a measurement would take, without reading weights.
///
/// # Errors
/// The model or the text cannot be read.
pub fn plan(request: &MeasureRequest) -> Result<MeasurePlan, Diagnostic> {
    let bundle = Bundle::open(&request.model.files)?;
    let info = inspect::model_info(&bundle)?;
    match &request.task {
        MeasureTask::Speed { .. } => Ok(MeasurePlan::default()),
        MeasureTask::Perplexity { text }
        | MeasureTask::Reference { text, .. }
        | MeasureTask::Divergence { text, .. }
        | MeasureTask::Importance { text, .. } => {
            let pieces = Pieces::read(text, &bundle.tokenizer()?, info.context_length)?;
            Ok(pieces.plan(info.vocab_size))
        }
    }
}

/// Measures.
///
/// # Errors
/// The request is refused, the model fails, or it was stopped.
pub fn run(request: &MeasureRequest, watch: &mut dyn Watch) -> Result<MeasureReply, Diagnostic> {
    let load = LoadRequest {
        model: request.model.clone(),
        options: LoadOptions {
            num_thread: request.num_thread.map(u64::from),
            ..LoadOptions::default()
        },
        chats: None,
        packed: None,
    };
    let (mut loaded, _) = CpuServe::init(&Init::default())?.load(load)?;
    let adapter = request
        .adapter
        .clone()
        .map(|spec| loaded.open_adapter(spec))
        .transpose()?;
    let mut reply = match &request.task {
        MeasureTask::Speed { cases, n_repeats } => {
            speed::run(&mut loaded, adapter.as_deref(), cases, *n_repeats, watch)?
        }
        MeasureTask::Perplexity { text }
        | MeasureTask::Reference { text, .. }
        | MeasureTask::Divergence { text, .. }
        | MeasureTask::Importance { text, .. } => on_text(&mut loaded, adapter.as_deref(), request, text, watch)?,
    };
    reply.plugin_version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(reply)
}

fn on_text(
    loaded: &mut Loaded,
    adapter: Option<&Adapter>,
    request: &MeasureRequest,
    text: &MeasuredText,
    watch: &mut dyn Watch,
) -> Result<MeasureReply, Diagnostic> {
    let pieces = Pieces::read(text, &loaded.tokenizer, loaded.info().context_length)?;
    for message in &pieces.warnings {
        watch.tell(&MeasureEvent::Warning {
            message: message.clone(),
        });
    }
    let vocab_size = loaded.engine.vocab_size();
    watch.tell(&MeasureEvent::Start(pieces.plan(vocab_size as u64)));
    let begun = Instant::now();
    let mut reply = match &request.task {
        MeasureTask::Importance { file, is_dat, .. } => {
            let form = importance::form(*is_dat);
            importance::run(loaded, adapter, &pieces, file, form, watch)?
        }
        task => {
            let mut scores = Scores::new(reference::Beside::open(task, &pieces, vocab_size, &request.model_name)?);
            perplexity(loaded, adapter, &pieces, &mut scores, watch)?;
            scores.finish()?
        }
    };
    reply.n_chunks = pieces.len() as u64;
    reply.n_tokens = (pieces.len() * pieces.n_context) as u64;
    reply.seconds = begun.elapsed().as_secs_f64();
    Ok(reply)
}

fn perplexity(
    loaded: &mut Loaded,
    adapter: Option<&Adapter>,
    pieces: &Pieces,
    scores: &mut Scores,
    watch: &mut dyn Watch,
) -> Result<(), Diagnostic> {
    // What is not our graph returns the last token's logits alone.
    let n_rows = if loaded.graph().is_some() { ROWS } else { 1 };
    for index in 0..pieces.len() {
        let piece = pieces.get(index);
        let mut state = loaded.engine.new_state(piece.len());
        let first = pieces.first_scored();
        let mut at = 0;
        while at < piece.len() - 1 {
            stop_if_asked(watch)?;
            let is_scored = at >= first;
            let n_tokens = match is_scored {
                // The last token foretells one that is not there.
                true => n_rows.min(piece.len() - 1 - at),
                false => CHUNK_TOKENS.min(first - at),
            };
            let rows = advance(loaded, &mut state, &piece[at..at + n_tokens], adapter, is_scored)?;
            if is_scored {
                scores.add(rows, &piece[at + 1..at + 1 + n_tokens], loaded.threads.as_ref())?;
            }
            at += n_tokens;
        }
        watch.tell(&scores.progress(index as u64 + 1));
    }
    Ok(())
}

/// Runs tokens of one sequence; returns the logits of all of them, or none.
fn advance(
    loaded: &mut Loaded,
    state: &mut State,
    tokens: &[u32],
    adapter: Option<&Adapter>,
    is_scored: bool,
) -> Result<Vec<Vec<f32>>, Diagnostic> {
    let logits = loaded.forward_batch(&mut [Advance {
        tokens,
        state,
        adapter,
        n_logits: if is_scored { tokens.len() } else { 0 },
    }])?;
    Ok(logits.rows(0).map(<[f32]>::to_vec).collect())
}

fn stop_if_asked(watch: &dyn Watch) -> Result<(), Diagnostic> {
    match watch.should_stop() {
        true => Err(Diagnostic::new(
            "witness::serve::stopped",
            Kind::Cancelled,
            "it was stopped",
        )),
        false => Ok(()),
    }
}

fn decode(request: Value) -> Result<MeasureRequest, Diagnostic> {
    serde_json::from_value(request).map_err(|error| {
        Diagnostic::new(
            "witness::serve::measure_request",
            Kind::Invalid,
            "this is no request to measure",
        )
        .cause(error.to_string())
        .hint("the host and this plugin are of different versions; update the older one")
    })
}

fn encode(reply: &impl serde::Serialize) -> Result<Value, Diagnostic> {
    serde_json::to_value(reply).map_err(|error| crate::error::internal(error.to_string()))
}
