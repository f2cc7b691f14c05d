//! Merge and split, from files to files. An output appears whole or not at all: it is written beside its place and moved there last.
//!
//! Memory: of a split, some 200 bytes a row (its place and fingerprints); rows are read again when they are written. A row of
//! control or foreign characters grows up to sixfold in Python's form.

use std::fs::{File, Metadata};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::conversation::Conversation;
use crate::duplicates::{Fingerprint, Fingerprints, Leak, leakage};
use crate::error::DatasetError;
use crate::python_json::dumps;
use crate::reader::{LineAt, is_plain_text, read_error};
use crate::scan::{Report, ScanOptions, Scanned, scan};
use crate::sources::Sources;
use crate::split::{Split, SplitOptions, split};

/// How rows are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowForm {
    /// As they stand, byte for byte.
    #[default]
    AsIs,
    /// As Python's `json.dumps(json.loads(row))`: what the guide's script writes.
    Python,
    /// Brought to the `messages` (or `text`) shape.
    Messages,
}

impl RowForm {
    fn write(self, text: &str, conversation: &Conversation) -> String {
        match self {
            RowForm::AsIs => text.to_owned(),
            RowForm::Python => dumps(text),
            RowForm::Messages => conversation.to_json().to_string(),
        }
    }
}

/// Writes every usable row to `out`, one a line, in order. Unlike `cat`, a file without a last line break joins no two rows.
pub fn merge(
    sources: &Sources,
    options: &ScanOptions,
    form: RowForm,
    out: &mut dyn Write,
    out_name: &Path,
) -> Result<Report, DatasetError> {
    let report = scan(sources, options, |scanned| {
        let row = form.write(scanned.text, &scanned.row.conversation);
        write_line(out, &row).map_err(|source| write_error(out_name, source))
    })?;
    out.flush().map_err(|source| write_error(out_name, source))?;
    some_rows(report, sources)
}

/// Merges into a file, which appears when all rows are in it.
pub fn merge_to_file(
    sources: &Sources,
    options: &ScanOptions,
    form: RowForm,
    path: &Path,
) -> Result<Report, DatasetError> {
    refuse_inputs(sources, path)?;
    let mut output = Output::create(path)?;
    let report = merge(sources, options, form, &mut output.writer, path)?;
    output.publish()?;
    Ok(report)
}

/// Where the parts of a split go.
#[derive(Clone, Debug)]
pub struct SplitFiles {
    /// The file that trains.
    pub train: PathBuf,
    /// The file that validates.
    pub validation: PathBuf,
}

/// What a split did.
#[derive(Clone, Debug)]
pub struct SplitReport {
    /// What reading found.
    pub report: Report,
    /// Which rows went where, by their number among those that can be used.
    pub split: Split,
    /// Validation rows that training has seen too; indexes into the two lists of `split`.
    pub leaks: Vec<Leak>,
}

/// Splits a data set as the guide's script does, and writes both parts.
pub fn split_to_files(
    sources: &Sources,
    scan_options: &ScanOptions,
    options: &SplitOptions,
    form: RowForm,
    files: &SplitFiles,
) -> Result<SplitReport, DatasetError> {
    refuse_inputs(sources, &files.train)?;
    refuse_inputs(sources, &files.validation)?;
    if files.train == files.validation {
        return Err(DatasetError::SameOutput {
            path: files.train.clone(),
        });
    }
    split(0, options)?; // A wrong share is told before the files are read.
    let before = stamps(sources)?;
    let mut rows: Vec<Found> = Vec::new();
    let report = scan(sources, scan_options, |scanned: Scanned<'_>| {
        rows.push(Found {
            at: scanned.at,
            text: print(scanned.text),
            prints: scanned.prints,
        });
        Ok(())
    })?;
    let report = some_rows(report, sources)?;
    let split = split(rows.len(), options)?;
    let mut again = Again {
        sources,
        scan_options,
        open: None,
    };
    let mut outputs = Vec::new();
    for (path, part) in [(&files.train, &split.train), (&files.validation, &split.validation)] {
        let mut output = Output::create(path)?;
        for &row in part {
            let row = &rows[row as usize];
            let row = again.row(row.at, row.text, form)?;
            write_line(&mut output.writer, &row).map_err(|source| write_error(path, source))?;
        }
        outputs.push(output);
    }
    if let Some(changed) = changed(sources, &before)? {
        return Err(DatasetError::Changed { path: changed });
    }
    for output in outputs {
        output.publish()?;
    }
    let prints = |part: &[u32]| -> Vec<Fingerprints> { part.iter().map(|&row| rows[row as usize].prints).collect() };
    let leaks = leakage(&prints(&split.train), &prints(&split.validation));
    Ok(SplitReport { report, split, leaks })
}

/// What is remembered of a row between the two passes.
struct Found {
    at: LineAt,
    text: Fingerprint,
    prints: Fingerprints,
}

/// Reads rows again by their place.
struct Again<'a> {
    sources: &'a Sources,
    scan_options: &'a ScanOptions,
    open: Option<(u32, BufReader<File>)>,
}

