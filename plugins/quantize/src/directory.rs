//! A Hugging Face directory as the result.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use witness_conversion::Shard;
use witness_formats::Dtype;
use witness_plugin_protocol::{TransformPlan, TransformReply, TransformRequest};

use crate::base::{Directory, storage_of};
use crate::error::{Result, cannot_write, refused, stopped};
use crate::transform::Progress;

/// Bytes of one file of weights, where nothing is said.
const SHARD_BYTES: u64 = 5_000_000_000;

/// What is to be written.
pub(crate) struct Layout {
    shards: Vec<Shard>,
    index: Option<String>,
    dtype: Dtype,
    warnings: Vec<String>,
}

impl Layout {
    /// Divides the weights into files.
    pub(crate) fn of(directory: &Directory, request: &TransformRequest) -> Result<Layout> {
        let asked = match request.quantization.as_deref().map(str::to_ascii_uppercase).as_deref() {
            None => None,
            Some("F32") => Some(Dtype::F32),
            Some("F16") => Some(Dtype::F16),
            Some("BF16") => Some(Dtype::BF16),
            Some(other) => {
                return Err(refused(
                    "directory_type",
                    format!("a Hugging Face directory cannot be stored as {other}"),
                )
                .hint("take F32, F16 or BF16, or write a GGUF file"));
            }
        };
        let mut warnings = Vec::new();
        let dtype = match (asked, directory.was_quantized) {
            (None, true) => {
                warnings.push(format!(
                    "the numbers that {} stands for are rounded to F16; `F32` keeps them exactly, at twice the size",
                    directory.storage
                ));
                Some(Dtype::F16)
            }
            (asked, _) => asked,
        };
        let shard_bytes = request.options.shard_bytes.unwrap_or(SHARD_BYTES).max(1);
        let (shards, index) = Shard::divide(directory.weights.as_ref(), dtype, shard_bytes)?;
        Ok(Layout {
            shards,
            index,
            dtype: dtype.unwrap_or_else(|| storage_of(directory.weights.as_ref())),
            warnings,
        })
    }

    fn bytes(&self) -> u64 {
        let tensors = self.shards.iter().flat_map(|shard| &shard.tensors);
        tensors
            .map(|(_, described)| described.n_rows() as u64 * described.row_bytes() as u64)
            .sum()
    }

    fn n_numbers(&self) -> u64 {
        let tensors = self.shards.iter().flat_map(|shard| &shard.tensors);
        tensors
            .map(|(_, described)| described.shape.iter().product::<usize>() as u64)
            .sum()
    }

    /// Says what would be written.
    pub(crate) fn plan(self, directory: &Directory) -> TransformPlan {
        let bytes = self.bytes();
        TransformPlan {
            architecture: directory.architecture.clone(),
            from: directory.storage.clone(),
            to: self.dtype.name().to_owned(),
            source_bytes: bytes,
            target_bytes: bytes,
            bits_per_weight: 8.0 * bytes as f64 / self.n_numbers().max(1) as f64,
            memory_bytes: 64 << 20,
            tensors: Vec::new(),
            warnings: self.warnings,
        }
    }

    /// Writes it, file after file.
    pub(crate) fn write(
        self,
        directory: &Directory,
        target: &Path,
        progress: &mut dyn Progress,
    ) -> Result<TransformReply> {
        let (bytes, n_numbers) = (self.bytes(), self.n_numbers());
        let mut files = Vec::new();
        let mut put = |name: &str, content: &[u8]| -> Result<()> {
            let path = target.join(name);
            let failed = |error: std::io::Error| cannot_write(&path, &error);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(failed)?;
            }
            let mut file = File::create(&path).map_err(failed)?;
            file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)?;
            files.push(name.to_owned());
            Ok(())
        };
        for (name, content) in &directory.files {
            put(name, content)?;
        }
        if let Some(index) = &self.index {
            put("model.safetensors.index.json", index.as_bytes())?;
        }
        let mut done = 0;
        for shard in &self.shards {
            let path = target.join(&shard.file);
            let failed = |error: std::io::Error| cannot_write(&path, &error);
            let file = File::create(&path).map_err(failed)?;
            let mut counted = Counted {
                inner: BufWriter::with_capacity(1 << 20, file),
                done,
                progress,
                name: &shard.file,
                is_stopped: false,
            };
            let written = shard.write(directory.weights.as_ref(), &mut counted).map(drop);
            if counted.is_stopped {
                return Err(stopped());
            }
            written?;
            counted.inner.flush().map_err(failed)?;
            counted.inner.get_ref().sync_all().map_err(failed)?;
            done = counted.done;
            files.push(shard.file.clone());
        }
        Ok(TransformReply {
            files,
            quantization: self.dtype.name().to_owned(),
            tensor_bytes: bytes,
            bits_per_weight: 8.0 * bytes as f64 / n_numbers.max(1) as f64,
            plugin_version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}

/// Counts what is written, tells it, and hears whether to stop.
struct Counted<'a, W> {
    inner: W,
    done: u64,
    progress: &'a mut dyn Progress,
    name: &'a str,
    is_stopped: bool,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.progress.should_stop() {
            self.is_stopped = true;
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        let n = self.inner.write(bytes)?;
        self.done += n as u64;
        self.progress.done(self.name, self.done);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
