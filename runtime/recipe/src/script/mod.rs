//! A training script of Transformers and PEFT, read and never run: the keyword arguments of the calls that make up a recipe.
//!
//! What is understood: literals, names that are set to literals, dotted names (`torch.bfloat16`), `Path(A) / "b"`, `os.path.join`. A value
//! that would have to be computed is a fault, since a recipe that guesses is none. What else the script does is not looked at, and said so.

mod lex;
mod parse;

use std::collections::BTreeMap;

use crate::draft::Field;
use crate::error::{Fault, Problem};
use crate::node::{Entry, Node, Position, TEXT_BYTES_MAX, Value};
use parse::{Call, Expression, Kind};

/// What a script amounts to.
pub(crate) struct Script {
    pub(crate) fields: Vec<Field>,
    pub(crate) warnings: Vec<String>,
    pub(crate) faults: Vec<Fault>,
}

/// Calls whose keyword arguments are keys of a recipe.
const CALLS: &[&str] = &[
    "LoraConfig",
    "TrainingArguments",
    "Seq2SeqTrainingArguments",
    "SFTConfig",
    "BitsAndBytesConfig",
    "EarlyStoppingCallback",
];

/// Keyword arguments of a tokenizer's call that are keys of a recipe.
const TOKENIZING: &[&str] = &["max_length", "truncation", "padding"];

/// Keyword arguments of `from_pretrained` that are objects of their own, and read there.
const OBJECTS: &[&str] = &["quantization_config", "config", "tokenizer", "peft_config", "callbacks"];

/// Reads a script.
pub(crate) fn read(text: &str) -> Result<Script, Fault> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Fault::new(
            Problem::Limit,
            None,
            format!("the script has {} bytes; at most {TEXT_BYTES_MAX} are read", text.len()),
            "write its settings to a recipe",
        ));
    }
    let tokens = lex::tokens(text)?;
    let parsed = parse::parse(&tokens)?;
    let mut script = Script {
        fields: Vec::new(),
        warnings: Vec::new(),
        faults: Vec::new(),
    };
    let names: BTreeMap<&str, &Expression> = parsed
        .names
        .iter()
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    let mut rows: [Vec<Node>; 2] = [Vec::new(), Vec::new()];
    let mut places = [None, None];
    for call in &parsed.calls {
        let last = call.callee.rsplit('.').next().unwrap_or(&call.callee);
        if CALLS.contains(&last) {
            script.keywords(call, last, &names, |_| true);
        } else if last == "from_pretrained" && call.callee.contains("Model") {
            script.base(call, &names);
            script.keywords(call, "from_pretrained", &names, |key| !OBJECTS.contains(&key));
        } else if call.callee == "tokenizer" {
            script.keywords(call, "tokenizer", &names, |key| TOKENIZING.contains(&key));
        } else {
            rows_of(call, &names, &mut rows, &mut places);
        }
    }
    for ((key, rows), place) in ["data", "validation"].into_iter().zip(rows).zip(places) {
        if !rows.is_empty() {
            script.fields.push(Field {
                key: key.to_owned(),
                label: format!("rows ({key})"),
                node: Node::of(Value::List(rows)),
                position: place,
            });
        }
    }
    script.warn_of_what_it_does(text, &parsed.calls);
    Ok(script)
}

impl Script {
    fn keywords(
        &mut self,
        call: &Call,
        prefix: &str,
        names: &BTreeMap<&str, &Expression>,
        is_key: impl Fn(&str) -> bool,
    ) {
        for (key, position, value) in call.keywords.iter().filter(|(key, ..)| is_key(key)) {
            let label = format!("{prefix}.{key}");
            match node(value, names, 0) {
                Some(node) => self.fields.push(Field {
                    key: key.clone(),
                    label,
                    node,
                    position: Some(*position),
                }),
                None => self.faults.push(Fault::new(
                    Problem::Value,
                    Some(*position),
                    format!("the value of `{label}` would have to be computed, and a script is not run"),
                    format!("write the value itself, or give it with `--set {key}=..`"),
                )),
            }
        }
    }

