//! An engine without processes. A model's file says how it behaves, the prompt what it answers.
//!
//! File, one `key value` a line: `weights N` (bytes it takes), `inspect-error TEXT`, `load-error TEXT`, `template TEXT`, `num_ctx N`,
//! `capability NAME`. Prompts: the answer is the prompt's words; `wait` says one word and then nothing until it is cancelled; `die` kills
//! the worker after one word; `die-now` before any; a text longer than `num_ctx` words is refused with both counts.
//! A draft is a model like any other; `no-drafts TEXT` in the base's file is a plugin that knows none, `draft-error TEXT` one that fails to attach it.
//! An adapter's file holds its name; the adapter `zero` changes nothing, `nan` makes no numbers.
//! Another form of a model is its file with a line `made TYPE` above it, and `merged NAME`; a line `transform-error TEXT` makes that fail,
//! `transform-waits` never end, and `transform-escapes` lie about where the file is. `transform-warns TEXT` is a warning of its plan.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use witness_api::PluginReport;
use witness_daemon::{Answer, Boxed, Engine, Event, Events, LoadedBase, RunningJob, Worker};
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{
    AdapterCheck, AdapterInfo, Alternative, Done, DoneReason, GenerateRequest, InspectReply, InspectRequest,
    LoadAdapterReply, LoadAdapterRequest, LoadReply, LoadRequest, MemoryEstimate, ModelInfo, ModelSpec, PlannedTensor,
    Prompt, Started, TransformEvent, TransformPlan, TransformReply, TransformRequest,
};

/// The engine with what it was asked.
#[derive(Default)]
pub(crate) struct FakeEngine {
    pub(crate) loads: AtomicUsize,
    pub(crate) inspections: AtomicUsize,
    /// Adapters attached, all in all.
    pub(crate) attached: Arc<AtomicUsize>,
    /// Drafts that workers were told to attach, all in all.
    drafts_tried: Arc<AtomicUsize>,
    /// Answers that run now.
    pub(crate) running: Arc<watch::Sender<usize>>,
    /// Requests as they came to a worker.
    pub(crate) requests: Arc<Mutex<Vec<GenerateRequest>>>,
    /// Loads as they were asked for.
    pub(crate) load_requests: Mutex<Vec<LoadRequest>>,
    /// Transformations as they were asked for.
    pub(crate) transforms: Mutex<Vec<TransformRequest>>,
    /// Transformations whose worker is there.
    pub(crate) transforming: Arc<watch::Sender<usize>>,
    next_pid: AtomicU32,
    stopped: Arc<AtomicUsize>,
}

impl FakeEngine {
    pub(crate) fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }

    pub(crate) fn drafts_tried(&self) -> usize {
        self.drafts_tried.load(Ordering::SeqCst)
    }

    /// Waits until so many answers run.
    pub(crate) async fn until_running(&self, count: usize) {
        self.running
            .subscribe()
            .wait_for(|running| *running == count)
            .await
            .unwrap();
    }

    pub(crate) fn stopped(&self) -> usize {
        self.stopped.load(Ordering::SeqCst)
    }
}

fn content(model: &ModelSpec) -> String {
    std::fs::read_to_string(&model.files[0].path).unwrap()
}

fn value<'a>(content: &'a str, key: &str) -> Option<&'a str> {
    content
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
}

fn info(content: &str) -> ModelInfo {
    ModelInfo {
        format: "fake".into(),
        architecture: "echo".into(),
        parameter_count: 260_032,
        quantization: value(content, "made").unwrap_or("F32").into(),
        context_length: value(content, "num_ctx").map_or(2048, |text| text.parse().unwrap()),
        chat_template: value(content, "template").map(str::to_owned),
        capabilities: std::iter::once("completion")
            .chain(content.lines().filter_map(|line| line.strip_prefix("capability ")))
            .map(str::to_owned)
            .collect(),
        memory: MemoryEstimate {
            weights_bytes: value(content, "weights").map_or(1000, |text| text.parse().unwrap()),
            kv_bytes_per_token: 0,
            kv_numbers_per_token: 0,
            overhead_bytes: 0,
        },
        metadata: [("general.architecture".to_owned(), "echo".into())]
            .into_iter()
            .collect(),
        ..ModelInfo::default()
    }
}

