//! Templates that were written to harm: each ends with a clear error, and none takes much time or memory.
//!
//! The tests assert the kind of the error; that they end at all is the point. Together they take about two seconds in the dev profile,
//! because each uses up its whole allowance of work, twice.

use serde_json::json;
use witness_diagnostics::Diagnostic;
use witness_template::{ChatTemplate, CivilTime, RenderInput, TemplateError, limits};

fn render(source: &str) -> Result<String, TemplateError> {
    let messages = json!([{"role": "user", "content": "hi"}]);
    let template = ChatTemplate::compile(source)?;
    let input = RenderInput::new(&messages, CivilTime::from_unix(0));
    let result = template.render(&input);
    let marked = template.render_marked(&input);
    assert_eq!(result.is_ok(), marked.is_ok(), "{source}: {result:?} {marked:?}");
    result
}

/// Says that a limit was met: of work, of size or of depth.
fn is_bounded(result: &Result<String, TemplateError>) -> bool {
    match result {
        Err(TemplateError::OutOfFuel { .. } | TemplateError::TooLarge { .. }) => true,
        Err(TemplateError::Failed { detail, .. }) => {
            ["recursion", "too deep", "too many", "too large", "limit", "exceed"]
                .iter()
                .any(|word| detail.contains(word))
        }
        _ => false,
    }
}

#[test]
fn work_and_size_are_bounded() {
    for source in [
        // Endless or nearly endless loops.
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        // Texts that double, and lists of themselves.
        "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s=['x']) %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson }}",
        "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | string }}",
        "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s ~ 'x' }}",
        "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ''.join([ns.s]) }}",
        "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ [ns.s] | join }}",
        "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = {'a': ns.s, 'b': ns.s} %}{% endfor %}{{ ns.s | pprint }}",
        "{% set ns = namespace(s='x') %}{% for i in range(500) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='x') %}{% for i in range(100000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='x') %}{% for i in range(9999) %}{% for j in range(100) %}{% set ns.s = (ns.s, 1) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s={}) %}{% for i in range(9999) %}{% for j in range(100) %}{% set ns.s = dict(ns.s, a=ns.s) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s=1) %}{% for i in range(9999) %}{% for j in range(100) %}{% set ns.s = namespace(a=ns.s) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(9999) %}{% for j in range(100) %}{% set ns.s = ns.s[1:] %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(9999) %}{% for j in range(100) %}{% set ns.s = ns.s | batch(2) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s=[1], t=[1]) %}{% for i in range(100) %}{% set ns.s = [ns.s, ns.s] %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}{{ ns.s == ns.t }}",
        // One large value.
        "{{ 'x' * 1000000000000 }}",
        "{{ ['x'] * 1000000000000 }}",
        "{{ ('x' * 2000000).replace('x', 'x' * 2000000) }}",
        "{{ ('x' * 2000000).replace('', 'x' * 2000000) }}",
        "{{ ('x' * 2000000) | replace('x', 'x' * 2000000) }}",
        "{{ ('x' * 2000000).split('x') | length }}",
        "{{ (' x' * 2000000).split() | length }}",
        "{{ ('\n' * 2000000).splitlines() | length }}",
        "{{ ('x' * 10000).join(['y'] * 10000) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:.1000000000f}'.format(1.5) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ 'x' * 20000000 }}",
        "{% for i in range(20) %}{{ 'x' * 1000000 }}{% endfor %}",
    ] {
        let result = render(source);
        assert!(is_bounded(&result), "{source}: {:?}", result.map(|text| text.len()));
    }
}

/// These need not fail: Python allows some. They must answer.
#[test]
fn odd_templates_are_answered() {
    for source in [
        "{{ '%1000000000d' | format(1) }}",
        "{{ 'x' | indent(1000000000) }}",
        "{{ 'x' | center(1000000000) }}",
        "{{ [1] | tojson(indent=1000000000) }}",
        "{{ [1] | tojson(indent='x' * 2000000) }}",
        "{{ [[[1]]] | tojson(separators=('x' * 1000000, ':')) }}",
        "{{ range(1000000000) | list | length }}",
        "{{ (range(9999) | list) | sort | length }}",
        "{{ strftime_now('%Y' * 1000000) | length }}",
        "{{ 10 ** 1000 }}",
        "{{ 2 ** 63 * 2 ** 63 * 2 ** 63 }}",
        "{{ 1 // 0 }}",
        "{{ 1 % 0 }}",
        "{{ 5[0] }}",
        "{{ messages[99999999999999999999] }}",
        "{{ messages[-9223372036854775808] }}",
        "{{ 'ä日😀'[1:2] }}{{ 'ä'[::-1] }}",
        "{{ 'x'[::0] }}",
        "{% include 'x' %}",
        "{% extends 'chat_template' %}",
        "{% include 'chat_template' %}",
        "{% block a %}{{ self.a() }}{% endblock %}",
        "{% import 'chat_template' as x %}{{ x }}",
        "{{ raise_exception }}",
        "{{ raise_exception() }}",
        "{{ __witness_generation() }}",
        "{{ __witness_generation(caller=1) }}",
        "{{ namespace(a=1).a }}",
        "{{ lipsum() }}",
        "{{ debug() }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
    ] {
        let _ = render(source);
    }
}

