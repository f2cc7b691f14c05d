//! Every spelling by example: what becomes of each key, and what the run will be.

use std::path::Path;

use serde_json::{Value, json};
use witness_diagnostics::{Diagnostic, render};
use witness_plugin_protocol::{Compute, ExcessLength, TrainMethod, TrainSettings, When};
use witness_recipe::{Dialect, Fate, Given, GivenValue, Layers, Recipe, RecipeError, SETTINGS, Text};

fn read(text: &str) -> Result<Recipe, RecipeError> {
    Recipe::resolve(Layers {
        text: Some(Text {
            name: "recipe.yml",
            text,
        }),
        ..Layers::default()
    })
}

fn recipe(text: &str) -> Recipe {
    read(text).unwrap_or_else(|error| panic!("{}", render(&Diagnostic::from(error), false)))
}

fn refused(text: &str) -> String {
    render(&Diagnostic::from(read(text).expect_err("a fault")), false)
}

/// The account as lines, the warnings behind it.
fn account(recipe: &Recipe) -> String {
    let keys = recipe.account.iter().map(|entry| {
        format!(
            "{:>3} {}: {} -> {}\n",
            entry.line,
            entry.key,
            entry.value,
            entry.fate.text()
        )
    });
    let warnings = recipe.warnings.iter().map(|warning| format!("warning: {warning}\n"));
    keys.chain(warnings).collect()
}

fn flags(pairs: &[(&str, &str)]) -> Vec<Given> {
    let flag =
        |(key, value): &(&str, &str)| Given::flag(format!("--{key}"), *key, GivenValue::Text((*value).to_owned()));
    pairs.iter().map(flag).collect()
}

/// A text of the guide beside the checkout, from one mark to the next fence; nothing without the guide.
fn guide(mark: &str) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3)?;
    let path = root.join("shared/seed/FINE_TUNING_GUIDE.md");
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: the guide is not beside this checkout ({})", path.display());
        return None;
    };
    let start = text.find(mark)?;
    let end = text[start..].find("```")?;
    Some(text[start..start + end].to_owned())
}

#[test]
fn the_guides_axolotl_file_runs_as_it_stands() {
    let Some(text) = guide("base_model: ") else {
        return;
    };
    let recipe = recipe(&text);
    assert_eq!(recipe.dialect, Dialect::Axolotl);
    let fated = |wanted: fn(&Fate) -> bool| -> Vec<&str> {
        let entries = recipe.account.iter().filter(|entry| wanted(&entry.fate));
        entries.map(|entry| entry.key.as_str()).collect()
    };
    assert_eq!(
        fated(|fate| matches!(fate, Fate::Overridden { .. })),
        ["evals_per_epoch", "saves_per_epoch"]
    );
    let without = [
        "model_type",
        "tokenizer_type",
        "load_in_8bit",
        "load_in_4bit",
        "strict",
        "datasets[0].split",
        "fp16",
        "tf32",
    ];
    assert_eq!(fated(|fate| matches!(fate, Fate::NoEffect { .. })), without);
    assert_eq!(recipe.warnings.len(), 2, "{:?}", recipe.warnings);
    assert!(recipe.warnings[0].contains("`eval_steps`") && recipe.warnings[0].contains("`evals_per_epoch`"));
    assert!(recipe.warnings[1].contains("`save_steps`") && recipe.warnings[1].contains("`saves_per_epoch`"));
    // Each line with a key is accounted for, and nothing else is.
    let n_keys = text
        .lines()
        .filter(|line| line.trim_end().ends_with(':') || line.contains(": "))
        .count();
    // `datasets:` and `lora_target_modules:`: the first is told by the keys inside, of which `- path` is one.
    assert_eq!(recipe.account.len(), n_keys - 1, "{text}");
    let settings = &recipe.settings;
    assert_eq!(settings.method, TrainMethod::Lora);
    assert_eq!(settings.lora["r"], json!(16));
    assert_eq!(
        settings.lora["target_modules"],
        json!(["q_proj", "k_proj", "v_proj", "o_proj"])
    );
    assert_eq!(settings.learning_rate, Some(2e-4));
    assert_eq!((settings.eval_steps, settings.save_steps), (Some(100.0), 100.0));
    assert_eq!(
        (settings.eval_strategy, settings.save_strategy),
        (When::Steps, When::Steps)
    );
    assert!(settings.load_best_model_at_end && !settings.sample_packing);
    assert_eq!(settings.excess_length, ExcessLength::Drop);
    assert_eq!(settings.report_to, ["wandb"]);
    assert_eq!(recipe.base.as_deref(), Some("meta-llama/Llama-3.1-8B-Instruct"));
    assert_eq!(recipe.data[0].path, "data/train.jsonl");
    assert!(recipe.data[0].fields.is_default());
}

