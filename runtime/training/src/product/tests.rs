//! Every kernel that this processor has, against sums in f64.

use super::*;
use crate::stored::{Bf16Rows, Rows};

/// Numbers of both signs and some magnitudes.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let stream = crate::random::Stream::new(seed);
    (0..n as u64).map(|at| (stream.normal(at) * 0.7) as f32).collect()
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    left_is_transposed: bool,
    right_is_transposed: bool,
    is_bf16: bool,
    adds: bool,
    scale: f32,
    is_threaded: bool,
}

fn strided(data: &[f32], lanes: usize, k: usize, is_transposed: bool) -> Strided<'_> {
    match is_transposed {
        true => Strided::new(data, 1, lanes),
        false => Strided::new(data, k, 1),
    }
}

fn found(isa: Isa, case: Case, left: &[f32], right: Right<'_>, before: &[f32]) -> Vec<f32> {
    let mut target = before.to_vec();
    let Case { m, n, k, .. } = case;
    multiply_with(
        isa,
        &mut Product {
            m,
            n,
            k,
            left: Left::Plain(strided(left, m, k, case.left_is_transposed)),
            right,
            target: &mut target,
            target_stride: n,
            adds: case.adds,
            scale: case.scale,
            rounds_to_bf16: case.is_bf16,
            is_threaded: case.is_threaded,
        },
    );
    target
}

/// Checks a case on every instruction set.
///
/// The error of a sum of k products in f32 is at most (k + 2) eps times the sum of their magnitudes, in any order; bf16 only rounds the factors, which the
/// expectation does as well.
fn check(case: Case) {
    let Case { m, n, k, .. } = case;
    let (left, right, before) = (numbers(m * k, 1), numbers(n * k, 2), numbers(m * n, 3));
    let value = |data: &[f32], lanes: usize, lane: usize, at: usize, is_transposed: bool| {
        let value = if is_transposed {
            data[at * lanes + lane]
        } else {
            data[lane * k + at]
        };
        f64::from(if case.is_bf16 { pack::round(value) } else { value })
    };
    let mut wanted = Vec::with_capacity(m * n);
    for row in 0..m {
        for column in 0..n {
            let products = (0..k).map(|at| {
                value(&left, m, row, at, case.left_is_transposed)
                    * value(&right, n, column, at, case.right_is_transposed)
            });
            let (sum, size) = products.fold((0.0, 0.0f64), |(sum, size), product| {
                (sum + product, size + product.abs())
            });
            let before = if case.adds {
                f64::from(before[row * n + column])
            } else {
                0.0
            };
            let size = size * f64::from(case.scale.abs()) + before.abs();
            let bound = (k + 4) as f64 * f64::from(f32::EPSILON) * size;
            wanted.push((f64::from(case.scale) * sum + before, bound));
        }
    }
    for isa in Isa::available() {
        let source = Right::Plain(strided(&right, n, k, case.right_is_transposed));
        for (found, (wanted, bound)) in found(isa, case, &left, source, &before).iter().zip(&wanted) {
            let error = (f64::from(*found) - wanted).abs();
            assert!(error <= *bound, "{} {case:?}: {error:e} over {bound:e}", isa.name());
        }
    }
}

// Sizes around every tile, vector, pair and register, all transpositions, both precisions.
#[test]
fn products_are_right_at_every_edge() {
    let sizes = [
        (1, 1, 1),
        (3, 5, 2),
        (8, 48, 16),
        (9, 49, 17),
        (7, 47, 15),
        (17, 33, 31),
        (31, 16, 33),
        (33, 31, 65),
        (16, 96, 1),
        (40, 7, 100),
    ];
    for (index, (m, n, k)) in sizes.into_iter().enumerate() {
        for bits in 0..8 {
            check(Case {
                m,
                n,
                k,
                left_is_transposed: bits & 1 == 1,
                right_is_transposed: bits & 2 == 2,
                is_bf16: bits & 4 == 4,
                adds: index % 2 == 1,
                scale: if index % 3 == 0 { 1.0 } else { -0.5 },
                is_threaded: false,
            });
        }
    }
}

// More than one pass of k, one block of columns and one task, in every direction.
#[test]
fn products_are_right_across_blocks() {
    for is_bf16 in [false, true] {
        for (m, n, k) in [(131, 70, 700), (20, 390, 1_400), (3, 20, 9_000)] {
            check(Case {
                m,
                n,
                k,
                left_is_transposed: is_bf16,
                right_is_transposed: !is_bf16,
                is_bf16,
                adds: true,
                scale: 1.0,
                is_threaded: true,
            });
        }
    }
}

