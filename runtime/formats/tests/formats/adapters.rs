//! Adapters: real ones open or are refused for the right reason, and nothing in one is passed over.

use std::path::Path;

use witness_formats::{
    Dtype, FormatError,
    adapter::{Adapter, BaseShape, Heads, LoraKind, PeftConfig, Targets},
    gguf::{
        GgmlType, Writer, names,
        rows::{self, RowOrder},
    },
    hf::HfConfig,
};

use crate::support::*;

fn base_of(directory: &Path) -> BaseShape {
    let config = HfConfig::load(&files(directory)).unwrap().decoder().unwrap();
    BaseShape::from_decoder(directory.display().to_string(), &config)
}

fn message<T: std::fmt::Debug>(result: Result<T, FormatError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn the_oracles_adapters_open_and_fit_their_base() {
    let Some(oracle) = shared("oracle") else { return };
    let llama = base_of(&oracle.join("llama/base"));
    let qwen = base_of(&oracle.join("qwen2/base"));
    let cases = [
        ("llama/lora_50/final_adapter", &llama, 16, 2.0, 16),
        ("llama/lora_50/initial_adapter", &llama, 16, 2.0, 16),
        ("llama/lora_ga_12/final_adapter", &llama, 16, 2.0, 16),
        ("llama/lora_assistant_20/final_adapter", &llama, 16, 2.0, 16),
        (
            "llama/lora_all_linear_rslora_10/final_adapter",
            &llama,
            28,
            16.0 / 8f64.sqrt(),
            8,
        ),
        ("qwen2/lora_50/final_adapter", &qwen, 16, 2.0, 16),
        ("seed_trainer/final", &llama, 16, 2.0, 16),
    ];
    for (name, base, n_pairs, scale, rank) in cases {
        let adapter = Adapter::open(&files(&oracle.join(name))).unwrap();
        adapter.check_against(base).unwrap();
        assert_eq!((adapter.pairs().len(), adapter.rank_max()), (n_pairs, rank), "{name}");
        assert!(adapter.saved().is_empty() && adapter.row_order() == RowOrder::Halves);
        assert!(
            adapter
                .pairs()
                .iter()
                .all(|pair| (pair.scale - scale).abs() < 1e-12 && pair.kind == LoraKind::Linear)
        );
    }
    // On the other base both sides are named.
    let adapter = Adapter::open(&files(&oracle.join("llama/lora_50/final_adapter"))).unwrap();
    let refusal = message(adapter.check_against(&qwen));
    assert!(
        refusal.contains("lora_50") && refusal.contains("qwen2/base") && refusal.contains("[64, 128]"),
        "{refusal}"
    );
}

#[test]
fn adapters_that_cannot_be_applied_say_why() {
    let (Some(oracle), Some(models)) = (shared("oracle"), shared("models/adapters")) else {
        return;
    };
    let dora = Adapter::open(&files(&oracle.join("llama/dora_10/final_adapter"))).unwrap();
    assert!(dora.pairs().iter().all(|pair| pair.magnitude.is_some()));
    let distilbert = message(Adapter::open(&files(&models.join("distilbert-lora-seqcls"))));
    assert!(
        distilbert.contains("`SEQ_CLS`") && distilbert.contains("CAUSAL_LM"),
        "{distilbert}"
    );
    // A sound adapter of a model that is not here: it opens, and does not fit.
    let opt = Adapter::open(&files(&models.join("opt125m-lora-r16"))).unwrap();
    assert_eq!((opt.pairs().len(), opt.base_model()), (24, Some("facebook/opt-125m")));
    let refusal = message(opt.check_against(&base_of(&oracle.join("llama/base"))));
    assert!(
        refusal.contains("opt125m-lora-r16")
            && refusal.contains("llama/base")
            && refusal.contains("model.decoder.layers.0"),
        "{refusal}"
    );
    for path in below(&models.join("config-only"), ".json") {
        let config = PeftConfig::parse("adapter_config.json", &std::fs::read(&path).unwrap()).unwrap();
        assert!(matches!(&config.targets, Targets::Names(names) if names.len() >= 2));
        assert_eq!(
            config.scale_of("model.layers.0.self_attn.q_proj").unwrap(),
            16.0 / config.rank as f64
        );
    }
}

/// A directory with a small PEFT adapter whose configuration had one piece of text replaced.
fn with_config(home: &Path, from: &str, to: &str) -> Result<Adapter, FormatError> {
    assert!(ADAPTER_CONFIG.contains(from), "{from}");
    write(home, "adapter_config.json", ADAPTER_CONFIG.replace(from, to).as_bytes());
    write(home, "adapter_model.safetensors", &adapter_tensors());
    Adapter::open(&files(home))
}

#[test]
fn patterns_decide_rank_and_scale_of_each_module() {
    let home = tempfile::tempdir().unwrap();
    let adapter = with_config(home.path(), "bias", "bias").unwrap();
    let pairs: Vec<(&str, usize, f64)> = adapter
        .pairs()
        .iter()
        .map(|pair| (pair.module.as_str(), pair.rank, pair.scale))
        .collect();
    assert_eq!(
        pairs,
        [
            ("model.layers.0.self_attn.k_proj", 4, 8.0 / 2.0),
            ("model.layers.0.self_attn.q_proj", 4, 16.0 / 2.0),
            ("model.layers.0.self_attn.v_proj", 2, 32.0 / 2f64.sqrt()),
        ]
    );
    assert_eq!(adapter.saved().len(), 1);
    assert_eq!(adapter.saved()[0].module, "lm_head");
    assert_eq!(adapter.bytes(), 4 * (32 + 32 + 32 + 16 + 16 + 8 + 128));
}

/// The expectations for names and patterns are what PEFT 0.18.1's own function answers.
#[test]
fn targets_are_matched_as_peft_matches_them() {
    let config =
        |fields: &str| PeftConfig::parse("f", format!(r#"{{"peft_type": "LORA", {fields}}}"#).as_bytes()).unwrap();
    let cases = [
        (
            r#""target_modules": ["q_proj"]"#,
            "model.layers.3.self_attn.q_proj",
            true,
        ),
        (
            r#""target_modules": ["proj"]"#,
            "model.layers.3.self_attn.q_proj",
            false,
        ),
        (
            r#""target_modules": ["self_attn.q_proj"]"#,
            "model.layers.3.self_attn.q_proj",
            true,
        ),
        (
            r#""target_modules": ".*\\.(q|k)_proj""#,
            "model.layers.3.self_attn.q_proj",
            true,
        ),
        (
            r#""target_modules": "q_proj""#,
            "model.layers.3.self_attn.q_proj",
            false,
        ),
        (r#""target_modules": "all-linear""#, "model.layers.3.mlp.up_proj", true),
        (r#""target_modules": "all-linear""#, "lm_head", false),
        (
            r#""target_modules": ["q_proj"], "layers_to_transform": [1, 3]"#,
            "model.layers.3.self_attn.q_proj",
            true,
        ),
        (
            r#""target_modules": ["q_proj"], "layers_to_transform": 2"#,
            "model.layers.3.self_attn.q_proj",
            false,
        ),
        (
            r#""target_modules": ["q_proj"], "layers_to_transform": [3], "layers_pattern": "layers""#,
            "model.layers.3.self_attn.q_proj",
            true,
        ),
        (
            r#""target_modules": ["q_proj"], "layers_to_transform": [3], "layers_pattern": ["h"]"#,
            "model.layers.3.self_attn.q_proj",
            false,
        ),
        (
            r#""target_modules": ["q_proj"], "exclude_modules": ["layers.3.self_attn.q_proj"]"#,
            "model.layers.3.self_attn.q_proj",
            false,
        ),
        (
            r#""target_modules": ["q_proj"], "exclude_modules": ".*layers\\.3\\..*""#,
            "model.layers.3.self_attn.q_proj",
            false,
        ),
        (
            r#""target_modules": ["q_proj"], "exclude_modules": "layers""#,
            "model.layers.3.self_attn.q_proj",
            true,
        ),
        (
            r#""target_modules": ["q_proj"], "layers_to_transform": [3], "layers_pattern": "model.layers""#,
            "base.model.layers.3.self_attn.q_proj",
            true,
        ),
        (
            r#""target_modules": ["q_proj"], "layers_to_transform": [3], "layers_pattern": "model.layers""#,
            "model.layers.3.self_attn.q_proj",
            false,
        ),
        (
            r#""target_modules": ["q_proj"], "layers_to_transform": [3]"#,
            "layers.3.q_proj",
            false,
        ),
        (
            r#""target_modules": ["q_proj"], "layers_to_transform": [3]"#,
            "a.7.b.3.q_proj",
            true,
        ),
        (
            r#""target_modules": "all-linear", "modules_to_save": ["mlp"]"#,
            "model.layers.3.mlp.up_proj",
            false,
        ),
    ];
    for (fields, module, expected) in cases {
        assert_eq!(config(fields).targets_module(module).unwrap(), expected, "{fields}");
    }
}

/// Every setting that changes the arithmetic is refused by its name; what says nothing is not.
#[test]
fn settings_that_are_not_applied_are_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    for (field, value) in [
        ("alora_invocation_tokens", "[1]"),
        ("layer_replication", "[[0, 2]]"),
        ("trainable_token_indices", "[5]"),
        ("target_parameters", "[\"experts\"]"),
        ("use_qalora", "true"),
        ("megatron_config", "{\"a\": 1}"),
        ("arrow_config", "{\"a\": 1}"),
        ("corda_config", "{\"a\": 1}"),
        ("init_lora_weights", "\"pissa\""),
        ("init_lora_weights", "\"pissa_niter_16\""),
        ("init_lora_weights", "\"olora\""),
        ("init_lora_weights", "\"loftq\""),
        ("init_lora_weights", "\"corda\""),
        ("a_field_of_tomorrow", "1"),
    ] {
        let text = format!("{{\"{field}\": {value}, ");
        let mut config: serde_json::Map<String, serde_json::Value> = serde_json::from_str(ADAPTER_CONFIG).unwrap();
        config.shift_remove(field);
        let rest = serde_json::to_string(&config).unwrap();
        write(
            home.path(),
            "adapter_config.json",
            format!("{text}{}", &rest[1..]).as_bytes(),
        );
        write(home.path(), "adapter_model.safetensors", &adapter_tensors());
        let refusal = message(Adapter::open(&files(home.path())));
        assert!(refusal.contains(&format!("`{field}`")), "{field}: {refusal}");
    }
    for (from, to, expected) in [
        ("\"LORA\"", "\"IA3\"", "`IA3`"),
        ("\"LORA\"", "null", "`peft_type`"),
        ("\"lora_alpha\": 16.0", "\"lora_alpha\": 0", "switch the adapter off"),
        ("\"r\": 4", "\"r\": 0", "`r`"),
        ("\"r\": 4", "\"r\": 99999999", "`r`"),
        ("\"none\"", "\"some\"", "lora_only"),
        ("\"v_proj\": 32", "\"v_proj\": \"x\"", "`alpha_pattern`"),
        ("\"v_proj\": 32", "\"v_(\": 32", "regular expression"),
        ("[\"q_proj\", \"v_proj\", \"k_proj\"]", "null", "`target_modules`"),
        ("[\"q_proj\", \"v_proj\", \"k_proj\"]", "7", "`target_modules`"),
    ] {
        let refusal = message(with_config(home.path(), from, to));
        assert!(refusal.contains(expected), "{to}: {refusal}");
    }
    for (from, to) in [
        ("true,\n  \"layers_pattern\"", "\"gaussian\",\n  \"layers_pattern\""),
        ("16.0", "16"),
        ("\"CAUSAL_LM\"", "null"),
    ] {
        with_config(home.path(), from, to).unwrap();
    }
}

/// The two files must agree: on ranks, targets, replaced modules and biases.
#[test]
fn configuration_and_tensors_must_belong_together() {
    let home = tempfile::tempdir().unwrap();
    for (from, to, expected) in [
        ("\"r\": 4", "\"r\": 8", "rank 8"),
        (
            "[\"q_proj\", \"v_proj\", \"k_proj\"]",
            "[\"q_proj\", \"v_proj\"]",
            "does not target",
        ),
        (
            "\"layers_to_transform\": [0, 1]",
            "\"layers_to_transform\": [1]",
            "does not target",
        ),
        ("[\"lm_head\"]", "[\"lm_head\", \"score\"]", "`score`"),
        ("\"lora_bias\": false", "\"lora_bias\": true", "`lora_bias` is true"),
    ] {
        let refusal = message(with_config(home.path(), from, to));
        assert!(refusal.contains(expected), "{to}: {refusal}");
    }
    let q = "base_model.model.model.layers.0.self_attn.q_proj";
    let a = format!("{q}.lora_A.weight");
    let b = format!("{q}.lora_B.weight");
    let head = ("base_model.model.lm_head.weight", Dtype::F32, &[16usize, 8][..]);
    let open = |tensors: &[(&str, Dtype, &[usize])]| {
        write(home.path(), "adapter_config.json", ADAPTER_CONFIG.as_bytes());
        write(home.path(), "adapter_model.safetensors", &safetensors_of(tensors));
        Adapter::open(&files(home.path()))
    };
    let good_a = (a.as_str(), Dtype::F32, &[4usize, 8][..]);
    let good_b = (b.as_str(), Dtype::F32, &[8usize, 4][..]);
    open(&[good_a, good_b, head]).unwrap();
    for (extra, expected) in [
        (format!("{q}.lora_A.default.weight"), "a second one"),
        (format!("{q}.lora_magnitude_vector"), "lora_magnitude_vector is"),
        (
            format!("{q}.lora_C.weight"),
            "which the configuration does not say is replaced",
        ),
        (
            format!("{q}.weight"),
            "which the configuration does not say is replaced",
        ),
        (format!("{q}.bias"), "which the configuration does not say is replaced"),
        (format!("{q}.lora_A.a.b.weight"), "which would be left out"),
        (format!("{q}.lora_A"), "which would be left out"),
        (format!("{q}.lora_embedding_A"), "lora_embedding_B"),
        (
            "base_model.model.lm_head.original_module.weight".to_owned(),
            "which would be left out",
        ),
        (
            "base_model.model.lm_head.modules_to_save.default.weight".to_owned(),
            "a second one",
        ),
        ("rope.inv_freq".to_owned(), "which would be left out"),
        ("weight".to_owned(), "which would be left out"),
    ] {
        let refusal = message(open(&[good_a, good_b, head, (&extra, Dtype::F32, &[8])]));
        assert!(refusal.contains(expected), "{extra}: {refusal}");
    }
    assert!(message(open(&[good_a, head])).contains("lora_B for"));
    assert!(message(open(&[(&a, Dtype::F32, &[4, 8, 1, 1]), good_b, head])).contains("[4, 8, 1, 1]"));
    assert!(message(open(&[])).contains("change nothing"));
    std::fs::remove_file(home.path().join("adapter_model.safetensors")).unwrap();
    assert!(message(Adapter::open(&files(home.path()))).contains("adapter_model.safetensors"));
    write(home.path(), "adapter_model.bin", b"pickle");
    assert!(message(Adapter::open(&files(home.path()))).contains("pickled"));
}

/// What the configuration targets and the base has must have come along; shapes must fit.
#[test]
fn an_adapter_is_checked_against_its_base() {
    let home = tempfile::tempdir().unwrap();
    let adapter = with_config(home.path(), "bias", "bias").unwrap();
    let mut base = BaseShape::new("small");
    base.insert("model.layers.0.self_attn.q_proj", 8, 8);
    base.insert("model.layers.0.self_attn.k_proj", 4, 8);
    base.insert("model.layers.0.self_attn.v_proj", 4, 8);
    base.insert("lm_head", 16, 8);
    adapter.check_against(&base).unwrap();
    let with = |module: &str, rows: usize, columns: usize| {
        let mut base = base.clone();
        base.insert(module, rows, columns);
        message(adapter.check_against(&base))
    };
    assert!(with("model.layers.1.self_attn.q_proj", 8, 8).contains("hold nothing for it"));
    assert!(with("lm_head", 17, 8).contains("[17, 8]"));
    assert!(with("model.layers.0.self_attn.q_proj", 8, 9).contains("[8, 9]"));
    // Layer 2 is not among the layers of the configuration.
    let mut deeper = base.clone();
    deeper.insert("model.layers.2.self_attn.q_proj", 8, 8);
    adapter.check_against(&deeper).unwrap();
}

/// An oracle adapter, converted as llama.cpp's converter does it, comes back the same: names, scale, and B in the base's order.
#[test]
fn a_gguf_adapter_is_the_peft_adapter_it_was_made_from() {
    let Some(oracle) = shared("oracle/llama") else { return };
    let peft = Adapter::open(&files(&oracle.join("lora_50/final_adapter"))).unwrap();
    let heads = Heads {
        n_heads: 4,
        n_kv_heads: 2,
    };
    let interleaved = peft.clone().in_row_order(rows::stored_order("llama"), heads).unwrap();
    let mut writer = Writer::new();
    writer.set("general.architecture", "llama").unwrap();
    writer.set("general.type", "adapter").unwrap();
    writer.set("adapter.type", "lora").unwrap();
    writer.set("adapter.lora.alpha", 32.0f32).unwrap();
    let name = |module: &str, side: &str| {
        format!(
            "{}.{side}",
            names::from_hf("llama", &format!("{module}.weight")).unwrap()
        )
    };
    for pair in interleaved.pairs() {
        writer
            .tensor(&name(&pair.module, "lora_a"), pair.a.shape(), GgmlType::F32)
            .unwrap();
        writer
            .tensor(&name(&pair.module, "lora_b"), pair.b.shape(), GgmlType::F32)
            .unwrap();
    }
    let mut body = writer.begin(Vec::new()).unwrap();
    for pair in interleaved.pairs() {
        body.write(pair.a.bytes()).unwrap();
        body.write(pair.b.bytes()).unwrap();
    }
    let home = tempfile::tempdir().unwrap();
    write(home.path(), "lora.gguf", &body.finish().unwrap());
    let read = Adapter::open(&files(home.path())).unwrap();
    assert_eq!(read.row_order(), RowOrder::Interleaved);
    read.check_against(&base_of(&oracle.join("base"))).unwrap();
    let (mut n_moved, back) = (0, read.clone().in_row_order(RowOrder::Halves, heads).unwrap());
    for ((peft, stored), back) in peft.pairs().iter().zip(read.pairs()).zip(back.pairs()) {
        assert_eq!(
            (&peft.module, peft.rank, peft.scale),
            (&back.module, back.rank, back.scale)
        );
        assert!(peft.a.bytes() == stored.a.bytes(), "A never moves");
        assert!(peft.b.bytes() == back.b.bytes());
        n_moved += usize::from(peft.b.bytes() != stored.b.bytes());
    }
    assert_eq!(n_moved, 8, "B moves on q and k of four layers, and nowhere else");
}

#[test]
fn gguf_adapters_are_read_with_their_embedding_turned_and_refused_when_they_are_something_else() {
    let home = tempfile::tempdir().unwrap();
    let path = write(home.path(), "lora.gguf", &small_gguf_lora());
    let adapter = Adapter::open_gguf(&[path]).unwrap();
    let [embedding, q] = adapter.pairs() else {
        panic!("two pairs")
    };
    assert_eq!(
        (embedding.kind, embedding.a.shape(), embedding.b.shape()),
        (LoraKind::Embedding, &[2, 16][..], &[8, 2][..])
    );
    // A lies as [vocab, r] in the file: element (1, 0) of the turned one is element (0, 1) there.
    assert_eq!(embedding.a.to_f32().unwrap()[16], 1.0);
    assert_eq!(
        (q.kind, q.scale, q.module.as_str()),
        (LoraKind::Linear, 4.0, "model.layers.0.self_attn.q_proj")
    );

    let bytes = small_gguf_lora();
    let replaced = |from: &[u8], to: &[u8]| {
        let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
        let mut bytes = bytes.clone();
        bytes[at..at + from.len()].copy_from_slice(to);
        message(Adapter::open_gguf(&[write(home.path(), "x.gguf", &bytes)]))
    };
    assert!(replaced(b"attn_q.weight.lora_a", b"attn_q.weight.lora_c").contains("left out"));
    assert!(replaced(b"attn_q.weight.lora_a", b"attn_x.weight.lora_a").contains("`blk.0.attn_x.weight`"));
    assert!(replaced(b"attn_q.weight.lora_a", b"attn_k.weight.lora_a").contains("lora_b for"));
    assert!(replaced(b"\0\0lora", b"\0\0lara").contains("`lara`"));
    let model = message(Adapter::open_gguf(&[write(home.path(), "m.gguf", &small_gguf())]));
    assert!(
        model.contains("no LoRA adapter") && model.contains("`model`"),
        "{model}"
    );
}

/// The converter can also write Q8_0; a block decodes to scale times bytes.
#[test]
fn a_quantized_gguf_adapter_is_decoded() {
    let home = tempfile::tempdir().unwrap();
    let mut writer = Writer::new();
    writer.set("general.architecture", "qwen2").unwrap();
    writer.set("general.type", "adapter").unwrap();
    writer.set("adapter.type", "lora").unwrap();
    writer.set("adapter.lora.alpha", 0.0f32).unwrap();
    writer
        .tensor("blk.1.ffn_up.weight.lora_a", &[1, 32], GgmlType::Q8_0)
        .unwrap();
    writer
        .tensor("blk.1.ffn_up.weight.lora_b", &[3, 1], GgmlType::F32)
        .unwrap();
    let mut body = writer.begin(Vec::new()).unwrap();
    let mut block = vec![0x00, 0x38];
    block.extend((0..32u8).map(|at| at.wrapping_sub(16)));
    body.write(&block).unwrap();
    body.write(&[0; 12]).unwrap();
    let path = write(home.path(), "lora.gguf", &body.finish().unwrap());
    let adapter = Adapter::open_gguf(&[path]).unwrap();
    let pair = &adapter.pairs()[0];
    assert_eq!((pair.scale, adapter.row_order()), (1.0, RowOrder::Halves));
    let expected: Vec<f32> = (-16..16).map(|value| 0.5 * value as f32).collect();
    assert_eq!(pair.a.to_f32().unwrap(), expected);
}
