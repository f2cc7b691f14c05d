//! Times a GGUF model: `cargo run --release -p witness-model --example speed -- FILE [N_PROMPT] [N_GENERATED] [N_THREADS]`.
//!
//! Reads `N_PROMPT` tokens (512) at once and then generates `N_GENERATED` (64) one by one behind them, three times over; prints tokens a second of the best run and of
//! all. Tokens are arbitrary: no time depends on which they are.

use std::time::Instant;

use witness_formats::gguf::Gguf;
use witness_model::source::{GgufSource, config_of_gguf};
use witness_model::{Model, SequenceStep, Threads};

const RUNS: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments
        .next()
        .ok_or("usage: speed FILE [N_PROMPT] [N_GENERATED] [N_THREADS]")?;
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |text| text.parse());
    let (n_prompt, n_generated) = (number(512)?, number(64)?);
    let threads = Threads::new(number(std::thread::available_parallelism()?.get())?)?;
    let gguf = Gguf::open_file(file.as_ref())?;
    let start = Instant::now();
    let model = threads.install(|| Model::load(config_of_gguf(&gguf)?, &GgufSource::new(&gguf)?))?;
    let loading = start.elapsed().as_secs_f64();
    println!("loaded {:.0} MB in {loading:.1} s", model.bytes() as f64 / 1e6);
    let vocab_size = model.config().vocab_size;
    let tokens: Vec<u32> = (0..n_prompt).map(|at| (at * 7_919 % vocab_size) as u32).collect();
    let (mut reading, mut writing) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let mut cache = model.new_cache(n_prompt + n_generated + 1);
        let mut forward = |tokens: &[u32]| {
            let step = SequenceStep {
                tokens,
                cache: &mut cache,
                adapter: None,
                n_logits: 1,
            };
            threads.install(|| model.forward(&mut [step])).map(drop)
        };
        let start = Instant::now();
        if n_prompt > 0 {
            forward(&tokens)?;
        }
        reading.push(n_prompt as f64 / start.elapsed().as_secs_f64());
        let start = Instant::now();
        for at in 0..n_generated {
            forward(&[(at * 31 % vocab_size) as u32])?;
        }
        writing.push(n_generated as f64 / start.elapsed().as_secs_f64());
    }
    println!("prompt of {n_prompt}: {:.1} tokens/s {reading:.1?}", best(&reading));
    println!("{n_generated} one by one: {:.1} tokens/s {writing:.1?}", best(&writing));
    Ok(())
}

fn best(speeds: &[f64]) -> f64 {
    speeds.iter().copied().fold(0.0, f64::max)
}
