//! Calls and assignments of a script, wherever they stand. One pass; whatever is no value is skipped over with its brackets.

use serde_json::Number;

use super::lex::{Token, TokenKind};
use crate::error::{Fault, Problem};
use crate::node::{Position, Value};

/// Deepest nesting of brackets.
const DEPTH_MAX: usize = 40;

/// An expression, as far as it is a value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Expression {
    pub(super) kind: Kind,
    pub(super) position: Position,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// A text, a number, a flag, `None`.
    Value(Value),
    /// A name, with the dots in it.
    Name(String),
    List(Vec<Expression>),
    Map(Vec<(Expression, Expression)>),
    /// Parts of a path, joined.
    Path(Vec<Expression>),
    /// Anything that would have to be computed.
    Other,
}

/// A call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) callee: String,
    /// The name that its value is assigned to.
    pub(super) target: Option<String>,
    pub(super) arguments: Vec<Expression>,
    pub(super) keywords: Vec<(String, Position, Expression)>,
    pub(super) position: Position,
}

/// What a script holds.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) calls: Vec<Call>,
    /// Names and what they are set to.
    pub(super) names: Vec<(String, Expression)>,
}

/// Reads every call and assignment.
pub(super) fn parse(tokens: &[Token]) -> Result<Parsed, Fault> {
    let mut parser = Parser {
        tokens,
        at: 0,
        parsed: Parsed::default(),
        target: None,
    };
    while parser.at < tokens.len() {
        parser.statement()?;
    }
    Ok(parser.parsed)
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    parsed: Parsed,
    target: Option<String>,
}

