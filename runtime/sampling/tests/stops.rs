//! Stop texts against the obvious search: add one character at a time and look whether the text now ends in a stop text.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use witness_sampling::SamplingError;
use witness_sampling::stops::{STOP_BYTES_MAX, STOPS_MAX, StopMatcher};

/// Returns the text before the stop text whose end comes first (the longest of those), and whether there was one.
fn naive(stops: &[String], text: &str) -> (String, bool) {
    for (start, c) in text.char_indices() {
        let so_far = &text[..start + c.len_utf8()];
        let longest = stops
            .iter()
            .filter(|stop| !stop.is_empty() && so_far.ends_with(stop.as_str()))
            .map(String::len)
            .max();
        if let Some(n_bytes) = longest {
            return (so_far[..so_far.len() - n_bytes].to_owned(), true);
        }
    }
    (text.to_owned(), false)
}

/// Few different characters, so that texts overlap with themselves and each other.
#[test]
fn any_split_into_pieces_emits_what_the_search_finds() {
    const LETTERS: [&str; 5] = ["a", "b", "ä", "日", "\n"];
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut below = |n: usize| (random.next_u64() % n as u64) as usize;
    let mut n_stopped = 0;
    for round in 0..40_000 {
        let n_letters = 2 + below(4);
        let stops: Vec<String> = (0..below(4))
            .map(|_| (0..below(6)).map(|_| LETTERS[below(n_letters)]).collect())
            .collect();
        let pieces: Vec<String> = (0..below(12))
            .map(|_| (0..below(5)).map(|_| LETTERS[below(n_letters)]).collect())
            .collect();
        let (expected, stopped) = naive(&stops, &pieces.concat());
        let mut matcher = StopMatcher::new(&stops).expect("few");
        let mut emitted = String::new();
        let mut pushed = String::new();
        let mut is_stopped = false;
        for piece in &pieces {
            let emit = matcher.push(piece);
            emitted += &emit.text;
            pushed += piece;
            is_stopped = emit.stopped;
            // What is held back is never more than could still matter.
            let longest = stops.iter().map(String::len).max().unwrap_or(0);
            assert!(
                is_stopped || pushed.len() - emitted.len() < longest.max(1),
                "round {round}"
            );
        }
        emitted += &matcher.finish();
        assert_eq!(
            (&emitted, is_stopped),
            (&expected, stopped),
            "round {round}: {stops:?} in {pieces:?}"
        );
        assert_eq!(matcher.matched().is_some(), stopped);
        n_stopped += usize::from(stopped);
    }
    assert!(
        n_stopped > 10_000,
        "only {n_stopped} cases stopped, so this shows little"
    );
}

#[test]
fn the_cases_that_people_meet() {
    let mut matcher = StopMatcher::new(&["<|im_end|>", "", "User:"]).expect("few");
    assert_eq!(matcher.push("Hello <|im").text, "Hello ");
    assert_eq!(matcher.push("portant|> ").text, "<|important|> ");
    assert_eq!(matcher.push("Us").text, "");
    let emit = matcher.push("er: and more");
    assert!(emit.stopped && emit.text.is_empty());
    assert_eq!(matcher.matched(), Some("User:"));
    assert_eq!(matcher.push("after").text, "");
    assert_eq!(matcher.finish(), "");

    let mut none = StopMatcher::new::<&str>(&[]).expect("none");
    assert_eq!(none.push("as it comes").text, "as it comes");
}

#[test]
fn limits_are_named() {
    let too_many = vec!["x"; STOPS_MAX + 1];
    assert!(matches!(
        StopMatcher::new(&too_many),
        Err(SamplingError::StopLimit { limit: STOPS_MAX, .. })
    ));
    let too_long = "x".repeat(STOP_BYTES_MAX + 1);
    assert!(matches!(
        StopMatcher::new(&[too_long]),
        Err(SamplingError::StopLimit {
            limit: STOP_BYTES_MAX,
            ..
        })
    ));
}
