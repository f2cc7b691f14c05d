//! How a worker ended, in words: the signal or exit code, what it was doing, its last lines, and what to do about it.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use witness_plugin_protocol::{Diagnostic, Kind};

use crate::frame::{FrameError, Operation};
use crate::inside::{EXIT_CONNECTION, EXIT_PANICKED};

/// Lines of the worker's own that a message quotes.
const QUOTED_LINES_MAX: usize = 4;

/// Why the host ended a worker, when it was the host.
#[derive(Clone, Debug)]
pub(crate) enum Cause {
    /// The caller asked for it, or dropped the worker.
    Wanted,
    /// It owed a pong for too long.
    Silent(Duration),
    /// Its plugin got nothing done for too long.
    Stalled(Operation, Duration),
    /// A call did not end by its deadline.
    Deadline(Operation, Duration),
    /// It sent something that is no frame.
    Garbage(FrameError),
    /// It closed the connection and lived on.
    HungUp,
}

/// What is known when a worker has ended.
pub(crate) struct Death<'a> {
    pub(crate) plugin: &'a str,
    pub(crate) pid: u32,
    pub(crate) purpose: &'a str,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) cause: Option<Cause>,
    pub(crate) status: Option<ExitStatus>,
    /// What it was asked for and had not answered.
    pub(crate) during: Option<Operation>,
    pub(crate) last_lines: Vec<String>,
}

impl Death<'_> {
    /// Returns the death in words.
    pub(crate) fn diagnostic(&self) -> Diagnostic {
        let subject = format!(
            "the worker of plugin `{}` (process {}, for `{}`)",
            self.plugin, self.pid, self.purpose
        );
        let during = self
            .during
            .map(|operation| format!(" during `{}`", operation.name()))
            .unwrap_or_default();
        let secs = |time: &Duration| format!("{:.1} s", time.as_secs_f64());
        let died = |message: String| Diagnostic::new("witness::plugin::worker_died", Kind::Plugin, message);
        let hung = |message: String| Diagnostic::new("witness::plugin::worker_hung", Kind::Plugin, message);
        let mut diagnostic = match (&self.cause, self.status) {
            (Some(Cause::Wanted), _) => {
                return Diagnostic::new(
                    "witness::plugin::worker_stopped",
                    Kind::Cancelled,
                    format!("{subject} was stopped{during}"),
                );
            }
            (Some(Cause::Silent(time)), _) => {
                hung(format!("{subject} did not answer for {} and was ended", secs(time)))
            }
            (Some(Cause::Stalled(operation, time)), _) => hung(format!(
                "{subject} made no progress in `{}` for {} and was ended",
                operation.name(),
                secs(time)
            ))
            .hint("a slower machine may need a longer WITNESS_STALL_TIMEOUT"),
            (Some(Cause::Deadline(operation, time)), _) => Diagnostic::new(
                "witness::plugin::deadline",
                Kind::Plugin,
                format!(
                    "{subject} did not finish `{}` within {} and was ended",
                    operation.name(),
                    secs(time)
                ),
            )
            .hint("a slower machine or disk may need a longer WITNESS_LOAD_TIMEOUT"),
            (Some(Cause::Garbage(error)), _) => {
                died(format!("{subject} sent what is no message{during} and was ended")).cause(error.to_string())
            }
            (Some(Cause::HungUp), _) => died(format!("{subject} closed its connection{during} and was ended")),
            (None, None) => died(format!("{subject} ended{during}, and how is not known")),
            (None, Some(status)) => self.by_status(&subject, &during, status),
        };
        let quoted = self.last_lines.len().saturating_sub(QUOTED_LINES_MAX);
        for line in &self.last_lines[quoted..] {
            diagnostic = diagnostic.cause(format!("it said: {line}"));
        }
        diagnostic
            .hint("send the request again: a new worker is started when it is needed, and nothing else is affected")
    }

    fn by_status(&self, subject: &str, during: &str, status: ExitStatus) -> Diagnostic {
        let died = |what: String| {
            Diagnostic::new(
                "witness::plugin::worker_died",
                Kind::Plugin,
                format!("{subject} {what}{during}"),
            )
        };
        if let Some(signal) = status.signal() {
            let diagnostic = died(format!("was ended by {}", signal_name(signal)));
            return match (signal, self.memory_bytes) {
                (SIGKILL, _) => diagnostic
                    .hint("the kernel ends processes this way when memory runs out: use a smaller model or context"),
                (SIGABRT, Some(bytes)) if self.ran_out_of_memory() => {
                    diagnostic.cause(format!("it may use {bytes} bytes of memory and asked for more"))
                }
                _ => diagnostic,
            };
        }
        match status.code() {
            Some(code) if code == i32::from(EXIT_PANICKED) => died("ended itself after the plugin panicked".to_owned()),
            Some(code) if code == i32::from(EXIT_CONNECTION) => died("lost its connection and ended itself".to_owned()),
            Some(code) => died(format!("exited with code {code}")).hint("a plugin must not end its process"),
            None => died("ended in a way that is not known".to_owned()),
        }
    }

    /// Returns whether its last lines speak of memory: Rust and C++ both say so before they abort.
    fn ran_out_of_memory(&self) -> bool {
        self.last_lines
            .iter()
            .any(|line| line.contains("memory allocation of") || line.contains("bad_alloc"))
    }
}

