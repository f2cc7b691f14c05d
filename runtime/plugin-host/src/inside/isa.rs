//! Whether this processor has the instruction sets that a plugin cannot do without.

use witness_plugin_protocol::{Descriptor, Diagnostic, Kind};

/// Refuses a plugin that needs what this processor lacks, naming each.
pub(super) fn check(descriptor: &Descriptor) -> Result<(), Box<Diagnostic>> {
    let missing: Vec<&str> = descriptor
        .isa
        .iter()
        .map(String::as_str)
        .filter(|name| !has(name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Box::new(
        Diagnostic::new(
            "witness::plugin::isa",
            Kind::Unsupported,
            format!(
                "plugin `{}` needs `{}`, which this processor lacks",
                descriptor.name,
                missing.join("`, `")
            ),
        )
        .cause(format!(
            "this is {}; the plugin asks for {}",
            std::env::consts::ARCH,
            descriptor.isa.join(", ")
        ))
        .hint("use a build of the plugin for this processor"),
    ))
}

/// Returns whether this processor has an instruction set. One that is not known here counts as missing.
#[cfg(target_arch = "x86_64")]
fn has(name: &str) -> bool {
    match name {
        "x86_64" | "sse2" => true,
        "sse4.2" | "sse4_2" => std::arch::is_x86_feature_detected!("sse4.2"),
        "popcnt" => std::arch::is_x86_feature_detected!("popcnt"),
        "avx" => std::arch::is_x86_feature_detected!("avx"),
        "f16c" => std::arch::is_x86_feature_detected!("f16c"),
        "fma" => std::arch::is_x86_feature_detected!("fma"),
        "avx2" => std::arch::is_x86_feature_detected!("avx2"),
        "bmi2" => std::arch::is_x86_feature_detected!("bmi2"),
        "avx512f" => std::arch::is_x86_feature_detected!("avx512f"),
        "avx512bw" => std::arch::is_x86_feature_detected!("avx512bw"),
        "avx512vl" => std::arch::is_x86_feature_detected!("avx512vl"),
        "avx512vnni" => std::arch::is_x86_feature_detected!("avx512vnni"),
        "avx512bf16" => std::arch::is_x86_feature_detected!("avx512bf16"),
        _ => false,
    }
}

/// Returns whether this processor has an instruction set. One that is not known here counts as missing.
#[cfg(target_arch = "aarch64")]
fn has(name: &str) -> bool {
    match name {
        "aarch64" | "neon" => true,
        "dotprod" => std::arch::is_aarch64_feature_detected!("dotprod"),
        "fp16" => std::arch::is_aarch64_feature_detected!("fp16"),
        "i8mm" => std::arch::is_aarch64_feature_detected!("i8mm"),
        "bf16" => std::arch::is_aarch64_feature_detected!("bf16"),
        "sve" => std::arch::is_aarch64_feature_detected!("sve"),
        _ => false,
    }
}

/// Returns whether this processor has an instruction set: none is known here.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has(_name: &str) -> bool {
    false
}
