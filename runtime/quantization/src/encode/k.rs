//! Q2_K to Q6_K: blocks of 256 numbers in groups, each with a quantized scale.
//!
//! Source: `quantize_row_q*_K_ref` (without importance) and `quantize_row_q*_K_impl` (with it) of ggml-quants.c. Fields are laid out as in [`crate::decode`].

use super::batch::{Codec, combine, part, store_half};
use super::search::{Affine, Symmetric, Tries, ZERO_BELOW, positive, three_bits};
use crate::lanes::{ByteRow, Lanes, Row};

/// The tries with importance, of every affine type.
const WEIGHTED: Tries = Tries {
    first: -0.9,
    step: 0.05,
    steps: 36,
    absolute: false,
};

pub(super) struct Q2K;
pub(super) struct Q3K;
pub(super) struct Q4K;
pub(super) struct Q5K;
pub(super) struct Q6K;

impl Codec<256, 84> for Q2K {
    #[inline(always)]
    fn encode<V: Lanes>(v: V, x: &[Row; 256], importance: Option<&[Row; 256]>, _: &Row, bytes: &mut [ByteRow; 84]) {
        let zero = v.splat(0.0);
        let tries = match importance {
            None => Tries {
                first: -0.5,
                step: 0.1,
                steps: 15,
                absolute: true,
            },
            Some(_) => WEIGHTED,
        };
        let mean = match importance {
            None => zero,
            Some(_) => v.div(sum_of_squares(v, x), v.splat(256.0)),
        };
        let mut found: [Option<Affine<V>>; 16] = [const { None }; 16];
        let (mut scales, mut minima, mut sums) = ([zero; 16], [zero; 16], [zero; 16]);
        for group in 0..16 {
            let numbers: [V::F; 16] = part(v, x, 16 * group);
            let mut weights = [zero; 16];
            for i in 0..16 {
                weights[i] = match importance {
                    None => v.abs(numbers[i]),
                    Some(importance) => weight(v, importance, 16 * group + i, mean, numbers[i]),
                };
            }
            sums[group] = sum(v, &weights);
            let affine = Affine::search(v, &numbers, &weights, 3.0, tries);
            (scales[group], minima[group]) = (affine.scale, affine.minimum);
            found[group] = Some(affine);
        }
        let quantized = match importance {
            None => [share(v, &scales, 15.0), share(v, &minima, 15.0)],
            Some(_) => [positive(v, &scales, &sums, 15.0), positive(v, &minima, &sums, 15.0)],
        };
        let [(d, scales), (dmin, minima)] = quantized;
        let d = store_half(v, d, &mut bytes[80..82]);
        let dmin = store_half(v, dmin, &mut bytes[82..84]);
        let mut integers = [ByteRow::default(); 256];
        for group in 0..16 {
            let (mut scale, mut minimum) = (ByteRow::default(), ByteRow::default());
            v.store_bytes(v.low_byte(scales[group]), &mut scale);
            v.store_bytes(v.low_byte(minima[group]), &mut minimum);
            bytes[group] = combine([&scale, &minimum], |[scale, minimum]| scale | minimum << 4);
            // What a reader will see: a nibble each, of which the lower may carry what the upper put there.
            let low = combine([&bytes[group]], |[byte]| byte & 15);
            let high = combine([&bytes[group]], |[byte]| byte >> 4);
            let (d, dm) = (v.mul(d, load_bytes(v, &low)), v.mul(dmin, load_bytes(v, &high)));
            let affine = found[group].as_ref();
            requantize(
                v,
                &x[16 * group..][..16],
                d,
                dm,
                3.0,
                affine,
                &mut integers[16 * group..][..16],
            );
        }
        two_bits(&integers, &mut bytes[16..80]);
    }
}

