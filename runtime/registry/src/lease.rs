//! Leases: blobs that somebody uses although no manifest may name them. gc asks here, under the same mutex as it removes.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::digest::Digest;

/// How many leases each blob has. Lives as long as the process; leases do not survive it.
#[derive(Debug, Default)]
pub(crate) struct LeaseTable {
    counts: Mutex<HashMap<Digest, usize>>,
}

impl LeaseTable {
    pub(crate) fn lease(self: &Arc<Self>, digests: impl IntoIterator<Item = Digest>) -> Lease {
        let digests: Vec<Digest> = digests.into_iter().collect();
        let mut counts = self.counts();
        for digest in &digests {
            *counts.entry(*digest).or_insert(0) += 1;
        }
        drop(counts);
        Lease {
            table: Arc::clone(self),
            digests,
        }
    }

    pub(crate) fn leased(&self) -> BTreeSet<Digest> {
        self.counts().keys().copied().collect()
    }

    /// Runs `remove` unless the blob is leased. Nobody can take a lease meanwhile, so a lease that is granted afterwards and then
    /// looks for the blob sees the truth.
    pub(crate) fn unless_leased<T>(&self, digest: &Digest, remove: impl FnOnce() -> T) -> Option<T> {
        let counts = self.counts();
        let is_free = !counts.contains_key(digest);
        let result = is_free.then(remove);
        drop(counts);
        result
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        // The table is whole after every statement, so a panic elsewhere does not make it wrong.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps gc from removing some blobs while it lives. It promises nothing about blobs that were not there when it was taken.
#[derive(Debug)]
pub struct Lease {
    table: Arc<LeaseTable>,
    digests: Vec<Digest>,
}

impl Lease {
    /// Returns what is leased.
    pub fn digests(&self) -> &[Digest] {
        &self.digests
    }
}

impl Clone for Lease {
    fn clone(&self) -> Self {
        self.table.lease(self.digests.iter().copied())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut counts = self.table.counts();
        for digest in &self.digests {
            if let Some(count) = counts.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(digest);
                }
            }
        }
    }
}
