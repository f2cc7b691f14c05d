//! A GGUF model as a source of weights: its matrices are trained on as they lie in the mapped file.
//!
//! Names are translated to those of Hugging Face. Files of the architecture `llama` hold the rows of q and k in the order of llama.cpp's rotation; they are read
//! in half-split order, row by row, so nothing is copied (see [`witness_formats::gguf::rows`]).

use std::ops::Range;
use std::sync::Arc;

use witness_formats::gguf::rows::{RowOrder, stored_order};
use witness_formats::gguf::{Gguf, TensorInfo, names};
use witness_formats::hf::DecoderConfig;
use witness_quantization::{Decode, decoder};

use super::{Rows, Stored, decode_all};
use crate::error::{Result, TrainingError};
use crate::parameters::WeightSource;

/// The weights of a GGUF model.
#[derive(Clone, Debug)]
pub struct GgufWeights {
    gguf: Arc<Gguf>,
    architecture: String,
    n_heads: usize,
    n_kv_heads: usize,
}

/// One tensor of a GGUF model, as rows.
#[derive(Debug)]
struct GgufRows {
    gguf: Arc<Gguf>,
    tensor: TensorInfo,
    decode: Decode,
    row_bytes: usize,
    /// In how many heads the rows lie interleaved.
    interleaved_heads: Option<usize>,
}

impl GgufWeights {
    /// Takes an opened model of an architecture that the decoder knows.
    pub fn new(gguf: Arc<Gguf>) -> Result<GgufWeights> {
        let config = DecoderConfig::from_gguf(&gguf)?;
        let architecture = gguf.architecture()?.to_owned();
        Ok(GgufWeights {
            gguf,
            architecture,
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
        })
    }

    fn rows(&self, name: &str) -> Result<Option<GgufRows>> {
        let stored_name = names::from_hf(&self.architecture, name).unwrap_or_else(|| name.to_owned());
        let Some(tensor) = self.gguf.tensor(&stored_name) else {
            return Ok(None);
        };
        let refuse = || {
            TrainingError::unsupported(
                format!(
                    "a model whose tensor `{stored_name}` is stored as {}",
                    tensor.ggml_type.name()
                ),
                "take the model in another quantization, such as Q8_0 or Q4_K_M",
            )
        };
        let decode = decoder(tensor.ggml_type).ok_or_else(refuse)?;
        let n_columns = tensor.shape.last().copied().unwrap_or(1);
        let row_bytes = tensor.ggml_type.row_bytes(n_columns).ok_or_else(refuse)? as usize;
        // Proves once that the bytes are there; `decode` asks again.
        self.gguf.tensor_data(tensor)?;
        let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
        let heads = match (stored_order(&self.architecture), module.rsplit('.').next()) {
            (RowOrder::Interleaved, Some("q_proj")) => Some(self.n_heads),
            (RowOrder::Interleaved, Some("k_proj")) => Some(self.n_kv_heads),
            _ => None,
        };
        let n_rows = tensor.shape.first().copied().unwrap_or(1);
        Ok(Some(GgufRows {
            gguf: self.gguf.clone(),
            tensor: tensor.clone(),
            decode,
            row_bytes,
            interleaved_heads: heads.filter(|heads| tensor.shape.len() == 2 && n_rows.is_multiple_of(2 * heads)),
        }))
    }
}

impl WeightSource for GgufWeights {
    fn weight(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>> {
        let Some(rows) = self.rows(name)? else { return Ok(None) };
        let shape = rows.tensor.shape.clone();
        if shape.len() == 1 {
            return Ok(Some((shape, rows.vector(self.heads_of_bias(name))?)));
        }
        Ok(Some((shape, decode_all(&rows))))
    }

    fn stored(&self, name: &str) -> Result<Option<Stored>> {
        let rows = self.rows(name)?.filter(|rows| rows.tensor.shape.len() == 2);
        Ok(rows.map(|rows| Arc::new(rows) as Stored))
    }
}

impl GgufWeights {
    /// Returns in how many heads the numbers of a bias lie interleaved.
    fn heads_of_bias(&self, name: &str) -> Option<usize> {
        match stored_order(&self.architecture) {
            RowOrder::Interleaved if name.ends_with(".q_proj.bias") => Some(self.n_heads),
            RowOrder::Interleaved if name.ends_with(".k_proj.bias") => Some(self.n_kv_heads),
            _ => None,
        }
    }
}

impl GgufRows {
    fn data(&self) -> Result<&[u8]> {
        Ok(self.gguf.tensor_data(&self.tensor)?)
    }

    /// Decodes a tensor of one dimension.
    fn vector(&self, interleaved_heads: Option<usize>) -> Result<Vec<f32>> {
        let mut stored = vec![0.0; self.tensor.shape.iter().product()];
        (self.decode)(self.data()?, &mut stored);
        let Some(n_heads) = interleaved_heads.filter(|heads| stored.len().is_multiple_of(2 * heads)) else {
            return Ok(stored);
        };
        let head_rows = stored.len() / n_heads;
        Ok((0..stored.len())
            .map(|row| stored[stored_row(row, head_rows)])
            .collect())
    }
}

/// Returns where the row of half-split order lies in interleaved order.
fn stored_row(row: usize, head_rows: usize) -> usize {
    let (head, row) = (row / head_rows, row % head_rows);
    let half = head_rows / 2;
    head * head_rows + 2 * (row % half) + row / half
}

impl Rows for GgufRows {
    fn n_rows(&self) -> usize {
        self.tensor.shape[0]
    }

    fn n_columns(&self) -> usize {
        self.tensor.shape[1]
    }

    fn decode(&self, rows: Range<usize>, out: &mut [f32]) {
        // The data was there when the tensor was found, and the mapping lives as long as `gguf`.
        let data = self.data().unwrap_or_default();
        match self.interleaved_heads {
            None => (self.decode)(&data[rows.start * self.row_bytes..rows.end * self.row_bytes], out),
            Some(n_heads) => {
                let head_rows = self.n_rows() / n_heads;
                assert_eq!(out.len(), rows.len() * self.n_columns());
                for (row, out) in rows.zip(out.chunks_exact_mut(self.n_columns())) {
                    let at = stored_row(row, head_rows) * self.row_bytes;
                    (self.decode)(&data[at..at + self.row_bytes], out);
                }
            }
        }
    }

    fn bytes(&self) -> usize {
        self.tensor.bytes as usize
    }
}
