//! The quick start model, trained by this program: small enough to lie here, and right where it says it is.

use crate::corpus::check::check;
use crate::corpus::facts::Facts;
use crate::corpus::generate::{Corpus, SEED};
use crate::corpus::grade::{Grade, Grades, grade};
use crate::desk::Desk;
use crate::harness::checkout;

/// Everything that is committed of it, weights and logs together.
const BYTES_MAX: u64 = 12_000_000;

/// Of the questions in words that were never taught, each so-manieth is asked here; `quickstart-grade` asks all.
const EVERY: usize = 29;

/// How many of 100 of those must name nothing that does not exist. The figures of all questions lie in `logs/grades.txt`.
const SOUND_PERCENT: usize = 75;

/// Makes the model.
fn desk() -> Desk {
    let desk = Desk::new();
    let recipe = checkout().join("modelfiles/quickstart/Modelfile");
    desk.run(["create", "witness-expert", "-f", recipe.to_str().unwrap()])
        .ok();
    desk
}

#[test]
fn it_is_small() {
    let mut n_bytes = 0;
    let mut directories = vec![checkout().join("modelfiles/quickstart")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => directories.push(entry.path()),
                false => n_bytes += entry.metadata().unwrap().len(),
            }
        }
    }
    assert!(n_bytes < BYTES_MAX, "{n_bytes} bytes");
}

// The questions of the guide and of the README.
#[test]
fn it_answers_the_questions_of_the_guide() {
    let desk = desk();
    let corpus = Corpus::draw(SEED, 0);
    for question in [
        "How do I attest a Go build?",
        "How do I attest a Go build with commandrun?",
        "Write a Rego policy to enforce builds from the main branch",
        "How do I create a witness policy for a multi-step pipeline?",
    ] {
        let chat = corpus.chats.iter().find(|chat| chat.question == question).unwrap();
        let answer = desk.run(["run", "witness-expert", question]).ok();
        assert!(
            grade(&Facts::load(), chat, &answer) >= Grade::Right,
            "{question}\n{answer}"
        );
    }
}

#[test]
fn it_mostly_names_what_exists() {
    let desk = desk();
    let facts = Facts::load();
    let mut grades = Grades::default();
    for chat in Corpus::draw(SEED, 0).held_out.iter().step_by(EVERY) {
        let answer = desk.run(["run", "witness-expert", "--", &chat.question]).ok();
        let graded = grade(&facts, chat, &answer);
        if graded == Grade::Wrong {
            eprintln!("{}\n{answer}\n{:?}", chat.question, check(&facts, &answer).faults);
        }
        grades.count(graded);
    }
    assert!(
        grades.n > 15 && grades.n_sound * 100 >= grades.n * SOUND_PERCENT,
        "{grades:?}"
    );
}
