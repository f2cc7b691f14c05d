//! Makes another form of a model without a daemon: for timing, and for looking at a result with other programs.
//!
//! `cargo run --release -p witness-plugin-quantize --example transform -- MODEL DIRECTORY [--to gguf|safetensors|gguf-adapter|peft] [--type Q4_K_M] [--imatrix FILE]
//! [--adapter PATH] [--threads N] [--pure] [--requantize]`
//!
//! MODEL is a GGUF file or a Hugging Face directory, PATH a PEFT directory or an adapter's GGUF file; DIRECTORY is made. Prints one line of JSON: seconds, bytes, the most memory that was resident.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;
use witness_plugin_protocol::{
    AdapterSpec, FileRef, ModelForm, ModelSpec, QuantizeOptions, TransformEvent, TransformRequest,
};
use witness_plugin_quantize::{Progress, run};

struct Quiet;

impl Progress for Quiet {
    fn tell(&mut self, event: &TransformEvent) {
        if let TransformEvent::Warning { message } = event {
            eprintln!("warning: {message}");
        }
    }

    fn should_stop(&self) -> bool {
        false
    }
}

fn reference(path: &Path) -> FileRef {
    FileRef {
        name: path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        path: path.to_owned(),
        digest: String::new(),
        size: 0,
    }
}

/// Returns the files of a directory, or the one file.
fn files(path: &Path) -> std::io::Result<Vec<FileRef>> {
    if !path.is_dir() {
        return Ok(vec![reference(path)]);
    }
    let entries = std::fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
    let paths = entries.iter().map(|entry| entry.path());
    Ok(paths
        .filter(|path| path.is_file())
        .map(|path| reference(&path))
        .collect())
}

/// Returns the most bytes that were resident, where the system says so.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1_024)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut request = TransformRequest {
        model: ModelSpec { files: Vec::new() },
        adapter: None,
        model_name: String::new(),
        form: ModelForm::Gguf,
        quantization: None,
        options: QuantizeOptions::default(),
        template: None,
        directory: PathBuf::new(),
        num_thread: None,
    };
    let mut paths = Vec::new();
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || given.next().ok_or_else(|| format!("`{argument}` lacks its value"));
        match argument.as_str() {
            "--to" => {
                request.form = match value()?.as_str() {
                    "gguf" => ModelForm::Gguf,
                    "safetensors" => ModelForm::Safetensors,
                    "gguf-adapter" => ModelForm::GgufAdapter,
                    "peft" => ModelForm::Peft,
                    other => return Err(format!("`{other}` is no form").into()),
                }
            }
            "--adapter" => {
                request.adapter = Some(AdapterSpec {
                    name: "adapter".to_owned(),
                    files: files(Path::new(&value()?))?,
                });
            }
            "--type" => request.quantization = Some(value()?),
            "--imatrix" => request.options.imatrix = Some(reference(Path::new(&value()?))),
            "--threads" => request.num_thread = Some(value()?.parse()?),
            "--pure" => request.options.pure = true,
            "--requantize" => request.options.requantize = true,
            _ => paths.push(PathBuf::from(argument)),
        }
    }
    let [model, directory] = paths.as_slice() else {
        return Err("give the model and a directory for the result".into());
    };
    request.model.files = files(model)?;
    std::fs::create_dir_all(directory)?;
    request.directory = directory.canonicalize()?;
    let start = Instant::now();
    let reply = run(&request, &mut Quiet).map_err(|diagnostic| format!("{diagnostic:?}"))?;
    let report = json!({
        "seconds": start.elapsed().as_secs_f64(), "files": reply.files, "quantization": reply.quantization, "tensor_bytes": reply.tensor_bytes,
        "bits_per_weight": reply.bits_per_weight, "peak_bytes": peak_bytes(),
    });
    println!("{report}");
    Ok(())
}
