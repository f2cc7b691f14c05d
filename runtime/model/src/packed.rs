//! The packed form of a model's weights in a file: what [`Model::load`] made of them, to be mapped the next time instead of made again.
//!
//! | part of the file | holds |
//! | --- | --- |
//! | 8 bytes | [`MAGIC`], which names the version of this table |
//! | 4 bytes | [`LAYOUT_VERSION`] of the kernels, little-endian as all that follows |
//! | 4 bytes | CRC-32 of what comes before it, of the next 16 bytes, and of the index |
//! | 8 and 8 bytes | where the index begins, and its length; it ends with the file |
//! | matrices | each from a multiple of [`PAGE`] on, as it lies in memory |
//! | index | JSON: what the weights were made of, and of each matrix name, type, shape, place and CRC-32 |
//!
//! The file is written beside its place and renamed, so it is whole or not there. It is believed only as far as it is of this very model and layout, its length is right and
//! its index undamaged; anything else is as if there were no file, and the weights are made again. The matrices themselves are used at once and held against their sums while
//! they are copied to memory of their own ([`take_over`]): whoever finds one damaged says so, and what was computed with it is not to be trusted.
//!
//! Sums are against damage, not against malice: whoever can write here can write the answers too.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use witness_formats::Mmap;
use witness_formats::gguf::GgmlType;
use witness_kernels::{LAYOUT_VERSION, PackedMatrix, PlainMatrix, Watch, is_plain};

use crate::decoder::Model;
use crate::weight::{Values, Weight};

const MAGIC: &[u8; 8] = b"WTNSPK01";
/// Bytes before the first matrix's page.
const START_BYTES: usize = 32;
/// Matrices begin at such addresses: pages of the mapping, so that one can be let go of without its neighbours.
const PAGE: u64 = 4096;
/// Longest index: some hundred thousand matrices.
const INDEX_BYTES_MAX: u64 = 64 << 20;
/// Bytes that are written at once; between two of them whoever writes can be told to stop.
const WRITTEN_AT_ONCE: usize = 1 << 20;
/// Bytes that may wait to reach the disk: more would hold up whoever waits for the end.
const UNSYNCED_BYTES_MAX: u64 = 16 << 20;

/// A mapped file of packed weights.
#[derive(Clone, Debug)]
pub struct PackedForm {
    map: Mmap,
    by_name: HashMap<String, Entry>,
}

#[derive(Serialize, Deserialize)]
struct Index {
    source: String,
    matrices: Vec<Entry>,
}

/// A matrix in the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    name: String,
    /// Number of the type in GGUF.
    kind: u32,
    shape: Vec<usize>,
    offset: u64,
    bytes: u64,
    sum: u32,
}

/// How copying ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TakenOver {
    /// Every matrix is what was written, and lies in memory of its own if there was any.
    All,
    /// It was ended; the rest stays mapped.
    Ended,
    /// A matrix is not what was written; its name.
    Damaged(String),
}

fn invalid(detail: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail.into())
}

/// Returns the file's name for a model: `stem` and the version of the layout, by which older ones can be told.
pub fn file_name(stem: &str) -> String {
    format!("{stem}.v{LAYOUT_VERSION}")
}

