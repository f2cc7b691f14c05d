//! A decoder in f64, one sequence, no cache, no batching, one loop a line of the definition.

use std::collections::BTreeMap;

/// Row-major f64 tensors by parameter name.
pub(crate) type Weights = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

/// Shape and switches of a model, as the reference reads them.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) n_layers: usize,
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) epsilon: f64,
    pub(crate) windows: Vec<Option<usize>>,
    /// One frequency a pair.
    pub(crate) frequencies: Vec<f64>,
    pub(crate) attention_factor: f64,
}

/// One low-rank pair: `y += scale * B (A x)`; with DoRA each row of `W + scale * B A` then has the length `magnitude`.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) rank: usize,
    pub(crate) scale: f64,
    pub(crate) a: Vec<f64>,
    pub(crate) b: Vec<f64>,
    pub(crate) magnitude: Option<Vec<f64>>,
}

/// What an adapter does, by module name; replacements by parameter name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deltas {
    pub(crate) pairs: BTreeMap<String, Pair>,
    pub(crate) replaced: Weights,
}

struct Run<'a> {
    shape: &'a Shape,
    weights: &'a Weights,
    deltas: &'a Deltas,
}

/// Returns the logits of every position.
pub(crate) fn logits(shape: &Shape, weights: &Weights, tokens: &[u32], deltas: &Deltas) -> Vec<Vec<f64>> {
    Run { shape, weights, deltas }.logits(tokens)
}

fn product(matrix: &[f64], x: &[f64]) -> Vec<f64> {
    matrix
        .chunks_exact(x.len())
        .map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum())
        .collect()
}

