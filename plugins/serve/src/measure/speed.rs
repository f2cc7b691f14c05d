//! How fast a model reads and answers, of the engine alone: no HTTP, no sampling, no tokenizer.
//!
//! A prompt is tokens drawn from the vocabulary, other ones each time, so that nothing is found again. What is timed is the same steps that requests take.

use std::time::{Duration, Instant};

use witness_diagnostics::Diagnostic;
use witness_kernels::{Isa, KernelError, Pool, limits};
use witness_model::Adapter;
use witness_plugin_protocol::{
    GenerateRequest, MeasureEvent, MeasureReply, Prompt, SamplingOptions, SpeedCase, SpeedFound, SpeedLimits,
};
use witness_plugin_sdk::ServeEvent;

use super::{Watch, stop_if_asked};
use crate::engine::{Advance, State};
use crate::model::Loaded;
use crate::step::CHUNK_TOKENS;

/// How often a limit is measured.
const LIMIT_RUNS: usize = 5;

/// Runs every case `n_repeats` times, one case after the other each time, so that what disturbs the machine disturbs all of them.
pub(super) fn run(
    loaded: &mut Loaded,
    adapter: Option<(&str, &Adapter)>,
    cases: &[SpeedCase],
    n_repeats: u64,
    watch: &mut dyn Watch,
) -> Result<MeasureReply, Diagnostic> {
    let (name, adapter) = adapter.unzip();
    let mut found: Vec<SpeedFound> = cases
        .iter()
        .map(|case| SpeedFound {
            case: *case,
            tokens_per_second: Vec::new(),
            first_token_ms: Vec::new(),
        })
        .collect();
    let mut tokens = Tokens::new(loaded.engine.vocab_size());
    // Once before anything is timed: pages are touched, clocks are up.
    let warm = SpeedCase {
        n_prompt: 32,
        n_generate: 4,
        n_parallel: 1,
        n_seen: None,
    };
    time(loaded, adapter, &warm, &mut tokens, watch)?;
    for repeat in 0..n_repeats {
        for found in &mut found {
            let case = found.case;
            match case.n_seen {
                Some(n_seen) => {
                    let time = first_token(
                        loaded,
                        name,
                        (case.n_prompt as usize, n_seen as usize),
                        &mut tokens,
                        watch,
                    )?;
                    found.first_token_ms.push(time.as_secs_f64() * 1e3);
                }
                None => found
                    .tokens_per_second
                    .push(time(loaded, adapter, &case, &mut tokens, watch)?),
            }
        }
        watch.tell(&MeasureEvent::Progress {
            n_chunks: repeat + 1,
            perplexity: None,
            divergence: None,
        });
    }
    Ok(MeasureReply {
        speed: found,
        weights_bytes: loaded.engine.bytes(),
        limits: limits(loaded)?,
        ..MeasureReply::default()
    })
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
    let begun = Instant::now();
    for (prompt, state) in prompts.iter().zip(&mut states) {
        for (index, chunk) in prompt.chunks(CHUNK_TOKENS).enumerate() {
            stop_if_asked(watch)?;
            let is_last = (index + 1) * CHUNK_TOKENS >= prompt.len();
            step(loaded, &mut [(state, chunk)], adapter, usize::from(is_last))?;
        }
    }
    if n_generate == 0 {
        return Ok((n_parallel * n_prompt) as f64 / begun.elapsed().as_secs_f64());
    }
    let begun = Instant::now();
    for _ in 0..n_generate {
        stop_if_asked(watch)?;
        let next: Vec<Vec<u32>> = (0..n_parallel).map(|_| tokens.take(1)).collect();
        let mut batch: Vec<(&mut State, &[u32])> = states.iter_mut().zip(next.iter().map(Vec::as_slice)).collect();
        step(loaded, &mut batch, adapter, 1)?;
    }
    Ok((n_parallel * n_generate) as f64 / begun.elapsed().as_secs_f64())
}

/// Returns the time from a request to its first token, by the way that requests take: of a prompt of `n_prompt` tokens, after another that began with the same `n_seen`.
fn first_token(
    loaded: &mut Loaded,
    adapter: Option<&str>,
    (n_prompt, n_seen): (usize, usize),
    tokens: &mut Tokens,
    watch: &dyn Watch,
) -> Result<Duration, Diagnostic> {
    let (prompt, mut before) = (tokens.take(n_prompt), tokens.take(n_prompt));
    let n_seen = n_seen.min(n_prompt);
    before[..n_seen].copy_from_slice(&prompt[..n_seen]);
    let mut ask = |number: u64, ids: Vec<u32>| -> Result<Duration, Diagnostic> {
        let request = GenerateRequest {
            prompt: Prompt::Tokens { ids },
            adapter: adapter.map(str::to_owned),
            draft: None,
            sampling: SamplingOptions {
                temperature: 0.0,
                num_predict: 1,
                ..SamplingOptions::default()
            },
            format: None,
            top_logprobs: None,
            truncate: false,
            return_prompt_ids: false,
        };
        let (mut first, mut failure) = (None, None);
        let begun = Instant::now();
        loaded.start(number, &request)?;
        while loaded.step(&mut |event| match event {
            // An end that comes at once says nothing, and is as good.
            ServeEvent::Token { .. } | ServeEvent::Done { .. } => {
                first.get_or_insert_with(|| begun.elapsed());
            }
            ServeEvent::Error { diagnostic, .. } => failure = Some(diagnostic),
            ServeEvent::Progress { .. } => {}
        }) > 0
        {
            stop_if_asked(watch)?;
        }
        match (failure, first) {
            (Some(diagnostic), _) => Err(diagnostic),
            (None, Some(first)) => Ok(first),
            (None, None) => Err(crate::error::internal("a request ended without a word")),
        }
    };
    ask(1, before)?;
    ask(2, prompt)
}

fn step(
    loaded: &mut Loaded,
    batch: &mut [(&mut State, &[u32])],
    adapter: Option<&Adapter>,
    n_logits: usize,
) -> Result<(), Diagnostic> {
    let mut batch: Vec<Advance<'_>> = batch
        .iter_mut()
        .map(|(state, tokens)| Advance {
            tokens,
            state,
            adapter,
            n_logits,
        })
        .collect();
    loaded.forward_batch(&mut batch).map(drop)
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
