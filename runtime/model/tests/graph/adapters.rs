//! Adapters of every kind that can be applied exactly, alone and mixed in a batch; and those that do not fit.

use witness_formats::gguf::rows::RowOrder;
use witness_model::weight::PlainType;
use witness_model::{Adapter, ModelError, SequenceStep};

use crate::peft::{Entry, LINEARS, config, linears, pairs, peft};
use crate::support::{Random, Spec, run};

/// Numbers of pairs are kept in 16 bits where that loses nothing, and in 32 where it would.
#[test]
fn every_linear_head_and_embedding() {
    for (tied, rows, factor) in [
        (false, RowOrder::Halves, 1.0),
        (true, RowOrder::Interleaved, 1.0),
        (false, RowOrder::Halves, 1.1),
    ] {
        let tiny = Spec {
            tied,
            rows,
            ..Spec::default()
        }
        .build();
        let mut modules = linears(&LINEARS);
        modules.extend(["lm_head".to_owned(), "model.embed_tokens".to_owned()]);
        let (mut entries, mut deltas) = pairs(&tiny, &modules, 21);
        let numbers = entries.iter_mut().map(|(_, _, numbers)| numbers);
        let expected = deltas.pairs.values_mut().flat_map(|pair| [&mut pair.a, &mut pair.b]);
        for number in numbers.chain(expected).flatten() {
            *number = f64::from((*number * factor) as f32);
        }
        let targets: Vec<&str> = modules.iter().filter_map(|module| module.rsplit('.').next()).collect();
        let adapter = tiny
            .load()
            .adapter(peft(&config(&targets, &[]), &entries).unwrap())
            .unwrap();
        assert_eq!(adapter.pairs(), 16);
        tiny.check(40, Some(&adapter), &deltas);
    }
}

/// DoRA on every linear layer and the head: bases with biases, 16-bit weights, either row order, a tied head.
#[test]
fn dora_turns_rows_to_their_trained_length() {
    for (tied, rows, all_biases, dtype) in [
        (false, RowOrder::Halves, true, PlainType::F32),
        (true, RowOrder::Interleaved, false, PlainType::BF16),
    ] {
        let tiny = Spec {
            tied,
            rows,
            all_biases,
            dtype,
            ..Spec::default()
        }
        .build();
        let mut modules = linears(&LINEARS);
        modules.push("lm_head".to_owned());
        let (mut entries, mut deltas) = pairs(&tiny, &modules, 33);
        let mut random = Random::new(9);
        for (module, pair) in &mut deltas.pairs {
            let magnitude: Vec<f64> = random.values(pair.b.len() / 3, 1.0).iter().map(|v| v + 2.0).collect();
            let name = format!("base_model.model.{module}.lora_magnitude_vector");
            entries.push((name, vec![magnitude.len()], magnitude.clone()));
            pair.magnitude = Some(magnitude);
        }
        let mut config = config(
            &[
                "q_proj",
                "k_proj",
                "v_proj",
                "o_proj",
                "gate_proj",
                "up_proj",
                "down_proj",
                "lm_head",
            ],
            &[],
        );
        config["use_dora"] = true.into();
        let adapter = tiny.load().adapter(peft(&config, &entries).unwrap()).unwrap();
        tiny.check(40, Some(&adapter), &deltas);
        config["use_dora"] = false.into();
        let refused = peft(&config, &entries).unwrap_err().to_string();
        assert!(
            refused.contains("use_dora") || refused.contains("`use_dora`"),
            "{refused}"
        );
        config["use_dora"] = true.into();
        entries.pop();
        let refused = peft(&config, &entries).unwrap_err().to_string();
        assert!(refused.contains("lora_magnitude_vector is absent"), "{refused}");
    }
}

/// Modules saved whole replace the base's for this adapter: norms, head, embedding, a linear layer.
#[test]
fn saved_modules_replace() {
    let tiny = Spec::default().build();
    let (mut entries, mut deltas) = pairs(&tiny, &linears(&["self_attn.q_proj"]), 4);
    let mut random = Random::new(77);
    for module in [
        "lm_head",
        "model.embed_tokens",
        "model.norm",
        "model.layers.1.input_layernorm",
    ] {
        let name = format!("{module}.weight");
        let shape = tiny.weights[&name].0.clone();
        let values = random.values(shape.iter().product(), 1.0);
        entries.push((format!("base_model.model.{name}"), shape.clone(), values.clone()));
        deltas.replaced.insert(name, (shape, values));
    }
    let saved = ["lm_head", "embed_tokens", "norm", "input_layernorm"];
    let adapter = tiny
        .load()
        .adapter(peft(&config(&["q_proj"], &saved), &entries).unwrap())
        .unwrap();
    tiny.check(40, Some(&adapter), &deltas);
}

