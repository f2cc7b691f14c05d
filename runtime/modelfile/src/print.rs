//! From instructions back to text, such that parsing gives the same instructions.

use std::fmt;

use crate::ast::{Command, Instruction, Modelfile};
use crate::parameters::ParameterValue;

impl fmt::Display for Modelfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.commands.iter().try_for_each(|command| writeln!(f, "{command}"))
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.instruction.fmt(f)
    }
}

impl fmt::Display for Instruction {
    /// Writes the instruction without a line break at its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word();
        match self {
            Instruction::From(text)
            | Instruction::Draft(text)
            | Instruction::Template(text)
            | Instruction::System(text)
            | Instruction::License(text)
            | Instruction::Requires(text)
            | Instruction::Quantize(text)
            | Instruction::Reserved { text, .. } => write!(f, "{word} {}", quoted(text)),
            Instruction::Adapter { path, name: None } => {
                // Quotes keep a path that ends in ` AS word` from being read as one with a name.
                let is_plain = !path.contains(char::is_whitespace);
                write!(f, "{word} {}", if is_plain { quoted(path) } else { in_quotes(path) })
            }
            Instruction::Adapter { path, name: Some(name) } => {
                let is_plain = !path.contains(char::is_whitespace) && !path.starts_with('"');
                if is_plain {
                    write!(f, "{word} {path} AS {name}")
                } else {
                    write!(f, "{word} \"{path}\" AS {name}")
                }
            }
            Instruction::Parameter { name, value } => match value {
                ParameterValue::Integer(number) => write!(f, "{word} {name} {number}"),
                ParameterValue::Float(number) => write!(f, "{word} {name} {number}"),
                ParameterValue::Boolean(flag) => write!(f, "{word} {name} {flag}"),
                ParameterValue::Text(text) => write!(f, "{word} {name} {}", quoted(text)),
                ParameterValue::Texts(texts) => {
                    let lines = texts.iter().map(|text| format!("{word} {name} {}", quoted(text)));
                    f.write_str(&lines.collect::<Vec<_>>().join("\n"))
                }
            },
            Instruction::Dataset { paths, is_validation } => {
                f.write_str(word)?;
                for path in paths {
                    let is_plain = !path.contains(char::is_whitespace) && !path.starts_with('"');
                    // Quotes keep a path that is called `as` from being read as the word.
                    match is_plain && !path.eq_ignore_ascii_case("AS") {
                        true => write!(f, " {path}")?,
                        false => write!(f, " \"{path}\"")?,
                    }
                }
                f.write_str(if *is_validation { " AS validation" } else { "" })
            }
            Instruction::Train(method) => write!(f, "{word} {}", method.as_str()),
            Instruction::Hyper { key, value } => write!(f, "{word} {key} {}", quoted(value)),
            Instruction::Message { role, content } => write!(f, "{word} {} {}", role.as_str(), quoted(content)),
        }
    }
}

/// Writes a value: as it is where the grammar allows, else in the simplest quotes that hold it.
fn quoted(text: &str) -> String {
    let is_plain = !text.is_empty() && !text.contains('\n') && text.trim() == text && !text.starts_with(['"', '<']);
    if is_plain { text.to_owned() } else { in_quotes(text) }
}

fn in_quotes(text: &str) -> String {
    if !text.contains(['\n', '"']) {
        return format!("\"{text}\"");
    }
    // A line that ends in three quotes would end the value there.
    let mut inner_lines = text.rsplit('\n').skip(1);
    if inner_lines.any(|line| line.trim_end().ends_with("\"\"\"")) {
        let mut word = "END".to_owned();
        while text.split('\n').any(|line| line.trim_end() == word) {
            word.push('_');
        }
        return format!("<<<{word}\n{text}\n{word}");
    }
    format!("\"\"\"{text}\"\"\"")
}