fn adapter_info(name: &str) -> AdapterInfo {
    AdapterInfo {
        name: name.into(),
        format: "fake".into(),
        rank: 4,
        alpha: 8.0,
        targets: vec!["q_proj".into()],
        pairs: 1,
        bytes: 10,
    }
}

fn refusal(text: &str) -> Diagnostic {
    Diagnostic::new("fake::refused", Kind::Invalid, text)
}

impl Engine for FakeEngine {
    fn inspect<'a>(&'a self, request: &'a InspectRequest) -> Boxed<'a, Result<(String, InspectReply), Diagnostic>> {
        Box::pin(async move {
            self.inspections.fetch_add(1, Ordering::SeqCst);
            let content = content(&request.model);
            if let Some(text) = value(&content, "inspect-error") {
                return Err(refusal(text));
            }
            let adapters = request
                .adapters
                .iter()
                .map(|adapter| adapter_info(&adapter.name))
                .collect();
            Ok((
                "fake".to_owned(),
                InspectReply {
                    model: info(&content),
                    adapters,
                    draft: request
                        .draft
                        .as_ref()
                        .filter(|_| value(&content, "no-drafts").is_none())
                        .map(|draft| info(&self::content(draft))),
                },
            ))
        })
    }

    fn load<'a>(
        &'a self,
        request: &'a LoadRequest,
        _architecture: &'a str,
        _purpose: &'a str,
    ) -> Boxed<'a, Result<LoadedBase, Diagnostic>> {
        Box::pin(async move {
            self.loads.fetch_add(1, Ordering::SeqCst);
            self.load_requests.lock().unwrap().push(request.clone());
            let content = content(&request.model);
            if let Some(text) = value(&content, "load-error") {
                return Err(refusal(text));
            }
            let info = info(&content);
            let num_ctx = request.options.num_ctx.unwrap_or(info.context_length);
            let worker = FakeWorker {
                pid: 10_000 + self.next_pid.fetch_add(1, Ordering::SeqCst),
                num_ctx,
                death: watch::Sender::new(None),
                attached: Arc::clone(&self.attached),
                drafts_tried: Arc::clone(&self.drafts_tried),
                running: Arc::clone(&self.running),
                requests: Arc::clone(&self.requests),
                stopped: Arc::clone(&self.stopped),
            };
            let reply = LoadReply {
                resident_bytes: info.memory.weights_bytes,
                info,
                num_ctx,
            };
            Ok((Arc::new(worker) as Arc<dyn Worker>, reply))
        })
    }

    fn plan_transform<'a>(
        &'a self,
        request: &'a TransformRequest,
        _architecture: &'a str,
    ) -> Boxed<'a, Result<(String, TransformPlan), Diagnostic>> {
        Box::pin(async move {
            let content = content(&request.model);
            let plan = TransformPlan {
                architecture: "echo".into(),
                from: "F32".into(),
                to: request
                    .quantization
                    .clone()
                    .map_or("F32".into(), |name| name.to_uppercase()),
                source_bytes: 100,
                target_bytes: 10,
                bits_per_weight: 3.2,
                memory_bytes: 1000,
                tensors: vec![PlannedTensor {
                    name: "t".into(),
                    shape: vec![5, 5],
                    from: "F32".into(),
                    to: "Q8_0".into(),
                    bytes: 10,
                }],
                warnings: value(&content, "transform-warns")
                    .map(str::to_owned)
                    .into_iter()
                    .collect(),
            };
            Ok(("fake".to_owned(), plan))
        })
    }

    fn transform<'a>(
        &'a self,
        request: &'a TransformRequest,
        _architecture: &'a str,
        _purpose: &'a str,
    ) -> Boxed<'a, Result<Box<dyn RunningJob>, Diagnostic>> {
        Box::pin(async move {
            self.transforms.lock().unwrap().push(request.clone());
            self.transforming.send_modify(|count| *count += 1);
            Ok(Box::new(FakeTransform {
                content: content(&request.model),
                request: request.clone(),
                told: 0,
                transforming: Arc::clone(&self.transforming),
            }) as Box<dyn RunningJob>)
        })
    }

    fn plugins(&self) -> Boxed<'_, Vec<PluginReport>> {
        Box::pin(async {
            vec![PluginReport {
                path: "/fake/libfake.so".into(),
                ..PluginReport::default()
            }]
        })
    }

    fn check(&self, path: PathBuf) -> Boxed<'_, PluginReport> {
        Box::pin(async move {
            PluginReport {
                path,
                refused: Some(refusal("not a plugin")),
                ..PluginReport::default()
            }
        })
    }

    fn directories(&self) -> Vec<PathBuf> {
        vec!["/fake".into()]
    }
}

