//! Two matrices that bitsandbytes 0.50 quantized, with and without double quantization: every part and every value equal to the bit.

use std::path::PathBuf;

use witness_formats::{FileSet, safetensors::SafeTensors};
use witness_quantization::{NF4_CODE, Nf4Matrix, Nf4Scales};

/// Returns a path below the reference data, or nothing, said once, when they are not there.
fn reference(path: &str) -> Option<PathBuf> {
    let start = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let found = start
        .ancestors()
        .map(|directory| directory.join("shared").join(path))
        .find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: {path} needs ../shared");
    }
    found
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn every_part_equals_that_of_bitsandbytes() {
    let Some(root) = reference("oracle") else { return };
    let base = SafeTensors::open(&FileSet::from_directory(&root.join("llama/base")).unwrap()).unwrap();
    let recorded = SafeTensors::open_file(&root.join("nf4/nf4.safetensors")).unwrap();
    let info: serde_json::Value = serde_json::from_slice(&std::fs::read(root.join("nf4/info.json")).unwrap()).unwrap();
    for name in [
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.mlp.gate_proj.weight",
    ] {
        let weight = base.require(name).unwrap();
        let values = weight.to_f32().unwrap();
        let [n_out, n_in] = weight.shape() else {
            panic!("{name} is no matrix")
        };
        for (kind, double) in [("nf4", false), ("dq", true)] {
            let part = |part: &str| recorded.require(&format!("{name}.{kind}.{part}")).unwrap();
            let numbers = |name: &str| part(name).to_f32().unwrap();
            let matrix = Nf4Matrix::quantize(&values, *n_out, *n_in, double);
            assert_eq!(bits(&NF4_CODE), bits(&numbers("code")));
            assert_eq!(matrix.packed(), part("packed").bytes(), "{name} {kind}");
            match matrix.scales() {
                Nf4Scales::Plain(scales) => assert_eq!(bits(scales), bits(&numbers("absmax"))),
                Nf4Scales::Nested { codes, largest, offset } => {
                    assert_eq!(codes, part("absmax").bytes());
                    assert_eq!(bits(largest), bits(&numbers("nested_absmax")));
                    let wanted = info[format!("{name}.dq.offset")].as_f64().unwrap();
                    assert_eq!(f64::from(*offset), wanted);
                }
            }
            let mut decoded = vec![0.0; n_out * n_in];
            matrix.dequantize_rows(0..*n_out, &mut decoded);
            assert_eq!(bits(&decoded), bits(&numbers("dequant")), "{name} {kind}");
        }
    }
}
