//! gc never removes what is named, leased, being written, or possibly named by what it cannot read.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::{BlobFile, GcInput, GcOptions, GcPlan};

const AT_ONCE: GcOptions = GcOptions {
    grace: Duration::ZERO,
    only: None,
};

fn blob(seed: u8, age_s: u64) -> BlobFile {
    BlobFile {
        digest: Digest::of(&[seed]),
        bytes: 1,
        age: Duration::from_secs(age_s),
        path: format!("/{seed}").into(),
    }
}

#[test]
fn the_plan() {
    let digests = |seeds: &[u8]| -> BTreeSet<Digest> { seeds.iter().map(|seed| Digest::of(&[*seed])).collect() };
    let input = || GcInput {
        blobs: vec![blob(1, 9_000), blob(2, 9_000), blob(3, 9_000), blob(4, 10)],
        named: digests(&[1]),
        leased: digests(&[2]),
        ..GcInput::default()
    };
    let removed = |input: GcInput| {
        GcPlan::new(input)
            .remove
            .iter()
            .map(|blob| blob.digest)
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(removed(input()), digests(&[3]), "old, unnamed, free");
    assert_eq!(
        removed(GcInput {
            options: AT_ONCE,
            ..input()
        }),
        digests(&[3, 4])
    );
    let only = GcOptions {
        only: Some(digests(&[4, 1])),
        ..AT_ONCE
    };
    assert_eq!(
        removed(GcInput {
            options: only,
            ..input()
        }),
        digests(&[4])
    );
    let blocked = GcPlan::new(GcInput {
        unreadable: vec!["/torn".into()],
        ..input()
    });
    assert_eq!((blocked.remove, blocked.blocked_by), (vec![], vec!["/torn".into()]));
    let nothing_to_do = GcInput {
        unreadable: vec!["/torn".into()],
        named: digests(&[1, 2, 3]),
        ..input()
    };
    assert_eq!(
        GcPlan::new(nothing_to_do),
        GcPlan::default(),
        "nothing is blocked when nothing would be removed"
    );
}

#[test]
fn what_is_leased_or_under_way_stays() {
    let (_dir, registry) = store();
    let mut under_way = registry.begin_blob(None, None).unwrap();
    under_way.append(&vec![9; 2 << 20]).unwrap();
    let uploaded = registry.put_bytes(b"uploaded").unwrap();
    put_model(&registry, "m", b"weights");
    let in_use = registry.lease(&[Digest::of(b"weights")]);
    assert_eq!(
        registry.delete(&name("m")).unwrap().removed.len(),
        1,
        "only the configuration is free"
    );
    assert_eq!(registry.gc_with(AT_ONCE).unwrap().removed, []);
    let second_lease = in_use.clone();
    drop(in_use);
    assert_eq!(registry.gc_with(AT_ONCE).unwrap().removed, []);
    drop(second_lease);
    assert_eq!(registry.gc().unwrap().removed, [], "too young for an ordinary gc");
    assert_eq!(registry.gc_with(AT_ONCE).unwrap().removed, [Digest::of(b"weights")]);
    drop(uploaded);
    assert_eq!(registry.gc_with(AT_ONCE).unwrap().removed, [Digest::of(b"uploaded")]);
    let stored = under_way.commit().unwrap();
    assert_eq!(registry.has_blob(&stored.digest), Some(2 << 20));
}

#[test]
fn a_torn_manifest_protects_everything_until_it_is_repaired_or_deleted() {
    let (dir, registry) = store();
    put_model(&registry, "torn", b"weights of the torn one");
    put_model(&registry, "other", b"weights of the other");
    let path = dir.path().join("manifests/registry.ollama.ai/library/torn/latest");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.find("layers").unwrap()]).unwrap();

    let report = registry.delete(&name("other")).unwrap();
    assert_eq!((report.removed, report.blocked_by), (vec![], vec![path.clone()]));
    assert_eq!(registry.gc_with(AT_ONCE).unwrap().blocked_by, [path]);

    // Moved aside it still protects what it names, as far as it can be read: here the configuration.
    registry
        .fsck(crate::FsckOptions {
            repair: true,
            ..Default::default()
        })
        .unwrap();
    let removed = registry.gc_with(AT_ONCE).unwrap().removed;
    assert!(removed.contains(&Digest::of(b"weights of the other")));
    assert!(registry.has_blob(&Digest::of(br#"{"model_format":"gguf"}"#)).is_some());
}

/// Writers, deleters and gc at the same time: a manifest that was written is whole at once and stays whole until it is deleted.
#[test]
fn gc_against_writers() {
    const ROUNDS: u64 = 150;
    let (_dir, registry) = store();
    let done = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for writer in 0..3u64 {
            let (registry, done) = (&registry, &done);
            scope.spawn(move || {
                let mut random = Random(writer + 1);
                for round in 0..ROUNDS {
                    // Writers share their weights, so that one's delete meets another's upload of the same blob.
                    let weights = format!("weights {}", random.below(4));
                    let model = format!("writer{writer}:{}", round % 3);
                    put_model(registry, &model, weights.as_bytes());
                    assert_whole(registry, &model);
                    if round % 3 == 2 {
                        registry.delete(&name(&model)).unwrap();
                    }
                }
                done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            });
        }
        scope.spawn(|| {
            while done.load(std::sync::atomic::Ordering::SeqCst) < 3 {
                registry.gc_with(AT_ONCE).unwrap();
            }
        });
    });
    for entry in registry.list().unwrap() {
        assert_whole(&registry, &entry.name.to_string());
    }
    assert!(registry.fsck(crate::FsckOptions::default()).unwrap().is_sound());
}

