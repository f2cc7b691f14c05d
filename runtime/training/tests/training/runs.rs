//! What must hold of any run: packing and recomputation change nothing, resuming is exact, adapters read back, and bad numbers change no weight.

use serde_json::json;
use witness_diagnostics::Diagnostic;
use witness_formats::{FileSet, adapter::Adapter, hf::DecoderConfig, safetensors::SafeTensors};
use witness_training::{Batch, Census, Method, RandomWeights, Recompute, Trainer, TrainerOptions, TrainingError};

use crate::support::{lora, options, pack, rows, tiny};

fn all_linears(dropout: f64) -> Method {
    lora(json!({"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "lora_dropout": dropout}))
}

fn trainer(config: &DecoderConfig, method: Method, options: TrainerOptions) -> Trainer {
    Trainer::new(config, &RandomWeights::new(config, 5, 0.3), method, options).unwrap()
}

fn values(trainer: &Trainer) -> Vec<f32> {
    trainer
        .parameters()
        .trained()
        .flat_map(|parameter| parameter.values.clone())
        .collect()
}

fn batches(config: &DecoderConfig, step: u64) -> Vec<Batch> {
    let rows = rows(config.vocab_size, 100 + step);
    vec![pack(&rows[..2]), pack(&rows[2..])]
}

// Three rows in one pass give the sum of the losses of three passes: no row sees another.
#[test]
fn packed_rows_are_computed_alone() {
    let config = tiny("llama", json!({}));
    let trainer = trainer(&config, Method::Full, options(0.0));
    let rows = rows(config.vocab_size, 1);
    let alone: f64 = rows
        .iter()
        .map(|row| trainer.evaluate(&pack(std::slice::from_ref(row))).unwrap())
        .sum();
    let packed = trainer.evaluate(&pack(&rows)).unwrap();
    assert!((packed - alone).abs() < 1e-5, "{packed} {alone}");
}

// Dropout included: what is made again is the same to the bit, with one thread or three.
#[test]
fn recomputation_and_threads_change_no_bit() {
    let config = tiny("qwen2", json!({}));
    let run = |recompute, n_threads| {
        let options = TrainerOptions {
            recompute,
            n_threads: Some(n_threads),
            ..options(1e-2)
        };
        let mut trainer = trainer(&config, all_linears(0.2), options);
        for step in 0..4 {
            trainer.step(&batches(&config, step), &|| false).unwrap();
        }
        values(&trainer)
    };
    let wanted = run(Recompute::Nothing, 1);
    assert_eq!(run(Recompute::Layers, 1), wanted);
    assert_eq!(run(Recompute::Nothing, 3), wanted);
}

// A run that stops after each of its steps and goes on from disk ends in the same bits.
#[test]
fn a_resumed_run_equals_one_that_never_stopped() {
    let config = tiny("llama", json!({}));
    let mut whole = trainer(&config, all_linears(0.1), options(1e-2));
    let checkpoint = tempfile::tempdir().unwrap();
    let mut reports = Vec::new();
    for step in 0..5 {
        reports.push(whole.step(&batches(&config, step), &|| false).unwrap());
    }
    for step in 0..5 {
        let mut part = trainer(&config, all_linears(0.1), options(1e-2));
        if step > 0 {
            part.read_state(checkpoint.path()).unwrap();
        }
        assert_eq!(part.step_count(), step);
        let report = part.step(&batches(&config, step), &|| false).unwrap();
        assert_eq!(report, reports[step as usize]);
        part.write_state(checkpoint.path()).unwrap();
        if step == 4 {
            assert_eq!(values(&part), values(&whole));
        }
    }
    let other = TrainerOptions {
        seed: 8,
        ..options(1e-2)
    };
    let mut other = trainer(&config, all_linears(0.1), other);
    assert!(matches!(
        other.read_state(checkpoint.path()),
        Err(TrainingError::State(_))
    ));
    let mut other = trainer(&config, Method::Full, options(1e-2));
    assert!(other.read_state(checkpoint.path()).is_err());
    assert_eq!(other.step_count(), 0);
}

// The serving side's reader finds the same modules, ranks, scales and numbers, and a new trainer goes on from them.
#[test]
fn a_written_adapter_reads_back() {
    let config = tiny("llama", json!({"attention_bias": true}));
    let method = || {
        lora(
            json!({"r": 4, "lora_alpha": 6, "target_modules": "all-linear", "bias": "lora_only",
        "rank_pattern": {"v_proj": 2}, "modules_to_save": ["lm_head"], "use_rslora": true}),
        )
    };
    let mut first = trainer(&config, method(), options(1e-2));
    first.step(&batches(&config, 0), &|| false).unwrap();
    let directory = tempfile::tempdir().unwrap();
    first.write_adapter(directory.path(), Some("tiny")).unwrap();
    let adapter = Adapter::open_peft(&FileSet::from_directory(directory.path()).unwrap()).unwrap();
    assert_eq!(adapter.base_model(), Some("tiny"));
    assert_eq!(adapter.pairs().len(), 7 * config.n_layers);
    assert_eq!(adapter.saved().len(), 1 + 4 * config.n_layers);
    for pair in adapter.pairs() {
        let rank = if pair.module.ends_with("v_proj") { 2 } else { 4 };
        assert_eq!((pair.rank, pair.scale), (rank, 6.0 / f64::sqrt(rank as f64)));
        let ours = |suffix: &str| {
            let name = format!("{}.{suffix}", pair.module);
            let found = first.parameters().trained().find(|parameter| parameter.name == name);
            found.unwrap().values.clone()
        };
        assert_eq!(pair.a.to_f32().unwrap(), ours("lora_A.weight"));
        assert_eq!(pair.b.to_f32().unwrap(), ours("lora_B.weight"));
    }
    let mut second = trainer(&config, method(), options(1e-2));
    second.read_adapter(directory.path()).unwrap();
    assert_eq!(values(&second), values(&first));
    let mut other = trainer(&config, all_linears(0.0), options(1e-2));
    assert!(other.read_adapter(directory.path()).is_err());
}

// A rate of 1e6 ends in an error, not in a saved adapter: the loss or a gradient is undefined, or the weights are.
#[test]
fn numbers_that_are_not_finite_stop_the_run() {
    let config = tiny("llama", json!({}));
    let mut broken = trainer(&config, Method::Full, options(1e-2));
    broken.parameters_mut().named_mut("model.norm.weight").unwrap().values[3] = f32::NAN;
    let before = values(&broken);
    let error = broken.step(&batches(&config, 0), &|| false).unwrap_err();
    assert!(matches!(error, TrainingError::NotFinite { step: 0, .. }), "{error}");
    let after = values(&broken);
    let is_same = before
        .iter()
        .zip(&after)
        .all(|(before, after)| before.to_bits() == after.to_bits());
    assert!(is_same && broken.step_count() == 0);
    let directory = tempfile::tempdir().unwrap();
    assert!(broken.write_model(directory.path()).is_err());
    assert!(broken.write_state(directory.path()).is_err());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    let diagnostic = Diagnostic::from(error);
    assert_eq!(diagnostic.code, "witness::training::not_finite");
    assert!(!diagnostic.hints.is_empty());

    let source = RandomWeights::new(&config, 5, f64::INFINITY);
    let refused = Trainer::<f32>::new(&config, &source, Method::Full, options(1e-2));
    assert!(matches!(refused, Err(TrainingError::NotFinite { .. })));
}

// A step of two micro-batches and two layers asks eight times; stopped at any of them it leaves no trace, and the step after it is what it would have been.
#[test]
fn a_stopped_step_changes_nothing() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let config = tiny("llama", json!({}));
    let mut undisturbed = trainer(&config, Method::Full, options(1e-2));
    let wanted = undisturbed.step(&batches(&config, 0), &|| false).unwrap();
    for last in 0..8 {
        let mut stopped = trainer(&config, Method::Full, options(1e-2));
        let before = values(&stopped);
        let asked = AtomicUsize::new(0);
        let is_stopped = || asked.fetch_add(1, Ordering::Relaxed) == last;
        assert_eq!(stopped.step(&batches(&config, 0), &is_stopped).unwrap(), None);
        assert_eq!((values(&stopped), stopped.step_count()), (before, 0));
        assert_eq!(stopped.step(&batches(&config, 0), &|| false).unwrap(), wanted);
        assert_eq!(values(&stopped), values(&undisturbed));
    }
}

// A model of a few thousand weights learns three rows by heart, from random weights and through an adapter.
#[test]
fn losses_fall() {
    for (method, rate) in [(Method::Full, 1e-2), (all_linears(0.0), 5e-2)] {
        let config = tiny("llama", json!({}));
        let mut trainer = trainer(&config, method, options(rate));
        let mut losses = Vec::new();
        for _ in 0..60 {
            losses.push(trainer.step(&batches(&config, 0), &|| false).unwrap().unwrap().loss);
        }
        assert!(losses[59] < 0.3 * losses[0], "{} {}", losses[0], losses[59]);
    }
}

// What is counted from the shape alone is what is built.
#[test]
fn a_census_counts_what_is_built() {
    for (family, changes) in [
        ("llama", json!({})),
        ("llama", json!({"tie_word_embeddings": true})),
        ("qwen2", json!({})),
    ] {
        let config = tiny(family, changes);
        for method in [
            Method::Full,
            all_linears(0.0),
            lora(
                json!({"target_modules": ["q_proj", "lm_head"], "bias": "all", "rank_pattern": {"layers.1.self_attn.q_proj": 3}}),
            ),
            lora(
                json!({"target_modules": ["v_proj"], "bias": "lora_only", "use_dora": true, "modules_to_save": ["norm"]}),
            ),
        ] {
            let census = Census::of(&config, &method).unwrap();
            let trainer = trainer(&config, method, options(1e-2));
            let (n_all, n_trained) = trainer.parameters().count();
            assert_eq!(
                (census.n_weights + census.n_adapter, census.n_trained),
                (n_all, n_trained),
                "{family}"
            );
            let names = trainer.parameters().iter().map(|parameter| parameter.name.as_str());
            assert_eq!(
                census.n_modules,
                names.filter(|name| name.ends_with("lora_A.weight")).count()
            );
        }
    }
}

// A stop is heard before every layer, and what is not stopped is measured as ever.
#[test]
fn an_evaluation_can_be_stopped() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let config = tiny("llama", json!({}));
    let trainer = trainer(&config, all_linears(0.1), options(1e-2));
    let batch = &batches(&config, 0)[0];
    for (calls, is_whole) in [(0, false), (1, false), (2, true)] {
        let left = AtomicUsize::new(calls);
        let stops = || {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_err()
        };
        let measured = trainer.evaluate_until(batch, &stops).unwrap();
        assert_eq!(measured, is_whole.then(|| trainer.evaluate(batch).unwrap()), "{calls}");
    }
}

// bf16 is f32 without its last 16 bits, rounded.
#[test]
fn a_model_in_16_bits_is_the_same_rounded() {
    let config = tiny("llama", json!({}));
    let trainer = trainer(&config, Method::Full, options(1e-2));
    let read = |dtype: witness_formats::Dtype| {
        let directory = tempfile::tempdir().unwrap();
        trainer.write_model_as(directory.path(), dtype).unwrap();
        let weights = SafeTensors::open_file(&directory.path().join("model.safetensors")).unwrap();
        let tensors = weights
            .iter()
            .map(|(name, tensor)| (name.to_owned(), tensor.dtype(), tensor.to_f32().unwrap()));
        tensors.collect::<Vec<_>>()
    };
    let (whole, half) = (read(witness_formats::Dtype::F32), read(witness_formats::Dtype::BF16));
    for ((name, _, whole), (_, dtype, half)) in whole.iter().zip(&half) {
        assert_eq!(*dtype, witness_formats::Dtype::BF16);
        for (whole, half) in whole.iter().zip(half) {
            assert!((whole - half).abs() <= whole.abs() / 256.0, "{name}: {whole} {half}");
        }
    }
    let directory = tempfile::tempdir().unwrap();
    assert!(
        trainer
            .write_model_as(directory.path(), witness_formats::Dtype::U8)
            .is_err()
    );
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let config = tiny("llama", json!({}));
    let source = RandomWeights::new(&config, 5, 0.3);
    let none = lora(json!({"target_modules": ["c_attn"]}));
    let error = Trainer::<f32>::new(&config, &source, none, options(1e-2)).unwrap_err();
    assert!(matches!(error, TrainingError::NoTargets { .. }), "{error}");
    let tied = tiny("llama", json!({"tie_word_embeddings": true}));
    let saved = lora(json!({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}));
    let error = Trainer::<f32>::new(&tied, &source, saved, options(1e-2)).unwrap_err();
    assert!(matches!(error, TrainingError::Unsupported { .. }), "{error}");
    let other = tiny("llama", json!({"hidden_act": "gelu"}));
    assert!(Trainer::<f32>::new(&other, &source, Method::Full, options(1e-2)).is_err());
    let wider = tiny("llama", json!({"intermediate_size": 11}));
    let error = Trainer::<f32>::new(&wider, &source, Method::Full, options(1e-2)).unwrap_err();
    assert!(matches!(error, TrainingError::Shape { .. }), "{error}");
    for fields in [
        json!({"target_modules": ["q_proj"], "use_dora": true, "lora_dropout": 0.1}),
        json!({"target_modules": ["q_proj"], "lora_dropout": 1.0}),
        json!({"target_modules": ["q_proj"], "init_lora_weights": "pissa"}),
        json!({"target_modules": ["q_proj"], "lora_bias": true}),
        json!({"target_modules": ".*q_proj", "layers_to_transform": [0]}),
    ] {
        assert!(witness_training::LoraMethod::from_json(fields.as_object().unwrap()).is_err());
    }
}
