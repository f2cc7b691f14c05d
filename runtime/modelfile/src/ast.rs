//! The instructions of a Modelfile, each with the place it was read from.

use crate::parameters::ParameterValue;

/// A parsed Modelfile: its instructions in order, comments left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Modelfile {
    /// The instructions.
    pub commands: Vec<Command>,
    /// Name of the file, for errors; not part of equality's meaning when files are compared by [`Modelfile::commands`].
    pub(crate) file: SourceName,
}

/// The name a Modelfile was read under. Two Modelfiles are equal whatever their names.
#[derive(Clone, Debug, Default)]
pub(crate) struct SourceName(pub(crate) String);

impl PartialEq for SourceName {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

/// One instruction and where it stands.
#[derive(Clone, Debug)]
pub struct Command {
    /// Where its word begins. Not part of equality: a printed Modelfile has other lines and the same meaning.
    pub position: Position,
    /// What it says.
    pub instruction: Instruction,
}

impl PartialEq for Command {
    fn eq(&self, other: &Self) -> bool {
        self.instruction == other.instruction
    }
}

/// A place in a text, counted from 1; columns count characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// What a line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Instruction {
    /// `FROM`: a model's name, a file or a directory. Repeated for the parts of a split file.
    From(String),
    /// `ADAPTER`: a PEFT directory or a GGUF LoRA file, with an optional name.
    Adapter {
        /// The path as written.
        path: String,
        /// The name behind `AS`.
        name: Option<String>,
    },
    /// `DRAFT`: a small model that guesses tokens ahead of the base; a name, a file or a directory.
    Draft(String),
    /// `PARAMETER`: one option of generation or loading.
    Parameter {
        /// Its name, as in [`crate::parameters::TABLE`].
        name: String,
        /// Its value, of the type that the table says; one text for `stop`.
        value: ParameterValue,
    },
    /// `TEMPLATE`: the chat template.
    Template(String),
    /// `SYSTEM`: the system message.
    System(String),
    /// `MESSAGE`: one message of a conversation that every chat begins with.
    Message {
        /// Who speaks.
        role: Role,
        /// What is said.
        content: String,
    },
    /// `LICENSE`: one licence text.
    License(String),
    /// `REQUIRES`: the least version of the program that can run the model.
    Requires(String),
    /// `DATASET`: files, folders or patterns of rows to learn from, or to measure on.
    Dataset {
        /// The paths as written; never empty, none of them empty.
        paths: Vec<String>,
        /// Whether they are measured on: `AS validation`.
        is_validation: bool,
    },
    /// `TRAIN`: how the model is trained before it is stored.
    Train(TrainMethod),
    /// `HYPER`: one setting of the training.
    Hyper {
        /// Its name; what it may be is not known here.
        key: String,
        /// Its value as written.
        value: String,
    },
    /// `QUANTIZE`: the storage that the base's weights are brought to, as written; one word, never empty. What names there are is not known here.
    Quantize(String),
    /// A word kept for later, with its value as written.
    Reserved {
        /// The word.
        word: ReservedWord,
        /// The value.
        text: String,
    },
}

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The rules of the conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// Every role, in the order of a conversation.
    pub const ALL: [Role; 3] = [Role::System, Role::User, Role::Assistant];

    /// Returns the word that the APIs use.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// What `TRAIN` trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainMethod {
    /// Adapters beside a frozen base.
    Lora,
    /// The same over a base in 4 bits.
    Qlora,
    /// Every weight.
    Full,
}

impl TrainMethod {
    /// Every method.
    pub const ALL: [TrainMethod; 3] = [TrainMethod::Lora, TrainMethod::Qlora, TrainMethod::Full];

    /// Returns the method as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            TrainMethod::Lora => "lora",
            TrainMethod::Qlora => "qlora",
            TrainMethod::Full => "full",
        }
    }
}

/// Words that parse and that no version of this program acts on yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservedWord {
    /// An evaluation step.
    Eval,
    /// Ollama's name of a built-in prompt writer.
    Renderer,
    /// Ollama's name of a built-in reader of tool calls.
    Parser,
}

impl ReservedWord {
    /// Every reserved word.
    pub const ALL: [ReservedWord; 3] = [ReservedWord::Eval, ReservedWord::Renderer, ReservedWord::Parser];

    /// Returns the word as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            ReservedWord::Eval => "EVAL",
            ReservedWord::Renderer => "RENDERER",
            ReservedWord::Parser => "PARSER",
        }
    }
}

impl Instruction {
    /// The words of the instructions that are acted on.
    pub const WORDS: [&'static str; 13] = [
        "FROM",
        "ADAPTER",
        "DRAFT",
        "PARAMETER",
        "TEMPLATE",
        "SYSTEM",
        "MESSAGE",
        "LICENSE",
        "REQUIRES",
        "DATASET",
        "TRAIN",
        "HYPER",
        "QUANTIZE",
    ];

    /// Returns the word that the instruction begins with.
    pub fn word(&self) -> &'static str {
        match self {
            Instruction::From(_) => "FROM",
            Instruction::Adapter { .. } => "ADAPTER",
            Instruction::Draft(_) => "DRAFT",
            Instruction::Parameter { .. } => "PARAMETER",
            Instruction::Template(_) => "TEMPLATE",
            Instruction::System(_) => "SYSTEM",
            Instruction::Message { .. } => "MESSAGE",
            Instruction::License(_) => "LICENSE",
            Instruction::Requires(_) => "REQUIRES",
            Instruction::Dataset { .. } => "DATASET",
            Instruction::Train(_) => "TRAIN",
            Instruction::Hyper { .. } => "HYPER",
            Instruction::Quantize(_) => "QUANTIZE",
            Instruction::Reserved { word, .. } => word.as_str(),
        }
    }
}

impl From<Instruction> for Command {
    /// An instruction that was not read from a text.
    fn from(instruction: Instruction) -> Self {
        Self {
            position: Position::default(),
            instruction,
        }
    }
}

impl FromIterator<Instruction> for Modelfile {
    fn from_iter<I: IntoIterator<Item = Instruction>>(instructions: I) -> Self {
        Self {
            commands: instructions.into_iter().map(Command::from).collect(),
            file: SourceName::default(),
        }
    }
}

impl Modelfile {
    /// Returns the instructions whose words are kept for later, with their places.
    pub fn reserved_steps(&self) -> impl Iterator<Item = (Position, ReservedWord, &str)> {
        self.commands.iter().filter_map(|command| match &command.instruction {
            Instruction::Reserved { word, text } => Some((command.position, *word, text.as_str())),
            _ => None,
        })
    }
}
