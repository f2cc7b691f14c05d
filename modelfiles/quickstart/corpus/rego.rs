//! Whether a Rego module has the form that Witness evaluates, in both versions of the language, and reads fields that exist.
//!
//! The form: `package NAME`, `import rego.v1`, then rules `deny contains msg if {`, conditions, `msg := "..."`, `}`. A condition is a
//! comparison, `not`, or a call of `count`, `startswith`, `endswith` or `contains` over a field of `input`. The package is the name of
//! the attestor without dashes, or `example`. Rego can say far more; what is not of this form is told as a fault.

use super::facts::Facts;

const COMPARISONS: [&str; 6] = [" != ", " == ", " >= ", " <= ", " > ", " < "];

/// Checks a module.
pub(crate) fn faults(facts: &Facts, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let package = lines
        .next()
        .and_then(|line| line.strip_prefix("package "))
        .unwrap_or_default();
    let known = facts
        .attestors
        .iter()
        .find(|(name, _)| name.replace('-', "") == package);
    let fields: Vec<&String> = match (known, package) {
        (Some((_, attestor)), _) => attestor.fields.iter().collect(),
        (None, "example") => facts.attestors.values().flat_map(|attestor| &attestor.fields).collect(),
        (None, _) => {
            faults.push(format!("the package `{package}` is no attestor"));
            Vec::new()
        }
    };
    if lines.next() != Some("import rego.v1") {
        faults.push("the module lacks `import rego.v1`".to_owned());
    }
    let (mut n_rules, mut is_open, mut has_message, mut n_conditions) = (0, false, false, 0);
    for line in lines {
        let body = line.trim();
        match (is_open, body) {
            (false, "deny contains msg if {") => {
                (n_rules, is_open, has_message, n_conditions) = (n_rules + 1, true, false, 0)
            }
            (true, "}") if line == "}" => {
                is_open = false;
                if !has_message || n_conditions == 0 {
                    faults.push("a rule lacks its condition or message".to_owned());
                }
            }
            (true, _) if body.starts_with("msg := ") => {
                has_message = is_literal(&body["msg := ".len()..]);
                if !has_message {
                    faults.push(format!("no message: {body}"));
                }
            }
            (true, condition) => {
                n_conditions += 1;
                if let Some(fault) = fault_of_condition(condition, &fields) {
                    faults.push(fault);
                }
            }
            (false, other) => faults.push(format!("outside of a rule: {other}")),
        }
    }
    if is_open || n_rules == 0 {
        faults.push("the module defines no whole `deny` rule".to_owned());
    }
    faults
}

fn fault_of_condition(condition: &str, fields: &[&String]) -> Option<String> {
    let inner = condition.strip_prefix("not ").unwrap_or(condition);
    let sides = COMPARISONS.iter().find_map(|operator| inner.split_once(operator));
    let is_right = match sides {
        Some((left, right)) => is_term(left, fields) && is_literal(right),
        None => is_term(inner, fields) || is_call(inner, fields),
    };
    (!is_right).then(|| format!("no condition over a known field: {condition}"))
}

/// `input.field`, `input.field.key`, `input.field[0]` or `count(input.field)`.
fn is_term(term: &str, fields: &[&String]) -> bool {
    let counted = term.strip_prefix("count(").and_then(|rest| rest.strip_suffix(')'));
    let Some(path) = counted.unwrap_or(term).strip_prefix("input.") else {
        return false;
    };
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let rest = &path[end..];
    let is_index = rest.starts_with('[') && rest.ends_with(']') && is_literal(&rest[1..rest.len() - 1]);
    let is_key = rest.starts_with('.')
        && rest[1..]
            .chars()
            .all(|letter| letter.is_alphanumeric() || letter == '_');
    fields.iter().any(|field| *field == &path[..end]) && (rest.is_empty() || is_index || is_key)
}

/// A call of a function that is true or false.
fn is_call(call: &str, fields: &[&String]) -> bool {
    let Some((name, rest)) = call.split_once('(') else {
        return false;
    };
    let arguments = rest.strip_suffix(')').and_then(|arguments| arguments.split_once(", "));
    ["startswith", "endswith", "contains"].contains(&name)
        && arguments.is_some_and(|(term, literal)| is_term(term, fields) && is_literal(literal))
}

/// A text, a number or a list of texts: what JSON and Rego write alike.
fn is_literal(text: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(text).is_ok_and(|value| !value.is_object())
}
