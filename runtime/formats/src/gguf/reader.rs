//! Opening GGUF files: the head is proven, the data is left where it lies.
//!
//! Cost: one pass over the head (metadata and tensor records), typically a few MB of a vocabulary; about 100 bytes per tensor.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use super::{
    ALIGNMENT_DEFAULT, ALIGNMENT_MAX, DIMENSIONS_MAX, MAGIC, Metadata, NAME_BYTES_MAX, TENSORS_MAX, cursor::Cursor,
    file_type, split, types::GgmlType,
};
use crate::{FormatError, Mmap, Result, TensorRef, error::excerpt, files, tensor::elements_of};

/// A tensor of a GGUF file: what it is and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Row-major shape, the reverse of the order in the file; a weight is `[out, in]`.
    pub shape: Vec<usize>,
    /// How its elements are stored.
    pub ggml_type: GgmlType,
    /// Which file of a split model holds it.
    pub part: usize,
    /// Where it starts, in bytes from the start of that file.
    pub offset: u64,
    /// How many bytes it takes; for an unknown type, how many at most (up to the next tensor).
    pub bytes: u64,
}

impl TensorInfo {
    /// Returns the number of elements.
    pub fn elements(&self) -> u64 {
        // The product was proven not to overflow when the record was read.
        elements_of(&self.shape).unwrap_or(0)
    }
}

/// An open GGUF model: one file or all parts of a split one. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Gguf {
    label: String,
    parts: Vec<Part>,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
}

/// One file of a model.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) file: String,
    pub(super) bytes: Mmap,
    pub(super) version: u32,
    pub(super) alignment: u32,
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<TensorInfo>,
}

impl Gguf {
    /// Opens a model from all its files. Parts of a split model may come in any order; they are put right and must be complete.
    pub fn open(paths: &[PathBuf]) -> Result<Gguf> {
        if paths.len() > super::PARTS_MAX {
            return Err(FormatError::limit(
                "the model",
                "the number of files",
                paths.len(),
                super::PARTS_MAX as u64,
            ));
        }
        let parts = paths
            .iter()
            .map(|path| Part::open(path))
            .collect::<Result<Vec<Part>>>()?;
        let mut parts = split::in_order(parts)?;
        let mut tensors = Vec::new();
        let mut index = HashMap::new();
        for (number, part) in parts.iter_mut().enumerate() {
            for mut tensor in part.tensors.drain(..) {
                if index.insert(tensor.name.clone(), tensors.len()).is_some() {
                    return Err(FormatError::malformed(
                        part.file.clone(),
                        format!("tensor `{}`", excerpt(&tensor.name)),
                        "every tensor once",
                        "two of that name",
                    ));
                }
                tensor.part = number;
                tensors.push(tensor);
            }
        }
        let label = parts.first().map_or_else(String::new, |part| part.file.clone());
        Ok(Gguf {
            label,
            parts,
            tensors,
            index,
        })
    }

    /// Opens a model from its one file, or from the first of a split model whose parts lie beside it under the usual names.
    pub fn open_file(path: &Path) -> Result<Gguf> {
        match split::siblings(path) {
            Some(parts) => Gguf::open(&parts),
            None => Gguf::open(&[path.to_owned()]),
        }
    }

    /// Returns what errors call this model: the path of its first file.
    pub fn label(&self) -> &str {
        &self.label
    }

    fn first(&self) -> &Part {
        self.parts.first().expect("`open` refuses a model without files")
    }

