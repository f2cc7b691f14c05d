//! What a request takes of the machine: memory by estimate, and the options that a base is loaded with.

use witness_api::{KeepAlive, Options};
use witness_plugin_protocol::{FileRef, KvCacheType, LoadOptions, ModelInfo, ModelSpec};
use witness_registry::{Digest, Lease};
use witness_scheduler::Demand;

use crate::app::App;
use crate::chats;
use crate::draft::reckon_draft;
use crate::limits::{CONTEXT_DEFAULT, KV_SHARE};
use crate::models::actor::keep_alive;
use crate::models::handle::Want;
use crate::models::slot::Label;
use crate::models::stored::{Stored, key_of};
use crate::packed;

/// Reckons what loading a model takes and says under which key and shape the scheduler knows it.
pub(crate) fn want(app: &App, stored: &Stored, info: &ModelInfo, options: &Options, time: Option<KeepAlive>) -> Want {
    let (mut demand, load) = load_want(app, &stored.base, info, options, time);
    // Where the two do not fit together, the base runs alone.
    let num_ctx = reckon(info, load.num_ctx, &CachePlan::of(app)).num_ctx;
    let draft = reckon_draft(app, stored, num_ctx).map_or(0, Reckoning::total);
    let together = demand.bytes.saturating_add(draft);
    if together <= app.memory_budget_bytes {
        demand.bytes = together;
    }
    Want {
        demand,
        model: stored.base.clone(),
        options: load,
        architecture: info.architecture.clone(),
        may_pack: packed::may_pack(info),
        label: label_of(stored, info),
        chats: keeps_chats(options)
            .then(|| chats::place(&app.settings, &stored.base.files))
            .flatten(),
        lease: lease_of(app, &stored.base.files),
    }
}

/// Returns what a loaded base is shown as.
pub(crate) fn label_of(stored: &Stored, info: &ModelInfo) -> Label {
    Label {
        name: stored.name.display_short(),
        digest: stored.digest.hex().to_owned(),
        details: details(stored, info),
    }
}

/// Returns what the scheduler has to know of a base, and the options that it is loaded with.
pub(crate) fn load_want(
    app: &App,
    base: &ModelSpec,
    info: &ModelInfo,
    options: &Options,
    time: Option<KeepAlive>,
) -> (Demand, LoadOptions) {
    let num_ctx = options
        .num_ctx
        .or(app.settings.context_length.map(|tokens| at_most(tokens, info)));
    let mut cache = CachePlan::of(app);
    cache.parallel = options.num_parallel.unwrap_or(cache.parallel);
    let reckoning = reckon(info, num_ctx, &cache);
    let load = LoadOptions {
        num_ctx,
        num_thread: options.num_thread,
        num_parallel: Some(cache.parallel),
        kv_cache_type: cache.kind,
        kv_bytes: Some(reckoning.kv),
    };
    let is_shaped =
        num_ctx.is_some() || options.num_thread.is_some() || options.num_parallel.is_some() || !keeps_chats(options);
    let demand = Demand {
        key: key_of(&base.files),
        shape: is_shaped.then(|| shape_of(&load, keeps_chats(options))),
        shape_default: 0,
        parallel: usize::try_from(cache.parallel).ok(),
        bytes: reckoning.total(),
        keep_alive: keep_alive(time, app.settings.keep_alive),
    };
    (demand, load)
}

fn keeps_chats(options: &Options) -> bool {
    options.chat_cache.unwrap_or(true)
}

/// Keeps files from the collector.
pub(crate) fn lease_of(app: &App, files: &[FileRef]) -> Lease {
    let digests: Vec<Digest> = files
        .iter()
        .filter_map(|file| Digest::parse(&file.digest).ok())
        .collect();
    app.library.registry.lease(&digests)
}

