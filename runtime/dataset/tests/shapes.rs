//! Every shape of a row, and every fault, by what a person is told: cases are data.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;

use serde_json::json;
use witness_dataset::Role::{Assistant, System, User};
use witness_dataset::{Checks, Conversation, Line, Message, ReadOptions, Reader, Role, Sources};

fn read_with(bytes: &[u8], checks: Checks) -> Vec<Line> {
    let mut file = tempfile::NamedTempFile::with_suffix(".jsonl").unwrap();
    file.write_all(bytes).unwrap();
    let sources = Sources::find(&[file.path()]).unwrap();
    let options = ReadOptions {
        checks,
        ..ReadOptions::default()
    };
    Reader::new(&sources, options).map(Result::unwrap).collect()
}

/// Returns the conversation of a row that must have no fault at all.
fn row(text: &str) -> Conversation {
    let mut lines = read_with(text.as_bytes(), Checks::Training);
    assert_eq!(lines.len(), 1, "{text}");
    let line = lines.remove(0);
    assert!(line.faults.is_empty(), "{text}: {:?}", line.faults);
    line.row.unwrap().conversation
}

/// Returns the faults of one line as `column code: message`.
fn faults(line: &[u8], checks: Checks) -> Vec<String> {
    let lines = read_with(line, checks);
    let faults = lines.iter().flat_map(|line| &line.faults);
    faults
        .map(|fault| format!("{} {}: {}", fault.place.column, fault.code.name(), fault.message))
        .collect()
}

fn chat(messages: &[(Role, &str)]) -> Conversation {
    let messages = messages.iter().map(|(role, content)| Message::new(*role, *content));
    Conversation::of(messages.collect())
}

