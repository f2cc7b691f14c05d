//! The types whose numbers lie on grids: IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS and IQ3_S.
//!
//! ```text
//! group of 32 or 16: signs apart; for some scales: levels by rounding, and where they are no point of the grid the best of the nearest points
//!                    the scale that fits best wins, is fitted once more, and is rounded to 4 bits below the block's
//! ```
//! Runs of 8 or 4 numbers that share a point go through tables, so blocks are encoded one by one and not side by side. Sums are in the reference's order.
//!
//! **Where the reference is not followed:** in a block of IQ3_S with a group of 32 zeros it writes all later groups one place too early, so that they decode as the
//! numbers of others. Here such a group is one of zeros and the others stay where they belong.
//!
//! Source: `quantize_row_iq2_*_impl` and `quantize_row_iq3_*_impl` of ggml-quants.c, and what `iq2xs_init_impl` and `iq3xs_init_impl` call neighbours: the points at
//! the least distances from a combination of levels, the first `n` different distances, by distance and then place.

use std::sync::LazyLock;

use half::f16;

use super::one;
use crate::grids;
use crate::lanes::nearest_integer;

/// A grid, and the way from levels to its points.
pub(super) struct Grid<const K: usize> {
    /// Levels of each point, as `2 * level + 1`.
    pub(super) points: Vec<[f32; K]>,
    /// What each combination of levels, packed, leads to.
    pub(super) near: Vec<Near>,
    /// Places of points, one list after the other.
    pub(super) neighbours: Vec<u16>,
}

/// What a combination of levels leads to.
#[derive(Clone, Copy)]
pub(super) enum Near {
    /// It is this point.
    Point(u16),
    /// It is none: the nearest are in `neighbours` from the first of these to before the second.
    Among(u32, u32),
}

/// How many levels a number has on a grid of runs of `K`, and the bits of one.
const fn levels<const K: usize>() -> (i32, usize) {
    if K == 8 { (3, 2) } else { (8, 3) }
}

impl<const K: usize> Grid<K> {
    /// Makes the tables; `n_distances` different distances count as near. Some tens of milliseconds, once.
    pub(super) fn new(points: impl Iterator<Item = [usize; K]>, n_distances: usize) -> Grid<K> {
        let (n_levels, bits) = levels::<K>();
        let points: Vec<[usize; K]> = points.collect();
        let pack = |levels: &[usize; K]| levels.iter().rev().fold(0, |packed, level| packed << bits | level);
        let mut near = vec![Near::Among(0, 0); 1 << (bits * K)];
        for (place, point) in points.iter().enumerate() {
            near[pack(point)] = Near::Point(place as u16);
        }
        let mut neighbours = Vec::new();
        let mut by_distance: Vec<(usize, u16)> = Vec::new();
        for (packed, near) in near.iter_mut().enumerate() {
            let levels: [usize; K] = std::array::from_fn(|at| packed >> (bits * at) & ((1 << bits) - 1));
            let is_combination = levels.iter().all(|level| *level < n_levels as usize);
            if !is_combination || matches!(near, Near::Point(_)) {
                continue;
            }
            let distance = |point: &[usize; K]| -> usize {
                let each = point.iter().zip(&levels);
                each.map(|(a, b)| a.abs_diff(*b).pow(2)).sum()
            };
            by_distance.clear();
            by_distance.extend(points.iter().zip(0..).map(|(point, place)| (distance(point), place)));
            let mut distances: Vec<usize> = by_distance.iter().map(|(distance, _)| *distance).collect();
            distances.sort_unstable();
            distances.dedup();
            let last = distances[n_distances.min(distances.len()) - 1];
            by_distance.retain(|(distance, _)| *distance <= last);
            by_distance.sort_unstable();
            let start = neighbours.len() as u32;
            neighbours.extend(by_distance.iter().map(|(_, place)| *place));
            *near = Near::Among(start, neighbours.len() as u32);
        }
        let points = points.iter().map(|point| point.map(|level| (2 * level + 1) as f32));
        Grid {
            points: points.collect(),
            near,
            neighbours,
        }
    }

