//! Recorded runs of Transformers with PEFT, replayed by the plugin: same base, same initial adapter, same rows, which it reads as text.

use std::path::Path;

use serde_json::Value;
use witness_formats::safetensors::SafeTensors;
use witness_plugin_protocol::{Compat, Compute, ExcessLength, TrainEvent, TrainMethod, TrainSettings, When};

use crate::support::{adapter, read_json, reference, request, run};

/// What the loss of every step may differ by from the reference's f64 run.
const LOSS_TOLERANCE: f64 = 1e-5;
/// The gradient norm's relative tolerance.
const NORM_TOLERANCE: f64 = 3e-5;

/// Writes the rows of every step, in their order: an epoch that is not shuffled then visits them as the recorded run did.
fn write_rows(root: &Path, recorded: &Value, to: &Path) {
    let text = std::fs::read_to_string(root.join("rows.jsonl")).unwrap();
    let rows: Vec<&str> = text.lines().collect();
    let mut out = String::new();
    for step in recorded["steps"].as_array().unwrap() {
        for row in step["rows"].as_array().unwrap() {
            out.push_str(rows[row.as_u64().unwrap() as usize]);
            out.push('\n');
        }
    }
    std::fs::write(to, out).unwrap();
}

fn settings(meta: &Value) -> TrainSettings {
    TrainSettings {
        sequence_len: meta["max_len"].as_u64(),
        excess_length: ExcessLength::Truncate,
        sample_packing: false,
        compute: Compute::F32,
        shuffle: false,
        train_on_inputs: !meta["assistant"].as_bool().unwrap_or(false),
        val_set_size: 0.0,
        num_epochs: 1.0,
        micro_batch_size: meta["bs"].as_u64().unwrap(),
        gradient_accumulation_steps: meta["ga"].as_u64().unwrap_or(1),
        learning_rate: meta["lr"].as_f64(),
        lr_scheduler: meta["sched"].as_str().unwrap_or("linear").to_owned(),
        warmup_steps: meta["warm"].as_u64(),
        weight_decay: 0.01,
        logging_steps: 1,
        eval_strategy: When::No,
        save_strategy: When::No,
        ..TrainSettings::default()
    }
}

fn replay(family: &str, case: &str) {
    let Some(root) = reference(&format!("oracle/{family}")) else {
        return;
    };
    let recorded = read_json(&root.join(case).join("losses.json"));
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("rows.jsonl");
    write_rows(&root, &recorded, &data);
    let initial = root.join(case).join("initial_adapter");
    let mut settings = settings(&recorded["meta"]);
    if !initial.exists() {
        settings.method = TrainMethod::Full;
    }
    let mut request = request(&root.join("base"), &[&data], &home.path().join("run"), settings);
    request.adapter = initial.exists().then(|| adapter(&initial));
    let (reply, events) = run(&request);
    let steps = events.iter().filter_map(|event| match event {
        TrainEvent::Step {
            loss,
            grad_norm,
            learning_rate,
            n_targets,
            ..
        } => Some((*loss, *grad_norm, *learning_rate, *n_targets)),
        _ => None,
    });
    let steps: Vec<_> = steps.collect();
    let wanted = recorded["steps"].as_array().unwrap();
    assert_eq!(steps.len(), wanted.len());
    let (mut worst_loss, mut worst_norm) = (0.0f64, 0.0f64);
    for ((loss, norm, rate, n_targets), wanted) in steps.into_iter().zip(wanted) {
        let number = |key: &str| wanted[key].as_f64().unwrap();
        assert_eq!(n_targets, wanted["tokens"].as_u64().unwrap());
        assert!((rate - number("lr")).abs() < 1e-15, "{rate} {wanted}");
        worst_loss = worst_loss.max((loss - number("loss_fp64")).abs());
        worst_norm = worst_norm.max((norm / number("grad_norm_fp64") - 1.0).abs());
    }
    assert!(worst_loss < LOSS_TOLERANCE, "{worst_loss}");
    assert!(worst_norm < NORM_TOLERANCE, "{worst_norm}");
    let product = request.directory.join(&reply.directory);
    let difference = match initial.exists() {
        true => difference(
            &product.join("adapter_model.safetensors"),
            &root.join(case).join("final_adapter_fp64ref.safetensors"),
        ),
        false => difference(
            &product.join("model.safetensors"),
            &root.join(case).join("final_model/model.safetensors"),
        ),
    };
    // Adam's first steps are signs of gradients, so single weights may differ by a step; all together must agree.
    assert!(difference < 1e-4, "{difference}");
    eprintln!(
        "{family}/{case}: loss within {worst_loss:.1e}, gradient norm {worst_norm:.1e}, weights {difference:.1e} of their norm"
    );
}

