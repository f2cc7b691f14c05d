//! Cuts text into the words that merging never crosses.
//!
//! Cost: one pass of a linear-time automaton for each rule of the family; a family of one rule allocates nothing for each word.
//! **Invariant:** the words handed out cover the text, in order, without gaps.

use crate::error::TokenizerError;
use crate::families::{Rule, Spaces};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// The work that a pattern with look-around may do at one place, in steps.
const LOOK_AROUND_STEPS_MAX: usize = 1_000_000;

/// A compiled rule.
#[derive(Debug)]
enum Step {
    Pattern(regex::Regex, Spaces),
    DigitsFromRight,
    LookAround(fancy_regex::Regex),
}

/// Cuts text by the rules of one family.
#[derive(Debug)]
pub(crate) struct Splitter {
    steps: Vec<Step>,
}

impl Splitter {
    /// Returns the splitter of a family, compiled once in a process: a pattern over Unicode classes takes about a millisecond.
    pub(crate) fn of(rules: &'static [Rule]) -> Result<Arc<Self>, TokenizerError> {
        static COMPILED: Mutex<Vec<(&[Rule], Arc<Splitter>)>> = Mutex::new(Vec::new());
        let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, splitter)) = compiled.iter().find(|(known, _)| std::ptr::eq(*known, rules)) {
            return Ok(Arc::clone(splitter));
        }
        let splitter = Arc::new(Self::new(rules)?);
        compiled.push((rules, Arc::clone(&splitter)));
        Ok(splitter)
    }

    /// Compiles the rules.
    fn new(rules: &[Rule]) -> Result<Self, TokenizerError> {
        let steps = rules.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { steps })
    }

    /// Calls `word` with each word of `text`, as a range of it.
    pub(crate) fn split(
        &self,
        text: &str,
        mut word: impl FnMut(Range<usize>) -> Result<(), TokenizerError>,
    ) -> Result<(), TokenizerError> {
        let Some((last, before)) = self.steps.split_last() else {
            return word(0..text.len());
        };
        let whole = 0..text.len();
        let mut pieces = Vec::from([whole]);
        for step in before {
            let mut finer = Vec::with_capacity(pieces.len() * 2);
            for piece in pieces {
                step.cut(text, piece, &mut |range| {
                    finer.push(range);
                    Ok(())
                })?;
            }
            pieces = finer;
        }
        pieces
            .into_iter()
            .try_for_each(|piece| last.cut(text, piece, &mut word))
    }
}

fn compile(rule: &Rule) -> Result<Step, TokenizerError> {
    let broken = |error: String| TokenizerError::Encode { problem: error };
    Ok(match rule {
        Rule::Pattern(pattern, spaces) => {
            let pattern = match spaces {
                Spaces::Ignored => (*pattern).to_owned(),
                Spaces::GiveBack | Spaces::GiveBackAfterLines => format!("{pattern}|\\s+"),
            };
            Step::Pattern(
                regex::Regex::new(&pattern).map_err(|error| broken(error.to_string()))?,
                *spaces,
            )
        }
        Rule::DigitsFromRight => Step::DigitsFromRight,
        Rule::LookAround(pattern) => Step::LookAround(
            fancy_regex::RegexBuilder::new(pattern)
                .backtrack_limit(LOOK_AROUND_STEPS_MAX)
                .build()
                .map_err(|error| broken(error.to_string()))?,
        ),
    })
}

type Emit<'a> = &'a mut dyn FnMut(Range<usize>) -> Result<(), TokenizerError>;

impl Step {
    /// Cuts one piece of `text`; what no match covers is a piece of its own.
    fn cut(&self, text: &str, piece: Range<usize>, emit: Emit<'_>) -> Result<(), TokenizerError> {
        let base = piece.start;
        let slice = &text[piece.clone()];
        let mut gap = 0;
        let mut take = |start: usize, end: usize| {
            if gap < start {
                emit(base + gap..base + start)?;
            }
            gap = end;
            emit(base + start..base + end)
        };
        match self {
            Step::Pattern(pattern, spaces) => {
                let mut at = 0;
                while let Some(found) = pattern.find_at(slice, at) {
                    let end = give_back(slice, found.range(), *spaces);
                    if end <= at {
                        break;
                    }
                    take(found.start(), end)?;
                    at = end;
                }
            }
            Step::DigitsFromRight => cut_digits(slice, &mut take)?,
            Step::LookAround(pattern) => {
                for found in pattern.find_iter(slice) {
                    let found = found.map_err(|error| TokenizerError::Encode {
                        problem: error.to_string(),
                    })?;
                    if found.end() > found.start() {
                        take(found.start(), found.end())?;
                    }
                }
            }
        }
        if gap < slice.len() {
            emit(base + gap..base + slice.len())?;
        }
        Ok(())
    }
}

