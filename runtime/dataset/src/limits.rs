//! Every limit of this crate, with its reason. Hostile input meets one of these before it meets the machine's memory.

/// Longest line that is read. A million tokens of text are about 4 MB; a longer line is skipped, and told.
pub const LINE_BYTES_MAX: usize = 32 << 20;

/// Most messages in one row; a longer list is a fault before its elements are kept.
pub const MESSAGES_MAX: usize = 10_000;

/// Most keys in one JSON object that is looked into.
pub const KEYS_MAX: usize = 1_000;

/// Most faults that one row tells; the rest follow once these are mended.
pub const FAULTS_PER_ROW_MAX: usize = 16;

/// Most faults that a report keeps word for word; all are counted.
pub const FAULTS_KEPT_MAX: usize = 1_000;

/// Largest `tools`, `tool_calls` or other value that is kept as a tree, which takes some 40 times the memory of its text.
pub const TREE_BYTES_MAX: usize = 1 << 20;

/// Most rows of one data set: 32-bit row numbers, and below the length (2^32 / 20) at which torch changes its permutation.
pub const ROWS_MAX: usize = 100_000_000;

/// Most files of one data set.
pub const FILES_MAX: usize = 100_000;

/// Deepest folder that is searched for files.
pub const FOLDER_DEPTH_MAX: usize = 16;

/// Longest piece of a row that a message quotes, in characters.
pub(crate) const QUOTED_CHARS_MAX: usize = 40;

/// Longest word that near misses are looked for: comparing costs memory in proportion.
pub(crate) const NEAR_MISS_BYTES_MAX: usize = 64;
