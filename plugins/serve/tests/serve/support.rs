//! Loads a model through the plugin's trait and runs requests to their end.

use std::path::{Path, PathBuf};

use witness_diagnostics::Diagnostic;
use witness_plugin_protocol::{
    AdapterSpec, Alternative, ChatsFile, Done, DraftOptions, FileRef, GenerateRequest, LoadAdapterReply,
    LoadAdapterRequest, LoadOptions, LoadReply, LoadRequest, Message, ModelSpec, Prompt, SamplingOptions, Started,
};
use witness_plugin_sdk::{Init, Serve, ServeEvent};
use witness_plugin_serve::{CpuServe, Loaded};

/// One loaded model.
pub(crate) struct Session {
    pub(crate) serve: CpuServe,
    pub(crate) model: Loaded,
    pub(crate) reply: LoadReply,
    next: u64,
}

/// What a request came to.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) started: Started,
    pub(crate) ids: Vec<u32>,
    pub(crate) pieces: Vec<String>,
    pub(crate) logprobs: Vec<(f32, Vec<Alternative>)>,
    pub(crate) done: Option<Done>,
    pub(crate) error: Option<Diagnostic>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        self.pieces.concat()
    }
}

pub(crate) fn files(directory: &Path) -> Vec<FileRef> {
    let mut files: Vec<FileRef> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            FileRef {
                name,
                size: path.metadata().unwrap().len(),
                path,
                digest: String::new(),
            }
        })
        .collect();
    files.sort_by(|one, other| one.name.cmp(&other.name));
    files
}

pub(crate) fn file(path: &Path) -> Vec<FileRef> {
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    vec![FileRef {
        name,
        path: path.to_owned(),
        digest: String::new(),
        size: path.metadata().unwrap().len(),
    }]
}

/// Returns a request that takes the most likely token each time.
pub(crate) fn greedy(prompt: Prompt, num_predict: i64) -> GenerateRequest {
    GenerateRequest {
        prompt,
        adapter: None,
        draft: None,
        sampling: SamplingOptions {
            temperature: 0.0,
            repeat_penalty: 1.0,
            num_predict,
            ..SamplingOptions::default()
        },
        format: None,
        top_logprobs: None,
        truncate: false,
        return_prompt_ids: true,
    }
}

pub(crate) fn text(text: &str) -> Prompt {
    Prompt::Text {
        text: text.to_owned(),
        context: Vec::new(),
        add_special: true,
    }
}

pub(crate) fn chat(turns: &[(&str, &str)]) -> Prompt {
    let message = |(role, content): &(&str, &str)| Message {
        role: (*role).to_owned(),
        content: (*content).to_owned(),
        ..Message::default()
    };
    Prompt::Chat {
        messages: turns.iter().map(message).collect(),
        tools: Vec::new(),
        template: None,
        variables: serde_json::Map::new(),
    }
}

pub(crate) fn load(files: Vec<FileRef>, options: LoadOptions) -> Result<Session, Diagnostic> {
    load_keeping(files, options, None)
}

/// As [`load`], with a place to keep chats.
pub(crate) fn load_keeping(
    files: Vec<FileRef>,
    options: LoadOptions,
    chats: Option<ChatsFile>,
) -> Result<Session, Diagnostic> {
    let mut serve = CpuServe::init(&Init::default())?;
    let (model, reply) = serve.load(LoadRequest {
        model: ModelSpec { files },
        options,
        chats,
        packed: None,
    })?;
    Ok(Session {
        serve,
        model,
        reply,
        next: 1,
    })
}

impl Session {
    pub(crate) fn adapter(&mut self, name: &str, files: Vec<FileRef>) -> Result<LoadAdapterReply, Diagnostic> {
        let adapter = AdapterSpec {
            name: name.to_owned(),
            files,
        };
        self.serve.load_adapter(
            &mut self.model,
            LoadAdapterRequest {
                adapter,
                check: true,
                draft: None,
            },
        )
    }

    pub(crate) fn draft(
        &mut self,
        name: &str,
        files: Vec<FileRef>,
        draft: DraftOptions,
    ) -> Result<LoadAdapterReply, Diagnostic> {
        let request = LoadAdapterRequest {
            adapter: AdapterSpec {
                name: name.to_owned(),
                files,
            },
            check: false,
            draft: Some(draft),
        };
        self.serve.load_adapter(&mut self.model, request)
    }

    pub(crate) fn start(&mut self, request: GenerateRequest) -> Result<(u64, Started), Diagnostic> {
        let number = self.next;
        self.next += 1;
        Ok((number, self.serve.start(&mut self.model, number, request)?))
    }

    /// Takes one step and sorts its events into the answers of `numbers`.
    pub(crate) fn step(&mut self, answers: &mut [(u64, Answer)]) -> usize {
        let mut emit = |event: ServeEvent<'_>| {
            let number = match &event {
                ServeEvent::Token { sequence, .. }
                | ServeEvent::Progress { sequence, .. }
                | ServeEvent::Done { sequence, .. }
                | ServeEvent::Error { sequence, .. } => *sequence,
            };
            let (_, answer) = answers
                .iter_mut()
                .find(|(known, _)| *known == number)
                .expect("an event of a sequence");
            assert!(
                answer.done.is_none() && answer.error.is_none(),
                "nothing follows the end"
            );
            match event {
                ServeEvent::Token {
                    id,
                    text,
                    logprob,
                    alternatives,
                    ..
                } => {
                    answer.ids.push(id);
                    answer.pieces.push(text.to_owned());
                    answer
                        .logprobs
                        .extend(logprob.map(|logprob| (logprob, alternatives.to_vec())));
                }
                ServeEvent::Progress { .. } => {}
                ServeEvent::Done { text, done, .. } => {
                    answer.pieces.push(text.to_owned());
                    answer.done = Some(done);
                }
                ServeEvent::Error { diagnostic, .. } => answer.error = Some(diagnostic),
            }
        };
        self.serve.step(&mut self.model, &mut emit).unwrap()
    }

    /// Runs requests together to their ends.
    pub(crate) fn run_all(&mut self, requests: Vec<GenerateRequest>) -> Vec<Answer> {
        let mut answers: Vec<(u64, Answer)> = requests
            .into_iter()
            .map(|request| {
                let (number, started) = self.start(request).unwrap();
                (
                    number,
                    Answer {
                        started,
                        ..Answer::default()
                    },
                )
            })
            .collect();
        while self.step(&mut answers) > 0 {}
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    pub(crate) fn run(&mut self, request: GenerateRequest) -> Answer {
        self.run_all(vec![request]).remove(0)
    }
}

/// Returns a path below `../shared`, or says why the test is skipped.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|dir| dir.join("shared"))
        .find(|dir| dir.is_dir());
    let found = root.map(|root| root.join(path)).filter(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: this test needs ../shared/{path}");
    }
    found
}
