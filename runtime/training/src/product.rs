//! Products of f32 matrices, `C = s A B` or `C += s A B`, with A and B rounded to bf16 on demand and B decoded from a stored form.
//!
//! ```text
//! for each block of k       pack A, [m, k], as panels of some rows
//!   for each block of n     pack B, [k, n], as panels of some columns; decoding it where it is stored otherwise
//!     for each tile of C    sum over the block of k in registers, then C (+)= s sum
//! ```
//! Packing is what makes the inner loop run through memory in one line, and it is the one place where numbers are rounded, transposed or decoded: a block of B of
//! some megabytes exists at a time, whatever the matrix. Cost: `2 m n k` operations at 80 to 95 % of what the processor multiplies, `m k + n k` numbers packed at
//! about one a nanosecond and thread. Sources: GotoBLAS (Goto, van de Geijn 2008), BLIS.
//!
//! **Invariant:** the order of additions into one number of C depends on the shapes and the instruction set alone: with any number of threads the bits are the same.
#![expect(unsafe_code, reason = "tasks of one product write disjoint parts of one target")]

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod bf16_rows;
mod buffer;
mod kind;
mod pack;
mod portable;

use std::ops::Range;

use rayon::prelude::*;
use witness_instructions::Isa;

use buffer::Buffer;
use kind::Kind;
use pack::Panels;

pub(crate) use pack::{Right, Strided};

/// How many numbers of B are packed at a time: enough that starting the threads for them is nothing, few enough to stay near the processor.
const RIGHT_NUMBERS_MAX: usize = 1 << 20;
/// The longest block of k where B is plain numbers.
const DEPTH_MAX: usize = 4_096;
/// The longest block of k where the columns of one step lie behind each other.
const DEPTH_OF_ROWS_MAX: usize = 2_048;
/// What a block of k is a multiple of, unless it is all of k: of the units of every kernel.
const DEPTH_MULTIPLE: usize = 256;
/// Rows of C of one task.
const ROWS_OF_A_TASK: usize = 128;
/// Columns of C of one task.
const COLUMNS_OF_A_TASK: usize = 192;
/// Steps of k that one task packs where it packs all columns.
const DEPTH_OF_A_TASK: usize = 32;
/// Below so many multiply-adds a product is computed by the calling thread: it is done before the others are awake.
const ALONE_MAX: usize = 1 << 18;

/// A product. `left` has a lane for each row, `right` one for each column; both have `k` numbers in each.
pub(crate) struct Product<'a> {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) left: Left<'a>,
    pub(crate) right: Right<'a>,
    /// C, row-major.
    pub(crate) target: &'a mut [f32],
    pub(crate) target_stride: usize,
    pub(crate) adds: bool,
    pub(crate) scale: f32,
    pub(crate) rounds_to_bf16: bool,
    pub(crate) is_threaded: bool,
}

/// A left operand.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// Numbers in memory.
    Plain(Strided<'a>),
    /// The same, packed once for several products.
    Packed(&'a PackedLeft),
}

/// A left operand that is packed.
pub(crate) struct PackedLeft {
    packed: Packed,
    kind: Kind,
    m: usize,
    k: usize,
}

impl PackedLeft {
    /// Packs the rows of A with the instructions in use.
    pub(crate) fn new(source: &Strided<'_>, m: usize, k: usize, rounds_to_bf16: bool, is_threaded: bool) -> PackedLeft {
        source.check(m, k);
        let kind = Kind::of(Isa::current(), rounds_to_bf16);
        let mut packed = Packed::new(
            m.next_multiple_of(kind.left_multiple()),
            kind.left_lanes(),
            kind.units(k),
        );
        packed.fill_left(kind, source, m, &(0..k), is_threaded);
        PackedLeft { packed, kind, m, k }
    }
}

/// What a kernel computes: some tiles over one pass of k.
#[derive(Clone, Copy, Debug)]
struct Block {
    /// The first left panel.
    left: *const f32,
    /// From one left panel to the next.
    left_stride: usize,
    /// The first right panel.
    right: *const f32,
    /// From one right panel to the next.
    right_stride: usize,
    /// The first unit of the pass in the left panels, and in the right ones.
    left_unit: usize,
    right_unit: usize,
    /// How many units it has.
    units: usize,
    /// The first number of C.
    target: *mut f32,
    target_stride: usize,
    rows: usize,
    columns: usize,
    adds: bool,
    scale: f32,
}

/// A pointer that tasks share; each writes its own part.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: what is written through it is disjoint from task to task, as `compute` and `pack` divide their targets.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn get(self) -> *mut f32 {
        self.0
    }
}

