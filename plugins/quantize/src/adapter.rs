//! An adapter in the other form.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use witness_conversion::{adapter_to_gguf, adapter_to_peft};
use witness_formats::adapter::Adapter;
use witness_plugin_protocol::{ModelForm, TransformPlan, TransformReply, TransformRequest};

use crate::base::{Base, open_adapter};
use crate::error::{Result, cannot_write, refused};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const GGUF: &str = "adapter.gguf";

fn adapter_of(request: &TransformRequest) -> Result<Adapter> {
    let Some(adapter) = &request.adapter else {
        return Err(refused(
            "no_adapter",
            "the form of an adapter is asked for, and no adapter is named",
        )
        .hint("name one, or ask for the form of a model"));
    };
    if request.quantization.is_some() {
        return Err(refused("adapter_type", "an adapter is not quantized").hint("leave the type out"));
    }
    open_adapter(adapter)
}

/// Says what would be written.
pub(crate) fn plan(request: &TransformRequest, base: &Base) -> Result<TransformPlan> {
    let adapter = adapter_of(request)?;
    let bytes = adapter.bytes();
    Ok(TransformPlan {
        architecture: base.about()?.0.architecture().to_owned(),
        from: "adapter".to_owned(),
        to: "adapter".to_owned(),
        source_bytes: bytes,
        target_bytes: bytes,
        memory_bytes: bytes.saturating_mul(2),
        ..TransformPlan::default()
    })
}

/// Writes it.
pub(crate) fn write(request: &TransformRequest, base: &Base, target: &Path) -> Result<TransformReply> {
    let adapter = adapter_of(request)?;
    let (family, heads) = base.about()?;
    let bytes = adapter.bytes();
    let name = request.adapter.as_ref().map_or("", |adapter| adapter.name.as_str());
    let weights = if request.form == ModelForm::Peft { WEIGHTS } else { GGUF };
    let path = target.join(weights);
    let failed = |error: std::io::Error| cannot_write(&path, &error);
    let sink = BufWriter::new(File::create(&path).map_err(failed)?);
    let mut files = vec![weights.to_owned()];
    let mut sink = match request.form {
        ModelForm::Peft => {
            let (config, sink) = adapter_to_peft(adapter, heads, sink)?;
            let config_path = target.join(CONFIG);
            std::fs::write(&config_path, config).map_err(|error| cannot_write(&config_path, &error))?;
            files.insert(0, CONFIG.to_owned());
            sink
        }
        _ => adapter_to_gguf(adapter, family, heads, name, sink)?,
    };
    sink.flush().map_err(failed)?;
    sink.get_ref().sync_all().map_err(failed)?;
    Ok(TransformReply {
        files,
        quantization: "adapter".to_owned(),
        tensor_bytes: bytes,
        bits_per_weight: 0.0,
        plugin_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}