impl<'a> Parser<'a> {
    fn peek(&self, ahead: usize) -> Option<&'a TokenKind> {
        self.tokens.get(self.at + ahead).map(|token| &token.kind)
    }

    fn is_sign(&self, sign: char) -> bool {
        self.peek(0) == Some(&TokenKind::Sign(sign))
    }

    fn position(&self) -> Position {
        self.tokens.get(self.at).map(|token| token.position).unwrap_or_default()
    }

    /// Reads an assignment, an expression, or one token of something else.
    fn statement(&mut self) -> Result<(), Fault> {
        self.target = None;
        let is_start = match self.at.checked_sub(1).map(|before| &self.tokens[before].kind) {
            None | Some(TokenKind::LineEnd | TokenKind::Sign(':' | ';')) => true,
            Some(_) => false,
        };
        match (self.peek(0), self.peek(1)) {
            (Some(TokenKind::Name(name)), Some(TokenKind::Sign('='))) if is_start => {
                self.at += 2;
                self.target = Some(name.clone());
                let mut value = self.expression(0)?;
                // `a = b = 1` and `a = 1, 2` are more than one value.
                if !matches!(self.peek(0), None | Some(TokenKind::LineEnd | TokenKind::Sign(';'))) {
                    value.kind = Kind::Other;
                }
                self.set(name, value);
                Ok(())
            }
            // `a += 1`.
            (Some(TokenKind::Name(name)), Some(TokenKind::Signs)) if is_start => {
                let position = self.position();
                self.set(
                    name,
                    Expression {
                        kind: Kind::Other,
                        position,
                    },
                );
                self.at += 2;
                Ok(())
            }
            (Some(TokenKind::Name(_)), _) => self.expression(0).map(drop),
            _ => {
                self.at += 1;
                Ok(())
            }
        }
    }

    /// A name that is set to more than one thing says nothing: which of them holds would have to be computed.
    fn set(&mut self, name: &str, value: Expression) {
        match self.parsed.names.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) if known.kind == value.kind => {}
            Some((_, known)) => known.kind = Kind::Other,
            None => self.parsed.names.push((name.to_owned(), value)),
        }
    }

    /// Reads up to a comma, a closing bracket, a colon, `=` or the end of the line.
    fn expression(&mut self, depth: usize) -> Result<Expression, Fault> {
        let position = self.position();
        if depth > DEPTH_MAX {
            return Err(Fault::new(
                Problem::Limit,
                Some(position),
                format!("the script nests deeper than {DEPTH_MAX} brackets"),
                "write its settings to a recipe",
            ));
        }
        let mut value = self.operand(depth)?;
        loop {
            if self.is_end() {
                return Ok(value);
            }
            let is_slash = self.is_sign('/');
            let begins = self.at;
            self.at += 1;
            let is_joined = is_slash && matches!(&value.kind, Kind::Path(_));
            let next = match is_joined {
                true => self.operand(depth)?,
                false => {
                    // Some operator or keyword: what follows is looked through for calls, and the whole is no value.
                    self.at = begins;
                    self.skip_one(depth)?;
                    value.kind = Kind::Other;
                    continue;
                }
            };
            if let Kind::Path(parts) = &mut value.kind {
                parts.push(next);
            }
        }
    }

    fn is_end(&self) -> bool {
        match self.peek(0) {
            None | Some(TokenKind::LineEnd) => true,
            Some(TokenKind::Sign(sign)) => matches!(sign, ',' | ')' | ']' | '}' | ':' | '=' | ';'),
            _ => false,
        }
    }

    /// Goes over one token, or over brackets and what is in them.
    fn skip_one(&mut self, depth: usize) -> Result<(), Fault> {
        match self.peek(0) {
            Some(TokenKind::Name(_) | TokenKind::Sign('(' | '[' | '{')) => self.operand(depth).map(drop),
            _ => {
                self.at += 1;
                Ok(())
            }
        }
    }

    fn operand(&mut self, depth: usize) -> Result<Expression, Fault> {
        let position = self.position();
        let kind = match self.peek(0) {
            Some(TokenKind::Text(text)) => {
                let mut text = text.clone();
                self.at += 1;
                // Texts that stand side by side are one.
                while let Some(TokenKind::Text(more)) = self.peek(0) {
                    text.push_str(more);
                    self.at += 1;
                }
                Kind::Value(Value::Text(text))
            }
            Some(TokenKind::Number(number, text)) => {
                self.at += 1;
                Kind::Value(number_of(*number, text))
            }
            Some(TokenKind::Sign('-')) => {
                self.at += 1;
                match self.peek(0) {
                    Some(TokenKind::Number(number, text)) => {
                        self.at += 1;
                        Kind::Value(number_of(-number, &format!("-{text}")))
                    }
                    _ => Kind::Other,
                }
            }
            Some(TokenKind::Name(_)) => return self.named(depth),
            Some(TokenKind::Sign('[' | '(')) => {
                let is_round = self.is_sign('(');
                let (items, has_comma) = self.items(depth)?;
                match <[Expression; 1]>::try_from(items) {
                    Ok([only]) if is_round && !has_comma => only.kind,
                    Ok(one) => Kind::List(one.into()),
                    Err(items) => Kind::List(items),
                }
            }
            Some(TokenKind::Sign('{')) => self.map(depth)?,
            Some(TokenKind::Sign(_)) if self.is_end() => Kind::Other,
            Some(_) => {
                self.at += 1;
                Kind::Other
            }
            None => Kind::Other,
        };
        self.postfix(Expression { kind, position }, depth)
    }

    /// A name with its dots, and what is called by it.
    fn named(&mut self, depth: usize) -> Result<Expression, Fault> {
        let position = self.position();
        let mut name = String::new();
        while let Some(TokenKind::Name(part)) = self.peek(0) {
            name.push_str(part);
            self.at += 1;
            if self.is_sign('.') && matches!(self.peek(1), Some(TokenKind::Name(_))) {
                name.push('.');
                self.at += 1;
            } else {
                break;
            }
        }
        let kind = match name.as_str() {
            "True" => Kind::Value(Value::Bool(true)),
            "False" => Kind::Value(Value::Bool(false)),
            "None" => Kind::Value(Value::Null),
            _ if self.is_sign('(') => return self.call(name, position, depth),
            _ => Kind::Name(name),
        };
        self.postfix(Expression { kind, position }, depth)
    }

    fn call(&mut self, callee: String, position: Position, depth: usize) -> Result<Expression, Fault> {
        let target = self.target.clone();
        let (mut arguments, mut keywords) = (Vec::new(), Vec::new());
        self.at += 1;
        while !self.is_sign(')') && self.at < self.tokens.len() {
            let at = self.position();
            match (self.peek(0), self.peek(1)) {
                (Some(TokenKind::Name(key)), Some(TokenKind::Sign('='))) => {
                    self.at += 2;
                    keywords.push((key.clone(), at, self.expression(depth + 1)?));
                }
                _ => arguments.push(self.expression(depth + 1)?),
            }
            self.over_separator();
        }
        self.at += 1;
        let kind = match callee.as_str() {
            "Path" | "pathlib.Path" | "str" | "os.path.join" => Kind::Path(arguments.clone()),
            _ => Kind::Other,
        };
        self.parsed.calls.push(Call {
            callee,
            target,
            arguments,
            keywords,
            position,
        });
        self.postfix(Expression { kind, position }, depth)
    }

    /// `.attribute`, `[index]` and `(..)` behind a value make it something that is computed.
    fn postfix(&mut self, mut value: Expression, depth: usize) -> Result<Expression, Fault> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(TokenKind::Sign('.')), Some(TokenKind::Name(_))) => self.at += 2,
                (Some(TokenKind::Sign('[' | '(')), _) => self.items(depth).map(drop)?,
                _ => return Ok(value),
            }
            value.kind = Kind::Other;
        }
    }

    /// Reads what stands in brackets; says whether there was a comma.
    fn items(&mut self, depth: usize) -> Result<(Vec<Expression>, bool), Fault> {
        let mut items = Vec::new();
        let mut has_comma = false;
        self.at += 1;
        while self.at < self.tokens.len() && !self.is_closing() {
            if let (Some(TokenKind::Name(_)), Some(TokenKind::Sign('='))) = (self.peek(0), self.peek(1)) {
                self.at += 2;
            }
            items.push(self.expression(depth + 1)?);
            has_comma |= self.is_sign(',');
            self.over_separator();
        }
        self.at += 1;
        Ok((items, has_comma))
    }

    fn map(&mut self, depth: usize) -> Result<Kind, Fault> {
        let mut pairs = Vec::new();
        let mut is_map = true;
        self.at += 1;
        while self.at < self.tokens.len() && !self.is_closing() {
            let key = self.expression(depth + 1)?;
            if self.is_sign(':') {
                self.at += 1;
                let value = self.expression(depth + 1)?;
                pairs.push((key, value));
            } else {
                is_map = false;
            }
            self.over_separator();
        }
        self.at += 1;
        Ok(if is_map { Kind::Map(pairs) } else { Kind::Other })
    }

    fn is_closing(&self) -> bool {
        self.is_sign(')') || self.is_sign(']') || self.is_sign('}')
    }

    /// Goes over what ended an expression and does not end the brackets.
    fn over_separator(&mut self) {
        if self.at < self.tokens.len() && !self.is_closing() {
            self.at += 1;
        }
    }
}

fn number_of(number: f64, text: &str) -> Value {
    if let Ok(whole) = text.parse::<i64>() {
        return Value::Number(whole.into());
    }
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}
