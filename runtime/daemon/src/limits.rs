//! Every bound of the daemon in one place, each with its reason. What a user may turn lives in the settings instead.

use std::time::Duration;

/// Connections at once, over both listeners. Each costs a task and at most [`HEADER_BYTES_MAX`] of buffer while idle.
pub(crate) const CONNECTIONS_MAX: usize = 1024;
/// Bytes of a request's head, and of a connection's read buffer. The number of headers is bounded by the HTTP library, at 100.
pub(crate) const HEADER_BYTES_MAX: usize = 64 << 10;
/// Time in which a request's head must arrive; also how long an idle connection is kept.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a JSON body: a conversation that fills a context of a million tokens is about 8 MiB.
pub(crate) const JSON_BYTES_MAX: usize = 32 << 20;
/// Longest pause inside a body.
pub(crate) const BODY_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Longest time that a client may refuse to take what it asked for.
pub(crate) const WRITE_PAUSE_MAX: Duration = Duration::from_secs(120);
/// Chunks of an upload between the network and the disk.
pub(crate) const UPLOAD_CHUNKS_MAX: usize = 16;
/// Lines between a job and the connection that reports it.
pub(crate) const PROGRESS_LINES_MAX: usize = 64;
/// Bytes of a template, system, parameter, message or licence layer, and of a config blob.
pub(crate) const TEXT_LAYER_BYTES_MAX: u64 = 8 << 20;
/// Files that one model or adapter may be made of.
pub(crate) const FILES_MAX: usize = 4096;
/// Bytes of a file's name inside a model.
pub(crate) const FILE_NAME_BYTES_MAX: usize = 255;
/// Adapters of one model.
pub(crate) const ADAPTERS_MAX: usize = 64;
/// Adapters that stay attached to one loaded base; the one unused longest goes first.
pub(crate) const ADAPTERS_ATTACHED_MAX: usize = 32;
/// Untrusted files that are looked into at once.
pub(crate) const INSPECTIONS_MAX: usize = 2;
/// Inspections that are remembered for models whose config has none (a store that another program wrote).
pub(crate) const INSPECTIONS_REMEMBERED_MAX: usize = 64;
/// Models whose manifest is kept in memory, parsed.
pub(crate) const STORED_CACHED_MAX: usize = 256;
/// How long an uploaded blob that no model names yet is kept from the collector.
pub(crate) const UPLOAD_LEASE: Duration = Duration::from_secs(3600);
/// Uploaded blobs that are kept so at once.
pub(crate) const UPLOAD_LEASES_MAX: usize = 8192;
/// Time that requests get to end at shutdown.
pub(crate) const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// Time that a worker gets to end before it is killed.
pub(crate) const WORKER_GRACE: Duration = Duration::from_secs(2);
/// Bytes of one chunk of a streamed answer; tokens that wait are sent together up to here.
pub(crate) const CHUNK_BYTES_MAX: usize = 16 << 10;
/// Share of the machine's memory that models may take when no budget is set, in percent.
pub(crate) const MEMORY_SHARE_PERCENT: u64 = 80;
/// Training runs that wait for the one that runs.
pub(crate) const TRAIN_QUEUE_MAX: usize = 16;
/// Training runs that are kept. Each is a directory; their beginnings are read at the first question about any.
pub(crate) const TRAIN_RUNS_MAX: usize = 4096;
/// Files of rows of one training run.
pub(crate) const TRAIN_FILES_MAX: usize = 1024;
/// Bytes of the lines that one run may report: some millions of steps.
pub(crate) const TRAIN_EVENTS_BYTES_MAX: u64 = 1 << 30;
/// Longest time that planning a run may take: every row is read and split into tokens.
pub(crate) const TRAIN_PLAN_TIMEOUT: Duration = Duration::from_secs(1800);
/// Time that a run gets to save and end when it is asked to.
pub(crate) const TRAIN_STOP_GRACE: Duration = Duration::from_secs(30);
/// The same when the daemon ends; `witness stop` waits for 30 seconds.
pub(crate) const TRAIN_SHUTDOWN_GRACE: Duration = Duration::from_secs(20);
/// How often the summary of a running run is written beside its lines, at the least.
pub(crate) const TRAIN_STATE_EVERY: Duration = Duration::from_secs(5);
/// Pause after which a stream of server-sent events shows that it is alive.
pub(crate) const SSE_KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Context that a model is reckoned with when nobody names one: the plugin's own default.
pub(crate) const CONTEXT_DEFAULT: u64 = 4096;
/// Exchanges of `/api/generate` that can be continued by their `context`.
pub(crate) const CONTEXTS_MAX: usize = 256;
/// Bytes that they may take together.
pub(crate) const CONTEXTS_BYTES_MAX: usize = 8 << 20;
/// Models, or types of one, that are measured in one request: each is loaded by itself.
pub(crate) const MEASURED_MODELS_MAX: usize = 32;
/// Cases of one bench.
pub(crate) const BENCH_CASES_MAX: usize = 64;
/// Times that a case may be run.
pub(crate) const BENCH_REPEATS_MAX: u64 = 1000;
/// Sequences of a case: as many as a model serves at once.
pub(crate) const BENCH_PARALLEL_MAX: u64 = 64;

/// Sequences whose full contexts a draft is given room for: with more at once, guessing seldom pays.
pub(crate) const DRAFT_PARALLEL_MAX: u64 = 4;
/// Drafts that stay attached to one loaded base. Each is a model; the one unused longest goes first.
pub(crate) const DRAFTS_ATTACHED_MAX: usize = 2;
/// Part of the memory budget that the keys and values of one model may take beyond one full context: a fourth.
pub(crate) const KV_SHARE: u64 = 4;
