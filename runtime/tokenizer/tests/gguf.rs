//! Vocabularies in GGUF: special tokens, defaults of the formats, and text that comes back whole.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails with the test")]

mod shared;

use shared::shared;
use std::fs;
use witness_formats::gguf::Gguf;
use witness_tokenizer::{Encode, TokenKind, Tokenizer};

fn load(name: &str) -> Option<Tokenizer> {
    let file = shared(&format!("tokenizers/ggml-vocab/ggml-vocab-{name}.gguf"))?;
    Some(Tokenizer::from_gguf(&Gguf::open_file(&file).unwrap()).unwrap())
}

const PARSED: Encode = Encode {
    add_special: false,
    parse_special: true,
};
const WHOLE: Encode = Encode {
    add_special: true,
    parse_special: true,
};

#[test]
fn a_tokenizer_goes_from_thread_to_thread() {
    fn shareable<T: Send + Sync + Clone + 'static>() {}
    shareable::<Tokenizer>();
    fn movable<T: Send + 'static>() {}
    movable::<witness_tokenizer::DecodeStream>();
}

#[test]
fn special_texts_are_tokens_only_with_leave() {
    let Some(llama3) = load("llama-bpe") else { return };
    let text = "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>";
    let parsed = llama3.encode(text, PARSED).unwrap();
    assert_eq!(parsed, [128006, 882, 128007, 271, 6151, 128009]);
    assert!(
        llama3
            .encode(text, Encode::default())
            .unwrap()
            .iter()
            .all(|id| *id < 128000)
    );
    assert_eq!(llama3.encode(text, WHOLE).unwrap()[..2], [128000, 128006]);
    assert_eq!(llama3.decode(&parsed, true), "user\n\nhi");
    assert_eq!(llama3.decode(&parsed, false), text);
}

#[test]
fn a_text_never_begins_with_two_beginnings() {
    let Some(llama3) = load("llama-bpe") else { return };
    let once = llama3.encode("hi", WHOLE).unwrap();
    assert_eq!(once, [128000, 6151]);
    assert_eq!(llama3.encode("<|begin_of_text|>hi", WHOLE).unwrap(), once);
    let Some(llama2) = load("llama-spm") else { return };
    assert_eq!(
        llama2.encode("<s>hi", WHOLE).unwrap(),
        llama2.encode("hi", WHOLE).unwrap()
    );
    assert_eq!(llama2.encode("", WHOLE).unwrap(), [1]);
    assert_eq!(llama2.encode("", PARSED).unwrap(), [0; 0]);
}

/// User-defined tokens are matched in any text; they are what is left of a vocabulary's runs of spaces.
#[test]
fn user_defined_tokens_are_matched_in_any_text() {
    let Some(neox) = load("gpt-neox") else { return };
    let run = neox.id("                        ").unwrap();
    assert_eq!(neox.kind(run), TokenKind::UserDefined);
    let tokens = neox.encode(&" ".repeat(24), Encode::default()).unwrap();
    assert_eq!(tokens, [run]);
    assert!(!neox.is_special(run));
}

#[test]
fn white_space_after_a_special_token_of_phi_3_belongs_to_it() {
    let Some(phi) = load("phi-3") else { return };
    let (with, without) = ("<|user|>\n hi<|end|>\n", "<|user|>hi<|end|>");
    assert_eq!(phi.encode(with, PARSED).unwrap(), phi.encode(without, PARSED).unwrap());
}

#[test]
fn generations_end_where_the_model_was_trained_to_stop() {
    for (name, ends) in [
        ("llama-bpe", &["<|end_of_text|>", "<|eot_id|>"][..]),
        ("qwen2", &["<|endoftext|>", "<|im_end|>"]),
        ("phi-3", &["<|endoftext|>", "<|end|>"]),
        ("llama-spm", &["</s>"]),
        ("gemma-4", &["<eos>", "<turn|>"]),
    ] {
        let Some(tokenizer) = load(name) else { return };
        for end in ends {
            let id = tokenizer.id(end).unwrap();
            assert!(tokenizer.end_of_generation().contains(&id), "{name}: {end}");
        }
    }
    let Some(qwen) = load("qwen2") else { return };
    // A closing tag of HTML is text in this vocabulary.
    assert!(!qwen.end_of_generation().contains(&qwen.id("</s>").unwrap()));
    let more = qwen.clone().with_end_of_generation([7, u32::MAX]);
    assert!(more.end_of_generation().contains(&7) && !more.end_of_generation().contains(&u32::MAX));
    assert!(!qwen.end_of_generation().contains(&7));
}

