//! From layers of keys to a recipe: pairs that contradict each other are resolved, what one key implies for others is done, defaults are
//! filled in.

use serde_json::{Map, Value as Json, json};
use witness_plugin_protocol::TrainSettings;

use crate::account::Account;
use crate::data::DataSource;
use crate::dialect::Dialect;
use crate::draft::{Draft, Field};
use crate::error::{Fault, Problem, RecipeError};
use crate::keys;
use crate::node::{self, Node, Position, Value};
use crate::script;
use crate::settings::{BESIDE, SETTINGS};

/// The text of a recipe.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// What errors call it. A name that ends in `.py` is that of a script of Transformers and PEFT, which is read and not run.
    pub name: &'a str,
    /// YAML, JSON or Python.
    pub text: &'a str,
}

/// A key given one at a time: a flag, or a step of a Modelfile.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// What errors call it: `--epochs`.
    pub label: String,
    /// The key.
    pub key: String,
    /// Its value.
    pub value: GivenValue,
    /// Where it stands, for a step.
    pub position: Option<Position>,
}

/// The value of a key that is given one at a time.
#[derive(Clone, Debug, PartialEq)]
pub enum GivenValue {
    /// As typed: `3`, `2e-4`, `q_proj,v_proj`, `{min_lr: 1e-6}`.
    Text(String),
    /// A text that is never anything else: a name, a path.
    Exactly(String),
    /// Several paths.
    Paths(Vec<String>),
}

impl Given {
    /// A flag.
    pub fn flag(label: impl Into<String>, key: impl Into<String>, value: GivenValue) -> Self {
        Self {
            label: label.into(),
            key: key.into(),
            value,
            position: None,
        }
    }

    fn field(&self) -> Field {
        let text = |text: &String| Node::of(Value::Text(text.clone()));
        let node = match &self.value {
            GivenValue::Text(typed) => node::parse_value(typed),
            GivenValue::Exactly(typed) => text(typed),
            GivenValue::Paths(paths) => Node::of(Value::List(paths.iter().map(text).collect())),
        };
        Field {
            key: self.key.clone(),
            label: self.label.clone(),
            node,
            position: self.position,
        }
    }
}

/// What a recipe is made of. Later layers are stronger: the text, the steps, the flags.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layers<'a> {
    /// A file.
    pub text: Option<Text<'a>>,
    /// Steps of a Modelfile, and its name.
    pub steps: Option<(&'a str, &'a [Given])>,
    /// Flags.
    pub flags: &'a [Given],
    /// Whose keys the text has; told from the keys when nothing is said.
    pub dialect: Option<Dialect>,
}

/// What is to be done: everything that steers a run, what it is made from, and what became of each key.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Whose defaults hold.
    pub dialect: Dialect,
    /// What steers the run.
    pub settings: TrainSettings,
    /// The base as written: a name, a folder, a file; nothing when the run makes one.
    pub base: Option<String>,
    /// Rows to learn from.
    pub data: Vec<DataSource>,
    /// Rows to measure on.
    pub validation: Vec<DataSource>,
    /// Name of the model to make.
    pub name: Option<String>,
    /// Folder that the product's files are copied to.
    pub output_dir: Option<String>,
    /// Chat template in place of the model's own: its text, or a path to it (of one line that ends in `.jinja`).
    pub template: Option<String>,
    /// System message of the model that is made.
    pub system: Option<String>,
    /// What became of every key, in order.
    pub account: Vec<Account>,
    /// What should be known.
    pub warnings: Vec<String>,
    by_length: ByLength,
}

/// Defaults that depend on the number of steps, as Axolotl has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ByLength {
    warmup: bool,
    logging: bool,
}

impl Recipe {
    /// Makes a recipe of its layers.
    ///
    /// # Errors
    /// Every fault that was found, in order.
    pub fn resolve(layers: Layers<'_>) -> Result<Self, RecipeError> {
        let mut draft = Draft::default();
        let mut dialect = layers.dialect.unwrap_or_default();
        if let Some(Text { name, text }) = layers.text.filter(is_script) {
            let script = script::read(text).map_err(|fault| fault.within(name))?;
            dialect = layers.dialect.unwrap_or(Dialect::Transformers);
            draft.begin(name);
            script.warnings.into_iter().for_each(|warning| draft.warn(warning));
            script.fields.iter().for_each(|field| keys::apply(&mut draft, field));
            script.faults.into_iter().for_each(|fault| draft.fault(fault));
        } else if let Some(Text { name, text }) = layers.text {
            let entries = node::parse(text).map_err(|fault| fault.within(name))?;
            dialect = layers.dialect.unwrap_or_else(|| Dialect::of(&entries));
            draft.begin(name);
            for entry in entries {
                let field = Field {
                    label: entry.key.clone(),
                    key: entry.key,
                    node: entry.node,
                    position: Some(entry.position),
                };
                keys::apply(&mut draft, &field);
            }
        }
        if let Some((name, steps)) = layers.steps {
            draft.begin(name);
            steps.iter().for_each(|step| keys::apply(&mut draft, &step.field()));
        }
        draft.begin("");
        layers
            .flags
            .iter()
            .for_each(|flag| keys::apply(&mut draft, &flag.field()));
        finish(draft, dialect)
    }