// A stored matrix gives the bits of its decoded numbers, in both directions and over several blocks.
#[test]
fn stored_matrices_equal_their_decoded_numbers() {
    for (rows, columns) in [(70, 33), (5, 4), (1_100, 1_030), (33, 64)] {
        let stored = Bf16Rows::round(&numbers(rows * columns, 5), columns);
        let mut decoded = vec![0.0; rows * columns];
        stored.decode(0..rows, &mut decoded);
        for isa in Isa::available() {
            for is_bf16 in [false, true] {
                for is_depth in [false, true] {
                    let (n, k) = if is_depth { (columns, rows) } else { (rows, columns) };
                    let case = Case {
                        m: 9,
                        n,
                        k,
                        left_is_transposed: false,
                        right_is_transposed: is_depth,
                        is_bf16,
                        adds: false,
                        scale: 1.0,
                        is_threaded: true,
                    };
                    let (left, before) = (numbers(9 * k, 6), vec![0.0; 9 * n]);
                    let right = match is_depth {
                        true => Right::RowsAreDepth(&stored),
                        false => Right::RowsAreColumns(&stored),
                    };
                    let from_stored = found(isa, case, &left, right, &before);
                    let plain = Right::Plain(strided(&decoded, n, k, is_depth));
                    let wanted = found(isa, case, &left, plain, &before);
                    let worst = from_stored
                        .iter()
                        .zip(&wanted)
                        .map(|(a, b)| (a - b).abs())
                        .fold(0.0, f32::max);
                    assert!(worst <= 1e-5 * (k as f32).sqrt(), "{} {case:?}: {worst}", isa.name());
                }
            }
        }
    }
}

// What is infinite or not a number reaches the sums that it is part of, and no other.
#[test]
fn numbers_that_are_not_finite_stay_in_their_row_and_column() {
    let (m, n, k) = (19, 50, 21);
    for isa in Isa::available() {
        for is_bf16 in [false, true] {
            let case = Case {
                m,
                n,
                k,
                left_is_transposed: false,
                right_is_transposed: false,
                is_bf16,
                adds: false,
                scale: 1.0,
                is_threaded: false,
            };
            let (mut left, mut right) = (numbers(m * k, 1), numbers(n * k, 2));
            left[18 * k + 20] = f32::NAN;
            left[3 * k] = f32::INFINITY;
            right[49 * k + 20] = f32::NEG_INFINITY;
            let found = found(
                isa,
                case,
                &left,
                Right::Plain(strided(&right, n, k, false)),
                &vec![0.0; m * n],
            );
            for (at, value) in found.iter().enumerate() {
                let (row, column) = (at / n, at % n);
                assert_eq!(
                    value.is_finite(),
                    row != 18 && row != 3 && column != 49,
                    "{} [{row}, {column}] {value}",
                    isa.name()
                );
                assert_eq!(
                    value.is_nan(),
                    row == 18 || (row == 3 && column == 49 && value.is_nan()),
                    "{} [{row}, {column}] {value}",
                    isa.name()
                );
            }
        }
    }
}

#[test]
fn threads_change_no_bit() {
    let (m, n, k) = (200, 410, 300);
    let (left, right) = (numbers(m * k, 1), numbers(n * k, 2));
    for isa in Isa::available() {
        for is_bf16 in [false, true] {
            let bits = |n_threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
                let case = Case {
                    m,
                    n,
                    k,
                    left_is_transposed: false,
                    right_is_transposed: true,
                    is_bf16,
                    adds: false,
                    scale: 1.0,
                    is_threaded: n_threads > 1,
                };
                let source = Right::Plain(strided(&right, n, k, true));
                pool.install(|| found(isa, case, &left, source, &vec![0.0; m * n]))
            };
            let one = bits(1);
            assert!(one == bits(2) && one == bits(3), "{}", isa.name());
        }
    }
}

// An operand that is packed once gives the bits of one that is packed for each product, also where the other's k is packed by blocks.
#[test]
fn a_packed_operand_gives_the_same_bits() {
    for (m, n, k, is_depth) in [(20, 70, 33, false), (5, 1_100, 1_030, true), (33, 40, 64, true)] {
        let (rows, columns) = if is_depth { (k, n) } else { (n, k) };
        let stored = Bf16Rows::round(&numbers(rows * columns, 5), columns);
        let left = numbers(m * k, 6);
        for rounds_to_bf16 in [false, true] {
            let product = |left| {
                let mut target = vec![0.0; m * n];
                multiply(&mut Product {
                    m,
                    n,
                    k,
                    left,
                    right: match is_depth {
                        true => Right::RowsAreDepth(&stored),
                        false => Right::RowsAreColumns(&stored),
                    },
                    target: &mut target,
                    target_stride: n,
                    adds: false,
                    scale: 1.0,
                    rounds_to_bf16,
                    is_threaded: true,
                });
                target
            };
            let source = Strided::new(&left, k, 1);
            let packed = PackedLeft::new(&source, m, k, rounds_to_bf16, true);
            assert!(product(Left::Packed(&packed)) == product(Left::Plain(source)));
        }
    }
}
