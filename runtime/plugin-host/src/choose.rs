//! Which plugin does a piece of work. Pure: entries and facts in, an index or a reason out.

use std::sync::Arc;

use witness_plugin_protocol::{Descriptor, Diagnostic, FormatRule, Kind, Role};

use crate::entry::{FileFacts, PluginEntry};

/// Returns the entry with the highest score among those that have the role, read one of the files and know the architecture; the
/// first of equals. Without files any format does; without an architecture any.
pub(crate) fn choose(
    entries: &[Arc<PluginEntry>],
    role: Role,
    files: &[FileFacts],
    architecture: Option<&str>,
) -> Result<Arc<PluginEntry>, Diagnostic> {
    let ready = || entries.iter().filter_map(|entry| Some((entry, entry.descriptor()?)));
    let mut best: Option<(&Arc<PluginEntry>, i32)> = None;
    for (entry, descriptor) in ready() {
        let fits = descriptor.roles.contains(&role)
            && (files.is_empty() || format_of(descriptor, files).is_some())
            && architecture.is_none_or(|name| knows(descriptor, name));
        if fits && best.is_none_or(|(_, score)| descriptor.score > score) {
            best = Some((entry, descriptor.score));
        }
    }
    if let Some((entry, _)) = best {
        return Ok(Arc::clone(entry));
    }
    let with_role: Vec<&Descriptor> = ready()
        .map(|(_, descriptor)| descriptor)
        .filter(|descriptor| descriptor.roles.contains(&role))
        .collect();
    Err(no_match(entries, role, &with_role, files, architecture))
}

/// Returns the rule that recognises one of the files.
fn format_of<'a>(descriptor: &'a Descriptor, files: &[FileFacts]) -> Option<&'a FormatRule> {
    descriptor
        .formats
        .iter()
        .find(|rule| files.iter().any(|file| matches(rule, file)))
}

/// Returns whether every condition that a rule states holds.
fn matches(rule: &FormatRule, file: &FileFacts) -> bool {
    let magic = rule.magic_hex.as_deref().map(|hex| starts_with_hex(&file.magic, hex));
    let suffix = rule.suffix.as_deref().map(|suffix| file.name.ends_with(suffix));
    (magic.is_some() || suffix.is_some()) && magic.unwrap_or(true) && suffix.unwrap_or(true)
}

fn starts_with_hex(bytes: &[u8], hex: &str) -> bool {
    let pairs = hex.as_bytes().chunks(2);
    pairs.len() <= bytes.len()
        && pairs.zip(bytes).all(|(pair, byte)| {
            std::str::from_utf8(pair)
                .ok()
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
                == Some(*byte)
        })
}

fn knows(descriptor: &Descriptor, architecture: &str) -> bool {
    descriptor
        .architectures
        .iter()
        .any(|known| known == "*" || known == architecture)
}