    /// Fills in the defaults that depend on the number of steps.
    pub fn settle(&mut self, n_steps: u64) {
        if std::mem::take(&mut self.by_length.warmup) {
            let steps = (3 * n_steps / 100).min(100);
            // Axolotl's own: one step of warm-up would not move anything.
            self.settings.warmup_steps = Some(if steps == 1 { 2 } else { steps });
        }
        if std::mem::take(&mut self.by_length.logging) {
            self.settings.logging_steps = (n_steps / 200).clamp(1, 10);
        }
    }

    /// Whether [`Recipe::settle`] would change something.
    pub fn depends_on_length(&self) -> bool {
        self.by_length != ByLength::default()
    }
}

fn is_script(text: &Text<'_>) -> bool {
    text.name.ends_with(".py")
}

fn finish(mut draft: Draft, dialect: Dialect) -> Result<Recipe, RecipeError> {
    method(&mut draft, dialect);
    storage(&mut draft);
    compute(&mut draft);
    batches(&mut draft);
    let by_length = lengths(&mut draft, dialect);
    schedule(&mut draft);
    validation(&mut draft, dialect);
    steps(&mut draft, dialect);
    best(&mut draft);
    trackers(&mut draft, dialect);
    compat(&mut draft);
    dialect.defaults(&mut draft);
    if draft.get("method") != Some(&json!("full")) {
        dialect.lora_defaults(&mut draft);
    }
    let settings = assemble(&mut draft);
    if !draft.faults.is_empty() {
        return Err(RecipeError { faults: draft.faults });
    }
    let text = |draft: &mut Draft, target: &str| match draft.take(target) {
        Some(Json::String(text)) => Some(text),
        _ => None,
    };
    Ok(Recipe {
        dialect,
        settings: settings?,
        base: text(&mut draft, "base"),
        name: text(&mut draft, "name"),
        output_dir: text(&mut draft, "output_dir"),
        template: text(&mut draft, "template"),
        system: text(&mut draft, "system"),
        data: draft.data,
        validation: draft.validation,
        account: draft.account,
        warnings: draft.warnings,
        by_length,
    })
}

/// What is trained, where no key says it outright.
fn method(draft: &mut Draft, dialect: Dialect) {
    let has_lora = draft.below("lora.").next().is_some() || draft.is_true("lora_target_linear");
    let is_scratch = draft.below("scratch.").next().is_some();
    let default = match dialect {
        _ if is_scratch => "full",
        Dialect::Witness => "lora",
        Dialect::Axolotl => "full",
        Dialect::Transformers if has_lora => "lora",
        Dialect::Transformers => "full",
    };
    let is_named = draft.is_given("method");
    draft.assume("method", default);
    let is_full = draft.get("method") == Some(&json!("full"));
    if draft.is_true("load_in_4bit") {
        if is_full {
            let fault = Fault::new(
                Problem::Conflict,
                None,
                "`load_in_4bit` holds the base in 4 bits, and every weight is to be trained",
                "train adapters beside it: `adapter: qlora`",
            );
            draft.fault(fault);
        }
        draft.put("method", "qlora");
        draft.rename("load_in_4bit", "method: qlora");
    } else if draft.get("load_in_4bit").is_some() && draft.get("method") == Some(&json!("qlora")) {
        draft.warn("`load_in_4bit: false` with the method qlora: the base is held in 4 bits");
        draft.yield_to("load_in_4bit", "method", "QLoRA holds the base in 4 bits");
    } else if draft.get("load_in_4bit").is_some() {
        draft.drop_target("load_in_4bit", "off, as it is here");
    }
    if is_full && !draft.is_true("load_in_4bit") {
        let fields: Vec<String> = draft.below("lora.").map(|(name, _)| format!("lora.{name}")).collect();
        if !fields.is_empty() && !is_named && dialect == Dialect::Axolotl {
            draft.warn("the keys of LoRA have no effect: without `adapter: lora` Axolotl trains every weight");
        }
        for field in fields.iter().map(String::as_str).chain(["lora_target_linear"]) {
            draft.drop_target(field, "every weight is trained");
        }
    }
    if draft.is_true("lora_target_linear") {
        if draft.is_given("lora.target_modules") && draft.get("lora.target_modules") != Some(&json!("all-linear")) {
            draft.yield_to(
                "lora.target_modules",
                "lora_target_linear",
                "every linear module is adapted",
            );
        }
        draft.put("lora.target_modules", "all-linear");
        draft.rename("lora_target_linear", "lora.target_modules: all-linear");
    }
}

