//! GGUF: what others write is read, what is written is read by others, and real files open.

use std::{fs, path::PathBuf};

use gguf::GGUFMetadataValue;
use witness_formats::{
    FormatError,
    gguf::{
        GgmlType, Gguf, OwnedValue, Value, ValueType, Writer, names,
        rows::{self, RowOrder},
    },
    safetensors::SafeTensors,
};

use crate::support::*;

/// Every type of metadata and tensor as PyPI's `gguf` 0.19.0 writes it (`tests/data/write.py`).
#[test]
fn another_writers_types_are_all_read() {
    let gguf = Gguf::open_file(&data("types.gguf")).unwrap();
    assert_eq!((gguf.version(), gguf.alignment()), (3, 64));
    let metadata = gguf.metadata();
    let integers = [
        ("u8", 200),
        ("i8", -100),
        ("u16", 60_000),
        ("i16", -30_000),
        ("u32", 4_000_000_000),
        ("i32", -2_000_000_000),
        ("i64", -(1 << 62)),
    ];
    for (name, expected) in integers {
        assert_eq!(
            metadata.get(&format!("test.{name}")).unwrap().as_i64(),
            Some(expected),
            "{name}"
        );
    }
    assert_eq!(metadata.u64("test.u64").unwrap(), (1 << 63) + 1);
    assert_eq!(metadata.f32("test.f32").unwrap(), 0.5);
    assert_eq!(metadata.f64("test.f64").unwrap(), 1e-300);
    assert!(metadata.bool("test.bool").unwrap());
    assert_eq!(metadata.str("test.string").unwrap(), "größer \u{1f642}");
    let array = |name: &str| metadata.array(&format!("test.{name}")).unwrap();
    assert_eq!(array("strings").strings().unwrap(), ["a", "", "▁the", "<0x0A>"]);
    assert_eq!(array("floats").f32s().unwrap(), [1.0, -2.5]);
    assert_eq!(array("ints").i64s().unwrap(), [1, -2, 3]);
    assert_eq!(array("bools").bools().unwrap(), [true, false]);
    let nested: Vec<Vec<i64>> = array("nested")
        .iter()
        .map(|value| value.as_array().unwrap().i64s().unwrap())
        .collect();
    assert_eq!(nested, [vec![1, 2], vec![3]]);

    let shapes: Vec<(&str, &[usize], String)> = gguf
        .tensors()
        .iter()
        .map(|tensor| (tensor.name.as_str(), &tensor.shape[..], tensor.ggml_type.name()))
        .collect();
    assert_eq!(shapes[0], ("f32", &[2usize, 3][..], "F32".to_owned()));
    assert_eq!(shapes[1], ("f16", &[3usize, 2][..], "F16".to_owned()));
    for (name, shape, kind) in &shapes[3..] {
        assert_eq!(name.to_uppercase(), *kind);
        assert!(
            shape == &[2, 256] || shape == &[3, 256] || shape == &[3, 64] || shape == &[3, 128],
            "{name} {shape:?}"
        );
    }
    let f32s = gguf.tensor_ref(gguf.tensor("f32").unwrap()).unwrap();
    assert_eq!(f32s.to_f32().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let f16s = gguf.tensor_ref(gguf.tensor("f16").unwrap()).unwrap();
    assert_eq!(f16s.to_f32().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let quantized = gguf.tensor("q8_0").unwrap();
    assert_eq!(gguf.tensor_data(quantized).unwrap().len(), 2 * 8 * 34);
    assert!(matches!(
        gguf.tensor_ref(quantized),
        Err(FormatError::Unsupported { .. })
    ));
}

#[test]
fn wrong_questions_name_key_type_and_value() {
    let gguf = Gguf::open_file(&data("types.gguf")).unwrap();
    let metadata = gguf.metadata();
    let message = metadata.u32("test.string").unwrap_err().to_string();
    assert!(
        message.contains("`test.string`") && message.contains("integer") && message.contains("größer"),
        "{message}"
    );
    let message = metadata.u64("test.i8").unwrap_err().to_string();
    assert!(message.contains("-100"), "{message}");
    assert!(metadata.u32("test.u64").is_err());
    assert!(matches!(metadata.u32("absent"), Err(FormatError::Missing { .. })));
    assert_eq!(metadata.opt_u32("absent").unwrap(), None);
    assert!(metadata.array("test.floats").unwrap().strings().is_err());
}

/// Parts of a split model, found by name or given in any order; incomplete ones are refused.
#[test]
fn split_models_are_put_together_and_must_be_whole() {
    let part = |number: usize| data(&format!("split-0000{number}-of-00003.gguf"));
    for paths in [vec![part(1), part(2), part(3)], vec![part(3), part(1), part(2)]] {
        let gguf = Gguf::open(&paths).unwrap();
        assert_eq!((gguf.parts(), gguf.alignment()), (3, 32));
        let names: Vec<&str> = gguf.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["t0", "t1", "t2", "t3", "t4"]);
        for (number, tensor) in gguf.tensors().iter().enumerate() {
            assert_eq!(gguf.tensor_ref(tensor).unwrap().to_f32().unwrap(), [number as f32; 4]);
        }
    }
    assert_eq!(Gguf::open_file(&part(2)).unwrap().tensors().len(), 5);
    let message = |paths: &[PathBuf]| Gguf::open(paths).unwrap_err().to_string();
    assert!(message(&[part(1)]).contains("part 1 of 3"), "{}", message(&[part(1)]));
    assert!(message(&[part(1), part(2)]).contains("2 were given"));
    assert!(message(&[part(1), part(2), part(2)]).contains("split.no"));
    assert!(message(&[part(1), part(2), data("types.gguf")]).contains("split.count"));
    assert!(message(&[]).contains("no GGUF file"));
}

#[test]
fn foreign_forms_are_refused_with_a_way_out() {
    let message = Gguf::open_file(&data("big_endian.gguf")).unwrap_err();
    assert!(message.to_string().contains("big-endian (version 3"), "{message}");
    let home = tempfile::tempdir().unwrap();
    let mut old = small_gguf();
    old[4] = 1;
    let cases: [(&str, Vec<u8>, &str); 4] = [
        ("old.gguf", old, "version 1"),
        ("empty.gguf", Vec::new(), "ends too early"),
        ("html.gguf", b"<!DOCTYPE html>".to_vec(), "`GGUF`, found `<!DO`"),
        ("model.bin", small_gguf(), "pickled"),
    ];
    for (name, bytes, expected) in cases {
        let message = Gguf::open_file(&write(home.path(), name, &bytes))
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected), "{name}: {message}");
    }
    assert!(matches!(
        Gguf::open_file(home.path()),
        Err(FormatError::Malformed { .. })
    ));
    assert!(matches!(
        Gguf::open_file(&home.path().join("absent")),
        Err(FormatError::Io { .. })
    ));
}

