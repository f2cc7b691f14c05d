//! Which pages of keys and values hold the beginning of a text: a radix tree over tokens, a page a node.
//!
//! Source: the idea is RadixAttention's (Zheng et al. 2024, SGLang); here nodes are pages, so that what is shared is what the cache lends.
//!
//! A node is a page and the tokens of its positions. A full page may have nodes that follow it; one that is not full has none, and gives way to a longer one of the
//! same beginning. A text that leaves a page in its middle still takes that page: the positions before the fork hold what it needs, and whoever writes behind them
//! gets a copy. Keys are whose pages they are (a base alone, a base with one adapter): what one computed is never another's.
//!
//! Cost: a search compares each token of the text once and, at a fork, the first tokens of those that follow.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Pages by the texts that they hold. `P` is a handle; cloning it holds the page.
#[derive(Debug)]
pub struct PrefixTree<P> {
    page_tokens: usize,
    nodes: Vec<Option<Node<P>>>,
    /// Places of `nodes` that are empty.
    vacant: Vec<usize>,
    /// The first pages of each key.
    roots: BTreeMap<u64, Vec<usize>>,
    /// Counts uses, to tell which is longest ago.
    time: u64,
}

#[derive(Debug)]
struct Node<P> {
    tokens: Box<[u32]>,
    page: P,
    key: u64,
    parent: Option<usize>,
    followers: Vec<usize>,
    used: u64,
}

/// Pages that hold the beginning of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<P> {
    /// In order. Of the last one, only the positions before `n_tokens` are the text's.
    pub pages: Vec<P>,
    /// Tokens of the text that they hold.
    pub n_tokens: usize,
}

impl<P: Clone> PrefixTree<P> {
    /// Makes an empty tree of pages of so many positions, at least 1.
    pub fn new(page_tokens: usize) -> PrefixTree<P> {
        PrefixTree {
            page_tokens: page_tokens.max(1),
            nodes: Vec::new(),
            vacant: Vec::new(),
            roots: BTreeMap::new(),
            time: 0,
        }
    }

    /// Returns the number of pages held.
    pub fn len(&self) -> usize {
        self.nodes.len() - self.vacant.len()
    }

    /// Says whether no page is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the pages held, in no order.
    pub fn pages(&self) -> impl Iterator<Item = &P> {
        self.nodes.iter().flatten().map(|node| &node.page)
    }

    /// Returns the pages of the longest beginning of `tokens` that is known, and counts them as used.
    pub fn find(&mut self, key: u64, tokens: &[u32]) -> Found<P> {
        self.time += 1;
        let (path, n_tokens) = self.path(key, tokens);
        let mut pages = Vec::with_capacity(path.len());
        for index in path {
            if let Some(node) = &mut self.nodes[index] {
                node.used = self.time;
                pages.push(node.page.clone());
            }
        }
        Found { pages, n_tokens }
    }

    /// Returns how many tokens [`PrefixTree::find`] would find.
    pub fn n_known(&self, key: u64, tokens: &[u32]) -> usize {
        self.path(key, tokens).1
    }

    /// Returns the nodes of the longest beginning of `tokens`, and how long that is.
    fn path(&self, key: u64, tokens: &[u32]) -> (Vec<usize>, usize) {
        let (mut path, mut n_tokens) = (Vec::new(), 0);
        while let Some((next, common)) = self.best(key, path.last().copied(), &tokens[n_tokens..]) {
            path.push(next);
            n_tokens += common;
            if common < self.page_tokens {
                break;
            }
        }
        (path, n_tokens)
    }

    /// Holds the pages of a text: `pages[i]` has the tokens from `i * page_tokens` on. Where the text is known already, the pages that are held stay.
    pub fn insert(&mut self, key: u64, tokens: &[u32], pages: &[P]) {
        self.time += 1;
        let mut at = None;
        for (tokens, page) in tokens.chunks(self.page_tokens).zip(pages) {
            at = match self.best(key, at, tokens) {
                Some((next, common)) if common == tokens.len() => {
                    // Known, and perhaps longer.
                    self.touch(next);
                    Some(next)
                }
                Some((next, common))
                    if self.nodes[next]
                        .as_ref()
                        .is_some_and(|node| node.tokens.len() == common) =>
                {
                    // A page that was not full, and begins this one.
                    if let Some(node) = &mut self.nodes[next] {
                        node.tokens = tokens.into();
                        node.page = page.clone();
                        node.used = self.time;
                    }
                    Some(next)
                }
                _ => Some(self.add(key, at, tokens, page)),
            };
            if tokens.len() < self.page_tokens {
                break;
            }
        }
    }

