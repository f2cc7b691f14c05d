//! Prints tokens a second of LoRA steps (r 16 on q, k, v, o) on random weights.
//!
//! `cargo run --release -p witness-training --example throughput -- [--shape NAME]... [--steps N] [--rows N] [--tokens N] [--compute f32|bf16]
//! [--storage as-is|f32|bf16|nf4] [--recompute] [--isa NAME] [--model DIRECTORY] [--adapter DIRECTORY] [--rows-file FILE] [--threads N]`
//!
//! Shapes: `oracle` (4 layers of 128), `15m`, `135m` (SmolLM2-135M) and `0.5b` (Qwen2.5-0.5B); or the weights of a Hugging Face directory. By default 4 rows of 256
//! tokens, all of them targets; tokens are `(17 row + 31 at) mod vocabulary`, so that another program can be given the same ones;
//! a file of rows holds JSON, `[{"ids": [..], "is_target": [..]}, ..]`, of which each step takes the next ones. An adapter is the one to start from. One line of JSON a shape: the
//! seconds and the loss of every step, and the most memory that was resident.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};
use witness_formats::hf::{DecoderConfig, HfConfig};
use witness_formats::{FileSet, safetensors::SafeTensors};
use witness_instructions::Isa;
use witness_training::{
    BaseStorage, Batch, Compute, Decay, LoraMethod, Method, Optimizer, RandomWeights, Recompute, Sample, Schedule,
    Trainer, TrainerOptions, WeightSource,
};

fn shape(name: &str) -> Option<Value> {
    let fields = |family: &str, layers: u32, d: u32, f: u32, heads: u32, kv: u32, vocabulary: u32, is_tied: bool| {
        json!({"model_type": family, "num_hidden_layers": layers, "hidden_size": d, "intermediate_size": f,
            "num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": vocabulary, "tie_word_embeddings": is_tied})
    };
    match name {
        "oracle" => Some(fields("llama", 4, 128, 352, 4, 2, 2_048, false)),
        "15m" => Some(fields("llama", 6, 288, 768, 6, 6, 32_000, true)),
        "135m" => Some(fields("llama", 30, 576, 1_536, 9, 3, 49_152, true)),
        "0.5b" => Some(fields("qwen2", 24, 896, 4_864, 14, 2, 151_936, true)),
        _ => None,
    }
}

struct Arguments {
    shapes: Vec<String>,
    model: Option<PathBuf>,
    adapter: Option<PathBuf>,
    rows_file: Option<PathBuf>,
    n_steps: usize,
    n_rows: usize,
    n_tokens: usize,
    options: TrainerOptions,
}

fn arguments() -> Result<Arguments, String> {
    let mut arguments = Arguments {
        shapes: Vec::new(),
        model: None,
        adapter: None,
        rows_file: None,
        n_steps: 5,
        n_rows: 4,
        n_tokens: 256,
        options: TrainerOptions {
            schedule: Schedule {
                learning_rate: 1e-4,
                decay: Decay::Constant,
                warmup_steps: 0,
                n_steps: 1_000,
            },
            optimizer: Optimizer::default(),
            max_grad_norm: Some(1.0),
            recompute: Recompute::Nothing,
            seed: 42,
            n_threads: None,
            compute: Compute::F32,
            base_storage: BaseStorage::AsIs,
        },
    };
    let mut given = std::env::args().skip(1);
    while let Some(flag) = given.next() {
        if flag == "--recompute" {
            arguments.options.recompute = Recompute::Layers;
            continue;
        }
        let value = given.next().ok_or_else(|| format!("`{flag}` lacks its value"))?;
        let number = || {
            value
                .parse::<usize>()
                .map_err(|error| format!("`{flag} {value}`: {error}"))
        };
        match (flag.as_str(), value.as_str()) {
            ("--shape", _) => arguments.shapes.push(value),
            ("--model", _) => arguments.model = Some(value.into()),
            ("--adapter", _) => arguments.adapter = Some(value.into()),
            ("--rows-file", _) => arguments.rows_file = Some(value.into()),
            ("--steps", _) => arguments.n_steps = number()?.max(1),
            ("--rows", _) => arguments.n_rows = number()?.max(1),
            ("--tokens", _) => arguments.n_tokens = number()?.max(2),
            ("--threads", _) => arguments.options.n_threads = Some(number()?),
            ("--isa", name) => Isa::named(name).map_err(|error| error.to_string())?.hold(),
            ("--compute", "f32") => arguments.options.compute = Compute::F32,
            ("--compute", "bf16") => arguments.options.compute = Compute::Bf16,
            ("--storage", "as-is") => arguments.options.base_storage = BaseStorage::AsIs,
            ("--storage", "f32") => arguments.options.base_storage = BaseStorage::F32,
            ("--storage", "bf16") => arguments.options.base_storage = BaseStorage::Bf16,
            ("--storage", "nf4") => arguments.options.base_storage = BaseStorage::Nf4 { double: true },
            _ => {
                return Err(format!(
                    "`{flag} {value}` is none of the flags in the head of this file"
                ));
            }
        }
    }
    if arguments.shapes.is_empty() && arguments.model.is_none() {
        arguments.shapes = vec!["oracle".to_owned(), "15m".to_owned()];
    }
    Ok(arguments)
}

