//! How good models are, by the plugin that serves them: one after the other, each in a worker of its own, so that the memory is that of the largest.
//!
//! ```text
//! perplexity: one job                        compare: reference -> its probabilities in a working directory -> each other model against them
//! suggest:    reference -> for each type that fits: made in a working directory, measured, thrown away
//! ```
//!
//! **Invariants:** the store is as it was, whatever happens. A reader who leaves ends the job and takes the directory along.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;
use witness_api::{
    BenchRequest, Divergence, ImatrixRequest, MeasureLine, MeasureRequest, Measured, MeasuredModel, MeasuredText,
    ProcessMemory, Progress, SpeedCase, SpeedFound, SpeedLimits, SuggestRequest,
};
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol as protocol;
use witness_plugin_protocol::{
    AdapterSpec, FileRef, MeasureEvent, MeasureReply, MeasureTask, ModelForm, ModelInfo, ModelSpec, QuantizeOptions,
    TransformRequest,
};
use witness_registry::{Lease, WorkingDirectory};

use crate::app::App;
use crate::create::order::{file_ref, parse_digest};
use crate::export::place_new;
use crate::limits::{BENCH_CASES_MAX, BENCH_PARALLEL_MAX, BENCH_REPEATS_MAX, MEASURED_MODELS_MAX};
use crate::models::library::{blocking, shutting_down};
use crate::reckon::{CachePlan, details, lease_of, reckon};
use crate::reply::invalid;
use crate::transform;
use crate::turn::choose_adapter;

/// Tokens of a piece where nobody says: what published perplexities are measured with.
const CONTEXT_DEFAULT: u64 = 512;
/// Room beside the file of the reference.
const BESIDE_BYTES: u64 = 16 << 20;
/// Types that are tried where nobody says, from the largest: each is the best of its size for some model.
const TYPES: [&str; 9] = [
    "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "IQ4_XS", "Q4_0", "Q3_K_M", "Q2_K",
];
/// How often a case is timed where nobody says.
const REPEATS_DEFAULT: u64 = 5;
/// Names of the files in a working directory.
const REFERENCE: &str = "reference";
const IMATRIX: &str = "imatrix";

/// Where progress goes.
pub(crate) type Lines = mpsc::Sender<MeasureLine>;

/// A text that was found, and how it is cut.
pub(crate) struct Text {
    measured: protocol::MeasuredText,
    num_thread: Option<u32>,
    /// Keeps it from the collector.
    _lease: Lease,
}

/// A model that is measured.
pub(crate) struct Subject {
    model: ModelSpec,
    adapter: Option<AdapterSpec>,
    info: Arc<ModelInfo>,
    /// What is known before.
    known: Measured,
    _lease: Option<Lease>,
}

impl Text {
    /// Finds what a request names.
    pub(crate) async fn read(app: &Arc<App>, fields: MeasuredText) -> Result<Text, Diagnostic> {
        let registry = app.library.registry.clone();
        if fields.text.is_empty() {
            return Err(invalid("measure_text", "no text is named").hint("upload one and name its digest in `text`"));
        }
        let name = match fields.text_name.as_str() {
            "" => "text".to_owned(),
            name => name.to_owned(),
        };
        let digest = fields.text;
        let (file, lease) = blocking(move || {
            let lease = registry.lease(&[parse_digest(&name, &digest)?]);
            Ok::<_, Diagnostic>((file_ref(&registry, "text", &name, &digest)?, lease))
        })
        .await?;
        Ok(Text {
            measured: protocol::MeasuredText {
                file,
                n_context: fields.context.unwrap_or(CONTEXT_DEFAULT),
                n_chunks: fields.chunks,
            },
            num_thread: fields.num_thread,
            _lease: lease,
        })
    }
}