/// Returns the details of a model: its config's, or the plugin's findings where the config says nothing.
pub(crate) fn details(stored: &Stored, info: &ModelInfo) -> witness_api::ModelDetails {
    let mut details = stored.config.details();
    let fill = |field: &mut String, value: &str| {
        if field.is_empty() {
            value.clone_into(field);
        }
    };
    fill(&mut details.format, &info.format);
    fill(&mut details.family, &info.architecture);
    fill(&mut details.quantization_level, &info.quantization);
    fill(
        &mut details.parameter_size,
        &crate::models::config::human_count(info.parameter_count),
    );
    details
}

/// Bytes that loading takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reckoning {
    pub(crate) num_ctx: u64,
    pub(crate) weights: u64,
    pub(crate) kv: u64,
    pub(crate) overhead: u64,
}

impl Reckoning {
    pub(crate) fn total(self) -> u64 {
        self.weights.saturating_add(self.kv).saturating_add(self.overhead)
    }
}

/// What the settings say about keys and values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CachePlan {
    /// Sequences that may run at once.
    pub(crate) parallel: u64,
    pub(crate) kind: Option<KvCacheType>,
    /// Memory that all models may take.
    pub(crate) budget_bytes: u64,
}

impl CachePlan {
    pub(crate) fn of(app: &App) -> Self {
        Self {
            parallel: app.settings.parallel as u64,
            kind: app.settings.kv_cache_type.as_deref().and_then(KvCacheType::named),
            budget_bytes: app.memory_budget_bytes,
        }
    }
}

/// Reckons `weights + overhead + keys and values`: a full context for each sequence that may run, if that is not more than a share of the budget and fits beside the
/// weights, and one at least. Sequences seldom fill their contexts, and those that begin alike share; the plugin makes do with what there is.
pub(crate) fn reckon(info: &ModelInfo, num_ctx: Option<u64>, cache: &CachePlan) -> Reckoning {
    let trained = if info.context_length == 0 {
        CONTEXT_DEFAULT
    } else {
        info.context_length
    };
    let num_ctx = at_most(num_ctx.unwrap_or(CONTEXT_DEFAULT.min(trained)), info);
    let memory = &info.memory;
    let per_token = match (cache.kind, memory.kv_numbers_per_token) {
        (Some(kind), numbers @ 1..) => kind.bytes_of(numbers),
        _ => memory.kv_bytes_per_token,
    };
    let context = per_token.saturating_mul(num_ctx);
    let beside = cache
        .budget_bytes
        .saturating_sub(memory.weights_bytes)
        .saturating_sub(memory.overhead_bytes);
    let most = (cache.budget_bytes / KV_SHARE).min(beside).max(context);
    Reckoning {
        num_ctx,
        weights: memory.weights_bytes,
        kv: context.saturating_mul(cache.parallel.max(1)).min(most),
        overhead: memory.overhead_bytes,
    }
}

/// Returns a context that the model can use.
fn at_most(tokens: u64, info: &ModelInfo) -> u64 {
    if info.context_length == 0 {
        tokens
    } else {
        tokens.min(info.context_length)
    }
}

/// Cuts a context to what the model was made for, so that neither memory nor a reload is spent on what it cannot use. Returns what to tell.
pub(crate) fn clamp_context(options: &mut Options, info: &ModelInfo) -> Option<String> {
    let asked = options.num_ctx?;
    if info.context_length == 0 || asked <= info.context_length {
        return None;
    }
    options.num_ctx = Some(info.context_length);
    Some(format!(
        "option `num_ctx` {asked} is cut to the {} positions that the model was made for",
        info.context_length
    ))
}

