//! Opening safetensors: the heads are proven, the data is left where it lies.
//!
//! Cost: one pass over the JSON heads; about 150 bytes per tensor.

use std::{collections::BTreeMap, path::Path};

use super::{
    HEADER_BYTES_MAX,
    header::{Entry, Header},
    index::Index,
};
use crate::{Dtype, FileSet, FormatError, Mmap, Result, TensorRef, error::excerpt, files, tensor::bytes_of};

/// All tensors of one model: from one file or from shards.
#[derive(Clone, Debug)]
pub struct SafeTensors {
    label: String,
    tensors: BTreeMap<String, TensorRef>,
    metadata: BTreeMap<String, String>,
    bytes: u64,
}

impl SafeTensors {
    /// Opens the weights of a model directory: by `model.safetensors.index.json`, else `model.safetensors`, else the only file of the format.
    pub fn open(files: &FileSet) -> Result<SafeTensors> {
        const INDEX: &str = "model.safetensors.index.json";
        const SINGLE: &str = "model.safetensors";
        if files.get(INDEX).is_some() {
            return SafeTensors::open_sharded(files, INDEX);
        }
        if files.get(SINGLE).is_some() {
            return SafeTensors::open_one(files, SINGLE);
        }
        let named: Vec<&str> = files
            .iter()
            .map(|(name, _)| name)
            .filter(|name| name.ends_with(".safetensors"))
            .collect();
        match named.as_slice() {
            [] => Err(files.no_weights("weights in safetensors form")),
            [only] => SafeTensors::open_one(files, only),
            [first, ..] => Err(FormatError::Missing {
                file: files.label().to_owned(),
                what: format!("file `{INDEX}`, which {} files such as `{first}` need", named.len()),
                hint: Some("fetch the index that belongs to the shards".to_owned()),
            }),
        }
    }

    /// Opens one file of a set by its name.
    pub fn open_one(files: &FileSet, name: &str) -> Result<SafeTensors> {
        let path = files.require(name)?;
        SafeTensors::open_labelled(path, format!("{}/{name}", files.label()))
    }

    /// Opens one file.
    pub fn open_file(path: &Path) -> Result<SafeTensors> {
        SafeTensors::open_labelled(path, path.display().to_string())
    }

    fn open_labelled(path: &Path, label: String) -> Result<SafeTensors> {
        if files::is_pickle(&label) {
            return Err(FormatError::Pickle { file: label });
        }
        let bytes = Mmap::open(path)?;
        let (tensors, metadata) = parse(&bytes, &label)?;
        Ok(SafeTensors {
            tensors,
            metadata,
            bytes: bytes.len() as u64,
            label,
        })
    }

    fn open_sharded(files: &FileSet, index_name: &str) -> Result<SafeTensors> {
        let shown = format!("{}/{index_name}", files.label());
        let index = Index::read(files, index_name)?;
        let mut all = SafeTensors {
            label: files.label().to_owned(),
            tensors: BTreeMap::new(),
            metadata: BTreeMap::new(),
            bytes: 0,
        };
        for shard in index.shards(&shown)? {
            let opened = SafeTensors::open_one(files, shard)?;
            all.bytes = all.bytes.saturating_add(opened.bytes);
            all.metadata.extend(opened.metadata);
            for (name, tensor) in opened.tensors {
                let told = index.weight_map.get(&name).map(String::as_str);
                if told != Some(shard) {
                    return Err(FormatError::malformed(
                        &shown,
                        format!("tensor `{}`", excerpt(&name)),
                        format!("`{shard}`, which holds it"),
                        told.map_or_else(|| "nothing".to_owned(), |told| format!("`{}`", excerpt(told))),
                    ));
                }
                all.tensors.insert(name, tensor);
            }
        }
        if let Some((absent, shard)) = index
            .weight_map
            .iter()
            .find(|(name, _)| !all.tensors.contains_key(*name))
        {
            return Err(FormatError::missing(
                format!("{}/{shard}", files.label()),
                format!("tensor `{}`, which `{index_name}` places there", excerpt(absent)),
            ));
        }
        Ok(all)
    }

    /// Returns what errors call these weights.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Returns all tensors, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TensorRef)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Returns a tensor by name.
    pub fn tensor(&self, name: &str) -> Option<&TensorRef> {
        self.tensors.get(name)
    }

    /// Returns a tensor that must be there.
    pub fn require(&self, name: &str) -> Result<&TensorRef> {
        self.tensor(name)
            .ok_or_else(|| FormatError::missing(self.label.clone(), format!("tensor `{name}`")))
    }