impl Codec<256, 110> for Q3K {
    #[inline(always)]
    fn encode<V: Lanes>(v: V, x: &[Row; 256], importance: Option<&[Row; 256]>, _: &Row, bytes: &mut [ByteRow; 110]) {
        let zero = v.splat(0.0);
        let mean = match importance {
            None => zero,
            Some(_) => v.div(v.mul(v.splat(2.0), sum_of_squares(v, x)), v.splat(256.0)),
        };
        let (mut scales, mut sums) = ([zero; 16], [zero; 16]);
        let mut found = [ByteRow::default(); 256];
        for group in 0..16 {
            let numbers: [V::F; 16] = part(v, x, 16 * group);
            let found = &mut found[16 * group..][..16];
            match importance {
                None => {
                    let (scale, integers) = three_bits(v, &numbers);
                    scales[group] = scale;
                    for (integer, row) in integers.iter().zip(found) {
                        v.store_bytes(*integer, row);
                    }
                }
                Some(importance) => {
                    let mut weights = [zero; 16];
                    for i in 0..16 {
                        weights[i] = weight(v, importance, 16 * group + i, mean, numbers[i]);
                    }
                    sums[group] = sum(v, &weights);
                    let symmetric = Symmetric::search(v, &numbers, &weights, 4.0);
                    scales[group] = symmetric.scale;
                    for (number, row) in numbers.iter().zip(found) {
                        v.store_bytes(symmetric.integer(v, *number), row);
                    }
                }
            }
        }
        let (d, quantized) = match importance {
            None => signed_share(v, &scales),
            Some(_) => {
                let symmetric = Symmetric::search(v, &scales, &sums, 32.0);
                let mut quantized = [zero; 16];
                for group in 0..16 {
                    quantized[group] = symmetric.integer(v, scales[group]);
                }
                (symmetric.scale, quantized)
            }
        };
        let d = store_half(v, d, &mut bytes[108..110]);
        let mut levels = [ByteRow::default(); 16];
        for group in 0..16 {
            v.store_bytes(quantized[group], &mut levels[group]);
            let d = v.mul(d, v.sub(quantized[group], v.splat(32.0)));
            let at = 16 * group;
            let (x, found) = (&x[at..][..16], &mut found[at..][..16]);
            requantize_signed(v, x, d, 4.0, found);
        }
        for place in 0..8 {
            bytes[96 + place] = combine([&levels[place], &levels[place + 8]], |[low, high]| low & 15 | high << 4);
        }
        for place in 0..4 {
            let four = [
                &levels[place],
                &levels[place + 4],
                &levels[place + 8],
                &levels[place + 12],
            ];
            bytes[104 + place] = combine(four, |[a, b, c, d]| a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6);
        }
        for place in 0..32 {
            let mut high = ByteRow::default();
            for bit in 0..8 {
                high = combine([&high, &found[32 * bit + place]], |[high, integer]| {
                    high | (integer >> 2 & 1) << bit
                });
            }
            bytes[place] = high;
        }
        two_bits(&found, &mut bytes[32..96]);
    }
}

impl Codec<256, 144> for Q4K {
    #[inline(always)]
    fn encode<V: Lanes>(v: V, x: &[Row; 256], importance: Option<&[Row; 256]>, _: &Row, bytes: &mut [ByteRow; 144]) {
        let tries = match importance {
            None => Tries {
                first: -1.0,
                step: 0.1,
                steps: 20,
                absolute: false,
            },
            Some(_) => WEIGHTED,
        };
        let mut integers = [ByteRow::default(); 256];
        eight_groups(v, x, importance, 15.0, tries, &mut bytes[..16], &mut integers);
        four_bits(&integers, &mut bytes[16..]);
    }
}

impl Codec<256, 176> for Q5K {
    #[inline(always)]
    fn encode<V: Lanes>(v: V, x: &[Row; 256], importance: Option<&[Row; 256]>, _: &Row, bytes: &mut [ByteRow; 176]) {
        let tries = match importance {
            None => Tries {
                first: -0.5,
                step: 0.1,
                steps: 15,
                absolute: false,
            },
            Some(_) => WEIGHTED,
        };
        let mut integers = [ByteRow::default(); 256];
        eight_groups(v, x, importance, 31.0, tries, &mut bytes[..16], &mut integers);
        for place in 0..32 {
            let mut high = ByteRow::default();
            for group in 0..8 {
                let integer = &integers[32 * group + place];
                high = combine([&high, integer], |[high, integer]| high | (integer >> 4 & 1) << group);
            }
            bytes[16 + place] = high;
        }
        four_bits(&integers, &mut bytes[48..]);
    }
}

