//! The checker against texts that are known to be right or wrong.

use crate::corpus::check::{Findings, check};
use crate::corpus::facts::Facts;
use crate::corpus::generate::Chat;
use crate::corpus::grade::{Grade, grade};

fn found(text: &str) -> Findings {
    check(&Facts::load(), text)
}

#[track_caller]
fn is_right(text: &str) {
    assert_eq!(found(text).faults, Vec::<String>::new(), "{text}");
}

/// The text has a fault that says this.
#[track_caller]
fn is_wrong(text: &str, fault: &str) {
    let faults = found(text).faults;
    assert!(faults.iter().any(|found| found.contains(fault)), "{text}\n{faults:?}");
}

fn sh(command: &str) -> String {
    format!("```sh\n{command}\n```")
}

#[test]
fn commands_that_the_real_tool_would_take_pass() {
    for command in [
        "witness run --step build -a environment,git -k key.pem -o build.json -- go build -o app .",
        "witness run -s build --signer-file-key-path=key.pem --trace -- make --no-such-flag",
        "witness run --step build --signer-kms-ref awskms:///alias/build \\\n  --enable-archivista -- make",
        "witness sign -f policy.json -k key.pem -o policy-signed.json",
        "witness verify -p policy-signed.json -k pub.pem -a build.json -a test.json -f app",
        "witness verify --policy p.json --policy-ca-roots ca.pem --enable-archivista -s sha256:00",
        "witness policy check policy.json",
        "witness attestors list",
        "witness attestors schema git",
        "witness version",
    ] {
        is_right(&sh(command));
        assert_eq!(found(&sh(command)).n_commands, 1, "{command}");
    }
}

// The faults that the guide's own data is full of, and a few more.
#[test]
fn commands_that_the_real_tool_would_refuse_are_found() {
    for (command, fault) in [
        ("witness run --step build --key key.pem -- make", "has no flag `--key`"),
        ("witness run --step build -a git -- make", "exactly one signer"),
        (
            "witness run --step build -k a.pem --signer-kms-ref awskms:///b -- make",
            "exactly one signer",
        ),
        ("witness run -k key.pem -- make", "lacks a step"),
        ("witness run --step build -k key.pem make", "`--` before the command"),
        ("witness run --step build -k key.pem -- ", "a command"),
        (
            "witness run --step build -a git,commandrun -k key.pem -- make",
            "no attestor `commandrun`",
        ),
        (
            "witness run --step build -a command-run -k key.pem -- make",
            "not to be named",
        ),
        (
            "witness run --step build -a aws-iid -k key.pem -- make",
            "no attestor `aws-iid`",
        ),
        ("witness run --step -a git -k key.pem -- make", "`--step` has no value"),
        (
            "witness verify -p p.json -k pub.pem -a build.json",
            "an artifact or a subject",
        ),
        ("witness verify -p p.json -k pub.pem -f app", "lacks attestations"),
        ("witness verify -p p.json -a build.json -f app", "the policy's key"),
        (
            "witness verify -p p.json -k pub.pem -a build.json --subject app",
            "has no flag `--subject`",
        ),
        ("witness sign -f policy.json -o signed.json", "exactly one signer"),
        ("witness attest --step build", "no such command"),
        ("witness attestors schema commandrun", "no such attestor"),
    ] {
        is_wrong(&sh(command), fault);
    }
    is_wrong("Use `witness run --step x -- make` here.", "exactly one signer");
    is_wrong("Use `witness attest` here.", "there is no command");
    is_wrong("Then add --subject to it.", "no flag `--subject`");
    is_wrong("The flag `-x` helps.", "no flag `-x`");
    is_wrong("The attestor commandrun records it.", "no attestor `commandrun`");
    is_wrong(
        "The type is https://witness.dev/attestations/commandrun/v0.1.",
        "no predicate type",
    );
    is_wrong("```sh\nmake", "does not end");
}

