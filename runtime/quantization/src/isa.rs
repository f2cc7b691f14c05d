//! Which instructions the codecs use: the best that the processor has, or fewer when somebody says so.
//!
//! **Invariants:** holding an [`Isa`] proves that this processor executes it, for only detection makes one. Whatever is chosen, the bytes are the same: each
//! vector lane does what the scalar form does, in its order, and nothing is contracted into a fused multiply-add.
#![expect(unsafe_code, reason = "calls of functions whose instructions were detected")]

use std::sync::atomic::{AtomicU8, Ordering};

/// A set of instructions that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Isa(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Level {
    /// What the program is compiled for: the specification.
    Scalar = 1,
    /// AVX2, 8 numbers at a time.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL), 16 numbers at a time.
    Avx512,
}

const LEVELS: [(Level, &str); 3] = [
    (Level::Scalar, "scalar"),
    (Level::Avx2, "avx2"),
    (Level::Avx512, "avx512"),
];

/// The level that is in use, 0 before the first question.
static CURRENT: AtomicU8 = AtomicU8::new(0);

impl Isa {
    /// Returns what the codecs use now.
    pub fn current() -> Isa {
        match CURRENT.load(Ordering::Relaxed) {
            1 => Isa(Level::Scalar),
            2 => Isa(Level::Avx2),
            3 => Isa(Level::Avx512),
            _ => {
                let detected = Isa::detect();
                CURRENT.store(detected.0 as u8, Ordering::Relaxed);
                detected
            }
        }
    }

    /// Holds the codecs of this process to one set of instructions.
    pub fn hold(self) {
        CURRENT.store(self.0 as u8, Ordering::Relaxed);
    }

    /// Returns the one of this name, one of `scalar`, `avx2` and `avx512`; nothing when there is none or the processor lacks it.
    pub fn named(name: &str) -> Option<Isa> {
        Isa::available().into_iter().find(|isa| isa.name() == name.trim())
    }

    /// The same for the names of programs that know more sets than these: what has dot products or tiles is AVX-512 here.
    pub fn within(name: &str) -> Option<Isa> {
        match name.trim() {
            "avx512bf16" | "avx512vnni" | "amx" => Isa::named("avx512"),
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
        let quickest = [Level::Avx512, Level::Avx2].into_iter().find(|level| has(*level));
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

/// Runs a closure compiled for the widest vectors in use. It must be marked `#[inline(always)]`: a closure that stays a function of its own is compiled for the
/// oldest processors.
#[inline(always)]
pub(crate) fn vectorised<R>(run: impl FnOnce() -> R) -> R {
    match Isa::current().0 {
        Level::Scalar => run(),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this level proves that the processor has AVX2.
        Level::Avx2 => unsafe { with_avx2(run) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this level proves that the processor has AVX-512.
        Level::Avx512 => unsafe { with_avx512(run) },
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2 | Level::Avx512 => run(),
    }
}

/// Runs a closure as AVX2 code.
///
/// # Safety
/// The processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(crate) fn with_avx2<R>(run: impl FnOnce() -> R) -> R {
    run()
}

/// Runs a closure as AVX-512 code.
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
pub(crate) fn with_avx512<R>(run: impl FnOnce() -> R) -> R {
    run()
}

#[cfg(target_arch = "x86_64")]
fn has(level: Level) -> bool {
    match level {
        Level::Scalar => true,
        Level::Avx2 => is_x86_feature_detected!("avx2"),
        Level::Avx512 => {
            has(Level::Avx2)
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
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
