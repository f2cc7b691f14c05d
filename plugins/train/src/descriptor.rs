//! What this plugin says about itself.

use witness_plugin_protocol::{Descriptor, FormatRule, PROTOCOL_VERSION, Role};

/// Returns the plugin's account of itself.
pub fn describe() -> Descriptor {
    Descriptor {
        name: "train".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL_VERSION,
        about: "trains adapters and whole models on the CPU".to_owned(),
        roles: vec![Role::Train],
        architectures: ["llama", "mistral", "qwen2"].map(str::to_owned).to_vec(),
        formats: vec![
            FormatRule {
                name: "gguf".to_owned(),
                magic_hex: Some("47475546".to_owned()),
                suffix: None,
            },
            FormatRule {
                name: "safetensors".to_owned(),
                magic_hex: None,
                suffix: Some(".safetensors".to_owned()),
            },
        ],
        devices: vec!["cpu".to_owned()],
        isa: Vec::new(),
        score: 10,
    }
}
