//! How packed weights lie in memory: tiles of 16 rows, whose numbers are interleaved for the widest dot product.
//!
//! # Layout, version 1
//! A matrix is its tiles in order of rows; rows beyond the last are zero. A tile is its *heads*, padded to 64 bytes, then its *codes*, both in order of columns. A
//! head belongs to a superblock (32 columns, or 256 for the K types and IQ4_XS) and holds scales; every field of it is 16 entries, one a row. Codes belong to a
//! block of 32 columns.
//!
//! Codes are cut into vectors of 64 bytes: 16 rows times 4 neighbouring columns, the unit in which `vpdpbusd` and its kin add four products into a lane of 32 bits,
//! and a row of the second factor of `tdpbssd`, of which a block is eight.
//! With `k` the number of such a group of 4 columns (0 to 7 in a block):
//!
//! | part | vectors | bits of a byte |
//! | --- | --- | --- |
//! | 8 bits | `k` | the code, signed |
//! | low 4 bits | `j` of 4 | low half: group `j`; high half: group `j + 4` |
//! | 2 bits (all, or above 4) | `i` of 2 | bits `2m`, `2m + 1`: group `4i + m` |
//! | 1 bit (above 4 or 2) | 1 | bit `k`: group `k` |
//!
//! Parts lie in the order low to high. So a type takes the bytes of the file, its blocks merely in another order: what decode reads is what the file holds.
//!
//! | scales | fields of a head | number of code `q` in block `j`, group of 16 `g` |
//! | --- | --- | --- |
//! | `Half` | `d` f16 | `d q` |
//! | `HalfMinimum` | `d`, `m` f16 | `d q + m` |
//! | `Six` | `d`, `dmin` f16; 8 times `scale_j + 64 (min_j mod 4)`; 4 times `min_j / 4 + 16 (min_(j+4) / 4)` | `d scale_j q - dmin min_j` |
//! | `SignedSix` | `d` f16; 4 times the low halves of `scale_2i`, `scale_(2i+1)`; 2 times their high two bits, 4 a byte | `d (scale_j - 32) q` |
//! | `Byte16` | `d` f16; 16 times `scale_g`, signed | `d scale_g q` |
//! | `SignedSix16` | `d` f16; 8 times the low halves of two scales; 4 times the high bits of four | `d (scale_g - 32) q` |
//! | `Nibble16` | `d`, `dmin` f16; 16 times `scale_g + 16 min_g` | `d scale_g q - dmin min_g` |

use witness_formats::gguf::GgmlType;

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;
/// The version of the layout of packed bytes. Bytes of another version are packed again from the file.
pub const LAYOUT_VERSION: u32 = 1;
/// Columns that share a scale of the activations.
pub(crate) const BLOCK: usize = 32;
/// Bytes of a vector of codes: 4 columns of each row of a tile.
pub(crate) const VECTOR: usize = 4 * TILE_ROWS;
/// What a tile and its codes are aligned to.
pub(crate) const ALIGNMENT: usize = 64;

/// The values that IQ4 codes stand for. Source: `kvalues_iq4nl` of ggml.
pub(crate) const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// How the codes of a block are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codes {
    /// 8 bits, signed.
    Bytes,
    /// 4 bits.
    Nibbles,
    /// 4 bits that stand for [`VALUES`].
    Values,
    /// 4 bits and a fifth.
    Fives,
    /// 4 bits and two more.
    Sixes,
    /// 2 bits.
    Pairs,
    /// 2 bits and a third.
    Threes,
}

/// How the scales of a superblock are stored; the module's table says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scales {
    Half,
    HalfMinimum,
    Six,
    SignedSix,
    Byte16,
    SignedSix16,
    Nibble16,
}

/// The layout of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) codes: Codes,
    pub(crate) scales: Scales,
    /// Blocks of 32 columns in a superblock.
    pub(crate) blocks: usize,
    /// What is taken from a code to get the number, a power of two or 0.
    pub(crate) offset: i32,
}

