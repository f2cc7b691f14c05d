//! What a Modelfile amounts to: the parts of a model, checked against each other.

use std::collections::{BTreeMap, BTreeSet};

use crate::ast::{Command, Instruction, Modelfile, Position, ReservedWord, Role, TrainMethod};
use crate::error::{ModelfileError, Problem};
use crate::parameters::ParameterValue;

/// The parts of a model, ready to be fetched and stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What the weights come from: one name, file or directory, or the parts of a split file in order.
    pub from: Vec<Source>,
    /// Adapters in order; the first is the one in force unless a request names another.
    pub adapters: Vec<AdapterSource>,
    /// A small model that guesses tokens ahead of the base.
    pub draft: Option<Source>,
    /// Options by name; `stop` is [`ParameterValue::Texts`]. Of an option given twice the last counts.
    pub parameters: BTreeMap<String, ParameterValue>,
    /// The chat template, if it replaces the model's own.
    pub template: Option<String>,
    /// The system message.
    pub system: Option<String>,
    /// Messages that every conversation begins with.
    pub messages: Vec<(Role, String)>,
    /// Licence texts.
    pub license: Vec<String>,
    /// The least version of the program that can run the model.
    pub requires: Option<String>,
    /// How the model is trained before it is stored.
    pub training: Option<Training>,
    /// Storage that the base's weights are brought to, as written.
    pub quantize: Option<String>,
}

/// The steps that train.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// What is trained.
    pub method: TrainMethod,
    /// Where `TRAIN` stands.
    pub position: Position,
    /// Rows, in order; at least one to learn from.
    pub datasets: Vec<Dataset>,
    /// Settings in order. A key may come twice: what that means is for whoever knows the keys.
    pub hyper: Vec<Hyper>,
}

/// What `DATASET` names.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// As written; [`crate::resolve_path`] says where each leads.
    pub paths: Vec<String>,
    /// Whether they are measured on.
    pub is_validation: bool,
    /// Where.
    pub position: Position,
}

/// What `HYPER` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Hyper {
    /// The key as written.
    pub key: String,
    /// The value as written.
    pub value: String,
    /// Where.
    pub position: Position,
}

/// What `FROM` or `DRAFT` names.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// As written.
    pub text: String,
    /// Where.
    pub position: Position,
}

/// What `ADAPTER` names.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterSource {
    /// The name behind `AS`.
    pub name: Option<String>,
    /// The path as written; [`crate::resolve_path`] says where it leads.
    pub path: String,
    /// Where.
    pub position: Position,
}

impl Source {
    /// Says whether the text can only be a path: it begins with `.`, `/` or `~`, holds a backslash, or ends like a file of weights.
    /// Other texts are a file when one of that name lies beside the Modelfile, else the name of a model.
    pub fn is_path(&self) -> bool {
        let lower = self.text.to_ascii_lowercase();
        self.text.starts_with(['.', '/', '~'])
            || self.text.contains('\\')
            || [".gguf", ".safetensors", ".bin", ".pt", ".pth"]
                .iter()
                .any(|suffix| lower.ends_with(suffix))
    }
}

impl Modelfile {
    /// Returns what the instructions amount to.
    ///
    /// # Errors
    /// [`Problem::NotYet`] for a reserved word, and for `DRAFT` or `QUANTIZE` beside `TRAIN`; [`Problem::Plan`] when `FROM` is missing, several `FROM` are
    /// not parts of one file, two adapters have one name, there are two `DRAFT` or two `QUANTIZE`, or the steps of a training do not make one.
    pub fn plan(&self) -> Result<Plan, ModelfileError> {
        self.build().map_err(|error| error.in_file(&self.file.0))
    }

    fn build(&self) -> Result<Plan, ModelfileError> {
        let mut plan = Plan::default();
        for command in &self.commands {
            plan.add(command)?;
        }
        plan.training = self.training()?;
        plan.draft = self.draft(plan.training.is_some())?;
        plan.quantize = self.quantization(plan.training.is_some())?;
        self.check_from(&plan.from)?;
        check_adapters(&plan.adapters)?;
        check_training(&plan)?;
        Ok(plan)
    }

