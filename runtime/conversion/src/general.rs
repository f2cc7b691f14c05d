//! What `general.*` says of a model beside its shape: the parts of its name, how large it is, how its makers sample it.
//!
//! The parts are guessed from the name as llama.cpp's converter guesses them: `Toy-Llama-3-8B-Instruct` has the base name `Toy-Llama-3`, the
//! size `8B` and the fine-tuning `Instruct`. A size that contradicts the number of parameters is no size. A model card is not read.

use std::sync::LazyLock;

use regex::Regex;
use witness_formats::{gguf::OwnedValue, hf::GenerationConfig};

/// The parts of a model's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NameParts {
    pub(crate) name: Option<String>,
    pub(crate) organization: Option<String>,
    pub(crate) basename: Option<String>,
    pub(crate) finetune: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) size_label: Option<String>,
}

/// What one part of a name is. A part may be several things at once.
#[derive(Clone, Copy, Default, PartialEq)]
struct Roles {
    basename: bool,
    size: bool,
    finetune: bool,
    version: bool,
    /// The type of the numbers, which belongs in no key.
    kind: bool,
}

impl Roles {
    fn none(self) -> bool {
        self == Roles::default()
    }

    fn only_basename(self) -> bool {
        self == Roles {
            basename: true,
            ..Roles::default()
        }
    }
}

#[expect(
    clippy::expect_used,
    reason = "the patterns are constants of this file and a test compiles them"
)]
fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a constant pattern")
}

static VERSION: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(?i:(?:v|iter)?\d+(?:\.\d+)*)$"));
static KIND: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(?i:i?q\d(?:_\w)*|b?fp?(?:16|32))$"));
static SIZE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^(?i:(?:A|\d+x)?\d+(?:[._]\d+)?[KMBT]\d?|small|mini|medium|large|x?xl)$"));
static FINETUNE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(?i:chat|instruct|vision|lora)$"));
static NUMBERED: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(?:v\d+(?:\.\d+)*|\d.*)$"));

impl NameParts {
    /// Takes a name apart. `parameters` is the number of the model's parameters; 0 when unknown, below 0 when it is that of an adapter.
    pub(crate) fn of(id: &str, parameters: i64) -> NameParts {
        if id.contains(' ') {
            return NameParts {
                name: Some(title(id)),
                ..NameParts::default()
            };
        }
        let (organization, full) = match id.split_once('/') {
            Some((organization, full)) => (
                Some(organization).filter(|name| !name.starts_with('.') && !name.is_empty()),
                full,
            ),
            None => (None, id),
        };
        let mut parts: Vec<(String, Roles)> = full
            .split('-')
            .filter(|part| !part.is_empty())
            .enumerate()
            .map(|(place, part)| classify(place, part, parameters))
            .collect();
        let has_number = parts
            .iter()
            .any(|(part, roles)| roles.size && part.contains(|c: char| c.is_ascii_digit()));
        for (part, roles) in &mut parts {
            // A word such as "mini" says little beside a number.
            if has_number && roles.size && part.chars().all(char::is_alphabetic) {
                roles.size = false;
            }
        }
        mark_basename(&mut parts);
        let join = |has: fn(&Roles) -> bool| {
            let chosen: Vec<&str> = parts
                .iter()
                .filter(|(_, roles)| has(roles))
                .map(|(part, _)| part.as_str())
                .collect();
            (!chosen.is_empty()).then(|| chosen.join("-"))
        };
        let mut sizes: Vec<&str> = Vec::new();
        for (part, _) in parts.iter().filter(|(_, roles)| roles.size) {
            if !sizes.contains(&part.as_str()) {
                sizes.push(part);
            }
        }
        let size_label = (!sizes.is_empty()).then(|| sizes.join("-"));
        let finetune = join(|roles| roles.finetune);
        let version = join(|roles| roles.version && !roles.basename);
        let is_ambiguous = size_label.is_none() && finetune.is_none() && version.is_none();
        NameParts {
            name: Some(title(full)),
            organization: organization.map(title),
            basename: join(|roles| roles.basename).filter(|_| !is_ambiguous),
            finetune,
            version,
            size_label,
        }
    }

