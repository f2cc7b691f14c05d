//! Which instructions are used: the best that the processor has, or fewer when somebody says so.
//!
//! **Invariants:** holding an [`Isa`] proves that this processor executes it, for only detection makes one. Whatever is chosen, results have the same bits.

#![cfg_attr(
    all(target_arch = "x86_64", target_os = "linux"),
    expect(unsafe_code, reason = "the system is asked for tile registers")
)]

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
    /// The same, and tile registers whose products are of bytes (AMX-INT8), which the system lets this process use.
    Amx,
    /// NEON with dot products of bytes.
    DotProd,
}

const LEVELS: [(Level, &str); 6] = [
    (Level::Scalar, "scalar"),
    (Level::Avx2, "avx2"),
    (Level::Avx512, "avx512"),
    (Level::Avx512Vnni, "avx512vnni"),
    (Level::Amx, "amx"),
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

    /// Returns the one of this name, one of `scalar`, `avx2`, `avx512`, `avx512vnni`, `amx` and `dotprod`; nothing when there is none or the processor lacks it.
    pub fn named(name: &str) -> Option<Isa> {
        Isa::available().into_iter().find(|isa| isa.name() == name.trim())
    }

    /// The same for the names of programs that know more sets than these: what has dot products of bf16 has those of bytes too, `avx512` is all of AVX-512 that
    /// the processor has, and `amx` is the most below it where tiles of bytes are not to be had, be it that the system refuses them.
    pub fn within(name: &str) -> Option<Isa> {
        let vectors = || Isa::named("avx512vnni").or_else(|| Isa::named("avx512"));
        match name.trim() {
            "avx512" | "avx512bf16" => vectors(),
            "amx" => Isa::named("amx").or_else(vectors),
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

    /// Returns the bits of the vectors that it computes numbers of f32 with; 0 where they are left to the compiler.
    pub fn vector_bits(self) -> usize {
        match self.0 {
            Level::Scalar => 0,
            Level::Avx2 => 256,
            Level::Avx512 | Level::Avx512Vnni | Level::Amx => 512,
            Level::DotProd => 128,
        }
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
        Level::Amx => has(Level::Avx512Vnni) && has_tiles(),
        Level::DotProd => false,
    }
}

/// Says whether tile registers with products of bytes can be used. Asks the system once: their 8 KiB a thread are kept only for processes that say they want them.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn has_tiles() -> bool {
    use std::arch::x86_64::{__cpuid_count, _xgetbv};
    use std::sync::OnceLock;

    /// AMX-TILE and AMX-INT8 in EDX of leaf 7.
    const FEATURES: u32 = 1 << 24 | 1 << 25;
    /// The configuration and the data of tiles in XCR0.
    const STATES: u64 = 1 << 17 | 1 << 18;
    /// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`: see x86/xstate in the kernel's documentation.
    const ARCH_PRCTL: usize = 158;
    const REQUEST: usize = 0x1023;
    const TILE_DATA: usize = 18;

    /// # Safety
    /// The processor has XSAVE.
    #[target_feature(enable = "xsave")]
    unsafe fn states() -> u64 {
        // SAFETY: register 0 is there wherever XSAVE is.
        unsafe { _xgetbv(0) }
    }

    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        // SAFETY: XSAVE was just detected, and detection counts only what the system saves.
        if !is_x86_feature_detected!("xsave") || unsafe { states() } & STATES != STATES {
            return false;
        }
        if __cpuid_count(0, 0).eax < 7 || __cpuid_count(7, 0).edx & FEATURES != FEATURES {
            return false;
        }
        let result: isize;
        // SAFETY: this system call takes two numbers and touches no memory of ours; it changes rcx and r11.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") REQUEST,
                in("rsi") TILE_DATA,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        result == 0
    })
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn has_tiles() -> bool {
    false
}

#[cfg(target_arch = "aarch64")]
fn has(level: Level) -> bool {
    match level {
        Level::Scalar => true,
        Level::DotProd => std::arch::is_aarch64_feature_detected!("dotprod"),
        Level::Avx2 | Level::Avx512 | Level::Avx512Vnni | Level::Amx => false,
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
        // A name that other programs know stands for itself, or for the most below it.
        for (name, below) in [("amx", "avx512vnni"), ("avx512bf16", "avx512vnni")] {
            let (found, below) = (Isa::within(name), Isa::named(below));
            assert!(found == Isa::named(name) || found == below, "{name}: {found:?}");
            assert!(found.is_some() || below.is_none(), "{name}");
        }
    }
}
