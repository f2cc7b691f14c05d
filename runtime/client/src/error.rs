//! What can go wrong between this process and the daemon, and how each case reads to a person.

use std::path::PathBuf;

use witness_diagnostics::{Diagnostic, Kind};

/// A failure of the client side of a conversation with the daemon.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens where the daemon should be.
    #[error("no daemon answers at {tried}")]
    NotRunning {
        /// The addresses tried, as text.
        tried: String,
        /// Why the last of them failed.
        #[source]
        source: std::io::Error,
    },
    /// The request needs the unix socket, and it does not answer.
    #[error("`{}` does not answer, and this request is only accepted there", socket.display())]
    SocketOnly {
        /// The socket.
        socket: PathBuf,
    },
    /// The daemon was started and did not become ready.
    #[error("the daemon did not become ready within {waited_s} s")]
    NotReady {
        /// Seconds waited.
        waited_s: u64,
        /// Its log.
        log: PathBuf,
        /// The last lines it wrote.
        tail: String,
    },
    /// The daemon could not be started at all.
    #[error("the daemon could not be started")]
    Start {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke in the middle.
    #[error("the connection to the daemon broke")]
    Broken {
        /// What the transport says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is not what the protocol says.
    #[error("the daemon's answer to `{request}` cannot be read")]
    Malformed {
        /// Method and path.
        request: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Whoever listens accepts connections and says nothing.
    #[error("no answer to `{request}` within {waited_s} s")]
    Silent {
        /// Method and path.
        request: String,
        /// Seconds waited.
        waited_s: u64,
    },
    /// An answer is larger than this client accepts.
    #[error("the daemon's answer to `{request}` is longer than {limit_bytes} bytes")]
    TooLong {
        /// Method and path.
        request: String,
        /// The limit.
        limit_bytes: usize,
    },
    /// The daemon answered with an error of its own.
    #[error("{0}")]
    Answered(Box<Diagnostic>),
    /// A local file cannot be read.
    #[error("`{}` cannot be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A path does not hold what a model or adapter needs.
    #[error("{message}")]
    Source {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
        /// Whose fault.
        kind: Kind,
    },
}

impl ClientError {
    /// Returns true when nobody listens: the case in which starting a daemon helps.
    pub fn is_not_running(&self) -> bool {
        matches!(self, ClientError::NotRunning { .. })
    }

    /// Returns true when there are weights, but in a form that is never opened.
    pub(crate) fn is_pickle(&self) -> bool {
        matches!(self, ClientError::Source { kind, .. } if *kind == Kind::Unsupported)
    }
}

impl From<ClientError> for Diagnostic {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::Answered(diagnostic) => *diagnostic,
            ClientError::NotRunning { source, .. } => {
                Diagnostic::new("witness::client::not_running", Kind::Environment, message)
                    .cause(source.to_string())
                    .hint("start it with `witness serve`")
                    .hint("if it listens elsewhere, say where with `--host` or `WITNESS_HOST`")
            }
            ClientError::SocketOnly { .. } => {
                Diagnostic::new("witness::client::socket_only", Kind::Environment, message)
                    .hint("run this on the daemon's own machine, as its user, with the same `--home`")
            }
            ClientError::NotReady { log, tail, .. } => {
                let mut diagnostic = Diagnostic::new("witness::client::not_ready", Kind::Environment, message);
                if !tail.is_empty() {
                    diagnostic = diagnostic.cause(tail);
                }
                diagnostic.hint(format!(
                    "read `{}`, or run `witness serve` in a terminal to see it start",
                    log.display()
                ))
            }
            ClientError::Start { source } => Diagnostic::new("witness::client::start", Kind::Environment, message)
                .cause(source.to_string())
                .hint("run `witness serve` in another terminal"),
            ClientError::Broken { source } => Diagnostic::new("witness::client::broken", Kind::Environment, message)
                .cause_chain(source.as_ref())
                .hint("the daemon may have been stopped; its log says more (`witness doctor` names the file)"),
            ClientError::Malformed { detail, .. } => {
                Diagnostic::new("witness::client::malformed", Kind::Environment, message)
                    .cause(detail)
                    .hint("is it another program, or another version, that listens there? `witness doctor` tells")
            }
            ClientError::Silent { .. } => Diagnostic::new("witness::client::silent", Kind::Environment, message)
                .hint("is it another program that listens there? `witness doctor` tells"),
            ClientError::TooLong { .. } => Diagnostic::new("witness::client::too_long", Kind::Environment, message)
                .hint("is it another program that listens there? `witness doctor` tells"),
            ClientError::File { path, source } => {
                let kind = if source.kind() == std::io::ErrorKind::NotFound {
                    Kind::NotFound
                } else {
                    Kind::Environment
                };
                Diagnostic::new("witness::client::file", kind, message)
                    .cause(source.to_string())
                    .hint(format!(
                        "check that `{}` exists and that you may read it",
                        path.display()
                    ))
            }
            ClientError::Source { hint, kind, .. } => {
                Diagnostic::new("witness::client::source", kind, message).hint(hint)
            }
        }
    }
}
