//! Python's tokens, as far as values and calls are concerned. Indentation means nothing here.

use crate::error::{Fault, Problem};
use crate::node::Position;

/// A token and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) position: Position,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind {
    Name(String),
    Number(f64, String),
    Text(String),
    /// A text that is computed: an f-string.
    Computed,
    /// A sign of one character.
    Sign(char),
    /// Signs of more than one: `==`, `**`, `->`.
    Signs,
    /// The end of a line outside of brackets.
    LineEnd,
}

/// Cuts a text into tokens.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Fault> {
    let mut lexer = Lexer {
        chars: text.chars().collect(),
        at: 0,
        position: Position { line: 1, column: 1 },
    };
    let mut tokens = Vec::new();
    let mut n_open = 0_usize;
    while let Some(c) = lexer.peek(0) {
        let position = lexer.position;
        let kind = match c {
            '\n' => {
                lexer.take();
                if n_open > 0 {
                    continue;
                }
                TokenKind::LineEnd
            }
            '\\' if lexer.peek(1) == Some('\n') => {
                lexer.take();
                lexer.take();
                continue;
            }
            '#' => {
                while lexer.peek(0).is_some_and(|c| c != '\n') {
                    lexer.take();
                }
                continue;
            }
            c if c.is_whitespace() => {
                lexer.take();
                continue;
            }
            '"' | '\'' => TokenKind::Text(lexer.text(position, true)?),
            c if c.is_alphabetic() || c == '_' => lexer.name(position)?,
            c if c.is_ascii_digit() || (c == '.' && lexer.peek(1).is_some_and(|c| c.is_ascii_digit())) => {
                lexer.number()
            }
            c => {
                lexer.take();
                match c {
                    '(' | '[' | '{' => n_open += 1,
                    ')' | ']' | '}' => n_open = n_open.saturating_sub(1),
                    _ => {}
                }
                let is_pair = |next: char| {
                    matches!((c, next), (_, '=') if "=!<>+-*/%&|^:".contains(c))
                        || (c == next && "*/<>".contains(c))
                        || (c == '-' && next == '>')
                };
                match lexer.peek(0) {
                    Some(next) if is_pair(next) => {
                        lexer.take();
                        TokenKind::Signs
                    }
                    _ => TokenKind::Sign(c),
                }
            }
        };
        tokens.push(Token { kind, position });
    }
    Ok(tokens)
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    position: Position,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek(0)?;
        self.at += 1;
        match c {
            '\n' => {
                self.position.line += 1;
                self.position.column = 1;
            }
            _ => self.position.column += 1,
        }
        Some(c)
    }

    /// A name, or a text with letters before its quotes.
    fn name(&mut self, position: Position) -> Result<TokenKind, Fault> {
        let mut name = String::new();
        while let Some(c) = self.peek(0).filter(|c| c.is_alphanumeric() || *c == '_') {
            name.push(c);
            self.take();
        }
        let is_prefix = name.len() <= 2 && name.chars().all(|c| "rRbBuUfF".contains(c));
        if !is_prefix || !matches!(self.peek(0), Some('"' | '\'')) {
            return Ok(TokenKind::Name(name));
        }
        let has_escapes = !name.contains(['r', 'R']);
        let text = self.text(position, has_escapes)?;
        match name.contains(['f', 'F']) && text.contains('{') {
            true => Ok(TokenKind::Computed),
            false => Ok(TokenKind::Text(text)),
        }
    }

    fn text(&mut self, position: Position, has_escapes: bool) -> Result<String, Fault> {
        let quote = self.take().unwrap_or('"');
        let is_long = self.peek(0) == Some(quote) && self.peek(1) == Some(quote);
        if is_long {
            self.take();
            self.take();
        }
        let mut text = String::new();
        loop {
            let Some(c) = self.take() else {
                return Err(unended(position));
            };
            match c {
                '\n' if !is_long => return Err(unended(position)),
                '\\' => self.escape(&mut text, has_escapes),
                c if c == quote && !is_long => return Ok(text),
                c if c == quote && self.peek(0) == Some(quote) && self.peek(1) == Some(quote) => {
                    self.take();
                    self.take();
                    return Ok(text);
                }
                c => text.push(c),
            }
        }
    }

    fn escape(&mut self, text: &mut String, has_escapes: bool) {
        let Some(c) = self.take() else {
            return;
        };
        match c {
            _ if !has_escapes => {
                text.push('\\');
                text.push(c);
            }
            '\n' => {}
            'n' => text.push('\n'),
            't' => text.push('\t'),
            'r' => text.push('\r'),
            '\\' | '"' | '\'' => text.push(c),
            other => {
                text.push('\\');
                text.push(other);
            }
        }
    }

    fn number(&mut self) -> TokenKind {
        let mut text = String::new();
        while let Some(c) = self.peek(0) {
            let is_sign_of_exponent = matches!(c, '+' | '-') && text.ends_with(['e', 'E']) && !text.starts_with("0x");
            if !(c.is_alphanumeric() || matches!(c, '.' | '_') || is_sign_of_exponent) {
                break;
            }
            text.push(c);
            self.take();
        }
        let digits = text.replace('_', "");
        match digits.parse::<f64>().ok().filter(|number| number.is_finite()) {
            Some(number) => TokenKind::Number(number, digits),
            // Hexadecimal and imaginary numbers are no settings.
            None => TokenKind::Computed,
        }
    }
}

fn unended(position: Position) -> Fault {
    Fault::new(
        Problem::Syntax,
        Some(position),
        "the text that begins here has no end",
        "is this a whole Python script? Rows are named with `--data`",
    )
}
