//! Adapters as PEFT writes them, of tiny random numbers.

use std::path::Path;

use witness_formats::adapter::Adapter as AdapterFile;
use witness_formats::safetensors::Writer;
use witness_formats::{Dtype, FileSet};

use crate::reference::{Deltas, Pair};
use crate::support::{Random, Tiny};

/// Name, shape, values of a tensor of an adapter file.
pub(crate) type Entry = (String, Vec<usize>, Vec<f64>);

pub(crate) const LINEARS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// Writes a PEFT directory and opens it.
pub(crate) fn peft(config: &serde_json::Value, entries: &[Entry]) -> Result<AdapterFile, witness_formats::FormatError> {
    let directory = tempfile::tempdir().unwrap();
    write_peft(directory.path(), config, entries);
    AdapterFile::open(&FileSet::from_directory(directory.path()).unwrap())
}

fn write_peft(directory: &Path, config: &serde_json::Value, entries: &[Entry]) {
    std::fs::write(directory.join("adapter_config.json"), config.to_string()).unwrap();
    let mut entries = entries.to_vec();
    entries.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    let mut writer = Writer::new();
    for (name, shape, _) in &entries {
        writer.tensor(name, Dtype::F32, shape).unwrap();
    }
    let mut body = writer.begin(Vec::new()).unwrap();
    for (_, _, values) in &entries {
        let bytes: Vec<u8> = values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect();
        body.write(&bytes).unwrap();
    }
    std::fs::write(directory.join("adapter_model.safetensors"), body.finish().unwrap()).unwrap();
}

pub(crate) fn config(targets: &[&str], saved: &[&str]) -> serde_json::Value {
    serde_json::json!({
        "peft_type": "LORA", "r": 3, "lora_alpha": 6.0, "target_modules": targets, "modules_to_save": saved,
        "bias": "none", "fan_in_fan_out": false, "use_dora": false, "use_rslora": false, "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny"
    })
}

/// Makes a pair for each module, as entries of a file and for the reference. Rank 3, scale 2.
pub(crate) fn pairs(tiny: &Tiny, modules: &[String], seed: u64) -> (Vec<Entry>, Deltas) {
    let mut random = Random::new(seed);
    let (mut entries, mut deltas) = (Vec::new(), Deltas::default());
    for module in modules {
        let embedding = module == "model.embed_tokens";
        let head = ["lm_head.weight", "model.embed_tokens.weight"]
            .into_iter()
            .find(|name| tiny.weights.contains_key(*name));
        let name = if module == "lm_head" {
            head.unwrap().to_owned()
        } else {
            format!("{module}.weight")
        };
        let shape = &tiny.weights[&name].0;
        let (out, input) = if embedding {
            (shape[1], shape[0])
        } else {
            (shape[0], shape[1])
        };
        let (a, b) = (random.values(3 * input, 0.5), random.values(3 * out, 0.5));
        let (suffix_a, suffix_b) = if embedding {
            ("lora_embedding_A", "lora_embedding_B")
        } else {
            ("lora_A.weight", "lora_B.weight")
        };
        entries.push((
            format!("base_model.model.{module}.{suffix_a}"),
            vec![3, input],
            a.clone(),
        ));
        entries.push((format!("base_model.model.{module}.{suffix_b}"), vec![out, 3], b.clone()));
        deltas.pairs.insert(
            module.clone(),
            Pair {
                rank: 3,
                scale: 2.0,
                a,
                b,
                magnitude: None,
            },
        );
    }
    (entries, deltas)
}

pub(crate) fn linears(names: &[&str]) -> Vec<String> {
    (0..2)
        .flat_map(|layer| names.iter().map(move |name| format!("model.layers.{layer}.{name}")))
        .collect()
}