    /// The first argument of `from_pretrained` is the base.
    fn base(&mut self, call: &Call, names: &BTreeMap<&str, &Expression>) {
        if let Some(Node {
            value: Value::Text(name),
            ..
        }) = call.arguments.first().and_then(|value| node(value, names, 0))
        {
            self.fields.push(Field {
                key: "base".to_owned(),
                label: "from_pretrained".to_owned(),
                node: Node::of(Value::Text(name)),
                position: Some(call.position),
            });
        }
    }

    fn warn_of_what_it_does(&mut self, text: &str, calls: &[Call]) {
        self.warnings
            .push("the script is read, not run: what it does beside these calls has no effect".to_owned());
        let ends = |name: &str| calls.iter().any(|call| call.callee.rsplit('.').next() == Some(name));
        if ends("apply_chat_template")
            && ends("DataCollatorForLanguageModeling")
            && text.contains("tokenizer.eos_token")
        {
            self.warnings.push(
                "as written, the script learns whole conversations, with a second begin-of-text and without ends of turns; \
                 here the answers alone are learned, ends included (`--compat guide` does as the script does)"
                    .to_owned(),
            );
        }
    }
}

/// Files of rows are recognised by their ending, those to measure on by the name of what they are loaded into.
fn rows_of(
    call: &Call,
    names: &BTreeMap<&str, &Expression>,
    rows: &mut [Vec<Node>; 2],
    places: &mut [Option<Position>; 2],
) {
    let is_loader = call.callee.contains("load") || call.callee == "open";
    if !is_loader {
        return;
    }
    let values = call
        .arguments
        .iter()
        .chain(call.keywords.iter().map(|(.., value)| value));
    for value in values {
        let Some(found) = node(value, names, 0) else {
            continue;
        };
        let mut paths = Vec::new();
        texts(&found, &mut paths);
        for path in paths
            .into_iter()
            .filter(|path| path.ends_with(".jsonl") || path.ends_with(".json"))
        {
            let target = call.target.as_deref().unwrap_or_default().to_ascii_lowercase();
            let is_validation = ["val", "eval", "test", "dev"].iter().any(|word| target.contains(word));
            let part = usize::from(is_validation);
            places[part].get_or_insert(call.position);
            let node = Node::of(Value::Text(path));
            if !rows[part].contains(&node) {
                rows[part].push(node);
            }
        }
    }
}

