//! Which model a run starts from: a name that is here, also by the name that a hub has for it, or a path that is stored first.

use witness_api::ListResponse;
use witness_client::{Roots, Sources, model_files};
use witness_diagnostics::{Diagnostic, Kind, near_misses};
use witness_modelfile::{Plan, Source};

use super::order::{Order, absolute};
use crate::cli::Create;
use crate::commands::{create, following, names};
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::progress::Bars;

/// Returns the name of the base in the store; nothing when the run makes one. A folder or file is stored as `<model>-base`.
pub(crate) fn find(context: &Context, bars: &Bars, order: &Order, model: &str) -> Outcome<Option<String>> {
    let Some(text) = &order.recipe.base else {
        return Ok(None);
    };
    let source = Source {
        text: text.clone(),
        position: witness_modelfile::Position::default(),
    };
    for place in order.places_of_base(text)? {
        // A folder that only shares the name of a model is no base.
        if place.exists() && (source.is_path() || model_files(&place).is_ok()) {
            let path = absolute(place)?;
            return store(context, bars, &path.display().to_string(), model).map(Some);
        }
    }
    if source.is_path() {
        let tried = order.places_of_base(text)?.into_iter().next().unwrap_or_default();
        // Says why, in the words of `create`.
        model_files(&tried).map_err(Diagnostic::from)?;
    }
    let known: ListResponse = context.wait(context.client.get("/api/tags"))?;
    let names: Vec<&str> = known.models.iter().map(|model| model.name.as_str()).collect();
    match choose(text, &names) {
        Choice::One(name) => {
            if !is_same(text, &name) {
                output::note(&format!("`{text}` is `{name}` here"));
            }
            Ok(Some(name))
        }
        Choice::Several(names) => Err(Diagnostic::new(
            "witness::cli::base",
            Kind::Conflict,
            format!("`{text}` may be each of {}", quoted(&names)),
        )
        .hint(format!("say which: `--base {}`", names[0]))),
        Choice::None => Err(missing(text, &names)),
    }
}

fn store(context: &Context, bars: &Bars, path: &str, model: &str) -> Outcome<String> {
    let name = match model {
        "" => "training-base".to_owned(),
        model => names::with_ending(model, "-base"),
    };
    let plan = Plan {
        from: vec![Source {
            text: path.to_owned(),
            position: witness_modelfile::Position::default(),
        }],
        ..Plan::default()
    };
    let roots = Roots {
        directory: std::path::Path::new(""),
        user_home: None,
    };
    let sources = Sources::find(&plan, roots)?;
    let arguments = Create {
        name: name.clone(),
        file: std::path::PathBuf::new(),
        quantize: None,
        link: false,
        no_check: false,
    };
    let made = context.wait_or_interrupt(create::make(&context.client, bars, &arguments, &plan, &sources))?;
    if made.is_none() {
        return Err(following::interrupted(format!("`{name}` was not created")));
    }
    output::note(&format!("stored `{path}` as `{name}`, the base of the run"));
    Ok(name)
}

#[derive(Debug, PartialEq)]
enum Choice {
    One(String),
    Several(Vec<String>),
    None,
}

/// Finds the model that a name means: the name itself, else what is called so but for the publisher, for signs and for case, as
/// `meta-llama/Llama-3.1-8B-Instruct` is `llama3.1:8b-instruct`.
fn choose(wanted: &str, names: &[&str]) -> Choice {
    if let Some(name) = names.iter().find(|name| is_same(wanted, name)) {
        return Choice::One((*name).to_owned());
    }
    let plain = |name: &str| -> String {
        let last = name.rsplit('/').next().unwrap_or(name);
        let last = last.strip_suffix(":latest").unwrap_or(last);
        last.chars()
            .filter(char::is_ascii_alphanumeric)
            .collect::<String>()
            .to_ascii_lowercase()
    };
    let alike: Vec<String> = names
        .iter()
        .filter(|name| plain(name) == plain(wanted))
        .map(|name| (*name).to_owned())
        .collect();
    match alike.as_slice() {
        [] => Choice::None,
        [one] => Choice::One(one.clone()),
        _ => Choice::Several(alike),
    }
}

fn is_same(wanted: &str, name: &str) -> bool {
    let bare = |name: &str| name.strip_suffix(":latest").unwrap_or(name).to_owned();
    bare(wanted) == bare(name)
}

fn quoted(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

fn missing(text: &str, names: &[&str]) -> Diagnostic {
    let short = text.rsplit('/').next().unwrap_or(text).to_ascii_lowercase();
    let mut refusal = Diagnostic::new(
        "witness::cli::base_missing",
        Kind::NotFound,
        format!("the base `{text}` is not here"),
    );
    let bare = names.iter().map(|name| name.strip_suffix(":latest").unwrap_or(name));
    let near: Vec<String> = near_misses(&short, bare).into_iter().map(str::to_owned).collect();
    if !near.is_empty() {
        refusal = refusal.hint(format!("did you mean {}? Say so with `--base`", quoted(&near)));
    }
    refusal
        .hint("start from a model that is here (`witness list`), or from its files: `--base NAME`, `--base ./folder`, `--base ./model.gguf`")
        .hint(format!(
            "or store the files under this name once: `printf 'FROM ./folder\\n' | witness create {short} -f -`"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_hub_find_what_is_here() {
        let names = ["llama3.1:8b-instruct", "qwen2.5:0.5b", "mine:latest", "other/mine:v2"];
        let one = |name: &str| Choice::One(name.to_owned());
        for (wanted, expected) in [
            ("meta-llama/Llama-3.1-8B-Instruct", one("llama3.1:8b-instruct")),
            ("Qwen/Qwen2.5-0.5B", one("qwen2.5:0.5b")),
            ("mine", one("mine:latest")),
            ("MINE", one("mine:latest")),
            ("other/mine:v2", one("other/mine:v2")),
            ("Qwen/Qwen2.5-7B", Choice::None),
        ] {
            assert_eq!(choose(wanted, &names), expected, "{wanted}");
        }
        assert_eq!(
            choose("A/B-1", &["b1:latest", "b:1"]),
            Choice::Several(vec!["b1:latest".to_owned(), "b:1".to_owned()])
        );
        let refusal = missing("Qwen/Qwen2.5-1.5B", &names);
        insta::assert_snapshot!(witness_diagnostics::render(&refusal, false), @r"
        error[witness::cli::base_missing]: the base `Qwen/Qwen2.5-1.5B` is not here
          hint: did you mean `qwen2.5:0.5b`? Say so with `--base`
          hint: start from a model that is here (`witness list`), or from its files: `--base NAME`, `--base ./folder`, `--base ./model.gguf`
          hint: or store the files under this name once: `printf 'FROM ./folder\n' | witness create qwen2.5-1.5b -f -`
        ");
    }
}
