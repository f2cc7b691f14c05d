//! The searches for scales, on lanes.
//!
//! Source: `make_qx_quants`, `make_q3_quants`, `make_qkx2_quants` / `make_qkx3_quants` (the same for finite numbers and given weights) and `make_qp_quants` of
//! ggml-quants.c. What is kept of each is the order of its f32 operations. What differs: a search does not keep the integers of its best candidate but the
//! scale that they came from, since nearly always they are thrown away; [`Affine::integer`] and [`Symmetric::integer`] make them again.
//!
//! Cost, for a group of 32 and 21 candidates: 21 operations a number and candidate.

use crate::lanes::Lanes;

/// Below this, a group is taken for zeros.
pub(super) const ZERO_BELOW: f32 = 1e-15;

/// How an affine search tries scales: `steps + 1` candidates from `first` on, each `step` further.
#[derive(Clone, Copy)]
pub(super) struct Tries {
    pub(super) first: f32,
    pub(super) step: f32,
    pub(super) steps: u32,
    /// Whether errors are counted by their size and not by their square.
    pub(super) absolute: bool,
}

impl Tries {
    #[inline(always)]
    fn error<V: Lanes>(self, v: V, integer: V::F, scale: V::F, minimum: V::F, number: V::F) -> V::F {
        let difference = v.sub(v.add(v.mul(scale, integer), minimum), number);
        if self.absolute {
            v.abs(difference)
        } else {
            v.mul(difference, difference)
        }
    }
}

/// Scale and shift of a group: a number is `scale * integer - minimum`.
pub(super) struct Affine<V: Lanes> {
    pub(super) scale: V::F,
    pub(super) minimum: V::F,
    inverse: V::F,
    base: V::F,
    highest: f32,
}

impl<V: Lanes> Affine<V> {
    /// Returns the integer that the search found for a number.
    #[inline(always)]
    pub(super) fn integer(&self, v: V, number: V::F) -> V::F {
        let scaled = v.mul(self.inverse, v.sub(number, self.base));
        v.clamp(v.nearest(scaled), 0.0, self.highest)
    }

    /// Finds integers of 0 to `highest` for the numbers of a group.
    #[inline(always)]
    pub(super) fn search<const G: usize>(v: V, x: &[V::F; G], weights: &[V::F; G], highest: f32, tries: Tries) -> Self {
        let zero = v.splat(0.0);
        let (mut minimum, mut maximum) = (x[0], x[0]);
        let mut sum_w = weights[0];
        let mut sum_x = v.mul(sum_w, x[0]);
        for i in 1..G {
            minimum = v.select(v.less(x[i], minimum), x[i], minimum);
            maximum = v.select(v.less(maximum, x[i]), x[i], maximum);
            sum_w = v.add(sum_w, weights[i]);
            sum_x = v.add(sum_x, v.mul(weights[i], x[i]));
        }
        minimum = v.select(v.less(zero, minimum), zero, minimum);
        let is_flat = v.equal(minimum, maximum);
        let flat_minimum = minimum;

        let mut inverse = v.div(v.splat(highest), v.sub(maximum, minimum));
        let mut base = minimum;
        let mut scale = v.div(v.splat(1.0), inverse);
        let mut best = zero;
        for i in 0..G {
            let integer = v.clamp(v.nearest(v.mul(inverse, v.sub(x[i], minimum))), 0.0, highest);
            best = v.add(best, v.mul(weights[i], tries.error(v, integer, scale, minimum, x[i])));
        }
        for step in 0..=tries.steps {
            let wanted = tries.first + tries.step * step as f32 + highest;
            let tried = v.div(v.splat(wanted), v.sub(maximum, minimum));
            let mut integers = [zero; G];
            let (mut sum_l, mut sum_l2, mut sum_xl) = (zero, zero, zero);
            for i in 0..G {
                let integer = v.clamp(v.nearest(v.mul(tried, v.sub(x[i], minimum))), 0.0, highest);
                integers[i] = integer;
                let weighted = v.mul(weights[i], integer);
                sum_l = v.add(sum_l, weighted);
                sum_l2 = v.add(sum_l2, v.mul(weighted, integer));
                sum_xl = v.add(sum_xl, v.mul(weighted, x[i]));
            }
            let determinant = v.sub(v.mul(sum_w, sum_l2), v.mul(sum_l, sum_l));
            let is_solvable = v.less(zero, determinant);
            let fitted = v.div(v.sub(v.mul(sum_w, sum_xl), v.mul(sum_x, sum_l)), determinant);
            let fitted_minimum = v.div(v.sub(v.mul(sum_l2, sum_x), v.mul(sum_l, sum_xl)), determinant);
            let is_above = v.less(zero, fitted_minimum);
            let fitted_minimum = v.select(is_above, zero, fitted_minimum);
            let fitted = v.select(is_above, v.div(sum_xl, sum_l2), fitted);
            let mut error = zero;
            for i in 0..G {
                let term = tries.error(v, integers[i], fitted, fitted_minimum, x[i]);
                error = v.add(error, v.mul(weights[i], term));
            }
            let is_better = v.both(is_solvable, v.less(error, best));
            best = v.select(is_better, error, best);
            scale = v.select(is_better, fitted, scale);
            inverse = v.select(is_better, tried, inverse);
            base = v.select(is_better, minimum, base);
            minimum = v.select(is_better, fitted_minimum, minimum);
        }
        Affine {
            scale: v.select(is_flat, zero, scale),
            minimum: v.neg(v.select(is_flat, flat_minimum, minimum)),
            inverse: v.select(is_flat, zero, inverse),
            base: v.select(is_flat, flat_minimum, base),
            highest,
        }
    }
}