impl Subject {
    /// Finds a model.
    pub(crate) async fn read(app: &Arc<App>, asked: &MeasuredModel) -> Result<Subject, Diagnostic> {
        let stored = app.library.stored(&asked.model).await?;
        let adapter = choose_adapter(&stored, asked.adapter.as_deref())?;
        let of_adapter = adapter.iter().flat_map(|adapter| &adapter.files);
        let files: Vec<FileRef> = stored.base.files.iter().chain(of_adapter).cloned().collect();
        let info = app.library.info(&stored).await?;
        Ok(Subject {
            model: stored.base.clone(),
            known: Measured {
                model: stored.name.display_short(),
                adapter: adapter.as_ref().map(|adapter| adapter.name.clone()),
                quantization: details(&stored, &info).quantization_level,
                size: files.iter().fold(0, |sum, file| sum.saturating_add(file.size)),
                ..Measured::default()
            },
            adapter,
            info,
            _lease: Some(lease_of(app, &files)),
        })
    }

    fn label(&self) -> String {
        match &self.known.adapter {
            Some(adapter) => format!("{} with adapter {adapter}", self.known.model),
            None => self.known.model.clone(),
        }
    }

    fn request(&self, task: MeasureTask, num_thread: Option<u32>) -> protocol::MeasureRequest {
        protocol::MeasureRequest {
            model: self.model.clone(),
            adapter: self.adapter.clone(),
            model_name: self.label(),
            task,
            num_thread,
        }
    }
}

/// Models that were found, and the text.
pub(crate) struct Order {
    subjects: Vec<Subject>,
    text: Text,
}

impl Order {
    /// Checks a request.
    pub(crate) async fn read(app: &Arc<App>, request: MeasureRequest) -> Result<Order, Diagnostic> {
        let count = request.models.len();
        if count == 0 || count > MEASURED_MODELS_MAX {
            return Err(
                invalid("measure_models", format!("{count} models are named")).hint(format!(
                    "name one to measure it, or up to {MEASURED_MODELS_MAX} to hold the others against the first"
                )),
            );
        }
        let mut subjects = Vec::with_capacity(count);
        for model in &request.models {
            subjects.push(Subject::read(app, model).await?);
        }
        let text = Text::read(app, request.text).await?;
        Ok(Order { subjects, text })
    }
}

/// Measures one model, or holds the others against the first. Returns the last line.
pub(crate) async fn measure(app: Arc<App>, order: Order, lines: Lines) -> Result<MeasureLine, Diagnostic> {
    let Order { subjects, text } = order;
    let on = || text.measured.clone();
    let reference = match subjects.as_slice() {
        [first, _, ..] => Some(Reference::make_room(&app, first, &text).await?),
        _ => None,
    };
    let mut results = Vec::with_capacity(subjects.len());
    for (index, subject) in subjects.iter().enumerate() {
        let task = match &reference {
            None => MeasureTask::Perplexity { text: on() },
            Some(reference) if index == 0 => reference.write(on()),
            Some(reference) => reference.read(on()),
        };
        results.push(run(&app, subject, task, text.num_thread, &lines).await?);
    }
    Ok(ended(results))
}

/// A model and the types that it is tried in.
pub(crate) struct Trial {
    source: Subject,
    text: Text,
    types: Vec<String>,
    options: QuantizeOptions,
    memory_bytes: u64,
}

impl Trial {
    /// Checks a request.
    pub(crate) async fn read(app: &Arc<App>, request: SuggestRequest) -> Result<Trial, Diagnostic> {
        let asked = MeasuredModel {
            model: request.model,
            adapter: Some(crate::turn::BASE.to_owned()),
        };
        if request.types.len() > MEASURED_MODELS_MAX {
            return Err(
                invalid("suggest_types", format!("{} types are named", request.types.len()))
                    .hint(format!("name up to {MEASURED_MODELS_MAX}")),
            );
        }
        let source = Subject::read(app, &asked).await?;
        let text = Text::read(app, request.text).await?;
        let imatrix = match request.imatrix {
            None => None,
            Some(digest) => {
                let registry = app.library.registry.clone();
                Some(blocking(move || file_ref(&registry, "imatrix", "imatrix", &digest)).await?)
            }
        };
        let types = match request.types.is_empty() {
            true => TYPES.map(str::to_owned).to_vec(),
            false => request.types,
        };
        Ok(Trial {
            source,
            text,
            types,
            options: QuantizeOptions {
                imatrix,
                ..QuantizeOptions::default()
            },
            memory_bytes: request.memory_bytes.unwrap_or(app.memory_budget_bytes),
        })
    }

