//! Causal attention of the queries of one sequence over its cached keys and values: the one function that knows how.
//!
//! A query at position `p` sees keys at positions `j` with `j <= p`, and `p - j < window` where a window is set. Work goes page by page with the softmax carried
//! along (Milakov and Gimelshein 2018, as in FlashAttention): a page of keys and values is read once for all query heads that share it and up to [`ROWS_PER_TASK`]
//! rows, and no row of scores longer than a page exists.
//!
//! ```text
//! for each page:  s = q K^T      m' = max(m, max s)    p = exp(s - m')    l = l exp(m - m') + sum p    o = o exp(m - m') + p V
//! at the end:     o / l
//! ```
//!
//! **Invariant:** what a row becomes depends on its query and on the keys and values that it sees, in the order of the pages, and on nothing else: not on how many
//! queries are asked at once, not on the number of threads. Products are fused, in the order of the head's numbers and of the positions, whatever the instructions.
//!
//! Cost: `4 head_dim` operations for each pair of a query head and a position. One query reads a key and a value of each key head and position, and memory is the
//! limit; a chunk of a prompt keeps a page in the first-level cache for 128 rows, and the multiplier is.

#![expect(unsafe_code, reason = "tasks write disjoint parts of one output")]

use std::cell::RefCell;
use std::ops::Range;

use pulp::Simd;
use witness_kernels::Pool;

use crate::cache::{KvView, PAGE_TOKENS, Scratch};
use crate::pointwise::exp2;
use crate::split::Shared;
use crate::vectors;

/// Rows of queries, over all heads that share a key head, that one task takes. A page of 64 numbers a head is 32 KiB: it stays in the first-level cache while rows of
/// half a KiB pass by, and so many pay for its being brought there and widened.
const ROWS_PER_TASK: usize = 128;
/// Rows that are multiplied at once: 4 rows of 4 vectors are 16 sums, half of the registers.
const TILE: usize = 4;
/// Partial sums and maxima of a row of scores. Fixed, so that the order of additions is.
const LANES: usize = 16;

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

/// The queries of one sequence.
pub struct Ask<'a> {
    /// `[n_queries, n_heads, head_dim]` f32, of the last `n_queries` positions of `view`.
    pub queries: &'a [f32],
    /// Keys and values.
    pub view: KvView<'a>,
}

/// Some queries of the heads that share a key head.
struct Task {
    kv_head: usize,
    queries: Range<usize>,
}

/// How the queries of a sequence are cut into tasks.
#[derive(Clone, Copy)]
struct Cut {
    n_queries: usize,
    /// Queries of a task.
    step: usize,
    n_kv_heads: usize,
}

impl Cut {
    fn of(shape: HeadShape, ask: &Ask<'_>) -> Cut {
        let group = shape.n_heads / shape.n_kv_heads;
        Cut {
            n_queries: ask.queries.len() / (shape.n_heads * shape.head_dim),
            step: (ROWS_PER_TASK / group).max(1),
            n_kv_heads: shape.n_kv_heads,
        }
    }

    fn n_tasks(self) -> usize {
        self.n_kv_heads * self.n_queries.div_ceil(self.step)
    }

    fn task(self, index: usize) -> Task {
        let start = index / self.n_kv_heads * self.step;
        Task {
            kv_head: index % self.n_kv_heads,
            queries: start..(start + self.step).min(self.n_queries),
        }
    }
}

/// Memory of a task, kept by its thread.
#[derive(Default)]
struct Room {
    /// `[n_tiles, head_dim, T]`.
    queries: Vec<f32>,
    /// `[n_rows, head_dim]`.
    out: Vec<f32>,
    max: Vec<f32>,
    sum: Vec<[f32; LANES]>,
    page: Scratch,
}

/// Scores of a tile of rows with the positions of a page, on whole cache lines.
#[repr(align(64))]
struct Scores<const T: usize>([[f32; PAGE_TOKENS]; T]);

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

