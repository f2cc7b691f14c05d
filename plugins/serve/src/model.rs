//! One loaded model: its weights, adapters and sequences.
//!
//! | state | where | ends |
//! | --- | --- | --- |
//! | waiting | `waiting`, first come first served | a place among the running is free, and pages ([`crate::schedule`]) |
//! | running | `running`, at most `num_parallel` | it is done, fails, is cancelled, or is set back for want of pages |
//!
//! Keys and values of all of them, and those that are kept for others, are pages of one pool ([`crate::pages`]), which is what the memory estimate counts.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use witness_diagnostics::{Diagnostic, Kind, near_miss};
use witness_model::{Adapter, Logits, Model, SequenceStep, Threads};
use witness_plugin_protocol::{
    AdapterCheck, AdapterInfo, AdapterSpec, GenerateRequest, KvCacheType, LoadAdapterReply, LoadAdapterRequest,
    ModelInfo, Started,
};
use witness_template::ChatTemplate;
use witness_tokenizer::Tokenizer;

use crate::chats::{self, Chats};
use crate::draft::Draft;
use crate::engine::{Advance, Engine, State};
use crate::error;
use crate::inspect::open_adapter;
use crate::packed::Keeper;
use crate::pages::{Pages, PrefixKey};
use crate::prompt::{self, Limits};
use crate::sequence::{Admission, Sequence, Worn};

/// Sequences that may wait. The daemon has a queue of its own before this one; beyond this something is wrong there.
const WAITING_MAX: usize = 1024;

/// Adapters that may be attached at once: a few megabytes each, and nobody names more.
const ADAPTERS_MAX: usize = 256;

/// Tokens that an adapter's check runs. More than one, so that attention is part of it.
const CHECK_TOKENS: usize = 8;

/// An adapter and where it came from.
struct Attached {
    worn: Worn,
    spec: AdapterSpec,
    info: AdapterInfo,
}