/// Computes a product with the instructions in use.
pub(crate) fn multiply(product: &mut Product<'_>) {
    multiply_with(Isa::current(), product);
}

/// Computes a product with some instructions.
fn multiply_with(isa: Isa, product: &mut Product<'_>) {
    let (m, n, k) = (product.m, product.n, product.k);
    assert!(m > 0 && n > 0 && k > 0, "an empty product");
    let end = (m - 1)
        .checked_mul(product.target_stride)
        .and_then(|at| at.checked_add(n));
    assert!(
        n <= product.target_stride && end.is_some_and(|end| end <= product.target.len()),
        "the target lies in its slice"
    );
    let kind = match product.left {
        Left::Plain(source) => {
            source.check(m, k);
            Kind::of(isa, product.rounds_to_bf16)
        }
        Left::Packed(left) => {
            assert_eq!((left.m, left.k), (m, k), "the packed shape");
            left.kind
        }
    };
    product.right.check(n, k);
    let is_threaded = product.is_threaded && m.saturating_mul(n).saturating_mul(k) > ALONE_MAX;
    let (depth, width) = blocks(kind, &product.right, n, k);
    for k_range in ranges(k, depth) {
        let adds = product.adds || k_range.start > 0;
        let units = kind.units(k_range.len());
        let fresh;
        let left = match product.left {
            Left::Packed(left) => (&left.packed, kind.unit_of(k_range.start)),
            Left::Plain(source) => {
                let mut packed = Packed::new(m.next_multiple_of(kind.left_multiple()), kind.left_lanes(), units);
                packed.fill_left(kind, &source, m, &k_range, is_threaded);
                fresh = packed;
                (&fresh, 0)
            }
        };
        for n_range in ranges(n, width) {
            let n_lanes = n_range.len().next_multiple_of(kind.right_multiple());
            let mut right = Packed::new(n_lanes, kind.right_lanes(), units);
            right.fill_right(kind, &product.right, &n_range, &k_range, is_threaded);
            compute(kind, product, left, &right, &n_range, adds, is_threaded);
        }
    }
}

/// Returns how much of k and how many columns are packed at a time.
fn blocks(kind: Kind, right: &Right<'_>, n: usize, k: usize) -> (usize, usize) {
    let lanes = kind.right_lanes() * 4;
    let width_of = |depth: usize| (RIGHT_NUMBERS_MAX / depth / lanes * lanes).max(lanes);
    let depth_below = |most: usize| k.div_ceil(k.div_ceil(most)).next_multiple_of(DEPTH_MULTIPLE);
    let depth = match right {
        // Rows are decoded whole.
        Right::RowsAreColumns(_) => k,
        Right::RowsAreDepth(rows) if !kind.takes_bf16(*rows, false) => {
            let depth = RIGHT_NUMBERS_MAX / n / DEPTH_MULTIPLE * DEPTH_MULTIPLE;
            return (depth.clamp(DEPTH_MULTIPLE, DEPTH_MAX), n);
        }
        // The numbers of one step lie behind each other: a block is to be some kilobytes wide, as memory likes it.
        Right::RowsAreDepth(_) => depth_below(DEPTH_OF_ROWS_MAX),
        Right::Plain(source) if source.lane_stride == 1 => depth_below(DEPTH_OF_ROWS_MAX),
        Right::Plain(_) => depth_below(DEPTH_MAX),
    };
    (depth, width_of(depth))
}

