//! The plain text form of a diagnostic. Meaning never depends on colour.

use crate::{Diagnostic, Kind};

/// Renders a diagnostic as `error[code]: message` with one indented line per cause and hint.
///
/// With `colour` the labels carry ANSI escapes; the words are the same.
pub fn render(diagnostic: &Diagnostic, colour: bool) -> String {
    let paint = |text: &str, ansi: &str| {
        if colour {
            format!("\x1b[{ansi}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    };
    let mut out = format!(
        "{}: {}\n",
        paint(&format!("error[{}]", diagnostic.code), "1;31"),
        diagnostic.message
    );
    for cause in &diagnostic.causes {
        out += &format!("  {}: {}\n", paint("cause", "1"), cause.replace('\n', "\n    "));
    }
    for hint in &diagnostic.hints {
        out += &format!("  {}: {}\n", paint("hint", "1;36"), hint.replace('\n', "\n    "));
    }
    if diagnostic.kind == Kind::Internal {
        out += &format!(
            "  {}: this is a fault in witness; please report it with the lines above\n",
            paint("note", "1")
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_why_and_how_each_have_a_line() {
        let diagnostic = Diagnostic::new(
            "witness::registry::not_found",
            Kind::NotFound,
            "model `wittness` is not here",
        )
        .cause("no manifest of that name")
        .hint("did you mean `witness`?");
        assert_eq!(
            render(&diagnostic, false),
            "error[witness::registry::not_found]: model `wittness` is not here\n  cause: no manifest of that name\n  hint: did you mean `witness`?\n"
        );
    }
}