/// The scale of a group: a number is `scale * integer`, with integers of `-bound` to `bound - 1`.
pub(super) struct Symmetric<V: Lanes> {
    pub(super) scale: V::F,
    inverse: V::F,
    is_zero: V::M,
    bound: f32,
}

impl<V: Lanes> Symmetric<V> {
    /// Returns the integer that the search found for a number, counted from `-bound`; 0 in a group of zeros.
    #[inline(always)]
    pub(super) fn integer(&self, v: V, number: V::F) -> V::F {
        let integer = bounded(v, v.mul(self.inverse, number), self.bound);
        v.select(self.is_zero, v.splat(0.0), v.add(integer, v.splat(self.bound)))
    }

    /// Finds the scale for the numbers of a group.
    #[inline(always)]
    pub(super) fn search<const G: usize>(v: V, x: &[V::F; G], weights: &[V::F; G], bound: f32) -> Self {
        let zero = v.splat(0.0);
        let (largest, size) = largest(v, x);
        let is_zero = v.less(size, v.splat(ZERO_BELOW));
        let mut weighted = [zero; G];
        for i in 0..G {
            weighted[i] = v.mul(weights[i], x[i]);
        }
        let mut inverse = v.div(v.splat(-bound), largest);
        let (sum_lx, sum_l2) = sums(v, x, weights, &weighted, inverse, bound);
        let mut scale = v.select(v.equal(sum_l2, zero), zero, v.div(sum_lx, sum_l2));
        let mut best = v.mul(scale, sum_lx);
        for step in (-9..=9).filter(|step| *step != 0) {
            let tried = v.div(v.splat(-(bound + 0.1 * step as f32)), largest);
            let (sum_lx, sum_l2) = sums(v, x, weights, &weighted, tried, bound);
            let is_better = v.both(v.less(zero, sum_l2), v.less(v.mul(best, sum_l2), v.mul(sum_lx, sum_lx)));
            let fitted = v.div(sum_lx, sum_l2);
            scale = v.select(is_better, fitted, scale);
            best = v.select(is_better, v.mul(fitted, sum_lx), best);
            inverse = v.select(is_better, tried, inverse);
        }
        Symmetric {
            scale: v.select(is_zero, zero, scale),
            inverse,
            is_zero,
            bound,
        }
    }
}

