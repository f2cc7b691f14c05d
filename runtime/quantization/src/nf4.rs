//! NF4: weights in 4 bits by blocks of 64, the form in which QLoRA keeps a frozen base, equal to bitsandbytes to the bit.
//!
//! ```text
//! block of 64 values (the matrix flattened, row-major)   scale = largest |value|   code = nearest of 16 quantiles of the normal distribution to value / scale
//! two codes a byte, the first in the high half           value' = quantile[code] * scale
//! double quantization: scale = table[byte] * largest + offset, where offset is the mean of all scales and `largest` is that of 256 scales less their mean
//! ```
//! Sources: arXiv 2305.14314; bitsandbytes 0.50 and torch 2.13 on a CPU for every rounding.
//!
//! **What is exact.** Bytes, scales, and values in f32 are those of bitsandbytes on a CPU; it computes the product in f32 and then rounds it to the compute
//! dtype, so [`Nf4Matrix::dequantize_rows`] rounded to bf16 or f16 is what it gives there. A source in bf16 or f16 gives the same bytes as its f32 values. The
//! offset is a sum of f32 numbers, so it depends on their order: it is torch's for up to 32,768 scales (2,097,152 weights); above that torch shares the sum
//! among its threads, and ours, which never does, may differ in the last bits. On a GPU the 8-bit codes of the scales are searched without the detour of
//! [`crate::blockwise`] and may differ there.
//!
//! Memory: 4.5 bits a weight, or 4.127 with double quantization. Cost, as CPU time of one Zen 4 thread in a release build (2026-11-26, a busy machine): encoding
//! 3.9 ns a weight, decoding 0.09 (median of ten; 0.07 to 0.15), which is a tenth of a product over 30 rows.

use std::fmt;
use std::ops::Range;

use witness_formats::hf::four_bit::FourBit;
use witness_formats::{FormatError, TensorRef};
use witness_instructions::vectorised;

use crate::blockwise::{BLOCK as NESTED_BLOCK, SIGNED, largest_magnitude};
use crate::error::{QuantizationError, Result};

/// How many values share a scale.
pub const NF4_BLOCK: usize = 64;

/// The 16 values of a code, from -1 to 1.
pub const NF4_CODE: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Halfway between neighbours of [`NF4_CODE`]: a value above this takes the upper one.
const BOUNDS: [f32; 15] = {
    let mut bounds = [0.0; 15];
    let mut index = 0;
    while index < 15 {
        bounds[index] = (NF4_CODE[index] + NF4_CODE[index + 1]) / 2.0;
        index += 1;
    }
    bounds
};

/// What bitsandbytes puts in place of a scale of 0 before it divides by it.
const SCALE_MIN: f32 = 1e-38;

/// A frozen matrix in 4 bits, `[n_out, n_in]`, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Nf4Matrix {
    n_out: usize,
    n_in: usize,
    packed: Packed,
    scales: Nf4Scales,
}

/// Two codes a byte, in memory or where they lie in a file.
#[derive(Clone)]
enum Packed {
    Owned(Vec<u8>),
    Lying(TensorRef),
}

impl Packed {
    fn bytes(&self) -> &[u8] {
        match self {
            Packed::Owned(bytes) => bytes,
            Packed::Lying(tensor) => tensor.bytes(),
        }
    }
}

impl PartialEq for Packed {
    fn eq(&self, other: &Packed) -> bool {
        self.bytes() == other.bytes()
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes().len())
    }
}

/// The scales of an [`Nf4Matrix`], one for every [`NF4_BLOCK`] values.
#[derive(Clone, Debug, PartialEq)]
pub enum Nf4Scales {
    /// As they are.
    Plain(Vec<f32>),
    /// In 8 bits ("double quantization").
    Nested {
        /// The places in the signed dynamic table, one for each block of values.
        codes: Vec<u8>,
        /// The largest magnitude of every 256 scales less their mean.
        largest: Vec<f32>,
        /// The mean of all scales.
        offset: f32,
    },
}

impl Nf4Matrix {
    /// Quantizes a matrix, `values` being `[n_out, n_in]` and row-major, with 8-bit scales where `double` is said. Runs on the calling thread.
    ///
    /// A value that is infinite or not a number makes its whole block meaningless; [`Nf4Matrix::is_finite`] then says no.
    ///
    /// # Panics
    /// If the number of values is not `n_out * n_in`.
    pub fn quantize(values: &[f32], n_out: usize, n_in: usize, double: bool) -> Nf4Matrix {
        Nf4Matrix::quantize_by(values, n_out, n_in, double, encode_nf4)
    }