    fn transform(&self, kind: &str) -> TransformRequest {
        TransformRequest {
            model: self.source.model.clone(),
            adapter: None,
            model_name: self.source.known.model.clone(),
            form: ModelForm::Gguf,
            quantization: Some(kind.to_owned()),
            options: self.options.clone(),
            template: None,
            directory: PathBuf::new(),
            num_thread: self.text.num_thread,
        }
    }
}

/// Makes a model in each type that fits, measures it and throws it away. Returns the last line: the nearest first.
pub(crate) async fn suggest(app: Arc<App>, trial: Trial, lines: Lines) -> Result<MeasureLine, Diagnostic> {
    let info = &trial.source.info;
    let reckoning = reckon(info, app.settings.context_length, &CachePlan::of(&app));
    let beside = reckoning.kv.saturating_add(reckoning.overhead);
    let mut fitting = Vec::new();
    let mut least = u64::MAX;
    for kind in &trial.types {
        let (_, plan) = app
            .engine
            .plan_transform(&trial.transform(kind), &info.architecture)
            .await?;
        let memory = plan.target_bytes.saturating_add(beside);
        least = least.min(memory);
        // What is no smaller than the model itself is no answer.
        if memory <= trial.memory_bytes && plan.target_bytes < plan.source_bytes {
            fitting.push((kind, memory));
        }
    }
    if fitting.is_empty() {
        return Err(nothing_fits(&trial, least));
    }
    let reference = Reference::make_room(&app, &trial.source, &trial.text).await?;
    let (on, num_thread) = (&trial.text.measured, trial.text.num_thread);
    let source = run(&app, &trial.source, reference.write(on.clone()), num_thread, &lines).await?;
    let mut results = Vec::with_capacity(fitting.len() + 1);
    for (kind, memory_bytes) in fitting {
        let made = make(&app, trial.transform(kind), info, &lines).await?;
        let files = {
            let (made, name) = (made.files()?, &trial.source.known.model);
            made.into_iter()
                .map(|(file, path)| on_disk(file, path, name))
                .collect::<Result<Vec<_>, _>>()?
        };
        let candidate = Subject {
            known: Measured {
                model: kind.clone(),
                quantization: made.reply.quantization.clone(),
                size: files.iter().fold(0, |sum, file| sum.saturating_add(file.size)),
                memory_bytes,
                ..Measured::default()
            },
            model: ModelSpec { files },
            adapter: None,
            info: Arc::clone(info),
            _lease: None,
        };
        let task = reference.read(on.clone());
        results.push(run(&app, &candidate, task, num_thread, &lines).await?);
    }
    let distance = |measured: &Measured| measured.divergence.as_ref().map_or(f64::INFINITY, |found| found.mean);
    results.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
    results.push(Measured {
        memory_bytes: reckoning.weights.saturating_add(beside),
        ..source
    });
    tracing::info!(model = %trial.source.known.model, types = results.len() - 1, "suggested");
    Ok(ended(results))
}

fn nothing_fits(trial: &Trial, least: u64) -> Diagnostic {
    let message = format!(
        "no type brings `{}` into {} MB of memory and makes it smaller",
        trial.source.known.model,
        trial.memory_bytes / 1_000_000
    );
    Diagnostic::new("witness::daemon::nothing_fits", Kind::Unsupported, message)
        .cause(format!(
            "the smallest of {} takes {} MB",
            trial.types.join(", "),
            least / 1_000_000
        ))
        .hint("allow more memory, serve with a shorter `num_ctx`, or take a smaller model")
}

