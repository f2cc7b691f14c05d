//! Numbers in 8 bits by blocks, as bitsandbytes keeps scales of scales and moments of optimizers: a table of 256 values and the largest magnitude of each block.
//!
//! The "dynamic" table spends a byte's bits on a sign (signed table), a unary decimal exponent and a linear fraction: 5.5e-7 to 1, finest near 1.
//! Sources: arXiv 2110.02861 for the data type; for every rounding the CPU library of bitsandbytes 0.50, observed from outside and equal to it on millions of
//! values (the tests hold some). It does not search for the nearest entry: it rounds a normalised value to one of 65,536 steps between -1 and 1 and looks up
//! that step's nearest entry. So nothing but a block of zeros is kept as 0, and magnitudes below 3e-5 of the block's largest share one entry.
//!
//! Cost: one multiplication and one load from a table of 64 KiB a value, either way.

use std::sync::LazyLock;

use witness_instructions::vectorised;

/// How many values share a largest magnitude.
pub const BLOCK: usize = 256;
/// How many steps a normalised value is rounded to.
const STEPS: usize = 65_536;

/// A table of 256 values, and the way back from a value to its place.
#[derive(Debug)]
pub struct Code {
    /// The values, rising.
    values: [f32; 256],
    /// The place of the value nearest to each step.
    nearest: Box<[u8]>,
}

/// The table for numbers of both signs.
pub static SIGNED: LazyLock<Code> = LazyLock::new(|| Code::dynamic(true));
/// The table for numbers from 0.
pub static UNSIGNED: LazyLock<Code> = LazyLock::new(|| Code::dynamic(false));

impl Code {
    fn dynamic(is_signed: bool) -> Code {
        const DECADES: i32 = 7;
        let mut rising = vec![0.0, 1.0];
        for decade in 0..DECADES {
            let n_fractions = if is_signed { 1 << decade } else { 2 << decade };
            let power = 10f64.powi(decade + 1 - DECADES) as f32;
            for pair in bounds(n_fractions).windows(2) {
                let value = power * ((pair[0] + pair[1]) / 2.0);
                rising.push(value);
                if is_signed {
                    rising.push(-value);
                }
            }
        }
        rising.sort_by(f32::total_cmp);
        let mut values = [0.0; 256];
        values.copy_from_slice(&rising);
        let nearest = (0..STEPS).map(|step| {
            let value = -1.0 + 2.0 * step as f32 / (STEPS - 1) as f32;
            values
                .windows(2)
                .filter(|pair| (pair[0] + pair[1]) / 2.0 < value)
                .count() as u8
        });
        Code {
            nearest: nearest.collect(),
            values,
        }
    }

    /// Returns the values, rising.
    pub fn values(&self) -> &[f32; 256] {
        &self.values
    }

    /// Writes the places of a block's values and returns the block's largest magnitude, which is not finite where one of the values is not.
    ///
    /// # Panics
    /// If there are not as many places as values.
    pub fn quantize_block(&self, values: &[f32], places: &mut [u8]) -> f32 {
        assert_eq!(values.len(), places.len());
        let most = vectorised(
            #[inline(always)]
            || largest_magnitude(values),
        );
        if most == 0.0 {
            places.fill(0);
            return most;
        }
        let inverse = 1.0 / most;
        for (place, value) in places.iter_mut().zip(values) {
            let step = ((value * inverse).clamp(-1.0, 1.0) + 1.0) * 32_767.5 + 0.5;
            // A number that is none becomes step 0.
            *place = self.nearest[usize::from(step as u16)];
        }
        most
    }

    /// Writes the values of a block.
    pub fn dequantize_block(&self, places: &[u8], largest: f32, values: &mut [f32]) {
        for (value, place) in values.iter_mut().zip(places) {
            *value = self.values[usize::from(*place)] * largest;
        }
    }
}

/// Returns the largest magnitude of some values, 0 for none; not a number where one of them is none.
#[inline(always)]
pub(crate) fn largest_magnitude(values: &[f32]) -> f32 {
    #[inline(always)]
    fn larger(most: f32, value: f32) -> f32 {
        let magnitude = value.abs();
        if magnitude > most || magnitude.is_nan() {
            magnitude
        } else {
            most
        }
    }
    let mut lanes = [0.0f32; 16];
    let chunks = values.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *value);
        }
    }
    lanes.iter().chain(rest).fold(0.0, |most, value| larger(most, *value))
}