    /// The same, where `encode` does what [`encode_nf4`] does with all of it, on as many threads as it likes.
    ///
    /// # Panics
    /// If the number of values is not `n_out * n_in`.
    pub fn quantize_by(
        values: &[f32],
        n_out: usize,
        n_in: usize,
        double: bool,
        encode: impl FnOnce(&[f32], &mut [u8], &mut [f32]),
    ) -> Nf4Matrix {
        assert_eq!(values.len(), n_out * n_in, "a matrix of {n_out} rows of {n_in} values");
        let mut packed = vec![0u8; values.len().div_ceil(2)];
        let mut scales = vec![0.0f32; values.len().div_ceil(NF4_BLOCK)];
        encode(values, &mut packed, &mut scales);
        Nf4Matrix {
            n_out,
            n_in,
            packed: Packed::Owned(packed),
            scales: Nf4Scales::of(scales, double),
        }
    }

    /// Puts a matrix together from its parts; an error where their lengths do not fit.
    pub fn from_parts(n_out: usize, n_in: usize, packed: Vec<u8>, scales: Nf4Scales) -> Result<Nf4Matrix> {
        let matrix = Nf4Matrix {
            n_out,
            n_in,
            packed: Packed::Owned(packed),
            scales,
        };
        match matrix.misfit() {
            None => Ok(matrix),
            Some((what, found, expected)) => Err(QuantizationError::Parts {
                what: format!("the {what} of an NF4 matrix of {n_out} rows of {n_in}"),
                found,
                expected,
            }),
        }
    }

    /// Takes a matrix of a model's files; its codes stay where they lie.
    ///
    /// # Errors
    /// If sizes of blocks or tables are others than those that are decoded here, or lengths do not fit.
    pub fn of_stored(stored: &FourBit) -> std::result::Result<Nf4Matrix, FormatError> {
        let refuse = |what: &str, found: String, expected: String| FormatError::Malformed {
            file: stored.label.clone(),
            place: format!("the {what} of `{}` in NF4", stored.name),
            expected,
            found,
        };
        let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
        let sizes = [
            Some((stored.block, NF4_BLOCK)),
            stored.nested.as_ref().map(|nested| (nested.block, NESTED_BLOCK)),
        ];
        if let Some((found, wanted)) = sizes.into_iter().flatten().find(|(found, wanted)| found != wanted) {
            return Err(refuse("size of blocks", found.to_string(), wanted.to_string()));
        }
        let other_table = |what| refuse(what, "another".to_owned(), "that of bitsandbytes".to_owned());
        if bits(&stored.code) != bits(&NF4_CODE) {
            return Err(other_table("table of values"));
        }
        let scales = match &stored.nested {
            None => Nf4Scales::Plain(stored.absmax.to_f32()?),
            Some(nested) if bits(&nested.code) != bits(SIGNED.values()) => return Err(other_table("table of scales")),
            Some(nested) => Nf4Scales::Nested {
                codes: stored.absmax.bytes().to_vec(),
                largest: nested.absmax.clone(),
                offset: nested.offset,
            },
        };
        let matrix = Nf4Matrix {
            n_out: stored.shape[0],
            n_in: stored.shape[1],
            packed: Packed::Lying(stored.packed.clone()),
            scales,
        };
        match matrix.misfit() {
            None => Ok(matrix),
            Some((what, found, expected)) => Err(refuse(what, found, expected)),
        }
    }

    /// Returns the part whose length does not fit the shape, the length and the one that would.
    fn misfit(&self) -> Option<(&'static str, String, String)> {
        let n_values = self.n_out.saturating_mul(self.n_in);
        let n_blocks = n_values.div_ceil(NF4_BLOCK);
        let mut lengths = vec![("packed codes", self.packed().len(), n_values.div_ceil(2))];
        match &self.scales {
            Nf4Scales::Plain(scales) => lengths.push(("scales", scales.len(), n_blocks)),
            Nf4Scales::Nested { codes, largest, .. } => {
                lengths.push(("codes of scales", codes.len(), n_blocks));
                lengths.push(("largest scales", largest.len(), n_blocks.div_ceil(NESTED_BLOCK)));
            }
        }
        let misfit = lengths.into_iter().find(|(_, found, expected)| found != expected);
        misfit.map(|(what, found, expected)| (what, found.to_string(), expected.to_string()))
    }

