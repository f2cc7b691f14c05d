//! From the bytes of a file to text: UTF-8 or UTF-16 with or without a byte order mark, line ends made `\n`.

use crate::ast::Position;
use crate::error::{ModelfileError, Problem};

/// Decodes the bytes of a Modelfile.
///
/// A byte order mark decides; without one, a zero in the first or second byte tells UTF-16 (an instruction begins with an ASCII letter).
/// `\r\n` and `\r` become `\n`, so that a prompt does not depend on the editor that wrote it.
///
/// # Errors
/// [`Problem::Encoding`] with the place of the first byte that is no text, [`Problem::Limit`] beyond [`crate::FILE_BYTES_MAX`].
pub fn decode(bytes: &[u8]) -> Result<String, ModelfileError> {
    if bytes.len() > crate::FILE_BYTES_MAX {
        return Err(ModelfileError::new(
            Problem::Limit,
            Position { line: 1, column: 1 },
            "",
            format!(
                "the file has {} bytes; a Modelfile has at most {}",
                bytes.len(),
                crate::FILE_BYTES_MAX
            ),
            "name weights with `FROM ./file`; they are not part of the Modelfile",
        ));
    }
    let text = match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest)?,
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes)?,
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes)?,
        [first, 0, ..] if *first != 0 => utf16(bytes, u16::from_le_bytes)?,
        [0, second, ..] if *second != 0 => utf16(bytes, u16::from_be_bytes)?,
        _ => utf8(bytes)?,
    };
    if let Some(at) = text.find('\0') {
        return Err(not_text(&text[..at], "a zero byte"));
    }
    Ok(text.replace("\r\n", "\n").replace('\r', "\n"))
}

fn utf8(bytes: &[u8]) -> Result<String, ModelfileError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let (before, rest) = bytes.split_at(error.valid_up_to());
            let byte = rest.first().copied().unwrap_or_default();
            Err(not_text(
                &String::from_utf8_lossy(before),
                &format!("byte 0x{byte:02x}, which is not UTF-8"),
            ))
        }
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, ModelfileError> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let mut text = String::with_capacity(bytes.len());
    for decoded in char::decode_utf16(pairs.iter().map(|pair| unit(*pair))) {
        match decoded {
            Ok(c) => text.push(c),
            Err(_) => return Err(not_text(&text, "half of a UTF-16 pair")),
        }
    }
    if !rest.is_empty() {
        return Err(not_text(&text, "half of a UTF-16 unit"));
    }
    Ok(text)
}

fn not_text(before: &str, found: &str) -> ModelfileError {
    let line = before.lines().count().max(1) + usize::from(before.ends_with('\n'));
    let last_line = before.rsplit('\n').next().unwrap_or_default();
    let position = Position {
        line,
        column: last_line.chars().count() + 1,
    };
    let hint = if before.starts_with("GGUF") {
        "this is a GGUF model, not a Modelfile: write a Modelfile with `FROM ./that-file.gguf`"
    } else {
        "save the Modelfile as UTF-8 text"
    };
    ModelfileError::new(
        Problem::Encoding,
        position,
        last_line,
        format!("the file holds {found}"),
        hint,
    )
}