    /// Rounds a run of numbers to levels, which `inverse` scales, and returns their point or those that are near.
    #[inline(always)]
    fn round(&self, x: &[f32; K], inverse: f32) -> Near {
        let (n_levels, bits) = levels::<K>();
        let mut packed = 0;
        for (at, x) in x.iter().enumerate() {
            let level = nearest_integer(0.5 * (inverse * x - 1.0)).clamp(0, n_levels - 1);
            packed |= (level as usize) << (bits * at);
        }
        self.near[packed]
    }

    /// Returns the point, or the one of the near ones that fits best.
    #[inline(always)]
    fn choose(&self, near: Near, x: &[f32; K], roots: &[f32; K], scale: f32) -> u16 {
        let (start, end) = match near {
            Near::Point(place) => return place,
            Near::Among(start, end) => (start as usize, end as usize),
        };
        let (mut best, mut chosen) = (f32::MAX, 0);
        for place in &self.neighbours[start..end] {
            let point = &self.points[usize::from(*place)];
            let mut distance = 0.0;
            for i in 0..K {
                let difference = scale * point[i] - x[i];
                distance += roots[i] * difference * difference;
            }
            if distance < best {
                (best, chosen) = (distance, *place);
            }
        }
        chosen
    }
}

/// Turns a table of values back into levels: `values` are those of the levels, rising.
pub(super) fn points_of<const K: usize>(table: &[[i8; K]], values: &'static [i8]) -> impl Iterator<Item = [usize; K]> {
    table
        .iter()
        .map(move |point| point.map(|value| values.iter().position(|known| *known == value).unwrap_or(0)))
}

static IQ2_XXS: LazyLock<Grid<8>> = LazyLock::new(|| Grid::new(points_of(&grids::IQ2_XXS, &grids::VALUES_2), 2));
static IQ2_XS: LazyLock<Grid<8>> = LazyLock::new(|| Grid::new(points_of(&grids::IQ2_XS, &grids::VALUES_2), 2));
static IQ2_S: LazyLock<Grid<8>> = LazyLock::new(|| Grid::new(points_of(&grids::IQ2_S, &grids::VALUES_2), 1));
static IQ3_XXS: LazyLock<Grid<4>> = LazyLock::new(|| Grid::new(points_of(&grids::IQ3_XXS, &grids::VALUES_3), 2));
static IQ3_S: LazyLock<Grid<4>> = LazyLock::new(|| Grid::new(points_of(&grids::IQ3_S, &grids::ODD), 3));

/// What differs between the types.
struct Rule {
    /// The mean square that goes into weights, in units of the block's.
    mean: f32,
    /// Weights without importance: this much of the mean square beside a number's own square.
    floor: f32,
    /// Whether the number of minus signs of eight has to be even.
    is_even: bool,
    /// A group whose numbers are all below this is zero.
    zero_below: f32,
    /// Scales are tried from -`tries` to `tries` steps.
    tries: i32,
    step: f32,
    /// Which runs are rounded again with the scale that was found.
    again: Again,
    /// What the block's scale is multiplied by before it is stored.
    factor: f32,
}

#[derive(Clone, Copy, PartialEq)]
enum Again {
    /// All, always; and the first scale is searched for as well.
    Always,
    /// Those whose levels were no point.
    OffGrid,
    /// All, where one of them was none.
    AllIfOff,
}

