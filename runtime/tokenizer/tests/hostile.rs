//! Damaged files and hostile texts: an error or a working tokenizer, never a panic, a hang or an endless allocation.
//!
//! The mutation tests build 10,000 small tokenizers each, which takes a few seconds in the development profile.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails with the test")]

mod shared;

use shared::shared;
use std::fs;
use std::path::Path;
use witness_formats::gguf::{Gguf, Writer};
use witness_tokenizer::{Encode, HfFiles, Tokenizer, TokenizerError};

const MUTATIONS: u64 = 10_000;
const TEXT: &str = " Hello hello\n\n  12345 été <s>x</s> 你 \u{0}<0x41> it's   ";

/// A small generator of numbers that are the same in every run (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % below.max(1) as u64) as usize
    }
}

/// Uses whatever could be loaded, in every way there is.
fn exercise(tokenizer: &Tokenizer) {
    for options in [(false, false), (true, true), (true, false)] {
        let options = Encode {
            add_special: options.0,
            parse_special: options.1,
        };
        if let Ok(tokens) = tokenizer.encode(TEXT, options) {
            assert!(tokens.len() < 10_000, "{} tokens", tokens.len());
            let _ = tokenizer.decode(&tokens, true);
        }
    }
    let _ = tokenizer.decode(&[0, 1, 2, 3, u32::MAX, tokenizer.vocab_size() as u32], false);
    assert!(tokenizer.token_bytes(u32::MAX).is_empty());
    let _ = (
        tokenizer.bos_token().len(),
        tokenizer.eos_token().len(),
        tokenizer.adds_bos(),
    );
}

fn from_json(json: &[u8]) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_hf_bytes(HfFiles {
        tokenizer: json,
        tokenizer_config: Some(br#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": true}"#),
        ..HfFiles::default()
    })
}

/// A small file with one of everything.
fn small_json() -> Vec<u8> {
    let added = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": true,
                           "normalized": false, "special": true})
    };
    let vocab: serde_json::Map<String, serde_json::Value> = [
        "<unk>", "<s>", "</s>", "▁", "h", "e", "l", "o", "he", "ll", "hell", "hello", "▁hello", "<0x41>", "1",
    ]
    .iter()
    .enumerate()
    .map(|(id, text)| ((*text).to_owned(), id.into()))
    .collect();
    let file = serde_json::json!({
        "version": "1.0",
        "truncation": {"max_length": 512, "stride": 0, "strategy": "LongestFirst", "direction": "Right"},
        "padding": {"strategy": {"Fixed": 512}, "direction": "Right", "pad_to_multiple_of": 8, "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"},
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>"), added(15, "<new>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Lowercase"}, {"type": "NFC"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}|[^\\s\\p{N}]+|\\s+(?!\\S)|\\s+"}, "behavior": "Isolated", "invert": false},
            {"type": "Digits", "individual_digits": true}]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": ["h e", "l l", "he ll", ["hell", "o"], ["▁", "hello"]]},
    });
    serde_json::to_vec(&file).unwrap()
}

