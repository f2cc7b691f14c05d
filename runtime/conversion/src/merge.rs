//! An adapter merged into its base, as weights that are computed when they are read: merge, convert and quantize in one pass over the base.
//!
//! The arithmetic is that of PEFT's `merge_and_unload()` on a CPU, which loads adapters of any type as F32. In F32, in this order:
//!
//! - LoRA: `W + (B @ A) * scale`, rounded to the type of W. The scale is rounded to F32 first.
//! - DoRA: `m / |W + D| * (W + D)` with `D = (B @ A) * scale`, the length being that of each row.
//! - An embedding: `W + transpose(B @ A) * scale`. A bias of B: `bias + b * scale`.
//! - Replaced modules (`modules_to_save`) and trained biases: the adapter's numbers in the type of the base.
//!
//! Sums over the rank may be taken in another order than torch's, so results may differ from its by the rounding of such a sum.
//!
//! Where the base ties its output to its embedding, a change to either unties them: `lm_head.weight` appears. PEFT's merge adds in place to the
//! one matrix that both share, so that a change meant for one also reaches the other, and its merged model then differs from its unmerged one.
//! Here the merge is what the adapter does.
//!
//! Cost: a row costs `rank * in` multiplications and additions, and A is decoded once for each range of rows; ask for large ranges.

use std::{borrow::Cow, collections::BTreeMap, ops::Range, sync::Arc};

use witness_formats::{
    TensorRef,
    adapter::{Adapter, BaseShape, Heads, LoraKind, LoraPair, SavedModule},
    decode_f32,
    gguf::rows::RowOrder,
};

use crate::{
    ConversionError, Result,
    tensor::encode_dense,
    weights::{Described, Weights, cut},
};

const EMBEDDING: &str = "model.embed_tokens";
const OUTPUT: &str = "lm_head";

/// A base with an adapter merged into it, under the base's Hugging Face names.
pub struct Merged {
    base: Arc<dyn Weights>,
    label: String,
    pairs: BTreeMap<String, LoraPair>,
    saved: BTreeMap<String, SavedModule>,
    /// The base has one matrix for embedding and output, and the adapter changes either.
    unties: bool,
}

impl Merged {
    /// Proves that the adapter fits and takes both. `base` has Hugging Face names and row order; `heads` are the base's.
    pub fn new(base: Arc<dyn Weights>, adapter: Adapter, heads: Heads) -> Result<Merged> {
        let mut shape = BaseShape::new(base.label());
        let names = base.names();
        for name in &names {
            if let (Some(module), Some(described)) = (name.strip_suffix(".weight"), base.describe(name))
                && let &[rows, columns] = described.shape.as_slice()
            {
                shape.insert(module, rows, columns);
            }
        }
        let is_tied = base.describe("lm_head.weight").is_none();
        if let (true, Some(embedding)) = (is_tied, base.describe("model.embed_tokens.weight")) {
            shape.insert(OUTPUT, embedding.n_rows(), embedding.row_elements());
        }
        adapter.check_against(&shape)?;
        let adapter = adapter.in_row_order(RowOrder::Halves, heads)?;
        let pairs: BTreeMap<String, LoraPair> = adapter
            .pairs()
            .iter()
            .map(|pair| (pair.module.clone(), pair.clone()))
            .collect();
        let saved: BTreeMap<String, SavedModule> = adapter
            .saved()
            .iter()
            .map(|saved| (saved.module.clone(), saved.clone()))
            .collect();
        let changes = |module: &str| pairs.contains_key(module) || saved.contains_key(module);
        let merged = Merged {
            label: format!("{} merged into {}", adapter.label(), base.label()),
            unties: is_tied && (changes(EMBEDDING) || changes(OUTPUT)),
            base,
            pairs,
            saved,
        };
        merged.check_biases()?;
        Ok(merged)
    }

    /// Says whether the result has an output of its own where the base had not: `tie_word_embeddings` of its configuration is then false.
    pub fn unties_embedding(&self) -> bool {
        self.unties
    }

    /// A bias of B, or a trained bias, needs a bias of the base to go to.
    fn check_biases(&self) -> Result<()> {
        let of_pairs = self
            .pairs
            .values()
            .filter(|pair| pair.b_bias.is_some())
            .map(|pair| &pair.module);
        let of_saved = self
            .saved
            .values()
            .filter(|saved| saved.bias.is_some())
            .map(|saved| &saved.module);
        for module in of_pairs.chain(of_saved) {
            let name = format!("{module}.bias");
            if self.base.describe(&name).is_none() {
                return Err(ConversionError::unsupported(
                    &self.label,
                    format!("the adapter has a bias for `{module}`, and the base has no tensor `{name}` to add it to"),
                    "serve the adapter beside its base instead of merging it",
                ));
            }
        }
        Ok(())
    }

