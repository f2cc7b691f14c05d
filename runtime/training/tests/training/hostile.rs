//! Saved states and adapters that are cut, damaged or made up: each is read or refused with an error that says why, and a refusal changes nothing.

use std::path::Path;

use serde_json::json;
use witness_diagnostics::Diagnostic;
use witness_formats::Dtype;
use witness_formats::hf::DecoderConfig;
use witness_formats::safetensors::{SafeTensors, Writer};
use witness_training::output::{ADAPTER_WEIGHTS, TRAINER_STATE};
use witness_training::{AdamW, Batch, Method, Optimizer, RandomWeights, Result, Stream, Trainer, TrainerOptions};

use crate::support::{lora, options, pack, rows, tiny};

fn config() -> DecoderConfig {
    tiny("llama", json!({"hidden_size": 48, "intermediate_size": 90}))
}

/// A trainer whose larger matrices have moments in 8 bits.
fn trainer(config: &DecoderConfig, method: Method) -> Trainer {
    let options = TrainerOptions {
        optimizer: Optimizer::AdamW8bit(AdamW::default()),
        n_threads: Some(1),
        ..options(1e-2)
    };
    Trainer::new(config, &RandomWeights::new(config, 5, 0.3), method, options).unwrap()
}

fn adapter() -> Method {
    lora(json!({"r": 2, "target_modules": "all-linear", "modules_to_save": ["lm_head"]}))
}

fn step(trainer: &mut Trainer) {
    let batch: Batch = pack(&rows(23, 1));
    trainer.step(&[batch], &|| false).unwrap();
}

fn bits(trainer: &Trainer) -> Vec<u32> {
    let parameters = trainer.parameters().trained();
    parameters
        .flat_map(|parameter| parameter.values.iter().map(|value| value.to_bits()))
        .collect()
}

/// Gives a file's damaged forms to a reader; each must be refused without a trace, or read. Returns how many were refused.
fn damage(file: &[u8], path: &Path, trainer: &mut Trainer, read: impl Fn(&mut Trainer) -> Result<()>) -> usize {
    let (before, count) = (bits(trainer), trainer.step_count());
    let head_bytes = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let stream = Stream::new(9);
    let mut forms: Vec<Vec<u8>> = Vec::new();
    let cuts = (0..60).map(|at| stream.bits(at) as usize % file.len());
    forms.extend(
        cuts.chain([0, 7, 8, head_bytes, file.len() - 1])
            .map(|cut| file[..cut].to_vec()),
    );
    forms.push([file, &[0]].concat());
    for round in 0..400u64 {
        let stream = stream.child(round);
        let mut form = file.to_vec();
        for change in 0..=stream.bits(0) % 3 {
            // Three of four changes hit the head, where the structure is.
            let end = if stream.bits(100 + change).is_multiple_of(4) {
                file.len()
            } else {
                head_bytes
            };
            let at = stream.bits(200 + change) as usize % end;
            form[at] = match stream.bits(300 + change) % 3 {
                0 => stream.bits(400 + change) as u8,
                1 => form[at] ^ 1 << (stream.bits(400 + change) % 8),
                _ => *b"{}[]:,\"0919-".get(stream.bits(400 + change) as usize % 12).unwrap(),
            };
        }
        forms.push(form);
    }
    let mut n_refused = 0;
    for form in &forms {
        std::fs::write(path, form).unwrap();
        match read(trainer) {
            Err(error) => {
                n_refused += 1;
                let diagnostic = Diagnostic::from(error);
                assert!(!diagnostic.message.is_empty() && diagnostic.code.starts_with("witness::"));
                assert!(
                    bits(trainer) == before && trainer.step_count() == count,
                    "{}",
                    diagnostic.message
                );
            }
            Ok(()) => {
                // Damage to a number, or none that matters; the whole file puts everything back.
                std::fs::write(path, file).unwrap();
                read(trainer).unwrap();
                assert!(bits(trainer) == before && trainer.step_count() == count);
            }
        }
    }
    n_refused
}

#[test]
fn damaged_states_are_refused_without_a_trace() {
    let config = config();
    for method in [Method::Full, adapter()] {
        let mut trainer = trainer(&config, method);
        let directory = tempfile::tempdir().unwrap();
        step(&mut trainer);
        trainer.write_state(directory.path()).unwrap();
        let path = directory.path().join(TRAINER_STATE);
        let file = std::fs::read(&path).unwrap();
        let n_refused = damage(&file, &path, &mut trainer, |trainer| {
            trainer.read_state(directory.path())
        });
        assert!(n_refused > 250, "{n_refused}");
    }
}

