//! Tells Go templates from Jinja templates. Both write `{{ }}`; only Go's actions begin with a dot, a dollar or a Go keyword.

/// Go's keywords that begin an action inside `{{ }}`. None of them begins a Jinja expression.
const KEYWORDS: [&str; 9] = [
    "if", "else", "end", "range", "with", "template", "block", "define", "break",
];

/// Says whether a template is written in Go's template language (`{{ .Prompt }}`, `{{- range .Messages }}`), as Ollama's are.
///
/// Decided by the first action that only one of the languages has: a `{% %}` tag is Jinja's, a dot, a dollar or a keyword of Go right behind
/// `{{` is Go's. A text without any is not a Go template.
pub fn is_go_template(source: &str) -> bool {
    let mut rest = source;
    while let Some(open) = rest.find('{') {
        rest = &rest[open + 1..];
        if rest.starts_with('%') {
            return false;
        }
        let Some(action) = rest.strip_prefix('{') else { continue };
        let action = action.strip_prefix('-').unwrap_or(action).trim_start();
        if action.starts_with(['.', '$']) || action.starts_with("/*") {
            return true;
        }
        let word_end = action
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(action.len());
        if KEYWORDS.contains(&&action[..word_end]) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::is_go_template;

    #[test]
    fn the_first_telling_action_decides() {
        for go in [
            "{{ .Prompt }}",
            "<s>{{- if .System }}{{ .System }}{{ end }}",
            "{{ range .Messages }}",
            "{{- range $i, $_ := .Messages }}",
            "{ {{ $last := 1 }}",
            "{{- /* comment */ -}}",
            "{{with .Tools}}",
        ] {
            assert!(is_go_template(go), "{go}");
        }
        for jinja in [
            "",
            "plain {",
            "{{ bos_token }}",
            "{% for m in messages %}{{ m.content }}{% endfor %}",
            "{{ '.Prompt' }}",
            "{{ iffy }}",
            "{# c #}{%- if x %}{{ .5 }}{% endif %}",
        ] {
            assert!(!is_go_template(jinja), "{jinja}");
        }
    }
}
