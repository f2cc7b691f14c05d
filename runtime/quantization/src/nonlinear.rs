//! The table that the IQ4 types choose from, and which entry is the nearest.
//!
//! Source: `kvalues_iq4nl` and `best_index_int8` of ggml. The search there compares two rounded differences, so between two entries `a` and `b` the place where it
//! changes its mind is not exactly their middle; [`THRESHOLDS`] holds the first number for which it takes `b`. Counting thresholds is what vectors can do.

/// The sixteen values, as numbers.
pub(crate) const VALUES: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];

/// For each value but the last, the smallest number that is taken for a later one.
#[cfg(any(test, target_arch = "x86_64"))]
pub(crate) const THRESHOLDS: [f32; 15] = thresholds();

/// Returns the place of the value that is taken for a number: the specification. What is not a number gets the last.
pub(crate) fn nearest_place(number: f32) -> usize {
    if number <= VALUES[0] {
        return 0;
    }
    if number >= VALUES[15] {
        return 15;
    }
    let (mut below, mut above) = (0, 15);
    while above - below > 1 {
        let middle = (below + above) / 2;
        if number < VALUES[middle] {
            above = middle;
        } else {
            below = middle;
        }
    }
    if number - VALUES[below] < VALUES[above] - number {
        below
    } else {
        above
    }
}

#[cfg(any(test, target_arch = "x86_64"))]
const fn thresholds() -> [f32; 15] {
    let mut found = [0.0; 15];
    let mut place = 0;
    while place < 15 {
        let (below, above) = (VALUES[place], VALUES[place + 1]);
        // Numbers in their order as integers: the first of them for which the lower value is no longer nearer.
        let (mut low, mut high) = (order_of(below), order_of(above));
        while high - low > 1 {
            let middle = (low + high).div_euclid(2);
            let number = number_of(middle);
            if number - below < above - number {
                low = middle;
            } else {
                high = middle;
            }
        }
        found[place] = number_of(high);
        place += 1;
    }
    found
}

/// Maps numbers to integers of the same order.
#[cfg(any(test, target_arch = "x86_64"))]
const fn order_of(number: f32) -> i64 {
    let bits = number.to_bits();
    let magnitude = (bits & 0x7fff_ffff) as i64;
    if bits >> 31 == 0 { magnitude } else { -magnitude }
}

#[cfg(any(test, target_arch = "x86_64"))]
const fn number_of(order: i64) -> f32 {
    if order < 0 {
        -f32::from_bits(-order as u32)
    } else {
        f32::from_bits(order as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(number: f32) -> usize {
        15 - THRESHOLDS.iter().filter(|threshold| number < **threshold).count()
    }

    // Around each threshold and value, and over a wide grid: counting thresholds finds the same place as the search.
    #[test]
    fn counting_thresholds_is_the_search() {
        let edges = THRESHOLDS.iter().chain(&VALUES).chain(&[0.0, 1e-40, 1e30]);
        for edge in edges {
            for step in -2_000..2_000 {
                let number = number_of(order_of(*edge) + step);
                assert_eq!(counted(number), nearest_place(number), "{number}");
                assert_eq!(counted(-number), nearest_place(-number), "{number}");
            }
        }
        for step in -200_000..200_000 {
            let number = step as f32 * 0.001;
            assert_eq!(counted(number), nearest_place(number), "{number}");
        }
        for number in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(counted(number), nearest_place(number), "{number}");
        }
    }
}
