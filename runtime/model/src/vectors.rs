//! Which instructions the loops of this crate are compiled for: those that the kernels use, so that one word holds a whole process to fewer.

use pulp::{Arch, Simd, WithSimd};
#[cfg(target_arch = "x86_64")]
use witness_instructions::Isa;

/// Returns the widest vectors within [`Isa::current`] that this processor has.
#[cfg(target_arch = "x86_64")]
pub(crate) fn arch() -> Arch {
    use pulp::x86::{V3, V4};

    let bits = Isa::current().vector_bits();
    let widest = if bits >= 512 { V4::try_new() } else { None };
    let wide = if bits >= 256 { V3::try_new() } else { None };
    match (widest, wide) {
        (Some(v4), _) => Arch::V4(v4),
        (None, Some(v3)) => Arch::V3(v3),
        (None, None) => Arch::Scalar,
    }
}

/// Returns the only vectors there are, which everything is compiled for.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn arch() -> Arch {
    Arch::new()
}

/// Runs a loop, compiled for these vectors. Mark the closure `#[inline(always)]`: what is not a part of the function that was compiled for them is compiled for those
/// that all processors have.
pub(crate) fn run(arch: Arch, work: impl FnMut()) {
    arch.dispatch(Direct(work));
}

/// A closure that is called as what it is. Called as an `FnOnce`, which dispatching it does by itself, it hides behind a function that nobody marked to be inlined.
struct Direct<F>(F);

impl<F: FnMut()> WithSimd for Direct<F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        (self.0)();
    }
}
