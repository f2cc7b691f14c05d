//! The file through which two models are compared: what the first thought of every token of the vocabulary at each place that is scored.
//!
//! Layout, little-endian: [`MAGIC`], vocabulary (u64), tokens of a piece (u64), places (u64), a digest of the text's tokens (u64), then `[places, vocabulary] f32`,
//! natural logarithms. It lives as long as one comparison and is read on the machine that wrote it.

use std::fs::File;
use std::hash::Hasher;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::MeasureTask;

use super::pieces::Pieces;

const MAGIC: [u8; 8] = *b"witnref1";
const HEAD_BYTES: u64 = 40;

/// Returns the bytes of a file.
pub(super) fn bytes(n_places: u64, vocab_size: u64) -> u64 {
    n_places
        .saturating_mul(vocab_size)
        .saturating_mul(4)
        .saturating_add(HEAD_BYTES)
}

/// What is beside a measurement of perplexity.
pub(super) enum Beside {
    /// Nothing.
    Nothing,
    /// A file that is written.
    Write(BufWriter<File>),
    /// A file that is read.
    Read(BufReader<File>),
}

impl Beside {
    /// Opens what the task names and writes, or checks, its head.
    pub(super) fn open(
        task: &MeasureTask,
        pieces: &Pieces,
        vocab_size: usize,
        model_name: &str,
    ) -> Result<Beside, Diagnostic> {
        let head = head(pieces, vocab_size);
        match task {
            MeasureTask::Reference { file, .. } => {
                let open = || -> io::Result<_> {
                    let mut sink = BufWriter::new(File::create_new(file)?);
                    sink.write_all(&head)?;
                    Ok(sink)
                };
                open().map(Beside::Write).map_err(|error| failed(file, &error))
            }
            MeasureTask::Divergence { file, .. } => {
                let open = || -> io::Result<_> {
                    let mut source = BufReader::new(File::open(file)?);
                    let mut found = [0; HEAD_BYTES as usize];
                    source.read_exact(&mut found)?;
                    Ok((source, found))
                };
                let (source, found) = open().map_err(|error| failed(file, &error))?;
                if found != head {
                    return Err(other_vocabulary(model_name, &found, vocab_size));
                }
                Ok(Beside::Read(source))
            }
            MeasureTask::Perplexity { .. } | MeasureTask::Importance { .. } | MeasureTask::Speed { .. } => {
                Ok(Beside::Nothing)
            }
        }
    }

    /// Writes rows.
    pub(super) fn put(&mut self, rows: &[Vec<f32>]) -> Result<(), Diagnostic> {
        let Beside::Write(sink) = self else { return Ok(()) };
        for row in rows {
            let bytes: Vec<u8> = row.iter().flat_map(|number| number.to_le_bytes()).collect();
            sink.write_all(&bytes)
                .map_err(|error| failed(Path::new(NAME), &error))?;
        }
        Ok(())
    }

    /// Reads the next rows, each of the length that is given; none where there is no file to read.
    pub(super) fn take(&mut self, n_rows: usize, length: usize) -> Result<Option<Vec<Vec<f32>>>, Diagnostic> {
        let Beside::Read(source) = self else { return Ok(None) };
        let mut bytes = vec![0; length * 4];
        let mut rows = Vec::with_capacity(n_rows);
        for _ in 0..n_rows {
            source
                .read_exact(&mut bytes)
                .map_err(|error| failed(Path::new(NAME), &error))?;
            let numbers = bytes.as_chunks::<4>().0.iter();
            rows.push(numbers.map(|word| f32::from_le_bytes(*word)).collect());
        }
        Ok(Some(rows))
    }

    /// Brings everything to the file.
    pub(super) fn finish(&mut self) -> Result<(), Diagnostic> {
        match self {
            Beside::Write(sink) => sink.flush().map_err(|error| failed(Path::new(NAME), &error)),
            Beside::Read(_) | Beside::Nothing => Ok(()),
        }
    }
}

const NAME: &str = "the file of the comparison";

fn head(pieces: &Pieces, vocab_size: usize) -> [u8; HEAD_BYTES as usize] {
    let mut digest = std::hash::DefaultHasher::new();
    for &token in pieces.tokens() {
        digest.write_u32(token);
    }
    let numbers = [
        vocab_size as u64,
        pieces.n_context as u64,
        pieces.n_scored() as u64,
        digest.finish(),
    ];
    let mut head = [0; HEAD_BYTES as usize];
    let words = [MAGIC].into_iter().chain(numbers.map(u64::to_le_bytes));
    for (place, word) in head.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *place = word;
    }
    head
}

fn other_vocabulary(model_name: &str, found: &[u8; HEAD_BYTES as usize], vocab_size: usize) -> Diagnostic {
    let reference = found
        .as_chunks::<8>()
        .0
        .get(1)
        .map_or(0, |word| u64::from_le_bytes(*word));
    let cause = match reference == vocab_size as u64 {
        true => "its tokenizer reads the text as other tokens".to_owned(),
        false => format!("it knows {vocab_size} tokens, the reference {reference}"),
    };
    Diagnostic::new(
        "witness::serve::measure_vocabulary",
        Kind::Conflict,
        format!("`{model_name}` cannot be held against the reference: they do not share a vocabulary"),
    )
    .cause(cause)
    .hint("compare forms of one model; of different models `witness perplexity` measures each by itself")
}

fn failed(file: &Path, error: &io::Error) -> Diagnostic {
    let name = file
        .file_name()
        .map_or_else(|| NAME.into(), |name| name.to_string_lossy());
    let hint = match error.kind() {
        io::ErrorKind::StorageFull => "make room on the store's disk, or measure fewer pieces with `--chunks`",
        _ => "compare again",
    };
    Diagnostic::new(
        "witness::serve::measure_file",
        Kind::Environment,
        format!("`{name}` cannot be used"),
    )
    .cause(error.to_string())
    .hint(hint)
}