/// Nesting is bounded where it is parsed, too.
#[test]
fn deep_sources_do_not_parse() {
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("{'a':", "}"),
        ("not ", ""),
        ("-", ""),
        ("x.", ""),
        ("x|string|", ""),
    ] {
        for n in [140, 300, 20_000] {
            let _ = render(&format!("{{{{ {}1{} }}}}", open.repeat(n), close.repeat(n)));
        }
    }
    let ifs = format!("{}{}", "{% if 1 %}".repeat(5_000), "{% endif %}".repeat(5_000));
    assert!(render(&ifs).is_err());
    let _ = render(&"{% if 1 %}".repeat(10_000));
    assert!(
        render(&format!(
            "{{% if x %}}{}{{% endif %}}",
            "{% elif x %}".repeat(limits::ELIFS_MAX)
        ))
        .is_ok()
    );
    assert!(
        render(&format!(
            "{{% if x %}}{}{{% endif %}}",
            "{% elif x %}".repeat(limits::ELIFS_MAX + 1)
        ))
        .is_err()
    );
    let _ = render(&format!(
        "{{% set a = 1 %}}{}",
        "{%set a=[a]%}".repeat(limits::SOURCE_BYTES_MAX / 14)
    ));
    let _ = render(&format!("{{{{ {} }}}}", vec!["1"; 100_000].join("+")));
    assert_eq!(
        ChatTemplate::compile(&"x".repeat(limits::SOURCE_BYTES_MAX + 1)).err(),
        Some(TemplateError::SourceTooLong {
            n_bytes: limits::SOURCE_BYTES_MAX + 1
        })
    );
}

/// A long conversation earns the work that it needs.
#[test]
fn long_conversations_are_rendered() {
    let source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}{% if m.content.startswith('x') %}!{% endif %}\n{% endfor %}";
    let template = ChatTemplate::compile(source).expect("compiles");
    let message = json!({"role": "user", "content": "words and words ".repeat(20)});
    let messages = serde_json::Value::from(vec![message; 20_000]);
    let text = template
        .render(&RenderInput::new(&messages, CivilTime::from_unix(0)))
        .expect("renders");
    assert!(text.len() > 6_000_000);
}

/// Every truncation of a real-looking template is a template or an error.
#[test]
fn truncated_sources_are_answered() {
    let source = "{%- set ns = namespace(a=1) -%}{# ä #}{% for m in messages %}{% generation %}{{ '<|' ~ m['role'] + \"|>\" }}\
        {%- if m.content is string and not m.tools %}{{ m.content | trim | tojson(indent=2) }}{% elif loop.first %}\
        {% raw %}{{ x }}{% endraw %}{% else %}x{% endif %}{% endgeneration %}{% continue %}{% endfor %}{% macro f(a, b=2) %}{{ a }}{% endmacro %}{{ f(1) }}";
    for end in (0..=source.len()).filter(|end| source.is_char_boundary(*end)) {
        let _ = render(&source[..end]);
    }
    assert!(render(source).is_ok());
}

#[test]
fn errors_are_told_apart() {
    let code = |source: &str| Diagnostic::from(render(source).expect_err("an error")).code;
    assert_eq!(
        code("{{ raise_exception('roles must alternate') }}"),
        "witness::template::refused"
    );
    assert_eq!(code("{% for %}"), "witness::template::invalid");
    assert_eq!(code("\n\n{{ messages.nothing.nothing }}"), "witness::template::failed");
    assert_eq!(code("{{ 'x' * 99999999999 }}"), "witness::template::limit");
    assert_eq!(code("{{ .Prompt }}"), "witness::template::go_template");
    assert_eq!(
        render("{{ raise_exception('roles must alternate') }}"),
        Err(TemplateError::Refused {
            message: "roles must alternate".to_owned()
        })
    );
    assert!(matches!(
        render("\n\n{{ messages.nothing.nothing }}"),
        Err(TemplateError::Failed { line: 3, .. })
    ));
    assert!(matches!(
        render("x\n{% for %}"),
        Err(TemplateError::Syntax { line: 2, .. })
    ));
}
