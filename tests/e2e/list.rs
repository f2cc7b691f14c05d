//! `witness list` and `witness ps`.

use crate::desk::Desk;

#[test]
fn models_are_listed_filtered_and_counted() {
    let desk = Desk::with_quick();
    desk.run(["cp", "quick", "other:v2"]).ok();
    let table = desk.run(["ls"]).ok();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| {
            line.split("   ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect()
        })
        .collect();
    assert_eq!(rows[0], ["NAME", "ID", "SIZE", "ADAPTERS", "MODIFIED"]);
    for (row, name) in rows[1..].iter().zip(["other:v2", "quick:latest"]) {
        assert_eq!(
            (row[0], row[1].len(), row[2], row[3]),
            (name, 12, "517 kB", "guide, pirate")
        );
    }
    assert_eq!(rows.len(), 3);
    assert_eq!(desk.run(["list", "OTH"]).ok().lines().count(), 2);
    let json = desk.run(["list", "--json", "quick"]).json();
    assert_eq!(json["models"][0]["name"], "quick:latest");
    assert_eq!(json["models"].as_array().unwrap().len(), 1);
}

// A reader that goes away is no error: `witness list | head -1`.
#[test]
fn a_closed_pipe_is_not_an_error() {
    use std::process::Stdio;
    let desk = Desk::with_quick();
    let mut child = desk
        .command()
        .arg("list")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn what_is_loaded_is_listed_until_it_is_stopped() {
    let desk = Desk::with_quick();
    desk.run(["run", "quick", "hi"]).ok();
    let json = desk.run(["ps", "--json"]).json();
    assert_eq!(json["models"][0]["name"], "quick:latest");
    assert_eq!(json["models"][0]["context_length"], 1024);
    assert!(desk.run(["ps"]).ok().contains("quick:latest"));
    assert!(desk.run(["stop", "quick"]).err.contains("unloaded"));
    assert_eq!(desk.run(["ps"]).ok().lines().count(), 1);
    assert!(desk.run(["stop", "quick"]).err.contains("was not loaded"));
}
