//! Bases of other kinds: none at all, GGUF files, plain and quantized; and what trackers get to see.

use serde_json::json;
use witness_formats::FileSet;
use witness_formats::hf::{GenerationConfig, HfConfig, TokenizerConfig};
use witness_formats::safetensors::SafeTensors;
use witness_plugin_protocol::{
    Compute, ModelSpec, SaveDtype, ScratchSettings, TokenizerSettings, TrainEvent, TrainMethod, TrainOutcome,
    TrainRequest, TrainSettings, When,
};

use crate::support::{Home, Host, assert_equal, file, files, reference, request, run, settings};

fn losses(events: &[TrainEvent]) -> Vec<f64> {
    let losses = events.iter().filter_map(|event| match event {
        TrainEvent::Step { loss, .. } => Some(*loss),
        _ => None,
    });
    losses.collect()
}

/// A request for a model from nothing, over chats and a text that is longer than a sequence.
fn from_nothing(home: &Home, name: &str) -> TrainRequest {
    let text = "A witness attests what a build did. ".repeat(60);
    std::fs::write(home.run("text.txt"), text).unwrap();
    let scratch = ScratchSettings {
        config: json!({"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64})
            .as_object()
            .unwrap()
            .clone(),
        tokenizer: TokenizerSettings {
            vocab_size: 300,
            ..TokenizerSettings::default()
        },
        chat_template: None,
    };
    let mut settings = TrainSettings {
        scratch: Some(scratch),
        save_dtype: SaveDtype::BF16,
        ..settings()
    };
    settings.sequence_len = None;
    settings.val_set_size = 2.0;
    let mut request = request(
        &home.base(),
        &[&home.rows(), &home.run("text.txt")],
        &home.run(name),
        settings,
    );
    request.model = ModelSpec { files: Vec::new() };
    request
}

#[test]
fn a_model_from_nothing_is_a_base_like_any_other() {
    let home = Home::new(30);
    let whole = from_nothing(&home, "whole");
    let plan = witness_plugin_train::plan(&whole).unwrap();
    assert_eq!(
        (
            plan.settings.method,
            plan.settings.learning_rate,
            plan.settings.sequence_len
        ),
        (TrainMethod::Full, Some(1e-2), Some(64))
    );
    assert!(!whole.directory.exists());
    let (reply, events) = run(&whole);
    assert_eq!(
        reply.files,
        [
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
    let losses = losses(&events);
    assert!(losses.last().unwrap() < &(losses[0] - 0.2), "it learns: {losses:?}");
    let product = FileSet::from_directory(&whole.directory.join("final")).unwrap();
    let config = HfConfig::load(&product).unwrap();
    assert_eq!(
        (config.raw["dtype"].clone(), config.architectures[0].as_str()),
        (json!("bfloat16"), "LlamaForCausalLM")
    );
    let weights = SafeTensors::open(&product).unwrap();
    assert_eq!(
        weights.require("model.embed_tokens.weight").unwrap().dtype().name(),
        "BF16"
    );
    let ends = GenerationConfig::load(&product).unwrap().unwrap().eos_token_ids;
    assert_eq!(ends, [2]);
    assert!(
        TokenizerConfig::load(&product)
            .unwrap()
            .chat_template
            .unwrap()
            .contains("<|im_start|>")
    );
    // Interrupted and gone on from, with the tokenizer that was kept: the same bytes.
    let mut stopped = from_nothing(&home, "stopped");
    let mut host = Host::stopping(|event| matches!(event, TrainEvent::Step { step: 4, .. }));
    let reply = witness_plugin_train::run(&stopped, &mut host).unwrap();
    assert_eq!(reply.outcome, TrainOutcome::Stopped);
    stopped.resume = true;
    run(&stopped);
    assert_equal(&whole.directory, &stopped.directory);
    // An adapter beside it.
    let next = request(
        &whole.directory.join("final"),
        &[&home.rows()],
        &home.run("next"),
        TrainSettings {
            sequence_len: Some(64),
            num_epochs: 1.0,
            ..settings()
        },
    );
    assert_eq!(run(&next).0.outcome, TrainOutcome::Finished);
}

#[test]
fn a_model_from_nothing_is_told_how_large_it_is() {
    let home = Home::new(10);
    let mut request = from_nothing(&home, "run");
    request.settings.scratch.as_mut().unwrap().config.remove("hidden_size");
    let error = witness_plugin_train::plan(&request).unwrap_err();
    assert!(error.message.contains("scratch.config.hidden_size"), "{error}");
    let mut request = from_nothing(&home, "run");
    request.model.files = files(&home.base());
    assert_eq!(
        witness_plugin_train::plan(&request).unwrap_err().code,
        "witness::train::scratch_with_base"
    );
}

/// Settings of a run over bare text.
fn text_settings() -> TrainSettings {
    TrainSettings {
        sequence_len: Some(48),
        lora: json!({"r": 4, "target_modules": "all-linear"})
            .as_object()
            .unwrap()
            .clone(),
        max_steps: Some(4),
        learning_rate: Some(1e-2),
        warmup_steps: Some(0),
        val_set_size: 0.0,
        eval_strategy: When::No,
        save_strategy: When::No,
        compute: Compute::F32,
        ..TrainSettings::default()
    }
}

// The same weights as a GGUF file give the same losses; in 8 bits, nearly the same; and nothing of the base is copied for it.
#[test]
fn gguf_bases_are_trained_on_as_they_lie() {
    let Some(models) = reference("models") else { return };
    let home = tempfile::tempdir().unwrap();
    let text = home.path().join("text.txt");
    std::fs::write(
        &text,
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. ".repeat(8),
    )
    .unwrap();
    let hf = request(
        &models.join("stories260K-hf"),
        &[&text],
        &home.path().join("hf"),
        text_settings(),
    );
    let expected = losses(&run(&hf).1);
    let of_gguf = |name: &str, method: TrainMethod| {
        let mut request = hf.clone();
        request.model.files = vec![file(name, &models.join("stories260K-gguf").join(name))];
        request.directory = home.path().join(name);
        request.settings.method = method;
        let plan = witness_plugin_train::plan(&request).unwrap();
        (losses(&run(&request).1), plan.memory_bytes)
    };
    let (plain, plain_bytes) = of_gguf("stories260K-f32.gguf", TrainMethod::Lora);
    assert_eq!(plain.len(), 4);
    assert!(plain.last() < plain.first(), "{plain:?}");
    for (plain, expected) in plain.iter().zip(&expected) {
        assert!((plain - expected).abs() < 1e-5, "{plain} {expected}");
    }
    let (quantized, quantized_bytes) = of_gguf("stories260K-q8_0.gguf", TrainMethod::Qlora);
    for (quantized, expected) in quantized.iter().zip(&expected) {
        assert!((quantized - expected).abs() < 0.05, "{quantized} {expected}");
    }
    assert!(quantized_bytes < plain_bytes);
    let mut full = hf.clone();
    full.model.files = vec![file("a.gguf", &models.join("stories260K-gguf/stories260K-f32.gguf"))];
    full.settings.method = TrainMethod::Full;
    assert_eq!(
        witness_plugin_train::plan(&full).unwrap_err().code,
        "witness::train::unsupported"
    );
}

#[test]
fn trackers_get_files_of_their_own() {
    let home = Home::new(30);
    let mut request = home.request(
        "run",
        TrainSettings {
            report_to: vec!["tensorboard".to_owned(), "wandb".to_owned()],
            wandb_project: Some("attestations".to_owned()),
            num_epochs: 2.0,
            ..settings()
        },
    );
    let mut host = Host::stopping(|event| matches!(event, TrainEvent::Step { step: 7, .. }));
    witness_plugin_train::run(&request, &mut host).unwrap();
    request.resume = true;
    run(&request);
    let contents = |folder: &str, find: &str| -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut folders = vec![request.directory.join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false if entry.file_name().to_string_lossy().contains(find) => {
                        bytes.extend(std::fs::read(entry.path()).unwrap())
                    }
                    false => {}
                }
            }
        }
        bytes
    };
    let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    let (board, wandb) = (contents("tensorboard", "tfevents"), contents("wandb", ".wandb"));
    for tag in [
        "train/loss",
        "train/learning_rate",
        "train/grad_norm",
        "eval/loss",
        "train/train_loss",
    ] {
        assert!(has(&board, tag) && has(&wandb, tag), "{tag}");
    }
    assert!(has(&wandb, "attestations") && has(&wandb, "lora_dropout"));
    // Two starts, one run.
    let runs: Vec<String> = files_of(&request.directory.join("wandb"));
    let ids: std::collections::BTreeSet<&str> = runs
        .iter()
        .filter(|name| name.starts_with("offline-run"))
        .filter_map(|name| name.rsplit('-').next())
        .collect();
    assert_eq!(ids.len(), 1, "{runs:?}");
    request.settings.report_to = vec!["tensorbord".to_owned()];
    let error = witness_plugin_train::plan(&request).unwrap_err();
    assert!(
        error.hints.iter().any(|hint| hint.contains("`tensorboard`")),
        "{error:?}"
    );
}

fn files_of(directory: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}
