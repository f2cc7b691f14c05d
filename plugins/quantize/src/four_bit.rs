//! Weights in NF4: read as the numbers that they stand for, and written as bitsandbytes and Transformers have them.
//!
//! What a directory in NF4 holds is known to [`four_bit`], what the numbers are to [`Nf4Matrix`]; here both become [`Weights`], so that everything that reads or
//! writes a directory does so of this kind too.
//!
//! Memory: one matrix in NF4 while a directory is written, and its numbers some rows a thread; of one that is read, the scales. Cost: a directory's matrices are gone
//! through twice when it is written, for the mean of their scales stands in the account of each, whose length is in the head of the file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rayon::prelude::*;
use witness_conversion::{ConversionError, Described, Weights, encode_dense};
use witness_formats::hf::four_bit::{self, FourBit};
use witness_formats::safetensors::SafeTensors;
use witness_formats::{Dtype, FormatError};
use witness_quantization::{NF4_BLOCK, NF4_CODE, Nf4Matrix, Nf4Scales, blockwise, encode_nf4, nf4_scales};

type Result<T> = std::result::Result<T, ConversionError>;

/// How many numbers a thread quantizes at a time, about.
const TASK_NUMBERS: usize = 1 << 20;

/// A directory's weights, with those in NF4 as numbers of the type that they were quantized from: rounded to it, as Transformers computes with them.
pub(crate) struct Decoded {
    tensors: SafeTensors,
    matrices: HashMap<String, (Nf4Matrix, Dtype)>,
}

impl Decoded {
    /// Opens weights; nothing where none of them is in 4 bits.
    pub(crate) fn open(tensors: &SafeTensors) -> std::result::Result<Option<Decoded>, FormatError> {
        let mut matrices = HashMap::new();
        for name in FourBit::names(tensors) {
            if let Some(stored) = FourBit::of(tensors, name)? {
                let dtype = stored.dtype;
                matrices.insert(name.to_owned(), (Nf4Matrix::of_stored(&stored)?, dtype));
            }
        }
        let tensors = tensors.clone();
        Ok((!matrices.is_empty()).then_some(Decoded { tensors, matrices }))
    }
}

impl Weights for Decoded {
    fn label(&self) -> &str {
        self.tensors.label()
    }

    fn names(&self) -> Vec<String> {
        let names = self.tensors.iter().map(|(name, _)| name);
        let names = names.filter(|name| !FourBit::is_part(&self.tensors, name));
        names.map(str::to_owned).collect()
    }

    fn describe(&self, name: &str) -> Option<Described> {
        match self.matrices.get(name) {
            Some((matrix, dtype)) => Some(Described {
                dtype: *dtype,
                shape: vec![matrix.n_out(), matrix.n_in()],
            }),
            None if FourBit::is_part(&self.tensors, name) => None,
            None => Weights::describe(&self.tensors, name),
        }
    }

    fn rows(&self, name: &str, rows: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let Some((matrix, dtype)) = self.matrices.get(name) else {
            return self.tensors.rows(name, rows);
        };
        let described = self.require(name)?;
        if rows.start > rows.end || rows.end > matrix.n_out() {
            return Err(outside(self.label(), name, &rows, described.n_rows()));
        }
        let mut values = vec![0.0; rows.len() * matrix.n_in()];
        matrix.dequantize_rows(rows, &mut values);
        Ok(Cow::Owned(encode_dense(*dtype, &values)))
    }

    fn release(&self, name: &str, rows: Range<usize>) {
        if !self.matrices.contains_key(name) {
            self.tensors.release(name, rows);
        }
    }
}

/// Weights whose layers' matrices are in NF4, made as they are asked for.
pub(crate) struct Encoded {
    base: Arc<dyn Weights>,
    pool: Arc<rayon::ThreadPool>,
    /// The mean of the scales of each matrix, in the account of each.
    accounts: OnceLock<HashMap<String, String>>,
    /// The matrix that was made last: the parts of one are asked for one after the other.
    last: Mutex<Option<(String, Arc<Nf4Matrix>)>>,
}

impl Encoded {
    /// Takes the weights that are to be quantized and the threads that do it.
    pub(crate) fn new(base: Arc<dyn Weights>, pool: Arc<rayon::ThreadPool>) -> Encoded {
        Encoded {
            base,
            pool,
            accounts: OnceLock::new(),
            last: Mutex::new(None),
        }
    }

