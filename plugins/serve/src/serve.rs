//! The plugin's calls.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Instant;

use witness_diagnostics::{Diagnostic, Kind};
use witness_instructions::Isa;
use witness_model::{KvPool, KvShape, KvType, Model, PAGE_TOKENS, Threads};
use witness_plugin_protocol::{
    GenerateRequest, InspectReply, InspectRequest, LoadAdapterReply, LoadAdapterRequest, LoadReply, LoadRequest,
    ModelInfo, Started, UnloadAdapterRequest,
};
use witness_plugin_sdk::{Init, Level, Serve, ServeEvent, log};
use witness_template::ChatTemplate;

use crate::bundle::{Bundle, plain_template};
use crate::chats::{self, About, Chats};
use crate::draft;
use crate::engine::{Engine, GraphEngine};
use crate::foreign;
use crate::inspect;
use crate::model::{Loaded, Parts};
use crate::packed::{Keeper, Kept};
use crate::pages::Pages;

/// Context when none is asked for: the smaller of this and what the model was made for.
const NUM_CTX_DEFAULT: u64 = 4096;

/// Sequences that may run at once at most. Each has a cache of its own; beyond this a batch gains nothing on a CPU.
const NUM_PARALLEL_MAX: u64 = 64;

/// Compute threads at most.
const NUM_THREAD_MAX: u64 = 1024;

/// The CPU engine.
#[derive(Debug, Default)]
pub struct CpuServe {
    loads: u64,
}

impl CpuServe {
    /// Returns how many times weights were read since the start.
    pub fn loads(&self) -> u64 {
        self.loads
    }
}

impl Serve for CpuServe {
    type Model = Loaded;

    fn init(_init: &Init) -> Result<Self, Diagnostic> {
        Isa::hold_to_setting()?;
        Ok(Self::default())
    }

    fn inspect(&mut self, request: InspectRequest) -> Result<InspectReply, Diagnostic> {
        let bundle = Bundle::open(&request.model.files)?;
        let model = inspect::model_info(&bundle)?;
        // A model whose tokenizer cannot be read would be created and then never run.
        let tokenizer = bundle.tokenizer()?;
        if let Some(template) = &request.template {
            ChatTemplate::compile(template)?;
        }
        let mut adapters = Vec::with_capacity(request.adapters.len());
        if !request.adapters.is_empty() {
            let config = bundle.config()?;
            for spec in &request.adapters {
                adapters.push(inspect::open_adapter(spec, &config)?.1);
            }
        }
        let draft = request.draft.as_ref();
        let draft = draft
            .map(|draft| draft::inspect(&bundle, &tokenizer, draft))
            .transpose()?;
        Ok(InspectReply { model, adapters, draft })
    }

    fn load(&mut self, request: LoadRequest) -> Result<(Loaded, LoadReply), Diagnostic> {
        let begun = Instant::now();
        let bundle = Bundle::open(&request.model.files)?;
        let info = inspect::model_info(&bundle)?;
        let opened = begun.elapsed();
        let options = request.options;
        // A model that our graph refuses has been found to be of another family by now, or there would be no facts about it.
        let config = bundle.config().ok();
        let positions_max = config.as_ref().and_then(|config| config.rope.positions_max());
        let num_ctx = context(
            options.num_ctx,
            positions_max.map_or(info.context_length, |max| max as u64),
        )?;
        let num_parallel = at_most("num_parallel", options.num_parallel.unwrap_or(1), NUM_PARALLEL_MAX)?;
        let threads = options
            .num_thread
            .map(|n| at_most("num_thread", n, NUM_THREAD_MAX))
            .transpose()?;
        let threads = threads.map(Threads::new).transpose()?;
        let name = chats::name_of(&request.model.files);
        let kept = request
            .packed
            .zip(name.clone())
            .map(|(place, name)| Kept::open(place, name));
        let form = kept.as_ref().and_then(|kept| kept.form.as_ref());
        let (words, model) = beside(
            || {
                let words = bundle.tokenizer();
                words.map(|tokenizer| (tokenizer, own_template(&info), begun.elapsed()))
            },
            || config.map(|config| (bundle.load(config, form), begun.elapsed())),
        )
        .map_err(|error| witness_model::ModelError::Threads(error.to_string()))?;
        let (tokenizer, template, words_there) = words?;
        let (mut pages, mut chats, mut keeper) = (None, None, None);
        let engine: Box<dyn Engine> = match model {
            Some((model, weights_there)) => {
                let model = Arc::new(model?);
                let from = if form.is_some() { "mapped" } else { "made" };
                log(
                    Level::Debug,
                    &format!(
                        "files looked at after {opened:?}, words there after {words_there:?}, weights {from} after {weights_there:?}"
                    ),
                );
                let kv_type = inspect::kv_type(options.kv_cache_type, &info);
                let max_pages = max_pages(&model, kv_type, options.kv_bytes, num_ctx, num_parallel);
                let new = Pages::new(model.new_pool(kv_type, max_pages));
                chats = request
                    .chats
                    .zip(name)
                    .map(|(place, name)| Chats::open(place, about(name, new.pool())));
                pages = Some(new);
                keeper = kept.and_then(|kept| Keeper::start(Arc::clone(&model), kept));
                Box::new(GraphEngine { model, kv_type })
            }
            None => foreign::load(&bundle, &info, num_ctx)?,
        };
        self.loads += 1;
        if let Some(without @ 1..) = tokenizer.vocab_size().checked_sub(engine.vocab_size()) {
            log(
                Level::Warn,
                &format!("{without} tokens of the tokenizer have no embedding"),
            );
        }
        let reply = LoadReply {
            info: info.clone(),
            resident_bytes: engine.bytes().max(info.memory.weights_bytes),
            num_ctx: num_ctx as u64,
        };
        Ok((
            Loaded::new(Parts {
                engine,
                tokenizer,
                template,
                info,
                num_ctx,
                num_parallel,
                pages,
                chats,
                keeper,
                threads,
                kv_cache_type: options.kv_cache_type,
            }),
            reply,
        ))
    }