fn ranges(n: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(step).map(move |start| start..n.min(start + step))
}

/// Runs tasks on all threads, or here.
fn for_each(n_tasks: usize, is_threaded: bool, run: impl Fn(usize) + Sync + Send) {
    if is_threaded && n_tasks > 1 {
        (0..n_tasks).into_par_iter().with_max_len(1).for_each(run);
    } else {
        (0..n_tasks).for_each(run);
    }
}

/// One packed operand.
struct Packed {
    buffer: Buffer,
    n_lanes: usize,
    panel_lanes: usize,
    units: usize,
}

impl Packed {
    fn new(n_lanes: usize, panel_lanes: usize, units: usize) -> Packed {
        let n_panels = n_lanes.div_ceil(panel_lanes);
        Packed {
            buffer: Buffer::take(n_panels * panel_lanes * units),
            n_lanes,
            panel_lanes,
            units,
        }
    }

    fn stride(&self) -> usize {
        self.panel_lanes * self.units
    }

    fn panels(&mut self) -> Panels {
        Panels {
            data: self.buffer.as_mut_slice().as_mut_ptr(),
            panel_lanes: self.panel_lanes,
            stride: self.stride(),
            n_lanes: self.n_lanes,
        }
    }

    /// Returns where a panel begins.
    fn at(&self, panel: usize) -> *const f32 {
        self.buffer.as_slice()[panel * self.stride()..].as_ptr()
    }

    fn fill_left(&mut self, kind: Kind, source: &Strided<'_>, m: usize, k_range: &Range<usize>, is_threaded: bool) {
        let (panels, step) = (self.panels(), 64);
        let source = source.skip_k(k_range.start);
        for_each(m.div_ceil(step), is_threaded, |task| {
            let lanes = task * step..m.min((task + 1) * step);
            let source = source.skip_lanes(lanes.start);
            // SAFETY: `panels` are those of this kind, made for `m` lanes; each task has lanes of its own.
            unsafe { kind.pack_left(&source, lanes, k_range.len(), &panels) };
        });
    }

