//! LoRA adapters in GGUF form, as llama.cpp's converter writes them.
//!
//! `general.type` is `adapter`, `adapter.type` is `lora`, `adapter.lora.alpha` the alpha; tensors are `<base tensor>.lora_a` and
//! `.lora_b`. Row-major, A is `[r, in]` and B `[out, r]`, as in PEFT; only for the embedding A lies transposed, `[vocab, r]`. The rows
//! of B on q and k are in the order of the architecture ([`rows::stored_order`]).

use std::{collections::BTreeMap, path::PathBuf};

use half::f16;

use super::{Adapter, LoraKind, LoraPair, RANK_MAX};
use crate::{
    FormatError, Result, TensorRef,
    error::excerpt,
    gguf::{GgmlType, Gguf, TensorInfo, names, rows},
};

/// A and B of one module, as far as they were found.
#[derive(Default)]
struct Halves {
    a: Option<TensorRef>,
    b: Option<TensorRef>,
}

pub(super) fn open(paths: &[PathBuf]) -> Result<Adapter> {
    let gguf = Gguf::open(paths)?;
    let label = gguf.label().to_owned();
    let metadata = gguf.metadata();
    let general = metadata.opt_str("general.type")?.unwrap_or("model");
    let kind = metadata.opt_str("adapter.type")?.unwrap_or("none");
    if general != "adapter" || kind != "lora" {
        return Err(FormatError::unsupported(
            label,
            format!(
                "it is no LoRA adapter: `general.type` is `{}` and `adapter.type` is `{}`, not `adapter` and `lora`",
                excerpt(general),
                excerpt(kind)
            ),
            "name a whole model in FROM, and only adapters in ADAPTER",
        ));
    }
    if metadata.get("adapter.alora.invocation_tokens").is_some() {
        return Err(FormatError::unsupported(
            label,
            "`adapter.alora.invocation_tokens` is set: activated LoRA applies the change only after certain tokens, which the runtime does not",
            "use a plain LoRA",
        ));
    }
    let arch = gguf.architecture()?;
    let alpha = metadata.f64("adapter.lora.alpha")?;
    if !alpha.is_finite() {
        return Err(FormatError::malformed(
            label,
            "metadata `adapter.lora.alpha`",
            "a finite number",
            alpha.to_string(),
        ));
    }
    let mut modules: BTreeMap<String, Halves> = BTreeMap::new();
    for info in gguf.tensors() {
        let (module, is_a) = place(&gguf, arch, info)?;
        let tensor = dense(&gguf, info)?;
        let halves = modules.entry(module).or_default();
        let slot = if is_a { &mut halves.a } else { &mut halves.b };
        // Names are unique in a GGUF file and translate one to one, so the slot is free.
        *slot = Some(tensor);
    }
    if modules.is_empty() {
        return Err(FormatError::missing(
            label,
            "tensor: as an adapter it would change nothing",
        ));
    }
    let mut pairs = Vec::new();
    for (module, halves) in modules {
        pairs.push(pair(module, halves, alpha, &label)?);
    }
    let base_model = metadata.opt_str("general.base_model.0.name")?.map(str::to_owned);
    Ok(Adapter {
        pairs,
        saved: Vec::new(),
        config: None,
        base_model,
        row_order: rows::stored_order(arch),
        label,
    })
}

/// Returns the Hugging Face module of a tensor, and whether it is A.
fn place(gguf: &Gguf, arch: &str, info: &TensorInfo) -> Result<(String, bool)> {
    let (base, is_a) = match (info.name.strip_suffix(".lora_a"), info.name.strip_suffix(".lora_b")) {
        (Some(base), _) => (base, true),
        (_, Some(base)) => (base, false),
        _ => {
            return Err(FormatError::malformed(
                gguf.label(),
                format!("tensor `{}`", excerpt(&info.name)),
                "a name that ends in .lora_a or .lora_b",
                "another, which would be left out",
            ));
        }
    };
    let module = names::to_hf(arch, base).and_then(|name| name.strip_suffix(".weight").map(str::to_owned));
    module.map(|module| (module, is_a)).ok_or_else(|| {
        FormatError::unsupported(
            gguf.label(),
            format!(
                "it changes `{}` of architecture `{}`, which the runtime does not know",
                excerpt(base),
                excerpt(arch)
            ),
            "adapters on the matrices of llama (with Mistral) and qwen2 are applied",
        )
    })
}

/// Returns a tensor as plain numbers; Q8_0, which the converter also writes, is decoded.
fn dense(gguf: &Gguf, info: &TensorInfo) -> Result<TensorRef> {
    if info.ggml_type != GgmlType::Q8_0 {
        return gguf.tensor_ref(info);
    }
    // One block: an f16 scale, then 32 signed bytes.
    let (blocks, _) = gguf.tensor_data(info)?.as_chunks::<34>();
    let mut values = Vec::with_capacity(blocks.len() * 32);
    for block in blocks {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        values.extend(block[2..].iter().map(|byte| scale * f32::from(byte.cast_signed())));
    }
    TensorRef::from_f32(&info.shape, &values)
}

fn pair(module: String, halves: Halves, alpha: f64, label: &str) -> Result<LoraPair> {
    let shown = excerpt(&module);
    let missing = |which: &str| FormatError::missing(label, format!("{which} for `{shown}`"));
    let a = halves.a.ok_or_else(|| missing("lora_a"))?;
    let b = halves.b.ok_or_else(|| missing("lora_b"))?;
    let kind = if module == "model.embed_tokens" {
        LoraKind::Embedding
    } else {
        LoraKind::Linear
    };
    let a = if kind == LoraKind::Embedding {
        transposed(&a)?
    } else {
        a
    };
    let rank = match (a.shape(), b.shape()) {
        (&[r_a, _], &[_, r_b]) if r_a == r_b && (1..=RANK_MAX).contains(&r_a) => r_a,
        _ => {
            return Err(FormatError::malformed(
                label,
                format!("`{shown}`"),
                "A of shape [r, in] and B of shape [out, r]",
                format!("A {:?} and B {:?}", a.shape(), b.shape()),
            ));
        }
    };
    // As llama.cpp has it: an alpha of 0 stands for a scale of 1.
    let scale = if alpha == 0.0 { 1.0 } else { alpha / rank as f64 };
    Ok(LoraPair {
        module,
        a,
        b,
        b_bias: None,
        magnitude: None,
        rank,
        scale,
        kind,
    })
}

fn transposed(tensor: &TensorRef) -> Result<TensorRef> {
    let &[rows, columns] = tensor.shape() else {
        return Ok(tensor.clone());
    };
    let values = tensor.to_f32()?;
    let turned: Vec<f32> = (0..columns)
        .flat_map(|column| (0..rows).map(move |row| row * columns + column))
        .map(|at| values[at])
        .collect();
    TensorRef::from_f32(&[columns, rows], &turned)
}