    /// Returns the number of rows.
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// Returns the length of a row.
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// Returns the codes, two a byte, the first in the high half; a last odd one has the code of 0 beside it.
    pub fn packed(&self) -> &[u8] {
        self.packed.bytes()
    }

    /// Returns the scales.
    pub fn scales(&self) -> &Nf4Scales {
        &self.scales
    }

    /// Returns how many bytes the matrix takes, its codes included where they lie in a file.
    pub fn bytes(&self) -> usize {
        let scales = match &self.scales {
            Nf4Scales::Plain(scales) => size_of_val(&scales[..]),
            Nf4Scales::Nested { codes, largest, offset } => {
                codes.len() + size_of_val(&largest[..]) + size_of_val(offset)
            }
        };
        self.packed().len() + scales
    }

    /// Says whether every scale, and so every value, is finite.
    pub fn is_finite(&self) -> bool {
        match &self.scales {
            Nf4Scales::Plain(scales) => scales.iter().all(|scale| scale.is_finite()),
            Nf4Scales::Nested { largest, offset, .. } => {
                offset.is_finite() && largest.iter().all(|largest| largest.is_finite())
            }
        }
    }

    /// Writes the values of some rows, `[rows, n_in]`. Runs on the calling thread.
    ///
    /// # Panics
    /// If a row lies outside the matrix or `out` is not as long as the rows are.
    pub fn dequantize_rows(&self, rows: Range<usize>, out: &mut [f32]) {
        assert!(
            rows.start <= rows.end && rows.end <= self.n_out,
            "rows {rows:?} of {}",
            self.n_out
        );
        assert_eq!(out.len(), rows.len() * self.n_in, "the length of {} rows", rows.len());
        let first = rows.start * self.n_in;
        // Rows begin inside a block, even inside a byte, where their length is no multiple of 64.
        let into_block = first % NF4_BLOCK;
        let n_head = match into_block {
            0 => 0,
            inside => (NF4_BLOCK - inside).min(out.len()),
        };
        let (head, body) = out.split_at_mut(n_head);
        self.decode_each(first, head);
        let first_whole = first + n_head;
        let (whole, tail) = body.split_at_mut(body.len() / NF4_BLOCK * NF4_BLOCK);
        self.decode_each(first_whole + whole.len(), tail);
        let first_block = first_whole / NF4_BLOCK;
        let packed = &self.packed()[first_whole / 2..][..whole.len() / 2];
        decode::blocks(packed, whole, |block| self.scale(first_block + block));
    }

    /// Returns the scale of a block of values.
    #[inline(always)]
    fn scale(&self, block: usize) -> f32 {
        match &self.scales {
            Nf4Scales::Plain(scales) => scales[block],
            Nf4Scales::Nested { codes, largest, offset } => {
                SIGNED.values()[usize::from(codes[block])] * largest[block / NESTED_BLOCK] + offset
            }
        }
    }

    /// Writes values from the one numbered `first` on, one by one.
    fn decode_each(&self, first: usize, out: &mut [f32]) {
        let packed = self.packed();
        for (index, value) in (first..).zip(out) {
            let pair = packed[index / 2];
            let code = if index.is_multiple_of(2) { pair >> 4 } else { pair & 15 };
            *value = NF4_CODE[usize::from(code)] * self.scale(index / NF4_BLOCK);
        }
    }
}

impl Nf4Scales {
    /// Takes the scales of all blocks of a matrix, and quantizes them where `double` is said.
    pub fn of(scales: Vec<f32>, double: bool) -> Nf4Scales {
        match double {
            true => nest(&scales),
            false => Nf4Scales::Plain(scales),
        }
    }
}

/// Quantizes blocks of [`NF4_BLOCK`] values, the last of which may be shorter: two codes a byte to `packed`, a number a block to `scales`. Blocks do not depend on each
/// other, so a matrix may be cut after any whole block and its parts be given to as many threads.
///
/// # Panics
/// If `packed` or `scales` has not the length that the values ask for.
pub fn encode_nf4(values: &[f32], packed: &mut [u8], scales: &mut [f32]) {
    assert_eq!(packed.len(), values.len().div_ceil(2), "two codes a byte");
    assert_eq!(scales.len(), values.len().div_ceil(NF4_BLOCK), "a scale a block");
    vectorised(
        #[inline(always)]
        || {
            let blocks = values.chunks(NF4_BLOCK).zip(packed.chunks_mut(NF4_BLOCK / 2));
            for ((values, packed), scale) in blocks.zip(scales) {
                *scale = quantize_block(values, packed);
            }
        },
    );
}

