//! Everything that is known before the first step: base, rows, batches, and the plan that tells of them.

use serde_json::{Map, Value};
use witness_diagnostics::{Diagnostic, Kind};
use witness_formats::FileSet;
use witness_formats::safetensors::SafeTensors;
use witness_plugin_protocol::{
    self as wire, Compat, TrainAlternative, TrainMethod, TrainPlan, TrainRequest, TrainSettings,
};
use witness_recipe::{unbounded, unreachable};
use witness_template::CivilTime;
use witness_training::{
    BaseStorage, Census, Compute, GgufWeights, MemoryEstimate, MemoryRequest, Method, RandomWeights, Recompute, Trainer,
};

use crate::base::{Base, Weights, file_set};
use crate::batches::{Batches, Extent};
use crate::data::{self, Data, Read};
use crate::encode::Encoder;
use crate::progress::IsStopped;
use crate::{rates, scratch, settings};

/// Bytes of one token of the rows: its id and its mark.
const BYTES_PER_TOKEN: u64 = 5;

/// A run that is ready to start.
pub(crate) struct Prepared {
    pub(crate) base: Base,
    pub(crate) data: Data,
    pub(crate) settings: TrainSettings,
    pub(crate) batches: Batches,
    pub(crate) extent: Extent,
    pub(crate) method: Method,
    pub(crate) continued: Option<SafeTensors>,
    pub(crate) plan: TrainPlan,
}

/// Opens and counts everything; reads no weights. Returns nothing when it is told to stop. `now` is what templates are told as the time;
/// `kept` is the `tokenizer.json` that an earlier start of a run from nothing trained.
pub(crate) fn prepare(
    request: &TrainRequest,
    now: CivilTime,
    kept: Option<Vec<u8>>,
    is_stopped: IsStopped<'_>,
) -> Result<Option<Prepared>, Diagnostic> {
    settings::check(&request.settings)?;
    let read = Read::rows(request)?;
    let base = match &request.settings.scratch {
        Some(scratch) => scratch::base(request, scratch, &read, kept)?,
        None => Base::open(&request.model, request.template.as_deref())?,
    };
    let (continued, fields) = match &request.adapter {
        Some(adapter) => {
            let files = file_set(&adapter.files, "adapter")?;
            (Some(adapter_weights(&files)?), Some(adapter_fields(&files)?))
        }
        None => (None, None),
    };
    let settings = settings::resolve(&request.settings, &base.config, fields.as_ref());
    settings::check(&settings)?;
    if settings.method == TrainMethod::Full && base.weights.is_gguf() {
        return Err(crate::error::unsupported(
            "training all weights of a GGUF base",
            "give the model's Hugging Face directory as the base, or train an adapter (`method: lora`)",
        ));
    }
    let sequence_len = usize::try_from(settings.sequence_len.unwrap_or(1)).unwrap_or(usize::MAX);
    let encoder = Encoder::new(&base.tokenizer, &base.template, &settings, sequence_len, now)?;
    let Some(mut data) = data::prepare(request, &read, &encoder, &base.tokenizer, is_stopped)? else {
        return Ok(None);
    };
    let method = settings::method(&settings)?;
    let batches = Batches::new(&settings, data.train.lengths(), sequence_len)?;
    let extent = batches.extent(&settings)?;
    // What cannot be followed is refused before anything is loaded.
    settings::options(&settings, extent.n_steps, base.weights.is_gguf())?;
    let plan = plan(&base, &mut data, &settings, &extent, &method)?;
    Ok(Some(Prepared {
        base,
        data,
        settings,
        batches,
        extent,
        method,
        continued,
        plan,
    }))
}

fn adapter_weights(files: &FileSet) -> Result<SafeTensors, Diagnostic> {
    Ok(SafeTensors::open_one(files, witness_training::output::ADAPTER_WEIGHTS)?)
}

fn adapter_fields(files: &FileSet) -> Result<Map<String, Value>, Diagnostic> {
    const BYTES_MAX: u64 = 16 << 20;
    let name = witness_training::output::ADAPTER_CONFIG;
    let bytes = files.read(name, BYTES_MAX)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Diagnostic::new(
            "witness::train::bad_adapter",
            Kind::Invalid,
            format!("`{name}` of the adapter is no JSON object"),
        )
        .cause(error.to_string())
        .hint("give the adapter's whole PEFT directory")
    })
}

