//! Encoding against recorded rows and published templates, and what is refused.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use witness_dataset::{Checks, Conversation, ReadOptions, Reader, Sources};
use witness_formats::FileSet;
use witness_plugin_protocol::{Compat, ExcessLength, TrainOnEos, TrainSettings};
use witness_template::CivilTime;
use witness_tokenizer::Tokenizer;

use super::*;
use crate::base::Template;

fn shared(path: &str) -> Option<PathBuf> {
    let start = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let found = start
        .ancestors()
        .map(|directory| directory.join("shared").join(path))
        .find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: {path} needs ../shared");
    }
    found
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<u32> {
    let values = value.as_array().unwrap().iter();
    values.map(|value| value.as_u64().unwrap() as u32).collect()
}

fn conversations(path: &Path) -> Vec<Conversation> {
    let sources = Sources::find(&[path]).unwrap();
    let options = ReadOptions {
        checks: Checks::Training,
        ..ReadOptions::default()
    };
    let rows = Reader::new(&sources, options).map(|line| line.unwrap().row.unwrap().conversation);
    rows.collect()
}

/// A byte-level tokenizer without merges: one token a byte, and special tokens.
fn byte_tokenizer(specials: &[&str], config: Value) -> Tokenizer {
    let directory = tempfile::tempdir().unwrap();
    let mut vocab = serde_json::Map::new();
    // GPT-2's alphabet: printable bytes stand for themselves, the others for characters from U+0100 on.
    let mut next = 0x100;
    for byte in 0u32..256 {
        let is_printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let character = if is_printable { byte } else { next };
        next += u32::from(!is_printable);
        vocab.insert(char::from_u32(character).unwrap().to_string(), json!(byte));
    }
    let added: Vec<Value> = (256..)
        .zip(specials)
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": config.get("normalizer"),
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": config.get("post_processor"), "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": []},
    });
    std::fs::write(directory.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(
        directory.path().join("tokenizer_config.json"),
        config["config"].to_string(),
    )
    .unwrap();
    Tokenizer::from_hf(&FileSet::from_directory(directory.path()).unwrap()).unwrap()
}

fn chatml_tokenizer() -> Tokenizer {
    let config = json!({"config": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}});
    byte_tokenizer(&["<|endoftext|>", "<|im_start|>", "<|im_end|>"], config)
}

const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn row(text: Value) -> Conversation {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("row.jsonl");
    std::fs::write(&path, text.to_string()).unwrap();
    conversations(&path).remove(0)
}

fn chat(turns: &[(&str, &str)]) -> Conversation {
    let messages: Vec<Value> = turns
        .iter()
        .map(|(role, content)| json!({"role": role, "content": content}))
        .collect();
    row(json!({ "messages": messages }))
}

/// Encodes a row, and returns what is learned in brackets between what is not.
fn learned(tokenizer: &Tokenizer, template: &str, settings: &TrainSettings, row: &Conversation) -> String {
    let template = Template::choose(Some(template), None).unwrap();
    let encoder = Encoder::new(tokenizer, &template, settings, 100_000, CivilTime::from_unix(0)).unwrap();
    let Outcome::Used { pieces, .. } = encoder.encode(row).unwrap() else {
        return "left out".to_owned();
    };
    let mut out = String::new();
    let (mut ids, mut is_target) = (Vec::new(), false);
    let flush = |ids: &mut Vec<u32>, is_target: bool, out: &mut String| {
        let text = tokenizer.decode(ids, false);
        match (is_target, text.is_empty()) {
            (_, true) => {}
            (true, false) => *out += &format!("[{text}]"),
            (false, false) => *out += &text,
        }
        ids.clear();
    };
    for (id, mark) in pieces[0].ids.iter().zip(&pieces[0].is_target) {
        if *mark != is_target {
            flush(&mut ids, is_target, &mut out);
            is_target = *mark;
        }
        ids.push(*id);
    }
    flush(&mut ids, is_target, &mut out);
    out
}