fn texts(node: &Node, found: &mut Vec<String>) {
    match &node.value {
        Value::Text(text) => found.push(text.clone()),
        Value::List(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Map(entries) => entries.iter().for_each(|entry| texts(&entry.node, found)),
        _ => {}
    }
}

/// Returns the value of an expression without computing it; nothing when it would have to be.
fn node(expression: &Expression, names: &BTreeMap<&str, &Expression>, depth: usize) -> Option<Node> {
    // A name that leads to itself, or very far.
    if depth > 8 {
        return None;
    }
    let value = match &expression.kind {
        Kind::Value(value) => value.clone(),
        Kind::Name(name) => match names.get(name.as_str()) {
            Some(known) => return node(known, names, depth + 1),
            // `torch.bfloat16`, `TaskType.CAUSAL_LM`: its name says what it is.
            None if name.contains('.') => Value::Text(name.clone()),
            None => return None,
        },
        Kind::List(items) => Value::List(
            items
                .iter()
                .map(|item| node(item, names, depth + 1))
                .collect::<Option<_>>()?,
        ),
        Kind::Map(pairs) => {
            let entry = |(key, value): &(Expression, Expression)| {
                let Value::Text(key) = node(key, names, depth + 1)?.value else {
                    return None;
                };
                Some(Entry {
                    key,
                    position: expression.position,
                    node: node(value, names, depth + 1)?,
                })
            };
            Value::Map(pairs.iter().map(entry).collect::<Option<_>>()?)
        }
        Kind::Path(parts) => {
            let mut path = String::new();
            for part in parts {
                let Value::Text(part) = node(part, names, depth + 1)?.value else {
                    return None;
                };
                path = match path.is_empty() || part.starts_with('/') {
                    true => part,
                    false => format!("{}/{part}", path.trim_end_matches('/')),
                };
            }
            Value::Text(path)
        }
        Kind::Other => return None,
    };
    Some(Node {
        value,
        position: expression.position,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = r#"
import torch  # LoraConfig(r=99)
"""A text that holds TrainingArguments(num_train_epochs=9)"""
BASE = "org/Model-1B"
OUT, DATA = "./x", "y"
FOLDER = "./rows"
EPOCHS = 2
config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=16, lora_alpha=2 * 16, lora_dropout=5e-2,
                    target_modules=["q_proj", 'v_' 'proj'], bias="none")
model = AutoModelForCausalLM.from_pretrained(BASE, torch_dtype=torch.bfloat16, quantization_config=bnb())
def load(path):
    with open(path, 'r') as f:
        return [json.loads(line) for line in f if line]
train_data = load(Path(FOLDER) / "train.jsonl")
val_data = load_dataset("json", data_files={"x": os.path.join(FOLDER, "val.jsonl")})["x"]
rows = rows.map(lambda x: tokenizer(x["text"], truncation=True, max_length=2_048), batched=True)
args = TrainingArguments(
    num_train_epochs=EPOCHS,  # a comment, with a )
    learning_rate=2e-4,
    max_steps=-1,
    load_best_model_at_end=True,
    report_to=("wandb",),
    lr_scheduler_kwargs={"power": 2},
    hub_token=None,
)
"#;

    #[test]
    fn keyword_arguments_are_read_and_nothing_is_computed() {
        let script = read(SCRIPT).unwrap();
        let fields: Vec<String> = script
            .fields
            .iter()
            .map(|field| {
                let line = field.position.map_or(0, |at| at.line);
                format!("{line} {} = {}", field.label, field.node.to_json())
            })
            .collect();
        insta::assert_snapshot!(fields.join("\n"), @r#"
        8 LoraConfig.task_type = "TaskType.CAUSAL_LM"
        8 LoraConfig.r = 16
        8 LoraConfig.lora_dropout = 0.05
        9 LoraConfig.target_modules = ["q_proj","v_proj"]
        9 LoraConfig.bias = "none"
        10 from_pretrained = "org/Model-1B"
        10 from_pretrained.torch_dtype = "torch.bfloat16"
        16 tokenizer.truncation = true
        16 tokenizer.max_length = 2048
        18 TrainingArguments.num_train_epochs = 2
        19 TrainingArguments.learning_rate = 0.0002
        20 TrainingArguments.max_steps = -1
        21 TrainingArguments.load_best_model_at_end = true
        22 TrainingArguments.report_to = ["wandb"]
        23 TrainingArguments.lr_scheduler_kwargs = {"power":2}
        24 TrainingArguments.hub_token = null
        14 rows (data) = ["./rows/train.jsonl"]
        15 rows (validation) = ["./rows/val.jsonl"]
        "#);
        let faults: Vec<String> = script.faults.iter().map(ToString::to_string).collect();
        assert_eq!(
            faults,
            ["the value of `LoraConfig.lora_alpha` would have to be computed, and a script is not run"]
        );
    }

    #[test]
    fn hostile_scripts_are_answered() {
        let deep = |open: &str, close: &str| format!("x = {}{}", open.repeat(60_000), close.repeat(60_000));
        for text in [
            deep("(", ")"),
            deep("f(", ")"),
            deep("[", ""),
            deep("{1:", "}"),
            "x = -".repeat(100_000),
            "a.".repeat(100_000),
            "TrainingArguments(".to_owned(),
            "x = '".to_owned(),
            "x = \"\"\"".to_owned(),
            "a = b\nb = a\nLoraConfig(r=a)".to_owned(),
            "LoraConfig(r=)".to_owned(),
            "LoraConfig(**x, *y, r)".to_owned(),
            ")))((([[[".to_owned(),
            "x = 1e999999\nLoraConfig(r=x)".to_owned(),
            "é = 'ü'; LoraConfig(r=é)".to_owned(),
        ] {
            let _ = read(&text);
        }
        for end in 0..SCRIPT.len() {
            let _ = read(&SCRIPT[..end]);
        }
    }
}