struct Row {
    ids: Vec<u32>,
    is_target: Vec<bool>,
}

fn synthetic_row(row: usize, n_tokens: usize, vocab_size: usize) -> Row {
    let token = |at: usize| ((17 * row + 31 * at) % vocab_size) as u32;
    Row {
        ids: (0..n_tokens).map(token).collect(),
        is_target: vec![true; n_tokens],
    }
}

fn rows_of_file(text: &[u8]) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let rows: Vec<Value> = serde_json::from_slice(text)?;
    let row = |row: &Value| {
        let ids = row["ids"].as_array()?.iter();
        let marks = row["is_target"].as_array()?.iter();
        Some(Row {
            ids: ids.map(|id| Some(id.as_u64()? as u32)).collect::<Option<_>>()?,
            is_target: marks.map(Value::as_bool).collect::<Option<_>>()?,
        })
    };
    let rows: Option<Vec<Row>> = rows.iter().map(row).collect();
    let rows = rows.filter(|rows| !rows.is_empty());
    rows.ok_or_else(|| "the file holds no rows of `ids` and `is_target`".into())
}

/// Returns the most bytes that were resident, where the system says so.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1_024)
}

fn run(
    name: &str,
    config: &DecoderConfig,
    source: &dyn WeightSource,
    arguments: &Arguments,
) -> Result<(), Box<dyn std::error::Error>> {
    let lora = LoraMethod::new(16, 32.0, &["q_proj", "k_proj", "v_proj", "o_proj"])?;
    let method = Method::Lora(Box::new(lora));
    let mut trainer: Trainer = Trainer::new(config, source, method, arguments.options.clone())?;
    if let Some(adapter) = &arguments.adapter {
        trainer.read_adapter(adapter)?;
    }
    let rows = match &arguments.rows_file {
        Some(path) => rows_of_file(&std::fs::read(path)?)?,
        None => (0..arguments.n_rows)
            .map(|row| synthetic_row(row, arguments.n_tokens, config.vocab_size))
            .collect(),
    };
    let (mut seconds, mut losses, mut n_tokens) = (Vec::new(), Vec::new(), 0);
    for step in 0..arguments.n_steps {
        let chosen = (0..arguments.n_rows).map(|row| &rows[(step * arguments.n_rows + row) % rows.len()]);
        let batch = Batch::pack(chosen.map(|row| Sample {
            ids: &row.ids,
            is_target: &row.is_target,
        }))?;
        n_tokens += batch.n_tokens();
        let start = Instant::now();
        let report = trainer.step(&[batch], &|| false)?;
        seconds.push(start.elapsed().as_secs_f64());
        losses.extend(report.map(|report| report.loss));
    }
    let mut sorted = seconds.clone();
    sorted.sort_by(f64::total_cmp);
    let (n_weights, n_trained) = trainer.parameters().count();
    let tokens = n_tokens as f64 / arguments.n_steps as f64;
    let report = json!({
        "shape": name, "isa": Isa::current().name(), "compute": format!("{:?}", arguments.options.compute),
        "storage": format!("{:?}", arguments.options.base_storage), "weights": n_weights, "trained": n_trained,
        "weight_bytes": trainer.parameters().bytes(), "peak_bytes": peak_bytes(), "seconds": seconds, "losses": losses,
        "median_tokens_per_second": tokens / sorted[sorted.len() / 2],
    });
    println!("{report}");
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = arguments()?;
    for name in &arguments.shapes {
        let fields = shape(name).ok_or_else(|| format!("`{name}` is none of oracle, 15m, 135m, 0.5b"))?;
        let config = HfConfig::parse("config.json", fields.to_string().as_bytes())?.decoder()?;
        run(name, &config, &RandomWeights::new(&config, 1, 0.02), &arguments)?;
    }
    if let Some(directory) = &arguments.model {
        let files = FileSet::from_directory(directory)?;
        let config = HfConfig::load(&files)?.decoder()?;
        let name = directory.display().to_string();
        run(&name, &config, &SafeTensors::open(&files)?, &arguments)?;
    }
    Ok(())
}
