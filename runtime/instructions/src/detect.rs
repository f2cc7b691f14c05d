//! What this processor has, and what the system lets this process use of it.

#![cfg_attr(
    all(target_arch = "x86_64", target_os = "linux"),
    expect(unsafe_code, reason = "the system is asked for tile registers")
)]

use crate::Level;

#[cfg(target_arch = "x86_64")]
pub(crate) fn has(level: Level) -> bool {
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
        Level::Avx512Bf16 => has(Level::Avx512Vnni) && is_x86_feature_detected!("avx512bf16"),
        Level::Amx => has(Level::Avx512Bf16) && has_tiles(),
        Level::DotProd => false,
    }
}

/// Says whether a dot product of bf16 takes no longer than a multiply-add of f32: it does not on AMD's cores (Zen 4: 1 a cycle); on Intel's it takes four times as
/// long, so half the speed of f32 (measured on Emerald Rapids: 88 against 187 GFLOP/s a core).
#[cfg(target_arch = "x86_64")]
pub(crate) fn are_bf16_dots_quick() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    vendor.ebx.to_le_bytes() != *b"Genu"
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn are_bf16_dots_quick() -> bool {
    false
}

/// Says whether tile registers with products of bytes and of bf16 can be used. Asks the system once: their 8 KiB a thread are kept only for processes that say they
/// want them.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn has_tiles() -> bool {
    use std::arch::x86_64::{__cpuid_count, _xgetbv};
    use std::sync::OnceLock;

    /// AMX-BF16, AMX-TILE and AMX-INT8 in EDX of leaf 7.
    const FEATURES: u32 = 1 << 22 | 1 << 24 | 1 << 25;
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
pub(crate) fn has(level: Level) -> bool {
    match level {
        Level::Scalar => true,
        Level::DotProd => std::arch::is_aarch64_feature_detected!("dotprod"),
        Level::Avx2 | Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 | Level::Amx => false,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn has(level: Level) -> bool {
    level == Level::Scalar
}
