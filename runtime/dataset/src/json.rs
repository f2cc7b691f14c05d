//! JSON with positions: serde_json says what is valid, and each value knows where in its line it stands.
//!
//! Values are looked into one level at a time ([`serde_json::value::RawValue`]); what no shape asks for is checked and skipped without
//! recursion, so depth costs no stack. **Invariant:** `offset` is the byte at which `raw` begins in its line.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use witness_diagnostics::near_miss;

use crate::fault::FaultCode;
use crate::limits::{KEYS_MAX, MESSAGES_MAX, NEAR_MISS_BYTES_MAX, TREE_BYTES_MAX};

/// A fault in a line: byte offset, kind and sentence.
#[derive(Debug)]
pub(crate) struct JsonFault {
    pub(crate) offset: usize,
    pub(crate) code: FaultCode,
    pub(crate) message: String,
}

/// One value of a line.
#[derive(Clone, Copy)]
pub(crate) struct Node<'a> {
    raw: &'a str,
    pub(crate) offset: usize,
}

impl<'a> Node<'a> {
    /// Reads a whole line as one value.
    pub(crate) fn parse(line: &'a str) -> Result<Self, JsonFault> {
        let whole = Node { raw: line, offset: 0 };
        let raw: &RawValue = serde_json::from_str(line).map_err(|error| whole.fault(&error))?;
        Ok(whole.child(raw))
    }

    /// Returns the text of the value as it stands.
    pub(crate) fn raw(&self) -> &'a str {
        self.raw
    }

    /// Returns what the value is, with its article.
    pub(crate) fn kind(&self) -> &'static str {
        match self.raw.as_bytes().first() {
            Some(b'{') => "an object",
            Some(b'[') => "a list",
            Some(b'"') => "a string",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            _ => "a number",
        }
    }

    pub(crate) fn is_object(&self) -> bool {
        self.raw.starts_with('{')
    }

    pub(crate) fn is_list(&self) -> bool {
        self.raw.starts_with('[')
    }

    pub(crate) fn is_string(&self) -> bool {
        self.raw.starts_with('"')
    }

    pub(crate) fn is_null(&self) -> bool {
        self.raw == "null"
    }

    /// Returns the keys of an object, in order, each with its value. A key that stands twice is a fault.
    pub(crate) fn entries(&self) -> Result<Vec<(String, Node<'a>)>, JsonFault> {
        let Entries(entries) = serde_json::from_str(self.raw).map_err(|error| self.fault(&error))?;
        let entries: Vec<(String, Node<'a>)> = entries.into_iter().map(|(key, raw)| (key, self.child(raw))).collect();
        let mut sorted: Vec<&(String, Node<'a>)> = entries.iter().collect();
        // Stable: of two equal keys the second stands second.
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        match sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            None => Ok(entries),
            Some(pair) => Err(JsonFault {
                offset: pair[1].1.offset,
                code: FaultCode::DuplicateKey,
                message: format!("the key `{}` stands twice; which value is meant?", quoted(&pair[1].0)),
            }),
        }
    }

    /// Returns the elements of a list.
    pub(crate) fn elements(&self) -> Result<Vec<Node<'a>>, JsonFault> {
        let Elements(elements) = serde_json::from_str(self.raw).map_err(|error| self.fault(&error))?;
        Ok(elements.into_iter().map(|raw| self.child(raw)).collect())
    }

    /// Returns a string decoded.
    pub(crate) fn string(&self) -> Result<String, JsonFault> {
        serde_json::from_str(self.raw).map_err(|error| self.fault(&error))
    }

    /// Returns any value as a tree; too large or nested too deep is a fault.
    pub(crate) fn value(&self) -> Result<Value, JsonFault> {
        if self.raw.len() > TREE_BYTES_MAX {
            return Err(JsonFault {
                offset: self.offset,
                code: FaultCode::TooMany,
                message: format!("a value of more than {TREE_BYTES_MAX} bytes that is no text"),
            });
        }
        serde_json::from_str(self.raw).map_err(|error| self.fault(&error))
    }

    fn child(&self, raw: &'a RawValue) -> Node<'a> {
        let raw = raw.get();
        // A raw value borrows from the text that it was read from, so the difference is its place there.
        let within = (raw.as_ptr() as usize).saturating_sub(self.raw.as_ptr() as usize);
        Node {
            raw,
            offset: self.offset + within,
        }
    }

    fn fault(&self, error: &serde_json::Error) -> JsonFault {
        // A value holds no line break of its own (the line ends there), so the column alone is the place.
        let offset = self.offset + error.column().saturating_sub(1).min(self.raw.len());
        let whole = error.to_string();
        let end = format!(" at line {} column {}", error.line(), error.column());
        let reason = whole.strip_suffix(&end).unwrap_or(&whole);
        if let Some(limit) = reason.strip_prefix(LIMIT) {
            return JsonFault {
                offset: self.offset,
                code: FaultCode::TooMany,
                message: limit.to_owned(),
            };
        }
        let hint = if self.raw.trim_start().starts_with('[') && error.is_eof() {
            "; a JSON list over several lines is no JSONL: write one object a line"
        } else if error.is_eof() {
            "; the line ends too early: is the object broken over several lines?"
        } else {
            ""
        };
        JsonFault {
            offset,
            code: FaultCode::NotJson,
            message: format!("not JSON: {reason}{hint}"),
        }
    }
}

/// Marks the errors that are limits of ours.
const LIMIT: &str = "limit: ";

struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry::<String, &'de RawValue>()? {
                    if entries.len() == KEYS_MAX {
                        return Err(serde::de::Error::custom(format!(
                            "{LIMIT}an object of more than {KEYS_MAX} keys"
                        )));
                    }
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

struct Elements<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Elements<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Elements<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = list.next_element::<&'de RawValue>()? {
                    if elements.len() == MESSAGES_MAX {
                        return Err(serde::de::Error::custom(format!(
                            "{LIMIT}a list of more than {MESSAGES_MAX} messages"
                        )));
                    }
                    elements.push(element);
                }
                Ok(Elements(elements))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// Returns the known word that a word was probably meant to be; none for words too long to be a slip.
pub(crate) fn meant<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > NEAR_MISS_BYTES_MAX {
        return None;
    }
    near_miss(
        word,
        known.into_iter().filter(|known| known.len() <= NEAR_MISS_BYTES_MAX),
    )
}

/// Cuts what a message quotes to a length that can be read.
pub(crate) fn quoted(text: &str) -> String {
    let limit = crate::limits::QUOTED_CHARS_MAX;
    let mut cut: String = text.chars().take(limit).flat_map(char::escape_debug).collect();
    if text.chars().nth(limit).is_some() {
        cut.push_str("..");
    }
    cut
}