    /// Fills what is still unknown from another source.
    pub(crate) fn or(self, other: NameParts) -> NameParts {
        NameParts {
            name: self.name.or(other.name),
            organization: self.organization.or(other.organization),
            basename: self.basename.or(other.basename),
            finetune: self.finetune.or(other.finetune),
            version: self.version.or(other.version),
            size_label: self.size_label.or(other.size_label),
        }
    }

    /// Returns the keys, in the order of llama.cpp's converter.
    pub(crate) fn keys(&self) -> Vec<(String, OwnedValue)> {
        [
            ("name", &self.name),
            ("version", &self.version),
            ("organization", &self.organization),
            ("finetune", &self.finetune),
            ("basename", &self.basename),
            ("size_label", &self.size_label),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((format!("general.{key}"), OwnedValue::String(value.clone()?))))
        .collect()
    }
}

fn classify(place: usize, part: &str, parameters: i64) -> (String, Roles) {
    let mut roles = Roles::default();
    if VERSION.is_match(part) {
        roles.version = true;
        return (part.to_owned(), roles);
    }
    if KIND.is_match(part) {
        roles.kind = true;
        return (part.to_uppercase(), roles);
    }
    if place > 0 && SIZE.is_match(part) {
        let (part, is_size) = size(part, parameters);
        roles.size = is_size;
        roles.finetune = !is_size;
        return (part, roles);
    }
    if place > 0 && FINETUNE.is_match(part) {
        roles.kind = parameters < 0 && part.eq_ignore_ascii_case("lora");
        roles.finetune = !roles.kind;
    }
    (part.to_owned(), roles)
}

/// Brings a size into its usual form, and says whether it can be the size of a model of so many parameters.
fn size(part: &str, parameters: i64) -> (String, bool) {
    let mut characters: Vec<char> = part.replace('_', ".").chars().collect();
    // 7b1 stands for 7.1B.
    if let [.., unit, last] = *characters.as_slice()
        && last.is_ascii_digit()
    {
        characters.truncate(characters.len() - 2);
        characters.extend(['.', last, unit]);
    }
    if let [.., before, last] = characters.as_mut_slice()
        && before.is_ascii_digit()
        && matches!(last, 'k' | 'm' | 'b' | 't')
    {
        *last = last.to_ascii_uppercase();
    }
    let text: String = characters.iter().collect();
    let unit = characters.last().copied().unwrap_or_default();
    let number: Option<f64> = text[..text.len() - unit.len_utf8()].parse().ok();
    let power = ['K', 'M', 'B', 'T'].iter().position(|known| *known == unit);
    if let (Some(number), Some(power), true) = (number, power, parameters != 0) {
        let label = number * 1000f64.powi(power as i32 + 1);
        let whole = parameters.unsigned_abs() as f64;
        let is_far = if parameters < 0 {
            label < (whole / 8.0).floor()
        } else {
            (label - whole).abs() > (7.0 * whole / 8.0).floor()
        };
        if is_far {
            // Probably the length of a context, which is written small.
            return (
                format!("{}{}", &text[..text.len() - 1], unit.to_ascii_lowercase()),
                false,
            );
        }
    }
    (text, true)
}

/// The first parts without another role, and versions among them, are the base name; a version that ends it is not.
fn mark_basename(parts: &mut [(String, Roles)]) {
    let mut is_start = true;
    for (part, roles) in parts.iter_mut() {
        let begins_with_letter = part.chars().next().is_some_and(char::is_alphabetic);
        if is_start && ((roles.none() && begins_with_letter) || roles.version) {
            roles.basename = true;
        } else {
            is_start = false;
            if roles.none() {
                roles.finetune = true;
            }
        }
    }
    for (_, roles) in parts.iter_mut().rev() {
        if !roles.basename || roles.only_basename() {
            break;
        }
        roles.basename = false;
    }
}

/// Writes an identifier as a title: `toy-llama-v2` is `Toy Llama v2`. Acronyms and versions stay.
fn title(id: &str) -> String {
    let words = id.trim().replace('-', " ");
    let words: Vec<String> = words
        .split_whitespace()
        .map(|word| {
            let is_lower = word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase);
            if !is_lower || NUMBERED.is_match(word) {
                return word.to_owned();
            }
            let mut after_letter = false;
            word.chars()
                .flat_map(|c| {
                    let upper = !after_letter;
                    after_letter = c.is_alphabetic();
                    if upper {
                        c.to_uppercase().collect::<Vec<char>>()
                    } else {
                        vec![c]
                    }
                })
                .collect()
        })
        .collect();
    words.join(" ")
}

