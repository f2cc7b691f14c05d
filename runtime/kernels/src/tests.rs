//! Kernels against the specification and against sums in f64: every type, every set of instructions that the processor has, odd shapes, batches and threads.

use std::sync::Arc;

use half::f16;
use witness_formats::gguf::GgmlType;
use witness_instructions::Isa;

use crate::activations::{Activations, Record};
use crate::format::{BLOCK, Format, LAYOUT_VERSION};
use crate::lanes::{Ahead, Kernel};
use crate::matrix::PackedMatrix;
use crate::pool::Pool;

/// Types, and the places of the 16-bit floats in a block.
const TYPES: [(GgmlType, &[usize]); 12] = [
    (GgmlType::Q8_0, &[0]),
    (GgmlType::Q4_0, &[0]),
    (GgmlType::Q4_1, &[0, 2]),
    (GgmlType::Q5_0, &[0]),
    (GgmlType::Q5_1, &[0, 2]),
    (GgmlType::Q2_K, &[80, 82]),
    (GgmlType::Q3_K, &[108]),
    (GgmlType::Q4_K, &[0, 2]),
    (GgmlType::Q5_K, &[0, 2]),
    (GgmlType::Q6_K, &[208]),
    (GgmlType::IQ4_NL, &[0]),
    (GgmlType::IQ4_XS, &[0]),
];

/// Pseudo-random numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// Between -1 and 1.
    fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / 8_388_608.0 - 1.0
    }
}

/// Blocks of random bits with scales of ordinary size, or of any bits at all.
fn blocks(kind: GgmlType, halves: &[usize], n_rows: usize, n_columns: usize, is_wild: bool) -> Vec<u8> {
    let mut random = Random(n_rows as u64 * 31 + n_columns as u64);
    let len = n_rows * kind.row_bytes(n_columns).unwrap() as usize;
    let mut bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
    if !is_wild {
        for block in bytes.chunks_exact_mut(kind.block_bytes().unwrap()) {
            for at in halves {
                block[*at..*at + 2].copy_from_slice(&f16::from_f32(0.02 * random.number()).to_le_bytes());
            }
        }
    }
    bytes
}

fn inputs(n_tokens: usize, n_columns: usize) -> Vec<f32> {
    let mut random = Random(7);
    (0..n_tokens * n_columns)
        .map(|at| random.number() * if at % 100 == 3 { 20.0 } else { 1.0 })
        .collect()
}

fn rounded(isa: Isa, x: &[f32], n_columns: usize, pool: &Pool) -> Activations {
    let mut rounded = Activations::new();
    rounded.requantize_as(isa, x, n_columns, pool).unwrap();
    rounded
}

fn product(isa: Isa, weights: &PackedMatrix, x: &[f32], pool: &Pool) -> Vec<f32> {
    let x = rounded(isa, x, weights.n_columns(), pool);
    let mut y = vec![f32::NAN; x.n_tokens() * weights.n_rows()];
    weights.multiply_as(isa, &x, &mut y, pool).unwrap();
    y
}

/// Equal bits, save that any NaN equals any other.
fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
}

fn scalar() -> Isa {
    Isa::named("scalar").unwrap()
}

// Rows come back as the codec of the file's blocks decodes them, whatever their bits.
#[test]
fn rows_come_back_bit_for_bit() {
    let pool = Pool::new(2);
    for (kind, halves) in TYPES {
        for (n_rows, is_wild) in [(1, true), (19, true), (33, false)] {
            let n_columns = 512;
            let bytes = blocks(kind, halves, n_rows, n_columns, is_wild);
            let packed = PackedMatrix::pack(kind, n_rows, n_columns, &bytes, &pool).unwrap();
            let mut wanted = vec![0.0; n_rows * n_columns];
            witness_quantization::decode(kind, &bytes, &mut wanted).unwrap();
            let mut row = vec![0.0; n_columns];
            for (index, wanted) in wanted.chunks_exact(n_columns).enumerate() {
                packed.row(index, &mut row);
                assert!(
                    same(&row, wanted),
                    "{kind:?} row {index}: {:?} {:?}",
                    &row[..8],
                    &wanted[..8]
                );
            }
        }
    }
}

