//! An incremental automaton for exactly one JSON value, fed byte by byte.
//!
//! It constrains a model's output: a token may come when its bytes keep the text the beginning of some JSON document. The machine is a
//! small `Copy` value (nesting is a bit for each level), so trying a token is a copy and a walk over its bytes.
//!
//! It accepts what RFC 8259 defines, with UTF-8 checked and surrogates paired, and narrows it where a model could go on for ever or where
//! nothing useful can follow:
//! - at most [`DEPTH_MAX`] levels, [`BLANKS_MAX`] blanks between two signs, [`NUMBER_BYTES_MAX`] bytes of a number;
//! - no blank before the first sign (models that begin with blanks tend not to stop) and none after the value.
//!
//! **Invariant:** any accepted bytes are the beginning of some accepted document: the machine never leads into a dead end.
//!
//! ```
//! use witness_sampling::json::{JsonMachine, Root};
//! let mut machine = JsonMachine::new(Root::Any);
//! assert!(machine.accepts(b"{\"a\": [1, 2"));
//! assert!(!machine.accepts(b"{a"));
//! machine.advance(b"{\"a\": [1, 2")?;
//! assert!(!machine.is_complete());
//! machine.advance(b"]}")?;
//! assert!(machine.is_complete() && machine.is_final());
//! # Ok::<(), witness_sampling::json::JsonError>(())
//! ```

/// Most levels of nesting: one bit each in a `u64`. Real answers use fewer than ten.
pub const DEPTH_MAX: u8 = 64;

/// Most blanks in a row outside strings: a line break and 16 levels indented by four, all that a pretty printer needs.
pub const BLANKS_MAX: u8 = 65;

/// Most bytes of one number: more than twice the 25 that any f64 needs, so that a model cannot write digits for ever.
pub const NUMBER_BYTES_MAX: u8 = 64;

/// What the whole value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// Any JSON value.
    Any,
    /// An object, as the APIs' JSON mode promises.
    Object,
}

/// A byte that no JSON document has here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte 0x{byte:02x} at offset {offset} cannot continue the JSON text")]
pub struct JsonError {
    /// Offset within the bytes of this call.
    pub offset: usize,
    /// The byte.
    pub byte: u8,
}

/// The state between two bytes of a JSON text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonMachine {
    /// One bit a level, the innermost lowest: 1 = object, 0 = array.
    levels: u64,
    depth: u8,
    blanks: u8,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The first sign of the document.
    Start(Root),
    /// A value; in `first`, the array may end instead.
    Value {
        first: bool,
    },
    /// A key; in `first`, the object may end instead.
    Key {
        first: bool,
    },
    /// The colon behind a key.
    Colon,
    /// A comma or the end of the innermost level.
    Next,
    Text {
        is_key: bool,
        part: Part,
    },
    Number {
        part: NumberPart,
        n_bytes: u8,
    },
    /// `rest` of `true`, `false` or `null`.
    Word {
        rest: &'static [u8],
    },
    Done,
}

/// Where in a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Plain,
    /// Inside a UTF-8 character: `n` more bytes, the next one within the range.
    Utf8 {
        n: u8,
        low: u8,
        high: u8,
    },
    /// Behind a backslash.
    Escape,
    /// Inside `\uXXXX`: `n` digits seen; the value so far; whether it must be a low surrogate.
    Hex {
        n: u8,
        value: u16,
        second: bool,
    },
    /// A high surrogate came: a backslash must follow.
    PairEscape,
    /// ... and a `u`.
    PairU,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NumberPart {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl NumberPart {
    fn is_complete(self) -> bool {
        matches!(self, Self::Zero | Self::Integer | Self::Fraction | Self::ExponentDigits)
    }

    fn step(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Minus, b'0') => Self::Zero,
            (Self::Minus, b'1'..=b'9') | (Self::Integer, b'0'..=b'9') => Self::Integer,
            (Self::Zero | Self::Integer, b'.') => Self::Point,
            (Self::Point | Self::Fraction, b'0'..=b'9') => Self::Fraction,
            (Self::Zero | Self::Integer | Self::Fraction, b'e' | b'E') => Self::Exponent,
            (Self::Exponent, b'+' | b'-') => Self::ExponentSign,
            (Self::Exponent | Self::ExponentSign | Self::ExponentDigits, b'0'..=b'9') => Self::ExponentDigits,
            _ => return None,
        })
    }

    /// How many bytes are at least needed to complete a number that continues with this part.
    fn n_bytes_to_complete(self) -> u8 {
        match self {
            Self::Minus | Self::Point | Self::Exponent | Self::ExponentSign => 1,
            _ => 0,
        }
    }
}

