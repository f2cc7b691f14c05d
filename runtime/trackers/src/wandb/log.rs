//! The framing of W&B's record file: LevelDB's log, with another check.
//!
//! ```text
//! file     = ":W&B" | 0xBEE1 u16 | version 0 u8 | fragments, in blocks of 32 KiB counted from the start of the file
//! fragment = CRC-32 (zip's, of type and data) u32 | length u16 | type u8 (1 whole, 2 first, 3 middle, 4 last) | data         little-endian
//! ```
//! No fragment crosses a block; fewer than 7 bytes at a block's end are zeros. Sources: LevelDB's log_format.md, and W&B's files for the head and the check.

use std::fs::OpenOptions;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::Path;

use crate::append::Appender;
use crate::checksum::crc32;
use crate::error::{Result, TrackerError};

/// What a file begins with.
const HEAD: [u8; 7] = *b":W&B\xe1\xbe\x00";
/// How long a block is.
const BLOCK_BYTES: usize = 32_768;
/// How long a fragment's head is.
const FRAGMENT_HEAD_BYTES: usize = 7;

/// A writer of records.
#[derive(Debug)]
pub(super) struct Log {
    file: Appender,
}

impl Log {
    pub(super) fn create(path: &Path) -> Result<Log> {
        let file = Appender::create(path);
        let mut file = file.map_err(|source| TrackerError::Io {
            path: path.to_owned(),
            verb: "created",
            source,
        })?;
        file.append(&HEAD)?;
        Ok(Log { file })
    }

    /// Adds records, all in one write.
    pub(super) fn append(&mut self, records: &[Vec<u8>]) -> Result<()> {
        let mut bytes = Vec::new();
        for record in records {
            frame(self.file.n_bytes() as usize, record, &mut bytes);
        }
        self.file.append(&bytes)
    }

    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync()
    }
}

/// Cuts off what follows the last whole record of a file, where that is a torn one: `wandb sync` refuses such a file's end, and with it every later segment of
/// its run. A file that is no log of W&B is left as it is.
pub(super) fn mend(path: &Path) -> Result<()> {
    let mend = || -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let whole_bytes = whole_bytes(&mut BufReader::new(&file))?;
        match whole_bytes {
            Some(whole_bytes) if whole_bytes < file.metadata()?.len() => file.set_len(whole_bytes),
            _ => Ok(()),
        }
    };
    mend().map_err(|source| TrackerError::Io {
        path: path.to_owned(),
        verb: "mended",
        source,
    })
}

/// Returns where the last whole record of a log ends, or nothing where it is none.
fn whole_bytes(file: &mut impl Read) -> io::Result<Option<u64>> {
    let mut head = [0; HEAD.len()];
    if !fills(file, &mut head)? || head != HEAD {
        return Ok(None);
    }
    let (mut at, mut whole) = (HEAD.len(), HEAD.len());
    let mut data = Vec::new();
    loop {
        let left = BLOCK_BYTES - at % BLOCK_BYTES;
        if left < FRAGMENT_HEAD_BYTES {
            data.resize(left, 0);
            if !fills(file, &mut data)? {
                return Ok(Some(whole as u64));
            }
            at += left;
            continue;
        }
        let mut head = [0; FRAGMENT_HEAD_BYTES];
        if !fills(file, &mut head)? {
            return Ok(Some(whole as u64));
        }
        let [c0, c1, c2, c3, n0, n1, kind] = head;
        data.resize(usize::from(u16::from_le_bytes([n0, n1])), 0);
        let is_whole = fills(file, &mut data)? && crc32(&[&[kind], &data]) == u32::from_le_bytes([c0, c1, c2, c3]);
        if !is_whole || !(1..=4).contains(&kind) {
            return Ok(Some(whole as u64));
        }
        at += FRAGMENT_HEAD_BYTES + data.len();
        if kind == 1 || kind == 4 {
            whole = at;
        }
    }
}

/// Fills a buffer, or says that the file ended before it was full.
fn fills(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Adds a record's fragments to `bytes`, which will begin at `start` in the file.
fn frame(start: usize, record: &[u8], bytes: &mut Vec<u8>) {
    let mut rest = record;
    let mut is_first = true;
    loop {
        let left = BLOCK_BYTES - (start + bytes.len()) % BLOCK_BYTES;
        if left < FRAGMENT_HEAD_BYTES {
            bytes.extend([0; FRAGMENT_HEAD_BYTES].iter().take(left));
            continue;
        }
        let n_data = rest.len().min(left - FRAGMENT_HEAD_BYTES);
        let (data, after) = rest.split_at(n_data);
        let kind: u8 = match (is_first, after.is_empty()) {
            (true, true) => 1,
            (true, false) => 2,
            (false, false) => 3,
            (false, true) => 4,
        };
        bytes.extend(crc32(&[&[kind], data]).to_le_bytes());
        // At most a block's length, which 16 bits hold.
        bytes.extend((n_data as u16).to_le_bytes());
        bytes.push(kind);
        bytes.extend(data);
        if after.is_empty() {
            return;
        }
        rest = after;
        is_first = false;
    }
}