/// Computes attention for the queries of several sequences, all tasks of all of them shared out over the threads together. `out` is their results, each of the shape
/// of its queries, one behind the other.
///
/// # Panics
/// If `out` is shorter than that.
pub fn attend(shape: HeadShape, asks: &[Ask<'_>], out: &mut [f32], pool: &Pool) {
    let n_tasks = asks.iter().map(|ask| Cut::of(shape, ask).n_tasks()).sum();
    let shared = Shared::new(out);
    pool.run(n_tasks, |index| {
        let (mut index, mut at) = (index, 0);
        for ask in asks {
            let cut = Cut::of(shape, ask);
            if index < cut.n_tasks() {
                let work = Work {
                    shape,
                    task: cut.task(index),
                    ask,
                    out: shared.behind(at),
                };
                return ROOM.with_borrow_mut(|room| vectors::arch().dispatch(InRoom(work, room)));
            }
            index -= cut.n_tasks();
            at += ask.queries.len();
        }
    });
}

fn first_visible(position: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

/// One task with everything that it reads, and where its results go.
struct Work<'a> {
    shape: HeadShape,
    task: Task,
    ask: &'a Ask<'a>,
    /// Of all queries of the sequence.
    out: Shared<'a>,
}

/// A task on the memory of its thread.
struct InRoom<'a>(Work<'a>, &'a mut Room);

impl pulp::WithSimd for InRoom<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let InRoom(work, room) = self;
        // One row alone would be multiplied four times; and half as many registers hold half as many sums.
        match (work.n_rows(), S::F32_LANES) {
            (1, _) => work.run::<S, 1, 4>(simd, room),
            (_, LANES) => work.run::<S, TILE, 4>(simd, room),
            _ => work.run::<S, TILE, 2>(simd, room),
        }
    }
}

impl Work<'_> {
    fn group(&self) -> usize {
        self.shape.n_heads / self.shape.n_kv_heads
    }

    fn n_rows(&self) -> usize {
        self.task.queries.len() * self.group()
    }

    /// Computes `[n_rows, head_dim]`, rows by query and then by head, `T` rows and `V` vectors of each at once.
    #[inline(always)]
    fn run<S: Simd, const T: usize, const V: usize>(&self, simd: S, room: &mut Room) {
        let HeadShape { head_dim, window, .. } = self.shape;
        let (group, n_rows) = (self.group(), self.n_rows());
        let n_padded = n_rows.next_multiple_of(T);
        let Room {
            queries,
            out,
            max,
            sum,
            page: scratch,
        } = room;
        self.turn_queries::<T>(n_padded, queries);
        restart(out, n_padded * head_dim, 0.0);
        restart(max, n_padded, f32::NEG_INFINITY);
        restart(sum, n_padded, [0.0; LANES]);
        let view = &self.ask.view;
        let n_queries = self.ask.queries.len() / (self.shape.n_heads * head_dim);
        let first_position = view.len() - n_queries + self.task.queries.start;
        let last_position = first_position + self.task.queries.len() - 1;
        for page in first_visible(first_position, window) / PAGE_TOKENS..last_position / PAGE_TOKENS + 1 {
            let (keys, values) = view.page(self.task.kv_head, page, scratch);
            let tiles = queries
                .chunks_exact(T * head_dim)
                .zip(out.chunks_exact_mut(T * head_dim));
            let carried = max.as_chunks_mut::<T>().0.iter_mut().zip(sum.as_chunks_mut::<T>().0);
            for (tile, ((queries, out), (max, sum))) in tiles.zip(carried).enumerate() {
                let seen: [Range<usize>; T] = std::array::from_fn(|index| match tile * T + index {
                    row if row < n_rows => seen(first_position + row / group, window, page),
                    _ => 0..0,
                });
                let first = seen.iter().filter(|seen| !seen.is_empty()).map(|seen| seen.start).min();
                let Some(first) = first else { continue };
                let end = seen.iter().map(|seen| seen.end).max().unwrap_or(first);
                let mut scores = Scores([[0.0; PAGE_TOKENS]; T]);
                products::<S, T, V>(simd, queries, keys, &mut scores);
                let shrink = soften(&mut scores, &seen, max, sum);
                mix::<S, T, V>(simd, &scores, first..end, values, &shrink, out);
            }
        }
        for (out, sum) in out.chunks_exact_mut(head_dim).zip(&*sum) {
            let sum = folded(*sum, |a, b| a + b);
            out.iter_mut().for_each(|number| *number /= sum);
        }
        // Rows lie as queries, and within a query as heads: what one query's heads give is one run on both sides.
        let run = group * head_dim;
        for (query, mixed) in self.task.queries.clone().zip(out.chunks_exact(run)) {
            let at = query * self.shape.n_heads * head_dim + self.task.kv_head * run;
            // SAFETY: a pool calls each number once, and no two tasks have the same query and key head.
            unsafe { self.out.part(at..at + run) }.copy_from_slice(mixed);
        }
    }

    /// Writes the task's queries as products take them, `[n_tiles, head_dim, T]`, and zeros for the rows that fill the last tile. They are scaled so that a product is the
    /// power of 2 that is wanted: by `log2(e) / sqrt(head_dim)`.
    fn turn_queries<const T: usize>(&self, n_padded: usize, turned: &mut Vec<f32>) {
        let HeadShape { n_heads, head_dim, .. } = self.shape;
        let scale = std::f32::consts::LOG2_E / (head_dim as f32).sqrt();
        let run = self.group() * head_dim;
        restart(turned, n_padded * head_dim, 0.0);
        let queries = self.task.queries.clone().flat_map(|query| {
            let at = query * n_heads * head_dim + self.task.kv_head * run;
            self.ask.queries[at..at + run].chunks_exact(head_dim)
        });
        for (row, query) in queries.enumerate() {
            let tile = &mut turned[row / T * T * head_dim..];
            for (turned, number) in tile.as_chunks_mut::<T>().0.iter_mut().zip(query) {
                turned[row % T] = number * scale;
            }
        }
    }
}

