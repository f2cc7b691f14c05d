//! Keys and values of a sequence, in pages.
//!
//! A page holds [`PAGE_TOKENS`] positions of every layer, so that memory grows with the sequence and a later engine can share or swap
//! whole pages. Attention sees a cache only through [`KvView`].
//!
//! | memory | layout | owner |
//! | --- | --- | --- |
//! | `Page::keys` | `[n_layers, n_kv_heads, head_dim, PAGE_TOKENS]` f32 | the cache that pushed the page |
//! | `Page::values` | `[n_layers, n_kv_heads, PAGE_TOKENS, head_dim]` f32 | the same |
//!
//! Keys lie by number and then by position, so that a query's product with all keys of a page is a sum of whole vectors, as that of weights with values is.
//!
//! **Invariant:** positions `0..len()` of all layers are written; what lies behind them is never read.

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
    pub fn bytes_per_token(&self) -> usize {
        2 * self.n_layers * self.n_kv_heads * self.head_dim * size_of::<f32>()
    }

    fn page_numbers(&self) -> usize {
        self.n_layers * self.n_kv_heads * PAGE_TOKENS * self.head_dim
    }
}

#[derive(Debug)]
struct Page {
    keys: Box<[f32]>,
    values: Box<[f32]>,
}

/// Keys and values of one sequence.
#[derive(Debug)]
pub struct KvCache {
    shape: KvShape,
    capacity_tokens: usize,
    n_tokens: usize,
    pages: Vec<Page>,
}

/// One layer of a cache, as attention reads it.
pub struct KvView<'a> {
    cache: &'a KvCache,
    layer: usize,
    n_tokens: usize,
}

impl KvCache {
    /// Makes an empty cache for up to `capacity_tokens` positions. Allocates nothing yet.
    pub fn new(shape: KvShape, capacity_tokens: usize) -> Self {
        Self {
            shape,
            capacity_tokens,
            n_tokens: 0,
            pages: Vec::new(),
        }
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
        self.shape
    }

    /// Forgets every position from `n_tokens` on and frees pages that hold none.
    pub fn truncate(&mut self, n_tokens: usize) {
        self.n_tokens = self.n_tokens.min(n_tokens);
        self.pages.truncate(self.n_tokens.div_ceil(PAGE_TOKENS));
    }

    /// Returns the bytes of the pages held now.
    pub fn resident_bytes(&self) -> usize {
        self.pages.len() * self.shape.page_numbers() * 2 * size_of::<f32>()
    }

    /// Makes room for `n_new` positions after the last one.
    pub(crate) fn reserve(&mut self, n_new: usize) -> Result<()> {
        let wanted = self.n_tokens.saturating_add(n_new);
        if wanted > self.capacity_tokens {
            return Err(ModelError::ContextFull {
                wanted,
                capacity: self.capacity_tokens,
            });
        }
        let numbers = self.shape.page_numbers();
        while self.pages.len() * PAGE_TOKENS < wanted {
            self.pages.push(Page {
                keys: vec![0.0; numbers].into(),
                values: vec![0.0; numbers].into(),
            });
        }
        Ok(())
    }

    /// Writes one layer's keys and values, `[n_new, n_kv_heads, head_dim]` f32 each, behind the last position.
    /// They count once [`KvCache::commit`] is called. Needs [`KvCache::reserve`] first.
    pub(crate) fn write(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        let KvShape {
            n_kv_heads, head_dim, ..
        } = self.shape;
        let row = n_kv_heads * head_dim;
        assert_eq!(keys.len(), values.len(), "a key for each value");
        for (index, (key, value)) in keys.chunks_exact(row).zip(values.chunks_exact(row)).enumerate() {
            let position = self.n_tokens + index;
            let page = &mut self.pages[position / PAGE_TOKENS];
            let place = position % PAGE_TOKENS;
            for head in 0..n_kv_heads {
                let head_at = (layer * n_kv_heads + head) * PAGE_TOKENS * head_dim;
                let numbers = head * head_dim..(head + 1) * head_dim;
                let column = page.keys[head_at + place..].iter_mut().step_by(PAGE_TOKENS);
                for (slot, number) in column.zip(&key[numbers.clone()]) {
                    *slot = *number;
                }
                let at = head_at + place * head_dim;
                page.values[at..at + head_dim].copy_from_slice(&value[numbers]);
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
    pub(crate) fn page(&self, head: usize, index: usize) -> (&[f32], &[f32]) {
        let KvShape {
            n_kv_heads, head_dim, ..
        } = self.cache.shape;
        let numbers = PAGE_TOKENS * head_dim;
        let at = (self.layer * n_kv_heads + head) * numbers;
        let page = &self.cache.pages[index];
        (&page.keys[at..at + numbers], &page.values[at..at + numbers])
    }
}
