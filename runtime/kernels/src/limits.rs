//! What a processor could do at most, as work to be timed: reading memory, dot products of bytes, products of f32.
//!
//! Each function does a fixed amount on all threads of a pool and returns it, in bytes or operations (a multiplication and an addition are two). The caller holds the
//! watch, and takes the best of several runs: what the machine can do, not what its neighbours leave. Each takes some tens of milliseconds.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "the limits are those of instructions, and measured with them")
)]

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(target_arch = "x86_64")]
use witness_instructions::{Isa, Level};

use crate::error::Result;
use crate::memory::{Buffer, fetch_ahead};
use crate::pool::Pool;

/// More than any cache holds.
const BYTES: usize = 384 << 20;
/// Bytes that a thread reads at a time.
const CHUNK: usize = 1 << 20;
/// Tasks of the two that compute, and rounds of each.
const TASKS: usize = 32;
const ROUNDS: usize = 100_000;

/// Memory to be read, on huge pages where weights are too.
#[derive(Debug)]
pub struct Memory(Buffer);

impl Memory {
    /// Takes 384 MiB.
    ///
    /// # Errors
    /// If the system has not that much.
    pub fn new() -> Result<Memory> {
        let mut buffer = Buffer::zeroed(BYTES)?;
        buffer.as_mut_slice().fill(1);
        Ok(Memory(buffer))
    }

    /// Reads all of it once and returns the bytes.
    pub fn read(&self, pool: &Pool) -> u64 {
        let bytes = self.0.as_slice();
        pool.run(BYTES / CHUNK, |index| {
            let (lines, _) = bytes[index * CHUNK..][..CHUNK].as_chunks::<64>();
            let mut sums = [0u64; 8];
            for line in lines {
                // The limit is what memory delivers, not how far the processor looks ahead by itself.
                fetch_ahead(line.as_ptr().cast());
                for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
                    *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
                }
            }
            black_box(sums);
        });
        BYTES as u64
    }
}

/// Multiplies bytes and adds them up, with the instructions of [`Isa::current`](witness_instructions::Isa::current) and factors in registers. Returns the operations.
///
/// Tiles (AMX) are held to the limit of the dot products beside them, which they may pass.
pub fn dot_bytes(pool: &Pool) -> u64 {
    on_all(pool, dots)
}

/// As [`dot_bytes`], of f32.
pub fn multiply_floats(pool: &Pool) -> u64 {
    on_all(pool, fmas)
}

fn on_all(pool: &Pool, work: impl Fn(usize) -> usize + Sync) -> u64 {
    let per_round = AtomicUsize::new(0);
    pool.run(TASKS, |_| per_round.store(work(ROUNDS), Ordering::Relaxed));
    (TASKS * ROUNDS * per_round.into_inner()) as u64
}

/// As [`dots`], of f32.
#[cfg(target_arch = "x86_64")]
fn fmas(rounds: usize) -> usize {
    // SAFETY: an `Isa` proves the instructions.
    unsafe {
        match Isa::current() {
            isa if isa.at_least(Level::Avx512) => fmas_avx512(rounds),
            isa if isa.at_least(Level::Avx2) => fmas_avx2(rounds),
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
    // SAFETY: an `Isa` proves the instructions.
    unsafe {
        match Isa::current() {
            isa if isa.at_least(Level::Avx512Vnni) => dots_vnni(rounds),
            isa if isa.at_least(Level::Avx2) => dots_avx2(rounds),
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

#[cfg(test)]
mod tests {
    use super::*;

    // The amounts are what the loops do; a compiler that took the work away would be seen by nobody else.
    #[test]
    fn the_amounts_are_as_said() {
        let pool = Pool::new(2);
        let memory = Memory::new().unwrap();
        assert_eq!(memory.read(&pool), BYTES as u64);
        for operations in [dot_bytes(&pool), multiply_floats(&pool)] {
            assert!(operations >= (TASKS * ROUNDS * 2 * 64) as u64);
        }
    }
}
