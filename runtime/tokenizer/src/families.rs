//! Which rules cut text into words before merging, by the name in `tokenizer.ggml.pre`.
//!
//! A family is a list of rules, applied one after the other to the pieces that the rules before left. The names are those that GGUF
//! converters write; the patterns are facts of the tokenizers that the models were trained with. White space at the end of most
//! patterns follows one shared rule ([`Spaces`]), which keeps every pattern free of look-around and so linear in the text.

/// How a pattern treats runs of white space that its alternatives leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spaces {
    /// Not at all.
    Ignored,
    /// A run is one word, but gives its last character back when text follows.
    GiveBack,
    /// Like [`Spaces::GiveBack`], but a run that holds a line break was already taken by an alternative of the pattern.
    GiveBackAfterLines,
}

/// One step of cutting text into words.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule {
    /// Words are the matches and the gaps between them.
    Pattern(&'static str, Spaces),
    /// Runs of decimal digits are cut into threes counted from the right.
    DigitsFromRight,
    /// A pattern that needs look-around.
    LookAround(&'static str),
}

/// How a family cuts and marks text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Family {
    /// The steps, in order.
    pub(crate) rules: &'static [Rule],
    /// A word that is a token is that token, whatever the merges say.
    pub(crate) ignore_merges: bool,
    /// Text begins with a beginning-of-sequence token unless the file says otherwise.
    pub(crate) add_bos: bool,
    /// The vocabulary is written in UTF-8 with `▁` for spaces, not in the byte alphabet.
    pub(crate) raw_utf8: bool,
}

const fn family(rules: &'static [Rule]) -> Family {
    Family {
        rules,
        ignore_merges: false,
        add_bos: false,
        raw_utf8: false,
    }
}

const GPT2_PATTERN: Rule = Rule::Pattern(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+",
    Spaces::GiveBack,
);
const GPT2: &[Rule] = &[GPT2_PATTERN];
const ONE_DIGIT: Rule = Rule::Pattern(r"\p{N}", Spaces::Ignored);
const THREE_DIGITS: Rule = Rule::Pattern(r"\p{N}{1,3}", Spaces::Ignored);
const DIGITS_THEN_GPT2: &[Rule] = &[ONE_DIGIT, GPT2_PATTERN];
const ASCII_TRIPLE: Rule = Rule::Pattern("[0-9][0-9][0-9]", Spaces::Ignored);

