//! Every optimizer in a whole run: it learns, it goes on from disk to the bit, and the number of threads changes nothing.

use std::path::Path;

use serde_json::json;
use witness_formats::hf::DecoderConfig;
use witness_formats::safetensors::{SafeTensors, Writer};
use witness_training::output::TRAINER_STATE;
use witness_training::{
    Adafactor, AdamW, Batch, Lion, Method, Optimizer, RandomWeights, Sgd, Trainer, TrainerOptions, TrainingError,
};

use crate::support::{options, pack, rows, tiny};

fn optimizers() -> [(Optimizer, f64); 6] {
    let adamw = AdamW {
        weight_decay: 0.1,
        ..AdamW::default()
    };
    let lion = Lion {
        weight_decay: 0.1,
        ..Lion::default()
    };
    let adafactor = Adafactor {
        beta1: Some(0.9),
        ..Adafactor::default()
    };
    let sgd = Sgd {
        momentum: 0.9,
        weight_decay: 0.01,
    };
    [
        (Optimizer::AdamW(adamw), 1e-2),
        (Optimizer::AdamW8bit(adamw), 1e-2),
        (Optimizer::Lion(lion), 2e-3),
        (Optimizer::Adafactor(Adafactor::default()), 1e-2),
        (Optimizer::Adafactor(adafactor), 1e-2),
        (Optimizer::Sgd(sgd), 0.1),
    ]
}

/// A model wide enough that its matrices have moments in 8 bits.
fn config() -> DecoderConfig {
    tiny("llama", json!({"hidden_size": 48, "intermediate_size": 90}))
}

fn trainer(config: &DecoderConfig, optimizer: Optimizer, rate: f64, n_threads: usize) -> Trainer {
    let options = TrainerOptions {
        optimizer,
        n_threads: Some(n_threads),
        ..options(rate)
    };
    Trainer::new(config, &RandomWeights::new(config, 5, 0.3), Method::Full, options).unwrap()
}

fn batch(config: &DecoderConfig) -> Batch {
    pack(&rows(config.vocab_size, 1))
}

fn values(trainer: &Trainer) -> Vec<u32> {
    let parameters = trainer.parameters().trained();
    parameters
        .flat_map(|parameter| parameter.values.iter().map(|value| value.to_bits()))
        .collect()
}

fn step(trainer: &mut Trainer, batch: &Batch) -> f64 {
    trainer
        .step(std::slice::from_ref(batch), &|| false)
        .unwrap()
        .unwrap()
        .loss
}

#[test]
fn every_optimizer_learns_and_goes_on_to_the_bit() {
    let config = config();
    let batch = batch(&config);
    for (optimizer, rate) in optimizers() {
        let mut whole = trainer(&config, optimizer, rate, 1);
        let checkpoint = tempfile::tempdir().unwrap();
        let first = step(&mut whole, &batch);
        for count in 1..12 {
            step(&mut whole, &batch);
            if count == 5 {
                whole.write_state(checkpoint.path()).unwrap();
            }
        }
        let last = step(&mut whole, &batch);
        assert!(last < 0.8 * first, "{optimizer:?}: {first} {last}");
        let mut part = trainer(&config, optimizer, rate, 3);
        part.read_state(checkpoint.path()).unwrap();
        assert_eq!(part.step_count(), 6);
        for _ in 6..13 {
            step(&mut part, &batch);
        }
        assert!(values(&part) == values(&whole), "{optimizer:?}");

        let others = optimizers()
            .into_iter()
            .filter(|(other, _)| other.name() != optimizer.name());
        for (other, rate) in others {
            let mut other = trainer(&config, other, rate, 1);
            let before = values(&other);
            let error = other.read_state(checkpoint.path()).unwrap_err();
            assert!(
                matches!(&error, TrainingError::State(why) if why.contains("optimizer")),
                "{error}"
            );
            assert!(values(&other) == before && other.step_count() == 0);
        }
    }
}

/// Writes a state again with other metadata.
fn rewrite(directory: &Path, metadata: &[(&str, &str)]) {
    let path = directory.join(TRAINER_STATE);
    let state = SafeTensors::open_file(&path).unwrap();
    let mut writer = Writer::new();
    for (key, value) in metadata {
        writer.metadata(key, value);
    }
    for (name, tensor) in state.iter() {
        writer.tensor(name, tensor.dtype(), tensor.shape()).unwrap();
    }
    let mut body = writer.begin(Vec::new()).unwrap();
    for (name, tensor) in state.iter() {
        body.tensor(name, tensor.bytes()).unwrap();
    }
    std::fs::write(&path, body.finish().unwrap()).unwrap();
}

// States of the first version named no optimizer. They are AdamW's, and go on as they did.
#[test]
fn a_state_of_the_first_version_is_read() {
    let config = config();
    let batch = batch(&config);
    let mut whole = trainer(&config, Optimizer::default(), 1e-2, 1);
    let checkpoint = tempfile::tempdir().unwrap();
    step(&mut whole, &batch);
    whole.write_state(checkpoint.path()).unwrap();
    step(&mut whole, &batch);
    rewrite(checkpoint.path(), &[("version", "1"), ("step", "1"), ("seed", "7")]);
    let mut part = trainer(&config, Optimizer::default(), 1e-2, 1);
    part.read_state(checkpoint.path()).unwrap();
    step(&mut part, &batch);
    assert!(values(&part) == values(&whole));
    let mut lion = trainer(&config, Optimizer::Lion(Lion::default()), 1e-2, 1);
    assert!(lion.read_state(checkpoint.path()).is_err());
    rewrite(checkpoint.path(), &[("version", "3"), ("step", "1"), ("seed", "7")]);
    let error = part.read_state(checkpoint.path()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the saved state does not fit this run: its version is `3`, this program reads `1` and `2`"
    );
}
