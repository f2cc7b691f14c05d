//! `DRAFT`, from its instructions to the plan: one a file, and not in one that trains.

use crate::ast::{Instruction, Modelfile};
use crate::error::{ModelfileError, Problem};
use crate::plan::Source;

impl Modelfile {
    /// Finds the one `DRAFT`.
    pub(crate) fn draft(&self, trains: bool) -> Result<Option<Source>, ModelfileError> {
        let mut found: Option<Source> = None;
        for command in &self.commands {
            let Instruction::Draft(text) = &command.instruction else {
                continue;
            };
            let fault = |problem, message: String, hint: &str| {
                ModelfileError::new(problem, command.position, &command.to_string(), message, hint)
            };
            if let Some(first) = found {
                return Err(fault(
                    Problem::Plan,
                    format!("the Modelfile names a draft on line {} already", first.position.line),
                    "keep one `DRAFT`: one model guesses at a time",
                ));
            }
            if trains {
                return Err(fault(
                    Problem::NotYet,
                    "a Modelfile that trains cannot name a draft in the same step yet".to_owned(),
                    "remove the line, train first, then create a second model `FROM` the first with this `DRAFT`",
                ));
            }
            found = Some(Source {
                text: text.clone(),
                position: command.position,
            });
        }
        Ok(found)
    }
}
