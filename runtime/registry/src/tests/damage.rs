//! Every kind of damage is one model's, named; fsck finds it, and repairs what can be repaired without losing anything.

use std::fs;

use super::*;
use crate::{Action, Damage, FsckOptions, FsckReport, Problem, RegistryError};

fn fsck(registry: &Registry, repair: bool) -> FsckReport {
    registry
        .fsck(FsckOptions {
            repair,
            ..FsckOptions::default()
        })
        .unwrap()
}

/// Two models, one of which is harmed; returns the store, the harmed model's manifest path and blob path.
fn two_models() -> (TempDir, Registry, std::path::PathBuf, std::path::PathBuf) {
    let (dir, registry) = store();
    put_model(&registry, "harmed", b"harmed weights");
    put_model(&registry, "whole", b"whole weights");
    let manifest = dir.path().join("manifests/registry.ollama.ai/library/harmed/latest");
    let blob = registry.blob_path(&Digest::of(b"harmed weights"));
    (dir, registry, manifest, blob)
}

fn assert_only_harmed(registry: &Registry, is_expected: impl Fn(&Damage) -> bool) {
    let entries = registry.list().unwrap();
    assert_eq!(entries.len(), 2);
    match &entries[0].result {
        Err(damage) => assert!(is_expected(damage), "{damage}"),
        Ok(_) => panic!("the damage is not seen"),
    }
    assert_eq!(entries[0].name.to_string(), "harmed:latest");
    assert!(entries[1].result.is_ok());
    match registry.manifest(&name("harmed")) {
        Err(RegistryError::Damaged { name, damage }) => assert!(name == "harmed:latest" && is_expected(&damage)),
        other => panic!("{other:?}"),
    }
    assert_whole(registry, "whole");
}

#[test]
fn manifests_that_cannot_be_read() {
    let (dir, registry, manifest, _) = two_models();
    let whole = fs::read(&manifest).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    let cases: Vec<Vec<u8>> = vec![
        vec![],
        whole[..whole.len() - 1].to_vec(),
        vec![0; 4096],
        b"[]".to_vec(),
        b"{}".to_vec(),
        text.replace("sha256:", "sha256:../").into_bytes(),
        text.replace("sha256:", "md5:").into_bytes(),
        text.replace("\"size\":14", "\"size\":-1").into_bytes(),
        text.replace("\"schemaVersion\":2", "\"schemaVersion\":99").into_bytes(),
        vec![b' '; 5 << 20],
        [b"{\"a\":".repeat(100_000), b"1".to_vec()].concat(),
    ];
    for bytes in cases {
        fs::write(&manifest, &bytes).unwrap();
        assert_only_harmed(&registry, |damage| matches!(damage, Damage::ManifestUnreadable { .. }));
    }
    fs::remove_file(&manifest).unwrap();
    fs::create_dir(&manifest).unwrap();
    assert_eq!(registry.list().unwrap().len(), 1, "a directory is no manifest");
    fs::remove_dir(&manifest).unwrap();

    fs::write(&manifest, &whole[..40]).unwrap();
    let report = fsck(&registry, false);
    assert!(!report.is_sound() && report.findings.len() == 1 && manifest.exists());
    let report = fsck(&registry, true);
    let Action::Quarantined(aside) = &report.findings[0].action else {
        panic!("{report:?}")
    };
    assert_eq!(fs::read(aside).unwrap(), &whole[..40], "moved, not deleted");
    assert!(
        aside
            .to_str()
            .unwrap()
            .contains("registry.ollama.ai+library+harmed+latest")
    );
    assert_eq!(report.findings[0].models, [name("harmed")]);
    assert_eq!(registry.list().unwrap().len(), 1);
    assert!(
        fsck(&registry, false)
            .findings
            .iter()
            .all(|finding| finding.problem == Problem::Orphan)
    );
    drop(dir);
}

#[test]
fn a_blob_that_is_missing_too_short_or_changed() {
    let (_dir, registry, _, blob) = two_models();
    fs::remove_file(&blob).unwrap();
    assert_only_harmed(&registry, |damage| matches!(damage, Damage::BlobMissing { .. }));
    let report = fsck(&registry, true);
    assert_eq!(
        (report.findings.len(), &report.findings[0].problem),
        (1, &Problem::BlobMissing)
    );
    assert_eq!(
        (report.findings[0].models.as_slice(), &report.findings[0].action),
        ([name("harmed")].as_slice(), &Action::Nothing)
    );
    assert_eq!(
        registry.list().unwrap().len(),
        2,
        "the name stays: the blob may come back"
    );

    fs::write(&blob, b"harmed").unwrap();
    assert_only_harmed(&registry, |damage| {
        matches!(damage, Damage::BlobLength { bytes_found: 6, .. })
    });

    fs::write(&blob, b"harmed wEights").unwrap();
    assert!(registry.manifest(&name("harmed")).is_ok(), "only the bytes can tell");
    let report = fsck(&registry, false);
    assert_eq!(
        report.findings[0].problem,
        Problem::BlobCorrupt {
            found: Digest::of(b"harmed wEights")
        }
    );
    assert_only_harmed(&registry, |damage| matches!(damage, Damage::BlobCorrupt { .. }));

    let report = fsck(&registry, true);
    let Action::Quarantined(aside) = &report.findings[0].action else {
        panic!("{report:?}")
    };
    assert_eq!(fs::read(aside).unwrap(), b"harmed wEights");
    assert_only_harmed(&registry, |damage| matches!(damage, Damage::BlobMissing { .. }));

    registry.put_bytes(b"harmed weights").unwrap();
    assert_whole(&registry, "harmed");
    assert!(fsck(&registry, false).findings.is_empty());
}

