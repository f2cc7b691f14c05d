//! From a conversation to its text, and the exact parts of it that the assistant says.
//!
//! Three ways, the first that proves itself is taken:
//! 1. The template's own `{% generation %}` tags.
//! 2. The conversation is rendered once more with marks in place of its contents. Where the rendering is, to the byte, the marked one
//!    with every content (as it is, or trimmed) put back, each content's place is known: two renderings, whatever the number of turns.
//! 3. Turn by turn: where the rendering up to an answer, ending with the beginning of one, begins the whole, the answer lies behind it.
//!
//! Where none holds, the template changes what it is given in a way that leaves open what the assistant says, and the row is refused.
//! **Invariant:** ranges lie inside the text, in order, on character boundaries.

use std::ops::Range;

use serde_json::{Map, Value};
use witness_dataset::{Message, Role};
use witness_diagnostics::Diagnostic;
use witness_template::{ChatTemplate, CivilTime, RenderInput};

/// Most turns that are rendered one by one: the work is the square of them.
const TURNS_MAX: usize = 128;

/// One learned turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// What is said, without what ends the turn.
    pub(crate) said: Range<usize>,
    /// Where the end of the turn must lie before: the next content, or the end of the text.
    pub(crate) limit: usize,
}

/// A conversation as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// All of it.
    pub(crate) text: String,
    /// The learned turns.
    pub(crate) turns: Vec<Turn>,
    /// Whether the template's own tags said so; then a turn's range may hold its end.
    pub(crate) is_tagged: bool,
}

/// What every rendering of one run shares.
#[derive(Clone, Copy)]
pub(crate) struct Renderer<'a> {
    pub(crate) template: &'a ChatTemplate,
    pub(crate) bos_token: &'a str,
    pub(crate) eos_token: &'a str,
    pub(crate) now: CivilTime,
}

/// Why the parts are not known.
pub(crate) enum Unclear {
    /// The template says no, or fails.
    Failed(Diagnostic),
    /// It renders, but not so that the parts can be told apart. What was seen.
    Parts(String),
}

impl Renderer<'_> {
    /// Renders messages as they are given to templates.
    pub(crate) fn render(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        begins_answer: bool,
    ) -> Result<String, Diagnostic> {
        Ok(self.with_input(messages, tools, begins_answer, |input| self.template.render(input))?)
    }

    /// Renders a conversation.
    pub(crate) fn render_messages(&self, messages: &[Message], tools: Option<&Value>) -> Result<String, Diagnostic> {
        let values: Vec<Value> = messages.iter().map(as_template_sees).collect();
        self.render(&values, tools, false)
    }

    fn with_input<T>(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        begins_answer: bool,
        render: impl FnOnce(&RenderInput<'_>) -> T,
    ) -> T {
        let messages = Value::Array(messages.to_vec());
        let mut input = RenderInput::new(&messages, self.now);
        input.add_generation_prompt = begins_answer;
        input.tools = tools;
        input.bos_token = Some(self.bos_token);
        input.eos_token = Some(self.eos_token);
        render(&input)
    }

    /// Lays out a conversation. `is_learned` says of each message whether it is to be learned.
    pub(crate) fn layout(
        &self,
        messages: &[Message],
        tools: Option<&Value>,
        is_learned: &[bool],
    ) -> Result<Layout, Unclear> {
        let values: Vec<Value> = messages.iter().map(as_template_sees).collect();
        let rendered = self
            .with_input(&values, tools, false, |input| self.template.render_marked(input))
            .map_err(|error| Unclear::Failed(error.into()))?;
        let learned: Vec<usize> = (0..messages.len()).filter(|at| is_learned[*at]).collect();
        let assistants = (0..messages.len()).filter(|at| messages[*at].role == Role::Assistant);
        // The tags speak of the assistant, all of whose turns they hold.
        let assistants: Vec<usize> = assistants.collect();
        let is_tagged = rendered.assistant.len() == assistants.len()
            && !assistants.is_empty()
            && learned.iter().all(|at| assistants.contains(at));
        if is_tagged {
            let text_end = rendered.text.len();
            let starts = rendered
                .assistant
                .iter()
                .skip(1)
                .map(|range| range.start)
                .chain([text_end]);
            let turns = assistants.iter().zip(&rendered.assistant).zip(starts);
            let turns = turns.filter(|((at, _), _)| is_learned[**at]);
            let turns = turns.map(|((_, said), limit)| Turn {
                said: said.clone(),
                limit,
            });
            return Ok(Layout {
                turns: turns.collect(),
                text: rendered.text,
                is_tagged,
            });
        }
        let text = rendered.text;
        let marked = self.marked(messages, &values, tools, &text, &learned);
        let turns = match marked {
            Some(turns) => turns,
            None => self.turn_by_turn(messages, &values, tools, &text, &learned)?,
        };
        Ok(Layout {
            text,
            turns,
            is_tagged: false,
        })
    }

    /// Finds the contents by rendering marks in their place.
    fn marked(
        &self,
        messages: &[Message],
        values: &[Value],
        tools: Option<&Value>,
        text: &str,
        learned: &[usize],
    ) -> Option<Vec<Turn>> {
        if learned.iter().any(|at| messages[*at].content.trim().is_empty()) {
            return None;
        }
        let (open, close) = unused_pair(text)?;
        let mark = |at: usize| format!("{open}{at}{close}");
        let mut marked = values.to_vec();
        for (at, message) in messages.iter().enumerate() {
            if !message.content.trim().is_empty() {
                marked[at]["content"] = Value::String(mark(at));
            }
        }
        let rendered = self.render(&marked, tools, false).ok()?;
        let pieces = pieces(&rendered, open, close)?;
        let places = put_back(&pieces, messages, text)?;
        let beginning = self.beginning(values, tools, learned);
        let mut turns = Vec::with_capacity(learned.len());
        for &at in learned {
            let mut found = (0..places.len()).filter(|place| places[*place].message == at);
            let (Some(place), None) = (found.next(), found.next()) else {
                return None;
            };
            let content = places[place].range.clone();
            // What the template itself lets the assistant say before the content, such as an empty thought.
            let before = &text[places[place].literal_start..content.start];
            let start = match beginning
                .as_deref()
                .and_then(|beginning| before.rfind(beginning).zip(Some(beginning)))
            {
                Some((found, beginning)) => places[place].literal_start + found + beginning.len(),
                None => content.start,
            };
            let limit = places.get(place + 1).map_or(text.len(), |next| next.range.start);
            turns.push(Turn {
                said: start..content.end,
                limit,
            });
        }
        Some(turns)
    }

    /// Returns what the template puts where an answer begins; nothing where it is empty or not to be told.
    fn beginning(&self, values: &[Value], tools: Option<&Value>, learned: &[usize]) -> Option<String> {
        let asked = values.get(..*learned.first()?)?;
        let closed = self.render(asked, tools, false).ok()?;
        let open = self.render(asked, tools, true).ok()?;
        let beginning = open.strip_prefix(closed.as_str())?;
        (!beginning.trim().is_empty()).then(|| beginning.to_owned())
    }

    /// Finds each answer behind the rendering of what stands before it.
    fn turn_by_turn(
        &self,
        messages: &[Message],
        values: &[Value],
        tools: Option<&Value>,
        text: &str,
        learned: &[usize],
    ) -> Result<Vec<Turn>, Unclear> {
        if learned.len() > TURNS_MAX {
            return Err(Unclear::Parts(format!(
                "{} turns would have to be told apart one by one, at most {TURNS_MAX} are",
                learned.len()
            )));
        }
        let render = |n: usize, begins: bool| {
            let rendered = self.render(&values[..n], tools, begins);
            rendered.map_err(Unclear::Failed)
        };
        let mut turns: Vec<Turn> = Vec::with_capacity(learned.len());
        for &at in learned {
            let begins = messages[at].role == Role::Assistant;
            let before = render(at, begins)?;
            let whole = render(at + 1, false)?;
            if !text.starts_with(&before) || !text.starts_with(&whole) || !whole.starts_with(&before) {
                let n = at + 1;
                return Err(Unclear::Parts(format!(
                    "the template renders the first {n} messages otherwise when more follow, so what message {n} adds is not known"
                )));
            }
            if let Some(last) = turns.last_mut() {
                last.limit = last.limit.min(before.len());
            }
            turns.push(Turn {
                said: before.len()..whole.len(),
                limit: text.len(),
            });
        }
        Ok(turns)
    }
}

