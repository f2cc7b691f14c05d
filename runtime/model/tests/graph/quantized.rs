//! Block types, each against the reference on the same weights after dequantization.

use witness_formats::gguf::GgmlType;
use witness_formats::gguf::rows::RowOrder;

use crate::reference::{Deltas, logits};
use crate::support::{Random, difference, quantized, run};

/// Activations are rounded to 8 bits a block before they are multiplied: by at most 0.4 % of the largest in each block of 32. Over two
/// dozen products in a row that comes to below 4 % of the spread of the logits; a wrong row or a wrong scale gives 100 %.
const RELATIVE_TOLERANCE: f64 = 0.04;

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
        let tiny = quantized(kind, 1, index % 3 == 0, rows);
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
