//! Which instructions the loops of this crate are compiled for: those that the kernels use, so that one word holds a whole process to fewer.

use pulp::Arch;
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
