//! From text to instructions. One pass over the lines; a value in quotes takes as many lines as it needs.

use witness_diagnostics::near_miss;

use crate::ast::{Command, Instruction, Modelfile, Position, ReservedWord, Role, SourceName};
use crate::decode::decode;
use crate::error::{ModelfileError, Problem};
use crate::{ADAPTER_NAME_BYTES_MAX, COMMANDS_MAX, FILE_BYTES_MAX, parameters};

/// Parses the text of a Modelfile. `source_name` is what errors call it.
///
/// # Errors
/// The first fault, with its place.
pub fn parse(source_name: &str, text: &str) -> Result<Modelfile, ModelfileError> {
    let commands = Parser {
        text,
        line_start: 0,
        next_line: 0,
        line: 0,
    }
    .run();
    match commands {
        Ok(commands) => Ok(Modelfile {
            commands,
            file: SourceName(source_name.to_owned()),
        }),
        Err(error) => Err(error.in_file(source_name)),
    }
}

/// Decodes and parses the bytes of a Modelfile.
///
/// # Errors
/// As [`decode`] and [`parse`].
pub fn parse_bytes(source_name: &str, bytes: &[u8]) -> Result<Modelfile, ModelfileError> {
    let text = decode(bytes).map_err(|error| error.in_file(source_name))?;
    parse(source_name, &text)
}

pub(crate) struct Parser<'a> {
    text: &'a str,
    /// Byte offset of the current line.
    line_start: usize,
    /// Byte offset behind its line break.
    next_line: usize,
    /// Its number, from 1.
    line: usize,
}

/// A part of the current line and where it begins in the whole text.
#[derive(Clone, Copy)]
pub(crate) struct Span<'a> {
    pub(crate) text: &'a str,
    pub(crate) offset: usize,
}

impl<'a> Span<'a> {
    /// Splits off the first word; the rest begins behind the blanks after it.
    pub(crate) fn word(self) -> (Span<'a>, Span<'a>) {
        let end = self.text.find(char::is_whitespace).unwrap_or(self.text.len());
        let (word, rest) = self.text.split_at(end);
        let word = Span {
            text: word,
            offset: self.offset,
        };
        (
            word,
            Span {
                text: rest,
                offset: self.offset + end,
            }
            .trimmed(),
        )
    }

    pub(crate) fn trimmed(self) -> Span<'a> {
        let start = self.text.trim_start();
        Span {
            text: start.trim_end(),
            offset: self.offset + (self.text.len() - start.len()),
        }
    }
}

impl<'a> Parser<'a> {
    fn run(mut self) -> Result<Vec<Command>, ModelfileError> {
        if self.text.len() > FILE_BYTES_MAX {
            let message = format!(
                "the text has {} bytes; a Modelfile has at most {FILE_BYTES_MAX}",
                self.text.len()
            );
            return Err(ModelfileError::new(
                Problem::Limit,
                Position { line: 1, column: 1 },
                "",
                message,
                "name weights with `FROM ./file`; they are not part of the Modelfile",
            ));
        }
        let mut commands = Vec::new();
        while let Some(line) = self.take_line() {
            let line = line.trimmed();
            if line.text.is_empty() || line.text.starts_with('#') {
                continue;
            }
            let position = self.position(line.offset);
            if commands.len() == COMMANDS_MAX {
                let message = format!(
                    "this is instruction {}; a Modelfile has at most {COMMANDS_MAX}",
                    COMMANDS_MAX + 1
                );
                return Err(self.error(
                    Problem::Limit,
                    line,
                    message,
                    "shorten the conversation in `MESSAGE` lines",
                ));
            }
            commands.push(Command {
                position,
                instruction: self.instruction(line)?,
            });
        }
        Ok(commands)
    }

