//! How fast a model reads and answers, of the engine alone: no HTTP, no sampling, no tokenizer.
//!
//! A prompt is tokens drawn from the vocabulary, other ones each time, so that nothing is found again. What is timed is the same steps that requests take.

use std::time::Instant;

use witness_diagnostics::{Diagnostic, Kind};
use witness_instructions::Isa;
use witness_kernels::{KernelError, Pool, limits};
use witness_model::Adapter;
use witness_model::lora::Site;
use witness_plugin_protocol::{MeasureEvent, MeasureReply, ProcessMemory, SpeedCase, SpeedFound, SpeedLimits};

use super::{Watch, stop_if_asked};
use crate::engine::{Advance, State};
use crate::model::Loaded;
use crate::step::CHUNK_TOKENS;

/// How often a limit is measured.
const LIMIT_RUNS: usize = 5;
/// Rank of adapters that are made to be timed, and the layers that they change.
const RANK: usize = 16;
const SITES: [Site; 7] = [
    Site::Query,
    Site::Key,
    Site::Value,
    Site::Output,
    Site::Gate,
    Site::Up,
    Site::Down,
];

/// Runs every case `n_repeats` times, one case after the other each time, so that what disturbs the machine disturbs all of them.
pub(super) fn run(
    loaded: &mut Loaded,
    adapter: Option<&Adapter>,
    cases: &[SpeedCase],
    n_repeats: u64,
    watch: &mut dyn Watch,
) -> Result<MeasureReply, Diagnostic> {
    let mut found: Vec<SpeedFound> = cases
        .iter()
        .map(|case| SpeedFound {
            case: *case,
            tokens_per_second: Vec::new(),
        })
        .collect();
    let mut tokens = Tokens::new(loaded.engine.vocab_size());
    // Once before anything is timed: pages are touched, clocks are up.
    let warm = SpeedCase {
        n_prompt: 32,
        n_generate: 4,
        n_parallel: 1,
        n_adapters: 0,
    };
    time(loaded, adapter, &warm, &mut tokens, watch)?;
    for repeat in 0..n_repeats {
        for found in &mut found {
            let case = found.case;
            found
                .tokens_per_second
                .push(time(loaded, adapter, &case, &mut tokens, watch)?);
        }
        watch.tell(&MeasureEvent::Progress {
            n_chunks: repeat + 1,
            perplexity: None,
            divergence: None,
        });
    }
    // Before the limits, whose buffers are no part of serving.
    let memory = own_memory();
    Ok(MeasureReply {
        memory,
        speed: found,
        weights_bytes: loaded.engine.bytes(),
        limits: limits(loaded)?,
        ..MeasureReply::default()
    })
}