/// Returns a message in the form of chat templates.
fn as_template_sees(message: &Message) -> Value {
    let mut fields = Map::new();
    fields.insert("role".to_owned(), message.role.name().into());
    fields.insert("content".to_owned(), message.content.clone().into());
    fields.extend(message.extra.clone());
    Value::Object(fields)
}

/// Returns two characters of the private use area that the text does not have.
fn unused_pair(text: &str) -> Option<(char, char)> {
    let mut free = ('\u{f780}'..='\u{f7ff}').filter(|candidate| !text.contains(*candidate));
    free.next().zip(free.next())
}

/// A rendering with marks, cut at them.
struct Pieces<'a> {
    /// The text before each mark, and the message that the mark stands for.
    marks: Vec<(&'a str, usize)>,
    /// The text after the last one.
    rest: &'a str,
}

fn pieces(rendered: &str, open: char, close: char) -> Option<Pieces<'_>> {
    let (mut marks, mut rest) = (Vec::new(), rendered);
    while let Some((before, after)) = rest.split_once(open) {
        let (number, after) = after.split_once(close)?;
        marks.push((before, number.parse().ok()?));
        rest = after;
    }
    Some(Pieces { marks, rest })
}

/// Where a content lies.
struct Place {
    message: usize,
    range: Range<usize>,
    /// Where the template's text before it starts.
    literal_start: usize,
}

/// Puts the contents back in place of their marks, each as it is or trimmed, and returns where they lie if that is the text.
fn put_back(pieces: &Pieces<'_>, messages: &[Message], text: &str) -> Option<Vec<Place>> {
    let mut places = Vec::with_capacity(pieces.marks.len());
    let mut at = 0;
    for (index, (literal, message)) in pieces.marks.iter().enumerate() {
        let literal_start = at;
        at += text[at..].starts_with(literal).then_some(literal.len())?;
        let content = messages.get(*message)?.content.as_str();
        let is_last = index + 1 == pieces.marks.len();
        let follows = pieces.marks.get(index + 1).map_or(pieces.rest, |(literal, _)| *literal);
        let spellings = [content, content.trim(), content.trim_start(), content.trim_end()];
        let fits = |spelling: &&str| {
            text[at..].strip_prefix(*spelling).is_some_and(|rest| match is_last {
                true => rest == follows,
                false => rest.starts_with(follows),
            })
        };
        let spelling = spellings.into_iter().find(fits)?;
        places.push(Place {
            message: *message,
            range: at..at + spelling.len(),
            literal_start,
        });
        at += spelling.len();
    }
    (text[at..] == *pieces.rest).then_some(places)
}
