//! The names under which people ask for a quantized model, such as `Q4_K_M`. What each makes of a model is in [`crate::plan`].

use std::fmt;
use std::str::FromStr;

use witness_diagnostics::near_miss;
use witness_formats::gguf::GgmlType;

use crate::error::{QuantizationError, Result};

/// A way to quantize a whole model: most tensors get one type, some a better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(non_camel_case_types, missing_docs, reason = "the names are llama.cpp's own")]
pub enum Mixture {
    IQ1_S,
    TQ1_0,
    IQ1_M,
    TQ2_0,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ2_M,
    Q2_K_S,
    Q2_K,
    IQ3_XXS,
    IQ3_XS,
    IQ3_S,
    IQ3_M,
    Q3_K_S,
    Q3_K_M,
    Q3_K_L,
    IQ4_XS,
    Q4_0,
    IQ4_NL,
    Q4_K_S,
    Q4_K_M,
    Q4_1,
    Q5_0,
    Q5_K_S,
    Q5_K_M,
    Q5_1,
    Q6_K,
    Q8_0,
    F16,
    BF16,
    F32,
}

struct Row {
    mixture: Mixture,
    name: &'static str,
    /// The number in `general.file_type`.
    file_type: u32,
    base: GgmlType,
}

const fn row(mixture: Mixture, name: &'static str, file_type: u32, base: GgmlType) -> Row {
    Row {
        mixture,
        name,
        file_type,
        base,
    }
}

static TABLE: [Row; 32] = [
    row(Mixture::IQ1_S, "IQ1_S", 24, GgmlType::IQ1_S),
    row(Mixture::TQ1_0, "TQ1_0", 36, GgmlType::TQ1_0),
    row(Mixture::IQ1_M, "IQ1_M", 31, GgmlType::IQ1_M),
    row(Mixture::TQ2_0, "TQ2_0", 37, GgmlType::TQ2_0),
    row(Mixture::IQ2_XXS, "IQ2_XXS", 19, GgmlType::IQ2_XXS),
    row(Mixture::IQ2_XS, "IQ2_XS", 20, GgmlType::IQ2_XS),
    row(Mixture::IQ2_S, "IQ2_S", 28, GgmlType::IQ2_XS),
    row(Mixture::IQ2_M, "IQ2_M", 29, GgmlType::IQ2_S),
    row(Mixture::Q2_K_S, "Q2_K_S", 21, GgmlType::Q2_K),
    row(Mixture::Q2_K, "Q2_K", 10, GgmlType::Q2_K),
    row(Mixture::IQ3_XXS, "IQ3_XXS", 23, GgmlType::IQ3_XXS),
    row(Mixture::IQ3_XS, "IQ3_XS", 22, GgmlType::IQ3_S),
    row(Mixture::IQ3_S, "IQ3_S", 26, GgmlType::IQ3_S),
    row(Mixture::IQ3_M, "IQ3_M", 27, GgmlType::IQ3_S),
    row(Mixture::Q3_K_S, "Q3_K_S", 11, GgmlType::Q3_K),
    row(Mixture::Q3_K_M, "Q3_K_M", 12, GgmlType::Q3_K),
    row(Mixture::Q3_K_L, "Q3_K_L", 13, GgmlType::Q3_K),
    row(Mixture::IQ4_XS, "IQ4_XS", 30, GgmlType::IQ4_XS),
    row(Mixture::Q4_0, "Q4_0", 2, GgmlType::Q4_0),
    row(Mixture::IQ4_NL, "IQ4_NL", 25, GgmlType::IQ4_NL),
    row(Mixture::Q4_K_S, "Q4_K_S", 14, GgmlType::Q4_K),
    row(Mixture::Q4_K_M, "Q4_K_M", 15, GgmlType::Q4_K),
    row(Mixture::Q4_1, "Q4_1", 3, GgmlType::Q4_1),
    row(Mixture::Q5_0, "Q5_0", 8, GgmlType::Q5_0),
    row(Mixture::Q5_K_S, "Q5_K_S", 16, GgmlType::Q5_K),
    row(Mixture::Q5_K_M, "Q5_K_M", 17, GgmlType::Q5_K),
    row(Mixture::Q5_1, "Q5_1", 9, GgmlType::Q5_1),
    row(Mixture::Q6_K, "Q6_K", 18, GgmlType::Q6_K),
    row(Mixture::Q8_0, "Q8_0", 7, GgmlType::Q8_0),
    row(Mixture::F16, "F16", 1, GgmlType::F16),
    row(Mixture::BF16, "BF16", 32, GgmlType::BF16),
    row(Mixture::F32, "F32", 0, GgmlType::F32),
];

