//! Memory for packed operands, kept by the thread that used it last: a product needs some megabytes for a moment, and fresh ones from the system cost a page fault
//! every 4 KiB.
#![expect(unsafe_code, reason = "a view of aligned lines as single numbers")]

use std::cell::RefCell;
use std::slice;

/// Sixteen numbers at an address that is a multiple of 64: a line of the cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// How much one thread keeps for later.
const KEPT_LINES_MAX: usize = (64 << 20) / size_of::<Line>();
/// How many buffers one thread keeps: both operands and one decoded part, of two products at a time.
const KEPT_BUFFERS_MAX: usize = 6;

thread_local! {
    static KEPT: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Numbers of some earlier use, aligned to 64 bytes. Goes back to the thread that drops it.
pub(super) struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

impl Buffer {
    /// Takes a buffer of so many numbers; their values are left over.
    pub(super) fn take(len: usize) -> Buffer {
        let n_lines = len.div_ceil(16);
        let kept = KEPT.with_borrow_mut(|kept| {
            // The smallest that is large enough, else the one nearest to it, which is replaced.
            let misfit = |lines: &Vec<Line>| (lines.len() < n_lines, lines.len().abs_diff(n_lines));
            let best = (0..kept.len()).min_by_key(|index| misfit(&kept[*index]));
            best.map(|index| kept.swap_remove(index))
        });
        let mut lines = kept.unwrap_or_default();
        if lines.len() < n_lines {
            drop(lines);
            lines = vec![Line([0.0; 16]); n_lines];
        }
        Buffer { lines, len }
    }

    /// Returns the numbers.
    pub(super) fn as_slice(&self) -> &[f32] {
        // SAFETY: `take` made lines for at least `len` numbers, and a line is sixteen of them without gaps.
        unsafe { slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    /// Returns the numbers, to be written.
    pub(super) fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as above; the borrow is exclusive.
        unsafe { slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        // At the end of a thread there is nothing to keep it in.
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            let held: usize = kept.iter().map(Vec::len).sum();
            if kept.len() < KEPT_BUFFERS_MAX && held + lines.len() <= KEPT_LINES_MAX {
                kept.push(lines);
            }
        });
    }
}