// Ids and marks of two families over 22 real rows, as a pipeline with Transformers made them.
#[test]
fn rows_are_those_of_the_reference() {
    for family in ["llama", "qwen2"] {
        let Some(root) = shared(&format!("oracle/{family}")) else {
            return;
        };
        let files = FileSet::from_directory(&root.join("base")).unwrap();
        let tokenizer = Tokenizer::from_hf(&files).unwrap();
        let source = std::fs::read_to_string(root.join("base/chat_template.jinja")).unwrap();
        let template = Template::choose(None, Some(&source)).unwrap();
        let settings = TrainSettings {
            excess_length: ExcessLength::Truncate,
            ..TrainSettings::default()
        };
        let encoder = Encoder::new(&tokenizer, &template, &settings, 256, CivilTime::from_unix(0)).unwrap();
        let expected = json(&root.join("encoded_rows.json"));
        let rows = conversations(&root.join("rows.jsonl"));
        assert_eq!(rows.len(), expected.as_array().unwrap().len());
        for (row, expected) in rows.iter().zip(expected.as_array().unwrap()) {
            let Outcome::Used { pieces, .. } = encoder.encode(row).unwrap() else {
                panic!("left out")
            };
            assert_eq!(pieces[0].ids, numbers(&expected["ids"]), "{family}");
            let marks: Vec<u32> = pieces[0].is_target.iter().map(|mark| u32::from(*mark)).collect();
            assert_eq!(marks, numbers(&expected["assistant_mask"]), "{family}");
        }
    }
}

// The guide's script, traced: ids of both parts, and which of them stand in the loss.
#[test]
fn the_guides_rows_are_those_of_its_script() {
    let (Some(root), Some(base)) = (shared("oracle/seed_trainer"), shared("oracle/llama/base")) else {
        return;
    };
    let tokenizer = Tokenizer::from_hf(&FileSet::from_directory(&base).unwrap()).unwrap();
    let source = std::fs::read_to_string(base.join("chat_template.jinja")).unwrap();
    let template = Template::choose(None, Some(&source)).unwrap();
    let settings = TrainSettings {
        compat: Some(Compat::Guide),
        ..TrainSettings::default()
    };
    let encoder = Encoder::new(&tokenizer, &template, &settings, 512, CivilTime::from_unix(0)).unwrap();
    let expected = json(&root.join("input_ids.json"));
    let labels = json(&root.join("trace.json"));
    for (part, file) in [("train", "train.jsonl"), ("val", "val.jsonl")] {
        for (at, row) in conversations(&root.join(file)).iter().enumerate() {
            let Outcome::Used { pieces, .. } = encoder.encode(row).unwrap() else {
                panic!("left out")
            };
            let mut wanted = numbers(&expected[part][at]);
            let n_real = match &expected["train_mask"] {
                Value::Array(masks) if part == "train" => masks[at].as_u64().unwrap() as usize,
                _ => pieces[0].ids.len(),
            };
            assert!(
                wanted[n_real..].iter().all(|id| Some(*id) == tokenizer.eos()),
                "{part} {at}"
            );
            wanted.truncate(n_real);
            assert_eq!(pieces[0].ids, wanted, "{part} {at}");
            let batches = labels["micro_batches"].as_array().unwrap().iter();
            let mut counts = batches
                .filter(|batch| batch["train"] == json!(part == "train"))
                .filter_map(|batch| {
                    let place = numbers(&batch["rows"]).iter().position(|row| *row as usize == at)?;
                    batch["n_label"][place].as_u64()
                });
            // The trace counts labels before they are shifted; the first token, BOS, has one.
            let labelled = pieces[0].is_target.iter().filter(|mark| **mark).count() as u64;
            assert_eq!(counts.next(), Some(labelled), "{part} {at}");
        }
    }
}

#[test]
fn turns_and_their_ends_are_learned_as_asked() {
    let tokenizer = chatml_tokenizer();
    let row = chat(&[
        ("system", "s"),
        ("user", "u"),
        ("assistant", "a b"),
        ("user", "v"),
        ("assistant", "c"),
    ]);
    let with = |change: &dyn Fn(&mut TrainSettings)| {
        let mut settings = TrainSettings::default();
        change(&mut settings);
        learned(&tokenizer, CHATML, &settings, &row)
    };
    let (s, u, a) = (
        "<|im_start|>system\ns<|im_end|>\n",
        "<|im_start|>user\n",
        "<|im_start|>assistant\n",
    );
    let e = "<|im_end|>";
    assert_eq!(with(&|_| {}), format!("{s}{u}u{e}\n{a}[a b{e}]\n{u}v{e}\n{a}[c{e}]\n"));
    let none = with(&|settings| settings.train_on_eos = TrainOnEos::None);
    assert_eq!(none, format!("{s}{u}u{e}\n{a}[a b]{e}\n{u}v{e}\n{a}[c]{e}\n"));
    let last = with(&|settings| settings.train_on_eos = TrainOnEos::Last);
    assert_eq!(last, format!("{s}{u}u{e}\n{a}[a b]{e}\n{u}v{e}\n{a}[c{e}]\n"));
    let all = with(&|settings| settings.train_on_eos = TrainOnEos::All);
    let s_all = s.replace(e, &format!("[{e}]"));
    assert_eq!(all, format!("{s_all}{u}u[{e}]\n{a}[a b{e}]\n{u}v[{e}]\n{a}[c{e}]\n"));
    let users = with(&|settings| settings.roles_to_train = vec!["human".to_owned()]);
    assert_eq!(users, format!("{s}{u}[u{e}]\n{a}a b{e}\n{u}[v{e}]\n{a}c{e}\n"));
    let inputs = with(&|settings| settings.train_on_inputs = true);
    assert_eq!(inputs, format!("[{s}{u}u{e}\n{a}a b{e}\n{u}v{e}\n{a}c{e}\n]"));
}