#[test]
fn the_guides_script_is_read_as_it_stands() {
    let Some(text) = guide("#!/usr/bin/env python3") else {
        return;
    };
    let recipe = Recipe::resolve(Layers {
        text: Some(Text {
            name: "train_witness.py",
            text: &text,
        }),
        ..Layers::default()
    })
    .unwrap_or_else(|error| panic!("{}", render(&Diagnostic::from(error), false)));
    let settings = &recipe.settings;
    assert_eq!(recipe.base.as_deref(), Some("meta-llama/Llama-3.1-8B-Instruct"));
    assert_eq!(recipe.data[0].path, "./data/train.jsonl");
    assert_eq!(recipe.validation[0].path, "./data/val.jsonl");
    assert_eq!(
        (settings.lora["r"].clone(), settings.lora["lora_dropout"].clone()),
        (json!(16), json!(0.05))
    );
    assert_eq!((settings.warmup_steps, settings.sequence_len), (Some(100), Some(2048)));
    assert_eq!((settings.weight_decay, settings.compute), (0.01, Compute::Bf16));
    assert_eq!(
        (settings.eval_strategy, settings.eval_steps),
        (When::Steps, Some(100.0))
    );
    assert_eq!(settings.excess_length, ExcessLength::Truncate);
    assert_eq!(settings.report_to, ["wandb"]);
    assert_eq!(recipe.output_dir.as_deref(), Some("./witness-llama-3.1-8b-lora"));
    // Every keyword of LoraConfig (6), from_pretrained (3), TrainingArguments (19) and the tokenizer (3), the base and the two files.
    assert_eq!(recipe.account.len(), 34, "{}", account(&recipe));
    assert!(recipe.warnings.iter().any(|warning| warning.contains("--compat guide")));
}

const AXOLOTL: &str = "
base_model: NousResearch/Meta-Llama-3-8B
tokenizer_type: AutoTokenizer
load_in_4bit: true
adapter: qlora
chat_template: chatml
datasets:
  - path: data/talks.jsonl
    type: chat_template
    field_messages: conversations
    message_property_mappings: {role: from, content: value}
    roles:
      user: [human]
      assistant: [gpt, robot]
    roles_to_train: [assistant]
    train_on_eos: turn
  - path: json
    data_files: [more/a.jsonl, more/b.jsonl]
    ds_type: json
    type: alpaca
    split: train
dataset_prepared_path: last_run_prepared
val_set_size: 0.05
lora_r: 32
lora_alpha: 16
lora_dropout:
lora_target_linear: true
lora_modules_to_save: [embed_tokens, lm_head]
peft_use_rslora: true
sequence_len: 4096
sample_packing: true
eval_sample_packing: false
pad_to_sequence_len: true
batch_size: 8
micro_batch_size: 2
num_epochs: 4
optimizer: paged_adamw_8bit
lr_scheduler: cosine
cosine_min_lr_ratio: 0.1
learning_rate: \"1e-4\"
bf16: auto
tf32: false
flash_attention: true
gradient_checkpointing: offload
gradient_checkpointing_kwargs: {use_reentrant: true}
evals_per_epoch: 4
saves_per_epoch: 1
weight_decay: 0.0
deepspeed: deepspeed_configs/zero2.json
fsdp:
special_tokens:
  pad_token: <|end_of_text|>
