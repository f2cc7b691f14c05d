//! Packed weights and their product with tokens.
#![expect(unsafe_code, reason = "tasks write disjoint rows of one output")]

use std::ops::Range;
use std::sync::Arc;

use witness_formats::gguf::GgmlType;
use witness_instructions::Isa;

use crate::activations::{Activations, TOKENS_MAX};
use crate::error::{KernelError, Result};
use crate::format::{ALIGNMENT, BLOCK, Format, LAYOUT_VERSION, TILE_ROWS};
use crate::lanes::amx::{self, Rows, Tiles, Unit};
use crate::lanes::{Ahead, Kernel, WIDE};
use crate::memory::{Buffer, Bytes, Watch};
use crate::output::Output;
use crate::pack::pack_tile;
use crate::pool::Pool;
use crate::scalar::Block;

/// Tasks that each thread gets on average, so that one which a neighbour delays leaves the rest to the others.
const TASKS_PER_THREAD: usize = 8;
/// Tiles, tokens of a panel, and columns in blocks of a slab, whose products a task adds up before it goes on. The records of a panel's slab (96 KiB), the weights of a slab
/// and the sums (32 KiB) stay in the second cache, which is near enough: a block of 64 tokens' records is used for some 400 cycles.
const TILES_MAX: usize = 8;
const PANEL_TOKENS: usize = WIDE;
const SLAB_BLOCKS: usize = 32;
/// Fewest tokens for the tile unit: with 16 it is as quick as the dot products or slower, for it unpacks to memory.
const TILED_TOKENS: usize = 2 * amx::TOKENS;
/// Bytes of a slab of columns of a panel's tokens for the tile unit, which goes through them for each tile and unpacks the tile for each panel.
const TILED_PANEL_BYTES: usize = 768 << 10;

/// Weights `[n_rows, n_columns]` of a quantized type, packed for products. Cloning shares the bytes.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    kind: GgmlType,
    format: Format,
    n_rows: usize,
    n_columns: usize,
    bytes: Bytes,
}

impl PackedMatrix {
    /// Packs the blocks of a file, `[n_rows, n_columns]`, row-major.
    ///
    /// # Errors
    /// If the type has no kernel, rows are no whole blocks, or there are more or fewer bytes than the shape calls for.
    pub fn pack(kind: GgmlType, n_rows: usize, n_columns: usize, blocks: &[u8], pool: &Pool) -> Result<PackedMatrix> {
        let (format, len) = measure(kind, n_rows, n_columns)?;
        let shape = KernelError::Shape {
            kind,
            n_rows,
            n_columns,
        };
        let row_bytes = kind.row_bytes(n_columns).and_then(|bytes| usize::try_from(bytes).ok());
        let row_bytes = row_bytes.ok_or(shape)?;
        if blocks.len() != n_rows * row_bytes {
            return Err(KernelError::Length {
                what: "a matrix of blocks",
                found: blocks.len(),
                expected: n_rows * row_bytes,
            });
        }
        let mut buffer = Buffer::zeroed(len)?;
        if len > 0 {
            let tiles = buffer
                .as_mut_slice()
                .chunks_exact_mut(format.tile_bytes(n_columns / BLOCK));
            let rows = blocks.chunks(TILE_ROWS * row_bytes);
            pool.run_on_each(tiles.zip(rows), |(tile, rows)| {
                pack_tile(kind, format, rows, row_bytes, tile);
            });
        }
        Ok(PackedMatrix {
            kind,
            format,
            n_rows,
            n_columns,
            bytes: Bytes::Owned(Arc::new(buffer)),
        })
    }