/// Goal: what plugins made of a blob goes with the blob, an older layout with a newer one, and what a killed writer left in its time or when the store is opened; gc counts it.
#[test]
fn packed_files_go_with_their_blobs() {
    let (dir, registry) = store();
    put_model(&registry, "kept", b"weights");
    put_model(&registry, "gone", b"other weights");
    let place = |weights: &[u8]| registry.packed_place(&Digest::of(weights), 10, 1 << 20).unwrap().stem;
    let write = |stem: &Path, end: &str, bytes: usize| {
        let mut path = stem.as_os_str().to_owned();
        path.push(end);
        std::fs::write(&path, vec![1; bytes]).unwrap();
        std::path::PathBuf::from(path)
    };
    let (kept, gone) = (place(b"weights"), place(b"other weights"));
    assert!(kept.starts_with(dir.path()) && kept.parent() == gone.parent());
    let new = write(&kept, ".v3", 100);
    let old = write(&kept, ".v2", 50);
    let part = write(&kept, ".v3.part", 25);
    let of_gone = write(&gone, ".v3", 10);
    let foreign = write(&kept, ".v3.txt", 5);
    assert_eq!(registry.packed_bytes(), 100 + 50 + 25 + 10);

    // Deleting a model is about its own blobs.
    let freed = |bytes: u64, weights: &[u8]| bytes + weights.len() as u64;
    let report = registry.delete(&name("gone")).unwrap();
    assert_eq!(report.packed_removed, [of_gone]);
    assert_eq!(report.bytes_freed, freed(10, b"other weights"));

    let report = registry.gc_with(AT_ONCE).unwrap();
    assert_eq!((report.packed_removed, report.bytes_freed), (vec![old], 50));
    assert!(new.exists() && part.exists(), "one that is being written stays");
    let an_hour_ago = std::time::SystemTime::now() - Duration::from_secs(3601);
    std::fs::File::open(&part).unwrap().set_modified(an_hour_ago).unwrap();
    assert_eq!(
        registry.gc_with(AT_ONCE).unwrap().packed_removed,
        std::slice::from_ref(&part)
    );

    write(&kept, ".v3.part", 25);
    drop(registry);
    let registry = open(dir.path());
    assert!(!part.exists() && new.exists(), "nobody writes while a store is opened");

    // A leased blob keeps what was made of it until it goes itself.
    let lease = registry.lease(&[Digest::of(b"weights")]);
    assert_eq!(registry.delete(&name("kept")).unwrap().packed_removed.len(), 0);
    drop(lease);
    assert_eq!(registry.gc_with(AT_ONCE).unwrap().packed_removed, [new]);
    assert!(foreign.exists(), "not ours");
}

/// Goal: packed files together take no more than they may; those that were not used for longest go first, and never the one that is asked for.
#[test]
fn packed_files_make_room_for_each_other() {
    let (_dir, registry) = store();
    let mut paths = Vec::new();
    for (index, weights) in [b"one".as_slice(), b"two", b"three"].into_iter().enumerate() {
        let mut path = registry.packed_place(&Digest::of(weights), 100, 350).unwrap().stem;
        path.as_mut_os_string().push(".v1");
        std::fs::write(&path, [1; 100]).unwrap();
        let used = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(100 - index as u64);
        std::fs::File::open(&path).unwrap().set_modified(used).unwrap();
        paths.push(path);
    }
    let are_there = || paths.iter().map(|path| path.exists()).collect::<Vec<_>>();
    let room = |weights: &[u8], bytes, bytes_max| {
        let place = registry.packed_place(&Digest::of(weights), bytes, bytes_max);
        place.map(|place| place.bytes_max)
    };
    assert_eq!(
        room(b"three", 150, 350),
        Some(150),
        "its own file makes room for itself"
    );
    assert_eq!(are_there(), [true; 3]);
    assert_eq!(room(b"four", 150, 350), Some(150));
    assert_eq!(are_there(), [true, true, false]);
    assert_eq!(room(b"four", 400, 350), None, "nothing goes for what does not fit");
    assert_eq!(are_there(), [true, true, false]);
}

/// Goal: what was made of a damaged blob is not found again beside the repaired one.
#[test]
fn packed_files_go_with_damage() {
    let (_dir, registry) = store();
    put_model(&registry, "m", b"weights");
    let digest = Digest::of(b"weights");
    let mut packed = registry.packed_place(&digest, 10, 1 << 20).unwrap().stem;
    packed.as_mut_os_string().push(".v1");
    std::fs::write(&packed, b"made of it").unwrap();
    let repair = || {
        let options = crate::FsckOptions {
            repair: true,
            ..Default::default()
        };
        registry.fsck(options).unwrap()
    };
    repair();
    assert!(packed.exists());
    std::fs::write(registry.blob_path(&digest), b"WEIGHTS").unwrap();
    repair();
    assert!(!packed.exists());
}
