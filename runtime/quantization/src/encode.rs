//! Numbers to blocks, byte for byte as `ggml_quantize_chunk` makes them, which is what llama-quantize calls.
//!
//! The reference is a release build of ggml for x86-64, whatever its other options: the file with these functions is compiled for the oldest x86-64, which has no
//! fused multiply-add, also where the rest is compiled for the machine at hand. `tests/record/README.md` says how that was seen, and how much differs
//! where somebody forces one.

mod batch;
mod few;
mod grid;
mod k;
mod one;
mod rounded;
mod search;
mod small;

use witness_formats::gguf::GgmlType;
use witness_instructions::vectorised;

use crate::error::{QuantizationError, Result};
use crate::lanes::LANES_MAX;

/// How many numbers are encoded at a time, at least: 256 KiB.
const STRETCH: usize = 65_536;

/// The types that [`encode`] writes.
pub const ENCODED: [GgmlType; 24] = [
    GgmlType::F32,
    GgmlType::F16,
    GgmlType::BF16,
    GgmlType::Q8_0,
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::Q2_K,
    GgmlType::Q3_K,
    GgmlType::Q4_K,
    GgmlType::Q5_K,
    GgmlType::Q6_K,
    GgmlType::IQ4_NL,
    GgmlType::IQ4_XS,
    GgmlType::IQ1_S,
    GgmlType::IQ1_M,
    GgmlType::IQ2_XXS,
    GgmlType::IQ2_XS,
    GgmlType::IQ2_S,
    GgmlType::IQ3_XXS,
    GgmlType::IQ3_S,
    GgmlType::TQ1_0,
    GgmlType::TQ2_0,
];

/// Those of [`ENCODED`] that are only made with importance.
pub const NEEDS_IMPORTANCE: [GgmlType; 3] = [GgmlType::IQ1_S, GgmlType::IQ2_XXS, GgmlType::IQ2_XS];

