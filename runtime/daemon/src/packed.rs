//! Where plugins keep the packed form of a base's weights: with the store, under the digest of the largest of its files.
//!
//! What is in the files is the plugin's business, and they may go at any time: weights that are not found again are packed again.

use witness_plugin_protocol::{FileRef, ModelInfo, PackedFile};
use witness_registry::{Digest, Registry};

use crate::models::library::blocking;

/// Says whether a plugin may want to pack a base's weights: plain numbers, and those that are served as such, are used as they lie. For these no room is made, which would
/// cost others theirs.
pub(crate) fn may_pack(info: &ModelInfo) -> bool {
    !matches!(info.quantization.as_str(), "F32" | "F16" | "BF16" | "NF4")
}

/// Returns where the packed form of a base is kept, if it is.
pub(crate) async fn place(registry: Registry, files: &[FileRef], bytes_max: u64) -> Option<PackedFile> {
    let largest = files.iter().max_by_key(|file| file.size)?;
    let digest = Digest::parse(&largest.digest).ok()?;
    let size: u64 = files.iter().map(|file| file.size).sum();
    if bytes_max == 0 {
        return None;
    }
    // Some types take up to a fourth more when packed; a short row of odd length more than that, but it is short.
    let bytes = size.saturating_add(size / 4);
    let place = blocking(move || {
        let place = registry.packed_place(&digest, bytes, bytes_max);
        Ok::<_, witness_diagnostics::Diagnostic>(place)
    });
    let place = place.await.ok().flatten()?;
    Some(PackedFile {
        stem: place.stem,
        bytes_max: place.bytes_max,
    })
}