impl Again<'_> {
    /// Returns the text of a row. A row that is not what it was is an error.
    fn read(&mut self, at: LineAt, expected: Fingerprint) -> Result<String, DatasetError> {
        let path = &self.sources.files[at.file as usize];
        let changed = || DatasetError::Changed { path: path.clone() };
        if self.open.as_ref().is_none_or(|(file, _)| *file != at.file) {
            let file = File::open(path).map_err(|source| read_error(path, source))?;
            self.open = Some((at.file, BufReader::new(file)));
        }
        let (_, file) = self.open.as_mut().expect("the file was opened above");
        // Bounded: a row was read within the limit on lines before.
        let mut bytes = vec![0; usize::try_from(at.n_bytes).map_err(|_| changed())?];
        file.seek(SeekFrom::Start(at.offset))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|_| changed())?;
        let text = String::from_utf8(bytes).map_err(|_| changed())?;
        let text = match is_plain_text(path) {
            true => Conversation::of_text(text.strip_prefix('\u{feff}').unwrap_or(&text))
                .to_json()
                .to_string(),
            false => text,
        };
        if print(&text) != expected {
            return Err(changed());
        }
        Ok(text)
    }

    /// Returns a row that was read again in the form in which it is written.
    fn row(&mut self, at: LineAt, expected: Fingerprint, form: RowForm) -> Result<String, DatasetError> {
        let text = self.read(at, expected)?;
        Ok(match form {
            RowForm::AsIs => text,
            RowForm::Python => dumps(&text),
            RowForm::Messages => {
                let row = crate::row::parse(&text, self.scan_options.read.checks).row;
                let row = row.ok_or_else(|| DatasetError::Changed {
                    path: self.sources.files[at.file as usize].clone(),
                })?;
                row.conversation.to_json().to_string()
            }
        })
    }
}

/// Returns the fingerprint of a row's text as it stands.
fn print(text: &str) -> Fingerprint {
    let mut print = Fingerprint::default();
    print.copy_from_slice(&Sha256::digest(text.as_bytes())[..16]);
    print
}

/// Returns what tells that a file was written to.
fn stamps(sources: &Sources) -> Result<Vec<Metadata>, DatasetError> {
    let stamps = sources.files.iter().map(|path| {
        let metadata = std::fs::metadata(path);
        metadata.map_err(|source| read_error(path, source))
    });
    stamps.collect()
}

fn changed(sources: &Sources, before: &[Metadata]) -> Result<Option<PathBuf>, DatasetError> {
    let now = stamps(sources)?;
    let mut files = sources.files.iter().zip(before.iter().zip(&now));
    let changed =
        files.find(|(_, (before, now))| before.len() != now.len() || before.modified().ok() != now.modified().ok());
    Ok(changed.map(|(path, _)| path.clone()))
}

fn refuse_inputs(sources: &Sources, path: &Path) -> Result<(), DatasetError> {
    match sources.contains(path) {
        true => Err(DatasetError::OutputIsInput { path: path.to_owned() }),
        false => Ok(()),
    }
}

fn some_rows(report: Report, sources: &Sources) -> Result<Report, DatasetError> {
    match report.rows {
        0 => Err(DatasetError::NoRows {
            files: sources.files.len(),
        }),
        _ => Ok(report),
    }
}

fn write_line(out: &mut dyn Write, row: &str) -> std::io::Result<()> {
    out.write_all(row.as_bytes())?;
    out.write_all(b"\n")
}

fn write_error(path: &Path, source: std::io::Error) -> DatasetError {
    DatasetError::Write {
        path: path.to_owned(),
        source,
    }
}

/// A file in the making. Dropped before it is published, it leaves nothing behind.
struct Output {
    path: PathBuf,
    partial: PathBuf,
    writer: BufWriter<File>,
    is_published: bool,
}

impl Output {
    fn create(path: &Path) -> Result<Self, DatasetError> {
        let error = |source| write_error(path, source);
        let name = path
            .file_name()
            .ok_or_else(|| error(std::io::ErrorKind::IsADirectory.into()))?;
        if path.is_dir() {
            return Err(error(std::io::ErrorKind::IsADirectory.into()));
        }
        let mut partial = std::ffi::OsString::from(".");
        partial.push(name);
        partial.push(format!(".{}.partial", std::process::id()));
        let partial = path.with_file_name(partial);
        let file = File::create(&partial).map_err(error)?;
        Ok(Self {
            path: path.to_owned(),
            partial,
            writer: BufWriter::new(file),
            is_published: false,
        })
    }

    fn publish(mut self) -> Result<(), DatasetError> {
        let moved = self
            .writer
            .flush()
            .and_then(|()| self.writer.get_ref().sync_all())
            .and_then(|()| std::fs::rename(&self.partial, &self.path));
        moved.map_err(|source| write_error(&self.path, source))?;
        self.is_published = true;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.is_published {
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Between the two passes of a split somebody else can write.
    #[test]
    fn a_row_that_is_not_what_it_was_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let text = r#"{"prompt":"a","completion":"b"}"#;
        std::fs::write(&path, format!("{text}\n")).unwrap();
        let sources = Sources::find(&[&path]).unwrap();
        let before = stamps(&sources).unwrap();
        assert_eq!(changed(&sources, &before).unwrap(), None);
        let at = LineAt {
            file: 0,
            line: 1,
            offset: 0,
            n_bytes: text.len() as u64,
        };
        let options = ScanOptions::default();
        let read = || {
            let mut again = Again {
                sources: &sources,
                scan_options: &options,
                open: None,
            };
            again.row(at, print(text), RowForm::Python)
        };
        assert_eq!(read().unwrap(), r#"{"prompt": "a", "completion": "b"}"#);
        for other in [
            text.replace('b', "c"),
            "short".to_owned(),
            "\u{fffd}".repeat(20),
            String::new(),
        ] {
            std::fs::write(&path, other).unwrap();
            assert!(matches!(read(), Err(DatasetError::Changed { .. })));
        }
        assert_eq!(changed(&sources, &before).unwrap(), Some(path));
    }
}