/// Cuts 0.1 to 1 into equal parts as torch's `linspace` does on a CPU: the lower half counted from the start, the upper from the end, product and sum rounded once.
fn bounds(n_parts: usize) -> Vec<f32> {
    let step = (1.0 - 0.1f32) / n_parts as f32;
    let n_bounds = n_parts + 1;
    let bound = |index: usize| match index < n_bounds / 2 {
        true => step.mul_add(index as f32, 0.1),
        false => (-step).mul_add((n_parts - index) as f32, 1.0),
    };
    (0..n_bounds).map(bound).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// FNV-1a, 64 bits.
    pub(crate) fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step)
    }

    pub(crate) fn hash_numbers(values: &[f32]) -> u64 {
        hash(values.iter().flat_map(|value| value.to_le_bytes()))
    }

    /// 400 blocks of numbers from -0.5 to 0.5, exact in f32.
    pub(crate) fn numbers() -> Vec<f32> {
        let mut state = 12_345u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 16_777_216.0 - 0.5
        };
        (0..400 * BLOCK).map(|_| next()).collect()
    }

    // The hashes are of what the CPU library of bitsandbytes 0.50.2 made of the same numbers, cubed to spread their magnitudes, or squared to lose their signs.
    #[test]
    fn tables_and_places_equal_those_of_bitsandbytes() {
        let cube = |value: &f32| value * value * value;
        let square = |value: &f32| value * value;
        let check = |code: &Code, values: Vec<f32>, wanted: [u64; 3]| {
            let mut places = vec![0; values.len()];
            let blocks = values.chunks(BLOCK).zip(places.chunks_mut(BLOCK));
            let largest: Vec<f32> = blocks
                .map(|(values, places)| code.quantize_block(values, places))
                .collect();
            assert_eq!(
                [hash_numbers(code.values()), hash(places), hash_numbers(&largest)],
                wanted
            );
        };
        let values = numbers();
        let signed = [0xd677_f22a_9666_5bc4, 0x67b0_5761_f950_de64, 0x4d89_852e_ea4c_e438];
        check(&SIGNED, values.iter().map(cube).collect(), signed);
        let unsigned = [0x4381_1b16_730a_873e, 0xadef_f287_d301_bb05, 0xce56_6bfd_41fe_669e];
        check(&UNSIGNED, values.iter().map(square).collect(), unsigned);
    }

    // What comes back is off by half a gap of the table, and by half a step of the way there.
    #[test]
    fn values_come_back_near() {
        for (code, values) in [
            (&SIGNED, numbers()),
            (&UNSIGNED, numbers().iter().map(|value| value.abs()).collect()),
        ] {
            for values in values.chunks(BLOCK) {
                let (mut places, mut back) = ([0; BLOCK], [0.0; BLOCK]);
                let largest = code.quantize_block(values, &mut places);
                code.dequantize_block(&places, largest, &mut back);
                for (value, back) in values.iter().zip(back) {
                    let distance = |entry: f32| (entry * largest - value).abs();
                    let least = code
                        .values()
                        .iter()
                        .map(|entry| distance(*entry))
                        .fold(f32::INFINITY, f32::min);
                    assert!(
                        (back - value).abs() <= least + 2.0 * largest / STEPS as f32,
                        "{value} {back}"
                    );
                }
            }
        }
    }

    #[test]
    fn blocks_of_zeros_and_numbers_that_are_none() {
        for code in [&SIGNED, &UNSIGNED] {
            let (mut places, mut back) = ([9; 7], [1.0; 7]);
            assert_eq!(code.quantize_block(&[0.0; 7], &mut places), 0.0);
            code.dequantize_block(&places, 0.0, &mut back);
            assert_eq!(back, [0.0; 7]);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let largest = code.quantize_block(&[1.0, bad, 2.0, 0.0, 1.0, -1.0, 0.5], &mut places);
                assert!(!largest.is_finite());
            }
        }
    }
}
