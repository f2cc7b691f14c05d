//! Which bytes of a text each of its tokens stands for.
//!
//! Most tokenizers only cut: the bytes of their tokens, joined, are the text. Three things can come between: a space that the
//! tokenizer puts before the first word, white space that a special token swallows, and Unicode normalisation, which is undone
//! here by normalising the text first. Anything else is no alignment, and the caller must not guess.

use std::ops::Range;

use witness_tokenizer::Tokenizer;

/// Returns the byte range of `text` that each token stands for, or nothing where they do not match. A token that the tokenizer put in
/// has an empty range.
pub(crate) fn spans(tokenizer: &Tokenizer, text: &str, ids: &[u32]) -> Option<Vec<Range<usize>>> {
    let text = text.as_bytes();
    let mut spans = Vec::with_capacity(ids.len());
    let mut at = 0;
    let mut is_after_special = true;
    for &id in ids {
        let is_special = tokenizer.is_special(id);
        let bytes = match tokenizer.token_bytes(id) {
            [] if is_special => tokenizer.token_text(id).as_bytes(),
            bytes => bytes,
        };
        let span = place(text, at, bytes).or_else(|| {
            // White space beside a special token may have been swallowed by it.
            let skipped = after_space(text, at);
            (is_special || is_after_special)
                .then(|| place(text, skipped, bytes))
                .flatten()
        })?;
        at = span.end;
        is_after_special = is_special;
        spans.push(span);
    }
    (after_space(text, at) == text.len()).then_some(spans)
}

/// Finds a token's bytes at a place, with or without a space before them that is not in the text.
fn place(text: &[u8], at: usize, bytes: &[u8]) -> Option<Range<usize>> {
    let rest = text.get(at..)?;
    if rest.starts_with(bytes) {
        return Some(at..at + bytes.len());
    }
    let unspaced = bytes.strip_prefix(b" ")?;
    rest.starts_with(unspaced).then(|| at..at + unspaced.len())
}

fn after_space(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}
