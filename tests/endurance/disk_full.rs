//! A disk that is full in the middle of a create.

use crate::harness::gguf::{Shape, write};
use crate::harness::tmpfs::Mounted;
use crate::harness::{Daemon, Home};
use std::path::Path;

/// Goal: an error that names the bytes needed and the bytes free, nothing lost, and the same request works once there is room,
/// without a restart. Method: the store lies on a small tmpfs, which needs the right to mount.
#[test]
fn a_full_disk_costs_nothing_but_the_request() {
    let home = Home::new();
    let models = home.path().join("models");
    std::fs::create_dir(&models).expect("the temporary home is writable");
    let Some(_mounted) = Mounted::tmpfs(&models, "24m") else {
        eprintln!("skipped: a full disk needs the right to mount a tmpfs");
        return;
    };
    let [small, large] = [("small.gguf", 5), ("large.gguf", 9)].map(|(name, n_layers)| {
        let path = home.path().join(name);
        write(&path, Shape::small(n_layers), name);
        path
    });
    let daemon = Daemon::start(&home);
    let create = |name: &str, file: &Path| {
        let modelfile = home.path().join("Modelfile");
        std::fs::write(&modelfile, format!("FROM {}\n", file.display())).expect("the temporary home is writable");
        home.witness()
            .args(["create", name, "-f"])
            .arg(modelfile)
            .output()
            .expect("the program can be started")
    };
    let first = create("small", &small);
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));

    for _ in 0..2 {
        let refused = create("large", &large);
        let message = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(9), "the environment's fault: {message}");
        assert!(
            message.contains("are needed") && message.contains("bytes free"),
            "bytes needed and free are named: {message}"
        );
        let tags = daemon.get("/api/tags");
        assert!(
            tags.contains("small:latest") && !tags.contains("large:latest"),
            "{tags}"
        );
    }
    daemon.delete("/api/delete", r#"{"model":"small"}"#);
    let second = create("large", &large);
    assert!(
        second.status.success(),
        "works once there is room: {}",
        String::from_utf8_lossy(&second.stderr)
    );
    daemon.stop();
}
