//! Importance matrices: for each matrix, how much an error in each of its columns matters, as the mean square of what the column was multiplied by over some text.
//!
//! Two forms, both of llama.cpp, are read and written: GGUF (`general.type` = `imatrix`) with `<tensor>.in_sum2`, sums of squares, and `<tensor>.counts`, rows
//! summed, one row each expert; and the older `.dat`, little-endian: the number of entries, then each as name, calls and mean squares times calls, then the
//! calls of the whole and the text's name.
//!
//! **Invariant:** a file that was read has as many sums as its counts divide, and no length in it was believed before it was seen to lie inside.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use crate::gguf::{GgmlType, Gguf, MAGIC, OwnedValue, ValueType, Writer};
use crate::{FormatError, Result, decode_f32};

/// The most that a file of the older form may take.
const DAT_BYTES_MAX: u64 = 1 << 30;
/// The longest name in it.
const NAME_BYTES_MAX: usize = 1 << 10;
/// The longest name of a text at its end.
const TEXT_NAME_BYTES_MAX: usize = 1 << 16;

const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";

/// Importance by tensor, and what text it comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imatrix {
    /// The matrices by their GGUF names.
    pub tensors: BTreeMap<String, Importance>,
    /// Names of the texts.
    pub datasets: Vec<String>,
    /// Pieces of text that were run.
    pub n_chunks: u32,
    /// Tokens of a piece; 0 where the file does not say.
    pub chunk_tokens: u32,
}

/// Importance of one matrix's columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Importance {
    /// Sum of squares of what each column was multiplied by, `[n_experts, n_columns]`.
    pub sums: Vec<f32>,
    /// Rows that were summed, `[n_experts]`.
    pub counts: Vec<f32>,
}

/// The forms of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImatrixForm {
    /// GGUF.
    Gguf,
    /// The older form: one text, and no experts that the text did not reach.
    Dat,
}

impl Importance {
    /// Returns the mean squares, expert after expert. What no text reached matters as everything else: 1.
    pub fn means(&self) -> Vec<f32> {
        let width = (self.sums.len() / self.counts.len().max(1)).max(1);
        let rows = self.sums.chunks_exact(width).zip(&self.counts);
        rows.flat_map(|(sums, &count)| sums.iter().map(move |sum| if count > 0.0 { sum / count } else { 1.0 }))
            .collect()
    }
}

impl Imatrix {
    /// Reads a file of either form; `label` is its name for messages.
    ///
    /// # Errors
    /// The file cannot be read, contradicts its form, or names no tensor.
    pub fn read(path: &Path, label: &str) -> Result<Imatrix> {
        let io = |action| move |error| FormatError::io(label, action, error);
        let mut magic = [0; 4];
        let mut file = File::open(path).map_err(io("open"))?;
        let n_read = file.read(&mut magic).map_err(io("read"))?;
        let imatrix = match n_read == magic.len() && magic == MAGIC {
            true => Imatrix::of_gguf(path, label)?,
            false => {
                let mut bytes = magic[..n_read].to_vec();
                file.take(DAT_BYTES_MAX).read_to_end(&mut bytes).map_err(io("read"))?;
                Imatrix::of_dat(&bytes, label)?
            }
        };
        if imatrix.tensors.is_empty() {
            return Err(damaged(label, "its beginning", "importance of tensors", "none"));
        }
        Ok(imatrix)
    }

    /// Writes a file of the form.
    ///
    /// # Errors
    /// The sink refuses, or a tensor's counts do not divide its sums.
    pub fn write(&self, form: ImatrixForm, sink: impl Write) -> Result<()> {
        for (name, importance) in &self.tensors {
            check(name, importance, OUTPUT)?;
        }
        match form {
            ImatrixForm::Gguf => self.write_gguf(sink),
            ImatrixForm::Dat => self
                .write_dat(sink)
                .map_err(|error| FormatError::io(OUTPUT, "write", error)),
        }
    }

    fn of_gguf(path: &Path, label: &str) -> Result<Imatrix> {
        let gguf = Gguf::open_file(path)?;
        let metadata = gguf.metadata();
        let mut imatrix = Imatrix {
            datasets: match metadata.opt_array(DATASETS)? {
                Some(names) => names.strings()?.into_iter().map(str::to_owned).collect(),
                None => Vec::new(),
            },
            n_chunks: metadata.opt_u32(CHUNK_COUNT)?.unwrap_or(0),
            chunk_tokens: metadata.opt_u32(CHUNK_SIZE)?.unwrap_or(0),
            ..Imatrix::default()
        };
        for tensor in gguf.tensors() {
            let Some(name) = tensor.name.strip_suffix(SUMS) else {
                continue;
            };
            let numbers = |tensor| -> Result<Vec<f32>> {
                let tensor = gguf.tensor_ref(tensor)?;
                decode_f32(tensor.dtype(), tensor.bytes())
            };
            let importance = Importance {
                counts: numbers(gguf.require_tensor(&format!("{name}{COUNTS}"))?)?,
                sums: numbers(tensor)?,
            };
            check(name, &importance, label)?;
            imatrix.tensors.insert(name.to_owned(), importance);
        }
        Ok(imatrix)
    }