    /// Returns the free text that the files carry beside the tensors, such as `format: pt`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Returns the number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Says whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Returns the length of all files together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

type Parsed = (BTreeMap<String, TensorRef>, BTreeMap<String, String>);

/// Proves one file's head and maps its tensors.
fn parse(file: &Mmap, label: &str) -> Result<Parsed> {
    let truncated = |what: &str, offset: u64, needed: u64| FormatError::Truncated {
        file: label.to_owned(),
        what: what.to_owned(),
        offset,
        needed,
        available: file.len() as u64,
    };
    let length = file.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    let length = length.ok_or_else(|| truncated("the length of the head", 0, 8))?;
    if length > HEADER_BYTES_MAX {
        return Err(FormatError::limit(
            label,
            "the length of the head in bytes",
            length,
            HEADER_BYTES_MAX,
        ));
    }
    let data_start = 8 + length as usize;
    let head = file
        .get(8..data_start)
        .ok_or_else(|| truncated("the head", 8, length))?;
    if head.first() != Some(&b'{') {
        return Err(FormatError::malformed(
            label,
            "offset 8",
            "`{`, the start of the head",
            "another byte",
        ));
    }
    let header: Header = serde_json::from_slice(head).map_err(|error| {
        FormatError::malformed(
            label,
            format!("the head, line {} column {}", error.line(), error.column()),
            "an object of tensors, each with `dtype`, `shape` and `data_offsets`",
            excerpt(&error.to_string()),
        )
    })?;
    let mut order: Vec<(u64, u64, usize)> = Vec::with_capacity(header.tensors.len());
    for (number, (_, entry)) in header.tensors.iter().enumerate() {
        order.push((entry.data_offsets[0], entry.data_offsets[1], number));
    }
    order.sort_unstable();
    let data_bytes = (file.len() - data_start) as u64;
    let mut at = 0;
    for &(begin, end, number) in &order {
        let name = &header.tensors[number].0;
        if begin != at || end < begin {
            return Err(FormatError::malformed(
                label,
                format!("the offsets of tensor `{}`", excerpt(name)),
                format!("a start at {at}, where the tensor before it ends"),
                format!("{begin} to {end}"),
            ));
        }
        if end > data_bytes {
            return Err(truncated(
                &format!("tensor `{}`", excerpt(name)),
                data_start as u64 + begin,
                end - begin,
            ));
        }
        at = end;
    }
    if at != data_bytes {
        return Err(FormatError::malformed(
            label,
            "the end of the file",
            format!("{at} bytes of data, as the head says"),
            format!("{data_bytes}"),
        ));
    }
    let mut tensors = BTreeMap::new();
    for (name, entry) in header.tensors {
        let tensor = tensor(file, data_start, &name, &entry, label)?;
        if tensors.contains_key(&name) {
            return Err(FormatError::malformed(
                label,
                "the head",
                "every tensor once",
                format!("`{}` twice", excerpt(&name)),
            ));
        }
        tensors.insert(name, tensor);
    }
    Ok((tensors, header.metadata))
}

/// Proves one record; its offsets are known to lie in the data.
fn tensor(file: &Mmap, data_start: usize, name: &str, entry: &Entry, label: &str) -> Result<TensorRef> {
    let dtype = Dtype::from_name(&entry.dtype).ok_or_else(|| {
        FormatError::malformed(
            label,
            format!("the type of tensor `{}`", excerpt(name)),
            "a type of the safetensors format",
            format!("`{}`", excerpt(&entry.dtype)),
        )
    })?;
    let [begin, end] = entry.data_offsets;
    let shape = &entry.shape.0;
    let needed = bytes_of(dtype, shape);
    let built = usize::try_from(begin)
        .ok()
        .zip(usize::try_from(end).ok())
        .and_then(|(begin, end)| {
            TensorRef::mapped(
                dtype,
                shape,
                file,
                data_start.checked_add(begin)?..data_start.checked_add(end)?,
            )
        });
    built.ok_or_else(|| {
        FormatError::malformed(
            label,
            format!("tensor `{}`", excerpt(name)),
            match needed {
                Some(needed) => format!("{needed} bytes for {} of shape {shape:?}", dtype.name()),
                None => format!("a shape whose size can be represented, not {shape:?}"),
            },
            format!("{} bytes", end - begin),
        )
    })
}
