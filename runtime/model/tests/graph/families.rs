//! Each way in which the families differ, against the reference: heads, biases, tying, windows, rotary variants, storage types.

use witness_formats::gguf::rows::RowOrder;
use witness_model::rope::{Rope, RopeScaling};
use witness_model::weight::PlainType;

use crate::reference::Deltas;
use crate::support::{Spec, family, plain_frequencies};

fn check(spec: &Spec) {
    spec.build().check(90, None, &Deltas::default());
}

#[test]
fn plain_llama() {
    check(&Spec::default());
}

#[test]
fn qwen2_has_biases_and_ties() {
    check(&Spec {
        family: family("qwen2"),
        tied: true,
        ..Spec::default()
    });
}

#[test]
fn every_linear_may_have_a_bias() {
    check(&Spec {
        all_biases: true,
        ..Spec::default()
    });
}

/// One key head for all, and as many as queries; a head dimension that is not width / heads.
#[test]
fn head_counts() {
    for (n_heads, n_kv_heads, head_dim) in [(6, 1, 8), (6, 6, 4), (3, 3, 10), (4, 2, 6)] {
        let mut spec = Spec::default();
        spec.numbers.n_heads = n_heads;
        spec.numbers.n_kv_heads = n_kv_heads;
        spec.numbers.head_dim = Some(head_dim);
        check(&spec);
    }
}

#[test]
fn sliding_windows_by_layer() {
    let windows = vec![Some(5), None];
    check(&Spec {
        family: family("mistral"),
        windows: Some(windows),
        ..Spec::default()
    });
    check(&Spec {
        windows: Some(vec![Some(1), Some(70)]),
        ..Spec::default()
    });
}

/// Rows interleaved as in GGUF files of the architecture llama give the same model.
#[test]
fn interleaved_rows_are_brought_to_half_split() {
    check(&Spec {
        rows: RowOrder::Interleaved,
        ..Spec::default()
    });
    check(&Spec {
        rows: RowOrder::Interleaved,
        all_biases: true,
        ..Spec::default()
    });
}

/// The test weights are exact in all three types, so the results must be as well.
#[test]
fn halves_are_widened_not_rounded() {
    for dtype in [PlainType::F16, PlainType::BF16] {
        check(&Spec {
            dtype,
            ..Spec::default()
        });
        check(&Spec {
            dtype,
            tied: true,
            ..Spec::default()
        });
    }
}

/// The formulas written again, from their papers, in f64.
#[test]
fn rotary_variants() {
    let (theta, head_dim) = (10000.0, 16);
    let plain = plain_frequencies(theta, head_dim);
    let wavelength = |frequency: f64| 2.0 * std::f64::consts::PI / frequency;
    let llama3: Vec<f64> = plain
        .iter()
        .map(|&f| {
            let (low, high, old, factor) = (1.0, 4.0, 64.0, 8.0);
            match wavelength(f) {
                w if w < old / high => f,
                w if w > old / low => f / factor,
                w => {
                    let smooth = (old / w - low) / (high - low);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            }
        })
        .collect();
    let (low, high) = {
        let dim = |turns: f64| 16.0 * (64.0 / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * 10000f64.ln());
        (dim(8.0).floor().max(0.0), dim(0.5).ceil().min(15.0))
    };
    let yarn: Vec<f64> = plain
        .iter()
        .enumerate()
        .map(|(pair, &f)| {
            let ramp = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
            f / 4.0 * ramp + f * (1.0 - ramp)
        })
        .collect();
    assert!(yarn != plain && llama3 != plain && llama3[0] == plain[0] && llama3[7] == plain[7] / 8.0);
    let factors = [1.0, 1.0, 1.5, 2.0, 4.0, 8.0, 8.0, 8.0];
    let cases = [
        (
            RopeScaling::Linear { factor: 4.0 },
            plain.iter().map(|f| f / 4.0).collect(),
            1.0,
        ),
        (RopeScaling::Dynamic { original_context: 256 }, plain.clone(), 1.0),
        (
            RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context: 64.0,
            },
            llama3,
            1.0,
        ),
        (
            RopeScaling::Yarn {
                factor: 4.0,
                attention_factor: 0.1 * 4f64.ln() + 1.0,
                beta_fast: 8.0,
                beta_slow: 0.5,
                original_context: 64.0,
                truncate: true,
            },
            yarn,
            0.1 * 4f64.ln() + 1.0,
        ),
        (
            RopeScaling::Factors(factors.map(|f: f64| f as f32).to_vec()),
            plain.iter().zip(factors).map(|(f, d)| f / d).collect(),
            1.0,
        ),
    ];
    for (scaling, frequencies, attention_factor) in cases {
        let mut spec = Spec {
            rope: Rope { theta, scaling },
            ..Spec::default()
        };
        spec.numbers.head_dim = Some(head_dim as u64);
        let mut tiny = spec.build();
        tiny.shape.frequencies = frequencies;
        tiny.shape.attention_factor = attention_factor;
        tiny.check(90, None, &Deltas::default());
    }
}