    fn of_dat(bytes: &[u8], label: &str) -> Result<Imatrix> {
        let mut rest = Cursor { bytes, at: 0, label };
        let mut imatrix = Imatrix::default();
        for _ in 0..rest.count("the number of entries")? {
            let name = rest.text("a tensor's name", NAME_BYTES_MAX)?;
            let n_calls = rest.count("a number of calls")?;
            let n_values = rest.count("a number of values")?;
            let values = rest.take(n_values.saturating_mul(4), "the values of a tensor")?;
            let values = values.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word));
            let importance = Importance {
                sums: values.collect(),
                counts: vec![n_calls.max(1) as f32],
            };
            imatrix.tensors.insert(name, importance);
        }
        // Files of the first versions end here.
        if rest.bytes.len() > rest.at {
            imatrix.n_chunks = u32::try_from(rest.count("the calls of the whole")?).unwrap_or(u32::MAX);
            imatrix.datasets = vec![rest.text("the text's name", TEXT_NAME_BYTES_MAX)?];
        }
        Ok(imatrix)
    }

    fn write_gguf(&self, sink: impl Write) -> Result<()> {
        let mut writer = Writer::new();
        writer.set("general.type", "imatrix")?;
        let names = self.datasets.iter().cloned().map(OwnedValue::String).collect();
        writer.set(DATASETS, OwnedValue::Array(ValueType::String, names))?;
        writer.set(CHUNK_COUNT, self.n_chunks)?;
        writer.set(CHUNK_SIZE, self.chunk_tokens)?;
        for (name, importance) in &self.tensors {
            let n_experts = importance.counts.len();
            let width = importance.sums.len() / n_experts.max(1);
            writer.tensor(&format!("{name}{SUMS}"), &[n_experts, width], GgmlType::F32)?;
            writer.tensor(&format!("{name}{COUNTS}"), &[n_experts, 1], GgmlType::F32)?;
        }
        let mut body = writer.begin(sink)?;
        for (name, importance) in &self.tensors {
            body.tensor(&format!("{name}{SUMS}"), &bytes_of(importance.sums.iter().copied()))?;
            body.tensor(&format!("{name}{COUNTS}"), &bytes_of(importance.counts.iter().copied()))?;
        }
        body.finish().map(drop)
    }

    fn write_dat(&self, mut sink: impl Write) -> std::io::Result<()> {
        let number = |value: usize| i32::try_from(value).unwrap_or(i32::MAX).to_le_bytes();
        sink.write_all(&number(self.tensors.len()))?;
        for (name, importance) in &self.tensors {
            let rows_max = importance.counts.iter().fold(0f32, |max, &count| max.max(count));
            // Rounded up, so that what was called at all was called once.
            let n_calls = (rows_max / self.chunk_tokens.max(1) as f32).ceil().max(1.0);
            sink.write_all(&number(name.len()))?;
            sink.write_all(name.as_bytes())?;
            sink.write_all(&number(n_calls as usize))?;
            sink.write_all(&number(importance.sums.len()))?;
            sink.write_all(&bytes_of(importance.means().into_iter().map(|mean| mean * n_calls)))?;
        }
        sink.write_all(&number(self.n_chunks as usize))?;
        let name = self.datasets.last().map_or("", String::as_str);
        sink.write_all(&number(name.len()))?;
        sink.write_all(name.as_bytes())?;
        sink.flush()
    }
}

const OUTPUT: &str = "the importance matrix being written";

fn bytes_of(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(f32::to_le_bytes).collect()
}

fn check(name: &str, importance: &Importance, file: &str) -> Result<()> {
    let (n_sums, n_counts) = (importance.sums.len(), importance.counts.len());
    if n_counts == 0 || n_sums % n_counts != 0 {
        return Err(damaged(
            file,
            &format!("`{name}`"),
            "as many sums for each count",
            &format!("{n_counts} counts for {n_sums} sums"),
        ));
    }
    Ok(())
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    label: &'a str,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n_bytes: usize, what: &str) -> Result<&'a [u8]> {
        let taken = self
            .at
            .checked_add(n_bytes)
            .and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| FormatError::Truncated {
            file: self.label.to_owned(),
            what: what.to_owned(),
            offset: self.at as u64,
            needed: n_bytes as u64,
            available: self.bytes.len() as u64,
        })?;
        self.at += n_bytes;
        Ok(taken)
    }

    fn count(&mut self, what: &str) -> Result<usize> {
        let at = self.at;
        let word = self.take(4, what)?.as_chunks::<4>().0;
        let number = word.first().map_or(-1, |word| i32::from_le_bytes(*word));
        usize::try_from(number)
            .map_err(|_| damaged(self.label, &format!("byte {at}"), what, &format!("the number {number}")))
    }

    fn text(&mut self, what: &str, bytes_max: usize) -> Result<String> {
        let at = self.at;
        let n_bytes = self.count(what)?;
        if n_bytes > bytes_max {
            return Err(FormatError::limit(
                self.label,
                format!("the length of {what}"),
                n_bytes,
                bytes_max as u64,
            ));
        }
        String::from_utf8(self.take(n_bytes, what)?.to_vec())
            .map_err(|_| damaged(self.label, &format!("byte {at}"), what, "bytes that are no text"))
    }
}

fn damaged(file: &str, place: &str, expected: &str, found: &str) -> FormatError {
    FormatError::malformed(file, place, expected, found)
}
