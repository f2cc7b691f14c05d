//! When things go wrong: clean errors, and the last good checkpoint untouched.

use std::path::Path;

use witness_diagnostics::{Diagnostic, Kind};
use witness_formats::safetensors::SafeTensors;
use witness_plugin_protocol::{TrainEvent, TrainMethod, TrainRequest, TrainSettings, When};

use crate::support::{Home, Host, assert_equal, files, run, settings, write_base};
use crate::tmpfs::Mounted;

fn failing(request: &TrainRequest) -> (Diagnostic, Vec<TrainEvent>) {
    let mut host = Host::default();
    let error = witness_plugin_train::run(request, &mut host).unwrap_err();
    (error, host.events)
}

/// Proves that every weight below a directory is a finite number.
fn assert_finite(directory: &Path) {
    let mut n_files = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        for file in files(&path)
            .iter()
            .filter(|file| file.name.ends_with("model.safetensors"))
        {
            let weights = SafeTensors::open_file(&file.path).unwrap();
            assert!(
                weights
                    .iter()
                    .all(|(_, tensor)| tensor.to_f32().unwrap().iter().all(|value| value.is_finite())),
                "{}",
                file.path.display()
            );
            n_files += 1;
        }
    }
    assert!(n_files > 0);
}

#[test]
fn a_base_with_numbers_that_are_none_is_refused() {
    let home = Home::new(20);
    for (bad, name) in [
        (f32::NAN, "model.norm.weight"),
        (f32::INFINITY, "model.layers.1.mlp.up_proj.weight"),
    ] {
        write_base(&home.base(), |tensor, mut values| {
            if tensor == name {
                values[7] = bad;
            }
            values
        });
        let (error, _) = failing(&home.request(name, settings()));
        assert_eq!(error.code, "witness::training::not_finite");
        assert!(error.message.contains(name), "{error}");
        assert!(!home.run(name).join("final").exists());
    }
}

// Weights so large that the loss is no number, out of finite ones: the step, its rows and what is left are named.
#[test]
fn a_step_that_goes_wrong_names_its_rows() {
    let home = Home::new(20);
    write_base(&home.base(), |name, values| match name.contains("mlp") {
        true => values.into_iter().map(|value| value * 1e25).collect(),
        false => values,
    });
    let (error, events) = failing(&home.request("run", settings()));
    assert_eq!(error.code, "witness::train::not_finite", "{error:?}");
    assert!(error.message.ends_with("not a finite number at step 1"), "{error}");
    assert!(error.causes[0].contains("rows.jsonl:"), "{error:?}");
    assert!(error.causes[1].contains("no checkpoint"), "{error:?}");
    assert!(!events.iter().any(|event| matches!(event, TrainEvent::Step { .. })));
}

// A rate of a million: whatever comes, nothing that is no number is kept, and the last good checkpoint can be gone on from.
#[test]
fn a_rate_of_a_million_ends_cleanly() {
    let home = Home::new(30);
    for method in [TrainMethod::Lora, TrainMethod::Full] {
        let request = home.request(
            &format!("{method:?}"),
            TrainSettings {
                method,
                learning_rate: Some(1e6),
                lr_scheduler: "constant".to_owned(),
                max_grad_norm: 0.0,
                save_steps: 1.0,
                save_total_limit: None,
                eval_strategy: When::No,
                load_best_model_at_end: false,
                ..settings()
            },
        );
        let mut host = Host::default();
        match witness_plugin_train::run(&request, &mut host) {
            Ok(reply) => assert_eq!(reply.directory, "final"),
            Err(error) => {
                assert_eq!(error.code, "witness::train::not_finite");
                assert!(
                    error
                        .causes
                        .iter()
                        .any(|cause| cause.contains("the last good checkpoint is `checkpoint-")),
                    "{error:?}"
                );
                assert!(!request.directory.join("final").exists());
            }
        }
        eprintln!("{method:?}: {} events", host.events.len());
        assert_finite(&request.directory);
    }
}

#[test]
fn hostile_rows_are_told_by_line() {
    let home = Home::new(3);
    let good = std::fs::read_to_string(home.rows()).unwrap();
    let cases: [(&[u8], &str); 7] = [
        (b"{\"messages\": [", "rows.jsonl:4:"),
        (b"\xff\xfe\x00", "rows.jsonl:4:1"),
        (
            b"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}",
            "rows.jsonl:4:",
        ),
        (
            b"{\"messages\": [{\"role\": \"assistant\", \"content\": 7}]}",
            "rows.jsonl:4:",
        ),
        (
            b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
            "rows.jsonl:4:",
        ),
        (b"{\"messages\": null, \"messages\": []}", "rows.jsonl:4:"),
        (b"null", "rows.jsonl:4:"),
    ];
    for (bad, place) in cases {
        let mut bytes = good.clone().into_bytes();
        bytes.extend_from_slice(bad);
        std::fs::write(home.rows(), bytes).unwrap();
        let mut request = home.request("run", settings());
        let (error, _) = failing(&request);
        assert_eq!(error.code, "witness::dataset::bad_rows", "{error:?}");
        assert!(error.causes[0].starts_with(place), "{error:?}");
        request.settings.skip_bad = true;
        let plan = witness_plugin_train::plan(&request).unwrap();
        assert_eq!(plan.train.n_bad, 1);
        std::fs::remove_dir_all(&request.directory).unwrap();
    }
    std::fs::write(home.rows(), "\n\n").unwrap();
    assert_eq!(
        failing(&home.request("run", settings())).0.code,
        "witness::dataset::no_rows"
    );
}

// The disk is filled after the second checkpoint. The third fails and leaves nothing; with room again the run goes on as if nothing had been.
#[test]
fn a_full_disk_costs_the_checkpoint_alone() {
    let home = Home::new(30);
    let disk = home.run("disk");
    std::fs::create_dir(&disk).unwrap();
    let Some(_mounted) = Mounted::tmpfs(&disk, "4m") else {
        eprintln!("skipped: a full disk needs the right to mount a tmpfs");
        return;
    };
    let settings = TrainSettings {
        save_total_limit: None,
        load_best_model_at_end: false,
        ..settings()
    };
    let whole = home.request("whole", settings.clone());
    run(&whole);
    let mut request = home.request("disk/run", settings);
    let filler = disk.join("filler");
    let mut host = Host::stopping({
        let filler = filler.clone();
        move |event| {
            if matches!(event, TrainEvent::Checkpoint { step: 6, .. }) {
                // Fails when the disk is full, which is the point.
                let _ = std::fs::write(&filler, vec![1; 8 << 20]);
            }
            false
        }
    });
    let error = witness_plugin_train::run(&request, &mut host).unwrap_err();
    assert_eq!(error.kind, Kind::Environment, "{error:?}");
    assert!(
        error.causes.iter().any(|cause| cause.contains("checkpoint-6")),
        "{error:?}"
    );
    let names: Vec<String> = std::fs::read_dir(&request.directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        names
            .iter()
            .all(|name| !name.starts_with('.') && name != "checkpoint-9"),
        "{names:?}"
    );
    std::fs::remove_file(filler).unwrap();
    request.resume = true;
    let (_, events) = run(&request);
    assert!(matches!(
        events.iter().find(|event| matches!(event, TrainEvent::Started { .. })),
        Some(TrainEvent::Started { resumed_from: 6, .. })
    ));
    assert_equal(&whole.directory, &request.directory);
}
