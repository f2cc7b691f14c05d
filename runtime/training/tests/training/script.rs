//! The guide's own script, replayed from its rows: nothing but the rows' tokens, the initial adapter and the settings is taken from the trace of what it did.
//!
//! Its rows are padded with the end token, which it never trains on; here they are computed without the padding, to the same losses.

use serde_json::Value;
use witness_dataset::order::{EpochOrder, n_steps, steps};
use witness_formats::hf::HfConfig;
use witness_formats::{FileSet, safetensors::SafeTensors};
use witness_training::{Batch, LoraMethod, Method, Recompute, Trainer};

use crate::oracle::{LOSS_TOLERANCE, NORM_TOLERANCE, difference, json, options};
use crate::support::{pack, reference};

const PADDING: u64 = 2_047;
const N_EPOCHS: u64 = 3;
const MICRO_BATCH: usize = 4;
const ACCUMULATION: usize = 4;
const STEPS_OF_EVALUATION: u64 = 2;

/// Returns the rows of a part of the data, without padding at their end; an end token inside is no target either.
fn rows(encoded: &Value) -> Vec<(Vec<u32>, Vec<bool>)> {
    let row = |ids: &Value| {
        let ids: Vec<u64> = ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
        let n = ids.iter().rposition(|id| *id != PADDING).unwrap() + 1;
        let marks = ids[..n].iter().map(|id| *id != PADDING).collect();
        (ids[..n].iter().map(|id| *id as u32).collect(), marks)
    };
    encoded.as_array().unwrap().iter().map(row).collect()
}

// Order of rows, losses of micro-batches, history of losses, gradient norms, rates and evaluations, the adapter at every checkpoint, and which of them is best.
#[test]
fn the_traced_script_is_replayed() {
    let (Some(root), Some(llama)) = (reference("oracle/seed_trainer"), reference("oracle/llama/base")) else {
        return;
    };
    let trace = json(&root.join("trace.json"));
    let encoded = json(&root.join("input_ids.json"));
    let (train, validation) = (rows(&encoded["train"]), rows(&encoded["val"]));
    let base = FileSet::from_directory(&llama).unwrap();
    let config = HfConfig::load(&base).unwrap().decoder().unwrap();
    let fields = json(&root.join("initial_adapter/adapter_config.json"));
    let method = Method::Lora(Box::new(LoraMethod::from_json(fields.as_object().unwrap()).unwrap()));
    let total = N_EPOCHS * n_steps(train.len(), MICRO_BATCH, ACCUMULATION) as u64;
    let meta = serde_json::json!({"lr": 2e-3, "warm": 2, "steps": total, "clip": 1.0});
    let weights = SafeTensors::open(&base).unwrap();
    let mut trainer: Trainer = Trainer::new(&config, &weights, method, options(&meta, Recompute::Nothing)).unwrap();
    trainer.read_adapter(&root.join("initial_adapter")).unwrap();

    let mut micro_batches = trace["micro_batches"].as_array().unwrap().iter();
    // The last entry sums the run up.
    let history = trace["log_history"].as_array().unwrap().iter();
    let mut history = history.filter(|entry| entry["loss"].is_f64() || entry["eval_loss"].is_f64());
    let near = |found: f64, wanted: &Value, tolerance: f64| {
        let wanted = wanted.as_f64().unwrap();
        assert!((found - wanted).abs() < tolerance, "{found} {wanted}");
    };
    let n_micro_batches = train.len().div_ceil(MICRO_BATCH) as f64;
    let mut best: Option<(f64, u64)> = None;
    for epoch in 0..N_EPOCHS {
        let order = EpochOrder::SeedPlusEpoch.rows(42, train.len(), epoch);
        let mut n_done = 0;
        for step in steps(&order, MICRO_BATCH, ACCUMULATION) {
            let batches = step.micro_batches.iter();
            let batches: Vec<Batch> = batches
                .map(|rows| pack(&rows.iter().map(|row| train[*row as usize].clone()).collect::<Vec<_>>()))
                .collect();
            let n_targets: usize = batches.iter().map(Batch::n_targets).sum();
            for (rows, batch) in step.micro_batches.iter().zip(&batches) {
                let recorded = micro_batches.next().unwrap();
                assert_eq!(recorded["rows"], serde_json::json!(rows));
                assert_eq!(recorded["num_items"], n_targets);
                near(
                    trainer.evaluate(batch).unwrap() / n_targets as f64,
                    &recorded["loss"],
                    LOSS_TOLERANCE,
                );
            }
            let report = trainer.step(&batches, &|| false).unwrap().unwrap();
            n_done += batches.len();
            let logged = history.next().unwrap();
            near(report.loss, &logged["loss"], LOSS_TOLERANCE);
            near(report.learning_rate, &logged["learning_rate"], 1e-15);
            let norm = logged["grad_norm"].as_f64().unwrap();
            assert!(
                (report.grad_norm / norm - 1.0).abs() < NORM_TOLERANCE,
                "{report:?} {logged}"
            );
            near(epoch as f64 + n_done as f64 / n_micro_batches, &logged["epoch"], 1e-9);
            let count = trainer.step_count();
            assert_eq!(logged["step"], count);
            if count.is_multiple_of(STEPS_OF_EVALUATION) {
                let batch = pack(&validation);
                let recorded = micro_batches.next().unwrap();
                assert_eq!(recorded["rows"], serde_json::json!([0, 1, 2]));
                let loss = trainer.evaluate(&batch).unwrap() / batch.n_targets() as f64;
                near(loss, &history.next().unwrap()["eval_loss"], LOSS_TOLERANCE);
                best = best.filter(|(least, _)| *least <= loss).or(Some((loss, count)));
                let written = tempfile::tempdir().unwrap();
                trainer.write_adapter(written.path(), Some("llama/base")).unwrap();
                let file = "adapter_model.safetensors";
                let theirs = root.join(format!("run/checkpoint-{count}")).join(file);
                let (relative, worst) = difference(&written.path().join(file), &theirs);
                eprintln!("checkpoint {count}: weights within {relative:.1e} of their norm, {worst:.1e} at most");
                assert!(relative < 1e-4, "checkpoint {count}: {relative:.1e}");
            }
        }
    }
    assert!(micro_batches.next().is_none() && history.next().is_none());
    let (loss, count) = best.unwrap();
    near(loss, &trace["best_metric"], LOSS_TOLERANCE);
    assert!(
        trace["best"]
            .as_str()
            .unwrap()
            .ends_with(&format!("checkpoint-{count}"))
    );
}