/// How the frozen base is held.
fn storage(draft: &mut Draft) {
    let is_qlora = draft.get("method") == Some(&json!("qlora"));
    let is_full = draft.get("method") == Some(&json!("full"));
    let is_double = draft.get("bnb_4bit_use_double_quant").and_then(Json::as_bool);
    if !is_qlora {
        for target in ["bnb_4bit_use_double_quant", "bnb_4bit_quant_type"] {
            draft.drop_target(target, "the base is not held in 4 bits");
        }
    } else if draft.get("bnb_4bit_quant_type").is_some() || is_double.is_some() {
        // bitsandbytes quantizes its scales only when told to; Axolotl tells it.
        let storage = if is_double == Some(false) { "nf4" } else { "nf4_double" };
        draft.assume("base_storage", storage);
    }
    if is_full {
        draft.drop_target("dtype", "weights that are trained are in f32");
        draft.drop_target("base_storage", "weights that are trained are in f32");
    } else if is_qlora {
        draft.drop_target("dtype", "the base is held in 4 bits");
    } else if draft.is_given("base_storage") {
        draft.yield_to("dtype", "base_storage", "it says the same more exactly");
    } else if let Some(storage) = draft.get("dtype").cloned() {
        let text = format!("base_storage: {}", storage.as_str().unwrap_or_default());
        draft.rename("dtype", &text);
        draft.assume("base_storage", storage);
    }
}

/// What products are computed in.
fn compute(draft: &mut Draft) {
    let said = [draft.get("bf16").cloned(), draft.get("fp16").cloned()];
    for target in ["bf16", "fp16"] {
        if draft.is_given("compute") {
            draft.yield_to(target, "compute", "it says the same more exactly");
        }
    }
    match said {
        [Some(bf16), None] => draft.assume("compute", bf16),
        [Some(bf16), Some(_)] if bf16 != json!("f32") => draft.assume("compute", bf16),
        [_, Some(fp16)] => draft.assume("compute", fp16),
        [None, None] => {}
    }
    if let Some(compute) = draft.get("compute").and_then(Json::as_str).map(str::to_owned) {
        draft.rename("bf16", &format!("compute: {compute}"));
        draft.rename("fp16", &format!("compute: {compute}"));
    }
}

/// Axolotl's old `batch_size` is micro-batches and accumulation in one.
fn batches(draft: &mut Draft) {
    let Some(rows) = draft.number("batch_size") else {
        return;
    };
    let micro = draft.number("micro_batch_size").unwrap_or(1.0);
    let steps = rows / micro;
    if steps.fract() != 0.0 || steps < 1.0 {
        let fault = Fault::new(
            Problem::Conflict,
            None,
            format!("`batch_size` {rows} is not a multiple of `micro_batch_size` {micro}"),
            "write `micro_batch_size` and `gradient_accumulation_steps`",
        );
        return draft.fault(fault);
    }
    if draft
        .number("gradient_accumulation_steps")
        .is_some_and(|given| given != steps)
    {
        draft.warn("`gradient_accumulation_steps` and `batch_size` contradict each other; `gradient_accumulation_steps` counts");
        draft.yield_to(
            "batch_size",
            "gradient_accumulation_steps",
            "it says the same more exactly",
        );
        return;
    }
    draft.assume("gradient_accumulation_steps", crate::read::json_number(steps));
    draft.rename("batch_size", &format!("gradient_accumulation_steps: {steps}"));
}

