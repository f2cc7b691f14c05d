//! What this plugin says about itself.

use witness_plugin_protocol::{Descriptor, FormatRule, PROTOCOL_VERSION, Role};

/// Returns the plugin's account of itself.
pub fn describe() -> Descriptor {
    let mut architectures: Vec<String> = witness_model::FAMILIES
        .iter()
        .flat_map(|family| [family.architecture, family.model_type])
        .map(str::to_owned)
        .collect();
    architectures.extend(crate::foreign::architectures().map(str::to_owned));
    architectures.sort();
    architectures.dedup();
    Descriptor {
        name: "serve".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL_VERSION,
        about: "runs and measures models on the CPU, with adapters applied at run time".to_owned(),
        roles: vec![Role::Serve, Role::Measure],
        architectures,
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
