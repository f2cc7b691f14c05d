//! Where operands come from and where their packed form goes; and packing without special instructions, which is the meaning of the other forms.
//!
//! A packed operand is panels of a few lanes (rows of A, columns of B). A panel holds unit after unit, and of each the number of every lane: `[unit][lane]`. A unit
//! is one step of k, or two steps as a pair of bf16 in the place of one f32. Lanes beyond the last, up to the width of a vector, are zero.

#![expect(unsafe_code, reason = "tasks pack disjoint parts of the same panels")]

use std::ops::Range;

use half::bf16;

use crate::stored::Rows;

/// Numbers in memory: step `k` of lane `l` lies at `l * lane_stride + k * k_stride`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strided<'a> {
    pub(super) data: &'a [f32],
    pub(super) lane_stride: usize,
    pub(super) k_stride: usize,
}

/// A right operand; a column of it is a lane.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Right<'a> {
    /// Numbers in memory.
    Plain(Strided<'a>),
    /// The rows of a stored matrix are the columns, so B is that matrix transposed.
    RowsAreColumns(&'a dyn Rows),
    /// The rows of a stored matrix are the steps of k, so B is that matrix.
    RowsAreDepth(&'a dyn Rows),
}

/// The panels of a packed operand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panels {
    pub(super) data: *mut f32,
    /// Lanes of a panel. The last one may have fewer.
    pub(super) panel_lanes: usize,
    /// From one panel to the next.
    pub(super) stride: usize,
    /// All lanes, with those that are zero.
    pub(super) n_lanes: usize,
}

// SAFETY: what is written through it is disjoint from task to task: each packs other lanes or other units.
unsafe impl Send for Panels {}
// SAFETY: as above.
unsafe impl Sync for Panels {}

impl<'a> Strided<'a> {
    pub(crate) fn new(data: &'a [f32], lane_stride: usize, k_stride: usize) -> Strided<'a> {
        Strided {
            data,
            lane_stride,
            k_stride,
        }
    }

    /// Leaves out the first steps.
    pub(super) fn skip_k(self, k: usize) -> Strided<'a> {
        let data = &self.data[k * self.k_stride..];
        Strided { data, ..self }
    }

    /// Leaves out the first lanes.
    pub(super) fn skip_lanes(self, lane: usize) -> Strided<'a> {
        let data = &self.data[lane * self.lane_stride..];
        Strided { data, ..self }
    }

    /// Proves that so many lanes and steps lie in the slice.
    pub(super) fn check(&self, n_lanes: usize, n_k: usize) {
        let last = |count: usize, stride: usize| count.saturating_sub(1).checked_mul(stride);
        let end = last(n_lanes, self.lane_stride)
            .zip(last(n_k, self.k_stride))
            .and_then(|(lane, k)| lane.checked_add(k));
        assert!(
            n_lanes == 0 || n_k == 0 || end.is_some_and(|end| end < self.data.len()),
            "an operand lies in its slice"
        );
    }
}

impl Right<'_> {
    /// Proves that there are so many lanes and steps.
    pub(super) fn check(&self, n: usize, k: usize) {
        match self {
            Right::Plain(source) => source.check(n, k),
            Right::RowsAreColumns(rows) => assert_eq!((rows.n_rows(), rows.n_columns()), (n, k), "the stored shape"),
            Right::RowsAreDepth(rows) => assert_eq!((rows.n_rows(), rows.n_columns()), (k, n), "the stored shape"),
        }
    }
}

impl Panels {
    /// Returns where a lane's number of a unit lies, and the distance from one unit to the next.
    pub(super) fn place(&self, lane: usize, unit: usize) -> (*mut f32, usize) {
        let (panel, within) = (lane / self.panel_lanes, lane % self.panel_lanes);
        debug_assert!(lane < self.n_lanes);
        let width = self.panel_lanes.min(self.n_lanes - panel * self.panel_lanes);
        let at = panel * self.stride + unit * width + within;
        (self.data.wrapping_add(at), width)
    }
}

/// Rounds to bf16 and back, as the processor's own instruction does: to nearest, ties to even, numbers too small for a full mantissa to zero.
#[inline(always)]
pub(super) fn round(value: f32) -> f32 {
    let value = if value.abs() < f32::MIN_POSITIVE {
        0.0 * value
    } else {
        value
    };
    bf16::from_f32(value).to_f32()
}

/// Packs the first `n_k` steps of the first lanes of `source` as the lanes `lanes` of panels, one step a unit, from unit `first_unit` on. Fills up to a whole
/// `multiple` of lanes with zeros.
///
/// # Safety
/// `panels` holds these lanes and units, and nobody else uses them.
pub(super) unsafe fn pack<const ROUNDS: bool>(
    source: &Strided<'_>,
    lanes: Range<usize>,
    n_k: usize,
    panels: &Panels,
    first_unit: usize,
    multiple: usize,
) {
    source.check(lanes.len(), n_k);
    let end = lanes.end.next_multiple_of(multiple);
    let mut first = lanes.start;
    while first < end {
        let (target, width) = panels.place(first, first_unit);
        let n = multiple.min(end - first);
        let held = lanes.end.saturating_sub(first).min(n);
        for k in 0..n_k {
            for lane in 0..n {
                // SAFETY: `check` proved the source to hold these lanes and steps; the caller promises the place of this lane in units up to `first_unit + n_k`.
                // A panel's lanes are a multiple of `multiple`, so these lie in one.
                unsafe {
                    let value = match lane < held {
                        true => {
                            let lane = first - lanes.start + lane;
                            *source
                                .data
                                .get_unchecked(lane * source.lane_stride + k * source.k_stride)
                        }
                        false => 0.0,
                    };
                    let value = if ROUNDS { round(value) } else { value };
                    target.add(k * width + lane).write(value);
                }
            }
        }
        first += n;
    }
}
