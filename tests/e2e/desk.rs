//! A desk to work at: a home of its own, the program aimed at it, and a daemon that ends with the test.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{self, Home};

/// Message of tests that compare with reference data.
const NO_SHARED: &str = "skipped: this test needs ../shared";

/// One home. The daemon that verbs start in it is stopped when the desk is left.
pub(crate) struct Desk {
    home: Home,
}

/// What a run of the program left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Returns standard output of a run that must have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    /// Returns standard error of a run that must have ended with this code.
    #[track_caller]
    pub(crate) fn refused(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        self.err
    }

    /// Returns standard output as JSON.
    #[track_caller]
    pub(crate) fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.ok()).unwrap()
    }
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self { home: Home::new() }
    }

    /// A desk with the toy model on it, under the name `quick`.
    pub(crate) fn with_quick() -> Self {
        let desk = Self::new();
        desk.run(["create", "quick", "-f", &toy("Modelfile")]).ok();
        desk
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    pub(crate) fn path(&self) -> &Path {
        self.home.path()
    }

    /// The program, aimed at this desk, without a terminal.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.home.witness();
        command
            .current_dir(self.path())
            .stdin(Stdio::null())
            .env_remove("NO_COLOR");
        command
    }

    pub(crate) fn run<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Ran {
        finish(self.command().args(arguments))
    }

    /// Runs with text on standard input.
    pub(crate) fn run_with<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>, input: &str) -> Ran {
        let mut command = self.command();
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A program that refuses without reading closes the pipe, which is its right.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        read(child.wait_with_output().unwrap())
    }

    /// Writes a file on the desk and returns its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = self.run(["stop", "--daemon"]);
    }
}

/// Waits for what comes behind an answer, or behind a stop.
#[track_caller]
pub(crate) fn until(what: &str, is_so: &dyn Fn() -> bool) {
    let so = (0..4_000).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        is_so()
    });
    assert!(so, "{what}");
}

/// Runs a command to its end.
pub(crate) fn finish(command: &mut Command) -> Ran {
    read(command.output().unwrap())
}

fn read(output: std::process::Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Returns the path of a file of the toy model.
pub(crate) fn toy(name: &str) -> String {
    let path = harness::checkout().join("tests/toy").join(name);
    path.to_str().unwrap().to_owned()
}

/// Returns the reference data beside the checkout, or nothing (and says so) where it is absent.
pub(crate) fn shared() -> Option<PathBuf> {
    let found = harness::checkout().join("../shared").canonicalize().ok();
    if found.is_none() {
        eprintln!("{NO_SHARED}");
    }
    found
}
