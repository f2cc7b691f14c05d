//! Times adapters beside their base: `cargo run --release -p witness-model --example adapters -- FILE [RANK] [N_SEQUENCES] [N_THREADS] [TARGETS]`.
//!
//! Makes `N_SEQUENCES` (8) adapters of random numbers of rank `RANK` (16) for `TARGETS` (`q_proj,v_proj`) of every layer and generates with a batch of so many
//! sequences: all on the base, then each with its own adapter, in turns. Prints tokens a second of both and the median of their ratio.

use std::time::Instant;

use witness_formats::gguf::Gguf;
use witness_model::lora::Site;
use witness_model::source::{GgufSource, config_of_gguf};
use witness_model::{Adapter, Logits, Model, SequenceStep, Threads};

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
    let sites: Option<Vec<Site>> = targets.split(',').map(site_of).collect();
    let sites = sites.ok_or("a target that is no linear layer")?;
    let gguf = Gguf::open_file(file.as_ref())?;
    let model = threads.install(|| Model::load(config_of_gguf(&gguf)?, &GgufSource::new(&gguf)?))?;
    let adapters: Vec<Adapter> = (0..n_sequences)
        .map(|seed| model.random_adapter(rank, &sites, seed as u32))
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

/// Returns a linear layer by PEFT's name for it.
fn site_of(target: &str) -> Option<Site> {
    Some(match target {
        "q_proj" => Site::Query,
        "k_proj" => Site::Key,
        "v_proj" => Site::Value,
        "o_proj" => Site::Output,
        "gate_proj" => Site::Gate,
        "up_proj" => Site::Up,
        "down_proj" => Site::Down,
        _ => return None,
    })
}
