//! safetensors: against the crate of the same name in both directions, sharded models, and lies in the head.

use std::fs;

use witness_formats::{
    Dtype, FileSet, FormatError,
    safetensors::{SafeTensors, Writer},
};

use crate::support::*;

/// Same names, types, shapes and bytes as the reference implementation.
fn compare(path: &std::path::Path) {
    let bytes = fs::read(path).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let ours = SafeTensors::open_file(path).unwrap();
    assert_eq!(ours.len(), theirs.len());
    for (name, tensor) in ours.iter() {
        let other = theirs.tensor(name).unwrap();
        assert_eq!(tensor.shape(), other.shape());
        assert_eq!(tensor.dtype().name(), serde_json::to_value(other.dtype()).unwrap());
        assert!(tensor.bytes() == other.data(), "{name}");
    }
}

#[test]
fn the_reference_implementation_reads_the_same() {
    let home = tempfile::tempdir().unwrap();
    compare(&write(home.path(), "m.safetensors", &small_safetensors()));
    for name in [
        "oracle/llama/base/model.safetensors",
        "models/stories260K-hf/model.safetensors",
        "models/adapters/opt125m-lora-r16/adapter_model.safetensors",
        "oracle/nf4/nf4.safetensors",
    ] {
        let Some(path) = shared(name) else { return };
        compare(&path);
    }
}

/// Every type has the name and the width that the reference implementation gives it, and it reads what we write of it.
#[test]
fn every_type_is_the_reference_implementations() {
    let all = [
        "BOOL",
        "F4",
        "F6_E2M3",
        "F6_E3M2",
        "U8",
        "I8",
        "F8_E5M2",
        "F8_E4M3",
        "F8_E8M0",
        "F8_E4M3FNUZ",
        "F8_E5M2FNUZ",
        "I16",
        "U16",
        "F16",
        "BF16",
        "I32",
        "U32",
        "F32",
        "C64",
        "F64",
        "I64",
        "U64",
    ];
    let home = tempfile::tempdir().unwrap();
    for name in all {
        let theirs: safetensors::Dtype = serde_json::from_value(name.into()).unwrap();
        let ours = Dtype::from_name(name).unwrap();
        assert_eq!(ours.bits(), theirs.bitsize());
        let path = write(home.path(), "m.safetensors", &safetensors_of(&[("t", ours, &[4, 2])]));
        compare(&path);
    }
}

