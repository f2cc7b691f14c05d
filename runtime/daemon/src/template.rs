//! Which template lays out a prompt. The daemon renders nothing; it chooses what it tells the plugin.
//!
//! A model may carry a template layer (ours: Jinja; Ollama's: Go) and a template of its own inside its files (Jinja). Go templates are
//! not executed yet, so the model's own takes their place, and whoever asks for the model's details is told.

/// How prompts are laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Template {
    /// This Jinja text.
    Jinja(String),
    /// The one in the model's files.
    Own,
    /// None: texts are joined with blank lines.
    Plain,
}

/// What a user should know about the choice for a Go template.
pub(crate) const GO_WITH_OWN: &str = "its template is a Go template, which is not executed yet; the chat template inside the model's files is used instead";
/// The same where there is no other.
pub(crate) const GO_WITHOUT_OWN: &str = "its template is a Go template, which is not executed yet, and its files hold no chat template; messages are joined with blank lines";
/// What a user should know about a model without any template.
pub(crate) const NONE: &str = "it has no chat template; messages are joined with blank lines";

impl Template {
    /// Chooses from the template layer (or the request's template) and the model's own.
    pub(crate) fn choose(layer: Option<&str>, own: Option<&str>) -> Self {
        let fallback = || {
            if own.is_some_and(|own| !own.trim().is_empty()) {
                Template::Own
            } else {
                Template::Plain
            }
        };
        match layer {
            None => fallback(),
            Some(text) if text.trim().is_empty() => fallback(),
            // Ollama's way to say "no layout".
            Some(text) if is_prompt_alone(text) => Template::Plain,
            Some(text) if is_go(text) => fallback(),
            Some(text) => Template::Jinja(text.to_owned()),
        }
    }

    /// Returns what a user should know about the choice.
    pub(crate) fn note(layer: Option<&str>, own: Option<&str>) -> Option<&'static str> {
        let is_go_text = layer.is_some_and(|text| is_go(text) && !is_prompt_alone(text));
        match (Self::choose(layer, own), is_go_text) {
            (Template::Own, true) => Some(GO_WITH_OWN),
            (Template::Plain, true) => Some(GO_WITHOUT_OWN),
            (Template::Plain, false) if layer.is_none() => Some(NONE),
            _ => None,
        }
    }
}

/// Tells whether a template layer is one that Ollama can execute.
pub(crate) fn is_go_layer(layer: Option<&str>) -> bool {
    layer.is_some_and(is_go)
}

fn is_prompt_alone(text: &str) -> bool {
    text.split_whitespace().collect::<String>() == "{{.Prompt}}"
}

/// Tells a Go template from a Jinja one: Go's actions begin with a dot, a `$` or a keyword of Go's, and Jinja's blocks are `{% .. %}`.
pub(crate) fn is_go(text: &str) -> bool {
    const KEYWORDS: [&str; 8] = ["if", "range", "with", "end", "else", "template", "block", "define"];
    if text.contains("{%") {
        return false;
    }
    text.split("{{").skip(1).any(|action| {
        let action = action.trim_start_matches('-').trim_start();
        let word: &str = action
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .next()
            .unwrap_or_default();
        action.starts_with(['.', '$']) || action.starts_with("/*") || KEYWORDS.contains(&word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices() {
        let jinja = "{% for m in messages %}{{ m.content }}{% endfor %}";
        let go = "{{ if .System }}<s>{{ .System }}{{ end }}{{ .Prompt }}";
        for (layer, own, expected) in [
            (None, None, Template::Plain),
            (None, Some(jinja), Template::Own),
            (Some(jinja), Some("x"), Template::Jinja(jinja.into())),
            (Some(go), Some(jinja), Template::Own),
            (Some(go), None, Template::Plain),
            (Some("{{ .Prompt }}"), Some(jinja), Template::Plain),
            (
                Some("{{ messages[0].content }}"),
                None,
                Template::Jinja("{{ messages[0].content }}".into()),
            ),
            (Some(" \n"), Some(jinja), Template::Own),
        ] {
            assert_eq!(Template::choose(layer, own), expected, "{layer:?} {own:?}");
        }
        assert_eq!(Template::note(Some(go), Some(jinja)), Some(GO_WITH_OWN));
        assert_eq!(Template::note(Some(go), None), Some(GO_WITHOUT_OWN));
        assert_eq!(Template::note(None, None), Some(NONE));
        assert_eq!(Template::note(Some("{{ .Prompt }}"), None), None);
        assert_eq!(Template::note(None, Some(jinja)), None);
    }

    #[test]
    fn go_actions() {
        for text in [
            "{{- range .Messages }}",
            "{{.Prompt}}",
            "{{ $x := 1 }}",
            "{{/* note */}}",
            "{{- end -}}",
        ] {
            assert!(is_go(text), "{text}");
        }
        for text in [
            "",
            "plain",
            "{{ bos_token }}",
            "{{ content }}",
            "{{ iffy }}",
            "{% if x %}{{ .5 }}{% endif %}",
        ] {
            assert!(!is_go(text), "{text}");
        }
    }
}
