//! `model.safetensors.index.json`: which shard holds which tensor.
//!
//! **Invariant:** every shard it names is a plain name that the set of files has; a path that leaves the directory is refused.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{INDEX_BYTES_MAX, NAME_BYTES_MAX, SHARDS_MAX, TENSORS_MAX};
use crate::{
    FileSet, FormatError, Result,
    error::excerpt,
    files::{check_name, is_pickle},
};

/// Tensor name to shard name.
#[derive(Debug, Deserialize)]
pub(super) struct Index {
    pub(super) weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Reads an index and checks every name in it.
    pub(super) fn read(files: &FileSet, name: &str) -> Result<Index> {
        let shown = format!("{}/{name}", files.label());
        let bytes = files.read(name, INDEX_BYTES_MAX)?;
        let index: Index = serde_json::from_slice(&bytes).map_err(|error| {
            FormatError::malformed(
                &shown,
                format!("line {} column {}", error.line(), error.column()),
                "an object with `weight_map`",
                excerpt(&error.to_string()),
            )
        })?;
        if index.weight_map.is_empty() || index.weight_map.len() > TENSORS_MAX {
            return Err(FormatError::limit(
                &shown,
                "the number of tensors",
                index.weight_map.len(),
                TENSORS_MAX as u64,
            ));
        }
        for (tensor, shard) in &index.weight_map {
            if tensor.is_empty() || tensor.len() > NAME_BYTES_MAX {
                return Err(FormatError::limit(
                    &shown,
                    "the length of a tensor name",
                    tensor.len(),
                    NAME_BYTES_MAX as u64,
                ));
            }
            if is_pickle(shard) {
                return Err(FormatError::Pickle {
                    file: format!("{}/{}", files.label(), excerpt(shard)),
                });
            }
            if check_name(shard).is_err() || !shard.ends_with(".safetensors") {
                return Err(FormatError::malformed(
                    &shown,
                    format!("`weight_map`, tensor `{}`", excerpt(tensor)),
                    "the name of a .safetensors file in the same directory",
                    format!("`{}`", excerpt(shard)),
                ));
            }
        }
        Ok(index)
    }

    /// Returns the names of all shards, sorted, each once.
    pub(super) fn shards(&self, shown: &str) -> Result<Vec<&str>> {
        let mut shards: Vec<&str> = self.weight_map.values().map(String::as_str).collect();
        shards.sort_unstable();
        shards.dedup();
        if shards.len() > SHARDS_MAX {
            return Err(FormatError::limit(
                shown,
                "the number of shards",
                shards.len(),
                SHARDS_MAX as u64,
            ));
        }
        Ok(shards)
    }
}
