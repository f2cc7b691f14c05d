//! Measures the limits of this machine, and how near the kernels come to them: `cargo run --release -p witness-kernels --example roofline [-- TYPE..]`.
//!
//! The limits: bytes a second that all cores read from memory, and operations a second of dot products of bytes and of f32 whose factors are in registers. Then, for
//! each type and each matrix of a model of 1B parameters: one token (bytes a second of weights, as a share of the first limit) and 512 tokens (two operations a
//! weight and token, as a share of the second, which tiles may pass; of the third for f16, bf16 and f32). `THREADS` and `WITNESS_ISA` hold it to fewer of either. Numbers are the best of several runs: what the machine can do, not what
//! its neighbours leave.
#![expect(
    unsafe_code,
    reason = "the limit of the integer units is measured with their instructions"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use witness_formats::gguf::GgmlType;
use witness_kernels::{Activations, Buffer, Isa, KernelError, PackedMatrix, PlainMatrix, Pool, is_plain};

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
    if let Some(name) = std::env::var("WITNESS_ISA").ok().filter(|name| !name.is_empty()) {
        let isa = Isa::within(&name).ok_or("WITNESS_ISA names no instructions of this processor")?;
        isa.hold();
    }
    let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
    let n_threads = std::env::var("THREADS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(n_cores);
    let pool = Pool::new(n_threads);
    let limits = Limits {
        bandwidth: bandwidth(&pool)?,
        bytes: peak(&pool, dots),
        floats: peak(&pool, fmas),
    };
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
    println!("type    rows columns   pack GB/s   1 token GB/s  share   {TOKENS} tokens GOP/s  share");
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
    let bytes = blocks.len() as f64;
    let number = |at: usize| (at * 7_919 % 2_003) as f32 / 1_001.5 - 1.0;
    let x: Vec<f32> = (0..TOKENS * n_columns).map(number).collect();
    let mut y = vec![0.0; TOKENS * n_rows];
    let one = &x[..n_columns];
    let mut one_token = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        for matrix in &matrices {
            matrix.multiply(black_box(one), n_columns, &mut y[..n_rows], pool)?;
        }
        one_token = one_token.min(start.elapsed().as_secs_f64() / copies as f64);
    }
    let mut many_tokens = f64::INFINITY;
    let runs = if n_rows > 10_000 { 2 } else { 4 };
    for matrix in matrices.iter().cycle().take(runs) {
        let start = Instant::now();
        matrix.multiply(black_box(&x), n_columns, &mut y, pool)?;
        many_tokens = many_tokens.min(start.elapsed().as_secs_f64());
    }
    black_box(&y);
    let operations = 2.0 * n_rows as f64 * n_columns as f64 * TOKENS as f64;
    let (speed, work) = (bytes / one_token / 1e9, operations / many_tokens / 1e9);
    println!(
        "{:<6} {n_rows:>6} {n_columns:>6} {:>10.2} {speed:>13.1} {:>6.0}% {work:>18.0} {:>6.0}%",
        kind.name(),
        blocks.len() as f64 / packing / 1e9,
        100.0 * speed / limits.bandwidth,
        100.0 * work / if is_plain(kind) { limits.floats } else { limits.bytes },
    );
    Ok(())
}

/// Bytes a second that all threads read together, in GB/s.
fn bandwidth(pool: &Pool) -> Result<f64, Box<dyn std::error::Error>> {
    const CHUNK: usize = 1 << 20;
    let mut buffer = Buffer::zeroed(BYTES)?;
    buffer.as_mut_slice().fill(1);
    let bytes = buffer.as_slice();
    let mut best = f64::INFINITY;
    for _ in 0..6 {
        let start = Instant::now();
        pool.run(BYTES / CHUNK, |index| {
            let (lines, _) = bytes[index * CHUNK..][..CHUNK].as_chunks::<64>();
            let mut sums = [0u64; 8];
            for line in lines {
                ask_ahead(line);
                for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
                    *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
                }
            }
            black_box(sums);
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(BYTES as f64 / best / 1e9)
}

/// Asks for memory some way behind a line, where the processor can be asked: the limit is what memory delivers, not how far it looks ahead by itself.
#[cfg(target_arch = "x86_64")]
fn ask_ahead(line: &[u8; 64]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: any address may be asked for; SSE is part of the architecture.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_add(8_192).cast()) };
}

#[cfg(not(target_arch = "x86_64"))]
fn ask_ahead(_: &[u8; 64]) {}

