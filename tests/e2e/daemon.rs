//! The daemon as the command line sees it: it starts by itself, once, and ends when told.

use crate::desk::Desk;
use crate::harness::{Daemon, Home};

#[test]
fn it_starts_by_itself_and_ends_when_told() {
    let desk = Desk::new();
    assert_eq!(desk.run(["version", "--json"]).json().get("daemon"), None);
    assert!(desk.run(["ps"]).err.contains("no daemon is running"));
    desk.run(["list"]).ok();
    let versions = desk.run(["version", "--json"]).json();
    assert_eq!(versions["daemon"], versions["version"]);
    assert!(desk.path().join("logs/serve.log").is_file());
    assert!(desk.run(["stop", "--daemon"]).err.contains("has stopped"));
    assert!(!desk.path().join("witness.sock").exists());
    assert!(desk.run(["stop", "--daemon"]).err.contains("no daemon is running"));
}

// Many clients at once start one daemon: the losers of the race connect to the winner.
#[test]
fn clients_that_start_it_together_share_one() {
    let desk = Desk::new();
    let children: Vec<_> = (0..4)
        .map(|_| {
            desk.command()
                .args(["list", "--json"])
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let log = std::fs::read_to_string(desk.path().join("logs/serve.log")).unwrap();
    assert_eq!(log.matches("listening on").count(), 1, "{log}");
}

// A daemon that is there already is used, and one that cannot start says why through the client that wanted it.
#[test]
fn a_second_daemon_is_refused_with_the_reason() {
    let home = Home::new();
    let daemon = Daemon::start(&home);
    let refused = crate::desk::finish(home.witness().arg("serve").stdin(std::process::Stdio::null()));
    assert_eq!(refused.code, 4, "{}", refused.err);
    assert!(refused.err.contains("hint:"), "{}", refused.err);
    assert_eq!(crate::desk::finish(home.witness().arg("list")).code, 0);
    daemon.stop();

    let desk = Desk::new();
    desk.write("not-a-directory", "");
    let mut command = desk.command();
    command.env("WITNESS_MODELS", desk.path().join("not-a-directory"));
    let failed = crate::desk::finish(command.arg("list"));
    assert_ne!(failed.code, 0);
    assert!(
        failed.err.contains("not-a-directory"),
        "the daemon's own reason is shown: {}",
        failed.err
    );
}

// A host of one's own means that host: the socket of another daemon in the same home is not taken for it.
#[test]
fn another_host_is_not_answered_by_this_daemon() {
    let desk = Desk::with_quick();
    let mut command = desk.command();
    // Port 9 of a test network's address: nobody is there, and nothing is started for a host that is not this machine.
    command.env("WITNESS_HOST", "192.0.2.1:9");
    let other = crate::desk::finish(command.args(["list"]));
    assert_eq!(other.code, 9, "{}", other.out);
    assert!(other.err.contains("192.0.2.1:9"), "{}", other.err);
}

#[test]
fn settings_that_are_wrong_are_named() {
    let desk = Desk::new();
    let mut command = desk.command();
    let refused = crate::desk::finish(command.args(["list", "--host", "https://x"])).refused(2);
    assert!(refused.contains("host") && refused.contains("TLS"), "{refused}");
    desk.write("config.toml", "keep_alife = \"5m\"\n");
    let refused = desk.run(["list"]).refused(2);
    assert!(
        refused.contains("keep_alife") && refused.contains("keep_alive"),
        "{refused}"
    );
}