/// Returns the norm of the difference over the norm.
fn difference(ours: &Path, theirs: &Path) -> f64 {
    let (ours, theirs) = (
        SafeTensors::open_file(ours).unwrap(),
        SafeTensors::open_file(theirs).unwrap(),
    );
    let (mut difference, mut total) = (0.0f64, 0.0f64);
    for (name, wanted) in theirs.iter() {
        let name = match name.strip_suffix("lora_magnitude_vector.weight") {
            Some(module) => format!("{module}lora_magnitude_vector"),
            None => name.to_owned(),
        };
        let found = ours.require(&name).unwrap();
        assert_eq!(found.shape(), wanted.shape(), "{name}");
        for (found, wanted) in found.to_f32().unwrap().into_iter().zip(wanted.to_f32().unwrap()) {
            difference += f64::from(found - wanted).powi(2);
            total += f64::from(wanted).powi(2);
        }
    }
    (difference / total).sqrt()
}

#[test]
fn llama_lora() {
    replay("llama", "lora_50");
}

#[test]
fn llama_lora_with_accumulation() {
    replay("llama", "lora_ga_12");
}

#[test]
fn llama_lora_on_assistant_tokens() {
    replay("llama", "lora_assistant_20");
}

#[test]
fn llama_rslora_on_all_linears() {
    replay("llama", "lora_all_linear_rslora_10");
}

#[test]
fn llama_dora() {
    replay("llama", "dora_10");
}

#[test]
fn llama_full() {
    replay("llama", "full_20");
}

#[test]
fn qwen2_lora() {
    replay("qwen2", "lora_50");
}

#[test]
fn qwen2_full() {
    replay("qwen2", "full_20");
}

// The guide's script, traced end to end, from the rows that it shuffles and splits itself: its losses, its log, its checkpoints and its best one.
#[test]
fn the_guides_script_has_the_same_history() {
    let (Some(root), Some(llama)) = (reference("oracle/seed_trainer"), reference("oracle/llama")) else {
        return;
    };
    let trace = read_json(&root.join("trace.json"));
    let home = tempfile::tempdir().unwrap();
    let settings = TrainSettings {
        compat: Some(Compat::Guide),
        sequence_len: Some(512),
        micro_batch_size: 4,
        gradient_accumulation_steps: 4,
        num_epochs: 3.0,
        learning_rate: Some(2e-3),
        warmup_steps: Some(2),
        weight_decay: 0.01,
        logging_steps: 1,
        compute: Compute::F32,
        eval_strategy: When::Steps,
        save_strategy: When::Steps,
        eval_steps: Some(2.0),
        save_steps: 2.0,
        load_best_model_at_end: true,
        ..TrainSettings::default()
    };
    let data = llama.join("rows.jsonl");
    let mut request = request(&llama.join("base"), &[&data], &home.path().join("run"), settings);
    request.adapter = Some(adapter(&root.join("initial_adapter")));
    let (reply, _) = run(&request);
    assert_eq!(reply.checkpoints, [2, 4, 6]);
    let state = read_json(&request.directory.join("checkpoint-6/state.json"));
    let ours = state["log_history"].as_array().unwrap();
    let theirs = trace["log_history"].as_array().unwrap();
    let (last, theirs) = theirs.split_last().unwrap();
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(theirs) {
        for key in ["step", "epoch"] {
            assert_eq!(ours[key].as_f64(), theirs[key].as_f64(), "{key} {ours} {theirs}");
        }
        for (key, tolerance) in [
            ("loss", LOSS_TOLERANCE),
            ("eval_loss", LOSS_TOLERANCE),
            ("grad_norm", NORM_TOLERANCE),
            ("learning_rate", 1e-15),
        ] {
            assert_eq!(ours[key].is_null(), theirs[key].is_null(), "{key} {ours} {theirs}");
            let gap = ours[key].as_f64().unwrap_or(0.0) - theirs[key].as_f64().unwrap_or(0.0);
            assert!(gap.abs() < tolerance, "{key} {ours} {theirs}");
        }
    }
    assert!((reply.train_loss - last["train_loss"].as_f64().unwrap()).abs() < LOSS_TOLERANCE);
    assert_eq!(state["best"]["step"], 6);
    assert!((state["best"]["loss"].as_f64().unwrap() - trace["best_metric"].as_f64().unwrap()).abs() < LOSS_TOLERANCE);
    for step in [2, 4, 6] {
        let name = format!("checkpoint-{step}/adapter_model.safetensors");
        let gap = difference(&request.directory.join(&name), &root.join("run").join(&name));
        assert!(gap < 1e-4, "{name}: {gap}");
    }
}
