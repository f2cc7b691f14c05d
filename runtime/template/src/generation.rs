//! The `{% generation %}` tag of training templates: it marks what the assistant says.
//!
//! The engine has no such tag. Its name is replaced, in place, by a call block of [`FUNCTION`]: the same scope (what is set inside stays
//! inside) and the same trimming of blanks as in Python, and the engine can then say which part of the output the call wrote.
//! The replacement walks over the source as Jinja's lexer does, so a tag inside a comment, a raw block or a string stays text.

/// The function whose call blocks stand for the tag. The name is reserved.
pub(crate) const FUNCTION: &str = "__witness_generation";

/// Returns the source with each generation tag replaced; nothing when there is none.
pub(crate) fn replace_tags(source: &str) -> Option<String> {
    if !source.contains("generation") {
        return None;
    }
    let mut out = String::with_capacity(source.len() + 64);
    let mut copied = 0;
    let mut position = 0;
    while let Some(found) = source[position..].find('{') {
        let open = position + found;
        let rest = &source[open..];
        position = if rest.starts_with("{#") {
            open + rest.find("#}").map_or(rest.len(), |end| end + 2)
        } else if let Some(code) = rest.strip_prefix("{{") {
            open + 2 + skip_code(code, "}}")
        } else if let Some(code) = rest.strip_prefix("{%") {
            let name_start = open + 2 + blanks(code);
            let name = word(&source[name_start..]);
            let name_end = name_start + name.len();
            let replacement = match name {
                "generation" => Some(format!("call {FUNCTION}()")),
                "endgeneration" => Some("endcall".to_owned()),
                _ => None,
            };
            if let Some(replacement) = replacement {
                out.push_str(&source[copied..name_start]);
                out.push_str(&replacement);
                copied = name_end;
            }
            let tag_end = name_end + skip_code(&source[name_end..], "%}");
            if name == "raw" {
                end_of_raw(source, tag_end)
            } else {
                tag_end
            }
        } else {
            open + 1
        };
    }
    if copied == 0 {
        return None;
    }
    out.push_str(&source[copied..]);
    Some(out)
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

/// Returns how far the code before and including `close` reaches. `close` does not count inside strings or brackets.
fn skip_code(code: &str, close: &str) -> usize {
    let bytes = code.as_bytes();
    let mut depth = 0usize;
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            quote @ (b'"' | b'\'') => {
                i += 1;
                while i < bytes.len() && bytes[i] != quote {
                    i += if bytes[i] == b'\\' { 2 } else { 1 };
                }
            }
            _ if depth == 0 && bytes[i..].starts_with(close.as_bytes()) => return i + close.len(),
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        i += 1;
    }
    bytes.len()
}

/// Returns where the code behind `{% endraw %}` begins.
fn end_of_raw(source: &str, from: usize) -> usize {
    let mut position = from;
    while let Some(found) = source[position..].find("{%") {
        let open = position + found + 2;
        let name_start = open + blanks(&source[open..]);
        if word(&source[name_start..]) == "endraw" {
            return name_start + skip_code(&source[name_start..], "%}");
        }
        position = open;
    }
    source.len()
}

#[cfg(test)]
mod tests {
    use super::replace_tags;

    #[test]
    fn only_real_tags_are_replaced() {
        assert_eq!(
            replace_tags("a{%- generation -%}b{% endgeneration+%}c").as_deref(),
            Some("a{%- call __witness_generation() -%}b{% endcall+%}c")
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
            assert_eq!(replace_tags(untouched), None, "{untouched}");
        }
        assert_eq!(
            replace_tags("{% raw %}{{ '{% endraw %}{%generation%}").as_deref(),
            Some("{% raw %}{{ '{% endraw %}{%call __witness_generation()%}")
        );
    }
}
