//! The C side of [`Serve`]: one `extern "C"` function per row of the table, all behind the fence.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, TryLockError};

use serde_json::Map;
use witness_plugin_abi::{Buffer, Event, EventKind, EventSink, ServeTable, Slice, Status};
use witness_plugin_protocol::{Alternative, Diagnostic, Kind};

use crate::host::Init;
use crate::reply::{Failure, answer, answer_empty, bytes_of, decode, encode};
use crate::serve::{Serve, ServeEvent};

/// The engine and its loaded models, by number. Numbers are never used twice.
struct State<S: Serve> {
    engine: S,
    models: BTreeMap<u64, S::Model>,
    last_model: u64,
}

/// Where the macro keeps a plugin's engine: empty before `init` and after `shutdown`.
pub struct ServeCell<S: Serve>(Mutex<Option<State<S>>>);

impl<S: Serve> ServeCell<S> {
    /// Returns an empty cell.
    #[expect(clippy::new_without_default, reason = "only the macro makes one, in a static")]
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Takes the cell for one call. A call from inside or beside another one is refused: waiting could be for ever.
    fn enter(&self) -> Result<MutexGuard<'_, Option<State<S>>>, Diagnostic> {
        match self.0.try_lock() {
            Ok(guard) => Ok(guard),
            // A panic in an earlier call: the host is about to end this process, and what it still asks for may be answered.
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Diagnostic::new(
                "witness::plugin::reentered",
                Kind::Internal,
                "the plugin was called while another call was running",
            )),
        }
    }
}

/// Names the cell of a plugin's engine.
pub trait ServeExport: 'static {
    /// The engine.
    type Serve: Serve;
    /// Returns its cell.
    fn cell() -> &'static ServeCell<Self::Serve>;
}

/// Returns the table of the role `serve`.
pub const fn serve_table<E: ServeExport>() -> ServeTable {
    ServeTable {
        struct_size: size_of::<ServeTable>(),
        inspect: inspect::<E>,
        load: load::<E>,
        unload: unload::<E>,
        load_adapter: load_adapter::<E>,
        unload_adapter: unload_adapter::<E>,
        start: start::<E>,
        cancel: cancel::<E>,
        step: step::<E>,
    }
}

/// Makes the engine. Again after `shutdown` makes a new one; twice in a row is refused.
pub(crate) fn init<E: ServeExport>(init: &Init) -> Result<(), Diagnostic> {
    let mut cell = E::cell().enter()?;
    if cell.is_some() {
        return Err(Diagnostic::new(
            "witness::plugin::initialized",
            Kind::Internal,
            "the plugin is already initialized",
        ));
    }
    *cell = Some(State {
        engine: E::Serve::init(init)?,
        models: BTreeMap::new(),
        last_model: 0,
    });
    Ok(())
}

/// Drops the engine and every model.
pub(crate) fn shutdown<E: ServeExport>() {
    if let Ok(mut cell) = E::cell().enter()
        && let Some(mut state) = cell.take()
    {
        while let Some((_, model)) = state.models.pop_first() {
            state.engine.unload(model);
        }
    }
}

/// Runs `call` with the engine.
fn with_engine<E: ServeExport, T>(call: impl FnOnce(&mut State<E::Serve>) -> Result<T, Failure>) -> Result<T, Failure> {
    let mut cell = E::cell().enter()?;
    let state = cell.as_mut().ok_or_else(|| {
        Diagnostic::new(
            "witness::plugin::not_initialized",
            Kind::Internal,
            "the plugin was called before `init`",
        )
    })?;
    call(state)
}

/// Runs `call` with the engine and one model.
fn with_model<E: ServeExport, T>(
    model: u64,
    call: impl FnOnce(&mut E::Serve, &mut <E::Serve as Serve>::Model) -> Result<T, Failure>,
) -> Result<T, Failure> {
    with_engine::<E, T>(|state| {
        let loaded = state.models.get_mut(&model).ok_or(Failure::UnknownModel(model))?;
        call(&mut state.engine, loaded)
    })
}

/// # Safety
/// As the ABI says: `request` readable, `reply` writable.
unsafe extern "C" fn inspect<E: ServeExport>(request: Slice, reply: *mut Buffer) -> Status {
    // SAFETY: `request` and `reply` are as the ABI promises.
    unsafe {
        answer("inspect", reply, || {
            let request = decode("inspect", bytes_of(request))?;
            with_engine::<E, _>(|state| Ok(state.engine.inspect(request)?))
        })
    }
}

/// # Safety
/// As the ABI says: `request` readable, `model_out` and `reply` writable.
unsafe extern "C" fn load<E: ServeExport>(request: Slice, model_out: *mut u64, reply: *mut Buffer) -> Status {
    // SAFETY: `request`, `model_out` and `reply` are as the ABI promises.
    unsafe {
        answer("load", reply, || {
            let request = decode("load", bytes_of(request))?;
            with_engine::<E, _>(|state| {
                let (model, loaded) = state.engine.load(request)?;
                state.last_model += 1;
                state.models.insert(state.last_model, model);
                if !model_out.is_null() {
                    model_out.write(state.last_model);
                }
                Ok(loaded)
            })
        })
    }
}

