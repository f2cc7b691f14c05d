//! Bases in other forms than f32, and products in bf16.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use witness_formats::gguf::{GgmlType, Gguf};
use witness_formats::hf::{DecoderConfig, HfConfig, four_bit};
use witness_formats::safetensors::{SafeTensors, Writer};
use witness_formats::{Dtype, FileSet};
use witness_quantization::{NF4_CODE, Nf4Matrix, Nf4Scales, blockwise};
use witness_training::{
    BaseStorage, Compute, GgufWeights, Method, RandomWeights, Recompute, Result, Stored, Trainer, TrainerOptions,
    WeightSource,
};

use crate::support::{lora, options, pack, reference, rows, tiny};

fn all_linears() -> Method {
    lora(json!({"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}))
}

/// Trains some steps and returns the losses and the adapter.
fn trained(config: &DecoderConfig, source: &dyn WeightSource, options: TrainerOptions) -> (Vec<f64>, Vec<f32>) {
    let mut trainer: Trainer = Trainer::new(config, source, all_linears(), options).unwrap();
    let steps = (0..6).map(|step| {
        let rows = rows(config.vocab_size, 200 + step);
        trainer.step(&[pack(&rows)], &|| false).unwrap().unwrap().loss
    });
    let losses = steps.collect();
    let values = trainer
        .parameters()
        .trained()
        .flat_map(|parameter| parameter.values.clone());
    (losses, values.collect())
}

/// Weights whose layers' matrices went through a form and back.
struct Through<'a> {
    source: RandomWeights<'a>,
    form: BaseStorage,
}

impl WeightSource for Through<'_> {
    fn weight(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>> {
        let Some((shape, values)) = self.source.weight(name)? else {
            return Ok(None);
        };
        let (BaseStorage::Nf4 { double }, [n_out, n_in], true) = (self.form, &shape[..], name.contains("layers."))
        else {
            return Ok(Some((shape, values)));
        };
        let matrix = Nf4Matrix::quantize(&values, *n_out, *n_in, double);
        let mut decoded = vec![0.0; values.len()];
        matrix.dequantize_rows(0..*n_out, &mut decoded);
        Ok(Some((shape, decoded)))
    }
}

/// Holds losses to each other within what sums in another order change in f32: a part in 2^24 a step of a sum, which six steps of training carry on.
fn assert_near(losses: &[f64], wanted: &[f64]) {
    assert_eq!(losses.len(), wanted.len());
    for (loss, wanted) in losses.iter().zip(wanted) {
        assert!((loss - wanted).abs() < 1e-5 * wanted, "{losses:?} {wanted:?}");
    }
}

// A QLoRA step is a LoRA step over the decoded base: the same numbers, whose products are summed in the order of packed panels here and, with some instructions, in
// that of the whole matrix there. What the losses differ from those of the plain base by is three orders more.
#[test]
fn qlora_equals_lora_on_the_decoded_base() {
    let config = tiny("llama", json!({"hidden_size": 64, "intermediate_size": 96}));
    for double in [false, true] {
        let form = BaseStorage::Nf4 { double };
        let source = RandomWeights::new(&config, 5, 0.3);
        let with = |base_storage| TrainerOptions {
            base_storage,
            ..options(1e-2)
        };
        let (losses, adapter) = trained(&config, &source, with(form));
        let through = Through { source, form };
        let (wanted_losses, wanted_adapter) = trained(&config, &through, with(BaseStorage::F32));
        assert_near(&losses, &wanted_losses);
        assert_eq!(adapter.len(), wanted_adapter.len());
        let difference = adapter
            .iter()
            .zip(&wanted_adapter)
            .map(|(a, b)| f64::from((a - b).abs()));
        assert!(difference.sum::<f64>() / (adapter.len() as f64) < 1e-5);
        let (plain, _) = trained(&config, &source, with(BaseStorage::F32));
        assert!(
            losses
                .iter()
                .zip(&plain)
                .any(|(loss, plain)| (loss - plain).abs() > 1e-2 * plain)
        );
    }
}

/// Writes a model as Transformers and bitsandbytes do: its layers' matrices in NF4, whose scales are quantized too.
fn write_four_bit(path: &Path, config: &DecoderConfig, source: &dyn WeightSource) {
    let mut names = vec![
        "lm_head.weight".to_owned(),
        "model.embed_tokens.weight".to_owned(),
        "model.norm.weight".to_owned(),
    ];
    for layer in 0..config.n_layers {
        let modules = ["q", "k", "v", "o"].map(|module| format!("self_attn.{module}_proj"));
        let modules = modules
            .into_iter()
            .chain(["gate", "up", "down"].map(|module| format!("mlp.{module}_proj")));
        let norms = ["input_layernorm", "post_attention_layernorm"].map(str::to_owned);
        names.extend(
            modules
                .chain(norms)
                .map(|module| format!("model.layers.{layer}.{module}.weight")),
        );
    }
    let le = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|value| value.to_le_bytes()).collect() };
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for name in names {
        let (shape, values) = source.weight(&name).unwrap().unwrap();
        let (2, true) = (shape.len(), name.contains("layers.")) else {
            tensors.push((name, Dtype::F32, shape, le(&values)));
            continue;
        };
        let matrix = Nf4Matrix::quantize(&values, shape[0], shape[1], true);
        let Nf4Scales::Nested { codes, largest, offset } = matrix.scales() else {
            panic!("plain")
        };
        let state = four_bit::state([shape[0], shape[1]], Dtype::F32, Some(*offset));
        tensors.push((
            name.clone(),
            Dtype::U8,
            vec![matrix.packed().len(), 1],
            matrix.packed().to_vec(),
        ));
        for (end, dtype, length) in four_bit::parts(values.len(), true, state.len()) {
            let bytes = match end {
                ".absmax" => codes.clone(),
                ".nested_absmax" => le(largest),
                ".nested_quant_map" => le(blockwise::SIGNED.values()),
                ".quant_map" => le(&NF4_CODE),
                _ => state.clone().into_bytes(),
            };
            tensors.push((format!("{name}{end}"), dtype, vec![length], bytes));
        }
    }
    let mut writer = Writer::new();
    for (name, dtype, shape, _) in &tensors {
        writer.tensor(name, *dtype, shape).unwrap();
    }
    let mut body = writer.begin(std::fs::File::create(path).unwrap()).unwrap();
    for (.., bytes) in &tensors {
        body.write(bytes).unwrap();
    }
    body.finish().unwrap();
}

