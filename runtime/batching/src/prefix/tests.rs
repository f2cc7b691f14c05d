//! The tree against lists of texts.

use std::rc::Rc;

use super::*;

/// A page that says which text it was made for.
type Page = Rc<Vec<u32>>;

const PAGE: usize = 4;

fn pages(tokens: &[u32]) -> Vec<Page> {
    tokens
        .chunks(PAGE)
        .enumerate()
        .map(|(index, chunk)| Rc::new(tokens[..index * PAGE + chunk.len()].to_vec()))
        .collect()
}

/// Checks that what was found holds the beginning of the text that it says.
fn check(found: &Found<Page>, tokens: &[u32]) {
    assert_eq!(found.pages.len(), found.n_tokens.div_ceil(PAGE));
    for (index, page) in found.pages.iter().enumerate() {
        let end = found.n_tokens.min((index + 1) * PAGE);
        assert_eq!(
            page[..end],
            tokens[..end],
            "the page holds what the text says, from its beginning on"
        );
    }
}

#[test]
fn a_text_is_found_by_its_beginning() {
    let mut tree = PrefixTree::new(PAGE);
    let text: Vec<u32> = (0..10).collect();
    tree.insert(7, &text, &pages(&text));
    assert_eq!(tree.len(), 3);
    for (asked, expected) in [
        (vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], 10),
        (vec![0, 1, 2, 3, 4, 5, 6, 7, 8], 9),
        (vec![0, 1, 2, 3, 4, 5, 99], 6),
        (vec![0, 1, 99], 2),
        (vec![99], 0),
        (vec![], 0),
    ] {
        let found = tree.find(7, &asked);
        assert_eq!(found.n_tokens, expected, "{asked:?}");
        check(&found, &asked);
    }
    assert_eq!(tree.find(8, &text).n_tokens, 0, "another key");
}

// A page that was not full gives way to a longer one, and a shorter one changes nothing.
#[test]
fn a_page_grows() {
    let mut tree = PrefixTree::new(PAGE);
    tree.insert(0, &[1, 2], &pages(&[1, 2]));
    tree.insert(0, &[1, 2, 3, 4, 5], &pages(&[1, 2, 3, 4, 5]));
    assert_eq!(tree.len(), 2);
    tree.insert(0, &[1, 2, 3], &pages(&[1, 2, 3]));
    assert_eq!(tree.len(), 2);
    assert_eq!(tree.find(0, &[1, 2, 3, 4, 5, 6]).n_tokens, 5);
    // A fork within a page stands beside it.
    tree.insert(0, &[1, 2, 9, 9, 9], &pages(&[1, 2, 9, 9, 9]));
    assert_eq!(tree.len(), 4);
    assert_eq!(tree.fault(), None);
}

#[test]
fn the_longest_unused_goes_first_and_what_is_held_stays() {
    let mut tree = PrefixTree::new(PAGE);
    let (a, b) = ([1, 1, 1, 1, 2, 2], [3, 3, 3, 3]);
    tree.insert(0, &a, &pages(&a));
    tree.insert(0, &b, &pages(&b));
    let is_shared = |page: &Page| Rc::strong_count(page) > 1;
    tree.find(0, &a);
    // `b` is older now; then the end of `a`, then its beginning.
    assert_eq!(tree.evict(1, is_shared), 1);
    assert_eq!((tree.find(0, &b).n_tokens, tree.find(0, &a).n_tokens), (0, 6));
    let held = tree.find(0, &a[..4]);
    assert_eq!(tree.evict(5, is_shared), 1, "the first page of `a` is held");
    drop(held);
    assert_eq!(tree.evict(5, is_shared), 1);
    assert!(tree.is_empty());
    assert_eq!(tree.fault(), None);
}

/// The longest beginning of `tokens` that any of the texts has.
fn longest(texts: &[(u64, Vec<u32>)], key: u64, tokens: &[u32]) -> usize {
    let common = |text: &[u32]| text.iter().zip(tokens).take_while(|(a, b)| a == b).count();
    let of_key = texts.iter().filter(|(other, _)| *other == key);
    of_key.map(|(_, text)| common(text)).max().unwrap_or(0)
}

// Random texts of few tokens, so that they fork everywhere: what is found is as long as the longest common beginning, until something is evicted; after that it is
// still right, and never longer.
#[test]
fn it_finds_what_a_list_would() {
    let mut state = 3u64;
    let mut next = move |n: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    for round in 0..60 {
        let mut tree = PrefixTree::new(PAGE);
        let mut texts: Vec<(u64, Vec<u32>)> = Vec::new();
        let mut has_evicted = false;
        for _ in 0..120 {
            let (key, len) = (next(2), next(14));
            let tokens: Vec<u32> = (0..len).map(|_| next(2) as u32).collect();
            let n_known = tree.n_known(key, &tokens);
            let found = tree.find(key, &tokens);
            check(&found, &tokens);
            assert_eq!(found.n_tokens, n_known);
            let expected = longest(&texts, key, &tokens);
            if has_evicted {
                assert!(found.n_tokens <= expected);
            } else {
                assert_eq!(found.n_tokens, expected, "{tokens:?} among {texts:?}");
            }
            drop(found);
            tree.insert(key, &tokens, &pages(&tokens));
            texts.push((key, tokens));
            if round % 2 == 1 && next(10) == 0 {
                let before = tree.len();
                let n_evicted = tree.evict(next(6) as usize, |_| false);
                assert_eq!(tree.len(), before - n_evicted);
                has_evicted = true;
            }
            if next(60) == 0 {
                tree.forget(1);
                texts.retain(|(key, _)| *key != 1);
            }
            assert_eq!(tree.fault(), None);
        }
        let mut n_texts = 0;
        tree.for_each(|_, tokens, pages| {
            n_texts += 1;
            let n_tokens = tokens.len();
            let pages = pages.to_vec();
            check(&Found { pages, n_tokens }, tokens);
        });
        assert!(n_texts > 0 || tree.is_empty());
    }
}
