//! Runs of Transformers with PEFT, replayed: same base, same initial adapter, same rows.
//!
//! Takes some seconds a case: up to 50 optimizer steps of a thousand tokens. The reference's own f32 run is within 3e-6 of its f64 run; 1e-5 is demanded here.

use std::path::Path;

use serde_json::Value;
use witness_formats::adapter::PeftConfig;
use witness_formats::hf::HfConfig;
use witness_formats::{FileSet, safetensors::SafeTensors};
use witness_training::{
    AdamW, BaseStorage, Batch, Compute, Decay, LoraMethod, Method, Optimizer, Recompute, Sample, Schedule, Trainer,
    TrainerOptions,
};

use crate::support::reference;

/// What the losses of every step may differ by from the reference's f64 run.
pub(crate) const LOSS_TOLERANCE: f64 = 1e-5;
/// The gradient norm's relative tolerance: the same arithmetic, one derivative on.
pub(crate) const NORM_TOLERANCE: f64 = 3e-5;

struct Row {
    ids: Vec<u32>,
    assistant: Vec<bool>,
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn encoded_rows(path: &Path) -> Vec<Row> {
    let numbers = |value: &Value| -> Vec<u32> {
        let values = value.as_array().unwrap().iter();
        values
            .map(|value| value.as_u64().unwrap_or_else(|| u64::from(value.as_bool().unwrap())) as u32)
            .collect()
    };
    let rows = json(path);
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| Row {
        ids: numbers(&row["ids"]),
        assistant: numbers(&row["assistant_mask"])
            .into_iter()
            .map(|mark| mark == 1)
            .collect(),
    })
    .collect()
}

pub(crate) fn options(meta: &Value, recompute: Recompute) -> TrainerOptions {
    TrainerOptions {
        schedule: Schedule {
            learning_rate: meta["lr"].as_f64().unwrap(),
            decay: match meta["sched"].as_str() {
                Some("cosine") => Decay::Cosine,
                _ => Decay::Linear,
            },
            warmup_steps: meta["warm"].as_u64().unwrap(),
            n_steps: meta["steps"].as_u64().unwrap(),
        },
        optimizer: Optimizer::AdamW(AdamW {
            weight_decay: 0.01,
            ..AdamW::default()
        }),
        max_grad_norm: meta["clip"].as_f64(),
        recompute,
        seed: 42,
        n_threads: None,
        compute: Compute::F32,
        base_storage: BaseStorage::AsIs,
    }
}