// A base that somebody has quantized already is trained on as it lies: the same bits as where it is quantized here, whether QLoRA is asked for or not.
#[test]
fn a_base_in_nf4_is_not_quantized_again() {
    let config = tiny("llama", json!({"hidden_size": 64, "intermediate_size": 96}));
    let source = RandomWeights::new(&config, 5, 0.3);
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("model.safetensors");
    write_four_bit(&path, &config, &source);
    let four_bit = SafeTensors::open_file(&path).unwrap();
    let with = |base_storage| TrainerOptions {
        base_storage,
        ..options(1e-2)
    };
    let double = BaseStorage::Nf4 { double: true };
    let wanted = trained(&config, &source, with(double));
    for base_storage in [BaseStorage::AsIs, double, BaseStorage::Nf4 { double: false }] {
        assert_eq!(
            trained(&config, &four_bit, with(base_storage)),
            wanted,
            "{base_storage:?}"
        );
    }
    // Its numbers can be had plain as well.
    let (losses, _) = trained(&config, &four_bit, with(BaseStorage::F32));
    assert_near(&losses, &wanted.0);
    let trainer: Trainer = Trainer::new(&config, &four_bit, all_linears(), with(double)).unwrap();
    let dense: Trainer = Trainer::new(&config, &source, all_linears(), with(double)).unwrap();
    assert_eq!(trainer.parameters().bytes(), dense.parameters().bytes());
}