plugins:
  - axolotl.integrations.liger.LigerPlugin
wandb_project:
wandb_entity: me
output_dir: ./outputs/qlora
loss_watchdog_threshold: 5.0
";

#[test]
fn an_axolotl_file_with_much_in_it() {
    let recipe = recipe(AXOLOTL);
    insta::assert_snapshot!("axolotl_account", account(&recipe));
    let settings = serde_json::to_value(&recipe.settings).expect("settings are JSON");
    insta::assert_snapshot!(
        "axolotl_settings",
        serde_json::to_string_pretty(&settings).expect("text")
    );
    assert_eq!(recipe.data.len(), 3);
    let row = json!({"conversations": [{"from": "human", "value": "hi"}, {"from": "robot", "value": "ho"}]});
    let renamed = recipe.data[0].fields.apply(row);
    assert_eq!(
        renamed,
        json!({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]})
    );
    assert!(recipe.data[1].fields.is_default());
}

#[test]
fn axolotls_defaults_are_axolotls() {
    let mut recipe = recipe(
        "base_model: x\ndatasets: [{path: a.jsonl, type: chat_template}]\nadapter: lora\nlora_r: 4\nlearning_rate: 1e-3\n",
    );
    let settings = &recipe.settings;
    assert_eq!(settings.lr_scheduler, "cosine");
    assert_eq!((settings.num_epochs, settings.micro_batch_size), (1.0, 1));
    assert_eq!((settings.val_set_size, settings.eval_strategy), (0.0, When::No));
    assert_eq!(
        (settings.save_strategy, settings.save_total_limit),
        (When::Epoch, Some(4))
    );
    assert_eq!(settings.sequence_len, Some(512));
    assert!(!settings.sample_packing && !settings.train_on_inputs && !settings.load_best_model_at_end);
    // The warm-up is 3 % of the run, but at most 100 steps, and never a single one.
    assert!(recipe.depends_on_length());
    for (n_steps, warmup, logging) in [(10, 0, 1), (50, 2, 1), (1000, 30, 5), (10_000, 100, 10)] {
        let mut settled = recipe.clone();
        settled.settle(n_steps);
        assert_eq!(settled.settings.warmup_steps, Some(warmup), "{n_steps}");
        assert_eq!(settled.settings.logging_steps, logging, "{n_steps}");
    }
    recipe.settle(1000);
    assert!(!recipe.depends_on_length());
    recipe.settle(10);
    assert_eq!(recipe.settings.warmup_steps, Some(30));
}

const TRANSFORMERS: &str = "
output_dir: ./witness-llama-3.1-8b-lora
num_train_epochs: 3
per_device_train_batch_size: 4
per_device_eval_batch_size: 4
gradient_accumulation_steps: 4
learning_rate: 2e-4
weight_decay: 0.01
warmup_steps: 100
logging_steps: 10
save_steps: 100
eval_steps: 100
evaluation_strategy: steps
save_strategy: steps
load_best_model_at_end: true
fp16: false
bf16: true
optim: adamw_torch
report_to: [wandb]
run_name: witness-llama-3.1-lora
torch_dtype: torch.bfloat16
device_map: auto
trust_remote_code: true
max_length: 2048
padding: max_length
task_type: CAUSAL_LM
r: 16
lora_alpha: 32
lora_dropout: 0.05
target_modules: [q_proj, k_proj, v_proj, o_proj]
bias: none
";

#[test]
fn transformers_and_peft_settings_keep_their_meaning() {
    let recipe = recipe(TRANSFORMERS);
    assert_eq!(recipe.dialect, Dialect::Transformers);
    insta::assert_snapshot!("transformers_account", account(&recipe));
    let settings = recipe.settings;
    assert_eq!(settings.compute, Compute::Bf16);
    assert_eq!((settings.warmup_steps, settings.warmup_ratio), (Some(100), 0.0));
    assert_eq!(settings.lr_scheduler, "linear");
    assert_eq!(settings.weight_decay, 0.01);
    assert_eq!(settings.excess_length, ExcessLength::Truncate);
    assert_eq!(settings.report_to, ["wandb"]);
    assert_eq!(settings.val_set_size, 0.1);
}

