//! Memory for packed weights: contiguous, aligned to cache lines, on huge pages where the system has them.
//!
//! A token walks through all weights once, so pages of 4 KiB cost a look-up of the page table each 300 ns and stop the processor's prefetching at each end; pages of
//! 2 MiB do neither. Weights of one model are cut from common regions, so that small matrices share huge pages with
//! their neighbours and none is rounded up to one.
#![expect(
    unsafe_code,
    reason = "mapping anonymous memory, cutting it into exclusive pieces, and asking for lines of it"
)]

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use crate::error::{KernelError, Result};
use crate::format::ALIGNMENT;
use crate::lanes::Ahead;

/// Exclusive, zeroed bytes, aligned to 64.
pub struct Buffer {
    region: Arc<region::Region>,
    offset: usize,
    len: usize,
}

/// Bytes that are copied at once when lent ones are taken over: between two of them whoever copies can be told to stop.
const COPIED_AT_ONCE: usize = 4 << 20;

/// Looks on while lent bytes are copied to memory of their own.
pub trait Watch {
    /// Sees the next part of the copy, of a few megabytes; `false` ends it.
    fn part(&mut self, part: &[u8]) -> bool;
    /// Says, when all parts were seen, whether the copy may take the place of the lent bytes.
    fn accept(&mut self) -> bool;
}

/// Where packed bytes are: in memory of ours, or in somebody's who keeps them, such as a mapped file. Clones share them.
#[derive(Clone)]
pub(crate) enum Bytes {
    Owned(Arc<Buffer>),
    Lent(Arc<Lent>),
}

/// Bytes of somebody's, and those of ours that take their place once they are a copy of all of them.
pub(crate) struct Lent {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    offset: usize,
    len: usize,
    /// Set once, by whoever copied; from then on whoever looks anew finds these. Who looked before goes on with the owner's, which stay and are equal.
    own: OnceLock<Buffer>,
}

impl Bytes {
    /// Takes a part of somebody's bytes; nothing where it ends beyond them.
    pub(crate) fn lent(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Option<Bytes> {
        let all: &[u8] = (*owner).as_ref();
        let len = all.get(range.clone())?.len();
        Some(Bytes::Lent(Arc::new(Lent {
            owner,
            offset: range.start,
            len,
            own: OnceLock::new(),
        })))
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Owned(buffer) => buffer.as_slice(),
            Bytes::Lent(lent) => match lent.own.get() {
                Some(own) => own.as_slice(),
                None => lent.as_slice(),
            },
        }
    }

    /// Copies lent bytes to memory of ours, for this and all clones. Returns whether they are there now.
    pub(crate) fn take_over(&self, watch: &mut dyn Watch) -> Result<bool> {
        let Bytes::Lent(lent) = self else {
            return Ok(true);
        };
        if lent.own.get().is_some() {
            return Ok(true);
        }
        let mut own = Buffer::zeroed(lent.len)?;
        let parts = own.as_mut_slice().chunks_mut(COPIED_AT_ONCE);
        for (to, from) in parts.zip(lent.as_slice().chunks(COPIED_AT_ONCE)) {
            to.copy_from_slice(from);
            if !watch.part(to) {
                return Ok(false);
            }
        }
        let is_accepted = watch.accept();
        if is_accepted {
            // Another who copied at the same time was first: its bytes are as good.
            let _ = lent.own.set(own);
        }
        Ok(is_accepted)
    }
}

impl Lent {
    /// The owner's bytes.
    fn as_slice(&self) -> &[u8] {
        let all: &[u8] = (*self.owner).as_ref();
        &all[self.offset..self.offset + self.len]
    }
}

/// Asks for the cache line at an address, which may be any, where the processor can be asked.
#[inline]
pub(crate) fn prefetch(at: *const u8) {
    ask::<false>(at);
}

