//! Near misses: which known word a mistyped one was meant to be.

/// Returns the known word closest to `word`, or nothing when none is close enough to be a likely typing error.
pub fn near_miss<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    near_misses(word, known).into_iter().next()
}

/// Returns up to three known words close to `word`, the closest first.
///
/// Close means an edit distance (with transpositions) of at most a third of the longer word, at least 1; case is ignored.
pub fn near_misses<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let lower = word.to_lowercase();
    let mut ranked: Vec<(usize, &str)> = known
        .into_iter()
        .filter_map(|candidate| {
            let distance = strsim::damerau_levenshtein(&lower, &candidate.to_lowercase());
            let limit = (lower.chars().count().max(candidate.chars().count()) / 3).max(1);
            (distance <= limit).then_some((distance, candidate))
        })
        .collect();
    ranked.sort_by_key(|(distance, _)| *distance);
    ranked.into_iter().take(3).map(|(_, candidate)| candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_word_and_a_stranger_does_not() {
        let known = ["temperature", "top_k", "top_p", "num_ctx"];
        assert_eq!(near_miss("temprature", known), Some("temperature"));
        assert_eq!(near_miss("TOP_K", known), Some("top_k"));
        assert_eq!(near_miss("nmu_ctx", known), Some("num_ctx"));
        assert_eq!(near_miss("banana", known), None);
        assert_eq!(near_misses("top_x", known), vec!["top_k", "top_p"]);
    }
}
