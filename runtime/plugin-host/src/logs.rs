//! What a worker prints, in the daemon's log: bounded in line length and in lines per second, and the last lines kept for the
//! message about its death.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

/// Longest line; the rest of a longer one is left out.
pub(crate) const LINE_BYTES_MAX: usize = 4096;
/// Lines per second that are logged; a plugin that prints more is cut short, and the log says by how much.
const LINES_PER_SECOND_MAX: u64 = 200;
/// Last lines that are kept.
const TAIL_LINES_MAX: usize = 8;
const READ_BYTES: usize = 8 << 10;

/// The last lines of a worker's standard error.
#[derive(Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    /// Returns the lines, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }

    fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == TAIL_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }
}

/// Whose lines these are.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) plugin: String,
    pub(crate) pid: u32,
}

/// Returns the level in front of a line, for one of the ABI's levels.
pub(crate) fn syslog_level(level: u32) -> u32 {
    match level {
        0 | 1 => 3,
        2 => 4,
        3 => 6,
        _ => 7,
    }
}

/// Reads a stream to its end, line by line.
pub(crate) async fn capture(mut stream: impl AsyncRead + Unpin, source: Source, tail: Option<Tail>) {
    let mut lines = Lines::default();
    let mut rate = Rate {
        since: Instant::now(),
        logged: 0,
        dropped: 0,
    };
    let mut chunk = vec![0; READ_BYTES];
    while let Ok(bytes) = stream.read(&mut chunk).await {
        if bytes == 0 {
            break;
        }
        lines.feed(&chunk[..bytes], &mut |line| {
            note(line, &source, tail.as_ref(), &mut rate)
        });
    }
    lines.end(&mut |line| note(line, &source, tail.as_ref(), &mut rate));
    rate.report(&source);
}

/// Cuts a stream into lines of bounded length.
#[derive(Default)]
struct Lines {
    line: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], each: &mut dyn FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_whole) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let room = LINE_BYTES_MAX - self.line.len();
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if is_whole {
                self.end(each);
            }
        }
    }

    fn end(&mut self, each: &mut dyn FnMut(&str)) {
        if !self.line.is_empty() {
            let text: String = String::from_utf8_lossy(&self.line)
                .chars()
                .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
                .collect();
            each(text.trim_end_matches('\u{fffd}'));
            self.line.clear();
        }
    }
}

/// Counts lines per second.
struct Rate {
    since: Instant,
    logged: u64,
    dropped: u64,
}

impl Rate {
    fn admits(&mut self, source: &Source) -> bool {
        if self.since.elapsed() >= Duration::from_secs(1) {
            self.report(source);
            *self = Rate {
                since: Instant::now(),
                logged: 0,
                dropped: 0,
            };
        }
        let admits = self.logged < LINES_PER_SECOND_MAX;
        if admits {
            self.logged += 1;
        } else {
            self.dropped += 1;
        }
        admits
    }

    fn report(&self, source: &Source) {
        if self.dropped > 0 {
            tracing::warn!(plugin = %source.plugin, pid = source.pid, "{} more lines were dropped", self.dropped);
        }
    }
}

fn note(line: &str, source: &Source, tail: Option<&Tail>, rate: &mut Rate) {
    let (level, text) = level_of(line);
    if let Some(tail) = tail {
        tail.push(text);
    }
    if !rate.admits(source) {
        return;
    }
    let (plugin, pid) = (&source.plugin, source.pid);
    match level {
        3 => tracing::error!(%plugin, pid, "{text}"),
        4 => tracing::warn!(%plugin, pid, "{text}"),
        7 => tracing::debug!(%plugin, pid, "{text}"),
        _ => tracing::info!(%plugin, pid, "{text}"),
    }
}

/// Splits the level off a line such as `<4>careful`.
fn level_of(line: &str) -> (u32, &str) {
    match line.as_bytes() {
        [b'<', digit @ b'0'..=b'7', b'>', ..] => (u32::from(digit - b'0'), &line[3..]),
        _ => (6, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_clean_however_they_arrive() {
        let mut text = b"one\r\n\n<4>two\n".to_vec();
        text.extend(std::iter::repeat_n(b'x', 3 * LINE_BYTES_MAX));
        text.extend(b"\n\xff\x1b[2Jlast");
        for step in [1, 7, 4096, text.len()] {
            let (mut lines, mut seen) = (Lines::default(), Vec::new());
            for chunk in text.chunks(step) {
                lines.feed(chunk, &mut |line| seen.push(line.to_owned()));
            }
            lines.end(&mut |line| seen.push(line.to_owned()));
            assert_eq!(seen.len(), 4, "in steps of {step}");
            assert_eq!((seen[0].as_str(), seen[1].as_str()), ("one", "<4>two"));
            assert_eq!(seen[2].len(), LINE_BYTES_MAX);
            assert_eq!(seen[3], "\u{fffd}\u{fffd}[2Jlast");
        }
        assert_eq!(level_of("<4>two"), (4, "two"));
        assert_eq!(level_of("<9>two"), (6, "<9>two"));
    }
}