/// An importance matrix that is to be written.
pub(crate) struct Weighing {
    subject: Subject,
    text: Text,
    file: PathBuf,
    is_dat: bool,
    force: bool,
}

impl Weighing {
    /// Checks a request whose path is absolute.
    pub(crate) async fn read(app: &Arc<App>, request: ImatrixRequest) -> Result<Weighing, Diagnostic> {
        let is_dat = match request.form.as_deref() {
            Some("gguf") => false,
            Some("dat") => true,
            None | Some("") => request.file.extension().is_some_and(|ending| ending == "dat"),
            Some(other) => {
                return Err(
                    invalid("imatrix_form", format!("there is no form `{}`", other.escape_debug()))
                        .hint("the forms are `gguf` and `dat`"),
                );
            }
        };
        let (file, force) = (request.file.clone(), request.force);
        // Told before the work and not after it; looked at again when the file is there.
        blocking(move || refuse_occupied(&file, force)).await?;
        Ok(Weighing {
            subject: Subject::read(app, &request.model).await?,
            text: Text::read(app, request.text).await?,
            file: request.file,
            is_dat,
            force,
        })
    }
}

/// Weighs the columns and puts the file in place. Returns the last line.
pub(crate) async fn weigh(app: Arc<App>, order: Weighing, lines: Lines) -> Result<MeasureLine, Diagnostic> {
    let directory = working_directory(&app, BESIDE_BYTES).await?;
    let made = directory.path().join(IMATRIX);
    let task = MeasureTask::Importance {
        text: order.text.measured.clone(),
        file: made.clone(),
        is_dat: order.is_dat,
    };
    let measured = run(&app, &order.subject, task, order.text.num_thread, &lines).await?;
    let (file, force) = (order.file, order.force);
    blocking(move || {
        refuse_occupied(&file, force)?;
        place_new(&made, &file)?;
        drop(directory);
        Ok::<_, Diagnostic>(())
    })
    .await?;
    Ok(ended(vec![measured]))
}

/// A model that is timed.
pub(crate) struct Race {
    subject: Subject,
    cases: Vec<protocol::SpeedCase>,
    repeats: u64,
    num_thread: Option<u32>,
}

impl Race {
    /// Checks a request.
    pub(crate) async fn read(app: &Arc<App>, request: BenchRequest) -> Result<Race, Diagnostic> {
        let (count, repeats) = (request.cases.len(), request.repeats.unwrap_or(REPEATS_DEFAULT));
        if count == 0 || count > BENCH_CASES_MAX || repeats == 0 || repeats > BENCH_REPEATS_MAX {
            let message = format!("{count} cases, {repeats} times each");
            return Err(invalid("bench_cases", message).hint(format!(
                "name 1 to {BENCH_CASES_MAX} cases, to be timed 1 to {BENCH_REPEATS_MAX} times"
            )));
        }
        let subject = Subject::read(app, &request.model).await?;
        let mut cases = Vec::with_capacity(count);
        for case in request.cases {
            cases.push(checked_case(case, subject.info.context_length)?);
        }
        Ok(Race {
            subject,
            cases,
            repeats,
            num_thread: request.num_thread,
        })
    }
}

fn checked_case(case: SpeedCase, positions_max: u64) -> Result<protocol::SpeedCase, Diagnostic> {
    let parallel = case.parallel.max(1);
    let tokens = case.prompt.saturating_add(case.generate);
    if case.prompt == 0 || parallel > BENCH_PARALLEL_MAX || positions_max > 0 && tokens > positions_max {
        let message = format!(
            "a prompt of {} tokens and {} behind it, {parallel} at once, cannot be timed",
            case.prompt, case.generate
        );
        return Err(invalid("bench_case", message).hint(format!(
            "a prompt has a token or more, the model was made for {positions_max}, and {BENCH_PARALLEL_MAX} may run at once"
        )));
    }
    Ok(protocol::SpeedCase {
        n_prompt: case.prompt,
        n_generate: case.generate,
        n_parallel: parallel,
        n_adapters: case.adapters.min(parallel),
    })
}

