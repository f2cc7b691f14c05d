//! From rows to tokens, and which of them the model is taught to say.
//!
//! A chat is laid out by the template and tokenized as a whole, once, as it is when it is served: BOS stands at its beginning once
//! where the tokenizer wants one. A token is a target when any of its bytes lies in a learned part; the end of a learned turn is the
//! first end token behind it. Bare text is learned whole and ends with EOS; one that is longer than a sequence is cut into several,
//! nothing of it is lost.
//!
//! **Invariant:** a target is never guessed: where tokens and text cannot be matched, the row is refused.

mod align;
mod layout;

use std::ops::Range;

use unicode_normalization::UnicodeNormalization;
use witness_dataset::{Body, Conversation, Message, Role};
use witness_diagnostics::{Diagnostic, Kind, near_miss};
use witness_plugin_protocol::{Compat, ExcessLength, TrainOnEos, TrainSettings};
use witness_template::CivilTime;
use witness_tokenizer::{Encode, Tokenizer};

use crate::base::Template;
use layout::{Layout, Renderer, Unclear};

/// The tokens of one row, or of one part of a long text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Encoded {
    /// Token ids.
    pub(crate) ids: Vec<u32>,
    /// For each token, whether the model is taught to say it.
    pub(crate) is_target: Vec<bool>,
}

impl Encoded {
    /// Returns how many tokens are predicted and learned: the first one has nothing before it.
    pub(crate) fn n_targets(&self) -> usize {
        self.is_target.iter().skip(1).filter(|is_target| **is_target).count()
    }
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is used.
    Used {
        /// Its tokens: one piece, or several for a long text.
        pieces: Vec<Encoded>,
        /// Tokens that were cut off its end.
        n_cut: usize,
        /// Whether a turn of it ends without an end token, so that EOS was put behind the last one.
        end_added: bool,
    },
    /// It is longer than a sequence, and left out.
    TooLong(Encoded),
    /// No token of it is a target.
    NothingToLearn(Encoded),
}

/// Encodes rows of one run.
pub(crate) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    template: &'a Template,
    rules: Rules,
    now: CivilTime,
}

/// The settings that encoding follows.
#[derive(Clone, Debug)]
struct Rules {
    sequence_len: usize,
    excess: ExcessLength,
    learns_all: bool,
    ends: TrainOnEos,
    roles: Vec<Role>,
    is_guide: bool,
}

impl Rules {
    fn of(settings: &TrainSettings, sequence_len: usize) -> Result<Self, Diagnostic> {
        let roles = settings.roles_to_train.iter().map(|name| {
            Role::from_spelling(name).ok_or_else(|| {
                let wanted = "system, user, assistant or tool";
                let diagnostic = crate::error::setting("roles_to_train", format!("`{name}`"), wanted);
                match near_miss(name, ["system", "user", "assistant", "tool"]) {
                    Some(near) => diagnostic.hint(format!("did you mean `{near}`?")),
                    None => diagnostic,
                }
            })
        });
        let is_guide = settings.compat == Some(Compat::Guide);
        Ok(Self {
            sequence_len,
            excess: if is_guide {
                ExcessLength::Truncate
            } else {
                settings.excess_length
            },
            learns_all: settings.train_on_inputs,
            ends: settings.train_on_eos,
            roles: roles.collect::<Result<_, _>>()?,
            is_guide,
        })
    }
}

impl<'a> Encoder<'a> {
    /// Prepares to encode rows of at most `sequence_len` tokens. `now` is what templates are told as the time.
    ///
    /// # Errors
    /// The settings name a role that there is not.
    pub(crate) fn new(
        tokenizer: &'a Tokenizer,
        template: &'a Template,
        settings: &TrainSettings,
        sequence_len: usize,
        now: CivilTime,
    ) -> Result<Self, Diagnostic> {
        Ok(Self {
            tokenizer,
            template,
            rules: Rules::of(settings, sequence_len)?,
            now,
        })
    }

    /// Returns the most tokens that a sequence may have.
    pub(crate) fn sequence_len(&self) -> usize {
        self.rules.sequence_len
    }

    /// Encodes a row.
    ///
    /// # Errors
    /// The template fails on it or leaves open what the assistant says, or the tokenizer changes its text beyond recognition.
    pub(crate) fn encode(&self, conversation: &Conversation) -> Result<Outcome, Diagnostic> {
        let (encoded, end_added) = match &conversation.body {
            Body::Text(text) => return self.text(text),
            Body::Messages(messages) if self.rules.is_guide => {
                (self.as_the_guide_does(messages, conversation.tools.as_ref())?, false)
            }
            Body::Messages(messages) => self.chat(messages, conversation.tools.as_ref())?,
        };
        self.fit(encoded, end_added)
    }

