//! Newline-delimited JSON out of chunks that are cut anywhere. Pure.
//!
//! **Invariant:** never holds more than [`LINE_BYTES_MAX`] bytes of an unfinished line, whatever arrives.

/// Longest line accepted. `/api/show` of a model with its template and licences is far below it.
pub(crate) const LINE_BYTES_MAX: usize = 16 << 20;

/// A line is longer than [`LINE_BYTES_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LineTooLong;

/// Collects chunks and hands out whole lines without their line end. Empty lines are skipped.
#[derive(Default)]
pub(crate) struct LineDecoder {
    buffer: Vec<u8>,
    /// Bytes of `buffer` already searched for a line end, so that many small chunks cost linear time.
    searched: usize,
    /// Start of the next line within `buffer`.
    start: usize,
}

impl LineDecoder {
    /// Adds what arrived.
    pub(crate) fn push(&mut self, chunk: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(chunk);
    }

    /// Returns the next whole line, or nothing when more must arrive first.
    pub(crate) fn next_line(&mut self) -> Result<Option<Vec<u8>>, LineTooLong> {
        loop {
            let Some(found) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                let unfinished = self.buffer.len() - self.start;
                return if unfinished > LINE_BYTES_MAX {
                    Err(LineTooLong)
                } else {
                    Ok(None)
                };
            };
            let end = self.searched + found;
            let line = trim(&self.buffer[self.start..end]).to_vec();
            self.searched = end + 1;
            self.start = end + 1;
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }

    /// Returns the rest after the last line end, once nothing more arrives.
    pub(crate) fn finish(&mut self) -> Option<Vec<u8>> {
        let rest = trim(&self.buffer[self.start..]).to_vec();
        self.buffer.clear();
        self.start = 0;
        self.searched = 0;
        (!rest.is_empty()).then_some(rest)
    }
}

fn trim(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(chunks: &[&[u8]]) -> Vec<String> {
        let mut decoder = LineDecoder::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            decoder.push(chunk);
            while let Some(line) = decoder.next_line().unwrap() {
                lines.push(String::from_utf8(line).unwrap());
            }
        }
        lines.extend(decoder.finish().map(|line| String::from_utf8(line).unwrap()));
        lines
    }

    // The same text must give the same lines wherever the transport cuts it, also inside a character or a CRLF.
    #[test]
    fn cuts_do_not_change_the_lines() {
        let text = "{\"a\":\"é\"}\r\n\n{\"b\":2}\n{\"c\":3}".as_bytes();
        let expected = vec!["{\"a\":\"é\"}", "{\"b\":2}", "{\"c\":3}"];
        for cut in 0..=text.len() {
            assert_eq!(all(&[&text[..cut], &text[cut..]]), expected, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(all(&bytes), expected);
    }

    #[test]
    fn a_line_without_end_is_refused_at_the_limit() {
        let mut decoder = LineDecoder::default();
        decoder.push(&vec![b'x'; LINE_BYTES_MAX]);
        assert_eq!(decoder.next_line(), Ok(None));
        decoder.push(b"x");
        assert_eq!(decoder.next_line(), Err(LineTooLong));
    }
}