const RULE_2_XXS: Rule = Rule {
    mean: 1.0,
    floor: 0.0,
    is_even: true,
    zero_below: 1e-15,
    tries: 6,
    step: 0.1,
    again: Again::Always,
    factor: 1.0,
};
const RULE_2_XS: Rule = Rule {
    tries: 9,
    again: Again::OffGrid,
    ..RULE_2_XXS
};
const RULE_2_S: Rule = Rule {
    mean: 2.0,
    floor: 0.25,
    is_even: false,
    zero_below: 1e-8,
    factor: 0.9875,
    ..RULE_2_XS
};
const RULE_3_XXS: Rule = Rule {
    mean: 2.0,
    floor: 0.0,
    is_even: true,
    zero_below: 1e-8,
    tries: 15,
    step: 0.2,
    again: Again::OffGrid,
    factor: 1.0125,
};
const RULE_3_S: Rule = Rule {
    is_even: false,
    zero_below: f32::MIN_POSITIVE * f32::EPSILON,
    tries: 9,
    again: Again::AllIfOff,
    factor: 1.033,
    ..RULE_3_XXS
};

/// A group: its scale, a bit for each minus sign, and a point for each run.
#[derive(Clone, Copy, Default)]
struct Group {
    scale: f32,
    signs: [u8; 4],
    places: [u16; 8],
}

/// A block of 256: the scale to store, and of its groups their 4 bits of scale and the rest. No scale where all is zero.
struct Block {
    d: f16,
    levels: [u8; 16],
    groups: [Group; 16],
    is_zero: bool,
}

/// Encodes the numbers of a block by groups of `G` and runs of `K`.
fn block<const G: usize, const K: usize>(
    grid: &Grid<K>,
    rule: &Rule,
    x: &[f32; 256],
    importance: Option<&[f32; 256]>,
) -> Block {
    let mut sum = 0.0;
    for number in x {
        sum += number * number;
    }
    let mean = rule.mean * sum / 256.0;
    let mut groups = [Group::default(); 16];
    let mut largest = 0.0f32;
    let (numbers, _) = x.as_chunks::<G>();
    for (at, numbers) in numbers.iter().enumerate() {
        let mut weights = [0.0; G];
        for (i, number) in numbers.iter().enumerate() {
            weights[i] = match importance {
                Some(importance) => importance[G * at + i] * (mean + number * number).sqrt(),
                None => rule.floor * mean + number * number,
            };
        }
        groups[at] = group::<G, K>(grid, rule, numbers, &weights);
        largest = if largest > groups[at].scale {
            largest
        } else {
            groups[at].scale
        };
    }
    let mut levels = [0; 16];
    let d = largest / 31.0;
    if largest != 0.0 {
        let inverse = 1.0 / d;
        for (level, group) in levels.iter_mut().zip(&groups[..256 / G]) {
            *level = nearest_integer(0.5 * (inverse * group.scale - 1.0)).clamp(0, 15) as u8;
        }
    }
    Block {
        d: if largest == 0.0 {
            f16::ZERO
        } else {
            f16::from_f32_const(d * rule.factor)
        },
        levels,
        groups,
        is_zero: largest == 0.0,
    }
}