struct FakeTransform {
    content: String,
    request: TransformRequest,
    told: u64,
    transforming: Arc<watch::Sender<usize>>,
}

impl Drop for FakeTransform {
    fn drop(&mut self) {
        self.transforming.send_modify(|count| *count -= 1);
    }
}

impl RunningJob for FakeTransform {
    fn next(&mut self) -> Boxed<'_, Option<Value>> {
        Box::pin(async move {
            if value(&self.content, "transform-waits").is_some() {
                std::fs::write(self.request.directory.join("half.fake"), "half").unwrap();
                std::future::pending::<()>().await;
            }
            self.told += 50;
            let event = TransformEvent::Progress {
                tensor: "t".into(),
                completed_bytes: self.told,
            };
            (self.told <= 100).then(|| json!(event))
        })
    }

    fn stop(&self) {}

    fn kill(&self) {}

    fn finish(self: Box<Self>) -> Boxed<'static, Result<Value, Diagnostic>> {
        Box::pin(async move {
            if let Some(text) = value(&self.content, "transform-error") {
                return Err(refusal(text));
            }
            let quantization = self.request.quantization.clone().unwrap_or("F32".into()).to_uppercase();
            let mut made = format!("made {quantization}\n");
            if let Some(adapter) = &self.request.adapter {
                made += &format!("merged {}\n", adapter.name);
            }
            std::fs::write(self.request.directory.join("model.fake"), made + &self.content).unwrap();
            let name = value(&self.content, "transform-escapes").unwrap_or("model.fake");
            Ok(json!(TransformReply {
                files: vec![name.to_owned()],
                quantization,
                tensor_bytes: 10,
                bits_per_weight: 4.5,
                plugin_version: "1.2.3".into(),
            }))
        })
    }

    fn pid(&self) -> u32 {
        1
    }

    fn plugin(&self) -> String {
        "fake".into()
    }
}

struct FakeWorker {
    pid: u32,
    num_ctx: u64,
    death: watch::Sender<Option<Diagnostic>>,
    attached: Arc<AtomicUsize>,
    drafts_tried: Arc<AtomicUsize>,
    running: Arc<watch::Sender<usize>>,
    requests: Arc<Mutex<Vec<GenerateRequest>>>,
    stopped: Arc<AtomicUsize>,
}

fn killed() -> Diagnostic {
    Diagnostic::new(
        "witness::plugin::worker_died",
        Kind::Plugin,
        "the worker of plugin `fake` died",
    )
    .cause("SIGSEGV")
}

impl Worker for FakeWorker {
    fn load_adapter<'a>(&'a self, request: &'a LoadAdapterRequest) -> Boxed<'a, Result<LoadAdapterReply, Diagnostic>> {
        Box::pin(async move {
            let LoadAdapterRequest { adapter, check, draft } = request;
            self.attached.fetch_add(1, Ordering::SeqCst);
            let content = std::fs::read_to_string(&adapter.files[0].path).unwrap();
            if draft.is_some() {
                self.drafts_tried.fetch_add(1, Ordering::SeqCst);
                if let Some(text) = value(&content, "draft-error") {
                    return Err(refusal(text));
                }
                let mut found = adapter_info(&adapter.name);
                found.bytes = info(&content).memory.weights_bytes;
                return Ok(LoadAdapterReply {
                    info: found,
                    check: None,
                });
            }
            let logit_difference_max = match content.as_str() {
                "zero" => 0.0,
                "nan" => f64::NAN,
                _ => 0.5,
            };
            let check = check.then_some(AdapterCheck {
                logit_difference_max,
                tokens: 8,
            });
            Ok(LoadAdapterReply {
                info: adapter_info(&adapter.name),
                check,
            })
        })
    }

    fn unload_adapter<'a>(&'a self, _name: &'a str) -> Boxed<'a, Result<(), Diagnostic>> {
        Box::pin(async { Ok(()) })
    }

