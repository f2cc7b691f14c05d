//! Plain weights against the specification written out once more, for one row and one token: every type, every set of instructions, odd lengths, odd addresses.

use std::sync::Arc;

use half::{bf16, f16};
use witness_formats::gguf::GgmlType;
use witness_instructions::Isa;

use super::PlainMatrix;
use super::sixteen::widened;
use crate::pool::Pool;

const TYPES: [GgmlType; 3] = [GgmlType::F16, GgmlType::BF16, GgmlType::F32];

fn number(index: usize) -> f32 {
    ((index * 7_919 % 2_003) as f32 - 1_001.0) / 1_001.0
}

fn bytes(kind: GgmlType, numbers: &[f32]) -> Vec<u8> {
    let numbers = numbers.iter();
    match kind {
        GgmlType::F16 => numbers.flat_map(|n| f16::from_f32(*n).to_le_bytes()).collect(),
        GgmlType::BF16 => numbers.flat_map(|n| bf16::from_f32(*n).to_le_bytes()).collect(),
        _ => numbers.flat_map(|n| n.to_le_bytes()).collect(),
    }
}

/// A matrix at an address that is a multiple of nothing.
fn matrix(kind: GgmlType, n_rows: usize, n_columns: usize, numbers: &[f32]) -> PlainMatrix {
    let mut all = vec![0xff; 3];
    all.extend(bytes(kind, numbers));
    let range = 3..all.len();
    PlainMatrix::new(kind, n_rows, n_columns, Arc::new(all), range).unwrap()
}

