//! Families that our graph does not have, served by candle-transformers: no adapters, no kept beginnings, one sequence after the other.
//!
//! A family is a row of [`FAMILIES`]. candle-transformers trusts its input and computes some variants only approximately, so each row
//! says up to where it is exact, and [`facts`] checks every number before it is handed over.
//!
//! **Invariant:** the model that was loaded is never run; each sequence runs a clone, which shares the weights and has its own cache.

mod families;

use candle_core::{Device, Tensor};
use serde_json::Value;
use witness_diagnostics::{Diagnostic, Kind};
use witness_formats::gguf::{GgmlType, Gguf, TensorInfo};
use witness_model::{Logits, Model};
use witness_plugin_protocol::ModelInfo;

use crate::bundle::Bundle;
use crate::engine::{Advance, Engine, State};
use crate::error;
use families::{FAMILIES, Family};

/// A model of candle-transformers with a cache.
pub(crate) trait ForeignModel: Send {
    /// Runs `[1, n_tokens]` ids behind `offset` positions; the last one's logits are the last `vocab` numbers.
    fn run(&mut self, ids: &Tensor, offset: usize) -> candle_core::Result<Tensor>;
    /// Returns a clone that shares the weights.
    fn fork(&self) -> Box<dyn ForeignModel>;
}

/// One sequence.
pub(crate) struct ForeignState {
    model: Box<dyn ForeignModel>,
    n_tokens: usize,
}

impl ForeignState {
    /// Returns the number of positions held.
    pub(crate) fn len(&self) -> usize {
        self.n_tokens
    }
}

/// What a family needs to know before it loads.
#[derive(Clone, Copy, Debug)]
struct Facts {
    context_length: u64,
    /// Positions up to which candle's arithmetic is the family's own.
    exact_positions: u64,
    width: u64,
    vocab_size: u64,
    kv_bytes_per_token: u64,
}

/// Largest value of any size in a configuration; bounds what candle allocates from it.
const SIZE_MAX: u64 = 1 << 24;

/// Returns the architectures served here.
pub(crate) fn architectures() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.architecture)
}

/// Returns the facts about a model of such a family, or `refusal` when it is of none.
pub(crate) fn model_info(bundle: &Bundle, refusal: Diagnostic) -> Result<ModelInfo, Diagnostic> {
    let Some(family) = family_of(bundle)? else {
        return Err(refusal);
    };
    let facts = facts(bundle, family)?;
    let mut info = crate::inspect::common(bundle)?;
    info.architecture = family.gguf_architecture.to_owned();
    info.context_length = facts.context_length.min(facts.exact_positions);
    info.embedding_length = facts.width;
    info.vocab_size = facts.vocab_size;
    info.memory.weights_bytes = match bundle {
        Bundle::Gguf { gguf, .. } => gguf.tensors().iter().map(|tensor| held_bytes(gguf, tensor)).sum(),
        // Everything is widened to f32.
        Bundle::Hf { .. } => info.parameter_count.saturating_mul(4),
    };
    info.memory.kv_bytes_per_token = facts.kv_bytes_per_token;
    info.memory.overhead_bytes = facts.vocab_size * 512;
    Ok(info)
}

/// Returns what candle takes for a tensor: it keeps a second copy of some types, laid out for the CPU's dot products, from the first product on. Exact for x86-64
/// with AVX2 or better (tiles of 16 rows in candle-core 0.11); an upper bound elsewhere. An embedding is looked up, not multiplied with, unless it is the head too.
fn held_bytes(gguf: &Gguf, tensor: &TensorInfo) -> u64 {
    let is_multiplied = tensor.name != "token_embd.weight" || gguf.tensor("output.weight").is_none();
    let per_hundred = match tensor.ggml_type {
        _ if !is_multiplied => 0,
        // 3072 bytes of tile for 2304 of blocks.
        GgmlType::Q4_K => 134,
        // 5120 for 3360.
        GgmlType::Q6_K => 153,
        GgmlType::Q8_0 => 100,
        GgmlType::Q4_0 | GgmlType::Q5_K if cfg!(target_arch = "aarch64") => 100,
        _ => 0,
    };
    tensor.bytes.saturating_add(tensor.bytes / 100 * per_hundred)
}

