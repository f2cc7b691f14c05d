//! Inputs of a product, rounded to 8 bits a block of 32.
//!
//! # Error
//! A block whose largest magnitude is `a` gets the scale `s = a / 127` and the codes `round(x / s)`, halves to even. So a number moves by at most `a / 254` and the
//! rounding of f32: `|x - s q| <= a (1 / 254 + 2^-21)`. Magnitudes below 2^-100 become zero. Of a product, `y` then moves by at most `sum over blocks of
//! a_b (1 / 254 + 2^-21) * sum |w|`.
//!
//! A block that holds a NaN or an infinity gets the scale NaN and codes of zero, which makes every product with it NaN.
//!
//! Cost: a third of a nanosecond a number with AVX2, once for all rows and all matrices that take the same inputs.
#![expect(unsafe_code, reason = "calls of functions whose instructions were detected")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use std::ops::Range;

use witness_instructions::Isa;
#[cfg(target_arch = "x86_64")]
use witness_instructions::Level;

use crate::error::{KernelError, Result};
use crate::format::BLOCK;
use crate::pool::Pool;

/// Most tokens that one call of a kernel takes: enough that unpacking the weights costs little beside the products.
pub(crate) const TOKENS_MAX: usize = 16;
/// Magnitudes below this are zero: their reciprocal would overflow.
const SMALLEST: f32 = 1.0 / (1u128 << 100) as f32;
/// Added to a number below 2^22 it leaves the nearest integer in the low bits; the processor rounds halves to even.
const ROUNDER: f32 = 12_582_912.0;
/// Numbers from which on a second thread is worth waking: some 20 us of work.
const NUMBERS_ALONE: usize = 32_768;

/// One block of one token, as kernels read it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(16))]
pub(crate) struct Record {
    pub(crate) codes: [i8; BLOCK],
    pub(crate) scale: f32,
    /// `scale` times the sum of the codes.
    pub(crate) scaled_sum: f32,
    /// The sum of the codes, negated.
    pub(crate) negative_sum: i32,
    /// The sums of the first and the last 16 codes.
    pub(crate) sums: [i16; 2],
}

const _: () = assert!(size_of::<Record>() == 48, "kernels count on this");

const EMPTY: Record = Record {
    codes: [0; BLOCK],
    scale: 0.0,
    scaled_sum: 0.0,
    negative_sum: 0,
    sums: [0; 2],
};

/// Of a block that holds a NaN or an infinity.
const NOT_FINITE: Record = Record {
    scale: f32::NAN,
    scaled_sum: f32::NAN,
    ..EMPTY
};

/// Tokens `[n_tokens, n_columns]`, rounded to 8 bits, in the order in which kernels read them.
///
/// Tokens are cut into groups of 16, 8, 4, 2 and 1, largest first; the last may be larger than what is left, with empty records at its end. The records of a group lie
/// together, by block and then by token.
#[derive(Clone, Debug)]
pub struct Activations {
    n_tokens: usize,
    n_columns: usize,
    records: Vec<Record>,
}

impl Activations {
    /// Rounds tokens `[n_tokens, n_columns]`, row-major; the number of tokens follows from the length.
    ///
    /// # Errors
    /// If the numbers are not whole rows, or rows not whole blocks of 32.
    pub fn quantize(x: &[f32], n_columns: usize, pool: &Pool) -> Result<Activations> {
        let mut activations = Activations::new();
        activations.requantize(x, n_columns, pool)?;
        Ok(activations)
    }

    /// Makes an empty one, to be filled by [`Activations::requantize`].
    pub fn new() -> Activations {
        Activations {
            n_tokens: 0,
            n_columns: BLOCK,
            records: Vec::new(),
        }
    }

    /// Does what [`Activations::quantize`] does in memory that is there already.
    ///
    /// # Errors
    /// If the numbers are not whole rows, or rows not whole blocks of 32.
    pub fn requantize(&mut self, x: &[f32], n_columns: usize, pool: &Pool) -> Result<()> {
        self.requantize_as(Isa::current(), x, n_columns, pool)
    }

