//! Makes the toy model of the tests: a real Llama-architecture model whose weights are computed, not trained.
//!
//! Run `cargo run --example make-toy` to write it again; the bytes are the same every time and everywhere, which a test checks.
//! The model is a table of its own text (`answers.txt`) in the form of a transformer, small enough to lie in the repository. It shows
//! every part of the program at work (a base, two PEFT adapters, a chat template, a tokenizer) and knows nothing beyond that text.
//!
//! How it works. Each token has a code of 32 signs that differ from every other's in 8 to 24 places. One layer:
//! ```text
//! residual   [ code of this token 32 | code of the token before 32 | topic flag 15, constant 1 | topic so far 14, voice 2 ]
//! head 0     looks one position back (a rotation by -1 position in the query) and copies that token's code
//! head 1     looks at the latest word that names a topic (slow rotation: the nearest wins) and copies its topic
//! head 2     says 1, whatever it looks at: the place where adapters take hold
//! MLP        one neuron per place in the text: fires when token, token before, topic and voice all match, and adds 6 x the next code
//! logits     tied: the code that the residual is closest to
//! ```
//! An adapter is one rank-1 pair on `o_proj`: it takes the 1 of head 2 to a voice's coordinate, and the neurons of the other voices
//! fall silent.
//!
//! **Invariant:** only IEEE additions, multiplications and divisions decide the bytes; no libm, no hash order, no clock.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

/// Seed of the codes.
const SEED: u64 = 0x7769_746e_6573_7321;
const CODE: usize = 32;
const HEADS: usize = 3;
const HIDDEN: usize = HEADS * CODE;
// Coordinates of the residual stream.
const PREV: usize = CODE;
const FLAG: usize = 2 * CODE;
const TOPICS_MAX: usize = 14;
const FLAG_NONE: usize = FLAG + TOPICS_MAX;
const ONE: usize = FLAG_NONE + 1;
const TOPIC: usize = ONE + 1;
const VOICE: usize = TOPIC + TOPICS_MAX;
/// Words that are no text.
const SPECIALS: [&str; 5] = ["<|begin|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"];
const USER: &str = "<|user|>";
const ASSISTANT: &str = "<|assistant|>";
const END: &str = "<|end|>";
/// Step of the rotation frequencies: 10000^(-1/16).
const ROPE_STEP: f64 = 0.562_341_325_190_349_1;

/// A file to be written: its path below this directory and its bytes.
pub(crate) type File = (String, Vec<u8>);

/// Returns every file of the toy model, computed from the text of `answers.txt`.
///
/// # Panics
/// If the text cannot be said: see [`states`].
pub(crate) fn files(answers: &str) -> Vec<File> {
    let text = Text::read(answers);
    let words = Words::collect(&text);
    let codes = codes(words.list.len());
    let states = states(&text, &words);
    let mut files = vec![
        (
            "base/config.json".to_owned(),
            pretty(&config(words.list.len(), states.len())),
        ),
        (
            "base/generation_config.json".to_owned(),
            pretty(&generation_config(&words)),
        ),
        (
            "base/model.safetensors".to_owned(),
            base_weights(&words, &codes, &states, &text),
        ),
        ("base/tokenizer.json".to_owned(), pretty(&tokenizer(&words))),
        ("base/tokenizer_config.json".to_owned(), pretty(&tokenizer_config())),
    ];
    for (voice, name) in text.voices.iter().enumerate().skip(1) {
        files.push((format!("{name}/adapter_config.json"), pretty(&adapter_config())));
        files.push((format!("{name}/adapter_model.safetensors"), adapter_weights(voice)));
    }
    files
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// The text: voices, and per topic its words and one answer per voice.
struct Text {
    voices: Vec<String>,
    topics: Vec<(Vec<String>, Vec<String>)>,
}

impl Text {
    fn read(answers: &str) -> Self {
        let mut text = Self {
            voices: Vec::new(),
            topics: Vec::new(),
        };
        for line in answers
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
            if first == "topic" {
                let words = rest.split_whitespace().map(str::to_owned).collect();
                text.topics.push((words, Vec::new()));
                continue;
            }
            if !text.voices.iter().any(|voice| voice == first) {
                text.voices.push(first.to_owned());
            }
            let (_, answers) = text.topics.last_mut().expect("an answer follows its topic");
            assert_eq!(text.voices[answers.len()], first, "voices come in one order");
            answers.push(rest.to_owned());
        }
        assert!(text.topics.len() <= TOPICS_MAX && text.voices.len() <= 3);
        text
    }
}