/// Base and two adapters in one batch, out of order: each sequence gets what it gets alone, and the base stays as it was.
#[test]
fn adapters_mix_in_a_batch() {
    let tiny = Spec::default().build();
    let model = tiny.load();
    let load = |modules: &[String], targets: &[&str], seed| {
        model
            .adapter(peft(&config(targets, &[]), &pairs(&tiny, modules, seed).0).unwrap())
            .unwrap()
    };
    let first = load(
        &linears(&["self_attn.q_proj", "mlp.down_proj"]),
        &["q_proj", "down_proj"],
        1,
    );
    let second = load(
        &linears(&["self_attn.v_proj", "self_attn.q_proj"]),
        &["v_proj", "q_proj"],
        2,
    );
    let wanted = [Some(&second), None, Some(&first), Some(&second), None];
    let prompts: Vec<Vec<u32>> = (0..5)
        .map(|index| Random::new(index).tokens(9 + index as usize, 50))
        .collect();
    let mut caches: Vec<_> = prompts.iter().map(|_| model.new_cache(40)).collect();
    let mut steps: Vec<SequenceStep<'_>> = prompts
        .iter()
        .zip(&mut caches)
        .zip(wanted)
        .map(|((tokens, cache), adapter)| SequenceStep {
            tokens,
            cache,
            adapter,
            n_logits: tokens.len(),
        })
        .collect();
    let together = model.forward(&mut steps).unwrap();
    let base = run(&model, &prompts[0], &mut model.new_cache(40), None);
    for (index, (tokens, adapter)) in prompts.iter().zip(wanted).enumerate() {
        let alone = run(&model, tokens, &mut model.new_cache(40), adapter);
        assert!(alone.concat() == together.of(index), "sequence {index}");
    }
    assert_ne!(base.concat(), together.of(0));
}

fn refusal(modules: &[String], targets: &[&str], change: impl FnOnce(&mut Vec<Entry>)) -> String {
    let tiny = Spec::default().build();
    let (mut entries, _) = pairs(&tiny, modules, 1);
    change(&mut entries);
    let refused = |file| -> Result<Adapter, ModelError> { tiny.load().adapter(file) };
    match peft(&config(targets, &[]), &entries) {
        Ok(file) => refused(file).expect_err("this adapter does not fit").to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_does_not_fit_is_refused_with_both_sides() {
    let query = linears(&["self_attn.q_proj"]);
    let layer = refusal(&query, &["q_proj"], |entries| {
        for (name, ..) in entries {
            *name = name.replace("layers.1.", "layers.7.");
        }
    });
    assert!(layer.contains("layer 7") && layer.contains("layers 0 to 1"), "{layer}");
    let shape = refusal(&query, &["q_proj"], |entries| {
        entries[0].1 = vec![3, 12];
        entries[0].2.truncate(36);
    });
    assert!(shape.contains("12") && shape.contains("24"), "{shape}");
    let unknown = refusal(&query, &["q_proj", "fc1"], |entries| {
        for (name, ..) in entries {
            *name = name.replace("layers.1.self_attn.q_proj", "layers.1.fc1");
        }
    });
    assert!(unknown.contains("fc1"), "{unknown}");
    let not_a_number = refusal(&query, &["q_proj"], |entries| entries[0].2[0] = f64::NAN);
    assert!(not_a_number.contains("NaN"), "{not_a_number}");
}

#[test]
fn an_adapter_of_another_model_is_refused_when_it_is_used() {
    let small = Spec::default().build();
    let mut spec = Spec::default();
    spec.numbers.feed_forward = 56;
    let large = spec.build().load();
    let (entries, _) = pairs(&small, &linears(&["mlp.up_proj"]), 1);
    let file = peft(&config(&["up_proj"], &[]), &entries).unwrap();
    let adapter = small.load().adapter(file).unwrap();
    let mut cache = large.new_cache(8);
    let step = SequenceStep {
        tokens: &[1, 2],
        cache: &mut cache,
        adapter: Some(&adapter),
        n_logits: 1,
    };
    assert!(large.forward(&mut [step]).is_err());
    assert_eq!(cache.len(), 0);
}