    /// Lets go of pages that only the tree holds, the longest unused first, until `wanted` have been let go. Returns how many were.
    pub fn evict(&mut self, wanted: usize, is_shared: impl Fn(&P) -> bool) -> usize {
        let leaf = |tree: &Self, index: usize| {
            let node = tree.nodes[index].as_ref()?;
            (node.followers.is_empty() && !is_shared(&node.page)).then_some(Reverse((node.used, index)))
        };
        let mut oldest: BinaryHeap<_> = (0..self.nodes.len()).filter_map(|index| leaf(self, index)).collect();
        let mut n_evicted = 0;
        while n_evicted < wanted
            && let Some(Reverse((_, index))) = oldest.pop()
        {
            let parent = self.remove(index);
            n_evicted += 1;
            oldest.extend(parent.and_then(|parent| leaf(self, parent)));
        }
        n_evicted
    }

    /// Lets go of all pages of a key.
    pub fn forget(&mut self, key: u64) {
        let mut left = self.roots.remove(&key).unwrap_or_default();
        while let Some(index) = left.pop() {
            if let Some(node) = self.nodes[index].take() {
                left.extend(node.followers);
                self.vacant.push(index);
            }
        }
    }

    /// Visits each text that ends in a page which none follows: its key, its tokens, its pages, and when it was used, in the order of that number.
    pub fn for_each(&self, mut visit: impl FnMut(u64, &[u32], &[P])) {
        let mut leaves: Vec<(u64, usize)> = (0..self.nodes.len())
            .filter_map(|index| {
                let node = self.nodes[index].as_ref()?;
                node.followers.is_empty().then_some((node.used, index))
            })
            .collect();
        leaves.sort_unstable();
        for (_, leaf) in leaves {
            let (mut path, mut at) = (Vec::new(), Some(leaf));
            while let Some(node) = at.and_then(|index| self.nodes[index].as_ref()) {
                path.push(node);
                at = node.parent;
            }
            path.reverse();
            let tokens: Vec<u32> = path.iter().flat_map(|node| &node.tokens).copied().collect();
            let pages: Vec<P> = path.iter().map(|node| node.page.clone()).collect();
            if let Some(node) = path.first() {
                visit(node.key, &tokens, &pages);
            }
        }
    }

    /// Returns what is wrong with the tree's own account, if anything is: for an engine that looks over its books when it has nothing to do.
    pub fn fault(&self) -> Option<String> {
        let mut n_seen = 0;
        let mut left: Vec<(Option<usize>, u64, usize)> = Vec::new();
        for (key, roots) in &self.roots {
            left.extend(roots.iter().map(|&index| (None, *key, index)));
        }
        while let Some((parent, key, index)) = left.pop() {
            let Some(node) = self.nodes.get(index).and_then(Option::as_ref) else {
                return Some(format!("node {index} is named and gone"));
            };
            if node.parent != parent || node.key != key {
                return Some(format!("node {index} is not where it says"));
            }
            let is_full = node.tokens.len() == self.page_tokens;
            if node.tokens.is_empty() || node.tokens.len() > self.page_tokens || !(is_full || node.followers.is_empty())
            {
                return Some(format!("node {index} holds {} tokens", node.tokens.len()));
            }
            n_seen += 1;
            left.extend(node.followers.iter().map(|&follower| (Some(index), key, follower)));
        }
        (n_seen != self.len()).then(|| format!("{n_seen} of {} nodes can be reached", self.len()))
    }

    /// Returns what follows `parent` and has the most tokens in common with the beginning of `tokens`, at least one; of equals the longest.
    fn best(&self, key: u64, parent: Option<usize>, tokens: &[u32]) -> Option<(usize, usize)> {
        let followers = match parent {
            Some(parent) => &self.nodes[parent].as_ref()?.followers,
            None => self.roots.get(&key)?,
        };
        let candidates = followers.iter().filter_map(|&index| {
            let node = self.nodes[index].as_ref()?;
            let common = node.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
            (common > 0).then_some((common, node.tokens.len(), index))
        });
        candidates.max().map(|(common, _, index)| (index, common))
    }

    fn touch(&mut self, index: usize) {
        if let Some(node) = &mut self.nodes[index] {
            node.used = self.time;
        }
    }

    fn add(&mut self, key: u64, parent: Option<usize>, tokens: &[u32], page: &P) -> usize {
        let node = Some(Node {
            tokens: tokens.into(),
            page: page.clone(),
            key,
            parent,
            followers: Vec::new(),
            used: self.time,
        });
        let index = match self.vacant.pop() {
            Some(index) => {
                self.nodes[index] = node;
                index
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        self.siblings(key, parent).push(index);
        index
    }

    /// Removes a node that none follows and returns what it followed.
    fn remove(&mut self, index: usize) -> Option<usize> {
        let node = self.nodes[index].take()?;
        self.vacant.push(index);
        self.siblings(node.key, node.parent).retain(|&other| other != index);
        if self.roots.get(&node.key).is_some_and(Vec::is_empty) {
            self.roots.remove(&node.key);
        }
        node.parent
    }

    /// Returns the list that the followers of `parent` are in.
    fn siblings(&mut self, key: u64, parent: Option<usize>) -> &mut Vec<usize> {
        match parent.and_then(|parent| self.nodes[parent].as_mut()) {
            Some(node) => &mut node.followers,
            None => self.roots.entry(key).or_default(),
        }
    }
}

#[cfg(test)]
mod tests;
