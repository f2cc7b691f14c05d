//! What a person asks for: a file, flags or the steps of a Modelfile as one recipe, and where its paths start from.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use witness_api::{Message, TextOrList, TrainRequest};
use witness_diagnostics::{Diagnostic, Kind};
use witness_modelfile::{Plan, Training};
use witness_recipe::{Dialect, Given, GivenValue, Layers, Position, Recipe, TEXT_BYTES_MAX, Text, without_secrets};

use super::invalid;
use crate::cli::{DialectName, TrainStart};
use crate::context::Outcome;
use crate::render::output;

/// What is to be trained, before anything was looked up.
pub(crate) struct Order {
    /// What steers the run.
    pub(crate) recipe: Recipe,
    /// Model to make.
    pub(crate) model: Option<String>,
    /// Template, system message, parameters and so on of the model, as the request has them.
    pub(crate) parts: TrainRequest,
    /// Where the paths of the recipe start from.
    directory: PathBuf,
    /// Which paths were typed, and start where the person stands.
    typed: Typed,
    /// The text of the recipe, to be kept beside the run.
    text: Option<String>,
}

#[derive(Clone, Copy, Default)]
struct Typed {
    base: bool,
    data: bool,
    validation: bool,
    output_dir: bool,
}

impl Order {
    /// Reads the flags of `train`, and the file that they name.
    pub(crate) fn of_flags(arguments: &TrainStart) -> Outcome<Self> {
        let file = arguments.file.as_ref().or(arguments.recipe.as_ref());
        let read = file.map(|file| read(file)).transpose()?;
        let flags = given(arguments)?;
        let recipe = Recipe::resolve(Layers {
            text: read.as_ref().map(|(name, text)| Text { name, text }),
            steps: None,
            flags: &flags,
            dialect: arguments.settings.dialect.map(Dialect::from),
        })?;
        let directory = match file {
            Some(file) if file != Path::new("-") => file.parent().unwrap_or(Path::new("")).to_owned(),
            _ => PathBuf::new(),
        };
        let typed = Typed {
            base: arguments.base.is_some(),
            data: !arguments.data.is_empty(),
            validation: !arguments.validation.is_empty(),
            output_dir: arguments.settings.output_dir.is_some(),
        };
        let mut order = Self::new(recipe, directory, typed, read.map(|(_, text)| text))?;
        order.name_by_folder();
        order.parts.adapter.clone_from(&arguments.adapter);
        Ok(order)
    }

    /// Rows and a model that would be taught them: nothing is trained.
    pub(crate) fn of_rows(files: &[PathBuf], model: &str, recipe: Option<&Path>, set: &[String]) -> Outcome<Self> {
        let read = recipe.map(read).transpose()?;
        let mut flags = given_pairs(set)?;
        let paths = files.iter().map(|file| file.display().to_string()).collect();
        flags.push(Given::flag("FILES", "data", GivenValue::Paths(paths)));
        flags.push(Given::flag("--model", "base", GivenValue::Exactly(model.to_owned())));
        // Rows are shown and counted; which are set apart for measuring is for the run.
        if !set.iter().any(|pair| pair.starts_with("skip_bad")) {
            flags.push(Given::flag(
                "skip_bad",
                "skip_bad",
                GivenValue::Exactly("true".to_owned()),
            ));
        }
        let recipe = Recipe::resolve(Layers {
            text: read.as_ref().map(|(name, text)| Text { name, text }),
            flags: &flags,
            ..Layers::default()
        })?;
        let typed = Typed {
            base: true,
            data: true,
            ..Typed::default()
        };
        let mut order = Self::new(recipe, PathBuf::new(), typed, None)?;
        order.model = None;
        order.recipe.validation.clear();
        order.recipe.settings.val_set_size = 0.0;
        Ok(order)
    }

