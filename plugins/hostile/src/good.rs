//! The well-behaved engine: words in, the same words out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use witness_plugin_sdk::protocol::{
    AdapterCheck, AdapterInfo, Descriptor, Done, DoneReason, FormatRule, GenerateRequest, InspectReply, InspectRequest,
    LoadAdapterReply, LoadAdapterRequest, LoadReply, LoadRequest, MemoryEstimate, ModelInfo, ModelSpec,
    PROTOCOL_VERSION, Prompt, Role, Started, UnloadAdapterRequest,
};
use witness_plugin_sdk::{Alternative, Diagnostic, Init, Kind, Serve, ServeEvent};

use crate::mode::{Phase, panic_if_asked};

/// First bytes of a model file. Lines of `key value` follow: `mode phase:deed`, `delay_ms N` or `delay_us N`
/// (per step), `num_ctx N`.
pub const MAGIC: &str = "HOSTILE1";
/// Most bytes of a model file that are read.
const MODEL_BYTES_MAX: u64 = 1 << 20;
/// Context when the file does not say.
const CONTEXT_DEFAULT: u64 = 4096;

/// Returns what the plugin says about itself when it does not lie.
pub fn describe() -> Descriptor {
    panic_if_asked(Phase::Entry);
    Descriptor {
        name: "hostile".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        protocol: PROTOCOL_VERSION,
        about: "echoes the prompt, and misbehaves on demand; for tests".into(),
        roles: vec![Role::Serve, Role::Train],
        architectures: vec!["hostile".into()],
        formats: vec![FormatRule {
            name: "hostile-model".into(),
            magic_hex: None,
            suffix: Some(".hostile".into()),
        }],
        devices: vec!["cpu".into()],
        isa: vec![],
        score: 0,
    }
}

/// The engine. It keeps nothing between models.
pub struct Echo;

/// A loaded model.
pub struct EchoModel {
    num_ctx: u64,
    delay: Duration,
    adapters: BTreeMap<String, AdapterInfo>,
    sequences: BTreeMap<u64, Sequence>,
}

/// A running answer.
struct Sequence {
    /// What it still says, last word first; repeated words are told by `left`.
    words: Vec<String>,
    left: u64,
    reason: DoneReason,
    wants_logprobs: bool,
    prompt_tokens: u64,
    generated: u64,
    started: Instant,
}

impl Serve for Echo {
    type Model = EchoModel;

    fn init(_init: &Init) -> Result<Self, Diagnostic> {
        panic_if_asked(Phase::Init);
        Ok(Echo)
    }

    fn inspect(&mut self, request: InspectRequest) -> Result<InspectReply, Diagnostic> {
        panic_if_asked(Phase::Inspect);
        let file = ModelFile::read(&request.model)?;
        let adapters = request
            .adapters
            .iter()
            .map(|adapter| adapter_info(&adapter.name))
            .collect();
        Ok(InspectReply {
            model: file.info(),
            adapters,
            draft: None,
        })
    }

    fn load(&mut self, request: LoadRequest) -> Result<(EchoModel, LoadReply), Diagnostic> {
        panic_if_asked(Phase::Load);
        let file = ModelFile::read(&request.model)?;
        let num_ctx = request.options.num_ctx.unwrap_or(file.num_ctx);
        let reply = LoadReply {
            info: file.info(),
            resident_bytes: file.bytes,
            num_ctx,
        };
        let model = EchoModel {
            num_ctx,
            delay: file.delay,
            adapters: BTreeMap::new(),
            sequences: BTreeMap::new(),
        };
        Ok((model, reply))
    }

    fn load_adapter(
        &mut self,
        model: &mut EchoModel,
        request: LoadAdapterRequest,
    ) -> Result<LoadAdapterReply, Diagnostic> {
        panic_if_asked(Phase::LoadAdapter);
        let info = adapter_info(&request.adapter.name);
        model.adapters.insert(request.adapter.name, info.clone());
        let check = request.check.then_some(AdapterCheck {
            logit_difference_max: 1.0,
            tokens: 1,
        });
        Ok(LoadAdapterReply { info, check })
    }

    fn unload_adapter(&mut self, model: &mut EchoModel, request: UnloadAdapterRequest) -> Result<(), Diagnostic> {
        panic_if_asked(Phase::UnloadAdapter);
        match model.adapters.remove(&request.name) {
            Some(_) => Ok(()),
            None => Err(no_adapter(&request.name)),
        }
    }

    fn start(&mut self, model: &mut EchoModel, sequence: u64, request: GenerateRequest) -> Result<Started, Diagnostic> {
        panic_if_asked(Phase::Start);
        let text = text_of(&request.prompt);
        let prompt_tokens = text.split_whitespace().count() as u64;
        if prompt_tokens >= model.num_ctx && !request.truncate {
            return Err(Diagnostic::new(
                "witness::plugin::context_exceeded",
                Kind::Invalid,
                format!(
                    "the prompt has {prompt_tokens} tokens and the context {}",
                    model.num_ctx
                ),
            ));
        }
        let mut words: Vec<String> = Vec::new();
        if let Some(adapter) = &request.adapter {
            if !model.adapters.contains_key(adapter) {
                return Err(no_adapter(adapter));
            }
            words.push(format!("[{adapter}] "));
        }
        let repeated = text
            .trim()
            .strip_prefix("emit ")
            .and_then(|count| count.trim().parse().ok());
        let wanted = match repeated {
            Some(count) => {
                words = vec!["x".to_owned()];
                count
            }
            None => {
                words.extend(text.split_inclusive(' ').map(str::to_owned));
                words.len() as u64
            }
        };
        words.reverse();
        let allowed = u64::try_from(request.sampling.num_predict).unwrap_or(model.num_ctx);
        let reason = if allowed < wanted {
            DoneReason::Length
        } else {
            DoneReason::Stop
        };
        model.sequences.insert(
            sequence,
            Sequence {
                words,
                left: wanted.min(allowed),
                reason,
                wants_logprobs: request.top_logprobs.is_some(),
                prompt_tokens,
                generated: 0,
                started: Instant::now(),
            },
        );
        Ok(Started {
            prompt_tokens,
            seed: request.sampling.seed.unwrap_or(0),
            prompt_ids: if request.return_prompt_ids {
                (0..prompt_tokens as u32).collect()
            } else {
                vec![]
            },
            ..Started::default()
        })
    }

