//! The text of a recipe as a tree in which every key and value knows its place.
//!
//! YAML through `serde-saphyr`, of which JSON is a part. Hostile text is answered, never followed: the size, the depth, the number of
//! values and what aliases may multiply are limited before a tree is built.
//!
//! Cost: one pass, memory in proportion to the text (aliases included) below [`NODES_MAX`] values.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value as Json};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

use crate::error::{Fault, Problem};

/// Longest text of a recipe in bytes: a hundred times the longest seen.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

/// Deepest nesting. Recipes of other programs nest four deep.
pub const DEPTH_MAX: usize = 32;

/// Most values of one recipe, those that aliases repeat included.
pub const NODES_MAX: usize = 50_000;

/// A place in a text, counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: u64,
    /// Column in characters.
    pub column: u64,
}

/// A value and where it begins.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) position: Position,
}

/// What a value is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Value {
    #[default]
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) position: Position,
    pub(crate) node: Node,
}

impl Node {
    /// A value that stands nowhere.
    pub(crate) fn of(value: Value) -> Self {
        Self {
            value,
            position: Position::default(),
        }
    }

    /// Whether it says "none of this": null, false, 0, an empty text, list or map, or one of the words for it.
    pub(crate) fn is_off(&self) -> bool {
        match &self.value {
            Value::Null | Value::Bool(false) => true,
            Value::Bool(true) => false,
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::Text(text) => {
                let word = text.trim().to_ascii_lowercase();
                matches!(word.as_str(), "" | "false" | "none" | "no" | "off" | "null" | "0")
            }
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.is_empty(),
        }
    }

    /// The value as JSON.
    pub(crate) fn to_json(&self) -> Json {
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(flag) => Json::Bool(*flag),
            Value::Number(number) => Json::Number(number.clone()),
            Value::Text(text) => Json::String(text.clone()),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(entries) => Json::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.node.to_json()))
                    .collect::<Map<String, Json>>(),
            ),
        }
    }
}

/// Reads a text whose outermost value is a map. Nothing at all is an empty map.
pub(crate) fn parse(text: &str) -> Result<Vec<Entry>, Fault> {
    let node = parse_node(text)?;
    match node.value {
        Value::Map(entries) => Ok(entries),
        Value::Null => Ok(Vec::new()),
        _ => Err(Fault::new(
            Problem::Syntax,
            Some(node.position),
            "the recipe is not a list of keys with values",
            "begin its lines with `key: value`, as in `base: my-model`",
        )),
    }
}

/// Reads one value, as it stands behind a key. A text that is no YAML is itself.
pub(crate) fn parse_value(text: &str) -> Node {
    // A comment sign or a second line is part of what was typed.
    let is_plain = text.contains(" #") || text.contains('\n') || text.len() > 4096;
    match parse_node(text) {
        Ok(node) if !is_plain && !matches!(node.value, Value::Map(_)) => Node::of(node.value),
        Ok(node) if text.trim_start().starts_with('{') && matches!(node.value, Value::Map(_)) => Node::of(node.value),
        _ => Node::of(Value::Text(text.to_owned())),
    }
}

fn parse_node(text: &str) -> Result<Node, Fault> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Fault::new(
            Problem::Limit,
            None,
            format!("the recipe has {} bytes; at most {TEXT_BYTES_MAX} are read", text.len()),
            "name data files instead of holding them",
        ));
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 4 * NODES_MAX,
            max_nodes: NODES_MAX,
            max_depth: DEPTH_MAX,
            max_documents: 1,
            max_aliases: 1000,
            max_anchors: 1000,
            max_total_scalar_bytes: TEXT_BYTES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: NODES_MAX,
            max_replay_stack_depth: 16,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<Spanned<Value>>(text, options) {
        Ok(node) => Ok(node.into()),
        Err(error) => Err(syntax(&error)),
    }
}

fn syntax(error: &serde_saphyr::Error) -> Fault {
    let position = error.location().map(|location| Position {
        line: location.line(),
        column: location.column(),
    });
    let message = error.without_snippet().to_string();
    // The place is told by the fault itself.
    let message = message.lines().next().unwrap_or_default();
    let message = message.split(" at line ").next().unwrap_or(message);
    if let Some(key) = message.strip_prefix("duplicate mapping key: ") {
        let key = key.split(',').next().unwrap_or(key);
        let message = format!("`{key}` is given twice");
        return Fault::new(Problem::Conflict, position, message, "keep one of them");
    }
    Fault::new(
        Problem::Syntax,
        position,
        format!("this is not YAML: {message}"),
        "indent with blanks, put a blank behind each `:`, and quote texts that hold `: ` or ` #`",
    )
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        Self {
            value: spanned.value,
            position: Position {
                line: spanned.referenced.line(),
                column: spanned.referenced.column(),
            },
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Value;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_none<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
                Ok(Value::Bool(flag))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
                Ok(Value::Number(number.into()))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
                Ok(Value::Number(number.into()))
            }
            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Value, E> {
                let number = Number::from_f64(number).ok_or_else(|| E::custom("a number that is not finite"))?;
                Ok(Value::Number(number))
            }
            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element::<Spanned<Value>>()? {
                    list.push(item.into());
                }
                Ok(Value::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    let node: Spanned<Value> = map.next_value()?;
                    entries.push(Entry {
                        key: key.value,
                        position: Position {
                            line: key.referenced.line(),
                            column: key.referenced.column(),
                        },
                        node: node.into(),
                    });
                }
                Ok(Value::Map(entries))
            }
        }
        deserializer.deserialize_any(Read)
    }
}