/// How long the run is and how it begins.
fn lengths(draft: &mut Draft, dialect: Dialect) -> ByLength {
    if draft.is_given("max_steps") {
        draft.yield_to("num_epochs", "max_steps", "steps say how long the run is");
    }
    if draft.is_given("warmup_steps") && draft.is_given("warmup_ratio") {
        let (steps, ratio) = (draft.key("warmup_steps"), draft.key("warmup_ratio"));
        draft.warn(format!(
            "`{steps}` and `{ratio}` contradict each other; `{steps}` counts"
        ));
        draft.yield_to("warmup_ratio", "warmup_steps", "steps are more exact");
    }
    let mut by_length = ByLength::default();
    let has_warmup = draft.get("warmup_steps").is_some() || draft.get("warmup_ratio").is_some();
    match dialect {
        Dialect::Axolotl => {
            by_length.logging = draft.get("logging_steps").is_none();
            by_length.warmup = !has_warmup;
            if draft.get("learning_rate").is_none() {
                draft.warn("`learning_rate` is not given, which Axolotl asks for; the default for the method is used");
            }
        }
        Dialect::Transformers => draft.assume("warmup_ratio", 0),
        _ => {}
    }
    if draft.get("data_seed").is_some() && draft.get("data_seed") != draft.get("seed").or(Some(&json!(42))) {
        let key = draft.key("data_seed");
        draft.warn(format!(
            "`{key}`: one seed draws everything, the order of the rows too; it is `seed`"
        ));
        draft.drop_target("data_seed", "one seed draws everything: `seed`");
    } else {
        draft.rename("data_seed", "seed");
    }
    by_length
}

fn schedule(draft: &mut Draft) {
    let Some(share) = draft.get("cosine_min_lr_ratio").cloned() else {
        return;
    };
    let is_cosine = draft
        .get("lr_scheduler")
        .is_none_or(|shape| shape == "cosine" || shape == "cosine_with_min_lr");
    if !is_cosine {
        draft.drop_target("cosine_min_lr_ratio", "the learning rate is no cosine");
        return;
    }
    draft.put("lr_scheduler", "cosine_with_min_lr");
    let mut kwargs = match draft.get("lr_scheduler_kwargs") {
        Some(Json::Object(kwargs)) => kwargs.clone(),
        _ => Map::new(),
    };
    kwargs.insert("min_lr_rate".to_owned(), share);
    draft.put("lr_scheduler_kwargs", Json::Object(kwargs));
    draft.rename(
        "cosine_min_lr_ratio",
        "lr_scheduler: cosine_with_min_lr, with this share as its floor",
    );
}

/// What is measured on.
fn validation(draft: &mut Draft, dialect: Dialect) {
    if !draft.validation.is_empty() {
        draft.drop_target("val_set_size", "validation files are given");
        return;
    }
    let asks = draft.get("eval_strategy").is_some_and(|when| when != "no");
    if dialect == Dialect::Transformers && draft.get("val_set_size").is_none() {
        if asks {
            draft.warn("no validation rows are named; a tenth of the rows is set apart for them (`val_set_size`)");
            draft.put("val_set_size", json!(0.1));
        } else {
            draft.put("val_set_size", 0);
        }
    }
    let has_none = match draft.number("val_set_size") {
        Some(share) => share == 0.0,
        None => dialect == Dialect::Axolotl,
    };
    if has_none {
        draft.assume("eval_strategy", "no");
    }
}

/// When something is measured and kept.
fn steps(draft: &mut Draft, dialect: Dialect) {
    for (what, steps, per_epoch, strategy) in [
        ("evaluations", "eval_steps", "evals_per_epoch", "eval_strategy"),
        ("checkpoints", "save_steps", "saves_per_epoch", "save_strategy"),
    ] {
        if draft.is_given(steps) && draft.is_given(per_epoch) {
            let (winner, loser) = (draft.key(steps), draft.key(per_epoch));
            draft.warn(format!(
                "`{winner}` and `{loser}` contradict each other (Axolotl refuses the pair); `{winner}` counts"
            ));
            draft.yield_to(per_epoch, steps, "steps are more exact");
        }
        if let Some(times) = draft.number(per_epoch) {
            let epochs = draft.number("num_epochs").unwrap_or(match dialect {
                Dialect::Axolotl => 1.0,
                _ => 3.0,
            });
            let share = 1.0 / (times * epochs);
            if share < 1.0 {
                draft.put(steps, json!(share));
                draft.rename(per_epoch, &format!("{steps}: {share:.6} of all steps"));
                draft.assume(strategy, "steps");
            } else {
                draft.assume(strategy, "epoch");
                draft.rename(per_epoch, &format!("{strategy}: epoch"));
            }
        }
        // Steps say that it goes by steps; only Transformers wants to be told twice.
        let needs_strategy = dialect == Dialect::Transformers && strategy == "eval_strategy";
        if draft.is_given(steps) && draft.get(strategy).is_none() && !needs_strategy {
            draft.assume(strategy, "steps");
            draft.remark(steps, &format!(", {strategy}: steps"));
        }
        let is_by_steps = draft.get(strategy).is_none_or(|when| when == "steps");
        if !is_by_steps && draft.is_given(steps) {
            let when = draft
                .get(strategy)
                .and_then(Json::as_str)
                .unwrap_or_default()
                .to_owned();
            if draft.is_given(strategy) {
                draft.drop_target(steps, &format!("`{strategy}` is `{when}`"));
            } else {
                draft.warn(format!("no {what} are made: there are no rows to measure on"));
                draft.drop_target(steps, "there are no rows to measure on");
            }
        }
    }
    match dialect {
        Dialect::Axolotl => {
            if draft.get("save_steps").is_none() {
                draft.assume("save_strategy", "epoch");
            }
            if draft.get("eval_steps").is_none() {
                draft.assume("eval_strategy", "no");
            }
        }
        Dialect::Transformers if draft.get("eval_strategy").is_none() && draft.is_given("eval_steps") => {
            draft.warn("`eval_steps` without `eval_strategy: steps`: Transformers makes no evaluations then, and neither are they made here");
            draft.drop_target(
                "eval_steps",
                "`eval_strategy` is not given, so there are no evaluations",
            );
        }
        _ => {}
    }
}

