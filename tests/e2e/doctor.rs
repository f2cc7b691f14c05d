//! `witness doctor`: tells what is in the way, starts nothing.

use crate::desk::{Desk, finish};

fn check<'a>(report: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["name"] == name)
        .unwrap()
}

#[test]
fn it_starts_nothing_and_tells_every_setting() {
    let desk = Desk::new();
    let report: serde_json::Value = serde_json::from_str(&desk.run(["doctor", "--json"]).out).unwrap();
    assert!(
        check(&report, "daemon")["found"]
            .as_str()
            .unwrap()
            .contains("not running")
    );
    assert_eq!(check(&report, "port")["state"], "good");
    let settings = report["settings"].as_array().unwrap();
    let home = settings.iter().find(|setting| setting["key"] == "home").unwrap();
    assert_eq!(home["source"], "env");
    assert_eq!(home["value"], desk.path().to_str().unwrap());
    assert!(!desk.path().join("witness.sock").exists());
}

#[test]
fn a_running_daemon_and_its_plugins_are_found() {
    let desk = Desk::new();
    desk.run(["list"]).ok();
    let text = desk.run(["doctor"]).out;
    assert!(
        text.contains("is running (pid") && text.contains("is the daemon's") && text.contains("SETTING"),
        "{text}"
    );
    let report: serde_json::Value = serde_json::from_str(&desk.run(["doctor", "--json"]).out).unwrap();
    assert!(check(&report, "plugins")["found"].as_str().unwrap().contains("found"));
}

// The supply-chain tool of the same name, first on PATH.
#[test]
fn another_program_of_this_name_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::new();
    let other = desk.write("bin/witness", "#!/bin/sh\n");
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = desk.command();
    command.env("PATH", desk.path().join("bin"));
    let ran = finish(command.arg("doctor"));
    assert_eq!(ran.code, 9);
    assert!(
        ran.out.contains("another `witness` comes first") && ran.out.contains("witness-models"),
        "{}",
        ran.out
    );
}

#[test]
fn a_port_that_is_taken_is_told() {
    let desk = Desk::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = desk.command();
    command.env("WITNESS_HOST", taken.local_addr().unwrap().to_string());
    let ran = finish(command.arg("doctor"));
    assert_eq!(ran.code, 9);
    assert!(ran.out.contains("another program listens"), "{}", ran.out);
}