// With `s` steps of relative error 2^-9 in every factor, a loss of 3 differs by about 1 %; 2 % is allowed. Losses that were equal would mean that nothing is rounded.
#[test]
fn losses_in_bf16_are_near_those_in_f32() {
    let config = tiny(
        "qwen2",
        json!({"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}),
    );
    let source = RandomWeights::new(&config, 5, 0.1);
    for base_storage in [BaseStorage::AsIs, BaseStorage::F32, BaseStorage::Nf4 { double: true }] {
        let with = |compute| TrainerOptions {
            compute,
            base_storage,
            ..options(1e-2)
        };
        let (exact, _) = trained(&config, &source, with(Compute::F32));
        let (rounded, _) = trained(&config, &source, with(Compute::Bf16));
        assert_ne!(exact, rounded);
        for (exact, rounded) in exact.iter().zip(&rounded) {
            assert!(
                (exact - rounded).abs() < 0.02 * exact,
                "{exact} {rounded} {base_storage:?}"
            );
        }
    }
}

// In bf16 the base is kept in bf16, with the products that an f32 base, rounded in every product, gives.
#[test]
fn a_base_in_bf16_gives_the_products_of_a_rounded_one() {
    let config = tiny("llama", json!({"hidden_size": 64, "intermediate_size": 96}));
    let source = RandomWeights::new(&config, 5, 0.3);
    let trainer = |base_storage| -> Trainer {
        let options = TrainerOptions {
            compute: Compute::Bf16,
            base_storage,
            ..options(1e-2)
        };
        Trainer::new(&config, &source, all_linears(), options).unwrap()
    };
    let (kept, plain) = (trainer(BaseStorage::AsIs), trainer(BaseStorage::F32));
    let n_trained = kept.parameters().count().1;
    assert!(kept.parameters().bytes() - 4 * n_trained < (plain.parameters().bytes() - 4 * n_trained) * 11 / 20);
    // The embedding is the one matrix that is looked up as well as multiplied, so only its own rounding may show.
    let batch = pack(&rows(config.vocab_size, 1));
    let (kept, plain) = (kept.evaluate(&batch).unwrap(), plain.evaluate(&batch).unwrap());
    assert!((kept - plain).abs() < 0.02 * plain, "{kept} {plain}");
}

// A file of a model and the directory that it was made from, in f32: names, shapes, rows of q and k, and so every loss and gradient.
#[test]
fn a_gguf_base_trains_like_its_directory() {
    let (Some(file), Some(directory)) = (
        reference("models/stories260K-gguf/stories260K-f32.gguf"),
        reference("models/stories260K-hf"),
    ) else {
        return;
    };
    let files = FileSet::from_directory(&directory).unwrap();
    let config = HfConfig::load(&files).unwrap().decoder().unwrap();
    let gguf = Arc::new(Gguf::open_file(&file).unwrap());
    let of_file = DecoderConfig::from_gguf(&gguf).unwrap();
    let weights = GgufWeights::new(gguf).unwrap();
    for base_storage in [BaseStorage::AsIs, BaseStorage::F32] {
        let with = TrainerOptions {
            base_storage,
            ..options(1e-2)
        };
        let (losses, adapter) = trained(&of_file, &weights, with.clone());
        let (wanted, wanted_adapter) = trained(&config, &SafeTensors::open(&files).unwrap(), with);
        assert_eq!(losses, wanted);
        assert_eq!(adapter, wanted_adapter);
    }
}

// The same in 8 bits: a base as it lies gives what its decoded numbers give, in a fraction of their memory.
#[test]
fn a_quantized_gguf_base_is_used_as_it_lies() {
    let Some(file) = reference("models/stories260K-gguf/stories260K-q8_0.gguf") else {
        return;
    };
    let gguf = Arc::new(Gguf::open_file(&file).unwrap());
    assert!(gguf.tensors().iter().any(|tensor| tensor.ggml_type == GgmlType::Q8_0));
    let config = DecoderConfig::from_gguf(&gguf).unwrap();
    let weights = GgufWeights::new(gguf).unwrap();
    let with = |base_storage, recompute| TrainerOptions {
        base_storage,
        recompute,
        ..options(1e-2)
    };
    let (losses, adapter) = trained(&config, &weights, with(BaseStorage::AsIs, Recompute::Nothing));
    let (wanted, wanted_adapter) = trained(&config, &weights, with(BaseStorage::F32, Recompute::Nothing));
    assert_eq!(losses, wanted);
    assert_eq!(adapter, wanted_adapter);
    let (again, _) = trained(&config, &weights, with(BaseStorage::AsIs, Recompute::Layers));
    assert_eq!(losses, again);
    let trainer: Trainer = Trainer::new(
        &config,
        &weights,
        all_linears(),
        with(BaseStorage::AsIs, Recompute::Nothing),
    )
    .unwrap();
    let (n_weights, n_trained) = trainer.parameters().count();
    let base_bytes = trainer.parameters().bytes() - 4 * n_trained;
    assert!(base_bytes < (n_weights - n_trained) * 2, "{base_bytes}");
}

/// A source whose matrices are in a form of their own and broken.
struct Broken<'a>(RandomWeights<'a>);

impl WeightSource for Broken<'_> {
    fn weight(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>> {
        self.0.weight(name)
    }

    fn stored(&self, name: &str) -> Result<Option<Stored>> {
        let Some((shape, mut values)) = self.0.weight(name)? else {
            return Ok(None);
        };
        if name.ends_with("up_proj.weight") {
            values[3] = f32::INFINITY;
        }
        let [n_out, n_in] = shape[..] else { return Ok(None) };
        Ok(Some(Arc::new(Nf4Matrix::quantize(&values, n_out, n_in, false))))
    }
}

#[test]
fn a_stored_base_with_infinite_weights_is_refused() {
    let config = tiny("llama", json!({}));
    let broken = Broken(RandomWeights::new(&config, 5, 0.3));
    let error = Trainer::<f32>::new(&config, &broken, all_linears(), options(0.0)).unwrap_err();
    assert!(
        error.to_string().contains("model.layers.0.mlp.up_proj.weight"),
        "{error}"
    );
}
