//! Steps worked out by hand, steps of the references recorded, and a slow loop beside the fast one.

use super::*;

/// FNV-1a, 64 bits.
fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn hash_numbers(values: &[f32]) -> u64 {
    hash(values.iter().flat_map(|value| value.to_le_bytes()))
}

/// Numbers from -0.5 to 0.5, exact in f32.
fn numbers() -> Vec<f32> {
    let mut state = 12_345u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 - 0.5
    };
    (0..102_400).map(|_| next()).collect()
}

/// A parameter alone, with its optimizer.
struct Run<T> {
    optimizer: Optimizer,
    parameters: Parameters<T>,
    gradients: Gradients<T>,
    state: OptimizerState<T>,
}

impl<T: Real> Run<T> {
    fn new(optimizer: Optimizer, shape: &[usize], values: &[f32], is_decayed: bool) -> Run<T> {
        optimizer.check().unwrap();
        let mut parameters = Parameters::default();
        parameters.add(Parameter {
            name: "w".to_owned(),
            shape: shape.to_vec(),
            values: values.iter().map(|value| T::from_f32(*value)).collect(),
            stored: None,
            is_trained: true,
            is_decayed,
        });
        Run {
            optimizer,
            gradients: Gradients::new(&parameters),
            state: OptimizerState::new(&optimizer, &parameters).unwrap(),
            parameters,
        }
    }

    fn step(&mut self, rate: f64, gradient: &[f32]) {
        for into in self.gradients.iter_mut() {
            *into = gradient.iter().map(|value| T::from_f32(*value)).collect();
        }
        self.state
            .step(&self.optimizer, rate, &mut self.parameters, &mut self.gradients);
    }

    fn values(&self) -> Vec<T> {
        self.parameters.trained().next().unwrap().values.clone()
    }

    fn array(&self, kind: &str) -> Vec<f64> {
        let (_, arrays) = self.state.arrays(&self.parameters).next().unwrap();
        let array = arrays.into_iter().find(|array| array.kind == kind).unwrap();
        match array.values {
            Values::Real(values) => values.iter().map(|value| value.to_f64()).collect(),
            Values::F32(values) => values.iter().map(|value| f64::from(*value)).collect(),
            Values::U8(values) => values.iter().map(|value| f64::from(*value)).collect(),
        }
    }
}

fn adamw(weight_decay: f64) -> AdamW {
    AdamW {
        weight_decay,
        ..AdamW::default()
    }
}

// In the first step m / (1 - b1) is the gradient and v / (1 - b2) its square, so a weight moves by the rate, against the gradient's sign.
#[test]
fn the_first_step_is_the_rate_after_the_decay() {
    let lion = Optimizer::Lion(Lion {
        weight_decay: 0.1,
        ..Lion::default()
    });
    for optimizer in [Optimizer::AdamW(adamw(0.1)), lion] {
        for (is_decayed, kept) in [(true, 1.0 - 0.5 * 0.1), (false, 1.0)] {
            let mut run = Run::<f64>::new(optimizer, &[2], &[1.0, -2.0], is_decayed);
            run.step(0.5, &[3.0, -4.0]);
            for (value, wanted) in run.values().into_iter().zip([kept - 0.5, -2.0 * kept + 0.5]) {
                assert!((value - wanted).abs() < 1e-8, "{value} {wanted}");
            }
        }
    }
}

// A rate of 0, the first step of every warm-up, moves no weight and still fills the memory.
#[test]
fn a_rate_of_zero_moves_nothing() {
    for optimizer in [
        Optimizer::AdamW(adamw(0.1)),
        Optimizer::AdamW8bit(adamw(0.1)),
        Optimizer::Lion(Lion::default()),
        Optimizer::Adafactor(Adafactor::default()),
        Optimizer::Sgd(Sgd {
            momentum: 0.9,
            weight_decay: 0.1,
        }),
    ] {
        let values = &numbers()[..5_000];
        let mut run = Run::<f32>::new(optimizer, &[50, 100], values, true);
        run.step(0.0, values);
        assert_eq!(run.values(), values, "{}", optimizer.name());
        let arrays = run.state.arrays(&run.parameters).next().unwrap().1;
        assert!(arrays.iter().all(|array| match array.values {
            Values::Real(values) => values.iter().any(|value| *value != 0.0),
            Values::F32(values) => values.iter().all(|value| *value > 0.0),
            Values::U8(values) => values.iter().any(|value| *value != values[0]),
        }));
    }
    let mut run = Run::<f64>::new(Optimizer::default(), &[2], &[1.0, -2.0], true);
    run.step(0.0, &[3.0, -4.0]);
    assert!((run.array("first_moment")[0] - 0.3).abs() < 1e-12);
    assert!((run.array("second_moment")[1] - 0.016).abs() < 1e-12);
}

/// What a reference left of 8,300 weights after six steps: some of them, their sum with weights from -3 to 3, and that of their squares.
struct Recorded {
    samples: [f64; 5],
    weighted: f64,
    squares: f64,
}

