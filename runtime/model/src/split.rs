//! Work on numbers, shared out over the threads of one [`Pool`]: the kernels' own, so that no two sets of threads wait for the same cores.
#![expect(unsafe_code, reason = "threads write disjoint parts of one slice")]

use std::marker::PhantomData;
use std::ops::Range;

use witness_kernels::Pool;

/// A slice whose parts are written by different tasks.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    numbers: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a mutable slice, whose parts are handed out by `part` to one holder each.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(crate) fn new(numbers: &'a mut [f32]) -> Self {
        Self {
            start: numbers.as_mut_ptr(),
            len: numbers.len(),
            numbers: PhantomData,
        }
    }

    /// Returns what lies from `start` on.
    ///
    /// # Panics
    /// If that is outside the slice.
    pub(crate) fn behind(&self, start: usize) -> Shared<'a> {
        assert!(start <= self.len, "within the slice");
        Shared {
            // SAFETY: the slice reaches as far.
            start: unsafe { self.start.add(start) },
            len: self.len - start,
            numbers: PhantomData,
        }
    }

    /// Returns a part.
    ///
    /// # Safety
    /// Nobody else holds a number of this part meanwhile.
    ///
    /// # Panics
    /// If it lies outside the slice.
    #[inline(always)]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &'a mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len, "within the slice");
        // SAFETY: the range lies inside the slice that `numbers` borrows; the caller answers for the rest.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// Calls `f(index, chunk)` for each chunk of `chunk` numbers, the last one shorter; on all threads if there is more than one.
///
/// # Panics
/// If `chunk` is 0.
pub(crate) fn each_chunk(pool: &Pool, numbers: &mut [f32], chunk: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let len = numbers.len();
    let shared = Shared::new(numbers);
    pool.run(len.div_ceil(chunk), |index| {
        let start = index * chunk;
        // SAFETY: a pool calls each number once, and chunks of different numbers do not overlap.
        f(index, unsafe { shared.part(start..(start + chunk).min(len)) });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_in_one_chunk() {
        for n_threads in [1, 3] {
            let pool = Pool::new(n_threads);
            for len in [0, 1, 7, 64, 1000] {
                let mut numbers = vec![0.0; len];
                each_chunk(&pool, &mut numbers, 7, |index, chunk| {
                    for (at, number) in chunk.iter_mut().enumerate() {
                        *number += (index * 7 + at) as f32 + 1.0;
                    }
                });
                let wanted: Vec<f32> = (0..len).map(|at| at as f32 + 1.0).collect();
                assert_eq!(numbers, wanted);
            }
        }
    }

    #[test]
    #[should_panic(expected = "within the slice")]
    fn nothing_outside_is_handed_out() {
        let mut numbers = [0.0; 4];
        let shared = Shared::new(&mut numbers);
        // SAFETY: nobody holds another part.
        unsafe { shared.part(2..5) };
    }
}