/// A head by hand, for what the writer refuses to write.
fn by_hand(entries: &[(&str, u32, &[u8])], tensors: &[(&str, &[u64], u32, u64)], data_bytes: usize) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((entries.len() as u64).to_le_bytes());
    let text = |text: &str, bytes: &mut Vec<u8>| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    for (key, kind, value) in entries {
        text(key, &mut bytes);
        bytes.extend(kind.to_le_bytes());
        bytes.extend(*value);
    }
    for (name, dims, kind, offset) in tensors {
        text(name, &mut bytes);
        bytes.extend((dims.len() as u32).to_le_bytes());
        for dim in *dims {
            bytes.extend(dim.to_le_bytes());
        }
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(32) + data_bytes, 7);
    bytes
}

#[test]
fn lies_in_the_head_are_named() {
    let huge = 1u64 << 60;
    let array = |kind: u32, count: u64| [kind.to_le_bytes().to_vec(), count.to_le_bytes().to_vec()].concat();
    let mut deep = Vec::new();
    for _ in 0..100 {
        deep.extend(array(9, 1));
    }
    let one = 1u32.to_le_bytes();
    type Entries<'a> = Vec<(&'a str, u32, &'a [u8])>;
    type Tensors<'a> = Vec<(&'a str, &'a [u64], u32, u64)>;
    let string_array = array(8, huge);
    let number_array = array(4, huge);
    let unknown_array = array(77, 1);
    let alignment = 48u32.to_le_bytes();
    let zero = 0u32.to_le_bytes();
    let long_string = huge.to_le_bytes();
    let cases: Vec<(&str, Entries, Tensors, usize, &str)> = vec![
        (
            "a key twice",
            vec![("a", 4, &one), ("a", 4, &one)],
            vec![],
            0,
            "`a` twice",
        ),
        ("an unknown type", vec![("a", 13, &one)], vec![], 0, "0 to 12, found 13"),
        ("an empty key", vec![("", 4, &one)], vec![], 0, "an empty one"),
        (
            "a long string",
            vec![("a", 8, &long_string)],
            vec![],
            0,
            "ends too early",
        ),
        (
            "a long array of strings",
            vec![("a", 9, &string_array)],
            vec![],
            0,
            "1152921504606846976 elements",
        ),
        (
            "a long array of numbers",
            vec![("a", 9, &number_array)],
            vec![],
            0,
            "1152921504606846976 elements",
        ),
        (
            "an array of what",
            vec![("a", 9, &unknown_array)],
            vec![],
            0,
            "found 77",
        ),
        (
            "arrays of arrays of",
            vec![("a", 9, &deep)],
            vec![],
            0,
            "the limit is 8",
        ),
        (
            "an odd alignment",
            vec![("general.alignment", 4, &alignment)],
            vec![],
            0,
            "power of two",
        ),
        (
            "no alignment",
            vec![("general.alignment", 4, &zero)],
            vec![],
            0,
            "power of two",
        ),
        (
            "five dimensions",
            vec![],
            vec![("t", &[1, 1, 1, 1, 1], 0, 0)],
            64,
            "the limit is 4",
        ),
        (
            "2^32 times 2^32",
            vec![],
            vec![("t", &[1 << 32, 1 << 32], 0, 0)],
            64,
            "overflows",
        ),
        (
            "2^31 times 2^31",
            vec![],
            vec![("t", &[1 << 31, 1 << 20], 0, 0)],
            64,
            "ends too early",
        ),
        ("half a block", vec![], vec![("t", &[48], 2, 0)], 64, "blocks of 32"),
        (
            "an offset beyond",
            vec![],
            vec![("t", &[8], 0, 64)],
            64,
            "ends too early",
        ),
        (
            "an offset of 2^64",
            vec![],
            vec![("t", &[8], 0, !31)],
            64,
            "ends too early",
        ),
        (
            "an unaligned offset",
            vec![],
            vec![("t", &[8], 0, 4)],
            64,
            "a multiple of 32",
        ),
        (
            "an overlap",
            vec![],
            vec![("t", &[16], 0, 0), ("u", &[8], 0, 32)],
            64,
            "inside tensor `t`",
        ),
        (
            "one place for two",
            vec![],
            vec![("t", &[8], 0, 0), ("u", &[8], 0, 0)],
            64,
            "inside tensor",
        ),
        (
            "a tensor twice",
            vec![],
            vec![("t", &[8], 0, 0), ("t", &[8], 0, 32)],
            64,
            "two of that name",
        ),
    ];
    let home = tempfile::tempdir().unwrap();
    for (what, entries, tensors, data_bytes, expected) in cases {
        let path = write(home.path(), "lie.gguf", &by_hand(&entries, &tensors, data_bytes));
        let message = Gguf::open_file(&path).unwrap_err().to_string();
        assert!(message.contains(expected), "{what}: {message}");
    }
}

