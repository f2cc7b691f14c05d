//! Real chat templates against Python's Jinja: every template beside the checkout with every conversation of `data/conversations.json`.
//!
//! `record.py` wrote `data/recorded.json`: the SHA-256 of each rendering, or that Python refuses. Set `WITNESS_TEMPLATE_SHOW` to a
//! template's path to see what we render. All differences are named in [`DIFFERENCES`], so a new one is noticed and so is one that goes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use witness_template::{ChatTemplate, CivilTime, RenderInput, TemplateError};

/// Renderings that differ from Python's: template, conversation.
///
/// These templates mark texts as safe, and Python then escapes the quotes of what is added to them (`&#34;`), although nothing else is
/// escaped. The engine keeps the quotes, as the models' own tokenizers do: the ids that Mistral records beside its templates hold quotes.
const DIFFERENCES: [(&str, &str); 9] = [
    (
        "jinja-llamacpp/meetkai-functionary-medium-v3.1.jinja",
        "a tool is called",
    ),
    ("jinja-llamacpp/meetkai-functionary-medium-v3.1.jinja", "tools on offer"),
    (
        "jinja-llamacpp/meetkai-functionary-medium-v3.1.jinja",
        "several calls at once",
    ),
    ("mistral-common/chat_templates/v2.jinja", "a tool is called"),
    ("mistral-common/chat_templates/v2_spm.jinja", "a tool is called"),
    ("mistral-common/chat_templates/v3.jinja", "a tool is called"),
    ("mistral-common/chat_templates/v3.jinja", "several calls at once"),
    ("mistral-common/chat_templates/v3_spm.jinja", "a tool is called"),
    ("mistral-common/chat_templates/v3_spm.jinja", "several calls at once"),
];

/// Renderings that only Python refuses: it cannot loop over nothing (absent tools or content) or write a generator as JSON, where we go on
/// as if the list were empty or a list. Counted, so that a change is noticed.
const ONLY_PYTHON_REFUSES: usize = 32;

fn shared_templates() -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("../shared/templates"))
        .find(|folder| folder.is_dir());
    if found.is_none() {
        eprintln!("skipped: real chat templates need ../shared/templates");
    }
    found
}

fn data(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    serde_json::from_slice(&std::fs::read(path).expect("test data")).expect("test data is JSON")
}

fn source(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("a template");
    if path.extension().is_some_and(|extension| extension == "json") {
        let file: Value = serde_json::from_str(&text).expect("JSON");
        return file["chat_template"].as_str().expect("a template").to_owned();
    }
    text.replace("\r\n", "\n")
}

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn render(template: &ChatTemplate, case: &Value) -> Result<String, TemplateError> {
    let variables: Map<String, Value> = case["variables"].as_object().cloned().unwrap_or_default();
    let input = RenderInput {
        tools: case.get("tools"),
        add_generation_prompt: case["add_generation_prompt"] == true,
        bos_token: Some("<s>"),
        eos_token: Some("</s>"),
        variables: Some(&variables),
        ..RenderInput::new(&case["messages"], CivilTime::from_unix(1_753_606_305))
    };
    let text = template.render(&input)?;
    // The marked way runs another path of the engine; it must give the same text.
    assert_eq!(template.render_marked(&input)?.text, text);
    Ok(text)
}

/// Small templates, one for each way of printing or helper, with Python's whole rendering. These run everywhere.
#[test]
fn small_templates_print_as_python_does() {
    let conversation = &data("conversations.json")[1];
    let mut differences = Vec::new();
    for row in data("recorded.json")["small"].as_array().expect("rows") {
        let source = row["template"].as_str().expect("a template");
        let ours = ChatTemplate::compile(source).and_then(|template| render(&template, conversation));
        if ours.as_deref().ok() != row["expected"].as_str() {
            differences.push(format!(
                "{source}\n ours:   {ours:?}\n theirs: {:?}",
                row["expected"].as_str()
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// The tag of training templates tells which bytes the assistant says.
#[test]
fn generation_tags_mark_what_the_assistant_says() {
    let source = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>{% endgeneration %}\
        {% else %}{{ m.content }}{% endif %}{% endfor %}";
    let messages = serde_json::json!([
        {"role": "user", "content": "ä?"}, {"role": "assistant", "content": "ö!"},
        {"role": "user", "content": "b?"}, {"role": "assistant", "content": "c!"}
    ]);
    let template = ChatTemplate::compile(source).expect("compiles");
    let rendered = template
        .render_marked(&RenderInput::new(&messages, CivilTime::from_unix(0)))
        .expect("renders");
    assert_eq!(rendered.text, "<user>ä?<assistant>ö!</s><user>b?<assistant>c!</s>");
    let said: Vec<&str> = rendered
        .assistant
        .iter()
        .map(|range| &rendered.text[range.clone()])
        .collect();
    assert_eq!(said, ["ö!</s>", "c!</s>"]);
}

/// About 900 renderings, a second in the dev profile: this is the crate's truth.
#[test]
fn every_rendering_is_pythons() {
    let Some(folder) = shared_templates() else { return };
    let recorded = data("recorded.json");
    let conversations = data("conversations.json");
    let shown = std::env::var("WITNESS_TEMPLATE_SHOW").unwrap_or_default();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut unexpected = Vec::new();
    for (name, record) in recorded["templates"].as_object().expect("templates") {
        let source = source(&folder.join(name));
        if sha256(&source) != record["source"].as_str().expect("a hash") {
            eprintln!("skipped: `{name}` is not the version that was recorded");
            continue;
        }
        let compiled = ChatTemplate::compile(&source);
        for case in conversations.as_array().expect("cases") {
            let case_name = case["name"].as_str().expect("a name");
            let expected = record["renderings"][case_name].as_str().expect("a record");
            let ours = compiled.clone().and_then(|template| render(&template, case));
            if *name == shown {
                println!("--- {case_name}\n{ours:?}\n{}", ours.as_deref().unwrap_or_default());
            }
            let outcome = match (&ours, expected) {
                (Ok(text), expected) if sha256(text) == expected => "same",
                (Err(_), "refuses") => "both refuse",
                (Ok(_), "refuses") => "only Python refuses",
                (Ok(_), _) => "different",
                (Err(_), _) => "only we refuse",
            };
            *counts.entry(outcome).or_default() += 1;
            let is_known = DIFFERENCES.contains(&(name.as_str(), case_name));
            if matches!(outcome, "different" | "only we refuse") != is_known {
                unexpected.push(format!("{outcome}: {name}: {case_name}: {:?}", ours.err()));
            }
        }
    }
    println!("{counts:?}");
    assert!(unexpected.is_empty(), "{counts:?}\n{}", unexpected.join("\n"));
    assert_eq!(
        counts.get("only Python refuses").copied().unwrap_or(0),
        ONLY_PYTHON_REFUSES
    );
}
