//! Which tokens stand before and after a text: what the post-processor of `tokenizer.json` does to a single text.

use super::config::Config;
use crate::error::TokenizerError;
use crate::special::Specials;
use crate::vocabulary::Vocabulary;
use serde_json::Value;

/// The most tokens that may stand on one side of a text.
const SIDE_MAX: usize = 64;

/// Writes what stands around a text, with the settings of `tokenizer_config.json` applied.
pub(crate) fn read(
    processor: &Value,
    vocabulary: &Vocabulary,
    config: &Config,
    specials: &mut Specials,
) -> Result<(), TokenizerError> {
    let (prefix, suffix) = sides(processor, vocabulary)?;
    (specials.prefix, specials.suffix) = (prefix, suffix);
    if let (Some(add), Some(bos)) = (config.add_bos, specials.bos) {
        set(&mut specials.prefix, 0, bos, add);
    }
    if let (Some(add), Some(eos)) = (config.add_eos, specials.eos) {
        let end = specials.suffix.len();
        set(&mut specials.suffix, end, eos, add);
    }
    Ok(())
}

fn set(side: &mut Vec<u32>, place: usize, token: u32, wanted: bool) {
    if !wanted {
        side.retain(|id| *id != token);
    } else if !side.contains(&token) {
        side.insert(place, token);
    }
}

fn sides(processor: &Value, vocabulary: &Vocabulary) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
    let kind = processor.get("type").and_then(Value::as_str);
    match kind {
        None if processor.is_null() => Ok(Default::default()),
        Some("ByteLevel") => Ok(Default::default()),
        Some("TemplateProcessing") => template(processor, vocabulary),
        Some("BertProcessing" | "RobertaProcessing") => {
            let side = |name: &str| named(&processor[name][1], vocabulary).map(|id| vec![id]);
            Ok((side("cls")?, side("sep")?))
        }
        Some("Sequence") => {
            let mut around = (Vec::new(), Vec::new());
            let steps = processor["processors"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            // Components were checked before: a sequence never nests deeper than their limit.
            for step in steps {
                let (before, after) = sides(step, vocabulary)?;
                around.0.splice(0..0, before);
                around.1.extend(after);
                limit(&around.0, &around.1)?;
            }
            Ok(around)
        }
        other => Err(TokenizerError::Unsupported {
            model: format!("post_processor {}", other.unwrap_or("without a type")),
        }),
    }
}

fn template(processor: &Value, vocabulary: &Vocabulary) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut text_seen = false;
    let pieces = processor["single"].as_array().map(Vec::as_slice).unwrap_or_default();
    for piece in pieces {
        if piece.get("Sequence").is_some() {
            text_seen = true;
            continue;
        }
        let Some(name) = piece["SpecialToken"]["id"].as_str() else {
            return Err(TokenizerError::damaged(
                "post_processor.single",
                "a piece is neither a text nor a token",
            ));
        };
        let ids = processor["special_tokens"][name]["ids"].as_array();
        let Some(ids) = ids else {
            return Err(TokenizerError::damaged(
                "post_processor.special_tokens",
                "a token of the template has no ids",
            ));
        };
        let side = if text_seen { &mut after } else { &mut before };
        for id in ids.iter().take(SIDE_MAX + 1) {
            side.push(named(id, vocabulary)?);
        }
        limit(&before, &after)?;
    }
    Ok((before, after))
}

fn limit(before: &[u32], after: &[u32]) -> Result<(), TokenizerError> {
    crate::vocabulary::check_limit(
        "number of tokens around a text",
        before.len().max(after.len()),
        SIDE_MAX,
    )
}

/// Reads an id and shows that it is in the vocabulary.
fn named(value: &Value, vocabulary: &Vocabulary) -> Result<u32, TokenizerError> {
    value
        .as_u64()
        .and_then(|id| u32::try_from(id).ok())
        .filter(|id| !vocabulary.text(*id).is_empty())
        .ok_or_else(|| TokenizerError::damaged("post_processor", format!("{value} is not the id of a token")))
}