    /// Goes through all matrices for what has to be known before the first byte is written. `go_on` is asked between them.
    pub(crate) fn prepare(&self, mut go_on: impl FnMut() -> bool) -> Result<bool> {
        let mut accounts = HashMap::new();
        for name in self.base.names() {
            let Some(shape) = quantized(self.base.as_ref(), &name) else {
                continue;
            };
            if !go_on() {
                return Ok(false);
            }
            let mut scales = vec![0.0; (shape[0] * shape[1]).div_ceil(NF4_BLOCK)];
            let (step, n_numbers) = rows_of_a_task(shape[1]);
            let work = || {
                let tasks = scales.par_chunks_mut(n_numbers / NF4_BLOCK).enumerate();
                tasks.try_for_each(|(task, scales)| -> Result<()> {
                    let rows = task * step..((task + 1) * step).min(shape[0]);
                    nf4_scales(&self.base.rows_f32(&name, rows.clone())?, scales);
                    self.base.release(&name, rows);
                    Ok(())
                })
            };
            self.pool.install(work)?;
            if let Some(scale) = scales.iter().find(|scale| !scale.is_finite()) {
                return Err(not_finite(self.base.label(), &name, *scale));
            }
            let dtype = self.base.require(&name)?.dtype;
            let offset = match Nf4Scales::of(scales, true) {
                Nf4Scales::Nested { offset, .. } => Some(offset),
                Nf4Scales::Plain(_) => None,
            };
            accounts.insert(name, four_bit::state(shape, dtype, offset));
        }
        // Somebody who was quicker set the same.
        let _ = self.accounts.set(accounts);
        Ok(true)
    }

    /// Returns the matrix that a name belongs to and the part of it that it names, the empty one being the codes.
    fn part<'a>(&self, name: &'a str) -> Option<(&'a str, &'static str, Dtype, usize)> {
        let accounts = self.accounts.get()?;
        let parts = four_bit::parts(0, true, 0).into_iter().map(|(end, ..)| end);
        let (matrix, end) = parts
            .filter_map(|end| Some((name.strip_suffix(end)?, end)))
            .chain([(name, "")])
            .find(|(matrix, _)| accounts.contains_key(*matrix))?;
        let [n_out, n_in] = quantized(self.base.as_ref(), matrix)?;
        if end.is_empty() {
            return Some((matrix, "", Dtype::U8, (n_out * n_in).div_ceil(2)));
        }
        let parts = four_bit::parts(n_out * n_in, true, accounts[matrix].len());
        let (end, dtype, length) = parts.into_iter().find(|(known, ..)| *known == end)?;
        Some((matrix, end, dtype, length))
    }

    fn matrix(&self, name: &str) -> Result<Arc<Nf4Matrix>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, matrix)) = last.as_ref()
            && known == name
        {
            return Ok(Arc::clone(matrix));
        }
        // Its memory goes before that of the next is taken.
        *last = None;
        let [n_out, n_in] =
            quantized(self.base.as_ref(), name).ok_or_else(|| outside(self.base.label(), name, &(0..0), 0))?;
        let mut packed = vec![0; (n_out * n_in).div_ceil(2)];
        let mut scales = vec![0.0; (n_out * n_in).div_ceil(NF4_BLOCK)];
        let (step, n_numbers) = rows_of_a_task(n_in);
        let work = || {
            let tasks = packed.par_chunks_mut(n_numbers / 2);
            let tasks = tasks.zip(scales.par_chunks_mut(n_numbers / NF4_BLOCK)).enumerate();
            tasks.try_for_each(|(task, (packed, scales))| -> Result<()> {
                let rows = task * step..((task + 1) * step).min(n_out);
                encode_nf4(&self.base.rows_f32(name, rows.clone())?, packed, scales);
                self.base.release(name, rows);
                Ok(())
            })
        };
        self.pool.install(work)?;
        let matrix = Nf4Matrix::from_parts(n_out, n_in, packed, Nf4Scales::of(scales, true));
        // The lengths were reckoned from the shape, some lines above.
        let matrix = matrix.map_err(|error| ConversionError::Unsupported {
            model: self.base.label().to_owned(),
            what: error.to_string(),
            hint: "report it".to_owned(),
        })?;
        let matrix = Arc::new(matrix);
        *last = Some((name.to_owned(), Arc::clone(&matrix)));
        Ok(matrix)
    }
}

