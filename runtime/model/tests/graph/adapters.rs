//! Adapters of every kind that can be applied exactly, alone and mixed in a batch; and those that do not fit.

use std::path::Path;

use witness_formats::adapter::Adapter as AdapterFile;
use witness_formats::gguf::rows::RowOrder;
use witness_formats::safetensors::Writer;
use witness_formats::{Dtype, FileSet};
use witness_model::weight::PlainType;
use witness_model::{Adapter, ModelError, SequenceStep};

use crate::reference::{Deltas, Pair};
use crate::support::{Random, Spec, Tiny, run};

/// Name, shape, values of a tensor of an adapter file.
type Entry = (String, Vec<usize>, Vec<f64>);

const LINEARS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// Writes a PEFT directory and opens it.
fn peft(config: &serde_json::Value, entries: &[Entry]) -> Result<AdapterFile, witness_formats::FormatError> {
    let directory = tempfile::tempdir().unwrap();
    write_peft(directory.path(), config, entries);
    AdapterFile::open(&FileSet::from_directory(directory.path()).unwrap())
}

fn write_peft(directory: &Path, config: &serde_json::Value, entries: &[Entry]) {
    std::fs::write(directory.join("adapter_config.json"), config.to_string()).unwrap();
    let mut entries = entries.to_vec();
    entries.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    let mut writer = Writer::new();
    for (name, shape, _) in &entries {
        writer.tensor(name, Dtype::F32, shape).unwrap();
    }
    let mut body = writer.begin(Vec::new()).unwrap();
    for (_, _, values) in &entries {
        let bytes: Vec<u8> = values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect();
        body.write(&bytes).unwrap();
    }
    std::fs::write(directory.join("adapter_model.safetensors"), body.finish().unwrap()).unwrap();
}

fn config(targets: &[&str], saved: &[&str]) -> serde_json::Value {
    serde_json::json!({
        "peft_type": "LORA", "r": 3, "lora_alpha": 6.0, "target_modules": targets, "modules_to_save": saved,
        "bias": "none", "fan_in_fan_out": false, "use_dora": false, "use_rslora": false, "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny"
    })
}

/// Makes a pair for each module, as entries of a file and for the reference. Rank 3, scale 2.
fn pairs(tiny: &Tiny, modules: &[String], seed: u64) -> (Vec<Entry>, Deltas) {
    let mut random = Random::new(seed);
    let (mut entries, mut deltas) = (Vec::new(), Deltas::default());
    for module in modules {
        let embedding = module == "model.embed_tokens";
        let head = ["lm_head.weight", "model.embed_tokens.weight"]
            .into_iter()
            .find(|name| tiny.weights.contains_key(*name));
        let name = if module == "lm_head" {
            head.unwrap().to_owned()
        } else {
            format!("{module}.weight")
        };
        let shape = &tiny.weights[&name].0;
        let (out, input) = if embedding {
            (shape[1], shape[0])
        } else {
            (shape[0], shape[1])
        };
        let (a, b) = (random.values(3 * input, 0.5), random.values(3 * out, 0.5));
        let (suffix_a, suffix_b) = if embedding {
            ("lora_embedding_A", "lora_embedding_B")
        } else {
            ("lora_A.weight", "lora_B.weight")
        };
        entries.push((
            format!("base_model.model.{module}.{suffix_a}"),
            vec![3, input],
            a.clone(),
        ));
        entries.push((format!("base_model.model.{module}.{suffix_b}"), vec![out, 3], b.clone()));
        deltas.pairs.insert(
            module.clone(),
            Pair {
                rank: 3,
                scale: 2.0,
                a,
                b,
                magnitude: None,
            },
        );
    }
    (entries, deltas)
}

fn linears(names: &[&str]) -> Vec<String> {
    (0..2)
        .flat_map(|layer| names.iter().map(move |name| format!("model.layers.{layer}.{name}")))
        .collect()
}

#[test]
fn every_linear_head_and_embedding() {
    for (tied, rows) in [(false, RowOrder::Halves), (true, RowOrder::Interleaved)] {
        let tiny = Spec {
            tied,
            rows,
            ..Spec::default()
        }
        .build();
        let mut modules = linears(&LINEARS);
        modules.extend(["lm_head".to_owned(), "model.embed_tokens".to_owned()]);
        let (entries, deltas) = pairs(&tiny, &modules, 21);
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
