//! Where rows come from, and Axolotl's options for reading them.
//!
//! The rows themselves are read elsewhere, in one of a few shapes (`messages`, ShareGPT, prompt and completion, instruction, text). What a
//! recipe says of its fields is either one of these, or a renaming that [`RowFields::apply`] does.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use crate::convert::unknown_inner;
use crate::draft::{Draft, Field};
use crate::error::{Fault, Problem};
use crate::node::{Entry, Value};
use crate::read::{self, Expected};

type Done = Result<(), Fault>;

/// Most files that one key may list. Folders and patterns name more.
const PATHS_MAX: usize = 10_000;

/// A file, folder or pattern of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DataSource {
    /// As written.
    pub path: String,
    /// What its fields are called, where it is not what is told from the rows themselves.
    #[serde(skip_serializing_if = "RowFields::is_default")]
    pub fields: RowFields,
}

/// Names of fields in rows of another shape.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RowFields {
    /// The field with the messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<String>,
    /// Who speaks, within a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// What is said, within a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Other spellings of roles: as written to `system`, `user`, `assistant` or `tool`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub roles: BTreeMap<String, String>,
    /// Other fields: as written to what they are here (`text`, `instruction`, `input`, `output`, `system`, `tools`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub renamed: BTreeMap<String, String>,
    /// Leave out system messages.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub drops_system: bool,
}

impl RowFields {
    /// Whether rows are read as they stand.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Brings a row to the shape that is read here. A row without the fields stays as it is, and is found faulty when it is read.
    pub fn apply(&self, row: Json) -> Json {
        let Json::Object(mut row) = row else {
            return row;
        };
        for (from, to) in &self.renamed {
            if let Some(value) = row.remove(from) {
                row.insert(to.clone(), value);
            }
        }
        let field = self.messages.as_deref().unwrap_or("messages");
        if let Some(Json::Array(messages)) = row.remove(field) {
            let messages = messages.into_iter().map(|message| self.message(message));
            let kept = messages.filter(|message| !(self.drops_system && message["role"] == "system"));
            row.insert("messages".to_owned(), kept.collect());
        }
        Json::Object(row)
    }

    fn message(&self, message: Json) -> Json {
        let Json::Object(mut message) = message else {
            return message;
        };
        for (from, to) in [(&self.role, "role"), (&self.content, "content")] {
            if let Some(from) = from
                && from != to
                && let Some(value) = message.remove(from)
            {
                message.insert(to.to_owned(), value);
            }
        }
        if let Some(Json::String(role)) = message.get_mut("role")
            && let Some(known) = self.roles.get(role)
        {
            *role = known.clone();
        }
        Json::Object(message)
    }
}

/// Ours: a path or a list of paths, each also as a map with Axolotl's options.
pub(crate) fn data(draft: &mut Draft, field: &Field) -> Done {
    let sources = paths(draft, field)?;
    claim(draft, field, "data", &sources)?;
    draft.data = sources;
    Ok(())
}

/// The same for the rows to measure on.
pub(crate) fn validation(draft: &mut Draft, field: &Field) -> Done {
    let sources = paths(draft, field)?;
    claim(draft, field, "validation", &sources)?;
    draft.validation = sources;
    Ok(())
}

fn claim(draft: &mut Draft, field: &Field, target: &str, sources: &[DataSource]) -> Done {
    let paths: Vec<&str> = sources.iter().map(|source| source.path.as_str()).collect();
    draft.set(field, target, json!(paths))
}

fn paths(draft: &mut Draft, field: &Field) -> Result<Vec<DataSource>, Fault> {
    let expected = || Expected::new("a path or a list of paths");
    let items = match &field.node.value {
        Value::List(items) => items.clone(),
        _ => vec![field.node.clone()],
    };
    if items.len() > PATHS_MAX {
        let message = format!(
            "`{}` lists {} paths; at most {PATHS_MAX} are read",
            field.label,
            items.len()
        );
        return Err(Fault::new(
            Problem::Limit,
            field.position,
            message,
            "name a folder or a pattern",
        ));
    }
    let mut sources = Vec::new();
    for item in &items {
        match &item.value {
            Value::Text(path) if !path.is_empty() => sources.push(DataSource {
                path: path.clone(),
                fields: RowFields::default(),
            }),
            Value::Map(_) => sources.extend(dataset(
                draft,
                &Field {
                    node: item.clone(),
                    ..field.clone()
                },
            )?),
            _ => return Err(field.refuse(expected())),
        }
    }
    match sources.is_empty() {
        true => Err(field.refuse(expected())),
        false => Ok(sources),
    }
}

