//! Text to tokens and back, for every kind of tokenizer that a model may bring.
//!
//! What: [`Tokenizer`] loads a Hugging Face directory or the vocabulary inside a GGUF file, encodes text, and decodes tokens one at a
//! time without ever cutting a character; [`train`] makes a new one from text. What not: no chat templates, no sampling, no network; it
//! reads bytes that it is given.
//!
//! Layout: [`Tokenizer`] joins an engine (`bpe`, `sentencepiece`, `unigram`, `wordpiece`, or the `tokenizers` crate behind `hf`), a `vocabulary`,
//! the set of `special` tokens and a way to `decode`. `gguf` and `hf` load, `train` makes; `families` and `split` cut text into words.
//!
//! **Invariant:** any file gives a tokenizer or an error, any text gives tokens or an error: no panic, no work beyond
//! `O(n log n)` in the text for vocabularies from GGUF, and no memory beyond a small multiple of the file.
//!
//! ```
//! use witness_tokenizer::{Encode, HfFiles, Tokenizer};
//! let json = br#"{"model": {"type": "WordLevel", "vocab": {"hello": 0, "world": 1, "<unk>": 2}, "unk_token": "<unk>"},
//!                 "pre_tokenizer": {"type": "Whitespace"}}"#;
//! let tokenizer = Tokenizer::from_hf_bytes(HfFiles { tokenizer: json, ..HfFiles::default() })?;
//! let tokens = tokenizer.encode("hello world", Encode::default())?;
//! assert_eq!(tokens, [0, 1]);
//! assert_eq!(tokenizer.decode(&tokens, true), "hello world");
//! # Ok::<(), witness_tokenizer::TokenizerError>(())
//! ```

mod tokenizer;

mod gguf;
mod hf;
mod train;

mod bpe;
mod sentencepiece;
mod unigram;
mod wordpiece;

mod families;
mod split;

mod bytelevel;
mod cache;
mod decode;
mod error;
mod hash;
mod special;
mod trie;
mod vocabulary;

pub use decode::DecodeStream;
pub use error::TokenizerError;
pub use hf::HfFiles;
pub use tokenizer::{Encode, TEXT_BYTES_MAX, Tokenizer};
pub use train::{TrainOptions, TrainedTokenizer, WordRule, train};
pub use vocabulary::TokenKind;
