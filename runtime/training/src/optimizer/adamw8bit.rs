//! AdamW whose moments are kept in 8 bits by blocks of 256, in the order of operations of bitsandbytes on a CPU.
//!
//! ```text
//! m = m b1 + (1 - b1) g      v = v b2 + (1 - b2) g g       (decoded before, encoded after; the signed table for m, the unsigned for v)
//! p = p (1 - lr decay) - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
//! ```
//! Source: arXiv 2110.02861; bitsandbytes 0.50. The codes and scales of both moments are its own to the bit for the same gradients, as products are added with
//! one rounding where it does that; weights agree to the last places, because torch's square root is not correctly rounded everywhere.
//!
//! The smallest second moment that a block can hold is 1.5e-5 of its largest, so the smallest gradients of a block move their weights less than in full.

use rayon::prelude::*;
use witness_quantization::blockwise::{BLOCK, SIGNED, UNSIGNED};

use crate::error::Result;
use crate::kernels::{TASK_ELEMENTS, vectorised};
use crate::optimizer::adamw::AdamW;
use crate::optimizer::{Array, ArraySource, Values, kept};
use crate::parameters::Parameter;
use crate::real::Real;

/// Parameters of fewer values keep their moments in full.
const QUANTIZED_MIN: usize = 4_096;

/// Says whether a parameter's moments are kept in 8 bits. Embeddings are not: rows of rare tokens hold gradients much smaller than their block's largest.
pub(super) fn is_quantized<T>(parameter: &Parameter<T>) -> bool {
    parameter.values.len() >= QUANTIZED_MIN && !parameter.name.ends_with("embed_tokens.weight")
}

/// What the arrays of a moment are called.
struct MomentKinds {
    places: &'static str,
    largest: &'static str,
}

const FIRST: MomentKinds = MomentKinds {
    places: "first_moment_8bit",
    largest: "first_moment_largest",
};
const SECOND: MomentKinds = MomentKinds {
    places: "second_moment_8bit",
    largest: "second_moment_largest",
};

/// One moment of a parameter.
#[derive(Clone, Debug)]
struct Moment {
    /// The place in the table, for every value.
    places: Vec<u8>,
    /// The largest magnitude of every block.
    largest: Vec<f32>,
}

/// Both moments of a parameter.
#[derive(Clone, Debug)]
pub(super) struct Moments8bit {
    first: Moment,
    second: Moment,
}

impl Moment {
    fn make<T>(kinds: &MomentKinds, shape: &[usize], source: &dyn ArraySource<T>) -> Result<Moment> {
        let n: usize = shape.iter().product();
        Ok(Moment {
            places: source.u8(kinds.places, shape)?,
            largest: source.f32(kinds.largest, &[n.div_ceil(BLOCK)])?,
        })
    }

    fn arrays<T>(&self, kinds: &MomentKinds, shape: &[usize]) -> [Array<'_, T>; 2] {
        [
            Array {
                kind: kinds.places,
                shape: shape.to_vec(),
                values: Values::U8(&self.places),
            },
            Array {
                kind: kinds.largest,
                shape: vec![self.largest.len()],
                values: Values::F32(&self.largest),
            },
        ]
    }

    fn tasks(&mut self) -> impl IndexedParallelIterator<Item = (&mut [u8], &mut [f32])> {
        let places = self.places.par_chunks_mut(TASK_ELEMENTS);
        places.zip(self.largest.par_chunks_mut(TASK_ELEMENTS / BLOCK))
    }
}

impl Moments8bit {
    pub(super) fn make<T>(shape: &[usize], source: &dyn ArraySource<T>) -> Result<Moments8bit> {
        Ok(Moments8bit {
            first: Moment::make(&FIRST, shape, source)?,
            second: Moment::make(&SECOND, shape, source)?,
        })
    }

    pub(super) fn arrays<T>(&self, shape: &[usize]) -> Vec<Array<'_, T>> {
        let (first, second) = (self.first.arrays(&FIRST, shape), self.second.arrays(&SECOND, shape));
        first.into_iter().chain(second).collect()
    }

    pub(super) fn update<T: Real>(
        &mut self,
        adamw: &AdamW,
        rate: f64,
        step: u64,
        parameter: &mut Parameter<T>,
        gradient: &[T],
    ) {
        let t = step as f64;
        let step_size = T::from_f64(-rate / (1.0 - adamw.beta1.powf(t)));
        let root = T::from_f64((1.0 - adamw.beta2.powf(t)).sqrt());
        let epsilon = T::from_f64(adamw.epsilon);
        let (keep_first, take_first) = (adamw.beta1 as f32, (1.0 - adamw.beta1) as f32);
        let (keep_second, take_second) = (adamw.beta2 as f32, (1.0 - adamw.beta2) as f32);
        let decay = kept(parameter, rate, adamw.weight_decay);
        let tasks = parameter.values.par_chunks_mut(TASK_ELEMENTS);
        let tasks = tasks.zip(gradient.par_chunks(TASK_ELEMENTS));
        tasks.zip(self.first.tasks()).zip(self.second.tasks()).for_each(
            |(((values, gradient), (m_places, m_largest)), (v_places, v_largest))| {
                let (mut m, mut v) = ([0.0f32; BLOCK], [0.0f32; BLOCK]);
                let blocks = values.chunks_mut(BLOCK).zip(gradient.chunks(BLOCK));
                let blocks = blocks.zip(m_places.chunks_mut(BLOCK).zip(m_largest));
                let blocks = blocks.zip(v_places.chunks_mut(BLOCK).zip(v_largest));
                for (((values, gradient), (m_places, m_largest)), (v_places, v_largest)) in blocks {
                    let (m, v) = (&mut m[..values.len()], &mut v[..values.len()]);
                    SIGNED.dequantize_block(m_places, *m_largest, m);
                    UNSIGNED.dequantize_block(v_places, *v_largest, v);
                    vectorised(
                        #[inline(always)]
                        || {
                            let rows = values.iter_mut().zip(gradient).zip(m.iter_mut()).zip(v.iter_mut());
                            for (((value, g), m), v) in rows {
                                let g = g.to_f32();
                                *m = take_first.mul_add(g, *m * keep_first);
                                *v = (take_second * g).mul_add(g, *v * keep_second);
                                let divisor = T::from_f32(*v).sqrt() / root + epsilon;
                                *value = *value * decay + step_size * T::from_f32(*m) / divisor;
                            }
                        },
                    );
                    *m_largest = SIGNED.quantize_block(m, m_places);
                    *v_largest = UNSIGNED.quantize_block(v, v_places);
                }
            },
        );
    }
}