#[test]
fn rows_say_which_turns_are_learned() {
    let tokenizer = chatml_tokenizer();
    let settings = TrainSettings::default();
    let row = row(json!({"messages": [
        {"role": "user", "content": "u", "train": true}, {"role": "assistant", "content": "a", "weight": 0},
        {"role": "user", "content": "v"}, {"role": "assistant", "content": "b"},
    ]}));
    let text = learned(&tokenizer, CHATML, &settings, &row);
    assert_eq!(
        text,
        "<|im_start|>user\n[u<|im_end|>]\n<|im_start|>assistant\na<|im_end|>\n<|im_start|>user\nv<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n"
    );
}

/// Equal contents, contents that are parts of others or of the template, and empty lines: places must not be guessed from the text.
#[test]
fn contents_that_repeat_are_told_apart() {
    let tokenizer = chatml_tokenizer();
    let settings = TrainSettings::default();
    for (question, answer) in [
        ("x", "x"),
        ("assistant\nx", "x"),
        ("a<|im_end|>b", "user"),
        ("q", "\n\nx\n\n"),
        ("0", "1"),
    ] {
        let row = chat(&[
            ("user", question),
            ("assistant", answer),
            ("user", answer),
            ("assistant", question),
        ]);
        let text = learned(&tokenizer, CHATML, &settings, &row);
        // Marks in a text of one token a byte: inside an answer an end token is content.
        let wanted = format!(
            "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n[{answer}<|im_end|>]\n<|im_start|>user\n{answer}<|im_end|>\n<|im_start|>assistant\n[{question}<|im_end|>]\n"
        );
        assert_eq!(text, wanted);
    }
}

#[test]
fn templates_of_all_kinds_say_what_the_assistant_says() {
    let tokenizer = byte_tokenizer(
        &["<s>", "</s>"],
        json!({"config": {"bos_token": "<s>", "eos_token": "</s>"}}),
    );
    let settings = TrainSettings::default();
    let row = chat(&[("user", "u"), ("assistant", " a "), ("user", "v"), ("assistant", "b")]);
    for (template, expected) in [
        // Trims, and has nothing to begin an answer with.
        (
            "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}",
            "<s>[INST] u [/INST] [a</s>][INST] v [/INST] [b</s>]",
        ),
        // Tags, which hold the end or not.
        (
            "{% for m in messages %}{% if m.role == 'user' %}U:{{ m.content }}{% else %}A:{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}",
            "U:uA:[ a </s>]U:vA:[b</s>]",
        ),
        (
            "{% for m in messages %}{% if m.role == 'user' %}U:{{ m.content }}{% else %}A:{% generation %}{{ m.content }}{% endgeneration %}{{ eos_token }}{% endif %}{% endfor %}",
            "U:uA:[ a </s>]U:vA:[b</s>]",
        ),
        // No end between turns: the whole conversation gets one.
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}",
            "user: u\nassistant:[  a ]\nuser: v\nassistant:[ b]\n[</s>]",
        ),
        // A template that looks into what is said, as those of thinking models do: earlier thoughts go.
        (
            "{% for m in messages %}{% if m.role == 'user' %}U:{{ m.content }}{{ eos_token }}{% else %}A:{% if loop.last %}<think></think>{% endif %}{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}A:{% endif %}",
            "U:u</s>A:[ a </s>]U:v</s>A:[<think></think>b</s>]",
        ),
    ] {
        assert_eq!(learned(&tokenizer, template, &settings, &row), expected, "{template}");
    }
}

// What calls a tool has no content of its own; its turn is found behind what stands before it.
#[test]
fn calls_of_tools_are_learned() {
    let tokenizer = chatml_tokenizer();
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}</call>{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let row = row(json!({"messages": [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]},
        {"role": "tool", "content": "t"},
        {"role": "assistant", "content": "b"},
    ]}));
    let text = learned(&tokenizer, template, &TrainSettings::default(), &row);
    assert_eq!(
        text,
        "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n[<call>f</call><|im_end|>]\n<|im_start|>tool\nt<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n"
    );
}

