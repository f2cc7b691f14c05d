//! Tokenizers trained here: always the same, loss-free, and read alike by this crate and by the `tokenizers` crate.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails with the test")]

use witness_tokenizer::{Encode, HfFiles, Tokenizer, TokenizerError, TrainOptions, TrainedTokenizer, WordRule, train};

const TEXTS: [&str; 6] = [
    "Put the command after the dashes: witness run --step build -k key.pem -o build.json -- make",
    "The attestor git records the commit, the branch and the author; the attestor environment records the machine.",
    "It's 10 o'clock, we'll meet at 12:45. They've got 1234567 files, and I'm sure you'd like one.\n\nWould you?\n",
    "{\"steps\": {\"build\": {\"name\": \"build\"}}}\n\tindented\twith tabs\r\nand   many   spaces   ",
    "Grüße aus Köln: naïve café, žluťoučký kůň, 東京, здравствуй, 🦀🦀",
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>user\nHello again<|im_end|>\n",
];

/// FNV-1a of `tokenizer.json`.
const RECORDED: u64 = 1_849_005_438_854_581_303;

const RULES: [WordRule; 4] = [
    WordRule::Gpt2,
    WordRule::DigitsThenGpt2,
    WordRule::Llama3,
    WordRule::Qwen2,
];

fn options(words: WordRule) -> TrainOptions {
    TrainOptions {
        vocab_size: 500,
        words,
        ..TrainOptions::default()
    }
}

fn load(trained: &TrainedTokenizer) -> Tokenizer {
    let files = HfFiles {
        tokenizer: &trained.tokenizer,
        tokenizer_config: Some(&trained.tokenizer_config),
        ..HfFiles::default()
    };
    Tokenizer::from_hf_bytes(files).unwrap()
}

/// Pseudo-random text over few letters: many pairs are equally frequent, so every tie must be broken the same way.
fn noise(n: usize) -> Vec<String> {
    let mut state = 7u64;
    let mut bits = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let mut word = move || {
        (0..2 + bits() % 6)
            .map(|_| ['a', 'b', 'c', 'd', 'é'][bits() % 5])
            .collect::<String>()
    };
    (0..n)
        .map(|_| (0..8).map(|_| word()).collect::<Vec<_>>().join(" "))
        .collect()
}

// Hash maps inside the trainer are seeded anew by every map, so equal runs meet other orders; so do texts in reverse.
#[test]
fn the_same_texts_give_the_same_bytes() {
    let texts = noise(400);
    for words in RULES {
        let first = train(&texts, &options(words)).unwrap();
        for _ in 0..4 {
            assert!(train(&texts, &options(words)).unwrap() == first, "{words:?}");
        }
        assert!(
            train(texts.iter().rev(), &options(words)).unwrap() == first,
            "{words:?}"
        );
        assert_eq!(first.n_tokens, 500);
    }
}

// A file that another process wrote on another day: if this changes, models trained before get other tokens when made again.
#[test]
fn the_bytes_are_those_of_every_process() {
    let trained = train(noise(400), &options(WordRule::Llama3)).unwrap();
    let hash = trained.tokenizer.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    assert_eq!(hash, RECORDED);
}

#[test]
fn any_text_comes_back_and_both_readers_agree() {
    let mut texts: Vec<String> = TEXTS.iter().map(|text| (*text).to_owned()).collect();
    texts.extend(
        [
            "",
            " ",
            "\u{0}\u{1}\u{7f}\u{ffff}",
            "never seen: ∀x∈ℝ",
            "a\u{301}e\u{308}",
            "\u{feff}x",
        ]
        .map(str::to_owned),
    );
    texts.push((0u32..0x3000).filter_map(char::from_u32).collect());
    texts.push((0x1f300u32..0x1f9ff).filter_map(char::from_u32).collect());
    for words in RULES {
        let trained = train(TEXTS, &options(words)).unwrap();
        let ours = load(&trained);
        let theirs = tokenizers::Tokenizer::from_bytes(&trained.tokenizer).unwrap();
        for text in &texts {
            let ids = ours
                .encode(
                    text,
                    Encode {
                        add_special: true,
                        parse_special: true,
                    },
                )
                .unwrap();
            assert_eq!(
                ids,
                theirs.encode(text.as_str(), true).unwrap().get_ids(),
                "{words:?} {text:?}"
            );
            assert_eq!(ours.decode(&ids, false), *text, "{words:?}");
        }
    }
}

#[test]
fn special_tokens_come_first_and_teach_nothing() {
    let trained = train(TEXTS, &options(WordRule::Llama3)).unwrap();
    let tokenizer = load(&trained);
    for (id, token) in (0..).zip(&TrainOptions::default().special_tokens) {
        let parse = Encode {
            add_special: false,
            parse_special: true,
        };
        assert_eq!(tokenizer.encode(token, parse).unwrap(), [id]);
    }
    // `im_start` is frequent in the texts, but only inside a mark.
    let file: serde_json::Value = serde_json::from_slice(&trained.tokenizer).unwrap();
    let vocabulary = file["model"]["vocab"].as_object().unwrap();
    assert_eq!(vocabulary.len(), trained.n_tokens);
    assert!(
        !vocabulary
            .keys()
            .any(|token| !token.starts_with("<|") && token.contains("im_"))
    );
    let config: serde_json::Value = serde_json::from_slice(&trained.tokenizer_config).unwrap();
    assert_eq!(config["eos_token"], "<|im_end|>");
    assert_eq!(config.get("bos_token"), None);
}

#[test]
fn a_token_that_begins_texts_is_put_before_them() {
    let options = TrainOptions {
        bos_token: Some("<|endoftext|>".to_owned()),
        chat_template: Some("{{ bos_token }}".to_owned()),
        model_max_length: Some(512),
        ..options(WordRule::Gpt2)
    };
    let trained = train(TEXTS, &options).unwrap();
    let (ours, theirs) = (
        load(&trained),
        tokenizers::Tokenizer::from_bytes(&trained.tokenizer).unwrap(),
    );
    let ids = ours
        .encode(
            "the branch",
            Encode {
                add_special: true,
                parse_special: false,
            },
        )
        .unwrap();
    assert_eq!(ids[0], 0);
    assert_eq!(ids, theirs.encode("the branch", true).unwrap().get_ids());
    let config: serde_json::Value = serde_json::from_slice(&trained.tokenizer_config).unwrap();
    assert_eq!(
        (&config["chat_template"], &config["model_max_length"]),
        (&"{{ bos_token }}".into(), &512.into())
    );
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let named = |result: Result<TrainedTokenizer, TokenizerError>| match result {
        Err(TokenizerError::Option { name, .. }) => name,
        Err(TokenizerError::Train { .. }) => "train",
        other => panic!("{other:?}"),
    };
    let with = |change: fn(&mut TrainOptions)| {
        let mut options = options(WordRule::Gpt2);
        change(&mut options);
        named(train(TEXTS, &options))
    };
    assert_eq!(with(|options| options.vocab_size = 258), "vocab_size");
    assert_eq!(
        with(|options| options.eos_token = Some("<|end|>".to_owned())),
        "eos_token"
    );
    assert_eq!(
        with(|options| options.special_tokens.push("<|im_end|>".to_owned())),
        "special_tokens"
    );
    assert_eq!(
        with(|options| options.special_tokens.push("x".to_owned())),
        "special_tokens"
    );
    assert_eq!(named(train([""; 0], &options(WordRule::Gpt2))), "train");
    assert_eq!(named(train(["", ""], &options(WordRule::Gpt2))), "train");
}
