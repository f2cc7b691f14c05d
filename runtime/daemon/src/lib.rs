//! The daemon: HTTP in, models out. It translates, dispatches and streams; it decides nothing and computes nothing.
//!
//! Map, in the order of a request: `server` (connections and their limits) -> `guard` (who may) -> `routes` (one file an API) -> `turn` (a
//! request for an answer, checked and placed) -> `models` (what is stored, what is loaded) -> `engine` (whoever computes; `wire` is the
//! plugin host) -> `answer` (events to lines). `create` makes models, `jobs` trains them, `transform` has them made over, `export` writes them out, `import` takes them in, `measure` says how good they are. `limits` holds every bound.
//!
//! **Invariants**
//! - No tensor, token or kernel runs in this process, no library is opened, no model file is read (but its first eight bytes, to choose a
//!   plugin). A worker that dies costs its own requests.
//! - Everything a client can make grow has a bound in `limits` or in the settings.
//! - A client who leaves ends what was done for him: every answer, job and upload is owned by its connection.
//! - Nothing blocks the network's threads: the store is used from the blocking pool.
//!
//! Start: bind, lock the store, serve. Nothing is listed and no plugin is looked for before the first request that needs it.

mod answer;
mod app;
mod body;
mod chats;
mod contexts;
mod create;
mod draft;
mod engine;
mod export;
mod guard;
mod import;
mod jobs;
mod limits;
mod measure;
mod memory;
mod modelfile;
mod models;
mod packed;
mod product;
mod progress;
mod reckon;
mod reply;
mod routes;
mod server;
mod socket;
mod stall;
mod template;
mod tidy;
mod transform;
mod turn;
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use witness_diagnostics::{Diagnostic, Kind};
use witness_registry::{OpenOptions, Registry};
use witness_scheduler::{Config, Scheduler};
use witness_settings::Settings;

pub use engine::{Answer, Boxed, Engine, Event, Events, LoadedBase, RunningJob, Worker};

use app::App;
use guard::Guard;
use jobs::Jobs;
use models::handle::Models;
use models::library::{Library, blocking};
use socket::SocketFile;

/// Threads that move bytes. Models compute elsewhere.
const NETWORK_THREADS: usize = 2;
/// Threads for the store's blocking work.
const BLOCKING_THREADS_MAX: usize = 16;

/// What the daemon needs beyond its settings.
#[derive(Debug, Default)]
pub struct ServeOptions {
    /// The program that runs as a worker, with the argument `worker`: this program itself.
    pub worker_program: PathBuf,
    /// Directories with plugins that came with the program. Looked into after those of the settings' plugin path, before the user's own.
    pub plugin_dirs: Vec<PathBuf>,
    /// Told where the daemon listens, as soon as it does.
    pub ready: Option<oneshot::Sender<Bound>>,
}

/// Where a daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Its TCP address, with the port that the system chose if the settings say 0.
    pub address: SocketAddr,
    /// Its unix socket.
    pub socket: PathBuf,
}

/// Runs a daemon on a runtime of its own until SIGTERM, SIGINT or a request ends it. Writes its log to standard error.
pub fn run(settings: Settings, options: ServeOptions) -> Result<(), Diagnostic> {
    start_log(&settings.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(NETWORK_THREADS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("witness-net")
        .enable_all()
        .build()
        .map_err(|error| {
            Diagnostic::new(
                "witness::daemon::runtime",
                Kind::Environment,
                "the daemon's threads cannot be started",
            )
            .cause(error.to_string())
        })?;
    let result = runtime.block_on(run_async(settings, options));
    // A blocking job that is still at it (a long hash) sees its cancel flag; what is left is cut off with the process.
    runtime.shutdown_background();
    result
}

/// Runs a daemon on the current runtime until SIGTERM, SIGINT or a request ends it.
pub async fn run_async(settings: Settings, options: ServeOptions) -> Result<(), Diagnostic> {
    let mut directories = settings.plugin_path.clone();
    directories.extend(options.plugin_dirs);
    directories.push(settings.user_plugins.clone());
    let engine = Arc::new(wire::Wire::new(&settings, options.worker_program, directories));
    let daemon = Daemon::bind(settings, engine).await?;
    let shutdown = daemon.shutdown_token();
    let end_by_signal = async {
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(mut terminate), Ok(mut interrupt)) => {
                tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
                tracing::info!("told to end");
                shutdown.cancel();
            }
            _ => tracing::warn!("signals cannot be caught; `witness serve` ends with its process"),
        }
        std::future::pending::<()>().await;
    };
    if let Some(ready) = options.ready {
        // Whoever asked may have left.
        let _ = ready.send(daemon.bound());
    }
    tokio::select! {
        () = daemon.serve() => {}
        () = end_by_signal => {}
    }
    Ok(())
}

