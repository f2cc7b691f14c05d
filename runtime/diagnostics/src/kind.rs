//! Whose fault an error is. The kind alone decides the exit code and the HTTP status.

use serde::{Deserialize, Serialize};

/// The class of a [`crate::Diagnostic`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The request, flag or file that the user gave is wrong.
    Invalid,
    /// What was named does not exist.
    NotFound,
    /// What was asked for contradicts what is there.
    Conflict,
    /// The request is sound, but this version or plugin cannot do it.
    Unsupported,
    /// The caller may not do this.
    Forbidden,
    /// Too much is asked at once; the same request may succeed later.
    Busy,
    /// Something stored is damaged.
    Damaged,
    /// The machine refused: disk full, no permission, no memory, no daemon.
    Environment,
    /// A plugin or its worker process failed.
    Plugin,
    /// The caller went away or asked to stop.
    Cancelled,
    /// A fault of this program: the only kind that asks for a report.
    Internal,
}

impl Kind {
    /// Returns the process exit code that this kind ends with. Documented in the README; stable.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Invalid => 2,
            Kind::NotFound => 3,
            Kind::Conflict => 4,
            Kind::Unsupported => 5,
            Kind::Forbidden => 6,
            Kind::Busy => 7,
            Kind::Damaged => 8,
            Kind::Environment => 9,
            Kind::Plugin => 10,
            Kind::Internal => 70,
            Kind::Cancelled => 130,
        }
    }

    /// Returns the HTTP status that this kind is answered with.
    pub fn http_status(self) -> u16 {
        match self {
            Kind::Invalid => 400,
            Kind::NotFound => 404,
            Kind::Conflict => 409,
            Kind::Unsupported => 501,
            Kind::Forbidden => 403,
            Kind::Busy => 503,
            Kind::Cancelled => 499,
            Kind::Environment => 507,
            Kind::Damaged | Kind::Plugin | Kind::Internal => 500,
        }
    }
}
