//! Every gradient against central differences of the loss in f64, on models of a few thousand random weights.
//!
//! With a step of 1e-5 the difference of a smooth function is right to about 1e-10 (its third derivative times the square of the step, and the rounding of the
//! loss, 1e-16, over the step); 1e-7 relative to the largest gradient of the tensor leaves room for both.

use serde_json::{Value, json};
use witness_training::{
    BuildOptions, GradientOptions, Gradients, Method, Parameters, RandomWeights, Recompute, Stream, build,
};

use crate::support::{lora, pack, rows, tiny};

const STEP: f64 = 1e-5;
/// Values looked at in each tensor.
const PROBES: usize = 6;

fn check(model_type: &str, changes: Value, method: Method) {
    let config = tiny(model_type, changes);
    let source = RandomWeights::new(&config, 5, 0.4);
    let options = BuildOptions {
        seed: 3,
        ..BuildOptions::default()
    };
    let (decoder, mut parameters) = build::<f64>(&config, &source, &method, options).unwrap();
    // Biases of 0, norms of 1 and a B of 0 would hide mistakes.
    let stream = Stream::new(99);
    let names: Vec<String> = parameters.iter().map(|parameter| parameter.name.clone()).collect();
    for (index, name) in names.iter().enumerate() {
        let stream = stream.child(index as u64);
        for (at, value) in parameters.named_mut(name).unwrap().values.iter_mut().enumerate() {
            *value += 0.1 * stream.normal(at as u64);
        }
    }
    let batch = pack(&rows(config.vocab_size, 11));
    let dropout = Stream::new(1);
    let pass = |parameters: &Parameters<f64>, recompute| {
        let mut gradients = Gradients::new(parameters);
        let options = GradientOptions {
            loss_scale: 0.25,
            recompute,
            dropout,
        };
        let loss = decoder.accumulate(parameters, &mut gradients, &batch, options, &|| false);
        let loss = loss.unwrap().unwrap();
        (0.25 * loss, gradients)
    };
    let (_, gradients) = pass(&parameters, Recompute::Nothing);
    let (_, recomputed) = pass(&parameters, Recompute::Layers);
    let trained: Vec<String> = parameters.trained().map(|parameter| parameter.name.clone()).collect();
    assert!(!trained.is_empty());
    for ((name, gradient), again) in trained.iter().zip(gradients.iter()).zip(recomputed.iter()) {
        assert_eq!(gradient, again, "{name} with recomputed activations");
        let largest = gradient.iter().fold(0.0f64, |most, value| most.max(value.abs()));
        for probe in 0..PROBES {
            let at = (stream.bits(probe as u64) % gradient.len() as u64) as usize;
            let mut loss_at = |shift: f64| {
                let values = &mut parameters.named_mut(name).unwrap().values;
                let kept = values[at];
                values[at] += shift;
                let loss = pass(&parameters, Recompute::Nothing).0;
                parameters.named_mut(name).unwrap().values[at] = kept;
                loss
            };
            let wanted = (loss_at(STEP) - loss_at(-STEP)) / (2.0 * STEP);
            let error = (gradient[at] - wanted).abs();
            assert!(
                error <= 1e-7 * largest.max(1e-3),
                "{name}[{at}]: {} instead of {wanted}",
                gradient[at]
            );
        }
    }
}

#[test]
fn full_llama() {
    check("llama", json!({"attention_bias": true, "mlp_bias": true}), Method::Full);
}

#[test]
fn full_tied_qwen2() {
    check("qwen2", json!({"tie_word_embeddings": true}), Method::Full);
}

// A window of 3 positions in rows of up to 7 tokens.
#[test]
fn full_sliding_mistral() {
    check("mistral", json!({"sliding_window": 3}), Method::Full);
}

#[test]
fn lora_on_every_linear_with_dropout() {
    let fields = json!({"r": 3, "lora_alpha": 6, "lora_dropout": 0.3, "use_rslora": true, "bias": "all",
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]});
    check("qwen2", json!({}), lora(fields));
}

// Only the lower layer's feed-forward block: the backward pass ends in the middle of a layer.
#[test]
fn lora_on_one_block_with_a_saved_norm() {
    let fields = json!({"r": 2, "lora_alpha": 2, "target_modules": ["up_proj"], "modules_to_save": ["model.norm"]});
    check("llama", json!({}), lora(fields));
}

#[test]
fn lora_on_one_layer_and_a_saved_head() {
    let fields = json!({"r": 2, "lora_alpha": 2, "target_modules": ["v_proj"], "layers_to_transform": [1],
        "modules_to_save": ["lm_head"], "rank_pattern": {"v_proj": 4}, "alpha_pattern": {"v_proj": 3}});
    check("llama", json!({}), lora(fields));
}
