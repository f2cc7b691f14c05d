//! The grammar of names and digests, and that neither can leave the store's directory.

use crate::{Digest, ModelName};

#[test]
fn names_with_defaults() {
    let cases = [
        ("mistral", "registry.ollama.ai/library/mistral:latest", "mistral:latest"),
        ("mistral:7b", "registry.ollama.ai/library/mistral:7b", "mistral:7b"),
        (
            "eva/mistral",
            "registry.ollama.ai/eva/mistral:latest",
            "eva/mistral:latest",
        ),
        (
            "library/mistral",
            "registry.ollama.ai/library/mistral:latest",
            "mistral:latest",
        ),
        ("example.com/eva/m:x", "example.com/eva/m:x", "example.com/eva/m:x"),
        (
            "https://example.com/eva/m",
            "example.com/eva/m:latest",
            "example.com/eva/m:latest",
        ),
        (
            "http://localhost:5000/eva/m:t",
            "localhost:5000/eva/m:t",
            "localhost:5000/eva/m:t",
        ),
        (
            "localhost:5000/eva/m",
            "localhost:5000/eva/m:latest",
            "localhost:5000/eva/m:latest",
        ),
        (
            "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
            "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
            "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
        ),
        ("_a", "registry.ollama.ai/library/_a:latest", "_a:latest"),
        (
            "a.b-c_d:e.f-g_h",
            "registry.ollama.ai/library/a.b-c_d:e.f-g_h",
            "a.b-c_d:e.f-g_h",
        ),
        (
            "REGISTRY.ollama.ai/Library/M",
            "REGISTRY.ollama.ai/Library/M:latest",
            "M:latest",
        ),
    ];
    for (text, full, short) in cases {
        let name = ModelName::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(
            (name.display_full().as_str(), name.to_string().as_str()),
            (full, short),
            "{text}"
        );
        assert_eq!(ModelName::parse(full).unwrap(), name);
        assert_eq!(ModelName::parse(short).unwrap(), name);
        assert_eq!(ModelName::from_relative_path(&name.relative_path()), Some(name));
    }
    let long = "a".repeat(80);
    assert!(ModelName::parse(&format!("{long}/{long}:{long}")).is_ok());
    assert!(ModelName::parse(&format!("{}/a/a", "h".repeat(350))).is_ok());
}

#[test]
fn what_is_no_name() {
    let cases = [
        "",
        ":",
        "/",
        "a:",
        ":a",
        "a/",
        "/a",
        "a//b",
        "a/b/",
        "/a/b",
        "a/b/c/d",
        "a b",
        "a\\b",
        "a:b:c",
        "ä",
        "a\0",
        "a\n",
        ".",
        "..",
        "../a",
        "a/..",
        "a:..",
        "../../etc/passwd",
        "a/../b",
        "..:a",
        ".a",
        "-a",
        "a:.b",
        "a:-b",
        "a.b/c",
        "a/./b",
        "~/a",
        "%2e%2e/a",
        "a@sha256:b",
        "a+b",
        "a?b",
        "*",
        "a/b:c/d:e:f",
        "..\\..\\a",
        "a:b/",
        "http:///a/b",
        "\u{2024}\u{2024}/a",
        "a/\u{ff0f}b",
    ];
    for text in cases {
        assert!(ModelName::parse(text).is_err(), "{text:?}");
    }
    for bytes in [81, 100_000] {
        let long = "a".repeat(bytes);
        for text in [
            long.clone(),
            format!("a:{long}"),
            format!("{long}/a"),
            format!("{}/a/a", "h".repeat(bytes + 270)),
        ] {
            let error = ModelName::parse(&text).expect_err("too long");
            assert!(error.to_string().len() < 400);
        }
    }
}

#[test]
fn case_does_not_tell_names_apart() {
    let set: std::collections::HashSet<ModelName> = ["Mistral:7B", "mistral:7b", "LIBRARY/mistral:7b"]
        .iter()
        .map(|text| ModelName::parse(text).unwrap())
        .collect();
    assert_eq!(set.len(), 1);
    let ordered: std::collections::BTreeSet<ModelName> = ["b", "A", "a", "B:latest"]
        .iter()
        .map(|text| ModelName::parse(text).unwrap())
        .collect();
    assert_eq!(ordered.len(), 2);
}

#[test]
fn digests() {
    let hex = "0123456789abcdef".repeat(4);
    for text in [
        format!("sha256:{hex}"),
        format!("sha256-{hex}"),
        format!("sha256:{}", hex.to_uppercase()),
    ] {
        let digest = Digest::parse(&text).unwrap();
        assert_eq!(digest.as_str(), format!("sha256:{hex}"));
        assert_eq!(
            (digest.hex(), digest.file_name()),
            (hex.as_str(), format!("sha256-{hex}"))
        );
    }
    let bad = [
        "".into(),
        hex.clone(),
        "sha256:".into(),
        format!("sha256:{}", &hex[1..]),
        format!("sha256:{hex}0"),
        format!("sha512:{hex}"),
        format!("sha256/{hex}"),
        format!(" sha256:{hex}"),
        format!("sha256:{}g", &hex[1..]),
        format!("SHA256:{hex}"),
        format!("sha256:../{}", &hex[3..]),
        format!("sha256-{}/..", &hex[3..]),
        format!("sha256:{}\0", &hex[1..]),
        format!("sha256:{}é", &hex[2..]),
        "x".repeat(1 << 20),
    ];
    for text in &bad {
        let error = Digest::parse(text).expect_err(text);
        assert!(error.to_string().len() < 1000);
        assert!(serde_json::from_value::<Digest>(serde_json::json!(text)).is_err());
    }
    assert_eq!(
        Digest::of(b"abc").as_str(),
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}

/// Random texts from the characters that paths are made of: what is accepted is always four plain components.
#[test]
fn no_accepted_name_leaves_the_store() {
    let alphabet: Vec<char> = "aZ0._-:/\\~%@\0 é".chars().collect();
    let mut random = super::Random(0x5eed);
    let mut accepted = 0;
    for _ in 0..50_000 {
        let length = random.below(12) + 1;
        let text: String = (0..length)
            .map(|_| alphabet[random.below(alphabet.len() as u64) as usize])
            .collect();
        let Ok(name) = ModelName::parse(&text) else { continue };
        accepted += 1;
        let path = name.relative_path();
        let is_plain = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(part) if part != ".." && part != ".");
        assert!(
            path.components().count() == 4 && path.components().all(is_plain),
            "{text:?} became {path:?}"
        );
        assert_eq!(ModelName::parse(&name.display_full()).unwrap(), name);
    }
    assert!(
        accepted > 100,
        "only {accepted} names were accepted: the test is too weak"
    );
}
