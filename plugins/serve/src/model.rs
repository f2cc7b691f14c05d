//! One loaded model: its weights, adapters, sequences and kept caches.
//!
//! | state | where | ends |
//! | --- | --- | --- |
//! | waiting | `waiting`, first come first served | a place among the running is free |
//! | running | `running`, at most `num_parallel` | it is done, fails or is cancelled |
//! | kept | `kept`: keys and values of ended sequences | a request with the same beginning takes it, or its place is needed |
//!
//! **Invariant:** after each step, running and kept states together are at most `num_parallel`, which is what the memory estimate counts.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use witness_diagnostics::{Diagnostic, Kind, near_miss};
use witness_model::{Adapter, Model, SequenceStep, Threads};
use witness_plugin_protocol::{
    AdapterCheck, AdapterInfo, AdapterSpec, GenerateRequest, LoadAdapterReply, LoadAdapterRequest, ModelInfo, Started,
};
use witness_template::ChatTemplate;
use witness_tokenizer::Tokenizer;

use crate::engine::{Advance, Engine, Rows, State};
use crate::error;
use crate::inspect::open_adapter;
use crate::prompt::{self, Limits};
use crate::sequence::{Admission, Sequence};

/// Sequences that may wait. The daemon has a queue of its own before this one; beyond this something is wrong there.
const WAITING_MAX: usize = 1024;

/// Adapters that may be attached at once: a few megabytes each, and nobody names more.
const ADAPTERS_MAX: usize = 256;

/// Tokens that an adapter's check runs. More than one, so that attention is part of it.
const CHECK_TOKENS: usize = 8;

/// An adapter and where it came from.
struct Attached {
    adapter: Arc<Adapter>,
    spec: AdapterSpec,
    info: AdapterInfo,
}

/// Keys and values of an ended sequence.
struct Kept {
    state: State,
    tokens: Vec<u32>,
    adapter: Option<Arc<Adapter>>,
}

/// One loaded model.
pub struct Loaded {
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) tokenizer: Tokenizer,
    template: Result<ChatTemplate, Diagnostic>,
    info: ModelInfo,
    limits: Limits,
    num_parallel: usize,
    adapters: BTreeMap<String, Attached>,
    pub(crate) waiting: VecDeque<Sequence>,
    pub(crate) running: Vec<Sequence>,
    kept: VecDeque<Kept>,
    pub(crate) threads: Option<Threads>,
}

/// Parts of a loaded model.
pub(crate) struct Parts {
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) tokenizer: Tokenizer,
    /// The model's own, or why it cannot be used: only a chat without a template of its own needs it.
    pub(crate) template: Result<ChatTemplate, Diagnostic>,
    pub(crate) info: ModelInfo,
    pub(crate) num_ctx: usize,
    pub(crate) num_parallel: usize,
    pub(crate) threads: Option<Threads>,
}

impl Loaded {
    pub(crate) fn new(parts: Parts) -> Self {
        let limits = Limits {
            num_ctx: parts.num_ctx,
            context_length: usize::try_from(parts.info.context_length).unwrap_or(usize::MAX),
            vocab_size: parts.engine.vocab_size(),
        };
        Self {
            engine: parts.engine,
            tokenizer: parts.tokenizer,
            template: parts.template,
            info: parts.info,
            limits,
            num_parallel: parts.num_parallel,
            adapters: BTreeMap::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            kept: VecDeque::new(),
            threads: parts.threads,
        }
    }

    /// Returns the bytes of weights of the base: the same however many adapters are attached.
    pub fn base_bytes(&self) -> u64 {
        self.engine.bytes()
    }

    /// Returns the facts about the model.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Returns the graph, when the model runs on it.
    pub fn graph(&self) -> Option<&Model> {
        self.engine.graph()
    }

    /// Attaches an adapter, and proves on request that it changes something.
    pub(crate) fn load_adapter(&mut self, request: LoadAdapterRequest) -> Result<LoadAdapterReply, Diagnostic> {
        let LoadAdapterRequest { adapter: spec, check } = request;
        let Some(model) = self.engine.graph() else {
            let message = format!(
                "models of architecture `{}` run without adapters here",
                self.info.architecture
            );
            return Err(
                Diagnostic::new("witness::serve::adapters_unsupported", Kind::Unsupported, message).hint(format!(
                    "adapters are applied to {}",
                    witness_model::config::family_names().join(", ")
                )),
            );
        };
        let known = self
            .adapters
            .get(&spec.name)
            .filter(|attached| same_files(&attached.spec, &spec));
        let (adapter, info) = match known {
            Some(attached) => (attached.adapter.clone(), attached.info.clone()),
            None => {
                if self.adapters.len() >= ADAPTERS_MAX && !self.adapters.contains_key(&spec.name) {
                    let message = format!("{ADAPTERS_MAX} adapters are attached already");
                    return Err(
                        Diagnostic::new("witness::serve::too_many_adapters", Kind::Busy, message)
                            .hint("unload the model; it comes back with the adapters that requests name"),
                    );
                }
                let (adapter, info) = open_adapter(&spec, model.config())?;
                (Arc::new(adapter), info)
            }
        };
        let check = if check {
            Some(prove(model, &adapter, &spec.name)?)
        } else {
            None
        };
        self.adapters.insert(
            spec.name.clone(),
            Attached {
                adapter,
                spec,
                info: info.clone(),
            },
        );
        Ok(LoadAdapterReply { info, check })
    }