/// Sums `w * x * l` and `w * l * l` for the integers that a scale gives.
#[inline(always)]
fn sums<V: Lanes, const G: usize>(
    v: V,
    x: &[V::F; G],
    weights: &[V::F; G],
    weighted: &[V::F; G],
    inverse: V::F,
    bound: f32,
) -> (V::F, V::F) {
    let (mut sum_lx, mut sum_l2) = (v.splat(0.0), v.splat(0.0));
    for i in 0..G {
        let integer = bounded(v, v.mul(inverse, x[i]), bound);
        sum_lx = v.add(sum_lx, v.mul(weighted[i], integer));
        sum_l2 = v.add(sum_l2, v.mul(v.mul(weights[i], integer), integer));
    }
    (sum_lx, sum_l2)
}

/// Returns the scale of a group of 16 and its integers, counted from -4, of 3 bits: found by changing one integer at a time.
#[inline(always)]
pub(super) fn three_bits<V: Lanes>(v: V, x: &[V::F; 16]) -> (V::F, [V::F; 16]) {
    const BOUND: f32 = 4.0;
    let zero = v.splat(0.0);
    let (largest, size) = largest(v, x);
    let is_zero = v.less(size, v.splat(ZERO_BELOW));
    let inverse = v.div(v.splat(-BOUND), largest);
    let (mut sum_lx, mut sum_l2) = (zero, zero);
    let (mut weights, mut weighted, mut integers) = ([zero; 16], [zero; 16], [zero; 16]);
    for i in 0..16 {
        integers[i] = bounded(v, v.mul(inverse, x[i]), BOUND);
        weights[i] = v.mul(x[i], x[i]);
        weighted[i] = v.mul(weights[i], x[i]);
        sum_lx = v.add(sum_lx, v.mul(weighted[i], integers[i]));
        sum_l2 = v.add(sum_l2, v.mul(v.mul(weights[i], integers[i]), integers[i]));
    }
    for _ in 0..5 {
        // A lane that changed nothing changes nothing in another round either, so all lanes may go on while one does.
        let mut any_changed = false;
        for i in 0..16 {
            let without_lx = v.sub(sum_lx, v.mul(weighted[i], integers[i]));
            let without_l2 = v.sub(sum_l2, v.mul(v.mul(weights[i], integers[i]), integers[i]));
            let wanted = v.div(v.mul(x[i], without_l2), without_lx);
            let integer = bounded(v, wanted, BOUND);
            let new_lx = v.add(without_lx, v.mul(weighted[i], integer));
            let new_l2 = v.add(without_l2, v.mul(v.mul(weights[i], integer), integer));
            let is_other = v.both(v.less(zero, without_lx), v.not(v.equal(integer, integers[i])));
            let is_better = v.less(
                v.mul(v.mul(sum_lx, sum_lx), new_l2),
                v.mul(v.mul(new_lx, new_lx), sum_l2),
            );
            let changes = v.both(v.both(is_other, v.less(zero, new_l2)), is_better);
            integers[i] = v.select(changes, integer, integers[i]);
            sum_lx = v.select(changes, new_lx, sum_lx);
            sum_l2 = v.select(changes, new_l2, sum_l2);
            any_changed |= v.any(v.both(changes, v.not(is_zero)));
        }
        if !any_changed {
            break;
        }
    }
    for integer in &mut integers {
        *integer = v.select(is_zero, zero, v.add(*integer, v.splat(BOUND)));
    }
    let scale = v.select(v.less(zero, sum_l2), v.div(sum_lx, sum_l2), zero);
    (v.select(is_zero, zero, scale), integers)
}