/// As [`prefetch`]; where it is `FAR`, no further than the second cache.
#[inline]
fn ask<const FAR: bool>(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of the architecture, and a prefetch reads nothing.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        match FAR {
            true => _mm_prefetch::<_MM_HINT_T1>(at.cast()),
            false => _mm_prefetch::<_MM_HINT_T0>(at.cast()),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Asks for what follows a cache line of memory that is read once, from one end to the other. The address may be any.
#[inline]
pub fn fetch_ahead(at: *const u8) {
    ask::<true>(at.wrapping_add(Ahead::STREAM.far));
    prefetch(at.wrapping_add(Ahead::STREAM.near));
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Bytes::Owned(_) => "owned",
            Bytes::Lent(lent) if lent.own.get().is_some() => "taken over",
            Bytes::Lent(_) => "lent",
        };
        write!(f, "{} bytes, {name}", self.as_slice().len())
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

impl Buffer {
    /// Takes so many zeroed bytes. They count as used memory only once they are written.
    ///
    /// # Errors
    /// If the system has none.
    pub fn zeroed(len: usize) -> Result<Buffer> {
        let padded = len.max(1).checked_next_multiple_of(ALIGNMENT);
        let padded = padded.ok_or_else(|| KernelError::Memory {
            bytes: len,
            reason: "more than can be addressed".to_owned(),
        })?;
        let (region, offset) = region::take(padded)?;
        Ok(Buffer { region, offset, len })
    }

    /// Returns the bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `region::take` hands each range of a living region out once; nobody writes while `&self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.region.base().add(self.offset), self.len) }
    }

    /// Returns the bytes to write to.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: `region::take` hands each range of a living region out once, and `&mut self` is the only way to write to it.
        unsafe { std::slice::from_raw_parts_mut(self.region.base().add(self.offset), self.len) }
    }
}

/// Regions by `mmap`, advised to be huge pages.
#[cfg(target_os = "linux")]
mod region {
    use std::ptr::{self, NonNull};
    use std::sync::{Arc, Mutex, PoisonError, Weak};

    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

    use crate::error::{KernelError, Result};

    /// A huge page of x86-64 and of most aarch64 kernels.
    const HUGE: usize = 2 << 20;
    /// Addresses that a region takes at least; memory is used only as it is written.
    const REGION: usize = 64 << 20;

    /// Memory that lives as long as one of its pieces does.
    pub(super) struct Region {
        mapping: NonNull<u8>,
        mapped: usize,
        base: NonNull<u8>,
        len: usize,
    }

    // SAFETY: the mapping belongs to no thread; pieces are exclusive.
    unsafe impl Send for Region {}
    // SAFETY: as above; a region itself offers only an address.
    unsafe impl Sync for Region {}

    /// The region that pieces are cut from, and how much of it is taken.
    static OPEN: Mutex<(Weak<Region>, usize)> = Mutex::new((Weak::new(), 0));

    impl Region {
        fn new(len: usize) -> Result<Region> {
            let no_memory = |reason: String| KernelError::Memory { bytes: len, reason };
            let too_many = || no_memory("more than can be addressed".to_owned());
            let len = len.checked_next_multiple_of(HUGE).ok_or_else(too_many)?;
            let mapped = len.checked_add(HUGE).ok_or_else(too_many)?;
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            // SAFETY: a new mapping at an address that the system chooses touches no other memory.
            let mapping = unsafe { mmap_anonymous(ptr::null_mut(), mapped, ProtFlags::READ | ProtFlags::WRITE, flags) };
            let mapping = mapping.map_err(|error| no_memory(error.to_string()))?;
            let mapping = NonNull::new(mapping.cast::<u8>()).ok_or_else(|| no_memory("no address".to_owned()))?;
            let shift = mapping.as_ptr().align_offset(HUGE).min(HUGE);
            // SAFETY: the mapping is longer than `len` by a huge page, so `shift + len` lies within it.
            let base = unsafe { mapping.add(shift) };
            // SAFETY: the range lies within the mapping just made; advice changes no content. Where it is refused, pages stay small.
            let _ = unsafe { madvise(base.as_ptr().cast(), len, Advice::LinuxHugepage) };
            Ok(Region {
                mapping,
                mapped,
                base,
                len,
            })
        }

        pub(super) fn base(&self) -> *mut u8 {
            self.base.as_ptr()
        }
    }

    impl Drop for Region {
        fn drop(&mut self) {
            // SAFETY: the mapping was made by `new` with this length, and no piece of it is left, for each holds the region.
            let _ = unsafe { munmap(self.mapping.as_ptr().cast(), self.mapped) };
        }
    }

