//! Files to rows, streaming: one line in memory at a time, each line a row or its faults.
//!
//! Not here: duplicates, which need to remember rows ([`mod@crate::scan`]).

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use crate::conversation::Conversation;
use crate::error::DatasetError;
use crate::fault::{Fault, FaultCode, Place};
use crate::limits::LINE_BYTES_MAX;
use crate::lines::{Lines, Next};
use crate::row::{Checks, Row, Shape, parse};
use crate::sources::Sources;

/// How files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// Longest line (or file of plain text) that is kept, in bytes.
    pub line_bytes_max: usize,
    /// What a row has to pass.
    pub checks: Checks,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            line_bytes_max: LINE_BYTES_MAX,
            checks: Checks::Training,
        }
    }
}

/// Where a line lies, to read it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LineAt {
    /// Index of the file in [`Sources::files`].
    pub file: u32,
    /// Line, from 1.
    pub line: u64,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes, without the line break.
    pub n_bytes: u64,
}

/// One line of a data set.
#[derive(Debug)]
pub struct Line {
    /// Where it lies.
    pub at: LineAt,
    /// Its file and line; column 1.
    pub place: Place,
    /// Its text as it stood, for a row that can be used; else empty.
    pub text: String,
    /// The row, if it can be used.
    pub row: Option<Row>,
    /// What is wrong with it. **Invariant:** without a row, a blank line's warning or at least one error.
    pub faults: Vec<Fault>,
}

impl Line {
    /// Returns whether nothing stands in the line.
    pub fn is_blank(&self) -> bool {
        self.faults.iter().any(|fault| fault.code == FaultCode::BlankLine)
    }
}

/// Reads the lines of every file, in order.
///
/// Memory: one line, its strings decoded once more, and its conversation: at most about four times [`ReadOptions::line_bytes_max`].
pub struct Reader<'a> {
    sources: &'a Sources,
    options: ReadOptions,
    next_file: usize,
    open: Option<(Arc<str>, Lines<BufReader<File>>)>,
}

impl<'a> Reader<'a> {
    /// Begins to read. Files are opened one after the other.
    pub fn new(sources: &'a Sources, options: ReadOptions) -> Self {
        Self {
            sources,
            options,
            next_file: 0,
            open: None,
        }
    }

    fn line(&mut self) -> Result<Option<Line>, DatasetError> {
        loop {
            let Some((name, lines)) = &mut self.open else {
                let Some(path) = self.sources.files.get(self.next_file) else {
                    return Ok(None);
                };
                self.next_file += 1;
                let file = File::open(path).map_err(|source| read_error(path, source))?;
                let name: Arc<str> = self.sources.name(self.next_file - 1).into();
                if is_plain_text(Path::new(&*name)) {
                    return self.plain_text(path, name, file).map(Some);
                }
                self.open = Some((name, Lines::new(BufReader::new(file), self.options.line_bytes_max)));
                continue;
            };
            let path = &self.sources.files[self.next_file - 1];
            let next = lines.read().map_err(|source| read_error(path, source))?;
            let at = LineAt {
                file: (self.next_file - 1) as u32,
                line: lines.number,
                offset: lines.offset,
                n_bytes: lines.buffer.len() as u64,
            };
            match next {
                Next::End => self.open = None,
                Next::TooLong => return Ok(Some(too_long(at, name, self.options.line_bytes_max))),
                Next::Line => {
                    let bytes = std::mem::take(&mut lines.buffer);
                    return Ok(Some(parse_line(at, name, bytes, self.options.checks)));
                }
            }
        }
    }