/// The specification.
fn product(row: &[f32], token: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    for (column, (w, x)) in row.iter().zip(token).enumerate() {
        lanes[column % 16] = w.mul_add(*x, lanes[column % 16]);
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

fn products(weights: &PlainMatrix, x: &[f32]) -> Vec<f32> {
    let n_columns = weights.n_columns();
    let mut rows = vec![0.0; weights.n_rows() * n_columns];
    for (index, row) in rows.chunks_exact_mut(n_columns).enumerate() {
        weights.row(index, row);
    }
    let tokens = x.chunks_exact(n_columns);
    tokens
        .flat_map(|token| rows.chunks_exact(n_columns).map(|row| product(row, token)))
        .collect()
}

/// Equal bits, save that any NaN equals any other.
fn check(weights: &PlainMatrix, x: &[f32], pool: &Pool) {
    let wanted = products(weights, x);
    for isa in Isa::available() {
        let mut found = vec![f32::NAN; wanted.len()];
        weights.multiply_as(isa, x, &mut found, pool).unwrap();
        for (at, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            let place = (at / weights.n_rows(), at % weights.n_rows());
            assert!(
                found.to_bits() == wanted.to_bits() || found.is_nan() && wanted.is_nan(),
                "{:?} {} [{}, {}] {place:?}: {found} for {wanted}",
                weights.kind(),
                isa.name(),
                weights.n_rows(),
                weights.n_columns(),
            );
        }
    }
}

#[test]
fn bits_are_those_of_the_specification() {
    let pools = [Pool::new(1), Pool::new(3)];
    for kind in TYPES {
        for (n_rows, n_columns) in [(1, 1), (3, 15), (8, 16), (9, 17), (70, 100), (5, 257), (131, 64)] {
            let numbers: Vec<f32> = (0..n_rows * n_columns).map(number).collect();
            let weights = matrix(kind, n_rows, n_columns, &numbers);
            for n_tokens in [1, 2, 3, 4, 7, 13, 31, 32, 33, 48, 49, 70, 100] {
                let x: Vec<f32> = (0..n_tokens * n_columns).map(|at| number(at + 5)).collect();
                check(&weights, &x, &pools[n_tokens % 2]);
            }
        }
    }
}

// A caller that shares rows out by itself gets the bits of the whole product.
#[test]
fn some_rows_are_those_of_the_whole_product() {
    let (n_rows, n_columns) = (11, 37);
    let numbers: Vec<f32> = (0..n_rows * n_columns).map(number).collect();
    for kind in TYPES {
        let weights = matrix(kind, n_rows, n_columns, &numbers);
        for n_tokens in [1, 3, 40] {
            let x: Vec<f32> = (0..n_tokens * n_columns).map(|at| number(at + 5)).collect();
            let all = products(&weights, &x);
            for isa in Isa::available() {
                for rows in [0..11, 0..4, 3..8, 10..11, 5..5] {
                    let mut some = vec![f32::NAN; n_tokens * rows.len()];
                    weights.multiply_rows_as(isa, rows.clone(), &x, &mut some);
                    let wanted = all.chunks_exact(n_rows).flat_map(|y| &y[rows.clone()]);
                    assert!(
                        some.iter().map(|y| y.to_bits()).eq(wanted.map(|y| y.to_bits())),
                        "{kind:?} {} {rows:?}",
                        isa.name()
                    );
                }
            }
        }
    }
}

// Against the conversions of another crate, for every 16 bits and every place in a row.
#[test]
fn parts_of_rows_are_widened_exactly() {
    let every: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let of = |kind, at: usize| match kind {
        GgmlType::F16 => f16::from_le_bytes(every.as_chunks().0[at]).to_f32(),
        GgmlType::BF16 => bf16::from_le_bytes(every.as_chunks().0[at]).to_f32(),
        _ => f32::from_le_bytes(every.as_chunks().0[at]),
    };
    for kind in TYPES {
        let n_columns = if kind == GgmlType::F32 { 1 << 10 } else { 1 << 11 };
        let weights = PlainMatrix::copied(kind, 32, n_columns, &every).unwrap();
        for isa in Isa::available() {
            for (row, (first, len)) in [(0, n_columns), (1, 100), (n_columns - 5, 5), (16, 16), (7, 0)]
                .into_iter()
                .cycle()
                .enumerate()
                .take(160)
            {
                let mut out = vec![0.0; len];
                weights.row_from_as(isa, row / 5, first, &mut out);
                for (at, found) in out.into_iter().enumerate() {
                    let wanted = of(kind, row / 5 * n_columns + first + at);
                    assert!(
                        found.to_bits() == wanted.to_bits() || found.is_nan() && wanted.is_nan(),
                        "{kind:?} {} {}: {found} for {wanted}",
                        isa.name(),
                        first + at
                    );
                }
            }
        }
    }
}

// Subnormal numbers are numbers, products of them round to zeros of either sign, and what is not finite stays with its row and its token.
#[test]
fn what_is_subnormal_or_not_finite_is_as_in_the_specification() {
    let pool = Pool::new(2);
    let odd = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        1e-40,
        -1e-40,
        6e-8,
        -0.0,
        3e38,
    ];
    for kind in TYPES {
        let (n_rows, n_columns) = (10, 37);
        for (index, special) in odd.into_iter().enumerate() {
            let mut numbers: Vec<f32> = (0..n_rows * n_columns).map(|at| number(at) * 1e-30).collect();
            numbers[4 * n_columns + 5 * index] = special;
            let weights = matrix(kind, n_rows, n_columns, &numbers);
            for n_tokens in [1, 5, 40] {
                let mut x: Vec<f32> = (0..n_tokens * n_columns).map(|at| number(at + 9) * 1e-12).collect();
                x[(n_tokens - 1) * n_columns + 36 - index] = special;
                check(&weights, &x, &pool);
            }
        }
    }
}

#[test]
fn every_half_is_widened_exactly() {
    for bits in 0..=u16::MAX {
        let (found, wanted) = (widened(bits), f16::from_bits(bits).to_f32());
        assert!(
            found.to_bits() == wanted.to_bits() || found.is_nan() && wanted.is_nan(),
            "{bits:04x}"
        );
    }
}

// As close to the exact sum as sums of 16 lanes and a tree must be.
#[test]
fn it_is_the_sum_of_products() {
    let (n_rows, n_columns) = (7, 1_000);
    let numbers: Vec<f32> = (0..n_rows * n_columns).map(number).collect();
    let x: Vec<f32> = (0..n_columns).map(|at| number(at + 3)).collect();
    for kind in TYPES {
        let weights = matrix(kind, n_rows, n_columns, &numbers);
        let mut y = vec![0.0; n_rows];
        weights.multiply(&x, &mut y, &Pool::new(1)).unwrap();
        let mut row = vec![0.0; n_columns];
        for (index, y) in y.into_iter().enumerate() {
            weights.row(index, &mut row);
            let products = || row.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            // A lane rounds 63 times, the tree four.
            let bound = products().map(f64::abs).sum::<f64>() * 67.0 * f64::from(f32::EPSILON) / 2.0;
            assert!(
                (products().sum::<f64>() - f64::from(y)).abs() <= bound,
                "{kind:?} {index}"
            );
        }
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let owner: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(vec![0u8; 64]);
    let take = |kind, n_rows, n_columns, range| PlainMatrix::new(kind, n_rows, n_columns, Arc::clone(&owner), range);
    assert!(take(GgmlType::Q8_0, 1, 32, 0..34).is_err());
    assert!(take(GgmlType::F16, 4, 8, 0..63).is_err());
    assert!(take(GgmlType::F16, 4, 8, 1..65).is_err());
    assert!(take(GgmlType::F32, usize::MAX / 2, 1 << 40, 0..64).is_err());
    assert!(PlainMatrix::copied(GgmlType::Q8_0, 1, 32, &[0; 34]).is_err());
    assert!(PlainMatrix::copied(GgmlType::F16, 4, 8, &[0; 63]).is_err());
    let weights = take(GgmlType::F16, 4, 8, 0..64).unwrap();
    let pool = Pool::new(1);
    assert!(weights.multiply(&[1.0; 9], &mut [0.0; 4], &pool).is_err());
    assert!(weights.multiply(&[1.0; 8], &mut [0.0; 5], &pool).is_err());
    assert!(weights.multiply(&[], &mut [], &pool).is_ok());
    assert!(weights.multiply(&[1.0; 16], &mut [0.0; 8], &pool).is_ok());
}
