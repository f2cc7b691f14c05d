//! A store as Ollama writes it: opened, listed and used as it is, and nothing of it changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::*;

/// The bytes that Ollama's encoder writes: this order of fields, no spaces, a newline at the end.
fn manifest_text(config: &[u8], layers: &[(&str, &[u8], Option<&str>)]) -> String {
    let layer = |media_type: &str, bytes: &[u8], from: Option<&str>| {
        let from = from.map(|from| format!(r#","from":"{from}""#)).unwrap_or_default();
        format!(
            r#"{{"mediaType":"{media_type}","digest":"{}","size":{}{from}}}"#,
            Digest::of(bytes),
            bytes.len()
        )
    };
    let layers: Vec<String> = layers
        .iter()
        .map(|(media_type, bytes, from)| layer(media_type, bytes, *from))
        .collect();
    format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{}\",\"config\":{},\"layers\":[{}]}}\n",
        media::MANIFEST,
        layer(media::CONFIG, config, None),
        layers.join(",")
    )
}

const CONFIG: &[u8] = br#"{"model_format":"gguf","model_family":"llama","model_families":["llama"],"model_type":"1.2B","file_type":"Q8_0","architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;

fn ollama_store() -> TempDir {
    let dir = dir();
    let blobs = dir.path().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let blob = |bytes: &[u8]| fs::write(blobs.join(Digest::of(bytes).file_name()), bytes).unwrap();
    for bytes in [
        CONFIG,
        b"GGUF weights",
        b"{{ .Prompt }}",
        br#"{"stop":["<|eot_id|>"]}"#,
        b"Be kind.",
    ] {
        blob(bytes);
    }
    // Versions before 0.1.33 used a colon.
    fs::write(blobs.join(Digest::of(b"old licence").as_str()), b"old licence").unwrap();
    // A download under way.
    fs::write(
        blobs.join(format!("{}-partial", Digest::of(b"coming").file_name())),
        b"com",
    )
    .unwrap();
    fs::write(
        blobs.join(format!("{}-partial-0", Digest::of(b"coming").file_name())),
        b"{}",
    )
    .unwrap();

    let manifest = |path: &str, text: &str| {
        let path = dir.path().join("manifests").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let layers: [(&str, &[u8], Option<&str>); 4] = [
        (
            media::MODEL,
            b"GGUF weights",
            Some("/usr/share/ollama/.ollama/models/blobs/sha256-aa"),
        ),
        (media::TEMPLATE, b"{{ .Prompt }}", None),
        (media::PARAMS, br#"{"stop":["<|eot_id|>"]}"#, None),
        (media::LICENSE, b"old licence", None),
    ];
    manifest(
        "registry.ollama.ai/library/llama3.2/1b",
        &manifest_text(CONFIG, &layers),
    );
    manifest(
        "registry.ollama.ai/eva/expert/latest",
        &manifest_text(CONFIG, &[layers[0], (media::SYSTEM, b"Be kind.", None)]),
    );
    manifest(
        "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF/Q8_0",
        &manifest_text(CONFIG, &layers[..1]),
    );
    // Fields that only newer versions write, and a kind of thing that we do not know, one level deeper.
    let newer = manifest_text(CONFIG, &layers[..1])
        .replace("\"size\":12,", "\"size\":12,\"name\":\"model.embed\",\"shape\":[1,2],");
    manifest("registry.ollama.ai/library/newer/latest", &newer);
    manifest(
        "registry.ollama.ai/library/skill/tool/latest",
        &manifest_text(CONFIG, &[]),
    );
    dir
}

fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut tree = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with(".witness") {
            continue;
        }
        if path.is_dir() {
            tree.extend(self::tree(&path));
        } else {
            tree.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    tree
}

#[test]
fn it_opens_as_it_is_and_stays_as_it_is() {
    let dir = ollama_store();
    let before = tree(dir.path());
    let registry = open(dir.path());
    let entries = registry.list().unwrap();
    let names: Vec<String> = entries.iter().map(|entry| entry.name.to_string()).collect();
    assert_eq!(
        names,
        [
            "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q8_0",
            "eva/expert:latest",
            "llama3.2:1b",
            "newer:latest"
        ]
    );
    for entry in &entries {
        let (manifest, digest) = entry
            .result
            .as_ref()
            .unwrap_or_else(|damage| panic!("{}: {damage}", entry.name));
        let path = dir.path().join("manifests").join(entry.name.relative_path());
        assert_eq!(
            *digest,
            Digest::of(&before[&path]),
            "the model's digest is that of the manifest's bytes"
        );
        assert_eq!(entry.size, manifest.total_bytes());
        assert_whole(&registry, &entry.name.to_string());
    }
    let stored = registry.manifest(&name("llama3.2:1b")).unwrap().manifest;
    assert_eq!(
        stored.layers[0].from.as_deref(),
        Some("/usr/share/ollama/.ollama/models/blobs/sha256-aa")
    );
    let licence = stored.layers_of(media::LICENSE).next().unwrap();
    assert_eq!(registry.read_blob(&licence.digest, 100).unwrap(), b"old licence");
    assert_eq!(registry.has_blob(&licence.digest), Some(11));

    let report = registry.fsck(crate::FsckOptions::default()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    registry
        .gc_with(crate::GcOptions {
            grace: std::time::Duration::ZERO,
            only: None,
        })
        .unwrap();
    drop(registry);
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn models_can_be_added_beside_its_own_and_removed_again() {
    let dir = ollama_store();
    let before = tree(dir.path());
    let registry = open(dir.path());
    put_model(&registry, "ours", b"our weights");
    registry.copy(&name("llama3.2:1b"), &name("theirs-again")).unwrap();
    assert_eq!(registry.list().unwrap().len(), 6);
    registry.delete(&name("theirs-again")).unwrap();
    registry.delete(&name("ours")).unwrap();
    drop(registry);
    assert_eq!(tree(dir.path()), before);
}

/// What Ollama reads: its own order of fields, and nothing that its reader does not take.
#[test]
fn ours_has_its_shape() {
    let (dir, registry) = store();
    put_model(&registry, "m", b"GGUF weights");
    let text = fs::read_to_string(dir.path().join("manifests/registry.ollama.ai/library/m/latest")).unwrap();
    let config = br#"{"model_format":"gguf"}"#;
    assert_eq!(
        text,
        manifest_text(config, &[(media::MODEL, b"GGUF weights", None)]).trim_end()
    );
    assert_eq!(files(dir.path()), [".witness", "blobs", "manifests"]);
    assert_eq!(files(&dir.path().join("blobs")).len(), 2);
}
