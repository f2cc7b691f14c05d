//! Starting the daemon when none answers.
//!
//! The child is `witness serve` of the same program with the same settings, in a session of its own, with its output in the log
//! directory. Readiness is a connection that is accepted. Two clients that start a daemon at the same time are fine: the loser of the
//! race finds the store locked and ends, and both clients connect to the winner.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use witness_settings::Settings;

use crate::error::ClientError;
use crate::http::Client;

/// How long a daemon may take to listen. It takes milliseconds; a store on a sleeping network disk takes longer.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to go on looking for the winner after our own daemon ended.
const WINNER_TIMEOUT: Duration = Duration::from_secs(3);
/// First pause between two looks; doubled up to [`POLL_MAX`].
const POLL_MIN: Duration = Duration::from_millis(2);
const POLL_MAX: Duration = Duration::from_millis(50);
/// A log longer than this is set aside before a start, so that logs do not grow for ever.
const LOG_BYTES_MAX: u64 = 8 << 20;
/// Bytes of the log shown when a start fails.
const LOG_TAIL_BYTES: u64 = 4096;

/// How to start the daemon.
#[derive(Clone, Debug)]
pub struct Autostart {
    /// The `witness` program.
    pub program: PathBuf,
    /// What follows it: `serve` and the flags that lead to the same settings.
    pub arguments: Vec<OsString>,
}

/// What [`ensure`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// A daemon was there.
    Running,
    /// It was started now.
    Started,
}

/// Makes sure that a daemon answers, starting one if none does. Only for a daemon on this machine.
pub async fn ensure(client: &Client, settings: &Settings, start: &Autostart) -> Result<Readiness, ClientError> {
    match client.endpoint().await {
        Ok(_) => return Ok(Readiness::Running),
        Err(error) if error.is_not_running() && is_local(settings) => {}
        Err(error) => return Err(error),
    }
    let log = log_path(settings);
    let (mut child, log_start) = spawn(start, &log)?;
    let begun = Instant::now();
    let mut deadline = begun + READY_TIMEOUT;
    let mut has_ended = false;
    let mut pause = POLL_MIN;
    loop {
        if client.endpoint().await.is_ok() {
            return Ok(Readiness::Started);
        }
        if !has_ended && matches!(child.try_wait(), Ok(Some(_))) {
            has_ended = true;
            deadline = deadline.min(Instant::now() + WINNER_TIMEOUT);
        }
        if Instant::now() >= deadline {
            return Err(ClientError::NotReady {
                waited_s: begun.elapsed().as_secs(),
                tail: tail(&log, log_start),
                log,
            });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(POLL_MAX);
    }
}

/// Returns the file that a daemon started here writes to.
pub fn log_path(settings: &Settings) -> PathBuf {
    settings.logs.join("serve.log")
}

/// Puts this process in a session of its own, so that closing the terminal or Ctrl-C in it does not end it.
///
/// # Errors
/// When the process already leads a group; it is then detached enough.
pub fn leave_terminal() -> std::io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

fn is_local(settings: &Settings) -> bool {
    settings.host.for_client().is_loopback()
}

fn spawn(start: &Autostart, log: &Path) -> Result<(Child, u64), ClientError> {
    let failed = |source| ClientError::Start { source };
    let (output, log_start) = open_log(log).map_err(failed)?;
    let errors = output.try_clone().map_err(failed)?;
    let child = Command::new(&start.program)
        .args(&start.arguments)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(failed)?;
    Ok((child, log_start))
}

fn open_log(log: &Path) -> std::io::Result<(File, u64)> {
    if let Some(directory) = log.parent() {
        fs::create_dir_all(directory)?;
    }
    if fs::metadata(log).is_ok_and(|data| data.len() > LOG_BYTES_MAX) {
        fs::rename(log, log.with_extension("log.1"))?;
    }
    let file = OpenOptions::new().create(true).append(true).open(log)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// Returns what the log gained since `start`, at most its last [`LOG_TAIL_BYTES`].
fn tail(log: &Path, start: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(length.saturating_sub(LOG_TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_what_this_start_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("logs/serve.log");
        let (_, start) = open_log(&log).unwrap();
        fs::write(&log, "old\n").unwrap();
        assert_eq!(start, 0);
        let (_, start) = open_log(&log).unwrap();
        fs::write(&log, "old\nnew\n").unwrap();
        assert_eq!(tail(&log, start), "new");
    }
}
