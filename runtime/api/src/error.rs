//! The body of every answer that is an error.

use serde::{Deserialize, Serialize};
use witness_diagnostics::{Diagnostic, Kind};

/// `{"error": ..}` as Ollama's clients read it, and the rest of a [`Diagnostic`] for ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What happened, with its causes in one line.
    pub error: String,
    /// Stable code, such as `witness::registry::not_found`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// Whose fault it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Why, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// How to get out of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
    /// Name of the request in the daemon's log.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
}

impl From<&Diagnostic> for ErrorBody {
    fn from(diagnostic: &Diagnostic) -> Self {
        Self {
            error: diagnostic.to_string(),
            code: diagnostic.code.clone(),
            kind: Some(diagnostic.kind),
            causes: diagnostic.causes.clone(),
            hints: diagnostic.hints.clone(),
            request_id: String::new(),
        }
    }
}

impl From<ErrorBody> for Diagnostic {
    /// Rebuilds the diagnostic. A body that another server wrote becomes [`Kind::Internal`] unless the caller sets a kind from the status.
    fn from(body: ErrorBody) -> Self {
        let code = if body.code.is_empty() {
            "witness::api::error".to_owned()
        } else {
            body.code
        };
        // `error` ends with the causes; they are listed again for readers that take them apart.
        let tail: String = body.causes.iter().map(|cause| format!(": {cause}")).collect();
        let message = body.error.strip_suffix(&tail).unwrap_or(&body.error).to_owned();
        let mut diagnostic = Diagnostic::new(code, body.kind.unwrap_or(Kind::Internal), message);
        diagnostic.causes = body.causes;
        diagnostic.hints = body.hints;
        diagnostic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_crosses_unchanged() {
        let before = Diagnostic::new("witness::a::b", Kind::NotFound, "model `x` is not here")
            .cause("no manifest")
            .hint("run `witness list`");
        let json = serde_json::to_string(&ErrorBody::from(&before)).unwrap();
        assert_eq!(
            json,
            r#"{"error":"model `x` is not here: no manifest","code":"witness::a::b","kind":"not_found","causes":["no manifest"],"hints":["run `witness list`"]}"#
        );
        assert_eq!(
            Diagnostic::from(serde_json::from_str::<ErrorBody>(&json).unwrap()),
            before
        );
    }

    #[test]
    fn a_strangers_error_is_still_read() {
        let body: ErrorBody = serde_json::from_str(r#"{"error":"model 'x' not found"}"#).unwrap();
        assert_eq!(Diagnostic::from(body).message, "model 'x' not found");
    }
}
