//! Wraps text at a width while it streams in pieces. Pure: returns what to print.
//!
//! A word is held back until it is complete, so that nothing printed must be taken back.
//! **Invariant:** with line ends turned back into spaces, what comes out is what went in.

/// A word longer than this is printed as it comes: it is no prose.
const WORD_COLUMNS_MAX: usize = 200;

/// Wraps one answer.
pub(crate) struct Wrap {
    /// Columns; nothing = do not wrap.
    width: Option<usize>,
    column: usize,
    /// Spaces not yet printed, because a line end may take their place.
    spaces: String,
    word: String,
}

impl Wrap {
    /// Starts at column 0 of a terminal so wide; `None` passes text through.
    pub(crate) fn new(width: Option<usize>) -> Self {
        Self {
            // In a very narrow terminal wrapping makes things worse.
            width: width.filter(|width| *width >= 20),
            column: 0,
            spaces: String::new(),
            word: String::new(),
        }
    }

    /// Takes a piece and returns what can be printed now.
    pub(crate) fn push(&mut self, piece: &str) -> String {
        if self.width.is_none() {
            return piece.to_owned();
        }
        let mut out = String::new();
        for character in piece.chars() {
            match character {
                '\n' => {
                    self.flush_word(&mut out);
                    self.spaces.clear();
                    out.push('\n');
                    self.column = 0;
                }
                ' ' | '\t' => {
                    self.flush_word(&mut out);
                    self.spaces.push(character);
                }
                _ => {
                    self.word.push(character);
                    if self.word.chars().count() >= WORD_COLUMNS_MAX {
                        self.flush_word(&mut out);
                    }
                }
            }
        }
        out
    }

    /// Returns what was held back.
    pub(crate) fn finish(&mut self) -> String {
        let mut out = String::new();
        self.flush_word(&mut out);
        out.push_str(&std::mem::take(&mut self.spaces));
        out
    }

    fn flush_word(&mut self, out: &mut String) {
        if self.word.is_empty() {
            return;
        }
        let columns = self.word.chars().count();
        let spaces = self.spaces.chars().count();
        let fits = self.width.is_none_or(|width| self.column + spaces + columns <= width);
        if fits || self.column == 0 {
            out.push_str(&self.spaces);
            self.column += spaces + columns;
        } else {
            out.push('\n');
            self.column = columns;
        }
        self.spaces.clear();
        out.push_str(&self.word);
        self.word.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrap(text: &str, width: usize, chunk: usize) -> String {
        let mut wrap = Wrap::new(Some(width));
        let characters: Vec<char> = text.chars().collect();
        let mut out = String::new();
        for piece in characters.chunks(chunk) {
            out += &wrap.push(&piece.iter().collect::<String>());
        }
        out + &wrap.finish()
    }

    // However the tokens cut the text, the lines are the same, and no word is lost or cut.
    #[test]
    fn lines_break_between_words_however_the_text_arrives() {
        let text = "The quick brown fox jumps over the lazy dog.\n\n    code stays indented\nend";
        let expected = "The quick brown fox\njumps over the lazy\ndog.\n\n    code stays\nindented\nend";
        for chunk in 1..=text.len() {
            assert_eq!(wrap(text, 20, chunk), expected, "chunks of {chunk}");
        }
    }

    #[test]
    fn without_a_terminal_text_passes_through() {
        let mut wrap = Wrap::new(None);
        assert_eq!(wrap.push("a  b"), "a  b");
        assert_eq!(wrap.finish(), "");
    }
}
