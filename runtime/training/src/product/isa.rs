//! Which instructions the kernels use: the best that the processor has, or fewer when somebody says so.
//!
//! **Invariant:** holding an [`Isa`] proves that this processor executes it, for only detection makes one.
#![expect(unsafe_code, reason = "calls of functions whose instructions were detected")]

use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::{Result, TrainingError};

/// A set of instructions that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Isa(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Level {
    /// What the program is compiled for.
    Scalar = 1,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL).
    Avx512,
    /// AVX-512 with dot products of bf16.
    Avx512Bf16,
    /// All that, and tiles of bf16 (AMX).
    Amx,
}

const LEVELS: [(Level, &str); 5] = [
    (Level::Scalar, "scalar"),
    (Level::Avx2, "avx2"),
    (Level::Avx512, "avx512"),
    (Level::Avx512Bf16, "avx512bf16"),
    (Level::Amx, "amx"),
];

/// The level that is in use, 0 before the first question.
static CURRENT: AtomicU8 = AtomicU8::new(0);

impl Isa {
    /// Returns what kernels use now.
    pub fn current() -> Isa {
        match CURRENT.load(Ordering::Relaxed) {
            1 => Isa(Level::Scalar),
            2 => Isa(Level::Avx2),
            3 => Isa(Level::Avx512),
            4 => Isa(Level::Avx512Bf16),
            5 => Isa(Level::Amx),
            _ => {
                let detected = Isa::detect();
                CURRENT.store(detected.0 as u8, Ordering::Relaxed);
                detected
            }
        }
    }

    /// Holds all kernels of this process to a set of instructions by name, one of `scalar`, `avx2`, `avx512`, `avx512bf16` and `amx`.
    pub fn hold(name: &str) -> Result<Isa> {
        let available = Isa::available();
        let Some(isa) = available.iter().find(|isa| isa.name() == name.trim()) else {
            let names: Vec<&str> = available.iter().map(|isa| isa.name()).collect();
            return Err(TrainingError::setting(
                "isa",
                name,
                format!("one that this processor has: {}", names.join(", ")),
            ));
        };
        CURRENT.store(isa.0 as u8, Ordering::Relaxed);
        isa.decoding().hold();
        Ok(*isa)
    }

    /// Returns all that this processor has, the least first.
    pub fn available() -> Vec<Isa> {
        let levels = LEVELS.iter().map(|(level, _)| *level);
        levels.filter(|level| has(*level)).map(Isa).collect()
    }

    /// Returns the quickest that this processor has.
    pub fn detect() -> Isa {
        let quickest = if has(Level::Amx) {
            Level::Amx
        } else if has(Level::Avx512Bf16) && dots_are_quick() {
            Level::Avx512Bf16
        } else if has(Level::Avx512) {
            Level::Avx512
        } else if has(Level::Avx2) {
            Level::Avx2
        } else {
            Level::Scalar
        };
        Isa(quickest)
    }

    /// Returns its name.
    pub fn name(self) -> &'static str {
        let found = LEVELS.iter().find(|(level, _)| *level == self.0);
        found.map_or("scalar", |(_, name)| name)
    }

    /// Returns what quantized blocks are decoded with beside this.
    fn decoding(self) -> witness_quantization::Isa {
        use witness_quantization::Isa as Decoding;
        Decoding::within(self.name()).unwrap_or_else(Decoding::detect)
    }

    pub(crate) fn level(self) -> Level {
        self.0
    }
}

/// Runs a closure compiled for the widest vectors in use. It must be marked `#[inline(always)]`: a closure that stays a function of its own is compiled for the
/// oldest processors (measured: exponentials 4 ns each instead of below 1).
///
/// The order of operations is the same whatever the vectors, and no two are contracted into one, so the bits are the same too.
#[inline(always)]
pub(crate) fn vectorised<R>(run: impl FnOnce() -> R) -> R {
    match Isa::current().0 {
        Level::Scalar => run(),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this level proves that the processor has AVX2 and FMA.
        Level::Avx2 => unsafe { with_avx2(run) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of these levels proves that the processor has AVX-512.
        Level::Avx512 | Level::Avx512Bf16 | Level::Amx => unsafe { with_avx512(run) },
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2 | Level::Avx512 | Level::Avx512Bf16 | Level::Amx => run(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn with_avx2<R>(run: impl FnOnce() -> R) -> R {
    run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
fn with_avx512<R>(run: impl FnOnce() -> R) -> R {
    run()
}

#[cfg(target_arch = "x86_64")]
fn has(level: Level) -> bool {
    match level {
        Level::Scalar => true,
        Level::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        Level::Avx512 => {
            has(Level::Avx2)
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
        }
        Level::Avx512Bf16 => has(Level::Avx512) && is_x86_feature_detected!("avx512bf16"),
        Level::Amx => has(Level::Avx512Bf16) && super::amx::is_permitted(),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn has(level: Level) -> bool {
    level == Level::Scalar
}

/// Says whether a dot product of bf16 takes no longer than a multiply-add of f32: it does not on AMD's cores (Zen 4: 1 a cycle); on Intel's it takes four times as
/// long, so half the speed of f32 (measured on Emerald Rapids: 88 against 187 GFLOP/s a core).
#[cfg(target_arch = "x86_64")]
fn dots_are_quick() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    vendor.ebx.to_le_bytes() != *b"Genu"
}

#[cfg(not(target_arch = "x86_64"))]
fn dots_are_quick() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_detected_is_available_and_names_come_back() {
        let available = Isa::available();
        assert_eq!(available[0].name(), "scalar");
        assert!(available.contains(&Isa::detect()));
        let error = Isa::hold("mmx").unwrap_err().to_string();
        assert!(error.contains("`mmx`") && error.contains("scalar"), "{error}");
    }
}
