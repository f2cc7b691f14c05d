//! Which modules a pattern of a PEFT configuration names, by PEFT's own rules.
//!
//! `rank_pattern` and `alpha_pattern` keys are Python regular expressions tried as `(.*\.)?(KEY)$` on the module's name; a
//! `target_modules` string must match the whole name. Nearly all keys in the wild are plain names, where the only special character
//! is the dot that matches any character; those are matched without a regex engine, which keeps thousands of them cheap.
//!
//! **Invariant:** matching is bounded: patterns have a limited length and number, and look-around patterns a limited number of steps.

use crate::{FormatError, Result, error::excerpt};

/// The longest pattern; PEFT's users write up to a few hundred bytes.
const PATTERN_BYTES_MAX: usize = 4_096;
/// Steps that one look-around pattern may take on one name. Known patterns need below 1,000.
const STEPS_MAX: usize = 20_000;
/// The size of one compiled pattern.
const COMPILED_BYTES_MAX: usize = 512 * 1024;

/// The number of steps a look-around pattern may be compiled to.
const INSTRUCTIONS_MAX: usize = 20_000;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    /// A name in which `.` stands for any character, matched at the end of a module's name after its start or a dot.
    Tail(Vec<char>),
    /// Anything else, anchored on both sides.
    Regex(Box<fancy_regex::Regex>),
}

impl Pattern {
    /// Compiles a key of `rank_pattern` or `alpha_pattern`.
    pub(super) fn tail(file: &str, field: &str, pattern: &str) -> Result<Pattern> {
        if is_plain(pattern) && !pattern.is_empty() {
            return check_length(file, field, pattern).map(|()| Pattern::Tail(pattern.chars().collect()));
        }
        compile(file, field, pattern, &format!("^(.*\\.)?({pattern})$"))
    }

    /// Compiles a string of `target_modules` or `exclude_modules`, which must match a whole name.
    pub(super) fn whole(file: &str, field: &str, pattern: &str) -> Result<Pattern> {
        compile(file, field, pattern, &format!("^(?:{pattern})$"))
    }

    /// Says whether this pattern needs a regex engine.
    pub(super) fn is_regex(&self) -> bool {
        matches!(self, Pattern::Regex(_))
    }

    /// Says whether the pattern names a module. A pattern that takes too many steps is an error.
    pub(super) fn matches(&self, file: &str, module: &str) -> Result<bool> {
        match self {
            Pattern::Tail(pattern) => Ok(matches_tail(pattern, module)),
            Pattern::Regex(regex) => regex.is_match(module).map_err(|error| {
                FormatError::malformed(
                    file,
                    format!("pattern `{}`", excerpt(regex.as_str())),
                    format!(
                        "a pattern that decides about `{}` in {STEPS_MAX} steps",
                        excerpt(module)
                    ),
                    excerpt(&error.to_string()),
                )
            }),
        }
    }
}

/// Says whether the only special character of a pattern is the dot.
fn is_plain(pattern: &str) -> bool {
    pattern
        .chars()
        .all(|character| character.is_ascii_alphanumeric() || matches!(character, '_' | '.' | '-'))
}

fn matches_tail(pattern: &[char], module: &str) -> bool {
    let mut rest = module.chars().rev();
    for expected in pattern.iter().rev() {
        match rest.next() {
            Some(found) if found == *expected || (*expected == '.' && found != '\n') => {}
            _ => return false,
        }
    }
    matches!(rest.next(), None | Some('.'))
}

fn check_length(file: &str, field: &str, pattern: &str) -> Result<()> {
    if pattern.len() <= PATTERN_BYTES_MAX {
        return Ok(());
    }
    let most = PATTERN_BYTES_MAX as u64;
    Err(FormatError::limit(
        file,
        format!("the length of a pattern in `{field}`"),
        pattern.len(),
        most,
    ))
}

fn compile(file: &str, field: &str, pattern: &str, anchored: &str) -> Result<Pattern> {
    check_length(file, field, pattern)?;
    let built = fancy_regex::RegexBuilder::new(anchored)
        .backtrack_limit(STEPS_MAX)
        .delegate_size_limit(COMPILED_BYTES_MAX)
        .delegate_dfa_size_limit(COMPILED_BYTES_MAX)
        .max_prog_size(INSTRUCTIONS_MAX)
        .build();
    built.map(|regex| Pattern::Regex(Box::new(regex))).map_err(|error| {
        FormatError::malformed(
            file,
            format!("`{field}`"),
            format!("a regular expression, not `{}`", excerpt(pattern)),
            excerpt(&error.to_string()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each expectation is what Python's `re` answers for the same pattern and name.
    #[test]
    fn patterns_match_as_peft_matches_them() {
        let name = "model.layers.12.self_attn.q_proj";
        let cases = [
            ("q_proj", true),
            ("_proj", false),
            ("self_attn.q_proj", true),
            ("self_attnXq_proj", false),
            ("model.layers.12.self_attn.q_proj", true),
            ("layers.1..self_attn.q_proj", true),
            ("layers.1.self_attn.q_proj", false),
            ("^model.layers.12.self_attn.q_proj", true),
            ("^layers.12.self_attn.q_proj", false),
            (r"layers\.(1|12)\.self_attn\.[qk]_proj", true),
            (r"layers\.\d+\.mlp\..*", false),
            ("q_proj|k_proj", true),
            (r".*(?<!k)_proj", true),
            ("", false),
        ];
        for (pattern, expected) in cases {
            let compiled = Pattern::tail("f", "rank_pattern", pattern).unwrap();
            assert_eq!(compiled.matches("f", name).unwrap(), expected, "{pattern}");
        }
        let whole = [
            (r".*\.q_proj", true),
            ("q_proj", false),
            (r"(?!.*visual).*self_attn\.(q|v)_proj", true),
        ];
        for (pattern, expected) in whole {
            let compiled = Pattern::whole("f", "target_modules", pattern).unwrap();
            assert_eq!(compiled.matches("f", name).unwrap(), expected, "{pattern}");
        }
    }

    #[test]
    fn hostile_patterns_end_in_an_error() {
        let nested = format!("{}x{}", "(?:".repeat(1000), ")".repeat(1000));
        let calls = format!("(?=x)(a\\g<2>\\g<2>)(b\\g<1>\\g<1>|{})", "\\g<1>".repeat(500));
        let hostile = [
            "(".to_owned(),
            "(?<x".to_owned(),
            "(?:(?:a{1000}){1000}){1000}".to_owned(),
            "(".repeat(3000),
            nested,
            calls,
            "a".repeat(5000),
            "[z-a]".to_owned(),
        ];
        for pattern in &hostile {
            assert!(Pattern::tail("f", "rank_pattern", pattern).is_err(), "{pattern:.20}");
            assert!(Pattern::whole("f", "target_modules", pattern).is_err(), "{pattern:.20}");
        }
        // A classic exponential pattern, made to backtrack by the look-ahead.
        let slow = Pattern::whole("f", "target_modules", "((?=a)a|a)*b").unwrap();
        assert!(slow.matches("f", &format!("{}bc", "a".repeat(40))).is_err());
    }
}