/// Fills a vector anew.
fn restart<V: Copy>(numbers: &mut Vec<V>, len: usize, value: V) {
    numbers.clear();
    numbers.resize(len, value);
}

/// Returns the places of a page that a query at `position` sees.
fn seen(position: usize, window: Option<usize>, page: usize) -> Range<usize> {
    let first = page * PAGE_TOKENS;
    let from = first_visible(position, window).saturating_sub(first);
    let to = (position + 1).saturating_sub(first).min(PAGE_TOKENS);
    from.min(to)..to
}

/// `scores[t] = queries[t] K^T`: queries `[head_dim, T]`, keys `[head_dim, PAGE_TOKENS]`.
#[inline(always)]
fn products<S: Simd, const T: usize, const V: usize>(simd: S, queries: &[f32], keys: &[f32], scores: &mut Scores<T>) {
    let (queries, keys) = (queries.as_chunks::<T>().0, keys.as_chunks::<PAGE_TOKENS>().0);
    let width = V * S::F32_LANES;
    for column in (0..PAGE_TOKENS).step_by(width) {
        let mut sums = [[simd.splat_f32s(0.0); V]; T];
        for (query, keys) in queries.iter().zip(keys) {
            let (keys, _) = S::as_simd_f32s(&keys[column..column + width]);
            for (query, sums) in query.iter().zip(&mut sums) {
                let query = simd.splat_f32s(*query);
                for v in 0..V {
                    sums[v] = simd.mul_add_f32s(query, keys[v], sums[v]);
                }
            }
        }
        for (scores, sums) in scores.0.iter_mut().zip(&sums) {
            let (out, _) = S::as_mut_simd_f32s(&mut scores[column..column + width]);
            out.copy_from_slice(sums);
        }
    }
}

