//! One request while it runs: what it still has to feed, how it chooses, what it has said.

use std::sync::Arc;
use std::time::Duration;

use witness_batching::{Pending, Speculation, look_up};
use witness_diagnostics::Diagnostic;
use witness_model::Adapter;
use witness_plugin_protocol::{Alternative, Done, DoneReason, GenerateRequest, SamplingOptions};
use witness_sampling::stops::StopMatcher;
use witness_sampling::{LogProbs, Sampler, SamplerConfig};
use witness_tokenizer::{DecodeStream, Tokenizer};

use crate::constraint::Constraint;
use crate::draft::Drafting;
use crate::engine::State;
use crate::error;
use crate::pages::PrefixKey;

/// Alternatives reported beside a token at most; each costs a look at the whole vocabulary.
pub(crate) const TOP_LOGPROBS_MAX: u32 = 128;

/// An adapter that sequences run with.
#[derive(Clone)]
pub(crate) struct Worn {
    pub(crate) adapter: Arc<Adapter>,
    /// No other adapter of this model has or had it.
    pub(crate) key: PrefixKey,
    /// What stands for its files on disk, where their digests are known.
    pub(crate) name: Option<Arc<str>>,
}

/// A sequence, waiting or running.
pub(crate) struct Sequence {
    pub(crate) number: u64,
    pub(crate) worn: Option<Worn>,
    /// Prompt and answer so far.
    pub(crate) tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub(crate) n_prompt: usize,
    /// Keys and values; nothing while it waits, unless it was admitted to begin with what is kept.
    pub(crate) state: Option<State>,
    /// Tokens that were fed behind the last one in this step, to be compared with what is chosen.
    pub(crate) guess: Vec<u32>,
    /// Whether guesses from the text itself pay.
    pub(crate) speculation: Speculation,
    /// Nothing without a draft.
    pub(crate) drafting: Option<Drafting>,
    pub(crate) prompt_time: Duration,
    pub(crate) generate_time: Duration,
    sampler: Sampler,
    constraint: Option<Constraint>,
    stream: DecodeStream,
    stops: StopMatcher,
    top_logprobs: Option<u32>,
    tokens_max: usize,
    context: usize,
    ignores_eos: bool,
}

/// What one token led to.
pub(crate) struct Said {
    pub(crate) token: u32,
    pub(crate) text: String,
    pub(crate) logprob: Option<f32>,
    pub(crate) alternatives: Vec<Alternative>,
    /// The token is part of the answer; an end-of-generation token is not.
    pub(crate) is_answer: bool,
    pub(crate) ended: Option<DoneReason>,
}

/// What a new sequence starts from.
pub(crate) struct Admission {
    pub(crate) number: u64,
    pub(crate) tokens: Vec<u32>,
    pub(crate) worn: Option<Worn>,
    pub(crate) drafting: Option<Drafting>,
    pub(crate) seed: u64,
    pub(crate) num_ctx: usize,
}

impl Sequence {
    /// Checks the request's options and makes a sequence of it.
    pub(crate) fn new(
        request: &GenerateRequest,
        admission: Admission,
        tokenizer: &Tokenizer,
    ) -> Result<Self, Diagnostic> {
        let options = &request.sampling;
        let n_prompt = admission.tokens.len();
        Ok(Self {
            number: admission.number,
            worn: admission.worn,
            n_prompt,
            tokens: admission.tokens,
            state: None,
            guess: Vec::new(),
            speculation: Speculation::default(),
            drafting: admission.drafting,
            prompt_time: Duration::ZERO,
            generate_time: Duration::ZERO,
            sampler: Sampler::new(sampler_config(options), admission.seed).map_err(|error| error::sampling(&error))?,
            constraint: Constraint::from_format(request.format.as_ref())?,
            stream: tokenizer.stream(true),
            stops: StopMatcher::new(&options.stop).map_err(|error| error::sampling(&error))?,
            top_logprobs: request.top_logprobs.map(|n| n.min(TOP_LOGPROBS_MAX)),
            tokens_max: usize::try_from(options.num_predict).unwrap_or(usize::MAX),
            context: admission.num_ctx,
            ignores_eos: options.ignore_eos,
        })
    }

    /// Returns the tokens that keys and values do not cover yet.
    pub(crate) fn pending(&self) -> &[u32] {
        &self.tokens[self.state.as_ref().map_or(0, State::len)..]
    }

    /// Returns under which key its keys and values are found again.
    pub(crate) fn key(&self) -> PrefixKey {
        self.worn.as_ref().map_or(0, |worn| worn.key)
    }

    /// Returns what it could feed now. One that was set back reads its answer again like a prompt.
    pub(crate) fn load(&self) -> Pending {
        let n_tokens = self.pending().len();
        Pending {
            n_tokens,
            is_prompt: n_tokens > 1 || self.in_prompt(),
        }
    }

    /// Guesses from the text itself what follows, where that may pay.
    pub(crate) fn guess_ahead(&mut self) {
        let max = self.n_guessable(&self.speculation);
        self.guess.clear();
        self.guess.extend_from_slice(look_up(&self.tokens, max));
    }

