//! Block types, each against the reference on the same weights after dequantization.

use witness_formats::gguf::GgmlType;
use witness_formats::gguf::rows::{RowOrder, reorder};
use witness_model::weight::Storage;

use crate::reference::{Deltas, logits};
use crate::support::{Random, Spec, Tiny, difference, run};

/// Activations are rounded to 8 bits a block before they are multiplied: by at most 0.4 % of the largest in each block of 32. Over two
/// dozen products in a row that comes to below 4 % of the spread of the logits; a wrong row or a wrong scale gives 100 %.
const RELATIVE_TOLERANCE: f64 = 0.04;

/// Makes a model whose matrices are blocks of a type; K types take rows of whole 256 blocks.
pub(crate) fn build(kind: GgmlType, n_layers: u64, tied: bool, rows: RowOrder) -> Tiny {
    let mut spec = Spec {
        tied,
        ..Spec::default()
    };
    spec.numbers.n_layers = n_layers;
    spec.numbers.width = 256;
    spec.numbers.feed_forward = 512;
    spec.numbers.n_heads = 8;
    spec.numbers.n_kv_heads = 2;
    spec.numbers.head_dim = Some(32);
    let mut tiny = spec.build();
    tiny.memory.rows = rows;
    for (name, (dims, values)) in &mut tiny.weights {
        if dims.len() != 2 {
            continue;
        }
        let plain: Vec<f32> = values.iter().map(|v| *v as f32 / 4.0).collect();
        let mut bytes = vec![0; kind.row_bytes(dims[1]).unwrap() as usize * dims[0]];
        witness_quantization::encode(kind, &plain, dims[1], None, &mut bytes).unwrap();
        let mut back = vec![0.0; plain.len()];
        witness_quantization::decode(kind, &bytes, &mut back).unwrap();
        *values = back.into_iter().map(f64::from).collect();
        let heads = if name.contains("q_proj") { 8 } else { 2 };
        if rows == RowOrder::Interleaved && (name.contains("q_proj") || name.contains("k_proj")) {
            bytes = reorder(&bytes, dims[0], heads, RowOrder::Halves, RowOrder::Interleaved).unwrap();
        }
        let tensor = (Storage::Blocks(kind), dims.clone(), bytes);
        tiny.memory.tensors.insert(name.clone(), tensor);
    }
    tiny
}

#[test]
fn every_block_type() {
    let types = [
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q8_0,
        GgmlType::Q2_K,
        GgmlType::Q3_K,
        GgmlType::Q4_K,
        GgmlType::Q5_K,
        GgmlType::Q6_K,
    ];
    for (index, kind) in types.into_iter().enumerate() {
        // Every second type also goes through interleaved rows.
        let rows = [RowOrder::Halves, RowOrder::Interleaved][index % 2];
        let tiny = build(kind, 1, index % 3 == 0, rows);
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
        eprintln!("{kind:?}: {worst:.4} of the largest logit");
        assert!(worst < RELATIVE_TOLERANCE, "{kind:?}: {worst}");
    }
}
