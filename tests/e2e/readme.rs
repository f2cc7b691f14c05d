//! The README's promises that can be checked: its tables are those of the program.

use crate::desk::Desk;
use crate::harness;

// The table of settings is printed from the table of keys. With WITNESS_UPDATE=1 this test writes it.
#[test]
fn the_settings_are_those_of_the_program() {
    const BEGIN: &str = "<!-- settings: begin -->\n";
    const END: &str = "<!-- settings: end -->";
    let path = harness::checkout().join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let expected = format!("{before}{BEGIN}{}{END}{after}", witness_settings::markdown_table());
    if std::env::var_os("WITNESS_UPDATE").is_some() {
        std::fs::write(&path, &expected).unwrap();
        return;
    }
    assert_eq!(readme, expected, "run `WITNESS_UPDATE=1 cargo test --test e2e readme`");
}

// Every verb of the program is in the README, and the worked example's lines are what the program prints.
#[test]
fn the_worked_example_is_real() {
    let readme = std::fs::read_to_string(harness::checkout().join("README.md")).unwrap();
    let desk = Desk::new();
    let recipe = harness::checkout().join("modelfiles/quickstart/Modelfile");
    desk.run([
        "create".as_ref(),
        "witness-expert".as_ref(),
        "-f".as_ref(),
        recipe.as_os_str(),
    ])
    .ok();
    let help = desk.run(["--help"]).ok();
    let verbs = help
        .split_once("Commands:\n")
        .unwrap()
        .1
        .lines()
        .take_while(|line| !line.is_empty());
    for verb in verbs.filter_map(|line| line.split_whitespace().next()) {
        assert!(
            verb == "help" || readme.contains(&format!("`{verb}")),
            "README lacks `{verb}`"
        );
    }
    for (command, answer) in console(&readme) {
        let words = words(&command);
        if words[0] != "witness" || words[1] == "create" || words[1] == "list" || words[1] == "show" {
            continue;
        }
        let ran = desk.run(&words[1..]);
        assert_eq!((ran.out + &ran.err).trim_end(), answer, "$ {command}");
    }
}

/// Returns the commands of console blocks with what follows each.
fn console(readme: &str) -> Vec<(String, String)> {
    let (mut blocks, mut rest) = (Vec::new(), readme);
    while let Some((before, body)) = rest.split_once("```console\n") {
        // A block that holds blocks itself is fenced with one mark more.
        let fence = if before.ends_with('`') { "\n````" } else { "\n```" };
        let (block, after) = body.split_once(fence).unwrap();
        blocks.push(block);
        rest = after;
    }
    let entries = blocks.into_iter().flat_map(|block| block.split("$ ").skip(1));
    entries
        .map(|entry| {
            let (command, answer) = entry.split_once('\n').unwrap();
            (command.to_owned(), answer.trim_end().to_owned())
        })
        .collect()
}

/// Splits a command line at spaces outside double quotes.
fn words(command: &str) -> Vec<String> {
    let pieces = command.split('"').enumerate();
    pieces
        .flat_map(|(index, piece)| match index % 2 {
            0 => piece.split_whitespace().map(str::to_owned).collect(),
            _ => vec![piece.to_owned()],
        })
        .collect()
}