#[test]
fn rows_of_every_shape_become_one_conversation() {
    let plain = chat(&[(User, "hi"), (Assistant, "ho")]);
    let with_system = chat(&[(System, "s"), (User, "hi"), (Assistant, "ho")]);
    for text in [
        r#"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]}"#,
        r#"{"messages":[{"role":"user","content":[{"type":"text","text":"h"},{"text":"i"}]},{"role":"model","content":"ho"}],"_metadata":{"x":[1]}}"#,
        r#"{"conversations":[{"from":"human","value":"hi"},{"from":"gpt","value":"ho"}],"system":""}"#,
        r#"{"conversations":[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]}"#,
        r#"{"messages":[{"from":"human","value":"hi"},{"from":"gpt","value":"ho"}]}"#,
        r#"{"prompt":"hi","completion":"ho"}"#,
        r#"{"prompt":[{"role":"user","content":"hi"}],"completion":[{"role":"assistant","content":"ho"}]}"#,
        r#"{"instruction":"hi","input":"","output":"ho"}"#,
        r#"{"instruction":"hi","input":null,"output":"ho","system":null}"#,
        r#"{"instruction":"hi","output":"ho"}"#,
    ] {
        assert_eq!(row(text), plain, "{text}");
    }
    for text in [
        r#"{"messages":[{"role":"developer","content":"s"},{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]}"#,
        r#"{"conversations":[{"from":"human","value":"hi"},{"from":"gpt","value":"ho"}],"system":"s"}"#,
        r#"{"prompt":"hi","completion":"ho","system":"s"}"#,
        r#"{"instruction":"hi","output":"ho","system":"s"}"#,
    ] {
        assert_eq!(row(text), with_system, "{text}");
    }
    let joined = chat(&[(User, "Add.\n\n1 and 2"), (Assistant, "3")]);
    assert_eq!(row(r#"{"instruction":"Add.","input":"1 and 2","output":"3"}"#), joined);
    assert_eq!(row(r#"{"text":"Once."}"#), Conversation::of_text("Once."));
}

#[test]
fn what_templates_know_besides_is_kept() {
    let conversation = row(
        r#"{"tools":[{"name":"f"}],"messages":[{"role":"user","content":"hi","weight":0},{"role":"assistant","content":null,"tool_calls":[{"id":1}]},{"role":"tool","content":"","name":"f"},{"role":"assistant","content":"ho","train":true,"other":1}]}"#,
    );
    let messages = conversation.messages();
    assert_eq!(messages[0].train, Some(false));
    assert_eq!(messages[1].content, "");
    assert_eq!(messages[1].extra["tool_calls"], json!([{"id": 1}]));
    assert_eq!(messages[2].extra["name"], "f");
    assert_eq!((messages[3].train, messages[3].extra.len()), (Some(true), 0));
    assert_eq!(conversation.tools, Some(json!([{"name": "f"}])));
    // Written down and read again, it is the same.
    assert_eq!(row(&conversation.to_json().to_string()), conversation);
    let text = r#"{"tools":"[{\"name\":\"f\"}]","prompt":"a","completion":"b"}"#;
    assert_eq!(row(text).tools, Some(json!([{"name": "f"}])));
}

#[test]
fn every_fault_is_told_with_its_column_and_a_reason() {
    for (line, expected) in [
        (
            r#"{"messages": "#,
            vec![
                "13 not_json: not JSON: EOF while parsing a value; the line ends too early: is the object broken over several lines?",
            ],
        ),
        (r#"{"text": "a"} x"#, vec!["15 not_json: not JSON: trailing characters"]),
        (r#"{"text": 'a'}"#, vec!["10 not_json: not JSON: expected value"]),
        (
            "[",
            vec![
                "1 not_json: not JSON: EOF while parsing a list; a JSON list over several lines is no JSONL: write one object a line",
            ],
        ),
        (
            r#"[{"text":"a"}]"#,
            vec![
                "1 not_an_object: a row is an object, this is a list; a JSON list is no JSONL: write one object a line",
            ],
        ),
        ("17", vec!["1 not_an_object: a row is an object, this is a number"]),
        (
            "{}",
            vec![
                "1 unknown_shape: no known shape: found no keys, wanted `messages`, `conversations`, `prompt` and `completion`, `instruction` and `output`, or `text`",
            ],
        ),
        (
            r#"{"massages":[]}"#,
            vec![
                "1 unknown_shape: no known shape: found `massages`, wanted `messages`, `conversations`, `prompt` and `completion`, `instruction` and `output`, or `text`; is `massages` meant to be `messages`?",
            ],
        ),
        (
            r#"{"text":"a","text":"b"}"#,
            vec!["20 duplicate_key: the key `text` stands twice; which value is meant?"],
        ),
        (
            r#"{"messages":{}}"#,
            vec!["13 wrong_type: `messages` must be a list of messages, this is an object"],
        ),
        (r#"{"messages":[]}"#, vec!["13 no_messages: `messages` is empty"]),
        (
            r#"{"messages":[1, {"role":2,"content":null}]}"#,
            vec![
                "14 wrong_type: a message must be an object, this is a number",
                "25 wrong_type: `role` must be a string, this is a number",
                "37 wrong_type: `content` must be a string, this is null",
            ],
        ),
        (
            r#"{"messages":[{"role":"usr","contnt":"é"}]}"#,
            vec![
                "22 unknown_role: `usr` is no role; is `user` meant?",
                "14 missing_key: a message needs `content`; is `contnt` meant?",
            ],
        ),
        (
            r#"{"messages":[{"content":"é"},{"role":"narrator","content":"x"}]}"#,
            vec![
                "14 missing_key: a message needs `role`",
                "38 unknown_role: `narrator` is no role; known are `system`, `user`, `assistant` and `tool`",
            ],
        ),
        (
            r#"{"messages":[{"role":"user","content":"  "},{"role":"assistant","content":""}]}"#,
            vec![
                "14 empty_content: this user message is empty",
                "45 empty_content: this assistant message is empty",
            ],
        ),
        (
            r#"{"messages":[{"role":"user","content":"é"},{"role":"user","content":"b"},{"role":"system","content":"c"}]}"#,
            vec![
                "44 role_order: two user messages follow each other; join them, or add the answer",
                "74 role_order: a system message can only be the first",
                "1 no_assistant: no assistant message: there is nothing to learn here",
            ],
        ),
        (
            r#"{"messages":[{"role":"assistant","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"},{"role":"tool","content":"d"}]}"#,
            vec![
                "14 role_order: an assistant message has no question before it",
                "49 role_order: two assistant messages follow each other; join them, or add the question",
                "114 role_order: a tool message follows an assistant message that calls the tool",
                "84 after_last_answer: what follows the last answer teaches nothing",
            ],
        ),
        (
            r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{}}]},{"role":"assistant","content":"a","weight":0.5}]}"#,
            vec![
                "40 wrong_type: only parts of text can be trained on; this part has no `text`",
                "121 wrong_type: `weight` must be 0 or 1, this is `0.5`",
            ],
        ),
        (
            r#"{"prompt":"a"}"#,
            vec!["11 missing_key: a row with a `prompt` needs `completion`"],
        ),
        (
            r#"{"prompt":1,"completion":["a"]}"#,
            vec![
                "11 wrong_type: `prompt` must be a string or a list of messages, this is a number",
                "27 wrong_type: a message must be an object, this is a string",
            ],
        ),
        (
            r#"{"instruction":"a","input":1,"output":[]}"#,
            vec![
                "28 wrong_type: `input` must be a string, this is a number",
                "39 wrong_type: `output` must be a string, this is a list",
            ],
        ),
        (r#"{"text":" "}"#, vec!["9 empty_content: `text` is empty"]),
        (
            r#"{"text":null}"#,
            vec!["9 wrong_type: `text` must be a string, this is null"],
        ),
        (
            r#"{"text":"\ud800"}"#,
            vec!["16 not_json: not JSON: unexpected end of hex escape"],
        ),
        (r#"{"text":"a","tools":[]}"#, vec![]),
        (
            r#"{"prompt":"a","completion":"b","tools":{}}"#,
            vec!["40 wrong_type: `tools` must be a list, this is an object"],
        ),
        ("   ", vec!["1 blank_line: a blank line; it is passed over"]),
    ] {
        assert_eq!(faults(line.as_bytes(), Checks::Training), expected, "{line}");
    }
    assert_eq!(
        faults(b"{\"text\":\"\xc3\xa9\xff\"}", Checks::Training),
        ["11 not_utf8: not UTF-8: byte 0xff; save the file as UTF-8"]
    );
}

#[test]
fn the_guides_checks_are_those_of_its_script() {
    let guide =
        |messages: serde_json::Value| faults(json!({ "messages": messages }).to_string().as_bytes(), Checks::Guide);
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    let long = "witness run ".repeat(10);
    assert!(
        guide(json!([
            message("system", "s"),
            message("user", "u"),
            message("assistant", &long)
        ]))
        .is_empty()
    );
    assert_eq!(
        guide(json!([message("user", "u"), message("assistant", &long)])),
        ["1 not_three_messages: the guide wants system, user, assistant; this has 2 messages: user, assistant"]
    );
    assert_eq!(
        guide(json!([
            message("system", "s"),
            message("user", "u"),
            message("assistant", "```go")
        ])),
        [
            "76 unclosed_code: a code block (```) of the answer is not closed",
            "76 short_answer: the answer is short: 5 characters of 100",
            "76 no_command: the answer has neither `witness run` nor `witness verify`"
        ]
    );
    assert_eq!(
        faults(br#"{"text":"a"}"#, Checks::Guide),
        ["1 not_three_messages: the guide wants `messages`, this is bare text"]
    );
}