    fn take_line(&mut self) -> Option<Span<'a>> {
        if self.next_line >= self.text.len() {
            return None;
        }
        self.line_start = self.next_line;
        self.line += 1;
        let rest = &self.text[self.line_start..];
        let end = rest.find('\n').unwrap_or(rest.len());
        self.next_line = self.line_start + (end + 1).min(rest.len());
        Some(Span {
            text: &rest[..end],
            offset: self.line_start,
        })
    }

    /// Returns the place of an offset within the current line.
    pub(crate) fn position(&self, offset: usize) -> Position {
        let before = self.text.get(self.line_start..offset).unwrap_or_default();
        Position {
            line: self.line,
            column: before.chars().count() + 1,
        }
    }

    pub(crate) fn error(
        &self,
        problem: Problem,
        at: Span<'_>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> ModelfileError {
        ModelfileError::new(problem, self.position(at.offset), at.text, message, hint)
    }

    fn instruction(&mut self, line: Span<'a>) -> Result<Instruction, ModelfileError> {
        let (word, rest) = line.word();
        let keyword = word.text.to_ascii_uppercase();
        Ok(match keyword.as_str() {
            "FROM" => Instruction::From(self.needed_value(word, rest, "FROM ./model.gguf")?),
            "ADAPTER" => self.adapter(word, rest)?,
            "DRAFT" => Instruction::Draft(self.needed_value(word, rest, "DRAFT llama3.2:1b")?),
            "PARAMETER" => self.parameter(word, rest)?,
            "TEMPLATE" => Instruction::Template(self.value(rest)?),
            "SYSTEM" => Instruction::System(self.value(rest)?),
            "MESSAGE" => self.message(word, rest)?,
            "LICENSE" => Instruction::License(self.value(rest)?),
            "REQUIRES" => Instruction::Requires(self.needed_value(word, rest, "REQUIRES 0.7.0")?),
            "DATASET" => self.dataset(word, rest)?,
            "TRAIN" => self.train(word, rest)?,
            "HYPER" => self.hyper(word, rest)?,
            "QUANTIZE" => self.quantize(word, rest)?,
            _ => match ReservedWord::ALL
                .into_iter()
                .find(|reserved| reserved.as_str() == keyword)
            {
                Some(reserved) => Instruction::Reserved {
                    word: reserved,
                    text: self.value(rest)?,
                },
                None => return Err(self.unknown_word(word, line)),
            },
        })
    }

    fn unknown_word(&self, word: Span<'a>, line: Span<'a>) -> ModelfileError {
        let reserved = ReservedWord::ALL.into_iter().map(ReservedWord::as_str);
        let hint = match near_miss(word.text, Instruction::WORDS.into_iter().chain(reserved)) {
            Some(near) => format!("did you mean `{near}`?"),
            None if line.text.starts_with('"') => {
                "begin a value in quotes on the line of its instruction: `SYSTEM \"\"\"...`".to_owned()
            }
            None => format!(
                "a line begins with one of {}; a value of several lines stands in `\"\"\"`",
                Instruction::WORDS.join(", ")
            ),
        };
        let shown = Span {
            text: line.text,
            offset: word.offset,
        };
        let word: String = word.text.chars().take(40).collect();
        self.error(Problem::Syntax, shown, format!("`{word}` is not an instruction"), hint)
    }

    /// Returns the value that begins at `rest`, the trimmed rest of the current line; takes further lines for one in quotes.
    fn value(&mut self, rest: Span<'a>) -> Result<String, ModelfileError> {
        let n_quotes = if rest.text.starts_with("\"\"\"") {
            3
        } else if rest.text.starts_with('"') {
            1
        } else {
            return self.here_text(rest).unwrap_or(Ok(rest.text)).map(str::to_owned);
        };
        let quotes = &"\"\"\""[..n_quotes];
        let position = self.position(rest.offset);
        let mut line_end = rest.offset + rest.text.len();
        loop {
            // Only the end can have changed, and it is what is looked at: each line costs its own length.
            let buffer = self.text[rest.offset..line_end].trim_end();
            if buffer.len() >= 2 * n_quotes && buffer.ends_with(quotes) {
                return Ok(buffer[n_quotes..buffer.len() - n_quotes].to_owned());
            }
            match self.take_line() {
                Some(line) => line_end = line.offset + line.text.len(),
                None => {
                    return Err(ModelfileError::new(
                        Problem::Syntax,
                        position,
                        rest.text,
                        format!("the text that begins with {quotes} here has no end"),
                        format!("end it with {quotes} at the end of a line"),
                    ));
                }
            }
        }
    }

    /// Returns the lines behind `<<<WORD` up to a line that is that word; nothing when the value does not begin so.
    fn here_text(&mut self, rest: Span<'a>) -> Option<Result<&'a str, ModelfileError>> {
        let word = rest.text.strip_prefix("<<<")?;
        if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_') {
            return None;
        }
        let position = self.position(rest.offset);
        let start = self.next_line;
        while let Some(line) = self.take_line() {
            if line.text.trim_end() == word {
                return Some(Ok(self.text[start..line.offset].strip_suffix('\n').unwrap_or_default()));
            }
        }
        Some(Err(ModelfileError::new(
            Problem::Syntax,
            position,
            rest.text,
            format!("the text that begins with `{}` here has no end", rest.text),
            format!(
                "end it with a line that is `{word}`, or write `\"{}\"` if that is the text itself",
                rest.text
            ),
        )))
    }

    pub(crate) fn needed_value(
        &mut self,
        word: Span<'a>,
        rest: Span<'a>,
        example: &str,
    ) -> Result<String, ModelfileError> {
        let value = self.value(rest)?;
        if value.is_empty() {
            return Err(self.no_value(word, example));
        }
        Ok(value)
    }

    pub(crate) fn no_value(&self, word: Span<'a>, example: &str) -> ModelfileError {
        let message = format!("`{}` has no value", word.text.to_ascii_uppercase());
        self.error(Problem::Syntax, word, message, format!("write for example `{example}`"))
    }

    fn adapter(&mut self, word: Span<'a>, rest: Span<'a>) -> Result<Instruction, ModelfileError> {
        let Some((path, name)) = split_name(rest) else {
            let path = self.needed_value(word, rest, "ADAPTER ./adapter AS expert")?;
            return Ok(Instruction::Adapter { path, name: None });
        };
        let path = match path.text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
            Some(quoted) => quoted,
            None => path.text,
        };
        if path.is_empty() {
            return Err(self.no_value(word, "ADAPTER ./adapter AS expert"));
        }
        if !is_adapter_name(name.text) {
            let message = format!("`{}` cannot name an adapter", name.text);
            let hint = format!(
                "use letters, digits, `.`, `_` and `-`, beginning with a letter or digit, at most {ADAPTER_NAME_BYTES_MAX}; \
                 `base` is the model without adapters"
            );
            return Err(self.error(Problem::Syntax, name, message, hint));
        }
        Ok(Instruction::Adapter {
            path: path.to_owned(),
            name: Some(name.text.to_owned()),
        })
    }

    fn parameter(&mut self, word: Span<'a>, rest: Span<'a>) -> Result<Instruction, ModelfileError> {
        let (name, rest) = rest.word();
        if name.text.is_empty() {
            return Err(self.no_value(word, "PARAMETER temperature 0.2"));
        }
        if let Some((before, behind)) = name.text.split_once('=') {
            let message = format!("`{}` has a `=`", name.text);
            return Err(self.error(
                Problem::Syntax,
                name,
                message,
                format!("write `PARAMETER {before} {behind}`"),
            ));
        }
        let Some(parameter) = parameters::find(name.text) else {
            let error = parameters::parse_value(name.text, "").err();
            let (message, hint) = error.map(|error| (error.message, error.hint)).unwrap_or_default();
            return Err(self.error(Problem::Parameter, name, message, hint));
        };
        let position = self.position(rest.offset);
        let text = self.value(rest)?;
        match parameters::parse_value(parameter.name, &text) {
            Ok(value) => Ok(Instruction::Parameter {
                name: parameter.name.to_owned(),
                value,
            }),
            Err(error) => Err(ModelfileError::new(
                Problem::Parameter,
                position,
                rest.text,
                error.message,
                error.hint,
            )),
        }
    }

    fn message(&mut self, word: Span<'a>, rest: Span<'a>) -> Result<Instruction, ModelfileError> {
        let (role_word, rest) = rest.word();
        if role_word.text.is_empty() {
            return Err(self.no_value(word, "MESSAGE user Hello"));
        }
        let role = Role::ALL
            .into_iter()
            .find(|role| role_word.text.eq_ignore_ascii_case(role.as_str()));
        let Some(role) = role else {
            let names = Role::ALL.map(Role::as_str);
            let hint = match near_miss(role_word.text, names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("write `MESSAGE` and one of {}, then the text", names.join(", ")),
            };
            return Err(self.error(
                Problem::Syntax,
                role_word,
                format!("`{}` is not a role", role_word.text),
                hint,
            ));
        };
        Ok(Instruction::Message {
            role,
            content: self.value(rest)?,
        })
    }
}

