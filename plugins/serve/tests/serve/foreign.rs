//! Families of candle-transformers on tiny random weights: they load, continue consistently, and refuse what they cannot do.

use serde_json::{Value, json};
use tempfile::TempDir;
use witness_formats::gguf::{GgmlType, Writer};
use witness_formats::safetensors::SafeTensors;
use witness_plugin_protocol::{Kind, LoadOptions, Prompt};

use crate::convert;
use crate::support::{Session, file, files, greedy, load, text};
use crate::tiny;

const WIDTH: usize = 32;
const HEAD: usize = 8;
const FEED_FORWARD: usize = 64;

/// A change of a configuration.
type Change = fn(&mut Value);

/// Linear layers and norms of one block, by the family's names.
fn block(family: &str) -> Vec<(&'static str, Vec<usize>)> {
    let mut parts = vec![
        ("self_attn.o_proj", vec![WIDTH, 4 * HEAD]),
        ("mlp.down_proj", vec![WIDTH, FEED_FORWARD]),
        ("input_layernorm", vec![WIDTH]),
        ("post_attention_layernorm", vec![WIDTH]),
    ];
    if family == "phi3" {
        parts.extend([
            ("self_attn.qkv_proj", vec![8 * HEAD, WIDTH]),
            ("mlp.gate_up_proj", vec![2 * FEED_FORWARD, WIDTH]),
        ]);
    } else {
        parts.extend([
            ("self_attn.q_proj", vec![4 * HEAD, WIDTH]),
            ("self_attn.k_proj", vec![2 * HEAD, WIDTH]),
            ("self_attn.v_proj", vec![2 * HEAD, WIDTH]),
            ("mlp.gate_proj", vec![FEED_FORWARD, WIDTH]),
            ("mlp.up_proj", vec![FEED_FORWARD, WIDTH]),
        ]);
    }
    if matches!(family, "qwen3" | "gemma3_text") {
        parts.extend([("self_attn.q_norm", vec![HEAD]), ("self_attn.k_norm", vec![HEAD])]);
    }
    if matches!(family, "gemma2" | "gemma3_text") {
        parts.extend([
            ("pre_feedforward_layernorm", vec![WIDTH]),
            ("post_feedforward_layernorm", vec![WIDTH]),
        ]);
    }
    parts
}

/// Writes a tiny model of a family, with this crate's byte vocabulary.
fn model(family: &str, change: impl FnOnce(&mut Value)) -> TempDir {
    let directory = tiny::model();
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![tiny::VOCAB, WIDTH]),
        ("model.norm.weight".to_owned(), vec![WIDTH]),
    ];
    if !family.starts_with("gemma") {
        tensors.push(("lm_head.weight".to_owned(), vec![tiny::VOCAB, WIDTH]));
    }
    for layer in 0..2 {
        tensors.extend(
            block(family)
                .into_iter()
                .map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape)),
        );
    }
    tiny::weights(&directory.path().join("model.safetensors"), &tensors, 5, |_| 0.3);
    let mut config = json!({
        "model_type": family, "hidden_size": WIDTH, "intermediate_size": FEED_FORWARD, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": HEAD, "vocab_size": tiny::VOCAB,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "hidden_act": "silu", "eos_token_id": [257, 259], "sliding_window": 128, "query_pre_attn_scalar": HEAD,
        "final_logit_softcapping": null, "attn_logit_softcapping": null
    });
    change(&mut config);
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    directory
}

fn ids(session: &mut Session, prompt: &str, n: i64) -> Vec<u32> {
    let answer = session.run(greedy(text(prompt), n));
    assert_eq!(answer.error, None);
    answer.ids
}

