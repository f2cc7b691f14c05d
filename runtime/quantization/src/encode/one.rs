//! The types of three values on a grid, IQ1_S and IQ1_M: numbers in order of size are cut in three, wherever that fits best.
//!
//! ```text
//! group of 32 (16): sort; for each pair of cuts, and for both shifts (of each half): the scale and what it explains, from running sums
//!                   levels that are no point of the grid become the best of the nearest points
//! ```
//! Of equal numbers the first stays first: the reference sorts with C's `qsort`, which in glibc merges and so keeps their order. It matters where a cut falls between them.
//!
//! Source: `quantize_row_iq1_s_impl` and `quantize_row_iq1_m_impl` of ggml-quants.c.

use std::sync::LazyLock;

use half::f16;

use super::grid::{Grid, Near, points_of};
use crate::grids;
use crate::lanes::nearest_integer;

/// The three values, shifted up and shifted down.
const SHIFTED: [[f32; 3]; 2] = [[-0.875, 0.125, 1.125], [-1.125, -0.125, 0.875]];

static GRID: LazyLock<Grid<8>> = LazyLock::new(|| Grid::new(points_of(&grids::IQ1, &grids::VALUES_1), 3));

/// A group: its scale, which of [`SHIFTED`] each run has, and a point for each.
#[derive(Clone, Copy, Default)]
struct Group {
    scale: f32,
    shifts: [usize; 4],
    places: [u16; 4],
}

/// Where numbers in order of size are cut, and what that gives.
struct Cut {
    first: usize,
    second: usize,
    scale: f32,
    score: f32,
    /// Which of the ways of shifting.
    way: usize,
}

impl Cut {
    fn none(scale: f32) -> Cut {
        Cut {
            first: usize::MAX,
            second: usize::MAX,
            scale,
            score: f32::MIN,
            way: 0,
        }
    }

    #[inline(always)]
    fn offer(&mut self, cuts: (usize, usize), way: usize, sum_qx: f32, sum_q2: f32) {
        if sum_q2 > 0.0 && sum_qx * sum_qx > self.score * sum_q2 {
            let scale = sum_qx / sum_q2;
            *self = Cut {
                first: cuts.0,
                second: cuts.1,
                scale,
                score: scale * sum_qx,
                way,
            };
        }
    }
}

fn weights<const G: usize>(x: &[f32; G], importance: Option<&[f32; G]>, mean: f32) -> [f32; G] {
    let mut weights = [0.0; G];
    for i in 0..G {
        weights[i] = match importance {
            Some(importance) => importance[i] * (mean + x[i] * x[i]).sqrt(),
            None => x[i] * x[i],
        };
    }
    weights
}

/// Returns the places of numbers in order of their size.
fn order<const G: usize>(x: &[f32; G]) -> [usize; G] {
    let mut order = std::array::from_fn(|i| i);
    order.sort_by(|a, b| x[*a].partial_cmp(&x[*b]).unwrap_or(std::cmp::Ordering::Equal));
    order
}

fn is_zero<const G: usize>(x: &[f32; G], below: f32) -> bool {
    let mut most = x[0].abs();
    for number in x {
        most = if most > number.abs() { most } else { number.abs() };
    }
    most < below
}

/// Turns cuts into levels and these into points; `shifts` are those of a way, and of the one that is left when all signs turn.
fn points<const G: usize>(
    x: &[f32; G],
    weights: &[f32; G],
    order: &[usize; G],
    cut: &Cut,
    shifts: impl Fn(usize, bool) -> [usize; 4],
) -> Group {
    let mut levels = [2u8; G];
    for (place, at) in order.iter().enumerate() {
        levels[*at] = u8::from(place >= cut.first) + u8::from(place >= cut.second);
    }
    let is_negative = cut.scale < 0.0;
    let mut group = Group {
        scale: cut.scale,
        shifts: shifts(cut.way, is_negative),
        places: [0; 4],
    };
    if is_negative {
        levels = levels.map(|level| 2 - level);
        group.scale = -cut.scale;
    }
    let mut are_all_on_grid = true;
    for (run, levels) in levels.as_chunks::<8>().0.iter().enumerate() {
        let packed = levels
            .iter()
            .rev()
            .fold(0, |packed, level| packed << 2 | usize::from(*level));
        group.places[run] = match GRID.near[packed] {
            Near::Point(place) => place,
            Near::Among(start, end) => {
                are_all_on_grid = false;
                let near = &GRID.neighbours[start as usize..end as usize];
                let at = 8 * run..8 * run + 8;
                nearest(
                    near,
                    &x[at.clone()],
                    &weights[at],
                    group.scale,
                    &SHIFTED[group.shifts[run]],
                )
            }
        };
    }
    if !are_all_on_grid {
        let (sum_qx, sum_q2) = sums(&group, x, weights, 1.0, (0.0, 0.0));
        if sum_qx > 0.0 && sum_q2 > 0.0 {
            group.scale = sum_qx / sum_q2;
        }
    }
    group
}