#[test]
fn a_template_that_leaves_it_open_is_refused() {
    let tokenizer = chatml_tokenizer();
    let template = Template::choose(
        Some("{% for m in messages %}{{ m.content | upper }}{{ messages | length }}{% endfor %}"),
        None,
    )
    .unwrap();
    let encoder = Encoder::new(
        &tokenizer,
        &template,
        &TrainSettings::default(),
        100,
        CivilTime::from_unix(0),
    )
    .unwrap();
    let error = encoder
        .encode(&chat(&[
            ("user", "u"),
            ("assistant", "a"),
            ("user", "v"),
            ("assistant", "b"),
        ]))
        .unwrap_err();
    assert_eq!(error.code, "witness::train::parts_unclear");
    let refusing = Template::choose(Some("{{ raise_exception('no systems') }}"), None).unwrap();
    let encoder = Encoder::new(
        &tokenizer,
        &refusing,
        &TrainSettings::default(),
        100,
        CivilTime::from_unix(0),
    )
    .unwrap();
    let error = encoder.encode(&chat(&[("user", "u"), ("assistant", "a")])).unwrap_err();
    assert!(error.message.contains("no systems"), "{error}");
    let roles = TrainSettings {
        roles_to_train: vec!["asistant".to_owned()],
        ..TrainSettings::default()
    };
    let error = Encoder::new(&tokenizer, &template, &roles, 100, CivilTime::from_unix(0))
        .err()
        .unwrap();
    assert!(error.hints.iter().any(|hint| hint.contains("`assistant`")), "{error:?}");
}

#[test]
fn bare_text_is_learned_whole_and_long_text_is_cut_not_lost() {
    let config = json!({
        "config": {"bos_token": "<s>", "eos_token": "</s>"},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]}}},
    });
    let tokenizer = byte_tokenizer(&["<s>", "</s>"], config);
    let template = Template::choose(None, None).unwrap();
    let encode = |text: &str| {
        let encoder = Encoder::new(
            &tokenizer,
            &template,
            &TrainSettings::default(),
            5,
            CivilTime::from_unix(0),
        )
        .unwrap();
        match encoder.encode(&Conversation::of_text(text)).unwrap() {
            Outcome::Used { pieces, .. } => pieces.into_iter().map(|piece| piece.ids).collect::<Vec<_>>(),
            _ => Vec::new(),
        }
    };
    assert_eq!(encode("ab"), [vec![256, 97, 98, 257]]);
    assert_eq!(encode("<s>a</s>"), [vec![256, 97, 257]]);
    assert_eq!(
        encode("abcdefg"),
        [vec![256, 97, 98, 99, 100], vec![101, 102, 103, 257]]
    );
    // A piece of one token teaches nothing: nothing stands before it.
    assert_eq!(encode("abcd"), [vec![256, 97, 98, 99, 100]]);
}

#[test]
fn long_rows_are_left_out_or_cut() {
    let tokenizer = chatml_tokenizer();
    let template = Template::choose(Some(CHATML), None).unwrap();
    let row = chat(&[("user", "u"), ("assistant", "abcdef")]);
    let outcome = |excess, sequence_len| {
        let settings = TrainSettings {
            excess_length: excess,
            ..TrainSettings::default()
        };
        let encoder = Encoder::new(&tokenizer, &template, &settings, sequence_len, CivilTime::from_unix(0)).unwrap();
        encoder.encode(&row).unwrap()
    };
    let Outcome::Used { pieces, n_cut: 0, .. } = outcome(ExcessLength::Drop, 100) else {
        panic!()
    };
    let n = pieces[0].ids.len();
    assert!(matches!(outcome(ExcessLength::Drop, n - 1), Outcome::TooLong(_)));
    assert!(matches!(
        outcome(ExcessLength::Truncate, n - 3),
        Outcome::Used { n_cut: 3, .. }
    ));
    assert!(matches!(
        outcome(ExcessLength::Truncate, n - 8),
        Outcome::NothingToLearn(_)
    ));
}