/// Writes the scales that [`encode_nf4`] would give, without the codes.
///
/// # Panics
/// If `scales` has not the length that the values ask for.
pub fn nf4_scales(values: &[f32], scales: &mut [f32]) {
    assert_eq!(scales.len(), values.len().div_ceil(NF4_BLOCK), "a scale a block");
    vectorised(
        #[inline(always)]
        || {
            for (values, scale) in values.chunks(NF4_BLOCK).zip(scales) {
                *scale = scale_of(values).0;
            }
        },
    );
}

/// Returns the scale of a block, what its values are divided by, and what they are multiplied by before.
///
/// The last, shorter block is divided by its scale where the others are multiplied by its inverse: one rounding less, and the bytes are to be equal.
#[inline(always)]
fn scale_of(values: &[f32]) -> (f32, f32, f32) {
    let most = largest_magnitude(values);
    match values.len() == NF4_BLOCK {
        true => (most, 1.0, 1.0 / lifted(most)),
        false => (lifted(most), lifted(most), 1.0),
    }
}

/// Quantizes a block and returns its scale.
#[inline(always)]
fn quantize_block(values: &[f32], packed: &mut [u8]) -> f32 {
    let (scale, divisor, factor) = scale_of(values);
    // The places past the end of a shorter block are 0, whose code is what fills an odd last byte.
    let mut scaled = [0.0f32; NF4_BLOCK];
    for (scaled, value) in scaled.iter_mut().zip(values) {
        // Clamping to 1, as the reference does, would change no code.
        *scaled = value * factor / divisor;
    }
    let mut codes = [0u32; NF4_BLOCK];
    for bound in BOUNDS {
        for (code, scaled) in codes.iter_mut().zip(&scaled) {
            // Wrapping, as checked sums would keep the loop from becoming vector code.
            *code = code.wrapping_add(u32::from(*scaled > bound));
        }
    }
    for (byte, pair) in packed.iter_mut().zip(codes.chunks_exact(2)) {
        *byte = (pair[0] << 4 | pair[1]) as u8;
    }
    scale
}

fn lifted(scale: f32) -> f32 {
    if scale < SCALE_MIN { SCALE_MIN } else { scale }
}

/// Quantizes the scales.
fn nest(scales: &[f32]) -> Nf4Scales {
    let offset = torch_sum(scales) / scales.len().max(1) as f32;
    let centred: Vec<f32> = scales.iter().map(|scale| scale - offset).collect();
    let mut codes = vec![0; scales.len()];
    let blocks = centred.chunks(NESTED_BLOCK).zip(codes.chunks_mut(NESTED_BLOCK));
    let largest = blocks.map(|(values, codes)| SIGNED.quantize_block(values, codes));
    let largest = largest.collect();
    Nf4Scales::Nested { codes, largest, offset }
}

/// Sums in the order in which torch sums a contiguous vector on a CPU with AVX2 (and with AVX-512, where it uses the same code).
///
/// 32 running sums (4 vectors of 8), which are emptied every 16 (or more) rows into a second level, that one every 16 times into a third, and so on, 4 levels
/// in all; then levels, vectors and lanes are added up, after what is left over at the end. Fewer than 8 numbers are 4 sums of one.
fn torch_sum(values: &[f32]) -> f32 {
    if let [a, b, c, d, rest @ ..] = values
        && rest.len() < 4
    {
        return rest.iter().fold(*a, |sum, value| sum + value) + b + c + d;
    }
    const LANES: usize = 8;
    const VECTORS: usize = 4;
    const LEVELS: usize = 4;
    let add = |into: &mut [f32], values: &[f32]| {
        for (into, value) in into.iter_mut().zip(values) {
            *into += value;
        }
    };
    let rows = values.chunks_exact(LANES * VECTORS);
    let rest = rows.remainder().chunks_exact(LANES);
    let n_rows = rows.len();
    let level_bits = (usize::BITS - n_rows.saturating_sub(1).leading_zeros())
        .div_euclid(LEVELS as u32)
        .max(4);
    let mut levels = [[0.0f32; LANES * VECTORS]; LEVELS];
    for (n, row) in (1usize..).zip(rows) {
        add(&mut levels[0], row);
        // A level is emptied when the count of the one below it comes round.
        for level in 1..LEVELS {
            if !n.is_multiple_of(1 << (level_bits * level as u32)) {
                break;
            }
            let full = std::mem::replace(&mut levels[level - 1], [0.0; LANES * VECTORS]);
            add(&mut levels[level], &full);
        }
    }
    let [mut sums, upper @ ..] = levels;
    for level in &upper {
        add(&mut sums, level);
    }
    let mut total: f32 = rest.remainder().iter().sum();
    let (first, others) = sums.split_at_mut(LANES);
    for vector in rest {
        add(first, vector);
    }
    for vector in others.chunks_exact(LANES) {
        add(first, vector);
    }
    for lane in first {
        total += *lane;
    }
    total
}