#[test]
fn damaged_adapters_are_refused_without_a_trace() {
    let config = config();
    let mut trainer = trainer(&config, adapter());
    step(&mut trainer);
    let directory = tempfile::tempdir().unwrap();
    trainer.write_adapter(directory.path(), None).unwrap();
    let path = directory.path().join(ADAPTER_WEIGHTS);
    let file = std::fs::read(&path).unwrap();
    let n_refused = damage(&file, &path, &mut trainer, |trainer| {
        trainer.read_adapter(directory.path())
    });
    assert!(n_refused > 250, "{n_refused}");
}

/// Writes a file of tensors again, one of them changed.
fn rewrite(path: &Path, change: &str, dtype: Dtype, shape: &[usize], bytes: &[u8], step: &str) {
    let opened = SafeTensors::open_file(path).unwrap();
    let mut writer = Writer::new();
    for (key, value) in opened.metadata() {
        writer.metadata(key, if key == "step" { step } else { value });
    }
    for (name, tensor) in opened.iter() {
        match name == change {
            true => writer.tensor(name, dtype, shape).unwrap(),
            false => writer.tensor(name, tensor.dtype(), tensor.shape()).unwrap(),
        }
    }
    let mut body = writer.begin(Vec::new()).unwrap();
    for (name, tensor) in opened.iter() {
        body.tensor(name, if name == change { bytes } else { tensor.bytes() })
            .unwrap();
    }
    let bytes = body.finish().unwrap();
    std::fs::write(path, bytes).unwrap();
}

// Well-formed files whose last tensor, type, shape, number or count makes no sense: what was read before it must not stay.
#[test]
fn made_up_states_are_refused_without_a_trace() {
    let config = config();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(TRAINER_STATE);
    let mut trainer = trainer(&config, Method::Full);
    step(&mut trainer);
    let up = "model.layers.1.mlp.up_proj.weight";
    let (weight, places) = (format!("weight/{up}"), format!("first_moment_8bit/{up}"));
    let nan: Vec<u8> = f32::NAN.to_le_bytes().repeat(90 * 48);
    let zeros = vec![0; 4 * 90 * 48];
    for (tensor, dtype, shape, bytes, step_said, wanted) in [
        (weight.as_str(), Dtype::F32, vec![90, 48], &nan[..], "1", "not finite"),
        (&weight, Dtype::F32, vec![48, 90], &zeros, "1", "expected [90, 48]"),
        (
            &weight,
            Dtype::F16,
            vec![90, 48],
            &zeros[..2 * 90 * 48],
            "1",
            "is of type F16, expected F32",
        ),
        (
            &places,
            Dtype::F32,
            vec![90, 48],
            &zeros,
            "1",
            "is of type F32, expected U8",
        ),
        (
            "",
            Dtype::F32,
            vec![],
            &zeros,
            "18446744073709551615",
            "its step is `18446744073709551615`",
        ),
        ("", Dtype::F32, vec![], &zeros, "-1", "its step is `-1`"),
    ] {
        trainer.write_state(directory.path()).unwrap();
        let (before, count) = (bits(&trainer), trainer.step_count());
        rewrite(&path, tensor, dtype, &shape, bytes, step_said);
        let error = trainer.read_state(directory.path()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
        assert!(bits(&trainer) == before && trainer.step_count() == count);
    }
}

#[test]
fn made_up_adapters_are_refused_without_a_trace() {
    let config = config();
    let mut trainer = trainer(&config, adapter());
    step(&mut trainer);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(ADAPTER_WEIGHTS);
    let last = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight";
    let infinite = f32::INFINITY.to_le_bytes().repeat(8 * 2);
    for (shape, bytes, wanted) in [
        (vec![8, 2], &infinite[..], "not finite"),
        (vec![2, 8], &infinite, "not finite"),
        (vec![16], &[0; 64], "expected [8, 2]"),
    ] {
        trainer.write_adapter(directory.path(), None).unwrap();
        let before = bits(&trainer);
        rewrite(&path, last, Dtype::F32, &shape, bytes, "");
        let error = trainer.read_adapter(directory.path()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
        assert!(bits(&trainer) == before);
    }
}
