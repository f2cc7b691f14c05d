//! Tiles of bf16 with AMX: registers of 16 rows by 64 bytes. Four of them hold a block of 32 by 32 sums, two of A and two of B are loaded for each 32 steps of k.
//!
//! Rust has no stable intrinsics for these instructions, so each inner loop is one piece of assembly that begins and ends with memory. A panel has 16 lanes; one of A
//! holds, for each 16 units, 16 lanes of 16 units (`[lane][unit]`), one of B the usual `[unit][lane]`: both are the memory of one register.
//! That the system saves these registers for this process is part of what an `Isa` proves. Source: Intel's Architecture Instruction Set Extensions, chapter 3.
#![expect(unsafe_code, reason = "assembly, and loads and stores at proven places")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::Block;
use super::avx512::{across, along, interleave, join, mask_of, transpose};
use super::pack::{Panels, Strided};

/// Lanes of a panel, and units of a register.
pub(super) const LANES: usize = 16;
/// Numbers of a register.
const NUMBERS: usize = LANES * LANES;
/// Rows and columns of a block of sums.
const SIDE: usize = 2 * LANES;

/// The shape of all eight registers: palette 1, 16 rows of 64 bytes each.
#[repr(C, align(64))]
struct Configuration([u8; 64]);

static CONFIGURATION: Configuration = {
    let mut bytes = [0u8; 64];
    bytes[0] = 1;
    let mut register = 0;
    while register < 8 {
        bytes[16 + 2 * register] = 64;
        bytes[48 + register] = 16;
        register += 1;
    }
    Configuration(bytes)
};

/// The sums of a block, when they cannot go to the target as they are.
#[repr(C, align(64))]
struct Sums([f32; SIDE * SIDE]);

/// Computes a block.
///
/// # Safety
/// The processor has AVX-512 and AMX and the process the permission; `block` describes memory as [`Block`] says, packed in panels of [`LANES`] by this module.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn block_bf16(block: &Block) {
    // SAFETY: a configuration of the processor's only palette.
    unsafe { asm!("ldtilecfg [{}]", in(reg) CONFIGURATION.0.as_ptr(), options(nostack, readonly)) };
    let mut sums = Sums([0.0; SIDE * SIDE]);
    let n_steps = block.units / LANES;
    for top in (0..block.rows).step_by(SIDE) {
        for left in (0..block.columns).step_by(SIDE) {
            let (rows, columns) = ((block.rows - top).min(SIDE), (block.columns - left).min(SIDE));
            // Where there is no second panel the first is computed twice, into sums that nobody reads.
            let second = |n: usize, stride: usize| if n > LANES { stride } else { 0 };
            // SAFETY: these panels hold `units` units from their first on.
            let (a, b) = unsafe {
                (
                    block
                        .left
                        .add(top / LANES * block.left_stride + block.left_unit * LANES),
                    block
                        .right
                        .add(left / LANES * block.right_stride + block.right_unit * LANES),
                )
            };
            let operands = Operands {
                left: [a, a.wrapping_add(second(rows, block.left_stride))],
                right: [b, b.wrapping_add(second(columns, block.right_stride))],
                n_steps,
            };
            // SAFETY: the block of sums lies in the target, or in `sums`.
            unsafe {
                let target = block.target.add(top * block.target_stride + left);
                if rows == SIDE && columns == SIDE && block.scale == 1.0 {
                    operands.multiply(target, block.target_stride, block.adds);
                } else {
                    operands.multiply(sums.0.as_mut_ptr(), SIDE, false);
                    merge(block, target, rows, columns, &sums);
                }
            }
        }
    }
    // SAFETY: sets the registers to their initial state, which is cheap to save.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Two panels of each operand.
struct Operands {
    left: [*const f32; 2],
    right: [*const f32; 2],
    n_steps: usize,
}