/// Decoding of whole blocks.
mod decode {
    #![cfg_attr(
        target_arch = "x86_64",
        expect(unsafe_code, reason = "instructions that an `Isa` proves to be there")
    )]

    #[cfg(target_arch = "x86_64")]
    use witness_instructions::{Isa, Level};

    use super::{NF4_BLOCK, NF4_CODE};

    /// Writes the values of whole blocks; `scale` gives the scale of each by its number.
    pub(super) fn blocks(packed: &[u8], out: &mut [f32], scale: impl Fn(usize) -> f32) {
        #[cfg(target_arch = "x86_64")]
        if Isa::current().at_least(Level::Avx2) {
            // SAFETY: an `Isa` of this level or a higher one proves that the processor has AVX2.
            unsafe { avx2(packed, out, scale) };
            return;
        }
        scalar(packed, out, scale);
    }

    /// One table of 16 products a block, two look-ups a byte.
    pub(super) fn scalar(packed: &[u8], out: &mut [f32], scale: impl Fn(usize) -> f32) {
        let blocks = packed.chunks_exact(NF4_BLOCK / 2).zip(out.chunks_exact_mut(NF4_BLOCK));
        for (block, (packed, out)) in blocks.enumerate() {
            let scale = scale(block);
            let table = NF4_CODE.map(|value| value * scale);
            for (pair, out) in packed.iter().zip(out.chunks_exact_mut(2)) {
                out[0] = table[usize::from(pair >> 4)];
                out[1] = table[usize::from(pair & 15)];
            }
        }
    }

    /// 8 codes at a time: four bytes go to all lanes, each lane shifts its own code down, both halves of the table are looked up by the code's three low
    /// bits, and the fourth, shifted up to the sign, chooses between them.
    ///
    /// # Safety
    /// The processor has AVX2.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn avx2(packed: &[u8], out: &mut [f32], scale: impl Fn(usize) -> f32) {
        use std::arch::x86_64::*;
        // SAFETY: both halves of the table have eight numbers.
        let (low, high) = unsafe {
            (
                _mm256_loadu_ps(NF4_CODE[..8].as_ptr()),
                _mm256_loadu_ps(NF4_CODE[8..].as_ptr()),
            )
        };
        // The first code of a byte is in its high half.
        let shifts = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
        let blocks = packed.chunks_exact(NF4_BLOCK / 2).zip(out.chunks_exact_mut(NF4_BLOCK));
        for (block, (packed, out)) in blocks.enumerate() {
            let scale = _mm256_set1_ps(scale(block));
            let (low, high) = (_mm256_mul_ps(low, scale), _mm256_mul_ps(high, scale));
            let (words, _) = packed.as_chunks::<4>();
            let (out, _) = out.as_chunks_mut::<8>();
            for (word, out) in words.iter().zip(out) {
                let word = _mm256_set1_epi32(i32::from_le_bytes(*word));
                let codes = _mm256_srlv_epi32(word, shifts);
                let is_high = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
                let lower = _mm256_permutevar8x32_ps(low, codes);
                let upper = _mm256_permutevar8x32_ps(high, codes);
                let values = _mm256_blendv_ps(lower, upper, is_high);
                // SAFETY: `out` has eight numbers.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr(), values) };
            }
        }
    }
}

#[cfg(test)]
mod tests;