    /// Runs a batch on the model's threads.
    pub(crate) fn forward_batch(&mut self, batch: &mut [Advance<'_>]) -> Result<Vec<Rows>, Diagnostic> {
        let Loaded { engine, threads, .. } = self;
        match threads {
            Some(threads) => threads.install(|| engine.forward(batch)),
            None => engine.forward(batch),
        }
    }

    /// Computes on the model's threads.
    pub(crate) fn on_threads<R: Send>(&self, compute: impl FnOnce() -> R + Send) -> R {
        match &self.threads {
            Some(threads) => threads.install(compute),
            None => compute(),
        }
    }

    /// Attaches an adapter for whoever runs the engine by itself.
    pub(crate) fn open_adapter(&mut self, spec: AdapterSpec) -> Result<Arc<Adapter>, Diagnostic> {
        let name = spec.name.clone();
        self.load_adapter(LoadAdapterRequest {
            adapter: spec,
            check: false,
        })?;
        let attached = self.adapters.get(&name);
        attached
            .map(|attached| attached.adapter.clone())
            .ok_or_else(|| self.no_such_adapter(&name))
    }

    /// Detaches an adapter. Sequences that run with it keep it until they end.
    pub(crate) fn unload_adapter(&mut self, name: &str) -> Result<(), Diagnostic> {
        let attached = self.adapters.remove(name).ok_or_else(|| self.no_such_adapter(name))?;
        self.kept.retain(|kept| {
            !kept
                .adapter
                .as_ref()
                .is_some_and(|adapter| Arc::ptr_eq(adapter, &attached.adapter))
        });
        Ok(())
    }

    fn no_such_adapter(&self, name: &str) -> Diagnostic {
        let message = format!("no adapter `{name}` is loaded");
        let diagnostic = Diagnostic::new("witness::serve::unknown_adapter", Kind::NotFound, message);
        let names: Vec<&str> = self.adapters.keys().map(String::as_str).collect();
        match near_miss(name, names.iter().copied()) {
            Some(near) => diagnostic.hint(format!("did you mean `{near}`?")),
            None if names.is_empty() => diagnostic.hint("this model has no adapters; leave `adapter` out"),
            None => diagnostic.hint(format!("there are {}", names.join(", "))),
        }
    }

    /// Admits a sequence: renders, tokenizes, checks. Computes nothing.
    pub(crate) fn start(&mut self, number: u64, request: &GenerateRequest) -> Result<Started, Diagnostic> {
        if self
            .waiting
            .iter()
            .chain(&self.running)
            .any(|sequence| sequence.number == number)
        {
            return Err(error::internal(format!("sequence {number} is running already")));
        }
        if self.waiting.len() >= WAITING_MAX {
            let message = format!("{WAITING_MAX} sequences are waiting for this model already");
            return Err(Diagnostic::new("witness::serve::queue_full", Kind::Busy, message).hint("try again later"));
        }
        let adapter = match &request.adapter {
            Some(name) => Some(
                self.adapters
                    .get(name)
                    .ok_or_else(|| self.no_such_adapter(name))?
                    .adapter
                    .clone(),
            ),
            None => None,
        };
        let tokens = prompt::tokens(request, &self.tokenizer, &self.template)?;
        let ready = prompt::fit(tokens, request, self.limits, self.tokenizer.bos())?;
        let seed = request.sampling.seed.unwrap_or_else(fresh_seed);
        let mut started = Started {
            prompt_tokens: ready.tokens.len() as u64,
            truncated_tokens: ready.truncated as u64,
            cached_tokens: 0,
            seed,
            prompt_ids: if request.return_prompt_ids {
                ready.tokens.clone()
            } else {
                Vec::new()
            },
        };
        let admission = Admission {
            number,
            tokens: ready.tokens,
            adapter,
            state: None,
            seed,
            num_ctx: self.limits.num_ctx,
        };
        let mut sequence = Sequence::new(request, admission, &self.tokenizer)?;
        sequence.state = self.take_kept(&sequence.tokens, sequence.adapter.as_ref());
        started.cached_tokens = sequence.state.as_ref().map_or(0, State::len) as u64;
        self.waiting.push_back(sequence);
        Ok(started)
    }

    /// Ends a sequence. What it has computed is kept for a request that begins the same.
    pub(crate) fn cancel(&mut self, number: u64) {
        let waiting = self.waiting.iter().position(|sequence| sequence.number == number);
        if let Some(sequence) = waiting.and_then(|at| self.waiting.remove(at)) {
            self.keep(sequence);
        }
        if let Some(at) = self.running.iter().position(|sequence| sequence.number == number) {
            let sequence = self.running.remove(at);
            self.keep(sequence);
        }
    }

    /// Moves waiting sequences into free places.
    pub(crate) fn admit(&mut self) {
        while self.running.len() < self.num_parallel {
            let Some(mut sequence) = self.waiting.pop_front() else {
                break;
            };
            if sequence.state.is_none() {
                sequence.state = Some(self.engine.new_state(self.limits.num_ctx));
            }
            self.running.push(sequence);
        }
        self.trim_kept();
    }

    /// Keeps the keys and values of an ended sequence, in place of the oldest.
    pub(crate) fn keep(&mut self, sequence: Sequence) {
        let Sequence {
            state, tokens, adapter, ..
        } = sequence;
        if let Some(state @ State::Graph(_)) = state
            && state.len() > 0
        {
            self.kept.push_back(Kept { state, tokens, adapter });
        }
    }

    /// Drops the oldest kept states until they and the running ones fit the places that there are.
    pub(crate) fn trim_kept(&mut self) {
        while self.kept.len() + self.running.len() > self.num_parallel && self.kept.pop_front().is_some() {}
    }

    /// Takes the kept state that shares the longest beginning with `tokens` under the same adapter, cut back to what they share.
    /// At least the last token is left to run, since its logits are wanted.
    fn take_kept(&mut self, tokens: &[u32], adapter: Option<&Arc<Adapter>>) -> Option<State> {
        let shared = |kept: &Kept| {
            let same_adapter = match (kept.adapter.as_ref(), adapter) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                (None, None) => true,
                _ => false,
            };
            let common = kept.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
            if same_adapter {
                common.min(kept.state.len()).min(tokens.len().saturating_sub(1))
            } else {
                0
            }
        };
        let (at, n_shared) = self
            .kept
            .iter()
            .map(shared)
            .enumerate()
            .max_by_key(|(_, n_shared)| *n_shared)?;
        if n_shared == 0 {
            return None;
        }
        let mut kept = self.kept.remove(at)?;
        if let State::Graph(cache) = &mut kept.state {
            cache.truncate(n_shared);
        }
        Some(kept.state)
    }
}