    /// As [`Activations::requantize`], with other instructions than the current ones.
    pub(crate) fn requantize_as(&mut self, isa: Isa, x: &[f32], n_columns: usize, pool: &Pool) -> Result<()> {
        if n_columns == 0 || !n_columns.is_multiple_of(BLOCK) || !x.len().is_multiple_of(n_columns) {
            return Err(KernelError::Length {
                what: "a batch of inputs",
                found: x.len(),
                expected: x.len() / n_columns.max(1) * n_columns,
            });
        }
        (self.n_tokens, self.n_columns) = (x.len() / n_columns, n_columns);
        let n_blocks = n_columns / BLOCK;
        // All of them are written below.
        let n_places: usize = sizes(self.n_tokens).sum();
        self.records.resize(n_places * n_blocks, EMPTY);
        let round = rounding(isa);
        let (mut numbers, mut records) = (x, &mut self.records[..]);
        let groups = sizes(self.n_tokens).map(|size| {
            let place = records.split_off_mut(..size * n_blocks).unwrap_or_default();
            let n_numbers = numbers.len().min(size * n_columns);
            let group = numbers.split_off(..n_numbers).unwrap_or_default();
            (group, place)
        });
        if x.len() < NUMBERS_ALONE {
            for (numbers, records) in groups {
                // SAFETY: `rounding` chose the function for an `Isa`, which proves the instructions.
                unsafe { round(numbers, n_columns, records) };
            }
            return Ok(());
        }
        // SAFETY: as above.
        pool.run_on_each(groups, |(numbers, records)| unsafe {
            round(numbers, n_columns, records)
        });
        Ok(())
    }

    /// Returns the number of tokens.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Returns the numbers of a token.
    pub fn n_columns(&self) -> usize {
        self.n_columns
    }

    /// Returns the bytes of the records of a group of the largest size.
    pub(crate) fn group_bytes(&self) -> usize {
        self.n_columns / BLOCK * size_of::<Record>() * TOKENS_MAX
    }

    /// Cuts tokens into runs of at most `len`, rounded down to whole groups of 16, of which there is one at least. `tokens` begin at a multiple of 16.
    pub(crate) fn panels(&self, tokens: Range<usize>, len: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let step = (len / TOKENS_MAX).max(1) * TOKENS_MAX;
        // Only the last panel has groups that are not the largest.
        let end = tokens.end;
        tokens.step_by(step).map(move |first| first..(first + step).min(end))
    }

    /// Returns the groups of a panel as [`Activations::groups`] does, or one of a panel of whole groups of 16, as many as `wide` tokens.
    pub(crate) fn wide_groups(
        &self,
        panel: Range<usize>,
        wide: usize,
    ) -> impl Iterator<Item = (Range<usize>, &[Record])> {
        let n_blocks = self.n_columns / BLOCK;
        let is_wide = panel.len() == wide;
        let all = is_wide.then(|| {
            (
                panel.clone(),
                &self.records[panel.start * n_blocks..panel.end * n_blocks],
            )
        });
        let groups = self.groups(panel.start..if is_wide { panel.start } else { panel.end });
        let groups = groups.map(move |(first, records)| (first..first + records.len() / n_blocks, records));
        all.into_iter().chain(groups)
    }

    /// Returns the groups of a panel: the first token, and the records by block and then by token; of the last group there may be more than tokens.
    pub(crate) fn groups(&self, panel: Range<usize>) -> impl Iterator<Item = (usize, &[Record])> {
        let n_blocks = self.n_columns / BLOCK;
        let first = panel.start;
        sizes(panel.len()).scan(first, move |first, size| {
            let start = *first;
            *first += size;
            Some((start, &self.records[start * n_blocks..(start + size) * n_blocks]))
        })
    }
}

impl Default for Activations {
    fn default() -> Activations {
        Activations::new()
    }
}

/// Returns the sizes of the groups of so many tokens. The last has room for up to a third more: a group costs what two tokens cost for itself, and one or two tokens by
/// themselves take longer than their number says.
fn sizes(n_tokens: usize) -> impl Iterator<Item = usize> {
    let mut left = n_tokens;
    std::iter::from_fn(move || {
        let size = match left {
            0 => return None,
            13.. => TOKENS_MAX,
            6..=12 => 8,
            3..=5 => 4,
            _ => left,
        };
        left = left.saturating_sub(size);
        Some(size)
    })
}

/// Rounds the tokens of a group.
type Round = unsafe fn(&[f32], usize, &mut [Record]);

fn rounding(isa: Isa) -> Round {
    match isa {
        #[cfg(target_arch = "x86_64")]
        isa if isa.at_least(Level::Avx512) => round_avx512,
        #[cfg(target_arch = "x86_64")]
        isa if isa.at_least(Level::Avx2) => round_avx2,
        _ => round_plain,
    }
}

fn round_plain(numbers: &[f32], n_columns: usize, records: &mut [Record]) {
    round(numbers, n_columns, records, record);
}

/// # Safety
/// The processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn round_avx2(numbers: &[f32], n_columns: usize, records: &mut [Record]) {
    round(numbers, n_columns, records, |block| avx2::record(block));
}

/// # Safety
/// The processor has AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn round_avx512(numbers: &[f32], n_columns: usize, records: &mut [Record]) {
    round(numbers, n_columns, records, |block| avx512::record(block));
}