    /// Takes bytes that [`PackedMatrix::packed_bytes`] gave once, such as a part of a mapped file, without copying them.
    ///
    /// # Errors
    /// If they were packed by another layout, are too few or too many, or do not begin at a multiple of 64.
    pub fn from_packed(
        kind: GgmlType,
        n_rows: usize,
        n_columns: usize,
        version: u32,
        owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
        range: Range<usize>,
    ) -> Result<PackedMatrix> {
        if version != LAYOUT_VERSION {
            return Err(KernelError::Packed {
                detail: "were laid out by another version of the program",
            });
        }
        let (format, len) = measure(kind, n_rows, n_columns)?;
        let bytes = Bytes::lent(owner, range).ok_or(KernelError::Packed {
            detail: "end beyond the bytes that hold them",
        })?;
        let found = bytes.as_slice();
        if found.len() != len {
            return Err(KernelError::Length {
                what: "a packed matrix",
                found: found.len(),
                expected: len,
            });
        }
        if found.as_ptr().align_offset(ALIGNMENT) != 0 {
            return Err(KernelError::Packed {
                detail: "do not begin at a multiple of 64 bytes",
            });
        }
        Ok(PackedMatrix {
            kind,
            format,
            n_rows,
            n_columns,
            bytes,
        })
    }

    /// Returns the bytes that a matrix takes when packed: those of the file, its rows rounded up to 16.
    ///
    /// # Errors
    /// If the type has no kernel or rows are no whole blocks.
    pub fn packed_len(kind: GgmlType, n_rows: usize, n_columns: usize) -> Result<usize> {
        measure(kind, n_rows, n_columns).map(|(_, len)| len)
    }

    /// Returns the type of the file.
    pub fn kind(&self) -> GgmlType {
        self.kind
    }

    /// Returns the number of rows, which is the length of an output.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Returns the length of a row, which is that of an input.
    pub fn n_columns(&self) -> usize {
        self.n_columns
    }

    /// Returns the packed bytes; what they mean is said by [`LAYOUT_VERSION`], the type and the shape.
    pub fn packed_bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// Copies bytes that were lent ([`PackedMatrix::from_packed`]) to memory of its own, on huge pages where the system has them, and uses these from then on, in all clones
    /// and while products run: the numbers are the same. Returns whether they are its own now.
    ///
    /// # Errors
    /// If there is no memory; then nothing has changed.
    pub fn take_over(&self, watch: &mut dyn Watch) -> Result<bool> {
        self.bytes.take_over(watch)
    }