/// Turns rows of scores into weights against each row's largest score so far. Returns what the sums so far shrink by.
///
/// Each step is taken for all rows before the next, for each hangs on the one before it.
#[inline(always)]
fn soften<const T: usize>(
    scores: &mut Scores<T>,
    seen: &[Range<usize>; T],
    max: &mut [f32; T],
    sum: &mut [[f32; LANES]; T],
) -> [f32; T] {
    let (mut shrink, mut base) = ([0.0; T], [0.0; T]);
    for t in 0..T {
        let scores = &mut scores.0[t];
        if seen[t] != (0..PAGE_TOKENS) {
            if seen[t].is_empty() {
                scores.fill(f32::NEG_INFINITY);
                continue;
            }
            scores[..seen[t].start].fill(f32::NEG_INFINITY);
            scores[seen[t].end..].fill(f32::NEG_INFINITY);
        }
        let mut lanes = [max[t]; LANES];
        for scores in scores.as_chunks::<LANES>().0 {
            for (lane, score) in lanes.iter_mut().zip(scores) {
                *lane = larger(*lane, *score);
            }
        }
        base[t] = folded(lanes, larger);
        shrink[t] = max[t] - base[t];
        max[t] = base[t];
    }
    for shrink in &mut shrink {
        *shrink = exp2(*shrink);
    }
    for t in 0..T {
        for sum in &mut sum[t] {
            *sum *= shrink[t];
        }
        for scores in scores.0[t].as_chunks_mut::<LANES>().0 {
            for (sum, score) in sum[t].iter_mut().zip(scores) {
                *score = exp2(*score - base[t]);
                *sum += *score;
            }
        }
    }
    shrink
}

/// Returns the larger of two numbers, and `a` where `b` is none.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// Brings all lanes together, halves on halves.
#[inline(always)]
fn folded(lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    // Written out: a loop over the halves stays one, of single numbers.
    let eight: [f32; 8] = std::array::from_fn(|lane| join(lanes[lane], lanes[lane + 8]));
    let four: [f32; 4] = std::array::from_fn(|lane| join(eight[lane], eight[lane + 4]));
    join(join(four[0], four[2]), join(four[1], four[3]))
}

/// `out[t] = out[t] shrink[t] + weights[t] V`: values `[PAGE_TOKENS, head_dim]`, of which only `places` are read; out `[T, head_dim]`.
#[inline(always)]
fn mix<S: Simd, const T: usize, const V: usize>(
    simd: S,
    weights: &Scores<T>,
    places: Range<usize>,
    values: &[f32],
    shrink: &[f32; T],
    out: &mut [f32],
) {
    let head_dim = out.len() / T;
    let values = &values[places.start * head_dim..places.end * head_dim];
    let mut column = 0;
    while column + V * S::F32_LANES <= head_dim {
        mix_columns::<S, T, V>(simd, weights, places.clone(), values, shrink, out, column);
        column += V * S::F32_LANES;
    }
    while column + S::F32_LANES <= head_dim {
        mix_columns::<S, T, 1>(simd, weights, places.clone(), values, shrink, out, column);
        column += S::F32_LANES;
    }
    for column in column..head_dim {
        for t in 0..T {
            let mut sum = out[t * head_dim + column] * shrink[t];
            for (place, values) in places.clone().zip(values.chunks_exact(head_dim)) {
                // As the vectors' products are.
                sum = weights.0[t][place].mul_add(values[column], sum);
            }
            out[t * head_dim + column] = sum;
        }
    }
}

