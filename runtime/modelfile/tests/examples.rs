//! The project's own examples parse, plan and print back, and so do the recipes of the guide.

use std::path::{Path, PathBuf};

use witness_modelfile::{Modelfile, parse};

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn check(name: &str, text: &str) -> Modelfile {
    let file = parse(name, text).unwrap_or_else(|error| panic!("{error}"));
    let plan = file.plan().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(parse(name, &file.to_string()).as_ref(), Ok(&file), "{name} prints back");
    let again = plan.to_modelfile();
    assert_eq!(
        parse(name, &again.to_string()).as_ref(),
        Ok(&again),
        "the plan of {name} prints back"
    );
    file
}

#[test]
fn every_example_parses_plans_and_prints_back() {
    let folder = checkout().join("modelfiles");
    let mut n_examples = 0;
    for entry in std::fs::read_dir(&folder).expect("the folder of examples") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "Modelfile") {
            check(
                &path.display().to_string(),
                &std::fs::read_to_string(&path).expect("text"),
            );
            n_examples += 1;
        }
    }
    assert!(n_examples >= 3, "only {n_examples} examples in {}", folder.display());
}

/// The guide writes its Modelfile with a here-document; the text between is the file.
#[test]
fn the_recipe_of_the_guide_is_a_modelfile() {
    let Ok(guide) = std::fs::read_to_string(checkout().join("../shared/seed/FINE_TUNING_GUIDE.md")) else {
        eprintln!("skipped: the guide's recipe needs ../shared/seed");
        return;
    };
    let (_, behind) = guide
        .split_once("cat > Modelfile <<EOF\n")
        .expect("the guide writes a Modelfile");
    let (text, _) = behind.split_once("\nEOF").expect("its end");
    let plan = check("guide", text).plan().expect("plans");
    assert_eq!(plan.from[0].text, "llama3.1:8b-instruct");
    assert_eq!(plan.adapters[0].path, "./witness-llama-3.1-8b-lora");
    assert!(plan.system.is_some_and(|system| system.starts_with("You are")));
}