impl JsonMachine {
    /// Starts before the first byte of a document.
    pub fn new(root: Root) -> Self {
        Self {
            levels: 0,
            depth: 0,
            blanks: 0,
            state: State::Start(root),
        }
    }

    /// Says whether these bytes may come next. Empty bytes may always come.
    pub fn accepts(&self, bytes: &[u8]) -> bool {
        let mut trial = *self;
        bytes.iter().all(|&byte| trial.step(byte))
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`JsonError`] for the first byte that cannot come; the machine is then as before the call.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<(), JsonError> {
        let mut next = *self;
        for (offset, &byte) in bytes.iter().enumerate() {
            if !next.step(byte) {
                return Err(JsonError { offset, byte });
            }
        }
        *self = next;
        Ok(())
    }

    /// Says whether the text so far is a whole document: the model may end here.
    pub fn is_complete(&self) -> bool {
        match self.state {
            State::Done => true,
            State::Number { part, .. } => self.depth == 0 && part.is_complete(),
            _ => false,
        }
    }

    /// Says whether the document is complete and no byte may follow. Only a number at the root is complete but not final.
    pub fn is_final(&self) -> bool {
        self.state == State::Done
    }

    fn step(&mut self, byte: u8) -> bool {
        if let State::Number { part, n_bytes } = self.state {
            match part.step(byte) {
                Some(part) => {
                    let is_room = n_bytes + part.n_bytes_to_complete() < NUMBER_BYTES_MAX;
                    self.state = State::Number {
                        part,
                        n_bytes: n_bytes.saturating_add(1),
                    };
                    return is_room;
                }
                // Nothing marks the end of a number but the sign after it, which is judged below.
                None if part.is_complete() => self.value_ended(),
                None => return false,
            }
        }
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
            && matches!(
                self.state,
                State::Value { .. } | State::Key { .. } | State::Colon | State::Next
            )
        {
            self.blanks += 1;
            return self.blanks <= BLANKS_MAX;
        }
        self.blanks = 0;
        match self.state {
            State::Start(Root::Object) => byte == b'{' && self.begin_value(byte),
            State::Start(Root::Any) => self.begin_value(byte),
            State::Value { first: true } if byte == b']' => self.end_level(false),
            State::Value { .. } => self.begin_value(byte),
            State::Key { first: true } if byte == b'}' => self.end_level(true),
            State::Key { .. } => {
                self.state = State::Text {
                    is_key: true,
                    part: Part::Plain,
                };
                byte == b'"'
            }
            State::Colon => {
                self.state = State::Value { first: false };
                byte == b':'
            }
            State::Next => match byte {
                b',' if self.levels & 1 == 1 => self.enter(State::Key { first: false }),
                b',' => self.enter(State::Value { first: false }),
                b'}' => self.end_level(true),
                b']' => self.end_level(false),
                _ => false,
            },
            State::Text { is_key, part } => self.text_step(is_key, part, byte),
            State::Word { rest } => match rest.split_first() {
                Some((expected, rest)) if *expected == byte => {
                    if rest.is_empty() {
                        self.value_ended();
                    } else {
                        self.state = State::Word { rest };
                    }
                    true
                }
                _ => false,
            },
            State::Number { .. } | State::Done => false,
        }
    }

    fn enter(&mut self, state: State) -> bool {
        self.state = state;
        true
    }

