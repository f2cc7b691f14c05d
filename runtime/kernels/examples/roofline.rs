//! Measures the limits of this machine, and how near the kernels come to them: `cargo run --release -p witness-kernels --example roofline [-- TYPE..]`.
//!
//! The limits: bytes a second that all cores read from memory, and operations a second of dot products of bytes and of f32 whose factors are in registers. Then, for
//! each type and each matrix of a model of 1B parameters: one token (bytes a second of weights, as a share of the first limit), 4 and 16 (the same) and 512 tokens (two operations a
//! weight and token, as a share of the second, which tiles may pass; of the third for f16, bf16 and f32). `THREADS` and `WITNESS_ISA`
//! hold it to fewer of either. Numbers are the best of several runs: what the machine can do, not what its neighbours leave.
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use witness_formats::gguf::GgmlType;
use witness_instructions::Isa;
use witness_kernels::{Activations, Buffer, KernelError, PackedMatrix, PlainMatrix, Pool, is_plain, limits};

const SHAPES: [(usize, usize); 4] = [(2_048, 2_048), (8_192, 2_048), (2_048, 8_192), (128_256, 2_048)];
const TYPES: [GgmlType; 8] = [
    GgmlType::Q4_K,
    GgmlType::Q6_K,
    GgmlType::Q8_0,
    GgmlType::Q4_0,
    GgmlType::Q5_K,
    GgmlType::F16,
    GgmlType::BF16,
    GgmlType::F32,
];
const TOKENS: usize = 512;
/// More than any cache holds.
const BYTES: usize = 384 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    Isa::hold_to_setting()?;
    let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
    let n_threads = std::env::var("THREADS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(n_cores);
    let pool = Pool::new(n_threads);
    let memory = limits::Memory::new()?;
    let limits = Limits {
        bandwidth: best(6, || memory.read(&pool)),
        bytes: best(10, || limits::dot_bytes(&pool)),
        floats: best(10, || limits::multiply_floats(&pool)),
    };
    drop(memory);
    println!(
        "{} with {n_threads} threads: reads {:.1} GB/s, multiplies bytes at {:.0} GOP/s and f32 at {:.0}",
        Isa::current().name(),
        limits.bandwidth,
        limits.bytes,
        limits.floats,
    );
    let asked: Vec<GgmlType> = std::env::args()
        .skip(1)
        .filter_map(|name| GgmlType::from_name(&name))
        .collect();
    let types = if asked.is_empty() { TYPES.to_vec() } else { asked };
    println!(
        "type    rows columns   pack GB/s   1 token GB/s  share   4 tokens  16 tokens   {TOKENS} tokens GOP/s  share"
    );
    for kind in types {
        for (n_rows, n_columns) in SHAPES {
            measure(kind, n_rows, n_columns, &pool, &limits)?;
        }
    }
    Ok(())
}

/// In GB/s and GOP/s.
struct Limits {
    bandwidth: f64,
    bytes: f64,
    floats: f64,
}

enum Matrix {
    Packed(PackedMatrix),
    Plain(PlainMatrix),
}

impl Matrix {
    fn new(
        kind: GgmlType,
        n_rows: usize,
        n_columns: usize,
        blocks: &Arc<Vec<u8>>,
        pool: &Pool,
    ) -> Result<Matrix, KernelError> {
        if !is_plain(kind) {
            return PackedMatrix::pack(kind, n_rows, n_columns, blocks, pool).map(Matrix::Packed);
        }
        // As a file does that is mapped, each has bytes of its own.
        let mut copy = Buffer::zeroed(blocks.len())?;
        copy.as_mut_slice().copy_from_slice(blocks);
        PlainMatrix::new(kind, n_rows, n_columns, Arc::new(Held(copy)), 0..blocks.len()).map(Matrix::Plain)
    }

    fn multiply(&self, x: &[f32], n_columns: usize, y: &mut [f32], pool: &Pool) -> Result<(), KernelError> {
        match self {
            Matrix::Packed(matrix) => matrix.multiply(&Activations::quantize(x, n_columns, pool)?, y, pool),
            Matrix::Plain(matrix) => matrix.multiply(x, y, pool),
        }
    }
}

struct Held(Buffer);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

fn measure(
    kind: GgmlType,
    n_rows: usize,
    n_columns: usize,
    pool: &Pool,
    limits: &Limits,
) -> Result<(), Box<dyn std::error::Error>> {
    let row_bytes = kind.row_bytes(n_columns).ok_or("whole blocks")? as usize;
    // Every two bytes are an f16 or a bf16 of ordinary size, as scales or as numbers: subnormal ones would change the timing.
    let byte = |at: usize| {
        if at.is_multiple_of(2) {
            (at * 37 % 61) as u8
        } else {
            0x3c
        }
    };
    let blocks: Arc<Vec<u8>> = Arc::new((0..n_rows * row_bytes).map(byte).collect());
    let copies = (BYTES / blocks.len()).clamp(1, 160);
    let mut packing = f64::INFINITY;
    let mut matrices = Vec::with_capacity(copies);
    for _ in 0..copies {
        let start = Instant::now();
        matrices.push(Matrix::new(kind, n_rows, n_columns, &blocks, pool)?);
        packing = packing.min(start.elapsed().as_secs_f64());
    }
    let number = |at: usize| (at * 7_919 % 2_003) as f32 / 1_001.5 - 1.0;
    let x: Vec<f32> = (0..TOKENS * n_columns).map(number).collect();
    let mut y = vec![0.0; TOKENS * n_rows];
    let mut few_tokens = |n_tokens: usize| -> Result<f64, KernelError> {
        let mut seconds = f64::INFINITY;
        for _ in 0..5 {
            let start = Instant::now();
            for matrix in &matrices {
                let x = black_box(&x[..n_tokens * n_columns]);
                matrix.multiply(x, n_columns, &mut y[..n_tokens * n_rows], pool)?;
            }
            seconds = seconds.min(start.elapsed().as_secs_f64() / copies as f64);
        }
        Ok(blocks.len() as f64 / seconds / 1e9)
    };
    let [one, four, sixteen] = [few_tokens(1)?, few_tokens(4)?, few_tokens(16)?];
    let mut many_tokens = f64::INFINITY;
    let runs = if n_rows > 10_000 { 2 } else { 4 };
    for matrix in matrices.iter().cycle().take(runs) {
        let start = Instant::now();
        matrix.multiply(black_box(&x), n_columns, &mut y, pool)?;
        many_tokens = many_tokens.min(start.elapsed().as_secs_f64());
    }
    black_box(&y);
    let operations = 2.0 * n_rows as f64 * n_columns as f64 * TOKENS as f64;
    let work = operations / many_tokens / 1e9;
    println!(
        "{:<6} {n_rows:>6} {n_columns:>6} {:>10.2} {one:>13.1} {:>6.0}% {four:>10.1} {sixteen:>10.1} {work:>18.0} {:>6.0}%",
        kind.name(),
        blocks.len() as f64 / packing / 1e9,
        100.0 * one / limits.bandwidth,
        100.0 * work / if is_plain(kind) { limits.floats } else { limits.bytes },
    );
    Ok(())
}

/// Returns how much of `work` is done a second, in thousands of millions: the best of several runs.
fn best(runs: usize, work: impl Fn() -> u64) -> f64 {
    let speeds = (0..runs).map(|_| {
        let start = Instant::now();
        work() as f64 / start.elapsed().as_secs_f64() / 1e9
    });
    speeds.fold(0.0, f64::max)
}
