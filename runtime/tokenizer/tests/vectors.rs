//! Every published vector of a GGUF vocabulary, token for token.
//!
//! An `.inp` file holds texts separated by a marker line, its `.out` one line of ids for each text; no special tokens are added or
//! parsed. Loading 20 real vocabularies of up to 514,000 merges takes more than a second in the development profile.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails with the test")]

mod shared;

use shared::shared;
use std::fs;
use std::path::Path;
use witness_formats::gguf::Gguf;
use witness_tokenizer::{Encode, Tokenizer};

const SEPARATOR: &str = "\n__ggml_vocab_test__\n";

fn load(path: &Path) -> Tokenizer {
    let gguf = Gguf::open_file(path).unwrap();
    Tokenizer::from_gguf(&gguf).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Compares one vocabulary with its vectors and returns how many texts there were and which differ.
fn compare(gguf: &Path) -> (usize, Vec<String>) {
    let beside = |suffix: &str| fs::read_to_string(format!("{}.{suffix}", gguf.display())).unwrap();
    let (inputs, outputs) = (beside("inp"), beside("out"));
    let tokenizer = load(gguf);
    // A marker at the very end closes the last text, it opens no further one.
    let texts: Vec<&str> = inputs
        .strip_suffix(SEPARATOR)
        .unwrap_or(&inputs)
        .split(SEPARATOR)
        .collect();
    let wanted: Vec<Vec<u32>> = outputs
        .lines()
        .map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect())
        .collect();
    let mut wrong = Vec::new();
    if texts.len() != wanted.len() {
        wrong.push(format!("{} texts, {} lines", texts.len(), wanted.len()));
    }
    for (text, wanted) in texts.iter().zip(&wanted) {
        let found = tokenizer.encode(text, Encode::default()).unwrap();
        if found != *wanted {
            wrong.push(format!("{text:?}\n   wanted {wanted:?}\n   found  {found:?}"));
        }
    }
    (texts.len(), wrong)
}

#[test]
fn every_vector_comes_out_token_for_token() {
    let Some(directory) = shared("tokenizers/ggml-vocab") else {
        return;
    };
    let mut vocabularies: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "gguf"))
        .collect();
    vocabularies.sort();
    let (mut compared, mut wrong) = (0, Vec::new());
    for gguf in &vocabularies {
        let name = gguf.file_name().unwrap().to_string_lossy();
        if !Path::new(&format!("{}.inp", gguf.display())).exists() {
            continue;
        }
        let (texts, differences) = compare(gguf);
        compared += texts;
        wrong.extend(differences.iter().map(|difference| format!("{name}: {difference}")));
    }
    assert!(
        wrong.is_empty(),
        "{} of {compared} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(compared > 690, "only {compared} texts were compared");
}
