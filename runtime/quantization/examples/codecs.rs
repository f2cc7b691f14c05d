//! Times the codecs on one thread: `cargo run --release -p witness-quantization --example codecs [-- TYPE..]`; `WITNESS_ISA=scalar` and the like hold it to fewer
//! instructions. `tests/record/throughput.py` times ggml's in the same way: the same numbers, rows of 4,096, the best of three runs.
#![expect(clippy::print_stdout, reason = "a program that prints its figures")]

use std::hint::black_box;
use std::time::Instant;

use witness_instructions::Isa;
use witness_quantization::{ENCODED, NEEDS_IMPORTANCE, decode, encode, parse_type};

const COLUMNS: usize = 4_096;
const ROWS: usize = 1_024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    Isa::hold_to_setting()?;
    let names: Vec<String> = std::env::args().skip(1).collect();
    let kinds = match names.is_empty() {
        true => ENCODED.to_vec(),
        false => names.iter().map(|name| parse_type(name)).collect::<Result<_, _>>()?,
    };
    let x = normal(COLUMNS * ROWS);
    let weights: Vec<f32> = normal(COLUMNS).iter().map(|number| number * number).collect();
    println!(
        "{}: {:.1} GB/s of reading and writing",
        Isa::current().name(),
        memory_speed(&x)
    );
    println!(
        "{:8}{:>10}{:>10}{:>10}   millions of numbers a second",
        "type", "encode", "weighted", "decode"
    );
    for kind in kinds {
        let mut bytes = vec![0; kind.row_bytes(x.len()).unwrap_or(0) as usize];
        let mut again = vec![0.0; x.len()];
        let encoded = match NEEDS_IMPORTANCE.contains(&kind) {
            true => 0.0,
            false => best(x.len(), || encode(kind, &x, COLUMNS, None, &mut bytes))?,
        };
        let weighted = best(x.len(), || encode(kind, &x, COLUMNS, Some(&weights), &mut bytes))?;
        let decoded = best(x.len(), || decode(kind, &bytes, &mut again))?;
        println!("{:8}{encoded:10.1}{weighted:10.1}{decoded:10.1}", kind.name());
    }
    Ok(())
}

/// Returns millions of numbers a second: the best of three runs.
fn best<E>(n: usize, mut run: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    let mut quickest = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        black_box(run())?;
        quickest = quickest.min(start.elapsed().as_secs_f64());
    }
    Ok(n as f64 / quickest / 1e6)
}

/// Returns the bytes read and written by a copy, in GB a second.
fn memory_speed(x: &[f32]) -> f64 {
    let mut copy = vec![0.0; x.len()];
    let numbers = best(x.len(), || {
        copy.copy_from_slice(black_box(x));
        black_box(&copy);
        Ok::<(), std::convert::Infallible>(())
    });
    numbers.unwrap_or(0.0) * 8.0 / 1e3
}

/// Sums of four uniform numbers of splitmix64, as in the tests: near enough to normal.
fn normal(n: usize) -> Vec<f32> {
    let uniform = |i: usize| {
        let z = 1u64.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as i64
    };
    let of_four = |i: usize| (4 * i..4 * i + 4).map(uniform).sum::<i64>() - (1 << 25);
    (0..n).map(|i| of_four(i) as f32 / 16_777_216.0 / 32.0).collect()
}