/// Loads a model for sequences of up to `num_ctx` positions.
pub(crate) fn load(bundle: &Bundle, info: &ModelInfo, num_ctx: usize) -> Result<Box<dyn Engine>, Diagnostic> {
    let family = family_of(bundle)?.ok_or_else(|| error::internal("a family that was there is gone"))?;
    let facts = facts(bundle, family)?;
    let model = match bundle {
        Bundle::Gguf { parts, .. } => {
            let [part] = parts.as_slice() else {
                return Err(unsupported(family, "split GGUF files"));
            };
            let load = family.gguf.ok_or_else(|| unsupported(family, "GGUF files"))?;
            families::gguf_model(part, family.gguf_architecture, num_ctx, load)
        }
        Bundle::Hf { config, tensors, .. } => {
            let load = family.hf.ok_or_else(|| unsupported(family, "safetensors"))?;
            families::hf_model(config, tensors, num_ctx, load)
        }
    };
    let model = model.map_err(|error| {
        Diagnostic::new(
            "witness::serve::foreign_load",
            Kind::Invalid,
            format!("this {} model cannot be loaded", family.architecture),
        )
        .cause(error.to_string())
        .hint("the files may be incomplete, or of a variant of the family that is not supported yet")
    })?;
    let vocab_size =
        usize::try_from(facts.vocab_size).map_err(|_| error::internal("a vocabulary beyond this machine"))?;
    Ok(Box::new(ForeignEngine {
        model,
        bytes: info.memory.weights_bytes,
        vocab_size,
    }))
}

fn unsupported(family: &Family, what: &str) -> Diagnostic {
    let message = format!("{what} of the family `{}` are not supported", family.architecture);
    Diagnostic::new("witness::serve::foreign_unsupported", Kind::Unsupported, message)
        .hint("convert the model, or use one of a family that runs on our own graph")
}

fn family_of(bundle: &Bundle) -> Result<Option<&'static Family>, Diagnostic> {
    let name = bundle.architecture()?;
    let is_gguf = matches!(bundle, Bundle::Gguf { .. });
    Ok(FAMILIES.iter().find(|family| {
        if is_gguf {
            family.gguf.is_some() && family.gguf_architecture == name
        } else {
            family.architecture == name
        }
    }))
}

/// Reads and bounds the numbers that candle takes as they are.
fn facts(bundle: &Bundle, family: &Family) -> Result<Facts, Diagnostic> {
    let number = |gguf_key: &str, hf_key: &str| -> Result<Option<u64>, Diagnostic> {
        let (key, value) = match bundle {
            Bundle::Gguf { gguf, .. } => {
                let key = format!("{}.{gguf_key}", family.gguf_architecture);
                let value = gguf.metadata().opt_u64(&key)?;
                (key, value)
            }
            Bundle::Hf { config, .. } => (hf_key.to_owned(), config.raw.get(hf_key).and_then(Value::as_u64)),
        };
        match value {
            Some(value) if value == 0 || value > SIZE_MAX => Err(bad_config(&key, &value.to_string())),
            value => Ok(value),
        }
    };
    let needed = |gguf_key: &str, hf_key: &str| -> Result<u64, Diagnostic> {
        number(gguf_key, hf_key)?
            .ok_or_else(|| bad_config(if bundle.format() == "gguf" { gguf_key } else { hf_key }, "missing"))
    };
    let width = needed("embedding_length", "hidden_size")?;
    let heads = needed("attention.head_count", "num_attention_heads")?;
    let kv_heads = number("attention.head_count_kv", "num_key_value_heads")?.unwrap_or(heads);
    let head_dim = number("attention.key_length", "head_dim")?.unwrap_or(width / heads);
    let layers = needed("block_count", "num_hidden_layers")?;
    needed("feed_forward_length", "intermediate_size")?;
    if heads % kv_heads != 0 || head_dim < 2 || head_dim % 2 != 0 || layers > 1024 || heads > 4096 {
        return Err(bad_config(
            "attention heads",
            &format!("{heads} heads, {kv_heads} key heads of {head_dim}, {layers} layers"),
        ));
    }
    let context_length = needed("context_length", "max_position_embeddings")?;
    let window = number("attention.sliding_window", "sliding_window")?;
    let vocab_size = match bundle {
        Bundle::Gguf { gguf, .. } => embedding_rows(gguf)?,
        Bundle::Hf { .. } => needed("", "vocab_size")?,
    };
    check_rope(bundle, family)?;
    Ok(Facts {
        context_length,
        exact_positions: if family.has_window {
            window.unwrap_or(u64::MAX)
        } else {
            u64::MAX
        },
        width,
        vocab_size,
        kv_bytes_per_token: 2 * 4 * layers * kv_heads * head_dim,
    })
}

