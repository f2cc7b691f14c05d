//! Files of importance: for each matrix, how much an error in each of its columns matters, as the mean square of what the column was multiplied by over some text.
//!
//! Two forms are read, both of llama.cpp: GGUF with `<tensor>.in_sum2` and `<tensor>.counts` (a row each expert), and the older `.dat`: entries of a name, how many
//! calls, and sums.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use witness_diagnostics::{Diagnostic, Kind};
use witness_formats::decode_f32;
use witness_formats::gguf::Gguf;
use witness_plugin_protocol::FileRef;

use crate::error::{Result, refused};

/// The most that a file of the older form may take.
const DAT_BYTES_MAX: u64 = 1 << 30;
/// The longest name in it.
const NAME_BYTES_MAX: usize = 1 << 10;

/// Importance by tensor.
#[derive(Debug, Default)]
pub(crate) struct Imatrix {
    by_tensor: HashMap<String, Vec<f32>>,
}

impl Imatrix {
    /// Reads a file of either form.
    pub(crate) fn read(file: &FileRef) -> Result<Imatrix> {
        let mut magic = [0; 4];
        let opened = std::fs::File::open(&file.path).and_then(|mut file| file.read(&mut magic));
        opened.map_err(|error| {
            Diagnostic::new(
                "witness::quantize::imatrix",
                Kind::Environment,
                format!("`{}` cannot be read", file.name),
            )
            .cause(error.to_string())
        })?;
        let imatrix = match &magic == b"GGUF" {
            true => Imatrix::of_gguf(&file.path)?,
            false => Imatrix::of_dat(&file.path, &file.name)?,
        };
        if imatrix.by_tensor.is_empty() {
            return Err(damaged(&file.name, "it names no tensor"));
        }
        Ok(imatrix)
    }

    /// Returns the importance of a tensor's columns, expert after expert.
    pub(crate) fn of(&self, tensor: &str) -> Option<&[f32]> {
        self.by_tensor.get(tensor).map(Vec::as_slice)
    }

    fn of_gguf(path: &Path) -> Result<Imatrix> {
        let gguf = Gguf::open_file(path)?;
        let mut by_tensor = HashMap::new();
        for sums in gguf.tensors() {
            let Some(name) = sums.name.strip_suffix(".in_sum2") else {
                continue;
            };
            let numbers = |tensor| -> Result<Vec<f32>> {
                let tensor = gguf.tensor_ref(tensor)?;
                Ok(decode_f32(tensor.dtype(), tensor.bytes())?)
            };
            let counts = numbers(gguf.require_tensor(&format!("{name}.counts"))?)?;
            let mut values = numbers(sums)?;
            if counts.is_empty() || values.len() % counts.len() != 0 {
                return Err(damaged(
                    gguf.label(),
                    &format!("`{name}` has {} counts for {} sums", counts.len(), values.len()),
                ));
            }
            let width = values.len() / counts.len();
            for (values, count) in values.chunks_exact_mut(width.max(1)).zip(&counts) {
                for value in values {
                    // What no text reached matters as everything else.
                    *value = if *count > 0.0 { *value / *count } else { 1.0 };
                }
            }
            by_tensor.insert(name.to_owned(), values);
        }
        Ok(Imatrix { by_tensor })
    }

    fn of_dat(path: &Path, label: &str) -> Result<Imatrix> {
        let cannot = |error: std::io::Error| damaged(label, &error.to_string());
        let file = std::fs::File::open(path).map_err(cannot)?;
        let mut bytes = Vec::new();
        file.take(DAT_BYTES_MAX).read_to_end(&mut bytes).map_err(cannot)?;
        let mut rest = Cursor { bytes: &bytes, label };
        let n_entries = rest.count()?;
        let mut by_tensor = HashMap::new();
        for _ in 0..n_entries {
            let name_bytes = rest.count()?;
            if name_bytes == 0 || name_bytes > NAME_BYTES_MAX {
                return Err(damaged(label, &format!("a name of {name_bytes} bytes")));
            }
            let name = String::from_utf8(rest.take(name_bytes)?.to_vec());
            let name = name.map_err(|_| damaged(label, "a name that is no text"))?;
            let n_calls = rest.count()?;
            let n_values = rest.count()?;
            let bytes = n_values
                .checked_mul(4)
                .ok_or_else(|| damaged(label, "a number of values beyond all memory"))?;
            let mut values: Vec<f32> = rest
                .take(bytes)?
                .as_chunks::<4>()
                .0
                .iter()
                .map(|word| f32::from_le_bytes(*word))
                .collect();
            if n_calls > 0 {
                for value in &mut values {
                    *value /= n_calls as f32;
                }
            }
            by_tensor.insert(name, values);
        }
        Ok(Imatrix { by_tensor })
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    label: &'a str,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(n)
            .ok_or_else(|| damaged(self.label, "it ends in the middle of an entry"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn count(&mut self) -> Result<usize> {
        let word = self.take(4)?;
        let number = word
            .as_chunks::<4>()
            .0
            .first()
            .map_or(-1, |word| i32::from_le_bytes(*word));
        usize::try_from(number).map_err(|_| damaged(self.label, &format!("a count of {number}")))
    }
}

fn damaged(file: &str, why: &str) -> Diagnostic {
    refused("imatrix", format!("`{file}` is no importance matrix"))
        .cause(why)
        .hint("make one with llama.cpp's `llama-imatrix`: its GGUF form and its older `.dat` form are read")
}