fn replay(family: &str, case: &str, recompute: Recompute) {
    let Some(root) = reference(&format!("oracle/{family}")) else {
        return;
    };
    let directory = root.join(case);
    let base = FileSet::from_directory(&root.join("base")).unwrap();
    let config = HfConfig::load(&base).unwrap().decoder().unwrap();
    let recorded = json(&directory.join("losses.json"));
    let meta = &recorded["meta"];
    let adapter = directory.join("initial_adapter");
    let method = match adapter.exists() {
        true => {
            let fields = json(&adapter.join("adapter_config.json"));
            Method::Lora(Box::new(LoraMethod::from_json(fields.as_object().unwrap()).unwrap()))
        }
        false => Method::Full,
    };
    let weights = SafeTensors::open(&base).unwrap();
    let mut trainer: Trainer = Trainer::new(&config, &weights, method, options(meta, recompute)).unwrap();
    if adapter.exists() {
        trainer.read_adapter(&adapter).unwrap();
    }
    let rows = encoded_rows(&root.join("encoded_rows.json"));
    let batch_rows = meta["bs"].as_u64().unwrap() as usize;
    let only_assistant = meta["assistant"].as_bool().unwrap_or(false);
    let (mut worst_loss, mut worst_norm) = (0.0f64, 0.0f64);
    for step in recorded["steps"].as_array().unwrap() {
        let indexes: Vec<usize> = step["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row.as_u64().unwrap() as usize)
            .collect();
        let batches = indexes.chunks(batch_rows).map(|indexes| {
            let marks: Vec<Vec<bool>> = indexes
                .iter()
                .map(|index| match only_assistant {
                    true => rows[*index].assistant.clone(),
                    false => vec![true; rows[*index].ids.len()],
                })
                .collect();
            let samples = indexes.iter().zip(&marks);
            let samples = samples.map(|(index, is_target)| Sample {
                ids: &rows[*index].ids,
                is_target,
            });
            Batch::pack(samples).unwrap()
        });
        let batches: Vec<Batch> = batches.collect();
        let report = trainer.step(&batches, &|| false).unwrap().unwrap();
        assert_eq!(report.n_targets as u64, step["tokens"].as_u64().unwrap());
        let wanted = |key: &str| step[key].as_f64().unwrap();
        assert!((report.learning_rate - wanted("lr")).abs() < 1e-15, "{report:?} {step}");
        let loss = (report.loss - wanted("loss_fp64")).abs();
        let norm = (report.grad_norm / wanted("grad_norm_fp64") - 1.0).abs();
        assert!(loss < LOSS_TOLERANCE, "{report:?} {step}");
        assert!(norm < NORM_TOLERANCE, "{report:?} {step}");
        (worst_loss, worst_norm) = (worst_loss.max(loss), worst_norm.max(norm));
    }
    let worst_weight = compare_final(&trainer, &directory, case);
    eprintln!(
        "{family}/{case}: loss within {worst_loss:.1e}, gradient norm {worst_norm:.1e}, weights {worst_weight:.1e}"
    );
}

/// Compares the trained weights with the reference's f64 run where it left them, else with its f32 run; returns the largest difference.
fn compare_final(trainer: &Trainer, directory: &Path, case: &str) -> f64 {
    let written = tempfile::tempdir().unwrap();
    let (ours, theirs) = match directory.join("final_adapter").exists() {
        true => {
            trainer.write_adapter(written.path(), Some("base")).unwrap();
            let ours = written.path().join("adapter_model.safetensors");
            (ours, directory.join("final_adapter_fp64ref.safetensors"))
        }
        false => {
            trainer.write_model(written.path()).unwrap();
            (
                written.path().join("model.safetensors"),
                directory.join("final_model/model.safetensors"),
            )
        }
    };
    let (relative, worst) = difference(&ours, &theirs);
    // Adam's first steps are signs of gradients, so a weight whose gradient is rounding noise may differ by a whole step; all together must agree.
    assert!(
        relative < 1e-4,
        "{case}: final weights differ by {relative:.1e} of their norm"
    );
    worst
}

/// Returns by what share of their norm two files' weights differ, all together, and the largest difference.
pub(crate) fn difference(ours: &Path, theirs: &Path) -> (f64, f64) {
    let (ours, theirs) = (
        SafeTensors::open_file(ours).unwrap(),
        SafeTensors::open_file(theirs).unwrap(),
    );
    let mut worst = 0.0f64;
    let (mut difference, mut total) = (0.0f64, 0.0f64);
    for (name, wanted) in theirs.iter() {
        // The reference's f64 file names DoRA's magnitudes after its module's parameter.
        let name = match name.strip_suffix("lora_magnitude_vector.weight") {
            Some(module) => format!("{module}lora_magnitude_vector"),
            None => name.to_owned(),
        };
        let found = ours.require(&name).unwrap();
        assert_eq!(found.shape(), wanted.shape(), "{name}");
        let pairs = found.to_f32().unwrap().into_iter().zip(wanted.to_f32().unwrap());
        for (found, wanted) in pairs {
            let gap = f64::from((found - wanted).abs());
            worst = worst.max(gap);
            difference += gap * gap;
            total += f64::from(wanted) * f64::from(wanted);
        }
    }
    ((difference / total).sqrt(), worst)
}

#[test]
fn llama_lora() {
    replay("llama", "lora_50", Recompute::Nothing);
}

#[test]
fn llama_lora_with_accumulation_and_recomputed_activations() {
    replay("llama", "lora_ga_12", Recompute::Layers);
}

#[test]
fn llama_lora_on_assistant_tokens() {
    replay("llama", "lora_assistant_20", Recompute::Nothing);
}

#[test]
fn llama_rslora_on_all_linears() {
    replay("llama", "lora_all_linear_rslora_10", Recompute::Nothing);
}

#[test]
fn llama_dora() {
    replay("llama", "dora_10", Recompute::Nothing);
}

#[test]
fn llama_full() {
    replay("llama", "full_20", Recompute::Nothing);
}

#[test]
fn qwen2_lora() {
    replay("qwen2", "lora_50", Recompute::Nothing);
}

#[test]
fn qwen2_full() {
    replay("qwen2", "full_20", Recompute::Layers);
}

// The reference's trained adapter in our graph gives the reference's logits: last eight positions of three prompts.
#[test]
fn a_trained_adapter_gives_the_recorded_logits() {
    let Some(root) = reference("oracle/llama") else { return };
    let base = FileSet::from_directory(&root.join("base")).unwrap();
    let config = HfConfig::load(&base).unwrap().decoder().unwrap();
    let weights = SafeTensors::open(&base).unwrap();
    let directory = root.join("lora_50");
    let fields = json(&directory.join("final_adapter/adapter_config.json"));
    let method = Method::Lora(Box::new(LoraMethod::from_json(fields.as_object().unwrap()).unwrap()));
    let recorded = json(&directory.join("losses.json"));
    let mut trainer: Trainer = Trainer::new(
        &config,
        &weights,
        method,
        options(&recorded["meta"], Recompute::Nothing),
    )
    .unwrap();
    trainer.read_adapter(&directory.join("final_adapter")).unwrap();
    let logits = SafeTensors::open_file(&directory.join("adapter_logits.safetensors")).unwrap();
    let inputs = SafeTensors::open_file(&root.join("base_logits.safetensors")).unwrap();
    let mut compared = 0;
    for (name, tensor) in inputs.iter().filter(|(name, _)| name.contains("ids")) {
        let bytes = tensor.bytes().chunks_exact(8);
        let ids: Vec<u32> = bytes
            .map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()) as u32)
            .collect();
        let is_target = vec![false; ids.len()];
        let batch = Batch::pack([Sample {
            ids: &ids,
            is_target: &is_target,
        }])
        .unwrap();
        let tokens: Vec<usize> = (ids.len() - 8..ids.len()).collect();
        let found = trainer.logits(&batch, &tokens).unwrap();
        let number: String = name.chars().filter(char::is_ascii_digit).collect();
        let (_, wanted) = logits
            .iter()
            .find(|(name, _)| name.contains("logits") && name.contains(&number))
            .unwrap();
        for (found, wanted) in found.iter().zip(wanted.to_f32().unwrap()) {
            assert!((found - wanted).abs() < 1e-4, "{name}: {found} {wanted}");
        }
        compared += 1;
    }
    assert!(compared > 0);
}

