//! Seeded random texts: what is printed parses to the same, and no text makes the parser panic or linger.

use std::path::{Path, PathBuf};

use witness_modelfile::parameters::{TABLE, Type};
use witness_modelfile::{
    AdapterSource, Dataset, Hyper, ParameterValue, Plan, Position, Role, Source, TrainMethod, Training, parse,
    parse_bytes,
};

/// A small generator (splitmix64): enough to be different each time and the same each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }

    fn text(&mut self, words: &[&str]) -> String {
        (0..self.below(9)).map(|_| self.pick(words)).collect()
    }
}

/// What makes quoting hard, and a little of everything else.
const PIECES: [&str; 24] = [
    "\"",
    "\"\"",
    "\"\"\"",
    "\n",
    " ",
    "\t",
    "#",
    "END",
    "\nEND\n",
    "END_",
    "<<<END",
    "<<<",
    "<",
    "```json",
    "{\"a\": 1}",
    "FROM x",
    "AS",
    " AS b",
    "über",
    "😀",
    "\\",
    "'",
    "\u{2028}",
    "word",
];

fn random_plan(random: &mut Random) -> Plan {
    let mut plan = Plan {
        from: vec![source("./base")],
        ..Plan::default()
    };
    for i in 0..random.below(4) {
        let path = random.text(&PIECES).replace(['\n', '"'], "");
        let named = i > 0 || random.below(2) == 0;
        if !path.is_empty() {
            plan.adapters.push(AdapterSource {
                name: named.then(|| format!("a{i}.x-y_z")),
                path,
                position: Position::default(),
            });
        }
    }
    for _ in 0..random.below(4) {
        let parameter = &TABLE[random.below(TABLE.len())];
        let value = match &parameter.value_type {
            Type::Integer(bounds) => {
                ParameterValue::Integer((bounds.start().max(&-5) + random.below(4) as i64).min(*bounds.end()))
            }
            Type::Float(bounds) => ParameterValue::Float(
                (bounds.start().max(-5.0) + random.below(1000) as f64 / 1001.0).min(*bounds.end()),
            ),
            Type::Boolean => ParameterValue::Boolean(random.below(2) == 0),
            Type::Texts => ParameterValue::Texts((0..2).map(|_| random.text(&PIECES) + "x").collect()),
        };
        plan.parameters.insert(parameter.name.to_owned(), value);
    }
    plan.template = (random.below(2) == 0).then(|| random.text(&PIECES));
    plan.system = (random.below(2) == 0).then(|| random.text(&PIECES));
    plan.requires = (random.below(4) == 0).then(|| "0.7.0".to_owned());
    for _ in 0..random.below(3) {
        plan.messages.push((Role::ALL[random.below(3)], random.text(&PIECES)));
    }
    if plan.adapters.is_empty() && random.below(2) == 0 {
        plan.training = Some(random_training(random));
    }
    if plan.training.is_none() && random.below(2) == 0 {
        let name = random.text(&PIECES).replace(char::is_whitespace, "");
        plan.quantize = Some(name + "q4_K_M");
    }
    plan.license = (0..random.below(3)).map(|_| random.text(&PIECES)).collect();
    plan
}

fn random_training(random: &mut Random) -> Training {
    let path = |random: &mut Random| random.text(&PIECES).replace(['\n', '"'], "").trim().to_owned() + "x";
    let dataset = |random: &mut Random, is_validation| Dataset {
        paths: (0..=random.below(3)).map(|_| path(random)).collect(),
        is_validation,
        position: Position::default(),
    };
    let hyper = |random: &mut Random| Hyper {
        key: random.pick(&["r", "learning-rate", "lora.r", "#", "\"x"]).to_owned(),
        value: random.text(&PIECES) + "x",
        position: Position::default(),
    };
    Training {
        method: TrainMethod::ALL[random.below(3)],
        position: Position::default(),
        datasets: (0..=random.below(3)).map(|n| dataset(random, n > 0)).collect(),
        hyper: (0..random.below(4)).map(|_| hyper(random)).collect(),
    }
}

fn source(text: &str) -> Source {
    Source {
        text: text.to_owned(),
        position: Position::default(),
    }
}

fn without_positions(mut plan: Plan) -> Plan {
    plan.from
        .iter_mut()
        .for_each(|source| source.position = Position::default());
    plan.adapters
        .iter_mut()
        .for_each(|adapter| adapter.position = Position::default());
    if let Some(training) = &mut plan.training {
        training.position = Position::default();
        training
            .datasets
            .iter_mut()
            .for_each(|dataset| dataset.position = Position::default());
        training
            .hyper
            .iter_mut()
            .for_each(|hyper| hyper.position = Position::default());
    }
    plan
}

#[test]
fn what_is_printed_parses_to_the_same() {
    let mut random = Random(1);
    for round in 0..20_000 {
        let plan = random_plan(&mut random);
        let file = plan.to_modelfile();
        let printed = file.to_string();
        let parsed = parse("printed", &printed).unwrap_or_else(|error| panic!("round {round}: {error}\n{printed}"));
        assert_eq!(parsed, file, "round {round}:\n{printed}");
        assert_eq!(
            without_positions(parsed.plan().expect("plans")),
            plan,
            "round {round}:\n{printed}"
        );
    }
}