/// Splits `path AS name` at its end. Nothing when there is no such end, or when the path's quotes are still open there.
fn split_name(rest: Span<'_>) -> Option<(Span<'_>, Span<'_>)> {
    let name_start = rest.text.rfind(char::is_whitespace)? + 1;
    // The blank may have several bytes; the name begins at the next character.
    let name_start = rest.text.ceil_char_boundary(name_start);
    let (before, name) = rest.text.split_at(name_start);
    let before = before.trim_end();
    let path_end = before.len().checked_sub(2)?;
    if !before.is_char_boundary(path_end) || !before[path_end..].eq_ignore_ascii_case("AS") {
        return None;
    }
    let path = &before[..path_end];
    let is_separate = path.is_empty() || path.ends_with(char::is_whitespace);
    let path = path.trim_end();
    let is_open = path.starts_with('"') && (path.len() < 2 || !path.ends_with('"'));
    let is_triple = path.starts_with("\"\"\"");
    if !is_separate || is_open || is_triple || name.ends_with('"') {
        return None;
    }
    Some((
        Span {
            text: path,
            offset: rest.offset,
        },
        Span {
            text: name,
            offset: rest.offset + name_start,
        },
    ))
}

/// Says whether a text can name an adapter. `base` cannot: requests name the model without adapters by it.
pub(crate) fn is_adapter_name(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    name.len() <= ADAPTER_NAME_BYTES_MAX
        && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && name.bytes().all(is_inner)
        && !name.eq_ignore_ascii_case("base")
}
