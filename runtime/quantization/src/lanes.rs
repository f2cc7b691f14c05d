//! Numbers side by side, one block of a quantized type in each lane.
//!
//! The codecs that search for scales are long chains of f32 sums whose order decides the bytes. So they are not vectorised along a block: each lane runs the whole
//! chain of one block, and 1, 8 or 16 blocks run side by side. With one lane this is the scalar form, the specification of the others.
//!
//! **Invariants:** every operation rounds once, as IEEE 754 says, and is never contracted. A value of an implementing type proves that the processor has its
//! instructions.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use scalar::Scalar;

/// The most lanes that any implementation has.
pub(crate) const LANES_MAX: usize = 16;
/// One number of each lane, in memory; lanes that an implementation lacks are unused.
pub(crate) type Row = [f32; LANES_MAX];
/// One byte of each lane, in memory.
pub(crate) type ByteRow = [u8; LANES_MAX];

/// 1.5 * 2^23: adding it leaves the nearest integer, ties to even, in the low bits of the sum.
pub(crate) const ROUNDING: f32 = 12_582_912.0;

/// Returns the integer that ggml's `nearest_int` gives: the nearest one, ties to even, up to 2^22; beyond that, what is left in 23 bits.
pub(crate) fn nearest_integer(number: f32) -> i32 {
    let bits = (number + ROUNDING).to_bits();
    (bits & 0x007f_ffff) as i32 - 0x0040_0000
}

/// Operations on lanes.
pub(crate) trait Lanes: Copy {
    /// How many lanes.
    const N: usize;
    /// A number in each lane.
    type F: Copy;
    /// Yes or no in each lane.
    type M: Copy;

    fn splat(self, number: f32) -> Self::F;
    fn load(self, row: &Row) -> Self::F;
    fn store(self, numbers: Self::F, row: &mut Row);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    fn sqrt(self, a: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    fn neg(self, a: Self::F) -> Self::F;
    /// `a < b`, no where either is not a number.
    fn less(self, a: Self::F, b: Self::F) -> Self::M;
    /// `a == b`, no where either is not a number.
    fn equal(self, a: Self::F, b: Self::F) -> Self::M;
    fn both(self, a: Self::M, b: Self::M) -> Self::M;
    fn not(self, a: Self::M) -> Self::M;
    fn any(self, a: Self::M) -> bool;
    /// `a` where yes, else `b`.
    fn select(self, mask: Self::M, a: Self::F, b: Self::F) -> Self::F;
    /// What [`nearest_integer`] gives, as a number.
    fn nearest(self, a: Self::F) -> Self::F;
    /// An integer held within bounds. Not for what may be no number.
    fn clamp(self, a: Self::F, low: f32, high: f32) -> Self::F;
    /// The low 8 bits of an integer below 2^23, as C stores it in an `uint8_t`.
    fn low_byte(self, a: Self::F) -> Self::F;
    /// Stores integers of 0 to 255.
    fn store_bytes(self, integers: Self::F, row: &mut ByteRow);
    /// The place of the nearest of [`crate::nonlinear::VALUES`], as a number.
    fn nonlinear_place(self, a: Self::F) -> Self::F;
    /// The nearest of [`crate::nonlinear::VALUES`].
    fn nonlinear_value(self, a: Self::F) -> Self::F;
}
