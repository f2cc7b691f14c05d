//! Whatever instructions a process is held to, a model gives the same numbers. A program of its own: holding is for the whole process.
#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

#[path = "graph/peft.rs"]
mod peft;
#[path = "graph/reference.rs"]
mod reference;
#[path = "graph/support.rs"]
#[expect(dead_code, reason = "only what makes models is needed")]
mod support;

use witness_formats::gguf::GgmlType;
use witness_formats::gguf::rows::RowOrder;
use witness_instructions::Isa;
use witness_model::weight::PlainType;

use crate::support::{Random, Spec, Tiny, quantized, run};

/// Returns the bits of all logits of a prompt and some tokens behind it, of the base and of an adapter. The model is loaded anew, for packing and measuring a base
/// are to be the same too.
fn bits(tiny: &Tiny, prompt: usize) -> Vec<Vec<u32>> {
    let model = tiny.load();
    let (names, targets) = (peft::LINEARS, ["q_proj", "gate_proj", "down_proj"]);
    let names = names
        .into_iter()
        .filter(|name| targets.iter().any(|target| name.ends_with(target)));
    let names: Vec<&str> = names.collect();
    let (entries, _) = peft::pairs(tiny, &peft::linears(&names), 3);
    let adapter = model.adapter(peft::peft(&peft::config(&targets, &[]), &entries).unwrap());
    let adapter = adapter.unwrap();
    let tokens = Random::new(7).tokens(prompt + 6, 50);
    let mut found = Vec::new();
    for adapter in [None, Some(&adapter)] {
        let mut cache = model.new_cache(tokens.len());
        // Many tokens, a few and one go different ways.
        for tokens in [&tokens[..prompt], &tokens[prompt..prompt + 5], &tokens[prompt + 5..]] {
            let logits = run(&model, tokens, &mut cache, adapter);
            found.extend(
                logits
                    .into_iter()
                    .map(|row| row.into_iter().map(f32::to_bits).collect()),
            );
        }
    }
    found
}

/// Goal: logits have the bits of the specification with every set of instructions: products with plain and quantized weights, attention over more than a page with
/// heads that are no whole vectors, the gate, the norm, the rotation and adapters.
#[test]
fn logits_do_not_depend_on_the_instructions() {
    let plain = |dtype, tied| {
        Spec {
            dtype,
            tied,
            windows: Some(vec![Some(7), None]),
            all_biases: true,
            ..Spec::default()
        }
        .build()
    };
    let mut odd = Spec::default();
    odd.numbers.head_dim = Some(22);
    let models = [
        plain(PlainType::F32, false),
        plain(PlainType::F16, true),
        plain(PlainType::BF16, false),
        odd.build(),
        quantized(GgmlType::Q4_K, 2, false, RowOrder::Halves),
        quantized(GgmlType::Q8_0, 2, true, RowOrder::Halves),
    ];
    let available = Isa::available();
    assert_eq!(available[0].name(), "scalar");
    for (index, tiny) in models.iter().enumerate() {
        available[0].hold();
        let wanted = bits(tiny, 75);
        assert!(wanted.iter().flatten().all(|bits| f32::from_bits(*bits).is_finite()));
        assert!(wanted[0] != wanted[wanted.len() / 2], "the adapter changes something");
        for isa in &available[1..] {
            isa.hold();
            assert!(wanted == bits(tiny, 75), "model {index} with {}", isa.name());
        }
    }
}