    /// Reads the steps of a Modelfile.
    pub(crate) fn of_modelfile(
        name: &str,
        file: &str,
        directory: &Path,
        plan: &Plan,
        training: &Training,
    ) -> Outcome<Self> {
        let steps = steps(plan, training);
        let recipe = Recipe::resolve(Layers {
            steps: Some((file, &steps)),
            ..Layers::default()
        })?;
        let text = plan.to_modelfile().to_string();
        let mut order = Self::new(recipe, directory.to_owned(), Typed::default(), Some(text))?;
        order.model = Some(name.to_owned());
        let parts = &mut order.parts;
        parts.template = plan.template.clone().or(parts.template.take());
        parts.system = plan.system.clone().or(parts.system.take());
        parts.parameters = (!plan.parameters.is_empty()).then(|| plan.parameters_json());
        parts.license = (!plan.license.is_empty()).then(|| TextOrList::Many(plan.license.clone()));
        let messages = plan
            .messages
            .iter()
            .map(|(role, content)| Message::new(role.as_str(), content));
        parts.messages = (!plan.messages.is_empty()).then(|| messages.collect());
        Ok(order)
    }

    fn new(recipe: Recipe, directory: PathBuf, typed: Typed, text: Option<String>) -> Outcome<Self> {
        let mut order = Self {
            model: recipe.name.clone(),
            parts: TrainRequest {
                system: recipe.system.clone(),
                ..TrainRequest::default()
            },
            recipe,
            directory,
            typed,
            text,
        };
        order.parts.template = order.template()?;
        Ok(order)
    }

    /// A template is a text, or the path of a file that holds it.
    fn template(&self) -> Outcome<Option<String>> {
        let Some(template) = &self.recipe.template else {
            return Ok(None);
        };
        let is_path = !template.contains('\n') && (template.ends_with(".jinja") || template.ends_with(".jinja2"));
        if !is_path {
            return Ok(Some(template.clone()));
        }
        let path = first_existing(self.places(template, false)?);
        let text = std::fs::read_to_string(&path).map_err(|error| cannot_read(&path.display().to_string(), &error))?;
        Ok(Some(text))
    }

    /// A recipe of another program names its output by a folder: the model is called so too.
    fn name_by_folder(&mut self) {
        if self.model.is_some() {
            return;
        }
        let folder = self
            .recipe
            .output_dir
            .as_deref()
            .and_then(|folder| Path::new(folder).file_name());
        let name = folder.and_then(|name| name.to_str()).unwrap_or_default();
        let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if is_name {
            self.model = Some(name.to_owned());
        }
    }

    /// Whether there is enough to ask the daemon what would be done.
    pub(crate) fn can_be_planned(&self) -> bool {
        !self.recipe.data.is_empty() && (self.recipe.base.is_some() || self.recipe.settings.scratch.is_some())
    }

    /// Refuses an order that lacks a part.
    pub(crate) fn require(&self, is_needed: bool) -> Outcome {
        if !is_needed {
            return Ok(());
        }
        if self.recipe.data.is_empty() {
            return Err(invalid("there are no rows to learn from").hint("name them: `--data train.jsonl`"));
        }
        if self.recipe.base.is_none() && self.recipe.settings.scratch.is_none() {
            return Err(invalid("there is no model to start from")
                .hint("name one that is here (`witness list`), a folder or a file: `--base NAME`")
                .hint("or make one from nothing with `scratch` in a recipe"));
        }
        if self.model.is_none() {
            return Err(invalid("the model to make has no name").hint("give it one: `--name witness-expert`"));
        }
        Ok(())
    }

    /// Says what the recipe warns of.
    pub(crate) fn warn(&self) {
        for warning in &self.recipe.warnings {
            output::note(&format!("warning: {warning}"));
        }
    }

    /// Fills in what depends on the number of steps.
    pub(crate) fn settle(&mut self, n_steps: u64) {
        self.recipe.settle(n_steps);
    }

    /// Returns the settings as the request carries them.
    pub(crate) fn settings(&self) -> Outcome<Map<String, Value>> {
        match serde_json::to_value(&self.recipe.settings) {
            Ok(Value::Object(settings)) => Ok(settings),
            _ => Err(Diagnostic::new(
                "witness::cli::settings",
                Kind::Internal,
                "the settings have no JSON form",
            )),
        }
    }

    /// Returns what is kept beside the run: what was written, and what became of it.
    pub(crate) fn record(&self) -> Value {
        json!({
            "dialect": self.recipe.dialect,
            "text": self.text.as_deref().map(without_secrets),
            "account": self.recipe.account,
        })
    }

    /// Returns where the product is copied to.
    pub(crate) fn output_dir(&self) -> Outcome<Option<PathBuf>> {
        let Some(folder) = &self.recipe.output_dir else {
            return Ok(None);
        };
        // Other programs write where they were started, and so do flags.
        let places = self.places(folder, self.typed.output_dir)?;
        places.into_iter().next().map(absolute).transpose()
    }