// The specification is the sum of products of the decoded weights with the rounded inputs, as close as f32 sums can be.
#[test]
fn the_specification_is_the_sum_of_products() {
    let pool = Pool::new(1);
    for (kind, halves) in TYPES {
        let (n_rows, n_columns, n_tokens) = (21, 768, 3);
        let bytes = blocks(kind, halves, n_rows, n_columns, false);
        let packed = PackedMatrix::pack(kind, n_rows, n_columns, &bytes, &pool).unwrap();
        let x = inputs(n_tokens, n_columns);
        let y = product(scalar(), &packed, &x, &pool);
        let mut weights = vec![0.0; n_rows * n_columns];
        witness_quantization::decode(kind, &bytes, &mut weights).unwrap();
        for token in 0..n_tokens {
            let one = rounded(scalar(), &x[token * n_columns..][..n_columns], n_columns, &pool);
            let records: Vec<&Record> = one.groups(0..1).flat_map(|(_, records)| records).collect();
            for row in 0..n_rows {
                let products = || {
                    weights[row * n_columns..][..n_columns]
                        .iter()
                        .enumerate()
                        .map(|(at, w)| {
                            let record = records[at / BLOCK];
                            f64::from(*w) * f64::from(record.scale) * f64::from(record.codes[at % BLOCK])
                        })
                };
                let (wanted, found) = (products().sum::<f64>(), f64::from(y[token * n_rows + row]));
                // Numbers and minimums are each at most some 30 times their difference; a block rounds six times.
                let size = products().map(f64::abs).sum::<f64>() + 60.0 * n_columns as f64 * 0.02;
                let bound = size * (6 * n_columns / BLOCK) as f64 * f64::from(f32::EPSILON);
                assert!(
                    (wanted - found).abs() <= bound,
                    "{kind:?} [{token}, {row}]: {found} for {wanted}"
                );
            }
        }
    }
}

// And the inputs as they were: the bound that the activations promise.
#[test]
fn rounding_the_inputs_moves_products_by_no_more_than_promised() {
    let pool = Pool::new(1);
    for (kind, halves) in TYPES {
        let (n_rows, n_columns) = (5, 512);
        let bytes = blocks(kind, halves, n_rows, n_columns, false);
        let packed = PackedMatrix::pack(kind, n_rows, n_columns, &bytes, &pool).unwrap();
        let x = inputs(1, n_columns);
        let y = product(Isa::detect(), &packed, &x, &pool);
        let mut weights = vec![0.0; n_rows * n_columns];
        witness_quantization::decode(kind, &bytes, &mut weights).unwrap();
        for (row, found) in weights.chunks_exact(n_columns).zip(y) {
            let wanted: f64 = row.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            let bound: f64 = row
                .chunks_exact(BLOCK)
                .zip(x.chunks_exact(BLOCK))
                .map(|(w, x)| {
                    let largest = x.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
                    let weights: f64 = w.iter().map(|w| f64::from(w.abs())).sum();
                    f64::from(largest) * weights * (1.0 / 254.0 + 1e-6)
                })
                .sum();
            assert!(
                (wanted - f64::from(found)).abs() <= bound + 1e-3,
                "{kind:?}: {found} for {wanted}"
            );
        }
    }
}

// Every set of instructions, batch size and number of threads gives the bits that the specification gives for a token by itself.
#[test]
fn bits_depend_on_nothing_but_weights_and_token() {
    let pools = [Pool::new(1), Pool::new(2), Pool::new(3)];
    for (kind, halves) in TYPES {
        let super_columns = kind.block_elements().unwrap();
        for (n_rows, n_super, is_wild) in [
            (1, 1, false),
            (16, 2, false),
            (53, 3, false),
            (17, 3, true),
            (130, 1, false),
        ] {
            let n_columns = n_super * super_columns;
            let bytes = blocks(kind, halves, n_rows, n_columns, is_wild);
            let packed = PackedMatrix::pack(kind, n_rows, n_columns, &bytes, &pools[1]).unwrap();
            let x = inputs(37, n_columns);
            let tokens = x.chunks_exact(n_columns);
            let wanted: Vec<f32> = tokens
                .flat_map(|token| product(scalar(), &packed, token, &pools[0]))
                .collect();
            for isa in Isa::available() {
                for n_tokens in [1, 2, 3, 5, 8, 13, 16, 31, 37] {
                    let pool = &pools[n_tokens % 3];
                    let found = product(isa, &packed, &x[..n_tokens * n_columns], pool);
                    let wanted = &wanted[..n_tokens * n_rows];
                    assert!(
                        same(&found, wanted),
                        "{kind:?} {} [{n_rows}, {n_columns}] {n_tokens} tokens: {:?} for {:?}",
                        isa.name(),
                        &found[..found.len().min(4)],
                        &wanted[..wanted.len().min(4)]
                    );
                }
            }
        }
    }
}