// What we write is what PEFT writes, as far as its reader in `formats` can tell, and every field the reference wrote is kept.
#[test]
fn a_configuration_of_the_reference_survives_the_way_through() {
    let Some(root) = reference("oracle/llama/lora_all_linear_rslora_10/initial_adapter") else {
        return;
    };
    let theirs = json(&root.join("adapter_config.json"));
    let base = FileSet::from_directory(&root.join("../../base")).unwrap();
    let config = HfConfig::load(&base).unwrap().decoder().unwrap();
    let method = LoraMethod::from_json(theirs.as_object().unwrap()).unwrap();
    let recorded = json(&root.join("../losses.json"));
    let options = options(&recorded["meta"], Recompute::Nothing);
    let weights = SafeTensors::open(&base).unwrap();
    let mut trainer: Trainer = Trainer::new(&config, &weights, Method::Lora(Box::new(method)), options).unwrap();
    trainer.read_adapter(&root).unwrap();
    let written = tempfile::tempdir().unwrap();
    trainer.write_adapter(written.path(), Some("llama/base")).unwrap();
    let ours = json(&written.path().join("adapter_config.json"));
    for (key, value) in theirs.as_object().unwrap() {
        assert_eq!(&ours[key], value, "{key}");
    }
    PeftConfig::parse("adapter_config.json", ours.to_string().as_bytes()).unwrap();
    let names = |directory: &Path| -> Vec<(String, Vec<u8>)> {
        let opened = SafeTensors::open_file(&directory.join("adapter_model.safetensors")).unwrap();
        opened
            .iter()
            .map(|(name, tensor)| (name.to_owned(), tensor.bytes().to_vec()))
            .collect()
    };
    assert!(names(written.path()) == names(&root), "names or bytes differ");
}