    /// Returns where a path may lead, the likeliest first.
    pub(crate) fn places_of_base(&self, text: &str) -> Outcome<Vec<PathBuf>> {
        self.places(text, self.typed.base)
    }

    /// The same for rows.
    pub(crate) fn places_of_rows(&self, text: &str, is_validation: bool) -> Outcome<Vec<PathBuf>> {
        let is_typed = if is_validation {
            self.typed.validation
        } else {
            self.typed.data
        };
        self.places(text, is_typed)
    }

    fn places(&self, text: &str, is_typed: bool) -> Outcome<Vec<PathBuf>> {
        let home = std::env::home_dir();
        let from = |folder: &Path| witness_modelfile::resolve_path(text, folder, home.as_deref());
        // A relative path stays one, so that faults name files as people do.
        let here = from(Path::new(""))?;
        let beside = from(&self.directory)?;
        Ok(match (is_typed, self.recipe.dialect) {
            (true, _) => vec![here],
            _ if here == beside => vec![here],
            // Ours lie beside the recipe, or where it is run.
            (false, Dialect::Witness) => vec![beside, here],
            // Other programs look where they are started; a recipe that was given away has them beside it.
            (false, _) => vec![here, beside],
        })
    }
}

/// Returns the first of some paths that exists, else the first.
pub(crate) fn first_existing(places: Vec<PathBuf>) -> PathBuf {
    let found = places.iter().position(|place| place.exists());
    places.into_iter().nth(found.unwrap_or(0)).unwrap_or_default()
}

pub(crate) fn absolute(path: PathBuf) -> Outcome<PathBuf> {
    std::path::absolute(&path).map_err(|error| {
        Diagnostic::new(
            "witness::cli::path",
            Kind::Environment,
            "the current directory cannot be told",
        )
        .cause(error.to_string())
        .hint("change to a directory that exists")
    })
}

/// Reads a recipe; `-` is standard input.
pub(crate) fn read(file: &Path) -> Outcome<(String, String)> {
    let (name, bytes) = if file == Path::new("-") {
        let name = "standard input".to_owned();
        let bytes = read_all(&mut std::io::stdin().lock()).map_err(|error| cannot_read(&name, &error))?;
        (name, bytes)
    } else {
        let name = file.display().to_string();
        let mut opened = std::fs::File::open(file).map_err(|error| cannot_read(&name, &error))?;
        let bytes = read_all(&mut opened).map_err(|error| cannot_read(&name, &error))?;
        (name, bytes)
    };
    let text = String::from_utf8(bytes).map_err(|error| {
        invalid(format!("`{name}` is not text in UTF-8"))
            .cause(error.utf8_error().to_string())
            .hint("a recipe is YAML or JSON; rows are named with `--data`")
    })?;
    Ok((name, text))
}

fn read_all(source: &mut dyn Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(TEXT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn cannot_read(name: &str, error: &std::io::Error) -> Diagnostic {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => Kind::NotFound,
        _ => Kind::Environment,
    };
    Diagnostic::new("witness::cli::recipe", kind, format!("`{name}` cannot be read"))
        .cause(error.to_string())
        .hint("name the recipe: `witness train recipe.yml`, or give flags alone: `witness train --base .. --data .. --name ..`")
}

/// Returns `--set` and its like as given keys.
pub(crate) fn given_pairs(pairs: &[String]) -> Outcome<Vec<Given>> {
    let given = |pair: &String| {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            invalid(format!("`--set {pair}` has no value"))
                .hint("write it as `--set key=value`, such as `--set lora.r=32`")
        })?;
        // Fields of the adapter are known by their own names too.
        let key = key.trim();
        let name = key.strip_prefix("lora.").unwrap_or(key);
        Ok(Given::flag(
            format!("--set {key}"),
            name,
            GivenValue::Text(value.trim().to_owned()),
        ))
    };
    pairs.iter().map(given).collect()
}

