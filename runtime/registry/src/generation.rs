//! A stamp that changes when the store does, cheap enough to ask for at every request.
//!
//! Our own writes change it at once. Writes of another program (an Ollama on the same store) are noticed by looking at the
//! manifests' times again, at most every [`RECHECK_MS`], and at most for [`RECHECK_SHARE`] of the time however large the store is.
//! Asking is a look at the clock and two atomic loads otherwise: 0.04 us on average with 100 models, looks included, where a
//! listing takes 2.3 ms (2 busy cores, unoptimised build, 2026-11; `--example listing`).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::layout::Layout;
use crate::list;

/// Half a second is what a person calls at once; this is half of that.
const RECHECK_MS: u64 = 250;

/// A look takes at most one part in this many of the time.
const RECHECK_SHARE: u64 = 20;

/// Who writes: `own` by every change of this process; the other three by whoever wins the exchange on `next_look_ms`.
#[derive(Debug)]
pub(crate) struct Generation {
    started: Instant,
    own: AtomicU64,
    seen: AtomicU64,
    outside: AtomicU64,
    next_look_ms: AtomicU64,
}

impl Generation {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            own: AtomicU64::new(1),
            seen: AtomicU64::new(0),
            outside: AtomicU64::new(0),
            next_look_ms: AtomicU64::new(0),
        }
    }

    /// Notes a change made by this process.
    pub(crate) fn bump(&self) {
        self.own.fetch_add(1, Ordering::Release);
    }

    /// Returns the stamp.
    pub(crate) fn current(&self, layout: &Layout) -> u64 {
        let now = self.now_ms();
        let next = self.next_look_ms.load(Ordering::Acquire);
        let is_mine = now >= next
            && self
                .next_look_ms
                .compare_exchange(next, u64::MAX, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        if is_mine {
            let stamp = stamp(layout);
            if self.seen.swap(stamp, Ordering::AcqRel) != stamp {
                self.outside.fetch_add(1, Ordering::Release);
            }
            let after = self.now_ms();
            let pause = RECHECK_MS.max((after - now).saturating_mul(RECHECK_SHARE));
            self.next_look_ms.store(after.saturating_add(pause), Ordering::Release);
        }
        // Both only grow, so their sum changes whenever either does.
        self.own
            .load(Ordering::Acquire)
            .wrapping_add(self.outside.load(Ordering::Acquire))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

fn stamp(layout: &Layout) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in list::walk(layout).files {
        file.relative_path.hash(&mut hasher);
        file.state.hash(&mut hasher);
    }
    if let Ok(blobs) = std::fs::metadata(&layout.blobs) {
        (blobs.mtime(), blobs.mtime_nsec()).hash(&mut hasher);
    }
    hasher.finish()
}