#[inline(always)]
fn mix_columns<S: Simd, const T: usize, const V: usize>(
    simd: S,
    weights: &Scores<T>,
    places: Range<usize>,
    values: &[f32],
    shrink: &[f32; T],
    out: &mut [f32],
    column: usize,
) {
    let head_dim = out.len() / T;
    let width = V * S::F32_LANES;
    let mut sums = [[simd.splat_f32s(0.0); V]; T];
    for t in 0..T {
        let (out, _) = S::as_simd_f32s(&out[t * head_dim + column..][..width]);
        let shrink = simd.splat_f32s(shrink[t]);
        for v in 0..V {
            sums[t][v] = simd.mul_f32s(out[v], shrink);
        }
    }
    for (place, values) in places.zip(values.chunks_exact(head_dim)) {
        let (values, _) = S::as_simd_f32s(&values[column..column + width]);
        for (weights, sums) in weights.0.iter().zip(&mut sums) {
            let weight = simd.splat_f32s(weights[place % PAGE_TOKENS]);
            for v in 0..V {
                sums[v] = simd.mul_add_f32s(weight, values[v], sums[v]);
            }
        }
    }
    for (out, sums) in out.chunks_exact_mut(head_dim).zip(&sums) {
        let (out, _) = S::as_mut_simd_f32s(&mut out[column..column + width]);
        out.copy_from_slice(sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{KvCache, KvShape, KvType};

    /// Attention of one sequence.
    fn attend(shape: HeadShape, queries: &[f32], view: KvView<'_>) -> Vec<f32> {
        let mut out = vec![0.0; queries.len()];
        super::attend(shape, &[Ask { queries, view }], &mut out, &Pool::new(2));
        out
    }

    fn random(seed: u32) -> impl FnMut(usize) -> Vec<f32> {
        let mut state = seed;
        move |n| {
            (0..n)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 8) as f32 / (1 << 23) as f32 - 1.0
                })
                .collect()
        }
    }

    /// The definition, in f64: keys and values are `[n_tokens, n_kv_heads, head_dim]`.
    fn reference(shape: HeadShape, queries: &[f32], keys: &[f32], values: &[f32]) -> Vec<f64> {
        let HeadShape {
            n_heads,
            n_kv_heads,
            head_dim,
            window,
        } = shape;
        let (n_queries, n_tokens) = (queries.len() / n_heads / head_dim, keys.len() / n_kv_heads / head_dim);
        let mut out = Vec::new();
        for query in 0..n_queries {
            let position = n_tokens - n_queries + query;
            for head in 0..n_heads {
                let q = &queries[(query * n_heads + head) * head_dim..][..head_dim];
                let at = |place: usize| (place * n_kv_heads + head / (n_heads / n_kv_heads)) * head_dim;
                let visible = first_visible(position, window)..=position;
                let scores = visible.clone().map(|place| {
                    let dot = q
                        .iter()
                        .zip(&keys[at(place)..])
                        .map(|(q, k)| f64::from(*q) * f64::from(*k));
                    (dot.sum::<f64>() / (head_dim as f64).sqrt()).exp()
                });
                let scores: Vec<f64> = scores.collect();
                let sum: f64 = scores.iter().sum();
                out.extend((0..head_dim).map(|d| {
                    let weighed = visible
                        .clone()
                        .zip(&scores)
                        .map(|(place, score)| score * f64::from(values[at(place) + d]));
                    weighed.sum::<f64>() / sum
                }));
            }
        }
        out
    }

    /// Goal: the definition, over page borders, windows, odd heads and every way of grouping; and each row bit for bit the same however many are asked at once.
    #[test]
    fn it_is_the_definition_and_rows_do_not_depend_on_each_other() {
        let n_tokens = 2 * PAGE_TOKENS + 5;
        let mut random = random(7);
        for (n_heads, n_kv_heads, head_dim) in [(6, 2, 10), (4, 1, 64), (3, 3, 80), (8, 2, 16), (5, 1, 7), (2, 2, 128)]
        {
            let kv = KvShape {
                n_layers: 2,
                n_kv_heads,
                head_dim,
            };
            let row = n_kv_heads * head_dim;
            let (keys, values) = (random(n_tokens * row), random(n_tokens * row));
            for (kind, window) in [
                (KvType::F32, None),
                (KvType::F32, Some(1)),
                (KvType::F32, Some(3)),
                (KvType::F32, Some(70)),
                (KvType::F32, Some(1000)),
                (KvType::F16, None),
                (KvType::F16, Some(70)),
                (KvType::Q8_0, None),
                (KvType::Q8_0, Some(70)),
            ] {
                let mut cache = KvCache::new(kv, kind, n_tokens);
                cache.reserve(n_tokens).unwrap();
                cache.write(0, &random(n_tokens * row), &random(n_tokens * row));
                cache.write(1, &keys, &values);
                let shape = HeadShape {
                    n_heads,
                    n_kv_heads,
                    head_dim,
                    window,
                };
                let queries = random(n_tokens * n_heads * head_dim);
                let all = attend(shape, &queries, cache.view(1, n_tokens));
                let wanted = reference(shape, &queries, &keys, &values);
                let off = all
                    .iter()
                    .zip(&wanted)
                    .map(|(found, wanted)| (f64::from(*found) - wanted).abs());
                let worst = off.fold(0.0, f64::max);
                // Weights sum to 1 and values are below 1: rounding of 64-bit sums aside, each of the 133 weights is off by some units in the last place. What
                // the cache rounds moves a value by as much as the type's table says, and a score by `sqrt(head_dim)` times that at most.
                let bound = match kind {
                    KvType::F32 => 3e-6,
                    KvType::F16 => 2e-3,
                    KvType::Q8_0 => 2e-2,
                };
                assert!(worst < bound, "{shape:?} {kind:?}: {worst}");
                assert!(worst > 0.0);
                let width = n_heads * head_dim;
                for (n_seen, n_queries) in [
                    (n_tokens, 1),
                    (n_tokens, 9),
                    (PAGE_TOKENS, 1),
                    (PAGE_TOKENS + 1, 3),
                    (1, 1),
                ] {
                    let rows = (n_seen - n_queries) * width..n_seen * width;
                    let some = attend(shape, &queries[rows.clone()], cache.view(1, n_seen));
                    assert!(some == all[rows], "{shape:?}: {n_queries} queries of {n_seen}");
                }
            }
        }
    }

    /// Goal: several sequences together are each by itself, bit for bit, whatever their lengths.
    #[test]
    fn sequences_together_are_each_by_itself() {
        let mut random = random(3);
        let shape = HeadShape {
            n_heads: 6,
            n_kv_heads: 2,
            head_dim: 20,
            window: None,
        };
        let kv = KvShape {
            n_layers: 1,
            n_kv_heads: 2,
            head_dim: 20,
        };
        let caches: Vec<(KvCache, Vec<f32>, usize)> = [(70, 70), (3, 1), (200, 1), (40, 25)]
            .into_iter()
            .map(|(n_tokens, n_queries)| {
                let mut cache = KvCache::new(kv, KvType::F16, n_tokens);
                cache.reserve(n_tokens).unwrap();
                cache.write(0, &random(n_tokens * 40), &random(n_tokens * 40));
                (cache, random(n_queries * 120), n_tokens)
            })
            .collect();
        let alone: Vec<f32> = caches
            .iter()
            .flat_map(|(cache, queries, n_tokens)| attend(shape, queries, cache.view(0, *n_tokens)))
            .collect();
        let asks: Vec<Ask<'_>> = caches
            .iter()
            .map(|(cache, queries, n_tokens)| Ask {
                queries,
                view: cache.view(0, *n_tokens),
            })
            .collect();
        for n_threads in [1, 3] {
            let mut together = vec![0.0; alone.len()];
            super::attend(shape, &asks, &mut together, &Pool::new(n_threads));
            assert!(together == alone, "{n_threads} threads");
        }
    }

    /// Goal: what lies behind the last position is not read, and a key that is no number is not hidden.
    #[test]
    fn nothing_behind_the_end_is_read_and_nan_stays() {
        let (kv, shape) = (
            KvShape {
                n_layers: 1,
                n_kv_heads: 1,
                head_dim: 4,
            },
            HeadShape {
                n_heads: 1,
                n_kv_heads: 1,
                head_dim: 4,
                window: None,
            },
        );
        let mut cache = KvCache::new(kv, KvType::F32, 8);
        cache.reserve(4).unwrap();
        let mut keys = vec![0.5; 16];
        keys[12..].fill(f32::NAN);
        cache.write(0, &keys, &keys);
        let query = [1.0f32; 4];
        assert_eq!(attend(shape, &query, cache.view(0, 3)), [0.5; 4]);
        assert!(
            attend(shape, &query, cache.view(0, 4))
                .iter()
                .all(|number| number.is_nan())
        );
    }
}
