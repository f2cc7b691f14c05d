//! Importing: copied or linked, the digest is that of the stored bytes, and a source that changes is refused.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::{Damage, ImportOptions, Placement, RegistryError};

fn source(dir: &Path, bytes: &[u8]) -> std::path::PathBuf {
    let path = dir.join("source.gguf");
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_copy_has_the_source_s_bytes_and_reports_its_progress() {
    let (dir, registry) = store();
    let bytes = Random(3).bytes(5 << 20);
    let path = source(dir.path(), &bytes);
    let mut seen = Vec::new();
    let mut progress = |done, total| seen.push((done, total));
    let stored = registry
        .import_file(
            &path,
            ImportOptions {
                progress: Some(&mut progress),
                ..Default::default()
            },
        )
        .unwrap();
    assert_eq!(
        (stored.digest, stored.placement),
        (Digest::of(&bytes), Placement::Copied)
    );
    assert_eq!(fs::read(registry.blob_path(&stored.digest)).unwrap(), bytes);
    let total = bytes.len() as u64;
    assert_eq!(seen.last(), Some(&(total, total)));
    assert!(seen.len() >= 5 && seen.is_sorted() && seen.iter().all(|(_, of)| *of == total));
    fs::write(&path, b"changed later").unwrap();
    assert_eq!(
        Digest::of(&fs::read(registry.blob_path(&stored.digest)).unwrap()),
        stored.digest
    );
}

#[test]
fn a_link_needs_no_second_copy() {
    let (dir, registry) = store();
    let bytes = Random(4).bytes(3 << 20);
    let path = source(dir.path(), &bytes);
    let linked = || {
        registry
            .import_file(
                &path,
                ImportOptions {
                    link: true,
                    ..Default::default()
                },
            )
            .unwrap()
    };
    let stored = linked();
    assert_eq!((stored.digest, stored.size), (Digest::of(&bytes), bytes.len() as u64));
    if stored.placement == Placement::HardLinked {
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&path), inode(&registry.blob_path(&stored.digest)));
    }
    linked();
    assert_eq!(
        files(&dir.path().join(".witness/tmp")),
        [""; 0],
        "a second link leaves no stray file"
    );
    assert_eq!(files(&dir.path().join("blobs")).len(), 1);
    // Through a symbolic link the file itself is linked, not the link.
    let symbolic = dir.path().join("symbolic");
    std::os::unix::fs::symlink(&path, &symbolic).unwrap();
    registry
        .import_file(
            &symbolic,
            ImportOptions {
                link: true,
                ..Default::default()
            },
        )
        .unwrap();
    assert!(
        fs::symlink_metadata(registry.blob_path(&stored.digest))
            .unwrap()
            .is_file()
    );
}

/// The hazard of hard links, and that it is seen: at once by its time of change, and by fsck even when that was set back.
#[test]
fn a_linked_file_that_is_written_to_is_seen() {
    let (dir, registry) = store();
    let path = source(dir.path(), &Random(5).bytes(2 << 20));
    let stored = registry
        .import_file(
            &path,
            ImportOptions {
                link: true,
                ..Default::default()
            },
        )
        .unwrap();
    if stored.placement != Placement::HardLinked {
        eprintln!("skipped: this file system links otherwise ({:?})", stored.placement);
        return;
    }
    let config = registry.put_bytes(b"{}").unwrap();
    let manifest = Manifest::new(
        Layer::of(media::CONFIG, &config),
        vec![Layer::of(media::MODEL, &stored)],
    );
    registry.write_manifest(&name("linked"), &manifest).unwrap();
    assert_whole(&registry, "linked");
    put_model(&registry, "other", b"w");

    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"oops", 1000).unwrap();
    file.set_modified(modified + std::time::Duration::from_secs(1)).unwrap();
    let check = |registry: &Registry| match registry.manifest(&name("linked")) {
        Err(RegistryError::Damaged { damage, .. }) => {
            assert!(matches!(*damage, Damage::LinkedFileChanged { .. }), "{damage}");
        }
        other => panic!("{other:?}"),
    };
    check(&registry);
    drop((registry, stored, config));
    let registry = open(dir.path());
    check(&registry);
    assert_whole(&registry, "other");

    file.set_modified(modified).unwrap();
    assert!(
        registry.manifest(&name("linked")).is_ok(),
        "the time was set back: only the bytes can tell"
    );
    let report = registry.fsck(crate::FsckOptions::default()).unwrap();
    assert!(!report.is_sound());
    assert!(matches!(
        registry.manifest(&name("linked")),
        Err(RegistryError::Damaged { .. })
    ));
    // A true copy heals it, and the record of the link goes.
    let right = Random(5).bytes(2 << 20);
    registry.put_bytes(&right).unwrap();
    assert_whole(&registry, "linked");
    assert_eq!(files(&dir.path().join(".witness/linked")), [""; 0]);
}

