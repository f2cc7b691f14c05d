//! Block types, as candle quantizes them, each against the reference on the same weights after dequantization.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use witness_formats::gguf::GgmlType;
use witness_formats::gguf::rows::{RowOrder, reorder};
use witness_model::weight::Storage;

use crate::reference::{Deltas, logits};
use crate::support::{Random, Spec, difference, run};

/// Activations are rounded to 8 bits a block before they are multiplied: by at most 0.4 % of the largest in each block of 32. Over two
/// dozen products in a row that comes to below 4 % of the spread of the logits; a wrong row or a wrong scale gives 100 %.
const RELATIVE_TOLERANCE: f64 = 0.04;

#[test]
fn every_block_type() {
    let types = [
        (GgmlDType::Q4_0, GgmlType::Q4_0),
        (GgmlDType::Q4_1, GgmlType::Q4_1),
        (GgmlDType::Q5_0, GgmlType::Q5_0),
        (GgmlDType::Q5_1, GgmlType::Q5_1),
        (GgmlDType::Q8_0, GgmlType::Q8_0),
        (GgmlDType::Q2K, GgmlType::Q2_K),
        (GgmlDType::Q3K, GgmlType::Q3_K),
        (GgmlDType::Q4K, GgmlType::Q4_K),
        (GgmlDType::Q5K, GgmlType::Q5_K),
        (GgmlDType::Q6K, GgmlType::Q6_K),
    ];
    for (index, (dtype, kind)) in types.into_iter().enumerate() {
        // K types take rows of whole 256 blocks. Every second type also goes through interleaved rows.
        let mut spec = Spec {
            tied: index % 3 == 0,
            ..Spec::default()
        };
        spec.numbers.n_layers = 1;
        spec.numbers.width = 256;
        spec.numbers.feed_forward = 512;
        spec.numbers.n_heads = 8;
        spec.numbers.n_kv_heads = 2;
        spec.numbers.head_dim = Some(32);
        let mut tiny = spec.build();
        if index % 2 == 1 {
            tiny.memory.rows = RowOrder::Interleaved;
        }
        for (name, (dims, values)) in &mut tiny.weights {
            if dims.len() != 2 {
                continue;
            }
            let plain: Vec<f32> = values.iter().map(|v| *v as f32 / 4.0).collect();
            let plain = Tensor::from_vec(plain, dims.as_slice(), &Device::Cpu).unwrap();
            let blocks = QTensor::quantize(&plain, dtype).unwrap();
            let back = blocks
                .dequantize(&Device::Cpu)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap();
            *values = back.into_iter().map(f64::from).collect();
            let mut bytes = blocks.data().unwrap().into_owned();
            let heads = if name.contains("q_proj") { 8 } else { 2 };
            if index % 2 == 1 && (name.contains("q_proj") || name.contains("k_proj")) {
                bytes = reorder(&bytes, dims[0], heads, RowOrder::Halves, RowOrder::Interleaved).unwrap();
            }
            tiny.memory
                .tensors
                .insert(name.clone(), (Storage::Blocks(kind), dims.clone(), bytes));
        }
        let model = tiny.load();
        let tokens = Random::new(5).tokens(12, 50);
        let expected = logits(&tiny.shape, &tiny.weights, &tokens, &Deltas::default());
        let mut cache = model.new_cache(20);
        let mut found = run(&model, &tokens[..9], &mut cache, None);
        for token in &tokens[9..] {
            found.extend(run(&model, &[*token], &mut cache, None));
        }
        let spread = expected.iter().flatten().fold(0.0f64, |max, v| max.max(v.abs()));
        let worst = difference(&found, &expected) / spread;
        eprintln!("{dtype:?}: {worst:.4} of the largest logit");
        assert!(worst < RELATIVE_TOLERANCE, "{dtype:?}: {worst}");
    }
}