// A file of TrainingArguments alone trains every weight, 3 epochs of batches of 8 at 5e-5, and measures nothing.
#[test]
fn transformers_defaults_are_transformers() {
    let settings = recipe("per_gpu_train_batch_size: 2\nseed: 7\n").settings;
    let expected = TrainSettings {
        method: TrainMethod::Full,
        compute: Compute::F32,
        micro_batch_size: 2,
        eval_batch_size: Some(8),
        learning_rate: Some(5e-5),
        seed: 7,
        sample_packing: false,
        excess_length: ExcessLength::Truncate,
        val_set_size: 0.0,
        warmup_ratio: 0.0,
        logging_steps: 500,
        eval_strategy: When::No,
        save_strategy: When::Steps,
        ..TrainSettings::default()
    };
    assert_eq!(settings, expected);
}

#[test]
fn our_own_file_and_what_is_given_last() {
    let text = "base: qwen\ndata: [a.jsonl, 'more/*.jsonl']\nname: expert\nnum_epochs: 2\nlora:\n  r: 8\n  use_rslora: true\nevals_per_epoch: 2\n";
    let steps = [Given {
        label: "HYPER learning-rate".to_owned(),
        key: "learning-rate".to_owned(),
        value: GivenValue::Text("1e-3".to_owned()),
        position: None,
    }];
    let flags = flags(&[
        ("epochs", "5"),
        ("targets", "q_proj,v_proj"),
        ("rank", "4"),
        ("eval_steps", "7"),
        ("save_total_limit", "null"),
    ]);
    let recipe = Recipe::resolve(Layers {
        text: Some(Text {
            name: "recipe.yml",
            text,
        }),
        steps: Some(("Modelfile", &steps)),
        flags: &flags,
        dialect: None,
    })
    .expect("a recipe");
    insta::assert_snapshot!("own_account", account(&recipe));
    let settings = &recipe.settings;
    assert_eq!((settings.num_epochs, settings.eval_steps), (5.0, Some(7.0)));
    assert_eq!(settings.learning_rate, Some(1e-3));
    assert_eq!(
        Value::Object(settings.lora.clone()),
        json!({"r": 4, "use_rslora": true, "lora_alpha": 8, "lora_dropout": 0, "target_modules": ["q_proj", "v_proj"]})
    );
    assert_eq!(recipe.data.len(), 2);
    assert_eq!(recipe.name.as_deref(), Some("expert"));
}