/// One unknown tensor type makes that tensor unusable, not the file.
#[test]
fn an_unknown_tensor_type_leaves_the_rest_usable() {
    let home = tempfile::tempdir().unwrap();
    let bytes = by_hand(&[], &[("odd", &[7], 99, 0), ("t", &[8], 0, 64)], 96);
    let gguf = Gguf::open_file(&write(home.path(), "m.gguf", &bytes)).unwrap();
    let odd = gguf.tensor("odd").unwrap();
    assert_eq!((odd.ggml_type, odd.bytes), (GgmlType::Unknown(99), 64));
    let message = gguf.tensor_data(odd).unwrap_err().to_string();
    assert!(message.contains("type 99"), "{message}");
    assert_eq!(gguf.tensor_data(gguf.tensor("t").unwrap()).unwrap(), [7; 32]);
    assert_eq!(gguf.file_type(), "unknown type 99");
}

/// Strings of a vocabulary need not be UTF-8.
#[test]
fn strings_that_are_not_utf8_are_bytes() {
    let home = tempfile::tempdir().unwrap();
    let mut value = 8u32.to_le_bytes().to_vec();
    value.extend(1u64.to_le_bytes());
    value.extend(2u64.to_le_bytes());
    value.extend([0xff, 0x41]);
    let gguf = Gguf::open_file(&write(home.path(), "m.gguf", &by_hand(&[("a", 9, &value)], &[], 0))).unwrap();
    let array = gguf.metadata().array("a").unwrap();
    assert_eq!(array.byte_strings().unwrap().collect::<Vec<_>>(), [&[0xff, 0x41][..]]);
    assert!(array.strings().unwrap_err().to_string().contains("element 0"));
    assert!(matches!(array.iter().next(), Some(Value::Bytes([0xff, 0x41]))));
}

