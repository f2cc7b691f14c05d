//! Writing, reading, naming and deleting; the lock; the order of the steps of a publication.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::RegistryError;
use crate::fault;
use crate::publish::Step;

#[test]
fn a_blob_of_any_length_has_the_digest_of_its_bytes() {
    let (_dir, registry) = store();
    let buffer = crate::hash::BUFFER_BYTES;
    let mut random = Random(7);
    for length in [
        0,
        1,
        63,
        64,
        buffer - 1,
        buffer,
        buffer + 1,
        2 * buffer,
        7 * buffer + 13,
    ] {
        let bytes = random.bytes(length);
        let mut writer = registry.begin_blob(None, None).unwrap();
        for piece in bytes.chunks(100_003) {
            writer.write_all(piece).unwrap();
        }
        assert_eq!(writer.bytes_written(), length as u64);
        let stored = writer.commit().unwrap();
        assert_eq!((stored.digest, stored.size), (Digest::of(&bytes), length as u64));
        assert_eq!(registry.read_blob(&stored.digest, length as u64).unwrap(), bytes);
        assert_eq!(registry.has_blob(&stored.digest), Some(length as u64));
    }
}

#[test]
fn a_broken_promise_or_a_dropped_writer_leaves_nothing() {
    let (_dir, registry) = store();
    let expected = Digest::of(b"right");
    let mut writer = registry.begin_blob(Some(expected), Some(5)).unwrap();
    writer.append(b"wrong").unwrap();
    assert!(matches!(writer.commit(), Err(RegistryError::DigestMismatch { .. })));
    let mut writer = registry.begin_blob(None, None).unwrap();
    writer.append(&vec![1; 3 << 20]).unwrap();
    assert_eq!(files(&registry.models_dir().join(".witness/tmp")).len(), 1);
    drop(writer);
    assert_eq!(files(&registry.models_dir().join(".witness/tmp")), [""; 0]);
    assert_eq!(files(&registry.models_dir().join("blobs")), [""; 0]);
}

/// The file is durable before it is visible, and the directory is durable before the call returns; the manifest comes last.
#[test]
fn publication_goes_in_order() {
    let (_dir, registry) = store();
    fault::take_steps();
    registry.put_bytes(b"x").unwrap();
    let one = [
        Step::Created,
        Step::Written,
        Step::Synced,
        Step::Renamed,
        Step::DirectorySynced,
    ];
    assert_eq!(fault::take_steps(), one);
    put_model(&registry, "m", b"x");
    assert_eq!(fault::take_steps(), [one, one, one].concat());
}

#[test]
fn published_files_can_be_read_by_others_and_private_ones_cannot() {
    let (dir, registry) = store();
    put_model(&registry, "m", b"x");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&registry.blob_path(&Digest::of(b"x"))), 0o644);
    assert_eq!(
        mode(&dir.path().join("manifests/registry.ollama.ai/library/m/latest")),
        0o644
    );
    assert_eq!(mode(&dir.path().join(".witness")), 0o700);
    assert_eq!(mode(&dir.path().join(".witness/lock")), 0o600);
}

#[test]
fn a_manifest_names_only_what_is_there() {
    let (_dir, registry) = store();
    let there = registry.put_bytes(b"config").unwrap();
    let missing = Layer::new(media::MODEL, Digest::of(b"elsewhere"), 9);
    let manifest = Manifest::new(Layer::of(media::CONFIG, &there), vec![missing]);
    assert!(matches!(
        registry.write_manifest(&name("m"), &manifest),
        Err(RegistryError::BlobNotFound { .. })
    ));
    let wrong = Manifest::new(Layer::new(media::CONFIG, there.digest, 7), vec![]);
    assert!(matches!(
        registry.write_manifest(&name("m"), &wrong),
        Err(RegistryError::LayerLength { .. })
    ));
    assert!(registry.list().unwrap().is_empty());
}

#[test]
fn case_does_not_make_a_second_model() {
    let (_dir, registry) = store();
    put_model(&registry, "Mistral:7B", b"old");
    let newer = put_model(&registry, "mistral:7b", b"new");
    let entries = registry.list().unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].name.to_string(), "Mistral:7B", "the first spelling stays");
    let stored = registry.manifest(&name("MISTRAL:7b")).unwrap();
    assert_eq!(
        (stored.manifest, stored.name.to_string()),
        (newer, "Mistral:7B".to_owned())
    );
    registry.delete(&name("mistral:7B")).unwrap();
    assert!(registry.list().unwrap().is_empty());
}

#[test]
fn deleting_takes_only_what_nobody_else_names() {
    let (dir, registry) = store();
    put_model(&registry, "eva/a", b"only in a");
    put_model(&registry, "b", b"only in b");
    registry.copy(&name("eva/a"), &name("c:copy")).unwrap();
    let uploaded = registry.put_bytes(b"uploaded, not named yet").unwrap();
    drop(uploaded.lease);

    let report = registry.delete(&name("eva/a")).unwrap();
    assert_eq!(report.removed, []);
    assert!(
        !dir.path().join("manifests/registry.ollama.ai/eva").exists(),
        "empty directories go"
    );
    assert_whole(&registry, "c:copy");

    let report = registry.delete(&name("c:copy")).unwrap();
    assert_eq!(
        (report.removed, report.bytes_freed),
        (vec![Digest::of(b"only in a")], 9)
    );
    assert_whole(&registry, "b");
    assert!(registry.has_blob(&Digest::of(b"uploaded, not named yet")).is_some());

    registry.delete(&name("b")).unwrap();
    assert_eq!(files(&dir.path().join("manifests")), [""; 0]);
    assert_eq!(files(&dir.path().join("blobs")).len(), 1);
}