    fn fill_right(&mut self, kind: Kind, source: &Right<'_>, n: &Range<usize>, k: &Range<usize>, is_threaded: bool) {
        let panels = self.panels();
        match source {
            Right::Plain(source) if source.lane_stride == 1 => {
                let (source, step) = (source.skip_lanes(n.start).skip_k(k.start), DEPTH_OF_A_TASK);
                for_each(k.len().div_ceil(step), is_threaded, |task| {
                    let depth = task * step..k.len().min((task + 1) * step);
                    let source = source.skip_k(depth.start);
                    // SAFETY: `panels` are those of this kind, made for these lanes; each task has some units of its own.
                    unsafe { kind.pack_right(&source, 0..n.len(), depth.len(), &panels, kind.unit_of(depth.start)) };
                });
            }
            Right::Plain(source) => {
                let (source, step) = (source.skip_lanes(n.start).skip_k(k.start), 48);
                for_each(n.len().div_ceil(step), is_threaded, |task| {
                    let lanes = task * step..n.len().min((task + 1) * step);
                    let source = source.skip_lanes(lanes.start);
                    // SAFETY: `panels` are those of this kind, made for these lanes; each task has some of its own.
                    unsafe { kind.pack_right(&source, lanes, k.len(), &panels, 0) };
                });
            }
            Right::RowsAreColumns(rows) if kind.takes_bf16(*rows, true) => {
                let step = 48;
                for_each(n.len().div_ceil(step), is_threaded, |task| {
                    let lanes = task * step..n.len().min((task + 1) * step);
                    // SAFETY: `panels` are those of this kind, made for these lanes; each task has some of its own.
                    unsafe {
                        kind.pack_bf16_rows(
                            *rows,
                            n.start + lanes.start..n.start + lanes.end,
                            k,
                            &panels,
                            lanes.start,
                        )
                    };
                });
            }
            Right::RowsAreDepth(rows) if kind.takes_bf16(*rows, false) => {
                let step = DEPTH_OF_A_TASK;
                for_each(k.len().div_ceil(step), is_threaded, |task| {
                    let depth = task * step..k.len().min((task + 1) * step);
                    let first_unit = kind.unit_of(depth.start);
                    // SAFETY: as above, but for units: each task has some of its own.
                    unsafe {
                        kind.pack_bf16_columns(
                            *rows,
                            n,
                            &(k.start + depth.start..k.start + depth.end),
                            &panels,
                            first_unit,
                        )
                    };
                });
            }
            Right::RowsAreColumns(rows) => {
                let step = 48;
                for_each(n.len().div_ceil(step), is_threaded, |task| {
                    let lanes = task * step..n.len().min((task + 1) * step);
                    let mut decoded = Buffer::take(lanes.len() * rows.n_columns());
                    rows.decode(n.start + lanes.start..n.start + lanes.end, decoded.as_mut_slice());
                    let source = Strided::new(decoded.as_slice(), rows.n_columns(), 1);
                    // SAFETY: as above.
                    unsafe { kind.pack_right(&source, lanes, k.len(), &panels, 0) };
                });
            }
            Right::RowsAreDepth(rows) => {
                let step = DEPTH_OF_A_TASK;
                for_each(k.len().div_ceil(step), is_threaded, |task| {
                    let depth = task * step..k.len().min((task + 1) * step);
                    let mut decoded = Buffer::take(depth.len() * rows.n_columns());
                    rows.decode(k.start + depth.start..k.start + depth.end, decoded.as_mut_slice());
                    let source = Strided::new(decoded.as_slice(), 1, rows.n_columns());
                    let first_unit = kind.unit_of(depth.start);
                    // SAFETY: as above, but for units: each task has some of its own.
                    unsafe { kind.pack_right(&source, 0..n.len(), depth.len(), &panels, first_unit) };
                });
            }
        }
    }
}

/// Computes all tiles of a block of columns over a block of k.
fn compute(
    kind: Kind,
    product: &mut Product<'_>,
    (left, left_unit): (&Packed, usize),
    right: &Packed,
    columns: &Range<usize>,
    adds: bool,
    is_threaded: bool,
) {
    let (m, n, scale, target_stride) = (product.m, columns.len(), product.scale, product.target_stride);
    let target = Shared(product.target[columns.start..].as_mut_ptr());
    let columns_of_a_task = COLUMNS_OF_A_TASK / kind.right_lanes() * kind.right_lanes();
    let (n_down, n_across) = (m.div_ceil(ROWS_OF_A_TASK), n.div_ceil(columns_of_a_task));
    let passes = right.units.div_ceil(kind.units_of_a_pass_max());
    let units_of_a_pass = right.units.div_ceil(passes).next_multiple_of(kind.unit_multiple());
    for_each(n_down * n_across, is_threaded, |task| {
        let (row, column) = (task % n_down * ROWS_OF_A_TASK, task / n_down * columns_of_a_task);
        let (left_panel, right_panel) = (row / kind.left_lanes(), column / kind.right_lanes());
        for units in ranges(right.units, units_of_a_pass) {
            let block = Block {
                left: left.at(left_panel),
                left_stride: left.stride(),
                right: right.at(right_panel),
                right_stride: right.stride(),
                left_unit: left_unit + units.start,
                right_unit: units.start,
                units: units.len(),
                target: target.get().wrapping_add(row * target_stride + column),
                target_stride,
                rows: (m - row).min(ROWS_OF_A_TASK),
                columns: (n - column).min(columns_of_a_task),
                adds: adds || units.start > 0,
                scale,
            };
            // SAFETY: the panels of both operands are packed up to `units`; `multiply_with` proved that rows and columns lie in the target, and no other task has
            // one of these. `kind` was made from an `Isa` that the processor has.
            unsafe { kind.run(&block) };
        }
    });
}

#[cfg(test)]
mod tests;
