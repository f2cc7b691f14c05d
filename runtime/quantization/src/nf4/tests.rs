//! Against the definition, written as slowly and plainly as it goes, and against what bitsandbytes 0.50 gave for the same numbers.

use super::*;
use crate::blockwise::tests::{hash, hash_numbers, numbers};

/// Values like weights, with an outlier now and then.
fn weights(n: usize) -> Vec<f32> {
    let numbers = numbers();
    let near_normal = |index: usize| (0..4).map(|at| numbers[(4 * index + at) % numbers.len()]).sum::<f32>();
    let value = |index| near_normal(index) * if index % 97 == 0 { 0.9 } else { 0.035 };
    (0..n).map(value).collect()
}

fn plain_scales(matrix: &Nf4Matrix) -> &[f32] {
    match matrix.scales() {
        Nf4Scales::Plain(scales) => scales,
        Nf4Scales::Nested { .. } => panic!("nested"),
    }
}

fn code_of(matrix: &Nf4Matrix, index: usize) -> usize {
    usize::from(matrix.packed()[index / 2] >> (4 * (1 - index % 2)) & 15)
}

fn all_rows(matrix: &Nf4Matrix) -> Vec<f32> {
    let mut out = vec![f32::NAN; matrix.n_out() * matrix.n_in()];
    matrix.dequantize_rows(0..matrix.n_out(), &mut out);
    out
}

// Every code is a nearest one, by distances in f64; every scale is its block's largest magnitude. Shapes with odd rows and short last blocks among them.
#[test]
fn codes_are_nearest_and_scales_are_magnitudes() {
    for (n_out, n_in) in [(64, 64), (3, 7), (1, 1), (5, 129), (2, 32), (300, 64)] {
        let values = weights(n_out * n_in);
        let matrix = Nf4Matrix::quantize(&values, n_out, n_in, false);
        let decoded = all_rows(&matrix);
        for (block, values) in values.chunks(NF4_BLOCK).enumerate() {
            let scale = values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
            assert_eq!(plain_scales(&matrix)[block], scale);
            for (offset, value) in values.iter().enumerate() {
                let index = block * NF4_BLOCK + offset;
                let distance = |code: f32| (f64::from(*value) / f64::from(scale) - f64::from(code)).abs();
                let found = NF4_CODE[code_of(&matrix, index)];
                let least = NF4_CODE.into_iter().map(distance).fold(f64::INFINITY, f64::min);
                assert!(distance(found) <= least + 1e-7, "{value} {scale} {found}");
                assert_eq!(decoded[index].to_bits(), (found * scale).to_bits());
            }
        }
        assert_eq!(
            matrix.bytes(),
            (n_out * n_in).div_ceil(2) + 4 * (n_out * n_in).div_ceil(64)
        );
    }
}

// Any rows of a matrix are those of the whole, wherever in a block or a byte they begin; and the vector code equals the plain one.
#[test]
fn rows_are_decoded_alike_wherever_they_begin() {
    for (n_out, n_in) in [(9, 64), (9, 63), (9, 33), (40, 5), (7, 200)] {
        for double in [false, true] {
            let matrix = Nf4Matrix::quantize(&weights(n_out * n_in), n_out, n_in, double);
            let mut whole = vec![0.0; n_out * n_in];
            matrix.decode_each(0, &mut whole);
            for start in 0..=n_out {
                for end in start..=n_out {
                    let mut rows = vec![f32::NAN; (end - start) * n_in];
                    matrix.dequantize_rows(start..end, &mut rows);
                    assert_eq!(rows, whole[start * n_in..end * n_in]);
                }
            }
        }
    }
    let packed: Vec<u8> = (0..=255).collect();
    let (mut fast, mut plain) = (vec![0.0; 512], vec![0.0; 512]);
    decode::blocks(&packed, &mut fast, |block| block as f32 - 2.5);
    decode::scalar(&packed, &mut plain, |block| block as f32 - 2.5);
    assert_eq!(fast, plain);
}

// The double-quantized scale is off by at most the widest gap of the table, a 142nd, of the largest deviation from the mean.
#[test]
fn nested_scales_are_near_the_plain_ones() {
    let values = weights(64 * 600);
    let plain = Nf4Matrix::quantize(&values, 64, 600, false);
    let nested = Nf4Matrix::quantize(&values, 64, 600, true);
    assert_eq!(plain.packed(), nested.packed());
    let Nf4Scales::Nested { largest, offset, .. } = nested.scales() else {
        panic!("plain")
    };
    let mean = plain_scales(&plain).iter().map(|scale| f64::from(*scale)).sum::<f64>() / 600.0;
    // Sums of some hundred numbers of f32, each rounded by a part in 2^24.
    assert!((f64::from(*offset) - mean).abs() < 1e-6 * mean);
    for (block, scale) in plain_scales(&plain).iter().enumerate() {
        let gap = (nested.scale(block) - scale).abs();
        assert!(gap <= largest[block / NESTED_BLOCK] / 140.0, "{gap} {largest:?}");
    }
    assert_eq!(nested.bytes(), 64 * 600 / 2 + 600 + 4 * 3 + 4);
}