/// # Safety
/// As the ABI says: `reply` writable.
unsafe extern "C" fn unload<E: ServeExport>(model: u64, reply: *mut Buffer) -> Status {
    // SAFETY: `reply` is as the ABI promises.
    unsafe {
        answer("unload", reply, || {
            with_engine::<E, _>(|state| {
                let loaded = state.models.remove(&model).ok_or(Failure::UnknownModel(model))?;
                state.engine.unload(loaded);
                Ok(Map::new())
            })
        })
    }
}

/// # Safety
/// As the ABI says: `request` readable, `reply` writable.
unsafe extern "C" fn load_adapter<E: ServeExport>(model: u64, request: Slice, reply: *mut Buffer) -> Status {
    // SAFETY: `request` and `reply` are as the ABI promises.
    unsafe {
        answer("load_adapter", reply, || {
            let request = decode("load_adapter", bytes_of(request))?;
            with_model::<E, _>(model, |engine, model| Ok(engine.load_adapter(model, request)?))
        })
    }
}

/// # Safety
/// As the ABI says: `request` readable, `reply` writable.
unsafe extern "C" fn unload_adapter<E: ServeExport>(model: u64, request: Slice, reply: *mut Buffer) -> Status {
    // SAFETY: `request` and `reply` are as the ABI promises.
    unsafe {
        answer("unload_adapter", reply, || {
            let request = decode("unload_adapter", bytes_of(request))?;
            with_model::<E, _>(model, |engine, model| {
                engine.unload_adapter(model, request).map_err(Failure::from)
            })?;
            Ok(Map::new())
        })
    }
}

/// # Safety
/// As the ABI says: `request` readable, `reply` writable.
unsafe extern "C" fn start<E: ServeExport>(model: u64, sequence: u64, request: Slice, reply: *mut Buffer) -> Status {
    // SAFETY: `request` and `reply` are as the ABI promises.
    unsafe {
        answer("start", reply, || {
            let request = decode("start", bytes_of(request))?;
            with_model::<E, _>(model, |engine, model| Ok(engine.start(model, sequence, request)?))
        })
    }
}

/// # Safety
/// As the ABI says: `reply` writable.
unsafe extern "C" fn cancel<E: ServeExport>(model: u64, sequence: u64, reply: *mut Buffer) -> Status {
    // SAFETY: `reply` is as the ABI promises.
    unsafe {
        answer("cancel", reply, || {
            with_model::<E, _>(model, |engine, model| {
                engine.cancel(model, sequence);
                Ok(Map::new())
            })
        })
    }
}

/// # Safety
/// As the ABI says: `sink` a live sink, `running_out` null or writable, `reply` writable.
unsafe extern "C" fn step<E: ServeExport>(
    model: u64,
    sink: *const EventSink,
    running_out: *mut u64,
    reply: *mut Buffer,
) -> Status {
    // SAFETY: `sink`, `running_out` and `reply` are as the ABI promises.
    unsafe {
        answer_empty("step", reply, || {
            let sink = &*sink;
            let running = with_model::<E, _>(model, |engine, model| {
                Ok(engine.step(model, &mut |event| forward(sink, event))?)
            })?;
            if !running_out.is_null() {
                running_out.write(running as u64);
            }
            Ok(())
        })
    }
}

/// Hands one event to the host. Costs no allocation for a token without alternatives.
fn forward(sink: &EventSink, event: ServeEvent<'_>) {
    let mut detail = Vec::new();
    let (sequence, kind, token, logprob, text) = match &event {
        ServeEvent::Token {
            sequence,
            id,
            text,
            logprob,
            alternatives,
        } => {
            if !alternatives.is_empty() {
                detail = encode_alternatives(alternatives);
            }
            (*sequence, EventKind::TOKEN, *id, logprob.unwrap_or(f32::NAN), *text)
        }
        ServeEvent::Progress { sequence, tokens_done } => (*sequence, EventKind::PROGRESS, *tokens_done, f32::NAN, ""),
        ServeEvent::Done { sequence, text, done } => {
            detail = serde_json::to_vec(done).unwrap_or_default();
            (*sequence, EventKind::DONE, 0, f32::NAN, *text)
        }
        ServeEvent::Error { sequence, diagnostic } => {
            detail = encode(diagnostic);
            (*sequence, EventKind::ERROR, 0, f32::NAN, "")
        }
    };
    let event = Event {
        struct_size: size_of::<Event>(),
        sequence,
        kind,
        token,
        logprob,
        reserved: 0,
        text: Slice {
            ptr: text.as_ptr(),
            len: text.len(),
        },
        detail: Slice {
            ptr: detail.as_ptr(),
            len: detail.len(),
        },
    };
    // SAFETY: the sink lives during `step`, and every slice of the event outlives this call.
    unsafe { (sink.emit)(sink.context, &raw const event) };
}

/// Returns alternatives as JSON. A probability of 0 has no finite logarithm and JSON has no infinity: the lowest number stands for it.
fn encode_alternatives(alternatives: &[Alternative]) -> Vec<u8> {
    let finite: Vec<Alternative> = alternatives
        .iter()
        .map(|alternative| Alternative {
            logprob: alternative.logprob.max(f32::MIN),
            ..alternative.clone()
        })
        .collect();
    serde_json::to_vec(&finite).unwrap_or_default()
}