/// Times a model. Returns the last line.
pub(crate) async fn bench(app: Arc<App>, race: Race, lines: Lines) -> Result<MeasureLine, Diagnostic> {
    let task = MeasureTask::Speed {
        cases: race.cases,
        n_repeats: race.repeats,
    };
    let mut measured = run(&app, &race.subject, task, race.num_thread, &lines).await?;
    measured.vocab_size = race.subject.info.vocab_size;
    if let [file] = race.subject.model.files.as_slice() {
        measured.file = Some(file.path.clone());
    }
    Ok(ended(vec![measured]))
}

fn refuse_occupied(file: &Path, force: bool) -> Result<(), Diagnostic> {
    let taken = |what: &str, hint: &str| {
        let message = format!("`{}` {what}", file.display());
        Err(Diagnostic::new("witness::daemon::file_taken", Kind::Conflict, message).hint(hint))
    };
    match fs::symlink_metadata(file) {
        Ok(there) if there.is_dir() => taken("is a folder", "name a file"),
        Ok(_) if !force => taken(
            "is there already",
            "name another file, or say `\"force\": true` (`--force`)",
        ),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Where a reference's probabilities lie while others are held against them.
struct Reference(WorkingDirectory);

impl Reference {
    async fn make_room(app: &Arc<App>, subject: &Subject, text: &Text) -> Result<Reference, Diagnostic> {
        let task = MeasureTask::Perplexity {
            text: text.measured.clone(),
        };
        let request = subject.request(task, text.num_thread);
        let plan = app.engine.plan_measure(&request, &subject.info.architecture).await?;
        let room = plan.file_bytes.saturating_add(BESIDE_BYTES);
        let directory = working_directory(app, room).await.map_err(|refusal| {
            refusal.hint(format!(
                "the probabilities of {} pieces take {} MB meanwhile; measure fewer with `\"chunks\"` (`--chunks`)",
                plan.n_chunks,
                plan.file_bytes / 1_000_000
            ))
        })?;
        Ok(Reference(directory))
    }

    fn file(&self) -> PathBuf {
        self.0.path().join(REFERENCE)
    }

    fn write(&self, text: protocol::MeasuredText) -> MeasureTask {
        MeasureTask::Reference {
            text,
            file: self.file(),
        }
    }

    fn read(&self, text: protocol::MeasuredText) -> MeasureTask {
        MeasureTask::Divergence {
            text,
            file: self.file(),
        }
    }
}

async fn working_directory(app: &Arc<App>, bytes: u64) -> Result<WorkingDirectory, Diagnostic> {
    let registry = app.library.registry.clone();
    blocking(move || registry.working_directory(bytes).map_err(Diagnostic::from)).await
}

/// Makes a candidate, and passes on what is told.
async fn make(
    app: &Arc<App>,
    request: TransformRequest,
    info: &ModelInfo,
    lines: &Lines,
) -> Result<transform::Made, Diagnostic> {
    // Bytes are another scale than pieces: the step alone is told.
    let turned = |line: Progress| (line.total == 0).then(|| status(line.status));
    transform::run_telling(app, request, info, lines, turned).await
}

fn on_disk(name: String, path: PathBuf, model: &str) -> Result<FileRef, Diagnostic> {
    let size = fs::metadata(&path).map(|facts| facts.len()).map_err(|error| {
        let message = format!("what was made of `{model}` is gone");
        Diagnostic::new("witness::daemon::measure_gone", Kind::Environment, message).cause(error.to_string())
    })?;
    Ok(FileRef {
        name,
        path,
        digest: String::new(),
        size,
    })
}

/// Runs one job and returns what it found.
async fn run(
    app: &Arc<App>,
    subject: &Subject,
    task: MeasureTask,
    num_thread: Option<u32>,
    lines: &Lines,
) -> Result<Measured, Diagnostic> {
    let request = subject.request(task, num_thread);
    let told = format!("measuring {}", request.model_name);
    let _ = lines.send(status(format!("loading {}", request.model_name))).await;
    let mut job = app.engine.measure(&request, &subject.info.architecture, &told).await?;
    let plugin = job.plugin();
    let mut total = 0;
    loop {
        let event = tokio::select! {
            event = job.next() => event,
            () = app.shutdown.cancelled() => return Err(shutting_down()),
        };
        let Some(event) = event else { break };
        let line = match serde_json::from_value::<MeasureEvent>(event) {
            Ok(MeasureEvent::Start(plan)) => {
                total = plan.n_chunks;
                MeasureLine {
                    total,
                    ..status(told.clone())
                }
            }
            Ok(MeasureEvent::Progress {
                n_chunks,
                perplexity,
                divergence,
            }) => MeasureLine {
                total,
                completed: n_chunks.min(total),
                perplexity,
                divergence,
                ..status(told.clone())
            },
            Ok(MeasureEvent::Warning { message }) => status(format!("warning: {message}")),
            // Reports of a newer plugin that this version does not know.
            Err(_) => continue,
        };
        let _ = lines.send(line).await;
    }
    let reply: MeasureReply = serde_json::from_value(job.finish().await?).map_err(|error| {
        Diagnostic::new(
            "witness::daemon::plugin_reply",
            Kind::Plugin,
            format!("plugin `{plugin}` answered with what is no measurement"),
        )
        .cause(error.to_string())
        .hint("report it to the plugin's author")
    })?;
    Ok(Measured {
        chunks: reply.n_chunks,
        scored: reply.n_scored,
        perplexity: reply.perplexity,
        perplexity_error: reply.perplexity_error,
        divergence: reply.divergence.map(on_the_wire),
        matrices: reply.n_matrices,
        tokens_per_second: reply.n_tokens as f64 / reply.seconds.max(f64::MIN_POSITIVE),
        speed: reply.speed.into_iter().map(speed_on_the_wire).collect(),
        weights_bytes: reply.weights_bytes,
        limits: reply.limits.map(limits_on_the_wire),
        memory: reply.memory.map(memory_on_the_wire),
        ..subject.known.clone()
    })
}

fn on_the_wire(found: protocol::Divergence) -> Divergence {
    Divergence {
        mean: found.mean,
        error: found.error,
        median: found.median,
        p99: found.p99,
        max: found.max,
        top_agreement: found.top_agreement,
        top_agreement_error: found.top_agreement_error,
        perplexity_ratio: found.perplexity_ratio,
        perplexity_ratio_error: found.perplexity_ratio_error,
        probability_change_rms: found.probability_change_rms,
    }
}

fn speed_on_the_wire(found: protocol::SpeedFound) -> SpeedFound {
    SpeedFound {
        case: SpeedCase {
            prompt: found.case.n_prompt,
            generate: found.case.n_generate,
            parallel: found.case.n_parallel,
            adapters: found.case.n_adapters,
        },
        tokens_per_second: found.tokens_per_second,
    }
}

fn memory_on_the_wire(memory: protocol::ProcessMemory) -> ProcessMemory {
    ProcessMemory {
        peak_bytes: memory.peak_bytes,
        anonymous_bytes: memory.anonymous_bytes,
        file_bytes: memory.file_bytes,
    }
}

fn limits_on_the_wire(limits: protocol::SpeedLimits) -> SpeedLimits {
    SpeedLimits {
        isa: limits.isa,
        threads: limits.n_threads,
        read_bytes_per_second: limits.read_bytes_per_second,
        operations_per_second: limits.operations_per_second,
        weights: limits.n_weights,
    }
}

fn status(text: impl Into<String>) -> MeasureLine {
    MeasureLine {
        status: text.into(),
        ..MeasureLine::default()
    }
}

fn ended(results: Vec<Measured>) -> MeasureLine {
    MeasureLine {
        results,
        ..status("success")
    }
}