    fn load_adapter(
        &mut self,
        model: &mut Loaded,
        request: LoadAdapterRequest,
    ) -> Result<LoadAdapterReply, Diagnostic> {
        model.load_adapter(request)
    }

    fn unload_adapter(&mut self, model: &mut Loaded, request: UnloadAdapterRequest) -> Result<(), Diagnostic> {
        model.unload_adapter(&request.name)
    }

    fn start(&mut self, model: &mut Loaded, sequence: u64, request: GenerateRequest) -> Result<Started, Diagnostic> {
        model.start(sequence, &request)
    }

    fn cancel(&mut self, model: &mut Loaded, sequence: u64) {
        model.cancel(sequence);
    }

    fn unload(&mut self, mut model: Loaded) {
        // Its thread ends first: chats may be long.
        model.keeper = None;
        model.keep_chats();
    }

    fn step(&mut self, model: &mut Loaded, emit: &mut dyn FnMut(ServeEvent<'_>)) -> Result<usize, Diagnostic> {
        let n_left = model.step(emit);
        if n_left == 0
            && let Some(keeper) = &model.keeper
        {
            keeper.answered();
        }
        Ok(n_left)
    }
}

/// Does two things at once: the words of a large vocabulary take as long to sort as packed weights to be found.
fn beside<A: Send, B>(words: impl FnOnce() -> A + Send, weights: impl FnOnce() -> B) -> std::io::Result<(A, B)> {
    /// Stack of a main thread: templates nest as deep as their limits allow there.
    const STACK_BYTES: usize = 8 << 20;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("words".to_owned())
            .stack_size(STACK_BYTES);
        let there = thread.spawn_scoped(scope, words)?;
        let weights = weights();
        let words = there.join().unwrap_or_else(|panic| resume_unwind(panic));
        Ok((words, weights))
    })
}

/// Returns the template that a model brings, or why it cannot be used: only a chat without a template of its own needs it.
fn own_template(info: &ModelInfo) -> Result<ChatTemplate, Diagnostic> {
    let template = info.chat_template.as_deref().unwrap_or(plain_template());
    ChatTemplate::compile(template).map_err(|error| {
        let diagnostic = Diagnostic::from(error);
        log(
            Level::Warn,
            &format!("the model's own chat template cannot be used: {diagnostic}"),
        );
        diagnostic
    })
}

/// Returns whose keys and values a pool holds and how.
fn about(model: String, pool: &KvPool) -> About {
    let KvShape {
        n_layers,
        n_kv_heads,
        head_dim,
    } = pool.shape();
    About {
        model,
        storage: format!(
            "{} {PAGE_TOKENS} {n_layers} {n_kv_heads} {head_dim}",
            pool.kind().name()
        ),
        page_bytes: pool.page_bytes() as u64,
    }
}

/// Returns how many pages keys and values may take: what is asked for, not more than all sequences can fill, and not less than one. One more for each that runs: who
/// writes to a page that others hold too has a copy of it for a while.
pub(crate) fn max_pages(
    model: &Model,
    kv_type: KvType,
    bytes: Option<u64>,
    num_ctx: usize,
    num_parallel: usize,
) -> usize {
    let of_context = num_ctx.div_ceil(PAGE_TOKENS);
    let page_bytes = PAGE_TOKENS * model.config().kv_shape().bytes_per_token(kv_type);
    let asked = bytes
        .and_then(|bytes| usize::try_from(bytes).ok())
        .unwrap_or(usize::MAX);
    let pages = (asked / page_bytes.max(1)).min(of_context.saturating_mul(num_parallel));
    pages.max(of_context) + num_parallel
}

/// Returns the context in force: what is asked for, but not more than the model was made for.
fn context(asked: Option<u64>, positions_max: u64) -> Result<usize, Diagnostic> {
    if asked == Some(0) {
        return Err(bad_option("num_ctx", 0, "1 or more"));
    }
    let asked = asked.unwrap_or(NUM_CTX_DEFAULT);
    if asked > positions_max {
        log(
            Level::Info,
            &format!("num_ctx {asked} is cut to the {positions_max} positions that the model was made for"),
        );
    }
    usize::try_from(asked.min(positions_max))
        .map_err(|_| bad_option("num_ctx", asked, "a number that fits this machine"))
}

fn at_most(name: &str, value: u64, max: u64) -> Result<usize, Diagnostic> {
    match usize::try_from(value) {
        Ok(value @ 1..) if value as u64 <= max => Ok(value),
        _ => Err(bad_option(name, value, &format!("1 to {max}"))),
    }
}

fn bad_option(name: &str, value: u64, wanted: &str) -> Diagnostic {
    let message = format!("`{name}` is {value}; it must be {wanted}");
    Diagnostic::new("witness::serve::bad_option", Kind::Invalid, message)
        .hint("change it in the request or the Modelfile")
}