#[test]
fn what_parses_prints_back() {
    const WORDS: [&str; 20] = [
        "FROM ",
        "ADAPTER ",
        "DRAFT ",
        "PARAMETER ",
        "stop ",
        "top_k 3",
        "SYSTEM ",
        "TEMPLATE ",
        "MESSAGE user ",
        "LICENSE ",
        "TRAIN ",
        "DATASET ",
        "HYPER ",
        "QUANTIZE ",
        "lora",
        " AS x",
        " AS validation",
        "\n",
        "\n",
        "# c",
    ];
    let all: Vec<&str> = WORDS.into_iter().chain(PIECES).collect();
    let mut random = Random(2);
    let mut n_parsed = 0;
    for _ in 0..50_000 {
        let text: String = random.text(&all) + "\n" + &random.text(&all);
        if let Ok(file) = parse("random", &text) {
            let printed = file.to_string();
            assert_eq!(
                parse("printed", &printed).as_ref(),
                Ok(&file),
                "{text:?} printed as {printed:?}"
            );
            n_parsed += usize::from(!file.commands.is_empty());
        }
    }
    assert!(
        n_parsed > 1000,
        "only {n_parsed} random texts parsed, so this shows little"
    );
}

fn shared(path: &str) -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("../shared").join(path))
        .find(|found| found.exists());
    if found.is_none() {
        eprintln!("skipped: the real Modelfile needs ../shared/{path}");
    }
    found
}

/// A Modelfile with everything in it, for damage.
const SAMPLE: &str = "# sample\nFROM ./base-00001-of-00002.gguf\nFROM ./base-00002-of-00002.gguf\nADAPTER ./lora AS expert\n\
    ADAPTER \"./my lora\"\nPARAMETER temperature 0.2\nPARAMETER stop \"<|eot|>\"\nTEMPLATE \"\"\"{{ .System }}\n{{ .Prompt }}\"\"\"\n\
    SYSTEM <<<END\nüber \"\"\"\nEND\nMESSAGE user Hi\nMESSAGE assistant \"\"\"```json\n{}\n```\"\"\"\nLICENSE MIT\nREQUIRES 0.7.0\n\
    DATASET a.jsonl \"b c.jsonl\"\nDATASET v.jsonl AS validation\nTRAIN qlora\nHYPER learning_rate 2e-4\nQUANTIZE q8_0\nDRAFT ./small\n";

#[test]
fn damaged_files_are_answered() {
    let mut samples = vec![SAMPLE.as_bytes().to_vec()];
    samples.push(
        [0xff, 0xfe]
            .into_iter()
            .chain(SAMPLE.encode_utf16().flat_map(u16::to_le_bytes))
            .collect(),
    );
    if let Some(path) = shared("seed/Modelfile") {
        samples.push(std::fs::read(path).expect("readable"));
    }
    for sample in &samples {
        for end in 0..=sample.len() {
            let _ = parse_bytes("cut", &sample[..end]).and_then(|file| file.plan());
        }
    }
    let mut random = Random(3);
    for _ in 0..10_000 {
        let mut bytes = samples[random.below(samples.len())].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes[at] ^= 1 << random.below(8),
                2 => drop(bytes.drain(at..(at + random.below(40)).min(bytes.len()))),
                _ => {
                    let piece: Vec<u8> = bytes[at..(at + random.below(40)).min(bytes.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
            if bytes.is_empty() {
                bytes.push(b'F');
            }
        }
        if let Ok(file) = parse_bytes("damaged", &bytes) {
            assert_eq!(parse("printed", &file.to_string()).as_ref(), Ok(&file));
            let _ = file.plan();
        }
    }
}

/// Texts that invite quadratic work: many open quotes, many lines in one value, many here-texts.
#[test]
fn long_files_take_linear_time() {
    for text in [
        "SYSTEM \"\"\"a\"\"\" b\n".repeat(200_000),
        "SYSTEM \"\n".repeat(15_000) + "x",
        "SYSTEM <<<A\n".repeat(500_000),
        "SYSTEM <<<A\nA\n".repeat(15_000),
        format!("SYSTEM \"\"\"{}\"\"\"", "\"\"\"x\n".repeat(500_000)),
        "\"".repeat(1 << 20),
        "ADAPTER ".to_owned() + &"AS ".repeat(1 << 20),
    ] {
        let _ = parse("long", &text).and_then(|file| file.plan());
    }
    assert!(parse("long", &"#".repeat(witness_modelfile::FILE_BYTES_MAX + 1)).is_err());
    assert!(parse("long", &"SYSTEM x\n".repeat(witness_modelfile::COMMANDS_MAX + 1)).is_err());
}

#[test]
fn the_seed_and_the_guide_parse_plan_and_print_back() {
    let guide = "FROM llama3.1:8b-instruct\nADAPTER ./witness-llama-3.1-8b-lora\n\nSYSTEM \"You are an expert in the Witness framework.\"\n";
    let mut texts = vec![guide.to_owned()];
    if let Some(path) = shared("seed/Modelfile") {
        texts.push(std::fs::read_to_string(path).expect("readable"));
    }
    for text in &texts {
        let file = parse("Modelfile", text).expect("parses");
        let plan = file.plan().expect("plans");
        assert_eq!(plan.from.len(), 1);
        assert!(!plan.from[0].is_path());
        let system = plan.system.as_deref().expect("a system message");
        assert!(text.contains(system), "the body is taken as it stands");
        assert_eq!(parse("printed", &file.to_string()).expect("parses again"), file);
        assert_eq!(
            without_positions(plan.to_modelfile().plan().expect("plans")),
            without_positions(plan)
        );
    }
}