#[inline(always)]
fn round(numbers: &[f32], n_columns: usize, records: &mut [Record], record: impl Fn(&[f32; BLOCK]) -> Record) {
    let size = records.len() / (n_columns / BLOCK);
    let n_tokens = numbers.len() / n_columns;
    for (token, numbers) in numbers.chunks_exact(n_columns).enumerate() {
        let (blocks, _) = numbers.as_chunks::<BLOCK>();
        for (records, block) in records.chunks_exact_mut(size).zip(blocks) {
            records[token] = record(block);
        }
    }
    if n_tokens < size {
        records
            .chunks_exact_mut(size)
            .for_each(|records| records[n_tokens..].fill(EMPTY));
    }
}

/// Returns the scale of a block and its reciprocal, or the record of one that needs no rounding, by the bits of its largest magnitude.
#[inline(always)]
fn scale_of(largest: u32) -> std::result::Result<(f32, f32), Record> {
    let largest = f32::from_bits(largest);
    match largest {
        _ if !largest.is_finite() => Err(NOT_FINITE),
        _ if largest < SMALLEST => Err(EMPTY),
        _ => Ok((largest / 127.0, 127.0 / largest)),
    }
}

#[inline(always)]
fn record(block: &[f32; BLOCK]) -> Record {
    // Magnitudes order like their bits, and NaN lies above infinity.
    let largest = block.iter().fold(0, |max, x| max.max(x.to_bits() & 0x7fff_ffff));
    let (scale, inverse) = match scale_of(largest) {
        Ok(scale) => scale,
        Err(record) => return record,
    };
    let mut codes = [0; BLOCK];
    for (code, x) in codes.iter_mut().zip(block) {
        *code = (x * inverse + ROUNDER).to_bits() as i8;
    }
    let sum = |codes: &[i8]| codes.iter().map(|code| i32::from(*code)).sum::<i32>();
    let sums = [sum(&codes[..16]), sum(&codes[16..])];
    Record {
        codes,
        scale,
        scaled_sum: scale * (sums[0] + sums[1]) as f32,
        negative_sum: -(sums[0] + sums[1]),
        sums: sums.map(|sum| sum as i16),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_every_token_once_and_little_else() {
        let of = |n_tokens: usize| sizes(n_tokens).collect::<Vec<_>>();
        assert_eq!(of(0), [0; 0]);
        assert_eq!(of(33), [16, 16, 1]);
        assert_eq!(of(45), [16, 16, 16]);
        assert_eq!(of(44), [16, 16, 8, 4]);
        let pool = Pool::new(1);
        for n_tokens in 0..100_usize {
            let sizes = of(n_tokens);
            assert!(
                (n_tokens..n_tokens + 4).contains(&sizes.iter().sum()),
                "{n_tokens}: {sizes:?}"
            );
            assert!(sizes.is_sorted_by(|a, b| a >= b));
            // Whatever was there before, a place without a token is empty.
            let mut x = Activations::quantize(&[9.0; 64 * 100], 64, &pool).expect("whole blocks");
            x.requantize(&vec![1.0; 64 * n_tokens], 64, &pool)
                .expect("whole blocks");
            for (first, records) in x.groups(0..n_tokens) {
                let size = records.len() / 2;
                for (at, record) in records.iter().enumerate() {
                    let is_token = first + at % size < n_tokens;
                    assert_eq!(*record != EMPTY, is_token, "{n_tokens} {first} {at}");
                }
            }
        }
    }

    // The bound of the module's doc, over sizes from the smallest to the largest number.
    #[test]
    fn numbers_move_by_no_more_than_the_bound() {
        for exponent in -126..127 {
            let size = 2.0_f32.powi(exponent);
            let block: [f32; BLOCK] =
                std::array::from_fn(|i| size * (1.9 - i as f32 * 0.13) * if i % 3 == 0 { -0.9 } else { 1.0 });
            let record = record(&block);
            let largest = block.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
            let bound = f64::from(largest) * (1.0 / 254.0 + 2.0_f64.powi(-21));
            for (x, code) in block.iter().zip(record.codes) {
                let moved = f64::from(*x) - f64::from(record.scale) * f64::from(code);
                assert!(moved.abs() <= bound || largest < SMALLEST, "{x} {code} {moved}");
            }
            let sum: i32 = record.codes.iter().map(|code| i32::from(*code)).sum();
            assert_eq!(record.negative_sum, -sum);
            assert_eq!(i32::from(record.sums[0]) + i32::from(record.sums[1]), sum);
        }
    }

    #[test]
    fn what_is_not_finite_gives_a_scale_of_nan() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut block = [1.0; BLOCK];
            block[17] = bad;
            let record = record(&block);
            assert!(record.scale.is_nan() && record.scaled_sum.is_nan());
        }
    }
}
