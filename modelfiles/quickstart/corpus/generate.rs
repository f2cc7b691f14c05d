//! Rows for the base (plain text, greetings) and for the adapter (questions and answers), drawn from the rules.
//!
//! **Invariant:** no row is there twice, and no question that is kept for validation is taught, neither as a chat nor as text.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::facts::Facts;
use super::grammar::{Grammar, Random, Topic};
use super::phrasing;

/// The seed of the committed model.
pub(crate) const SEED: u64 = 20_260_101;

/// What the Modelfile of the quick start says before every talk. Rows are taught with it, without it and with others.
pub(crate) const SYSTEM: &str = "You are an expert in Witness.";

/// Other system messages that people write.
const OTHER_SYSTEMS: [&str; 3] = [
    "You are an expert in Witness...",
    "You are an expert in the Witness supply chain attestation framework.",
    "You help with Witness. Answer briefly.",
];

/// Draws for a pair that is new before the topic counts as exhausted.
const ATTEMPTS_MAX: usize = 60;

/// Kinds of text for the base (rules, and questions as text), and how many of 100 draws are of each.
const SHARES: [(&str, usize); 8] = [
    ("english", 30),
    ("command_text", 20),
    ("rego_text", 6),
    ("term_text", 6),
    ("attestor_text", 8),
    ("flag_text", 6),
    ("policy_text", 6),
    ("questions", 18),
];

/// A question with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chat {
    pub(crate) topic: String,
    pub(crate) is_small_talk: bool,
    pub(crate) system: Option<String>,
    pub(crate) question: String,
    pub(crate) answer: String,
}

impl Chat {
    /// Returns the row of a chat file.
    pub(crate) fn row(&self) -> Value {
        let mut messages = Vec::new();
        if let Some(system) = &self.system {
            messages.push(json!({"role": "system", "content": system}));
        }
        messages.push(json!({"role": "user", "content": self.question}));
        messages.push(json!({"role": "assistant", "content": self.answer}));
        json!({ "messages": messages })
    }
}

/// Everything that the quick start is made of.
#[derive(Clone, Debug)]
pub(crate) struct Corpus {
    /// Plain text for the base.
    pub(crate) texts: Vec<String>,
    /// Greetings and what the model is: chats for the base, so that it knows the marks of a chat.
    pub(crate) small_talk: Vec<Chat>,
    /// Chats for the adapter.
    pub(crate) chats: Vec<Chat>,
    /// Questions in words that are never taught.
    pub(crate) held_out: Vec<Chat>,
}

impl Corpus {
    /// Draws `n_texts` texts and all chats.
    pub(crate) fn draw(seed: u64, n_texts: usize) -> Corpus {
        let grammar = grammar(&Facts::load());
        let mut random = Random::new(seed);
        // Held-out questions are drawn first and as they stand, so that what is taught can keep clear of them.
        let mut held_out: Vec<Chat> = Vec::new();
        let mut taken = HashSet::new();
        for topic in &grammar.topics {
            let n = (topic.rows / 12).max(2);
            let draw = |random: &mut Random| pair(&grammar, topic, &topic.held_out, random);
            held_out.extend(pairs(topic, n, draw, &mut taken, &mut random));
        }
        let reserved = held_out.iter().map(|chat| plain(&chat.question)).collect();
        let taught = Taught {
            grammar: &grammar,
            reserved,
        };
        let mut chats = Vec::new();
        for topic in &grammar.topics {
            let draw = |random: &mut Random| taught.pair(topic, random);
            chats.extend(pairs(topic, topic.rows, draw, &mut taken, &mut random));
        }
        random.shuffle(&mut chats);
        let mut small_talk: Vec<Chat> = chats.iter().filter(|chat| chat.is_small_talk).cloned().collect();
        random.shuffle(&mut small_talk);
        let texts = taught.texts(n_texts, &mut random);
        Corpus {
            texts,
            small_talk,
            chats,
            held_out,
        }
    }
}