    fn check_from(&self, from: &[Source]) -> Result<(), ModelfileError> {
        let Some(_first) = from.first() else {
            let position = self
                .commands
                .last()
                .map_or(Position { line: 1, column: 1 }, |command| command.position);
            let hint = "name the base model: `FROM ./base` (a directory), `FROM ./model.gguf` or `FROM llama3.2:3b`";
            return Err(ModelfileError::new(
                Problem::Plan,
                position,
                "",
                "the Modelfile has no `FROM`",
                hint,
            ));
        };
        match from.iter().find(|source| !source.is_path()) {
            Some(name) if from.len() > 1 => Err(ModelfileError::new(
                Problem::Plan,
                name.position,
                &name.text,
                format!(
                    "`{}` is one of {} `FROM`, and only the files of one split model can be several",
                    name.text,
                    from.len()
                ),
                "keep one `FROM`; if this is a file, write it as a path: `FROM ./...`",
            )),
            _ => Ok(()),
        }
    }
}

impl Modelfile {
    /// Collects the steps that train. They belong to the one `TRAIN`, wherever it stands.
    fn training(&self) -> Result<Option<Training>, ModelfileError> {
        let (mut datasets, mut hyper) = (Vec::new(), Vec::new());
        let mut train: Option<(TrainMethod, Position)> = None;
        for command in &self.commands {
            let position = command.position;
            match &command.instruction {
                Instruction::Dataset { paths, is_validation } => datasets.push(Dataset {
                    paths: paths.clone(),
                    is_validation: *is_validation,
                    position,
                }),
                Instruction::Hyper { key, value } => hyper.push(Hyper {
                    key: key.clone(),
                    value: value.clone(),
                    position,
                }),
                Instruction::Train(method) => match train {
                    None => train = Some((*method, position)),
                    Some((_, first)) => {
                        return Err(ModelfileError::new(
                            Problem::Plan,
                            position,
                            &command.to_string(),
                            format!("the Modelfile trains on line {} already", first.line),
                            "keep one `TRAIN`; make a second model `FROM` the first for a second training",
                        ));
                    }
                },
                _ => {}
            }
        }
        let steps = datasets.iter().map(|dataset| ("DATASET", dataset.position));
        let stray = steps.chain(hyper.iter().map(|hyper| ("HYPER", hyper.position))).next();
        match (train, stray) {
            (Some((method, position)), _) => Ok(Some(Training {
                method,
                position,
                datasets,
                hyper,
            })),
            (None, None) => Ok(None),
            (None, Some((word, position))) => Err(ModelfileError::new(
                Problem::Plan,
                position,
                word,
                format!("`{word}` belongs to a training, and the Modelfile has no `TRAIN`"),
                "add `TRAIN lora` to train an adapter",
            )),
        }
    }
}

fn check_training(plan: &Plan) -> Result<(), ModelfileError> {
    let Some(training) = &plan.training else {
        return Ok(());
    };
    if let Some(adapter) = plan.adapters.first() {
        return Err(ModelfileError::new(
            Problem::Plan,
            adapter.position,
            &adapter.path,
            "a model that is trained here has the adapter that the training makes",
            "remove `ADAPTER`, or `TRAIN` and what belongs to it",
        ));
    }
    if training.datasets.iter().all(|dataset| dataset.is_validation) {
        return Err(ModelfileError::new(
            Problem::Plan,
            training.position,
            &format!("TRAIN {}", training.method.as_str()),
            "there are no rows to learn from",
            "name them: `DATASET ./train.jsonl`",
        ));
    }
    Ok(())
}

fn check_adapters(adapters: &[AdapterSource]) -> Result<(), ModelfileError> {
    let mut names = BTreeSet::new();
    for adapter in adapters {
        let name = adapter.name.as_deref().unwrap_or("default");
        if !names.insert(name.to_ascii_lowercase()) {
            return Err(ModelfileError::new(
                Problem::Plan,
                adapter.position,
                &adapter.path,
                format!("two adapters are named `{name}`"),
                format!("give each its own name: `ADAPTER {} AS another`", adapter.path),
            ));
        }
    }
    Ok(())
}

