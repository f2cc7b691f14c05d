//! Keys and values of a sequence, in pages.
//!
//! A page holds [`PAGE_TOKENS`] positions of every layer, so that memory grows with the sequence and sequences that begin alike can hold the same pages. Attention
//! sees a cache only through [`KvView`].
//!
//! | memory | layout | owner |
//! | --- | --- | --- |
//! | keys of a page | `[n_layers, n_kv_heads, head_dim, PAGE_TOKENS]` | whoever holds the page; the memory is the pool's |
//! | values of a page | `[n_layers, n_kv_heads, PAGE_TOKENS, head_dim]` | the same |
//!
//! Keys lie by number and then by position, so that a query's product with all keys of a page is a sum of whole vectors, as that of weights with values is.
//!
//! **Invariants:** positions `0..len()` of all layers are written; what lies behind them is never read. A page that two hold is never written to: the writer gets a
//! copy first.

mod numbers;
mod pool;

use std::sync::Arc;

pub use numbers::KvType;
use numbers::Order;
pub use pool::{KvPage, KvPool};

use crate::error::{ModelError, Result};

/// Positions in a page. 64 keeps the unused tail of a short chat below 2 % of a 4096-token context and a head's rows in one run.
pub const PAGE_TOKENS: usize = 64;

/// Shape of the caches of one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Layers.
    pub n_layers: usize,
    /// Heads that keep keys and values.
    pub n_kv_heads: usize,
    /// Numbers in a head's vector.
    pub head_dim: usize,
}

impl KvShape {
    /// Returns the bytes of keys and values of one position.
    pub fn bytes_per_token(&self, kind: KvType) -> usize {
        2 * self.n_layers * self.n_kv_heads * kind.vector_bytes(self.head_dim)
    }
}

/// Keys and values of one sequence.
#[derive(Debug)]
pub struct KvCache {
    pool: Arc<KvPool>,
    capacity_tokens: usize,
    n_tokens: usize,
    pages: Vec<KvPage>,
}

/// One layer of a cache, as attention reads it.
pub struct KvView<'a> {
    cache: &'a KvCache,
    layer: usize,
    n_tokens: usize,
}

/// Room for a page of one head, decoded.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Returns room for `len` numbers, on whole cache lines: a vector of 64 bytes that lies across two takes two reads.
fn aligned(room: &mut Vec<f32>, len: usize) -> &mut [f32] {
    const LINE: usize = 64;
    let slack = LINE / size_of::<f32>();
    room.resize(len + slack, 0.0);
    let start = room.as_ptr().align_offset(LINE).min(slack);
    &mut room[start..start + len]
}

impl KvCache {
    /// Makes an empty cache for up to `capacity_tokens` positions, with a pool of its own. Allocates nothing yet.
    pub fn new(shape: KvShape, kind: KvType, capacity_tokens: usize) -> Self {
        KvPool::new(shape, kind, capacity_tokens.div_ceil(PAGE_TOKENS)).cache(capacity_tokens)
    }

    /// Returns the number of positions written.
    pub fn len(&self) -> usize {
        self.n_tokens
    }

    /// Returns whether nothing is written yet.
    pub fn is_empty(&self) -> bool {
        self.n_tokens == 0
    }

    /// Returns the number of positions that fit.
    pub fn capacity(&self) -> usize {
        self.capacity_tokens
    }

    /// Returns the shape.
    pub fn shape(&self) -> KvShape {
        self.pool.shape()
    }

    /// Returns its pages, in order; the last may hold less than it can.
    pub fn pages(&self) -> &[KvPage] {
        &self.pages
    }

    /// Returns the pages that writing `n_new` more positions takes from the pool, copies of shared pages included.
    pub fn pages_wanted(&self, n_new: usize) -> usize {
        let more = (self.n_tokens + n_new)
            .div_ceil(PAGE_TOKENS)
            .saturating_sub(self.pages.len());
        more + usize::from(n_new > 0 && self.shared_tail().is_some())
    }