#[test]
fn flags_and_names_are_those_of_the_file() {
    for (name, adds_bos, bos, eos) in [
        ("llama-bpe", true, "<|begin_of_text|>", "<|end_of_text|>"),
        ("llama-spm", true, "<s>", "</s>"),
        ("qwen2", false, "<|endoftext|>", "<|endoftext|>"),
        ("gpt-2", false, "<|endoftext|>", "<|endoftext|>"),
        ("command-r", true, "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),
        ("gemma-4", true, "<bos>", "<eos>"),
        ("baichuan", true, "<s>", "</s>"),
        ("aquila", false, "<|endoftext|>", "<|endoftext|>"),
    ] {
        let Some(tokenizer) = load(name) else { return };
        assert_eq!(tokenizer.adds_bos(), adds_bos, "{name}");
        assert_eq!((tokenizer.bos_token(), tokenizer.eos_token()), (bos, eos), "{name}");
        assert!(!tokenizer.adds_eos(), "{name}");
    }
    let Some(bert) = load("bert-bge") else { return };
    assert_eq!(bert.encode("hello", WHOLE).unwrap(), [101, 7592, 102]);
    assert_eq!(bert.decode(&[7592, 2088], true), "hello world");
    let Some(aquila) = load("aquila") else { return };
    assert!(
        aquila.warnings()[0].contains("tokenizer.ggml.pre"),
        "{:?}",
        aquila.warnings()
    );
}

/// Every vocabulary that can write any byte gives back the text it was given; the bytes of its tokens are those of the text.
#[test]
fn text_comes_back_whole() {
    let Some(corpus) = shared("corpora/war-and-peace.txt") else {
        return;
    };
    let corpus: String = fs::read_to_string(corpus).unwrap().chars().take(50_000).collect();
    let odd = "  It's 12345\r\n\t été e\u{301} 你好 🚀👩‍💻 <0x41> \u{0} \u{ffff} x\n\n\n   ends ";
    for name in [
        "aquila",
        "baichuan",
        "command-r",
        "deepseek-coder",
        "deepseek-llm",
        "falcon",
        "gemma-4",
        "gpt-2",
        "gpt-neox",
        "llama-bpe",
        "llama-spm",
        "mpt",
        "phi-3",
        "qwen2",
        "qwen35",
        "refact",
        "starcoder",
    ] {
        let Some(tokenizer) = load(name) else { return };
        for text in [corpus.as_str(), odd, "", " ", "a"] {
            let tokens = tokenizer.encode(text, Encode::default()).unwrap();
            assert!(
                tokenizer.decode(&tokens, false) == text,
                "{name}: {:?}",
                tokenizer.decode(&tokens, false).get(..60)
            );
            let mut bytes: Vec<u8> = tokens
                .iter()
                .flat_map(|id| tokenizer.token_bytes(*id))
                .copied()
                .collect();
            // A SentencePiece text begins with a space of its own.
            if bytes.len() == text.len() + 1 {
                bytes.remove(0);
            }
            assert!(bytes == text.as_bytes(), "{name}: bytes");
        }
    }
}

/// There are no vectors of a unigram vocabulary, so the crate's own unigram model over the same tokens and scores is the reference.
#[test]
fn a_unigram_vocabulary_gives_the_tokens_of_the_crate() {
    let Some(file) = shared("tokenizers/ggml-vocab/ggml-vocab-nomic-bert-moe.gguf") else {
        return;
    };
    let gguf = Gguf::open_file(&file).unwrap();
    let ours = Tokenizer::from_gguf(&gguf).unwrap();
    let metadata = gguf.metadata();
    let texts = metadata.array("tokenizer.ggml.tokens").unwrap().strings().unwrap();
    let scores = metadata.array("tokenizer.ggml.scores").unwrap().f32s().unwrap();
    let map = metadata
        .array("tokenizer.ggml.precompiled_charsmap")
        .unwrap()
        .i64s()
        .unwrap();
    let map: Vec<u8> = map.into_iter().map(|byte| byte as u8).collect();
    let pieces = texts
        .iter()
        .zip(scores)
        .map(|(text, score)| ((*text).to_owned(), f64::from(score)))
        .collect();
    let model = tokenizers::models::unigram::Unigram::from(pieces, Some(3), false).unwrap();
    let mut theirs = tokenizers::Tokenizer::new(model);
    theirs
        .with_normalizer(Some(tokenizers::normalizers::Precompiled::from(&map).unwrap()))
        .unwrap();
    let pre = serde_json::json!({"type": "Sequence", "pretokenizers": [
        {"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}]});
    theirs.with_pre_tokenizer(Some(
        serde_json::from_value::<tokenizers::PreTokenizerWrapper>(pre).unwrap(),
    ));
    let Some(corpus) = shared("corpora/war-and-peace.txt") else {
        return;
    };
    let corpus: String = fs::read_to_string(corpus).unwrap().chars().take(100_000).collect();
    let odd = " It's  12345\tété e\u{301} 你好，世界。 ﬁne ①  ends ";
    for text in [corpus.as_str(), odd, "", " ", "a"] {
        let wanted = theirs.encode(text, false).unwrap();
        let found = ours.encode(text, Encode::default()).unwrap();
        let differs = found.iter().zip(wanted.get_ids()).position(|(a, b)| a != b);
        assert!(found == wanted.get_ids(), "{:?}: at {differs:?}", text.get(..40));
    }
    assert_eq!(ours.encode("hi", WHOLE).unwrap().first(), Some(&0));
    assert_eq!(ours.encode("hi", WHOLE).unwrap().last(), Some(&2));
    assert_eq!(
        ours.decode(&ours.encode("Hello world", WHOLE).unwrap(), true),
        "Hello world"
    );
}