impl Weights for Encoded {
    fn label(&self) -> &str {
        self.base.label()
    }

    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for name in self.base.names() {
            if quantized(self.base.as_ref(), &name).is_some() {
                names.extend(
                    four_bit::parts(0, true, 0)
                        .iter()
                        .map(|(end, ..)| format!("{name}{end}")),
                );
            }
            names.push(name);
        }
        names.sort_unstable();
        names
    }

    fn describe(&self, name: &str) -> Option<Described> {
        match self.part(name) {
            Some((_, "", dtype, length)) => Some(Described {
                dtype,
                shape: vec![length, 1],
            }),
            Some((_, _, dtype, length)) => Some(Described {
                dtype,
                shape: vec![length],
            }),
            None => self.base.describe(name),
        }
    }

    fn rows(&self, name: &str, rows: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let Some((weight, end, dtype, length)) = self.part(name) else {
            return self.base.rows(name, rows);
        };
        let matrix = self.matrix(weight)?;
        let bytes: Vec<u8> = match (end, matrix.scales()) {
            ("", _) => return cut(self.label(), name, matrix.packed(), rows, 1),
            (".quant_map", _) => le_bytes(&NF4_CODE),
            (".nested_quant_map", _) => le_bytes(blockwise::SIGNED.values()),
            (".absmax", Nf4Scales::Nested { codes, .. }) => codes.clone(),
            (".nested_absmax", Nf4Scales::Nested { largest, .. }) => le_bytes(largest),
            _ => {
                let account = self.accounts.get().and_then(|accounts| accounts.get(weight));
                account.map(|account| account.as_bytes().to_vec()).unwrap_or_default()
            }
        };
        debug_assert_eq!(bytes.len(), length * dtype.bits() / 8);
        cut(self.label(), name, &bytes, rows, dtype.bits() / 8)
    }

    fn release(&self, name: &str, rows: Range<usize>) {
        if self.part(name).is_none() {
            self.base.release(name, rows);
        }
    }
}

/// Returns the shape of a weight that is quantized: the matrices of layers. Embedding, output and norms stay, as Transformers leaves them.
pub(crate) fn quantized(weights: &dyn Weights, name: &str) -> Option<[usize; 2]> {
    if !name.starts_with("model.layers.") || !name.ends_with(".weight") {
        return None;
    }
    weights.describe(name)?.shape.try_into().ok()
}

/// Returns the bytes that a matrix will take in NF4 with everything that stands beside it, but for some digits of one number.
pub(crate) fn bytes_of(shape: [usize; 2], dtype: Dtype) -> u64 {
    let n_numbers = shape[0] * shape[1];
    // A mean of f32 has 19 characters or so.
    let state = four_bit::state(shape, dtype, Some(0.145_494_52)).len();
    let parts = four_bit::parts(n_numbers, true, state).into_iter();
    let parts = parts.map(|(_, dtype, length)| (length * dtype.bits() / 8) as u64);
    n_numbers.div_ceil(2) as u64 + parts.sum::<u64>()
}

/// Returns how many rows of a length a thread takes at a time, and their numbers: whole blocks.
fn rows_of_a_task(n_columns: usize) -> (usize, usize) {
    let rows = (TASK_NUMBERS / n_columns.max(1))
        .next_multiple_of(NF4_BLOCK)
        .max(NF4_BLOCK);
    (rows, rows * n_columns)
}

fn le_bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn cut<'a>(label: &str, name: &str, bytes: &[u8], rows: Range<usize>, row_bytes: usize) -> Result<Cow<'a, [u8]>> {
    match bytes.get(rows.start * row_bytes..rows.end * row_bytes) {
        Some(bytes) => Ok(Cow::Owned(bytes.to_vec())),
        None => Err(outside(label, name, &rows, bytes.len() / row_bytes)),
    }
}

fn outside(label: &str, name: &str, rows: &Range<usize>, n_rows: usize) -> ConversionError {
    FormatError::Malformed {
        file: label.to_owned(),
        place: format!("tensor `{name}`"),
        expected: format!("rows {rows:?}"),
        found: format!("{n_rows} rows"),
    }
    .into()
}

fn not_finite(label: &str, name: &str, found: f32) -> ConversionError {
    FormatError::Malformed {
        file: label.to_owned(),
        place: format!("tensor `{name}`"),
        expected: "finite numbers".to_owned(),
        found: found.to_string(),
    }
    .into()
}
