//! Writes a valid Llama GGUF of a wanted shape, with weights from a short repeated pattern, and a PEFT adapter for it.

use std::io::{BufWriter, Write};
use std::path::Path;
use witness_formats::gguf::{GgmlType, OwnedValue, Writer};
use witness_formats::{Dtype, safetensors};

/// Shape of a model to write.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) hidden: usize,
    pub(crate) feed_forward: usize,
    pub(crate) n_layers: usize,
}

impl Shape {
    /// About 2 MB a layer.
    pub(crate) fn small(n_layers: usize) -> Self {
        Self {
            hidden: 256,
            feed_forward: 1024,
            n_layers,
        }
    }

    /// As many 33 MB layers as reach `bytes`.
    pub(crate) fn of_bytes(bytes: u64) -> Self {
        let (hidden, feed_forward) = (1024, 4096);
        let layer_bytes = 2 * (4 * hidden * hidden + 3 * hidden * feed_forward);
        Self {
            hidden,
            feed_forward,
            n_layers: usize::try_from(bytes).expect("fits").div_ceil(layer_bytes).max(1),
        }
    }
}

const HEADS: usize = 8;

/// Writes the model under a name of its own (so that two files of one shape differ) and returns the size of the file in bytes.
pub(crate) fn write(path: &Path, shape: Shape, name: &str) -> u64 {
    let Shape {
        hidden,
        feed_forward,
        n_layers,
    } = shape;
    let tokens: Vec<String> = ["<unk>", "<s>", "</s>"]
        .into_iter()
        .map(str::to_owned)
        .chain((0..256).map(|byte| format!("<0x{byte:02X}>")))
        .collect();
    let types: Vec<i32> = (0..tokens.len())
        .map(|index| [2, 3, 3].get(index).copied().unwrap_or(6))
        .collect();
    let vocabulary = tokens.len();
    let count = |number: usize| OwnedValue::from(u32::try_from(number).expect("small"));
    let metadata: Vec<(&str, OwnedValue)> = vec![
        ("general.architecture", "llama".into()),
        ("general.name", name.into()),
        ("general.file_type", 1_u32.into()),
        ("llama.block_count", count(n_layers)),
        ("llama.context_length", 2048_u32.into()),
        ("llama.embedding_length", count(hidden)),
        ("llama.feed_forward_length", count(feed_forward)),
        ("llama.attention.head_count", count(HEADS)),
        ("llama.attention.head_count_kv", count(HEADS)),
        ("llama.attention.layer_norm_rms_epsilon", 1e-5_f32.into()),
        ("llama.rope.dimension_count", count(hidden / HEADS)),
        ("llama.vocab_size", count(vocabulary)),
        ("tokenizer.ggml.model", "llama".into()),
        ("tokenizer.ggml.scores", vec![0_f32; vocabulary].into()),
        ("tokenizer.ggml.tokens", tokens.into()),
        ("tokenizer.ggml.token_type", types.into()),
        ("tokenizer.ggml.bos_token_id", 1_u32.into()),
        ("tokenizer.ggml.eos_token_id", 2_u32.into()),
    ];
    let mut writer = Writer::new();
    for (key, value) in metadata {
        writer.set(key, value).expect("keys are distinct");
    }
    let mut tensors: Vec<(String, Vec<usize>)> = vec![
        ("token_embd.weight".into(), vec![vocabulary, hidden]),
        ("output_norm.weight".into(), vec![hidden]),
    ];
    for layer in 0..n_layers {
        let mut add = |name: &str, shape: Vec<usize>| tensors.push((format!("blk.{layer}.{name}.weight"), shape));
        for norm in ["attn_norm", "ffn_norm"] {
            add(norm, vec![hidden]);
        }
        for square in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            add(square, vec![hidden, hidden]);
        }
        add("ffn_gate", vec![feed_forward, hidden]);
        add("ffn_up", vec![feed_forward, hidden]);
        add("ffn_down", vec![hidden, feed_forward]);
    }
    for (name, shape) in &tensors {
        writer.tensor(name, shape, kind(shape)).expect("names are distinct");
    }
    // 0.011 to 0.042 with both signs, as f16 bit patterns: activations stay finite and no logit is a constant.
    let pattern: Vec<u8> = (0_u32..4096)
        .flat_map(|index| {
            let bits = index.wrapping_mul(2_654_435_761) >> 16;
            u16::try_from(0x2000 | (bits & 0x07FF) | (bits & 0x8000))
                .expect("16 bits")
                .to_le_bytes()
        })
        .collect();
    let file = std::fs::File::create(path).expect("the temporary home is writable");
    let mut body = writer
        .begin(BufWriter::with_capacity(1 << 20, file))
        .expect("the header can be written");
    for (_, shape) in &tensors {
        if kind(shape) == GgmlType::F32 {
            body.write(&1_f32.to_le_bytes().repeat(shape[0]))
                .expect("there is room for the model");
        } else {
            let mut left = 2 * shape.iter().product::<usize>();
            while left > 0 {
                let piece = left.min(pattern.len());
                body.write(&pattern[..piece]).expect("there is room for the model");
                left -= piece;
            }
        }
    }
    body.finish()
        .expect("every tensor was written")
        .flush()
        .expect("there is room for the model");
    std::fs::metadata(path).expect("just written").len()
}

fn kind(shape: &[usize]) -> GgmlType {
    if shape.len() == 1 { GgmlType::F32 } else { GgmlType::F16 }
}

/// Writes a PEFT directory of rank 2 on every layer's `v_proj`, with weights that change the logits.
pub(crate) fn write_adapter(directory: &Path, shape: Shape) {
    std::fs::create_dir_all(directory).expect("the temporary home is writable");
    let config = r#"{"peft_type":"LORA","task_type":"CAUSAL_LM","r":2,"lora_alpha":4,"target_modules":["v_proj"],"bias":"none"}"#;
    std::fs::write(directory.join("adapter_config.json"), config).expect("the temporary home is writable");
    let mut writer = safetensors::Writer::new();
    let mut pieces = Vec::new();
    for layer in 0..shape.n_layers {
        for (half, dimensions) in [("lora_A", [2, shape.hidden]), ("lora_B", [shape.hidden, 2])] {
            let name = format!("base_model.model.model.layers.{layer}.self_attn.v_proj.{half}.weight");
            writer
                .tensor(&name, Dtype::F32, &dimensions)
                .expect("names are distinct");
            pieces.push(
                (0..2 * shape.hidden)
                    .flat_map(|index| (0.05 + (index % 7) as f32 * 0.01).to_le_bytes())
                    .collect::<Vec<u8>>(),
            );
        }
    }
    let file =
        std::fs::File::create(directory.join("adapter_model.safetensors")).expect("the temporary home is writable");
    let mut body = writer.begin(BufWriter::new(file)).expect("the header can be written");
    for piece in &pieces {
        body.write(piece).expect("there is room for the adapter");
    }
    body.finish()
        .expect("every tensor was written")
        .flush()
        .expect("there is room for the adapter");
}