/// Encodes whole rows, `[n_rows, n_columns]`, as blocks of a type.
///
/// `importance` has a number for each column: how much an error there matters, such as the mean square of what that column is multiplied by. Q8_0, TQ1_0, TQ2_0 and
/// the dense types do not use it; the types of [`NEEDS_IMPORTANCE`] cannot do without. `out` takes exactly the bytes of the rows, as [`GgmlType::row_bytes`] counts them. Rows do not depend on each other: any split of a
/// matrix between calls gives the same bytes. Buffers of the work are on the stack, some 100 KiB.
///
/// # Errors
/// If the type is none of [`ENCODED`], needs importance that is not there, a length does not fit, a number is not finite, or a scale (or an F16 itself) is too large for 16 bits, which llama-quantize
/// refuses too. What `out` holds then is of no use.
pub fn encode(
    kind: GgmlType,
    rows: &[f32],
    n_columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<()> {
    check(kind, rows, n_columns, importance, out)?;
    // Some rows at a time, so that looking for infinities before and after reads what is still in the cache.
    let n_rows = STRETCH.div_ceil(n_columns).next_multiple_of(LANES_MAX);
    let row_bytes = out.len() / (rows.len() / n_columns).max(1);
    let stretches = rows
        .chunks(n_rows * n_columns)
        .zip(out.chunks_mut((n_rows * row_bytes).max(1)));
    for (stretch, (rows, out)) in stretches.enumerate() {
        let start = stretch * n_rows * n_columns;
        finite("number", rows, start)?;
        encode_rows(kind, rows, n_columns, importance, out)?;
        if let Some(place) = first_too_large(kind, out) {
            return Err(QuantizationError::TooLarge {
                kind,
                index: start + place,
            });
        }
    }
    Ok(())
}

fn encode_rows(
    kind: GgmlType,
    rows: &[f32],
    n_columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<()> {
    match (kind, importance) {
        (GgmlType::F32, _) => rounded::f32(rows, out),
        (GgmlType::F16, _) => rounded::f16(rows, out),
        (GgmlType::BF16, _) => rounded::bf16(rows, out),
        (GgmlType::Q8_0, _) => rounded::q8_0(rows, out),
        (GgmlType::Q4_0, None) => rounded::q4_0(rows, out),
        (GgmlType::Q4_1, None) => rounded::q4_1(rows, out),
        (GgmlType::Q5_0, None) => rounded::q5_0(rows, out),
        (GgmlType::Q5_1, None) => rounded::q5_1(rows, out),
        (GgmlType::Q4_0, Some(_)) => batch::encode::<small::Q4_0, 32, 18>(rows, n_columns, importance, out),
        (GgmlType::Q4_1, Some(_)) => batch::encode::<small::Q4_1, 32, 20>(rows, n_columns, importance, out),
        (GgmlType::Q5_0, Some(_)) => batch::encode::<small::Q5_0, 32, 22>(rows, n_columns, importance, out),
        (GgmlType::Q5_1, Some(_)) => batch::encode::<small::Q5_1, 32, 24>(rows, n_columns, importance, out),
        (GgmlType::IQ4_NL, _) => batch::encode::<small::Iq4Nl, 32, 18>(rows, n_columns, importance, out),
        (GgmlType::IQ4_XS, _) => batch::encode::<small::Iq4Xs, 256, 136>(rows, n_columns, importance, out),
        (GgmlType::IQ1_S, _) => grid::iq1_s(rows, n_columns, importance, out),
        (GgmlType::IQ1_M, _) => grid::iq1_m(rows, n_columns, importance, out),
        (GgmlType::IQ2_XXS, _) => grid::iq2_xxs(rows, n_columns, importance, out),
        (GgmlType::IQ2_XS, _) => grid::iq2_xs(rows, n_columns, importance, out),
        (GgmlType::IQ2_S, _) => grid::iq2_s(rows, n_columns, importance, out),
        (GgmlType::IQ3_XXS, _) => grid::iq3_xxs(rows, n_columns, importance, out),
        (GgmlType::IQ3_S, _) => grid::iq3_s(rows, n_columns, importance, out),
        (GgmlType::TQ1_0, _) => few::tq1_0(rows, out),
        (GgmlType::TQ2_0, _) => few::tq2_0(rows, out),
        (GgmlType::Q2_K, _) => batch::encode::<k::Q2K, 256, 84>(rows, n_columns, importance, out),
        (GgmlType::Q3_K, _) => batch::encode::<k::Q3K, 256, 110>(rows, n_columns, importance, out),
        (GgmlType::Q4_K, _) => batch::encode::<k::Q4K, 256, 144>(rows, n_columns, importance, out),
        (GgmlType::Q5_K, _) => batch::encode::<k::Q5K, 256, 176>(rows, n_columns, importance, out),
        (GgmlType::Q6_K, _) => batch::encode::<k::Q6K, 256, 210>(rows, n_columns, importance, out),
        _ => return Err(QuantizationError::Type { kind, act: "encoded" }),
    }
    Ok(())
}

fn check(kind: GgmlType, rows: &[f32], n_columns: usize, importance: Option<&[f32]>, out: &[u8]) -> Result<()> {
    let block = kind.block_elements().filter(|_| ENCODED.contains(&kind));
    let block = block.ok_or(QuantizationError::Type { kind, act: "encoded" })?;
    if importance.is_none() && NEEDS_IMPORTANCE.contains(&kind) {
        return Err(QuantizationError::NeedsImportance { kind });
    }
    if n_columns == 0 || !n_columns.is_multiple_of(block) {
        return Err(QuantizationError::Columns { kind, n_columns, block });
    }
    let numbers = rows.len();
    if !numbers.is_multiple_of(n_columns) {
        return Err(QuantizationError::Rows { numbers, n_columns });
    }
    if kind.row_bytes(numbers) != Some(out.len() as u64) {
        let bytes = out.len();
        return Err(QuantizationError::Bytes { kind, numbers, bytes });
    }
    if let Some(importance) = importance {
        if importance.len() != n_columns {
            let found = importance.len();
            return Err(QuantizationError::Importance { found, n_columns });
        }
        finite("importance", importance, 0)?;
    }
    Ok(())
}

/// Refuses infinities and what is not a number, named by their place from `start` on.
fn finite(what: &'static str, numbers: &[f32], start: usize) -> Result<()> {
    for (chunk, numbers) in numbers.chunks(4_096).enumerate() {
        // The exponent of all ones is that of infinities and of what is not a number.
        let largest = vectorised(
            #[inline(always)]
            || {
                let sizes = numbers.iter().map(|number| number.to_bits() & 0x7fff_ffff);
                sizes.fold(0, u32::max)
            },
        );
        if largest < f32::INFINITY.to_bits() {
            continue;
        }
        if let Some(place) = numbers.iter().position(|number| !number.is_finite()) {
            let (index, value) = (start + 4_096 * chunk + place, numbers[place]);
            return Err(QuantizationError::NotFinite { what, index, value });
        }
    }
    Ok(())
}

/// Returns the place of the first number of the first block that holds an infinity.
fn first_too_large(kind: GgmlType, out: &[u8]) -> Option<usize> {
    let halves: &[usize] = match kind {
        GgmlType::F16 => return first_infinite(out, 0x7c00),
        GgmlType::BF16 => return first_infinite(out, 0x7f80),
        GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 | GgmlType::IQ4_NL | GgmlType::IQ4_XS => &[0],
        GgmlType::IQ1_S | GgmlType::IQ2_XXS | GgmlType::IQ2_XS | GgmlType::IQ2_S => &[0],
        GgmlType::IQ3_XXS | GgmlType::IQ3_S => &[0],
        // Spread over words, see below.
        GgmlType::IQ1_M => &[],
        GgmlType::TQ1_0 => &[52],
        GgmlType::TQ2_0 => &[64],
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
        GgmlType::Q2_K => &[80, 82],
        GgmlType::Q3_K => &[108],
        GgmlType::Q6_K => &[208],
        _ => return None,
    };
    let (bytes, numbers) = (kind.block_bytes()?, kind.block_elements()?);
    if kind == GgmlType::IQ1_M {
        // The highest bits of two words.
        let is_too_large = |block: &[u8]| block[55] & 0x70 == 0x70 && block[53] & 0xc0 == 0xc0;
        return out
            .chunks_exact(bytes)
            .position(is_too_large)
            .map(|block| block * numbers);
    }
    let is_too_large = |block: &[u8]| {
        halves
            .iter()
            .any(|at| u16::from_le_bytes([block[*at], block[at + 1]]) & 0x7c00 == 0x7c00)
    };
    let block = out.chunks_exact(bytes).position(is_too_large)?;
    Some(block * numbers)
}

/// Returns the place of the first number of 16 bits that is infinite, given the bits of the least such.
fn first_infinite(out: &[u8], infinity: u16) -> Option<usize> {
    let (pairs, _) = out.as_chunks::<2>();
    let size = |pair: &[u8; 2]| u16::from_le_bytes(*pair) & 0x7fff;
    let largest = vectorised(
        #[inline(always)]
        || pairs.iter().map(size).fold(0, u16::max),
    );
    if largest < infinity {
        return None;
    }
    pairs.iter().position(|pair| size(pair) >= infinity)
}