/// What follows a prompt is what follows the prompt and the first words of that.
#[test]
fn each_family_continues_as_it_began() {
    for family in ["qwen3", "gemma", "gemma2", "gemma3_text", "phi3"] {
        let directory = model(family, |_| {});
        let mut session =
            load(files(directory.path()), LoadOptions::default()).unwrap_or_else(|error| panic!("{family}: {error}"));
        let whole = session.run(greedy(text("a prompt of some length"), 12));
        assert_eq!(whole.error, None, "{family}");
        assert!(whole.ids.len() > 4, "{family}: {:?}", whole.ids);
        let mut again = whole.started.prompt_ids.clone();
        again.extend(&whole.ids[..4]);
        let rest = session.run(greedy(Prompt::Tokens { ids: again }, whole.ids.len() as i64 - 4));
        assert_eq!(rest.ids, whole.ids[4..], "{family}");
        let context = if matches!(family, "qwen3" | "gemma") { 256 } else { 128 };
        assert_eq!(session.reply.num_ctx, context, "{family} is held to where it is exact");
        assert_eq!(session.reply.info.metadata["general.architecture"], family);
        // A second sequence beside the first has a cache of its own.
        let mut two = load(
            files(directory.path()),
            LoadOptions {
                num_parallel: Some(2),
                ..LoadOptions::default()
            },
        )
        .unwrap();
        let both = two.run_all(vec![
            greedy(text("a prompt of some length"), 12),
            greedy(text("another"), 5),
        ]);
        assert_eq!(both[0].ids, whole.ids, "{family}");
    }
}

/// The two qwen3 modules of candle are written apart; on the same weights they agree.
#[test]
fn qwen3_from_safetensors_and_from_gguf() {
    let directory = model("qwen3", |_| {});
    let path = directory.path().join("qwen3.gguf");
    let mut writer = Writer::new();
    writer.set("general.architecture", "qwen3").unwrap();
    for (key, value) in [
        ("block_count", 2u32),
        ("context_length", 256),
        ("embedding_length", WIDTH as u32),
        ("feed_forward_length", FEED_FORWARD as u32),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("attention.key_length", HEAD as u32),
        ("attention.value_length", HEAD as u32),
    ] {
        writer.set(&format!("qwen3.{key}"), value).unwrap();
    }
    writer.set("qwen3.attention.layer_norm_rms_epsilon", 1e-6f32).unwrap();
    writer.set("qwen3.rope.freq_base", 10000f32).unwrap();
    let set = witness_formats::FileSet::from_directory(directory.path()).unwrap();
    convert::vocabulary(&mut writer, &set, tiny::VOCAB, "gpt-2");
    let tensors = SafeTensors::open(&set).unwrap();
    let renamed = |name: &str| {
        let mut name = name
            .replace("model.layers.", "blk.")
            .replace("model.embed_tokens", "token_embd");
        for (from, to) in [
            ("model.norm", "output_norm"),
            ("lm_head", "output"),
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("self_attn.q_norm", "attn_q_norm"),
            ("self_attn.k_norm", "attn_k_norm"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "ffn_norm"),
        ] {
            name = name.replace(from, to);
        }
        name
    };
    for (name, tensor) in tensors.iter() {
        writer.tensor(&renamed(name), tensor.shape(), GgmlType::F32).unwrap();
    }
    let mut body = writer.begin(Vec::new()).unwrap();
    for (_, tensor) in tensors.iter() {
        body.write(tensor.bytes()).unwrap();
    }
    std::fs::write(&path, body.finish().unwrap()).unwrap();
    let mut gguf = load(file(&path), LoadOptions::default()).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut hf = load(files(directory.path()), LoadOptions::default()).unwrap();
    for prompt in ["one", "another prompt"] {
        assert_eq!(ids(&mut gguf, prompt, 16), ids(&mut hf, prompt, 16));
    }
}

#[test]
fn what_cannot_be_done_is_refused() {
    let directory = model("qwen3", |_| {});
    let mut session = load(files(directory.path()), LoadOptions::default()).unwrap();
    let error = session
        .adapter("one", files(tiny::adapter(1, true).path()))
        .unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.kind),
        ("witness::serve::adapters_unsupported", Kind::Unsupported)
    );
    let changes: [(Change, &str); 5] = [
        (
            |config| config["rope_scaling"] = json!({"rope_type": "yarn", "factor": 4.0}),
            "witness::serve::foreign_unsupported",
        ),
        (
            |config| config["num_attention_heads"] = json!(0),
            "witness::serve::bad_config",
        ),
        (
            |config| config["hidden_size"] = json!(1u64 << 60),
            "witness::serve::bad_config",
        ),
        (
            |config| config["num_hidden_layers"] = json!(3),
            "witness::serve::foreign_load",
        ),
        (
            |config| config["model_type"] = json!("unheard_of"),
            "witness::formats::unsupported",
        ),
    ];
    for (change, code) in changes {
        let directory = model("qwen3", change);
        let Err(error) = load(files(directory.path()), LoadOptions::default()) else {
            panic!("{code} was expected")
        };
        assert_eq!(error.code, code, "{error}");
    }
}
