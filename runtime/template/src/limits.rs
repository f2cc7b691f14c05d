//! What a template may use, each far above what real templates need.
//!
//! Not bounded here: comparing large values (`==`, `in`) costs no fuel, so a template that does nothing else can take minutes on a long
//! conversation. The worker process that renders has its own deadline.

/// Longest source of a template in bytes. The longest real one seen has 19 KB. Also bounds how often a value can be nested by assignments
/// that stand one after the other.
pub const SOURCE_BYTES_MAX: usize = 128 << 10;

/// Longest rendered text in bytes: more than a context of four million tokens.
pub const OUTPUT_BYTES_MAX: usize = 16 << 20;

/// Work that any rendering may do: one unit is an instruction of the engine or 64 bytes that the template makes. Bounds the time to
/// about a second or two and what is allocated to 128 MB, comparisons aside.
pub const FUEL_BASE: u64 = 2_000_000;

/// More work for each byte of the conversation and the tools, so that long conversations are never cut off.
pub const FUEL_PER_INPUT_BYTE: u64 = 4;

/// Deepest recursion of macros and blocks. Keeps a rendering within a thread of 2 MB of stack.
pub const RECURSION_MAX: usize = 200;

/// Deepest nesting of the conversation and of values that are printed. JSON parsers stop at 128.
pub const VALUE_DEPTH_MAX: usize = 130;

/// Longest text that a method of a string makes, in bytes.
pub const METHOD_BYTES_MAX: usize = OUTPUT_BYTES_MAX;

/// Most pieces that a string is split into.
pub const METHOD_PIECES_MAX: usize = 1 << 20;

/// Most tokens in one tag. The longest real one has 62; the engine's parser overflows a stack of 2 MB at 5,000 chained operators.
pub const TAG_TOKENS_MAX: usize = 1000;

/// Most `elif` tags of a template. Real ones have up to 20; a chain of 1,600 overflows a stack of 2 MB.
pub const ELIFS_MAX: usize = 200;

/// Deepest nesting of a value that a namespace keeps.
pub const KEPT_DEPTH_MAX: usize = 64;

/// Most items of a value that a namespace keeps, counted with every nested one.
pub const KEPT_ITEMS_MAX: usize = 100_000;

/// Most items that a rendering keeps in namespaces, all assignments together.
pub const KEPT_TOTAL_MAX: usize = 10_000_000;
