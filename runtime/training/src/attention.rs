//! Causal attention with grouped heads, inside each sample of a packed batch alone, forward and backward, by tiles of queries.
//!
//! ```text
//! forward   S = s Q K'   P = e^(S - m) / l   O = P V               kept: O and log-sum-exp = m + ln l, one number a query and head
//! backward  P = e^(S - lse)   dV += P' dO   dP = dO V'   dS = P (dP - rowsum(dO O))   dQ = s dS K   dK += s dS' Q
//! ```
//! `P` is never kept: a tile of at most [`TILE`] queries over the keys that it may see exists at a time and thread. Cost of a sample of `t` tokens, each head:
//! `2 t^2 head_dim` multiply-adds forward (half of that is causal), 2.5 times that backward. Source: FlashAttention (arXiv 2205.14135).
//!
//! A task is one sample of one key-value head, with all query heads that read it: its outputs overlap no other task's, so the sums have one order.

use std::ops::Range;

use rayon::prelude::*;

use crate::kernels::{dot, exponentials, largest, vectorised};
use crate::matmul::{Compute, Into, Means, View, ViewMut, matmul};
use crate::numbers::Numbers;
use crate::real::Real;

/// Queries of one tile: with 64 a tile's scores of 2,048 keys (512 KiB) stay in the second-level cache.
const TILE: usize = 64;

/// Shape of the attention of one layer and batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention<'a> {
    /// Query heads.
    pub(crate) n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub(crate) n_kv_heads: usize,
    /// Rows of a head.
    pub(crate) head_dim: usize,
    /// How many positions a query looks back, itself included.
    pub(crate) window: Option<usize>,
    /// The tokens of each sample: adjoining ranges that cover the batch.
    pub(crate) samples: &'a [Range<usize>],
    /// What products are computed in.
    pub(crate) compute: Compute,
}

/// Queries, keys and values, `[heads, n, head_dim]` each, turned by their positions.
#[derive(Debug)]
pub(crate) struct Heads<T> {
    /// Queries.
    pub(crate) q: Numbers<T>,
    /// Keys.
    pub(crate) k: Numbers<T>,
    /// Values.
    pub(crate) v: Numbers<T>,
}

/// What attention gives.
#[derive(Debug)]
pub(crate) struct Attended<T> {
    /// The output, `[n_heads, n, head_dim]`.
    pub(crate) output: Numbers<T>,
    /// The logarithm of the sum of exponentials of every query's scores, `[n_heads, n]`.
    pub(crate) log_sums: Numbers<T>,
}

/// One task's part of a tensor with several heads: the tokens of one sample in each head of a group.
type Parts<'a, T> = Vec<&'a mut [T]>;

