//! What is wrong with a row, where, and why: the sentence that a person mends their data by.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Where something stands in a data set. Lines and columns count from 1; columns count characters, as editors do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file as it was named.
    #[serde(serialize_with = "as_text")]
    pub file: Arc<str>,
    /// Line in the file.
    pub line: u64,
    /// Character in the line.
    pub column: u64,
}

fn as_text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// Whether a row can be used in spite of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The row can be trained on; the reader should know.
    Warning,
    /// The row cannot be used.
    Error,
}

macro_rules! fault_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $severity:ident;)+) => {
        /// What kind of fault it is. The names are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FaultCode {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl FaultCode {
            /// Every code, in the order of their severity and of the stages of reading.
            pub const ALL: &[FaultCode] = &[$(FaultCode::$variant,)+];

            /// Returns the stable name, as `--json` prints it.
            pub fn name(self) -> &'static str {
                match self {
                    $(FaultCode::$variant => $name,)+
                }
            }

            /// Returns whether a row with this fault can be used.
            pub fn severity(self) -> Severity {
                match self {
                    $(FaultCode::$variant => Severity::$severity,)+
                }
            }
        }
    };
}

fault_codes! {
    /// A line longer than the limit.
    LineTooLong = "line_too_long", Error;
    /// Bytes that are not UTF-8.
    NotUtf8 = "not_utf8", Error;
    /// A line that is not JSON.
    NotJson = "not_json", Error;
    /// JSON, but not an object.
    NotAnObject = "not_an_object", Error;
    /// An object of none of the known shapes.
    UnknownShape = "unknown_shape", Error;
    /// A key that stands twice in one object.
    DuplicateKey = "duplicate_key", Error;
    /// A key that its shape needs.
    MissingKey = "missing_key", Error;
    /// A value of another type than its key needs.
    WrongType = "wrong_type", Error;
    /// More messages or keys than the limit.
    TooMany = "too_many", Error;
    /// A list without messages.
    NoMessages = "no_messages", Error;
    /// A role that is not known.
    UnknownRole = "unknown_role", Error;
    /// Roles in an order that no chat has.
    RoleOrder = "role_order", Error;
    /// A message without text.
    EmptyContent = "empty_content", Error;
    /// No message of the assistant: nothing to learn.
    NoAssistant = "no_assistant", Error;
    /// The guide's checks: other than system, user, assistant.
    NotThreeMessages = "not_three_messages", Error;
    /// The guide's checks: a code block that is not closed.
    UnclosedCode = "unclosed_code", Error;
    /// A line without anything.
    BlankLine = "blank_line", Warning;
    /// Messages after the last answer, which teach nothing.
    AfterLastAnswer = "after_last_answer", Warning;
    /// The same row again.
    Duplicate = "duplicate", Warning;
    /// The same row again, but for case and white space.
    NearDuplicate = "near_duplicate", Warning;
    /// The guide's checks: a question that was asked before.
    DuplicatePrompt = "duplicate_prompt", Warning;
    /// The guide's checks: an answer of less than 100 characters.
    ShortAnswer = "short_answer", Warning;
    /// The guide's checks: an answer without a `witness run` or `witness verify`.
    NoCommand = "no_command", Warning;
}

impl Serialize for FaultCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One fault of one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// Whether the row can be used.
    pub severity: Severity,
    /// What kind.
    pub code: FaultCode,
    /// What was found, what was wanted, and how to mend it.
    pub message: String,
}

impl Fault {
    /// Makes a fault of a kind at a place.
    pub fn new(place: Place, code: FaultCode, message: impl Into<String>) -> Self {
        Self {
            place,
            severity: code.severity(),
            code,
            message: message.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{}: {severity}[{}]: {}", self.place, self.code.name(), self.message)
    }
}
