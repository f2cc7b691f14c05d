//! What the tests share: recorded models with weights that follow from their names, and the reference data beside the checkout.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use serde_json::Value;
use sha2::{Digest, Sha256};
use witness_formats::{Dtype, FileSet, safetensors::Writer};

/// Finds the reference data beside the checkout; says so when it is absent, and the test then shows nothing.
pub(crate) fn shared(relative: &str) -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|up| up.join("../shared").join(relative))
        .find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: this check needs ../shared/{relative}");
    }
    found
}

/// The folder of what was recorded.
pub(crate) fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

/// A JSON file.
pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A digest in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The numbers of a tensor, as `tests/record/reference.py` makes them from its name.
pub(crate) fn values(name: &str, count: usize) -> Vec<f32> {
    let seed = name.bytes().fold(2_166_136_261u64, |seed, byte| {
        (seed ^ u64::from(byte)) * 16_777_619 % (1 << 32)
    });
    (0..count as u64)
        .map(|at| {
            let state = (at * 2_654_435_761 + seed) % (1 << 32);
            let state = (state ^ (state >> 15)) * 2_246_822_519 % (1 << 32);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        })
        .collect()
}

pub(crate) fn dtype(name: &str) -> Dtype {
    match name {
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        other => panic!("{other}"),
    }
}

pub(crate) fn encode(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F16 => values
            .iter()
            .flat_map(|value| f16::from_f32(*value).to_le_bytes())
            .collect(),
        Dtype::BF16 => values
            .iter()
            .flat_map(|value| bf16::from_f32(*value).to_le_bytes())
            .collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

pub(crate) fn shape_of(value: &Value) -> Vec<usize> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|size| size.as_u64().unwrap() as usize)
        .collect()
}

/// Writes the weights of a recorded model.
pub(crate) fn write_weights(path: &Path, weights: &Value, dtype: Dtype) {
    let mut writer = Writer::new();
    for (name, shape) in weights.as_object().unwrap() {
        writer.tensor(name, dtype, &shape_of(shape)).unwrap();
    }
    let mut body = writer.begin(File::create(path).unwrap()).unwrap();
    for (name, shape) in weights.as_object().unwrap() {
        let values = values(name, shape_of(shape).iter().product());
        body.tensor(name, &encode(dtype, &values)).unwrap();
    }
    body.finish().unwrap();
}

/// A recorded model with its weights, in a directory of its own name.
pub(crate) struct Model {
    pub(crate) home: tempfile::TempDir,
    pub(crate) files: FileSet,
    pub(crate) expected: Value,
}

impl Model {
    pub(crate) fn open(name: &str) -> Model {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join(name);
        fs::create_dir(&directory).unwrap();
        for entry in fs::read_dir(data().join(name)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), directory.join(entry.file_name())).unwrap();
        }
        let expected = json(&directory.join("expected.json"));
        fs::remove_file(directory.join("expected.json")).unwrap();
        let dtype = dtype(expected["dtype"].as_str().unwrap());
        write_weights(&directory.join("model.safetensors"), &expected["weights"], dtype);
        let files = FileSet::from_directory(&directory).unwrap();
        Model { home, files, expected }
    }

    /// Every recorded model.
    pub(crate) fn names() -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(data())
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().join("expected.json").exists())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert!(names.len() >= 10, "{names:?}");
        names
    }
}