    /// Reads a whole file as one row of bare text.
    fn plain_text(&self, path: &Path, name: Arc<str>, file: File) -> Result<Line, DatasetError> {
        let limit = self.options.line_bytes_max;
        let mut bytes = Vec::new();
        let read = file.take(limit as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|source| read_error(path, source))?;
        let at = LineAt {
            file: (self.next_file - 1) as u32,
            line: 1,
            offset: 0,
            n_bytes: bytes.len() as u64,
        };
        if bytes.len() > limit {
            return Ok(too_long(at, &name, limit));
        }
        let text = match decode(at, &name, bytes) {
            Ok(text) => text,
            Err(bad) => return Ok(*bad),
        };
        let place = place(&name, at.line, 1);
        if text.trim().is_empty() {
            let fault = Fault::new(place.clone(), FaultCode::EmptyContent, "the file holds no text");
            return Ok(bad_line(at, place, fault));
        }
        let row = Row {
            conversation: Conversation::of_text(text.strip_prefix('\u{feff}').unwrap_or(&text)),
            shape: Shape::Text,
        };
        Ok(Line {
            at,
            place,
            text: row.conversation.to_json().to_string(),
            row: Some(row),
            faults: Vec::new(),
        })
    }
}

impl Iterator for Reader<'_> {
    type Item = Result<Line, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.line();
        if next.is_err() {
            // A file that cannot be read ends the reading; going on would tell the same for ever.
            self.next_file = self.sources.files.len();
            self.open = None;
        }
        next.transpose()
    }
}

/// Returns whether a file is one row of bare text, by its name.
pub(crate) fn is_plain_text(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "txt" || ending == "md")
}

pub(crate) fn read_error(path: &Path, source: std::io::Error) -> DatasetError {
    DatasetError::Read {
        path: path.to_owned(),
        source,
    }
}

fn place(name: &Arc<str>, line: u64, column: u64) -> Place {
    Place {
        file: Arc::clone(name),
        line,
        column,
    }
}

fn bad_line(at: LineAt, place: Place, fault: Fault) -> Line {
    Line {
        at,
        place,
        text: String::new(),
        row: None,
        faults: vec![fault],
    }
}

fn too_long(at: LineAt, name: &Arc<str>, limit: usize) -> Line {
    let place = place(name, at.line, 1);
    let message = format!("more than {limit} bytes; is this one row a line?");
    let fault = Fault::new(place.clone(), FaultCode::LineTooLong, message);
    bad_line(at, place, fault)
}

fn decode(at: LineAt, name: &Arc<str>, bytes: Vec<u8>) -> Result<String, Box<Line>> {
    String::from_utf8(bytes).map_err(|error| {
        let valid_up_to = error.utf8_error().valid_up_to();
        let byte = error.as_bytes().get(valid_up_to).copied().unwrap_or(0);
        let before = String::from_utf8_lossy(&error.as_bytes()[..valid_up_to]).into_owned();
        let column = before.chars().rev().take_while(|c| *c != '\n').count() as u64 + 1;
        let line = at.line + before.matches('\n').count() as u64;
        let message = format!("not UTF-8: byte 0x{byte:02x}; save the file as UTF-8");
        let fault = Fault::new(place(name, line, column), FaultCode::NotUtf8, message);
        Box::new(bad_line(at, place(name, at.line, 1), fault))
    })
}

/// Reads one line of JSONL.
pub(crate) fn parse_line(at: LineAt, name: &Arc<str>, bytes: Vec<u8>, checks: Checks) -> Line {
    let text = match decode(at, name, bytes) {
        Ok(text) => text,
        Err(bad) => return *bad,
    };
    let start = place(name, at.line, 1);
    if text.trim().is_empty() {
        let fault = Fault::new(start.clone(), FaultCode::BlankLine, "a blank line; it is passed over");
        return bad_line(at, start, fault);
    }
    let parsed = parse(&text, checks);
    let faults = parsed.faults.into_iter();
    let faults = faults.map(|(column, code, message)| Fault::new(place(name, at.line, column), code, message));
    Line {
        at,
        faults: faults.collect(),
        text: if parsed.row.is_some() { text } else { String::new() },
        row: parsed.row,
        place: start,
    }
}
