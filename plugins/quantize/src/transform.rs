//! The plugin's calls: which way a request goes.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use witness_diagnostics::{Diagnostic, Kind};
use witness_formats::gguf::Writer;
use witness_instructions::Isa;
use witness_plugin_protocol::{
    ModelForm, PlannedTensor, TransformEvent, TransformPlan, TransformReply, TransformRequest,
};
use witness_plugin_sdk::{Job, JobEvents};

use crate::base::{Base, Model};
use crate::directory::Layout;
use crate::error::{Result, cannot_write, refused};
use crate::imatrix::Imatrix;
use crate::types::Types;
use crate::{adapter, stream};

/// Name of the one file of a GGUF model.
const MODEL: &str = "model.gguf";
/// Small files that a merge reads lie there while it runs.
const SCRATCH: &str = "scratch";
/// The version of the block formats.
const QUANTIZATION_VERSION: u32 = 2;
/// What a wave of tasks holds for each thread at most, see `stream`.
const MEMORY_A_THREAD: u64 = 64 << 20;

/// The role.
pub struct CpuQuantize;

/// Takes what a transformation reports. All calls come from one thread.
pub trait Progress {
    /// Work begins, or something is to be known.
    fn tell(&mut self, event: &TransformEvent);
    /// So many bytes of source are done, the last of them of this tensor or file.
    fn done(&mut self, name: &str, completed_bytes: u64) {
        self.tell(&TransformEvent::Progress {
            tensor: name.to_owned(),
            completed_bytes,
        });
    }
    /// Returns whether to stop.
    fn should_stop(&self) -> bool;
}

impl Progress for JobEvents<'_> {
    fn tell(&mut self, event: &TransformEvent) {
        self.report(event);
    }

    fn should_stop(&self) -> bool {
        JobEvents::should_stop(self)
    }
}

impl Job for CpuQuantize {
    fn plan(request: Value) -> std::result::Result<Value, Diagnostic> {
        encode(&plan(&decode(request)?)?)
    }

    fn run(request: Value, events: &mut JobEvents<'_>) -> std::result::Result<Value, Diagnostic> {
        encode(&run(&decode(request)?, events)?)
    }
}

/// Says what a request would give, without making it.
///
/// # Errors
/// The request is refused.
pub fn plan(request: &TransformRequest) -> std::result::Result<TransformPlan, Diagnostic> {
    Isa::hold_to_setting()?;
    let base = Base::open(request)?;
    match request.form {
        ModelForm::Gguf => {
            // A plan has no directory of its own: what a merge reads goes to the system's.
            let scratch = Scratch::beside(&std::env::temp_dir())?;
            let model = base.model(request, &scratch.0)?;
            let imatrix = request.options.imatrix.as_ref().map(Imatrix::read).transpose()?;
            let types = Types::choose(
                &model,
                request.quantization.as_deref(),
                &request.options,
                imatrix.as_ref(),
            )?;
            Ok(plan_of(&model, types))
        }
        ModelForm::Safetensors => {
            let directory = base.directory(request)?;
            Layout::of(&directory, request)?.plan(&directory)
        }
        ModelForm::GgufAdapter | ModelForm::Peft => adapter::plan(request, &base),
    }
}

/// Makes it, in the request's directory.
///
/// # Errors
/// The request is refused, the disk is full, a tensor holds what is no number, or the host asked to stop. What lies in the directory then is of no use.
pub fn run(request: &TransformRequest, progress: &mut dyn Progress) -> std::result::Result<TransformReply, Diagnostic> {
    Isa::hold_to_setting()?;
    if !request.directory.is_absolute() || !request.directory.is_dir() {
        return Err(refused(
            "directory",
            format!("`{}` is no directory to write to", request.directory.display()),
        ));
    }
    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(n) = request.num_thread.filter(|n| *n > 0) {
        pool = pool.num_threads(n as usize);
    }
    let pool = pool.build().map_err(|error| {
        Diagnostic::new(
            "witness::quantize::threads",
            Kind::Environment,
            "threads cannot be started",
        )
        .cause(error.to_string())
    })?;
    let base = Base::open(request)?;
    match request.form {
        ModelForm::Gguf => {
            let scratch = Scratch::beside(&request.directory)?;
            let model = base.model(request, &scratch.0)?;
            write_gguf(request, &model, &pool, progress)
        }
        ModelForm::Safetensors => {
            let directory = base.directory(request)?;
            let layout = Layout::of(&directory, request)?;
            layout.write(directory, &request.directory, &Arc::new(pool), progress)
        }
        ModelForm::GgufAdapter | ModelForm::Peft => adapter::write(request, &base, &request.directory),
    }
}