fn group<const G: usize, const K: usize>(grid: &Grid<K>, rule: &Rule, x: &[f32; G], weights: &[f32; G]) -> Group {
    let mut found = Group::default();
    let mut sizes = [0.0; G];
    for (run, signs) in found.signs.iter_mut().take(G / 8).enumerate() {
        let at = 8 * run..8 * run + 8;
        *signs = apart(rule.is_even, &x[at.clone()], &weights[at.clone()], &mut sizes[at]);
    }
    let roots = weights.map(f32::sqrt);
    let mut most = sizes[0];
    for size in &sizes[1..] {
        most = if most > *size { most } else { *size };
    }
    if most < rule.zero_below {
        return Group::default();
    }
    let (n_levels, _) = levels::<K>();
    let top = (2 * n_levels - 1) as f32;
    // What the largest number is divided by the tried scales of.
    let (mut scale, extent) = match rule.again {
        Again::Always => {
            let first = positive(&sizes, weights, n_levels + 1);
            (first, first * n_levels as f32)
        }
        _ => (most / top, most),
    };
    if extent <= 0.0 {
        return Group::default();
    }
    let (runs, _) = sizes.as_chunks::<K>();
    let (run_roots, _) = roots.as_chunks::<K>();
    let n_runs = G / K;
    // Where nothing is better than nothing all levels are 0, which every grid has.
    let origin = match grid.near[0] {
        Near::Point(place) => place,
        Near::Among(..) => 0,
    };
    found.places = [origin; 8];
    let mut is_on_grid = [rule.again != Again::AllIfOff; 8];
    let mut best = 0.0;
    for step in -rule.tries..=rule.tries {
        let inverse = (top + step as f32 * rule.step) / extent;
        let tried = 1.0 / inverse;
        let (mut places, mut is_point) = ([0; 8], [true; 8]);
        for run in 0..n_runs {
            let near = grid.round(&runs[run], inverse);
            is_point[run] = matches!(near, Near::Point(_));
            places[run] = grid.choose(near, &runs[run], &run_roots[run], tried);
        }
        let (sum_qx, sum_q2) = sums(grid, &sizes, weights, &places);
        if sum_q2 > 0.0 && sum_qx * sum_qx > best * sum_q2 {
            scale = sum_qx / sum_q2;
            best = scale * sum_qx;
            (found.places, is_on_grid) = (places, is_point);
        }
    }
    let is_off = is_on_grid[..n_runs].contains(&false);
    if scale > 0.0 && (is_off || rule.again == Again::Always) {
        let inverse = 1.0 / scale;
        for run in 0..n_runs {
            if rule.again == Again::OffGrid && is_on_grid[run] {
                continue;
            }
            let near = grid.round(&runs[run], inverse);
            found.places[run] = grid.choose(near, &runs[run], &run_roots[run], scale);
        }
        let (sum_qx, sum_q2) = sums(grid, &sizes, weights, &found.places);
        if sum_q2 > 0.0 {
            scale = sum_qx / sum_q2;
        }
    }
    if scale < 0.0 {
        scale = -scale;
        let mask = if rule.is_even { 127 } else { 255 };
        found.signs = found.signs.map(|signs| !signs & mask);
    }
    found.scale = scale;
    found
}

/// Writes the sizes of eight numbers and returns a bit for each that is negative; where their number has to be even and is not, the number that matters least gets the
/// other sign, and its size is negative then. Of an even number the last bit is not stored.
#[inline(always)]
fn apart(is_even: bool, x: &[f32], weights: &[f32], sizes: &mut [f32]) -> u8 {
    let mut signs = 0u8;
    for (i, (x, size)) in x.iter().zip(sizes.iter_mut()).enumerate() {
        *size = if *x >= 0.0 { *x } else { -*x };
        signs |= u8::from(*x < 0.0) << i;
    }
    if !is_even {
        return signs;
    }
    if !signs.count_ones().is_multiple_of(2) {
        let cost = |i: usize| weights[i] * x[i] * x[i];
        let (mut least, mut at) = (cost(0), 0);
        for i in 1..8 {
            if cost(i) < least {
                (least, at) = (cost(i), i);
            }
        }
        sizes[at] = -sizes[at];
        signs ^= 1 << at;
    }
    signs & 127
}

#[inline(always)]
fn sums<const G: usize, const K: usize>(
    grid: &Grid<K>,
    x: &[f32; G],
    weights: &[f32; G],
    places: &[u16; 8],
) -> (f32, f32) {
    let (mut sum_qx, mut sum_q2) = (0.0, 0.0);
    for i in 0..G {
        let q = grid.points[usize::from(places[i / K])][i % K];
        let weight = weights[i];
        sum_qx += weight * x[i] * q;
        sum_q2 += weight * q * q;
    }
    (sum_qx, sum_q2)
}

