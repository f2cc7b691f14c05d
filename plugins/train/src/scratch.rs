//! A base made from nothing: a tokenizer trained on the rows, a configuration around it, weights drawn at random.
//!
//! What comes of it is a Hugging Face directory like any other: configuration, tokenizer, chat template and the tokens that end an answer lie beside
//! the weights, so that it is served, exported and trained further as it is.

use serde_json::{Map, Value, json};
use witness_diagnostics::{Diagnostic, Kind};
use witness_formats::hf::HfConfig;
use witness_plugin_protocol::{ScratchSettings, TrainRequest};
use witness_tokenizer::{HfFiles, Tokenizer, TrainOptions, train};

use crate::base::{Base, Companion, Content, Template, Weights};
use crate::data::Read;
use crate::error::{internal, io};
use crate::folder::{Folder, write_file};

/// The directory in the run's that keeps the tokenizer for later starts.
const FOLDER: &str = "tokenizer";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// The template of a model whose tokenizer has ChatML's marks and which was given no other.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Fields that a configuration gets where it has none: what Transformers takes for a Llama, written out.
fn defaults() -> Value {
    json!({
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "max_position_embeddings": 2_048,
        "initializer_range": 0.02,
        "tie_word_embeddings": true,
    })
}

/// Makes the base. `kept` is the tokenizer of an earlier start.
pub(crate) fn base(
    request: &TrainRequest,
    scratch: &ScratchSettings,
    read: &Read,
    kept: Option<Vec<u8>>,
) -> Result<Base, Diagnostic> {
    if !request.model.files.is_empty() || request.adapter.is_some() {
        return Err(Diagnostic::new(
            "witness::train::scratch_with_base",
            Kind::Invalid,
            "a base is given, and one is to be made from nothing (`scratch`)",
        )
        .hint("leave out one of the two"));
    }
    let template = scratch.chat_template.as_deref().or(request.template.as_deref());
    let template = template.or(has_chatml(scratch).then_some(CHATML));
    let (tokenizer_json, tokenizer_config) = tokenizer_files(scratch, template, read, kept)?;
    let tokenizer = Tokenizer::from_hf_bytes(HfFiles {
        tokenizer: &tokenizer_json,
        tokenizer_config: Some(&tokenizer_config),
        ..HfFiles::default()
    })?;
    let config = config(scratch, &tokenizer)?;
    let generation = json!({
        "bos_token_id": tokenizer.bos(),
        "eos_token_id": tokenizer.eos(),
        "pad_token_id": tokenizer.pad(),
    });
    let deviation = config.get("initializer_range").and_then(Value::as_f64).unwrap_or(0.02);
    let config_bytes = pretty(&Value::Object(config))?;
    let decoder = HfConfig::parse("scratch.config", &config_bytes)?.decoder()?;
    let companion = |name: &str, bytes: Vec<u8>| Companion {
        name: name.to_owned(),
        content: Content::Bytes(bytes),
    };
    Ok(Base {
        config: decoder,
        template: Template::choose(request.template.as_deref(), template)?,
        weights: Weights::Random { deviation },
        companions: vec![
            companion("config.json", config_bytes),
            companion("generation_config.json", pretty(&generation)?),
            companion(TOKENIZER, tokenizer_json),
            companion(TOKENIZER_CONFIG, tokenizer_config),
        ],
        tokenizer,
    })
}

fn has_chatml(scratch: &ScratchSettings) -> bool {
    let has = |mark: &str| scratch.tokenizer.special_tokens.iter().any(|token| token == mark);
    has("<|im_start|>") && has("<|im_end|>")
}

/// Trains the tokenizer, or takes the one that was kept; its configuration is written anew, for it holds the template.
fn tokenizer_files(
    scratch: &ScratchSettings,
    template: Option<&str>,
    read: &Read,
    kept: Option<Vec<u8>>,
) -> Result<(Vec<u8>, Vec<u8>), Diagnostic> {
    let asked = &scratch.tokenizer;
    let positions = scratch.config.get("max_position_embeddings").and_then(Value::as_u64);
    let options = TrainOptions {
        vocab_size: usize::try_from(asked.vocab_size).unwrap_or(usize::MAX),
        min_frequency: asked.min_frequency,
        special_tokens: asked.special_tokens.clone(),
        bos_token: asked.bos_token.clone(),
        eos_token: asked.eos_token.clone(),
        pad_token: asked.pad_token.clone(),
        chat_template: template.map(str::to_owned),
        model_max_length: positions,
        ..TrainOptions::default()
    };
    let texts: Vec<&str> = match kept {
        // Only the configuration is wanted; training on nothing is refused, on one letter it is quick.
        Some(_) => vec!["a"],
        None => read.texts().collect(),
    };
    let trained = train(texts, &options)?;
    Ok((kept.unwrap_or(trained.tokenizer), trained.tokenizer_config))
}

/// Returns the configuration: what was asked for, the tokenizer's numbers, and defaults.
fn config(scratch: &ScratchSettings, tokenizer: &Tokenizer) -> Result<Map<String, Value>, Diagnostic> {
    let mut config = scratch.config.clone();
    if let Value::Object(defaults) = defaults() {
        for (key, value) in defaults {
            config.entry(key).or_insert(value);
        }
    }
    for key in [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
    ] {
        if !config.contains_key(key) {
            return Err(crate::error::setting(
                &format!("scratch.config.{key}"),
                "missing",
                "given: it says how large the model is",
            ));
        }
    }
    let architecture = match config.get("model_type").and_then(Value::as_str) {
        Some("mistral") => "MistralForCausalLM",
        Some("qwen2") => "Qwen2ForCausalLM",
        _ => "LlamaForCausalLM",
    };
    config.entry("architectures").or_insert(json!([architecture]));
    config.insert("vocab_size".to_owned(), json!(tokenizer.vocab_size()));
    for (key, id) in [
        ("bos_token_id", tokenizer.bos()),
        ("eos_token_id", tokenizer.eos()),
        ("pad_token_id", tokenizer.pad()),
    ] {
        config.insert(key.to_owned(), json!(id));
    }
    Ok(config)
}

fn pretty(value: &Value) -> Result<Vec<u8>, Diagnostic> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| internal(error.to_string()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Returns the tokenizer that an earlier start kept.
pub(crate) fn kept(folder: &Folder) -> Result<Option<Vec<u8>>, Diagnostic> {
    let path = folder.join(FOLDER).join(TOKENIZER);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("read", &path, &error)),
    }
}

/// Keeps the tokenizer for later starts.
pub(crate) fn keep(folder: &Folder, base: &Base) -> Result<(), Diagnostic> {
    if folder.join(FOLDER).exists() {
        return Ok(());
    }
    folder.publish(FOLDER, |directory| {
        for companion in &base.companions {
            if let (TOKENIZER | TOKENIZER_CONFIG, Content::Bytes(bytes)) = (companion.name.as_str(), &companion.content)
            {
                write_file(&directory.join(&companion.name), bytes)?;
            }
        }
        Ok(())
    })
}