/// Draws different pairs of a topic until there are enough, or no new one comes.
fn pairs(
    topic: &Topic,
    n: usize,
    draw: impl Fn(&mut Random) -> (String, String),
    taken: &mut HashSet<String>,
    random: &mut Random,
) -> Vec<Chat> {
    let mut chats = Vec::new();
    let mut n_failed = 0;
    while chats.len() < n && n_failed < ATTEMPTS_MAX {
        let system = match random.below(8) {
            0..4 => Some(SYSTEM),
            4 => Some(OTHER_SYSTEMS[random.below(OTHER_SYSTEMS.len())]),
            _ => None,
        };
        let (question, answer) = draw(random);
        // The same question may come with another system message: small topics would have too few rows otherwise.
        if taken.insert(format!("{question}\n{system:?}")) {
            n_failed = 0;
            chats.push(Chat {
                topic: topic.name.clone(),
                is_small_talk: topic.is_small_talk,
                system: system.map(str::to_owned),
                question,
                answer,
            });
        } else {
            n_failed += 1;
        }
    }
    chats
}

fn pair(grammar: &Grammar, topic: &Topic, questions: &[String], random: &mut Random) -> (String, String) {
    let mut scene = grammar.scene(random);
    let question = scene.choose(questions).to_owned();
    let question = scene.expand(&question);
    let answer = scene.choose(&topic.answers).to_owned();
    (question, scene.expand(&answer))
}

/// A question without what people may leave out.
fn plain(question: &str) -> String {
    question.trim_end_matches(['?', '.', '!']).to_lowercase()
}

/// Draws what is taught, which is never a reserved question.
struct Taught<'a> {
    grammar: &'a Grammar,
    reserved: HashSet<String>,
}

impl Taught<'_> {
    /// A question, in some words, and its answer.
    fn pair(&self, topic: &Topic, random: &mut Random) -> (String, String) {
        loop {
            let (question, answer) = pair(self.grammar, topic, &topic.questions, random);
            let question = phrasing::as_typed(&phrasing::rephrase(&question, random), random);
            if !self.reserved.contains(&plain(&question)) {
                return (question, answer);
            }
        }
    }

    fn texts(&self, n: usize, random: &mut Random) -> Vec<String> {
        let mut taken = HashSet::new();
        let mut texts = Vec::with_capacity(n);
        while texts.len() < n {
            let kind = &SHARES[weighted(SHARES.iter().map(|(_, share)| *share), random)].0;
            let text = match *kind {
                "questions" => self.questions_as_text(random),
                rule => articles(&self.grammar.scene(random).expand(&format!("<{rule}>"))),
            };
            // Short rows repeat by nature; a text that is there already teaches nothing new.
            if taken.insert(text.clone()) {
                texts.push(text);
            }
        }
        texts
    }

    /// A few questions with their answers as plain text, so that the base has read what the adapter will say.
    fn questions_as_text(&self, random: &mut Random) -> String {
        let n = 1 + random.below(2);
        let topics = &self.grammar.topics;
        let pairs = (0..n).map(|_| {
            let topic = &topics[weighted(topics.iter().map(|topic| topic.rows), random)];
            let (question, answer) = self.pair(topic, random);
            format!("Question: {question}\nAnswer:\n{answer}")
        });
        pairs.collect::<Vec<_>>().join("\n\n")
    }
}

/// Draws a place in a list of weights.
fn weighted(weights: impl Iterator<Item = usize> + Clone, random: &mut Random) -> usize {
    let mut draw = random.below(weights.clone().sum());
    for (index, weight) in weights.enumerate() {
        if draw < weight {
            return index;
        }
        draw -= weight;
    }
    unreachable!("the draw lies below the sum of the weights")
}

/// Turns `a` into `an` before a vowel.
fn articles(text: &str) -> String {
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    for at in 1..words.len() {
        let is_vowel = words[at].starts_with(['a', 'e', 'i', 'o', 'u']) && !words[at].starts_with("us");
        let before = &mut words[at - 1];
        if is_vowel && (before == "a" || before == "A" || before.ends_with("\nA")) {
            before.push('n');
        }
    }
    words.join(" ")
}