fn start_log(filter: &str) {
    use tracing_subscriber::{EnvFilter, fmt};
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // A log that was started already (in tests) stays.
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let _ = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal)
        .try_init();
}

/// A daemon that is bound and holds its store; it answers once [`Daemon::serve`] runs. For tests, and for [`run_async`].
pub struct Daemon {
    app: Arc<App>,
    tcp: TcpListener,
    unix: Option<UnixListener>,
    bound: Bound,
    /// Removes the socket's file at the end.
    _socket: SocketFile,
}

impl Daemon {
    /// Opens and locks the store and binds both listeners.
    pub async fn bind(settings: Settings, engine: Arc<dyn Engine>) -> Result<Self, Diagnostic> {
        let started = Instant::now();
        let models = settings.models.clone();
        let registry = blocking(move || {
            Registry::open(
                &models,
                &OpenOptions {
                    create: true,
                    ..OpenOptions::new("witness serve")
                },
            )
        })
        .await?;
        let reserved = socket::reserve(&settings.host).await?;
        let (unix, socket_file) = socket::unix(&settings.socket)?;
        let tcp = socket::listen(reserved, &settings.host)?;
        let address = tcp.local_addr().map_err(|error| {
            Diagnostic::new(
                "witness::daemon::listen",
                Kind::Environment,
                "the listener has no address",
            )
            .cause(error.to_string())
        })?;
        if let Err(error) = chats::tidy(&settings) {
            tracing::warn!("chats are not kept while their models are not loaded: {error}");
        }
        let memory_budget_bytes = memory::budget_bytes(&settings);
        let scheduler = Scheduler::new(Config {
            budget_bytes: memory_budget_bytes,
            loaded_max: settings.loaded_models_max,
            parallel: settings.parallel,
            queue_max: settings.queue_max,
        });
        let bound = Bound {
            address,
            socket: settings.socket.clone(),
        };
        let app = Arc::new(App {
            guard: Guard::new(settings.origins.clone(), address.ip().is_loopback()),
            models: Models::start(
                scheduler,
                Arc::clone(&engine),
                registry.clone(),
                settings.packed_cache_bytes,
            ),
            library: Arc::new(Library::new(registry, Arc::clone(&engine))),
            jobs: Arc::new(Jobs::new(settings.runs.clone())),
            engine,
            contexts: Arc::default(),
            shutdown: CancellationToken::new(),
            started,
            memory_budget_bytes,
            address: address.to_string(),
            socket: settings.socket.clone(),
            settings,
        });
        tracing::info!(%address, socket = %bound.socket.display(), models = %app.settings.models.display(), "ready after {:?}", started.elapsed());
        Ok(Self {
            app,
            tcp,
            unix: Some(unix),
            bound,
            _socket: socket_file,
        })
    }

    /// Returns where it listens.
    pub fn bound(&self) -> Bound {
        self.bound.clone()
    }

    /// Returns the token that ends it when cancelled.
    pub fn shutdown_token(&self) -> CancellationToken {
        self.app.shutdown.clone()
    }

    /// Serves until told to end, then stops workers, removes the socket and lets go of the store.
    pub async fn serve(self) {
        let Self {
            app,
            tcp,
            unix,
            bound: _,
            _socket,
        } = self;
        tokio::spawn(tidy::run(app.library.registry.clone(), app.shutdown.clone()));
        server::serve(app, tcp, unix).await;
        tracing::info!("ended");
    }
}
