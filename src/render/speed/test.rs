//! What can be measured: its name in a table, its name for programs, and the unit of its numbers.

use serde_json::{Value, json};
use witness_api::SpeedCase;

/// The percentile that is the longest time of all.
pub(crate) const LONGEST: u64 = 100;

/// Something that was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    /// Tokens a second of the engine alone.
    Engine(SpeedCase),
    /// Milliseconds to the first token of a prompt of which some were read before.
    FirstToken { prompt: u64, seen: u64 },
    /// Tokens a second of all chats together.
    Chats { chats: u64, prompt: u64, generate: u64 },
    /// Milliseconds that so many of a hundred tokens come within, behind the one before; [`LONGEST`] is what every one did.
    BetweenTokens { chats: u64, percentile: u64 },
    /// Bytes that were resident.
    Memory(Place, Share),
}

/// What ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The engine alone.
    Engine,
    /// A server with so many places.
    Served(u64),
}

/// What is counted of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// The most at a time.
    Peak,
    /// Of its own, at the end.
    Anonymous,
    /// Of mapped files, at the end.
    Files,
}

/// What numbers count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    TokensPerSecond,
    Milliseconds,
    Bytes,
}

impl Unit {
    pub(super) fn name(self) -> &'static str {
        match self {
            Unit::TokensPerSecond => "tokens_per_second",
            Unit::Milliseconds => "milliseconds",
            Unit::Bytes => "bytes",
        }
    }

    pub(super) fn show(self, value: f64) -> String {
        match self {
            Unit::TokensPerSecond => format!("{} tok/s", number(value)),
            Unit::Milliseconds => format!("{} ms", number(value)),
            Unit::Bytes if value < 1e9 => format!("{} MB", number(value / 1e6)),
            Unit::Bytes => format!("{:.2} GB", value / 1e9),
        }
    }
}

impl Test {
    pub(super) fn unit(self) -> Unit {
        match self {
            Test::Engine(_) | Test::Chats { .. } => Unit::TokensPerSecond,
            Test::FirstToken { .. } | Test::BetweenTokens { .. } => Unit::Milliseconds,
            Test::Memory(..) => Unit::Bytes,
        }
    }

    /// Returns where its row stands: what the engine does, what clients see, what it takes.
    pub(super) fn rank(self) -> u8 {
        match self {
            Test::Engine(_) => 0,
            Test::FirstToken { .. } => 1,
            Test::Chats { .. } | Test::BetweenTokens { .. } => 2,
            Test::Memory(..) => 3,
        }
    }

    pub(super) fn name(self) -> String {
        match self {
            Test::Engine(case) => match (case.generate, case.parallel) {
                (0, _) => format!("read {}", case.prompt),
                (generate, _) if case.adapters > 0 => {
                    format!("answer {generate} behind {}, {} adapters", case.prompt, case.adapters)
                }
                (generate, 0 | 1) => format!("answer {generate} behind {}", case.prompt),
                (generate, parallel) => format!("answer {generate} behind {}, {parallel} at once", case.prompt),
            },
            Test::FirstToken { prompt, seen: 0 } => format!("first token of {prompt}, all new"),
            Test::FirstToken { prompt, seen } if seen == prompt => format!("first token of {prompt}, seen before"),
            Test::FirstToken { prompt, seen } => format!("first token of {prompt}, {} new", prompt - seen),
            Test::Chats {
                chats: 1,
                prompt,
                generate,
            } => format!("1 chat, {generate} behind {prompt}"),
            Test::Chats {
                chats,
                prompt,
                generate,
            } => format!("{chats} chats, {generate} behind {prompt}"),
            Test::BetweenTokens {
                percentile: LONGEST, ..
            } => "  between tokens, max".to_owned(),
            Test::BetweenTokens { percentile, .. } => format!("  between tokens, p{percentile}"),
            Test::Memory(place, Share::Peak) => match place {
                Place::Engine => "peak memory".to_owned(),
                Place::Served(1) => "peak memory, serving".to_owned(),
                Place::Served(places) => format!("peak memory, serving {places}"),
            },
            Test::Memory(_, Share::Anonymous) => "  its own at the end".to_owned(),
            Test::Memory(_, Share::Files) => "  of mapped files at the end".to_owned(),
        }
    }

    pub(super) fn as_json(self) -> Value {
        match self {
            Test::Engine(case) => json!({
                "test": if case.generate == 0 { "read" } else { "answer" },
                "prompt": case.prompt, "generate": case.generate, "parallel": case.parallel, "adapters": case.adapters,
            }),
            Test::FirstToken { prompt, seen } => json!({ "test": "first_token", "prompt": prompt, "seen": seen }),
            Test::Chats {
                chats,
                prompt,
                generate,
            } => json!({ "test": "chats", "chats": chats, "prompt": prompt, "generate": generate }),
            Test::BetweenTokens { chats, percentile } => {
                json!({ "test": "between_tokens", "chats": chats, "percentile": percentile })
            }
            Test::Memory(place, share) => {
                let share = match share {
                    Share::Peak => "peak_memory",
                    Share::Anonymous => "anonymous_memory",
                    Share::Files => "file_memory",
                };
                match place {
                    Place::Engine => json!({ "test": share }),
                    Place::Served(places) => json!({ "test": share, "served": places }),
                }
            }
        }
    }
}

fn number(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}