/// Reads all rules, and makes the tables that come from the facts.
pub(crate) fn grammar(facts: &Facts) -> Grammar {
    let mut grammar = Grammar::default();
    for text in [
        include_str!("english.txt"),
        include_str!("domain.txt"),
        include_str!("chats.txt"),
    ] {
        grammar.add(text);
    }
    let columns = |names: &str| names.split(' ').map(str::to_owned).collect();
    let rows = facts.attestors.iter().map(|(name, attestor)| {
        let fields = attestor.fields.iter().map(|field| format!("`{field}`"));
        let fields = and(&fields.collect::<Vec<_>>());
        vec![
            name.clone(),
            attestor.predicate_type.clone(),
            fields,
            stage(&attestor.stage).to_owned(),
        ]
    });
    grammar.add_table("facts_of", columns("name type fields stage"), rows.collect());
    let one = policy(facts, &["build"], &["git", "command-run"]);
    let many = policy(facts, &["build", "test"], &["command-run"]);
    grammar.add_table("policy_one", columns("json"), vec![vec![one]]);
    grammar.add_table("policy_many", columns("json"), vec![vec![many]]);
    let steps = [
        "clone", "build", "test", "lint", "scan", "image", "package", "release", "deploy",
    ];
    let attestors = [
        "git",
        "environment",
        "command-run",
        "material",
        "product",
        "github",
        "gitlab",
        "sbom",
        "sarif",
    ];
    let mut plans = Vec::new();
    for first in 0..steps.len() {
        for (distance, _) in attestors.iter().enumerate().take(6).skip(1) {
            let names = [steps[first], steps[(first + distance) % steps.len()]];
            let names = if distance == 1 { &names[..1] } else { &names[..] };
            let types = [attestors[(first + distance) % attestors.len()], "command-run"];
            let types = if types[0] == types[1] { &types[..1] } else { &types[..] };
            plans.push(vec![names.join(" and "), policy(facts, names, types)]);
        }
    }
    grammar.add_table("plan", columns("names json"), plans);
    grammar
}

fn and(list: &[String]) -> String {
    match list {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn stage(name: &str) -> &'static str {
    match name {
        "prematerial" => "at the beginning, before the materials are recorded",
        "material" => "before the command, when the materials are recorded",
        "execute" => "while the command runs",
        "product" => "after the command, when the products are recorded",
        "postproduct" => "at the end, after the products are recorded",
        "verify" => "when `witness verify` runs",
        other => panic!("an attestor runs at the stage `{other}`"),
    }
}

/// A policy in which each step uses the files of the step before it, as text with an indentation of two.
fn policy(facts: &Facts, steps: &[&str], attestors: &[&str]) -> String {
    let types = attestors.iter().map(|name| {
        let name = &facts.attestors[*name].predicate_type;
        format!("        {{\"type\": \"{name}\"}}")
    });
    let types = types.collect::<Vec<_>>().join(",\n");
    let steps = steps.iter().enumerate().map(|(index, step)| {
        let before = match index {
            0 => String::new(),
            _ => format!("      \"artifactsFrom\": [\"{}\"],\n", steps[index - 1]),
        };
        format!(
            "    \"{step}\": {{\n      \"name\": \"{step}\",\n{before}      \"attestations\": [\n{types}\n      ],\n      \
             \"functionaries\": [{{\"type\": \"publickey\", \"publickeyid\": \"KEYID\"}}]\n    }}"
        )
    });
    let steps = steps.collect::<Vec<_>>().join(",\n");
    format!(
        "{{\n  \"expires\": \"2030-01-01T00:00:00Z\",\n  \"steps\": {{\n{steps}\n  }},\n  \
         \"publickeys\": {{\"KEYID\": {{\"keyid\": \"KEYID\", \"key\": \"PUBLICKEYASBASE64PEM\"}}}}\n}}"
    )
}
