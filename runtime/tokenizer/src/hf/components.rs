//! Limits for the parts of `tokenizer.json` that the crate interprets: normalizer, pre-tokenizer, post-processor and decoder.
//!
//! Each may nest sequences and bring regular expressions and replacement texts; all of that is bounded before the crate sees it.

use super::file::TokenizerFile;
use crate::error::TokenizerError;
use crate::vocabulary::check_limit;
use serde_json::Value;

/// Sequences within sequences. Published files nest once.
const DEPTH_MAX: usize = 8;

/// Values in all components together; a token template of a translation model has about 1,000.
const VALUES_MAX: usize = 20_000;

/// Bytes of one text inside a component, but for a precompiled character map.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// Bytes of one regular expression. The longest published one has about 1,500.
const PATTERN_BYTES_MAX: usize = 8 << 10;

/// How often a group may be repeated by a written count, all such counts of a pattern multiplied.
const REPEATS_MAX: u64 = 4096;

/// How many times longer all replacements together may make a text.
const GROWTH_MAX: usize = 64;

/// Checks every component of the file.
pub(crate) fn check(file: &TokenizerFile) -> Result<(), TokenizerError> {
    let mut walk = Walk { values: 0, growth: 1 };
    walk.value("normalizer", &file.normalizer, 0)?;
    walk.value("pre_tokenizer", &file.pre_tokenizer, 0)?;
    walk.value("post_processor", &file.post_processor, 0)?;
    walk.value("decoder", &file.decoder, 0)
}

struct Walk {
    values: usize,
    growth: usize,
}

impl Walk {
    fn value(&mut self, part: &'static str, value: &Value, depth: usize) -> Result<(), TokenizerError> {
        self.values += 1;
        check_limit("number of values in its components", self.values, VALUES_MAX)?;
        // Two levels of JSON for each level of sequences, and a few for what a step holds.
        check_limit("depth of its components", depth, DEPTH_MAX * 2 + 4)?;
        match value {
            Value::String(text) => check_limit("length of a text in bytes", text.len(), TEXT_BYTES_MAX),
            Value::Array(list) => list.iter().try_for_each(|item| self.value(part, item, depth + 1)),
            Value::Object(map) => {
                self.step(part, value)?;
                map.iter()
                    .filter(|(name, _)| *name != "precompiled_charsmap")
                    .try_for_each(|(_, item)| self.value(part, item, depth + 1))
            }
            _ => Ok(()),
        }
    }

    /// Checks what is particular to one kind of step.
    fn step(&mut self, part: &'static str, step: &Value) -> Result<(), TokenizerError> {
        if let Some(pattern) = step.get("Regex").and_then(Value::as_str) {
            check_pattern(part, pattern)?;
        }
        match step.get("type").and_then(Value::as_str) {
            Some("Replace") if part == "normalizer" => {
                let content = step["content"].as_str().map_or(0, str::len);
                let pattern = step["pattern"]["String"].as_str().map_or(1, str::len).max(1);
                self.grow(content.div_ceil(pattern))
            }
            Some("Prepend") => check_limit(
                "length of a text put before each text",
                step["prepend"].as_str().map_or(0, str::len),
                256,
            ),
            Some("FixedLength") if step["length"].as_u64().is_none_or(|length| length == 0) => Err(
                TokenizerError::damaged(part, "pieces of a fixed length of 0 characters"),
            ),
            Some("Precompiled") => check_charsmap(part, step["precompiled_charsmap"].as_str().unwrap_or_default()),
            _ => Ok(()),
        }
    }

    fn grow(&mut self, factor: usize) -> Result<(), TokenizerError> {
        self.growth = self.growth.saturating_mul(factor.max(1));
        check_limit("growth of a text by replacements", self.growth, GROWTH_MAX)
    }
}

/// Bounds what a pattern may cost to compile: its length, its nesting and the product of the counts that repeat groups.
fn check_pattern(part: &'static str, pattern: &str) -> Result<(), TokenizerError> {
    check_limit(
        "length of a regular expression in bytes",
        pattern.len(),
        PATTERN_BYTES_MAX,
    )?;
    let bytes = pattern.as_bytes();
    let mut depth = 0usize;
    let mut repeats = 1u64;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'{' if at > 0 && bytes[at - 1] == b')' => {
                let counts = pattern[at + 1..].split('}').next().unwrap_or_default();
                let largest = counts
                    .split(',')
                    .filter_map(|count| count.trim().parse::<u64>().ok())
                    .max();
                repeats = repeats.saturating_mul(largest.unwrap_or(1).max(1));
            }
            _ => {}
        }
        if depth > 32 || repeats > REPEATS_MAX {
            return Err(TokenizerError::damaged(
                part,
                "a regular expression nests or repeats its groups too much",
            ));
        }
        at += 1;
    }
    Ok(())
}

/// Shows that the table which a character map announces is inside it; the map is base64 and begins with the table's length.
fn check_charsmap(part: &'static str, map: &str) -> Result<(), TokenizerError> {
    let mut bits = 0u64;
    for byte in map.bytes().take(6) {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => {
                return Err(TokenizerError::damaged(
                    part,
                    "a character map is not written in base64",
                ));
            }
        };
        bits = bits << 6 | u64::from(digit);
    }
    let announced = u64::from(((bits >> 4) as u32).swap_bytes());
    check_charsmap_table(part, announced, (map.len() as u64) / 4 * 3)
}

/// Shows that a table of `announced` bytes, and its four bytes of length, are inside a character map.
pub(crate) fn check_charsmap_table(part: &'static str, announced: u64, bytes: u64) -> Result<(), TokenizerError> {
    if announced.saturating_add(4) > bytes {
        return Err(TokenizerError::damaged(
            part,
            format!("a character map of {bytes} bytes announces a table of {announced}"),
        ));
    }
    Ok(())
}
