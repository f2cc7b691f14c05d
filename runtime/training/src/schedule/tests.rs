//! Against rates worked out by hand and rates that Transformers 5.24 gave.

use super::*;

// The first and last rates of each shape, worked out by hand.
#[test]
fn shapes_begin_and_end_where_they_should() {
    let schedule = |decay, warmup_steps| Schedule {
        learning_rate: 2.0,
        decay,
        warmup_steps,
        n_steps: 10,
    };
    let rates = |decay, warmup_steps| {
        let schedule = schedule(decay, warmup_steps);
        [0, 1, 2, 6, 9, 10].map(|step| schedule.rate(step))
    };
    assert_eq!(rates(Decay::Linear, 2), [0.0, 1.0, 2.0, 1.0, 0.25, 0.0]);
    assert_eq!(rates(Decay::Linear, 0), [2.0, 1.8, 1.6, 0.8, 0.2, 0.0]);
    assert_eq!(rates(Decay::Constant, 2), [0.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
    let cosine = rates(Decay::Cosine, 2);
    assert_eq!(cosine[..3], [0.0, 1.0, 2.0]);
    assert!((cosine[3] - 1.0).abs() < 1e-12 && cosine[5] == 0.0, "{cosine:?}");
    // A warm-up longer than the run only ever rises.
    assert_eq!(schedule(Decay::Linear, 100).rate(9), 0.18);
}

/// Steps at which rates were recorded, of 20.
const STEPS: [u64; 10] = [0, 1, 3, 4, 7, 12, 17, 19, 20, 23];

// `get_scheduler` of Transformers 5.24 at a rate of 3e-4 over 20 steps, and 3 more. Cosines of two libraries may differ in the last place.
#[test]
fn rates_are_those_of_transformers() {
    let wsd = |decay_steps, stable_steps, shape, min_ratio| Decay::WarmupStableDecay {
        decay_steps,
        stable_steps,
        shape,
        min_ratio,
    };
    let recorded: [(Decay, u64, [f64; 10]); 14] = [
        (
            Decay::Constant,
            4,
            [
                0.0, 7.5e-05, 0.000225, 0.0003, 0.0003, 0.0003, 0.0003, 0.0003, 0.0003, 0.0003,
            ],
        ),
        (
            Decay::Linear,
            4,
            [
                0.0, 7.5e-05, 0.000225, 0.0003, 0.00024375, 0.00015, 5.625e-05, 1.875e-05, 0.0, 0.0,
            ],
        ),
        (
            Decay::Cosine,
            4,
            [
                0.0,
                7.5e-05,
                0.000225,
                0.0003,
                0.0002747204418453818,
                0.00015,
                2.5279558154618197e-05,
                2.882207939515435e-06,
                0.0,
                2.527955815461818e-05,
            ],
        ),
        (
            Decay::CosineToMinimum { min_ratio: 0.1 },
            4,
            [
                0.0,
                7.5e-05,
                0.000225,
                0.0003,
                0.0002772483976608436,
                0.000165,
                5.275160233915637e-05,
                3.259398714556389e-05,
                2.9999999999999997e-05,
                5.275160233915636e-05,
            ],
        ),
        (
            Decay::CosineToMinimum { min_ratio: 6e-5 / 3e-4 },
            4,
            [
                0.0,
                7.5e-05,
                0.000225,
                0.0003,
                0.0002797763534763054,
                0.00018,
                8.022364652369455e-05,
                6.230576635161234e-05,
                5.9999999999999995e-05,
                8.022364652369455e-05,
            ],
        ),
        (
            Decay::CosineWithRestarts { n_cycles: 3 },
            4,
            [
                0.0,
                7.5e-05,
                0.000225,
                0.0003,
                0.00012073645169758076,
                0.00015,
                0.00017926354830241924,
                2.5279558154618197e-05,
                0.0,
                0.0,
            ],
        ),
        (
            Decay::Polynomial {
                power: 2.0,
                end_rate: 1e-5,
            },
            4,
            [
                0.0,
                7.5e-05,
                0.000225,
                0.0003,
                0.00020144531249999996,
                8.249999999999999e-05,
                2.0195312499999994e-05,
                1.11328125e-05,
                1e-05,
                1e-05,
            ],
        ),
        (
            Decay::Polynomial {
                power: 1.0,
                end_rate: 1e-7,
            },
            0,
            [
                0.0003,
                0.00028500499999999996,
                0.000255015,
                0.00024002,
                0.00019503499999999998,
                0.00012006000000000001,
                4.508500000000001e-05,
                1.5095000000000012e-05,
                9.999999999999998e-08,
                9.999999999999998e-08,
            ],
        ),
        (
            Decay::InverseSqrt { timescale: None },
            4,
            [
                0.0,
                7.5e-05,
                0.000225,
                0.0003,
                0.0002267786838055363,
                0.00017320508075688773,
                0.00014552137502179977,
                0.00013764944032233705,
                0.00013416407864998736,
                0.00012510864843424485,
            ],
        ),
        (
            Decay::InverseSqrt { timescale: Some(9) },
            4,
            [
                0.0,
                7.5e-05,
                0.000225,
                0.0003,
                0.00025980762113533157,
                0.00021828206253269965,
                0.00019188064472004936,
                0.0001837117307087383,
                0.00017999999999999998,
                0.00017008401285415224,
            ],
        ),
        (
            Decay::InverseSqrt { timescale: None },
            0,
            [
                0.0003,
                0.0002999850011249063,
                0.0002999550101224694,
                0.0002999400179940021,
                0.00029989505509286343,
                0.0002998201618381699,
                0.0002997453246650903,
                0.00029971540548303597,
                0.0002997004492513101,
                0.0002996555939866346,
            ],
        ),
        (
            wsd(5, None, DecayShape::Cosine, 0.0),
            4,
            [
                0.0,
                7.5e-05,
                0.000225,
                0.0003,
                0.0003,
                0.0003,
                0.0001963525491562421,
                2.8647450843757897e-05,
                0.0,
                0.0,
            ],
        ),
        (
            wsd(8, Some(6), DecayShape::Linear, 0.1),
            4,
            [
                2.9999999999999997e-05,
                9.75e-05,
                0.00023249999999999999,
                0.0003,
                0.0003,
                0.00023249999999999999,
                6.375e-05,
                2.9999999999999997e-05,
                2.9999999999999997e-05,
                2.9999999999999997e-05,
            ],
        ),
        (
            wsd(10, None, DecayShape::OneMinusSqrt, 0.25),
            4,
            [
                7.5e-05,
                0.00013125,
                0.00024375,
                0.0003,
                0.0003,
                0.00019937694101250947,
                0.00011175149402983299,
                8.65462579386344e-05,
                7.5e-05,
                7.5e-05,
            ],
        ),
    ];
    for (decay, warmup_steps, wanted) in recorded {
        let schedule = Schedule {
            learning_rate: 3e-4,
            decay,
            warmup_steps,
            n_steps: 20,
        };
        schedule.check().unwrap();
        for (step, wanted) in STEPS.into_iter().zip(wanted) {
            let rate = schedule.rate(step);
            assert!((rate - wanted).abs() < 1e-18, "{decay:?} {step}: {rate} {wanted}");
        }
    }
}

// `math.ceil(steps * ratio)`: a share of a step is a step.
#[test]
fn a_ratio_of_warmup_is_rounded_up() {
    let steps = |ratio, n_steps| Schedule::warmup_steps_of_ratio(ratio, n_steps);
    assert_eq!(
        [
            steps(0.03, 100),
            steps(0.1, 6),
            steps(0.0, 6),
            steps(0.001, 1),
            steps(0.5, 7)
        ],
        [3, 1, 0, 1, 4]
    );
    assert_eq!([steps(f64::NAN, 9), steps(-1.0, 9)], [0, 0]);
}

#[test]
fn schedules_that_make_no_sense_are_refused() {
    let wsd = |min_ratio| Decay::WarmupStableDecay {
        decay_steps: 0,
        stable_steps: None,
        shape: DecayShape::default(),
        min_ratio,
    };
    for (learning_rate, decay) in [
        (-1.0, Decay::Constant),
        (f64::NAN, Decay::Constant),
        (1.0, Decay::CosineToMinimum { min_ratio: 1.5 }),
        (1.0, Decay::CosineWithRestarts { n_cycles: 0 }),
        (
            1e-4,
            Decay::Polynomial {
                power: 1.0,
                end_rate: 1e-4,
            },
        ),
        (
            1e-4,
            Decay::Polynomial {
                power: f64::NAN,
                end_rate: 0.0,
            },
        ),
        (1.0, Decay::InverseSqrt { timescale: Some(0) }),
        (1.0, wsd(f64::NAN)),
    ] {
        let schedule = |learning_rate, decay| Schedule {
            learning_rate,
            decay,
            warmup_steps: 0,
            n_steps: 0,
        };
        assert!(schedule(learning_rate, decay).check().is_err(), "{decay:?}");
    }
    // A run of no steps, or with no steps to decay in, has finite rates.
    for decay in [
        Decay::Linear,
        Decay::Cosine,
        Decay::Polynomial {
            power: 1.0,
            end_rate: 0.0,
        },
        wsd(0.0),
    ] {
        let schedule = Schedule {
            learning_rate: 1.0,
            decay,
            warmup_steps: 0,
            n_steps: 0,
        };
        schedule.check().unwrap();
        assert!((0..3).all(|step| schedule.rate(step).is_finite()), "{decay:?}");
    }
}
