//! Every text, question and answer of the quick start.

use std::collections::{BTreeMap, HashSet};

use crate::corpus::check::{Findings, check};
use crate::corpus::facts::Facts;
use crate::corpus::generate::{Chat, Corpus, SEED};

/// A tenth of the texts of the committed model: a fault of a rule shows in a few draws of it.
const N_TEXTS: usize = 2_400;

fn all(corpus: &Corpus) -> impl Iterator<Item = &Chat> {
    corpus.chats.iter().chain(&corpus.held_out)
}

#[test]
fn everything_that_is_taught_is_right() {
    let facts = Facts::load();
    let corpus = Corpus::draw(SEED, N_TEXTS);
    let mut findings = Findings::default();
    let texts = corpus.texts.iter().chain(all(&corpus).map(|chat| &chat.answer));
    for text in texts {
        let found = check(&facts, text);
        assert_eq!(found.faults, Vec::<String>::new(), "{text}");
        findings.add(found);
    }
    // Some questions hold a command in part, such as `witness run --step?`; everything else in them holds.
    for chat in all(&corpus).filter(|chat| chat.topic != "flag-does") {
        let found = check(&facts, &chat.question);
        assert_eq!(found.faults, Vec::<String>::new(), "{}", chat.question);
    }
    eprintln!("{findings:?}");
    assert!(findings.n_commands > 3_000 && findings.n_flags > 10_000 && findings.n_attestors > 3_000);
    assert!(findings.n_types > 300 && findings.n_policies > 100 && findings.n_modules > 500);
}

#[test]
fn the_same_seed_gives_the_same_rows() {
    let (first, second) = (Corpus::draw(SEED, 200), Corpus::draw(SEED, 200));
    assert_eq!(
        (first.texts, first.chats, first.held_out),
        (second.texts, second.chats, second.held_out)
    );
    assert_ne!(Corpus::draw(SEED + 1, 200).texts, Corpus::draw(SEED, 200).texts);
}

// A question that is kept for validation is nowhere in what is taught; its answer is, in other words or with other names.
#[test]
fn held_out_questions_are_not_taught() {
    let corpus = Corpus::draw(SEED, N_TEXTS);
    let taught: HashSet<&str> = corpus.chats.iter().map(|chat| chat.question.as_str()).collect();
    for chat in &corpus.held_out {
        assert!(!taught.contains(chat.question.as_str()), "{}", chat.question);
    }
    let texts = corpus.texts.join("\n");
    for chat in corpus.held_out.iter().filter(|chat| chat.question.len() > 20) {
        let asked = format!("Question: {}\n", chat.question);
        assert!(!texts.contains(&asked), "{}", chat.question);
    }
    let topics: HashSet<&str> = corpus.chats.iter().map(|chat| chat.topic.as_str()).collect();
    let held: HashSet<&str> = corpus.held_out.iter().map(|chat| chat.topic.as_str()).collect();
    assert_eq!(topics, held);
}

// One question, one answer: a model that is asked the same twice must not have been taught two truths.
#[test]
fn a_question_has_one_answer() {
    let corpus = Corpus::draw(SEED, 10);
    let mut answers: BTreeMap<&str, &str> = BTreeMap::new();
    for chat in all(&corpus) {
        let before = answers.insert(&chat.question, &chat.answer);
        assert!(before.is_none_or(|before| before == chat.answer), "{}", chat.question);
    }
}

#[test]
fn the_questions_of_the_guide_are_taught() {
    let corpus = Corpus::draw(SEED, 10);
    for (question, code) in [
        (
            "How do I attest a Go build?",
            "witness run --step build -a environment,git -k key.pem -o build.json -- go build -o app .",
        ),
        (
            "How do I attest a Go build with commandrun?",
            "witness run --step build -a environment,git -k key.pem -o build.json -- go build -o app .",
        ),
        (
            "Write a Rego policy to enforce builds from the main branch",
            "input.branch != \"main\"",
        ),
        (
            "How do I create a witness policy for a multi-step pipeline?",
            "\"artifactsFrom\": [\"build\"]",
        ),
    ] {
        let chat = corpus.chats.iter().find(|chat| chat.question == question).unwrap();
        assert!(chat.answer.contains(code), "{}", chat.answer);
    }
}

// Answers are short, and every row fits into what the model reads at once.
#[test]
fn rows_are_short() {
    let corpus = Corpus::draw(SEED, N_TEXTS);
    for chat in all(&corpus) {
        assert!(chat.answer.len() < 1_100, "{}", chat.answer);
    }
    assert!(corpus.texts.iter().all(|text| text.len() < 2_000));
    assert!(corpus.chats.len() > 4_000, "{}", corpus.chats.len());
    assert!(corpus.small_talk.len() > 200 && corpus.small_talk.iter().all(|chat| chat.is_small_talk));
}
