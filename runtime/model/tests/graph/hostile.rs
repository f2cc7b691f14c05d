//! Configurations and weights that no model has: each is an error that names what is wrong, and none is a panic or an allocation.

use witness_formats::gguf::GgmlType;
use witness_model::config::Numbers;
use witness_model::rope::{Rope, RopeScaling};
use witness_model::weight::{PlainType, Storage};
use witness_model::{Config, Model, ModelError};

use crate::support::{Spec, encode, family};

fn refusal(change: impl FnOnce(&mut crate::support::Tiny)) -> ModelError {
    let mut tiny = Spec::default().build();
    change(&mut tiny);
    Model::load(tiny.config, &tiny.memory).expect_err("this model is not sound")
}

#[test]
fn hostile_weights() {
    let query = "model.layers.1.self_attn.q_proj.weight";
    let huge = refusal(|tiny| {
        tiny.memory.tensors.insert(
            query.into(),
            (Storage::Plain(PlainType::F32), vec![1 << 32, 1 << 32], vec![0; 16]),
        );
    });
    assert!(matches!(huge, ModelError::Shape { name, .. } if name == query));
    let transposed = refusal(|tiny| {
        let tensor = tiny.memory.tensors.get_mut(query).unwrap();
        tensor.1.reverse();
    });
    assert!(matches!(transposed, ModelError::Shape { .. }));
    let short = refusal(|tiny| {
        tiny.memory.tensors.get_mut(query).unwrap().2.truncate(100);
    });
    assert!(matches!(short, ModelError::Damaged { .. }));
    let missing = refusal(|tiny| {
        tiny.memory.tensors.remove(query);
    });
    assert!(matches!(missing, ModelError::MissingTensors { count: 1, first } if first == query));
    let unknown = refusal(|tiny| {
        let norm = (
            Storage::Plain(PlainType::F32),
            vec![8],
            encode(PlainType::F32, &[1.0; 8]),
        );
        tiny.memory
            .tensors
            .insert("model.layers.0.self_attn.q_norm.weight".into(), norm);
    });
    assert!(matches!(unknown, ModelError::UnknownTensors { count: 1, .. }));
    let other = refusal(|tiny| {
        tiny.memory.tensors.get_mut(query).unwrap().0 = Storage::Other("IQ2_XXS".into());
    });
    assert!(matches!(other, ModelError::Storage { found, .. } if found == "IQ2_XXS"));
    let not_a_number = refusal(|tiny| {
        tiny.memory.tensors.get_mut("model.norm.weight").unwrap().2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    assert!(matches!(not_a_number, ModelError::Damaged { .. }));
    let blocks = refusal(|tiny| {
        tiny.memory.tensors.get_mut(query).unwrap().0 = Storage::Blocks(GgmlType::Q4_K);
    });
    assert!(matches!(blocks, ModelError::Damaged { .. }));
}

/// Tensors that carry nothing are let through.
#[test]
fn known_leftovers_are_ignored() {
    let mut tiny = Spec {
        tied: true,
        ..Spec::default()
    }
    .build();
    for name in [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "rope_freqs.weight",
        "lm_head.weight",
    ] {
        tiny.memory
            .tensors
            .insert(name.into(), (Storage::Plain(PlainType::F32), vec![1], vec![0; 4]));
    }
    Model::load(tiny.config, &tiny.memory).expect("leftovers do not matter");
}

/// A tied pair may be stored under the head's name alone.
#[test]
fn a_tied_embedding_under_the_heads_name() {
    let mut tiny = Spec {
        tied: true,
        ..Spec::default()
    }
    .build();
    let embedding = tiny
        .memory
        .tensors
        .remove("model.embed_tokens.weight")
        .expect("an embedding");
    tiny.memory.tensors.insert("lm_head.weight".into(), embedding);
    tiny.check(20, None, &crate::reference::Deltas::default());
}

#[test]
fn hostile_configurations() {
    let sound = Spec::default();
    let rope = |theta, scaling| Rope { theta, scaling };
    let plain = || rope(10000.0, RopeScaling::None);
    let new = |numbers, epsilon, rope| Config::new(family("llama"), numbers, epsilon, rope);
    assert!(new(sound.numbers, 1e-5, plain()).is_ok());
    let changes: [fn(&mut Numbers); 10] = [
        |n| n.n_layers = 0,
        |n| n.n_layers = u64::MAX,
        |n| n.width = 1 << 32,
        |n| n.n_heads = 5,
        |n| n.n_kv_heads = 0,
        |n| n.head_dim = Some(7),
        |n| n.head_dim = Some(0),
        |n| (n.head_dim, n.width) = (None, 25),
        |n| n.vocab_size = 1 << 40,
        |n| n.feed_forward = 0,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut numbers = sound.numbers;
        change(&mut numbers);
        let error = new(numbers, 1e-5, plain()).expect_err("out of its limits");
        assert!(matches!(error, ModelError::Config { .. }), "change {index}: {error}");
    }
    for epsilon in [f64::NAN, -1.0, f64::INFINITY] {
        assert!(new(sound.numbers, epsilon, plain()).is_err());
    }
    for theta in [f64::NAN, 0.0, -5.0, f64::INFINITY] {
        assert!(new(sound.numbers, 1e-5, rope(theta, RopeScaling::None)).is_err());
    }
    for scaling in [
        RopeScaling::Linear { factor: 0.0 },
        RopeScaling::Linear { factor: f64::NAN },
        RopeScaling::Factors(vec![1.0; 3]),
        RopeScaling::Factors(vec![0.0; 4]),
        RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 4.0,
            high_freq_factor: 1.0,
            original_context: 64.0,
        },
    ] {
        assert!(new(sound.numbers, 1e-5, rope(10000.0, scaling)).is_err());
    }
}
