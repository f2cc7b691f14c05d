//! `witness show`: the parts print alone, and the printed recipe makes the same model again.

use crate::desk::Desk;

#[test]
fn parts_print_alone() {
    let desk = Desk::with_quick();
    assert!(
        desk.run(["show", "quick", "--license"])
            .ok()
            .contains("Apache-2.0 OR MIT")
    );
    assert!(desk.run(["show", "quick", "--parameters"]).ok().contains("num_ctx"));
    assert!(desk.run(["show", "quick", "--template"]).ok().contains("<|assistant|>"));
    assert_eq!(desk.run(["show", "quick", "--system"]).ok(), "");
    let overview = desk.run(["show", "quick"]).ok();
    assert!(overview.contains("pirate") && overview.contains("llama"), "{overview}");
    assert!(desk.run(["show", "quick", "-v"]).ok().contains("llama.block_count"));
    assert!(desk.run(["show", "quikc"]).refused(3).contains("did you mean `quick`?"));
    assert!(
        desk.run(["show", "quick", "--system", "--license"])
            .refused(2)
            .contains("cannot be used")
    );
}

#[test]
fn the_printed_recipe_makes_the_model_again() {
    let desk = Desk::with_quick();
    desk.write(
        "first/Modelfile",
        "FROM quick\nSYSTEM \"\"\"two\n# lines\"\"\"\nPARAMETER stop \"a b\"\nMESSAGE user hi\nMESSAGE assistant ho\n",
    );
    desk.run(["create", "first", "-f", "first/Modelfile"]).ok();
    let recipe = desk.run(["show", "first", "--modelfile"]).ok();
    let again = desk.run_with(["create", "again", "-f", "-"], &recipe);
    again.ok();
    for part in ["--system", "--parameters", "--template", "--license"] {
        assert_eq!(
            desk.run(["show", "first", part]).ok(),
            desk.run(["show", "again", part]).ok(),
            "{part}"
        );
    }
    assert_eq!(desk.run(["show", "again", "--system"]).ok(), "two\n# lines\n");
    assert_eq!(
        desk.run(["run", "again", "--adapter", "pirate", "thanks"]).ok(),
        "Fair winds to ye!\n"
    );
}
