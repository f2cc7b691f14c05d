//! Asks the quick start model the questions that it was never taught, and counts what is right:
//! `cargo run --example quickstart-grade -- WITNESS MODEL [EVERY]`.
//!
//! WITNESS is the program, MODEL the model's name in its store; with EVERY only each so-manieth question is asked. Prints a line per
//! topic and a sum: sound (nothing in it that does not exist), right (the same commands, flags, types, policies and modules as the
//! expected answer), exact (the same letters). Wrong answers are printed on standard error.

#[path = "mod.rs"]
#[expect(dead_code, reason = "this program only asks")]
mod corpus;

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};

use corpus::check::check;
use corpus::facts::Facts;
use corpus::generate::{Chat, Corpus, SEED};
use corpus::grade::{Grade, Grades, grade};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [program, model, rest @ ..] = arguments.as_slice() else {
        eprintln!("give the program and the name of a model");
        return ExitCode::from(2);
    };
    let every = rest
        .first()
        .and_then(|every| every.parse().ok())
        .unwrap_or(1usize)
        .max(1);
    let facts = Facts::load();
    let corpus = Corpus::draw(SEED, 0);
    let mut topics: BTreeMap<&str, Grades> = BTreeMap::new();
    let mut all = Grades::default();
    for chat in corpus.held_out.iter().step_by(every) {
        let answer = match ask(program, model, chat) {
            Ok(answer) => answer,
            Err(problem) => {
                eprintln!("`{}`: {problem}", chat.question);
                return ExitCode::FAILURE;
            }
        };
        let graded = grade(&facts, chat, &answer);
        if graded < Grade::Right {
            let faults = check(&facts, &answer).faults;
            eprintln!(
                "{graded:?} {}\n  asked     {:?}\n  expected  {:?}\n  answered  {answer:?}\n  {faults:?}",
                chat.topic, chat.question, chat.answer
            );
        }
        topics.entry(&chat.topic).or_default().count(graded);
        all.count(graded);
    }
    println!(
        "{:24} {:>5} {:>5} {:>5} {:>5}",
        "topic", "asked", "sound", "right", "exact"
    );
    for (name, grades) in topics.into_iter().chain([("all", all)]) {
        println!(
            "{name:24} {:>5} {:>5} {:>5} {:>5}",
            grades.n, grades.n_sound, grades.n_right, grades.n_exact
        );
    }
    ExitCode::SUCCESS
}

/// Asks once, as a user does: with the system message of the Modelfile.
fn ask(program: &str, model: &str, chat: &Chat) -> Result<String, String> {
    let output = Command::new(program)
        .args(["run", model, "--nowordwrap", "--", &chat.question])
        .output()
        .map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