impl PackedForm {
    /// Maps a file. `source` says what the weights were made of.
    ///
    /// # Errors
    /// It is not there, cannot be read, or is not that of this source and layout, whole and with an undamaged index.
    pub fn open(path: &Path, source: &str) -> io::Result<PackedForm> {
        let mut file = File::open(path)?;
        let mut start = [0; START_BYTES];
        file.read_exact(&mut start)?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| start[at + byte]));
        let half = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| start[at + byte]));
        if start[..8] != *MAGIC {
            return Err(invalid("it is of another format"));
        }
        if half(8) != LAYOUT_VERSION {
            return Err(invalid("it was written by another version of the program"));
        }
        let (index_at, index_bytes) = (word(16), word(24));
        let length = file.metadata()?.len();
        if index_at.checked_add(index_bytes) != Some(length) || index_bytes > INDEX_BYTES_MAX {
            return Err(invalid("it is not as long as it says"));
        }
        file.seek(SeekFrom::Start(index_at))?;
        let mut json = Vec::new();
        file.take(index_bytes).read_to_end(&mut json)?;
        if sum_of(&start, &json) != half(12) {
            return Err(invalid("its index is damaged"));
        }
        let index: Index = serde_json::from_slice(&json)?;
        if index.source != source {
            return Err(invalid("it was made of other files"));
        }
        let map = Mmap::open(path).map_err(|error| invalid(error.to_string()))?;
        // Replaced since it was opened: what is mapped is another file.
        if map.len() as u64 != length || map[..START_BYTES] != start {
            return Err(invalid("it has just been replaced"));
        }
        let mut by_name = HashMap::with_capacity(index.matrices.len());
        for entry in index.matrices {
            let end = entry.offset.checked_add(entry.bytes);
            if end.is_none_or(|end| end > index_at) || !entry.offset.is_multiple_of(PAGE) {
                return Err(invalid(format!("`{}` lies outside of it", entry.name)));
            }
            by_name.insert(entry.name.clone(), entry);
        }
        Ok(PackedForm { map, by_name })
    }

    /// Returns a weight as it was made; nothing where it is not there in this shape.
    pub(crate) fn weight(&self, name: &str, shape: &[usize]) -> Option<Weight> {
        let entry = self.by_name.get(name).filter(|entry| entry.shape == shape)?;
        let range = usize::try_from(entry.offset).ok()?..usize::try_from(entry.offset + entry.bytes).ok()?;
        let kind = GgmlType::from_id(entry.kind);
        let (n_rows, n_columns) = crate::weight::rows_and_columns(shape);
        let owner = Arc::new(Whole(self.map.clone()));
        let values = if is_plain(kind) {
            Values::Plain(PlainMatrix::new(kind, n_rows, n_columns, owner, range).ok()?)
        } else {
            Values::Blocks(PackedMatrix::from_packed(kind, n_rows, n_columns, LAYOUT_VERSION, owner, range).ok()?)
        };
        Some(Weight::of_values(values, shape))
    }
}