fn no_match(
    entries: &[Arc<PluginEntry>],
    role: Role,
    with_role: &[&Descriptor],
    files: &[FileFacts],
    architecture: Option<&str>,
) -> Diagnostic {
    let role_name = role.name();
    if with_role.is_empty() {
        let refused = entries.iter().filter_map(|entry| Some((entry, entry.refusal()?)));
        let mut diagnostic = Diagnostic::new(
            "witness::plugin::none_for_role",
            Kind::Environment,
            format!("no plugin for `{role_name}` is installed"),
        );
        for (entry, refusal) in refused {
            diagnostic = diagnostic.cause(format!("`{}` is refused: {}", entry.path.display(), refusal.message));
        }
        return diagnostic.hint("run `witness plugin list` to see what was found and where");
    }
    let names = |names: &mut dyn Iterator<Item = String>| names.collect::<Vec<_>>().join("; ");
    let is_format = files.is_empty()
        || with_role
            .iter()
            .any(|descriptor| format_of(descriptor, files).is_some());
    if !is_format {
        let first = &files[0];
        let asked: Vec<String> = files.iter().take(4).map(|file| format!("`{}`", file.name)).collect();
        let reads = names(&mut with_role.iter().map(|descriptor| {
            let formats: Vec<&str> = descriptor.formats.iter().map(|rule| rule.name.as_str()).collect();
            format!("`{}` reads {}", descriptor.name, formats.join(", "))
        }));
        return Diagnostic::new(
            "witness::plugin::none_for_format",
            Kind::Unsupported,
            format!("no plugin reads the format of {}", asked.join(", ")),
        )
        .cause(format!("`{}` starts with the bytes {:02x?}", first.name, first.magic))
        .cause(reads)
        .hint("give a GGUF file or a Hugging Face directory with safetensors, or install a plugin for this format");
    }
    let known = names(
        &mut with_role
            .iter()
            .map(|descriptor| format!("`{}` knows {}", descriptor.name, descriptor.architectures.join(", "))),
    );
    Diagnostic::new(
        "witness::plugin::none_for_architecture",
        Kind::Unsupported,
        format!(
            "no plugin for `{role_name}` knows the architecture `{}`",
            architecture.unwrap_or_default()
        ),
    )
    .cause(known)
    .hint("install a plugin that knows it; `witness plugin list` shows those that are here")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::PluginState;
    use witness_plugin_protocol::PROTOCOL_VERSION;

    fn entry(name: &str, score: i32, suffix: &str, magic: Option<&str>, architectures: &[&str]) -> Arc<PluginEntry> {
        let descriptor = Descriptor {
            name: name.into(),
            version: "1.0.0".into(),
            protocol: PROTOCOL_VERSION,
            about: String::new(),
            roles: vec![Role::Serve],
            architectures: architectures.iter().map(|name| (*name).to_owned()).collect(),
            formats: vec![FormatRule {
                name: "format".into(),
                magic_hex: magic.map(str::to_owned),
                suffix: (!suffix.is_empty()).then(|| suffix.to_owned()),
            }],
            devices: vec!["cpu".into()],
            isa: vec![],
            score,
        };
        Arc::new(PluginEntry {
            path: format!("/plugins/{name}").into(),
            sha256: None,
            abi: Some((1, 0)),
            state: PluginState::Ready(descriptor),
            set_aside: vec![],
            identity: None,
        })
    }

    fn file(name: &str, magic: &[u8]) -> FileFacts {
        FileFacts {
            name: name.into(),
            magic: magic.to_vec(),
        }
    }

    #[test]
    fn the_highest_score_that_fits_wins_and_the_first_of_equals() {
        let entries = [
            entry("slow", 1, "", Some("47475546"), &["llama"]),
            entry("fast", 9, "", Some("47475546"), &["llama"]),
            entry("fast-too", 9, "", Some("47475546"), &["llama"]),
            entry("other", 50, ".bin", None, &["*"]),
        ];
        let gguf = [file("m.gguf", b"GGUF\x03\0\0\0")];
        assert_eq!(
            choose(&entries, Role::Serve, &gguf, Some("llama")).unwrap().name(),
            "fast"
        );
        assert_eq!(choose(&entries, Role::Serve, &gguf, None).unwrap().name(), "fast");
        assert_eq!(
            choose(&entries, Role::Serve, &[file("x.bin", b"")], Some("any"))
                .unwrap()
                .name(),
            "other"
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let entries = [entry("one", 1, ".gguf", Some("47475546"), &["llama"])];
        let code =
            |role, files: &[FileFacts], architecture| choose(&entries, role, files, architecture).unwrap_err().code;
        assert_eq!(code(Role::Train, &[], None), "witness::plugin::none_for_role");
        assert_eq!(
            code(Role::Serve, &[file("x.pt", b"PK")], None),
            "witness::plugin::none_for_format"
        );
        // Both conditions of a rule must hold, and a short file has no long magic.
        assert_eq!(
            code(Role::Serve, &[file("x.gguf", b"GG")], None),
            "witness::plugin::none_for_format"
        );
        let gguf = [file("m.gguf", b"GGUF\x03\0\0\0")];
        assert_eq!(
            code(Role::Serve, &gguf, Some("mamba")),
            "witness::plugin::none_for_architecture"
        );
    }
}
