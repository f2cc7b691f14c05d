//! Sets of instructions: which ones a processor has, and which one this process computes with: the quickest, or fewer when somebody says so.
//!
//! | what | where |
//! | --- | --- |
//! | names, order, the set in use, the setting `isa` | here |
//! | what this processor has | `detect` |
//! | loops compiled for several sets | `vectors`: [`vectorised`] |
//!
//! What not: which function is used with which set. That is for whoever has the functions to say, by [`Isa::level`] or [`Isa::at_least`].
//!
//! **Invariant:** holding an [`Isa`] proves that this processor executes it, for only detection makes one.
//!
//! ```
//! use witness_instructions::{Isa, Level};
//!
//! let isa = Isa::named("scalar")?;
//! isa.hold();
//! assert!(Isa::current().at_least(Level::Scalar) && !Isa::current().at_least(Level::Avx2));
//! # Ok::<(), witness_diagnostics::Diagnostic>(())
//! ```

mod detect;
mod vectors;

use std::sync::atomic::{AtomicU8, Ordering};

use witness_diagnostics::{Diagnostic, Kind};

pub use vectors::vectorised;
#[cfg(target_arch = "x86_64")]
pub use vectors::{with_avx2, with_avx512};

/// The environment's name for the setting `isa`: workers are told by it.
const SETTING: &str = "WITNESS_ISA";

/// A set of instructions that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Level);

/// A set of instructions. Those of one architecture hold all that come before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Level {
    /// What the program is compiled for: the specification.
    Scalar = 1,
    /// x86: AVX2, FMA and F16C.
    Avx2,
    /// x86: AVX-512 (F, BW, DQ, VL).
    Avx512,
    /// x86: the same with dot products of bytes (VNNI).
    Avx512Vnni,
    /// x86: the same with dot products of bf16. Every processor that has these has those of bytes.
    Avx512Bf16,
    /// x86: the same with tile registers whose products are of bytes and of bf16 (AMX), which the system lets this process use.
    Amx,
    /// ARM: NEON with dot products of bytes.
    DotProd,
}

const LEVELS: [(Level, &str); 7] = [
    (Level::Scalar, "scalar"),
    (Level::Avx2, "avx2"),
    (Level::Avx512, "avx512"),
    (Level::Avx512Vnni, "avx512vnni"),
    (Level::Avx512Bf16, "avx512bf16"),
    (Level::Amx, "amx"),
    (Level::DotProd, "dotprod"),
];

/// The level that is in use, 0 before the first question.
static CURRENT: AtomicU8 = AtomicU8::new(0);

impl Isa {
    /// Returns what this process computes with now.
    #[inline]
    pub fn current() -> Isa {
        let held = usize::from(CURRENT.load(Ordering::Relaxed));
        match held.checked_sub(1).and_then(|at| LEVELS.get(at)) {
            Some((level, _)) => Isa(*level),
            None => Isa::first(),
        }
    }

    #[cold]
    fn first() -> Isa {
        let detected = Isa::detect();
        detected.hold();
        detected
    }

    /// Holds all of this process to one set of instructions.
    pub fn hold(self) {
        CURRENT.store(self.0 as u8, Ordering::Relaxed);
    }

    /// Holds all of this process to the set that the setting `isa` names, where it names one.
    ///
    /// # Errors
    /// Those of [`Isa::named`].
    pub fn hold_to_setting() -> Result<(), Diagnostic> {
        match std::env::var(SETTING) {
            Ok(name) if !name.is_empty() => Isa::named(&name).map(Isa::hold),
            _ => Ok(()),
        }
    }

