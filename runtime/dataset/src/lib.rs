//! Training data: files of conversations, checked, split, ordered and packed.
//!
//! What it knows: the shapes that rows of JSONL come in, what makes a row a conversation that can be learned, and the orders in which
//! Python and torch put rows. What it must not know: tokenizers, chat templates, tensors; a count of tokens comes in as a closure or
//! as lengths.
//!
//! Layout, in reading order: [`conversation`] (the one form of a row) and [`fault`] (what is wrong with one); `row` (a line to a
//! conversation); [`sources`] and [`reader`] (files to lines, streaming); [`mod@scan`] (all of it, with duplicates and counts);
//! [`mod@write`] (merge and split to files); [`mod@split`], [`order`], [`packing`] (pure arithmetic over row numbers); [`random`] (bit-exact
//! generators); [`statistics`].
//!
//! **Invariant:** nothing here panics on any input, and memory is bounded by one line ([`limits::LINE_BYTES_MAX`]) and some 100 bytes
//! a row, whatever the size of the files, except in [`scan::load`], which keeps every row.
//!
//! ```
//! use witness_dataset::{EpochOrder, SplitOptions, order, split};
//!
//! let parts = split(22, &SplitOptions::default())?;
//! assert_eq!(parts.train[..4], [21, 5, 2, 15]); // as Python's random.seed(42); random.shuffle(..)
//! let epoch = EpochOrder::SeedPlusEpoch.rows(42, parts.train.len(), 0);
//! assert_eq!(epoch[..4], [15, 6, 13, 17]); // as torch.randperm with the seed 42
//! assert_eq!(order::steps(&epoch, 4, 4).len(), 2);
//! # Ok::<(), witness_dataset::DatasetError>(())
//! ```

pub mod conversation;
mod duplicates;
mod error;
pub mod fault;
mod json;
pub mod limits;
mod lines;
pub mod order;
pub mod packing;
mod python_json;
pub mod random;
pub mod reader;
mod row;
pub mod scan;
pub mod sources;
pub mod split;
pub mod statistics;
pub mod write;

pub use conversation::{Body, Conversation, Message, Role};
pub use duplicates::{Fingerprint, Fingerprints, Leak, Likeness, leakage, normalise};
pub use error::DatasetError;
pub use fault::{Fault, FaultCode, Place, Severity};
pub use order::EpochOrder;
pub use packing::{Packing, pack};
pub use reader::{Line, LineAt, ReadOptions, Reader};
pub use row::{Checks, Row, Shape};
pub use scan::{Dataset, Report, ScanOptions, load, scan};
pub use sources::Sources;
pub use split::{Split, SplitOptions, split};
pub use statistics::Statistics;