    fn cancel(&mut self, model: &mut EchoModel, sequence: u64) {
        panic_if_asked(Phase::Cancel);
        model.sequences.remove(&sequence);
    }

    fn step(&mut self, model: &mut EchoModel, emit: &mut dyn FnMut(ServeEvent<'_>)) -> Result<usize, Diagnostic> {
        panic_if_asked(Phase::Step);
        if !model.delay.is_zero() {
            std::thread::sleep(model.delay);
        }
        model.sequences.retain(|number, sequence| sequence.step(*number, emit));
        Ok(model.sequences.len())
    }

    fn unload(&mut self, _model: EchoModel) {
        panic_if_asked(Phase::Unload);
    }
}

impl Sequence {
    /// Says one word, or ends. Returns whether it goes on.
    fn step(&mut self, sequence: u64, emit: &mut dyn FnMut(ServeEvent<'_>)) -> bool {
        if self.left == 0 {
            let done = Done {
                reason: self.reason,
                prompt_tokens: self.prompt_tokens,
                generated_tokens: self.generated,
                prompt_ns: 1,
                generate_ns: u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX),
            };
            emit(ServeEvent::Done {
                sequence,
                text: "",
                done,
            });
            return false;
        }
        self.left -= 1;
        self.generated += 1;
        let id = self.generated as u32;
        // The last word is repeated for `emit`, where there are more tokens than words.
        let word = if self.words.len() > 1 { self.words.pop() } else { None };
        let text = word
            .as_deref()
            .or(self.words.first().map(String::as_str))
            .unwrap_or_default();
        let alternatives = [Alternative {
            id,
            text: text.to_owned(),
            logprob: -0.5,
        }];
        let (logprob, alternatives) = if self.wants_logprobs {
            (Some(-0.5), &alternatives[..])
        } else {
            (None, &[][..])
        };
        emit(ServeEvent::Token {
            sequence,
            id,
            text,
            logprob,
            alternatives,
        });
        true
    }
}

/// Returns what a prompt says: its text, or its last message.
fn text_of(prompt: &Prompt) -> String {
    match prompt {
        Prompt::Text { text, .. } => text.clone(),
        Prompt::Chat { messages, .. } => messages
            .last()
            .map(|message| message.content.clone())
            .unwrap_or_default(),
        Prompt::Tokens { ids } => ids.iter().map(|id| format!("{id} ")).collect(),
    }
}

/// A model file, read.
struct ModelFile {
    bytes: u64,
    num_ctx: u64,
    delay: Duration,
}

impl ModelFile {
    fn read(spec: &ModelSpec) -> Result<Self, Diagnostic> {
        let damaged = |reason: String| {
            Diagnostic::new("hostile::damaged", Kind::Damaged, "the model file cannot be used").cause(reason)
        };
        let file = spec
            .files
            .first()
            .ok_or_else(|| damaged("no file was given".to_owned()))?;
        let metadata = std::fs::metadata(&file.path).map_err(|error| damaged(error.to_string()))?;
        if metadata.len() > MODEL_BYTES_MAX {
            return Err(damaged(format!(
                "{} bytes, and {MODEL_BYTES_MAX} are allowed",
                metadata.len()
            )));
        }
        let text = std::fs::read_to_string(&file.path).map_err(|error| damaged(error.to_string()))?;
        if !text.starts_with(MAGIC) {
            return Err(damaged(format!("it does not start with {MAGIC}")));
        }
        let number = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key))
                .and_then(|value| value.trim().parse::<u64>().ok())
        };
        Ok(Self {
            bytes: metadata.len(),
            num_ctx: number("num_ctx ").unwrap_or(CONTEXT_DEFAULT),
            delay: Duration::from_millis(number("delay_ms ").unwrap_or(0))
                + Duration::from_micros(number("delay_us ").unwrap_or(0)),
        })
    }

    fn info(&self) -> ModelInfo {
        ModelInfo {
            format: "hostile-model".into(),
            architecture: "hostile".into(),
            name: "echo".into(),
            parameter_count: self.bytes,
            quantization: "F32".into(),
            context_length: self.num_ctx,
            embedding_length: 1,
            vocab_size: 256,
            chat_template: None,
            capabilities: vec!["completion".into()],
            memory: MemoryEstimate {
                weights_bytes: self.bytes,
                kv_bytes_per_token: 8,
                kv_numbers_per_token: 0,
                overhead_bytes: 1 << 20,
            },
            ..ModelInfo::default()
        }
    }
}

fn adapter_info(name: &str) -> AdapterInfo {
    AdapterInfo {
        name: name.to_owned(),
        format: "hostile".into(),
        rank: 1,
        alpha: 1.0,
        targets: vec!["words".into()],
        pairs: 1,
        bytes: 1,
    }
}

fn no_adapter(name: &str) -> Diagnostic {
    Diagnostic::new(
        "hostile::no_adapter",
        Kind::NotFound,
        format!("adapter `{name}` is not loaded"),
    )
}