    /// Returns the version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.first().version
    }

    /// Returns the alignment of the tensor data in bytes.
    pub fn alignment(&self) -> u32 {
        self.first().alignment
    }

    /// Returns the number of files.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Returns the metadata: that of the first file.
    pub fn metadata(&self) -> &Metadata {
        &self.first().metadata
    }

    /// Returns `general.architecture`, such as `llama`.
    pub fn architecture(&self) -> Result<&str> {
        self.metadata().str("general.architecture")
    }

    /// Returns all tensors in the order of the file or files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Returns a tensor by name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(*self.index.get(name)?)
    }

    /// Returns a tensor that must be there.
    pub fn require_tensor(&self, name: &str) -> Result<&TensorInfo> {
        self.tensor(name)
            .ok_or_else(|| FormatError::missing(self.label.clone(), format!("tensor `{name}`")))
    }

    /// Returns the stored bytes of a tensor of this model. Starts at a multiple of [`Gguf::alignment`] in the file.
    pub fn tensor_data(&self, tensor: &TensorInfo) -> Result<&[u8]> {
        if let GgmlType::Unknown(id) = tensor.ggml_type {
            return Err(FormatError::unsupported(
                self.label.clone(),
                format!(
                    "tensor `{}` has type {id}, which this version does not know",
                    excerpt(&tensor.name)
                ),
                "use a file of the same model in another quantization, such as Q8_0 or Q4_K_M",
            ));
        }
        let (part, range) = self.range(tensor)?;
        Ok(&part.bytes[range])
    }

    /// Says that nobody looks at some bytes of a tensor soon: their pages leave the resident memory until then.
    pub fn release(&self, tensor: &TensorInfo, bytes: std::ops::Range<usize>) {
        if let Ok((part, range)) = self.range(tensor) {
            let start = range.start.saturating_add(bytes.start).min(range.end);
            let end = range.start.saturating_add(bytes.end).min(range.end);
            part.bytes.release(start..end);
        }
    }

    /// Returns a dense tensor as a value of its own, which keeps the mapping alive.
    pub fn tensor_ref(&self, tensor: &TensorInfo) -> Result<TensorRef> {
        let dtype = tensor.ggml_type.dense().ok_or_else(|| {
            FormatError::unsupported(
                self.label.clone(),
                format!(
                    "tensor `{}` is stored as {}, not as plain numbers",
                    excerpt(&tensor.name),
                    tensor.ggml_type.name()
                ),
                "use a file with F32, F16 or BF16 weights here",
            )
        })?;
        let (part, range) = self.range(tensor)?;
        TensorRef::mapped(dtype, &tensor.shape, &part.bytes, range).ok_or_else(|| self.foreign(tensor))
    }

    fn range(&self, tensor: &TensorInfo) -> Result<(&Part, std::ops::Range<usize>)> {
        let find = || {
            let part = self.parts.get(tensor.part)?;
            let start = usize::try_from(tensor.offset).ok()?;
            let end = start.checked_add(usize::try_from(tensor.bytes).ok()?)?;
            (end <= part.bytes.len()).then_some((part, start..end))
        };
        find().ok_or_else(|| self.foreign(tensor))
    }

    fn foreign(&self, tensor: &TensorInfo) -> FormatError {
        FormatError::missing(
            self.label.clone(),
            format!("tensor `{}` at that place", excerpt(&tensor.name)),
        )
    }

    /// Returns the usual name of the file's type, such as `Q4_K_M`: as the file says, else the type that takes the most bytes.
    pub fn file_type(&self) -> String {
        let told = self.metadata().opt_u64("general.file_type").ok().flatten();
        if let Some(name) = told.and_then(file_type::name) {
            return name.to_owned();
        }
        let mut bytes_by_type: HashMap<GgmlType, u64> = HashMap::new();
        for tensor in &self.tensors {
            let sum = bytes_by_type.entry(tensor.ggml_type).or_default();
            *sum = sum.saturating_add(tensor.bytes);
        }
        let most = bytes_by_type.into_iter().max_by_key(|(kind, bytes)| (*bytes, *kind));
        most.map_or_else(|| "unknown".to_owned(), |(kind, _)| kind.name())
    }

    /// Returns the number of weights in all tensors.
    pub fn parameter_count(&self) -> u64 {
        self.tensors
            .iter()
            .fold(0, |sum: u64, tensor| sum.saturating_add(tensor.elements()))
    }

    /// Returns the length of all files together.
    pub fn bytes(&self) -> u64 {
        self.parts
            .iter()
            .fold(0, |sum: u64, part| sum.saturating_add(part.bytes.len() as u64))
    }
}

impl Part {
    fn open(path: &Path) -> Result<Part> {
        let file = path.display().to_string();
        if files::is_pickle(&file) {
            return Err(FormatError::Pickle { file });
        }
        let bytes = Mmap::open(path)?;
        let mut cursor = Cursor {
            file: &file,
            bytes: &bytes,
            at: 0,
        };
        let (version, n_tensors, n_entries) = read_head(&mut cursor)?;
        let metadata = Metadata::read(&mut cursor, &bytes, n_entries)?;
        let alignment = read_alignment(&metadata, &file)?;
        let mut tensors = read_tensors(&mut cursor, n_tensors)?;
        let data_start = (cursor.at as u64).next_multiple_of(u64::from(alignment));
        place(
            &mut tensors,
            data_start,
            bytes.len() as u64,
            &file,
            u64::from(alignment),
        )?;
        Ok(Part {
            version,
            alignment,
            metadata,
            tensors,
            file,
            bytes,
        })
    }
}

/// Reads magic, version and the two counts.
fn read_head(cursor: &mut Cursor<'_>) -> Result<(u32, u64, u64)> {
    let magic = cursor.take(4, "the magic number")?;
    if magic != MAGIC {
        let shown = excerpt(&String::from_utf8_lossy(magic));
        return Err(cursor.malformed(0, "`GGUF`", &format!("`{shown}`")));
    }
    let version = cursor.u32("the version")?;
    if version != 0 && version & 0xffff == 0 {
        return Err(FormatError::unsupported(
            cursor.file,
            format!(
                "it is big-endian (version {} when its bytes are swapped)",
                version.swap_bytes()
            ),
            "convert it with gguf-py's `gguf-convert-endian FILE little`, or get the little-endian file",
        ));
    }
    if !(2..=3).contains(&version) {
        return Err(FormatError::unsupported(
            cursor.file,
            format!("it has GGUF version {version}; versions 2 and 3 are read"),
            "convert the model again with a current converter",
        ));
    }
    let n_tensors = cursor.u64("the number of tensors")?;
    let n_entries = cursor.u64("the number of metadata entries")?;
    Ok((version, n_tensors, n_entries))
}