fn nearest(near: &[u16], x: &[f32], weights: &[f32], scale: f32, values: &[f32; 3]) -> u16 {
    let (mut best, mut chosen) = (f32::MAX, 0);
    for place in near {
        let point = &GRID.points[usize::from(*place)];
        let mut distance = 0.0;
        for i in 0..8 {
            let difference = scale * value(point[i], values) - x[i];
            distance += weights[i] * difference * difference;
        }
        if distance < best {
            (best, chosen) = (distance, *place);
        }
    }
    chosen
}

/// Returns what a level, as the grid has it, stands for.
#[inline(always)]
fn value(level: f32, values: &[f32; 3]) -> f32 {
    values[(level as usize - 1) / 2]
}

/// Adds a group's products to sums; `factor` multiplies its values.
fn sums<const G: usize>(
    group: &Group,
    x: &[f32; G],
    weights: &[f32; G],
    factor: f32,
    (mut sum_qx, mut sum_q2): (f32, f32),
) -> (f32, f32) {
    for i in 0..G {
        let point = &GRID.points[usize::from(group.places[i / 8])];
        let q = value(point[i % 8], &SHIFTED[group.shifts[i / 8]]) * factor;
        sum_qx += weights[i] * q * x[i];
        sum_q2 += weights[i] * q * q;
    }
    (sum_qx, sum_q2)
}

/// A group of IQ1_S, whose runs share a shift; nothing for one of zeros.
fn group_s(x: &[f32; 32], weights: &[f32; 32]) -> Option<Group> {
    if is_zero(x, 1e-12) {
        return None;
    }
    let order = order(x);
    let (mut sum_x, mut sum_w) = ([0.0; 33], [0.0; 33]);
    for (place, at) in order.iter().enumerate() {
        sum_x[place + 1] = sum_x[place] + weights[*at] * x[*at];
        sum_w[place + 1] = sum_w[place] + weights[*at];
    }
    let mut cut = Cut::none(0.0);
    for first in 0..=32 {
        for second in first..=32 {
            for (way, [low, middle, high]) in SHIFTED.into_iter().enumerate() {
                let sum_qx = (sum_x[first] - sum_x[0]) * low
                    + (sum_x[second] - sum_x[first]) * middle
                    + (sum_x[32] - sum_x[second]) * high;
                let sum_q2 = (sum_w[first] - sum_w[0]) * low * low
                    + (sum_w[second] - sum_w[first]) * middle * middle
                    + (sum_w[32] - sum_w[second]) * high * high;
                cut.offer((first, second), way, sum_qx, sum_q2);
            }
        }
    }
    if cut.first == usize::MAX {
        return None;
    }
    Some(points(x, weights, &order, &cut, |way, is_negative| {
        [way ^ usize::from(is_negative); 4]
    }))
}

/// A group of IQ1_M, whose two runs have a shift each; nothing for one of zeros.
fn group_m(x: &[f32; 16], weights: &[f32; 16]) -> Option<Group> {
    if is_zero(x, 1e-7) {
        return None;
    }
    let order = order(x);
    // Running sums of each half, over all in order of size.
    let (mut sum_x, mut sum_w) = ([[0.0f32; 17]; 2], [[0.0f32; 17]; 2]);
    for (place, at) in order.iter().enumerate() {
        let half = at / 8;
        for side in 0..2 {
            sum_x[side][place + 1] = sum_x[side][place];
            sum_w[side][place + 1] = sum_w[side][place];
        }
        sum_x[half][place + 1] = sum_x[half][place] + weights[*at] * x[*at];
        sum_w[half][place + 1] = sum_w[half][place] + weights[*at];
    }
    let mut cut = Cut::none(0.0);
    let steps = SHIFTED.map(|[low, middle, high]| (low * low - middle * middle, middle * middle - high * high));
    for first in 0..=16 {
        for second in first..=16 {
            // Of each half with each shift.
            let (mut qx, mut q2) = ([[0.0; 2]; 2], [[0.0; 2]; 2]);
            for half in 0..2 {
                let below = sum_x[half][first] + sum_x[half][second];
                for shift in 0..2 {
                    let high = SHIFTED[shift][2];
                    qx[half][shift] = sum_x[half][16] * high - below;
                    q2[half][shift] = sum_w[half][16] * high * high
                        + sum_w[half][first] * steps[shift].0
                        + sum_w[half][second] * steps[shift].1;
                }
            }
            for way in 0..4 {
                let (one, other) = (way / 2, way % 2);
                let (sum_qx, sum_q2) = (qx[0][one] + qx[1][other], q2[0][one] + q2[1][other]);
                cut.offer((first, second), way, sum_qx, sum_q2);
            }
        }
    }
    if cut.first == usize::MAX {
        return None;
    }
    Some(points(x, weights, &order, &cut, |way, is_negative| {
        let way = if is_negative { 3 - way } else { way };
        [way / 2, way % 2, 0, 0]
    }))
}