fn after_six_steps(optimizer: Optimizer, shape: &[usize]) -> Run<f32> {
    const N: usize = 8_300;
    let numbers = numbers();
    let mut run = Run::new(optimizer, shape, &numbers[..N], true);
    for step in 1..=6 {
        let gradient: Vec<f32> = numbers[step * N..][..N].iter().map(|g| g * g * g).collect();
        run.step(1e-2, &gradient);
    }
    run
}

fn compare(run: &Run<f32>, wanted: &Recorded, tolerance: f64) {
    let values: Vec<f64> = run.values().into_iter().map(f64::from).collect();
    for (index, wanted) in [0, 1, 100, 4_095, 8_299].into_iter().zip(wanted.samples) {
        assert!(
            (values[index] - wanted).abs() < tolerance,
            "{index}: {} {wanted}",
            values[index]
        );
    }
    let weighted: f64 = values
        .iter()
        .enumerate()
        .map(|(at, value)| value * ((at % 7) as f64 - 3.0))
        .sum();
    let squares: f64 = values.iter().map(|value| value * value).sum();
    // Differences of random sign add up as the root of their number, 91, and weights are 2 on average.
    let near = |found: f64, wanted: f64| (found - wanted).abs() < 200.0 * tolerance;
    assert!(near(weighted, wanted.weighted), "{weighted} {}", wanted.weighted);
    assert!(near(squares, wanted.squares), "{squares} {}", wanted.squares);
}

// The same numbers through the optimizers of torch 2.15, Transformers 5.24 and bitsandbytes 0.50.2 on a CPU. Six steps of f32 at a rate of 1e-2 leave
// differences of some units of the last place of weights of 0.5; Adafactor's sums are taken in another order here.
#[test]
fn six_steps_equal_those_of_the_references() {
    let matrix: &[usize] = &[83, 100];
    let adafactor = Adafactor {
        weight_decay: 0.1,
        ..Adafactor::default()
    };
    let scaled = Adafactor {
        scale_parameter: true,
        beta1: Some(0.9),
        clip_threshold: 0.5,
        ..Adafactor::default()
    };
    let lion = Lion {
        weight_decay: 0.1,
        ..Lion::default()
    };
    let sgd = |momentum| {
        Optimizer::Sgd(Sgd {
            momentum,
            weight_decay: 0.1,
        })
    };
    let recorded = [
        (
            Optimizer::AdamW(adamw(0.1)),
            matrix,
            Recorded {
                samples: [
                    -0.48472124338150024,
                    -0.4361196458339691,
                    -0.272519588470459,
                    -0.38050732016563416,
                    -0.333530992269516,
                ],
                weighted: 30.43180996144656,
                squares: 682.4939861874154,
            },
        ),
        (
            Optimizer::AdamW8bit(adamw(0.1)),
            matrix,
            Recorded {
                samples: [
                    -0.4843094050884247,
                    -0.43642082810401917,
                    -0.2725698947906494,
                    -0.38045889139175415,
                    -0.3335535526275635,
                ],
                weighted: 30.37106857926119,
                squares: 682.4016480981388,
            },
        ),
        (
            Optimizer::Lion(lion),
            matrix,
            Recorded {
                samples: [
                    -0.45677700638771057,
                    -0.4207085967063904,
                    -0.2583759129047394,
                    -0.37880128622055054,
                    -0.3456682860851288,
                ],
                weighted: 30.712843087036163,
                squares: 684.771818583856,
            },
        ),
        (
            Optimizer::Adafactor(adafactor),
            matrix,
            Recorded {
                samples: [
                    -0.49255719780921936,
                    -0.44565916061401367,
                    -0.26809316873550415,
                    -0.3651159405708313,
                    -0.34564802050590515,
                ],
                weighted: 32.10563279653434,
                squares: 680.216441974786,
            },
        ),
        (
            Optimizer::Adafactor(Adafactor::default()),
            &[8_300],
            Recorded {
                samples: [
                    -0.4842258393764496,
                    -0.44374483823776245,
                    -0.2825709581375122,
                    -0.3592250943183899,
                    -0.3223421275615692,
                ],
                weighted: 36.685779448540416,
                squares: 688.5952782022666,
            },
        ),
        (
            Optimizer::Adafactor(scaled),
            matrix,
            Recorded {
                samples: [
                    -0.4797917306423187,
                    -0.4817701578140259,
                    -0.3177865445613861,
                    -0.3426923155784607,
                    -0.29055070877075195,
                ],
                weighted: 39.586383339745225,
                squares: 687.0902069498982,
            },
        ),
        (
            sgd(0.0),
            matrix,
            Recorded {
                samples: [
                    -0.47747665643692017,
                    -0.47888681292533875,
                    -0.31604987382888794,
                    -0.3401705026626587,
                    -0.2885439395904541,
                ],
                weighted: 39.47590216511526,
                squares: 678.8823846673106,
            },
        ),
        (
            sgd(0.9),
            matrix,
            Recorded {
                samples: [
                    -0.47159290313720703,
                    -0.4692766070365906,
                    -0.30753156542778015,
                    -0.34034082293510437,
                    -0.2915149927139282,
                ],
                weighted: 37.86982919793809,
                squares: 662.6543974029444,
            },
        ),
    ];
    for (optimizer, shape, wanted) in recorded {
        compare(&after_six_steps(optimizer, shape), &wanted, 2e-7);
    }
}