    /// Encodes bare text: all of it is learned, and its end.
    fn text(&self, text: &str) -> Result<Outcome, Diagnostic> {
        let mut ids = self.ids(text)?;
        self.begin(&mut ids);
        let ends = self.tokenizer.eos().filter(|eos| ids.last() != Some(eos));
        ids.extend(ends.filter(|_| self.rules.ends != TrainOnEos::None));
        let whole = |ids: &[u32]| Encoded {
            is_target: vec![true; ids.len()],
            ids: ids.to_vec(),
        };
        let pieces = ids.chunks(self.rules.sequence_len).map(whole);
        let pieces: Vec<Encoded> = pieces.filter(|piece| piece.n_targets() > 0).collect();
        if pieces.is_empty() {
            return Ok(Outcome::NothingToLearn(whole(&ids)));
        }
        Ok(Outcome::Used {
            pieces,
            n_cut: 0,
            end_added: false,
        })
    }

    /// Applies the limit on length, and leaves out what teaches nothing.
    fn fit(&self, mut encoded: Encoded, end_added: bool) -> Result<Outcome, Diagnostic> {
        let (n_tokens, most) = (encoded.ids.len(), self.rules.sequence_len);
        if encoded.n_targets() == 0 {
            return Ok(Outcome::NothingToLearn(encoded));
        }
        if n_tokens > most && self.rules.excess == ExcessLength::Drop {
            return Ok(Outcome::TooLong(encoded));
        }
        encoded.ids.truncate(most);
        encoded.is_target.truncate(most);
        if encoded.n_targets() == 0 {
            return Ok(Outcome::NothingToLearn(encoded));
        }
        Ok(Outcome::Used {
            pieces: vec![encoded],
            n_cut: n_tokens.saturating_sub(most),
            end_added,
        })
    }

    /// Encodes a chat, and says whether EOS had to be put behind it.
    fn chat(&self, messages: &[Message], tools: Option<&serde_json::Value>) -> Result<(Encoded, bool), Diagnostic> {
        let is_learned = |message: &Message| message.train.unwrap_or(self.rules.roles.contains(&message.role));
        let learned: Vec<bool> = messages.iter().map(is_learned).collect();
        let layout = self.renderer().layout(messages, tools, &learned);
        let layout = layout.map_err(|unclear| match unclear {
            Unclear::Failed(diagnostic) => diagnostic,
            Unclear::Parts(seen) => parts_unclear(seen),
        })?;
        let (ids, spans) = self.aligned(&layout)?;
        let (mut is_target, ends_open) = match self.rules.learns_all {
            true => (vec![true; ids.len()], false),
            false => self.targets(&layout, &ids, &spans),
        };
        let mut ids = ids;
        // The learned end of the whole conversation, which the template does not write.
        let eos = self
            .tokenizer
            .eos()
            .filter(|_| ends_open && self.rules.ends != TrainOnEos::None);
        ids.extend(eos);
        is_target.extend(eos.map(|_| true));
        if self.begin(&mut ids) {
            is_target.insert(0, self.rules.learns_all);
        }
        Ok((Encoded { ids, is_target }, eos.is_some()))
    }

