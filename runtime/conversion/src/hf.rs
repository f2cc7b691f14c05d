//! A GGUF file as a Hugging Face directory: the tensors under their other names and in the other order, and the files that describe them.
//!
//! The numbers come back bit for bit from a dense file, but for Gemma's norms: GGUF stores `1 + w` in F32, where the last bits of a small `w` are lost.
//! What the two forms do not share (fill values of dropout, how weights were first drawn) is left to transformers' defaults.

mod config;
mod rope;
mod tokenizer;
mod write;

pub use write::{Shard, write_shards};

use std::{borrow::Cow, ops::Range, sync::Arc};

use serde_json::{Value, json};
use witness_formats::{
    Dtype, decode_f32,
    gguf::{
        Gguf, names,
        rows::{RowOrder, source_row, stored_order},
    },
};

use crate::{
    ConversionError, Family, Result,
    error::excerpt,
    tensor::encode_dense,
    weights::{Decode, Described, GgufWeights, Weights, cut},
};

/// Tensors that stand for settings of the configuration.
const MADE: [&str; 3] = [
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
];

/// A Hugging Face directory before it is written.
pub struct HfPlan {
    /// Which family the model is of.
    pub family: Family,
    /// The small files, by name: config.json, generation_config.json, tokenizer.json, tokenizer_config.json, chat templates.
    pub files: Vec<(String, String)>,
    /// The tensors under their Hugging Face names; write them with [`write_shards`].
    pub weights: Arc<dyn Weights>,
    /// Query heads, and key and value heads: what adapters need.
    pub heads: (usize, usize),
}

impl HfPlan {
    /// Plans the conversion of a GGUF model; `decode` makes numbers of its quantized rows.
    pub fn from_gguf(gguf: Gguf, decode: Box<Decode>) -> Result<HfPlan> {
        let family = config::family(&gguf)?;
        let heads = config::heads(&gguf)?;
        let config = config::read(&gguf, family)?;
        let mut files = vec![("config.json".to_owned(), pretty(&config))];
        files.push((
            "generation_config.json".to_owned(),
            pretty(&config::generation(&gguf, &config)?),
        ));
        files.extend(tokenizer::files(&gguf)?);
        Ok(HfPlan {
            family,
            files,
            heads,
            weights: Arc::new(HfView::new(GgufWeights::new(gguf, decode), family, heads)?),
        })
    }

    /// Replaces the weights, such as by a merge over [`HfPlan::weights`]. `is_tied` is what the configuration then says of the output.
    pub fn with_weights(mut self, weights: Arc<dyn Weights>, is_tied: bool) -> HfPlan {
        for (name, text) in &mut self.files {
            if name == "config.json"
                && let Ok(Value::Object(mut map)) = serde_json::from_str(text)
            {
                map.insert("tie_word_embeddings".to_owned(), json!(is_tied));
                *text = pretty(&Value::Object(map));
            }
        }
        self.weights = weights;
        self
    }
}

pub(crate) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// A GGUF model's tensors under their Hugging Face names.
pub(crate) struct HfView {
    inner: GgufWeights,
    family: Family,
    heads: (usize, usize),
    /// Hugging Face name, GGUF name.
    names: std::collections::BTreeMap<String, String>,
}

impl HfView {
    pub(crate) fn new(inner: GgufWeights, family: Family, heads: (usize, usize)) -> Result<HfView> {
        let mut view = HfView {
            names: std::collections::BTreeMap::new(),
            inner,
            family,
            heads,
        };
        for name in view.inner.names() {
            if MADE.contains(&name.as_str()) {
                continue;
            }
            let hf = names::to_hf(family.architecture(), &name).ok_or_else(|| {
                ConversionError::unsupported(
                    view.inner.label(),
                    format!(
                        "tensor `{}` has no place in a model of type `{}`",
                        excerpt(&name),
                        family.model_type()
                    ),
                    "use the file as it is",
                )
            })?;
            view.names.insert(hf, name);
        }
        Ok(view)
    }

    /// Returns the rows of a head where rows are turned in pairs and the file has them in another order.
    fn head_rows(&self, name: &str, described: &Described) -> Option<usize> {
        let n_heads = match name.rsplit('.').nth(1)? {
            "q_proj" => self.heads.0,
            "k_proj" => self.heads.1,
            _ => return None,
        };
        let rows = described.n_rows().checked_div(n_heads)?;
        let is_turned = stored_order(self.family.architecture()) == RowOrder::Interleaved;
        (is_turned && rows > 0 && rows.is_multiple_of(2) && described.n_rows().is_multiple_of(rows)).then_some(rows)
    }
}

impl Weights for HfView {
    fn label(&self) -> &str {
        self.inner.label()
    }

    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn describe(&self, name: &str) -> Option<Described> {
        self.inner.describe(self.names.get(name)?)
    }

    fn release(&self, name: &str, rows: Range<usize>) {
        if let Some(stored) = self.names.get(name) {
            self.inner.release(stored, rows);
        }
    }

    fn rows(&self, name: &str, rows: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let described = self.require(name)?;
        let stored = self.names.get(name).map(String::as_str).unwrap_or_default();
        if let Some(head_rows) = self.head_rows(name, &described) {
            if rows.start > rows.end || rows.end > described.n_rows() {
                return Err(ConversionError::tensor(
                    self.label(),
                    name,
                    format!("rows {rows:?}"),
                    format!("{} rows", described.n_rows()),
                ));
            }
            let first = rows.start - rows.start % head_rows;
            let heads = self.inner.rows(stored, first..rows.end.next_multiple_of(head_rows))?;
            let mut out = Vec::with_capacity(rows.len() * described.row_bytes());
            for row in rows {
                let from = source_row(row, head_rows, RowOrder::Halves) - first;
                out.extend_from_slice(cut(self.label(), name, &described, &heads, from..from + 1)?);
            }
            return Ok(Cow::Owned(out));
        }
        let bytes = self.inner.rows(stored, rows)?;
        if self.family.norm_shift() == 0.0 || !name.ends_with("norm.weight") || described.dtype != Dtype::F32 {
            return Ok(bytes);
        }
        let values: Vec<f32> = decode_f32(Dtype::F32, &bytes)?
            .iter()
            .map(|value| value - self.family.norm_shift())
            .collect();
        Ok(Cow::Owned(encode_dense(Dtype::F32, &values)))
    }
}