const fn format(codes: Codes, scales: Scales, blocks: usize, offset: i32) -> Format {
    Format {
        codes,
        scales,
        blocks,
        offset,
    }
}

pub(crate) const Q8_0: Format = format(Codes::Bytes, Scales::Half, 1, 0);
pub(crate) const Q4_0: Format = format(Codes::Nibbles, Scales::Half, 1, 8);
pub(crate) const Q4_1: Format = format(Codes::Nibbles, Scales::HalfMinimum, 1, 0);
pub(crate) const Q5_0: Format = format(Codes::Fives, Scales::Half, 1, 16);
pub(crate) const Q5_1: Format = format(Codes::Fives, Scales::HalfMinimum, 1, 0);
pub(crate) const Q2_K: Format = format(Codes::Pairs, Scales::Nibble16, 8, 0);
pub(crate) const Q3_K: Format = format(Codes::Threes, Scales::SignedSix16, 8, 4);
pub(crate) const Q4_K: Format = format(Codes::Nibbles, Scales::Six, 8, 0);
pub(crate) const Q5_K: Format = format(Codes::Fives, Scales::Six, 8, 0);
pub(crate) const Q6_K: Format = format(Codes::Sixes, Scales::Byte16, 8, 32);
pub(crate) const IQ4_NL: Format = format(Codes::Values, Scales::Half, 1, 0);
pub(crate) const IQ4_XS: Format = format(Codes::Values, Scales::SignedSix, 8, 0);

/// Says whether there is a kernel for a type.
pub fn is_packable(kind: GgmlType) -> bool {
    Format::of(kind).is_some()
}

impl Format {
    /// Returns the layout of a type, nothing for one without a kernel.
    pub(crate) fn of(kind: GgmlType) -> Option<Format> {
        Some(match kind {
            GgmlType::Q8_0 => Q8_0,
            GgmlType::Q4_0 => Q4_0,
            GgmlType::Q4_1 => Q4_1,
            GgmlType::Q5_0 => Q5_0,
            GgmlType::Q5_1 => Q5_1,
            GgmlType::Q2_K => Q2_K,
            GgmlType::Q3_K => Q3_K,
            GgmlType::Q4_K => Q4_K,
            GgmlType::Q5_K => Q5_K,
            GgmlType::Q6_K => Q6_K,
            GgmlType::IQ4_NL => IQ4_NL,
            GgmlType::IQ4_XS => IQ4_XS,
            _ => return None,
        })
    }

    /// Returns the bytes of a superblock's head in a tile.
    pub(crate) const fn head_bytes(self) -> usize {
        TILE_ROWS
            * match self.scales {
                Scales::Half => 2,
                Scales::HalfMinimum => 4,
                Scales::Six => 4 + 12,
                Scales::SignedSix => 2 + 6,
                Scales::Byte16 => 2 + 16,
                Scales::SignedSix16 => 2 + 12,
                Scales::Nibble16 => 4 + 16,
            }
    }

    /// Returns the vectors of codes of a block in a tile.
    pub(crate) const fn code_vectors(self) -> usize {
        match self.codes {
            Codes::Bytes => 8,
            Codes::Nibbles | Codes::Values => 4,
            Codes::Fives => 5,
            Codes::Sixes => 6,
            Codes::Pairs => 2,
            Codes::Threes => 3,
        }
    }

    /// Returns the bytes of a block's codes in a tile.
    pub(crate) const fn code_bytes(self) -> usize {
        self.code_vectors() * VECTOR
    }

    /// Returns the bytes of the heads of a tile, padded.
    pub(crate) const fn heads_bytes(self, n_blocks: usize) -> usize {
        (n_blocks / self.blocks * self.head_bytes()).next_multiple_of(ALIGNMENT)
    }

    /// Returns the bytes of a tile of rows of so many blocks.
    pub(crate) const fn tile_bytes(self, n_blocks: usize) -> usize {
        self.heads_bytes(n_blocks) + n_blocks * self.code_bytes()
    }
}
