//! Loops in plain Rust, compiled once for each width of vectors.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "calls of functions whose instructions were detected")
)]

#[cfg(target_arch = "x86_64")]
use crate::{Isa, Level};

/// Runs a closure compiled for the widest vectors in use. It must be marked `#[inline(always)]`: a closure that stays a function of its own is compiled for the
/// oldest processors (measured: exponentials 4 ns each instead of below 1).
///
/// The order of operations is the same whatever the vectors, and no two are contracted into one, so the bits are the same too.
#[inline(always)]
pub fn vectorised<R>(run: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        let isa = Isa::current();
        if isa.at_least(Level::Avx512) {
            // SAFETY: an `Isa` of this level or a higher one proves that the processor has these instructions.
            return unsafe { with_avx512(run) };
        }
        if isa.at_least(Level::Avx2) {
            // SAFETY: as above.
            return unsafe { with_avx2(run) };
        }
    }
    run()
}

/// Runs a closure as code of [`Level::Avx2`].
///
/// # Safety
/// The processor has AVX2, FMA and F16C, as an [`Isa`] of that level or a higher one proves.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn with_avx2<R>(run: impl FnOnce() -> R) -> R {
    run()
}

/// Runs a closure as code of [`Level::Avx512`].
///
/// # Safety
/// The processor has that and AVX-512 F, BW, DQ and VL, as an [`Isa`] of that level or a higher one proves.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub fn with_avx512<R>(run: impl FnOnce() -> R) -> R {
    run()
}