#[test]
fn what_is_written_is_read_back_in_order() {
    let home = tempfile::tempdir().unwrap();
    let path = write(home.path(), "m.gguf", &small_gguf());
    let gguf = Gguf::open_file(&path).unwrap();
    assert_eq!(
        (gguf.version(), gguf.alignment(), gguf.file_type()),
        (3, 32, "Q4_K_M".to_owned())
    );
    assert_eq!(gguf.architecture().unwrap(), "llama");
    assert_eq!(gguf.metadata().iter().next().unwrap().0, "general.architecture");
    assert_eq!(gguf.parameter_count(), 16 * 32 + 32 + 32 * 32 + 16 * 32 + 16 * 32);

    // Copying every entry and tensor gives the same file, byte for byte.
    let mut copy = Writer::new();
    for (key, value) in gguf.metadata().iter() {
        copy.set_value(key, value).unwrap();
    }
    for tensor in gguf.tensors() {
        copy.tensor(&tensor.name, &tensor.shape, tensor.ggml_type).unwrap();
    }
    let mut body = copy.begin(Vec::new()).unwrap();
    for tensor in gguf.tensors() {
        // In pieces of 7 bytes, to cross every border.
        for piece in gguf.tensor_data(tensor).unwrap().chunks(7) {
            body.write(piece).unwrap();
        }
    }
    assert_eq!(body.finish().unwrap(), fs::read(&path).unwrap());
}

/// The writer's bytes are those that PyPI's `gguf` 0.19.0 read and confirmed (`tests/data/read.py`).
#[test]
fn what_is_written_is_what_another_reader_confirmed() {
    assert!(small_gguf() == fs::read(data("written.gguf")).unwrap());
}

#[test]
fn the_writer_refuses_what_no_reader_would_take() {
    let mut writer = Writer::new();
    writer.set("a", 1u32).unwrap();
    assert!(writer.set("a", 2u32).is_err());
    assert!(writer.set("", 2u32).is_err());
    assert!(writer.alignment(3).is_err());
    assert!(
        writer
            .set("mixed", OwnedValue::Array(ValueType::U8, vec![OwnedValue::Bool(true)]))
            .is_err()
    );
    writer.tensor("t", &[2, 32], GgmlType::Q8_0).unwrap();
    assert!(writer.tensor("t", &[2, 32], GgmlType::Q8_0).is_err());
    assert!(writer.tensor("u", &[32, 2], GgmlType::Q8_0).is_err());
    assert!(writer.tensor("v", &[1, 1, 1, 1, 1], GgmlType::F32).is_err());
    assert!(writer.tensor("w", &[1], GgmlType::Unknown(99)).is_err());
    let mut body = writer.begin(Vec::new()).unwrap();
    assert!(body.tensor("other", &[0; 68]).is_err());
    assert!(body.tensor("t", &[0; 67]).is_err());
    body.write(&[0; 67]).unwrap();
    assert!(body.write(&[0; 2]).is_err());
    assert!(body.finish().is_ok());
    let mut unfinished = Writer::new();
    unfinished.tensor("t", &[4], GgmlType::F32).unwrap();
    assert!(unfinished.begin(Vec::new()).unwrap().finish().is_err());
}

/// The `gguf` crate, an independent parser, sees the same in our file and in real ones.
fn compare_with_the_gguf_crate(path: &std::path::Path) {
    let bytes = fs::read(path).unwrap();
    let theirs = gguf::GGUFFile::read(&bytes).unwrap().unwrap();
    let ours = Gguf::open_file(path).unwrap();
    assert_eq!(ours.metadata().len(), theirs.header.metadata.len(), "{path:?}");
    for ((key, value), other) in ours.metadata().iter().zip(&theirs.header.metadata) {
        assert_eq!(key, other.key);
        same_value(&value, &other.value);
    }
    assert_eq!(ours.tensors().len(), theirs.tensors.len());
    for (tensor, other) in ours.tensors().iter().zip(&theirs.tensors) {
        let dims: Vec<u64> = tensor.shape.iter().rev().map(|dim| *dim as u64).collect();
        assert_eq!((&tensor.name, &dims), (&other.name, &other.dimensions));
    }
}

