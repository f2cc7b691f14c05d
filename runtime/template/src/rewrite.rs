//! What is changed in a template's source before the engine sees it, and what is refused there.
//!
//! - `{% generation %}`, the tag of training templates that marks what the assistant says: the engine has no such tag. Its name is replaced,
//!   in place, by a call block of [`GENERATION`]: the same scope (what is set inside stays inside) and the same trimming of blanks as in
//!   Python, and the engine can then say which part of the output the call wrote.
//! - `{% set ns.x = value %}`: the only way in which values outlive a loop's round, hence the only way to nest them without end, which
//!   overflows the stack when they are dropped. The value is passed through [`KEEP`], which bounds it.
//! - A tag with very many tokens, or very many `elif`: the engine's parser and compiler recurse once for each operator of a chain.
//!
//! The walk over the source follows Jinja's lexer, so a tag inside a comment, a raw block or a string stays text. All replacements stay on
//! their line, so errors name the right one.

use crate::error::TemplateError;
use crate::limits;

/// The function whose call blocks stand for generation tags. The name is reserved.
pub(crate) const GENERATION: &str = "__witness_generation";

/// The function that bounds what a namespace keeps. The name is reserved.
pub(crate) const KEEP: &str = "__witness_keep";

/// Returns the source as the engine gets it.
pub(crate) fn rewrite(source: &str) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(source.len() + 64);
    let mut copied = 0;
    let mut position = 0;
    let mut n_elifs = 0;
    while let Some(found) = source[position..].find('{') {
        let open = position + found;
        let rest = &source[open..];
        position = if rest.starts_with("{#") {
            open + rest.find("#}").map_or(rest.len(), |end| end + 2)
        } else if let Some(code) = rest.strip_prefix("{{") {
            let code = Code::until(code, "}}");
            check(source, open, "tokens in one tag", code.n_tokens, limits::TAG_TOKENS_MAX)?;
            open + 2 + code.n_bytes
        } else if let Some(inside) = rest.strip_prefix("{%") {
            let name_start = open + 2 + blanks(inside);
            let name = word(&source[name_start..]);
            let name_end = name_start + name.len();
            let code = Code::until(&source[name_end..], "%}");
            check(source, open, "tokens in one tag", code.n_tokens, limits::TAG_TOKENS_MAX)?;
            n_elifs += usize::from(name == "elif");
            check(source, open, "`elif` tags", n_elifs, limits::ELIFS_MAX)?;
            let mut replace = |from: usize, to: usize, by: &str| {
                out.push_str(&source[copied..from]);
                out.push_str(by);
                copied = to;
            };
            match name {
                "generation" => replace(name_start, name_end, &format!("call {GENERATION}()")),
                "endgeneration" => replace(name_start, name_end, "endcall"),
                "set" => {
                    if let Some((from, to)) = kept_value(&source[name_end..name_end + code.n_bytes]) {
                        replace(name_end + from, name_end + from, &format!(" {KEEP}("));
                        replace(name_end + to, name_end + to, ") ");
                    }
                }
                _ => {}
            }
            let tag_end = name_end + code.n_bytes;
            if name == "raw" {
                end_of_raw(source, tag_end)
            } else {
                tag_end
            }
        } else {
            open + 1
        };
    }
    out.push_str(&source[copied..]);
    Ok(out)
}

fn check(source: &str, at: usize, what: &'static str, n: usize, limit: usize) -> Result<(), TemplateError> {
    if n <= limit {
        return Ok(());
    }
    let line = source[..at].matches('\n').count() + 1;
    Err(TemplateError::TooComplex { line, what, limit })
}

/// Returns where the value of ` namespace.name = value %}` begins and ends; nothing for other assignments.
fn kept_value(code: &str) -> Option<(usize, usize)> {
    let inside = code.strip_suffix("%}")?;
    let inside = inside.strip_suffix(['-', '+']).unwrap_or(inside);
    let (target, value) = inside.split_once('=')?;
    let is_target = |c: char| c.is_alphanumeric() || c.is_whitespace() || "_.,()".contains(c);
    let is_kept =
        target.contains('.') && target.chars().all(is_target) && !value.starts_with('=') && !value.trim().is_empty();
    is_kept.then_some((target.len() + 1, inside.len()))
}