#[test]
fn blocks_of_zeros_and_numbers_that_are_none() {
    let matrix = Nf4Matrix::quantize(&[0.0; 130], 1, 130, false);
    assert_eq!(all_rows(&matrix), [0.0; 130]);
    // The short last block gets the smallest scale where whole ones get 0, as in bitsandbytes.
    assert_eq!(plain_scales(&matrix), [0.0, 0.0, 1e-38]);
    assert!(matrix.is_finite());
    for bad in [f32::NAN, f32::INFINITY] {
        for double in [false, true] {
            let mut values = weights(256);
            values[70] = bad;
            assert!(
                !Nf4Matrix::quantize(&values, 4, 64, double).is_finite(),
                "{bad} {double}"
            );
        }
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    for double in [false, true] {
        let matrix = Nf4Matrix::quantize(&weights(9 * 63), 9, 63, double);
        let (packed, scales) = (matrix.packed().to_vec(), matrix.scales().clone());
        assert_eq!(
            Nf4Matrix::from_parts(9, 63, packed.clone(), scales.clone()).unwrap(),
            matrix
        );
        for (n_out, n_in) in [(9, 64), (10, 63), (usize::MAX, 2), (0, 63)] {
            assert!(Nf4Matrix::from_parts(n_out, n_in, packed.clone(), scales.clone()).is_err());
        }
        assert!(Nf4Matrix::from_parts(9, 63, packed[1..].to_vec(), scales).is_err());
    }
}

// Hashes of what bitsandbytes 0.50.2 with torch 2.15 on a CPU made of the same numbers: codes, scales, values; for nested scales also their largest, and the
// bits of their mean. The second shape has rows of odd length and a short last block.
#[test]
fn parts_equal_those_of_bitsandbytes() {
    let values: Vec<f32> = numbers().iter().map(|value| value * value * value).collect();
    let packed = [0xcbc8_cc50_922e_eb44, 0xe7c4_d367_dae0_e1c1];
    let plain = [0x27eb_60e8_c16a_544a, 0x9b49_226d_915a_663c];
    let nested = [0x3154_138e_e067_45a4, 0x1a16_e3a0_55d8_195b];
    for (index, (n_out, n_in)) in [(320, 320), (313, 327)].into_iter().enumerate() {
        for (double, decoded) in [(false, plain[index]), (true, nested[index])] {
            let matrix = Nf4Matrix::quantize(&values[..n_out * n_in], n_out, n_in, double);
            assert_eq!(hash(matrix.packed().iter().copied()), packed[index]);
            assert_eq!(hash_numbers(&all_rows(&matrix)), decoded);
            match matrix.scales() {
                Nf4Scales::Plain(scales) => assert_eq!(hash_numbers(scales), 0x291d_cf8e_43af_8b55),
                Nf4Scales::Nested { codes, largest, offset } => {
                    assert_eq!(hash(codes.iter().copied()), 0xbf27_fa8e_77c5_16ef);
                    assert_eq!(hash_numbers(largest), 0x2e90_a0d2_8547_cd70);
                    assert_eq!(offset.to_bits(), 0x3df4_bf6d);
                }
            }
        }
    }
}

// Sums of magnitudes by torch 2.15 on one thread: lengths around every part of the order, and one beyond the second level.
#[test]
fn sums_are_those_of_torch() {
    let values: Vec<f32> = numbers().iter().map(|value| value.abs()).collect();
    let recorded = [
        (1, 0x3ef5_8dc8),
        (7, 0x3ff8_ad45),
        (8, 0x3ffe_dd92),
        (31, 0x40f9_fcc6),
        (32, 0x4104_e16d),
        (33, 0x4105_7a57),
        (500, 0x42f3_a4ba),
        (511, 0x42f9_d510),
        (512, 0x42fa_ae4e),
        (513, 0x42fa_bb68),
        (5_000, 0x449a_e06e),
        (8_191, 0x44fe_d2c1),
        (8_192, 0x44fe_dc15),
        (8_200, 0x44ff_23bc),
        (32_767, 0x45ff_073c),
        (32_768, 0x45ff_098f),
        (40_000, 0x461b_faaa),
    ];
    for (n, wanted) in recorded {
        assert_eq!(torch_sum(&values[..n]).to_bits(), wanted, "{n}");
    }
}