impl Plan {
    fn add(&mut self, command: &Command) -> Result<(), ModelfileError> {
        let position = command.position;
        match &command.instruction {
            Instruction::From(text) => self.from.push(Source {
                text: text.clone(),
                position,
            }),
            Instruction::Adapter { path, name } => {
                self.adapters.push(AdapterSource {
                    name: name.clone(),
                    path: path.clone(),
                    position,
                });
            }
            Instruction::Parameter { name, value } => self.add_parameter(name, value),
            Instruction::Template(text) => self.template = Some(text.clone()),
            Instruction::System(text) => self.system = Some(text.clone()),
            Instruction::Message { role, content } => self.messages.push((*role, content.clone())),
            Instruction::License(text) => self.license.push(text.clone()),
            Instruction::Requires(text) => self.requires = Some(text.clone()),
            // Collected together: they mean something only beside each other.
            Instruction::Dataset { .. } | Instruction::Train(_) | Instruction::Hyper { .. } => {}
            Instruction::Draft(_) | Instruction::Quantize(_) => {}
            Instruction::Reserved { word, text } => return Err(not_yet(position, *word, text)),
        }
        Ok(())
    }

    fn add_parameter(&mut self, name: &str, value: &ParameterValue) {
        let added = match value {
            ParameterValue::Text(text) => vec![text.clone()],
            ParameterValue::Texts(texts) => texts.clone(),
            _ => {
                self.parameters.insert(name.to_owned(), value.clone());
                return;
            }
        };
        match self
            .parameters
            .entry(name.to_owned())
            .or_insert_with(|| ParameterValue::Texts(Vec::new()))
        {
            ParameterValue::Texts(texts) => texts.extend(added),
            other => *other = ParameterValue::Texts(added),
        }
    }

    /// Returns the options as the APIs carry them.
    pub fn parameters_json(&self) -> serde_json::Map<String, serde_json::Value> {
        self.parameters
            .iter()
            .map(|(name, value)| (name.clone(), value.to_json()))
            .collect()
    }

    /// Returns a Modelfile that amounts to this plan, in the customary order. Printed, it recreates the model.
    pub fn to_modelfile(&self) -> Modelfile {
        let from = self.from.iter().map(|source| Instruction::From(source.text.clone()));
        let adapters = self.adapters.iter().map(|adapter| Instruction::Adapter {
            path: adapter.path.clone(),
            name: adapter.name.clone(),
        });
        let parameters = self.parameters.iter().flat_map(|(name, value)| {
            let values = match value {
                ParameterValue::Texts(texts) => texts.iter().cloned().map(ParameterValue::Text).collect(),
                other => vec![other.clone()],
            };
            values.into_iter().map(|value| Instruction::Parameter {
                name: name.clone(),
                value,
            })
        });
        let messages = self.messages.iter().map(|(role, content)| Instruction::Message {
            role: *role,
            content: content.clone(),
        });
        from.chain(adapters)
            .chain(self.draft.iter().map(|draft| Instruction::Draft(draft.text.clone())))
            .chain(self.training.iter().flat_map(Training::instructions))
            .chain(self.quantize.clone().map(Instruction::Quantize))
            .chain(self.requires.clone().map(Instruction::Requires))
            .chain(self.template.clone().map(Instruction::Template))
            .chain(self.system.clone().map(Instruction::System))
            .chain(parameters)
            .chain(messages)
            .chain(self.license.iter().cloned().map(Instruction::License))
            .collect()
    }
}

impl Training {
    fn instructions(&self) -> Vec<Instruction> {
        let datasets = self.datasets.iter().map(|dataset| Instruction::Dataset {
            paths: dataset.paths.clone(),
            is_validation: dataset.is_validation,
        });
        let hyper = self.hyper.iter().map(|hyper| Instruction::Hyper {
            key: hyper.key.clone(),
            value: hyper.value.clone(),
        });
        datasets.chain([Instruction::Train(self.method)]).chain(hyper).collect()
    }
}

fn not_yet(position: Position, word: ReservedWord, text: &str) -> ModelfileError {
    let (message, hint) = match word {
        ReservedWord::Renderer | ReservedWord::Parser => (
            format!(
                "`{}` names a part of Ollama itself, and this program does not have it yet",
                word.as_str()
            ),
            "remove the line: the model's own chat template is used then",
        ),
        _ => (
            format!(
                "`{}` is kept for a step that this version does not do yet",
                word.as_str()
            ),
            "remove the line for now, and name finished weights with `FROM` and `ADAPTER`",
        ),
    };
    ModelfileError::new(
        Problem::NotYet,
        position,
        &format!("{} {text}", word.as_str()),
        message,
        hint,
    )
}
