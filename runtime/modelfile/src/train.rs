//! The steps that train: `DATASET`, `TRAIN`, `HYPER`, from their lines to instructions.

use witness_diagnostics::near_miss;

use crate::DATASET_PATHS_MAX;
use crate::ast::{Instruction, TrainMethod};
use crate::error::{ModelfileError, Problem};
use crate::parse::{Parser, Span};

const DATASET_EXAMPLE: &str = "DATASET ./train.jsonl";

impl<'a> Parser<'a> {
    pub(crate) fn dataset(&mut self, word: Span<'a>, rest: Span<'a>) -> Result<Instruction, ModelfileError> {
        let mut paths: Vec<Path<'a>> = Vec::new();
        let mut rest = rest;
        while !rest.text.is_empty() {
            if paths.len() == DATASET_PATHS_MAX {
                let message = format!("this `DATASET` names more than {DATASET_PATHS_MAX} paths");
                let hint = "name a folder or a pattern: `DATASET ./data`, `DATASET ./data/*.jsonl`";
                return Err(self.error(Problem::Limit, rest, message, hint));
            }
            let (path, behind) = self.path(rest)?;
            paths.push(path);
            rest = behind;
        }
        let is_validation = match paths.as_slice() {
            [.., keyword, purpose] if keyword.is_bare && keyword.span.text.eq_ignore_ascii_case("AS") => {
                if !purpose.is_bare || !purpose.span.text.eq_ignore_ascii_case("validation") {
                    let message = format!("rows cannot be used as `{}`", purpose.span.text);
                    let hint = "write `AS validation` for rows to measure on, and nothing for rows to learn from";
                    return Err(self.error(Problem::Syntax, purpose.span, message, hint));
                }
                paths.truncate(paths.len() - 2);
                true
            }
            _ => false,
        };
        if paths.is_empty() {
            return Err(self.no_value(word, DATASET_EXAMPLE));
        }
        Ok(Instruction::Dataset {
            paths: paths.iter().map(|path| path.span.text.to_owned()).collect(),
            is_validation,
        })
    }

    /// Splits off a path: a word, or what stands in quotes.
    fn path(&self, rest: Span<'a>) -> Result<(Path<'a>, Span<'a>), ModelfileError> {
        let Some(quoted) = rest.text.strip_prefix('"') else {
            let (span, behind) = rest.word();
            return Ok((Path { span, is_bare: true }, behind));
        };
        let end = quoted.find('"');
        let behind = end.map(|end| &quoted[end + 1..]);
        match (end, behind) {
            (Some(end), Some(behind)) if end > 0 && (behind.is_empty() || behind.starts_with(char::is_whitespace)) => {
                let span = Span {
                    text: &quoted[..end],
                    offset: rest.offset + 1,
                };
                let behind = Span {
                    text: behind,
                    offset: rest.offset + end + 2,
                };
                Ok((Path { span, is_bare: false }, behind.trimmed()))
            }
            _ => Err(self.error(
                Problem::Syntax,
                rest,
                "the path that begins with \" here does not end with \"",
                "write each path with blanks in its own quotes: `DATASET \"./my rows.jsonl\" ./more.jsonl`",
            )),
        }
    }

    pub(crate) fn train(&mut self, word: Span<'a>, rest: Span<'a>) -> Result<Instruction, ModelfileError> {
        let (method, behind) = rest.word();
        if method.text.is_empty() {
            return Err(self.no_value(word, "TRAIN lora"));
        }
        let names = TrainMethod::ALL.map(TrainMethod::as_str);
        let known = TrainMethod::ALL
            .into_iter()
            .find(|known| method.text.eq_ignore_ascii_case(known.as_str()));
        let Some(known) = known else {
            let hint = match near_miss(method.text, names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => {
                    "write `TRAIN lora`, `TRAIN qlora` or `TRAIN full`; rows come from `DATASET`, settings from `HYPER`"
                        .to_owned()
                }
            };
            let shown: String = method.text.chars().take(40).collect();
            return Err(self.error(
                Problem::Syntax,
                method,
                format!("`{shown}` is not a way to train"),
                hint,
            ));
        };
        if !behind.text.is_empty() {
            let hint = "write each setting on a line of its own: `HYPER num_epochs 3`";
            return Err(self.error(Problem::Syntax, behind, "`TRAIN` takes the method alone", hint));
        }
        Ok(Instruction::Train(known))
    }

    pub(crate) fn hyper(&mut self, word: Span<'a>, rest: Span<'a>) -> Result<Instruction, ModelfileError> {
        const EXAMPLE: &str = "HYPER num_epochs 3";
        let (key, rest) = rest.word();
        if key.text.is_empty() {
            return Err(self.no_value(word, EXAMPLE));
        }
        if let Some((before, behind)) = key.text.split_once('=') {
            let message = format!("`{}` has a `=`", key.text);
            let hint = format!("write `HYPER {before} {behind}`");
            return Err(self.error(Problem::Syntax, key, message, hint));
        }
        Ok(Instruction::Hyper {
            key: key.text.to_owned(),
            value: self.needed_value(word, rest, EXAMPLE)?,
        })
    }
}

#[derive(Clone, Copy)]
struct Path<'a> {
    span: Span<'a>,
    is_bare: bool,
}