// The table of settings and the type that plugins see are one: a field that is added without a row, or the other way, fails here.
#[test]
fn every_field_of_the_settings_can_be_said() {
    let full = TrainSettings {
        scratch: Some(Default::default()),
        sequence_len: Some(1),
        compat: Some(witness_plugin_protocol::Compat::Guide),
        max_steps: Some(1),
        eval_batch_size: Some(1),
        learning_rate: Some(1.0),
        lr_scheduler_kwargs: [("power".to_owned(), json!(2))].into_iter().collect(),
        warmup_steps: Some(1),
        threads: Some(1),
        eval_steps: Some(1.0),
        save_total_limit: Some(1),
        early_stopping_patience: Some(1),
        run_name: Some("a".to_owned()),
        wandb_project: Some("a".to_owned()),
        wandb_entity: Some("a".to_owned()),
        wandb_run_id: Some("a".to_owned()),
        ..TrainSettings::default()
    };
    let fields = serde_json::to_value(&full).expect("JSON");
    let fields = fields.as_object().expect("an object");
    for field in fields.keys() {
        assert!(
            SETTINGS.iter().any(|setting| setting.name == field),
            "{field} has no row"
        );
    }
    for setting in &SETTINGS {
        let is_beside = ["name", "base", "output_dir"].contains(&setting.name);
        assert!(
            is_beside || fields.contains_key(setting.name),
            "{} is no field",
            setting.name
        );
    }
    // Each of them, set to something else than its default, arrives.
    let values: Value = serde_json::from_str(
        r#"{
        "method": "full", "lora": {"bias": "all"}, "base_storage": "nf4", "compute": "bf16", "scratch": {"config": {"model_type": "llama"}},
        "sequence_len": 99, "excess_length": "truncate", "sample_packing": false, "group_by_length": true, "shuffle": false,
        "train_on_inputs": true, "train_on_eos": "last", "roles_to_train": ["assistant", "tool"], "val_set_size": 0.25, "skip_bad": true,
        "drop_duplicates": true, "compat": "guide", "num_epochs": 1.5, "max_steps": 7, "micro_batch_size": 2,
        "gradient_accumulation_steps": 3, "eval_batch_size": 5, "learning_rate": 0.5, "lr_scheduler": "polynomial",
        "lr_scheduler_kwargs": {"power": 2}, "warmup_steps": 4, "warmup_ratio": 0.5, "optimizer": "lion", "adam_beta1": 0.5,
        "adam_beta2": 0.6, "adam_epsilon": 0.001, "weight_decay": 0.3, "max_grad_norm": 0.7, "seed": 18446744073709551615,
        "gradient_checkpointing": true, "threads": 2, "logging_steps": 3, "logging_first_step": true, "eval_strategy": "epoch",
        "eval_steps": 9, "save_strategy": "best", "save_steps": 0.5, "save_total_limit": 6, "load_best_model_at_end": true,
        "early_stopping_patience": 2, "early_stopping_threshold": 0.01, "report_to": ["tensorboard"], "run_name": "run",
        "wandb_project": "p", "wandb_entity": "e", "wandb_run_id": "i", "save_dtype": "BF16"
    }"#,
    )
    .expect("JSON");
    let values = values.as_object().expect("an object");
    assert_eq!(values.len(), fields.len());
    // What another key has to allow before it counts.
    let company = [
        ("lora", "method: lora"),
        ("base_storage", "method: lora"),
        ("eval_steps", "eval_strategy: steps"),
        ("save_steps", "save_strategy: steps"),
        ("early_stopping_threshold", "early_stopping_patience: 1"),
    ];
    for (name, value) in values {
        let beside = company
            .iter()
            .find(|(of, _)| of == name)
            .map_or("", |(_, beside)| beside);
        let text = format!("dialect: witness\n{beside}\n{name}: {value}\n");
        let settings = serde_json::to_value(recipe(&text).settings).expect("JSON");
        match value {
            Value::Object(inner) if name != "scratch" => {
                for (key, value) in inner {
                    assert_eq!(&settings[name][key], value, "{text}");
                }
            }
            Value::Object(inner) => assert_eq!(settings[name]["config"], inner["config"], "{text}"),
            Value::Number(number) => assert_eq!(settings[name].as_f64(), number.as_f64(), "{text}"),
            _ => assert_eq!(&settings[name], value, "{text}"),
        }
    }
}

