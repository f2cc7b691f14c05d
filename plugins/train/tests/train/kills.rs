//! kill -9 at random moments, then resume. What is left must be that of the run that was never killed, to the bit.
//!
//! The run is a process of its own: this test's program, told by its environment to be one. `WITNESS_TRAIN_KILLS=50` kills that often.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use witness_plugin_protocol::{TrainEvent, TrainRequest, TrainSettings};
use witness_plugin_train::Progress;
use witness_training::Stream;

use crate::support::{Home, assert_equal, run, settings};

/// Names the file with the request that a child carries out.
const CHILD: &str = "WITNESS_TRAIN_CHILD";

/// How often the default run of this test kills.
const KILLS: u64 = 8;

/// Tells every event on a line of its own, at once.
struct Lines;

impl Progress for Lines {
    fn emit(&mut self, event: &TrainEvent) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "event {}", serde_json::to_string(event).unwrap());
        let _ = out.flush();
    }

    fn should_stop(&self) -> bool {
        false
    }
}

// Does nothing unless it is run as the child.
#[test]
fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let request: TrainRequest = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    witness_plugin_train::run(&request, &mut Lines).unwrap();
}

/// Starts a child, kills it after some lines and a little while, and returns whether it came to its end before.
fn start_and_kill(request: &TrainRequest, home: &Home, after_lines: u64, then_micros: u64) -> bool {
    let path = home.run("request.json");
    std::fs::write(&path, serde_json::to_vec(request).unwrap()).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kills::child", "--nocapture", "--test-threads=1"])
        .env(CHILD, &path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut seen = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        seen += u64::from(line.unwrap().starts_with("event "));
        if seen > after_lines {
            // Spread over a step or the writing of a checkpoint, whichever comes.
            std::thread::sleep(std::time::Duration::from_micros(then_micros));
            child.kill().unwrap();
            break;
        }
    }
    child.wait().unwrap().success()
}

#[test]
fn killed_runs_go_on_to_the_bit() {
    let kills = std::env::var("WITNESS_TRAIN_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(KILLS);
    let home = Home::new(60);
    let settings = TrainSettings {
        num_epochs: 10.0,
        save_steps: 2.0,
        early_stopping_patience: Some(1_000),
        ..settings()
    };
    let whole = home.request("whole", settings.clone());
    let (reply, _) = run(&whole);
    let stream = Stream::new(kills);
    let mut request = home.request("killed", settings);
    let (mut n_killed, mut n_inside) = (0, 0);
    for kill in 0..kills {
        // Three lines come before the first step of a start.
        if start_and_kill(
            &request,
            &home,
            3 + stream.bits(2 * kill) % 9,
            stream.bits(2 * kill + 1) % 4_000,
        ) {
            // It was quicker: begin again, so that every kill hits a run at work.
            std::fs::remove_dir_all(&request.directory).unwrap();
        } else {
            n_killed += 1;
            let names = std::fs::read_dir(&request.directory).unwrap();
            let mut hidden =
                names.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
            n_inside += u64::from(hidden.next().is_some());
        }
        request.resume = true;
    }
    assert!(n_killed > 0);
    let (resumed, _) = run(&request);
    assert_eq!(
        (resumed.steps, resumed.train_loss, resumed.eval_loss, resumed.best_step),
        (reply.steps, reply.train_loss, reply.eval_loss, reply.best_step)
    );
    assert_eq!(resumed.provenance, reply.provenance);
    assert_equal(&whole.directory, &request.directory);
    eprintln!("killed {n_killed} times at work, {n_inside} of them inside a checkpoint");
}