/// Writes a number of parameters with at least two digits: 114K, 1.2B.
pub(crate) fn size_label(parameters: u64) -> String {
    let count = parameters as f64;
    let (scaled, unit) = match count {
        _ if count > 1e12 => (count * 1e-12, 'T'),
        _ if count > 1e9 => (count * 1e-9, 'B'),
        _ if count > 1e6 => (count * 1e-6, 'M'),
        _ => (count * 1e-3, 'K'),
    };
    let whole = scaled.round_ties_even().to_string();
    let decimals = 2usize.saturating_sub(whole.trim_start_matches('0').len());
    format!("{scaled:.decimals$}{unit}")
}

/// Returns how the makers sample the model, under the keys that llama.cpp reads.
pub(crate) fn sampling(generation: &GenerationConfig) -> Vec<(String, OwnedValue)> {
    let float = |value: Option<f64>| value.map(|value| OwnedValue::F32(value as f32));
    [
        (
            "top_k",
            generation
                .top_k
                .and_then(|value| i32::try_from(value).ok())
                .map(OwnedValue::I32),
        ),
        ("top_p", float(generation.top_p)),
        ("min_p", float(generation.min_p)),
        ("temp", float(generation.temperature)),
        ("penalty_repeat", float(generation.repetition_penalty)),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((format!("general.sampling.{key}"), value?)))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each expectation is what gguf-py's `Metadata.get_model_id_components` and `id_to_title` give.
    #[test]
    fn names_are_taken_apart_as_the_reference_does() {
        let parts = |id: &str, parameters: i64| {
            let parts = NameParts::of(id, parameters);
            let text = |part: Option<String>| part.unwrap_or_default();
            [
                text(parts.name),
                text(parts.basename),
                text(parts.finetune),
                text(parts.version),
                text(parts.size_label),
            ]
        };
        let cases = [
            (
                "meta-llama/Llama-3.2-1B-Instruct",
                1_235_814_432,
                ["Llama 3.2 1B Instruct", "Llama-3.2", "Instruct", "", "1B"],
            ),
            (
                "Mistral-7B-Instruct-v0.3",
                7_248_023_552,
                ["Mistral 7B Instruct v0.3", "Mistral", "Instruct", "v0.3", "7B"],
            ),
            ("bloom-7b1", 7_100_000_000, ["Bloom 7b1", "bloom", "", "", "7.1B"]),
            (
                "phi-3-mini-128k-instruct",
                3_800_000_000,
                ["Phi 3 Mini 128k Instruct", "phi-3", "128k-instruct", "", "mini"],
            ),
            ("toy-qwen3", 137_000, ["Toy Qwen3", "", "", "", ""]),
            ("a name of words", 5, ["A Name Of Words", "", "", "", ""]),
            (
                "Mixtral-8x7B-Instruct-v0.1",
                46_700_000_000,
                ["Mixtral 8x7B Instruct v0.1", "Mixtral", "Instruct", "v0.1", "8x7B"],
            ),
            (
                "my-model-Q4_K_M-xl-lora",
                -100_000,
                ["My Model Q4_K_M Xl Lora", "my-model", "", "", "xl"],
            ),
            (
                "SmolLM2-1.7B-Instruct",
                1_711_376_384,
                ["SmolLM2 1.7B Instruct", "SmolLM2", "Instruct", "", "1.7B"],
            ),
        ];
        for (id, parameters, expected) in cases {
            assert_eq!(parts(id, parameters), expected, "{id}");
        }
        assert_eq!(
            NameParts::of("meta-llama/X-1B", 0).organization.as_deref(),
            Some("Meta Llama")
        );
    }

    #[test]
    fn sizes_have_two_digits() {
        for (count, label) in [
            (113_872, "114K"),
            (1_235_814_432, "1.2B"),
            (8_030_261_248, "8.0B"),
            (70_553_706_496, "71B"),
            (656_000, "656K"),
            (995, "1.0K"),
            (1_000_000, "1000K"),
            (9_960_000, "10M"),
        ] {
            assert_eq!(size_label(count), label);
        }
    }
}
