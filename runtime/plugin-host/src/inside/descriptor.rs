//! The descriptor of an opened plugin: bytes that a stranger wrote, proven to be what they should be.

use std::path::Path;

use serde_json::Value;
use witness_plugin_abi::{Plugin, Slice};
use witness_plugin_protocol::{Descriptor, Diagnostic, Kind, PROTOCOL_VERSION};

use super::library::malformed;

/// Longest descriptor. Ours has under 1 KiB.
const DESCRIPTOR_BYTES_MAX: usize = 1 << 20;
/// Longest name and version.
const NAME_BYTES_MAX: usize = 64;

/// Reads and checks the descriptor.
pub(super) fn read(path: &Path, plugin: &Plugin) -> Result<Descriptor, Box<Diagnostic>> {
    let Slice { ptr, len } = plugin.descriptor;
    if ptr.is_null() || len == 0 {
        return Err(malformed(path, "it has no descriptor"));
    }
    if len > DESCRIPTOR_BYTES_MAX {
        return Err(malformed(
            path,
            &format!("its descriptor has {len} bytes, and {DESCRIPTOR_BYTES_MAX} are allowed"),
        ));
    }
    // SAFETY: not null, and static bytes of this length by contract; if that is a lie, this process is lost and no other.
    let bytes = unsafe { std::slice::from_raw_parts(ptr, len) };
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| malformed(path, &format!("its descriptor is not JSON: {error}")))?;
    if let Some(spoken) = value.get("protocol").and_then(Value::as_u64)
        && spoken != u64::from(PROTOCOL_VERSION)
    {
        return Err(Box::new(
            Diagnostic::new(
                "witness::plugin::protocol_mismatch",
                Kind::Unsupported,
                format!(
                    "plugin `{}` speaks message version {spoken}, and this program version {PROTOCOL_VERSION}",
                    path.display()
                ),
            )
            .hint("use a build of the plugin for this version of witness"),
        ));
    }
    let descriptor: Descriptor = serde_json::from_value(value)
        .map_err(|error| malformed(path, &format!("its descriptor is not as it should be: {error}")))?;
    match fault_of(&descriptor) {
        Some(fault) => Err(malformed(path, &fault)),
        None => Ok(descriptor),
    }
}

/// Returns what is wrong with the values of a descriptor.
fn fault_of(descriptor: &Descriptor) -> Option<String> {
    let name = descriptor.name.as_bytes();
    let is_name = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.iter().all(is_name) {
        return Some(format!(
            "its name {:?} is not 1 to {NAME_BYTES_MAX} of the characters a-z, 0-9 and -",
            descriptor.name
        ));
    }
    if descriptor.version.is_empty() || descriptor.version.len() > NAME_BYTES_MAX {
        return Some(format!("its version has {} bytes", descriptor.version.len()));
    }
    if descriptor.roles.is_empty() {
        return Some("it claims no role".to_owned());
    }
    descriptor.formats.iter().find_map(|rule| {
        let magic = rule.magic_hex.as_deref();
        let is_hex = |hex: &str| {
            hex.len().is_multiple_of(2) && !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        if magic.is_none() && rule.suffix.is_none() {
            Some(format!("its format `{}` has neither magic nor suffix", rule.name))
        } else if magic.is_some_and(|hex| !is_hex(hex)) {
            Some(format!("the magic of its format `{}` is not hex", rule.name))
        } else {
            None
        }
    })
}