/// Returns the length of a trim sign and blanks.
fn blanks(text: &str) -> usize {
    let text_behind_sign = text.strip_prefix(['-', '+']).unwrap_or(text);
    text.len() - text_behind_sign.trim_start().len()
}

fn word(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    &text[..end]
}

/// How far a tag's code reaches and how much there is of it.
struct Code {
    n_bytes: usize,
    n_tokens: usize,
}

impl Code {
    /// Walks to the end of `close`, which does not count inside strings or brackets.
    fn until(code: &str, close: &str) -> Code {
        let bytes = code.as_bytes();
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii();
        let mut depth = 0usize;
        let mut n_tokens = 0;
        let mut i = 0;
        while i < bytes.len() {
            match bytes[i] {
                quote @ (b'"' | b'\'') => {
                    i += 1;
                    while i < bytes.len() && bytes[i] != quote {
                        i += if bytes[i] == b'\\' { 2 } else { 1 };
                    }
                }
                _ if depth == 0 && bytes[i..].starts_with(close.as_bytes()) => {
                    return Code {
                        n_bytes: i + close.len(),
                        n_tokens,
                    };
                }
                b'{' | b'[' | b'(' => depth += 1,
                b'}' | b']' | b')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            let begins_token = i < bytes.len()
                && !bytes[i].is_ascii_whitespace()
                && !(i > 0 && is_word(bytes[i]) && is_word(bytes[i - 1]));
            n_tokens += usize::from(begins_token);
            i += 1;
        }
        Code {
            n_bytes: bytes.len(),
            n_tokens,
        }
    }
}

/// Returns where the code behind `{% endraw %}` begins.
fn end_of_raw(source: &str, from: usize) -> usize {
    let mut position = from;
    while let Some(found) = source[position..].find("{%") {
        let open = position + found + 2;
        let name_start = open + blanks(&source[open..]);
        if word(&source[name_start..]) == "endraw" {
            return name_start + Code::until(&source[name_start..], "%}").n_bytes;
        }
        position = open;
    }
    source.len()
}

#[cfg(test)]
mod tests {
    use super::rewrite;

    #[test]
    fn what_a_namespace_keeps_is_wrapped() {
        let check = |source: &str, expected: &str| assert_eq!(rewrite(source).as_deref(), Ok(expected));
        check(
            "{%- set ns.a = x ~ '%}' -%}b",
            "{%- set ns.a = __witness_keep( x ~ '%}' ) -%}b",
        );
        check("{% set ns.a, ns.b=1, 2%}", "{% set ns.a, ns.b= __witness_keep(1, 2) %}");
        check("{% set a = ns.b == 1 %}", "{% set a = ns.b == 1 %}");
        check(
            "{% set ns.a | replace(x='y') %}x{% endset %}",
            "{% set ns.a | replace(x='y') %}x{% endset %}",
        );
        check("{% set ns.a %}x{% endset %}", "{% set ns.a %}x{% endset %}");
    }

    #[test]
    fn only_real_tags_are_replaced() {
        assert_eq!(
            rewrite("a{%- generation -%}b{% endgeneration+%}c").as_deref(),
            Ok("a{%- call __witness_generation() -%}b{% endcall+%}c")
        );
        for untouched in [
            "{% if add_generation_prompt %}x{% endif %}",
            "{# {% generation %} #}",
            "{% raw %}{% generation %}{% endraw %}",
            "{{ '{% generation %}' }}",
            "{{ {'a': {'b': \"{% generation %}\"}} }}",
            "{% set x = '%}{% generation %}' %}",
            "{ generation }",
            "{% generation_2 %}",
            "{{ 'open {% generation %}",
        ] {
            assert_eq!(rewrite(untouched).as_deref(), Ok(untouched));
        }
        assert_eq!(
            rewrite("{% raw %}{{ '{% endraw %}{%generation%}").as_deref(),
            Ok("{% raw %}{{ '{% endraw %}{%call __witness_generation()%}")
        );
    }
}
