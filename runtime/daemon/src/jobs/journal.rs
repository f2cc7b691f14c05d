//! The lines of a run: a file that only grows, and readers that follow it.
//!
//! A line is a JSON object on a line of its own with its number in `seq`; numbers rise by one from 0. **Invariant:** what the file holds up
//! to the counted bytes is whole lines; what lies behind (a line that a full disk or a kill cut off) is cut away. Readers wait on the count
//! and read the file, so a slow reader costs nobody anything and misses nothing.
//!
//! Cost of a line: one `write` of its bytes; no flush to the disk but at checkpoints and at the end.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::limits::TRAIN_EVENTS_BYTES_MAX;

/// Bytes that a reader takes at a time.
const READ_BYTES: u64 = 64 << 10;

/// How far a journal goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) lines: u64,
    pub(super) bytes: u64,
    /// Nothing more comes unless the run is resumed.
    pub(super) is_over: bool,
}

/// The writing end.
pub(super) struct Journal {
    path: PathBuf,
    /// Opened by the first line.
    file: Option<File>,
    extent: watch::Sender<Extent>,
}

impl Journal {
    /// Takes up a journal of which so much is known; `each` gets the events of the lines behind that. A torn end is cut off.
    pub(super) fn open(path: &Path, known: Extent, mut each: impl FnMut(&Map<String, Value>)) -> io::Result<Self> {
        let mut extent = known;
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(mut file) => {
                let bytes_there = file.metadata()?.len();
                if bytes_there < extent.bytes {
                    // Less than was counted: the machine went down before the disk had it. What is there counts.
                    (extent.lines, extent.bytes) = (0, 0);
                    file.rewind()?;
                    count(&mut file, &mut extent, |_| {})?;
                } else {
                    file.seek(SeekFrom::Start(extent.bytes))?;
                    count(&mut file, &mut extent, &mut each)?;
                }
                if extent.bytes < bytes_there {
                    file.set_len(extent.bytes)?;
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => (extent.lines, extent.bytes) = (0, 0),
            Err(error) => return Err(error),
        }
        Ok(Self {
            path: path.to_owned(),
            file: None,
            extent: watch::Sender::new(extent),
        })
    }

    /// Returns how far it goes.
    pub(super) fn extent(&self) -> Extent {
        *self.extent.borrow()
    }

    /// Appends one line. When that fails, the journal is as it was before.
    pub(super) fn append(&mut self, mut event: Map<String, Value>, at: &str) -> io::Result<()> {
        let extent = self.extent();
        event.insert("seq".into(), json!(extent.lines));
        event.insert("at".into(), json!(at));
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        let bytes = extent.bytes + line.len() as u64;
        if bytes > TRAIN_EVENTS_BYTES_MAX {
            return Err(io::Error::new(
                ErrorKind::FileTooLarge,
                format!("the lines of a run may have {TRAIN_EVENTS_BYTES_MAX} bytes"),
            ));
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(OpenOptions::new().create(true).append(true).open(&self.path)?),
        };
        if let Err(error) = file.write_all(&line) {
            // Part of it may be there. Shrinking needs no space.
            let _ = file.set_len(extent.bytes);
            return Err(error);
        }
        self.extent.send_replace(Extent {
            lines: extent.lines + 1,
            bytes,
            is_over: extent.is_over,
        });
        Ok(())
    }

    /// Makes sure that a machine that goes down keeps what was appended.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }

    /// Says whether anything more may come.
    pub(super) fn set_over(&mut self, is_over: bool) {
        self.extent.send_modify(|extent| extent.is_over = is_over);
        if is_over {
            self.file = None;
        }
    }

    /// Returns a reader from line `from` on. One that does not follow ends with what is there now.
    pub(super) fn follow(&self, from: u64, follows: bool) -> Follower {
        Follower {
            path: self.path.clone(),
            extent: self.extent.subscribe(),
            until: (!follows).then(|| self.extent()),
            next_line: 0,
            offset: 0,
            from,
        }
    }

    /// Returns what shows the end of the run.
    pub(super) fn watch(&self) -> watch::Receiver<Extent> {
        self.extent.subscribe()
    }
}

/// Counts whole lines that are JSON objects from where the file stands; stops at the first that is not.
fn count(file: &mut File, extent: &mut Extent, mut each: impl FnMut(&Map<String, Value>)) -> io::Result<()> {
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let bytes = reader.read_until(b'\n', &mut line)?;
        let Ok(event) = serde_json::from_slice::<Map<String, Value>>(&line) else {
            return Ok(());
        };
        if line.last() != Some(&b'\n') {
            return Ok(());
        }
        each(&event);
        extent.lines += 1;
        extent.bytes += bytes as u64;
    }
}

/// A reader of a journal.
pub(crate) struct Follower {
    path: PathBuf,
    extent: watch::Receiver<Extent>,
    /// Where it ends, if it does not follow.
    until: Option<Extent>,
    /// Number of the line at `offset`.
    next_line: u64,
    offset: u64,
    /// Lines before this one are passed over.
    from: u64,
}

/// Some whole lines, with the number of the first.
pub(crate) struct Lines {
    pub(crate) first: u64,
    pub(crate) text: Vec<u8>,
}

