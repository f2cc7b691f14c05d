//! Which instructions are used: the best that the processor has, or fewer when somebody says so.
//!
//! **Invariants:** holding an [`Isa`] proves that this processor executes it, for only detection makes one. Whatever is chosen, results have the same bits.

use std::sync::atomic::{AtomicU8, Ordering};

/// A set of instructions that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Isa(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Level {
    /// What the program is compiled for: the specification.
    Scalar = 1,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL).
    Avx512,
    /// AVX-512 with dot products of bytes (VNNI).
    Avx512Vnni,
    /// NEON with dot products of bytes.
    DotProd,
}

const LEVELS: [(Level, &str); 5] = [
    (Level::Scalar, "scalar"),
    (Level::Avx2, "avx2"),
    (Level::Avx512, "avx512"),
    (Level::Avx512Vnni, "avx512vnni"),
    (Level::DotProd, "dotprod"),
];

/// The level that is in use, 0 before the first question.
static CURRENT: AtomicU8 = AtomicU8::new(0);

impl Isa {
    /// Returns what kernels use now.
    pub fn current() -> Isa {
        let held = CURRENT.load(Ordering::Relaxed);
        if let Some((level, _)) = LEVELS.iter().find(|(level, _)| *level as u8 == held) {
            return Isa(*level);
        }
        let detected = Isa::detect();
        CURRENT.store(detected.0 as u8, Ordering::Relaxed);
        detected
    }

    /// Holds all kernels of this process to one set of instructions.
    pub fn hold(self) {
        CURRENT.store(self.0 as u8, Ordering::Relaxed);
    }

    /// Returns the one of this name, one of `scalar`, `avx2`, `avx512`, `avx512vnni` and `dotprod`; nothing when there is none or the processor lacks it.
    pub fn named(name: &str) -> Option<Isa> {
        Isa::available().into_iter().find(|isa| isa.name() == name.trim())
    }

    /// The same for the names of programs that know more sets than these: what has dot products of bf16 or tiles has those of bytes too, and `avx512` is all of
    /// AVX-512 that the processor has.
    pub fn within(name: &str) -> Option<Isa> {
        match name.trim() {
            "avx512" | "avx512bf16" | "amx" => Isa::named("avx512vnni").or_else(|| Isa::named("avx512")),
            name => Isa::named(name),
        }
    }

    /// Returns all that this processor has, the least first.
    pub fn available() -> Vec<Isa> {
        let levels = LEVELS.iter().map(|(level, _)| *level);
        levels.filter(|level| has(*level)).map(Isa).collect()
    }

    /// Returns the quickest that this processor has.
    pub fn detect() -> Isa {
        let quickest = LEVELS.iter().rev().map(|(level, _)| *level).find(|level| has(*level));
        Isa(quickest.unwrap_or(Level::Scalar))
    }

    /// Returns its name.
    pub fn name(self) -> &'static str {
        let found = LEVELS.iter().find(|(level, _)| *level == self.0);
        found.map_or("scalar", |(_, name)| name)
    }

    pub(crate) fn level(self) -> Level {
        self.0
    }
}

#[cfg(target_arch = "x86_64")]
fn has(level: Level) -> bool {
    match level {
        Level::Scalar => true,
        Level::Avx2 => {
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
        }
        Level::Avx512 => {
            has(Level::Avx2)
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
        }
        Level::Avx512Vnni => has(Level::Avx512) && is_x86_feature_detected!("avx512vnni"),
        Level::DotProd => false,
    }
}

#[cfg(target_arch = "aarch64")]
fn has(level: Level) -> bool {
    match level {
        Level::Scalar => true,
        Level::DotProd => std::arch::is_aarch64_feature_detected!("dotprod"),
        Level::Avx2 | Level::Avx512 | Level::Avx512Vnni => false,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has(level: Level) -> bool {
    level == Level::Scalar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_detected_is_available_and_names_come_back() {
        let available = Isa::available();
        assert_eq!(available[0].name(), "scalar");
        assert!(available.contains(&Isa::detect()));
        for isa in available {
            assert_eq!(Isa::named(isa.name()), Some(isa));
        }
        assert_eq!(Isa::named("mmx"), None);
    }
}