fn own_memory() -> Option<ProcessMemory> {
    ProcessMemory::from_status(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// Measures what the machine could do at most with this model's threads; nothing for an engine that is not ours. The limit of products is that of the type which
/// most weights have.
fn limits(loaded: &Loaded) -> Result<Option<SpeedLimits>, Diagnostic> {
    let Some(graph) = loaded.graph() else {
        return Ok(None);
    };
    let is_plain = matches!(loaded.info().quantization.as_str(), "F32" | "F16" | "BF16");
    let measured = loaded.on_threads(|| {
        let pool = Pool::current();
        let memory = limits::Memory::new()?;
        Ok::<_, KernelError>(SpeedLimits {
            isa: Isa::current().name().to_owned(),
            n_threads: pool.n_threads() as u64,
            read_bytes_per_second: best(|| memory.read(&pool)),
            operations_per_second: match is_plain {
                true => best(|| limits::multiply_floats(&pool)),
                false => best(|| limits::dot_bytes(&pool)),
            },
            n_weights: graph.n_block_weights(),
        })
    });
    Ok(Some(measured?))
}

/// Returns how much of `work` is done a second: the best of several runs.
fn best(work: impl Fn() -> u64) -> f64 {
    let speeds = (0..LIMIT_RUNS).map(|_| {
        let begun = Instant::now();
        work() as f64 / begun.elapsed().as_secs_f64()
    });
    speeds.fold(0.0, f64::max)
}

/// Returns the tokens a second of one case: of the answers where some are generated, else of the prompts.
fn time(
    loaded: &mut Loaded,
    adapter: Option<&Adapter>,
    case: &SpeedCase,
    tokens: &mut Tokens,
    watch: &dyn Watch,
) -> Result<f64, Diagnostic> {
    let n_parallel = case.n_parallel.max(1) as usize;
    let (n_prompt, n_generate) = (case.n_prompt as usize, case.n_generate as usize);
    let prompts: Vec<Vec<u32>> = (0..n_parallel).map(|_| tokens.take(n_prompt)).collect();
    let mut states: Vec<State> = (0..n_parallel)
        .map(|_| loaded.engine.new_state(n_prompt + n_generate))
        .collect();
    let made = made_up(loaded, case.n_adapters)?;
    let worn = |sequence: usize| match made.len() {
        0 => adapter,
        n_made => Some(&made[sequence % n_made]),
    };
    let begun = Instant::now();
    for (sequence, (prompt, state)) in prompts.iter().zip(&mut states).enumerate() {
        for (index, chunk) in prompt.chunks(CHUNK_TOKENS).enumerate() {
            stop_if_asked(watch)?;
            let is_last = (index + 1) * CHUNK_TOKENS >= prompt.len();
            step(loaded, &mut [(state, chunk, worn(sequence))], usize::from(is_last))?;
        }
    }
    if n_generate == 0 {
        return Ok((n_parallel * n_prompt) as f64 / begun.elapsed().as_secs_f64());
    }
    let begun = Instant::now();
    for _ in 0..n_generate {
        stop_if_asked(watch)?;
        let next: Vec<Vec<u32>> = (0..n_parallel).map(|_| tokens.take(1)).collect();
        let each = states.iter_mut().zip(&next).enumerate();
        let mut batch: Vec<(&mut State, &[u32], Option<&Adapter>)> = each
            .map(|(sequence, (state, next))| (state, next.as_slice(), worn(sequence)))
            .collect();
        step(loaded, &mut batch, 1)?;
    }
    Ok((n_parallel * n_generate) as f64 / begun.elapsed().as_secs_f64())
}

/// Makes adapters of random numbers.
fn made_up(loaded: &Loaded, n_adapters: u64) -> Result<Vec<Adapter>, Diagnostic> {
    if n_adapters == 0 {
        return Ok(Vec::new());
    }
    let graph = loaded.graph().ok_or_else(|| {
        let message = "models of this family take no adapters here";
        Diagnostic::new("witness::serve::no_adapters", Kind::Unsupported, message).hint("leave the adapters out")
    })?;
    let make = |seed: u64| graph.random_adapter(RANK, &SITES, seed as u32);
    (1..=n_adapters)
        .map(make)
        .collect::<Result<_, _>>()
        .map_err(Diagnostic::from)
}

fn step(
    loaded: &mut Loaded,
    batch: &mut [(&mut State, &[u32], Option<&Adapter>)],
    n_logits: usize,
) -> Result<(), Diagnostic> {
    let mut batch: Vec<Advance<'_>> = batch
        .iter_mut()
        .map(|(state, tokens, adapter)| Advance {
            tokens,
            state,
            adapter: *adapter,
            n_logits,
        })
        .collect();
    loaded.forward_batch(&mut batch).map(|_| ())
}

/// Numbers below the size of a vocabulary, by a linear congruence: what they are does not matter, that they differ does.
struct Tokens {
    vocab_size: u64,
    state: u64,
}

impl Tokens {
    fn new(vocab_size: usize) -> Tokens {
        Tokens {
            vocab_size: (vocab_size as u64).max(1),
            state: 1,
        }
    }

    fn take(&mut self, n: usize) -> Vec<u32> {
        (0..n)
            .map(|_| {
                self.state = self
                    .state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                ((self.state >> 33) % self.vocab_size) as u32
            })
            .collect()
    }
}
