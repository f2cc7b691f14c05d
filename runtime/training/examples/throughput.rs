//! Prints tokens a second of LoRA steps (r 16 on q, k, v, o) on random weights: `cargo run -p witness-training --example throughput [shape] [steps] [recompute]`.
//!
//! Shapes: `oracle` (4 layers of 128), `15m`, `135m` (SmolLM2-135M), each at 4 rows of 256 tokens, all of them targets. The median of the steps is told.

use std::time::Instant;

use serde_json::{Value, json};
use witness_formats::hf::HfConfig;
use witness_training::{
    BaseStorage, Batch, Compute, Decay, LoraMethod, Method, Optimizer, RandomWeights, Recompute, Sample, Schedule,
    Stream, Trainer, TrainerOptions,
};

fn shape(name: &str) -> Option<Value> {
    let fields = |layers: u32, d: u32, f: u32, heads: u32, kv: u32, vocabulary: u32, is_tied: bool| {
        json!({"model_type": "llama", "num_hidden_layers": layers, "hidden_size": d, "intermediate_size": f,
            "num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": vocabulary, "tie_word_embeddings": is_tied})
    };
    match name {
        "oracle" => Some(fields(4, 128, 352, 4, 2, 2_048, false)),
        "15m" => Some(fields(6, 288, 768, 6, 6, 32_000, true)),
        "135m" => Some(fields(30, 576, 1_536, 9, 3, 49_152, true)),
        _ => None,
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let names = match arguments.first() {
        Some(name) => vec![name.as_str()],
        None => vec!["oracle", "15m"],
    };
    let n_steps: usize = arguments.get(1).map_or(Ok(5), |steps| steps.parse())?;
    let recompute = match arguments.get(2).map(String::as_str) {
        Some("recompute") => Recompute::Layers,
        _ => Recompute::Nothing,
    };
    for name in names {
        let fields = shape(name).ok_or_else(|| format!("`{name}` is none of oracle, 15m, 135m"))?;
        let config = HfConfig::parse("config.json", fields.to_string().as_bytes())?.decoder()?;
        let options = TrainerOptions {
            schedule: Schedule {
                learning_rate: 1e-4,
                decay: Decay::Constant,
                warmup_steps: 0,
                n_steps: n_steps as u64,
            },
            optimizer: Optimizer::default(),
            max_grad_norm: Some(1.0),
            recompute,
            seed: 42,
            n_threads: None,
            compute: Compute::F32,
            base_storage: BaseStorage::AsIs,
        };
        let lora = LoraMethod::new(16, 32.0, &["q_proj", "k_proj", "v_proj", "o_proj"])?;
        let source = RandomWeights::new(&config, 1, 0.02);
        let mut trainer: Trainer = Trainer::new(&config, &source, Method::Lora(Box::new(lora)), options)?;
        let (n_weights, n_trained) = trainer.parameters().count();
        let mut seconds = Vec::new();
        let mut n_tokens = 0;
        for step in 0..n_steps.max(1) as u64 {
            let stream = Stream::new(step);
            let ids: Vec<u32> = (0..1_024)
                .map(|at| (stream.bits(at) % config.vocab_size as u64) as u32)
                .collect();
            let is_target = [true; 256];
            let samples = ids.chunks(256).map(|ids| Sample {
                ids,
                is_target: &is_target,
            });
            let batch = Batch::pack(samples)?;
            n_tokens = batch.n_tokens();
            let start = Instant::now();
            trainer.step(&[batch], &|| false)?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2];
        println!(
            "{name}: {:.0} tokens/s ({median:.3} s a step of {n_tokens} tokens, fastest {:.3} s; {n_weights} weights, {n_trained} trained)",
            n_tokens as f64 / median,
            seconds[0]
        );
    }
    Ok(())
}