fn read_alignment(metadata: &Metadata, file: &str) -> Result<u32> {
    let Some(alignment) = metadata.opt_u32("general.alignment")? else {
        return Ok(ALIGNMENT_DEFAULT);
    };
    if alignment.is_power_of_two() && alignment <= ALIGNMENT_MAX {
        return Ok(alignment);
    }
    Err(FormatError::malformed(
        file,
        "metadata `general.alignment`",
        format!("a power of two up to {ALIGNMENT_MAX}"),
        alignment.to_string(),
    ))
}

/// Reads the tensor records; offsets are still relative to the data section.
fn read_tensors(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<TensorInfo>> {
    if count > TENSORS_MAX as u64 {
        return Err(FormatError::limit(
            cursor.file,
            "the number of tensors",
            count,
            TENSORS_MAX as u64,
        ));
    }
    let mut tensors = Vec::new();
    for _ in 0..count {
        let name = cursor.name("a tensor name", NAME_BYTES_MAX)?.to_owned();
        let at = cursor.at;
        let n_dims = cursor.u32("the number of dimensions")? as usize;
        if n_dims > DIMENSIONS_MAX {
            return Err(FormatError::limit(
                cursor.file,
                format!("the number of dimensions of tensor `{}`", excerpt(&name)),
                n_dims,
                DIMENSIONS_MAX as u64,
            ));
        }
        let mut shape = Vec::with_capacity(n_dims);
        for _ in 0..n_dims {
            let dim = cursor.u64("a dimension")?;
            shape
                .push(usize::try_from(dim).map_err(|_| cursor.malformed(at, "a smaller dimension", &dim.to_string()))?);
        }
        let ggml_type = GgmlType::from_id(cursor.u32("the type of a tensor")?);
        let offset = cursor.u64("the offset of a tensor")?;
        let overflow = || {
            cursor.malformed(
                at,
                &format!("the shape of tensor `{}`", excerpt(&name)),
                &format!("{shape:?}, which overflows"),
            )
        };
        let elements = elements_of(&shape).ok_or_else(overflow)?;
        // The file's first dimension is the row; the others count rows.
        let row = shape.first().copied().unwrap_or(1);
        let bytes = match (ggml_type.block_elements(), ggml_type.row_bytes(row)) {
            (None, _) => 0,
            (Some(block), None) => {
                return Err(cursor.malformed(
                    at,
                    &format!(
                        "rows of tensor `{}` in blocks of {block} ({})",
                        excerpt(&name),
                        ggml_type.name()
                    ),
                    &format!("rows of {row}"),
                ));
            }
            (Some(_), Some(row_bytes)) => {
                let n_rows = elements.checked_div(row as u64).unwrap_or(0);
                row_bytes.checked_mul(n_rows).ok_or_else(overflow)?
            }
        };
        shape.reverse();
        tensors.push(TensorInfo {
            name,
            shape,
            ggml_type,
            part: 0,
            offset,
            bytes,
        });
    }
    Ok(tensors)
}

/// Makes offsets absolute and proves that all tensors lie in the data section, aligned and apart from each other.
fn place(tensors: &mut [TensorInfo], data_start: u64, file_bytes: u64, file: &str, alignment: u64) -> Result<()> {
    for tensor in tensors.iter_mut() {
        if tensor.offset % alignment != 0 {
            return Err(FormatError::malformed(
                file,
                format!("the offset of tensor `{}`", excerpt(&tensor.name)),
                format!("a multiple of {alignment}"),
                tensor.offset.to_string(),
            ));
        }
        let outside = || FormatError::Truncated {
            file: file.to_owned(),
            what: format!("tensor `{}`", excerpt(&tensor.name)),
            offset: data_start.saturating_add(tensor.offset),
            needed: tensor.bytes,
            available: file_bytes,
        };
        let start = data_start.checked_add(tensor.offset).ok_or_else(outside)?;
        let end = start.checked_add(tensor.bytes).ok_or_else(outside)?;
        if end > file_bytes {
            return Err(outside());
        }
        tensor.offset = start;
    }
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_unstable_by_key(|&index| (tensors[index].offset, tensors[index].bytes));
    for (position, &index) in order.iter().enumerate() {
        let next = order.get(position + 1).map(|&next| &tensors[next]);
        let this = &tensors[index];
        if let Some(next) = next
            && this.offset + this.bytes > next.offset
        {
            return Err(FormatError::malformed(
                file,
                format!("tensor `{}`", excerpt(&next.name)),
                format!("data from offset {}", this.offset + this.bytes),
                format!("offset {}, inside tensor `{}`", next.offset, excerpt(&this.name)),
            ));
        }
        if matches!(this.ggml_type, GgmlType::Unknown(_)) {
            let end = next.map_or(file_bytes, |next| next.offset);
            tensors[index].bytes = end - tensors[index].offset;
        }
    }
    Ok(())
}