// Rows of several slabs of columns, an odd number of blocks in the last where the type allows it, and several panels of tokens.
#[test]
fn long_rows_and_many_tokens_give_the_same_bits() {
    let pool = Pool::new(2);
    for (kind, halves) in TYPES {
        let columns = kind.block_elements().unwrap();
        let (n_rows, n_columns, n_tokens) = (18, (4_096 / columns + 1) * columns, 300);
        let bytes = blocks(kind, halves, n_rows, n_columns, false);
        let packed = PackedMatrix::pack(kind, n_rows, n_columns, &bytes, &pool).unwrap();
        let x = inputs(n_tokens, n_columns);
        let all: Vec<_> = Isa::available()
            .into_iter()
            .filter(|isa| *isa != scalar())
            .map(|isa| (isa, product(isa, &packed, &x, &pool)))
            .collect();
        for token in [0, 15, 16, 255, 256, 287, 288, 299] {
            let one = product(scalar(), &packed, &x[token * n_columns..][..n_columns], &pool);
            for (isa, found) in &all {
                let found = &found[token * n_rows..][..n_rows];
                assert!(same(found, &one), "{kind:?} {} token {token}", isa.name());
            }
        }
    }
}

// The way of AVX-512 through the kernel, with arrays for registers.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn wide_registers_give_the_same_bits() {
    let pool = Pool::new(1);
    for (kind, halves) in TYPES {
        let n_columns = 2 * kind.block_elements().unwrap();
        for is_wild in [false, true] {
            let bytes = blocks(kind, halves, 16, n_columns, is_wild);
            let packed = PackedMatrix::pack(kind, 16, n_columns, &bytes, &pool).unwrap();
            let format = Format::of(kind).unwrap();
            let kernel = Kernel::emulated(kind, format).unwrap();
            for n_tokens in [1, 2, 4, 8, 16] {
                let x = inputs(n_tokens, n_columns);
                let x = rounded(scalar(), &x, n_columns, &pool);
                let (_, records) = x.groups(0..n_tokens).next().unwrap();
                let (mut wanted, mut found) = (vec![[0.0; 16]; n_tokens], vec![[0.0; 16]; n_tokens]);
                let n_blocks = n_columns / BLOCK;
                Kernel::new(kind, format, scalar()).run(
                    packed.packed_bytes(),
                    n_blocks,
                    0..n_blocks,
                    Ahead::NOTHING,
                    records,
                    &mut wanted,
                );
                kernel.run(
                    packed.packed_bytes(),
                    n_blocks,
                    0..n_blocks,
                    Ahead::STREAM,
                    records,
                    &mut found,
                );
                assert!(same(found.as_flattened(), wanted.as_flattened()), "{kind:?} {n_tokens}");
            }
        }
    }
}

