//! The layers of a new model: files that are here already, and texts that are written now. Blocking.

use witness_diagnostics::{Diagnostic, Kind};
use witness_registry::{Layer, Lease, Registry, media};

use super::order::Order;

/// Layers with what keeps their blobs until the manifest names them.
pub(super) struct Layers {
    pub(super) layers: Vec<Layer>,
    _leases: Vec<Lease>,
}

/// Writes the text layers and returns all layers in the order of the manifest.
pub(super) fn write(registry: &Registry, order: &Order, say: &mut dyn FnMut(String)) -> Result<Layers, Diagnostic> {
    let mut layers = Vec::new();
    let mut leases = Vec::new();
    for layer in order
        .base_layers
        .iter()
        .chain(&order.adapter_layers)
        .chain(&order.draft_layers)
        .chain(&order.other_layers)
    {
        say(format!("using existing layer {}", layer.digest));
        layers.push(layer.clone());
    }
    let mut text = |media_type: &str, bytes: &[u8]| -> Result<(), Diagnostic> {
        let (layer, lease) = put(registry, media_type, bytes, say)?;
        layers.push(layer);
        leases.push(lease);
        Ok(())
    };
    if let Some(template) = &order.template {
        text(media::TEMPLATE, template.as_bytes())?;
    }
    if let Some(system) = order.system.as_ref().filter(|system| !system.is_empty()) {
        text(media::SYSTEM, system.as_bytes())?;
    }
    for license in &order.licenses {
        text(media::LICENSE, license.as_bytes())?;
    }
    if !order.parameters.is_empty() {
        text(media::PARAMS, &json(&order.parameters)?)?;
    }
    if !order.messages.is_empty() {
        text(media::MESSAGES, &json(&order.messages)?)?;
    }
    Ok(Layers {
        layers,
        _leases: leases,
    })
}

/// Stores bytes as a layer.
pub(super) fn put(
    registry: &Registry,
    media_type: &str,
    bytes: &[u8],
    say: &mut dyn FnMut(String),
) -> Result<(Layer, Lease), Diagnostic> {
    let digest = witness_registry::Digest::of(bytes);
    let verb = if registry.has_blob(&digest).is_some() {
        "using existing"
    } else {
        "creating new"
    };
    let blob = registry.put_bytes(bytes).map_err(Diagnostic::from)?;
    say(format!("{verb} layer {digest}"));
    Ok((Layer::of(media_type, &blob), blob.lease))
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, Diagnostic> {
    serde_json::to_vec(value).map_err(|error| {
        Diagnostic::new("witness::daemon::json", Kind::Internal, "a layer cannot be written").cause(error.to_string())
    })
}