// A tokenizer that composes letters and marks: the marks of targets must still lie where the answer does.
#[test]
fn normalised_text_is_matched_with_its_origin() {
    let config = json!({"config": {"eos_token": "<|im_end|>"}, "normalizer": {"type": "NFC"}});
    let tokenizer = byte_tokenizer(&["<|endoftext|>", "<|im_start|>", "<|im_end|>"], config);
    let row = chat(&[
        ("user", "cafe\u{301} u\u{308}"),
        ("assistant", "e\u{301}te\u{301} \u{1112}\u{1161}\u{11ab}"),
        ("user", "n\u{303}"),
        ("assistant", "o"),
    ]);
    let text = learned(&tokenizer, CHATML, &TrainSettings::default(), &row);
    assert_eq!(
        text,
        "<|im_start|>user\ncafé ü<|im_end|>\n<|im_start|>assistant\n[été 한<|im_end|>]\n<|im_start|>user\nñ<|im_end|>\n<|im_start|>assistant\n[o<|im_end|>]\n"
    );
}

/// Every real template that lays out a plain conversation.
fn real_templates() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in ["jinja-llamacpp", "trl-training", "axolotl-fixtures", "mistralrs"] {
        let Some(root) = shared(&format!("templates/{folder}")) else {
            continue;
        };
        for entry in std::fs::read_dir(root).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "jinja") {
                let name = format!("{folder}/{}", path.file_name().unwrap().to_string_lossy());
                found.push((name, std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// A tokenizer that knows the ends of turns of all those templates.
fn tokenizer_of_all() -> Tokenizer {
    let specials = [
        "<s>",
        "</s>",
        "<|im_start|>",
        "<|im_end|>",
        "<|eot_id|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    ];
    byte_tokenizer(&specials, json!({"config": {"bos_token": "<s>", "eos_token": "</s>"}}))
}

// With whatever template, what is learned of a turn is its content, perhaps what the template lets the model say before it, and the end.
#[test]
fn real_templates_leave_no_doubt() {
    let tokenizer = tokenizer_of_all();
    let settings = TrainSettings::default();
    let row = chat(&[
        ("user", "What is it?"),
        ("assistant", "It is this."),
        ("user", "And that?"),
        ("assistant", "That is the other."),
    ]);
    let (mut n_learned, mut refused) = (0, Vec::new());
    let templates = real_templates();
    for (name, source) in &templates {
        let Ok(template) = Template::choose(Some(source), None) else {
            continue;
        };
        let encoder = Encoder::new(&tokenizer, &template, &settings, 100_000, CivilTime::from_unix(0)).unwrap();
        if let Err(error) = encoder.encode(&row) {
            refused.push(format!("{name}: {error}"));
            continue;
        }
        let text = learned(&tokenizer, source, &settings, &row);
        let parts: Vec<&str> = text
            .split('[')
            .skip(1)
            .filter_map(|part| part.split_once(']'))
            .map(|(part, _)| part)
            .collect();
        let said = ["It is this.", "That is the other."];
        let holds = |at: usize| parts.iter().filter(|part| part.contains(said[at])).count() == 1;
        assert!(holds(0) && holds(1), "{name}: {text}");
        assert!(
            parts
                .iter()
                .all(|part| !part.contains("What is") && !part.contains("And that")),
            "{name}: {text}"
        );
        n_learned += 1;
    }
    eprintln!("{n_learned} of {} templates; refused: {refused:#?}", templates.len());
    assert!(n_learned * 10 >= templates.len() * 9, "{refused:#?}");
}

// Templates that were given tags for training, and the same ones without: both ways must find the same tokens.
#[test]
fn tags_and_marks_agree() {
    let tokenizer = tokenizer_of_all();
    let row = chat(&[
        ("system", "Be brief."),
        ("user", "u"),
        ("assistant", "a b"),
        ("user", "v"),
        ("assistant", "c"),
    ]);
    let templates = real_templates();
    let source = |name: &str| {
        templates
            .iter()
            .find(|(own, _)| own == &format!("trl-training/{name}.jinja"))
            .map(|(_, source)| source.as_str())
    };
    let mut n_compared = 0;
    for name in ["llama3", "qwen2_5"] {
        let (Some(plain), Some(tagged)) = (source(name), source(&format!("{name}_training"))) else {
            continue;
        };
        for ends in [TrainOnEos::Turn, TrainOnEos::None] {
            let settings = TrainSettings {
                train_on_eos: ends,
                ..TrainSettings::default()
            };
            let tagged = learned(&tokenizer, tagged, &settings, &row);
            // Some tags hold the line breaks around the turn, which the model is given or not asked for.
            assert_eq!(
                learned(&tokenizer, plain, &settings, &row),
                tagged.replace("\n]", "]\n").replace("[\n", "\n["),
                "{name} {ends:?}"
            );
        }
        n_compared += 1;
    }
    if !templates.is_empty() {
        assert_eq!(n_compared, 2);
    }
}
