//! One lane: plain f32 in plain Rust, the specification.

use super::{ByteRow, Lanes, Row, nearest_integer};
use crate::nonlinear::{VALUES, nearest_place};

/// One lane.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

impl Lanes for Scalar {
    const N: usize = 1;
    type F = f32;
    type M = bool;

    #[inline(always)]
    fn splat(self, number: f32) -> f32 {
        number
    }
    #[inline(always)]
    fn load(self, row: &Row) -> f32 {
        row[0]
    }
    #[inline(always)]
    fn store(self, numbers: f32, row: &mut Row) {
        row[0] = numbers;
    }
    #[inline(always)]
    fn add(self, a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: f32, b: f32) -> f32 {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: f32, b: f32) -> f32 {
        a * b
    }
    #[inline(always)]
    fn div(self, a: f32, b: f32) -> f32 {
        a / b
    }
    #[inline(always)]
    fn sqrt(self, a: f32) -> f32 {
        a.sqrt()
    }
    #[inline(always)]
    fn abs(self, a: f32) -> f32 {
        a.abs()
    }
    #[inline(always)]
    fn neg(self, a: f32) -> f32 {
        -a
    }
    #[inline(always)]
    fn less(self, a: f32, b: f32) -> bool {
        a < b
    }
    #[inline(always)]
    fn equal(self, a: f32, b: f32) -> bool {
        a == b
    }
    #[inline(always)]
    fn both(self, a: bool, b: bool) -> bool {
        a & b
    }
    #[inline(always)]
    fn not(self, a: bool) -> bool {
        !a
    }
    #[inline(always)]
    fn any(self, a: bool) -> bool {
        a
    }
    #[inline(always)]
    fn select(self, mask: bool, a: f32, b: f32) -> f32 {
        if mask { a } else { b }
    }
    #[inline(always)]
    fn nearest(self, a: f32) -> f32 {
        nearest_integer(a) as f32
    }
    #[inline(always)]
    fn clamp(self, a: f32, low: f32, high: f32) -> f32 {
        a.min(high).max(low)
    }
    #[inline(always)]
    fn low_byte(self, a: f32) -> f32 {
        f32::from(a as i32 as u8)
    }
    #[inline(always)]
    fn store_bytes(self, integers: f32, row: &mut ByteRow) {
        row[0] = integers as u8;
    }
    #[inline(always)]
    fn nonlinear_place(self, a: f32) -> f32 {
        nearest_place(a) as f32
    }
    #[inline(always)]
    fn nonlinear_value(self, a: f32) -> f32 {
        VALUES[nearest_place(a)]
    }
}