/// Shorter names for the usual one of a family.
const ALIASES: [(&str, Mixture); 3] = [
    ("Q3_K", Mixture::Q3_K_M),
    ("Q4_K", Mixture::Q4_K_M),
    ("Q5_K", Mixture::Q5_K_M),
];

impl Mixture {
    /// Returns every mixture, roughly the smallest first.
    pub fn all() -> impl Iterator<Item = Mixture> {
        TABLE.iter().map(|row| row.mixture)
    }

    /// Returns llama.cpp's name, such as `Q4_K_M`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Returns the number of the mixture in the metadata entry `general.file_type`.
    pub fn file_type(self) -> u32 {
        self.row().file_type
    }

    /// Returns the type that most tensors get.
    pub fn base(self) -> GgmlType {
        self.row().base
    }

    /// Says whether most of a model is of no use in it without an importance matrix; the plan says it of each tensor.
    pub fn needs_importance(self) -> bool {
        matches!(
            self,
            Mixture::IQ1_S
                | Mixture::IQ1_M
                | Mixture::IQ2_XXS
                | Mixture::IQ2_XS
                | Mixture::IQ2_S
                | Mixture::IQ2_M
                | Mixture::Q2_K_S
                | Mixture::IQ3_XXS
                | Mixture::IQ3_XS
        )
    }

    fn row(self) -> &'static Row {
        // Rows lie in the order of the variants, which a test proves.
        &TABLE[self as usize]
    }
}

impl fmt::Display for Mixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Mixture {
    type Err = QuantizationError;

    /// Reads a name in any case; `Q3_K`, `Q4_K` and `Q5_K` stand for their `_M`.
    fn from_str(word: &str) -> Result<Mixture> {
        let names = TABLE.iter().map(|row| (row.name, row.mixture)).chain(ALIASES);
        let is_it = |name: &str| name.eq_ignore_ascii_case(word.trim());
        let found = names.clone().find(|(name, _)| is_it(name));
        found
            .map(|(_, mixture)| mixture)
            .ok_or_else(|| QuantizationError::Name {
                what: "type to quantize to",
                found: word.to_owned(),
                known: list(TABLE.iter().map(|row| row.name)),
                near: near_miss(word, names.map(|(name, _)| name)).map(str::to_owned),
            })
    }
}

/// Reads the name of a type that [`crate::encode`] writes, in any case.
pub fn parse_type(word: &str) -> Result<GgmlType> {
    let found = GgmlType::from_name(word.trim()).filter(|kind| crate::ENCODED.contains(kind));
    found.ok_or_else(|| {
        let names: Vec<String> = crate::ENCODED.iter().map(|kind| kind.name()).collect();
        QuantizationError::Name {
            what: "tensor type",
            found: word.to_owned(),
            known: list(names.iter().map(String::as_str)),
            near: near_miss(word, names.iter().map(String::as_str)).map(str::to_owned),
        }
    })
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_in_any_case() {
        for (place, mixture) in Mixture::all().enumerate() {
            assert_eq!(mixture as usize, place);
            assert_eq!(mixture.to_string().to_lowercase().parse(), Ok(mixture));
            assert_eq!(mixture.name(), format!("{mixture:?}"));
            let file_type = witness_formats::gguf::file_type_name(u64::from(mixture.file_type()));
            assert_eq!(file_type, Some(mixture.name()));
        }
        assert_eq!("q4_k".parse(), Ok(Mixture::Q4_K_M));
        assert_eq!(parse_type("q6_k"), Ok(GgmlType::Q6_K));
    }

    #[test]
    fn a_mistyped_name_finds_its_neighbour() {
        let error = "Q4KM".parse::<Mixture>().unwrap_err();
        let diagnostic = witness_diagnostics::Diagnostic::from(error);
        assert!(
            diagnostic
                .message
                .contains("`Q4KM` is not a type to quantize to; known are IQ1_S, "),
            "{diagnostic:?}"
        );
        assert_eq!(diagnostic.hints, ["did you mean `Q4_K_M`?"]);
        let error = parse_type("q7_k").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("`q7_k` is not a tensor type; known are F32, F16"),
            "{error}"
        );
        // A type that ggml has and this crate does not write.
        assert!(parse_type("MXFP4").is_err());
    }
}
