//! `QUANTIZE`, from its line to the plan: one word, once, and not in a file that trains.

use crate::ast::{Instruction, Modelfile, Position};
use crate::error::{ModelfileError, Problem};
use crate::parse::{Parser, Span};

const EXAMPLE: &str = "QUANTIZE q4_K_M";

impl<'a> Parser<'a> {
    pub(crate) fn quantize(&mut self, word: Span<'a>, rest: Span<'a>) -> Result<Instruction, ModelfileError> {
        // Taken before the value, which may span lines.
        let position = self.position(rest.offset);
        let name = self.needed_value(word, rest, EXAMPLE)?;
        if name.contains(char::is_whitespace) || name.trim().is_empty() {
            return Err(ModelfileError::new(
                Problem::Syntax,
                position,
                rest.text,
                "`QUANTIZE` takes the name of one type alone",
                format!("write for example `{EXAMPLE}`; `witness quantize` takes the finer settings"),
            ));
        }
        Ok(Instruction::Quantize(name))
    }
}

impl Modelfile {
    /// Finds the one `QUANTIZE`.
    pub(crate) fn quantization(&self, trains: bool) -> Result<Option<String>, ModelfileError> {
        let mut found: Option<(&str, Position)> = None;
        for command in &self.commands {
            let Instruction::Quantize(name) = &command.instruction else {
                continue;
            };
            let fault = |problem, message: String, hint: &str| {
                ModelfileError::new(problem, command.position, &command.to_string(), message, hint)
            };
            if let Some((_, first)) = found {
                return Err(fault(
                    Problem::Plan,
                    format!("the Modelfile quantizes on line {} already", first.line),
                    "keep one `QUANTIZE`; make a second model with `witness quantize` for a second type",
                ));
            }
            if trains {
                return Err(fault(
                    Problem::NotYet,
                    "a Modelfile that trains cannot quantize in the same step yet".to_owned(),
                    "remove the line, train first, then `witness quantize NAME TYPE`",
                ));
            }
            found = Some((name, command.position));
        }
        Ok(found.map(|(name, _)| name.to_owned()))
    }
}