/// Returns a scale and integers up to `highest` for numbers that are not negative: those of the groups of a block. The integers are bytes, and wrap as such.
#[inline(always)]
pub(super) fn positive<V: Lanes, const G: usize>(
    v: V,
    x: &[V::F; G],
    weights: &[V::F; G],
    highest: f32,
) -> (V::F, [V::F; G]) {
    let zero = v.splat(0.0);
    let one = v.splat(1.0);
    let mut largest = zero;
    for number in x {
        largest = v.select(v.less(*number, largest), largest, *number);
    }
    let is_zero = v.less(largest, v.splat(ZERO_BELOW));
    let mut inverse = v.div(v.splat(highest), largest);
    let scale = v.div(one, inverse);
    let mut best = zero;
    for i in 0..G {
        let integer = v.low_byte(v.nearest(v.mul(inverse, x[i])));
        let difference = v.sub(x[i], v.mul(scale, integer));
        best = v.add(best, v.mul(v.mul(weights[i], difference), difference));
    }
    for step in (-4..=4).filter(|step| *step != 0) {
        let tried = v.div(v.splat(0.1 * step as f32 + highest), largest);
        let scale = v.div(one, tried);
        let mut error = zero;
        for i in 0..G {
            let integer = at_most(v, highest, v.nearest(v.mul(tried, x[i])));
            let difference = v.sub(x[i], v.mul(scale, integer));
            error = v.add(error, v.mul(v.mul(weights[i], difference), difference));
        }
        let is_better = v.less(error, best);
        best = v.select(is_better, error, best);
        inverse = v.select(is_better, tried, inverse);
    }
    let (mut sum_lx, mut sum_l2) = (zero, zero);
    let (mut weighted, mut integers) = ([zero; G], [zero; G]);
    for i in 0..G {
        let integer = at_most(v, highest, v.nearest(v.mul(inverse, x[i])));
        integers[i] = v.low_byte(integer);
        weighted[i] = v.mul(weights[i], x[i]);
        sum_lx = v.add(sum_lx, v.mul(weighted[i], integer));
        sum_l2 = v.add(sum_l2, v.mul(v.mul(weights[i], integer), integer));
    }
    for _ in 0..5 {
        let mut any_changed = false;
        for i in 0..G {
            let without_lx = v.sub(sum_lx, v.mul(weighted[i], integers[i]));
            let without_l2 = v.sub(sum_l2, v.mul(v.mul(weights[i], integers[i]), integers[i]));
            let integer = at_most(v, highest, v.nearest(v.div(v.mul(x[i], without_l2), without_lx)));
            let new_lx = v.add(without_lx, v.mul(weighted[i], integer));
            let new_l2 = v.add(without_l2, v.mul(v.mul(weights[i], integer), integer));
            let is_possible = v.both(v.less(zero, without_lx), v.less(zero, without_l2));
            let is_better = v.less(
                v.mul(v.mul(sum_lx, sum_lx), new_l2),
                v.mul(v.mul(new_lx, new_lx), sum_l2),
            );
            let is_other = v.not(v.equal(integer, integers[i]));
            let changes = v.both(v.both(is_possible, is_other), is_better);
            integers[i] = v.select(changes, v.low_byte(integer), integers[i]);
            sum_lx = v.select(changes, new_lx, sum_lx);
            sum_l2 = v.select(changes, new_l2, sum_l2);
            any_changed |= v.any(v.both(changes, v.not(is_zero)));
        }
        if !any_changed {
            break;
        }
    }
    for integer in &mut integers {
        *integer = v.select(is_zero, zero, *integer);
    }
    let scale = v.select(v.less(zero, sum_l2), v.div(sum_lx, sum_l2), zero);
    (v.select(is_zero, zero, scale), integers)
}

#[inline(always)]
fn at_most<V: Lanes>(v: V, highest: f32, integer: V::F) -> V::F {
    v.select(v.less(v.splat(highest), integer), v.splat(highest), integer)
}

/// Returns the first number of the largest size, and that size.
#[inline(always)]
pub(super) fn largest<V: Lanes, const G: usize>(v: V, x: &[V::F; G]) -> (V::F, V::F) {
    let (mut number, mut size) = (v.splat(0.0), v.splat(0.0));
    for candidate in x {
        let candidate_size = v.abs(*candidate);
        let is_larger = v.less(size, candidate_size);
        size = v.select(is_larger, candidate_size, size);
        number = v.select(is_larger, *candidate, number);
    }
    (number, size)
}

#[inline(always)]
fn bounded<V: Lanes>(v: V, number: V::F, bound: f32) -> V::F {
    v.clamp(v.nearest(number), -bound, bound - 1.0)
}