fn embedding_rows(gguf: &Gguf) -> Result<u64, Diagnostic> {
    let rows = gguf
        .require_tensor("token_embd.weight")?
        .shape
        .first()
        .copied()
        .unwrap_or(0) as u64;
    if rows == 0 || rows > SIZE_MAX {
        Err(bad_config("rows of token_embd.weight", &rows.to_string()))
    } else {
        Ok(rows)
    }
}

/// candle's modules leave rotary scaling out for these families; a model that needs it would answer something else.
fn check_rope(bundle: &Bundle, family: &Family) -> Result<(), Diagnostic> {
    let scaled = match bundle {
        Bundle::Gguf { gguf, .. } => {
            let factor = gguf
                .metadata()
                .opt_f64(&format!("{}.rope.scaling.factor", family.gguf_architecture))?;
            let by_tensor = gguf.tensors().iter().any(|tensor| tensor.name.starts_with("rope_"));
            by_tensor || factor.is_some_and(|factor| factor != 1.0)
        }
        Bundle::Hf { config, .. } => ["rope_scaling", "rope_parameters"].iter().any(|key| {
            let plain = |value: Option<&Value>| value.and_then(Value::as_str).is_none_or(|kind| kind == "default");
            match config.raw.get(*key) {
                Some(Value::Object(rope)) => {
                    let inner: Vec<&Value> = rope.values().filter(|value| value.is_object()).collect();
                    let all_plain =
                        |rope: &serde_json::Map<String, Value>| plain(rope.get("rope_type")) && plain(rope.get("type"));
                    !all_plain(rope)
                        || inner
                            .iter()
                            .any(|value| value.as_object().is_some_and(|rope| !all_plain(rope)))
                }
                _ => false,
            }
        }),
    };
    if scaled {
        Err(unsupported(family, "models with scaled rotary positions"))
    } else {
        Ok(())
    }
}

fn bad_config(key: &str, found: &str) -> Diagnostic {
    let message = format!("`{key}` in the model's configuration is {found}, expected 1 to {SIZE_MAX}");
    Diagnostic::new("witness::serve::bad_config", Kind::Invalid, message)
        .hint("the files may be damaged or mixed from two models; fetch them again")
}

struct ForeignEngine {
    model: Box<dyn ForeignModel>,
    bytes: u64,
    vocab_size: usize,
}

impl Engine for ForeignEngine {
    fn new_state(&self, _capacity_tokens: usize) -> State {
        State::Foreign(ForeignState {
            model: self.model.fork(),
            n_tokens: 0,
        })
    }

    fn forward(&mut self, batch: &mut [Advance<'_>], logits: &mut Logits) -> Result<(), Diagnostic> {
        let failed = |error: candle_core::Error| {
            Diagnostic::new("witness::serve::foreign_run", Kind::Plugin, "the model failed to run")
                .cause(error.to_string())
        };
        logits.restart(self.vocab_size);
        for advance in batch.iter_mut() {
            let State::Foreign(state) = &mut *advance.state else {
                return Err(error::internal("a sequence holds the state of another engine"));
            };
            let ids = Tensor::new(advance.tokens, &Device::Cpu)
                .and_then(|ids| ids.unsqueeze(0))
                .map_err(failed)?;
            let all = state.model.run(&ids, state.n_tokens).map_err(failed)?;
            state.n_tokens += advance.tokens.len();
            if advance.n_logits == 0 {
                logits.push(&[]);
                continue;
            }
            let flat = all.flatten_all().and_then(|all| all.to_dtype(candle_core::DType::F32));
            let flat = flat.and_then(|all| all.to_vec1::<f32>()).map_err(failed)?;
            let start = flat.len().checked_sub(self.vocab_size);
            logits.push(&flat[start.ok_or_else(|| error::internal("too few logits"))?..]);
        }
        Ok(())
    }

    fn graph(&self) -> Option<&Model> {
        None
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}
