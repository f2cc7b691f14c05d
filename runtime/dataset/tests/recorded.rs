//! The random numbers and orders against recordings of CPython and torch. `tests/recorded/*.py` made them; run those again to check.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use sha2::{Digest, Sha256};
use witness_dataset::order::group_by_length;
use witness_dataset::random::{PythonRandom, TorchGenerator};
use witness_dataset::{EpochOrder, SplitOptions, split};

fn recording(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn u64_of(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
}

fn rows_of(value: &Value) -> Vec<u32> {
    let rows = value.as_array().unwrap().iter();
    rows.map(|row| u64_of(row) as u32).collect()
}

/// The fingerprint that the scripts take of a list: SHA-256 of its numbers with commas, 16 hexadecimal digits.
fn hash(rows: &[u32]) -> String {
    let text: Vec<String> = rows.iter().map(u32::to_string).collect();
    let digest = Sha256::digest(text.join(","));
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn shuffles_are_those_of_cpython() {
    let recorded = recording(include_str!("recorded/python_shuffles.json"));
    for case in recorded["shuffles"].as_array().unwrap() {
        let mut rows: Vec<u32> = (0..u64_of(&case["n"]) as u32).collect();
        PythonRandom::seeded(u64_of(&case["seed"])).shuffle(&mut rows);
        assert_eq!(rows[..rows.len().min(8)], rows_of(&case["first"]), "{case}");
        assert_eq!(hash(&rows), case["hash"], "{case}");
    }
    for case in recorded["bits"].as_array().unwrap() {
        let mut random = PythonRandom::seeded(u64_of(&case["seed"]));
        for pair in case["bits"].as_array().unwrap() {
            assert_eq!(random.bits(u64_of(&pair[0]) as u32), u64_of(&pair[1]), "{case}");
        }
    }
    for case in recorded["unit"].as_array().unwrap() {
        let mut random = PythonRandom::seeded(u64_of(&case["seed"]));
        for unit in case["unit"].as_array().unwrap() {
            assert_eq!(Some(random.unit()), unit.as_f64());
        }
    }
}

#[test]
fn the_cut_lies_where_python_puts_it() {
    let recorded = recording(include_str!("recorded/python_shuffles.json"));
    for case in recorded["split_points"].as_array().unwrap() {
        let options = SplitOptions {
            train_fraction: case[1].as_f64().unwrap(),
            ..SplitOptions::default()
        };
        let parts = split(u64_of(&case[0]) as usize, &options).unwrap();
        assert_eq!(parts.train.len() as u64, u64_of(&case[2]), "{case}");
        assert_eq!((parts.train.len() + parts.validation.len()) as u64, u64_of(&case[0]));
    }
    for train_fraction in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        let options = SplitOptions {
            train_fraction,
            ..SplitOptions::default()
        };
        assert!(split(10, &options).is_err());
    }
}

#[test]
fn orders_are_those_of_torch() {
    let recorded = recording(include_str!("recorded/torch_orders.json"));
    for case in recorded["permutations"].as_array().unwrap() {
        let rows = TorchGenerator::seeded(u64_of(&case["seed"])).permutation(u64_of(&case["n"]) as usize);
        assert_eq!(rows[..rows.len().min(8)], rows_of(&case["first"]), "{case}");
        assert_eq!(hash(&rows), case["hash"], "{case}");
    }
    for case in recorded["sampler_seeds"].as_array().unwrap() {
        let mut generator = TorchGenerator::seeded(u64_of(&case["seed"]));
        for seed in case["seeds"].as_array().unwrap() {
            assert_eq!(generator.sampler_seed(), u64_of(seed), "{case}");
        }
    }
    for (name, order) in [
        ("drawn", EpochOrder::DrawnSeeds),
        ("one_generator", EpochOrder::OneGenerator),
    ] {
        for case in recorded[name].as_array().unwrap() {
            for (epoch, rows) in case["epochs"].as_array().unwrap().iter().enumerate() {
                let ours = order.rows(u64_of(&case["seed"]), u64_of(&case["n"]) as usize, epoch as u64);
                assert_eq!(ours, rows_of(rows), "{name} {} epoch {epoch}", case["seed"]);
            }
        }
    }
}

#[test]
fn groups_of_like_length_are_those_of_transformers() {
    let recorded = recording(include_str!("recorded/length_groups.json"));
    for case in recorded["cases"].as_array().unwrap() {
        let lengths: Vec<usize> = rows_of(&case["lengths"]).iter().map(|n| *n as usize).collect();
        let order = TorchGenerator::seeded(u64_of(&case["seed"])).permutation(lengths.len());
        let grouped = group_by_length(&order, &lengths, u64_of(&case["batch"]) as usize);
        assert_eq!(
            grouped,
            rows_of(&case["order"]),
            "n {} batch {}",
            case["n"],
            case["batch"]
        );
    }
}