/// Shards as transformers writes them, and everything an index can get wrong.
#[test]
fn shards_are_joined_by_their_index_and_checked_against_it() {
    let home = tempfile::tempdir().unwrap();
    let shard = |names: &[&str]| {
        let tensors: Vec<(&str, Dtype, &[usize])> =
            names.iter().map(|name| (*name, Dtype::F32, &[2usize, 2][..])).collect();
        safetensors_of(&tensors)
    };
    write(home.path(), "model-00001-of-00002.safetensors", &shard(&["a", "b"]));
    write(home.path(), "model-00002-of-00002.safetensors", &shard(&["c"]));
    let open = |index: &str| {
        write(home.path(), "model.safetensors.index.json", index.as_bytes());
        SafeTensors::open(&files(home.path()))
    };
    let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let good =
        format!(r#"{{"metadata": {{"total_size": 48}}, "weight_map": {{"a": "{one}", "b": "{one}", "c": "{two}"}}}}"#);
    let joined = open(&good).unwrap();
    assert_eq!(joined.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b", "c"]);

    let cases = [
        (format!(r#"{{"weight_map": {{"a": "{one}", "b": "{one}"}}}}"#), None),
        (
            format!(r#"{{"weight_map": {{"a": "{one}", "b": "{two}", "c": "{two}"}}}}"#),
            Some("tensor `b`"),
        ),
        (
            format!(r#"{{"weight_map": {{"a": "{one}", "c": "{two}"}}}}"#),
            Some("tensor `b`"),
        ),
        (
            format!(r#"{{"weight_map": {{"a": "{one}", "b": "{one}", "c": "{two}", "d": "{two}"}}}}"#),
            Some("tensor `d`"),
        ),
        (
            r#"{"weight_map": {"a": "absent.safetensors"}}"#.to_owned(),
            Some("`absent.safetensors`"),
        ),
        (
            r#"{"weight_map": {"a": "../../x.safetensors"}}"#.to_owned(),
            Some("in the same directory"),
        ),
        (
            r#"{"weight_map": {"a": "/etc/x.safetensors"}}"#.to_owned(),
            Some("in the same directory"),
        ),
        (
            r#"{"weight_map": {"a": "config.json"}}"#.to_owned(),
            Some("in the same directory"),
        ),
        (
            r#"{"weight_map": {"a": "pytorch_model.bin"}}"#.to_owned(),
            Some("pickled"),
        ),
        (r#"{"weight_map": {}}"#.to_owned(), Some("number of tensors")),
        ("[1]".to_owned(), Some("weight_map")),
    ];
    for (index, expected) in cases {
        match (open(&index), expected) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) => assert!(error.to_string().contains(expected), "{index}: {error}"),
            (result, expected) => panic!("{index}: {result:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn a_directory_is_opened_by_what_it_holds() {
    let home = tempfile::tempdir().unwrap();
    let message = |files: &FileSet| SafeTensors::open(files).unwrap_err().to_string();
    assert!(message(&files(home.path())).contains("no weights"));
    write(home.path(), "pytorch_model.bin", b"pickle");
    assert!(message(&files(home.path())).contains("pickled"));
    write(home.path(), "consolidated.safetensors", &small_safetensors());
    assert!(SafeTensors::open(&files(home.path())).is_ok());
    write(home.path(), "other.safetensors", &small_safetensors());
    assert!(message(&files(home.path())).contains("model.safetensors.index.json"));
    write(home.path(), "model.safetensors", &small_safetensors());
    let opened = SafeTensors::open(&files(home.path())).unwrap();
    assert_eq!(opened.metadata()["format"], "pt");
    assert_eq!(opened.require("scalar").unwrap().shape(), [0usize; 0]);
    assert!(matches!(opened.require("absent"), Err(FormatError::Missing { .. })));
}

#[test]
fn lies_in_the_head_are_named() {
    let file = |head: &str, data: usize| {
        let mut bytes = (head.len() as u64).to_le_bytes().to_vec();
        bytes.extend(head.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let t = r#""t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    let dims = vec!["1"; 17].join(",");
    let cases = [
        (file("{}", 1), "0 bytes of data"),
        (file("[]", 0), "the start of the head"),
        (file(&format!("{{{t}}}"), 7), "ends too early"),
        (file(&format!("{{{t}}}"), 9), "the end of the file"),
        (file(&format!("{{{t},{t}}}"), 8), "the offsets of tensor `t`"),
        (
            file(
                &format!(r#"{{{t},"u":{{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}}}"#),
                8,
            ),
            "a start at 8",
        ),
        (
            file(
                &format!(r#"{{{t},"u":{{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}}}"#),
                16,
            ),
            "a start at 8",
        ),
        (
            file(r#"{"t":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8),
            "12 bytes for F32",
        ),
        (
            file(r#"{"t":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#, 8),
            "`F33`",
        ),
        (
            file(r#"{"t":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}"#, 1),
            "size can be represented",
        ),
        (
            file(
                r#"{"t":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#,
                8,
            ),
            "size can be represented",
        ),
        (
            file(r#"{"t":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, 8),
            "a start at 0",
        ),
        (
            file(r#"{"t":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#, 8),
            "each with",
        ),
        (file(r#"{"t":{"dtype":"F32","shape":[2]}}"#, 8), "data_offsets"),
        (
            file(
                &format!(r#"{{"t":{{"dtype":"F32","shape":[{dims}],"data_offsets":[0,4]}}}}"#),
                4,
            ),
            "at most 16",
        ),
        (file(r#"{"__metadata__":{"a":1}}"#, 0), "expected a string"),
        (file(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), "twice"),
        (u64::MAX.to_le_bytes().to_vec(), "the limit is 100000000"),
        (1000u64.to_le_bytes().to_vec(), "ends too early"),
        (vec![0; 7], "ends too early"),
    ];
    let home = tempfile::tempdir().unwrap();
    for (bytes, expected) in cases {
        let path = write(home.path(), "m.safetensors", &bytes);
        let message = SafeTensors::open_file(&path).unwrap_err().to_string();
        assert!(message.contains(expected), "expected {expected}: {message}");
    }
}

#[test]
fn the_writer_refuses_what_no_reader_would_take() {
    let mut writer = Writer::new();
    writer.tensor("t", Dtype::F32, &[2]).unwrap();
    assert!(writer.tensor("t", Dtype::F32, &[2]).is_err());
    assert!(writer.tensor("__metadata__", Dtype::F32, &[2]).is_err());
    assert!(writer.tensor("odd", Dtype::F4, &[3]).is_err());
    assert!(writer.tensor("huge", Dtype::F32, &[usize::MAX, 2]).is_err());
    let mut body = writer.begin(Vec::new()).unwrap();
    assert!(body.tensor("u", &[0; 8]).is_err());
    body.write(&[0; 3]).unwrap();
    assert!(body.write(&[0; 6]).is_err());
    let mut unfinished = Writer::new();
    unfinished.tensor("t", Dtype::F32, &[2]).unwrap();
    assert!(unfinished.begin(Vec::new()).unwrap().finish().is_err());
}
