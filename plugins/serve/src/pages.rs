//! Keys and values of all sequences of a model: pages of one pool, and which of them hold the beginnings that were computed before.
//!
//! A page is held by the sequences that run on it and by the tree of beginnings; when the pool is used up, what only the tree holds goes, the longest unused first.
//!
//! **Invariant:** keys and values are found again only under the key that they were computed with (a base, or a base with one adapter), and only as far as the tokens
//! before them are the same. So a sequence that begins with found pages says what it would have said alone.

use std::sync::Arc;

use witness_batching::PrefixTree;
use witness_model::{KvCache, KvPage, KvPool, PAGE_TOKENS};

/// Under which keys and values are found again: 0 is the base alone, other numbers are adapters.
pub(crate) type PrefixKey = u64;

/// Pages and what they hold.
pub(crate) struct Pages {
    pool: Arc<KvPool>,
    tree: PrefixTree<KvPage>,
}

impl Pages {
    pub(crate) fn new(pool: Arc<KvPool>) -> Pages {
        Pages {
            pool,
            tree: PrefixTree::new(PAGE_TOKENS),
        }
    }

    /// Makes a cache that begins with what is known of `tokens`. At least the last token is left to run, since its logits are wanted.
    pub(crate) fn begin(&mut self, key: PrefixKey, tokens: &[u32], capacity_tokens: usize) -> KvCache {
        let found = self.tree.find(key, &tokens[..tokens.len().saturating_sub(1)]);
        self.pool.resume(found.pages, found.n_tokens, capacity_tokens)
    }

    /// Returns how much of `tokens` is known.
    pub(crate) fn n_known(&self, key: PrefixKey, tokens: &[u32]) -> usize {
        self.tree.n_known(key, &tokens[..tokens.len().saturating_sub(1)])
    }

    /// Keeps what a cache holds of `tokens` for others that begin the same.
    pub(crate) fn keep(&mut self, key: PrefixKey, tokens: &[u32], cache: &KvCache) {
        let n_tokens = cache.len().min(tokens.len());
        self.tree.insert(key, &tokens[..n_tokens], cache.pages());
    }

    /// Lets go of kept pages until `wanted` are free. Says whether they are.
    pub(crate) fn make_room(&mut self, wanted: usize) -> bool {
        let n_free = self.pool.n_free();
        if wanted > n_free {
            self.tree.evict(wanted - n_free, KvPage::is_shared);
        }
        self.pool.n_free() >= wanted
    }

    /// Takes back the pages of `tokens` that were kept on disk, if there is room for all of them. `bytes_of` returns what a page held.
    ///
    /// # Errors
    /// A page cannot be read; nothing is taken then.
    pub(crate) fn take_back(
        &mut self,
        key: PrefixKey,
        tokens: &[u32],
        n_pages: usize,
        bytes_of: impl Fn(usize) -> std::io::Result<Vec<u8>>,
    ) -> std::io::Result<()> {
        // Asked first, so that nothing is let go in vain.
        if n_pages > self.n_available() || !self.make_room(n_pages) {
            return Ok(());
        }
        let pages = (0..n_pages).map(|index| {
            let page = self.pool.read(&bytes_of(index)?);
            page.map_err(std::io::Error::other)
        });
        let pages = pages.collect::<std::io::Result<Vec<KvPage>>>()?;
        self.tree.insert(key, tokens, &pages);
        Ok(())
    }

    /// Returns the texts that are known, the one that was used last first, with their pages.
    pub(crate) fn texts(&self) -> Vec<(PrefixKey, Vec<u32>, Vec<KvPage>)> {
        let mut texts = Vec::new();
        self.tree
            .for_each(|key, tokens, pages| texts.push((key, tokens.to_vec(), pages.to_vec())));
        texts.reverse();
        texts
    }

    /// Returns the pool.
    pub(crate) fn pool(&self) -> &KvPool {
        &self.pool
    }

    /// Returns the pages that can be had when all that is only kept is let go.
    pub(crate) fn n_available(&self) -> usize {
        self.pool.n_free() + self.tree.pages().filter(|page| !page.is_shared()).count()
    }

    /// Forgets what was computed with an adapter.
    pub(crate) fn forget(&mut self, key: PrefixKey) {
        self.tree.forget(key);
    }

    /// Returns what is wrong with the account of pages while no sequence holds any, if anything is.
    pub(crate) fn fault(&self) -> Option<String> {
        let (n_lent, n_kept) = (self.pool.n_lent(), self.tree.len());
        let lost = (n_lent != n_kept).then(|| format!("{n_lent} pages are held and {n_kept} are known"));
        lost.or_else(|| self.tree.fault())
    }
}
