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
