//! Whether the JSON of a policy, or of a part of one, has the right fields.

use serde_json::{Map, Value};

use super::facts::{Facts, Shape};

/// What stands for a key id or a base64 text that the reader fills in.
const PLACEHOLDERS: [&str; 4] = ["KEYID", "ROOTID", "PUBLICKEYASBASE64PEM", "REGOMODULEBASE64"];

/// Checks a policy, a functionary or an attestation of a step.
pub(crate) fn faults(facts: &Facts, text: &str) -> Vec<String> {
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => return vec![format!("no JSON: {error}")],
    };
    let mut checker = Checker {
        facts,
        faults: Vec::new(),
    };
    let kind = match value.as_object() {
        Some(map) if map.contains_key("steps") || map.contains_key("expires") => "policy",
        Some(map) if map.contains_key("functionaries") => "step",
        Some(map) if map.contains_key("regopolicies") => "attestation",
        Some(map) if map.contains_key("publickeyid") || map.contains_key("certConstraint") => "functionary",
        _ => return vec![format!("no part of a policy: {text}")],
    };
    checker.object(kind, &value);
    checker.faults
}

struct Checker<'a> {
    facts: &'a Facts,
    faults: Vec<String>,
}

impl Checker<'_> {
    fn fault(&mut self, fault: impl Into<String>) {
        self.faults.push(fault.into());
    }

    fn object(&mut self, kind: &str, value: &Value) {
        let shape: &Shape = &self.facts.shapes[kind];
        let Some(map) = value.as_object() else {
            return self.fault(format!("{kind} is no object"));
        };
        for name in map.keys().filter(|name| !shape.fields.contains(*name)) {
            self.faults.push(format!("{kind} has no field `{name}`"));
        }
        for name in shape.required.iter().filter(|name| !map.contains_key(*name)) {
            self.faults.push(format!("{kind} lacks `{name}`"));
        }
        match kind {
            "policy" => self.policy(map),
            "step" => self.step(map),
            "attestation" => self.attestation(map),
            "functionary" => self.functionary(map),
            "certConstraint" => {
                for (name, value) in map {
                    let is_right = match name.as_str() {
                        "commonname" => value.is_string(),
                        "extensions" => value.is_object(),
                        _ => is_texts(value),
                    };
                    if !is_right {
                        self.faults.push(format!("certConstraint.{name} is of the wrong type"));
                    }
                }
            }
            "publickey" | "root" | "regopolicy" => self.encoded(kind, map),
            _ => {}
        }
    }

    fn policy(&mut self, map: &Map<String, Value>) {
        let expires = map.get("expires").and_then(Value::as_str).unwrap_or_default();
        let form = "dddd-dd-ddTdd:dd:ddZ";
        let is_time = expires.len() == form.len()
            && expires.chars().zip(form.chars()).all(|(letter, form)| match form {
                'd' => letter.is_ascii_digit(),
                other => letter == other,
            });
        if !is_time {
            self.fault(format!("expires is `{expires}`"));
        }
        for (kind, name) in [
            ("publickey", "publickeys"),
            ("root", "roots"),
            ("root", "timestampauthorities"),
        ] {
            for (id, value) in map.get(name).and_then(Value::as_object).into_iter().flatten() {
                self.object(kind, value);
                if kind == "publickey" && value["keyid"] != id.as_str() {
                    self.fault(format!("publickeys.{id} has another key id"));
                }
            }
        }
        let Some(steps) = map
            .get("steps")
            .and_then(Value::as_object)
            .filter(|steps| !steps.is_empty())
        else {
            return self.fault("the policy has no steps");
        };
        for (name, step) in steps {
            self.object("step", step);
            if step["name"] != name.as_str() {
                self.fault(format!("steps.{name} has another name"));
            }
            for other in step["artifactsFrom"].as_array().into_iter().flatten() {
                if !other
                    .as_str()
                    .is_some_and(|other| steps.contains_key(other) && other != name)
                {
                    self.fault(format!("steps.{name} takes artifacts from {other}"));
                }
            }
            for functionary in step["functionaries"].as_array().into_iter().flatten() {
                let id = functionary["publickeyid"].as_str();
                let known = map.get("publickeys").and_then(Value::as_object);
                if id.is_some_and(|id| !known.is_some_and(|known| known.contains_key(id))) {
                    self.fault(format!("steps.{name} trusts a key that the policy lacks"));
                }
            }
        }
    }

    fn step(&mut self, map: &Map<String, Value>) {
        for (field, kind) in [("functionaries", "functionary"), ("attestations", "attestation")] {
            match map.get(field).and_then(Value::as_array).filter(|list| !list.is_empty()) {
                Some(list) => list.iter().for_each(|value| self.object(kind, value)),
                None => self.fault(format!("a step has no {field}")),
            }
        }
        if map.get("artifactsFrom").is_some_and(|list| !is_texts(list)) {
            self.fault("artifactsFrom is no list of texts");
        }
    }

    fn attestation(&mut self, map: &Map<String, Value>) {
        let name = map.get("type").and_then(Value::as_str).unwrap_or_default();
        if !self.facts.types.contains(name) {
            self.fault(format!("`{name}` is no predicate type"));
        }
        for module in map.get("regopolicies").and_then(Value::as_array).into_iter().flatten() {
            self.object("regopolicy", module);
        }
    }

    fn functionary(&mut self, map: &Map<String, Value>) {
        let needed = match map.get("type").and_then(Value::as_str) {
            Some("publickey") => "publickeyid",
            Some("root") => "certConstraint",
            other => return self.fault(format!("a functionary has the type {other:?}")),
        };
        match map.get(needed) {
            None => self.fault(format!("a functionary lacks `{needed}`")),
            Some(value) if needed == "certConstraint" => self.object("certConstraint", value),
            Some(_) => {}
        }
    }

    fn encoded(&mut self, kind: &str, map: &Map<String, Value>) {
        for (name, value) in map
            .iter()
            .filter(|(name, _)| ["key", "certificate", "module"].contains(&name.as_str()))
        {
            let text = value.as_str().unwrap_or_default();
            let is_base64 = !text.is_empty()
                && text.len() % 4 == 0
                && text
                    .trim_end_matches('=')
                    .chars()
                    .all(|letter| letter.is_ascii_alphanumeric() || "+/".contains(letter));
            if !is_base64 && !PLACEHOLDERS.contains(&text) {
                self.fault(format!("{kind}.{name} is not base64"));
            }
        }
    }
}

fn is_texts(value: &Value) -> bool {
    value.as_array().is_some_and(|list| list.iter().all(Value::is_string))
}