/// One loaded model.
pub struct Loaded {
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) tokenizer: Tokenizer,
    template: Result<ChatTemplate, Diagnostic>,
    info: ModelInfo,
    pub(crate) limits: Limits,
    pub(crate) num_parallel: usize,
    adapters: BTreeMap<String, Attached>,
    pub(crate) drafts: BTreeMap<String, Draft>,
    /// Given to each adapter and draft in turn.
    pub(crate) last_key: PrefixKey,
    pub(crate) waiting: VecDeque<Sequence>,
    pub(crate) running: Vec<Sequence>,
    /// Of the last step; kept for its memory, which for many sequences and words is not small.
    pub(crate) logits: Logits,
    /// Nothing for an engine whose states cannot be shared.
    pub(crate) pages: Option<Pages>,
    /// Nothing where chats are not kept on disk.
    pub(crate) chats: Option<Chats>,
    /// Nothing where the packed weights are not kept, or need no more keeping.
    pub(crate) keeper: Option<Keeper>,
    pub(crate) threads: Option<Threads>,
    /// How keys and values of a draft are to be stored, if somebody says.
    pub(crate) kv_cache_type: Option<KvCacheType>,
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
    pub(crate) pages: Option<Pages>,
    /// Nothing where chats are not kept on disk.
    pub(crate) chats: Option<Chats>,
    pub(crate) keeper: Option<Keeper>,
    pub(crate) threads: Option<Threads>,
    pub(crate) kv_cache_type: Option<KvCacheType>,
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
            drafts: BTreeMap::new(),
            last_key: 0,
            waiting: VecDeque::new(),
            running: Vec::new(),
            logits: Logits::default(),
            pages: parts.pages,
            chats: parts.chats,
            keeper: parts.keeper,
            threads: parts.threads,
            kv_cache_type: parts.kv_cache_type,
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

    /// Returns what is wrong with the account of keys and values, if anything is. Asked while no sequence runs or waits.
    pub fn account_fault(&self) -> Option<String> {
        let of_drafts = self.drafts.values().map(|draft| &draft.pages);
        self.pages.iter().chain(of_drafts).find_map(Pages::fault)
    }

    /// Returns the graph, when the model runs on it.
    pub fn graph(&self) -> Option<&Model> {
        self.engine.graph()
    }

    /// Attaches an adapter, and proves on request that it changes something; or a draft.
    pub(crate) fn load_adapter(&mut self, request: LoadAdapterRequest) -> Result<LoadAdapterReply, Diagnostic> {
        let LoadAdapterRequest {
            adapter: spec,
            check,
            draft,
        } = request;
        if let Some(options) = draft {
            return self.load_draft(spec, options);
        }
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
        let (worn, info) = match known {
            Some(attached) => (attached.worn.clone(), attached.info.clone()),
            None => {
                if self.adapters.len() >= ADAPTERS_MAX && !self.adapters.contains_key(&spec.name) {
                    let message = format!("{ADAPTERS_MAX} adapters are attached already");
                    return Err(
                        Diagnostic::new("witness::serve::too_many_adapters", Kind::Busy, message)
                            .hint("unload the model; it comes back with the adapters that requests name"),
                    );
                }
                let (adapter, info) = open_adapter(&spec, model.config())?;
                self.last_key += 1;
                let worn = Worn {
                    adapter: Arc::new(adapter),
                    key: self.last_key,
                    name: chats::name_of(&spec.files).map(Arc::from),
                };
                (worn, info)
            }
        };
        let check = if check {
            Some(prove(model, &worn.adapter, &spec.name)?)
        } else {
            None
        };
        let attached = Attached {
            worn,
            spec,
            info: info.clone(),
        };
        let key = attached.worn.key;
        let before = self.adapters.insert(attached.spec.name.clone(), attached);
        if let Some(before) = before.filter(|before| before.worn.key != key) {
            self.forget(&before);
        }
        Ok(LoadAdapterReply { info, check })
    }

    /// Runs a batch on the model's threads. Returns its logits, which stand until the next.
    pub(crate) fn forward_batch(&mut self, batch: &mut [Advance<'_>]) -> Result<&mut Logits, Diagnostic> {
        let Loaded {
            engine,
            threads,
            logits,
            ..
        } = self;
        Threads::run_on(threads.as_ref(), || engine.forward(batch, logits))?;
        Ok(logits)
    }

    /// Computes on the model's threads.
    pub(crate) fn on_threads<R: Send>(&self, compute: impl FnOnce() -> R + Send) -> R {
        Threads::run_on(self.threads.as_ref(), compute)
    }

    /// Attaches an adapter for whoever runs the engine by itself.
    pub(crate) fn open_adapter(&mut self, spec: AdapterSpec) -> Result<Arc<Adapter>, Diagnostic> {
        let name = spec.name.clone();
        self.load_adapter(LoadAdapterRequest {
            adapter: spec,
            check: false,
            draft: None,
        })?;
        let attached = self.adapters.get(&name);
        attached
            .map(|attached| attached.worn.adapter.clone())
            .ok_or_else(|| self.no_such_adapter(&name))
    }

    /// Detaches an adapter: sequences that run with it keep it until they end. Or a draft: they go on without its guesses.
    pub(crate) fn unload_adapter(&mut self, name: &str) -> Result<(), Diagnostic> {
        if self.drafts.remove(name).is_some() {
            return Ok(());
        }
        let attached = self.adapters.remove(name).ok_or_else(|| self.no_such_adapter(name))?;
        self.forget(&attached);
        Ok(())
    }

    /// Returns what stands for the adapters on disk, by their keys; the base alone is nothing.
    pub(crate) fn adapter_names(&self) -> BTreeMap<PrefixKey, String> {
        let names = self.adapters.values().filter_map(|attached| {
            let name = attached.worn.name.as_ref()?;
            Some((attached.worn.key, name.to_string()))
        });
        names.chain([(0, String::new())]).collect()
    }

    /// Lets go of what was computed with an adapter.
    fn forget(&mut self, attached: &Attached) {
        if let Some(pages) = &mut self.pages {
            pages.forget(attached.worn.key);
        }
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
        let worn = match &request.adapter {
            Some(name) => {
                let attached = self.adapters.get(name);
                Some(attached.ok_or_else(|| self.no_such_adapter(name))?.worn.clone())
            }
            None => None,
        };
        let drafting = request.draft.as_deref().map(|name| self.drafting(name)).transpose()?;
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
            worn,
            drafting,
            seed,
            num_ctx: self.limits.num_ctx,
        };
        let mut sequence = Sequence::new(request, admission, &self.tokenizer)?;
        // Held from now on, so that it is still there when the sequence runs.
        self.begin(&mut sequence);
        started.cached_tokens = sequence.state.as_ref().map_or(0, State::len) as u64;
        self.waiting.push_back(sequence);
        Ok(started)
    }

    /// Ends a sequence. What it has computed is kept for a request that begins the same.
    pub(crate) fn cancel(&mut self, number: u64) {
        let waiting = self.waiting.iter().position(|sequence| sequence.number == number);
        if let Some(sequence) = waiting.and_then(|at| self.waiting.remove(at)) {
            self.keep(&sequence);
        }
        if let Some(at) = self.running.iter().position(|sequence| sequence.number == number) {
            let sequence = self.running.remove(at);
            self.keep(&sequence);
        }
    }
}

pub(crate) fn same_files(one: &AdapterSpec, other: &AdapterSpec) -> bool {
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
        Ok(model.forward(&mut [step])?.of(0).to_vec())
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
