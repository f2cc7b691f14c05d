//! The same question in other words: what a person may type for `How do I sign a policy?`.
//!
//! A small model knows no synonyms but those that it has read, so questions are taught in many forms. **Invariant:** the forms ask for
//! the same answer.

use super::grammar::Random;

/// Other forms of `How do I ...?`; `*` stands for what is done.
const HOW: [&str; 13] = [
    "How can I *?",
    "How does one *?",
    "How should I *?",
    "Show me how to *.",
    "Tell me how to *.",
    "Explain how to *.",
    "Explain to me how I can *.",
    "I want to *. How do I do that?",
    "I need to *.",
    "I would like to *.",
    "Can you tell me how to *?",
    "What is the best way to *?",
    "Help me to *.",
];
/// Other forms of `What is ...?`.
const WHAT_IS: [&str; 6] = [
    "What's *?",
    "Do you know what * is?",
    "Tell me what * is.",
    "I want to know what * is.",
    "Could you say what * is?",
    "Say what * is.",
];
/// Other forms of a question that begins with `Which`, `What`, `When`, `Where` or `Why`, as a part of a sentence where order allows it.
const ASKED: [&str; 4] = [
    "Please tell me: *?",
    "One question: *?",
    "Tell me, *?",
    "Quick question, *?",
];
/// Other forms of `Write ...`, `Give me ...`, `Show me ...`, `Explain ...`.
const TOLD: [&str; 4] = ["Please *.", "Could you *?", "Would you *?", "Now *."];

/// Says a question in other words, one time in two.
pub(crate) fn rephrase(question: &str, random: &mut Random) -> String {
    if random.below(2) == 0 {
        return question.to_owned();
    }
    let body = question.trim_end_matches(['?', '.', '!']);
    // Of several sentences, none can be turned on its own.
    if body.contains(". ") || body.contains("? ") || body.contains(": ") {
        return question.to_owned();
    }
    let (forms, rest): (&[&str], String) = if let Some(rest) = body.strip_prefix("How do I ") {
        (&HOW, rest.to_owned())
    } else if let Some(rest) = body.strip_prefix("What is ").filter(|rest| rest.len() < 40) {
        (&WHAT_IS, rest.to_owned())
    } else if starts_with_any(body, &["Which ", "What ", "When ", "Where ", "Why "]) {
        (&ASKED, lower_first(body))
    } else if starts_with_any(
        body,
        &[
            "Write ", "Give me ", "Show me ", "Explain ", "List ", "Attest ", "Tell me ",
        ],
    ) {
        (&TOLD, lower_first(body))
    } else {
        return question.to_owned();
    };
    forms[random.below(forms.len())].replace('*', &rest)
}

/// As people type: now and then without the mark at the end or the capital at the beginning.
pub(crate) fn as_typed(question: &str, random: &mut Random) -> String {
    let mut question = question;
    if random.below(6) == 0 {
        question = question.trim_end_matches(['?', '.', '!']);
    }
    match random.below(8) {
        0 => lower_first(question),
        _ => question.to_owned(),
    }
}

fn starts_with_any(text: &str, beginnings: &[&str]) -> bool {
    beginnings.iter().any(|beginning| text.starts_with(beginning))
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| {
        first.to_lowercase().collect::<String>() + letters.as_str()
    })
}