    /// Writes row `index` as numbers, bit for bit as the blocks of the file decode.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not as long as a row.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        assert!(index < self.n_rows, "row {index} of {}", self.n_rows);
        assert_eq!(out.len(), self.n_columns, "a row's length");
        let n_blocks = self.n_columns / BLOCK;
        let tile = self.tile(index / TILE_ROWS);
        for (block, out) in out.chunks_exact_mut(BLOCK).enumerate() {
            Block::read(self.format, tile, n_blocks, block, index % TILE_ROWS).decode(out);
        }
    }

    /// Computes `y[n_tokens, n_rows] = x[n_tokens, n_columns] W^T`, row-major f32.
    ///
    /// # Errors
    /// If the inputs have another length than the rows, or `y` another than the outputs.
    pub fn multiply(&self, x: &Activations, y: &mut [f32], pool: &Pool) -> Result<()> {
        self.multiply_as(Isa::current(), x, y, pool)
    }

    /// As [`PackedMatrix::multiply`], with other instructions than the current ones.
    pub(crate) fn multiply_as(&self, isa: Isa, x: &Activations, y: &mut [f32], pool: &Pool) -> Result<()> {
        let n_tokens = x.n_tokens();
        if x.n_columns() != self.n_columns {
            return Err(KernelError::Length {
                what: "an input",
                found: x.n_columns(),
                expected: self.n_columns,
            });
        }
        check_outputs(y, n_tokens, self.n_rows)?;
        if y.is_empty() {
            return Ok(());
        }
        let kernel = Kernel::new(self.kind, self.format, isa);
        let n_tiles = self.n_rows.div_ceil(TILE_ROWS);
        let per_thread = n_tiles.div_ceil(pool.n_threads() * TASKS_PER_THREAD);
        let is_tiled = kernel.tiles().is_some() && n_tokens >= TILED_TOKENS;
        // Few tokens go through the weights once, and the tile unit through the tokens once for all tiles of a task; else tiles stay in a cache.
        let per_task = match n_tokens <= TOKENS_MAX || is_tiled {
            true => per_thread,
            false => per_thread.min(TILES_MAX),
        };
        let per_task = per_task.max(1);
        let output = Output::new(y, n_tokens, self.n_rows);
        pool.run(n_tiles.div_ceil(per_task), |task| {
            let tiles = task * per_task..((task + 1) * per_task).min(n_tiles);
            self.multiply_tiles(tiles, x, kernel, output);
        });
        Ok(())
    }

    /// Multiplies some tiles with all tokens: what the tile unit takes, and the rest as pays.
    fn multiply_tiles(&self, tiles: Range<usize>, x: &Activations, kernel: Kernel, output: Output<'_>) {
        let mut done = 0;
        if let Some(way) = kernel.tiles()
            && x.n_tokens() >= TILED_TOKENS
        {
            done = x.n_tokens() / amx::TOKENS * amx::TOKENS;
            self.multiply_slabs(tiles.clone(), x, done, way, output);
        }
        match x.n_tokens() - done {
            0 => {}
            1..=TOKENS_MAX => self.multiply_once(tiles, x, done, kernel, output),
            _ => self.multiply_panels(tiles, x, kernel, output),
        }
    }

    /// Multiplies some tiles with the few tokens from `done` on. Limited by memory: one way through the weights, from the first to the last.
    fn multiply_once(&self, tiles: Range<usize>, x: &Activations, done: usize, kernel: Kernel, output: Output<'_>) {
        let n_blocks = self.n_columns / BLOCK;
        for index in tiles {
            for (first, records) in x.groups(done..x.n_tokens()) {
                let mut sums = [[0.0; TILE_ROWS]; TOKENS_MAX];
                let sums = &mut sums[..records.len() / n_blocks];
                let ahead = if first == done { Ahead::STREAM } else { Ahead::NOTHING };
                kernel.run(self.tile(index), n_blocks, 0..n_blocks, ahead, records, sums);
                for (token, sums) in (first..x.n_tokens()).zip(sums) {
                    // SAFETY: this task alone has these tiles.
                    unsafe { output.put(token, index * TILE_ROWS, sums) };
                }
            }
        }
    }

    /// Multiplies [`TILES_MAX`] tiles at most with all tokens, a panel of tokens and a slab of columns at a time.
    fn multiply_panels(&self, tiles: Range<usize>, x: &Activations, kernel: Kernel, output: Output<'_>) {
        assert!(tiles.len() <= TILES_MAX, "sums for each tile");
        let n_blocks = self.n_columns / BLOCK;
        for panel in x.panels(0..x.n_tokens(), PANEL_TOKENS) {
            let mut sums = [[[0.0; TILE_ROWS]; PANEL_TOKENS]; TILES_MAX];
            for start in (0..n_blocks).step_by(SLAB_BLOCKS) {
                let blocks = start..n_blocks.min(start + SLAB_BLOCKS);
                for (tokens, records) in x.wide_groups(panel.clone(), WIDE) {
                    let in_group = tokens.len().min(TOKENS_MAX);
                    let to_last = (tokens.len() - in_group) * n_blocks;
                    let records = &records[blocks.start * in_group..to_last + blocks.end * in_group];
                    if blocks.end == n_blocks {
                        output.fetch(tokens.clone(), tiles.start * TILE_ROWS..tiles.end * TILE_ROWS);
                    }
                    // The same columns of the next tile.
                    let ahead = match tokens.start {
                        0 => Ahead {
                            far: self.format.tile_bytes(n_blocks),
                            near: 0,
                        },
                        _ => Ahead::NOTHING,
                    };
                    for (index, sums) in tiles.clone().zip(&mut sums) {
                        let sums = &mut sums[tokens.start - panel.start..][..tokens.len()];
                        kernel.run(self.tile(index), n_blocks, blocks.clone(), ahead, records, sums);
                    }
                }
            }
            // A token's rows one after the other: tokens lie far apart, and a cache line that is fetched for each row of each token costs more than its products.
            let whole = tiles.start..tiles.end.min(self.n_rows / TILE_ROWS);
            for token in panel.clone() {
                for (index, sums) in whole.clone().zip(&sums) {
                    // SAFETY: this task alone has these tiles.
                    unsafe { output.put_tile(token, index * TILE_ROWS, &sums[token - panel.start]) };
                }
            }
            if let Some(last) = tiles.clone().nth(whole.len()) {
                for token in panel.clone() {
                    // SAFETY: as above.
                    unsafe { output.put(token, last * TILE_ROWS, &sums[whole.len()][token - panel.start]) };
                }
            }
        }
    }

    /// Multiplies some tiles with the first `n_tokens`, whole groups of 16, on the tile unit: a panel of tokens and a slab of columns at a time.
    fn multiply_slabs(&self, tiles: Range<usize>, x: &Activations, n_tokens: usize, way: Tiles, output: Output<'_>) {
        let n_blocks = self.n_columns / BLOCK;
        let mut unit = Unit::new(way);
        let n_slabs = n_blocks.div_ceil(amx::SLAB_BLOCKS);
        for panel in x.panels(0..n_tokens, n_slabs * TILED_PANEL_BYTES / x.group_bytes() * TOKENS_MAX) {
            for start in (0..n_blocks).step_by(amx::SLAB_BLOCKS) {
                let blocks = start..n_blocks.min(start + amx::SLAB_BLOCKS);
                for index in tiles.clone() {
                    unit.unpack(self.format, self.tile(index), n_blocks, blocks.clone());
                    for (first, records) in x.groups(panel.clone()) {
                        let records = &records[blocks.start * amx::TOKENS..blocks.end * amx::TOKENS];
                        let row = index * TILE_ROWS;
                        let rows = Rows {
                            start: output.at(first, row, amx::TOKENS),
                            stride: output.stride(),
                            n_rows: TILE_ROWS.min(self.n_rows - row),
                            begins: start == 0,
                        };
                        // SAFETY: this task alone has these tiles, whose rows of all tokens of the group lie within the outputs.
                        unsafe { unit.multiply(records, rows) };
                    }
                }
            }
        }
    }

    fn tile(&self, index: usize) -> &[u8] {
        let tile_bytes = self.format.tile_bytes(self.n_columns / BLOCK);
        &self.bytes.as_slice()[index * tile_bytes..][..tile_bytes]
    }
}