pub(crate) fn datasets(draft: &mut Draft, field: &Field) -> Done {
    let first = draft.account.len();
    let sources = listed(draft, field)?;
    if sources.is_empty() {
        return Ok(());
    }
    let paths = json!(sources.iter().map(|source| &source.path).collect::<Vec<_>>());
    draft.hold_by(field, "data", paths, first)?;
    draft.data = sources;
    Ok(())
}

pub(crate) fn test_datasets(draft: &mut Draft, field: &Field) -> Done {
    let first = draft.account.len();
    let sources = listed(draft, field)?;
    if sources.is_empty() {
        return Ok(());
    }
    let paths = json!(sources.iter().map(|source| &source.path).collect::<Vec<_>>());
    draft.hold_by(field, "validation", paths, first)?;
    draft.validation = sources;
    Ok(())
}

fn listed(draft: &mut Draft, field: &Field) -> Result<Vec<DataSource>, Fault> {
    let Value::List(items) = &field.node.value else {
        // One alone, or a path: what people write before they know the list.
        return paths(draft, field);
    };
    let mut sources = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let inner = Field {
            key: field.key.clone(),
            label: format!("{}[{index}]", field.label),
            node: item.clone(),
            position: Some(item.position).filter(|at| at.line > 0).or(field.position),
        };
        match &item.value {
            Value::Map(_) => sources.extend(dataset(draft, &inner)?),
            Value::Text(path) => {
                draft.honoured(&inner, "data");
                sources.push(DataSource {
                    path: path.clone(),
                    fields: RowFields::default(),
                });
            }
            _ => return Err(inner.refuse(Expected::new("a map with `path` and `type`"))),
        }
    }
    Ok(sources)
}

/// Keys of one data set.
const DATASET_KEYS: &[&str] = &[
    "path",
    "type",
    "split",
    "name",
    "data_files",
    "ds_type",
    "field",
    "field_messages",
    "field_system",
    "field_instruction",
    "field_input",
    "field_output",
    "field_tools",
    "field_human",
    "field_model",
    "field_thinking",
    "template_thinking_key",
    "message_property_mappings",
    "message_field_role",
    "message_field_content",
    "message_field_training",
    "message_field_training_detail",
    "roles",
    "roles_to_train",
    "train_on_eos",
    "train_on_eot",
    "drop_system_message",
    "chat_template",
    "chat_template_jinja",
    "conversation",
    "shards",
    "shards_idx",
    "preprocess_shards",
    "split_thinking",
    "revision",
    "trust_remote_code",
    "input_format",
    "input_transform",
    "text_column",
    "skip",
];

/// Reads one data set of an Axolotl file.
fn dataset(draft: &mut Draft, field: &Field) -> Result<Vec<DataSource>, Fault> {
    let Value::Map(entries) = &field.node.value else {
        return Err(field.refuse(Expected::new("a map with `path` and `type`")));
    };
    let mut read = Reader::default();
    for entry in entries {
        let inner = field.inner(&entry.key, &entry.node, Some(entry.position));
        if inner.node.value == Value::Null {
            draft.no_effect(&inner, "empty, so the default holds");
            continue;
        }
        if let Err(fault) = read.key(draft, &inner, entry) {
            draft.fault(fault);
        }
    }
    read.finish(field)
}

#[derive(Default)]
struct Reader {
    path: Option<String>,
    files: Vec<String>,
    fields: RowFields,
}

/// Names of file formats that Axolotl writes in place of a path.
const FORMATS: [&str; 6] = ["json", "jsonl", "text", "csv", "parquet", "arrow"];

