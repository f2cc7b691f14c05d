//! What is trained: everything, or an adapter beside a frozen base, as an `adapter_config.json` of PEFT says it.
//!
//! The configuration is the one `formats` reads for serving, so targets, patterns, ranks and scales mean the same in training.

use serde_json::{Map, Value, json};
use witness_formats::adapter::{Bias, PeftConfig};

use crate::error::{Result, TrainingError};

/// What is trained.
#[derive(Clone, Debug)]
pub enum Method {
    /// Every weight.
    Full,
    /// An adapter.
    Lora(Box<LoraMethod>),
}

/// A LoRA or DoRA to be trained.
#[derive(Clone, Debug)]
pub struct LoraMethod {
    pub(crate) config: PeftConfig,
    pub(crate) written: Map<String, Value>,
    pub(crate) dropout: f64,
    pub(crate) is_dora: bool,
}

impl LoraMethod {
    /// Takes the fields of PEFT's LoraConfig, as `adapter_config.json` spells them. `peft_type` and `task_type` may be left out.
    ///
    /// Refuses what cannot be trained exactly: another initialisation than PEFT's default or `gaussian`, a bias of B, DoRA together with dropout. And what PEFT
    /// would not load: layers chosen beside a pattern of modules.
    pub fn from_json(fields: &Map<String, Value>) -> Result<LoraMethod> {
        let mut written = defaults();
        for (key, value) in fields {
            written.insert(key.clone(), value.clone());
        }
        name_targets_of_layers(&mut written)?;
        let is_dora = written.get("use_dora").and_then(Value::as_bool).unwrap_or(false);
        let mut read = written.clone();
        read.insert("use_dora".to_owned(), Value::Bool(false));
        let config = PeftConfig::parse("adapter_config.json", Value::Object(read).to_string().as_bytes())?;
        let dropout = written.get("lora_dropout").and_then(Value::as_f64).unwrap_or(0.0);
        if !(0.0..1.0).contains(&dropout) {
            return Err(TrainingError::setting(
                "lora_dropout",
                dropout,
                "a number from 0 to below 1",
            ));
        }
        if is_dora && dropout > 0.0 {
            return Err(TrainingError::unsupported(
                "`use_dora` together with `lora_dropout`",
                "set `lora_dropout` to 0, or leave out `use_dora`",
            ));
        }
        if config.lora_bias {
            return Err(TrainingError::unsupported(
                "`lora_bias`, a bias of B,",
                "leave out `lora_bias`; `bias: all` trains the base's own biases",
            ));
        }
        match written.get("init_lora_weights") {
            None | Some(Value::Null | Value::Bool(true)) => {}
            Some(Value::String(text)) if text.eq_ignore_ascii_case("gaussian") => {}
            Some(other) => {
                return Err(TrainingError::unsupported(
                    format!("`init_lora_weights` = `{other}`"),
                    "use true (the default) or \"gaussian\"",
                ));
            }
        }
        Ok(LoraMethod {
            config,
            written,
            dropout,
            is_dora,
        })
    }

    /// Returns the method with a rank, an alpha and target modules, everything else by default.
    pub fn new(rank: usize, alpha: f64, targets: &[&str]) -> Result<LoraMethod> {
        let targets = match targets {
            ["all-linear"] => json!("all-linear"),
            names => json!(names),
        };
        let fields = json!({ "r": rank, "lora_alpha": alpha, "target_modules": targets });
        LoraMethod::from_json(fields.as_object().unwrap_or(&Map::new()))
    }

    /// Returns the configuration: which modules are adapted, with which rank and scale.
    pub fn config(&self) -> &PeftConfig {
        &self.config
    }

    /// Returns the fields of `adapter_config.json`, every default filled in.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.written
    }

    pub(crate) fn is_gaussian(&self) -> bool {
        matches!(self.written.get("init_lora_weights"), Some(Value::String(_)))
    }

    /// Says whether a parameter of the base, by its name, is trained beside the adapter.
    pub(crate) fn trains_base(&self, name: &str, has_lora: bool) -> bool {
        let (module, kind) = name.rsplit_once('.').unwrap_or((name, ""));
        let is_bias = kind == "bias"
            && match self.config.bias {
                Bias::None => false,
                Bias::All => true,
                Bias::LoraOnly => has_lora,
            };
        is_bias || self.config.saves_module(module)
    }
}

/// Makes a list of `all-linear` where layers are chosen: PEFT takes those beside a list of modules only.
fn name_targets_of_layers(fields: &mut Map<String, Value>) -> Result<()> {
    const LINEARS: [&str; 7] = [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ];
    if matches!(fields.get("layers_to_transform"), None | Some(Value::Null)) {
        return Ok(());
    }
    match fields.get("target_modules") {
        Some(Value::String(targets)) if targets == "all-linear" => {
            fields.insert("target_modules".to_owned(), json!(LINEARS));
            Ok(())
        }
        Some(Value::String(pattern)) => Err(TrainingError::unsupported(
            format!("`layers_to_transform` beside the pattern `{pattern}` of `target_modules`"),
            "name the modules in a list, or write the layers into the pattern: PEFT loads no adapter that has both",
        )),
        _ => Ok(()),
    }
}

/// The fields that PEFT itself writes, as its defaults have them.
fn defaults() -> Map<String, Value> {
    let fields = json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": null,
        "bias": "none",
        "exclude_modules": null,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": 8,
        "lora_bias": false,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": 8,
        "rank_pattern": {},
        "revision": null,
        "target_modules": null,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": false,
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
