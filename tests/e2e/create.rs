//! `witness create`: what it accepts, and what each refusal says.

use crate::desk::{Desk, toy};

// A recipe from a pipe: paths start at the current directory then, and the progress does not go to standard output.
#[test]
fn a_recipe_may_come_through_a_pipe() {
    let desk = Desk::new();
    let recipe = format!("FROM {}\n", toy("base"));
    let ran = desk.run_with(["create", "piped", "-f", "-"], &recipe);
    assert!(ran.err.contains("created `piped`"), "{}", ran.err);
    assert_eq!(ran.ok(), "");
    assert_eq!(desk.run(["run", "piped", "Hi"]).ok(), "Hello.\n");
}

// The default recipe is ./Modelfile; its relative paths start at its own directory, not at the caller's.
#[test]
fn the_recipe_is_modelfile_unless_named() {
    let desk = Desk::new();
    let missing = desk.run(["create", "x"]).refused(3);
    assert!(
        missing.contains("`Modelfile` cannot be read") && missing.contains("-f <Modelfile>"),
        "{missing}"
    );
    desk.write("Modelfile", format!("FROM {}\nSYSTEM here\n", toy("base")));
    desk.run(["create", "x"]).ok();
    assert_eq!(desk.run(["show", "x", "--system"]).ok(), "here\n");
}

#[test]
fn linking_makes_the_same_model() {
    let desk = Desk::with_quick();
    desk.run(["create", "linked", "--link", "-f", &toy("Modelfile")]).ok();
    let list = desk.run(["list", "--json"]).json();
    let digests: Vec<_> = list["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| &model["digest"])
        .collect();
    assert_eq!(digests.len(), 2);
    assert_eq!(digests[0], digests[1]);
}

// Over TCP the same files are hashed here and sent, and only those that the store lacks.
#[test]
fn files_travel_over_tcp_where_the_socket_does_not_answer() {
    let desk = Desk::with_quick();
    let mut command = desk.command();
    command.env("WITNESS_SOCKET", desk.path().join("nobody.sock"));
    let ran = crate::desk::finish(command.args(["create", "sent", "-f", &toy("Modelfile")]));
    ran.ok();
    assert_eq!(
        desk.run(["run", "sent", "Hi"]).ok(),
        desk.run(["run", "quick", "Hi"]).ok()
    );
    let other = desk.write(
        "other/Modelfile",
        format!("FROM {}\n", desk.write("other/notes.gguf", "not a model")),
    );
    let mut command = desk.command();
    command.env("WITNESS_SOCKET", desk.path().join("nobody.sock"));
    let refused = crate::desk::finish(command.args(["create", "bad", "-f", &other]));
    assert_ne!(refused.code, 0);
    assert!(
        !refused.err.contains("witness::client"),
        "the file must have been sent and looked at: {}",
        refused.err
    );
}

// Every refusal names the object, the place and a way out, and leaves no model behind.
#[test]
fn refusals_name_place_and_way_out() {
    let desk = Desk::new();
    desk.write("pickle/pytorch_model.bin", "");
    desk.write("pickle/config.json", "{}");
    desk.write("empty/readme.txt", "");
    let base = toy("base");
    for (recipe, code, words) in [
        ("PARAMETER temperature 0\n".to_owned(), 2, vec!["FROM"]),
        (
            format!("FROM {base}\nPARAMETER temprature 0\n"),
            2,
            vec!["Modelfile:2", "temprature", "did you mean `temperature`"],
        ),
        ("FROM ./nowhere\n".to_owned(), 3, vec!["nowhere"]),
        ("FROM ./pickle\n".to_owned(), 5, vec!["pickle", "safetensors"]),
        ("FROM ./empty\n".to_owned(), 2, vec!["does not hold a model"]),
        ("FROM nobody-has-this\n".to_owned(), 3, vec!["nobody-has-this"]),
        (format!("FROM {base}\nADAPTER {base}\n"), 2, vec!["adapter_config.json"]),
        (
            format!("FROM {base}\nTEMPLATE {{% for message of messages %}}\n"),
            2,
            vec!["template"],
        ),
        (format!("FROM {base}\nQUANTIZE\n"), 2, vec!["Modelfile:2:1", "QUANTIZE"]),
        (
            format!("FROM {base}\nDATASET x.jsonl\nTRAIN lora\nQUANTIZE q4_K_M\n"),
            5,
            vec!["Modelfile:4:1", "train first", "witness quantize"],
        ),
    ] {
        desk.write("Modelfile", &recipe);
        let err = desk.run(["create", "bad"]).refused(code);
        for word in words {
            assert!(err.contains(word), "`{recipe}` lacks `{word}`: {err}");
        }
        assert!(err.contains("hint:"), "{err}");
    }
    assert_eq!(
        desk.run(["list", "--json"]).json()["models"].as_array().unwrap().len(),
        0
    );
}

// An adapter of another model is refused with both sides named, never applied as far as it goes.
#[test]
fn an_adapter_that_does_not_fit_is_refused() {
    let Some(shared) = crate::desk::shared() else { return };
    let desk = Desk::new();
    let adapter = shared.join("oracle/llama/lora_50/final_adapter");
    desk.write(
        "Modelfile",
        format!("FROM {}\nADAPTER {}\n", toy("base"), adapter.display()),
    );
    let ran = desk.run(["create", "bad"]);
    assert_ne!(ran.code, 0);
    assert!(
        ran.err.contains("hint:") && ran.err.contains("B [64, 16]") && ran.err.contains("96 inputs"),
        "{}",
        ran.err
    );
}
