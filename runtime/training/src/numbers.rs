//! Memory for activations: arrays of numbers that are handed on from one use to the next instead of going back to the system.
//!
//! A step takes and gives back every activation of every layer; from the system each would come as fresh pages, at a fault and a cleared page for every 4 KiB (a
//! sixth of a step in bf16 was that). **Invariant:** what is kept for later and what is in use are together at most what was in use at once before, so keeping
//! costs no memory beyond the peak.
#![expect(unsafe_code, reason = "lines of bytes are seen as numbers")]

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::slice;
use std::sync::{Mutex, PoisonError};

use crate::real::Real;

/// A line of the cache: 64 bytes at an address that is a multiple of 64.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u64; 8]);

/// Arrays below so many lines (16 KiB) come from the allocator, which keeps them itself.
const POOLED_LINES_MIN: usize = 256;

/// What is kept for later.
struct Pool {
    free: Vec<Vec<Line>>,
    free_lines: usize,
    used_lines: usize,
    /// The most that was in use at once.
    peak_lines: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    free: Vec::new(),
    free_lines: 0,
    used_lines: 0,
    peak_lines: 0,
});

impl Pool {
    /// Takes lines, and says whether they are fresh and so zero.
    fn take(&mut self, n_lines: usize) -> (Vec<Line>, bool) {
        // A twentieth more than asked for may lie idle.
        let fits = |lines: &Vec<Line>| (n_lines..=n_lines + n_lines / 20).contains(&lines.len());
        let best = (0..self.free.len())
            .filter(|index| fits(&self.free[*index]))
            .min_by_key(|index| self.free[*index].len());
        if let Some(best) = best {
            let lines = self.free.swap_remove(best);
            self.free_lines -= lines.len();
            self.note_use(lines.len());
            return (lines, false);
        }
        self.note_use(n_lines);
        while self.free_lines + self.used_lines > self.peak_lines {
            let Some(lines) = self.free.pop() else { break };
            self.free_lines -= lines.len();
        }
        (vec![Line([0; 8]); n_lines], true)
    }

    fn note_use(&mut self, n_lines: usize) {
        self.used_lines += n_lines;
        self.peak_lines = self.peak_lines.max(self.used_lines);
    }

    fn give_back(&mut self, lines: Vec<Line>) {
        self.used_lines = self.used_lines.saturating_sub(lines.len());
        self.free_lines += lines.len();
        self.free.push(lines);
    }
}

/// Held by whoever computes; when it is dropped, what is kept for later goes back to the system.
#[derive(Debug)]
pub(crate) struct KeptMemory;

impl Drop for KeptMemory {
    fn drop(&mut self) {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        pool.free = Vec::new();
        pool.free_lines = 0;
        pool.peak_lines = pool.used_lines;
    }
}

/// An array of numbers, aligned to 64 bytes.
#[derive(Default)]
pub(crate) struct Numbers<T> {
    lines: Vec<Line>,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Real> Numbers<T> {
    /// Makes zeros.
    pub(crate) fn zeros(len: usize) -> Numbers<T> {
        let (mut numbers, is_zero) = Numbers::take(len);
        if !is_zero {
            numbers.fill(T::ZERO);
        }
        numbers
    }

    /// Makes an array of whatever an earlier use left, to be overwritten.
    pub(crate) fn stale(len: usize) -> Numbers<T> {
        Numbers::take(len).0
    }

    /// Copies numbers.
    pub(crate) fn copy_of(values: &[T]) -> Numbers<T> {
        let mut numbers = Numbers::stale(values.len());
        numbers.copy_from_slice(values);
        numbers
    }

    fn take(len: usize) -> (Numbers<T>, bool) {
        let n_lines = (len * size_of::<T>()).div_ceil(size_of::<Line>());
        let (lines, is_zero) = match n_lines < POOLED_LINES_MIN {
            true => (vec![Line([0; 8]); n_lines], true),
            false => POOL.lock().unwrap_or_else(PoisonError::into_inner).take(n_lines),
        };
        let of = PhantomData;
        (Numbers { lines, len, of }, is_zero)
    }
}

impl<T> Deref for Numbers<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `take`, which is for types of numbers alone, made lines for `len` of them; every pattern of bits is one, and 64 is a multiple of its alignment.
        unsafe { slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T> DerefMut for Numbers<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; the borrow is exclusive.
        unsafe { slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl<T> Drop for Numbers<T> {
    fn drop(&mut self) {
        if self.lines.len() >= POOLED_LINES_MIN {
            let lines = std::mem::take(&mut self.lines);
            POOL.lock().unwrap_or_else(PoisonError::into_inner).give_back(lines);
        }
    }
}

impl<T> std::fmt::Debug for Numbers<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} numbers", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_zero_also_where_something_was() {
        for len in [0, 5, 16_384, 100_000] {
            let mut numbers = Numbers::<f32>::stale(len);
            numbers.fill(3.0);
            drop(numbers);
            let zeros = Numbers::<f32>::zeros(len);
            assert!(zeros.len() == len && zeros.iter().all(|value| *value == 0.0));
            assert_eq!(zeros.as_ptr() as usize % 64, 0);
        }
    }

    #[test]
    fn what_is_kept_stays_within_the_peak() {
        let mut pool = Pool {
            free: Vec::new(),
            free_lines: 0,
            used_lines: 0,
            peak_lines: 0,
        };
        let (one, _) = pool.take(1_000);
        let (two, _) = pool.take(500);
        pool.give_back(one);
        pool.give_back(two);
        assert_eq!((pool.free_lines, pool.used_lines, pool.peak_lines), (1_500, 0, 1_500));
        let (again, is_zero) = pool.take(490);
        assert!(!is_zero && again.len() == 500);
        // Nothing fits: what is kept makes room.
        let (other, is_zero) = pool.take(900);
        assert!(is_zero && other.len() == 900);
        assert!(pool.free_lines + pool.used_lines <= pool.peak_lines);
    }
}