/// A mapping as the kernels hold one.
struct Whole(Mmap);

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Writes the matrices of a model, durably. `goes_on` is asked between parts of a megabyte. Returns whether it has; it has not when it was told to stop, where the file would be
/// longer than `bytes_max`, or while somebody else writes it.
///
/// # Errors
/// The file cannot be written, such as for want of room. Nothing is left of it then.
pub fn write(model: &Model, path: &Path, source: &str, bytes_max: u64, goes_on: &dyn Fn() -> bool) -> io::Result<bool> {
    let whole: u64 = model.matrices.iter().map(|(_, weight)| weight.bytes() + PAGE).sum();
    if whole + PAGE > bytes_max {
        return Ok(false);
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let beside = PathBuf::from(beside);
    let Some(file) = lock(&beside)? else {
        return Ok(false);
    };
    let placed = write_file(model, &file, source, goes_on).and_then(|is_whole| {
        if is_whole {
            fs::rename(&beside, path)?;
            if let Some(directory) = path.parent() {
                File::open(directory)?.sync_all()?;
            }
        }
        Ok(is_whole)
    });
    if !matches!(placed, Ok(true)) {
        let _ = fs::remove_file(&beside);
    }
    placed
}

/// Opens the file on its way for this writer alone, empty; nothing while another has it. One name for all writers, so that those who are killed leave one file and not many.
fn lock(beside: &Path) -> io::Result<Option<File>> {
    let file = File::options().write(true).create(true).truncate(false).open(beside)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // Whoever had it until now may have put it in its place meanwhile, where it must not be written to.
    let own = file.metadata()?;
    match fs::metadata(beside) {
        Ok(found) if (found.dev(), found.ino()) == (own.dev(), own.ino()) => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    file.set_len(0)?;
    Ok(Some(file))
}

fn write_file(model: &Model, file: &File, source: &str, goes_on: &dyn Fn() -> bool) -> io::Result<bool> {
    let mut out = BufWriter::with_capacity(1 << 16, file);
    let mut at = PAGE;
    let mut unsynced = 0;
    let mut matrices = Vec::with_capacity(model.matrices.len());
    for (name, weight) in &model.matrices {
        out.seek(SeekFrom::Start(at))?;
        let mut sum = crc32fast::Hasher::new();
        for part in weight.held().chunks(WRITTEN_AT_ONCE) {
            if !goes_on() {
                return Ok(false);
            }
            sum.update(part);
            out.write_all(part)?;
            unsynced += part.len() as u64;
            if unsynced >= UNSYNCED_BYTES_MAX {
                out.flush()?;
                file.sync_data()?;
                unsynced = 0;
            }
        }
        let bytes = weight.bytes();
        matrices.push(Entry {
            name: name.clone(),
            kind: weight.kind().id(),
            shape: weight.dims().to_vec(),
            offset: at,
            bytes,
            sum: sum.finalize(),
        });
        at = (at + bytes).next_multiple_of(PAGE);
    }
    let json = serde_json::to_vec(&Index {
        source: source.to_owned(),
        matrices,
    })?;
    out.seek(SeekFrom::Start(at))?;
    out.write_all(&json)?;
    let mut start = [0; START_BYTES];
    start[..8].copy_from_slice(MAGIC);
    start[8..12].copy_from_slice(&LAYOUT_VERSION.to_le_bytes());
    start[16..24].copy_from_slice(&at.to_le_bytes());
    start[24..].copy_from_slice(&(json.len() as u64).to_le_bytes());
    let sum = sum_of(&start, &json);
    start[12..16].copy_from_slice(&sum.to_le_bytes());
    out.seek(SeekFrom::Start(0))?;
    out.write_all(&start)?;
    out.flush()?;
    drop(out);
    file.sync_all()?;
    Ok(true)
}

/// Returns the sum over a file's start, but for the sum itself, and its index.
fn sum_of(start: &[u8; START_BYTES], index: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&start[..12]);
    sum.update(&start[16..]);
    sum.update(index);
    sum.finalize()
}

/// Holds what it sees of a matrix against its sum.
struct Check<'a> {
    sum: crc32fast::Hasher,
    wanted: u32,
    goes_on: &'a dyn Fn() -> bool,
    is_damaged: bool,
}

impl Watch for Check<'_> {
    fn part(&mut self, part: &[u8]) -> bool {
        self.sum.update(part);
        (self.goes_on)()
    }

    fn accept(&mut self) -> bool {
        self.is_damaged = self.sum.clone().finalize() != self.wanted;
        !self.is_damaged
    }
}

/// Copies the matrices that a model took from a mapped file to memory of their own, one after the other, holds each against its sum, and lets go of the mapped pages. Products
/// may run meanwhile: each matrix changes over when its copy stands. Where there is no memory a matrix stays mapped, which is slower and no less right, and is held against its
/// sum where it lies. `goes_on` is asked between parts of a few megabytes.
pub fn take_over(model: &Model, form: &PackedForm, goes_on: &dyn Fn() -> bool) -> TakenOver {
    for (name, weight) in &model.matrices {
        let Some(entry) = form.by_name.get(name) else {
            continue;
        };
        let check = || Check {
            sum: crc32fast::Hasher::new(),
            wanted: entry.sum,
            goes_on,
            is_damaged: false,
        };
        let mut watch = check();
        let is_own = weight.take_over(&mut watch).unwrap_or_else(|_| {
            watch = check();
            if weight.held().chunks(WRITTEN_AT_ONCE).all(|part| watch.part(part)) {
                watch.accept();
            }
            false
        });
        if watch.is_damaged {
            return TakenOver::Damaged(name.clone());
        }
        if is_own {
            // Both fit: the mapping holds the entry.
            form.map
                .release(entry.offset as usize..(entry.offset + entry.bytes) as usize);
        }
        if !goes_on() {
            return TakenOver::Ended;
        }
    }
    TakenOver::All
}