fn same_value(ours: &Value<'_>, theirs: &GGUFMetadataValue) {
    match (ours, theirs) {
        (Value::Array(ours), GGUFMetadataValue::Array(theirs)) => {
            assert_eq!(ours.len() as u64, theirs.len);
            for (ours, theirs) in ours.iter().zip(&theirs.value) {
                same_value(&ours, theirs);
            }
        }
        (Value::Str(ours), GGUFMetadataValue::String(theirs)) => assert_eq!(ours, theirs),
        (Value::Bool(ours), GGUFMetadataValue::Bool(theirs)) => assert_eq!(ours, theirs),
        (ours, theirs) => assert_eq!(
            ours.to_json(0).to_string(),
            format!("{}", serde_json::to_value(theirs).unwrap())
        ),
    }
}

#[test]
fn an_independent_parser_reads_the_same() {
    let home = tempfile::tempdir().unwrap();
    // The crate knows tensor types up to 18 only, so BF16 has to go.
    let mut bytes = small_gguf();
    let at = bytes.windows(13).position(|window| window == b"output.weight").unwrap() + 13 + 4 + 16;
    bytes[at..at + 4].copy_from_slice(&1u32.to_le_bytes());
    compare_with_the_gguf_crate(&write(home.path(), "m.gguf", &bytes));
    for name in [
        "models/stories260K-gguf/stories260K-q8_0.gguf",
        "tokenizers/ggml-vocab/ggml-vocab-llama-bpe.gguf",
    ] {
        let Some(path) = shared(name) else { return };
        compare_with_the_gguf_crate(&path);
    }
}

#[test]
fn every_reference_file_opens() {
    let Some(root) = shared("README.md").and_then(|readme| readme.parent().map(PathBuf::from)) else {
        return;
    };
    let paths = below(&root, ".gguf");
    assert!(paths.len() >= 23);
    for path in paths {
        let gguf = Gguf::open_file(&path).unwrap();
        assert!(!gguf.architecture().unwrap().is_empty());
        assert!(
            gguf.metadata()
                .array("tokenizer.ggml.tokens")
                .unwrap()
                .byte_strings()
                .unwrap()
                .count()
                > 0
        );
        for tensor in gguf.tensors() {
            gguf.tensor_data(tensor).unwrap();
        }
    }
}

/// The converter's own q and k against the Hugging Face weights: the names, the row order and its inverse, on real files.
#[test]
fn real_q_and_k_rows_are_in_the_order_this_crate_says() {
    for (hf, gguf, n_heads, n_kv_heads) in [
        (
            "models/stories260K-hf/model.safetensors",
            "models/stories260K-gguf/stories260K-f32.gguf",
            8,
            4,
        ),
        (
            "models/tinystories-656k-hf/model.safetensors",
            "models/tinystories-656k-gguf/tinystories-656k-f32.gguf",
            8,
            4,
        ),
    ] {
        let (Some(hf), Some(gguf)) = (shared(hf), shared(gguf)) else {
            return;
        };
        let weights = SafeTensors::open_file(&hf).unwrap();
        let gguf = Gguf::open_file(&gguf).unwrap();
        let mut n_compared = 0;
        for (name, tensor) in weights.iter() {
            let Some(stored) = names::from_hf("llama", name).and_then(|name| gguf.tensor(&name)) else {
                continue;
            };
            let stored_values = gguf.tensor_ref(stored).unwrap().to_f32().unwrap();
            let heads = match () {
                () if name.contains("q_proj") => n_heads,
                () if name.contains("k_proj") => n_kv_heads,
                () => 0,
            };
            let values = tensor.to_f32().unwrap();
            if heads == 0 {
                assert_eq!(values, stored_values, "{name}");
            } else {
                assert_ne!(values, stored_values, "{name}");
                let order = rows::stored_order("llama");
                let turned = rows::reorder(tensor.bytes(), tensor.shape()[0], heads, RowOrder::Halves, order).unwrap();
                assert_eq!(
                    witness_formats::decode_f32(tensor.dtype(), &turned).unwrap(),
                    stored_values,
                    "{name}"
                );
            }
            n_compared += 1;
        }
        assert!(n_compared >= 19, "{n_compared}");
    }
}
