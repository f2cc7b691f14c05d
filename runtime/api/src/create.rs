//! `/api/create`: a model from blobs or from another model; and the progress lines of every long route.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};

use crate::lenient::{is_zero, null_default};
use crate::{ErrorBody, Message};

/// Body of `POST /api/create`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CreateRequest {
    /// Name of the model to make.
    #[serde(alias = "name", deserialize_with = "null_default")]
    pub model: String,
    /// Model to start from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Files of the base: file name to `sha256:<hex>` of a blob that is already here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<StringMap>,
    /// Files of adapters: `NAME/file` (or `file`, which belongs to the adapter `default`) to `sha256:<hex>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapters: Option<StringMap>,
    /// Ours: model whose base guesses tokens ahead of this one's. It must have the same vocabulary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft: Option<String>,
    /// Ours: files of such a draft in place of a model's name: file name to `sha256:<hex>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft_files: Option<StringMap>,
    /// Prompt template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// One licence text or several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license: Option<TextOrList>,
    /// System message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Default options of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Map<String, Value>>,
    /// Messages that begin every conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// Send progress lines; true when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Storage that the base's weights are brought to, by a name of llama.cpp's: `q4_K_M`, `Q8_0`, `f16`.
    #[serde(alias = "quantization", skip_serializing_if = "Option::is_none")]
    pub quantize: Option<String>,
    /// Ours: how to quantize.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize_options: Option<QuantizeFields>,
    /// Ours: the adapter of `from` that is merged into the base; an empty name is the first. The model has no adapters then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merge: Option<String>,
    /// Version of the program that the model needs at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requires: Option<String>,
    /// Text of a Modelfile: what clients before 0.5.5 sent. Answered with a hint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modelfile: Option<String>,
    /// Ours: prove each adapter on the loaded base before it is accepted; true when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<bool>,
}

/// How weights are quantized.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QuantizeFields {
    /// Importance matrix: `sha256:<hex>` of a blob that is already here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imatrix: Option<String>,
    /// Types of tensors by a regular expression of their GGUF names, in order.
    #[serde(skip_serializing_if = "StringMap::is_empty")]
    pub tensor_types: StringMap,
    /// Type of the output matrix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_type: Option<String>,
    /// Type of the embedding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding_type: Option<String>,
    /// One type for all matrices.
    pub pure: bool,
    /// Quantize what is quantized already.
    pub requantize: bool,
}

impl CreateRequest {
    /// Returns whether progress lines are sent.
    pub fn streams(&self) -> bool {
        self.stream.unwrap_or(true)
    }
}

/// A JSON object of texts that keeps its order: the order of adapters means something, and of split files too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StringMap(pub Vec<(String, String)>);

impl StringMap {
    /// Says whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for StringMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de> Deserialize<'de> for StringMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = StringMap;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of file names and digests")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<StringMap, A::Error> {
                let mut pairs: Vec<(String, String)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if pairs.iter().any(|(known, _)| *known == key) {
                        return Err(de::Error::custom(format!("`{key}` is given twice")));
                    }
                    pairs.push((key, value));
                }
                Ok(StringMap(pairs))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// One text or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TextOrList {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl TextOrList {
    /// Returns the texts as a list.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            TextOrList::One(text) => vec![text],
            TextOrList::Many(texts) => texts,
        }
    }
}

/// A progress line: what is being done, and how far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// `creating new layer sha256:..`, `writing manifest`, `success`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// Blob that the line is about.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Bytes in all.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    /// Bytes done.
    #[serde(skip_serializing_if = "is_zero")]
    pub completed: u64,
    /// Why it broke off, on a last line that is an error.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ErrorBody>,
}

impl Progress {
    /// Makes a line of text alone.
    pub fn status(text: impl Into<String>) -> Self {
        Self {
            status: text.into(),
            ..Self::default()
        }
    }
}