    fn renderer(&self) -> Renderer<'_> {
        Renderer {
            template: &self.template.chat,
            bos_token: self.tokenizer.bos_token(),
            eos_token: self.tokenizer.eos_token(),
            now: self.now,
        }
    }

    /// Tokenizes a layout and finds the bytes of each token, after normalising the text as the tokenizer does where it has to be.
    fn aligned(&self, layout: &Layout) -> Result<(Vec<u32>, Vec<Range<usize>>), Diagnostic> {
        let ids = self.ids(&layout.text)?;
        if self.rules.learns_all {
            return Ok((ids, Vec::new()));
        }
        if let Some(spans) = align::spans(self.tokenizer, &layout.text, &ids) {
            return Ok((ids, spans));
        }
        normalised_spans(self.tokenizer, &layout.text, &ids)
            .map(|spans| (ids, spans))
            .ok_or_else(|| {
                Diagnostic::new(
                    "witness::train::tokens_unclear",
                    Kind::Unsupported,
                    "the tokenizer changes the row's text, so it is not known which tokens the assistant says",
                )
                .hint("take the row out (`skip_bad` leaves out such rows), or learn everything (`train_on_inputs`)")
            })
    }

    /// Marks the learned tokens; also says whether the last learned turn has no end token though it ends the text.
    fn targets(&self, layout: &Layout, ids: &[u32], spans: &[Range<usize>]) -> (Vec<bool>, bool) {
        let ends = self.tokenizer.end_of_generation();
        let is_end = |at: usize| ends.contains(&ids[at]);
        let mut is_target = vec![false; ids.len()];
        let (mut learned_ends, mut ends_open) = (Vec::new(), false);
        for turn in &layout.turns {
            let first = spans.partition_point(|span| span.end <= turn.said.start);
            let after = spans.partition_point(|span| span.start < turn.said.end).max(first);
            let mut said = first..after;
            // A turn that holds its own end: what stands behind that is the template's.
            let closing = said.clone().rev().find(|at| is_end(*at));
            let closing = closing.filter(|at| layout.text[spans[*at].end..turn.said.end].trim().is_empty());
            let end = match closing {
                Some(at) => {
                    if !layout.is_tagged || self.rules.ends == TrainOnEos::None {
                        said.end = at;
                    }
                    Some(at)
                }
                None => {
                    let limit = spans.partition_point(|span| span.start < turn.limit);
                    (after..limit).find(|at| is_end(*at))
                }
            };
            is_target[said.clone()].fill(true);
            if let Some(end) = end {
                is_target[said.end.min(end)..end].fill(true);
                is_target[end] = false;
                learned_ends.push(end);
            }
            ends_open = end.is_none() && layout.text[turn.said.end..].trim().is_empty();
        }
        match self.rules.ends {
            TrainOnEos::None => {}
            TrainOnEos::Turn => learned_ends.iter().for_each(|at| is_target[*at] = true),
            TrainOnEos::Last => learned_ends.last().into_iter().for_each(|at| is_target[*at] = true),
            TrainOnEos::All => (0..ids.len())
                .filter(|at| is_end(*at))
                .for_each(|at| is_target[at] = true),
        }
        (is_target, ends_open)
    }

    /// Encodes a chat as the guide's script does: the template's text is tokenized with special tokens added, so BOS stands twice;
    /// everything is a target but the padding token, which there is EOS, also where it ends a turn.
    fn as_the_guide_does(
        &self,
        messages: &[Message],
        tools: Option<&serde_json::Value>,
    ) -> Result<Encoded, Diagnostic> {
        let text = self.renderer().render_messages(messages, tools)?;
        let mut ids = self.ids(&text)?;
        if let Some(bos) = self.tokenizer.bos().filter(|_| self.tokenizer.adds_bos()) {
            ids.insert(0, bos);
        }
        let is_target = ids.iter().map(|id| Some(*id) != self.tokenizer.eos()).collect();
        Ok(Encoded { ids, is_target })
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>, Diagnostic> {
        let options = Encode {
            add_special: false,
            parse_special: true,
        };
        Ok(self.tokenizer.encode(text, options)?)
    }

    /// Puts BOS at the beginning where the tokenizer wants it and it is not there. Returns whether it did.
    fn begin(&self, ids: &mut Vec<u32>) -> bool {
        let bos = self
            .tokenizer
            .bos()
            .filter(|bos| self.tokenizer.adds_bos() && ids.first() != Some(bos));
        if let Some(bos) = bos {
            ids.insert(0, bos);
        }
        bos.is_some()
    }
}

/// Aligns tokens with the text in Unicode's composed form, and returns the ranges in the text as it stands.
///
/// The text is cut where composing begins anew, at every character that stands alone in both forms; each stretch between is one unit.
fn normalised_spans(tokenizer: &Tokenizer, text: &str, ids: &[u32]) -> Option<Vec<Range<usize>>> {
    let composed: String = text.nfc().collect();
    if composed == text {
        return None;
    }
    let spans = align::spans(tokenizer, &composed, ids)?;
    let origins = origins(text, &composed)?;
    let back = |span: Range<usize>| {
        let start = origins.get(span.start).map_or(text.len(), |origin| origin.start);
        let last = span.end.checked_sub(1).filter(|last| *last >= span.start);
        start..last.map_or(start, |last| origins[last].end)
    };
    Some(spans.into_iter().map(back).collect())
}

/// For each byte of the composed text, the stretch of the text that it comes from.
fn origins(text: &str, composed: &str) -> Option<Vec<Range<usize>>> {
    let mut origins = Vec::with_capacity(composed.len());
    let mut start = 0;
    for (at, character) in text.char_indices().skip(1).chain([(text.len(), 'x')]) {
        let joins = unicode_normalization::char::canonical_combining_class(character) != 0 || may_join(character);
        if joins && at < text.len() {
            continue;
        }
        let stretch: String = text[start..at].nfc().collect();
        composed[origins.len()..].strip_prefix(stretch.as_str())?;
        origins.extend(std::iter::repeat_n(start..at, stretch.len()));
        start = at;
    }
    (origins.len() == composed.len()).then_some(origins)
}

/// Says whether a character of combining class 0 may still join the one before it: the vowels and finals of Hangul, and marks.
fn may_join(character: char) -> bool {
    matches!(character, '\u{1161}'..='\u{1175}' | '\u{11a8}'..='\u{11c2}')
        || unicode_normalization::char::is_combining_mark(character)
}

fn parts_unclear(seen: String) -> Diagnostic {
    Diagnostic::new(
        "witness::train::parts_unclear",
        Kind::Unsupported,
        "the chat template leaves open which part of the row the assistant says",
    )
    .cause(seen)
    .hint("give a template with `{% generation %}` tags around what the assistant says")
    .hint("or learn everything (`train_on_inputs: true`)")
}

#[cfg(test)]
mod tests;