impl Codec<256, 210> for Q6K {
    #[inline(always)]
    fn encode<V: Lanes>(v: V, x: &[Row; 256], importance: Option<&[Row; 256]>, _: &Row, bytes: &mut [ByteRow; 210]) {
        let zero = v.splat(0.0);
        let mut scales = [zero; 16];
        let mut integers = [ByteRow::default(); 256];
        let (mut largest, mut size) = (zero, zero);
        for group in 0..16 {
            let numbers: [V::F; 16] = part(v, x, 16 * group);
            let mut weights = [zero; 16];
            for i in 0..16 {
                weights[i] = match importance {
                    None => v.mul(numbers[i], numbers[i]),
                    Some(importance) => v.load(&importance[16 * group + i]),
                };
            }
            let symmetric = Symmetric::search(v, &numbers, &weights, 32.0);
            scales[group] = symmetric.scale;
            for (number, row) in numbers.iter().zip(&mut integers[16 * group..][..16]) {
                v.store_bytes(symmetric.integer(v, *number), row);
            }
            let candidate = v.abs(symmetric.scale);
            let is_larger = v.less(size, candidate);
            size = v.select(is_larger, candidate, size);
            largest = v.select(is_larger, symmetric.scale, largest);
        }
        let is_zero = v.less(size, v.splat(ZERO_BELOW));
        let inverse = v.div(v.splat(-128.0), largest);
        let d = v.select(is_zero, zero, v.div(v.splat(1.0), inverse));
        let d = store_half(v, d, &mut bytes[208..210]);
        for group in 0..16 {
            let scale = v.nearest(v.mul(inverse, scales[group]));
            let scale = v.select(v.less(v.splat(127.0), scale), v.splat(127.0), scale);
            let scale = v.select(is_zero, zero, v.low_byte(scale));
            v.store_bytes(scale, &mut bytes[192 + group]);
            let is_negative = v.less(v.splat(127.0), scale);
            let scale = v.select(is_negative, v.sub(scale, v.splat(256.0)), scale);
            let at = 16 * group;
            let (x, integers) = (&x[at..][..16], &mut integers[at..][..16]);
            requantize_signed(v, x, v.mul(d, scale), 32.0, integers);
        }
        // Such a block is all zeros, also where its groups had found something.
        let mut keep = ByteRow::default();
        v.store_bytes(v.select(is_zero, zero, v.splat(255.0)), &mut keep);
        for half in 0..2 {
            for place in 0..64 {
                let pair = [&integers[128 * half + place], &integers[128 * half + 64 + place], &keep];
                bytes[64 * half + place] = combine(pair, |[low, high, keep]| (low & 15 | high << 4) & keep);
            }
            for place in 0..32 {
                let at = 128 * half + place;
                let four = [
                    &integers[at],
                    &integers[at + 32],
                    &integers[at + 64],
                    &integers[at + 96],
                    &keep,
                ];
                bytes[128 + 32 * half + place] = combine(four, |[a, b, c, d, keep]| {
                    (a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6) & keep
                });
            }
        }
    }
}

