//! Where the outputs of a product are: one slice that many threads write disjoint parts of.
#![expect(unsafe_code, reason = "threads write disjoint rows of one output")]

use std::marker::PhantomData;
use std::ops::Range;

use crate::format::TILE_ROWS;
use crate::memory::prefetch;

/// Numbers in a cache line.
const LINE: usize = 16;

/// Outputs `[n_tokens, n_rows]`, row-major; each task writes its rows, for every token.
#[derive(Clone, Copy)]
pub(crate) struct Output<'a> {
    start: *mut f32,
    n_tokens: usize,
    n_rows: usize,
    _borrowed: PhantomData<&'a mut [f32]>,
}

// SAFETY: tasks write disjoint rows, and the slice that it was made from stays borrowed as long as this is there.
unsafe impl Send for Output<'_> {}
// SAFETY: as above.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// Takes a slice of `n_tokens * n_rows`.
    ///
    /// # Panics
    /// If it has another length.
    pub(crate) fn new(y: &'a mut [f32], n_tokens: usize, n_rows: usize) -> Output<'a> {
        assert_eq!(Some(y.len()), n_tokens.checked_mul(n_rows), "a batch of outputs");
        Output {
            start: y.as_mut_ptr(),
            n_tokens,
            n_rows,
            _borrowed: PhantomData,
        }
    }

    /// Writes rows of a token, from row `first` on; those beyond the last are left out.
    ///
    /// # Panics
    /// If there is no such token or row.
    ///
    /// # Safety
    /// Nobody else reads or writes these rows of this token meanwhile.
    #[inline]
    pub(crate) unsafe fn put(self, token: usize, first: usize, numbers: &[f32]) {
        let len = numbers.len().min(self.n_rows.saturating_sub(first));
        let start = self.at(token, first, 1);
        // SAFETY: the token and the rows are within the outputs; the caller answers for the rest.
        let rows = unsafe { std::slice::from_raw_parts_mut(start, len) };
        rows.copy_from_slice(&numbers[..len]);
    }

    /// As [`Output::put`] with the rows of a tile, all of which must be there. So many numbers are a few moves; any other number is a call, which takes longer.
    ///
    /// # Panics
    /// If there is no such token, or not so many rows.
    ///
    /// # Safety
    /// As for [`Output::put`].
    #[inline]
    pub(crate) unsafe fn put_tile(self, token: usize, first: usize, numbers: &[f32; TILE_ROWS]) {
        assert!(first + TILE_ROWS <= self.n_rows, "a whole tile");
        let start = self.at(token, first, 1).cast::<[f32; TILE_ROWS]>();
        // SAFETY: the token and the rows are within the outputs; the caller answers for the rest.
        unsafe { start.write_unaligned(*numbers) };
    }

    /// Asks for the cache lines of some rows of some tokens, which will be written soon.
    pub(crate) fn fetch(self, tokens: Range<usize>, rows: Range<usize>) {
        for token in tokens {
            for row in rows.clone().step_by(LINE) {
                prefetch(self.start.wrapping_add(token * self.n_rows + row).cast());
            }
        }
    }

    /// Returns the address of a row of a token. The next token's is [`Output::stride`] numbers further.
    ///
    /// # Panics
    /// If there are no such row or no such `n_tokens`.
    pub(crate) fn at(self, token: usize, row: usize, n_tokens: usize) -> *mut f32 {
        assert!(
            token + n_tokens <= self.n_tokens && row < self.n_rows,
            "within the outputs"
        );
        self.start.wrapping_add(token * self.n_rows + row)
    }

    /// Returns the numbers from a token to the next.
    pub(crate) fn stride(self) -> usize {
        self.n_rows
    }
}