impl Run<'_> {
    fn parameter(&self, name: &str) -> Option<&Vec<f64>> {
        self.deltas
            .replaced
            .get(name)
            .or_else(|| self.weights.get(name))
            .map(|(_, values)| values)
    }

    fn linear(&self, module: &str, x: &[f64]) -> Vec<f64> {
        let weight = self.parameter(&format!("{module}.weight"));
        let tied = || self.weights["model.embed_tokens.weight"].1.clone();
        let weight = weight.cloned().unwrap_or_else(tied);
        let mut y = product(&weight, x);
        if let Some(pair) = self.deltas.pairs.get(module) {
            let low = product(&pair.a, x);
            assert_eq!(low.len(), pair.rank);
            y.iter_mut()
                .zip(product(&pair.b, &low))
                .for_each(|(y, d)| *y += pair.scale * d);
            if let Some(magnitude) = &pair.magnitude {
                for (row, y) in y.iter_mut().enumerate() {
                    let changed = (0..x.len()).map(|column| {
                        let change =
                            (0..pair.rank).map(|rank| pair.b[row * pair.rank + rank] * pair.a[rank * x.len() + column]);
                        weight[row * x.len() + column] + pair.scale * change.sum::<f64>()
                    });
                    let length = changed.map(|value| value * value).sum::<f64>().sqrt();
                    *y *= magnitude[row] / length;
                }
            }
        }
        if let Some(bias) = self.parameter(&format!("{module}.bias")) {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
        y
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let weight = self.parameter(&format!("{name}.weight")).expect("a norm has a weight");
        let mean_square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let root = (mean_square + self.shape.epsilon).sqrt();
        x.iter().zip(weight).map(|(x, w)| x / root * w).collect()
    }

    fn embed(&self, token: usize) -> Vec<f64> {
        let table = self.parameter("model.embed_tokens.weight").expect("an embedding");
        let shape = &self.weights["model.embed_tokens.weight"].0;
        let (vocab, width) = (shape[0], shape[1]);
        let mut x = table[token * width..(token + 1) * width].to_vec();
        if let Some(pair) = self.deltas.pairs.get("model.embed_tokens") {
            let low: Vec<f64> = (0..pair.rank).map(|rank| pair.a[rank * vocab + token]).collect();
            x.iter_mut()
                .zip(product(&pair.b, &low))
                .for_each(|(x, d)| *x += pair.scale * d);
        }
        x
    }

    fn rotate(&self, heads: &mut [f64], position: usize) {
        let half = self.shape.head_dim / 2;
        for head in heads.chunks_exact_mut(self.shape.head_dim) {
            for pair in 0..half {
                let (sin, cos) = (position as f64 * self.shape.frequencies[pair]).sin_cos();
                let (sin, cos) = (sin * self.shape.attention_factor, cos * self.shape.attention_factor);
                let (a, b) = (head[pair], head[pair + half]);
                head[pair] = a * cos - b * sin;
                head[pair + half] = a * sin + b * cos;
            }
        }
    }

    fn attention(&self, layer: usize, xs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let Shape {
            n_heads,
            n_kv_heads,
            head_dim,
            ..
        } = *self.shape;
        let module = |name: &str| format!("model.layers.{layer}.self_attn.{name}");
        let rotated = |name: &str| -> Vec<Vec<f64>> {
            xs.iter()
                .enumerate()
                .map(|(position, x)| {
                    let mut heads = self.linear(&module(name), x);
                    self.rotate(&mut heads, position);
                    heads
                })
                .collect()
        };
        let (queries, keys) = (rotated("q_proj"), rotated("k_proj"));
        let values: Vec<Vec<f64>> = xs.iter().map(|x| self.linear(&module("v_proj"), x)).collect();
        (0..xs.len())
            .map(|position| {
                let mut mixed = vec![0.0; n_heads * head_dim];
                for head in 0..n_heads {
                    let kv = head / (n_heads / n_kv_heads) * head_dim;
                    let q = &queries[position][head * head_dim..(head + 1) * head_dim];
                    let visible = (0..=position)
                        .filter(|&j| self.shape.windows[layer].is_none_or(|window| position - j < window));
                    let scores: Vec<(usize, f64)> = visible
                        .map(|j| {
                            let score: f64 = q.iter().zip(&keys[j][kv..kv + head_dim]).map(|(q, k)| q * k).sum();
                            (j, score / (head_dim as f64).sqrt())
                        })
                        .collect();
                    let max = scores.iter().map(|(_, score)| *score).fold(f64::NEG_INFINITY, f64::max);
                    let total: f64 = scores.iter().map(|(_, score)| (score - max).exp()).sum();
                    for (j, score) in scores {
                        for d in 0..head_dim {
                            mixed[head * head_dim + d] += (score - max).exp() / total * values[j][kv + d];
                        }
                    }
                }
                self.linear(&module("o_proj"), &mixed)
            })
            .collect()
    }

    fn logits(&self, tokens: &[u32]) -> Vec<Vec<f64>> {
        let mut xs: Vec<Vec<f64>> = tokens.iter().map(|&token| self.embed(token as usize)).collect();
        for layer in 0..self.shape.n_layers {
            let prefix = format!("model.layers.{layer}");
            let normed: Vec<Vec<f64>> = xs
                .iter()
                .map(|x| self.norm(&format!("{prefix}.input_layernorm"), x))
                .collect();
            for (x, mixed) in xs.iter_mut().zip(self.attention(layer, &normed)) {
                x.iter_mut().zip(mixed).for_each(|(x, m)| *x += m);
            }
            for x in &mut xs {
                let normed = self.norm(&format!("{prefix}.post_attention_layernorm"), x);
                let gate = self.linear(&format!("{prefix}.mlp.gate_proj"), &normed);
                let up = self.linear(&format!("{prefix}.mlp.up_proj"), &normed);
                let inner: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                let down = self.linear(&format!("{prefix}.mlp.down_proj"), &inner);
                x.iter_mut().zip(down).for_each(|(x, d)| *x += d);
            }
        }
        xs.iter()
            .map(|x| self.linear("lm_head", &self.norm("model.norm", x)))
            .collect()
    }
}