fn mean_of(x: &[f32; 256]) -> f32 {
    let mut sum = 0.0;
    for number in x {
        sum += number * number;
    }
    2.0 * sum / 256.0
}

/// Returns the level of a scale: 3 bits.
fn level(inverse: f32, scale: f32) -> u16 {
    nearest_integer(0.5 * (inverse * scale - 1.0)).clamp(0, 7) as u16
}

fn largest(groups: &[Option<Group>]) -> f32 {
    let mut largest = 0.0;
    for group in groups {
        let scale = group.map_or(0.0, |group| group.scale);
        largest = if largest > scale { largest } else { scale };
    }
    largest
}

/// Encodes a block, which comes as zeros.
pub(super) fn iq1_s(x: &[f32; 256], importance: Option<&[f32; 256]>, out: &mut [u8; 50]) {
    let mean = mean_of(x);
    let (runs, _) = x.as_chunks::<32>();
    let groups: [Option<Group>; 8] = std::array::from_fn(|at| {
        let importance = importance.map(|importance| &importance.as_chunks::<32>().0[at]);
        group_s(&runs[at], &weights(&runs[at], importance, mean))
    });
    let largest = largest(&groups);
    let d = largest / 15.0;
    if largest != 0.0 {
        out[..2].copy_from_slice(&f16::from_f32_const(d * 1.125).to_le_bytes());
    }
    for (at, group) in groups.iter().enumerate() {
        let Some(group) = group else { continue };
        let mut high = 0;
        for (run, place) in group.places.iter().enumerate() {
            out[2 + 4 * at + run] = *place as u8;
            high |= place >> 8 << (3 * run);
        }
        if largest != 0.0 {
            high |= (level(1.0 / d, group.scale) | (group.shifts[0] as u16) << 3) << 12;
        }
        out[34 + 2 * at..][..2].copy_from_slice(&high.to_le_bytes());
    }
}

/// Encodes a block, which comes as zeros.
pub(super) fn iq1_m(x: &[f32; 256], importance: Option<&[f32; 256]>, out: &mut [u8; 56]) {
    let mean = mean_of(x);
    let (runs, _) = x.as_chunks::<16>();
    let weights: [[f32; 16]; 16] = std::array::from_fn(|at| {
        let importance = importance.map(|importance| &importance.as_chunks::<16>().0[at]);
        weights(&runs[at], importance, mean)
    });
    let groups: [Option<Group>; 16] = std::array::from_fn(|at| group_m(&runs[at], &weights[at]));
    for (at, group) in groups.iter().enumerate() {
        let Some(group) = group else { continue };
        let [one, other, ..] = group.places;
        (out[2 * at], out[2 * at + 1]) = (one as u8, other as u8);
        out[32 + at] = (one >> 8 | other >> 8 << 4) as u8;
    }
    let largest = largest(&groups);
    if largest == 0.0 {
        return;
    }
    let mut d = largest / 15.0;
    let inverse = 1.0 / d;
    let mut words = [0u16; 4];
    let mut fitted = (0.0, 0.0);
    for (at, group) in groups.iter().enumerate() {
        // A group of zeros has the first point of the grid, shifted up.
        let group = group.unwrap_or_default();
        let level = level(inverse, group.scale);
        words[at / 4] |= level << (3 * (at % 4));
        let [one, other, ..] = group.shifts;
        out[32 + at] |= (one << 3 | other << 7) as u8;
        fitted = sums(&group, &runs[at], &weights[at], f32::from(2 * level + 1), fitted);
    }
    if fitted.1 > 0.0 {
        d = fitted.0 / fitted.1;
    }
    let bits = f16::from_f32_const(d * 1.1125).to_bits();
    for (at, word) in words.iter_mut().enumerate() {
        *word |= (bits >> (4 * at) & 15) << 12;
        out[48 + 2 * at..][..2].copy_from_slice(&word.to_le_bytes());
    }
}
