//! The packed form of a model's weights: kept behind the answers, mapped by the next load, never a wrong word by it, and gone with its model.

use std::path::PathBuf;
use std::time::Duration;

use crate::desk::{Desk, until};
use crate::harness::gguf::{self, Shape};
use crate::harness::{Daemon, Home};

const MODEL: &str = "base:q8_0";

/// A desk with a quantized model on it.
fn quantized() -> Desk {
    let desk = Desk::new();
    gguf::write(&desk.path().join("base.gguf"), Shape::small(2), "base");
    let recipe = desk.write(
        "Modelfile",
        "FROM ./base.gguf\nPARAMETER temperature 0\nPARAMETER num_predict 6\n",
    );
    desk.run(["create", "base", "-f", &recipe]).ok();
    desk.run(["quantize", "base", "q8_0"]).ok();
    desk
}

/// Returns the files that are kept, those on their way too.
fn kept(home: &Home) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(home.path().join("models/.witness/packed"));
    let entries = entries.into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn is_whole(path: &std::path::Path) -> bool {
    path.extension().is_some_and(|extension| extension != "part")
}

fn stop(desk: &Desk) {
    desk.run(["stop", MODEL]).ok();
    let is_gone = || {
        desk.run(["ps", "--json"]).json()["models"]
            .as_array()
            .unwrap()
            .is_empty()
    };
    until("the model is unloaded", &is_gone);
}

/// Says whether the loaded model's process has the file in its memory.
fn is_mapped(desk: &Desk) -> bool {
    let loaded = desk.run(["ps", "--json"]).json();
    let pid = loaded["models"][0]["worker_pid"].as_u64().unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    maps.contains("/.witness/packed/")
}

#[test]
fn a_second_load_finds_the_packed_form_and_says_the_same() {
    let desk = quantized();
    let whole = || kept(desk.home()).iter().any(|path| is_whole(path));
    let ask = || desk.run(["run", MODEL, "hello"]).ok();
    let first = ask();
    until("the packed form is kept", &whole);
    assert!(!is_mapped(&desk), "it packed the weights itself");
    stop(&desk);
    let path = kept(desk.home()).remove(0);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(ask(), first);
    assert!(is_mapped(&desk));

    // A file that is cut, and one of which a bit flipped where the matrices lie: the next answers are right at the latest when the file is whole again.
    stop(&desk);
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(ask(), first);
    until("a cut file is written again", &|| {
        std::fs::read(&path).is_ok_and(|found| found == bytes)
    });
    stop(&desk);
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    std::fs::write(&path, &flipped).unwrap();
    // This answer may be cut off, for its worker ends when it sees the damage.
    let _ = desk.run(["run", MODEL, "hello"]);
    until("a damaged file is removed", &|| !path.exists());
    until("its worker is gone", &|| {
        desk.run(["ps", "--json"]).json()["models"]
            .as_array()
            .unwrap()
            .is_empty()
    });
    assert_eq!(ask(), first);
    until("a damaged file is written again", &|| {
        std::fs::read(&path).is_ok_and(|found| found == bytes)
    });

    let found = desk.run(["doctor"]).out;
    assert!(found.contains("free for models; packed weights take "), "{found}");

    desk.run(["rm", MODEL]).ok();
    until("the packed form goes with its model", &|| kept(desk.home()).is_empty());
}

// Goal: a worker or a daemon that is killed while the file is written leaves nothing that counts, and no litter once a daemon has started again.
#[test]
fn a_kill_while_it_is_written_costs_nothing() {
    let desk = quantized();
    let ask = || desk.run(["run", MODEL, "hello"]).ok();
    let first = ask();
    let pid = || {
        let loaded = desk.run(["ps", "--json"]).json();
        let pid = loaded["models"][0]["worker_pid"].as_i64().unwrap();
        rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
    };
    // A few times only: a plugin that dies too often is set aside.
    for round in 0..3 {
        // Behind the first step of the answer it begins; the kill comes at a moment of its own each time.
        std::thread::sleep(Duration::from_micros(1_000 * round));
        rustix::process::kill_process(pid(), rustix::process::Signal::KILL).unwrap();
        until("the worker is gone", &|| {
            desk.run(["ps", "--json"]).json()["models"]
                .as_array()
                .unwrap()
                .is_empty()
        });
        kept(desk.home())
            .iter()
            .for_each(|path| std::fs::remove_file(path).unwrap());
        assert_eq!(ask(), first, "round {round}");
    }
    until("it is written in the end", &|| {
        kept(desk.home()).iter().any(|path| is_whole(path))
    });
    desk.run(["stop", "--daemon"]).ok();
    let litter = kept(desk.home()).remove(0).with_extension("v1.part");
    std::fs::write(&litter, b"half").unwrap();
    assert_eq!(ask(), first);
    assert!(!litter.exists());
}

#[test]
fn nothing_is_kept_where_nobody_wants_it() {
    let desk = quantized();
    desk.run(["stop", "--daemon"]).ok();
    desk.write("config.toml", "packed_cache = \"0\"\n");
    let daemon = Daemon::start(desk.home());
    desk.run(["run", MODEL, "hello"]).ok();
    stop(&desk);
    assert!(kept(desk.home()).is_empty());
    drop(daemon);
}
