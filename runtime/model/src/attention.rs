//! Causal attention of the queries of one sequence over its cached keys and values: the one function that knows how.
//!
//! Two ways to the same numbers: [`rows`] walks the cache row by row (one query, or few; reads keys and values once, allocates one row of
//! scores a head) and [`matrix`] copies what it needs out of the pages and multiplies matrices (a prompt's chunk). [`attend`] chooses.
//!
//! A query at position `p` sees keys at positions `j` with `j <= p`, and `p - j < window` where a window is set.

use candle_core::{Device, Tensor};

use crate::cache::KvView;
use crate::error::Result;

/// Queries from which on copying the cache into matrices is worth it.
const MATRIX_QUERIES_MIN: usize = 8;

/// Heads of one layer.
#[derive(Clone, Copy, Debug)]
pub struct HeadShape {
    /// Query heads; a multiple of `n_kv_heads`.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Numbers in a head's vector.
    pub head_dim: usize,
    /// Positions that a query sees, itself included; nothing = all before it.
    pub window: Option<usize>,
}

/// Computes attention for `queries`, `[n_queries, n_heads, head_dim]` f32, which sit at the last `n_queries` positions of `view`.
/// Returns the same shape.
pub fn attend(shape: HeadShape, queries: &[f32], view: &KvView<'_>) -> Result<Vec<f32>> {
    let n_queries = queries.len() / (shape.n_heads * shape.head_dim);
    if n_queries < MATRIX_QUERIES_MIN {
        Ok(rows(shape, queries, view))
    } else {
        matrix(shape, queries, view)
    }
}

fn first_visible(position: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

/// Row by row: the specification.
fn rows(shape: HeadShape, queries: &[f32], view: &KvView<'_>) -> Vec<f32> {
    let HeadShape {
        n_heads,
        n_kv_heads,
        head_dim,
        window,
    } = shape;
    let n_queries = queries.len() / (n_heads * head_dim);
    let group = n_heads / n_kv_heads;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut out = vec![0.0; queries.len()];
    let mut scores = Vec::new();
    for query in 0..n_queries {
        let position = view.len() - n_queries + query;
        let from = first_visible(position, window);
        for head in 0..n_heads {
            let at = (query * n_heads + head) * head_dim;
            let q = &queries[at..at + head_dim];
            scores.clear();
            for (_, keys, _) in view.runs(head / group, from) {
                scores.extend(keys.chunks_exact(head_dim).map(|key| dot(q, key) * scale));
            }
            scores.truncate(position + 1 - from);
            softmax(&mut scores);
            let out = &mut out[at..at + head_dim];
            for (first, _, values) in view.runs(head / group, from) {
                let weights = scores.get(first - from..).unwrap_or_default();
                for (weight, value) in weights.iter().zip(values.chunks_exact(head_dim)) {
                    out.iter_mut().zip(value).for_each(|(o, v)| *o += weight * v);
                }
            }
        }
    }
    out
}

/// By matrices: `[group * n_queries, head_dim] x [head_dim, n_keys]` for each key head.
fn matrix(shape: HeadShape, queries: &[f32], view: &KvView<'_>) -> Result<Vec<f32>> {
    let HeadShape {
        n_heads,
        n_kv_heads,
        head_dim,
        window,
    } = shape;
    let n_queries = queries.len() / (n_heads * head_dim);
    let group = n_heads / n_kv_heads;
    let first_position = view.len() - n_queries;
    let from = first_visible(first_position, window);
    let n_keys = view.len() - from;
    let scale = 1.0 / (head_dim as f64).sqrt();
    let cpu = Device::Cpu;
    let mut out = vec![0.0; queries.len()];
    for kv_head in 0..n_kv_heads {
        let (mut keys, mut values) = (
            Vec::with_capacity(n_keys * head_dim),
            Vec::with_capacity(n_keys * head_dim),
        );
        for (_, k, v) in view.runs(kv_head, from) {
            keys.extend_from_slice(k);
            values.extend_from_slice(v);
        }
        let keys = Tensor::from_vec(keys, (n_keys, head_dim), &cpu)?;
        let values = Tensor::from_vec(values, (n_keys, head_dim), &cpu)?;
        let mut q = Vec::with_capacity(group * n_queries * head_dim);
        for head in kv_head * group..(kv_head + 1) * group {
            for query in 0..n_queries {
                let at = (query * n_heads + head) * head_dim;
                q.extend_from_slice(&queries[at..at + head_dim]);
            }
        }
        let q = Tensor::from_vec(q, (group * n_queries, head_dim), &cpu)?;
        let mut scores = (q.matmul(&keys.t()?)? * scale)?.flatten_all()?.to_vec1::<f32>()?;
        for (row, scores) in scores.chunks_exact_mut(n_keys).enumerate() {
            let position = first_position + row % n_queries;
            let visible = first_visible(position, window) - from..position + 1 - from;
            scores[..visible.start].fill(0.0);
            scores[visible.end..].fill(0.0);
            softmax(&mut scores[visible]);
        }
        let scores = Tensor::from_vec(scores, (group * n_queries, n_keys), &cpu)?;
        let mixed = scores.matmul(&values)?.flatten_all()?.to_vec1::<f32>()?;
        for (row, mixed) in mixed.chunks_exact(head_dim).enumerate() {
            let (head, query) = (kv_head * group + row / n_queries, row % n_queries);
            let at = (query * n_heads + head) * head_dim;
            out[at..at + head_dim].copy_from_slice(mixed);
        }
    }
    Ok(out)
}

/// Sums in eight lanes, so that the compiler may use vector registers without reordering a sum we did not write.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        for lane in 0..8 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    lanes.iter().sum::<f32>() + rest
}

fn softmax(scores: &mut [f32]) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - max).exp();
        sum += *score;
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{KvCache, KvShape, PAGE_TOKENS};

    /// The two ways agree over page borders, with and without a window.
    #[test]
    fn rows_and_matrix_agree() {
        let (n_heads, n_kv_heads, head_dim) = (6, 2, 10);
        let n_tokens = 2 * PAGE_TOKENS + 5;
        let mut state = 7u32;
        let mut random = |n: usize| -> Vec<f32> {
            (0..n)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 8) as f32 / (1 << 23) as f32 - 1.0
                })
                .collect()
        };
        let mut cache = KvCache::new(
            KvShape {
                n_layers: 2,
                n_kv_heads,
                head_dim,
            },
            n_tokens,
        );
        cache.reserve(n_tokens).unwrap();
        for layer in 0..2 {
            cache.write(
                layer,
                &random(n_tokens * n_kv_heads * head_dim),
                &random(n_tokens * n_kv_heads * head_dim),
            );
        }
        let view = cache.view(1, n_tokens);
        for window in [None, Some(1), Some(3), Some(70), Some(1000)] {
            let shape = HeadShape {
                n_heads,
                n_kv_heads,
                head_dim,
                window,
            };
            for n_queries in [1, 9, n_tokens] {
                let queries = random(n_queries * n_heads * head_dim);
                let (a, b) = (rows(shape, &queries, &view), matrix(shape, &queries, &view).unwrap());
                let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-5, "window {window:?}, {n_queries} queries: {worst}");
            }
        }
    }
}