#[test]
fn policies_are_read_field_by_field() {
    let step = r#"{"name": "build", "attestations": [{"type": "https://witness.dev/attestations/git/v0.1"}],
        "functionaries": [{"type": "publickey", "publickeyid": "KEYID"}]}"#;
    let keys = r#""publickeys": {"KEYID": {"keyid": "KEYID", "key": "LS0tLS1CRUdJTg=="}}"#;
    let expires = r#""expires": "2030-01-01T00:00:00Z""#;
    let policy = |expires: &str, steps: &str, keys: &str| {
        let parts = [expires, steps, keys].into_iter().filter(|part| !part.is_empty());
        format!("```json\n{{{}}}\n```", parts.collect::<Vec<_>>().join(", "))
    };
    let steps = format!(r#""steps": {{"build": {step}}}"#);
    is_right(&policy(expires, &steps, keys));
    is_wrong(&policy("", &steps, keys), "policy lacks `expires`");
    is_wrong(&policy(r#""expires": "tomorrow""#, &steps, keys), "expires is");
    is_wrong(&policy(expires, r#""steps": {}"#, keys), "has no steps");
    is_wrong(&policy(expires, &steps, ""), "trusts a key that the policy lacks");
    is_wrong(
        &policy(expires, &steps.replace("\"name\"", "\"title\""), keys),
        "step has no field `title`",
    );
    is_wrong(
        &policy(expires, &steps.replace("/git/", "/github-actions/"), keys),
        "no predicate type",
    );
    is_wrong(
        &policy(expires, &steps.replace("publickeyid", "keyid"), keys),
        "lacks `publickeyid`",
    );
    is_wrong(
        &policy(
            expires,
            &steps,
            &keys.replace("LS0tLS1CRUdJTg==", "-----BEGIN PUBLIC KEY-----"),
        ),
        "not base64",
    );
    is_wrong("```json\n{\"steps\": \n```", "no JSON");
}

#[test]
fn rego_modules_have_one_form() {
    let module = "package git\n\nimport rego.v1\n\ndeny contains msg if {\n\tinput.branch != \"main\"\n\tmsg := \"wrong branch\"\n}";
    let rego = |text: &str| format!("```rego\n{text}\n```");
    is_right(&rego(module));
    for (from, to) in [
        ("input.branch != \"main\"", "count(input.status) > 0"),
        ("input.branch != \"main\"", "not input.signature"),
        (
            "input.branch != \"main\"",
            "not endswith(input.authoremail, \"@example.com\")",
        ),
    ] {
        is_right(&rego(&module.replace(from, to)));
    }
    for (from, to, fault) in [
        ("import rego.v1\n\n", "", "lacks `import rego.v1`"),
        ("deny contains msg if {", "deny[msg] {", "outside of a rule"),
        ("package git", "package build", "is no attestor"),
        ("input.branch", "input.exitcode", "known field"),
        ("input.branch", "input.attestations", "known field"),
        ("\tmsg := \"wrong branch\"\n", "", "lacks its condition or message"),
        ("\n}", "", "no whole `deny` rule"),
        ("\"main\"", "main", "known field"),
    ] {
        is_wrong(&rego(&module.replace(from, to)), fault);
    }
}

#[test]
fn an_answer_gets_the_grade_that_it_deserves() {
    let chat = Chat {
        topic: "attest".to_owned(),
        is_small_talk: false,
        system: None,
        question: "How do I attest a Go build?".to_owned(),
        answer: format!("So:\n\n{}", sh("witness run --step build -k key.pem -- go build")),
    };
    let graded = |answer: &str| grade(&Facts::load(), &chat, answer);
    assert_eq!(graded(&format!("{}\n", chat.answer)), Grade::Exact);
    assert_eq!(graded(&chat.answer.replace("So", "Like this")), Grade::Right);
    assert_eq!(graded(&chat.answer.replace("go build", "make")), Grade::Sound);
    assert_eq!(graded("I do not know."), Grade::Sound);
    assert_eq!(graded(&chat.answer.replace("-k", "--key")), Grade::Wrong);
}