fn write_gguf(
    request: &TransformRequest,
    model: &Model,
    pool: &rayon::ThreadPool,
    progress: &mut dyn Progress,
) -> Result<TransformReply> {
    let imatrix = request.options.imatrix.as_ref().map(Imatrix::read).transpose()?;
    let types = Types::choose(
        model,
        request.quantization.as_deref(),
        &request.options,
        imatrix.as_ref(),
    )?;
    for message in &types.warnings {
        let message = message.clone();
        progress.tell(&TransformEvent::Warning { message });
    }
    progress.tell(&TransformEvent::Start {
        from: model.storage.clone(),
        to: types.name.clone(),
        total_bytes: model.bytes(),
        n_tensors: model.pieces.len() as u64,
    });
    let writer = head(model, &types, request)?;
    let path = request.directory.join(MODEL);
    // The pool's threads compute; this one, which alone may speak with the host, leads them.
    let (told, events) = std::sync::mpsc::channel();
    let is_stopped = std::sync::atomic::AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let flag = &is_stopped;
        let (imatrix, kinds, path) = (imatrix.as_ref(), &types.kinds, &path);
        let work = scope.spawn(move || {
            let mut tell = |name: &str, done: u64| {
                // The receiver lives until this thread has ended.
                let _ = told.send((name.to_owned(), done));
                !flag.load(std::sync::atomic::Ordering::Relaxed)
            };
            pool.install(|| stream::write(path, writer, &model.pieces, kinds, imatrix, &mut tell))
        });
        for (name, done) in events {
            progress.done(&name, done);
            if progress.should_stop() {
                is_stopped.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
        work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    written?;
    let plan = plan_of(model, types);
    Ok(TransformReply {
        files: vec![MODEL.to_owned()],
        quantization: plan.to,
        tensor_bytes: plan.target_bytes,
        bits_per_weight: plan.bits_per_weight,
        plugin_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Begins the file: the model's metadata with what is said of its types.
fn head(model: &Model, types: &Types, request: &TransformRequest) -> Result<Writer> {
    let mut metadata = model.metadata.clone();
    if let Some(file_type) = types.file_type {
        // Where llama.cpp's own programs have it: behind the kind of file, or at the end.
        let key = "general.file_type".to_owned();
        let place = metadata.iter().position(|(known, _)| known == "general.type");
        metadata.insert(place.map_or(metadata.len(), |place| place + 1), (key, file_type.into()));
    }
    crate::base::set(
        &mut metadata,
        "general.quantization_version",
        QUANTIZATION_VERSION.into(),
    );
    if let Some(imatrix) = &request.options.imatrix {
        crate::base::set(&mut metadata, "quantize.imatrix.file", imatrix.name.as_str().into());
    }
    let mut writer = Writer::new();
    for (key, value) in metadata {
        writer.set(&key, value)?;
    }
    for (piece, kind) in model.pieces.iter().zip(&types.kinds) {
        writer.tensor(&piece.name, &piece.shape, *kind)?;
    }
    Ok(writer)
}

fn plan_of(model: &Model, types: Types) -> TransformPlan {
    let tensors: Vec<PlannedTensor> = model
        .pieces
        .iter()
        .zip(&types.kinds)
        .map(|(piece, kind)| PlannedTensor {
            name: piece.name.clone(),
            shape: piece.shape.iter().map(|length| *length as u64).collect(),
            from: piece.kind.name(),
            to: kind.name(),
            bytes: piece.bytes_as(*kind).unwrap_or(0),
        })
        .collect();
    let target_bytes: u64 = tensors.iter().map(|tensor| tensor.bytes).sum();
    let n_numbers: u64 = model.pieces.iter().map(crate::pieces::Piece::n_numbers).sum();
    TransformPlan {
        architecture: model.facts.architecture.clone(),
        from: model.storage.clone(),
        to: types.name,
        source_bytes: model.bytes(),
        target_bytes,
        bits_per_weight: 8.0 * target_bytes as f64 / n_numbers.max(1) as f64,
        memory_bytes: MEMORY_A_THREAD * rayon::current_num_threads() as u64,
        tensors,
        warnings: types.warnings,
    }
}

/// A directory for small files, gone when dropped.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn beside(directory: &Path) -> Result<Scratch> {
        let path = directory.join(format!("witness-{SCRATCH}-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| cannot_write(&path, &error))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed goes with the directory of the job.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn decode(request: Value) -> Result<TransformRequest> {
    serde_json::from_value(request).map_err(|error| {
        Diagnostic::new(
            "witness::quantize::request",
            Kind::Internal,
            "the request cannot be read",
        )
        .cause(error.to_string())
    })
}

fn encode(value: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| {
        Diagnostic::new(
            "witness::quantize::reply",
            Kind::Internal,
            "the reply cannot be written",
        )
        .cause(error.to_string())
    })
}
