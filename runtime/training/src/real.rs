//! The number types the mathematics is written for: f32 to train with, f64 to check gradients with.
//!
//! The trait holds only what the loops call, so that one source text is both the fast code and its own reference.

use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

mod sealed {
    /// Keeps [`super::Real`] to the two types below: memory is seen as numbers of it.
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// A floating-point number that the decoder can be computed in: f32 or f64.
pub trait Real:
    sealed::Sealed
    + Copy
    + Debug
    + Default
    + PartialOrd
    + Send
    + Sync
    + Sum
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + 'static
{
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// Rounds from f64.
    fn from_f64(value: f64) -> Self;
    /// Widens or rounds from f32; exact for both types.
    fn from_f32(value: f32) -> Self;
    /// Widens to f64.
    fn to_f64(self) -> f64;
    /// Rounds to f32.
    fn to_f32(self) -> f32;
    /// The exponential function; for f32 within 2 units in the last place, and written so that a loop over it vectorises.
    fn exp(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// Whether the value is neither infinite nor not a number.
    fn is_finite(self) -> bool;
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    fn from_f64(value: f64) -> Self {
        value
    }
    fn from_f32(value: f32) -> Self {
        f64::from(value)
    }
    fn to_f64(self) -> f64 {
        self
    }
    fn to_f32(self) -> f32 {
        self as f32
    }
    fn exp(self) -> Self {
        self.exp()
    }
    fn ln(self) -> Self {
        self.ln()
    }
    fn sqrt(self) -> Self {
        self.sqrt()
    }
    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn exp(self) -> Self {
        exp_f32(self)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        self.ln()
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        self.sqrt()
    }
    #[inline(always)]
    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

/// Computes `e^x` by `2^n * e^r` with `|r| <= ln 2 / 2`: a polynomial of degree 7 for `e^r`, `ln 2` in two parts for an exact `r`.
///
/// Below the smallest normal result it gives 0, above the largest infinity; a value that is not a number stays so. There is no branch and no call, so that
/// loops over it become vector code.
#[inline(always)]
fn exp_f32(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest whole number.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-88.0, 89.0);
    let whole = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = whole - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut sum = 1.0 / 5_040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = sum * r + coefficient;
    }
    // The low bits of `whole` are n. 2^n is made in two factors, because 2^128 is no f32 and e^88.7 is.
    // Wrapping sums, as checked ones would keep the loop from becoming vector code.
    let bits = whole.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = bits >> 1;
    let low = f32::from_bits((half.wrapping_add(127) << 23) as u32);
    let high = f32::from_bits((bits.wrapping_sub(half).wrapping_add(127) << 23) as u32);
    let value = sum * low * high;
    let value = if x < -87.4 { 0.0 } else { value };
    if x.is_nan() { x } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Every 2^-9 over the whole range, against the f64 function.
    #[test]
    fn exp_is_within_two_units_of_the_last_place() {
        for step in -44_000..=45_000 {
            let x = step as f32 / 512.0;
            let wanted = f64::from(x).exp();
            let found = f64::from(Real::exp(x));
            assert!(
                ((found - wanted) / wanted).abs() < 2.0 * f64::from(f32::EPSILON),
                "{x}: {found} {wanted}"
            );
        }
        assert_eq!(Real::exp(0.0f32), 1.0);
        assert_eq!(Real::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(Real::exp(-1e9f32), 0.0);
        assert!(Real::exp(1e9f32).is_infinite());
        assert!(Real::exp(f32::NAN).is_nan());
    }
}
