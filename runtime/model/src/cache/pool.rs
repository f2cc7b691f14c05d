//! Where pages come from and go back to: a fixed number of them, shared by the sequences of a model.
//!
//! A page is lent until its last holder lets go, so that sequences which begin alike hold the same pages. Memory of a page that came back is used again; none is
//! touched before the first page needs it.
//!
//! **Invariant:** `n_lent()` pages have holders, never more than it was made for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::numbers::{KvType, Numbers};
use super::{KvCache, KvShape, PAGE_TOKENS};
use crate::error::{ModelError, Result};

/// Pages for the caches of one model.
#[derive(Debug)]
pub struct KvPool {
    shape: KvShape,
    kind: KvType,
    max_pages: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    n_lent: usize,
    returned: Vec<Page>,
}

/// Memory of a page.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) keys: Numbers,
    pub(super) values: Numbers,
}

/// A page that somebody holds. Clones hold the same page.
#[derive(Clone, Debug)]
pub struct KvPage(Arc<Lent>);

/// Goes back to its pool when it is dropped.
#[derive(Debug)]
struct Lent {
    /// Nothing only while it is dropped.
    page: Option<Page>,
    pool: Arc<KvPool>,
}

impl KvPool {
    /// Makes a pool of up to `max_pages` pages. Allocates nothing yet.
    pub fn new(shape: KvShape, kind: KvType, max_pages: usize) -> Arc<KvPool> {
        Arc::new(KvPool {
            shape,
            kind,
            max_pages,
            state: Mutex::default(),
        })
    }

    /// Makes an empty cache for up to `capacity_tokens` positions.
    pub fn cache(self: &Arc<Self>, capacity_tokens: usize) -> KvCache {
        self.resume(Vec::new(), 0, capacity_tokens)
    }

    /// Makes a cache that begins with `n_tokens` positions of pages of this pool, which others may hold too: whoever writes to such a page gets a copy.
    pub fn resume(self: &Arc<Self>, mut pages: Vec<KvPage>, n_tokens: usize, capacity_tokens: usize) -> KvCache {
        pages.retain(|page| Arc::ptr_eq(&page.0.pool, self));
        let n_tokens = n_tokens.min(pages.len() * PAGE_TOKENS).min(capacity_tokens);
        pages.truncate(n_tokens.div_ceil(PAGE_TOKENS));
        KvCache {
            pool: Arc::clone(self),
            capacity_tokens,
            n_tokens,
            pages,
        }
    }

    /// Returns the shape of its pages.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Returns how numbers are stored.
    pub fn kind(&self) -> KvType {
        self.kind
    }

    /// Returns the number of pages that somebody holds.
    pub fn n_lent(&self) -> usize {
        self.state().n_lent
    }

    /// Returns the number of pages that can still be had.
    pub fn n_free(&self) -> usize {
        self.max_pages - self.n_lent()
    }

    /// Returns the bytes of a page.
    pub fn page_bytes(&self) -> usize {
        PAGE_TOKENS * self.shape.bytes_per_token(self.kind)
    }

    /// Lends a page that holds what [`KvPage::to_bytes`] gave, of a pool of the same shape and type.
    ///
    /// # Errors
    /// There are more or fewer bytes than a page has, or no page is left.
    pub fn read(self: &Arc<Self>, bytes: &[u8]) -> Result<KvPage> {
        let mut page = self.take()?;
        let rest = page.exclusive().and_then(|page| {
            let rest = page.keys.read(bytes)?;
            page.values.read(rest)
        });
        match rest {
            Some([]) => Ok(page),
            _ => Err(ModelError::Batch("a page of another length")),
        }
    }

    /// Lends a page; what it holds means nothing.
    pub(super) fn take(self: &Arc<Self>) -> Result<KvPage> {
        let returned = {
            let mut state = self.state();
            if state.n_lent >= self.max_pages {
                return Err(ModelError::NoPages { max: self.max_pages });
            }
            state.n_lent += 1;
            state.returned.pop()
        };
        let page = returned.unwrap_or_else(|| Page {
            keys: Numbers::new(self.kind, self.shape),
            values: Numbers::new(self.kind, self.shape),
        });
        Ok(KvPage(Arc::new(Lent {
            page: Some(page),
            pool: Arc::clone(self),
        })))
    }

    /// Lends a page that holds what another does.
    pub(super) fn copy(self: &Arc<Self>, other: &KvPage) -> Result<KvPage> {
        let mut page = self.take()?;
        if let (Some(to), Some(from)) = (page.exclusive(), other.page()) {
            to.keys.copy_from(&from.keys);
            to.values.copy_from(&from.values);
        }
        Ok(page)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KvPage {
    /// Says whether somebody else holds this page too.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Returns a number that no other page has while somebody holds this one.
    pub fn id(&self) -> u64 {
        Arc::as_ptr(&self.0).addr() as u64
    }

    /// Returns what it holds, to be kept elsewhere.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.pool.page_bytes());
        if let Some(page) = self.page() {
            page.keys.write(&mut bytes);
            page.values.write(&mut bytes);
        }
        bytes
    }

    pub(super) fn page(&self) -> Option<&Page> {
        self.0.page.as_ref()
    }

    /// Returns the page to write to, if nobody else holds it.
    pub(super) fn exclusive(&mut self) -> Option<&mut Page> {
        Arc::get_mut(&mut self.0)?.page.as_mut()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        state.n_lent -= 1;
        state.returned.extend(self.page.take());
    }
}
