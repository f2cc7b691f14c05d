//! config.json, generation_config.json and tokenizer_config.json in the spellings that are out there.

use witness_formats::{
    FormatError,
    gguf::Gguf,
    hf::{DecoderConfig, Family, GenerationConfig, HfConfig, RopeScaling, TokenizerConfig},
};

use crate::support::*;

fn decoder(text: &str) -> Result<DecoderConfig, FormatError> {
    HfConfig::parse("config.json", text.as_bytes())?.decoder()
}

#[test]
fn version_4_and_5_say_the_same_in_two_ways() {
    let four = decoder(CONFIG).unwrap();
    let five = CONFIG
        .replace("\"rope_theta\": 500000.0, ", "")
        .replace(
            "\"rope_scaling\": {",
            "\"rope_parameters\": {\"rope_theta\": 500000.0, ",
        )
        .replace("torch_dtype", "dtype");
    assert_eq!(decoder(&five).unwrap(), four);
    assert_eq!(
        (four.family, four.n_layers, four.n_heads, four.n_kv_heads),
        (Family::Llama, 5, 8, 4)
    );
    assert_eq!((four.bos_token_id, &four.eos_token_ids[..]), (Some(1), &[2, 3][..]));
    assert_eq!(four.dtype.as_deref(), Some("bfloat16"));
    assert_eq!(four.rope.theta, 500_000.0);
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 256,
    };
    assert_eq!(four.rope.scaling, scaling);
}

