//! Whether a text about Witness is right: every command line, flag, attestor, predicate type, policy and Rego module in it.
//!
//! What: reads Markdown with code in fences and backticks, as the quick start model writes it. What not: prose; a wrong sentence
//! without a name in it is not noticed. It is stricter than the real tool in places (the form of Rego, no attestor named that always
//! runs), so a text that passes is right, and one that does not may still be.

use std::collections::BTreeSet;

use super::facts::Facts;
use super::{command, policy, rego};

/// Messages of the real tool that name what does not exist; a text may quote them.
const QUOTED: [&str; 4] = [
    "failed to create attestor commandrun",
    "failed to create attestor aws-iid",
    "unknown flag: --key",
    "unknown flag: --subject",
];

/// Other addresses that texts name: examples and public servers.
const OTHER_ADDRESSES: [&str; 7] = [
    "https://freetsa.org/tsr",
    "https://fulcio.sigstore.dev",
    "https://oauth2.sigstore.dev/auth",
    "https://archivista.",
    "https://vault.example.com",
    "https://github.com/example/",
    "https://gitlab.com/example/",
];

/// Words behind `attestor` that go on with the sentence.
const NOT_NAMES: [&str; 25] = [
    "a", "and", "are", "at", "do", "does", "for", "has", "in", "is", "mean", "must", "of", "or", "record", "records",
    "run", "runs", "schema", "that", "there", "to", "was", "with", "you",
];

/// What was found in a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    pub(crate) n_commands: usize,
    pub(crate) n_flags: usize,
    pub(crate) n_attestors: usize,
    pub(crate) n_types: usize,
    pub(crate) n_policies: usize,
    pub(crate) n_modules: usize,
    /// What is wrong, in words.
    pub(crate) faults: Vec<String>,
}

impl Findings {
    fn fault(&mut self, fault: impl Into<String>) {
        self.faults.push(fault.into());
    }

    /// Adds what was found elsewhere.
    pub(crate) fn add(&mut self, other: Findings) {
        self.n_commands += other.n_commands;
        self.n_flags += other.n_flags;
        self.n_attestors += other.n_attestors;
        self.n_types += other.n_types;
        self.n_policies += other.n_policies;
        self.n_modules += other.n_modules;
        self.faults.extend(other.faults);
    }
}

/// Checks a text.
pub(crate) fn check(facts: &Facts, text: &str) -> Findings {
    let mut findings = Findings::default();
    let mut text = text.to_owned();
    for quoted in QUOTED {
        text = text.replace(quoted, "");
    }
    let (prose, blocks) = fences(&text, &mut findings);
    for (language, body) in blocks {
        addresses(facts, &body, &mut findings);
        match language.as_str() {
            "" | "sh" | "bash" => lines_of_code(facts, &body, &mut findings),
            "json" => {
                findings.n_policies += 1;
                findings.faults.extend(policy::faults(facts, &body));
            }
            "rego" => module(facts, &body, &mut findings),
            "yaml" => settings(facts, &body, &mut findings),
            _ => findings.fault(format!("code in an unknown language `{language}`")),
        }
    }
    of_prose(facts, &prose, &mut findings);
    findings
}

/// Takes the fenced blocks out of a text.
fn fences(text: &str, findings: &mut Findings) -> (String, Vec<(String, String)>) {
    let (mut prose, mut blocks) = (String::new(), Vec::new());
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, body))) => *body += &format!("{line}\n"),
            (None, None) => prose += &format!("{line}\n"),
        }
    }
    if open.is_some() {
        findings.fault("a block of code does not end");
    }
    (prose, blocks)
}

fn lines_of_code(facts: &Facts, body: &str, findings: &mut Findings) {
    for line in body.replace("\\\n", " ").lines() {
        let line = line.trim().trim_start_matches("$ ");
        if line == "witness" || line.starts_with("witness ") {
            command_line(facts, line, findings);
        }
    }
}

fn command_line(facts: &Facts, line: &str, findings: &mut Findings) {
    let found = command::faults(facts, line);
    findings.n_commands += 1;
    findings.n_flags += found.n_flags;
    findings.n_attestors += found.n_attestors;
    findings.faults.extend(found.faults);
}

fn module(facts: &Facts, body: &str, findings: &mut Findings) {
    findings.n_modules += 1;
    findings.faults.extend(rego::faults(facts, body));
}

/// A configuration file: commands, and below each its flags without dashes.
fn settings(facts: &Facts, body: &str, findings: &mut Findings) {
    let mut command = "";
    for line in body.lines().filter(|line| line.contains(':')) {
        let (name, _) = line.split_once(':').unwrap_or((line, ""));
        match name.strip_prefix("    ") {
            None => command = name,
            Some(flag) => {
                findings.n_flags += 1;
                if facts.flag(command, &format!("--{flag}")).is_none() {
                    findings.fault(format!("`{flag}` is no setting of `witness {command}`"));
                }
            }
        }
    }
}

