//! The host: which plugins there are, which one does a piece of work, and workers on demand.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use witness_plugin_protocol::{Descriptor, Diagnostic, Kind, Role};

use crate::boot::{Boot, Booted, Identity};
use crate::choose;
use crate::config::{HostConfig, Limits};
use crate::connection::{Connection, Name, OnDeath};
use crate::death::Cause;
use crate::discover::{self, Candidate};
use crate::entry::{FileFacts, PluginEntry, PluginState};
use crate::ledger::{self, Admission, Ledger};
use crate::spawn;
use crate::worker::Worker;

/// Descriptors that are read at once: each takes a process.
const DESCRIBE_AT_ONCE_MAX: usize = 4;
/// How long a worker that was started for a check may take to shut down.
const CHECK_GRACE: Duration = Duration::from_secs(5);

/// Finds plugins and starts workers. Clones share everything.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    config: HostConfig,
    /// What was found out about each file. Locked while files are described, so that each is described once.
    known: tokio::sync::Mutex<HashMap<PathBuf, Arc<PluginEntry>>>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Host {
    /// Returns a host. Nothing is looked for before it is asked.
    pub fn new(config: HostConfig) -> Self {
        Self(Arc::new(Inner {
            config,
            known: tokio::sync::Mutex::default(),
            ledger: Arc::default(),
        }))
    }

    /// Returns how it works.
    pub fn config(&self) -> &HostConfig {
        &self.0.config
    }

    /// Returns every plugin file in the directories, usable or not. A file that did not change is not opened again.
    pub async fn plugins(&self) -> Vec<Arc<PluginEntry>> {
        let mut known = self.0.known.lock().await;
        let directories = self.0.config.directories.clone();
        let candidates = tokio::task::spawn_blocking(move || discover::scan(&directories))
            .await
            .unwrap_or_default();
        known.retain(|path, _| candidates.iter().any(|candidate| candidate.path == *path));
        let is_known = |candidate: &Candidate, known: &HashMap<PathBuf, Arc<PluginEntry>>| {
            known
                .get(&candidate.path)
                .is_some_and(|entry| entry.identity == Some(candidate.identity))
        };
        let mut waiting: Vec<Candidate> = candidates
            .iter()
            .filter(|candidate| !is_known(candidate, &known))
            .cloned()
            .collect();
        waiting.reverse();
        let mut running = JoinSet::new();
        loop {
            while running.len() < DESCRIBE_AT_ONCE_MAX {
                let Some(candidate) = waiting.pop() else { break };
                let host = self.clone();
                running.spawn(async move { host.describe(&candidate.path, Some(candidate.identity)).await });
            }
            match running.join_next().await {
                Some(Ok(entry)) => drop(known.insert(entry.path.clone(), Arc::new(entry))),
                Some(Err(_)) => {}
                None => break,
            }
        }
        let mut entries: Vec<Arc<PluginEntry>> = Vec::with_capacity(candidates.len());
        for candidate in &candidates {
            if let Some(entry) = known.get(&candidate.path) {
                entries.push(self.as_listed(entry, &entries));
            }
        }
        entries
    }

    /// Opens one file anew, initializes the plugin once and forgets its earlier deaths.
    pub async fn check(&self, path: &Path) -> PluginEntry {
        let entry = self.describe(path, None).await;
        self.reset(path);
        if entry.descriptor().is_none() {
            return entry;
        }
        let limits = Limits {
            memory_bytes: None,
            purpose: "check".to_owned(),
            is_untrusted: true,
            is_background: false,
        };
        let outcome = match self.start(&entry, limits).await {
            Ok(worker) => worker.stop(CHECK_GRACE).await,
            Err(diagnostic) => Err(diagnostic),
        };
        match outcome {
            Ok(()) => entry,
            Err(diagnostic) => PluginEntry {
                state: PluginState::Refused(diagnostic),
                ..entry
            },
        }
    }

    /// Returns the plugin of a name.
    ///
    /// # Errors
    /// There is none; names that are close are suggested.
    pub async fn find(&self, name: &str) -> Result<Arc<PluginEntry>, Diagnostic> {
        let entries = self.plugins().await;
        if let Some(entry) = entries.iter().find(|entry| entry.name() == name) {
            return Ok(Arc::clone(entry));
        }
        let names: Vec<String> = entries.iter().map(|entry| entry.name()).collect();
        let mut diagnostic = Diagnostic::new(
            "witness::plugin::not_found",
            Kind::NotFound,
            format!("there is no plugin `{name}`"),
        );
        if let Some(close) = witness_diagnostics::near_miss(name, names.iter().map(String::as_str)) {
            diagnostic = diagnostic.hint(format!("did you mean `{close}`?"));
        }
        Err(diagnostic.hint("run `witness plugin list` to see all of them"))
    }

    /// Returns the plugin for a piece of work: the one with the highest score that has the role, reads one of the files and knows
    /// the architecture. No files and no architecture mean any.
    ///
    /// # Errors
    /// There is none; the diagnostic says what the plugins that are here can do.
    pub async fn choose(
        &self,
        role: Role,
        files: &[FileFacts],
        architecture: Option<&str>,
    ) -> Result<Arc<PluginEntry>, Diagnostic> {
        choose::choose(&self.plugins().await, role, files, architecture)
    }

    /// Starts a worker for a plugin and waits until the plugin is initialized.
    ///
    /// # Errors
    /// The plugin cannot be opened, refuses, dies or does not answer in time; or it died too often for this purpose and is paused
    /// or set aside.
    pub async fn start(&self, entry: &PluginEntry, limits: Limits) -> Result<Worker, Diagnostic> {
        if let Some(refusal) = entry.refusal() {
            return Err(refusal.clone());
        }
        if !limits.is_untrusted {
            self.admit(entry, &limits.purpose).await?;
        }
        let on_death = self.note_death(entry, &limits);
        let name = Name {
            plugin: entry.name(),
            purpose: limits.purpose,
            memory_bytes: limits.memory_bytes,
        };
        let boot = Boot {
            is_background: limits.is_background,
            ..self.boot_of(&entry.path, entry.identity, false, limits.memory_bytes)
        };
        let (connection, booted) = self.open(name, &boot, on_death).await?;
        Ok(Worker::new(
            connection,
            booted.descriptor,
            self.0.config.stream_events_max,
        ))
    }

    /// Forgets the deaths of a plugin, so that one that is set aside is started again.
    pub fn reset(&self, path: &Path) {
        self.ledger().reset(path);
    }

    /// Reads the descriptor of a file in a worker of its own.
    async fn describe(&self, path: &Path, identity: Option<Identity>) -> PluginEntry {
        let name = Name {
            plugin: path
                .file_name()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            purpose: "reading its descriptor".to_owned(),
            memory_bytes: self.0.config.describe_memory_bytes,
        };
        let boot = self.boot_of(path, None, true, self.0.config.describe_memory_bytes);
        let outcome = self.open(name, &boot, Box::new(|_, _| {})).await;
        let mut entry = PluginEntry {
            path: path.to_owned(),
            sha256: None,
            abi: None,
            state: PluginState::Refused(internal("nothing is known yet")),
            set_aside: Vec::new(),
            identity,
        };
        match outcome {
            Ok((connection, booted)) => {
                connection.end(Cause::Wanted);
                entry.sha256 = booted.sha256;
                entry.abi = Some(booted.abi);
                entry.identity = Some(booted.identity);
                entry.state = PluginState::Ready(booted.descriptor);
            }
            Err(diagnostic) => entry.state = PluginState::Refused(diagnostic),
        }
        entry
    }

    /// Starts a worker process and boots it. One that fails to is ended.
    async fn open(&self, name: Name, boot: &Boot, on_death: OnDeath) -> Result<(Arc<Connection>, Booted), Diagnostic> {
        let config = &self.0.config;
        let no_worker = |error: &std::io::Error| {
            Diagnostic::new(
                "witness::plugin::no_worker",
                Kind::Environment,
                format!(
                    "the worker program `{}` cannot be started",
                    config.worker_program.display()
                ),
            )
            .cause(error.to_string())
        };
        let boot = serde_json::to_vec(boot).map_err(|error| internal(&error.to_string()))?;
        let spawned = spawn::spawn(config).await.map_err(|error| no_worker(&error))?;
        let connection = Connection::open(spawned, name, config, on_death).map_err(|error| no_worker(&error))?;
        // Ends the worker when this future is dropped or the boot fails; a worker that has booted is somebody's.
        let mut guard = EndOnDrop(Some(Arc::clone(&connection)));
        let (_, json) = connection.boot(&boot, config.start_timeout).await?;
        let booted = serde_json::from_slice(&json).map_err(|error| internal(&error.to_string()))?;
        guard.0 = None;
        Ok((connection, booted))
    }

    fn boot_of(&self, path: &Path, identity: Option<Identity>, describe_only: bool, memory_bytes: Option<u64>) -> Boot {
        let settings = self.0.config.settings.clone();
        Boot {
            path: path.to_owned(),
            identity,
            describe_only,
            memory_bytes,
            is_background: false,
            parent: std::process::id(),
            settings,
        }
    }

    /// Waits out a short pause after deaths; refuses during a long one or when the plugin is set aside.
    async fn admit(&self, entry: &PluginEntry, purpose: &str) -> Result<(), Diagnostic> {
        let policy = &self.0.config.restart;
        let now = self.0.config.clock.now();
        let admission = self.ledger().admit(&entry.path, entry.identity, purpose, now, policy);
        match admission {
            Admission::Now => Ok(()),
            Admission::After(left) if left <= policy.wait_max => {
                tokio::time::sleep(left).await;
                Ok(())
            }
            Admission::After(left) => Err(ledger::pausing(&entry.name(), purpose, left)),
            Admission::SetAside(record) => Err(ledger::set_aside(&entry.name(), &record)),
        }
    }

    /// Returns what notes the death of a worker that ended by itself.
    fn note_death(&self, entry: &PluginEntry, limits: &Limits) -> OnDeath {
        if limits.is_untrusted {
            return Box::new(|_, _| {});
        }
        let (ledger, clock) = (Arc::clone(&self.0.ledger), self.0.config.clock.clone());
        let (policy, purpose) = (self.0.config.restart, limits.purpose.clone());
        let (path, identity, name) = (entry.path.clone(), entry.identity, entry.name());
        Box::new(move |death, is_own| {
            if !is_own {
                return;
            }
            let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
            if ledger.note(&path, identity, &purpose, death, clock.now(), &policy) {
                tracing::error!(plugin = %name, "the plugin died {} times for `{purpose}` and is set aside", policy.deaths_max);
            }
        })
    }

    /// Returns an entry as it is listed: with what it is set aside for, and refused when an earlier one has its name.
    fn as_listed(&self, entry: &Arc<PluginEntry>, earlier: &[Arc<PluginEntry>]) -> Arc<PluginEntry> {
        let set_aside = self.ledger().set_aside(&entry.path, entry.identity);
        let shadow = entry.descriptor().and_then(|descriptor| {
            earlier
                .iter()
                .find(|other| other.descriptor().is_some_and(|known| is_same(known, descriptor)))
        });
        let Some(shadow) = shadow else {
            if set_aside.is_empty() {
                return Arc::clone(entry);
            }
            return Arc::new(PluginEntry {
                set_aside,
                ..(**entry).clone()
            });
        };
        let refusal = Diagnostic::new(
            "witness::plugin::shadowed",
            Kind::Conflict,
            format!("a plugin named `{}` was found before this one", entry.name()),
        )
        .cause(format!("`{}` comes first", shadow.path.display()))
        .hint("remove one of the two files");
        Arc::new(PluginEntry {
            set_aside,
            state: PluginState::Refused(refusal),
            ..(**entry).clone()
        })
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether two descriptors claim one name for one role.
fn is_same(one: &Descriptor, other: &Descriptor) -> bool {
    one.name == other.name && one.roles.iter().any(|role| other.roles.contains(role))
}

fn internal(reason: &str) -> Diagnostic {
    Diagnostic::new(
        "witness::plugin::boot",
        Kind::Internal,
        "the first exchange with a worker went wrong",
    )
    .cause(reason)
}

/// Ends a worker that nobody took over.
struct EndOnDrop(Option<Arc<Connection>>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            connection.end(Cause::Wanted);
        }
    }
}