impl Attention<'_> {
    fn means(&self) -> Means {
        Means::one(self.compute)
    }

    fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    fn n_tokens(&self) -> usize {
        self.samples.last().map_or(0, |sample| sample.end)
    }

    fn score_scale<T: Real>(&self) -> T {
        T::from_f64(1.0 / (self.head_dim as f64).sqrt())
    }

    /// Returns which keys of its sample a tile of queries sees.
    fn keys_of(&self, queries: &Range<usize>) -> Range<usize> {
        let first = self
            .window
            .map_or(0, |window| (queries.start + 1).saturating_sub(window));
        first..queries.end
    }

    /// Cuts `[heads, n, width]` into one part for each task, in the order (key-value head, sample).
    fn parts<'a, T>(&self, data: &'a mut [T], heads_of_a_task: usize, width: usize) -> Vec<Parts<'a, T>> {
        let mut parts = Vec::with_capacity(self.n_kv_heads * self.samples.len());
        for group in data.chunks_exact_mut(heads_of_a_task * self.n_tokens() * width) {
            let at = parts.len();
            parts.extend(self.samples.iter().map(|_| Parts::with_capacity(heads_of_a_task)));
            for mut head in group.chunks_exact_mut(self.n_tokens() * width) {
                for (part, sample) in parts[at..].iter_mut().zip(self.samples) {
                    let (mine, rest) = head.split_at_mut(sample.len() * width);
                    part.push(mine);
                    head = rest;
                }
            }
        }
        parts
    }

    /// Returns the (key-value head, sample) of a task.
    fn task(&self, task: usize) -> (usize, &Range<usize>) {
        (task / self.samples.len(), &self.samples[task % self.samples.len()])
    }

    /// Returns the part of `[heads, n, width]` that is one head of one sample.
    fn part<'a, T>(&self, data: &'a [T], head: usize, sample: &Range<usize>, width: usize) -> &'a [T] {
        &data[(head * self.n_tokens() + sample.start) * width..][..sample.len() * width]
    }

    /// Computes outputs and log-sums.
    pub(crate) fn forward<T: Real>(&self, heads: &Heads<T>) -> Attended<T> {
        let mut output = Numbers::stale(heads.q.len());
        let mut log_sums = Numbers::stale(heads.q.len() / self.head_dim);
        let outputs = self.parts(&mut output, self.group(), self.head_dim);
        let sums = self.parts(&mut log_sums, self.group(), 1);
        let tasks: Vec<_> = outputs.into_iter().zip(sums).enumerate().collect();
        tasks.into_par_iter().for_each(|(task, (outputs, sums))| {
            let (kv_head, sample) = self.task(task);
            let k = self.part(&heads.k, kv_head, sample, self.head_dim);
            let v = self.part(&heads.v, kv_head, sample, self.head_dim);
            let mut scores = Vec::new();
            for (member, (output, sums)) in outputs.into_iter().zip(sums).enumerate() {
                let q = self.part(&heads.q, kv_head * self.group() + member, sample, self.head_dim);
                self.forward_head(q, k, v, output, sums, &mut scores);
            }
        });
        Attended { output, log_sums }
    }

    fn forward_head<T: Real>(&self, q: &[T], k: &[T], v: &[T], output: &mut [T], sums: &mut [T], scores: &mut Vec<T>) {
        let d = self.head_dim;
        for queries in tiles(sums.len()) {
            let keys = self.keys_of(&queries);
            let (rows, columns) = (queries.len(), keys.len());
            self.scores(q, k, &queries, &keys, scores);
            for (row, (query, scores)) in queries.clone().zip(scores.chunks_exact_mut(columns)).enumerate() {
                let seen = self.seen(query, &keys);
                let (hidden_before, rest) = scores.split_at_mut(seen.start);
                let (visible, hidden_after) = rest.split_at_mut(seen.len());
                let most = vectorised(
                    #[inline(always)]
                    || largest(visible),
                );
                let sum = vectorised(
                    #[inline(always)]
                    || exponentials(visible, most),
                );
                let factor = T::ONE / sum;
                vectorised(
                    #[inline(always)]
                    || {
                        for value in visible.iter_mut() {
                            *value *= factor;
                        }
                    },
                );
                hidden_before.fill(T::ZERO);
                hidden_after.fill(T::ZERO);
                sums[queries.start + row] = most + sum.ln();
            }
            matmul(
                ViewMut::new(&mut output[queries.start * d..queries.end * d], rows, d),
                Into::Replace,
                T::ONE,
                View::new(scores, rows, columns),
                View::new(&v[keys.start * d..keys.end * d], columns, d),
                self.means(),
            );
        }
    }

    /// Fills `scores` with the scaled products of a tile's queries and keys, `[queries, keys]`.
    fn scores<T: Real>(&self, q: &[T], k: &[T], queries: &Range<usize>, keys: &Range<usize>, scores: &mut Vec<T>) {
        let d = self.head_dim;
        scores.resize(queries.len() * keys.len(), T::ZERO);
        matmul(
            ViewMut::new(scores, queries.len(), keys.len()),
            Into::Replace,
            self.score_scale(),
            View::new(&q[queries.start * d..queries.end * d], queries.len(), d),
            View::new(&k[keys.start * d..keys.end * d], keys.len(), d).transposed(),
            self.means(),
        );
    }

    /// Returns which of a tile's keys one query sees, counted from the tile's first key.
    fn seen(&self, query: usize, keys: &Range<usize>) -> Range<usize> {
        let first = self.window.map_or(0, |window| (query + 1).saturating_sub(window));
        first - keys.start.min(first)..query + 1 - keys.start
    }

    /// Computes the gradients with respect to queries, keys and values from that of the output, `[n_heads, n, head_dim]`.
    pub(crate) fn backward<T: Real>(&self, heads: &Heads<T>, attended: &Attended<T>, doutput: &[T]) -> Heads<T> {
        let mut gradients = Heads {
            q: Numbers::stale(heads.q.len()),
            k: Numbers::zeros(heads.k.len()),
            v: Numbers::zeros(heads.v.len()),
        };
        let d = self.head_dim;
        let dqs = self.parts(&mut gradients.q, self.group(), d);
        let dks = self.parts(&mut gradients.k, 1, d);
        let dvs = self.parts(&mut gradients.v, 1, d);
        let tasks: Vec<_> = dqs.into_iter().zip(dks).zip(dvs).enumerate().collect();
        tasks.into_par_iter().for_each(|(task, ((dqs, mut dks), mut dvs))| {
            let (kv_head, sample) = self.task(task);
            let (dk, dv) = (&mut *dks[0], &mut *dvs[0]);
            let mut scratch = Scratch::default();
            for (member, dq) in dqs.into_iter().enumerate() {
                let head = kv_head * self.group() + member;
                let one = OneHead {
                    q: self.part(&heads.q, head, sample, d),
                    k: self.part(&heads.k, kv_head, sample, d),
                    v: self.part(&heads.v, kv_head, sample, d),
                    output: self.part(&attended.output, head, sample, d),
                    doutput: self.part(doutput, head, sample, d),
                    log_sums: self.part(&attended.log_sums, head, sample, 1),
                };
                self.backward_head(&one, dq, dk, dv, &mut scratch);
            }
        });
        gradients
    }

    fn backward_head<T: Real>(
        &self,
        one: &OneHead<'_, T>,
        dq: &mut [T],
        dk: &mut [T],
        dv: &mut [T],
        scratch: &mut Scratch<T>,
    ) {
        let d = self.head_dim;
        for queries in tiles(one.log_sums.len()) {
            let keys = self.keys_of(&queries);
            let (rows, columns) = (queries.len(), keys.len());
            let (of_queries, of_keys) = (queries.start * d..queries.end * d, keys.start * d..keys.end * d);
            let doutput = View::new(&one.doutput[of_queries.clone()], rows, d);
            self.scores(one.q, one.k, &queries, &keys, &mut scratch.p);
            scratch.ds.resize(rows * columns, T::ZERO);
            matmul(
                ViewMut::new(&mut scratch.ds, rows, columns),
                Into::Replace,
                T::ONE,
                doutput,
                View::new(&one.v[of_keys.clone()], columns, d).transposed(),
                self.means(),
            );
            let tile = scratch
                .p
                .chunks_exact_mut(columns)
                .zip(scratch.ds.chunks_exact_mut(columns));
            for (query, (p, ds)) in queries.clone().zip(tile) {
                let seen = self.seen(query, &keys);
                let (log_sum, of_query) = (one.log_sums[query], query * d..(query + 1) * d);
                let delta = vectorised(
                    #[inline(always)]
                    || dot(&one.doutput[of_query.clone()], &one.output[of_query.clone()]),
                );
                vectorised(
                    #[inline(always)]
                    || {
                        for (p, ds) in p[seen.clone()].iter_mut().zip(&mut ds[seen.clone()]) {
                            *p = (*p - log_sum).exp();
                            *ds = *p * (*ds - delta);
                        }
                    },
                );
                for row in [p, ds] {
                    row[..seen.start].fill(T::ZERO);
                    row[seen.end..].fill(T::ZERO);
                }
            }
            let p = View::new(&scratch.p, rows, columns);
            let ds = View::new(&scratch.ds, rows, columns);
            let q = View::new(&one.q[of_queries.clone()], rows, d);
            let k = View::new(&one.k[of_keys.clone()], columns, d);
            let dv = ViewMut::new(&mut dv[of_keys.clone()], columns, d);
            matmul(dv, Into::Add, T::ONE, p.transposed(), doutput, self.means());
            let dk = ViewMut::new(&mut dk[of_keys], columns, d);
            matmul(dk, Into::Add, self.score_scale(), ds.transposed(), q, self.means());
            let dq = ViewMut::new(&mut dq[of_queries], rows, d);
            matmul(dq, Into::Replace, self.score_scale(), ds, k, self.means());
        }
    }
}

/// What the backward pass of one head of one sample reads.
struct OneHead<'a, T> {
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    output: &'a [T],
    doutput: &'a [T],
    log_sums: &'a [T],
}

#[derive(Default)]
struct Scratch<T> {
    p: Vec<T>,
    ds: Vec<T>,
}

fn tiles(n: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(TILE).map(move |start| start..n.min(start + TILE))
}