/// Operations a second (multiplications and additions) of rounds of `work`, which returns how many one of them has, in GOP/s.
fn peak(pool: &Pool, work: impl Fn(usize) -> usize + Sync) -> f64 {
    const TASKS: usize = 64;
    const ROUNDS: usize = 200_000;
    let mut best = f64::INFINITY;
    let per_round = AtomicUsize::new(0);
    for _ in 0..5 {
        let start = Instant::now();
        pool.run(TASKS, |_| per_round.store(work(ROUNDS), Ordering::Relaxed));
        best = best.min(start.elapsed().as_secs_f64());
    }
    (TASKS * ROUNDS * per_round.into_inner()) as f64 / best / 1e9
}

/// As [`dots`], of f32.
#[cfg(target_arch = "x86_64")]
fn fmas(rounds: usize) -> usize {
    // SAFETY: the names are those of instructions that were detected.
    unsafe {
        match Isa::current().name() {
            "avx512" | "avx512vnni" | "amx" => fmas_avx512(rounds),
            "avx2" => fmas_avx2(rounds),
            _ => fmas_plain(rounds),
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn fmas(rounds: usize) -> usize {
    fmas_plain(rounds)
}

/// Twelve sums of 16 at a time.
#[inline(always)]
fn fmas_plain(rounds: usize) -> usize {
    let (a, b) = (black_box([0.5_f32; 16]), black_box([1.5_f32; 16]));
    let mut sums = [[0.0_f32; 16]; 12];
    for _ in 0..rounds {
        for sums in &mut sums {
            for lane in 0..16 {
                sums[lane] = a[lane].mul_add(b[lane], sums[lane]);
            }
        }
    }
    black_box(sums);
    2 * 12 * 16
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn fmas_avx512(rounds: usize) -> usize {
    use std::arch::x86_64::*;
    let (a, b) = (black_box(_mm512_set1_ps(0.5)), black_box(_mm512_set1_ps(1.5)));
    let mut sums = [_mm512_setzero_ps(); 12];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(a, b, *sum);
        }
    }
    black_box(sums);
    2 * 12 * 16
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fmas_avx2(rounds: usize) -> usize {
    use std::arch::x86_64::*;
    let (a, b) = (black_box(_mm256_set1_ps(0.5)), black_box(_mm256_set1_ps(1.5)));
    let mut sums = [_mm256_setzero_ps(); 12];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(a, b, *sum);
        }
    }
    black_box(sums);
    2 * 12 * 8
}

/// Runs so many rounds of dot products of bytes and returns the operations of one.
#[cfg(target_arch = "x86_64")]
fn dots(rounds: usize) -> usize {
    // SAFETY: the names are those of instructions that were detected.
    unsafe {
        match Isa::current().name() {
            // Tiles are held to the limit of the dot products, which they may pass.
            "avx512vnni" | "amx" => dots_vnni(rounds),
            "avx2" | "avx512" => dots_avx2(rounds),
            _ => dots_plain(rounds),
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn dots(rounds: usize) -> usize {
    dots_plain(rounds)
}

fn dots_plain(rounds: usize) -> usize {
    let (a, b) = (black_box([3i8; 64]), black_box([5i8; 64]));
    let mut sum = 0;
    for _ in 0..rounds {
        let products = black_box(&a).iter().zip(&b).map(|(a, b)| i32::from(*a) * i32::from(*b));
        sum += products.sum::<i32>();
    }
    black_box(sum);
    2 * 64
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dots_vnni(rounds: usize) -> usize {
    use std::arch::x86_64::*;
    let (a, b) = (black_box(_mm512_set1_epi8(3)), black_box(_mm512_set1_epi8(5)));
    let mut sums = [_mm512_setzero_si512(); 12];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, a, b);
        }
    }
    black_box(sums);
    12 * 64 * 2
}

/// Codes of 4 bits: eight sums of two in 16 bits before they are widened.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dots_avx2(rounds: usize) -> usize {
    use std::arch::x86_64::*;
    let ones = _mm256_set1_epi16(1);
    let (a, b) = ([_mm256_set1_epi8(3); 4], [_mm256_set1_epi8(5); 8]);
    let mut sums = [_mm256_setzero_si256(); 4];
    for _ in 0..rounds {
        // Read anew each time, so that no product is taken out of the loop.
        let (a, b) = (black_box(&a), black_box(&b));
        for (sum, a) in sums.iter_mut().zip(a) {
            let mut narrow = _mm256_maddubs_epi16(*a, b[0]);
            for b in &b[1..] {
                narrow = _mm256_add_epi16(narrow, _mm256_maddubs_epi16(*a, *b));
            }
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(narrow, ones));
        }
    }
    black_box(sums);
    4 * 8 * 32 * 2
}
