//! The grammar by example: what parses to what, and how errors read. Each row is one reason to fail.

use witness_diagnostics::{Diagnostic, render};
use witness_modelfile::{Instruction, ParameterValue, Role, TrainMethod, parse, parse_bytes};

fn one(text: &str) -> Instruction {
    let file = parse("Modelfile", text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    assert_eq!(file.commands.len(), 1, "{text:?}");
    assert_eq!(
        parse("again", &file.to_string()).expect("prints back"),
        file,
        "{text:?}"
    );
    file.commands.into_iter().next().expect("one").instruction
}

#[test]
fn values_and_quotes() {
    let check = |text: &str, expected: &str| {
        assert_eq!(one(text), Instruction::System(expected.to_owned()), "{text:?}");
    };
    check("SYSTEM You are x.", "You are x.");
    check("  system\tYou are x.  \n\n", "You are x.");
    check("SyStEm a # b", "a # b");
    check("SYSTEM \"You \"are\" x\"", "You \"are\" x");
    check("SYSTEM \"two\nlines\"", "two\nlines");
    check("SYSTEM \"\"", "");
    check("SYSTEM", "");
    check("SYSTEM \"\"\"\"\"\"", "");
    check("SYSTEM \"\"\"one\"\"\"", "one");
    check(
        "SYSTEM \"\"\"\n# not a comment\n```json\n{\"a\": \"b\"}\n```\n\"\"\"  \n",
        "\n# not a comment\n```json\n{\"a\": \"b\"}\n```\n",
    );
    check("SYSTEM \"\"\"say \"hi\"\"\"\"", "say \"hi\"");
    check("SYSTEM \"\"\"a\"\"\" b\n\"\"\"", "a\"\"\" b\n");
    check(
        "SYSTEM <<<END\ndef f():\n  \"\"\"doc\"\"\"\nEND\n",
        "def f():\n  \"\"\"doc\"\"\"",
    );
    check("SYSTEM \"<<<END\"", "<<<END");
    check("SYSTEM <<< not a word", "<<< not a word");
    check("SYSTEM 'single'", "'single'");
    check("SYSTEM \"\"\"a\r\nb\"\"\"\r\n", "a\r\nb");
    check("SYSTEM FROM x", "FROM x");
}

#[test]
fn every_instruction() {
    let adapter = |path: &str, name: Option<&str>| Instruction::Adapter {
        path: path.to_owned(),
        name: name.map(str::to_owned),
    };
    let parameter = |name: &str, value| Instruction::Parameter {
        name: name.to_owned(),
        value,
    };
    assert_eq!(
        one("FROM llama3.1:8b-instruct"),
        Instruction::From("llama3.1:8b-instruct".to_owned())
    );
    assert_eq!(
        one("from \"./my model.gguf\""),
        Instruction::From("./my model.gguf".to_owned())
    );
    assert_eq!(one("ADAPTER ./lora"), adapter("./lora", None));
    assert_eq!(one("ADAPTER ./lora AS expert"), adapter("./lora", Some("expert")));
    assert_eq!(one("ADAPTER my lora as a.b-2"), adapter("my lora", Some("a.b-2")));
    assert_eq!(one("ADAPTER \"my lora\" AS x"), adapter("my lora", Some("x")));
    assert_eq!(one("ADAPTER \"a AS b\""), adapter("a AS b", None));
    assert_eq!(one("ADAPTER ./canvas"), adapter("./canvas", None));
    assert_eq!(
        one("PARAMETER temperature 0.2"),
        parameter("temperature", ParameterValue::Float(0.2))
    );
    assert_eq!(
        one("PARAMETER Temperature 1"),
        parameter("temperature", ParameterValue::Float(1.0))
    );
    assert_eq!(
        one("PARAMETER num_ctx 4096"),
        parameter("num_ctx", ParameterValue::Integer(4096))
    );
    assert_eq!(one("PARAMETER seed -1"), parameter("seed", ParameterValue::Integer(-1)));
    assert_eq!(
        one("PARAMETER use_mmap true"),
        parameter("use_mmap", ParameterValue::Boolean(true))
    );
    assert_eq!(
        one("PARAMETER stop <|eot_id|>"),
        parameter("stop", ParameterValue::Text("<|eot_id|>".to_owned()))
    );
    assert_eq!(
        one("PARAMETER stop \"\nUser: \""),
        parameter("stop", ParameterValue::Text("\nUser: ".to_owned()))
    );
    assert_eq!(
        one("TEMPLATE {{ .Prompt }}"),
        Instruction::Template("{{ .Prompt }}".to_owned())
    );
    assert_eq!(
        one("MESSAGE User Hi there"),
        Instruction::Message {
            role: Role::User,
            content: "Hi there".to_owned()
        }
    );
    assert_eq!(one("LICENSE MIT"), Instruction::License("MIT".to_owned()));
    assert_eq!(one("REQUIRES 0.14.0"), Instruction::Requires("0.14.0".to_owned()));
}

#[test]
fn steps_that_train() {
    let dataset = |paths: &[&str], is_validation| Instruction::Dataset {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        is_validation,
    };
    assert_eq!(one("DATASET ./a.jsonl"), dataset(&["./a.jsonl"], false));
    assert_eq!(
        one("dataset a.jsonl  b/*.jsonl\t./c"),
        dataset(&["a.jsonl", "b/*.jsonl", "./c"], false)
    );
    assert_eq!(
        one("DATASET \"my rows.jsonl\" x as Validation"),
        dataset(&["my rows.jsonl", "x"], true)
    );
    assert_eq!(
        one("DATASET \"AS\" \"validation\""),
        dataset(&["AS", "validation"], false)
    );
    assert_eq!(one("DATASET as"), dataset(&["as"], false));
    assert_eq!(one("DATASET a\"b"), dataset(&["a\"b"], false));
    assert_eq!(one("TRAIN LoRA"), Instruction::Train(TrainMethod::Lora));
    assert_eq!(one("train full"), Instruction::Train(TrainMethod::Full));
    let hyper = |key: &str, value: &str| Instruction::Hyper {
        key: key.to_owned(),
        value: value.to_owned(),
    };
    assert_eq!(one("HYPER num_epochs 3"), hyper("num_epochs", "3"));
    assert_eq!(
        one("HYPER targets [q_proj, v_proj]"),
        hyper("targets", "[q_proj, v_proj]")
    );
    assert_eq!(one("HYPER template \"\"\"a\nb\"\"\""), hyper("template", "a\nb"));

    let text = "DATASET a b\nFROM ./base\nHYPER epochs 3\nTRAIN qlora\nDATASET v AS validation\nSYSTEM hi\n";
    let file = parse("Modelfile", text).expect("parses");
    let plan = file.plan().expect("plans");
    let training = plan.training.clone().expect("it trains");
    assert_eq!(training.method, TrainMethod::Qlora);
    assert_eq!((training.position.line, training.hyper[0].position.line), (4, 3));
    assert_eq!(training.datasets.len(), 2);
    insta::assert_snapshot!(plan.to_modelfile(), @r"
    FROM ./base
    DATASET a b
    DATASET v AS validation
    TRAIN qlora
    HYPER epochs 3
    SYSTEM hi
    ");
}

#[test]
fn a_step_that_quantizes() {
    for text in ["QUANTIZE q4_K_M", "quantize  q4_K_M ", "Quantize \"q4_K_M\""] {
        assert_eq!(one(text), Instruction::Quantize("q4_K_M".to_owned()), "{text}");
    }
    let file = parse("Modelfile", "SYSTEM hi\nQUANTIZE Q8_0\nFROM ./base\nADAPTER ./a\n").expect("parses");
    let plan = file.plan().expect("plans");
    assert_eq!(plan.quantize.as_deref(), Some("Q8_0"));
    insta::assert_snapshot!(plan.to_modelfile(), @r"
    FROM ./base
    ADAPTER ./a
    QUANTIZE Q8_0
    SYSTEM hi
    ");
    insta::assert_snapshot!(rendered("FROM ./a\nQUANTIZE\n"), @r"
    error[witness::modelfile::syntax]: Modelfile:2:1: `QUANTIZE` has no value
      cause: line 2: `QUANTIZE`
      hint: write for example `QUANTIZE q4_K_M`
    ");
    insta::assert_snapshot!(rendered("FROM ./a\n  QUANTIZE \"\"\n"), @r"
    error[witness::modelfile::syntax]: Modelfile:2:3: `QUANTIZE` has no value
      cause: line 2: `QUANTIZE`
      hint: write for example `QUANTIZE q4_K_M`
    ");
    insta::assert_snapshot!(rendered("FROM ./a\nQUANTIZE q4_K_M q8_0\n"), @r"
    error[witness::modelfile::syntax]: Modelfile:2:10: `QUANTIZE` takes the name of one type alone
      cause: line 2: `q4_K_M q8_0`
      hint: write for example `QUANTIZE q4_K_M`; `witness quantize` takes the finer settings
    ");
    insta::assert_snapshot!(rendered("FROM ./a\nQUANTIZE q4_K_M\nSYSTEM x\nQUANTIZE q4_K_M\n"), @r"
    error[witness::modelfile::plan]: Modelfile:4:1: the Modelfile quantizes on line 2 already
      cause: line 4: `QUANTIZE q4_K_M`
      hint: keep one `QUANTIZE`; make a second model with `witness quantize` for a second type
    ");
    insta::assert_snapshot!(rendered("FROM ./a\nDATASET x\nQUANTIZE q4_K_M\nTRAIN lora\n"), @r"
    error[witness::modelfile::not_yet]: Modelfile:3:1: a Modelfile that trains cannot quantize in the same step yet
      cause: line 3: `QUANTIZE q4_K_M`
      hint: remove the line, train first, then `witness quantize NAME TYPE`
    ");
    insta::assert_snapshot!(rendered("FROM ./a\nQUANTISE q4_K_M\n"), @r"
    error[witness::modelfile::syntax]: Modelfile:2:1: `QUANTISE` is not an instruction
      cause: line 2: `QUANTISE q4_K_M`
      hint: did you mean `QUANTIZE`?
    ");
}

#[test]
fn a_draft() {
    for text in ["DRAFT llama3.2:1b", "draft  llama3.2:1b ", "Draft \"llama3.2:1b\""] {
        assert_eq!(one(text), Instruction::Draft("llama3.2:1b".to_owned()), "{text}");
    }
    let file = parse(
        "Modelfile",
        "SYSTEM hi\nDRAFT ./a small one\nFROM ./base\nADAPTER ./a\n",
    )
    .expect("parses");
    let plan = file.plan().expect("plans");
    let draft = plan.draft.as_ref().expect("it is there");
    assert_eq!((draft.text.as_str(), draft.position.line), ("./a small one", 2));
    assert!(draft.is_path());
    insta::assert_snapshot!(plan.to_modelfile(), @r"
    FROM ./base
    ADAPTER ./a
    DRAFT ./a small one
    SYSTEM hi
    ");
    insta::assert_snapshot!(rendered("FROM ./a\nDRAFT\n"), @r"
    error[witness::modelfile::syntax]: Modelfile:2:1: `DRAFT` has no value
      cause: line 2: `DRAFT`
      hint: write for example `DRAFT llama3.2:1b`
    ");
    insta::assert_snapshot!(rendered("FROM ./a\nDRAFT b\nSYSTEM x\nDRAFT c\n"), @r"
    error[witness::modelfile::plan]: Modelfile:4:1: the Modelfile names a draft on line 2 already
      cause: line 4: `DRAFT c`
      hint: keep one `DRAFT`: one model guesses at a time
    ");
    insta::assert_snapshot!(rendered("FROM ./a\nDATASET x\nDRAFT b\nTRAIN lora\n"), @r"
    error[witness::modelfile::not_yet]: Modelfile:3:1: a Modelfile that trains cannot name a draft in the same step yet
      cause: line 3: `DRAFT b`
      hint: remove the line, train first, then create a second model `FROM` the first with this `DRAFT`
    ");
}

#[test]
fn trainings_that_are_none() {
    insta::assert_snapshot!(rendered("FROM ./a\nTRAIN lora\n"), @r"
    error[witness::modelfile::plan]: Modelfile:2:1: there are no rows to learn from
      cause: line 2: `TRAIN lora`
      hint: name them: `DATASET ./train.jsonl`
    ");
    insta::assert_snapshot!(rendered("FROM ./a\nDATASET x\n"), @r"
    error[witness::modelfile::plan]: Modelfile:2:1: `DATASET` belongs to a training, and the Modelfile has no `TRAIN`
      cause: line 2: `DATASET`
      hint: add `TRAIN lora` to train an adapter
    ");
    insta::assert_snapshot!(rendered("FROM ./a\nHYPER epochs 3\n"), @r"
    error[witness::modelfile::plan]: Modelfile:2:1: `HYPER` belongs to a training, and the Modelfile has no `TRAIN`
      cause: line 2: `HYPER`
      hint: add `TRAIN lora` to train an adapter
    ");
    insta::assert_snapshot!(rendered("FROM ./a\nDATASET x\nTRAIN lora\nTRAIN full\n"), @r"
    error[witness::modelfile::plan]: Modelfile:4:1: the Modelfile trains on line 3 already
      cause: line 4: `TRAIN full`
      hint: keep one `TRAIN`; make a second model `FROM` the first for a second training
    ");
    insta::assert_snapshot!(rendered("FROM ./a\nDATASET x\nTRAIN lara\n"), @r"
    error[witness::modelfile::syntax]: Modelfile:3:7: `lara` is not a way to train
      cause: line 3: `lara`
      hint: did you mean `lora`?
    ");
    insta::assert_snapshot!(rendered("FROM ./a\nTRAIN ./data.jsonl\n"), @r"
    error[witness::modelfile::syntax]: Modelfile:2:7: `./data.jsonl` is not a way to train
      cause: line 2: `./data.jsonl`
      hint: write `TRAIN lora`, `TRAIN qlora` or `TRAIN full`; rows come from `DATASET`, settings from `HYPER`
    ");
    insta::assert_snapshot!(rendered("FROM ./a\nTRAIN lora epochs=3\n"), @r"
    error[witness::modelfile::syntax]: Modelfile:2:12: `TRAIN` takes the method alone
      cause: line 2: `epochs=3`
      hint: write each setting on a line of its own: `HYPER num_epochs 3`
    ");
    insta::assert_snapshot!(rendered("FROM ./a\nHYPER epochs=3\n"), @r"
    error[witness::modelfile::syntax]: Modelfile:2:7: `epochs=3` has a `=`
      cause: line 2: `epochs=3`
      hint: write `HYPER epochs 3`
    ");
    insta::assert_snapshot!(rendered("FROM ./a\nDATASET \"a b\n"), @r#"
    error[witness::modelfile::syntax]: Modelfile:2:9: the path that begins with " here does not end with "
      cause: line 2: `"a b`
      hint: write each path with blanks in its own quotes: `DATASET "./my rows.jsonl" ./more.jsonl`
    "#);
    insta::assert_snapshot!(rendered("FROM ./a\nDATASET x AS test\n"), @r"
    error[witness::modelfile::syntax]: Modelfile:2:14: rows cannot be used as `test`
      cause: line 2: `test`
      hint: write `AS validation` for rows to measure on, and nothing for rows to learn from
    ");
    insta::assert_snapshot!(rendered("FROM ./a\nADAPTER ./b\nDATASET x\nTRAIN lora\n"), @r"
    error[witness::modelfile::plan]: Modelfile:2:1: a model that is trained here has the adapter that the training makes
      cause: line 2: `./b`
      hint: remove `ADAPTER`, or `TRAIN` and what belongs to it
    ");
    insta::assert_snapshot!(rendered("FROM ./a\nDATASET AS validation\n"), @r"
    error[witness::modelfile::syntax]: Modelfile:2:1: `DATASET` has no value
      cause: line 2: `DATASET`
      hint: write for example `DATASET ./train.jsonl`
    ");
}

#[test]
fn encodings() {
    let text = "# ä\r\nFROM ./base\r\nSYSTEM \"\"\"über\r\n日本 😀\"\"\"\r\n";
    let expected = parse("x", &text.replace('\r', "")).expect("parses");
    let utf16 = |mark: &[u8], unit: fn(u16) -> [u8; 2]| {
        let units = text.encode_utf16().flat_map(unit);
        mark.iter().copied().chain(units).collect::<Vec<u8>>()
    };
    for bytes in [
        text.as_bytes().to_vec(),
        text.replace("\r\n", "\r").into_bytes(),
        [b"\xef\xbb\xbf", text.as_bytes()].concat(),
        utf16(b"\xff\xfe", u16::to_le_bytes),
        utf16(b"\xfe\xff", u16::to_be_bytes),
        utf16(b"", u16::to_le_bytes),
        utf16(b"", u16::to_be_bytes),
    ] {
        assert_eq!(parse_bytes("x", &bytes).expect("parses"), expected);
    }
}

fn rendered(text: &str) -> String {
    let result = parse("Modelfile", text).and_then(|file| file.plan());
    let error = result.expect_err("an error");
    render(&Diagnostic::from(error), false)
}

#[test]
fn errors_say_what_where_and_how() {
    insta::assert_snapshot!(rendered("FROM ./a\n  FORM ./b\n"), @r#"
    error[witness::modelfile::syntax]: Modelfile:2:3: `FORM` is not an instruction
      cause: line 2: `FORM ./b`
      hint: did you mean `FROM`?
    "#);
    insta::assert_snapshot!(rendered("FROM ./a\nPARAMETER temprature 0.7\n"), @r#"
    error[witness::modelfile::parameter]: Modelfile:2:11: `temprature` is not an option
      cause: line 2: `temprature`
      hint: did you mean `temperature`?
    "#);
    insta::assert_snapshot!(rendered("FROM ./a\nPARAMETER temperature=0.7\n"), @r#"
    error[witness::modelfile::syntax]: Modelfile:2:11: `temperature=0.7` has a `=`
      cause: line 2: `temperature=0.7`
      hint: write `PARAMETER temperature 0.7`
    "#);
    insta::assert_snapshot!(rendered("FROM ./a\nPARAMETER top_k many\n"), @r#"
    error[witness::modelfile::parameter]: Modelfile:2:17: `many` is not a value of `top_k`, which takes a whole number of 0 or more
      cause: line 2: `many`
      hint: `top_k`: keep the k most likely tokens; 0 = all
    "#);
    insta::assert_snapshot!(rendered("FROM ./a\nPARAMETER top_p 1.5\n"), @r#"
    error[witness::modelfile::parameter]: Modelfile:2:17: `1.5` is not a value of `top_p`, which takes a number from 0 to 1
      cause: line 2: `1.5`
      hint: `top_p`: keep the smallest set of tokens whose probability reaches p; 1 = all
    "#);
    insta::assert_snapshot!(rendered("FROM ./a\nPARAMETER banana 1\n"), @r#"
    error[witness::modelfile::parameter]: Modelfile:2:11: `banana` is not an option
      cause: line 2: `banana`
      hint: the options are temperature, top_k, top_p, min_p, typical_p, repeat_last_n, repeat_penalty, presence_penalty, frequency_penalty, seed, num_predict, stop, num_ctx, num_thread
    "#);
    insta::assert_snapshot!(rendered("FROM ./a\nSYSTEM \"\"\"You are\nFROM ./b\n"), @r#"
    error[witness::modelfile::syntax]: Modelfile:2:8: the text that begins with """ here has no end
      cause: line 2: `"""You are`
      hint: end it with """ at the end of a line
    "#);
    insta::assert_snapshot!(rendered("FROM ./a\nSYSTEM <<<END\nYou are\n"), @r#"
    error[witness::modelfile::syntax]: Modelfile:2:8: the text that begins with `<<<END` here has no end
      cause: line 2: `<<<END`
      hint: end it with a line that is `END`, or write `"<<<END"` if that is the text itself
    "#);
    insta::assert_snapshot!(rendered("FROM ./a\nSYSTEM\n\"\"\"You are\"\"\"\n"), @r#"
    error[witness::modelfile::syntax]: Modelfile:3:1: `"""You` is not an instruction
      cause: line 3: `"""You are"""`
      hint: begin a value in quotes on the line of its instruction: `SYSTEM """...`
    "#);
    insta::assert_snapshot!(rendered("FROM ./a\nMESSAGE asistant hi\n"), @r#"
    error[witness::modelfile::syntax]: Modelfile:2:9: `asistant` is not a role
      cause: line 2: `asistant`
      hint: did you mean `assistant`?
    "#);
    insta::assert_snapshot!(rendered("FROM\n"), @r#"
    error[witness::modelfile::syntax]: Modelfile:1:1: `FROM` has no value
      cause: line 1: `FROM`
      hint: write for example `FROM ./model.gguf`
    "#);
    insta::assert_snapshot!(rendered("SYSTEM hello\n"), @r#"
    error[witness::modelfile::plan]: Modelfile:1:1: the Modelfile has no `FROM`
      hint: name the base model: `FROM ./base` (a directory), `FROM ./model.gguf` or `FROM llama3.2:3b`
    "#);
    insta::assert_snapshot!(rendered("FROM ./a.gguf\nFROM llama3\n"), @r#"
    error[witness::modelfile::plan]: Modelfile:2:1: `llama3` is one of 2 `FROM`, and only the files of one split model can be several
      cause: line 2: `llama3`
      hint: keep one `FROM`; if this is a file, write it as a path: `FROM ./...`
    "#);
    insta::assert_snapshot!(rendered("FROM ./a\nADAPTER ./x\nADAPTER ./y\n"), @r#"
    error[witness::modelfile::plan]: Modelfile:3:1: two adapters are named `default`
      cause: line 3: `./y`
      hint: give each its own name: `ADAPTER ./y AS another`
    "#);
    insta::assert_snapshot!(rendered("FROM ./a\nADAPTER ./x AS base\n"), @r#"
    error[witness::modelfile::syntax]: Modelfile:2:16: `base` cannot name an adapter
      cause: line 2: `base`
      hint: use letters, digits, `.`, `_` and `-`, beginning with a letter or digit, at most 64; `base` is the model without adapters
    "#);
    insta::assert_snapshot!(rendered("FROM ./a\n# later\nEVAL ./rows.jsonl\n"), @r"
    error[witness::modelfile::not_yet]: Modelfile:3:1: `EVAL` is kept for a step that this version does not do yet
      cause: line 3: `EVAL ./rows.jsonl`
      hint: remove the line for now, and name finished weights with `FROM` and `ADAPTER`
    ");
    insta::assert_snapshot!(rendered("FROM ./a\nRENDERER qwen3-coder\n"), @r#"
    error[witness::modelfile::not_yet]: Modelfile:2:1: `RENDERER` names a part of Ollama itself, and this program does not have it yet
      cause: line 2: `RENDERER qwen3-coder`
      hint: remove the line: the model's own chat template is used then
    "#);
    let bytes = |bytes: &[u8]| render(&Diagnostic::from(parse_bytes("m", bytes).expect_err("an error")), false);
    insta::assert_snapshot!(bytes(b"FROM ./a\nSYSTEM caf\xe9\n"), @r#"
    error[witness::modelfile::encoding]: m:2:11: the file holds byte 0xe9, which is not UTF-8
      cause: line 2: `SYSTEM caf`
      hint: save the Modelfile as UTF-8 text
    "#);
    insta::assert_snapshot!(bytes(b"GGUF\x03\0\0\0\0\0"), @r#"
    error[witness::modelfile::encoding]: m:1:6: the file holds a zero byte
      cause: line 1: `GGUF`
      hint: this is a GGUF model, not a Modelfile: write a Modelfile with `FROM ./that-file.gguf`
    "#);
}