#[test]
fn a_source_that_changes_meanwhile_is_refused() {
    let (dir, registry) = store();
    for link in [false, true] {
        let path = source(dir.path(), &vec![1; 4 << 20]);
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        let mut change = |done, _| {
            if done < 2 << 20 {
                let file = fs::OpenOptions::new().append(true).open(&path).unwrap();
                std::io::Write::write_all(&mut &file, b"more").unwrap();
                file.set_modified(before + std::time::Duration::from_secs(done))
                    .unwrap();
            }
        };
        let options = ImportOptions {
            link,
            progress: Some(&mut change),
            ..Default::default()
        };
        assert!(
            matches!(
                registry.import_file(&path, options),
                Err(RegistryError::SourceChanged { .. })
            ),
            "{link}"
        );
        assert_eq!(files(&dir.path().join("blobs")), [""; 0]);
        assert_eq!(files(&dir.path().join(".witness/tmp")), [""; 0]);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn what_is_no_file_is_refused_and_a_cancelled_import_leaves_nothing() {
    let (dir, registry) = store();
    let refused = |path: &Path| registry.import_file(path, ImportOptions::default()).unwrap_err();
    assert!(matches!(refused(dir.path()), RegistryError::NotAFile { .. }));
    assert!(matches!(
        refused(Path::new("/dev/null")),
        RegistryError::NotAFile { .. }
    ));
    assert!(matches!(refused(&dir.path().join("missing")), RegistryError::Io { .. }));
    let cancel = AtomicBool::new(true);
    let path = source(dir.path(), &vec![1; 3 << 20]);
    let options = ImportOptions {
        cancel: Some(&cancel),
        ..Default::default()
    };
    assert!(matches!(
        registry.import_file(&path, options),
        Err(RegistryError::Cancelled)
    ));
    assert_eq!(files(&dir.path().join(".witness/tmp")), [""; 0]);
}

// A model that was made in a working directory is moved in, not copied, and the directory leaves nothing.
#[test]
fn a_file_of_a_working_directory_is_moved_in() {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::open(home.path().join("models"), &OpenOptions::new("test")).unwrap();
    let working = registry.working_directory(1_000).unwrap();
    let path = working.path().join("model.gguf");
    std::fs::write(&path, b"made here").unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
    let options = ImportOptions {
        takes: true,
        ..ImportOptions::default()
    };
    let stored = registry.import_file(&path, options).unwrap();
    assert_eq!(
        (stored.digest, stored.size, stored.placement),
        (Digest::of(b"made here"), 9, Placement::Moved)
    );
    let blob = std::fs::metadata(registry.blob_path(&stored.digest)).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&blob), inode);
    assert!(!path.exists());
    let directory = working.path().to_owned();
    drop(working);
    assert!(!directory.exists());
}

// What a killed process left in a working directory is gone after the next open.
#[test]
fn a_left_working_directory_is_removed_at_the_next_open() {
    let home = tempfile::tempdir().unwrap();
    let open = || Registry::open(home.path().join("models"), &OpenOptions::new("test")).unwrap();
    let registry = open();
    let left = registry.working_directory(0).unwrap().keep();
    std::fs::write(left.join("half.gguf"), b"half").unwrap();
    drop(registry);
    let _registry = open();
    assert!(!left.exists());
}
