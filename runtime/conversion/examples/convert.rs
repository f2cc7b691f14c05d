//! Converts one model or adapter from the command line: what a person runs to look at a result with other programs.
//!
//! `to-gguf DIRECTORY OUT.gguf f32|f16|bf16 [ADAPTER]`, `to-hf FILE.gguf DIRECTORY`, `merge DIRECTORY ADAPTER OUT`,
//! `lora-to-gguf ADAPTER BASE OUT.gguf`, `lora-to-peft FILE.gguf BASE OUT`

use std::{
    error::Error,
    fs::{self, File},
    io::BufWriter,
    path::Path,
    sync::Arc,
};

use witness_conversion::{
    ConversionError, DenseType, Family, GgufPlan, HfPlan, Merged, Weights, adapter_to_gguf, adapter_to_peft,
    write_shards,
};
use witness_formats::{
    FileSet,
    adapter::{Adapter, Heads},
    gguf::{GgmlType, Gguf},
    hf::HfConfig,
    safetensors::SafeTensors,
};

const SHARD_BYTES_MAX: u64 = 5_000_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["to-gguf", directory, out, kind, adapter @ ..] => {
            let files = FileSet::from_directory(directory.as_ref())?;
            let dense = match *kind {
                "f16" => DenseType::F16,
                "bf16" => DenseType::BF16,
                _ => DenseType::F32,
            };
            let plan = match adapter {
                [] => GgufPlan::from_hf(&files, None)?,
                [adapter, ..] => GgufPlan::from_hf_with(&files, None, Arc::new(merged(&files, adapter)?))?,
            };
            plan.write(dense, BufWriter::new(File::create(out)?))?;
        }
        ["to-hf", file, directory] => {
            let refuse = |kind: GgmlType, _: &[u8]| {
                Err(ConversionError::Unsupported {
                    model: kind.name(),
                    what: "its blocks are not decoded here".to_owned(),
                    hint: "use a dense file".to_owned(),
                })
            };
            let plan = HfPlan::from_gguf(Gguf::open_file(file.as_ref())?, Box::new(refuse))?;
            for (name, text) in &plan.files {
                let path = Path::new(directory).join(name);
                fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
                fs::write(path, text)?;
            }
            write(plan.weights.as_ref(), directory)?;
        }
        ["merge", directory, adapter, out] => {
            let files = FileSet::from_directory(directory.as_ref())?;
            let merged = merged(&files, adapter)?;
            fs::create_dir_all(out)?;
            for (name, path) in files.iter().filter(|(name, _)| !name.contains("safetensors")) {
                fs::copy(path, Path::new(out).join(name))?;
            }
            write(&merged, out)?;
        }
        ["lora-to-gguf", adapter, base, out] => {
            let (family, heads) = about(&FileSet::from_directory(base.as_ref())?)?;
            let adapter = Adapter::open(&FileSet::from_directory(adapter.as_ref())?)?;
            adapter_to_gguf(adapter, family, heads, "adapter", File::create(out)?)?;
        }
        ["lora-to-peft", file, base, out] => {
            let (_, heads) = about(&FileSet::from_directory(base.as_ref())?)?;
            fs::create_dir_all(out)?;
            let sink = File::create(Path::new(out).join("adapter_model.safetensors"))?;
            let (config, _) = adapter_to_peft(Adapter::open_gguf(&[file.into()])?, heads, sink)?;
            fs::write(Path::new(out).join("adapter_config.json"), config)?;
        }
        _ => return Err("see the head of examples/convert.rs for what to type".into()),
    }
    Ok(())
}

fn about(files: &FileSet) -> Result<(Family, Heads), Box<dyn Error>> {
    let config = HfConfig::load(files)?;
    let n_heads = config.fields().count_or("num_attention_heads", 32, 1, 4096)?;
    let n_kv_heads = config.fields().count_or("num_key_value_heads", n_heads, 1, 4096)?;
    Ok((Family::of(&config)?, Heads { n_heads, n_kv_heads }))
}

fn merged(files: &FileSet, adapter: &str) -> Result<Merged, Box<dyn Error>> {
    let base = Arc::new(SafeTensors::open(files)?);
    let adapter = Adapter::open(&FileSet::from_directory(adapter.as_ref())?)?;
    Ok(Merged::new(base, adapter, about(files)?.1)?)
}

fn write(weights: &dyn Weights, directory: &str) -> Result<(), Box<dyn Error>> {
    let create = |name: &str| File::create(Path::new(directory).join(name)).map(BufWriter::new);
    if let Some(index) = write_shards(weights, None, SHARD_BYTES_MAX, create)? {
        fs::write(Path::new(directory).join("model.safetensors.index.json"), index)?;
    }
    Ok(())
}
