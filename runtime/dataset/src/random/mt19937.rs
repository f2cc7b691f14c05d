//! The twister itself: 624 words of state, two ways to seed it. Cost: 2.5 kB, a few nanoseconds a word.

const N: usize = 624;
const M: usize = 397;
const UPPER: u32 = 0x8000_0000;
const LOWER: u32 = 0x7fff_ffff;

/// The state of a twister.
#[derive(Clone)]
pub(super) struct Mt19937 {
    words: [u32; N],
    /// How many words of this round were given out.
    taken: usize,
}

impl Mt19937 {
    /// Seeds from one word (`init_genrand` of the authors).
    pub(super) fn from_word(seed: u32) -> Self {
        let mut words = [0u32; N];
        words[0] = seed;
        for i in 1..N {
            let before = words[i - 1];
            words[i] = 1_812_433_253u32
                .wrapping_mul(before ^ (before >> 30))
                .wrapping_add(i as u32);
        }
        Self { words, taken: N }
    }

    /// Seeds from several words (`init_by_array` of the authors). An empty key counts as one zero.
    pub(super) fn from_words(key: &[u32]) -> Self {
        let key = if key.is_empty() { &[0][..] } else { key };
        let mut twister = Self::from_word(19_650_218);
        let words = &mut twister.words;
        let (mut i, mut j) = (1, 0);
        for _ in 0..N.max(key.len()) {
            let before = words[i - 1];
            words[i] = (words[i] ^ (before ^ (before >> 30)).wrapping_mul(1_664_525))
                .wrapping_add(key[j])
                .wrapping_add(j as u32);
            (i, j) = (i + 1, (j + 1) % key.len());
            if i >= N {
                words[0] = words[N - 1];
                i = 1;
            }
        }
        for _ in 0..N - 1 {
            let before = words[i - 1];
            words[i] = (words[i] ^ (before ^ (before >> 30)).wrapping_mul(1_566_083_941)).wrapping_sub(i as u32);
            i += 1;
            if i >= N {
                words[0] = words[N - 1];
                i = 1;
            }
        }
        words[0] = UPPER;
        twister
    }

    /// Returns the next 32 random bits.
    pub(super) fn next_u32(&mut self) -> u32 {
        if self.taken == N {
            self.turn();
        }
        let mut y = self.words[self.taken];
        self.taken += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn turn(&mut self) {
        for i in 0..N {
            let y = (self.words[i] & UPPER) | (self.words[(i + 1) % N] & LOWER);
            let mixed = (y >> 1) ^ if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.words[i] = self.words[(i + M) % N] ^ mixed;
        }
        self.taken = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The authors' published first outputs for the key {0x123, 0x234, 0x345, 0x456}, and the 10000th output for the seed 5489,
    // which the C++ standard states.
    #[test]
    fn the_published_numbers_come_out() {
        let mut twister = Mt19937::from_words(&[0x123, 0x234, 0x345, 0x456]);
        let first: Vec<u32> = (0..5).map(|_| twister.next_u32()).collect();
        assert_eq!(first, [1067595299, 955945823, 477289528, 4107218783, 4228976476]);
        let mut twister = Mt19937::from_word(5489);
        let last = (0..10_000).map(|_| twister.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }
}