/// What a silent file means is what each family's class in transformers assumes.
#[test]
fn defaults_are_the_familys() {
    let llama = decoder(r#"{"model_type": "llama"}"#).unwrap();
    assert_eq!(
        (llama.vocab_size, llama.intermediate_size, llama.n_kv_heads),
        (32_000, 11_008, 32)
    );
    assert_eq!(
        (
            llama.sliding_window,
            llama.qkv_bias,
            llama.tie_word_embeddings,
            llama.head_dim
        ),
        (None, false, false, 128)
    );
    assert_eq!((llama.bos_token_id, &llama.eos_token_ids[..]), (Some(1), &[2][..]));

    let mistral = decoder(r#"{"model_type": "mistral"}"#).unwrap();
    assert_eq!((mistral.n_kv_heads, mistral.sliding_window), (8, Some(4096)));
    assert!(mistral.layer_is_sliding.iter().all(|slides| *slides));
    let mistral = decoder(r#"{"model_type": "mistral", "sliding_window": null}"#).unwrap();
    assert_eq!(
        (mistral.sliding_window, mistral.layer_is_sliding.contains(&true)),
        (None, false)
    );

    let qwen2 = decoder(r#"{"model_type": "qwen2", "attention_bias": false}"#).unwrap();
    assert!(qwen2.qkv_bias && !qwen2.output_bias && qwen2.bos_token_id.is_none());
    assert_eq!(qwen2.sliding_window, None);
    let qwen2 = decoder(
        r#"{"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 64, "max_window_layers": 30}"#,
    )
    .unwrap();
    assert_eq!(
        (qwen2.sliding_window, &qwen2.layer_is_sliding[28..]),
        (Some(64), &[false, false, true, true][..])
    );
    let qwen2 = decoder(r#"{"model_type": "qwen2", "use_sliding_window": true, "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}"#).unwrap();
    assert_eq!(
        (qwen2.sliding_window, &qwen2.layer_is_sliding[..]),
        (Some(4096), &[true, false][..])
    );

    let biased =
        decoder(r#"{"model_type": "llama", "attention_bias": true, "mlp_bias": true, "eos_token_id": null}"#).unwrap();
    assert!(biased.qkv_bias && biased.output_bias && biased.mlp_bias && biased.eos_token_ids.is_empty());
}

#[test]
fn every_kind_of_rotary_scaling_is_typed() {
    let with = |scaling: &str| {
        decoder(&format!(
            r#"{{"model_type": "llama", "head_dim": 4, "rope_scaling": {scaling}}}"#
        ))
        .map(|config| config.rope.scaling)
    };
    assert_eq!(with("null").unwrap(), RopeScaling::None);
    assert_eq!(with(r#"{"rope_type": "default"}"#).unwrap(), RopeScaling::None);
    assert_eq!(
        with(r#"{"type": "linear", "factor": 2}"#).unwrap(),
        RopeScaling::Linear { factor: 2.0 }
    );
    assert_eq!(
        with(r#"{"type": "dynamic", "factor": 4.0}"#).unwrap(),
        RopeScaling::Dynamic { factor: 4.0 }
    );
    let yarn =
        with(r#"{"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "mscale": 0.707}"#).unwrap();
    assert!(matches!(
        yarn,
        RopeScaling::Yarn {
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            original_max_position_embeddings: Some(32_768),
            mscale: Some(_),
            ..
        }
    ));
    let long = with(r#"{"type": "su", "short_factor": [1.0, 1.5], "long_factor": [2, 4]}"#).unwrap();
    assert!(matches!(long, RopeScaling::LongRope { ref long_factor, factor: None, .. } if *long_factor == [2.0, 4.0]));
    for (scaling, expected) in [
        (r#"{"type": "linear"}"#, "`factor`"),
        (
            r#"{"type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0, "original_max_position_embeddings": 8}"#,
            "above `low_freq_factor`",
        ),
        (r#"{"type": "linear", "factor": 0}"#, "above 0"),
        (r#"{"type": "yarn", "factor": "x"}"#, "above 0"),
        (
            r#"{"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}"#,
            "half the size of a head",
        ),
        (r#"{"type": "mrope", "factor": 1}"#, "`mrope`"),
        (
            r#"{"type": "linear", "factor": 2, "partial_rotary_factor": 0.5}"#,
            "partial",
        ),
        (r#"[1]"#, "an object"),
    ] {
        let message = with(scaling).unwrap_err().to_string();
        assert!(message.contains(expected), "{scaling}: {message}");
    }
    let nested = r#"{"model_type": "llama", "rope_parameters": {"full_attention": {"rope_type": "default"}}}"#;
    assert!(matches!(decoder(nested), Err(FormatError::Unsupported { .. })));
}

#[test]
fn hostile_sizes_are_refused_by_name() {
    for (field, value, expected) in [
        ("num_hidden_layers", "1000000000", "from 1 to 1024"),
        ("num_hidden_layers", "0", "from 1"),
        ("hidden_size", "-1", "`hidden_size`"),
        ("hidden_size", "1e30", "`hidden_size`"),
        ("hidden_size", "64.5", "`hidden_size`"),
        ("vocab_size", "\"512\"", "`vocab_size`"),
        ("num_key_value_heads", "3", "a divisor"),
        ("num_key_value_heads", "16", "a divisor"),
        ("head_dim", "7", "an even number"),
        ("rms_norm_eps", "0", "above 0"),
        ("rms_norm_eps", "1e999", "config.json"),
        ("eos_token_id", "[1, -5]", "token id"),
        ("layer_types", "[]", ""),
        ("quantization_config", "{}", "quantized form"),
        ("model_type", "\"gpt_neox\"", "`gpt_neox`"),
    ] {
        let mut config: serde_json::Map<String, serde_json::Value> = serde_json::from_str(CONFIG).unwrap();
        config.shift_remove(field);
        let text = serde_json::to_string(&config).unwrap();
        let text = format!("{{\"{field}\": {value}, {}", &text[1..]);
        match decoder(&text) {
            Err(error) => assert!(error.to_string().contains(expected), "{field}: {error}"),
            Ok(_) => assert_eq!(expected, "", "{field} = {value} was taken"),
        }
    }
    // 32 heads of 65,536 rows: each number is within its limit, the product is not.
    let wide = decoder(r#"{"model_type": "llama", "head_dim": 65536}"#);
    assert!(matches!(wide, Err(FormatError::Limit { .. })));
    // An unknown family stays readable as data.
    let config = HfConfig::parse("config.json", br#"{"model_type": "gpt_neox", "rotary_pct": 0.25}"#).unwrap();
    assert_eq!((config.family(), config.raw["rotary_pct"].as_f64()), (None, Some(0.25)));
}

#[test]
fn every_reference_configuration_is_read() {
    let Some(root) = shared("README.md").and_then(|readme| readme.parent().map(std::path::PathBuf::from)) else {
        return;
    };
    let paths = below(&root, "/config.json");
    assert!(paths.len() >= 9);
    for path in paths {
        let files = files(path.parent().unwrap());
        let config = HfConfig::load(&files).unwrap().decoder().unwrap();
        assert!(config.vocab_size >= 512, "{path:?}");
        GenerationConfig::load(&files).unwrap();
        TokenizerConfig::load(&files).unwrap();
    }
    let qwen = HfConfig::load(&files(&root.join("oracle/qwen2/base")))
        .unwrap()
        .decoder()
        .unwrap();
    assert!(qwen.qkv_bias && qwen.tie_word_embeddings && qwen.rope.theta == 1e6 && qwen.sliding_window.is_none());
    let generation = GenerationConfig::load(&files(&root.join("oracle/qwen2/base")))
        .unwrap()
        .unwrap();
    assert_eq!(generation.eos_token_ids, [2047]);
    let base = TokenizerConfig::load(&files(&root.join("oracle/llama/base"))).unwrap();
    assert_eq!(
        (base.bos_token.as_deref(), base.model_max_length),
        (Some("<|begin_of_text|>"), Some(512))
    );
    assert!(base.chat_template.is_some(), "the template lies in chat_template.jinja");
}

/// The same model in both forms has the same shape.
#[test]
fn gguf_metadata_gives_the_same_decoder() {
    for (hf, gguf) in [
        ("models/stories260K-hf", "models/stories260K-gguf/stories260K-f32.gguf"),
        (
            "models/tinystories-656k-hf",
            "models/tinystories-656k-gguf/tinystories-656k-q8_0.gguf",
        ),
    ] {
        let (Some(hf), Some(gguf)) = (shared(hf), shared(gguf)) else {
            return;
        };
        let from_hf = HfConfig::load(&files(&hf)).unwrap().decoder().unwrap();
        let mut from_gguf = DecoderConfig::from_gguf(&Gguf::open_file(&gguf).unwrap()).unwrap();
        // GGUF keeps no element type, and f32 for the epsilon.
        from_gguf.dtype = from_hf.dtype.clone();
        assert!((from_gguf.rms_norm_eps - from_hf.rms_norm_eps).abs() < 1e-12);
        from_gguf.rms_norm_eps = from_hf.rms_norm_eps;
        from_gguf.pad_token_id = from_hf.pad_token_id;
        assert_eq!(from_gguf, from_hf, "{}", hf.display());
    }
}

#[test]
fn tokens_and_templates_are_found_wherever_they_are() {
    let config = TokenizerConfig::parse("tokenizer_config.json", TOKENIZER_CONFIG.as_bytes()).unwrap();
    assert_eq!(config.bos_token.as_deref(), Some("<s>"));
    assert_eq!(config.eos_token.as_deref(), Some("</s>"));
    assert_eq!((config.pad_token, config.model_max_length), (None, None));
    assert_eq!(config.additional_special_tokens, ["<a>", "<b>"]);
    assert_eq!((config.add_bos_token, config.add_eos_token), (Some(true), Some(false)));
    assert_eq!(config.chat_template.as_deref(), Some("{{ messages }}"));
    assert_eq!(
        config.named_templates,
        [("tool_use".to_owned(), "{{ tools }}".to_owned())]
    );

    let home = tempfile::tempdir().unwrap();
    let load = || TokenizerConfig::load(&files(home.path()));
    assert!(load().unwrap().chat_template.is_none());
    write(
        home.path(),
        "tokenizer_config.json",
        br#"{"chat_template": "in the json", "eos_token": "</s>"}"#,
    );
    write(
        home.path(),
        "special_tokens_map.json",
        br#"{"bos_token": {"content": "<s>"}, "eos_token": "other"}"#,
    );
    let loaded = load().unwrap();
    assert_eq!(
        (loaded.bos_token.as_deref(), loaded.eos_token.as_deref()),
        (Some("<s>"), Some("</s>"))
    );
    assert_eq!(loaded.chat_template.as_deref(), Some("in the json"));
    write(
        home.path(),
        "chat_template.json",
        br#"{"chat_template": "in its own json"}"#,
    );
    assert_eq!(load().unwrap().chat_template.as_deref(), Some("in its own json"));
    write(home.path(), "chat_template.jinja", b"\xef\xbb\xbfin a file");
    std::fs::create_dir(home.path().join("additional_chat_templates")).unwrap();
    write(
        &home.path().join("additional_chat_templates"),
        "rag.jinja",
        b"for documents",
    );
    let loaded = load().unwrap();
    assert_eq!(loaded.chat_template.as_deref(), Some("in a file"));
    assert_eq!(loaded.named_templates, [("rag".to_owned(), "for documents".to_owned())]);

    for (text, expected) in [
        (r#"{"chat_template": 5}"#, "`chat_template`"),
        (r#"{"chat_template": [{"name": "x"}]}"#, "`chat_template`"),
        (r#"{"bos_token": 5}"#, "`bos_token`"),
        (r#"{"additional_special_tokens": "x"}"#, "`additional_special_tokens`"),
        (r#"{"add_bos_token": "yes"}"#, "true or false"),
        ("[]", "a JSON object"),
    ] {
        let message = TokenizerConfig::parse("f", text.as_bytes()).unwrap_err().to_string();
        assert!(message.contains(expected), "{text}: {message}");
    }
}
