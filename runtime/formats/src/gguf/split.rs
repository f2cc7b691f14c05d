//! Models split over several files: each says its number and how many there are, and together they must be whole.
//!
//! Source: the `split.*` keys that llama.cpp's gguf-split writes. File names are only used to find siblings; the keys decide.

use std::path::{Path, PathBuf};

use super::{PARTS_MAX, reader::Part};
use crate::{FormatError, Result};

/// Puts parts in order and proves that they are all parts of one model, each once.
pub(super) fn in_order(mut parts: Vec<Part>) -> Result<Vec<Part>> {
    let count = parts.len();
    match parts.as_slice() {
        [] => return Err(FormatError::missing("the model", "GGUF file")),
        [only] if only.metadata.opt_u64("split.count")?.unwrap_or(1) <= 1 => return Ok(parts),
        _ => {}
    }
    let mut numbered: Vec<(u64, Part)> = Vec::new();
    for part in parts.drain(..) {
        let wrong = |key: &str, expected: String, found: String| {
            FormatError::malformed(part.file.clone(), format!("metadata `{key}`"), expected, found)
        };
        let told = part.metadata.opt_u64("split.count")?.ok_or_else(|| {
            wrong(
                "split.count",
                format!("{count}, because {count} files were given as one model"),
                "nothing".to_owned(),
            )
        })?;
        let number = part.metadata.u64("split.no")?;
        if told != count as u64 {
            return Err(FormatError::Missing {
                file: part.file.clone(),
                what: format!(
                    "complete set of parts: it is part {} of {told}, and {count} were given",
                    number.saturating_add(1)
                ),
                hint: Some("name every part: one FROM line per file, or the directory that holds them all".to_owned()),
            });
        }
        if number >= told {
            return Err(wrong("split.no", format!("a number below {told}"), number.to_string()));
        }
        numbered.push((number, part));
    }
    numbered.sort_by_key(|(number, _)| *number);
    for (expected, (number, part)) in numbered.iter().enumerate() {
        if *number != expected as u64 {
            return Err(FormatError::malformed(
                part.file.clone(),
                "metadata `split.no`",
                format!("part {expected} once"),
                format!("part {number}"),
            ));
        }
    }
    let parts: Vec<Part> = numbered.into_iter().map(|(_, part)| part).collect();
    let tensors: usize = parts.iter().map(|part| part.tensors.len()).sum();
    for part in &parts {
        if let Some(told) = part.metadata.opt_u64("split.tensors.count")?
            && told != tensors as u64
        {
            return Err(FormatError::malformed(
                part.file.clone(),
                "metadata `split.tensors.count`",
                format!("{tensors}, the tensors of all parts"),
                told.to_string(),
            ));
        }
    }
    Ok(parts)
}

/// Returns the names of all parts when a path looks like `name-00001-of-00003.gguf`.
pub(super) fn siblings(path: &Path) -> Option<Vec<PathBuf>> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(count) || !is_number(number) {
        return None;
    }
    let total: usize = count.parse().ok()?;
    if !(2..=PARTS_MAX).contains(&total) {
        return None;
    }
    Some(
        (1..=total)
            .map(|part| path.with_file_name(format!("{name}-{part:05}-of-{count}.gguf")))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_are_named_only_by_the_usual_pattern() {
        let parts = siblings(Path::new("/x/m-q4-00002-of-00003.gguf")).unwrap();
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[0], Path::new("/x/m-q4-00001-of-00003.gguf"));
        for name in [
            "m.gguf",
            "m-00001-of-00001.gguf",
            "m-1-of-2.gguf",
            "m-00001-of-99999.gguf",
            "m-00001-of-00002.bin",
        ] {
            assert_eq!(siblings(Path::new(name)), None, "{name}");
        }
    }
}