impl Operands {
    /// Computes 32 by 32 sums to a target, or adds them.
    ///
    /// # Safety
    /// The registers are configured; the panels hold `n_steps` registers each and the target 32 rows of 32 numbers.
    #[inline]
    unsafe fn multiply(&self, target: *mut f32, target_stride: usize, adds: bool) {
        let row_bytes = target_stride * size_of::<f32>();
        let lower = target.wrapping_add(LANES * target_stride);
        // SAFETY: as the caller promises; the numbered registers are declared, the memory is that of the operands.
        unsafe {
            if adds {
                asm!(
                    "tileloadd tmm0, [{upper} + {row_bytes} * 1]",
                    "tileloadd tmm1, [{upper} + {row_bytes} * 1 + 64]",
                    "tileloadd tmm2, [{lower} + {row_bytes} * 1]",
                    "tileloadd tmm3, [{lower} + {row_bytes} * 1 + 64]",
                    upper = in(reg) target,
                    lower = in(reg) lower,
                    row_bytes = in(reg) row_bytes,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    options(nostack, readonly),
                );
            } else {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    options(nostack, nomem),
                );
            }
            asm!(
                "2:",
                "tileloadd tmm4, [{a0} + {stride} * 1]",
                "tileloadd tmm6, [{b0} + {stride} * 1]",
                "tileloadd tmm7, [{b1} + {stride} * 1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {stride} * 1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {a0}, {register_bytes}",
                "add {b0}, {register_bytes}",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "add {a1}, {register_bytes}",
                "add {b1}, {register_bytes}",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {n_steps}",
                "jnz 2b",
                "tilestored [{upper} + {row_bytes} * 1], tmm0",
                "tilestored [{upper} + {row_bytes} * 1 + 64], tmm1",
                "tilestored [{lower} + {row_bytes} * 1], tmm2",
                "tilestored [{lower} + {row_bytes} * 1 + 64], tmm3",
                a0 = inout(reg) self.left[0] => _,
                a1 = inout(reg) self.left[1] => _,
                b0 = inout(reg) self.right[0] => _,
                b1 = inout(reg) self.right[1] => _,
                n_steps = inout(reg) self.n_steps => _,
                stride = in(reg) LANES * size_of::<f32>(),
                upper = in(reg) target,
                lower = in(reg) lower,
                row_bytes = in(reg) row_bytes,
                register_bytes = const NUMBERS * size_of::<f32>(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

/// Writes sums to the target, or adds them, as far as they lie in it.
///
/// # Safety
/// `target` has these rows and columns.
#[target_feature(enable = "avx512f")]
unsafe fn merge(block: &Block, target: *mut f32, rows: usize, columns: usize, sums: &Sums) {
    let scale = _mm512_set1_ps(block.scale);
    for row in 0..rows {
        for half in 0..2 {
            let mask = mask_of(columns.saturating_sub(half * LANES));
            // SAFETY: the row is one of the target's, and the mask leaves out columns that are not.
            unsafe {
                let sum = _mm512_loadu_ps(sums.0.as_ptr().add(row * SIDE + half * LANES));
                let target = target.wrapping_add(row * block.target_stride + half * LANES);
                let value = match block.adds {
                    true => _mm512_fmadd_ps(sum, scale, _mm512_maskz_loadu_ps(mask, target)),
                    false => _mm512_mul_ps(sum, scale),
                };
                _mm512_mask_storeu_ps(target, mask, value);
            }
        }
    }
}

/// Packs rows of A: registers of 16 lanes by 16 units, filled up with zeros.
///
/// # Safety
/// The processor has AVX-512 with bf16; `panels` holds these lanes, whose first is a multiple of 16, and nobody else uses them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn pack_left(source: &Strided<'_>, lanes: Range<usize>, n_k: usize, panels: &Panels) {
    source.check(lanes.len(), n_k);
    let n_units = n_k.div_ceil(2).next_multiple_of(LANES);
    for lane in lanes.clone().step_by(LANES) {
        let n_lanes = (lanes.end - lane).min(LANES);
        let source = source.skip_lanes(lane - lanes.start);
        let (target, _) = panels.place(lane, 0);
        for unit in (0..n_units).step_by(LANES) {
            // SAFETY: `check` proved lanes and steps to lie in the source; the caller promises the place of the register.
            unsafe {
                let register = match source.k_stride == 1 {
                    true => across(&source, n_lanes, 2 * unit, n_k, 2 * LANES, |first, second| {
                        join(first, second)
                    }),
                    false => transpose(along(&source, n_lanes, 2 * unit, n_k, 2, |first, second| {
                        interleave(first, second)
                    })),
                };
                for (row, vector) in register.iter().enumerate() {
                    _mm512_storeu_si512(target.add(unit * LANES + row * LANES).cast(), *vector);
                }
            }
        }
    }
}
