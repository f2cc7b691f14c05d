//! What every client verb needs: the resolved settings, a client, and a daemon that is started when none answers.

use std::ffi::OsString;
use std::future::Future;

use witness_api::ListResponse;
use witness_client::{Autostart, Client, ClientError, Readiness};
use witness_diagnostics::{Diagnostic, Kind, near_misses};
use witness_settings::Settings;

use crate::cli::Global;
use crate::render::output;

/// Result of a verb.
pub(crate) type Outcome<T = ()> = Result<T, Diagnostic>;

/// One invocation.
pub(crate) struct Context {
    /// Every setting.
    pub(crate) settings: Settings,
    /// The client of the daemon that they describe.
    pub(crate) client: Client,
    global: Global,
    runtime: tokio::runtime::Runtime,
}

impl Context {
    /// Resolves the settings. Connects to nothing.
    pub(crate) fn new(global: &Global) -> Outcome<Self> {
        let settings = witness_settings::resolve(&global.overrides(), &witness_settings::process_environment)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| {
                Diagnostic::new(
                    "witness::cli::runtime",
                    Kind::Environment,
                    "the process cannot wait for the network",
                )
                .cause(error.to_string())
                .hint("raise the limit of open files (`ulimit -n`)")
            })?;
        Ok(Self {
            client: Client::new(&settings),
            settings,
            global: global.clone(),
            runtime,
        })
    }

    /// Runs one exchange to its end.
    pub(crate) fn wait<T>(&self, exchange: impl Future<Output = Result<T, ClientError>>) -> Outcome<T> {
        self.runtime.block_on(exchange).map_err(Diagnostic::from)
    }

    /// Runs a future that minds Ctrl-C itself.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Runs one exchange until it ends or the user presses Ctrl-C; nothing = the latter. What was in progress is dropped, which
    /// cancels it in the daemon.
    pub(crate) fn wait_or_interrupt<T>(
        &self,
        exchange: impl Future<Output = Result<T, Diagnostic>>,
    ) -> Outcome<Option<T>> {
        self.runtime.block_on(async {
            tokio::select! {
                result = exchange => result.map(Some),
                _ = tokio::signal::ctrl_c() => Ok(None),
            }
        })
    }

    /// Returns the client of a daemon that answers, starting one if needed.
    pub(crate) fn daemon(&self) -> Outcome<&Client> {
        let program = std::env::current_exe().map_err(|error| {
            Diagnostic::new(
                "witness::cli::program",
                Kind::Environment,
                "this program cannot find its own file",
            )
            .cause(error.to_string())
            .hint("start the daemon with `witness serve`")
        })?;
        let start = Autostart {
            program,
            arguments: self.serve_arguments(),
        };
        let readiness = self.wait(witness_client::ensure(&self.client, &self.settings, &start))?;
        if readiness == Readiness::Started && output::is_colour_wanted() {
            output::note("started the daemon (`witness stop --daemon` ends it)");
        }
        Ok(&self.client)
    }

    /// Returns the arguments with which a daemon resolves the same settings: the flags of this invocation. The environment is inherited.
    fn serve_arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["serve".into(), "--detached".into()];
        let mut flag = |name: &str, value: Option<OsString>| {
            if let Some(value) = value {
                arguments.push(name.into());
                arguments.push(value);
            }
        };
        flag("--home", self.global.home.clone().map(Into::into));
        flag("--models", self.global.models.clone().map(Into::into));
        flag("--host", self.global.host.clone().map(Into::into));
        flag("--config", self.global.config.clone().map(Into::into));
        arguments
    }

    /// Adds to a "no such model" what the name may have meant and how to come by such a model.
    pub(crate) fn explain_missing(&self, name: &str, mut refusal: Diagnostic) -> Diagnostic {
        if refusal.kind != Kind::NotFound {
            return refusal;
        }
        let known = self
            .wait(self.client.get::<ListResponse>("/api/tags"))
            .unwrap_or_default();
        let names = known.models.iter().map(|model| model.name.trim_end_matches(":latest"));
        // The daemon says the same in fewer words.
        refusal.hints.retain(|hint| !hint.contains("`witness list`"));
        let meant = near_misses(name.trim_end_matches(":latest"), names);
        let mut add = |hint: String| {
            if !refusal.hints.contains(&hint) {
                refusal.hints.push(hint);
            }
        };
        if !meant.is_empty() {
            let meant: Vec<String> = meant.iter().map(|name| format!("`{name}`")).collect();
            add(format!("did you mean {}?", meant.join(" or ")));
        }
        add(if known.models.is_empty() {
            format!("nothing is here yet; write a Modelfile and run `witness create {name} -f Modelfile`")
        } else {
            format!("`witness list` shows what is here; `witness create {name} -f Modelfile` makes a new one")
        });
        // The daemon suggests near misses too; one question is enough.
        let mut is_asked = false;
        refusal
            .hints
            .retain(|hint| !hint.starts_with("did you mean") || !std::mem::replace(&mut is_asked, true));
        refusal
    }
}