/// Returns every flag that was given as the key that it sets; `--set` first, so that a flag of its own is an error beside it only when
/// the two differ.
fn given(arguments: &TrainStart) -> Outcome<Vec<Given>> {
    let flags = &arguments.settings;
    let mut all = given_pairs(&flags.set)?;
    let mut say = |label: &str, key: &str, value: GivenValue| all.push(Given::flag(label, key, value));
    let texts = [
        ("--epochs", "num_epochs", &flags.epochs),
        ("--max-steps", "max_steps", &flags.max_steps),
        ("--lr", "learning_rate", &flags.lr),
        ("--rank", "r", &flags.rank),
        ("--alpha", "lora_alpha", &flags.alpha),
        ("--targets", "target_modules", &flags.targets),
        ("--batch", "micro_batch_size", &flags.batch),
        ("--accumulate", "gradient_accumulation_steps", &flags.accumulate),
        ("--seq-len", "sequence_len", &flags.seq_len),
        ("--seed", "seed", &flags.seed),
        ("--compat", "compat", &flags.compat),
        ("--report-to", "report_to", &flags.report_to),
    ];
    for (label, key, value) in texts {
        if let Some(value) = value {
            say(label, key, GivenValue::Text(value.clone()));
        }
    }
    let switches = [
        ("--lora", "method", "lora", flags.lora),
        ("--qlora", "method", "qlora", flags.qlora),
        ("--full", "method", "full", flags.full),
        ("--bf16", "compute", "bf16", flags.bf16),
        ("--f32", "compute", "f32", flags.f32),
        ("--skip-bad", "skip_bad", "true", flags.skip_bad),
    ];
    for (label, key, value, _) in switches.into_iter().filter(|(.., is_given)| *is_given) {
        say(label, key, GivenValue::Text(value.to_owned()));
    }
    let names = [
        ("--base", "base", &arguments.base),
        ("--name", "name", &arguments.name),
        ("--output-dir", "output_dir", &flags.output_dir),
    ];
    for (label, key, value) in names {
        if let Some(value) = value {
            say(label, key, GivenValue::Exactly(value.clone()));
        }
    }
    for (label, key, paths) in [
        ("--data", "data", &arguments.data),
        ("--validation", "validation", &arguments.validation),
    ] {
        if !paths.is_empty() {
            say(label, key, GivenValue::Paths(paths.clone()));
        }
    }
    Ok(all)
}

fn steps(plan: &Plan, training: &Training) -> Vec<Given> {
    let at = |position: witness_modelfile::Position| {
        Some(Position {
            line: position.line as u64,
            column: position.column as u64,
        })
    };
    let step = |label: String, key: &str, value: GivenValue, position| Given {
        label,
        key: key.to_owned(),
        value,
        position: at(position),
    };
    let mut steps = vec![step(
        "TRAIN".to_owned(),
        "method",
        GivenValue::Exactly(training.method.as_str().to_owned()),
        training.position,
    )];
    // `FROM scratch` with `HYPER scratch {..}` makes a base from nothing.
    if let Some(from) = plan.from.first().filter(|from| from.text != "scratch") {
        steps.push(step(
            "FROM".to_owned(),
            "base",
            GivenValue::Exactly(from.text.clone()),
            from.position,
        ));
    }
    for (key, is_validation) in [("data", false), ("validation", true)] {
        let mut datasets = training
            .datasets
            .iter()
            .filter(|dataset| dataset.is_validation == is_validation)
            .peekable();
        if let Some(position) = datasets.peek().map(|dataset| dataset.position) {
            let paths = datasets.flat_map(|dataset| dataset.paths.clone()).collect();
            steps.push(step("DATASET".to_owned(), key, GivenValue::Paths(paths), position));
        }
    }
    // Of a key given twice the last counts, as with PARAMETER.
    let is_last = |index: usize, key: &str| !training.hyper[index + 1..].iter().any(|later| later.key == key);
    for (index, hyper) in training.hyper.iter().enumerate() {
        if is_last(index, &hyper.key) {
            let name = hyper.key.strip_prefix("lora.").unwrap_or(&hyper.key);
            let value = GivenValue::Text(hyper.value.clone());
            steps.push(step(format!("HYPER {}", hyper.key), name, value, hyper.position));
        }
    }
    steps
}

impl From<DialectName> for Dialect {
    fn from(name: DialectName) -> Self {
        match name {
            DialectName::Witness => Dialect::Witness,
            DialectName::Axolotl => Dialect::Axolotl,
            DialectName::Transformers => Dialect::Transformers,
        }
    }
}
