//! A full disk: a clear error with both numbers, nothing lost, and work goes on when there is space again.

use std::fs;
use std::process::Command;

use super::*;
use crate::{ImportOptions, RegistryError};

/// A file system of a few MiB in memory, unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = dir();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "witness-test"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

fn assert_no_space<T: std::fmt::Debug>(result: crate::Result<T>, needed_min: u64) {
    match result {
        Err(RegistryError::NoSpace {
            bytes_needed,
            bytes_free,
            ..
        }) => {
            assert!(
                bytes_needed >= needed_min && bytes_free < 8 << 20,
                "{bytes_needed} {bytes_free}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_disk_loses_nothing() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: mounting a small disk needs the superuser");
        return;
    };
    let outside = dir();
    let big = outside.path().join("big");
    fs::write(&big, vec![7; 20 << 20]).unwrap();
    let models = disk.0.path().join("models");
    let registry = open(&models);
    put_model(&registry, "m", b"old weights");
    let old = registry.manifest(&name("m")).unwrap().digest;
    let staging = models.join(".witness/tmp");

    // Known to be too long: refused before a byte is written.
    for link in [false, true] {
        assert_no_space(
            registry.import_file(
                &big,
                ImportOptions {
                    link,
                    ..Default::default()
                },
            ),
            20 << 20,
        );
    }
    assert_no_space(registry.begin_blob(None, Some(20 << 20)).map(|_| ()), 20 << 20);
    // Not known: refused when the disk is full.
    let mut writer = registry.begin_blob(None, None).unwrap();
    assert_no_space((0..20).try_for_each(|_| writer.append(&vec![7; 1 << 20])), 1);
    drop(writer);
    assert_eq!(files(&staging), [""; 0]);

    // No room for a manifest either: the old one stays.
    let config = registry.put_bytes(b"new config").unwrap();
    let manifest = Manifest::new(Layer::of(media::CONFIG, &config), vec![]);
    let filler = disk.0.path().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    assert_no_space(registry.write_manifest(&name("m"), &manifest), 1);
    assert_no_space(registry.put_bytes(b"x"), 1);
    assert_eq!(registry.manifest(&name("m")).unwrap().digest, old);
    assert_whole(&registry, "m");
    assert_eq!(files(&staging), [""; 0]);
    drop((registry, config));

    // A full disk does not keep the store from being opened and emptied.
    let registry = open(&models);
    assert_whole(&registry, "m");
    drop(file);
    fs::remove_file(&filler).unwrap();
    registry.put_bytes(b"new config").unwrap();
    registry.write_manifest(&name("m"), &manifest).unwrap();
    assert!(
        registry.put_bytes(&vec![1; 2 << 20]).is_ok(),
        "works again without a new start"
    );
    assert!(registry.fsck(crate::FsckOptions::default()).unwrap().is_sound());
}

/// The kernel's own refusal, without a disk to fill.
#[test]
fn the_error_of_a_full_device_is_the_same() {
    let path = Path::new("/dev/full");
    let Ok(mut full) = fs::File::options().write(true).open(path) else {
        eprintln!("skipped: needs /dev/full");
        return;
    };
    let error = std::io::Write::write_all(&mut full, b"x").expect_err("the device is always full");
    let error = crate::space::write_error("write", path, 5)(error);
    assert!(
        matches!(error, RegistryError::NoSpace { bytes_needed: 5, .. }),
        "{error:?}"
    );
    let diagnostic = witness_diagnostics::Diagnostic::from(error);
    assert!(diagnostic.message.contains("5 are needed") && diagnostic.message.contains("bytes free"));
}