/// Returns the layout of a matrix and the bytes that it takes.
fn measure(kind: GgmlType, n_rows: usize, n_columns: usize) -> Result<(Format, usize)> {
    let format = Format::of(kind).ok_or(KernelError::Type { kind })?;
    let shape = KernelError::Shape {
        kind,
        n_rows,
        n_columns,
    };
    // What a file of this size would take, so that no later product overflows.
    let in_file = kind
        .row_bytes(n_columns)
        .and_then(|bytes| bytes.checked_mul(n_rows as u64));
    let is_sane = in_file.is_some_and(|bytes| bytes < isize::MAX as u64 / 4);
    if n_columns == 0 || !n_columns.is_multiple_of(BLOCK * format.blocks) || !is_sane {
        return Err(shape);
    }
    let len = n_rows
        .div_ceil(TILE_ROWS)
        .checked_mul(format.tile_bytes(n_columns / BLOCK));
    len.map(|len| (format, len)).ok_or(shape)
}

/// Says whether `y` has a number for each token and row.
pub(crate) fn check_outputs(y: &[f32], n_tokens: usize, n_rows: usize) -> Result<()> {
    if Some(y.len()) == n_tokens.checked_mul(n_rows) {
        return Ok(());
    }
    Err(KernelError::Length {
        what: "a batch of outputs",
        found: y.len(),
        expected: n_tokens.saturating_mul(n_rows),
    })
}