/// Changes a few bytes: one bit, any byte, a digit, a cut, or a piece copied elsewhere.
fn mutate(bytes: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..1 + numbers.next(4) {
        let at = numbers.next(bytes.len());
        match numbers.next(6) {
            0 => bytes[at] ^= 1 << numbers.next(8),
            1 => bytes[at] = numbers.next(256) as u8,
            2 => {
                let digits = bytes.iter().enumerate().filter(|(_, byte)| byte.is_ascii_digit());
                let places: Vec<usize> = digits.map(|(place, _)| place).collect();
                if !places.is_empty() {
                    let place = places[numbers.next(places.len())];
                    let long = b"99999999999999999999"[..1 + numbers.next(20)].to_vec();
                    bytes.splice(place..=place, long);
                }
            }
            3 => {
                let end = (at + 1 + numbers.next(12)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + numbers.next(40)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = numbers.next(bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => bytes[at] = b"{}[],:\"\\ \n0-"[numbers.next(12)],
        }
        if bytes.is_empty() {
            bytes.push(b'{');
        }
    }
    bytes
}

#[test]
fn the_small_file_is_sound() {
    let tokenizer = from_json(&small_json()).unwrap();
    let options = Encode {
        add_special: true,
        parse_special: true,
    };
    assert_eq!(tokenizer.encode("hello</s>", options).unwrap(), [1, 11, 2]);
    assert_eq!(tokenizer.decode(&[1, 12, 11, 13, 2], true), "hellohelloA");
    exercise(&tokenizer);
}

#[test]
fn every_truncation_of_tokenizer_json_is_an_error() {
    let json = small_json();
    for end in 0..json.len() {
        assert!(from_json(&json[..end]).is_err(), "{end} bytes of {}", json.len());
    }
}

#[test]
fn mutations_of_tokenizer_json_are_errors_or_work() {
    let json = small_json();
    let mut numbers = Numbers(1);
    let mut loaded = 0;
    for _ in 0..MUTATIONS {
        if let Ok(tokenizer) = from_json(&mutate(&json, &mut numbers)) {
            exercise(&tokenizer);
            loaded += 1;
        }
    }
    assert!(
        loaded > 100,
        "only {loaded} of {MUTATIONS} could be loaded: the test no longer reaches the tokenizer"
    );
}

/// Each of these makes the `tokenizers` crate panic, reserve far too much, or do endless work when it is handed over unchecked.
#[test]
fn what_the_crate_trusts_is_refused_by_name() {
    let base: serde_json::Value = serde_json::from_slice(&small_json()).unwrap();
    let sequence = |depth: usize| {
        (0..depth).fold(
            serde_json::json!({"type": "Digits", "individual_digits": true}),
            |inner, _| serde_json::json!({"type": "Sequence", "pretokenizers": [inner]}),
        )
    };
    let cases = [
        (
            "/added_tokens/3/id",
            serde_json::json!(4_000_000_000u32),
            "id of an added token",
        ),
        ("/added_tokens/3/id", serde_json::json!(700), "its place gives it"),
        ("/added_tokens/3/content", serde_json::json!(""), "is empty"),
        (
            "/added_tokens/3/content",
            serde_json::json!("x".repeat(5000)),
            "length of an added token",
        ),
        ("/model/vocab/he", serde_json::json!(4_294_967_295u32), "id of a token"),
        ("/model/dropout", serde_json::json!(0.5), "dropout"),
        ("/model/merges/0", serde_json::json!("he"), "no space"),
        ("/model/merges/0", serde_json::json!("x y"), "model"),
        (
            "/model/continuing_subword_prefix",
            serde_json::json!("####"),
            "continuing_subword_prefix",
        ),
        ("/model/type", serde_json::json!("Oracle"), "Oracle"),
        ("/version", serde_json::json!("2.0"), "2.0"),
        (
            "/post_processor/special_tokens/<s>/ids/0",
            serde_json::json!(99),
            "not the id of a token",
        ),
        ("/pre_tokenizer", sequence(40), "depth"),
        (
            "/pre_tokenizer/pretokenizers/1",
            serde_json::json!({"type": "FixedLength", "length": 0}),
            "fixed length",
        ),
        (
            "/pre_tokenizer/pretokenizers/0/pattern/Regex",
            serde_json::json!("((a{900}){900}){900}"),
            "repeats",
        ),
        (
            "/pre_tokenizer/pretokenizers/0/pattern/Regex",
            serde_json::json!("(".repeat(40)),
            "nests",
        ),
        (
            "/normalizer/normalizers/2/content",
            serde_json::json!("x".repeat(1000)),
            "growth",
        ),
        (
            "/normalizer/normalizers/0",
            serde_json::json!({"type": "Precompiled", "precompiled_charsmap": "/////////////w=="}),
            "character map",
        ),
        ("/decoder", serde_json::json!({"type": "CTC"}), "CTC"),
    ];
    for (pointer, value, word) in cases {
        let mut file = base.clone();
        *file.pointer_mut(pointer).unwrap() = value;
        let error = from_json(&serde_json::to_vec(&file).unwrap())
            .map(|_| pointer)
            .unwrap_err();
        assert!(error.to_string().contains(word), "{pointer}: {error}");
    }
    assert!(from_json("[".repeat(100_000).as_bytes()).is_err());
    assert!(from_json(b"").is_err());
}

/// Writes a vocabulary as GGUF; `change` may damage it first.
fn gguf(model: &str, change: impl FnOnce(&mut Arrays)) -> Result<Tokenizer, TokenizerError> {
    gguf_at(tempfile::NamedTempFile::new().unwrap().path(), model, change)
}

/// Like [`gguf`], at a path of its own.
fn gguf_at(path: &Path, model: &str, change: impl FnOnce(&mut Arrays)) -> Result<Tokenizer, TokenizerError> {
    let mut arrays = Arrays::small();
    change(&mut arrays);
    let mut writer = Writer::new();
    writer.set("general.architecture", "llama").unwrap();
    writer.set("tokenizer.ggml.model", model).unwrap();
    writer.set("tokenizer.ggml.pre", arrays.pre.as_str()).unwrap();
    writer.set("tokenizer.ggml.tokens", arrays.tokens).unwrap();
    writer.set("tokenizer.ggml.scores", arrays.scores).unwrap();
    writer.set("tokenizer.ggml.token_type", arrays.kinds).unwrap();
    writer.set("tokenizer.ggml.merges", arrays.merges).unwrap();
    for (name, id) in ["bos", "eos", "unknown"].iter().zip(arrays.ids) {
        writer.set(&format!("tokenizer.ggml.{name}_token_id"), id).unwrap();
    }
    let bytes = writer.begin(Vec::new()).unwrap().finish().unwrap();
    fs::write(path, bytes).unwrap();
    Tokenizer::from_gguf(&Gguf::open_file(path)?)
}

struct Arrays {
    pre: String,
    tokens: Vec<String>,
    scores: Vec<f32>,
    kinds: Vec<i32>,
    merges: Vec<String>,
    ids: [u32; 3],
}

impl Arrays {
    fn small() -> Self {
        let words = [
            "<unk>", "<s>", "</s>", "<0x41>", "▁", "h", "e", "l", "o", "he", "ll", "hell", "hello", "▁hello", "Ġ",
            "Ġhello", "Ċ", "1",
        ];
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
        Self {
            pre: "default".to_owned(),
            tokens: own(&words),
            scores: (0..words.len()).map(|at| at as f32).collect(),
            kinds: (0..words.len())
                .map(|at| [2, 3, 3, 6].get(at).copied().unwrap_or(1))
                .collect(),
            merges: own(&["h e", "l l", "he ll", "hell o", "▁ hello", "Ġ hello"]),
            ids: [1, 2, 0],
        }
    }
}

#[test]
fn mutations_of_vocabulary_arrays_are_errors_or_work() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut numbers = Numbers(2);
    let mut loaded = 0;
    for round in 0..MUTATIONS {
        let model = ["gpt2", "llama", "bert", "gemma4", "t5"][round as usize % 5];
        let tokenizer = gguf_at(file.path(), model, |arrays| {
            for _ in 0..1 + numbers.next(4) {
                let at = numbers.next(arrays.tokens.len());
                match numbers.next(12) {
                    0 => arrays.tokens[at] = String::new(),
                    1 => arrays.tokens[at] = arrays.tokens[numbers.next(arrays.tokens.len())].clone(),
                    2 => arrays.tokens[at] = "x".repeat(numbers.next(3000)),
                    3 => arrays.tokens.truncate(at),
                    4 => arrays.scores.truncate(at),
                    5 => {
                        let place = at.min(arrays.scores.len() - 1);
                        arrays.scores[place] = [f32::NAN, f32::INFINITY, -1e30][numbers.next(3)];
                    }
                    6 => arrays.kinds.truncate(at),
                    7 => {
                        let place = at.min(arrays.kinds.len() - 1);
                        arrays.kinds[place] = numbers.next(12) as i32 - 2;
                    }
                    8 => arrays.merges.push(
                        ["", " ", "  ", "a", "zz qq", " h", "h ", "o \u{10ffff}", "h e l"][numbers.next(9)].to_owned(),
                    ),
                    9 => arrays.merges.swap(numbers.next(6), 0),
                    10 => arrays.ids[numbers.next(3)] = [u32::MAX, 17, 18, 1 << 31][numbers.next(4)],
                    _ => {
                        arrays.pre =
                            ["", "llama-bpe", "unheard-of", "jais-2", "\u{0}", "superbpe"][numbers.next(6)].to_owned()
                    }
                }
                // What was cut away entirely would leave nothing to change in the next round.
                if arrays.tokens.is_empty() || arrays.scores.is_empty() || arrays.kinds.is_empty() {
                    break;
                }
            }
        });
        if let Ok(tokenizer) = tokenizer {
            exercise(&tokenizer);
            loaded += 1;
        }
    }
    assert!(loaded > 1000, "only {loaded} of {MUTATIONS} could be loaded");
}

#[test]
fn an_unknown_name_of_rules_is_a_warning_and_an_unknown_model_an_error() {
    let tokenizer = gguf("gpt2", |arrays| arrays.pre = "unheard-of".to_owned()).unwrap();
    assert!(
        tokenizer.warnings()[0].contains("unheard-of"),
        "{:?}",
        tokenizer.warnings()
    );
    let tokenizer = gguf("gpt2", |_| {}).unwrap();
    assert_eq!(tokenizer.warnings(), [""; 0]);
    let error = gguf("alien", |_| {}).unwrap_err();
    assert!(error.to_string().contains("alien"));
}

/// Work stays near linear: each of these texts took minutes where work is quadratic. There is no clock here; a hang is a failure.
#[test]
fn long_and_odd_texts_come_to_an_end() {
    let mut numbers = Numbers(3);
    let random: String = (0..150_000)
        .filter_map(|_| char::from_u32(numbers.next(0x30000) as u32))
        .collect();
    // A marker that stands for a space cannot come back as itself.
    let random = random.replace('▁', "");
    let texts = [
        "a".repeat(500_000),
        " ".repeat(500_000),
        "\n ".repeat(250_000),
        "'s".repeat(150_000),
        random,
    ];
    let files = [
        "ggml-vocab-llama-bpe",
        "ggml-vocab-llama-spm",
        "ggml-vocab-bert-bge",
        "ggml-vocab-deepseek-coder",
    ];
    for name in files {
        let Some(file) = shared(&format!("tokenizers/ggml-vocab/{name}.gguf")) else {
            return;
        };
        let tokenizer = Tokenizer::from_gguf(&Gguf::open_file(&file).unwrap()).unwrap();
        for text in &texts {
            let tokens = tokenizer.encode(text, Encode::default()).unwrap();
            if !name.contains("bert") {
                assert!(
                    tokenizer.decode(&tokens, false) == *text,
                    "{name}: {:?}",
                    text.get(..20)
                );
            }
        }
    }
}

/// A pattern that explodes comes to an end: the engine behind it gives up after a bounded search. There is no clock here either.
#[test]
fn a_pattern_that_explodes_comes_to_an_end() {
    let mut file: serde_json::Value = serde_json::from_slice(&small_json()).unwrap();
    let text = format!("{}c", "a".repeat(5000));
    for pattern in [
        "(?:a+)+$",
        "(?:a|a)*[bd]",
        "(?:a*)*[bd]",
        "(a*)*\\1[bd]",
        "(?=(?:a+)+$)a",
    ] {
        file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern.into();
        let tokenizer = from_json(&serde_json::to_vec(&file).unwrap()).unwrap();
        if let Ok(tokens) = tokenizer.encode(&text, Encode::default()) {
            assert!(tokens.len() <= text.len(), "{pattern}");
        }
    }
}