fn same_files(one: &AdapterSpec, other: &AdapterSpec) -> bool {
    one.files.len() == other.files.len()
        && one.files.iter().zip(&other.files).all(|(one, other)| {
            let same_content = if one.digest.is_empty() {
                one.path == other.path
            } else {
                one.digest == other.digest
            };
            one.name == other.name && one.size == other.size && same_content
        })
}

/// Returns a seed that no earlier request had, small enough to be typed again.
fn fresh_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 33
}

/// Runs the same tokens with and without an adapter. Equal logits mean that it does nothing, which is never what was asked for.
fn prove(model: &Model, adapter: &Adapter, name: &str) -> Result<AdapterCheck, Diagnostic> {
    let vocab_size = model.config().vocab_size;
    let tokens: Vec<u32> = (0..CHECK_TOKENS)
        .map(|index| (index * vocab_size / CHECK_TOKENS) as u32)
        .collect();
    let run = |adapter: Option<&Adapter>| -> Result<Vec<f32>, Diagnostic> {
        let mut cache = model.new_cache(tokens.len());
        let step = SequenceStep {
            tokens: &tokens,
            cache: &mut cache,
            adapter,
            n_logits: tokens.len(),
        };
        let logits = model.forward(&mut [step])?.into_iter().flatten().next();
        let logits = logits.ok_or_else(|| error::internal("no logits came back"))?;
        logits
            .flatten_all()
            .and_then(|logits| logits.to_vec1())
            .map_err(|error| error::internal(error.to_string()))
    };
    let (with, without) = (run(Some(adapter))?, run(None)?);
    let difference = with.iter().zip(&without).map(|(a, b)| f64::from((a - b).abs()));
    let logit_difference_max = difference.fold(
        0.0,
        |max: f64, next| if next > max || next.is_nan() { next } else { max },
    );
    if !logit_difference_max.is_finite() {
        let message = format!("adapter `{name}` gives logits that are not numbers");
        return Err(
            Diagnostic::new("witness::serve::adapter_not_finite", Kind::Damaged, message)
                .hint("its weights are probably damaged, or they belong to another base; train or fetch it again"),
        );
    }
    if logit_difference_max == 0.0 {
        let message = format!("adapter `{name}` changes nothing: logits with and without it are equal");
        return Err(
            Diagnostic::new("witness::serve::adapter_changes_nothing", Kind::Invalid, message)
                .cause(format!(
                    "{CHECK_TOKENS} tokens were run with and without its {} pairs",
                    adapter.pairs()
                ))
                .hint("an adapter that was never trained has lora_B all zero; use the one that training saved last"),
        );
    }
    Ok(AdapterCheck {
        logit_difference_max,
        tokens: CHECK_TOKENS as u64,
    })
}
