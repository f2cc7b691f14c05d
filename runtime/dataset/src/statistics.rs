//! How much there is of what: rows, turns, roles, and lengths with their spread.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::conversation::{Conversation, Role};

/// Counts tokens of a text; how, is not known here.
pub type CountTokens<'a> = &'a dyn Fn(&str) -> usize;

/// Numbers of a data set.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Statistics {
    /// Rows counted.
    pub rows: u64,
    /// Rows that are bare text.
    pub texts: u64,
    /// Messages, characters and bytes of each role; bare text counts as `text`.
    pub roles: BTreeMap<&'static str, RoleStatistics>,
    /// Answers a row.
    pub turns: Lengths,
    /// Characters a row, of all its messages.
    pub chars: Lengths,
    /// Bytes of UTF-8 a row, of all its messages.
    pub bytes: Lengths,
    /// Tokens a row, of its messages' contents alone: what a template adds is not in it. Empty without a way to count.
    pub tokens: Lengths,
}

/// What one role says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RoleStatistics {
    /// Messages.
    pub messages: u64,
    /// Characters of them.
    pub chars: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Tokens of them, where they are counted.
    pub tokens: u64,
}

impl Statistics {
    /// Adds a row.
    pub fn add(&mut self, conversation: &Conversation, count_tokens: Option<CountTokens<'_>>) {
        let (mut turns, mut chars, mut bytes, mut tokens) = (0u64, 0u64, 0u64, 0u64);
        for (role, content) in conversation.parts() {
            let statistics = self.roles.entry(role.map_or("text", Role::name)).or_default();
            let n_chars = content.chars().count() as u64;
            let n_tokens = count_tokens.map_or(0, |count| count(content) as u64);
            statistics.messages += 1;
            statistics.chars += n_chars;
            statistics.bytes += content.len() as u64;
            statistics.tokens += n_tokens;
            turns += u64::from(role == Some(Role::Assistant));
            chars += n_chars;
            bytes += content.len() as u64;
            tokens += n_tokens;
        }
        self.rows += 1;
        self.texts += u64::from(conversation.messages().is_empty());
        self.turns.add(turns);
        self.chars.add(chars);
        self.bytes.add(bytes);
        if count_tokens.is_some() {
            self.tokens.add(tokens);
        }
    }
}

/// Lengths, all kept (8 bytes each), so that every quantile is exact.
#[derive(Clone, Debug, Default)]
pub struct Lengths {
    values: Vec<u64>,
}

/// The spread of lengths.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// All of them together.
    pub total: u64,
    /// The shortest.
    pub min: u64,
    /// Half are at most this long.
    pub median: u64,
    /// Their mean.
    pub mean: f64,
    /// Nine of ten are at most this long.
    pub p90: u64,
    /// Ninety-nine of a hundred are at most this long.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

/// One bar of a histogram: lengths from `from` to `to`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bar {
    /// Shortest length that counts here.
    pub from: u64,
    /// Longest length that counts here.
    pub to: u64,
    /// How many there are.
    pub count: u64,
}

impl Lengths {
    /// Adds one length.
    pub fn add(&mut self, length: u64) {
        self.values.push(length);
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Returns the spread; nothing without lengths. Quantiles are lengths that occur: the smallest that enough rows do not exceed.
    pub fn summary(&self) -> Option<Summary> {
        let mut sorted = self.values.clone();
        sorted.sort_unstable();
        let n = sorted.len();
        let quantile = |percent: usize| sorted[(n * percent).div_ceil(100).clamp(1, n) - 1];
        let total = sorted.iter().fold(0u64, |sum, value| sum.saturating_add(*value));
        Some(Summary {
            total,
            min: *sorted.first()?,
            median: quantile(50),
            mean: total as f64 / n as f64,
            p90: quantile(90),
            p99: quantile(99),
            max: *sorted.last()?,
        })
    }

    /// Counts lengths in at most `bars_max` bars of one width, a round one (1, 2 or 5 times a power of ten), from the shortest to the
    /// longest length. Lengths above the 99th percentile can share the last bar, so that one giant does not flatten the rest.
    pub fn histogram(&self, bars_max: usize) -> Vec<Bar> {
        let (Some(summary), true) = (self.summary(), bars_max > 0) else {
            return Vec::new();
        };
        let range = (summary.p99 - summary.min).saturating_add(1);
        let width = round_up(range.div_ceil(bars_max as u64));
        let start = summary.min / width * width;
        let mut bars: Vec<Bar> = Vec::new();
        for i in 0..bars_max as u64 {
            let from = i.checked_mul(width).and_then(|above| start.checked_add(above));
            let Some(from) = from.filter(|from| *from <= summary.p99 || bars.is_empty()) else {
                break;
            };
            bars.push(Bar {
                from,
                to: from.saturating_add(width - 1),
                count: 0,
            });
        }
        for &value in &self.values {
            let bar = ((value - start) / width) as usize;
            let last = bars.len() - 1;
            let bar = &mut bars[bar.min(last)];
            bar.count += 1;
            bar.to = bar.to.max(value);
        }
        bars
    }
}

impl Serialize for Lengths {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Spread {
            #[serde(flatten)]
            summary: Option<Summary>,
            histogram: Vec<Bar>,
        }
        let spread = Spread {
            summary: self.summary(),
            histogram: self.histogram(HISTOGRAM_BARS),
        };
        spread.serialize(serializer)
    }
}