impl Prepared {
    /// Reads the weights.
    pub(crate) fn trainer(&self) -> Result<Trainer, Diagnostic> {
        let options = settings::options(&self.settings, self.extent.n_steps, self.base.weights.is_gguf())?;
        let (config, method) = (&self.base.config, self.method.clone());
        let mut trainer = match &self.base.weights {
            Weights::SafeTensors(weights) => Trainer::new(config, weights, method, options)?,
            Weights::Gguf(gguf) => Trainer::new(config, &GgufWeights::new(gguf.clone())?, method, options)?,
            Weights::Random { deviation } => {
                let weights = RandomWeights::new(config, self.settings.seed, *deviation);
                Trainer::new(config, &weights, method, options)?
            }
        };
        if let Some(adapter) = &self.continued {
            trainer.take_adapter(adapter)?;
        }
        Ok(trainer)
    }
}

fn plan(
    base: &Base,
    data: &mut Data,
    settings: &TrainSettings,
    extent: &Extent,
    method: &Method,
) -> Result<TrainPlan, Diagnostic> {
    let census = Census::of(&base.config, method)?;
    let n_rows_tokens = data.train.counts.n_tokens + data.validation.counts.n_tokens;
    let optimizer = rates::optimizer(settings)?;
    let spared = spared_bytes(base, settings, &census)?;
    let bytes = |n_tokens: u64, recompute: Recompute, spared: u64| {
        let request = MemoryRequest {
            n_weights: census.n_weights.saturating_add(census.n_adapter),
            n_trained: census.n_trained,
            state_bytes: optimizer.state_bytes(census.n_trained),
            n_tokens: usize::try_from(n_tokens).unwrap_or(usize::MAX),
            layer_ranks: census.layer_ranks,
            recompute,
        };
        let run = MemoryEstimate::new(&base.config, request).bytes() as u64;
        run.saturating_sub(spared)
            .saturating_add(BYTES_PER_TOKEN * n_rows_tokens)
    };
    let recompute = settings::recompute(settings);
    let memory_bytes = bytes(extent.batch_tokens_max, recompute, spared);
    let storages = cheaper_storages(base, settings, &census, spared);
    let mut warnings = std::mem::take(&mut data.warnings);
    warnings.extend(notes(base, settings));
    let reached = witness_recipe::Extent {
        n_steps: extent.n_steps,
        steps_per_epoch: extent.steps_per_epoch,
        n_validation_rows: data.validation.counts.n_rows,
    };
    warnings.extend(unreachable(settings, reached));
    warnings.extend(unbounded(settings, reached));
    Ok(TrainPlan {
        settings: settings.clone(),
        architecture: base.config.family.model_type().to_owned(),
        n_weights: census.n_weights as u64,
        n_trained: census.n_trained as u64,
        n_modules: census.n_modules as u64,
        train: data.train.counts.clone(),
        validation: data.validation.counts.clone(),
        n_steps: extent.n_steps,
        steps_per_epoch: extent.steps_per_epoch,
        n_tokens: extent.n_tokens,
        step_tokens_max: extent.step_tokens_max,
        memory_bytes,
        alternatives: alternatives(extent, recompute, (memory_bytes, spared), &storages, &bytes),
        seconds: None,
        warnings,
        preview: std::mem::take(&mut data.preview),
        data_digest: data.digest.clone(),
    })
}

/// Returns the bytes that the frozen base takes less than 4 a weight.
fn spared_bytes(base: &Base, settings: &TrainSettings, census: &Census) -> Result<u64, Diagnostic> {
    if settings.method == TrainMethod::Full {
        return Ok(0);
    }
    let plain = 4 * census.n_weights as u64;
    let held = match settings::storage(settings, base.weights.is_gguf())? {
        BaseStorage::F32 => plain,
        BaseStorage::Bf16 => plain / 2,
        // Plain numbers of f32 are held as bf16 where that is what products take.
        BaseStorage::AsIs if settings::compute(settings) == Compute::Bf16 && !base.weights.is_gguf() => {
            base.weights.stored_bytes().min(plain / 2)
        }
        BaseStorage::AsIs => base.weights.stored_bytes(),
        // The matrices of layers; embedding and output matrix stay as they are.
        BaseStorage::Nf4 { .. } => {
            let config = &base.config;
            let outer =
                (config.vocab_size * config.hidden_size) as u64 * if config.tie_word_embeddings { 1 } else { 2 };
            4 * outer + (census.n_weights as u64).saturating_sub(outer) * 9 / 16
        }
    };
    Ok(plain.saturating_sub(held))
}