/// Cuts text as the pre-tokenizer does: a word with the space before it, or one mark.
fn cut(text: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    let mut is_word_open = false;
    for character in text.chars() {
        let continues = is_word_open && character.is_alphabetic();
        let follows_space = pieces.last().is_some_and(|piece| piece == " ");
        if !continues && !follows_space {
            pieces.push(String::new());
        }
        pieces.last_mut().expect("one was pushed").push(character);
        is_word_open = character.is_alphabetic();
    }
    pieces
}

/// The vocabulary: specials, the 256 bytes, then every piece of the text and every form of a topic's words.
struct Words {
    list: Vec<String>,
    ids: BTreeMap<String, usize>,
    topic_of: BTreeMap<usize, usize>,
}

impl Words {
    fn collect(text: &Text) -> Self {
        let mut words = Self {
            list: Vec::new(),
            ids: BTreeMap::new(),
            topic_of: BTreeMap::new(),
        };
        for special in SPECIALS {
            words.add(special.to_owned());
        }
        for byte in 0..=255 {
            words.add(byte_symbol(byte).to_string());
        }
        for (topic, (forms, answers)) in text.topics.iter().enumerate() {
            for form in forms {
                let mut capital = form.clone();
                capital[..1].make_ascii_uppercase();
                for form in [form.clone(), capital] {
                    for form in [form.clone(), format!(" {form}")] {
                        let id = words.add(symbols(&form));
                        words.topic_of.insert(id, topic);
                    }
                }
            }
            for piece in answers.iter().flat_map(|answer| cut(answer)) {
                words.add(symbols(&piece));
            }
        }
        // A question without any known word: the turn itself is the topic.
        words.topic_of.insert(words.ids[USER], 0);
        words
    }

    fn add(&mut self, word: String) -> usize {
        let next = self.list.len();
        *self.ids.entry(word).or_insert_with_key(|word| {
            self.list.push(word.clone());
            next
        })
    }

    fn id(&self, piece: &str) -> usize {
        self.ids[&symbols(piece)]
    }
}

/// Returns the character that stands for a byte in byte-level vocabularies (GPT-2's table: printable bytes are themselves).
fn byte_symbol(byte: u8) -> char {
    let is_printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    if is_printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|byte| !is_printable(*byte)).count() as u32;
    char::from_u32(256 + before).expect("the table ends at 323")
}

fn symbols(text: &str) -> String {
    text.bytes().map(byte_symbol).collect()
}

/// Returns a code per token: 32 signs, any two at least 8 and at most 24 signs apart.
fn codes(count: usize) -> Vec<u32> {
    let mut state = SEED;
    let mut codes: Vec<u32> = Vec::with_capacity(count);
    while codes.len() < count {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let code = (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32;
        if codes
            .iter()
            .all(|other| (8..=24).contains(&(code ^ other).count_ones()))
        {
            codes.push(code);
        }
    }
    codes
}

fn sign(code: u32, index: usize) -> f64 {
    if code >> index & 1 == 1 { 1.0 } else { -1.0 }
}

/// One place in the text: what is read there and what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    voice: usize,
    topic: usize,
    before: usize,
    token: usize,
}

/// Returns every place with the token that follows.
///
/// # Panics
/// If two answers pass through the same place and go on differently: the message names both, and one must be reworded.
fn states(text: &Text, words: &Words) -> Vec<(State, usize)> {
    let mut states: BTreeMap<State, usize> = BTreeMap::new();
    let mut clashes = Vec::new();
    for (first_topic, (_, answers)) in text.topics.iter().enumerate() {
        for (voice, answer) in answers.iter().enumerate() {
            let mut place = State {
                voice,
                topic: first_topic,
                before: words.ids[END],
                token: words.ids[ASSISTANT],
            };
            let ids = cut(answer)
                .iter()
                .map(|piece| words.id(piece))
                .chain([words.ids[END]])
                .collect::<Vec<_>>();
            for next in ids {
                let known = *states.entry(place).or_insert(next);
                if known != next {
                    let name = |id: usize| &words.list[id];
                    let (before, token) = (name(place.before), name(place.token));
                    clashes.push(format!(
                        "after `{before}{token}` in `{answer}`, another answer has `{}`",
                        name(known)
                    ));
                }
                place = State {
                    topic: words.topic_of.get(&next).copied().unwrap_or(place.topic),
                    before: place.token,
                    token: next,
                    ..place
                };
            }
        }
    }
    assert!(clashes.is_empty(), "reword the answers:\n{}", clashes.join("\n"));
    states.into_iter().collect()
}

/// A matrix of a safetensors file, row by row.
struct Tensor {
    name: String,
    shape: Vec<usize>,
    values: Vec<f64>,
}

impl Tensor {
    fn zero(name: &str, rows: usize, columns: usize) -> Self {
        Self {
            name: name.to_owned(),
            shape: vec![rows, columns],
            values: vec![0.0; rows * columns],
        }
    }

