//! The grids of the IQ types: which combinations of levels of 8 (or 4) neighbouring numbers a type can say.
//!
//! A point of a grid is a level for each number; a block stores the place of a point. Points were chosen by the authors of the types and follow no formula, so they
//! are data: `grids.bin`, which `tests/record/grids.py` writes from what ggml decodes. It holds the grids one after the other, a `u16` a point, little-endian: the level
//! of the first number in the lowest bits, 2 bits a level for grids of 8 numbers, 3 for those of 4.
//!
//! Memory: 29 KiB of tables, made when this is compiled.

/// Levels as they lie, all grids.
const PACKED: &[u8; 2 * (256 + 512 + 1_024 + 2_048 + 256 + 512)] = include_bytes!("grids.bin");

/// What the levels of the grids of 8 stand for.
pub(crate) const VALUES_2: [i8; 4] = [8, 25, 43, 62];
/// What the levels of the grid of IQ3_XXS stand for.
pub(crate) const VALUES_3: [i8; 8] = [4, 12, 20, 28, 36, 44, 52, 62];
/// What the levels of the grid of IQ3_S stand for.
pub(crate) const ODD: [i8; 8] = [1, 3, 5, 7, 9, 11, 13, 15];
/// What the levels of the grid of IQ1_S and IQ1_M stand for.
pub(crate) const VALUES_1: [i8; 4] = [-1, 0, 1, 2];

/// 256 points of IQ2_XXS.
pub(crate) static IQ2_XXS: [[i8; 8]; 256] = points::<256, 8, 4>(0, VALUES_2);
/// 512 points of IQ2_XS.
pub(crate) static IQ2_XS: [[i8; 8]; 512] = points::<512, 8, 4>(256, VALUES_2);
/// 1,024 points of IQ2_S.
pub(crate) static IQ2_S: [[i8; 8]; 1_024] = points::<1_024, 8, 4>(768, VALUES_2);
/// 2,048 points of IQ1_S and IQ1_M.
pub(crate) static IQ1: [[i8; 8]; 2_048] = points::<2_048, 8, 4>(1_792, VALUES_1);
/// 256 points of IQ3_XXS.
pub(crate) static IQ3_XXS: [[i8; 4]; 256] = points::<256, 4, 8>(3_840, VALUES_3);
/// 512 points of IQ3_S.
pub(crate) static IQ3_S: [[i8; 4]; 512] = points::<512, 4, 8>(4_096, ODD);

/// Unpacks the `N` points of `K` numbers that begin with the point numbered `first`; `L` is the number of levels.
const fn points<const N: usize, const K: usize, const L: usize>(first: usize, values: [i8; L]) -> [[i8; K]; N] {
    let mut points = [[0; K]; N];
    let bits = L.ilog2() as usize;
    let mut place = 0;
    while place < N {
        let at = 2 * (first + place);
        let packed = u16::from_le_bytes([PACKED[at], PACKED[at + 1]]) as usize;
        let mut number = 0;
        while number < K {
            points[place][number] = values[packed >> (bits * number) & (L - 1)];
            number += 1;
        }
        place += 1;
    }
    points
}