    /// Returns the one of this name: `scalar`, `avx2`, `avx512`, `avx512vnni`, `avx512bf16`, `amx` or `dotprod`.
    ///
    /// # Errors
    /// `witness::instructions::not_here`: none is called so, or this processor lacks it.
    pub fn named(name: &str) -> Result<Isa, Diagnostic> {
        let available = Isa::available();
        let found = available.iter().find(|isa| isa.name() == name.trim());
        found.copied().ok_or_else(|| {
            let here: Vec<&str> = available.iter().map(|isa| isa.name()).collect();
            let is_known = LEVELS.iter().any(|(_, known)| *known == name.trim());
            let cause = match is_known {
                true => "this processor lacks it, or the system keeps it from this process".to_owned(),
                false => format!(
                    "no set is called so; there are {}",
                    LEVELS.map(|(_, name)| name).join(", ")
                ),
            };
            let message = format!("`isa` is `{name}`, a set of instructions that is not to be had here");
            Diagnostic::new("witness::instructions::not_here", Kind::Invalid, message)
                .cause(cause)
                .hint(format!(
                    "set `isa` ({SETTING}) to one of {}, or leave it out for the quickest",
                    here.join(", ")
                ))
        })
    }

    /// Returns all that this processor has, the least first.
    pub fn available() -> Vec<Isa> {
        let levels = LEVELS.iter().map(|(level, _)| *level);
        levels.filter(|level| detect::has(*level)).map(Isa).collect()
    }

    /// Returns the quickest that this processor has: the last of all, but for dot products of bf16 where they are slower than products of f32.
    pub fn detect() -> Isa {
        let is_quick = |level: &Level| *level != Level::Avx512Bf16 || detect::are_bf16_dots_quick();
        let levels = LEVELS.iter().rev().map(|(level, _)| *level);
        let quickest = levels.filter(is_quick).find(|level| detect::has(*level));
        Isa(quickest.unwrap_or(Level::Scalar))
    }

    /// Returns its name.
    pub fn name(self) -> &'static str {
        LEVELS[self.0 as usize - 1].1
    }

    /// Returns which one it is, to choose a function by.
    #[inline]
    pub fn level(self) -> Level {
        self.0
    }

    /// Returns whether it holds all of a level's instructions.
    #[inline]
    pub fn at_least(self, level: Level) -> bool {
        let of_arm = |level| matches!(level, Level::DotProd);
        level == Level::Scalar || (of_arm(self.0) == of_arm(level) && self.0 as u8 >= level as u8)
    }

    /// Returns the bits of the vectors that it computes numbers of f32 with; 0 where they are left to the compiler.
    #[inline]
    pub fn vector_bits(self) -> usize {
        match self.0 {
            Level::Scalar => 0,
            Level::Avx2 => 256,
            Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 | Level::Amx => 512,
            Level::DotProd => 128,
        }
    }
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
            assert_eq!(Isa::named(isa.name()), Ok(isa));
            isa.hold();
            assert_eq!(Isa::current(), isa);
        }
    }

    #[test]
    fn places_and_numbers_agree() {
        for (at, (level, name)) in LEVELS.into_iter().enumerate() {
            assert_eq!((level as usize, Isa(level).name()), (at + 1, name));
        }
    }

    #[test]
    fn a_set_holds_those_before_it_of_its_architecture() {
        let holds = |isa, level| Isa(isa).at_least(level);
        for (index, (more, _)) in LEVELS[..6].iter().enumerate() {
            for (other, (less, _)) in LEVELS[..6].iter().enumerate() {
                assert_eq!(holds(*more, *less), other <= index, "{more:?} {less:?}");
            }
        }
        assert!(holds(Level::DotProd, Level::Scalar) && holds(Level::DotProd, Level::DotProd));
        assert!(!holds(Level::DotProd, Level::Avx2) && !holds(Level::Amx, Level::DotProd));
    }

    #[test]
    fn what_is_not_here_is_refused_in_one_way() {
        let none = LEVELS.iter().find(|(level, _)| !detect::has(*level)).unwrap().1;
        for (name, cause) in [("mmx", "no set is called so"), (none, "this processor lacks it")] {
            let error = Isa::named(name).unwrap_err();
            assert_eq!(error.code, "witness::instructions::not_here");
            assert!(
                error.message.contains(name) && error.causes[0].contains(cause),
                "{error:?}"
            );
            assert!(error.hints[0].contains("scalar"), "{error:?}");
        }
    }
}