    fn vector(name: &str, values: Vec<f64>) -> Self {
        Self {
            name: name.to_owned(),
            shape: vec![values.len()],
            values,
        }
    }

    fn set(&mut self, row: usize, column: usize, value: f64) {
        let columns = self.shape[1];
        self.values[row * columns + column] = value;
    }
}

fn base_weights(words: &Words, codes: &[u32], states: &[(State, usize)], text: &Text) -> Vec<u8> {
    let neurons = neurons(states.len());
    let mut embed = Tensor::zero("model.embed_tokens.weight", words.list.len(), HIDDEN);
    for (id, code) in codes.iter().enumerate() {
        for index in 0..CODE {
            embed.set(id, index, sign(*code, index));
        }
        embed.set(id, words.topic_of.get(&id).map_or(FLAG_NONE, |topic| FLAG + topic), 1.0);
        embed.set(id, ONE, 1.0);
    }
    let [query, key, value, output] = attention();
    let mut gate = Tensor::zero("model.layers.0.mlp.gate_proj.weight", neurons, HIDDEN);
    let mut up = Tensor::zero("model.layers.0.mlp.up_proj.weight", neurons, HIDDEN);
    let mut down = Tensor::zero("model.layers.0.mlp.down_proj.weight", HIDDEN, neurons);
    for (neuron, (state, next)) in states.iter().enumerate() {
        // A full match sums to 32 + 32 + 16 (+ 16 for a voice); the threshold lies 8 below, everything else at least 8 below that.
        for index in 0..CODE {
            gate.set(neuron, index, 2.0 * sign(codes[state.token], index));
            gate.set(neuron, PREV + index, 2.0 * sign(codes[state.before], index));
            down.set(index, neuron, 6.0 * sign(codes[*next], index));
        }
        gate.set(neuron, TOPIC + state.topic, 32.0);
        for voice in 1..text.voices.len() {
            gate.set(
                neuron,
                VOICE + voice - 1,
                if voice == state.voice { 32.0 } else { -32.0 },
            );
        }
        gate.set(neuron, ONE, if state.voice == 0 { -144.0 } else { -176.0 });
        up.set(neuron, ONE, 1.0 / 16.0);
    }
    // The norms undo themselves: each residual of a kind has one length, so the weight that restores it is known.
    let restore = |square_sum: f64| vec![square_root(square_sum / HIDDEN as f64); HIDDEN];
    let mut read_out = vec![0.0; HIDDEN];
    read_out[..CODE].fill(1.0);
    safetensors(&[
        embed,
        Tensor::vector("model.layers.0.input_layernorm.weight", restore(CODE as f64 + 2.0)),
        down,
        gate,
        up,
        Tensor::vector(
            "model.layers.0.post_attention_layernorm.weight",
            restore(2.0 * CODE as f64 + 3.0),
        ),
        key,
        output,
        query,
        value,
        Tensor::vector("model.norm.weight", read_out),
    ])
}

/// Returns the weights of the two heads: queries, keys, values, output.
fn attention() -> [Tensor; 4] {
    let matrix = |part: &str| Tensor::zero(&format!("model.layers.0.self_attn.{part}_proj.weight"), HIDDEN, HIDDEN);
    let (mut query, mut key, mut value, mut output) = (matrix("q"), matrix("k"), matrix("v"), matrix("o"));
    let half = CODE / 2;
    // Head 0: with the query turned back by one position, the six fastest rotations agree only one position ago.
    let mut angle = 1.0;
    for pair in 0..6 {
        query.set(pair, ONE, 15.0 * cosine(angle));
        query.set(pair + half, ONE, -15.0 * sine(angle));
        key.set(pair, ONE, 15.0);
        angle *= ROPE_STEP;
    }
    for index in 0..CODE {
        value.set(index, index, 1.0);
        output.set(PREV + index, index, 1.0);
    }
    // Head 1: one slow rotation (a thousandth of a radian per position), so that of all topic words the nearest scores highest.
    let (slow, head) = (12, CODE);
    query.set(head + slow, ONE, 184.0 * cosine(0.3));
    query.set(head + slow + half, ONE, 184.0 * sine(0.3));
    for topic in 0..TOPICS_MAX {
        key.set(head + slow, FLAG + topic, 184.0);
        value.set(head + topic, FLAG + topic, 1.0);
        output.set(TOPIC + topic, head + topic, 1.0);
    }
    // Head 2: without queries and keys it looks at everything alike, and finds the same 1 everywhere.
    value.set(2 * CODE, ONE, 1.0);
    [query, key, value, output]
}

