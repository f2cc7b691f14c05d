//! Goal: what comes out of a bundle is what went in, and whatever else a file says, the store is as it was.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Bundle, PackOptions, Watch, frame};
use crate::tests::{assert_whole, files, name, open, store};
use crate::{Damage, Digest, GcOptions, Layer, Manifest, Registry, RegistryError, media};

/// Texts of the model below; the licence stands in two layers and is packed once.
const SYSTEM: &[u8] = b"Answer in rhymes.";

/// Stores a model with a base of two files, an adapter, a text and a field that we do not know. Returns the manifest's bytes.
fn put(registry: &Registry) -> Vec<u8> {
    let blob = |bytes: &[u8]| registry.put_bytes(bytes).unwrap();
    let config = Layer::of(media::CONFIG, &blob(br#"{"model_format":"safetensors"}"#));
    let layers = vec![
        Layer::of(media::WITNESS_MODEL_FILE, &blob(b"{}")).with(media::TITLE, "config.json"),
        Layer::of(media::WITNESS_MODEL_FILE, &blob(&[7; 1500])).with(media::TITLE, "model.safetensors"),
        Layer::of(media::WITNESS_ADAPTER_FILE, &blob(b"adapter"))
            .with(media::TITLE, "adapter_model.safetensors")
            .with(media::ADAPTER_NAME, "rhymes"),
        Layer::of(media::SYSTEM, &blob(SYSTEM)),
        Layer::of(media::LICENSE, &blob(b"")),
        Layer::of(media::LICENSE, &blob(b"")),
    ];
    let mut manifest = serde_json::to_value(Manifest::new(config, layers)).unwrap();
    manifest["runner"] = json!("a field of another program");
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let parsed = Manifest::from_bytes(&bytes).unwrap();
    registry.write_manifest_bytes(&name("poet"), &parsed, &bytes).unwrap();
    bytes
}

fn options(without_base: Option<&str>) -> PackOptions<'_> {
    static NAME: std::sync::OnceLock<crate::ModelName> = std::sync::OnceLock::new();
    PackOptions {
        name: NAME.get_or_init(|| name("poet")),
        program: "witness 0",
        without_base,
        made: &[],
        replace: false,
    }
}

/// A bundle of the model above in a directory of its own.
fn packed(without_base: Option<&str>) -> (TempDir, PathBuf, Vec<u8>) {
    let (dir, registry) = store();
    let manifest = put(&registry);
    let path = dir.path().join("poet.witness.tar");
    let bytes = registry
        .pack(&manifest, &path, &options(without_base), Watch::default())
        .unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes);
    (dir, path, manifest)
}

fn import(path: &Path, registry: &Registry) -> crate::Result<Digest> {
    let bundle = Bundle::open(path)?;
    let model = bundle.name().clone();
    let unpacked = bundle.unpack(registry, Watch::default())?;
    let digest = unpacked.publish(registry, &model)?;
    assert_eq!(digest, unpacked.manifest_digest());
    Ok(digest)
}

#[test]
fn what_comes_out_is_what_went_in() {
    let (dir, path, manifest) = packed(None);
    let (other_dir, other) = store();
    assert_eq!(import(&path, &other).unwrap(), Digest::of(&manifest));
    assert_whole(&other, "poet");
    assert_eq!(other.manifest_bytes(&name("poet")).unwrap(), manifest);
    // Nothing is on its way any more, in either place.
    assert!(files(&other_dir.path().join(".witness/tmp")).is_empty());
    assert!(files(dir.path()).iter().all(|name| !name.ends_with(".part")));
    // Packed again from where it came to, it is the same file.
    let again = other_dir.path().join("again.tar");
    other.pack(&manifest, &again, &options(None), Watch::default()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap());
}