#[test]
fn faults_say_where_and_what_to_write() {
    insta::assert_snapshot!(
        "unknown_keys",
        refused("base: x\nlearning_rat: 1\nlora:\n  lora_aplha: 3\n  banana: 1\nwarmup_stepz: 3\n")
    );
    insta::assert_snapshot!(
        "values",
        refused(
            "num_epochs: many\nlr_scheduler: cosin\noptim: adamw_torc\nbf16: perhaps\neval_steps: 1.5\ncompat: gide\n"
        )
    );
    insta::assert_snapshot!("two_keys_one_setting", refused("num_train_epochs: 3\nnum_epochs: 4\n"));
    insta::assert_snapshot!("not_yet", refused("base_model: x\nrl: dpo\nneftune_noise_alpha: 5\n"));
    insta::assert_snapshot!(
        "dataset_faults",
        refused(
            "base_model: x\ndatasets:\n  - path: a.jsonl\n    typ: chat_template\n  - type: chat_template\n  - path: b.jsonl\n    type: chat_templat\n"
        )
    );
    insta::assert_snapshot!("not_yaml", refused("base: x\n  data: [a\n"));
    insta::assert_snapshot!("not_a_map", refused("- a\n- b\n"));
    insta::assert_snapshot!("twice", refused("seed: 1\nseed: 2\n"));
    insta::assert_snapshot!("quantized_full", refused("base_model: x\nload_in_4bit: true\n"));
    let flags = flags(&[("epoch", "3"), ("lr", "fast")]);
    let error = Recipe::resolve(Layers {
        flags: &flags,
        ..Layers::default()
    });
    insta::assert_snapshot!("flags", render(&Diagnostic::from(error.expect_err("faults")), false));
}

// Old and new spellings of one thing agree, and say so when they do not.
#[test]
fn spellings_of_one_setting() {
    for (text, name, value) in [
        ("evaluation_strategy: epoch", "eval_strategy", json!("epoch")),
        ("eval_strategy: no", "eval_strategy", json!("no")),
        ("max_steps: -1", "max_steps", Value::Null),
        ("warmup_steps: 0.1", "warmup_ratio", json!(0.1)),
        ("optim: adamw_bnb_8bit", "optimizer", json!("adamw_8bit")),
        ("report_to: none", "report_to", json!([])),
        ("report_to: all", "report_to", json!(["tensorboard", "wandb"])),
        ("wandb_project: p", "report_to", json!(["wandb"])),
        ("gradient_checkpointing: 'True'", "gradient_checkpointing", json!(true)),
        ("assistant_only_loss: false", "train_on_inputs", json!(true)),
        (
            "lr_scheduler_kwargs: '{\"min_lr\": 0.1}'",
            "lr_scheduler_kwargs",
            json!({"min_lr": 0.1}),
        ),
        ("learning_rate: '2e-4'", "learning_rate", json!(2e-4)),
        ("micro_batch_size: 4.0", "micro_batch_size", json!(4)),
        ("evals_per_epoch: 4", "eval_steps", json!(1.0 / 12.0)),
        ("early_stopping_patience: 3", "load_best_model_at_end", json!(true)),
        ("train_sampling_strategy: sequential", "shuffle", json!(false)),
        ("float32: true", "compute", json!("f32")),
        ("dtype: bfloat16", "base_storage", json!("bf16")),
        ("torch_dtype: auto", "base_storage", json!("as_is")),
    ] {
        let settings = serde_json::to_value(recipe(&format!("dialect: witness\n{text}\n")).settings).expect("JSON");
        assert_eq!(settings.get(name).unwrap_or(&Value::Null), &value, "{text}");
    }
}

// A run keeps its recipe, and others may read it.
#[test]
fn secrets_are_not_repeated() {
    let text = "base: x\nhub_token: hf_abc\ncomet_api_key: \"k1\"\nspecial_tokens: {pad_token: <p>}\n";
    let recipe = recipe(text);
    let told = account(&recipe);
    assert!(
        !told.contains("hf_abc") && !told.contains("k1") && told.contains("<p>"),
        "{told}"
    );
    assert_eq!(
        witness_recipe::without_secrets(text),
        "base: x\nhub_token: (hidden)\ncomet_api_key: (hidden)\nspecial_tokens: {pad_token: <p>}\n"
    );
    let json = witness_recipe::without_secrets("{\"base\": \"x\", \"hub_token\": \"hf_abc\", \"seed\": 1}\n");
    assert_eq!(json, "{\"base\": \"x\", \"hub_token\": (hidden)\n");
    let script = "args = TrainingArguments(\n    hub_token=\"hf_abc\",\n)\n";
    assert!(!witness_recipe::without_secrets(script).contains("hf_abc"));
}