// The largest codes on both sides, where narrow sums would overflow first.
#[test]
fn extreme_codes_do_not_overflow() {
    let pool = Pool::new(1);
    for (kind, halves) in TYPES {
        for fill in [0x00, 0x7f, 0x80, 0xff] {
            let n_columns = kind.block_elements().unwrap();
            let mut bytes = vec![fill; 16 * kind.row_bytes(n_columns).unwrap() as usize];
            for block in bytes.chunks_exact_mut(kind.block_bytes().unwrap()) {
                for at in halves {
                    block[*at..*at + 2].copy_from_slice(&f16::ONE.to_le_bytes());
                }
            }
            let packed = PackedMatrix::pack(kind, 16, n_columns, &bytes, &pool).unwrap();
            for x in [1.0, -1.0] {
                // Enough tokens for every way through the kernels.
                let x = vec![x; 33 * n_columns];
                let wanted = product(scalar(), &packed, &x, &pool);
                let mut row = vec![0.0; n_columns];
                packed.row(3, &mut row);
                let sum: f64 = row.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                assert!(
                    (sum - f64::from(wanted[3])).abs() <= sum.abs() * 1e-5 + 1e-3 * f64::from(row[0].abs()),
                    "{kind:?}"
                );
                for isa in Isa::available() {
                    assert!(
                        same(&product(isa, &packed, &x, &pool), &wanted),
                        "{kind:?} {} {fill}",
                        isa.name()
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_comes_out_as_nan_for_its_token_alone() {
    let pool = Pool::new(2);
    for (kind, halves) in TYPES {
        let (n_rows, n_columns) = (20, 512);
        let bytes = blocks(kind, halves, n_rows, n_columns, false);
        let packed = PackedMatrix::pack(kind, n_rows, n_columns, &bytes, &pool).unwrap();
        for isa in Isa::available() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = inputs(35, n_columns);
                x[2 * n_columns + 77] = bad;
                x[34 * n_columns] = bad;
                let y = product(isa, &packed, &x, &pool);
                for (at, y) in y.iter().enumerate() {
                    let is_bad = [2, 34].contains(&(at / n_rows));
                    assert_eq!(y.is_nan(), is_bad, "{kind:?} {} {at} {y}", isa.name());
                }
            }
        }
    }
}

#[test]
fn rounding_is_the_same_whatever_the_instructions() {
    let pool = Pool::new(3);
    let mut x = inputs(100, 1_024);
    (x[5], x[2_000], x[40_000]) = (f32::NAN, f32::INFINITY, 1e-40);
    x[3_008..3_040].fill(1e-35);
    let wanted = rounded(scalar(), &x, 1_024, &pool);
    for isa in Isa::available() {
        let found = rounded(isa, &x, 1_024, &pool);
        for token in 0..100 {
            for block in 0..32 {
                let (a, b) = (at(&wanted, token, block), at(&found, token, block));
                assert!(a.codes == b.codes && a.sums == b.sums && a.negative_sum == b.negative_sum);
                assert!(same(&[a.scale, a.scaled_sum], &[b.scale, b.scaled_sum]));
            }
        }
    }
}

fn at(x: &Activations, token: usize, block: usize) -> Record {
    let n_blocks = x.n_columns() / BLOCK;
    let (first, records) = x
        .groups(0..x.n_tokens())
        .find(|(first, records)| token < first + records.len() / n_blocks)
        .unwrap();
    records[block * (records.len() / n_blocks) + token - first]
}

#[test]
fn packed_bytes_are_those_of_the_file_and_come_back() {
    struct Aligned(crate::Buffer);
    impl AsRef<[u8]> for Aligned {
        fn as_ref(&self) -> &[u8] {
            self.0.as_slice()
        }
    }
    let pool = Pool::new(1);
    for (kind, halves) in TYPES {
        let (n_rows, n_columns) = (48, 2_048);
        let bytes = blocks(kind, halves, n_rows, n_columns, false);
        let packed = PackedMatrix::pack(kind, n_rows, n_columns, &bytes, &pool).unwrap();
        let len = packed.packed_bytes().len();
        // Heads are padded to 64 bytes in each of three tiles.
        assert!(
            len >= bytes.len() && len <= bytes.len() + 3 * 63,
            "{kind:?}: {len} for {}",
            bytes.len()
        );
        assert_eq!(len, PackedMatrix::packed_len(kind, n_rows, n_columns).unwrap());
        let mut copy = crate::Buffer::zeroed(len + 64).unwrap();
        copy.as_mut_slice()[64..].copy_from_slice(packed.packed_bytes());
        let owner: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(Aligned(copy));
        let take =
            |version, range| PackedMatrix::from_packed(kind, n_rows, n_columns, version, Arc::clone(&owner), range);
        let lent = take(LAYOUT_VERSION, 64..64 + len).unwrap();
        let x = inputs(2, n_columns);
        let isa = Isa::detect();
        assert!(same(&product(isa, &lent, &x, &pool), &product(isa, &packed, &x, &pool)));
        assert!(take(LAYOUT_VERSION + 1, 64..64 + len).is_err());
        assert!(take(LAYOUT_VERSION, 0..len - 1).is_err());
        assert!(take(LAYOUT_VERSION, 1..len + 1).is_err());
        assert!(take(LAYOUT_VERSION, 65..65 + len).is_err());
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let pool = Pool::new(1);
    let pack =
        |kind, n_rows, n_columns, bytes: usize| PackedMatrix::pack(kind, n_rows, n_columns, &vec![0; bytes], &pool);
    assert!(pack(GgmlType::Q8_0, 1, 32, 33).is_err());
    assert!(pack(GgmlType::Q8_0, 1, 31, 34).is_err());
    assert!(pack(GgmlType::Q4_K, 1, 32, 18).is_err());
    assert!(pack(GgmlType::Q4_K, 1, 0, 0).is_err());
    assert!(pack(GgmlType::IQ1_S, 1, 256, 50).is_err());
    assert!(pack(GgmlType::Q8_0, usize::MAX / 4, 1 << 40, 0).is_err());
    let none = pack(GgmlType::Q8_0, 0, 32, 0).unwrap();
    let one = pack(GgmlType::Q8_0, 1, 32, 34).unwrap();
    let x = Activations::quantize(&[1.0; 64], 32, &pool).unwrap();
    assert!(none.multiply(&x, &mut [], &pool).is_ok());
    assert!(one.multiply(&x, &mut [0.0; 1], &pool).is_err());
    let wide = Activations::quantize(&[1.0; 64], 64, &pool).unwrap();
    assert!(one.multiply(&wide, &mut [0.0; 1], &pool).is_err());
    assert!(Activations::quantize(&[1.0; 40], 32, &pool).is_err());
    assert!(Activations::quantize(&[1.0; 40], 40, &pool).is_err());
    assert!(Format::of(GgmlType::F16).is_none());
}