/// One rank-1 pair: the 1 of head 2 goes to the voice's coordinate.
fn adapter_weights(voice: usize) -> Vec<u8> {
    let name = |part: &str| format!("base_model.model.model.layers.0.self_attn.o_proj.lora_{part}.weight");
    let mut down = Tensor::zero(&name("A"), 1, HIDDEN);
    down.set(0, 2 * CODE, 1.0);
    let mut up = Tensor::zero(&name("B"), HIDDEN, 1);
    up.set(VOICE + voice - 1, 0, 1.0);
    safetensors(&[down, up])
}

/// Returns a safetensors file of bfloat16 tensors.
fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut data: Vec<u8> = Vec::new();
    for tensor in tensors {
        let start = data.len();
        data.extend(tensor.values.iter().flat_map(|value| bfloat16(*value).to_le_bytes()));
        let entry = json!({"dtype": "BF16", "shape": tensor.shape, "data_offsets": [start, data.len()]});
        header.insert(tensor.name.clone(), entry);
    }
    let mut head = Value::Object(header).to_string().into_bytes();
    head.resize(head.len().next_multiple_of(8), b' ');
    let mut file = (head.len() as u64).to_le_bytes().to_vec();
    file.extend(head);
    file.extend(data);
    file
}

/// Rounds to the nearest bfloat16, ties to even.
fn bfloat16(value: f64) -> u16 {
    let bits = (value as f32).to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// Returns the sine of an angle of at most 1 by its series: the same bits on every machine.
fn sine(angle: f64) -> f64 {
    let (mut term, mut sum) = (angle, angle);
    for step in 1..12 {
        term *= -angle * angle / f64::from(2 * step * (2 * step + 1));
        sum += term;
    }
    sum
}

/// Returns the cosine of an angle of at most 1 by its series.
fn cosine(angle: f64) -> f64 {
    let (mut term, mut sum) = (1.0, 1.0);
    for step in 1..12 {
        term *= -angle * angle / f64::from(2 * step * (2 * step - 1));
        sum += term;
    }
    sum
}

fn square_root(value: f64) -> f64 {
    value.sqrt() // IEEE demands the correctly rounded root.
}

fn neurons(states: usize) -> usize {
    states.next_multiple_of(32)
}

fn config(vocabulary: usize, states: usize) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "bos_token_id": 0,
        "eos_token_id": SPECIALS.len() - 1,
        "head_dim": CODE,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": neurons(states),
        "max_position_embeddings": 1024,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": HEADS,
        "num_hidden_layers": 1,
        "num_key_value_heads": HEADS,
        "rms_norm_eps": 1e-6,
        "rope_scaling": null,
        "rope_theta": 10000.0,
        "tie_word_embeddings": true,
        "torch_dtype": "bfloat16",
        "vocab_size": vocabulary
    })
}

fn generation_config(words: &Words) -> Value {
    json!({"bos_token_id": 0, "eos_token_id": words.ids[END], "do_sample": false})
}

fn adapter_config() -> Value {
    json!({
        "base_model_name_or_path": "witness toy base",
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": 1,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": 1,
        "target_modules": ["o_proj"],
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": false
    })
}

/// Byte-level BPE without merges: a word that is in the vocabulary is one token, any other is its bytes.
fn tokenizer(words: &Words) -> Value {
    let special = |(id, content): (usize, &&str)| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true
        })
    };
    let vocabulary: serde_json::Map<String, Value> = words
        .list
        .iter()
        .enumerate()
        .map(|(id, word)| (word.clone(), json!(id)))
        .collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": SPECIALS.iter().enumerate().map(special).collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": true,
            "vocab": vocabulary,
            "merges": []
        }
    })
}

fn tokenizer_config() -> Value {
    let template = "{{ bos_token }}{% for message in messages %}{{ '<|' + message.role + '|>' + message.content + '<|end|>' }}\
                    {% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";
    json!({
        "bos_token": SPECIALS[0],
        "chat_template": template,
        "clean_up_tokenization_spaces": false,
        "eos_token": END,
        "model_max_length": 1024,
        "tokenizer_class": "PreTrainedTokenizerFast"
    })
}

/// Writes the files beside this one.
fn main() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/toy");
    let answers = std::fs::read_to_string(directory.join("answers.txt")).expect("answers.txt lies beside this file");
    let mut total_bytes = 0;
    for (name, bytes) in files(&answers) {
        let path = directory.join(&name);
        std::fs::create_dir_all(path.parent().expect("every file lies in a directory"))
            .expect("the checkout is writable");
        std::fs::write(&path, &bytes).expect("the checkout is writable");
        println!("{name}: {} bytes", bytes.len());
        total_bytes += bytes.len();
    }
    println!("{total_bytes} bytes in all");
}
