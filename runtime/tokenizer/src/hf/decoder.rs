//! Which of this crate's ways of decoding a `decoder` of `tokenizer.json` is.

use crate::decode::Scheme;
use crate::error::TokenizerError;
use serde_json::Value;

/// Returns the way of decoding; one that cannot be done token by token is refused.
pub(crate) fn scheme(decoder: &Value) -> Result<Scheme, TokenizerError> {
    let kind = decoder.get("type").and_then(Value::as_str);
    Ok(match kind {
        None if decoder.is_null() => Scheme::Spaced,
        Some("ByteLevel") => Scheme::ByteLevel,
        Some("Metaspace") => metaspace(decoder),
        Some("WordPiece") => Scheme::WordPiece {
            prefix: text(&decoder["prefix"], "##"),
            cleanup: decoder["cleanup"].as_bool().unwrap_or(true),
        },
        Some("Sequence") => sequence(decoder["decoders"].as_array().map(Vec::as_slice).unwrap_or_default())?,
        Some("Fuse" | "ByteFallback" | "Replace") => sequence(std::slice::from_ref(decoder))?,
        other => return Err(unsupported(other)),
    })
}

fn sequence(steps: &[Value]) -> Result<Scheme, TokenizerError> {
    if let [only] = steps
        && matches!(only["type"].as_str(), Some("ByteLevel" | "Metaspace" | "WordPiece"))
    {
        return scheme(only);
    }
    let (mut marker, mut space) = (String::new(), String::new());
    let (mut bytes, mut fused, mut leading) = (false, false, 0);
    for step in steps {
        match step["type"].as_str() {
            Some("Replace") if marker.is_empty() && !fused => {
                let Some(pattern) = step["pattern"]["String"].as_str() else {
                    return Err(unsupported(Some("Replace by a regular expression")));
                };
                marker = pattern.to_owned();
                space = text(&step["content"], "");
            }
            Some("ByteFallback") if !fused => bytes = true,
            Some("Fuse") => fused = true,
            Some("Strip") if fused && step["content"] == " " && step["stop"].as_u64() == Some(0) => {
                leading = step["start"]
                    .as_u64()
                    .and_then(|count| usize::try_from(count).ok())
                    .unwrap_or(0);
            }
            other => return Err(unsupported(other)),
        }
    }
    Ok(Scheme::Marked {
        marker,
        space,
        bytes,
        leading,
    })
}

fn metaspace(decoder: &Value) -> Scheme {
    let marker = decoder["replacement"].as_str().and_then(|text| text.chars().next());
    let never = decoder["prepend_scheme"] == "never" || decoder["add_prefix_space"] == false;
    Scheme::Metaspace {
        marker: marker.unwrap_or('▁'),
        first_drops: !never,
    }
}

fn text(value: &Value, default: &str) -> String {
    value.as_str().unwrap_or(default).to_owned()
}

fn unsupported(kind: Option<&str>) -> TokenizerError {
    let kind: String = kind.unwrap_or("without a type").chars().take(64).collect();
    TokenizerError::Unsupported {
        model: format!("decoder {kind}"),
    }
}