const LLAMA3: &[Rule] = &[Rule::Pattern(
    r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
    Spaces::GiveBackAfterLines,
)];
const QWEN2_PATTERN: Rule = Rule::Pattern(
    r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
    Spaces::GiveBackAfterLines,
);
const QWEN2: &[Rule] = &[QWEN2_PATTERN];
const QWEN35: &[Rule] = &[Rule::Pattern(
    r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+",
    Spaces::GiveBackAfterLines,
)];
const DEEPSEEK_LLM: &[Rule] = &[
    Rule::Pattern(r"[\r\n]", Spaces::Ignored),
    Rule::Pattern(
        concat!(
            r"\s?[A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\u{2af}",
            r"\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}\u{3a3}-\u{3f5}",
            r"\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}",
            r"\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}",
            r"\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}",
            r"\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}",
            r"\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}",
            r"\u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}",
            r"\u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}",
            r"\u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}",
            r"\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}",
            r"\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}]+",
        ),
        Spaces::Ignored,
    ),
    Rule::Pattern(
        r"\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+",
        Spaces::Ignored,
    ),
    Rule::Pattern(r"\s+$", Spaces::Ignored),
    Rule::Pattern(r"[\u{800}-\u{9fa5}\u{ac00}-\u{d7ff}]+", Spaces::Ignored),
    Rule::Pattern(r"\p{N}+", Spaces::Ignored),
];
const DEEPSEEK_CODER: &[Rule] = &[
    Rule::Pattern(r"[\r\n]", Spaces::Ignored),
    Rule::Pattern(r"\s?\p{L}+", Spaces::Ignored),
    Rule::Pattern(r"\s?\p{P}+", Spaces::Ignored),
    Rule::Pattern(r"[\u{800}-\u{9fa5}\u{ac00}-\u{d7ff}]+", Spaces::Ignored),
    ONE_DIGIT,
];
const HAN_AND_KANA: Rule = Rule::Pattern(r"[\u{4e00}-\u{9fa5}\u{3040}-\u{30ff}]+", Spaces::Ignored);
const DEEPSEEK3_PATTERN: Rule = Rule::Pattern(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"##,
    Spaces::GiveBackAfterLines,
);
const DEEPSEEK3: &[Rule] = &[THREE_DIGITS, HAN_AND_KANA, DEEPSEEK3_PATTERN];
const SPARK25: &[Rule] = &[
    THREE_DIGITS,
    HAN_AND_KANA,
    Rule::Pattern(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]"##,
        Spaces::GiveBack,
    ),
    ONE_DIGIT,
];
const FALCON: &[Rule] = &[
    Rule::Pattern(r"[\p{P}\$\+<=>\^~\|`]+", Spaces::Ignored),
    GPT2_PATTERN,
    ASCII_TRIPLE,
];
const DEFAULT: &[Rule] = &[
    Rule::Pattern(r"[\p{P}\$\+<=>\^~\|]+", Spaces::Ignored),
    GPT2_PATTERN,
    Rule::Pattern(r"\p{N}+", Spaces::Ignored),
    ASCII_TRIPLE,
];
const BLOOM_PATTERN: Rule = Rule::Pattern(
    r" ?[^(\s|.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{964}\u{6d4}\u{60c})]+",
    Spaces::Ignored,
);
const BLOOM: &[Rule] = &[BLOOM_PATTERN];
const VIKING: &[Rule] = &[BLOOM_PATTERN, ONE_DIGIT];
const TEKKEN: &[Rule] = &[Rule::Pattern(
    concat!(
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
    ),
    Spaces::GiveBackAfterLines,
)];
/// The words of `o200k`, with digits in groups of `$digits`.
macro_rules! o200k {
    ($digits:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            r"(?:'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD]))?",
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            r"(?:'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD]))?",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
        )
    };
}
const O200K_PATTERN: Rule = Rule::Pattern(o200k!(r"|\p{N}{1,3}"), Spaces::GiveBackAfterLines);
const O200K: &[Rule] = &[O200K_PATTERN];
const TINY_AYA: &[Rule] = &[Rule::DigitsFromRight, O200K_PATTERN];
const YOUTU: &[Rule] = &[
    Rule::Pattern(
        concat!(
            r"[\u{ac00}-\u{d7a3}\u{3131}-\u{318e}]+",
            r"|[\u{ff01}\u{2026}\u{201c}\u{201d}\u{2018}\u{2019}\u{2014}\u{ff1a}\u{ff1b}\u{ff0c}\u{3001}-\u{303f}\u{fe30}-\u{fe4f}]+",
            r"|[\u{3105}-\u{312f}]+|[\u{4e00}-\u{9fa5}\u{3040}-\u{30ff}]+",
        ),
        Spaces::Ignored,
    ),
    Rule::Pattern(o200k!(r"|\p{N}"), Spaces::GiveBackAfterLines),
];
const KIMI_K2: &[Rule] = &[Rule::Pattern(
    concat!(
        r"\p{Han}+",
        r"|[^\r\n\p{L}\p{N}]?[[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]&&[^\p{Han}]]*[[\p{Ll}\p{Lm}\p{Lo}\p{M}]&&[^\p{Han}]]+",
        r"(?:'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD]))?",
        r"|[^\r\n\p{L}\p{N}]?[[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]&&[^\p{Han}]]+[[\p{Ll}\p{Lm}\p{Lo}\p{M}]&&[^\p{Han}]]*",
        r"(?:'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD]))?",
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
    ),
    Spaces::GiveBackAfterLines,
)];
const SUPERBPE: &[Rule] = &[Rule::Pattern(r"\p{N}+", Spaces::Ignored), Rule::DigitsFromRight];
const BAILING_MOE: &[Rule] = &[Rule::Pattern(
    r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]",
    Spaces::GiveBackAfterLines,
)];
const SEED_CODER: &[Rule] = &[Rule::Pattern(
    r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+",
    Spaces::GiveBackAfterLines,
)];
const AFMOE: &[Rule] = &[
    Rule::DigitsFromRight,
    Rule::Pattern(
        concat!(
            r"[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{f900}-\u{faff}\u{3040}-\u{30ff}\u{ff65}-\u{ff9f}\u{2f00}-\u{2fdf}",
            r"\u{e40}-\u{eff}\u{1780}-\u{17ff}\u{1000}-\u{109f}\u{aa60}-\u{aa7f}\u{a9e0}-\u{a9ff}\u{ac00}-\u{d7af}\u{1100}-\u{11ff}]+",
        ),
        Spaces::Ignored,
    ),
    DEEPSEEK3_PATTERN,
];
const EXAONE_MOE: &[Rule] = &[Rule::Pattern(
    concat!(
        r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])",
        r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]",
    ),
    Spaces::GiveBackAfterLines,
)];
const MINICPM5: &[Rule] = &[
    THREE_DIGITS,
    Rule::Pattern(
        r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
        Spaces::GiveBackAfterLines,
    ),
];
const CHAMELEON: &[Rule] = &[
    Rule::Pattern("<sentinel:[0-9]+>", Spaces::Ignored),
    Rule::Pattern("IMGIMG[A-I]{1,4}Z", Spaces::Ignored),
    Rule::Pattern(r"[\t\n]|    |  ", Spaces::Ignored),
    ONE_DIGIT,
    Rule::Pattern(r"[\p{P}!-/:-@\[-`{-\~]", Spaces::Ignored),
    GPT2_PATTERN,
];
const JAIS2: &[Rule] = &[Rule::LookAround(concat!(
    r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
    r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s",
))];
const LINES: Rule = Rule::Pattern("[^\n]+|\n+", Spaces::Ignored);
const LAGUNA: &[Rule] = &[LINES, QWEN2_PATTERN];
const GEMMA4: &[Rule] = &[LINES];

