//! A JSON text as Python's `json.dumps(json.loads(text))` writes it, byte for byte, so that files written here and by the guide's
//! script are the same file.
//!
//! Works on tokens of text that is known to be valid JSON: no tree, no recursion, one pass. What differs from Python: a key that stands
//! twice in an inner object stays twice, and a number too large for an f64 keeps its digits (Python would write `Infinity`, which is no JSON).

/// Returns `json`, which must be valid JSON, in Python's default form: `, ` and `: ` between tokens, ASCII only.
pub(crate) fn dumps(json: &str) -> String {
    let mut out = String::with_capacity(json.len() + json.len() / 8);
    let mut rest = json;
    while let Some(c) = rest.chars().next() {
        match c {
            '"' => rest = string(rest, &mut out),
            '-' | '0'..='9' => {
                let end = rest.find(|c: char| !matches!(c, '-' | '+' | '.' | 'e' | 'E' | '0'..='9'));
                let (literal, after) = rest.split_at(end.unwrap_or(rest.len()));
                out += &number(literal);
                rest = after;
            }
            _ => {
                match c {
                    ',' => out.push_str(", "),
                    ':' => out.push_str(": "),
                    ' ' | '\t' | '\r' | '\n' => {}
                    _ => out.push(c),
                }
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    out
}

/// Writes the string that `rest` begins with, and returns what follows it.
fn string<'a>(rest: &'a str, out: &mut String) -> &'a str {
    out.push('"');
    let mut rest = &rest[1..];
    loop {
        // Most of most texts: characters that stand for themselves.
        let plain = rest.bytes().position(|byte| !is_plain(byte)).unwrap_or(rest.len());
        out.push_str(&rest[..plain]);
        rest = &rest[plain..];
        let mut chars = rest.chars();
        match chars.next() {
            None => return "",
            Some('"') => {
                out.push('"');
                return chars.as_str();
            }
            Some('\\') => escape(&mut chars, out),
            Some(other) => {
                let mut units = [0; 2];
                for &mut half in other.encode_utf16(&mut units) {
                    unit(half, out);
                }
            }
        }
        rest = chars.as_str();
    }
}

fn is_plain(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\'
}

/// Writes what an escape stands for, which begins after its backslash.
fn escape(chars: &mut std::str::Chars<'_>, out: &mut String) {
    match chars.next() {
        Some('u') => {
            let digits: String = chars.by_ref().take(4).collect();
            // Escapes of valid JSON are hexadecimal; half of a surrogate pair stays half.
            unit(u16::from_str_radix(&digits, 16).unwrap_or(0xfffd), out);
        }
        Some('n') => unit(0x0a, out),
        Some('r') => unit(0x0d, out),
        Some('t') => unit(0x09, out),
        Some('b') => unit(0x08, out),
        Some('f') => unit(0x0c, out),
        Some(other) => unit(other as u16, out),
        None => {}
    }
}

/// Writes one UTF-16 unit of a string, escaped where Python escapes.
fn unit(unit: u16, out: &mut String) {
    match unit {
        0x22 => out.push_str("\\\""),
        0x5c => out.push_str("\\\\"),
        0x0a => out.push_str("\\n"),
        0x0d => out.push_str("\\r"),
        0x09 => out.push_str("\\t"),
        0x08 => out.push_str("\\b"),
        0x0c => out.push_str("\\f"),
        0x20..=0x7e => out.push(char::from(unit as u8)),
        _ => *out += &format!("\\u{unit:04x}"),
    }
}

/// Writes a number as Python does: integers keep their digits, the rest becomes the shortest text that reads as the same f64.
fn number(literal: &str) -> String {
    if literal == "-0" {
        return "0".to_owned();
    }
    if !literal.contains(['.', 'e', 'E']) {
        return literal.to_owned();
    }
    match literal.parse::<f64>() {
        Ok(value) if value.is_finite() => float(value),
        _ => literal.to_owned(),
    }
}

/// Writes an f64 as Python's `repr`: positional for exponents from -4 to 15, else scientific with two digits of exponent at least.
fn float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let positional = format!("{value}");
        return if positional.contains('.') {
            positional
        } else {
            positional + ".0"
        };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::dumps;

    // What CPython 3.11 prints for `json.dumps(json.loads(x))`.
    #[test]
    fn python_writes_the_same() {
        for (json, python) in [
            ("{ \"a\" :1,\t\"b\":[ true,null ] }", "{\"a\": 1, \"b\": [true, null]}"),
            (
                r#"{"k":"a\/b é 😀 \u00e9 \ud83d\ude00 \ud800 \"\\"}"#,
                r#"{"k": "a/b \u00e9 \ud83d\ude00 \u00e9 \ud83d\ude00 \ud800 \"\\"}"#,
            ),
            (
                "\"\u{7f}\\u0041\\u001F\\b\\f\\n\\r\\t\"",
                "\"\\u007fA\\u001f\\b\\f\\n\\r\\t\"",
            ),
            ("[-0, -0.0, 1.0, 1.50, 1e2, 1E400]", "[0, -0.0, 1.0, 1.5, 100.0, 1E400]"),
            (
                "[1e15,1e16,123456789012345678.0,0.0001,0.00001,1e-7,1.5e300]",
                "[1000000000000000.0, 1e+16, 1.2345678901234568e+17, 0.0001, 1e-05, 1e-07, 1.5e+300]",
            ),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("{}", "{}"),
            ("[ ]", "[]"),
        ] {
            assert_eq!(dumps(json), python);
            assert_eq!(dumps(python), python, "a second time changes nothing");
        }
    }

    // Whatever a text holds, what is written reads as the same text and is ASCII.
    #[test]
    fn every_character_survives() {
        let all: String = (0..=char::MAX as u32).step_by(7).filter_map(char::from_u32).collect();
        let text = format!("{}{all}", (0..0x300).filter_map(char::from_u32).collect::<String>());
        let python = dumps(&serde_json::to_string(&text).unwrap());
        assert!(python.is_ascii());
        assert_eq!(serde_json::from_str::<String>(&python).unwrap(), text);
    }

    // Nothing below may panic, whatever it is given.
    #[test]
    fn text_that_is_no_json_does_no_harm() {
        for text in ["\"", "\"\\", "\"\\u12", "\"\\uzzzz\"", "--..", "é{\u{0}", "\"é"] {
            let _ = dumps(text);
        }
    }
}
