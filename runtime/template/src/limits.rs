//! What a template may use. Real templates stay below a hundredth of each.

/// Longest source of a template in bytes. The longest real one seen has 19 KB.
pub const SOURCE_BYTES_MAX: usize = 1 << 20;

/// Longest rendered text in bytes: more than a context of four million tokens.
pub const OUTPUT_BYTES_MAX: usize = 16 << 20;

/// Work that any rendering may do: one unit is an instruction of the engine or 64 bytes that the template makes. Bounds the time to
/// about a second and what is allocated to 256 MB, whatever the template does.
pub const FUEL_BASE: u64 = 4_000_000;

/// More work for each byte of the conversation and the tools, so that long conversations are never cut off.
pub const FUEL_PER_INPUT_BYTE: u64 = 4;

/// Deepest recursion of macros and blocks. Keeps a rendering within a thread of 2 MB of stack.
pub const RECURSION_MAX: usize = 200;

/// Deepest nesting of the conversation and of values that are printed. JSON parsers stop at 128.
pub const VALUE_DEPTH_MAX: usize = 130;

/// Longest text that a method of a string makes, in bytes, and most pieces that it is split into.
pub const METHOD_BYTES_MAX: usize = OUTPUT_BYTES_MAX;

/// Most pieces that a string is split into.
pub const METHOD_PIECES_MAX: usize = 1 << 20;
