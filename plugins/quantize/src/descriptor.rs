//! What this plugin says about itself.

use witness_plugin_protocol::{Descriptor, FormatRule, PROTOCOL_VERSION, Role};

/// Returns the plugin's account of itself. Any architecture of a GGUF file can be quantized; which can be converted, the conversion says by name.
pub fn describe() -> Descriptor {
    let rule = |name: &str, magic: Option<&str>, suffix: Option<&str>| FormatRule {
        name: name.to_owned(),
        magic_hex: magic.map(str::to_owned),
        suffix: suffix.map(str::to_owned),
    };
    Descriptor {
        name: "quantize".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL_VERSION,
        about: "converts, merges and quantizes models on the CPU".to_owned(),
        roles: vec![Role::Quantize],
        architectures: vec!["*".to_owned()],
        formats: vec![
            rule("gguf", Some("47475546"), None),
            rule("safetensors", None, Some(".safetensors")),
        ],
        devices: vec!["cpu".to_owned()],
        isa: Vec::new(),
        score: 10,
    }
}