    /// Cuts off a piece; `len` is a multiple of the alignment.
    pub(super) fn take(len: usize) -> Result<(Arc<Region>, usize)> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(region) = open.0.upgrade()
            && region.len - open.1 >= len
        {
            let offset = open.1;
            open.1 += len;
            return Ok((region, offset));
        }
        let region = Arc::new(Region::new(len.max(REGION))?);
        *open = (Arc::downgrade(&region), len);
        Ok((region, 0))
    }
}

/// Regions of one piece each, from the allocator.
#[cfg(not(target_os = "linux"))]
mod region {
    use std::cell::UnsafeCell;
    use std::sync::Arc;

    use crate::error::{KernelError, Result};
    use crate::format::ALIGNMENT;

    #[repr(C, align(64))]
    struct Line(UnsafeCell<[u8; ALIGNMENT]>);

    /// Memory of one piece.
    pub(super) struct Region(Vec<Line>);

    // SAFETY: the only piece is exclusive; a region itself offers only an address.
    unsafe impl Sync for Region {}

    impl Region {
        pub(super) fn base(&self) -> *mut u8 {
            self.0.as_ptr().cast_mut().cast()
        }
    }

    pub(super) fn take(len: usize) -> Result<(Arc<Region>, usize)> {
        let n_lines = len / ALIGNMENT;
        let mut lines = Vec::new();
        lines.try_reserve_exact(n_lines).map_err(|error| KernelError::Memory {
            bytes: len,
            reason: error.to_string(),
        })?;
        lines.extend((0..n_lines).map(|_| Line(UnsafeCell::new([0; ALIGNMENT]))));
        Ok((Arc::new(Region(lines)), 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Pieces are zero, aligned and apart from each other, also when regions end and begin.
    #[test]
    fn pieces_are_zero_aligned_and_exclusive() {
        let mut pieces: Vec<Buffer> = [1, 64, 65, 70 << 20, 0, 3_000_000]
            .into_iter()
            .map(|len| Buffer::zeroed(len).unwrap())
            .collect();
        for (index, piece) in pieces.iter_mut().enumerate() {
            assert_eq!(piece.as_slice().as_ptr().align_offset(ALIGNMENT), 0);
            let ends = [piece.as_slice().first().copied(), piece.as_slice().last().copied()];
            assert!(ends.iter().flatten().all(|byte| *byte == 0));
            let bytes = piece.as_mut_slice();
            if let [first, .., last] = bytes {
                (*first, *last) = (index as u8 + 1, index as u8 + 1);
            }
        }
        for (index, piece) in pieces.iter().enumerate().skip(1) {
            if let [first, .., last] = piece.as_slice() {
                assert_eq!((*first, *last), (index as u8 + 1, index as u8 + 1));
            }
        }
        assert!(Buffer::zeroed(usize::MAX).is_err());
    }

    /// Gathers what it sees.
    struct Seen {
        goes_on: bool,
        accepts: bool,
        bytes: Vec<u8>,
    }

    impl Watch for Seen {
        fn part(&mut self, part: &[u8]) -> bool {
            self.bytes.extend_from_slice(part);
            self.goes_on
        }

        fn accept(&mut self) -> bool {
            self.accepts
        }
    }

    // Clones change over together and at once, to bytes of ours that are equal; a copy that is ended or not accepted leaves everything as it was.
    #[test]
    fn lent_bytes_are_taken_over_once_and_for_all_clones() {
        let all: Arc<Vec<u8>> = Arc::new((0..9_000_000u32).map(|at| (at % 251) as u8).collect());
        let lent = Bytes::lent(all.clone(), 64..9_000_000).unwrap();
        let clone = lent.clone();
        let is_lent = |bytes: &Bytes| bytes.as_slice().as_ptr() == all[64..].as_ptr();
        let take = |goes_on, accepts| {
            let mut seen = Seen {
                goes_on,
                accepts,
                bytes: Vec::new(),
            };
            (lent.take_over(&mut seen).unwrap(), seen.bytes)
        };
        assert!(!take(false, true).0 && is_lent(&clone), "ended");
        assert!(!take(true, false).0 && is_lent(&clone), "refused");
        let before = clone.as_slice();
        let (is_taken, seen) = take(true, true);
        assert!(is_taken && !is_lent(&clone));
        assert!(seen == all[64..] && clone.as_slice() == seen && before == seen);
        assert_eq!(lent.as_slice().as_ptr(), clone.as_slice().as_ptr());
        assert_eq!(take(false, false), (true, Vec::new()), "nothing is left to copy");
    }
}
