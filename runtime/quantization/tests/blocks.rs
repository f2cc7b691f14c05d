//! Every codec against what ggml does: hashes that `record/blocks.py` wrote, with the same inputs by the same formulas. Each is checked with every instruction set
//! that the processor has, so the scalar form is the specification and the others are held to it bit for bit.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use witness_formats::gguf::GgmlType;
use witness_instructions::Isa;
use witness_quantization::{ENCODED, NEEDS_IMPORTANCE, QuantizationError, decode, encode};

#[derive(Deserialize)]
struct Record {
    encoded: Vec<Encoded>,
    decoded: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Encoded {
    #[serde(rename = "type")]
    kind: String,
    rows: usize,
    columns: usize,
    importance: String,
    encoded: BTreeMap<String, String>,
    decoded: BTreeMap<String, String>,
}

/// The instruction set is one for the process.
static ISA: Mutex<()> = Mutex::new(());

fn record() -> Record {
    serde_json::from_str(include_str!("data/blocks.json")).unwrap()
}

fn kind(name: &str) -> GgmlType {
    GgmlType::all().find(|kind| kind.name() == name).unwrap()
}

/// The first numbers of splitmix64.
fn random(seed: u64, n: usize) -> Vec<u64> {
    let number = |i: u64| {
        let z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (1..=n as u64).map(number).collect()
}

fn scaled(x: f32, exponent: i32) -> f32 {
    (f64::from(x) * 2f64.powi(exponent)) as f32
}

fn normal(seed: u64, n: usize) -> Vec<f32> {
    let of_four = |four: &[u64]| four.iter().map(|r| (r >> 40) as i64).sum::<i64>() - (1 << 25);
    let random = random(seed, 4 * n);
    random.chunks(4).map(|four| scaled(of_four(four) as f32, -24)).collect()
}

fn inputs(name: &str, n: usize) -> Vec<f32> {
    let x: Vec<f32> = normal(1, n).into_iter().map(|x| scaled(x, -5)).collect();
    let ties = random(2, n);
    let of = |i: usize| match name {
        "normal" => x[i],
        "zeros" => 0.0,
        "outlier" if i % 256 == 37 => 8.0,
        "outlier" => x[i],
        "denormal" => scaled(x[i], -130),
        "tiny" => scaled(x[i], -60),
        "edge" => scaled(x[i], -44),
        "huge" => scaled(x[i], 18),
        "negative" => -x[i].abs(),
        "positive" => x[i].abs() + 0.25,
        "constant" => 0.75,
        "minus" => -0.3,
        "gaps" if (i / 16).is_multiple_of(3) => 0.0,
        "gaps" => x[i],
        "signs" if i.is_multiple_of(3) => -0.0,
        "signs" if i.is_multiple_of(5) => 0.125,
        "signs" => 0.0,
        "ties" => scaled((ties[i] % 9) as f32 - 4.0, -2),
        "steps" => scaled(x[i], (i / 48 % 14) as i32 - 12),
        _ => panic!("{name}"),
    };
    (0..n).map(of).collect()
}

fn importances(name: &str, n: usize) -> Option<Vec<f32>> {
    let random = random(3, n);
    let uniform = |r: u64| scaled((r >> 40) as f32, -24);
    let of = |r: &u64| match name {
        "random" => uniform(*r) * uniform(*r),
        "sparse" if r.is_multiple_of(5) => uniform(*r),
        "sparse" => 0.0,
        "wide" => 2f64.powi((r % 30) as i32 - 20) as f32,
        _ => panic!("{name}"),
    };
    (name != "none").then(|| random.iter().map(of).collect())
}

/// Blocks of any bytes, but for f16 fields of ordinary size.
fn arbitrary(kind: GgmlType, halves: &[usize], blocks: usize) -> Vec<u8> {
    let size = kind.block_bytes().unwrap();
    let mut bytes: Vec<u8> = random(4, blocks * size).into_iter().map(|r| (r >> 56) as u8).collect();
    for block in bytes.chunks_mut(size) {
        // Its f16 is spread over the highest bits of four words.
        if kind == GgmlType::IQ1_M {
            block[size - 1] = block[size - 1] & 0x8f | 0x20;
        }
        for at in halves {
            block[at + 1] = block[at + 1] & 0x83 | 0x20 | (block[at + 1] >> 4 & 3) << 2;
        }
    }
    bytes
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn digest_of(numbers: &[f32]) -> String {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    digest(&bytes)
}

fn encoded(kind: GgmlType, x: &[f32], columns: usize, importance: Option<&[f32]>) -> Vec<u8> {
    let mut bytes = vec![0; kind.row_bytes(x.len()).unwrap() as usize];
    encode(kind, x, columns, importance, &mut bytes).unwrap();
    bytes
}

fn with_each_isa(run: impl Fn(Isa)) {
    let _held = ISA.lock();
    for isa in Isa::available() {
        isa.hold();
        run(isa);
    }
}

#[test]
fn blocks_are_those_of_ggml() {
    let record = record();
    let kinds: std::collections::BTreeSet<String> = record.encoded.iter().map(|case| case.kind.clone()).collect();
    assert_eq!(kinds.len(), ENCODED.len());
    for case in &record.encoded {
        let kind = kind(&case.kind);
        let importance = importances(&case.importance, case.columns);
        for (name, wanted) in &case.encoded {
            let x = inputs(name, case.rows * case.columns);
            with_each_isa(|isa| {
                let bytes = encoded(kind, &x, case.columns, importance.as_deref());
                let mut numbers = vec![0.0; x.len()];
                decode(kind, &bytes, &mut numbers).unwrap();
                let what = format!("{kind:?} {name} {} {} {}", case.importance, case.columns, isa.name());
                assert_eq!(digest(&bytes), *wanted, "{what}");
                assert_eq!(digest_of(&numbers), case.decoded[name], "{what}, decoded");
            });
        }
    }
}

// Rows do not depend on each other, nor a block on how many are beside it: a matrix that is cut anywhere gives the same bytes.
#[test]
fn rows_may_be_cut_anywhere() {
    let (columns, rows) = (512, 11);
    let x = inputs("steps", rows * columns);
    let importance = importances("random", columns);
    for kind in ENCODED {
        for importance in [None, importance.as_deref()] {
            if importance.is_none() && NEEDS_IMPORTANCE.contains(&kind) {
                continue;
            }
            let whole = encoded(kind, &x, columns, importance);
            for cut in [1, 4, 10] {
                let (first, last) = x.split_at(cut * columns);
                let parts = [
                    encoded(kind, first, columns, importance),
                    encoded(kind, last, columns, importance),
                ];
                assert!(parts.concat() == whole, "{kind:?} cut after {cut} rows");
            }
        }
    }
}

#[test]
fn what_cannot_be_encoded_is_named() {
    let mut x = vec![0.5f32; 512];
    let mut out = vec![0u8; 288];
    let kind = GgmlType::Q4_K;
    let columns = encode(kind, &x, 128, None, &mut out).unwrap_err();
    assert_eq!(
        columns,
        QuantizationError::Columns {
            kind,
            n_columns: 128,
            block: 256
        }
    );
    let bytes = encode(kind, &x, 256, None, &mut out[1..]).unwrap_err();
    assert_eq!(
        bytes,
        QuantizationError::Bytes {
            kind,
            numbers: 512,
            bytes: 287
        }
    );
    let importance = encode(kind, &x, 256, Some(&x), &mut out).unwrap_err();
    assert_eq!(
        importance,
        QuantizationError::Importance {
            found: 512,
            n_columns: 256
        }
    );
    let rows = encode(kind, &x, 1024, None, &mut out).unwrap_err();
    assert_eq!(
        rows,
        QuantizationError::Rows {
            numbers: 512,
            n_columns: 1024
        }
    );
    let other = encode(GgmlType::MXFP4, &x, 256, None, &mut out).unwrap_err();
    assert_eq!(
        other,
        QuantizationError::Type {
            kind: GgmlType::MXFP4,
            act: "encoded"
        }
    );
    let bare = encode(GgmlType::IQ2_XS, &x, 256, None, &mut out[..148]).unwrap_err();
    assert_eq!(bare, QuantizationError::NeedsImportance { kind: GgmlType::IQ2_XS });
    x[300] = f32::INFINITY;
    let infinite = encode(kind, &x, 256, None, &mut out).unwrap_err();
    assert_eq!(infinite.to_string(), "number 300 is inf, which is not a finite number");
    x[300] = 1e9;
    let large = encode(kind, &x, 256, None, &mut out).unwrap_err();
    assert_eq!(large, QuantizationError::TooLarge { kind, index: 256 });
    // Far behind, where it is another stretch of rows that is looked at.
    let mut long = vec![0.5f32; 300_000 / 256 * 256];
    long[290_007] = f32::NAN;
    let mut long_out = vec![0; kind.row_bytes(long.len()).unwrap() as usize];
    let error = encode(kind, &long, 256, None, &mut long_out).unwrap_err();
    assert!(
        matches!(error, QuantizationError::NotFinite { index: 290_007, .. }),
        "{error}"
    );
    long[290_007] = -1e9;
    let error = encode(kind, &long, 256, None, &mut long_out).unwrap_err();
    assert_eq!(
        error,
        QuantizationError::TooLarge {
            kind,
            index: 290_007 / 256 * 256
        }
    );
    let numbers = decode(kind, &out, &mut x[..256]).unwrap_err();
    assert_eq!(
        numbers,
        QuantizationError::Bytes {
            kind,
            numbers: 256,
            bytes: 288
        }
    );
}

// ggml writes what comes after a group of zeros one group too early; here every group is in its place.
#[test]
fn a_group_of_zeros_moves_no_other_of_iq3_s() {
    let mut x: Vec<f32> = inputs("normal", 256);
    x[64..96].fill(0.0);
    let bytes = encoded(GgmlType::IQ3_S, &x, 256, None);
    let mut numbers = vec![0.0; 256];
    decode(GgmlType::IQ3_S, &bytes, &mut numbers).unwrap();
    let error: f32 = x.iter().zip(&numbers).map(|(a, b)| (a - b) * (a - b)).sum();
    let size: f32 = x.iter().map(|a| a * a).sum();
    assert!(error < 0.05 * size, "{error} of {size}");
}

// A scale that overflows f32 itself makes what is no number of the rest of its block: refused as any other, with every instruction set.
#[test]
fn the_largest_numbers_are_refused_and_not_miscounted() {
    let mut x = vec![0.25f32; 512];
    (x[260], x[261]) = (f32::MAX, f32::MIN);
    for kind in ENCODED {
        let first = match kind.block_elements() {
            Some(1) => 260,
            _ => 256,
        };
        for importance in [None, Some(vec![1.0; 256])] {
            if importance.is_none() && NEEDS_IMPORTANCE.contains(&kind) {
                continue;
            }
            with_each_isa(|isa| {
                let mut out = vec![0; kind.row_bytes(x.len()).unwrap() as usize];
                let encoded = encode(kind, &x, 256, importance.as_deref(), &mut out);
                let what = format!("{kind:?} {} {}", importance.is_some(), isa.name());
                match kind {
                    GgmlType::F32 => assert_eq!(encoded, Ok(()), "{what}"),
                    // Sums of squares overflow, so that no candidate is taken and the scale becomes 0.
                    _ if encoded.is_ok() => {
                        let mut numbers = vec![0.0; x.len()];
                        decode(kind, &out, &mut numbers).unwrap();
                        assert!(numbers.iter().all(|number| number.is_finite()), "{what}");
                    }
                    _ => assert_eq!(
                        encoded,
                        Err(QuantizationError::TooLarge { kind, index: first }),
                        "{what}"
                    ),
                }
            });
        }
    }
}

#[test]
fn any_bytes_decode_as_in_ggml() {
    let halves = |kind: GgmlType| -> &[usize] {
        match kind {
            GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
            GgmlType::Q2_K => &[80, 82],
            GgmlType::Q3_K => &[108],
            GgmlType::Q6_K => &[208],
            GgmlType::TQ1_0 => &[52],
            GgmlType::TQ2_0 => &[64],
            GgmlType::IQ1_M | GgmlType::MXFP4 | GgmlType::NVFP4 => &[],
            _ => &[0],
        }
    };
    for (name, wanted) in &record().decoded {
        let kind = kind(name);
        let block = kind.block_elements().unwrap();
        let n = 40 * 256 / block;
        with_each_isa(|isa| {
            let bytes = match block {
                1 => encoded(kind, &inputs("steps", n), n, None),
                _ => arbitrary(kind, halves(kind), n),
            };
            let mut numbers = vec![0.0; n * block];
            decode(kind, &bytes, &mut numbers).unwrap();
            assert_eq!(digest_of(&numbers), *wanted, "{name}, {}", isa.name());
        });
    }
}
