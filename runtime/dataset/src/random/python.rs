//! `random.Random` of CPython, as far as seeding by an integer, `getrandbits`, `_randbelow`, `random` and `shuffle` go.
//!
//! Source: the documented guarantees of the `random` module, and runs of CPython 3.11 recorded in `tests/`. `shuffle` and `_randbelow`
//! are unchanged since Python 3.2.

use super::mt19937::Mt19937;

/// CPython's generator after `random.seed(seed)`.
#[derive(Clone)]
pub struct PythonRandom {
    twister: Mt19937,
}

impl PythonRandom {
    /// Seeds as `random.seed(seed)` does. Python ignores the sign of a seed; give its magnitude.
    pub fn seeded(seed: u64) -> Self {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        let key = if high == 0 { vec![low] } else { vec![low, high] };
        Self {
            twister: Mt19937::from_words(&key),
        }
    }

    /// Returns `bits` random bits, as `getrandbits(bits)` does; `bits` above 64 count as 64.
    pub fn bits(&mut self, bits: u32) -> u64 {
        let bits = bits.min(64);
        match bits {
            0 => 0,
            1..=32 => u64::from(self.twister.next_u32() >> (32 - bits)),
            _ => {
                let low = u64::from(self.twister.next_u32());
                let high = u64::from(self.twister.next_u32() >> (64 - bits));
                low | (high << 32)
            }
        }
    }

    /// Returns a number below `bound`, as `_randbelow(bound)` does; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        let bits = u64::BITS - bound.leading_zeros();
        loop {
            let drawn = self.bits(bits);
            if drawn < bound {
                return drawn;
            }
        }
    }

    /// Returns a number in [0, 1) of 53 random bits, as `random()` does.
    pub fn unit(&mut self) -> f64 {
        let high = f64::from(self.twister.next_u32() >> 5);
        let low = f64::from(self.twister.next_u32() >> 6);
        (high * 67_108_864.0 + low) / 9_007_199_254_740_992.0
    }

    /// Shuffles as `random.shuffle(items)` does.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i as u64 + 1) as usize;
            items.swap(i, j);
        }
    }
}