/// The family that a file without a name, or with an unknown one, gets.
pub(crate) const FALLBACK: Family = family(DEFAULT);

/// The family of vocabularies whose model is `gemma4`.
pub(crate) const GEMMA: Family = Family {
    add_bos: true,
    raw_utf8: true,
    ..family(GEMMA4)
};

/// Returns the family of a name in `tokenizer.ggml.pre`.
pub(crate) fn by_name(name: &str) -> Option<Family> {
    let rules = match name {
        "default" => DEFAULT,
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2"
        | "jina-v5-nano" => {
            return Some(Family {
                ignore_merges: true,
                add_bos: true,
                ..family(LLAMA3)
            });
        }
        "tekken" => {
            return Some(Family {
                ignore_merges: true,
                add_bos: true,
                ..family(TEKKEN)
            });
        }
        "youtu" | "minicpm5" => {
            return Some(Family {
                ignore_merges: true,
                ..family(if name == "youtu" { YOUTU } else { MINICPM5 })
            });
        }
        "granite-embed-multi-97m" => {
            return Some(Family {
                ignore_merges: true,
                ..family(O200K)
            });
        }
        "chameleon" => {
            return Some(Family {
                add_bos: true,
                ..family(CHAMELEON)
            });
        }
        "gemma4" | "granite-embed-multi-311m" => return Some(GEMMA),
        "sarvam-moe" => {
            return Some(Family {
                raw_utf8: true,
                ..family(GEMMA4)
            });
        }
        "dbrx" | "smaug-bpe" | "glm4" | "chatglm-bpe" => LLAMA3,
        "deepseek-llm" => DEEPSEEK_LLM,
        "deepseek-coder" => DEEPSEEK_CODER,
        "deepseek-v3" | "hunyuan-dense" | "joyai-llm" => DEEPSEEK3,
        "spark2_5" => SPARK25,
        "falcon" => FALCON,
        "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone" | "minerva-7b" | "mellum2" => {
            DIGITS_THEN_GPT2
        }
        "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" | "trillion" | "granite-docling" | "exaone4" | "gigachat"
        | "a.x-4.0" | "mellum" | "modern-bert" | "jina-es" | "jina-de" | "jina-v2-es" | "jina-v2-de" | "jina-v1-en"
        | "jina-v2-code" | "roberta-bpe" => GPT2,
        "stablelm2" | "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "hunyuan" | "solar-open"
        | "grok-2" => QWEN2,
        "qwen35" => QWEN35,
        "poro-chat" | "bloom" | "gpt3-finnish" => BLOOM,
        "viking" => VIKING,
        "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => O200K,
        "tiny_aya" | "cohere2moe" => TINY_AYA,
        "kimi-k2" => KIMI_K2,
        "superbpe" => SUPERBPE,
        "bailingmoe" | "bailingmoe2" | "llada-moe" => BAILING_MOE,
        "seed-coder" => SEED_CODER,
        "afmoe" => AFMOE,
        "exaone-moe" => EXAONE_MOE,
        "laguna" => LAGUNA,
        "jais-2" => JAIS2,
        _ => return None,
    };
    Some(family(rules))
}