/// Finds other ways to hold the frozen base, with the bytes that each spares.
fn cheaper_storages(base: &Base, settings: &TrainSettings, census: &Census, spared: u64) -> Vec<(&'static str, u64)> {
    type Change = fn(&mut TrainSettings);
    let changes: [(&str, Change); 2] = [
        ("base_storage: bf16", |settings| {
            settings.base_storage = wire::BaseStorage::Bf16
        }),
        ("method: qlora", |settings| {
            settings.method = TrainMethod::Qlora;
            settings.base_storage = wire::BaseStorage::Auto;
        }),
    ];
    let spares = changes.into_iter().filter_map(|(change, apply)| {
        let mut changed = settings.clone();
        apply(&mut changed);
        // What this version cannot do is no way out.
        Some((change, spared_bytes(base, &changed, census).ok()?))
    });
    match settings.method {
        TrainMethod::Full => Vec::new(),
        TrainMethod::Lora | TrainMethod::Qlora => spares.filter(|(_, bytes)| *bytes > spared).collect(),
    }
}

/// Finds changes that take less memory, the one that saves most last. `now` is what the run takes and what its base spares.
fn alternatives(
    extent: &Extent,
    recompute: Recompute,
    now: (u64, u64),
    storages: &[(&str, u64)],
    bytes: &dyn Fn(u64, Recompute, u64) -> u64,
) -> Vec<TrainAlternative> {
    let (memory_bytes, spared) = now;
    let n_tokens = extent.batch_tokens_max;
    let shorter = n_tokens.div_ceil(2);
    // Each group of changes, the first of which is none.
    let recomputes = [
        (None, recompute),
        (Some("gradient_checkpointing: true".to_owned()), Recompute::Layers),
    ];
    let recomputes = &recomputes[..if recompute == Recompute::Nothing { 2 } else { 1 }];
    let lengths = [(None, n_tokens), (Some(format!("sequence_len: {shorter}")), shorter)];
    let lengths = &lengths[..if n_tokens > crate::batches::BATCH_TOKENS as u64 {
        2
    } else {
        1
    }];
    let storages = std::iter::once((None, spared)).chain(
        storages
            .iter()
            .map(|(change, spared)| (Some((*change).to_owned()), *spared)),
    );
    let storages: Vec<(Option<String>, u64)> = storages.collect();
    let mut found = Vec::new();
    for (length, n_tokens) in lengths {
        for (storage, spared) in &storages {
            for (kept, recompute) in recomputes {
                let changes: Vec<&str> = [storage, kept, length]
                    .into_iter()
                    .flatten()
                    .map(String::as_str)
                    .collect();
                found.push(TrainAlternative {
                    change: changes.join(", "),
                    memory_bytes: bytes(*n_tokens, *recompute, *spared),
                });
            }
        }
    }
    found.retain(|alternative| !alternative.change.is_empty() && alternative.memory_bytes < memory_bytes);
    found.sort_by_key(|alternative| std::cmp::Reverse(alternative.memory_bytes));
    found
}

/// What should be known of the settings.
fn notes(base: &Base, settings: &TrainSettings) -> Vec<String> {
    let mut notes = Vec::new();
    let positions = base.config.max_position_embeddings as u64;
    if let Some(length) = settings.sequence_len.filter(|length| *length > positions) {
        notes.push(format!(
            "`sequence_len` is {length}; the base was made for {positions} positions and knows none beyond"
        ));
    }
    if base.template.is_plain {
        notes
            .push("the base has no chat template: the texts of a conversation are put one behind the other".to_owned());
    }
    if settings.group_by_length && settings.sample_packing {
        notes.push(
            "`group_by_length` is without effect beside `sample_packing`, which wastes nothing on padding either"
                .to_owned(),
        );
    }
    if settings.compat == Some(Compat::Guide) {
        notes.push(format!(
            "as the guide's script does, text begins with a second BOS where the template has one, all of the conversation is learned, and `{}`, which ends every turn, is not",
            base.tokenizer.eos_token()
        ));
    }
    notes
}
