//! The text as pieces of tokens that are run each by itself.

use std::fs::File;
use std::io::Read;

use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{FileRef, MeasurePlan, MeasuredText};
use witness_tokenizer::{Encode, TEXT_BYTES_MAX, Tokenizer};

use super::reference;

/// Shortest piece: half of it has to foretell something.
const CONTEXT_MIN: u64 = 8;

/// All pieces of a text.
pub(super) struct Pieces {
    tokens: Vec<u32>,
    /// Takes the place of a piece's first token.
    bos: Option<u32>,
    n_tokens: usize,
    /// The text's name.
    pub(super) name: String,
    /// Tokens of a piece.
    pub(super) n_context: usize,
    /// What should be known.
    pub(super) warnings: Vec<String>,
}

impl Pieces {
    /// Reads, tokenizes and cuts. `positions_max` is what the model was made for.
    pub(super) fn read(text: &MeasuredText, tokenizer: &Tokenizer, positions_max: u64) -> Result<Pieces, Diagnostic> {
        let refused = |message: String| Diagnostic::new("witness::serve::measure_text", Kind::Invalid, message);
        let asked = text.n_context;
        if asked < CONTEXT_MIN || asked > positions_max {
            return Err(Diagnostic::new(
                "witness::serve::measure_context",
                Kind::Invalid,
                format!("pieces of {asked} tokens cannot be measured"),
            )
            .cause(format!(
                "the model was made for {positions_max}, and fewer than {CONTEXT_MIN} say nothing"
            ))
            .hint("choose another length with `--context`; 512 is what most published numbers are measured with"));
        }
        let name = &text.file.name;
        let content = content_of(&text.file)?;
        let encode = Encode {
            add_special: true,
            parse_special: false,
        };
        let mut tokens = tokenizer.encode(&content, encode)?;
        let n_tokens = tokens.len();
        let mut n_context = usize::try_from(asked).unwrap_or(usize::MAX);
        let mut warnings = Vec::new();
        if n_tokens < n_context {
            if n_tokens < CONTEXT_MIN as usize {
                return Err(refused(format!("`{}` has {n_tokens} tokens", name)).hint(format!(
                    "give a text of {asked} tokens or more: some thousand make the numbers steady"
                )));
            }
            warnings.push(format!(
                "`{}` has {n_tokens} tokens: one piece of that length instead of {asked}",
                name
            ));
            n_context = n_tokens;
        }
        let there = n_tokens / n_context;
        let n_chunks = text
            .n_chunks
            .map_or(there, |most| there.min(usize::try_from(most).unwrap_or(usize::MAX)));
        if n_chunks == 0 {
            return Err(refused("0 pieces say nothing".into()).hint("leave `--chunks` out for the whole text"));
        }
        tokens.truncate(n_chunks * n_context);
        Ok(Pieces {
            tokens,
            bos: tokenizer.bos().filter(|_| tokenizer.adds_bos()),
            n_tokens,
            name: name.clone(),
            n_context,
            warnings,
        })
    }

    /// Returns the number of pieces.
    pub(super) fn len(&self) -> usize {
        self.tokens.len() / self.n_context
    }

    /// Returns a piece, with the model's beginning in place of its first token.
    pub(super) fn get(&self, index: usize) -> Vec<u32> {
        let mut piece = self.tokens[index * self.n_context..(index + 1) * self.n_context].to_vec();
        if let (Some(bos), Some(first)) = (self.bos, piece.first_mut()) {
            *first = bos;
        }
        piece
    }

    /// Returns the place in a piece whose logits are scored first: from there on there is enough before it.
    pub(super) fn first_scored(&self) -> usize {
        self.n_context / 2
    }

    /// Returns the tokens that are scored in all pieces.
    pub(super) fn n_scored(&self) -> usize {
        self.len() * (self.n_context - 1 - self.first_scored())
    }

    /// Returns the tokens of all pieces as they stand in the text.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Says what running them takes.
    pub(super) fn plan(&self, vocab_size: u64) -> MeasurePlan {
        MeasurePlan {
            n_tokens: self.n_tokens as u64,
            n_chunks: self.len() as u64,
            n_context: self.n_context as u64,
            file_bytes: reference::bytes(self.n_scored() as u64, vocab_size),
        }
    }
}

fn content_of(file: &FileRef) -> Result<String, Diagnostic> {
    let name = &file.name;
    let mut bytes = Vec::new();
    File::open(&file.path)
        .and_then(|file| file.take(TEXT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            Diagnostic::new(
                "witness::serve::measure_text",
                Kind::Environment,
                format!("`{name}` cannot be read"),
            )
            .cause(error.to_string())
        })?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Diagnostic::new(
            "witness::serve::measure_text",
            Kind::Invalid,
            format!("`{name}` is no text in UTF-8"),
        )
        .cause(format!("byte {at} begins no character"))
        .hint("save it as UTF-8, or name another file")
    })
}