impl Follower {
    /// Tells whether there is nothing to read, now or later.
    pub(crate) fn is_spent(&self) -> bool {
        let extent = self.until.unwrap_or(*self.extent.borrow());
        self.from >= extent.lines && (extent.is_over || self.until.is_some())
    }

    /// Waits for lines; nothing once the run has ended and all were read. Cancel safe.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Lines>> {
        loop {
            let extent = match self.until {
                Some(until) => until,
                None => *self.extent.borrow_and_update(),
            };
            if self.offset < extent.bytes {
                let (path, offset) = (self.path.clone(), self.offset);
                let read = tokio::task::spawn_blocking(move || read_lines(&path, offset, extent.bytes));
                let text = read.await.map_err(io::Error::other)??;
                if let Some(lines) = self.pass(text) {
                    return Ok(Some(lines));
                }
                continue;
            }
            if extent.is_over || self.until.is_some() || self.extent.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    /// Steps over what was read and returns what of it was asked for.
    fn pass(&mut self, mut text: Vec<u8>) -> Option<Lines> {
        self.offset += text.len() as u64;
        let first = self.next_line;
        let count = text.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.next_line += count;
        if self.next_line <= self.from {
            return None;
        }
        let skipped = self.from.saturating_sub(first);
        if skipped > 0 {
            let ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
            let start = ends.map(|(at, _)| at + 1).nth(skipped as usize - 1).unwrap_or(0);
            text.drain(..start);
        }
        Some(Lines {
            first: first + skipped,
            text,
        })
    }
}

/// Reads whole lines from `offset` on, at least one; `end` is the end of a line.
fn read_lines(path: &Path, offset: u64, end: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut wanted = READ_BYTES;
    loop {
        let bytes = wanted.min(end - offset);
        let mut text = vec![0; bytes as usize];
        file.read_exact_at(&mut text, offset)?;
        if let Some(at) = text.iter().rposition(|byte| *byte == b'\n') {
            text.truncate(at + 1);
            return Ok(text);
        }
        if bytes == end - offset {
            // Somebody else wrote to the file.
            return Err(io::Error::new(ErrorKind::InvalidData, "a line without an end"));
        }
        wanted *= 4;
    }
}

/// Hashes a file.
pub(super) fn digest_of(path: &Path) -> io::Result<witness_registry::Digest> {
    let mut file = File::open(path)?;
    let mut hasher = witness_registry::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64) -> Map<String, Value> {
        json!({"type": "step", "step": number, "text": "x".repeat(number as usize * 7 % 900)})
            .as_object()
            .unwrap()
            .clone()
    }

    fn open(path: &Path) -> Journal {
        Journal::open(path, Extent::default(), |_| {}).unwrap()
    }

    async fn read(mut follower: Follower) -> Vec<u64> {
        let mut numbers = Vec::new();
        while let Some(lines) = follower.next().await.unwrap() {
            let text = String::from_utf8(lines.text).unwrap();
            for (at, line) in text.lines().enumerate() {
                let value: Value = serde_json::from_str(line).unwrap();
                assert_eq!(value["seq"], lines.first + at as u64);
                numbers.push(value["step"].as_u64().unwrap());
            }
        }
        numbers
    }

    // Readers that come early, late and in the middle see the same lines, whatever the cuts of their reads.
    #[tokio::test]
    async fn every_reader_sees_every_line_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = open(&directory.path().join("events"));
        let early = tokio::spawn(read(journal.follow(0, true)));
        for number in 0..700 {
            journal.append(event(number), "now").unwrap();
            if number % 50 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let middle = tokio::spawn(read(journal.follow(650, true)));
        let now = read(journal.follow(698, false)).await;
        for number in 700..705 {
            journal.append(event(number), "now").unwrap();
        }
        journal.set_over(true);
        assert_eq!(early.await.unwrap(), (0..705).collect::<Vec<_>>());
        assert_eq!(middle.await.unwrap(), (650..705).collect::<Vec<_>>());
        assert_eq!(now, [698, 699]);
        assert_eq!(read(journal.follow(704, true)).await, [704]);
        assert!(journal.follow(705, true).is_spent() && !journal.follow(704, true).is_spent());
    }

    // A kill may cut the file anywhere; what is whole stays, and the numbers go on from there.
    #[test]
    fn a_torn_end_is_cut_off_at_every_byte() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events");
        let mut journal = open(&path);
        let mut ends = vec![0];
        for number in 0..4 {
            journal.append(event(number), "now").unwrap();
            ends.push(journal.extent().bytes);
        }
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut events = 0;
            let known = Extent {
                lines: 1,
                bytes: ends[1],
                is_over: false,
            };
            let mut journal = Journal::open(&path, known, |_| events += 1).unwrap();
            let lines = ends.iter().filter(|end| **end <= cut as u64).count() as u64 - 1;
            let extent = journal.extent();
            assert_eq!(
                (extent.lines, extent.bytes),
                (lines, ends[lines as usize]),
                "cut at {cut}"
            );
            assert_eq!(events, lines.saturating_sub(1));
            journal.append(event(9), "then").unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
            assert_eq!(
                (last["seq"].as_u64(), text.lines().count() as u64),
                (Some(lines), lines + 1)
            );
        }
    }
}