/// Returns a scale for numbers that are mostly positive, as levels from 0 to `top`: tried, fitted, and then improved level by level.
///
/// Source: `make_qp_quants` of ggml-quants.c, which keeps levels in a byte.
fn positive<const G: usize>(x: &[f32; G], weights: &[f32; G], top: i32) -> f32 {
    let mut most = 0.0f32;
    for number in x {
        most = if most > *number { most } else { *number };
    }
    if most < 1e-15 {
        return 0.0;
    }
    let bound = top as f32;
    let byte = |integer: i32| f32::from(integer as u8);
    let mut inverse = bound / most;
    let first = 1.0 / inverse;
    let mut least = 0.0;
    for i in 0..G {
        let difference = x[i] - first * byte(nearest_integer(inverse * x[i]));
        least += weights[i] * difference * difference;
    }
    for step in -4..=4 {
        if step == 0 {
            continue;
        }
        let tried = (0.1 * step as f32 + bound) / most;
        let scale = 1.0 / tried;
        let mut error = 0.0;
        for i in 0..G {
            let level = nearest_integer(tried * x[i]).min(top);
            let difference = x[i] - scale * level as f32;
            error += weights[i] * difference * difference;
        }
        if error < least {
            (least, inverse) = (error, tried);
        }
    }
    let mut levels = [0u8; G];
    let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
    for i in 0..G {
        let level = nearest_integer(inverse * x[i]).min(top);
        levels[i] = level as u8;
        sum_lx += weights[i] * x[i] * level as f32;
        sum_l2 += weights[i] * level as f32 * level as f32;
    }
    for _ in 0..5 {
        let mut is_changed = false;
        for i in 0..G {
            let (weight, level) = (weights[i], f32::from(levels[i]));
            let mut lx = sum_lx - weight * x[i] * level;
            let mut l2 = sum_l2 - weight * level * level;
            if lx > 0.0 && l2 > 0.0 {
                let new = nearest_integer(x[i] * l2 / lx).min(top);
                if new != i32::from(levels[i]) {
                    lx += weight * x[i] * new as f32;
                    l2 += weight * new as f32 * new as f32;
                    if lx * lx * sum_l2 > sum_lx * sum_lx * l2 {
                        levels[i] = new as u8;
                        (sum_lx, sum_l2) = (lx, l2);
                        is_changed = true;
                    }
                }
            }
        }
        if !is_changed {
            break;
        }
    }
    if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }
}

/// Encodes whole rows of blocks of `B` bytes; these come as zeros to `write`.
fn each<const B: usize>(
    rows: &[f32],
    n_columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
    write: impl Fn(&[f32; 256], Option<&[f32; 256]>, &mut [u8; B]),
) {
    let (blocks, _) = rows.as_chunks::<256>();
    let (out, _) = out.as_chunks_mut::<B>();
    let weights = importance.map(|importance| importance.as_chunks::<256>().0);
    let row_blocks = n_columns / 256;
    for (at, (numbers, out)) in blocks.iter().zip(out).enumerate() {
        *out = [0; B];
        write(numbers, weights.map(|weights| &weights[at % row_blocks]), out);
    }
}

pub(super) fn iq1_s(rows: &[f32], n_columns: usize, importance: Option<&[f32]>, out: &mut [u8]) {
    each::<50>(rows, n_columns, importance, out, one::iq1_s);
}

pub(super) fn iq1_m(rows: &[f32], n_columns: usize, importance: Option<&[f32]>, out: &mut [u8]) {
    each::<56>(rows, n_columns, importance, out, one::iq1_m);
}

pub(super) fn iq2_xxs(rows: &[f32], n_columns: usize, importance: Option<&[f32]>, out: &mut [u8]) {
    each::<66>(rows, n_columns, importance, out, |x, importance, out| {
        let block = block::<32, 8>(&IQ2_XXS, &RULE_2_XXS, x, importance);
        if block.is_zero {
            return;
        }
        out[..2].copy_from_slice(&block.d.to_le_bytes());
        for (at, (group, level)) in block.groups[..8].iter().zip(block.levels).enumerate() {
            for (run, place) in group.places[..4].iter().enumerate() {
                out[2 + 8 * at + run] = *place as u8;
            }
            out[6 + 8 * at..][..4].copy_from_slice(&signs_and_level(group, level).to_le_bytes());
        }
    });
}