#[test]
fn a_copy_keeps_every_byte_of_the_manifest() {
    let (dir, registry) = store();
    let manifest = put_model(&registry, "m", b"w");
    let path = dir.path().join("manifests/registry.ollama.ai/library/m/latest");
    let mut json = serde_json::to_value(&manifest).unwrap();
    json["unknownField"] = serde_json::json!({"kept": [1, 2]});
    let bytes = serde_json::to_vec_pretty(&json).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let digest = registry.copy(&name("m"), &name("n")).unwrap();
    assert_eq!(digest, Digest::of(&bytes));
    assert_eq!(
        std::fs::read(dir.path().join("manifests/registry.ollama.ai/library/n/latest")).unwrap(),
        bytes
    );
    assert_eq!(registry.manifest(&name("n")).unwrap().digest, digest);
}

#[test]
fn a_name_that_is_not_here_has_near_misses() {
    let (_dir, registry) = store();
    put_model(&registry, "witness-expert", b"w");
    for result in [
        registry.manifest(&name("wittness-expert")).map(|_| ()),
        registry.delete(&name("wittness-expert")).map(|_| ()),
        registry.copy(&name("wittness-expert"), &name("x")).map(|_| ()),
    ] {
        match result {
            Err(RegistryError::NotFound { near, .. }) => assert_eq!(near, ["witness-expert"]),
            other => panic!("{other:?}"),
        }
    }
    // A component that is a file where a directory is wanted, and the other way round.
    assert!(matches!(
        registry.manifest(&name("library/witness-expert/x")),
        Err(RegistryError::NotFound { .. })
    ));
}

#[test]
fn a_second_opener_is_told_who_holds_the_store() {
    let (dir, registry) = store();
    let second = Registry::open(dir.path(), &OpenOptions::new("another"));
    match second {
        Err(RegistryError::Locked {
            holder: Some(holder), ..
        }) => {
            assert_eq!((holder.pid, holder.purpose.as_str()), (std::process::id(), "test"));
        }
        other => panic!("{other:?}"),
    }
    let clone = registry.clone();
    drop(registry);
    assert!(
        Registry::open(dir.path(), &OpenOptions::new("another")).is_err(),
        "a clone still holds it"
    );
    drop(clone);
    open(dir.path());
    std::fs::write(dir.path().join(".witness/lock"), b"{ torn").unwrap();
    open(dir.path());
}

#[test]
fn a_missing_store_is_made_or_reported() {
    let dir = dir();
    let models = dir.path().join("a/b/models");
    let options = OpenOptions {
        create: false,
        purpose: "test".into(),
    };
    assert!(matches!(
        Registry::open(&models, &options),
        Err(RegistryError::NoStore { .. })
    ));
    assert!(!models.exists());
    drop(open(&models));
    assert!(Registry::open(&models, &options).unwrap().list().unwrap().is_empty());
}

/// What this user may not write is read as it is. The superuser may write everything, so there this test has nothing to show.
#[test]
fn a_store_of_another_user_is_read_only() {
    let (dir, registry) = store();
    put_model(&registry, "m", b"w");
    drop(registry);
    std::fs::remove_dir_all(dir.path().join(".witness")).unwrap();
    let set_mode = |mode| std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o555);
    let registry = open(dir.path());
    set_mode(0o755);
    if !registry.is_read_only() {
        eprintln!("skipped: a read-only store needs a user who is not the superuser");
        return;
    }
    assert_whole(&registry, "m");
    assert!(matches!(registry.put_bytes(b"x"), Err(RegistryError::ReadOnly { .. })));
    assert!(matches!(
        registry.delete(&name("m")),
        Err(RegistryError::ReadOnly { .. })
    ));
    assert!(matches!(registry.gc(), Err(RegistryError::ReadOnly { .. })));
}

#[test]
fn the_generation_changes_when_the_store_does_and_only_then() {
    let (dir, registry) = store();
    let mut last = registry.generation();
    let mut is_changed = || {
        let now = registry.generation();
        std::mem::replace(&mut last, now) != now
    };
    assert!(!is_changed());
    put_model(&registry, "m", b"w");
    assert!(is_changed() && !is_changed());
    registry.copy(&name("m"), &name("n")).unwrap();
    assert!(is_changed() && !is_changed());
    registry.delete(&name("n")).unwrap();
    assert!(is_changed() && !is_changed());
    // Another program adds a model: seen at the next look, which the clock decides; here it is only asked until then.
    let tag = dir.path().join("manifests/registry.ollama.ai/library/m");
    std::fs::copy(tag.join("latest"), tag.join("other")).unwrap();
    while !is_changed() {
        std::thread::yield_now();
    }
    assert_eq!(registry.list().unwrap().len(), 2);
}

#[test]
fn errors_carry_a_code_and_a_way_out() {
    use witness_diagnostics::{Diagnostic, Kind};
    let (_dir, registry) = store();
    let missing = Diagnostic::from(registry.manifest(&name("m")).unwrap_err());
    assert_eq!(
        (missing.code.as_str(), missing.kind),
        ("witness::registry::not_found", Kind::NotFound)
    );
    assert_eq!(missing.message, "model `m:latest` is not here");
    let invalid = Diagnostic::from(ModelName::parse("../m").unwrap_err());
    assert_eq!(
        invalid.message,
        "`../m` is no model name: its namespace begins with '.'; letters, digits and `_` may"
    );
    for diagnostic in [missing, invalid] {
        assert!(!diagnostic.hints.is_empty());
    }
}