    /// Returns how many tokens to guess: as many as may pay and could all be said.
    pub(crate) fn n_guessable(&self, speculation: &Speculation) -> usize {
        let sayable = self.tokens_max.saturating_sub(self.n_generated() + 1);
        let fitting = self.context.saturating_sub(self.tokens.len());
        speculation.len_wanted().min(sayable).min(fitting)
    }

    /// Notes how long a step took, and how many guesses in it were right, with whoever made them. All learn from a step without any.
    pub(crate) fn observe(&mut self, elapsed: Duration, n_right: usize) {
        let n_guessed = self.guess.len();
        let drafted = self.drafting.as_mut().and_then(|drafting| drafting.spent.take());
        match (&mut self.drafting, drafted) {
            (Some(drafting), Some(spent)) => drafting.speculation.observe(elapsed + spent, n_guessed, n_right),
            (Some(drafting), None) if n_guessed == 0 => {
                drafting.speculation.observe(elapsed, 0, 0);
                self.speculation.observe(elapsed, 0, 0);
            }
            _ => self.speculation.observe(elapsed, n_guessed, n_right),
        }
    }

    /// Returns whether the prompt is still being read.
    pub(crate) fn in_prompt(&self) -> bool {
        self.tokens.len() == self.n_prompt
    }

    fn n_generated(&self) -> usize {
        self.tokens.len() - self.n_prompt
    }

    /// Returns whether nothing is to be generated at all.
    pub(crate) fn wants_nothing(&self) -> bool {
        self.tokens_max == 0
    }

    /// Chooses the next token from the logits of the last one.
    pub(crate) fn choose(&mut self, logits: &mut [f32], tokenizer: &Tokenizer) -> Result<Said, Diagnostic> {
        let constraint = self.constraint;
        let mut allowed = |token: u32| constraint.is_none_or(|constraint| constraint.allows(token, tokenizer));
        let mask = constraint
            .is_some()
            .then_some(&mut allowed as &mut dyn FnMut(u32) -> bool);
        let choice = self
            .sampler
            .sample(logits, &self.tokens, mask)
            .map_err(|error| error::sampling(&error))?;
        let token = choice.token;
        let (logprob, alternatives) = self.logprobs(logits, token, tokenizer)?;
        self.tokens.push(token);
        if !self.ignores_eos && tokenizer.end_of_generation().contains(&token) {
            let ended = Some(DoneReason::Stop);
            return Ok(Said {
                token,
                text: String::new(),
                logprob,
                alternatives,
                is_answer: false,
                ended,
            });
        }
        let complete = self
            .constraint
            .as_mut()
            .is_some_and(|constraint| constraint.advance(token, tokenizer));
        let emit = self.stops.push(&self.stream.push(token));
        let ended = if emit.stopped || complete {
            Some(DoneReason::Stop)
        } else if self.n_generated() >= self.tokens_max || self.tokens.len() > self.context {
            Some(DoneReason::Length)
        } else {
            None
        };
        Ok(Said {
            token,
            text: emit.text,
            logprob,
            alternatives,
            is_answer: true,
            ended,
        })
    }

    fn logprobs(
        &self,
        logits: &[f32],
        token: u32,
        tokenizer: &Tokenizer,
    ) -> Result<(Option<f32>, Vec<Alternative>), Diagnostic> {
        let Some(n) = self.top_logprobs else {
            return Ok((None, Vec::new()));
        };
        let probabilities = LogProbs::of(logits).map_err(|error| error::sampling(&error))?;
        let own = probabilities.token(token).map_err(|error| error::sampling(&error))?;
        let text = |id| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned();
        let top = probabilities.top(n as usize).into_iter();
        Ok((
            Some(own),
            top.map(|(id, logprob)| Alternative {
                id,
                text: text(id),
                logprob,
            })
            .collect(),
        ))
    }

    /// Ends the sequence: returns what was held back, and the account of it.
    pub(crate) fn finish(&mut self, reason: DoneReason) -> (String, Done) {
        let mut text = String::new();
        if self.stops.matched().is_none() {
            let rest = self.stream.finish();
            text = self.stops.push(&rest).text;
            text.push_str(&self.stops.finish());
        }
        let done = Done {
            reason,
            prompt_tokens: self.n_prompt as u64,
            generated_tokens: self.n_generated() as u64,
            prompt_ns: nanoseconds(self.prompt_time),
            generate_ns: nanoseconds(self.generate_time),
        };
        (text, done)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn sampler_config(options: &SamplingOptions) -> SamplerConfig {
    SamplerConfig {
        temperature: options.temperature,
        top_k: options.top_k,
        top_p: options.top_p,
        min_p: options.min_p,
        typical_p: options.typical_p,
        repeat_last_n: options.repeat_last_n,
        repeat_penalty: options.repeat_penalty,
        presence_penalty: options.presence_penalty,
        frequency_penalty: options.frequency_penalty,
    }
}