impl Reader {
    fn key(&mut self, draft: &mut Draft, field: &Field, entry: &Entry) -> Done {
        match entry.key.as_str() {
            "path" => {
                self.path = Some(field.read(read::text)?);
                draft.honoured(field, "data");
            }
            "data_files" => {
                self.files = field.read(read::texts)?;
                draft.honoured(field, "data");
            }
            "type" => return self.kind(draft, field),
            "split" => match field.read(read::text)?.trim() {
                "train" => draft.no_effect(field, "a file is one split: all of its rows"),
                _ => return Err(field.not_yet("a part of a file (write that part to a file of its own)")),
            },
            "ds_type" => match field.read(read::text)?.trim() {
                "json" | "jsonl" | "text" => draft.no_effect(field, "the shape is told from the rows"),
                _ => return Err(field.not_yet("rows that are not JSONL or text")),
            },
            "field" | "text_column" => self.rename(draft, field, "text")?,
            "field_messages" => {
                let name = field.read(read::text)?;
                draft.honoured(field, format!("messages from `{name}`"));
                self.fields.messages = Some(name);
            }
            "field_system" => self.rename(draft, field, "system")?,
            "field_instruction" => self.rename(draft, field, "instruction")?,
            "field_input" => self.rename(draft, field, "input")?,
            "field_output" => self.rename(draft, field, "output")?,
            "field_tools" => self.rename(draft, field, "tools")?,
            "message_field_role" => {
                self.fields.role = Some(field.read(read::text)?);
                draft.honoured(field, "who speaks");
            }
            "message_field_content" => {
                self.fields.content = Some(field.read(read::text)?);
                draft.honoured(field, "what is said");
            }
            "message_property_mappings" => self.mappings(draft, field)?,
            "message_field_training" => match field.read(read::text)?.as_str() {
                "train" | "training" | "weight" => {
                    draft.honoured(field, "messages say themselves whether they are learned");
                }
                _ => {
                    return Err(
                        field.not_yet("another field than `train`, `training` or `weight` to choose messages by")
                    );
                }
            },
            "roles" => self.roles(draft, field)?,
            "roles_to_train" => {
                let roles = field.read(read::texts)?;
                draft.set(field, "roles_to_train", json!(roles))?;
            }
            "train_on_eos" | "train_on_eot" => {
                let ends = field.read(|node| read::word(node, &["turn", "all", "last", "none"]))?;
                draft.set(field, "train_on_eos", json!(ends))?;
            }
            "drop_system_message" => {
                self.fields.drops_system = field.read(read::flag)?;
                draft.honoured(field, "system messages are left out");
            }
            "chat_template" => return crate::convert::chat_template(draft, field),
            "chat_template_jinja" => return crate::convert::template(draft, field),
            "conversation" => draft.no_effect(field, "the model's chat template lays rows out"),
            "name" | "revision" | "trust_remote_code" => draft.no_effect(field, "the rows are files on this machine"),
            "preprocess_shards"
            | "input_format"
            | "input_transform"
            | "field_thinking"
            | "template_thinking_key"
            | "split_thinking"
            | "field_human"
            | "field_model"
                if field.node.is_off() =>
            {
                draft.no_effect(field, "off, as it is here");
            }
            "preprocess_shards" => draft.no_effect(field, "rows are prepared anew in each run"),
            "field_thinking" | "template_thinking_key" => match field.read(read::text)?.as_str() {
                "reasoning_content" | "thinking" => {
                    draft.honoured(field, "rows may hold it under this name");
                }
                _ => return Err(field.not_yet("thoughts under another name")),
            },
            "shards"
            | "shards_idx"
            | "skip"
            | "message_field_training_detail"
            | "split_thinking"
            | "input_format"
            | "input_transform"
            | "field_human"
            | "field_model" => match field.node.is_off() {
                true => draft.no_effect(field, "off, as it is here"),
                false => return Err(field.not_yet("a part of the rows, or rows of another form")),
            },
            other => return Err(unknown_inner(field, other, DATASET_KEYS)),
        }
        Ok(())
    }

    fn rename(&mut self, draft: &mut Draft, field: &Field, target: &str) -> Done {
        let name = field.read(read::text)?;
        draft.honoured(field, format!("`{target}` from `{name}`"));
        if name != target {
            self.fields.renamed.insert(name, target.to_owned());
        }
        Ok(())
    }

    fn kind(&mut self, draft: &mut Draft, field: &Field) -> Done {
        if let Value::Map(entries) = &field.node.value {
            for entry in entries {
                let inner = field.inner(&entry.key, &entry.node, Some(entry.position));
                match entry.key.as_str() {
                    "field_system" | "field_instruction" | "field_input" | "field_output" => {
                        self.key(draft, &inner, entry)?
                    }
                    _ if inner.node.is_off() => draft.no_effect(&inner, "off, as it is here"),
                    _ => return Err(inner.not_yet("a layout of one's own; the model's chat template lays rows out")),
                }
            }
            return Ok(());
        }
        let said = field.read(read::text)?;
        let (kind, _) = said.split_once('.').unwrap_or((&said, ""));
        match kind {
            "chat_template" => draft.honoured(field, "conversations, laid out by the chat template"),
            "sharegpt" | "sharegpt_simple" | "chatml" | "llama3" => {
                draft.honoured(field, "conversations, laid out by the chat template")
            }
            "completion" | "pretrain" => draft.honoured(field, "texts, learned as they stand"),
            "alpaca" | "alpaca_chat" | "alpaca_w_system" | "alpaca_w_system2" | "open_orca" | "gpteacher"
            | "jeopardy" | "oasst" | "explainchoice" | "concisechoice" | "summarizetldr" | "reflection"
            | "creative_acr" => {
                if kind != "alpaca_chat" {
                    draft.warn(format!(
                        "`{}: {said}`: questions and answers are laid out by the model's chat template, not by `{kind}`'s own text",
                        field.label
                    ));
                }
                draft.honoured(field, "questions and answers, laid out by the chat template")
            }
            "input_output"
            | "stepwise_supervised"
            | "context_qa"
            | "user_defined"
            | "metharme"
            | "pygmalion"
            | "_synthetic" => {
                return Err(field.not_yet("rows of another form"));
            }
            _ => {
                return Err(field.refuse(Expected {
                    what: "chat_template, alpaca, sharegpt or completion".to_owned(),
                    hint: witness_diagnostics::near_miss(kind, ["chat_template", "alpaca", "sharegpt", "completion"])
                        .map(|near| format!("did you mean `{near}`?"))
                        .unwrap_or_else(|| "conversations have the type `chat_template`".to_owned()),
                }));
            }
        };
        Ok(())
    }