    /// Returns the name under which the base keeps a tensor.
    fn base_name<'a>(&self, name: &'a str) -> &'a str {
        if self.unties && name == "lm_head.weight" {
            "model.embed_tokens.weight"
        } else {
            name
        }
    }

    fn weight(&self, pair: &LoraPair, described: &Described, base: Vec<f32>, rows: Range<usize>) -> Result<Vec<f32>> {
        let columns = described.row_elements();
        let mut values = base;
        let change = Change::read(pair, rows.clone())?;
        let magnitude = pair.magnitude.as_ref().map(TensorRef::to_f32).transpose()?;
        let mut delta = vec![0f32; columns];
        for (place, row) in values.chunks_exact_mut(columns.max(1)).enumerate() {
            change.row(place, rows.start + place, &mut delta);
            for (value, delta) in row.iter_mut().zip(&delta) {
                *value += delta;
            }
            if let Some(magnitude) = &magnitude {
                let length = row
                    .iter()
                    .map(|value| f64::from(*value) * f64::from(*value))
                    .sum::<f64>()
                    .sqrt() as f32;
                let factor = magnitude.get(rows.start + place).copied().unwrap_or(1.0) / length;
                for value in row {
                    *value *= factor;
                }
            }
        }
        Ok(values)
    }
}

/// The low-rank change to some rows: A whole, and what multiplies it in each row.
struct Change<'a> {
    pair: &'a LoraPair,
    a: Vec<f32>,
    b: Vec<f32>,
    scale: f32,
}

impl Change<'_> {
    fn read(pair: &LoraPair, rows: Range<usize>) -> Result<Change<'_>> {
        let part = |tensor: &TensorRef| -> Result<Vec<f32>> {
            let described = Described {
                dtype: tensor.dtype(),
                shape: tensor.shape().to_vec(),
            };
            let bytes = cut("the adapter", &pair.module, &described, tensor.bytes(), rows.clone())?;
            Ok(decode_f32(tensor.dtype(), bytes)?)
        };
        // The rows of an embedding are columns of A, and every row needs all of B.
        let b = match pair.kind {
            LoraKind::Linear => part(&pair.b)?,
            LoraKind::Embedding => pair.b.to_f32()?,
        };
        Ok(Change {
            pair,
            a: pair.a.to_f32()?,
            b,
            scale: pair.scale as f32,
        })
    }

    /// Writes the change to one row: `place` counts from the first row that was read, `row` from the first of the matrix.
    fn row(&self, place: usize, row: usize, delta: &mut [f32]) {
        let rank = self.pair.rank;
        delta.fill(0.0);
        match self.pair.kind {
            LoraKind::Linear => {
                let columns = delta.len();
                for (factor, a) in self.b[place * rank..(place + 1) * rank]
                    .iter()
                    .zip(self.a.chunks_exact(columns.max(1)))
                {
                    for (sum, value) in delta.iter_mut().zip(a) {
                        *sum += factor * value;
                    }
                }
            }
            LoraKind::Embedding => {
                let n_tokens = self.a.len() / rank.max(1);
                for (sum, b) in delta.iter_mut().zip(self.b.chunks_exact(rank.max(1))) {
                    *sum = b
                        .iter()
                        .enumerate()
                        .map(|(k, factor)| factor * self.a[k * n_tokens + row])
                        .sum();
                }
            }
        }
        for value in delta {
            *value *= self.scale;
        }
    }
}

impl Weights for Merged {
    fn label(&self) -> &str {
        &self.label
    }

    fn names(&self) -> Vec<String> {
        let mut names = self.base.names();
        if self.unties {
            names.push("lm_head.weight".to_owned());
            names.sort_unstable();
        }
        names
    }

    fn describe(&self, name: &str) -> Option<Described> {
        self.base.describe(self.base_name(name))
    }

    fn release(&self, name: &str, rows: Range<usize>) {
        self.base.release(self.base_name(name), rows);
    }

    fn rows(&self, name: &str, rows: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let base_name = self.base_name(name);
        let (module, part) = name.rsplit_once('.').unwrap_or((name, ""));
        let saved = self.saved.get(module).and_then(|saved| {
            if part == "bias" {
                saved.bias.as_ref()
            } else {
                saved.weight.as_ref()
            }
        });
        let pair = self
            .pairs
            .get(module)
            .filter(|pair| part == "weight" || pair.b_bias.is_some());
        if saved.is_none() && pair.is_none() {
            return self.base.rows(base_name, rows);
        }
        let described = self.base.require(base_name)?;
        let values = match saved {
            Some(tensor) => {
                let stored = Described {
                    dtype: tensor.dtype(),
                    shape: tensor.shape().to_vec(),
                };
                decode_f32(
                    tensor.dtype(),
                    cut(&self.label, name, &stored, tensor.bytes(), rows.clone())?,
                )?
            }
            None => self.base.rows_f32(base_name, rows.clone())?,
        };
        let values = match pair {
            None => values,
            Some(pair) if part == "weight" => self.weight(pair, &described, values, rows)?,
            Some(pair) => {
                let change = pair
                    .b_bias
                    .as_ref()
                    .map(TensorRef::to_f32)
                    .transpose()?
                    .unwrap_or_default();
                let change = change.get(rows).unwrap_or_default();
                values
                    .iter()
                    .zip(change)
                    .map(|(value, change)| value + change * pair.scale as f32)
                    .collect()
            }
        };
        Ok(Cow::Owned(encode_dense(described.dtype, &values)))
    }
}
