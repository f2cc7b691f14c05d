//! How good an answer is, told by what can be checked in it.

use super::check::{check, code};
use super::facts::Facts;
use super::generate::Chat;

/// What is said of one answer. Each level holds those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Grade {
    /// A command, flag, attestor, type, policy or module in it does not exist or would be refused.
    Wrong,
    /// Everything that it names is real, but it is not what was asked for.
    Sound,
    /// It holds every command, flag, type, policy and module of the expected answer, and no other.
    Right,
    /// It is the expected answer, letter for letter.
    Exact,
}

/// Grades an answer.
pub(crate) fn grade(facts: &Facts, chat: &Chat, answer: &str) -> Grade {
    let answer = answer.trim();
    let is_sound = check(facts, answer).faults.is_empty();
    // An answer without code is right if it says the same; where nothing can be checked, only the same words count.
    let expected = code(&chat.answer);
    let is_right = !expected.is_empty() && code(answer) == expected;
    match (is_sound, is_right, answer == chat.answer.trim()) {
        (_, _, true) => Grade::Exact,
        (true, true, _) => Grade::Right,
        (true, false, _) => Grade::Sound,
        (false, ..) => Grade::Wrong,
    }
}

/// Counts of grades.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grades {
    pub(crate) n: usize,
    pub(crate) n_sound: usize,
    pub(crate) n_right: usize,
    pub(crate) n_exact: usize,
}

impl Grades {
    /// Counts one more.
    pub(crate) fn count(&mut self, grade: Grade) {
        self.n += 1;
        self.n_sound += usize::from(grade >= Grade::Sound);
        self.n_right += usize::from(grade >= Grade::Right);
        self.n_exact += usize::from(grade == Grade::Exact);
    }
}