    fn begin_value(&mut self, byte: u8) -> bool {
        let state = match byte {
            b'{' | b'[' => {
                if self.depth == DEPTH_MAX {
                    return false;
                }
                self.depth += 1;
                self.levels = self.levels << 1 | u64::from(byte == b'{');
                if byte == b'{' {
                    State::Key { first: true }
                } else {
                    State::Value { first: true }
                }
            }
            b'"' => State::Text {
                is_key: false,
                part: Part::Plain,
            },
            b't' => State::Word { rest: b"rue" },
            b'f' => State::Word { rest: b"alse" },
            b'n' => State::Word { rest: b"ull" },
            b'-' => State::Number {
                part: NumberPart::Minus,
                n_bytes: 1,
            },
            b'0' => State::Number {
                part: NumberPart::Zero,
                n_bytes: 1,
            },
            b'1'..=b'9' => State::Number {
                part: NumberPart::Integer,
                n_bytes: 1,
            },
            _ => return false,
        };
        self.enter(state)
    }

    fn end_level(&mut self, is_object: bool) -> bool {
        if self.depth == 0 || (self.levels & 1 == 1) != is_object {
            return false;
        }
        self.depth -= 1;
        self.levels >>= 1;
        self.value_ended();
        true
    }

    fn value_ended(&mut self) {
        self.state = if self.depth == 0 { State::Done } else { State::Next };
    }

    fn text_step(&mut self, is_key: bool, part: Part, byte: u8) -> bool {
        let part = match part {
            Part::Plain => match byte {
                b'"' => {
                    if is_key {
                        self.state = State::Colon;
                    } else {
                        self.value_ended();
                    }
                    return true;
                }
                b'\\' => Part::Escape,
                0x20..=0x7f => Part::Plain,
                _ => match utf8_lead(byte) {
                    Some(part) => part,
                    None => return false,
                },
            },
            Part::Utf8 { n, low, high } if (low..=high).contains(&byte) => match n {
                1 => Part::Plain,
                _ => Part::Utf8 {
                    n: n - 1,
                    low: 0x80,
                    high: 0xbf,
                },
            },
            Part::Escape => match byte {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Part::Plain,
                b'u' => Part::Hex {
                    n: 0,
                    value: 0,
                    second: false,
                },
                _ => return false,
            },
            Part::Hex { n, value, second } => match hex_step(n, value, second, byte) {
                Some(part) => part,
                None => return false,
            },
            Part::PairEscape if byte == b'\\' => Part::PairU,
            Part::PairU if byte == b'u' => Part::Hex {
                n: 0,
                value: 0,
                second: true,
            },
            _ => return false,
        };
        self.enter(State::Text { is_key, part })
    }
}

/// Takes one digit of `\uXXXX`. A first half must not be a low surrogate; a second half must be one.
fn hex_step(n: u8, value: u16, second: bool, byte: u8) -> Option<Part> {
    let digit = char::from(byte).to_digit(16)? as u16;
    let value = value << 4 | digit;
    // The low surrogates are dc00 to dfff: the first two digits decide.
    if n == 0 && second && digit != 0xd {
        return None;
    }
    if n == 1 && (0xdc..=0xdf).contains(&value) != second {
        return None;
    }
    Some(match n {
        3 if !second && (0xd800..=0xdbff).contains(&value) => Part::PairEscape,
        3 => Part::Plain,
        _ => Part::Hex {
            n: n + 1,
            value,
            second,
        },
    })
}

/// Returns what must follow the first byte of a multi-byte UTF-8 character (Unicode 15, table 3-7: no overlong forms, no surrogates).
fn utf8_lead(byte: u8) -> Option<Part> {
    let (n, low, high) = match byte {
        0xc2..=0xdf => (1, 0x80, 0xbf),
        0xe0 => (2, 0xa0, 0xbf),
        0xe1..=0xec | 0xee..=0xef => (2, 0x80, 0xbf),
        0xed => (2, 0x80, 0x9f),
        0xf0 => (3, 0x90, 0xbf),
        0xf1..=0xf3 => (3, 0x80, 0xbf),
        0xf4 => (3, 0x80, 0x8f),
        _ => return None,
    };
    Some(Part::Utf8 { n, low, high })
}