/// The best checkpoint, and when it is known.
fn best(draft: &mut Draft) {
    if draft.get("early_stopping_patience").is_none() {
        draft.drop_target("early_stopping_threshold", "there is no `early_stopping_patience`");
        return;
    }
    if draft.get("load_best_model_at_end") == Some(&json!(false)) {
        let key = draft.key("load_best_model_at_end");
        draft.warn(format!(
            "`{key}: false`: early stopping gives the best checkpoint in any case"
        ));
        draft.yield_to(
            "load_best_model_at_end",
            "early_stopping_patience",
            "it gives the best checkpoint",
        );
    }
    draft.put("load_best_model_at_end", true);
    draft.remark("early_stopping_patience", ", load_best_model_at_end: true");
}

fn trackers(draft: &mut Draft, dialect: Dialect) {
    let wandb = draft.get("use_wandb").and_then(Json::as_bool);
    let has_project = draft.is_given("wandb_project");
    let is_named = draft.is_given("report_to");
    let mut trackers: Vec<String> = match draft.get("report_to") {
        Some(Json::Array(names)) => names.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    let mut add = |name: &str| {
        if !trackers.iter().any(|known| known == name) {
            trackers.push(name.to_owned());
        }
    };
    // Transformers has `project` whether or not W&B is written.
    if wandb == Some(true) || (wandb.is_none() && has_project && !is_named && dialect != Dialect::Transformers) {
        add("wandb");
        match wandb {
            Some(_) => draft.rename("use_wandb", "report_to: wandb"),
            None => draft.remark("wandb_project", ", report_to: wandb"),
        }
    }
    if draft.is_true("use_tensorboard") {
        add("tensorboard");
        draft.rename("use_tensorboard", "report_to: tensorboard");
    }
    if wandb == Some(false) {
        trackers.retain(|name| name != "wandb");
    }
    draft.put("report_to", json!(trackers));
}

/// What the quirks of another program bring with them.
fn compat(draft: &mut Draft) {
    if draft.get("compat") == Some(&json!("guide")) {
        draft.assume("sample_packing", false);
        draft.assume("excess_length", "truncate");
        draft.assume("train_on_inputs", true);
    }
}

/// Fills the settings.
fn assemble(draft: &mut Draft) -> Result<TrainSettings, RecipeError> {
    let mut fields = Map::new();
    for setting in SETTINGS.iter().filter(|setting| !BESIDE.contains(&setting.name)) {
        if let Some(value) = draft.get(setting.name) {
            fields.insert(setting.name.to_owned(), value.clone());
        }
    }
    let collect = |prefix: &str| -> Map<String, Json> {
        let pairs = draft
            .below(prefix)
            .map(|(name, value)| (name.to_owned(), value.clone()));
        pairs.collect()
    };
    fields.insert("lora".to_owned(), Json::Object(collect("lora.")));
    let mut scratch = collect("scratch.");
    if scratch.remove("on").is_some() {
        fields.insert("scratch".to_owned(), Json::Object(scratch));
    }
    serde_json::from_value(Json::Object(fields)).map_err(|error| {
        RecipeError::from(Fault::new(
            Problem::Value,
            None,
            format!("the settings do not fit together: {error}"),
            "look at `lora` and `scratch`: they are checked field by field here",
        ))
    })
}
