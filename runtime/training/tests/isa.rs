//! One run on every instruction set that this processor has. A program of its own: what holds the kernels holds all of a process.

use serde_json::json;
use witness_formats::hf::HfConfig;
use witness_instructions::Isa;
use witness_training::{
    BaseStorage, Batch, Compute, Decay, LoraMethod, Method, Optimizer, RandomWeights, Recompute, Sample, Schedule,
    Stream, Trainer, TrainerOptions,
};

// What the processor has and what it would have to do without give the same run, to rounding: f32 to a few of its last bits, and bf16 to a few of its own where a
// sum in another order falls on the other side of a rounding.
#[test]
fn every_instruction_set_trains_alike() {
    let config = json!({
        "model_type": "llama", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "tie_word_embeddings": true,
    });
    let config = HfConfig::parse("config.json", config.to_string().as_bytes()).unwrap();
    let config = config.decoder().unwrap();
    let source = RandomWeights::new(&config, 5, 0.2);
    let ids: Vec<u32> = (0..90).map(|at| (Stream::new(3).bits(at) % 100) as u32).collect();
    let is_target = [true; 30];
    for (compute, tolerance) in [(Compute::F32, 1e-5), (Compute::Bf16, 5e-3)] {
        let mut first: Option<Vec<f64>> = None;
        for isa in Isa::available() {
            isa.hold();
            assert_eq!(Isa::current(), isa);
            let options = TrainerOptions {
                schedule: Schedule {
                    learning_rate: 1e-2,
                    decay: Decay::Constant,
                    warmup_steps: 0,
                    n_steps: 5,
                },
                optimizer: Optimizer::default(),
                max_grad_norm: Some(1.0),
                recompute: Recompute::Nothing,
                seed: 42,
                n_threads: Some(2),
                compute,
                base_storage: BaseStorage::Nf4 { double: true },
            };
            let method = Method::Lora(Box::new(LoraMethod::new(4, 8.0, &["all-linear"]).unwrap()));
            let mut trainer: Trainer = Trainer::new(&config, &source, method, options).unwrap();
            let losses = (0..5).map(|_| {
                let samples = ids.chunks(30).map(|ids| Sample {
                    ids,
                    is_target: &is_target,
                });
                let batch = Batch::pack(samples).unwrap();
                trainer.step(&[batch], &|| false).unwrap().unwrap().loss
            });
            let losses: Vec<f64> = losses.collect();
            assert!(losses[4] < losses[0], "{losses:?}");
            let wanted = first.get_or_insert_with(|| losses.clone());
            for (found, wanted) in losses.iter().zip(wanted) {
                assert!(
                    (found - *wanted).abs() < tolerance * *wanted,
                    "{} {compute:?} {found} {wanted}",
                    isa.name()
                );
            }
        }
    }
}
