//! Weights as safetensors files of a bounded size, with the index that says which tensor lies where.

use std::{collections::BTreeMap, io::Write};

use serde_json::json;
use witness_formats::{Dtype, safetensors::Writer};

use crate::{
    Result,
    hf::pretty,
    tensor::encode_dense,
    weights::{Described, Weights},
};

const CHUNK_BYTES: usize = 8 << 20;

/// One file of weights: its name, and its tensors with the type they are written in.
#[derive(Clone, Debug)]
pub struct Shard {
    /// `model.safetensors`, or `model-00001-of-00003.safetensors`.
    pub file: String,
    /// The tensors, in the order of the file.
    pub tensors: Vec<(String, Described)>,
}

impl Shard {
    /// Divides weights into files of at most `bytes_max`, each with at least one tensor. `dtype` is the type of all matrices; nothing keeps
    /// each tensor's own. Vectors of a GGUF file are F32 whatever its matrices are, so with a type they take it too.
    ///
    /// Returns the files, and the text of `model.safetensors.index.json` when there is more than one.
    pub fn divide(weights: &dyn Weights, dtype: Option<Dtype>, bytes_max: u64) -> Result<(Vec<Shard>, Option<String>)> {
        let mut groups: Vec<Vec<(String, Described)>> = vec![Vec::new()];
        let (mut in_group, mut total) = (0u64, 0u64);
        for name in weights.names() {
            let mut described = weights.require(&name)?;
            described.dtype = dtype.unwrap_or(described.dtype);
            let bytes = described.n_rows() as u64 * described.row_bytes() as u64;
            if in_group > 0 && in_group.saturating_add(bytes) > bytes_max {
                groups.push(Vec::new());
                in_group = 0;
            }
            in_group += bytes;
            total += bytes;
            if let Some(group) = groups.last_mut() {
                group.push((name, described));
            }
        }
        let count = groups.len();
        let file = |place: usize| match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", place + 1),
        };
        let shards: Vec<Shard> = groups
            .into_iter()
            .enumerate()
            .map(|(place, tensors)| Shard {
                file: file(place),
                tensors,
            })
            .collect();
        if count == 1 {
            return Ok((shards, None));
        }
        let map: BTreeMap<&str, &str> = shards
            .iter()
            .flat_map(|shard| {
                shard
                    .tensors
                    .iter()
                    .map(|(name, _)| (name.as_str(), shard.file.as_str()))
            })
            .collect();
        let index = pretty(&json!({"metadata": {"total_size": total}, "weight_map": map}));
        Ok((shards, Some(index)))
    }

    /// Writes one file. Holds a few megabytes at a time.
    pub fn write<W: Write>(&self, weights: &dyn Weights, sink: W) -> Result<W> {
        let mut writer = Writer::new();
        writer.metadata("format", "pt");
        for (name, described) in &self.tensors {
            writer.tensor(name, described.dtype, &described.shape)?;
        }
        let mut body = writer.begin(sink)?;
        for (name, described) in &self.tensors {
            let stored = weights.require(name)?;
            let step = (CHUNK_BYTES / stored.row_bytes().max(1)).max(1);
            for start in (0..stored.n_rows()).step_by(step) {
                let rows = start..(start + step).min(stored.n_rows());
                if stored.dtype == described.dtype {
                    body.write(&weights.rows(name, rows)?)?;
                } else {
                    body.write(&encode_dense(described.dtype, &weights.rows_f32(name, rows)?))?;
                }
            }
        }
        Ok(body.finish()?)
    }
}

/// Writes all weights; `create` opens the file of a name. Returns the text of `model.safetensors.index.json` when there is more than one file.
pub fn write_shards<W: Write>(
    weights: &dyn Weights,
    dtype: Option<Dtype>,
    bytes_max: u64,
    mut create: impl FnMut(&str) -> std::io::Result<W>,
) -> Result<Option<String>> {
    let (shards, index) = Shard::divide(weights, dtype, bytes_max)?;
    for shard in shards {
        let sink = create(&shard.file).map_err(|source| witness_formats::FormatError::Io {
            file: shard.file.clone(),
            action: "create",
            source,
        })?;
        shard.write(weights, sink)?;
    }
    Ok(index)
}
