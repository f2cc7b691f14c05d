//! A Hugging Face directory as the result.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use witness_conversion::{Described, Shard, Weights};
use witness_formats::Dtype;
use witness_formats::hf::four_bit::quantization_config;
use witness_plugin_protocol::{TransformEvent, TransformPlan, TransformReply, TransformRequest};

use crate::base::{Directory, NF4, blocks_in_the_way, edit_config, storage_of};
use crate::error::{Result, cannot_write, refused, stopped};
use crate::four_bit::{Encoded, bytes_of, quantized};
use crate::transform::Progress;

/// Bytes of one file of weights, where nothing is said.
const SHARD_BYTES: u64 = 5_000_000_000;

/// What rows take on their way, at most.
const ROWS_BYTES: u64 = 64 << 20;

/// What is to be written.
pub(crate) struct Layout {
    dtype: Option<Dtype>,
    is_nf4: bool,
    shard_bytes: u64,
    warnings: Vec<String>,
}

impl Layout {
    /// Reads what is asked for.
    pub(crate) fn of(directory: &Directory, request: &TransformRequest) -> Result<Layout> {
        let asked = request.quantization.as_deref().map(str::to_ascii_uppercase);
        let is_nf4 = asked.as_deref() == Some(NF4);
        let asked = match asked.as_deref() {
            None | Some(NF4) => None,
            Some("F32") => Some(Dtype::F32),
            Some("F16") => Some(Dtype::F16),
            Some("BF16") => Some(Dtype::BF16),
            Some(other) => {
                return Err(refused(
                    "directory_type",
                    format!("a Hugging Face directory cannot be stored as {other}"),
                )
                .hint("take F32, F16, BF16 or NF4, or write a GGUF file"));
            }
        };
        let options = &request.options;
        if is_nf4 && directory.was_quantized && !options.requantize {
            return Err(blocks_in_the_way("making it NF4", &directory.storage));
        }
        let names_types = !options.tensor_types.is_empty() || options.pure;
        if is_nf4 && (names_types || options.output_type.is_some() || options.embedding_type.is_some()) {
            return Err(refused("nf4_types", "NF4 is one type for the matrices of all layers")
                .hint("leave out the types of single tensors: embedding, output and norms stay as they are"));
        }
        let mut warnings = Vec::new();
        if is_nf4 && options.imatrix.is_some() {
            warnings.push("NF4 is rounded, not searched: the importance matrix changes nothing".to_owned());
        }
        let dtype = match (asked, directory.was_quantized && !is_nf4) {
            (None, true) => {
                warnings.push(format!(
                    "the numbers that {} stands for are rounded to F16; `F32` keeps them exactly, at twice the size",
                    directory.storage
                ));
                Some(Dtype::F16)
            }
            (asked, _) => asked,
        };
        Ok(Layout {
            dtype,
            is_nf4,
            shard_bytes: options.shard_bytes.unwrap_or(SHARD_BYTES).max(1),
            warnings,
        })
    }

    /// Returns the one word for how most of it is stored then.
    fn storage(&self, directory: &Directory) -> String {
        match self.is_nf4 {
            true => NF4.to_owned(),
            false => {
                let dtype = self.dtype.unwrap_or_else(|| storage_of(directory.weights.as_ref()));
                dtype.name().to_owned()
            }
        }
    }

    /// Returns the bytes of all tensors now and then, and the number of weights.
    fn sizes(&self, weights: &dyn Weights) -> Result<(u64, u64, u64)> {
        let mut sizes = (0, 0, 0);
        for name in weights.names() {
            let described = weights.require(&name)?;
            let bytes = |described: &Described| described.n_rows() as u64 * described.row_bytes() as u64;
            sizes.0 += bytes(&described);
            sizes.1 += match quantized(weights, &name).filter(|_| self.is_nf4) {
                Some(shape) => bytes_of(shape, described.dtype),
                None => bytes(&Described {
                    dtype: self.dtype.unwrap_or(described.dtype),
                    ..described.clone()
                }),
            };
            sizes.2 += described.shape.iter().product::<usize>() as u64;
        }
        Ok(sizes)
    }

    /// Says what would be written.
    pub(crate) fn plan(self, directory: &Directory) -> Result<TransformPlan> {
        let weights = directory.weights.as_ref();
        let (source_bytes, target_bytes, n_numbers) = self.sizes(weights)?;
        let names = weights.names().into_iter().filter(|_| self.is_nf4);
        let matrices = names.filter_map(|name| Some(bytes_of(quantized(weights, &name)?, Dtype::F32)));
        Ok(TransformPlan {
            architecture: directory.architecture.clone(),
            from: directory.storage.clone(),
            to: self.storage(directory),
            source_bytes,
            target_bytes,
            bits_per_weight: 8.0 * target_bytes as f64 / n_numbers.max(1) as f64,
            memory_bytes: ROWS_BYTES + matrices.max().unwrap_or(0),
            tensors: Vec::new(),
            warnings: self.warnings,
        })
    }

    /// Writes it, file after file.
    pub(crate) fn write(
        self,
        mut directory: Directory,
        target: &Path,
        pool: &Arc<rayon::ThreadPool>,
        progress: &mut dyn Progress,
    ) -> Result<TransformReply> {
        let (_, total_bytes, n_numbers) = self.sizes(directory.weights.as_ref())?;
        let storage = self.storage(&directory);
        progress.tell(&TransformEvent::Start {
            from: directory.storage.clone(),
            to: storage.clone(),
            total_bytes,
            n_tensors: directory.weights.names().len() as u64,
        });
        if self.is_nf4 {
            let dtype = storage_of(directory.weights.as_ref());
            edit_config(&mut directory.files, |config| {
                config.insert("quantization_config".to_owned(), quantization_config(dtype, true));
            })?;
            let encoded = Encoded::new(Arc::clone(&directory.weights), Arc::clone(pool));
            if !encoded.prepare(|| !progress.should_stop())? {
                return Err(stopped());
            }
            directory.weights = Arc::new(encoded);
        }
        let (shards, index) = Shard::divide(directory.weights.as_ref(), self.dtype, self.shard_bytes)?;
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
        if let Some(index) = &index {
            put("model.safetensors.index.json", index.as_bytes())?;
        }
        let (mut done, mut tensor_bytes) = (0, 0);
        for shard in &shards {
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
            let bytes = |described: &Described| described.n_rows() as u64 * described.row_bytes() as u64;
            tensor_bytes += shard.tensors.iter().map(|(_, described)| bytes(described)).sum::<u64>();
            files.push(shard.file.clone());
        }
        Ok(TransformReply {
            files,
            quantization: storage,
            tensor_bytes,
            bits_per_weight: 8.0 * tensor_bytes as f64 / n_numbers.max(1) as f64,
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
