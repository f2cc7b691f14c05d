//! Lines of a file, one at a time, in bounded memory. A line above the limit is passed over without being kept.

use std::io::{self, BufRead};

/// What the next line is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The file is over.
    End,
    /// The line lies in the buffer, without its line break.
    Line,
    /// The line was longer than the limit; the buffer holds its beginning.
    TooLong,
}

/// Reads lines and counts where they lie.
pub(crate) struct Lines<R> {
    reader: R,
    line_bytes_max: usize,
    /// The line that [`Lines::read`] found.
    pub(crate) buffer: Vec<u8>,
    /// Number of that line, from 1.
    pub(crate) number: u64,
    /// Byte of the file at which it begins.
    pub(crate) offset: u64,
    /// Byte of the file at which the next begins.
    end: u64,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(reader: R, line_bytes_max: usize) -> Self {
        Self {
            reader,
            line_bytes_max,
            buffer: Vec::new(),
            number: 0,
            offset: 0,
            end: 0,
        }
    }

    /// Reads the next line into the buffer. A byte order mark before the first line and a carriage return at the end are no part of it.
    pub(crate) fn read(&mut self) -> io::Result<Next> {
        self.buffer.clear();
        self.offset = self.end;
        let mut line_bytes = 0;
        loop {
            let available = match self.reader.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let line_break = available.iter().position(|&byte| byte == b'\n');
            let piece = &available[..line_break.unwrap_or(available.len())];
            let room = self.line_bytes_max.saturating_sub(self.buffer.len());
            self.buffer.extend_from_slice(&piece[..piece.len().min(room)]);
            line_bytes += piece.len();
            let is_end = available.is_empty();
            let used = piece.len() + usize::from(line_break.is_some());
            self.reader.consume(used);
            self.end += used as u64;
            if line_break.is_some() || is_end {
                if is_end && line_bytes == 0 {
                    return Ok(Next::End);
                }
                break;
            }
        }
        self.number += 1;
        if line_bytes > self.line_bytes_max {
            return Ok(Next::TooLong);
        }
        if self.buffer.last() == Some(&b'\r') {
            self.buffer.pop();
        }
        if self.number == 1 && self.buffer.starts_with(b"\xef\xbb\xbf") {
            self.buffer.drain(..3);
            self.offset += 3;
        }
        Ok(Next::Line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    fn read(bytes: &[u8], line_bytes_max: usize, chunk: usize) -> Vec<(Next, Vec<u8>, u64, u64)> {
        let mut lines = Lines::new(BufReader::with_capacity(chunk, bytes), line_bytes_max);
        let mut all = Vec::new();
        loop {
            match lines.read().unwrap() {
                Next::End => return all,
                next => all.push((next, lines.buffer.clone(), lines.number, lines.offset)),
            }
        }
    }

    // Whatever the size of the chunks that the file comes in.
    #[test]
    fn lines_are_the_same_in_any_chunks() {
        let bytes = b"\xef\xbb\xbfone\r\n\ntoo long a line\nlast";
        for chunk in 1..40 {
            let lines = read(bytes, 8, chunk);
            let expected = [
                (Next::Line, b"one".to_vec(), 1, 3),
                (Next::Line, Vec::new(), 2, 8),
                (Next::TooLong, b"too long".to_vec(), 3, 9),
                (Next::Line, b"last".to_vec(), 4, 25),
            ];
            assert_eq!(lines, expected, "chunk {chunk}");
        }
        assert!(read(b"", 8, 4).is_empty());
        assert_eq!(read(b"\n", 8, 4).len(), 1);
    }
}