    /// Forgets every position from `n_tokens` on and lets go of pages that hold none.
    pub fn truncate(&mut self, n_tokens: usize) {
        self.n_tokens = self.n_tokens.min(n_tokens);
        self.pages.truncate(self.n_tokens.div_ceil(PAGE_TOKENS));
    }

    /// Returns the bytes of the pages held now.
    pub fn resident_bytes(&self) -> usize {
        self.pages.len() * self.pool.page_bytes()
    }

    /// Returns the page that the next position goes to, if others hold it too.
    fn shared_tail(&self) -> Option<usize> {
        let index = self.n_tokens / PAGE_TOKENS;
        self.pages.get(index).is_some_and(KvPage::is_shared).then_some(index)
    }

    /// Makes room for `n_new` positions after the last one, on pages that nobody else holds.
    pub(crate) fn reserve(&mut self, n_new: usize) -> Result<()> {
        let wanted = self.n_tokens.saturating_add(n_new);
        if wanted > self.capacity_tokens {
            return Err(ModelError::ContextFull {
                wanted,
                capacity: self.capacity_tokens,
            });
        }
        if let Some(index) = self.shared_tail() {
            self.pages[index] = self.pool.copy(&self.pages[index])?;
        }
        while self.pages.len() * PAGE_TOKENS < wanted {
            self.pages.push(self.pool.take()?);
        }
        Ok(())
    }

    /// Writes one layer's keys and values, `[n_new, n_kv_heads, head_dim]` f32 each, behind the last position.
    /// They count once [`KvCache::commit`] is called. Needs [`KvCache::reserve`] first.
    ///
    /// # Panics
    /// Without that.
    pub(crate) fn write(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        let KvShape {
            n_kv_heads, head_dim, ..
        } = self.pool.shape();
        let row = n_kv_heads * head_dim;
        assert_eq!(keys.len(), values.len(), "a key for each value");
        for (index, (key, value)) in keys.chunks_exact(row).zip(values.chunks_exact(row)).enumerate() {
            let position = self.n_tokens + index;
            let page = self.pages[position / PAGE_TOKENS].exclusive();
            let Some(page) = page else {
                panic!("position {position} is written without being reserved");
            };
            let token = position % PAGE_TOKENS;
            let heads = key.chunks_exact(head_dim).zip(value.chunks_exact(head_dim));
            for (head, (key, value)) in heads.enumerate() {
                let place = layer * n_kv_heads + head;
                page.keys.put(place, Order::ByNumber, token, key);
                page.values.put(place, Order::ByToken, token, value);
            }
        }
    }

    /// Counts `n_new` positions that every layer has written.
    pub(crate) fn commit(&mut self, n_new: usize) {
        self.n_tokens += n_new;
    }

    /// Returns a layer, with `n_pending` positions that this layer has written and that are not committed.
    pub(crate) fn view(&self, layer: usize, n_pending: usize) -> KvView<'_> {
        KvView {
            cache: self,
            layer,
            n_tokens: self.n_tokens + n_pending,
        }
    }
}

impl KvView<'_> {
    /// Returns the number of positions that may be read.
    pub fn len(&self) -> usize {
        self.n_tokens
    }

    /// Returns whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.n_tokens == 0
    }

    /// Returns a page of a head: keys `[head_dim, PAGE_TOKENS]` and values `[PAGE_TOKENS, head_dim]`, of which the positions before `len()` mean something.
    /// Decoded into `scratch` where they are not f32.
    pub(crate) fn page<'a>(&'a self, head: usize, index: usize, scratch: &'a mut Scratch) -> (&'a [f32], &'a [f32]) {
        let KvShape {
            n_kv_heads, head_dim, ..
        } = self.cache.pool.shape();
        let place = self.layer * n_kv_heads + head;
        let Some(page) = self.cache.pages[index].page() else {
            return (&[], &[]);
        };
        (
            page.keys.place(place, Order::ByNumber, head_dim, &mut scratch.keys),
            page.values.place(place, Order::ByToken, head_dim, &mut scratch.values),
        )
    }
}
