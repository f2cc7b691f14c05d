//! Whether a `witness` command line would be accepted.

use super::facts::{Facts, Takes};

/// What a command line holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct CommandLine {
    pub(crate) n_flags: usize,
    pub(crate) n_attestors: usize,
    pub(crate) faults: Vec<String>,
}

/// Checks a command line that begins with `witness`: subcommand, flags and values, attestors, and what must be given.
pub(crate) fn faults(facts: &Facts, line: &str) -> CommandLine {
    let mut found = CommandLine::default();
    let (line, is_quoted) = (line.trim(), line.matches('\'').count() % 2 == 1);
    if is_quoted {
        found.faults.push(format!("a quote does not end: {line}"));
    }
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    let n_name = (1..=2)
        .rev()
        .find(|n| words.len() >= *n && facts.commands.contains_key(&words[..*n].join(" ")));
    let Some(n_name) = n_name else {
        found.faults.push(format!("there is no such command: {line}"));
        return found;
    };
    let command = words[..n_name].join(" ");
    let mut given: Vec<(String, String)> = Vec::new();
    let mut rest: Vec<&str> = Vec::new();
    let mut has_dashes = false;
    let mut at = n_name;
    while at < words.len() {
        let word = words[at];
        at += 1;
        if word == "--" {
            has_dashes = true;
            rest.extend(&words[at..]);
            break;
        }
        if !word.starts_with('-') {
            rest.push(word);
            continue;
        }
        let (written, value) = match word.split_once('=') {
            Some((written, value)) => (written, Some(value)),
            None => (word, None),
        };
        found.n_flags += 1;
        let Some(flag) = facts.flag(&command, written) else {
            found
                .faults
                .push(format!("`witness {command}` has no flag `{written}`"));
            // Most flags that are made up take a value.
            at += usize::from(words.get(at).is_some_and(|next| !next.starts_with('-')));
            continue;
        };
        let value = match (flag.takes, value) {
            (Takes::Nothing, value) => value.unwrap_or_default(),
            (_, Some(value)) => value,
            (_, None) => {
                let value = words.get(at).copied().filter(|next| !next.starts_with('-'));
                at += usize::from(value.is_some());
                value.unwrap_or_else(|| {
                    found.faults.push(format!("`{written}` has no value: {line}"));
                    ""
                })
            }
        };
        given.push((flag.long.clone(), value.to_owned()));
    }
    needs(&command, &given, &rest, has_dashes, &mut found.faults);
    if command == "run" {
        for (_, list) in given.iter().filter(|(flag, _)| flag == "--attestations") {
            for name in list.split(',') {
                found.n_attestors += 1;
                if !facts.attestors.contains_key(name) {
                    found.faults.push(format!("there is no attestor `{name}`"));
                } else if facts.never_named.contains(name) {
                    found.faults.push(format!("the attestor `{name}` is not to be named"));
                }
            }
        }
    }
    if command == "attestors schema" && !rest.iter().all(|name| facts.attestors.contains_key(*name)) {
        found.faults.push(format!("there is no such attestor: {line}"));
    }
    found
}

/// What each command cannot do without.
fn needs(command: &str, given: &[(String, String)], rest: &[&str], has_dashes: bool, faults: &mut Vec<String>) {
    let has = |flags: &[&str]| given.iter().any(|(flag, _)| flags.contains(&flag.as_str()));
    let mut need = |is_there: bool, what: &str| {
        if !is_there {
            faults.push(format!("`witness {command}` lacks {what}"));
        }
    };
    let mut signers: Vec<&str> = given
        .iter()
        .filter_map(|(flag, _)| flag.strip_prefix("--signer-")?.split('-').next())
        .collect();
    signers.sort_unstable();
    signers.dedup();
    // A configuration file may give everything.
    if has(&["--config", "--help"]) {
        return;
    }
    match command {
        "run" => {
            need(has(&["--step"]), "a step");
            need(signers.len() == 1, "exactly one signer");
            need(rest.is_empty() != has_dashes, "`--` before the command");
            need(!rest.is_empty(), "a command");
        }
        "sign" => {
            need(has(&["--infile"]) && has(&["--outfile"]), "`-f` and `-o`");
            need(signers.len() == 1, "exactly one signer");
        }
        "verify" => {
            need(has(&["--policy"]), "a policy");
            let keys = [
                "--publickey",
                "--policy-ca",
                "--policy-ca-roots",
                "--policy-ca-intermediates",
                "--verifier-kms-ref",
            ];
            need(has(&keys), "the policy's key");
            need(has(&["--artifactfile", "--subjects"]), "an artifact or a subject");
            need(has(&["--attestations", "--enable-archivista"]), "attestations");
        }
        "policy check" | "attestors schema" => need(!rest.is_empty(), "an argument"),
        _ => {}
    }
}