    fn mappings(&mut self, draft: &mut Draft, field: &Field) -> Done {
        for (to, from) in field.read(read::map)? {
            let Json::String(from) = from else {
                return Err(field.refuse(Expected::new("a map of names, as in `{role: from, content: value}`")));
            };
            match to.as_str() {
                "role" => self.fields.role = Some(from),
                "content" => self.fields.content = Some(from),
                // Templates know these under their own names.
                _ if to == from => {}
                _ => return Err(field.not_yet(&format!("another name for `{to}`"))),
            }
        }
        draft.honoured(field, "names of the fields of a message");
        Ok(())
    }

    fn roles(&mut self, draft: &mut Draft, field: &Field) -> Done {
        let map: Map<String, Json> = field.read(read::map)?;
        for (role, spellings) in map {
            let spellings = match spellings {
                Json::String(one) => vec![one],
                Json::Array(many) => many.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
                _ => return Err(field.refuse(Expected::new("lists of spellings, as in `{assistant: [gpt]}`"))),
            };
            if !["system", "user", "assistant", "tool"].contains(&role.as_str()) {
                return Err(field.not_yet(&format!("the role `{role}`")));
            }
            self.fields
                .roles
                .extend(spellings.into_iter().map(|spelling| (spelling, role.clone())));
        }
        draft.honoured(field, "spellings of roles");
        Ok(())
    }

    fn finish(mut self, field: &Field) -> Result<Vec<DataSource>, Fault> {
        self.forget_what_is_read_anyway();
        let path = self.path.take();
        let is_format = path.as_deref().is_some_and(|path| FORMATS.contains(&path));
        let paths = match (path, std::mem::take(&mut self.files)) {
            (None, files) if files.is_empty() => {
                return Err(Fault::new(
                    Problem::Value,
                    field.position,
                    format!("`{}` has no `path`", field.label),
                    "name the file of rows: `path: data/train.jsonl`",
                ));
            }
            (None, files) => files,
            (Some(_), files) if is_format && !files.is_empty() => files,
            (Some(folder), files) if !files.is_empty() => files
                .iter()
                .map(|file| format!("{}/{file}", folder.trim_end_matches('/')))
                .collect(),
            (Some(path), _) => vec![path],
        };
        let fields = self.fields;
        Ok(paths
            .into_iter()
            .map(|path| DataSource {
                path,
                fields: fields.clone(),
            })
            .collect())
    }

    /// Names that rows are read under in any case need no renaming, so that such files are used as they lie.
    fn forget_what_is_read_anyway(&mut self) {
        let fields = &mut self.fields;
        const SPELLINGS: &[(&str, &str)] = &[
            ("human", "user"),
            ("user", "user"),
            ("gpt", "assistant"),
            ("chatgpt", "assistant"),
            ("bot", "assistant"),
            ("model", "assistant"),
            ("assistant", "assistant"),
            ("developer", "system"),
            ("system", "system"),
            ("tool", "tool"),
            ("function", "tool"),
            ("observation", "tool"),
        ];
        let is_known = |(spelling, role): (&String, &String)| SPELLINGS.contains(&(spelling.as_str(), role.as_str()));
        let has_plain_roles = fields.roles.iter().all(is_known);
        let is_messages = fields.messages.as_deref().is_none_or(|name| name == "messages")
            && fields.role.as_deref().is_none_or(|name| name == "role")
            && fields.content.as_deref().is_none_or(|name| name == "content");
        let is_sharegpt = fields.messages.as_deref().is_none_or(|name| name == "conversations")
            && fields.role.as_deref() == Some("from")
            && fields.content.as_deref() == Some("value");
        if (is_messages || is_sharegpt) && has_plain_roles && !fields.drops_system {
            (fields.messages, fields.role, fields.content) = (None, None, None);
            fields.roles.clear();
        }
    }
}
