//! The twin of the tile unit's module where there is none: nobody can make a [`Tiles`], so nothing here is ever called.

use std::ops::Range;

use witness_formats::gguf::GgmlType;

use crate::activations::Record;
use crate::format::Format;

pub(crate) const TOKENS: usize = 16;
pub(crate) const SLAB_BLOCKS: usize = 64;

#[derive(Clone, Copy)]
pub(crate) enum Tiles {}

pub(crate) struct Unit(Tiles);

#[derive(Clone, Copy)]
#[expect(dead_code, reason = "nobody is there to read them")]
pub(crate) struct Rows {
    pub(crate) start: *mut f32,
    pub(crate) stride: usize,
    pub(crate) n_rows: usize,
    pub(crate) begins: bool,
}

/// # Safety
/// None is needed; the twin has some.
pub(super) unsafe fn tiles(_: GgmlType) -> Option<Tiles> {
    None
}

impl Unit {
    pub(crate) fn new(tiles: Tiles) -> Unit {
        match tiles {}
    }

    pub(crate) fn unpack(&mut self, _: Format, _: &[u8], _: usize, _: Range<usize>) {
        match self.0 {}
    }

    /// # Safety
    /// None is needed; the twin has some.
    pub(crate) unsafe fn multiply(&mut self, _: &[Record], _: Rows) {
        match self.0 {}
    }
}