fn of_prose(facts: &Facts, prose: &str, findings: &mut Findings) {
    addresses(facts, prose, findings);
    let (mut plain, mut open) = (String::new(), None::<String>);
    for line in prose.lines() {
        // Texts without Markdown write commands and modules as paragraphs of their own.
        if let Some(body) = &mut open {
            *body += &format!("{line}\n");
            if line == "}" {
                module(facts, body, findings);
                open = None;
            }
        } else if line.starts_with("witness ") && line.split(' ').any(|word| word.starts_with('-')) {
            command_line(facts, line, findings);
        } else if line.starts_with("package ") {
            open = Some(format!("{line}\n"));
        } else {
            plain += &format!("{line}\n");
        }
    }
    if let Some(body) = open {
        module(facts, &body, findings);
    }
    for (index, piece) in plain.split('`').enumerate() {
        match index % 2 {
            0 => words(facts, piece, findings),
            _ => inline(facts, piece, findings),
        }
    }
    names(facts, &plain.replace('`', ""), findings);
}

/// Code in backticks: a command, a flag with or without a value, or something of another tool.
fn inline(facts: &Facts, code: &str, findings: &mut Findings) {
    if code == "witness" || code.starts_with("witness ") {
        let is_mention = !code.contains(" -") && !code.contains("attestors schema ") && !code.contains("policy check ");
        match is_mention {
            true if code == "witness help"
                || code == "witness"
                || facts.commands.contains_key(&code["witness ".len()..]) =>
            {
                findings.n_commands += 1;
            }
            true => findings.fault(format!("there is no command `{code}`")),
            false => command_line(facts, code, findings),
        }
    } else if code.starts_with('-') && code != "--" {
        let flag = code.split(' ').next().unwrap_or(code);
        findings.n_flags += 1;
        if !facts.is_flag(flag) {
            findings.fault(format!("there is no flag `{flag}`"));
        }
    }
}

/// Flags that stand in prose without backticks.
fn words(facts: &Facts, prose: &str, findings: &mut Findings) {
    for word in prose.split(|letter: char| letter.is_whitespace() || "\"'(),:;?".contains(letter)) {
        let word = word.trim_end_matches('.');
        let is_flag = word.starts_with("--") && word.len() > 2;
        if is_flag {
            findings.n_flags += 1;
            if !facts.is_flag(word) {
                findings.fault(format!("there is no flag `{word}`"));
            }
        }
    }
}

/// Names behind and before the word attestor.
fn names(facts: &Facts, prose: &str, findings: &mut Findings) {
    let words: Vec<&str> = prose.split_whitespace().collect();
    for pair in words.windows(2) {
        let is_attestor = |word: &str| word.trim_matches(|letter: char| !letter.is_alphanumeric()) == "attestor";
        if !is_attestor(pair[0]) || pair[0] != "attestor" {
            continue;
        }
        let name = pair[1].trim_matches(|letter: char| !letter.is_alphanumeric());
        if name.is_empty() || NOT_NAMES.contains(&name) || name.starts_with(char::is_uppercase) {
            continue;
        }
        findings.n_attestors += 1;
        if !facts.attestors.contains_key(name) {
            findings.fault(format!("there is no attestor `{name}`"));
        }
    }
}

fn addresses(facts: &Facts, text: &str, findings: &mut Findings) {
    for (start, _) in text.match_indices("https://") {
        let rest = &text[start..];
        let end = rest.find(|letter: char| letter.is_whitespace() || "\"'`,;)".contains(letter));
        let address = rest[..end.unwrap_or(rest.len())].trim_end_matches('.');
        let is_other =
            OTHER_ADDRESSES.iter().any(|other| address.starts_with(other)) || address.contains("example.com/");
        if facts.types.contains(address) {
            findings.n_types += 1;
        } else if !is_other {
            findings.fault(format!("`{address}` is no predicate type"));
        }
    }
}

/// Returns the pieces of code in a text, which an answer is graded by.
pub(crate) fn code(text: &str) -> BTreeSet<String> {
    let (prose, blocks) = fences(text, &mut Findings::default());
    let blocks = blocks.into_iter().map(|(language, body)| format!("{language}\n{body}"));
    let addresses = text.split_whitespace().filter(|word| word.starts_with("https://"));
    let addresses = addresses.map(|word| word.trim_end_matches('.').to_owned());
    let inline = prose.split('`').skip(1).step_by(2).map(str::to_owned);
    blocks
        .chain(addresses.collect::<Vec<_>>())
        .chain(inline.collect::<Vec<_>>())
        .collect()
}