// Codes and scales of both moments after six steps of bitsandbytes' AdamW8bit, to the bit.
#[test]
fn moments_in_8_bits_equal_those_of_bitsandbytes() {
    let run = after_six_steps(Optimizer::AdamW8bit(adamw(0.1)), &[83, 100]);
    let bytes = |kind| hash(run.array(kind).into_iter().map(|value| value as u8));
    let numbers = |kind| {
        let values: Vec<f32> = run.array(kind).into_iter().map(|value| value as f32).collect();
        hash_numbers(&values)
    };
    assert_eq!(bytes("first_moment_8bit"), 0x5e38_e132_e584_01af);
    assert_eq!(bytes("second_moment_8bit"), 0xe006_4194_803c_76e0);
    assert_eq!(numbers("first_moment_largest"), 0x9943_05e6_ca55_8270);
    assert_eq!(numbers("second_moment_largest"), 0xe573_20f4_47e8_af0e);
}

// Small parameters and embeddings keep their moments in full, and then a step is AdamW's own.
#[test]
fn small_parameters_and_embeddings_are_not_quantized() {
    let parameter = |name: &str, n: usize| Parameter {
        name: name.to_owned(),
        shape: vec![n],
        values: vec![0.0f32; n],
        stored: None,
        is_trained: true,
        is_decayed: true,
    };
    assert!(adamw8bit::is_quantized(&parameter(
        "model.layers.0.mlp.up_proj.weight",
        4_096
    )));
    assert!(!adamw8bit::is_quantized(&parameter(
        "model.layers.0.mlp.up_proj.weight",
        4_095
    )));
    assert!(!adamw8bit::is_quantized(&parameter(
        "model.embed_tokens.weight",
        100_000
    )));
    let values = &numbers()[..100];
    let run = |optimizer| {
        let mut run = Run::<f32>::new(optimizer, &[100], values, true);
        run.step(1e-2, values);
        run.values()
    };
    assert_eq!(run(Optimizer::AdamW8bit(adamw(0.1))), run(Optimizer::AdamW(adamw(0.1))));
}

// The estimate is no less than what is kept, and not much more.
#[test]
fn state_bytes_are_near_what_is_kept() {
    let with_momentum = |momentum| {
        Optimizer::Sgd(Sgd {
            momentum,
            weight_decay: 0.0,
        })
    };
    let beta1 = Adafactor {
        beta1: Some(0.9),
        ..Adafactor::default()
    };
    for optimizer in [
        Optimizer::AdamW(adamw(0.0)),
        Optimizer::AdamW8bit(adamw(0.0)),
        Optimizer::Lion(Lion::default()),
        Optimizer::Adafactor(Adafactor::default()),
        Optimizer::Adafactor(beta1),
        with_momentum(0.0),
        with_momentum(0.9),
    ] {
        let n = 256 * 400;
        let run = Run::<f32>::new(optimizer, &[256, 400], &numbers(), true);
        let (_, arrays) = run.state.arrays(&run.parameters).next().unwrap();
        let bytes = arrays.iter().map(|array| match array.values {
            Values::Real(values) | Values::F32(values) => size_of_val(values),
            Values::U8(values) => values.len(),
        });
        let (kept, told) = (bytes.sum::<usize>(), optimizer.state_bytes(n));
        assert!(kept <= told && told <= kept + n, "{}: {kept} {told}", optimizer.name());
    }
}

#[test]
fn constants_that_make_no_sense_are_refused() {
    let lion = |beta2| {
        Optimizer::Lion(Lion {
            beta2,
            ..Lion::default()
        })
    };
    let adafactor = |decay_rate| {
        Optimizer::Adafactor(Adafactor {
            decay_rate,
            ..Adafactor::default()
        })
    };
    for optimizer in [
        Optimizer::AdamW(adamw(-0.1)),
        Optimizer::AdamW8bit(adamw(f64::NAN)),
        lion(1.0),
        lion(f64::NAN),
        adafactor(0.5),
        Optimizer::Sgd(Sgd {
            momentum: 1.0,
            weight_decay: 0.0,
        }),
    ] {
        assert!(optimizer.check().is_err(), "{optimizer:?}");
    }
}

#[test]
fn clipping_scales_only_what_is_too_long() {
    let run = Run::<f64>::new(Optimizer::default(), &[2], &[1.0, -2.0], true);
    let clipped = |norm_max| {
        let mut gradients = Gradients::new(&run.parameters);
        for gradient in gradients.iter_mut() {
            gradient.copy_from_slice(&[3.0, -4.0]);
        }
        let norm = clip(&mut gradients, norm_max);
        assert_eq!(norm, 5.0);
        gradients.iter().next().unwrap().to_vec()
    };
    let factor = 1.0 / (5.0 + 1e-6);
    assert_eq!(clipped(Some(1.0)), [3.0 * factor, -4.0 * factor]);
    assert_eq!(clipped(Some(5.1)), [3.0, -4.0]);
    assert_eq!(clipped(None), [3.0, -4.0]);
}
