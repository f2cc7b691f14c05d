//! Times adapters beside their base: `cargo run --release -p witness-model --example adapters -- FILE [RANK] [N_SEQUENCES] [N_THREADS] [TARGETS]`.
//!
//! Makes `N_SEQUENCES` (8) adapters of random numbers of rank `RANK` (16) for `TARGETS` (`q_proj,v_proj`) of every layer and generates with a batch of so many
//! sequences: all on the base, then each with its own adapter, in turns. Prints tokens a second of both and the median of their ratio.

use std::collections::HashMap;
use std::time::Instant;

use witness_formats::adapter::Adapter as AdapterFile;
use witness_formats::gguf::Gguf;
use witness_formats::safetensors::Writer;
use witness_formats::{Dtype, FileSet};
use witness_model::source::{GgufSource, config_of_gguf};
use witness_model::{Adapter, Config, Logits, Model, SequenceStep, Threads};

const TURNS: usize = 9;
const STEPS: usize = 6;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments
        .next()
        .ok_or("usage: adapters FILE [RANK] [N_SEQUENCES] [N_THREADS] [TARGETS]")?;
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |text| text.parse());
    let (rank, n_sequences) = (number(16)?, number(8)?);
    let threads = Threads::new(number(std::thread::available_parallelism()?.get())?)?;
    let targets = arguments.next().unwrap_or_else(|| "q_proj,v_proj".to_owned());
    let targets: Vec<&str> = targets.split(',').collect();
    let gguf = Gguf::open_file(file.as_ref())?;
    let model = threads.install(|| Model::load(config_of_gguf(&gguf)?, &GgufSource::new(&gguf)?))?;
    let adapters: Vec<Adapter> = (0..n_sequences)
        .map(|seed| made_up(&model, rank, &targets, seed as u32))
        .collect::<Result<_, _>>()?;
    let bytes: u64 = adapters.iter().map(Adapter::bytes).sum();
    println!("{n_sequences} adapters of rank {rank}: {:.1} MB", bytes as f64 / 1e6);
    let mut caches: Vec<_> = (0..n_sequences)
        .map(|_| model.new_cache((2 * TURNS + 1) * STEPS))
        .collect();
    let mut logits = Logits::default();
    let mut run = |with: bool| -> Result<f64, Failure> {
        let start = Instant::now();
        for step in 0..STEPS {
            let tokens: Vec<[u32; 1]> = (0..n_sequences).map(|index| [(step * 31 + index) as u32]).collect();
            let each = tokens.iter().zip(&mut caches).zip(&adapters);
            let mut batch: Vec<SequenceStep<'_>> = each
                .map(|((tokens, cache), adapter)| SequenceStep {
                    tokens,
                    cache,
                    adapter: with.then_some(adapter),
                    n_logits: 1,
                })
                .collect();
            threads.install(|| model.forward_into(&mut batch, None, &mut logits))?;
        }
        Ok((STEPS * n_sequences) as f64 / start.elapsed().as_secs_f64())
    };
    run(true)?;
    let (mut speeds, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let (without, with) = (run(false)?, run(true)?);
        speeds.push((without, with));
        ratios.push(with / without);
    }
    ratios.sort_by(f64::total_cmp);
    println!("without and with, tokens/s: {speeds:.1?}");
    println!("with adapters: {:.3} of the speed without", ratios[TURNS / 2]);
    Ok(())
}

/// Returns `(out, in)` of a linear layer by PEFT's name for it.
fn shape_of(config: &Config, target: &str) -> Option<(&'static str, usize, usize)> {
    let (width, inner) = (config.width, config.feed_forward);
    let (query, key) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
    Some(match target {
        "q_proj" => ("self_attn", query, width),
        "k_proj" | "v_proj" => ("self_attn", key, width),
        "o_proj" => ("self_attn", width, query),
        "gate_proj" | "up_proj" => ("mlp", inner, width),
        "down_proj" => ("mlp", width, inner),
        _ => return None,
    })
}

fn made_up(model: &Model, rank: usize, targets: &[&str], seed: u32) -> Result<Adapter, Failure> {
    let mut tensors: HashMap<String, [usize; 2]> = HashMap::new();
    for layer in 0..model.config().n_layers {
        for target in targets {
            let (part, n_out, n_in) = shape_of(model.config(), target).ok_or("a target that is no linear layer")?;
            let name = format!("base_model.model.model.layers.{layer}.{part}.{target}");
            tensors.insert(format!("{name}.lora_A.weight"), [rank, n_in]);
            tensors.insert(format!("{name}.lora_B.weight"), [n_out, rank]);
        }
    }
    let mut tensors: Vec<_> = tensors.into_iter().collect();
    tensors.sort();
    let mut writer = Writer::new();
    for (name, shape) in &tensors {
        writer.tensor(name, Dtype::F32, shape)?;
    }
    let mut body = writer.begin(Vec::new())?;
    let mut state = seed;
    for (_, [n_rows, n_columns]) in &tensors {
        let mut numbers = Vec::with_capacity(n_rows * n_columns * 4);
        for _ in 0..n_rows * n_columns {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            numbers.extend((((state >> 8) as f32 / (1 << 23) as f32 - 1.0) / 100.0).to_le_bytes());
        }
        body.write(&numbers)?;
    }
    let directory = tempfile::tempdir()?;
    std::fs::write(directory.path().join("adapter_model.safetensors"), body.finish()?)?;
    let config = serde_json::json!({
        "peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets, "bias": "none", "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "made-up"
    });
    std::fs::write(directory.path().join("adapter_config.json"), config.to_string())?;
    let files = FileSet::from_directory(directory.path())?;
    Ok(model.adapter(AdapterFile::open(&files)?)?)
}