const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;

/// Returns the name of a signal. The numbers of those that differ between systems are given as numbers.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL (an instruction that this processor lacks, perhaps)",
        5 => "SIGTRAP",
        SIGABRT => "SIGABRT",
        8 => "SIGFPE",
        SIGKILL => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        _ if signal == rustix::process::Signal::BUS.as_raw() => "SIGBUS",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death(cause: Option<Cause>, status: Option<i32>, lines: &[&str]) -> Diagnostic {
        Death {
            plugin: "hostile",
            pid: 42,
            purpose: "model",
            memory_bytes: Some(1 << 20),
            cause,
            status: status.map(ExitStatus::from_raw),
            during: Some(Operation::Step),
            last_lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        }
        .diagnostic()
    }

    #[test]
    fn every_end_is_named() {
        let second = Duration::from_secs(1);
        for (cause, status, expected) in [
            (None, Some(11), "was ended by SIGSEGV during `step`"),
            (None, Some(3 << 8), "exited with code 3 during `step`"),
            (None, Some(0), "exited with code 0 during `step`"),
            (
                None,
                Some(113 << 8),
                "ended itself after the plugin panicked during `step`",
            ),
            (
                Some(Cause::Silent(second)),
                Some(9),
                "did not answer for 1.0 s and was ended",
            ),
            (
                Some(Cause::Stalled(Operation::Step, second)),
                Some(9),
                "made no progress in `step` for 1.0 s",
            ),
            (
                Some(Cause::Deadline(Operation::Load, second)),
                Some(9),
                "did not finish `load` within 1.0 s",
            ),
            (Some(Cause::HungUp), Some(9), "closed its connection during `step`"),
            (
                Some(Cause::Garbage(FrameError::Short)),
                Some(9),
                "sent what is no message",
            ),
        ] {
            let diagnostic = death(cause, status, &["a", "b", "c", "d", "e"]);
            assert!(diagnostic.message.contains(expected), "{diagnostic:?}");
            assert!(
                diagnostic
                    .message
                    .starts_with("the worker of plugin `hostile` (process 42, for `model`)")
            );
            assert_eq!(diagnostic.causes.last().map(String::as_str), Some("it said: e"));
            assert!(!diagnostic.hints.is_empty());
        }
        let aborted = death(None, Some(6), &["memory allocation of 99 bytes failed"]);
        assert!(aborted.causes[0].contains("asked for more"), "{aborted:?}");
    }
}