#[test]
fn an_upload_of_the_same_bytes_heals_a_corrupt_blob() {
    let (_dir, registry, _, blob) = two_models();
    fs::write(&blob, b"harmed wEights").unwrap();
    registry.put_bytes(b"harmed weights").unwrap();
    assert_whole(&registry, "harmed");
}

/// Two blobs lie under each other's names, one lies in the quarantine, one in a file that a killed process left.
#[test]
fn right_bytes_in_a_wrong_place_are_put_back() {
    let (dir, registry, _, harmed) = two_models();
    let whole = registry.blob_path(&Digest::of(b"whole weights"));
    fs::write(&harmed, b"whole weights").unwrap();
    fs::write(&whole, b"harmed weights").unwrap();
    let report = fsck(&registry, true);
    assert!(report.is_sound(), "{report:#?}");
    assert_whole(&registry, "harmed");
    assert_whole(&registry, "whole");

    let quarantine = dir.path().join(".witness/quarantine");
    fs::create_dir_all(&quarantine).unwrap();
    fs::rename(&harmed, quarantine.join("moved by hand")).unwrap();
    fs::rename(&whole, dir.path().join("blobs/sha256-123456789")).unwrap();
    let report = fsck(&registry, true);
    assert!(report.is_sound(), "{report:#?}");
    assert_whole(&registry, "harmed");
    assert_whole(&registry, "whole");
    assert!(fsck(&registry, false).findings.is_empty());
}

#[test]
fn strays_orphans_old_names_and_foreign_files() {
    let (dir, registry, _, _) = two_models();
    let blobs = dir.path().join("blobs");
    let stray = |path: &std::path::Path| {
        fs::write(path, b"half a").unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    };
    stray(&dir.path().join(".witness/tmp/incoming-left"));
    stray(&blobs.join("sha256-4207511"));
    let download = blobs.join(format!("{}-partial", Digest::of(b"x").file_name()));
    stray(&download);
    let orphan = registry.put_bytes(b"orphan").unwrap().digest;
    let old = registry.blob_path(&Digest::of(b"whole weights"));
    fs::rename(&old, blobs.join(Digest::of(b"whole weights").as_str())).unwrap();
    fs::write(dir.path().join("manifests/README"), b"hello").unwrap();
    let under_way = registry.begin_blob(None, None).unwrap();

    let report = fsck(&registry, true);
    assert!(report.is_sound(), "{report:#?}");
    let action = |problem: Problem, part: &str| {
        let found = report
            .findings
            .iter()
            .find(|finding| finding.problem == problem && finding.path.to_str().unwrap().contains(part));
        found.unwrap_or_else(|| panic!("{part} in {report:#?}")).action.clone()
    };
    assert_eq!(action(Problem::StrayFile, "incoming-left"), Action::Removed);
    assert_eq!(action(Problem::StrayFile, "sha256-4207511"), Action::Removed);
    assert_eq!(action(Problem::StrayFile, "-partial"), Action::Nothing);
    assert_eq!(action(Problem::Orphan, orphan.hex()), Action::Nothing);
    assert_eq!(action(Problem::BlobOldName, "sha256:"), Action::Renamed(old));
    assert_eq!(action(Problem::ManifestMisplaced, "README"), Action::Nothing);
    assert_eq!(report.findings.len(), 6, "the blob under way is none: {report:#?}");
    drop(under_way);
    assert!(download.exists());
    assert_whole(&registry, "whole");
}

#[test]
fn a_wrong_length_in_a_manifest_is_that_model_s() {
    let (_dir, registry, manifest, _) = two_models();
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"size\":14", "\"size\":15")).unwrap();
    assert_only_harmed(&registry, |damage| {
        matches!(damage, Damage::BlobLength { bytes_expected: 15, .. })
    });
    let report = fsck(&registry, true);
    assert_eq!(
        report.findings[0].problem,
        Problem::BlobLength {
            bytes_expected: 15,
            bytes_found: 14
        }
    );
    assert!(!report.is_sound());
}

#[test]
fn a_damaged_model_can_be_deleted_and_written_again() {
    let (_dir, registry, manifest, blob) = two_models();
    fs::write(&manifest, b"torn").unwrap();
    registry.delete(&name("harmed")).unwrap();
    put_model(&registry, "harmed", b"harmed weights");
    fs::remove_file(&blob).unwrap();
    put_model(&registry, "harmed", b"harmed weights");
    assert_whole(&registry, "harmed");
    assert!(fsck(&registry, false).findings.is_empty());
}

#[test]
fn a_check_reports_progress_and_can_be_stopped() {
    let (_dir, registry) = store();
    put_model(&registry, "m", &Random(1).bytes(3 << 20));
    let mut last = None;
    let mut progress = |progress| last = Some(progress);
    let options = FsckOptions {
        progress: Some(&mut progress),
        ..FsckOptions::default()
    };
    let report = registry.fsck(options).unwrap();
    assert!(last.is_some_and(|last| last.bytes_done == last.bytes_total && last.bytes_total == report.bytes));
    let cancel = std::sync::atomic::AtomicBool::new(true);
    let stopped = registry.fsck(FsckOptions {
        cancel: Some(&cancel),
        ..FsckOptions::default()
    });
    assert!(matches!(stopped, Err(RegistryError::Cancelled)));
}