/// Bars of a histogram that is printed.
pub const HISTOGRAM_BARS: usize = 12;

/// Returns the smallest 1, 2 or 5 times a power of ten that is at least `n`.
fn round_up(n: u64) -> u64 {
    let mut power = 1u64;
    loop {
        for step in [1, 2, 5] {
            match power.checked_mul(step) {
                Some(round) if round >= n => return round,
                Some(_) => {}
                None => return u64::MAX,
            }
        }
        power = match power.checked_mul(10) {
            Some(power) => power,
            None => return u64::MAX,
        };
    }
}

/// Draws a histogram: a line for each bar, at most `width` marks long.
pub fn draw(bars: &[Bar], width: usize) -> String {
    let most = bars.iter().map(|bar| bar.count).max().unwrap_or(0).max(1);
    let label = |bar: &Bar| match bar.from == bar.to {
        true => bar.from.to_string(),
        false => format!("{}-{}", bar.from, bar.to),
    };
    let label_chars = bars.iter().map(|bar| label(bar).len()).max().unwrap_or(0);
    let count_chars = most.to_string().len();
    let mut out = String::new();
    for bar in bars {
        // A bar that counts anything shows.
        let marks = (bar.count as u128 * width as u128).div_ceil(u128::from(most)) as usize;
        let line = format!(
            "{:>label_chars$}  {:>count_chars$}  {}",
            label(bar),
            bar.count,
            "#".repeat(marks)
        );
        out += line.trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::Message;
    use crate::random::TorchGenerator;

    fn lengths(values: impl IntoIterator<Item = u64>) -> Lengths {
        Lengths {
            values: values.into_iter().collect(),
        }
    }

    #[test]
    fn rows_turns_roles_and_lengths_are_counted() {
        let mut statistics = Statistics::default();
        let chat = Conversation::of(vec![
            Message::new(Role::System, "Be brief."),
            Message::new(Role::User, "é?"),
            Message::new(Role::Assistant, "one two"),
            Message::new(Role::User, "b"),
            Message::new(Role::Assistant, "three"),
        ]);
        let words = |text: &str| text.split_whitespace().count();
        statistics.add(&chat, Some(&words));
        statistics.add(&Conversation::of_text("plain text here"), Some(&words));
        let json = serde_json::to_value(&statistics).unwrap();
        assert_eq!(json["rows"], 2);
        assert_eq!(json["texts"], 1);
        assert_eq!(
            json["roles"]["assistant"],
            serde_json::json!({"messages": 2, "chars": 12, "bytes": 12, "tokens": 3})
        );
        assert_eq!(json["roles"]["user"]["bytes"], 4);
        assert_eq!(json["turns"]["max"], 2);
        assert_eq!(json["tokens"]["total"], 10);
        assert_eq!(json["chars"]["max"], 24);
    }

    // Quantiles against their definition, bars against counting by hand; nothing is lost whatever the lengths are.
    #[test]
    fn every_length_is_in_one_bar() {
        let mut generator = TorchGenerator::seeded(4);
        for n in [1usize, 2, 3, 99, 100, 101, 1000] {
            for scale in [1u64, 7, 1000, u64::MAX / u64::from(u32::MAX)] {
                let values: Vec<u64> = (0..n).map(|_| u64::from(generator.word()) * scale / 3).collect();
                let lengths = lengths(values.clone());
                let summary = lengths.summary().unwrap();
                let at_most = |limit: u64| values.iter().filter(|value| **value <= limit).count();
                assert!(
                    at_most(summary.median) * 2 >= n && at_most(summary.median.wrapping_sub(1)) * 2 < n.max(2)
                        || summary.median == 0
                );
                assert!(at_most(summary.p90) * 10 >= n * 9);
                assert_eq!(summary.max, *values.iter().max().unwrap());
                for bars_max in [1, 5, 12] {
                    let bars = lengths.histogram(bars_max);
                    assert!(bars.len() <= bars_max);
                    assert_eq!(bars.iter().map(|bar| bar.count).sum::<u64>(), n as u64);
                    for bar in &bars {
                        let inside = values
                            .iter()
                            .filter(|value| (bar.from..=bar.to).contains(value))
                            .count();
                        assert_eq!(inside as u64, bar.count);
                    }
                }
            }
        }
        assert!(lengths([]).summary().is_none());
        assert!(lengths([]).histogram(5).is_empty());
        assert!(lengths([3]).histogram(0).is_empty());
        assert_eq!(lengths([u64::MAX, 0]).histogram(3).len(), 2);
    }

    #[test]
    fn a_histogram_reads_like_this() {
        let bars = lengths((0..100).map(|i| i * i % 50)).histogram(5);
        let drawn = draw(&bars, 10);
        assert_eq!(
            drawn,
            "  0-9  26  ##########\n10-19  16  #######\n20-29  26  ##########\n30-39  16  #######\n40-49  16  #######\n"
        );
    }
}