/// Returns where a match ends after a run of white space has given its last character to the text that follows.
fn give_back(slice: &str, found: Range<usize>, spaces: Spaces) -> usize {
    let end = found.end;
    if spaces == Spaces::Ignored || end == slice.len() {
        return end;
    }
    let Some(last) = slice[found.clone()].chars().next_back() else {
        return end;
    };
    let line_break = matches!(last, '\r' | '\n');
    if !last.is_whitespace() || (line_break && spaces == Spaces::GiveBackAfterLines) {
        return end;
    }
    let shorter = end - last.len_utf8();
    if shorter == found.start { end } else { shorter }
}

/// Cuts each run of decimal digits into threes counted from its right end.
fn cut_digits(
    slice: &str,
    take: &mut dyn FnMut(usize, usize) -> Result<(), TokenizerError>,
) -> Result<(), TokenizerError> {
    let mut run: Vec<usize> = Vec::new();
    let mut flush = |run: &mut Vec<usize>, end: usize| {
        let mut from = 0;
        while from < run.len() {
            let left = run.len() - from;
            let count = (left - 1) % 3 + 1;
            let stop = run.get(from + count).copied().unwrap_or(end);
            take(run[from], stop)?;
            from += count;
        }
        run.clear();
        Ok(())
    };
    for (at, character) in slice.char_indices() {
        if character.is_ascii_digit() {
            run.push(at);
        } else if !run.is_empty() {
            flush(&mut run, at)?;
        }
    }
    flush(&mut run, slice.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::{FALLBACK, by_name};

    fn words<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
        let splitter = Splitter::new(by_name(name).unwrap_or(FALLBACK).rules).unwrap();
        let mut words = Vec::new();
        splitter
            .split(text, |range| {
                words.push(&text[range]);
                Ok(())
            })
            .unwrap();
        words
    }

    #[test]
    fn runs_of_space_give_their_last_character_to_the_word_that_follows() {
        assert_eq!(words("gpt-2", "a   b \n\n c  "), ["a", "  ", " b", " \n\n", " c", "  "]);
        assert_eq!(
            words("llama-bpe", "a   b \n\n c  "),
            ["a", "  ", " b", " \n\n", " c", "  "]
        );
        assert_eq!(words("gpt-2", "a\tb"), ["a", "\t", "b"]);
        assert_eq!(words("llama-bpe", "a\tb"), ["a", "\tb"]);
    }

    #[test]
    fn digits_are_grouped_as_the_family_says() {
        assert_eq!(words("llama-bpe", "12345"), ["123", "45"]);
        assert_eq!(words("qwen2", "123"), ["1", "2", "3"]);
        assert_eq!(words("superbpe", "1234567"), ["1", "234", "567"]);
        assert_eq!(words("tiny_aya", "x1234"), ["x", "1", "234"]);
    }

    #[test]
    fn every_family_compiles_and_covers_any_text() {
        let text = "It's 12345 été\r\n\t 你好　世界 \u{10ffff}!!  <IMGIMGAZ>\n\n  x\u{301}  ";
        for name in [
            "default",
            "llama3",
            "tekken",
            "youtu",
            "minicpm5",
            "chameleon",
            "gemma4",
            "sarvam-moe",
            "dbrx",
            "deepseek-llm",
            "deepseek-coder",
            "deepseek-v3",
            "spark2_5",
            "falcon",
            "starcoder",
            "gpt-2",
            "qwen2",
            "qwen35",
            "bloom",
            "viking",
            "gpt-4o",
            "tiny_aya",
            "kimi-k2",
            "superbpe",
            "bailingmoe",
            "seed-coder",
            "afmoe",
            "exaone-moe",
            "laguna",
            "jais-2",
        ] {
            assert!(by_name(name).is_some(), "{name}");
            assert_eq!(words(name, text).concat(), text, "{name}");
            assert!(words(name, "").concat().is_empty());
        }
    }
}