pub(super) fn iq2_xs(rows: &[f32], n_columns: usize, importance: Option<&[f32]>, out: &mut [u8]) {
    each::<74>(rows, n_columns, importance, out, |x, importance, out| {
        let block = block::<16, 8>(&IQ2_XS, &RULE_2_XS, x, importance);
        if block.is_zero {
            return;
        }
        out[..2].copy_from_slice(&block.d.to_le_bytes());
        for n in 0..32 {
            let group = &block.groups[n / 2];
            let word = group.places[n % 2] | u16::from(group.signs[n % 2]) << 9;
            out[2 + 2 * n..][..2].copy_from_slice(&word.to_le_bytes());
        }
        out[66..].copy_from_slice(&pairs(&block.levels));
    });
}

pub(super) fn iq2_s(rows: &[f32], n_columns: usize, importance: Option<&[f32]>, out: &mut [u8]) {
    each::<82>(rows, n_columns, importance, out, |x, importance, out| {
        let block = block::<16, 8>(&IQ2_S, &RULE_2_S, x, importance);
        out[..2].copy_from_slice(&block.d.to_le_bytes());
        for n in 0..32 {
            let group = &block.groups[n / 2];
            let [low, high] = group.places[n % 2].to_le_bytes();
            out[2 + n] = low;
            out[34 + n] = group.signs[n % 2];
            out[66 + n / 4] |= high << (2 * (n % 4));
        }
        out[74..].copy_from_slice(&pairs(&block.levels));
    });
}

pub(super) fn iq3_xxs(rows: &[f32], n_columns: usize, importance: Option<&[f32]>, out: &mut [u8]) {
    each::<98>(rows, n_columns, importance, out, |x, importance, out| {
        let block = block::<32, 4>(&IQ3_XXS, &RULE_3_XXS, x, importance);
        if block.is_zero {
            return;
        }
        out[..2].copy_from_slice(&block.d.to_le_bytes());
        for (at, (group, level)) in block.groups[..8].iter().zip(block.levels).enumerate() {
            for (run, place) in group.places.iter().enumerate() {
                out[2 + 8 * at + run] = *place as u8;
            }
            out[66 + 4 * at..][..4].copy_from_slice(&signs_and_level(group, level).to_le_bytes());
        }
    });
}

pub(super) fn iq3_s(rows: &[f32], n_columns: usize, importance: Option<&[f32]>, out: &mut [u8]) {
    each::<110>(rows, n_columns, importance, out, |x, importance, out| {
        let block = block::<32, 4>(&IQ3_S, &RULE_3_S, x, importance);
        out[..2].copy_from_slice(&block.d.to_le_bytes());
        for (at, group) in block.groups[..8].iter().enumerate() {
            for (run, place) in group.places.iter().enumerate() {
                let [low, high] = place.to_le_bytes();
                out[2 + 8 * at + run] = low;
                out[66 + at] |= high << run;
            }
            out[74 + 4 * at..][..4].copy_from_slice(&group.signs);
        }
        for (at, pair) in block.levels[..8].as_chunks::<2>().0.iter().enumerate() {
            out[106 + at] = pair[0] | pair[1] << 4;
        }
    });
}

/// Packs seven bits of signs for each of four runs, and the four of the scale.
fn signs_and_level(group: &Group, level: u8) -> u32 {
    let signs = group
        .signs
        .iter()
        .rev()
        .fold(0, |signs, seven| signs << 7 | u32::from(*seven));
    signs | u32::from(level) << 28
}

/// Packs levels of neighbours, the first in the low half.
fn pairs(levels: &[u8; 16]) -> [u8; 8] {
    std::array::from_fn(|at| levels[2 * at] | levels[2 * at + 1] << 4)
}