    fn generate<'a>(&'a self, request: &'a GenerateRequest) -> Boxed<'a, Result<Answer, Diagnostic>> {
        Box::pin(async move {
            self.requests.lock().unwrap().push(request.clone());
            let text = match &request.prompt {
                Prompt::Text { text, .. } => text.clone(),
                Prompt::Chat { messages, .. } => messages.last().unwrap().content.clone(),
                Prompt::Tokens { .. } => String::new(),
            };
            let mut words: Vec<String> = text.split_inclusive(' ').map(str::to_owned).collect();
            let count = words.len() as u64;
            if count > self.num_ctx && !request.truncate {
                return Err(Diagnostic::new(
                    "witness::plugin::context_exceeded",
                    Kind::Invalid,
                    format!("the prompt has {count} tokens and the context {}", self.num_ctx),
                ));
            }
            if text == "die-now" {
                self.death.send_replace(Some(killed()));
                return Err(killed());
            }
            if let Some(adapter) = &request.adapter {
                words.insert(0, format!("[{}] ", adapter.split('@').next().unwrap()));
            }
            words.reverse();
            self.running.send_modify(|running| *running += 1);
            let truncated_tokens = count.saturating_sub(self.num_ctx);
            let prompt_ids = if request.return_prompt_ids {
                (100..100 + count as u32).collect()
            } else {
                Vec::new()
            };
            Ok(Answer {
                started: Started {
                    prompt_tokens: count,
                    truncated_tokens,
                    seed: request.sampling.seed.unwrap_or(7),
                    prompt_ids,
                    ..Started::default()
                },
                events: Box::new(FakeEvents {
                    words,
                    said: 0,
                    prompt_tokens: count,
                    limit: u64::try_from(request.sampling.num_predict).unwrap_or(u64::MAX),
                    top: request.top_logprobs,
                    then: text,
                    death: self.death.clone(),
                    running: Arc::clone(&self.running),
                    is_over: false,
                }),
            })
        })
    }

    fn died(&self) -> Boxed<'_, Diagnostic> {
        Box::pin(async move {
            let mut death = self.death.subscribe();
            let died = death.wait_for(Option::is_some).await.map(|death| death.clone());
            died.ok().flatten().unwrap_or_else(killed)
        })
    }

    fn stop(&self, _grace: Duration) -> Boxed<'_, ()> {
        Box::pin(async move {
            self.stopped.fetch_add(1, Ordering::SeqCst);
            self.death.send_replace(Some(Diagnostic::new(
                "fake::stopped",
                Kind::Cancelled,
                "it was stopped",
            )));
        })
    }

    fn pid(&self) -> u32 {
        self.pid
    }

    fn plugin(&self) -> String {
        "fake".into()
    }
}

struct FakeEvents {
    /// Last word first.
    words: Vec<String>,
    said: u64,
    prompt_tokens: u64,
    limit: u64,
    top: Option<u32>,
    then: String,
    death: watch::Sender<Option<Diagnostic>>,
    running: Arc<watch::Sender<usize>>,
    is_over: bool,
}

impl Drop for FakeEvents {
    fn drop(&mut self) {
        self.running.send_modify(|running| *running -= 1);
    }
}

impl Events for FakeEvents {
    fn next(&mut self) -> Boxed<'_, Option<Event>> {
        Box::pin(async move {
            if self.is_over {
                return None;
            }
            if self.said > 0 && self.then.starts_with("die") {
                self.is_over = true;
                self.death.send_replace(Some(killed()));
                return Some(Event::Error(killed()));
            }
            if self.said > 0 && self.then.starts_with("wait") {
                let mut death = self.death.subscribe();
                let _ = death.wait_for(Option::is_some).await;
                self.is_over = true;
                return Some(Event::Error(killed()));
            }
            let word = if self.said < self.limit { self.words.pop() } else { None };
            match word {
                Some(text) => {
                    self.said += 1;
                    let alternatives = (0..self.top.unwrap_or(0))
                        .map(|id| Alternative {
                            id,
                            text: format!("alt{id}"),
                            logprob: -1.0 - id as f32,
                        })
                        .collect();
                    Some(Event::Token {
                        id: self.said as u32,
                        text,
                        logprob: self.top.map(|_| -0.25),
                        alternatives,
                    })
                }
                None => {
                    self.is_over = true;
                    let reason = if self.words.is_empty() {
                        DoneReason::Stop
                    } else {
                        DoneReason::Length
                    };
                    let done = Done {
                        reason,
                        prompt_tokens: self.prompt_tokens,
                        generated_tokens: self.said,
                        prompt_ns: 11,
                        generate_ns: 22,
                    };
                    Some(Event::Done(done, String::new()))
                }
            }
        })
    }
}