/// Finds scales and integers of the types of eight groups of 32: Q4_K and Q5_K.
#[inline(always)]
fn eight_groups<V: Lanes>(
    v: V,
    x: &[Row; 256],
    importance: Option<&[Row; 256]>,
    highest: f32,
    tries: Tries,
    head: &mut [ByteRow],
    integers: &mut [ByteRow; 256],
) {
    let zero = v.splat(0.0);
    let mean = match importance {
        None => zero,
        Some(_) => v.div(v.mul(v.splat(2.0), sum_of_squares(v, x)), v.splat(256.0)),
    };
    let mut found: [Option<Affine<V>>; 8] = [const { None }; 8];
    let (mut scales, mut minima, mut sums) = ([zero; 8], [zero; 8], [zero; 8]);
    for group in 0..8 {
        let numbers: [V::F; 32] = part(v, x, 32 * group);
        let mut weights = [zero; 32];
        match importance {
            None => {
                let mut squares = zero;
                for number in &numbers {
                    squares = v.add(squares, v.mul(*number, *number));
                }
                let average = v.sqrt(v.div(squares, v.splat(32.0)));
                for i in 0..32 {
                    weights[i] = v.add(average, v.abs(numbers[i]));
                }
            }
            Some(importance) => {
                for i in 0..32 {
                    weights[i] = weight(v, importance, 32 * group + i, mean, numbers[i]);
                }
                sums[group] = sum(v, &weights);
            }
        }
        let affine = Affine::search(v, &numbers, &weights, highest, tries);
        (scales[group], minima[group]) = (affine.scale, affine.minimum);
        found[group] = Some(affine);
    }
    let quantized = match importance {
        None => [six_bit_share(v, &scales), six_bit_share(v, &minima)],
        Some(_) => [positive(v, &scales, &sums, 63.0), positive(v, &minima, &sums, 63.0)],
    };
    // The reference lets Q4_K with importance go without the limit, which only a negative scale would exceed.
    let limited = importance.is_none() || highest > 15.0;
    let [(d, scales), (dmin, minima)] = quantized;
    let (halves, packed) = head.split_at_mut(4);
    let d = store_half(v, d, &mut halves[..2]);
    let dmin = store_half(v, dmin, &mut halves[2..]);
    let (mut s, mut m) = ([ByteRow::default(); 8], [ByteRow::default(); 8]);
    for group in 0..8 {
        v.store_bytes(at_most_63(v, scales[group], limited), &mut s[group]);
        v.store_bytes(at_most_63(v, minima[group], limited), &mut m[group]);
    }
    for place in 0..4 {
        packed[place] = combine([&s[place], &s[place + 4]], |[low, high]| low | high >> 4 << 6);
        packed[place + 4] = combine([&m[place], &m[place + 4]], |[low, high]| low | high >> 4 << 6);
        packed[place + 8] = combine([&s[place + 4], &m[place + 4]], |[scale, minimum]| {
            scale & 15 | minimum << 4
        });
    }
    for group in 0..8 {
        // As a reader will see them.
        let (scale, minimum) = if group < 4 {
            let of = |[byte]: [u8; 1]| byte & 63;
            (combine([&packed[group]], of), combine([&packed[group + 4]], of))
        } else {
            let four = &packed[group + 4];
            (
                combine([four, &packed[group - 4]], |[low, high]| low & 15 | high >> 6 << 4),
                combine([four, &packed[group]], |[low, high]| low >> 4 | high >> 6 << 4),
            )
        };
        let scale = v.mul(d, load_bytes(v, &scale));
        let minimum = v.mul(dmin, load_bytes(v, &minimum));
        let at = 32 * group;
        let (x, integers) = (&x[at..][..32], &mut integers[at..][..32]);
        requantize(v, x, scale, minimum, highest, found[group].as_ref(), integers);
    }
}

/// Holds a byte to 6 bits, where the reference does.
#[inline(always)]
fn at_most_63<V: Lanes>(v: V, byte: V::F, limited: bool) -> V::F {
    if limited { v.clamp(byte, 0.0, 63.0) } else { byte }
}

/// Returns the weight of a number that has an importance.
#[inline(always)]
pub(super) fn weight<V: Lanes, const K: usize>(v: V, importance: &[Row; K], place: usize, mean: V::F, x: V::F) -> V::F {
    let spread = v.sqrt(v.add(mean, v.mul(x, x)));
    v.mul(v.load(&importance[place]), spread)
}

#[inline(always)]
pub(super) fn sum_of_squares<V: Lanes>(v: V, x: &[Row]) -> V::F {
    let mut sum = v.splat(0.0);
    for row in x {
        let number = v.load(row);
        sum = v.add(sum, v.mul(number, number));
    }
    sum
}

#[inline(always)]
fn sum<V: Lanes>(v: V, numbers: &[V::F]) -> V::F {
    let mut sum = v.splat(0.0);
    for number in numbers {
        sum = v.add(sum, *number);
    }
    sum
}

/// Returns the largest of numbers, 0 at least.
#[inline(always)]
fn largest_positive<V: Lanes>(v: V, numbers: &[V::F]) -> (V::F, V::M) {
    let zero = v.splat(0.0);
    let mut largest = zero;
    for number in numbers {
        largest = v.select(v.less(largest, *number), *number, largest);
    }
    (largest, v.less(zero, largest))
}

/// Quantizes what is not negative to `highest` steps of the largest.
#[inline(always)]
fn share<V: Lanes>(v: V, numbers: &[V::F; 16], highest: f32) -> (V::F, [V::F; 16]) {
    let zero = v.splat(0.0);
    let (largest, is_positive) = largest_positive(v, numbers);
    let inverse = v.div(v.splat(highest), largest);
    let mut integers = [zero; 16];
    for (integer, number) in integers.iter_mut().zip(numbers) {
        *integer = v.select(is_positive, v.nearest(v.mul(inverse, *number)), zero);
    }
    (v.select(is_positive, v.div(largest, v.splat(highest)), zero), integers)
}