/// Packs what a base is loaded with into the scheduler's number: the context lowest, then threads, sequences, and whether chats stay in memory.
fn shape_of(options: &LoadOptions, keeps_chats: bool) -> u64 {
    let fields = [
        (40, options.num_ctx.unwrap_or(0)),
        (14, options.num_thread.unwrap_or(0)),
        (9, options.num_parallel.unwrap_or(0)),
        (1, u64::from(!keeps_chats)),
    ];
    fields
        .iter()
        .rev()
        .fold(0, |packed, &(bits, value)| packed << bits | value.min((1 << bits) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use witness_plugin_protocol::MemoryEstimate;

    #[test]
    fn memory_is_reckoned_for_the_context_asked_or_made_for() {
        let memory = MemoryEstimate {
            weights_bytes: 1000,
            kv_bytes_per_token: 10,
            kv_numbers_per_token: 5,
            overhead_bytes: 5,
        };
        let cache = |parallel| CachePlan {
            parallel,
            kind: None,
            budget_bytes: u64::MAX,
        };
        let info = |context_length| ModelInfo {
            context_length,
            memory,
            ..ModelInfo::default()
        };
        assert_eq!(reckon(&info(256), None, &cache(1)).total(), 1000 + 2560 + 5);
        assert_eq!(reckon(&info(131_072), None, &cache(2)).num_ctx, 4096);
        assert_eq!(reckon(&info(131_072), Some(8192), &cache(2)).kv, 8192 * 2 * 10);
        assert_eq!(
            reckon(&info(0), Some(u64::MAX), &cache(2)).total(),
            u64::MAX,
            "never overflows"
        );
        assert_eq!(
            reckon(&info(256), Some(1_000_000), &cache(1)).num_ctx,
            256,
            "no more than it was made for"
        );
    }

    #[test]
    fn keys_and_values_are_reckoned_by_type_and_kept_to_their_share() {
        let mut info = ModelInfo {
            context_length: 1024,
            memory: MemoryEstimate {
                kv_bytes_per_token: 128,
                kv_numbers_per_token: 64,
                ..MemoryEstimate::default()
            },
            ..ModelInfo::default()
        };
        let kv_of = |info: &ModelInfo, parallel, kind, budget_bytes| {
            let cache = CachePlan {
                parallel,
                kind,
                budget_bytes,
            };
            reckon(info, None, &cache).kv
        };
        let kv = |parallel, kind, budget_bytes| kv_of(&info, parallel, kind, budget_bytes);
        assert_eq!(kv(1, None, u64::MAX), 1024 * 128);
        assert_eq!(kv(2, Some(KvCacheType::F32), u64::MAX), 2 * 1024 * 256);
        assert_eq!(kv(1, Some(KvCacheType::Q8_0), u64::MAX), 1024 * 68);
        assert_eq!(kv(16, None, 4 * 300_000), 300_000, "a share of the budget");
        assert_eq!(kv(16, None, 1_000), 1024 * 128, "one context is the least");
        info.memory.weights_bytes = 1_000_000;
        assert_eq!(kv_of(&info, 16, None, 4 * 300_000), 200_000, "what the weights leave");
    }

    // Settings know the names alone; one that only they took would be as if nobody had set it.
    #[test]
    fn types_that_can_be_set_are_those_that_plugins_are_told() {
        assert_eq!(
            witness_settings::KV_CACHE_TYPES,
            KvCacheType::ALL.map(KvCacheType::name)
        );
    }

    #[test]
    fn shapes_differ_by_whatever_a_load_is_asked_for() {
        let shape = |num_ctx, num_thread, num_parallel, keeps_chats| {
            let options = LoadOptions {
                num_ctx,
                num_thread,
                num_parallel,
                ..LoadOptions::default()
            };
            shape_of(&options, keeps_chats)
        };
        let all = [
            shape(Some(64), None, Some(1), true),
            shape(Some(128), None, Some(1), true),
            shape(Some(64), Some(1), Some(1), true),
            shape(Some(64), Some(2), Some(1), true),
            shape(Some(64), Some(2), Some(16), true),
            shape(Some(64), Some(2), Some(16), false),
            // What is too large for its field stays in it.
            shape(Some(u64::MAX), Some(u64::MAX), Some(u64::MAX), true),
            shape(Some(u64::MAX), Some(u64::MAX), Some(u64::MAX), false),
        ];
        let distinct: std::collections::BTreeSet<u64> = all.into_iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