// Any machine can take it apart. Skipped where there is no `tar`.
#[test]
fn it_is_a_tar() {
    let (dir, path, manifest) = packed(None);
    let tar = std::process::Command::new("tar")
        .arg("xf")
        .arg(&path)
        .current_dir(dir.path())
        .output();
    let Ok(output) = tar else {
        eprintln!("skipped: there is no `tar` here");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let inside = dir.path().join("witness-bundle-1");
    assert_eq!(std::fs::read(inside.join("manifest.json")).unwrap(), manifest);
    let system = inside.join("blobs").join(Digest::of(SYSTEM).file_name());
    assert_eq!(std::fs::read(system).unwrap(), SYSTEM);
    assert_eq!(files(&inside.join("blobs")).len(), 6);
}

#[test]
fn a_base_that_is_left_out_must_be_here() {
    let (_dir, path, manifest) = packed(Some("the-base:latest"));
    let (dir, registry) = store();
    let error = import(&path, &registry).unwrap_err();
    let RegistryError::BundleBase { base, missing, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!((base.as_str(), missing.len()), ("the-base:latest", 2));
    assert_eq!(missing[1].0, "model.safetensors");
    assert!(files(&dir.path().join("blobs")).is_empty(), "nothing was stored");
    registry.put_bytes(b"{}").unwrap();
    registry.put_bytes(&[7; 1500]).unwrap();
    assert_eq!(import(&path, &registry).unwrap(), Digest::of(&manifest));
    assert_whole(&registry, "poet");
}

// Blobs that are here already are not read again, so what the file says in their place does not matter.
#[test]
fn what_is_here_is_known_by_its_digest() {
    let (_dir, path, manifest) = packed(None);
    let mut bytes = std::fs::read(&path).unwrap();
    let weights = bytes.windows(100).position(|window| window == [7; 100]).unwrap();
    bytes[weights + 3] = 8;
    std::fs::write(&path, bytes).unwrap();
    let (_other_dir, other) = store();
    assert!(import(&path, &other).is_err());
    other.put_bytes(&[7; 1500]).unwrap();
    assert_eq!(import(&path, &other).unwrap(), Digest::of(&manifest));
    assert_whole(&other, "poet");
}

// Method: every byte of the file in turn, into a store that has nothing.
#[test]
fn a_byte_that_differs_is_found_wherever_it_is() {
    let (_dir, path, _) = packed(None);
    let (other_dir, other) = store();
    let sound = std::fs::read(&path).unwrap();
    let all = GcOptions {
        grace: std::time::Duration::ZERO,
        ..GcOptions::default()
    };
    for place in 0..sound.len() {
        let mut bytes = sound.clone();
        bytes[place] ^= 0x20;
        std::fs::write(&path, bytes).unwrap();
        let result = import(&path, &other);
        assert!(result.is_err(), "byte {place} of {} was not missed", sound.len());
        if !files(&other_dir.path().join("blobs")).is_empty() {
            other.gc_with(all.clone()).unwrap();
        }
    }
    assert!(other.list().unwrap().is_empty());
    std::fs::write(&path, &sound).unwrap();
    import(&path, &other).unwrap();
}

#[test]
fn a_length_that_differs_is_found_before_anything_is_stored() {
    let (_dir, path, _) = packed(None);
    let sound = std::fs::read(&path).unwrap();
    let (dir, registry) = store();
    let check = |bytes: &[u8], wanted: &str| {
        std::fs::write(&path, bytes).unwrap();
        let error = witness_diagnostics::Diagnostic::from(import(&path, &registry).unwrap_err());
        let told = format!("{} {:?}", error.message, error.causes);
        assert!(told.contains(wanted), "{} bytes: {told}", bytes.len());
        assert!(files(&dir.path().join("blobs")).is_empty());
    };
    for length in 0..512 {
        check(&sound[..length], "no bundle");
    }
    for length in (512..sound.len()).step_by(64) {
        check(&sound[..length], "ends");
    }
    check(&sound[..sound.len() - 1], "it ends after");
    let mut longer = sound.clone();
    longer.extend_from_slice(b"x");
    check(&longer, "1 bytes follow its end");
    longer.extend_from_slice(&sound);
    check(&longer, "bytes follow its end");
}

/// Builds a file as the packer would, of an index that it would not make.
fn forge(path: &Path, index: &Value, contents: &[&[u8]]) {
    let mut out = Vec::new();
    let mut put = |path: &str, bytes: &[u8]| {
        out.extend_from_slice(&frame::header(&frame::entry(path), bytes.len() as u64));
        out.extend_from_slice(bytes);
        out.resize(out.len().next_multiple_of(512), 0);
    };
    let index_bytes = index.to_string().into_bytes();
    put(&frame::index_path(&Digest::of(&index_bytes)), &index_bytes);
    let entries = index["entries"].as_array().unwrap();
    for (entry, content) in entries.iter().zip(contents) {
        put(entry["path"].as_str().unwrap(), content);
    }
    out.resize(out.len() + 1024, 0);
    std::fs::write(path, out).unwrap();
}

fn entry(path: &str, bytes: &[u8]) -> Value {
    json!({"path": path, "digest": Digest::of(bytes), "size": bytes.len()})
}

fn blob(bytes: &[u8]) -> Value {
    entry(&format!("blobs/{}", Digest::of(bytes).file_name()), bytes)
}

#[test]
fn a_bundle_that_lies_is_refused() {
    let (dir, registry) = store();
    let path = dir.path().join("forged.tar");
    let (config, weights): (&[u8], &[u8]) = (b"{}", b"weights");
    let layer = |media: &str, bytes: &[u8]| Layer::new(media, Digest::of(bytes), bytes.len() as u64);
    let manifest = Manifest::new(layer(media::CONFIG, config), vec![layer(media::MODEL, weights)]).to_bytes();
    let index = |entries: Value| json!({"format_version": 1, "program": "x", "name": "forged", "entries": entries});
    let check = |index: Value, contents: &[&[u8]], wanted: &str| {
        forge(&path, &index, contents);
        let error = witness_diagnostics::Diagnostic::from(import(&path, &registry).unwrap_err());
        let told = format!("{} {:?}", error.message, error.causes);
        assert!(told.contains(wanted), "{wanted}: {told}");
        assert!(registry.list().unwrap().is_empty(), "{wanted}");
    };
    let first = entry("manifest.json", &manifest);
    // The way that all others depart from.
    forge(
        &path,
        &index(json!([first, blob(config), blob(weights)])),
        &[&manifest, config, weights],
    );
    import(&path, &registry).unwrap();
    registry.delete(&name("forged")).unwrap();

    let twice = index(json!([first, blob(config), blob(weights), blob(weights)]));
    check(twice, &[&manifest, config, weights, weights], "twice");
    let stray = index(json!([first, blob(config), blob(weights), blob(b"stray")]));
    check(stray, &[&manifest, config, weights, b"stray"], "does not name");
    check(
        index(json!([first, blob(config)])),
        &[&manifest, config],
        "which it lacks",
    );
    for out in ["../../outside", "/etc/passwd", "blobs/../../x", "manifest.json", ""] {
        let mut escaping = blob(weights);
        escaping["path"] = json!(out);
        let contents: [&[u8]; 3] = [&manifest, config, weights];
        check(
            index(json!([first, blob(config), escaping])),
            &contents,
            "is not that of blob",
        );
    }
    let mut short = blob(weights);
    short["size"] = json!(3);
    check(
        index(json!([first, blob(config), short])),
        &[&manifest, config, b"wei"],
        "differ on the length",
    );
    check(index(json!([blob(config)])), &[config], "first entry");
    check(index(json!([])), &[], "names no entries");
    check(
        index(json!([entry("manifest.json", b"no JSON")])),
        &[b"no JSON"],
        "manifest cannot be read",
    );
    let mut newer = index(json!([first]));
    newer["compression"] = json!("zstd");
    check(newer, &[&manifest], "does not parse");
    let mut other = index(json!([first]));
    other["format_version"] = json!(2);
    check(other, &[&manifest], "another version");
    let mut endless = blob(weights);
    endless["size"] = json!(u64::MAX);
    check(
        index(json!([first, blob(config), endless])),
        &[&manifest, config, weights],
        "it ends after",
    );
    // Only a base may be left out.
    let mut bare = index(json!([first, blob(weights)]));
    bare["base"] = json!({"name": "x", "files": [entry("config", config)]});
    check(bare, &[&manifest, weights], "no part of a base");
    let mut wrong = index(json!([first, blob(config), blob(weights)]));
    wrong["base"] = json!({"name": "x", "files": [entry("weights", weights)]});
    check(wrong, &[&manifest, config, weights], "does not name");
    // A name that would lead out is no name.
    let mut escaping = index(json!([first, blob(config), blob(weights)]));
    escaping["name"] = json!("../../x");
    check(escaping, &[&manifest, config, weights], "does not parse");
}

#[test]
fn what_is_no_bundle_of_ours_says_so() {
    let (dir, registry) = store();
    let path = dir.path().join("x");
    let mut newer = frame::header("witness-bundle-2/anything", 0).to_vec();
    newer.resize(4096, 0);
    std::fs::write(&path, &newer).unwrap();
    let error = import(&path, &registry).unwrap_err();
    assert!(
        matches!(error, RegistryError::BundleVersion { found: 2, known: 1, .. }),
        "{error:?}"
    );
    std::fs::write(&path, [b"GGUF".as_slice(), &[0; 1000]].concat()).unwrap();
    assert!(matches!(
        import(&path, &registry),
        Err(RegistryError::NotABundle { .. })
    ));
    assert!(matches!(
        import(dir.path(), &registry),
        Err(RegistryError::NotAFile { .. })
    ));
    // An index as long as the file promises, and longer than any may be: nothing is allocated for it.
    let mut long = frame::header(&frame::entry(&frame::index_path(&Digest::of(b""))), 1 << 32).to_vec();
    long.resize(4096, 0);
    std::fs::write(&path, &long).unwrap();
    let error = import(&path, &registry).unwrap_err();
    assert!(matches!(error, RegistryError::BundleDamaged { at: 0, .. }), "{error:?}");
}

#[test]
fn a_file_that_is_there_is_replaced_only_when_asked() {
    let (dir, registry) = store();
    let manifest = put(&registry);
    let path = dir.path().join("mine.tar");
    std::fs::write(&path, "mine").unwrap();
    let refused = registry.pack(&manifest, &path, &options(None), Watch::default());
    assert!(matches!(refused, Err(RegistryError::Exists { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    let replacing = PackOptions {
        replace: true,
        ..options(None)
    };
    registry.pack(&manifest, &path, &replacing, Watch::default()).unwrap();
    Bundle::open(&path).unwrap();
    let refused = registry.pack(&manifest, dir.path(), &replacing, Watch::default());
    assert!(matches!(refused, Err(RegistryError::NotAFile { .. })));
}

#[test]
fn what_is_broken_off_leaves_nothing() {
    let (dir, registry) = store();
    let manifest = put(&registry);
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let path = out.join("x.tar");
    let cancel = AtomicBool::new(false);
    let mut seen = Vec::new();
    let mut stop_half_way = |done: u64, total: u64| {
        seen.push((done, total));
        cancel.store(done > 1500, std::sync::atomic::Ordering::Relaxed);
    };
    let watch = Watch {
        progress: Some(&mut stop_half_way),
        cancel: Some(&cancel),
    };
    let stopped = registry.pack(&manifest, &path, &options(None), watch);
    assert!(matches!(stopped, Err(RegistryError::Cancelled)));
    assert!(files(&out).is_empty(), "{:?}", files(&out));
    assert_eq!(seen[0].0, 0);
    assert!(seen.last().unwrap().0 < seen[0].1);
    // The same of an import: what came whole stays for gc, and no name is given.
    registry
        .pack(&manifest, &path, &options(None), Watch::default())
        .unwrap();
    let (_other_dir, other) = store();
    let cancel = AtomicBool::new(true);
    let watch = Watch {
        cancel: Some(&cancel),
        ..Watch::default()
    };
    let stopped = Bundle::open(&path).unwrap().unpack(&other, watch);
    assert!(matches!(stopped, Err(RegistryError::Cancelled)));
    assert!(other.list().unwrap().is_empty());
}

#[test]
fn a_damaged_blob_is_not_packed() {
    let (dir, registry) = store();
    let manifest = put(&registry);
    let path = dir.path().join("x.tar");
    let weights = registry.blob_path(&Digest::of(&[7; 1500]));
    for (bytes, is_length) in [(vec![8; 1500], false), (vec![7; 1499], true)] {
        std::fs::remove_file(&weights).unwrap();
        std::fs::write(&weights, bytes).unwrap();
        let error = registry
            .pack(&manifest, &path, &options(None), Watch::default())
            .unwrap_err();
        let RegistryError::Damaged { damage, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(matches!(**damage, Damage::BlobLength { .. }), is_length, "{damage}");
        assert!(!path.exists() && files(dir.path()).iter().all(|name| !name.ends_with(".part")));
    }
    std::fs::remove_file(&weights).unwrap();
    let error = registry
        .pack(&manifest, &path, &options(None), Watch::default())
        .unwrap_err();
    assert!(matches!(error, RegistryError::BlobNotFound { .. }), "{error:?}");
}

// A manifest that was made for the bundle, and the blob that came with it.
#[test]
fn blobs_that_were_made_for_it_need_no_store() {
    let (dir, registry) = store();
    let weights = registry.put_bytes(b"weights").unwrap();
    let config = br#"{"made":true}"#.to_vec();
    let layer = Layer::new(media::CONFIG, Digest::of(&config), config.len() as u64);
    let manifest = Manifest::new(layer, vec![Layer::of(media::MODEL, &weights)]).to_bytes();
    let path = dir.path().join("x.tar");
    let made = [config];
    let options = PackOptions {
        made: &made,
        ..options(None)
    };
    registry.pack(&manifest, &path, &options, Watch::default()).unwrap();
    assert_eq!(files(&dir.path().join("blobs")).len(), 1, "the store is as it was");
    let (_other_dir, other) = store();
    import(&path, &other).unwrap();
    assert_whole(&other, "poet");
}

// A blob of several buffers goes through the thread that hashes.
#[test]
fn long_blobs_come_whole() {
    let (dir, registry) = store();
    let bytes = crate::tests::Random(5).bytes(5 * crate::hash::BUFFER_BYTES / 2);
    let manifest = crate::tests::put_model(&registry, "poet", &bytes).to_bytes();
    let path = dir.path().join("x.tar");
    registry
        .pack(&manifest, &path, &options(None), Watch::default())
        .unwrap();
    let (other_dir, other) = store();
    import(&path, &other).unwrap();
    assert_whole(&other, "poet");
    drop(other);
    assert_whole(&open(other_dir.path()), "poet");
}