/// Quantizes what is not negative to 63 steps of the largest.
#[inline(always)]
fn six_bit_share<V: Lanes>(v: V, numbers: &[V::F; 8]) -> (V::F, [V::F; 8]) {
    let zero = v.splat(0.0);
    let (largest, is_positive) = largest_positive(v, numbers);
    let inverse = v.select(is_positive, v.div(v.splat(63.0), largest), zero);
    let mut integers = [zero; 8];
    for (integer, number) in integers.iter_mut().zip(numbers) {
        *integer = v.low_byte(v.nearest(v.mul(inverse, *number)));
    }
    (v.div(largest, v.splat(63.0)), integers)
}

/// Quantizes the scales of Q3_K to 6 bits, counted from -32.
#[inline(always)]
fn signed_share<V: Lanes>(v: V, scales: &[V::F; 16]) -> (V::F, [V::F; 16]) {
    let zero = v.splat(0.0);
    let (largest, _) = super::search::largest(v, scales);
    let is_zero = v.equal(largest, zero);
    let inverse = v.div(v.splat(-32.0), largest);
    let mut integers = [zero; 16];
    for (integer, scale) in integers.iter_mut().zip(scales) {
        let byte = v.low_byte(v.nearest(v.mul(inverse, *scale)));
        let signed = v.select(v.less(v.splat(127.0), byte), v.sub(byte, v.splat(256.0)), byte);
        let level = v.add(v.clamp(signed, -32.0, 31.0), v.splat(32.0));
        *integer = v.select(is_zero, zero, level);
    }
    (v.select(is_zero, zero, v.div(v.splat(1.0), inverse)), integers)
}

#[inline(always)]
fn load_bytes<V: Lanes>(v: V, bytes: &ByteRow) -> V::F {
    let mut row = Row::default();
    for (number, byte) in row.iter_mut().zip(bytes) {
        *number = f32::from(*byte);
    }
    v.load(&row)
}

/// Chooses the integers of a group for the scale and minimum that a reader will see; where that scale is zero, those of the search stay.
#[inline(always)]
fn requantize<V: Lanes>(
    v: V,
    x: &[Row],
    scale: V::F,
    minimum: V::F,
    highest: f32,
    found: Option<&Affine<V>>,
    integers: &mut [ByteRow],
) {
    let is_zero = v.equal(scale, v.splat(0.0));
    let any_zero = v.any(is_zero);
    for (row, bytes) in x.iter().zip(integers) {
        let number = v.load(row);
        let mut integer = v.clamp(v.nearest(v.div(v.add(number, minimum), scale)), 0.0, highest);
        if let (true, Some(found)) = (any_zero, found) {
            integer = v.select(is_zero, found.integer(v, number), integer);
        }
        v.store_bytes(integer, bytes);
    }
}

/// The same for types without a minimum, counted from `-bound`. `integers` holds those of the search.
#[inline(always)]
fn requantize_signed<V: Lanes>(v: V, x: &[Row], scale: V::F, bound: f32, integers: &mut [ByteRow]) {
    let is_zero = v.equal(scale, v.splat(0.0));
    let any_zero = v.any(is_zero);
    for (row, bytes) in x.iter().zip(integers) {
        let quotient = v.div(v.load(row), scale);
        let mut integer = v.add(v.clamp(v.nearest(quotient), -bound, bound - 1.0), v.splat(bound));
        if any_zero {
            integer = v.select(is_zero, load_bytes(v, bytes), integer);
        }
        v.store_bytes(integer, bytes);
    }
}

/// Packs the low 2 bits of 256 integers, as Q2_K and Q3_K have them.
#[inline(always)]
fn two_bits(integers: &[ByteRow; 256], packed: &mut [ByteRow]) {
    for (place, packed) in packed.iter_mut().enumerate() {
        let at = 128 * (place / 32) + place % 32;
        let four = [
            &integers[at],
            &integers[at + 32],
            &integers[at + 64],
            &integers[at + 96],
        ];
        *packed = combine(four, |[a, b, c, d]| a & 3 | (b & 3) << 2 | (c & 3) << 4 | (d & 3) << 6);
    }
}

/// Packs the low 4 bits of 256 integers, as Q4_K and Q5_K have them.
#[inline(always)]
fn four_bits(integers: &[ByteRow; 256], packed: &mut [ByteRow]) {
    for (place, packed) in packed.iter_mut().enumerate() {
        let at = 64 * (place / 32) + place % 32;
        *packed = combine([&integers[at], &integers[at + 32]], |[low, high]| low & 15 | high << 4);
    }
}
