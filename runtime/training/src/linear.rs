//! One linear module, `y = x W' + b`, with or without a LoRA or DoRA, forward and backward.
//!
//! ```text
//! LoRA  h = drop(x) A'   y += s h B'          dB += s dy' h   dh = s dy B   dA += dh' drop(x)   dx += undrop(dh A)
//! DoRA  u = x W' + s h B'   y = u m/|W + s B A| + b           dm += sum(dy u)/norm   du = dy m/norm, in place of dy above
//! ```
//! `|.|` is the norm of a row and a constant to the gradient, as its authors propose (arXiv 2402.09353, section 4.3) and PEFT does.
//! Shapes: `x [n, in]`, `W [out, in]`, `A [r, in]`, `B [out, r]`, `h [n, r]`, `m [out]`. The frozen base costs one product forward and one backward, no third.
//!
//! A dropped value is chosen by its index in a counted stream, so that a pass made again for its activations drops the same ones.

use rayon::prelude::*;

use crate::kernels::{TASK_ELEMENTS, add, add_column_sums, add_row, scale_columns, vectorised};
use crate::matmul::{Compute, Into, Means, Prepared, View, ViewMut, matmul};
use crate::numbers::Numbers;
use crate::parameters::{Gradients, ParameterId, Parameters};
use crate::random::Stream;
use crate::real::Real;

/// A linear module.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    /// Name, such as `model.layers.0.self_attn.q_proj`.
    pub(crate) name: String,
    /// W.
    pub(crate) weight: ParameterId,
    /// b.
    pub(crate) bias: Option<ParameterId>,
    /// Width of x.
    pub(crate) n_in: usize,
    /// Width of y.
    pub(crate) n_out: usize,
    /// The adapter.
    pub(crate) lora: Option<Lora>,
}

/// A trained change of a linear module.
#[derive(Clone, Debug)]
pub(crate) struct Lora {
    /// A.
    pub(crate) a: ParameterId,
    /// B.
    pub(crate) b: ParameterId,
    /// m of DoRA.
    pub(crate) magnitude: Option<ParameterId>,
    /// r.
    pub(crate) rank: usize,
    /// s.
    pub(crate) scale: f64,
    /// The chance that a value of x does not reach A; below 1.
    pub(crate) dropout: f64,
    /// Which stream of random numbers is this module's.
    pub(crate) stream: u64,
}

/// What the forward pass leaves for the backward one, beside x.
#[derive(Debug, Default)]
pub(crate) struct LinearTape<T> {
    /// h.
    low: Numbers<T>,
    /// u of DoRA.
    undirected: Numbers<T>,
    /// m / norm and 1 / norm of DoRA.
    direction: Vec<T>,
    inverse_norms: Vec<T>,
}

/// One pass over one batch: what modules need to know of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass {
    /// The random numbers of dropout; nothing when the pass is no training.
    pub(crate) dropout: Option<Stream>,
    /// The index of the first row, where a module is computed by parts.
    pub(crate) first_row: usize,
    /// What products are computed in.
    pub(crate) compute: Compute,
}

impl Pass {
    pub(crate) fn means(self) -> Means {
        Means::all(self.compute)
    }
}

/// What a module's backward pass reads, beside its tape.
#[derive(Debug)]
pub(crate) struct Flow<'a, T> {
    /// The input; may be empty where [`Linear::needs_input`] is false.
    pub(crate) x: &'a [T],
    /// The gradient of the output.
    pub(crate) dy: &'a [T],
    /// The pass.
    pub(crate) pass: Pass,
}

impl Linear {
    /// Says whether anything of this module is trained.
    pub(crate) fn is_trained<T: Real>(&self, parameters: &Parameters<T>) -> bool {
        self.lora.is_some()
            || parameters.is_trained(self.weight)
            || self.bias.is_some_and(|bias| parameters.is_trained(bias))
    }

    /// Says whether the backward pass reads x.
    pub(crate) fn needs_input<T: Real>(&self, parameters: &Parameters<T>) -> bool {
        self.lora.is_some() || parameters.is_trained(self.weight)
    }

    /// Prepares an input, `[n, n_in]`, that this module and others read.
    pub(crate) fn prepared<'a, T: Real>(&self, x: &'a [T], pass: Pass) -> Prepared<'a, T> {
        Prepared::new(View::new(x, x.len() / self.n_in, self.n_in), pass.means())
    }

    /// Computes y.
    pub(crate) fn forward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: &Prepared<'_, T>,
        pass: Pass,
    ) -> (Numbers<T>, LinearTape<T>) {
        let (n, means) = (x.data().len() / self.n_in, pass.means());
        let mut y = Numbers::stale(n * self.n_out);
        let mut tape = LinearTape::default();
        let weight = parameters.matrix(self.weight);
        let target = ViewMut::new(&mut y, n, self.n_out);
        matmul(target, Into::Replace, T::ONE, x, weight.transposed(), means);
        if let Some(lora) = &self.lora {
            let dropped = lora.drop(x.data(), pass, self.n_in);
            tape.low = Numbers::stale(n * lora.rank);
            let a = View::new(parameters.values(lora.a), lora.rank, self.n_in);
            let low = ViewMut::new(&mut tape.low, n, lora.rank);
            match &dropped {
                Some(dropped) => {
                    let dropped = View::new(dropped, n, self.n_in);
                    matmul(low, Into::Replace, T::ONE, dropped, a.transposed(), means);
                }
                None => matmul(low, Into::Replace, T::ONE, x, a.transposed(), means),
            }
            let b = View::new(parameters.values(lora.b), self.n_out, lora.rank);
            matmul(
                ViewMut::new(&mut y, n, self.n_out),
                Into::Add,
                T::from_f64(lora.scale),
                View::new(&tape.low, n, lora.rank),
                b.transposed(),
                means,
            );
            if let Some(magnitude) = lora.magnitude {
                tape.inverse_norms = self.inverse_norms(parameters, lora);
                let magnitude = parameters.values(magnitude);
                let direction = magnitude.iter().zip(&tape.inverse_norms);
                tape.direction = direction.map(|(magnitude, inverse)| *magnitude * *inverse).collect();
                tape.undirected = Numbers::copy_of(&y);
                scale_columns(&mut y, &tape.direction);
            }
        }
        if let Some(bias) = self.bias {
            add_row(&mut y, parameters.values(bias));
        }
        (y, tape)
    }

    /// Adds to the gradients, and puts into `dx`, where it is wanted, the gradient with respect to x.
    pub(crate) fn backward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        gradients: &mut Gradients<T>,
        tape: &LinearTape<T>,
        flow: Flow<'_, T>,
        dx: Option<(&mut [T], Into)>,
    ) {
        let Flow { x, dy, pass } = flow;
        let (n, means) = (dy.len() / self.n_out, pass.means());
        if let Some(dbias) = self.bias.and_then(|bias| gradients.get_mut(bias)) {
            add_column_sums(dbias, dy);
        }
        let directed = self.direct(gradients, tape, dy);
        let dy = directed.as_deref().unwrap_or(dy);
        let dy_view = View::new(dy, n, self.n_out);
        if let Some(dweight) = gradients.get_mut(self.weight) {
            let dweight = ViewMut::new(dweight, self.n_out, self.n_in);
            let x = View::new(x, n, self.n_in);
            matmul(dweight, Into::Add, T::ONE, dy_view.transposed(), x, means);
        }
        if dx.is_none() && self.lora.is_none() {
            return;
        }
        let weight = parameters.matrix(self.weight);
        let Some(lora) = &self.lora else {
            if let Some((dx, into)) = dx {
                matmul(ViewMut::new(dx, n, self.n_in), into, T::ONE, dy_view, weight, means);
            }
            return;
        };
        let prepared = Prepared::new(dy_view, means);
        let dlow = self.backward_lora(lora, parameters, gradients, tape, (x, &prepared, pass));
        if let Some((dx, into)) = dx {
            let target = ViewMut::new(&mut *dx, n, self.n_in);
            matmul(target, into, T::ONE, &prepared, weight, means);
            let dlow = View::new(&dlow, n, lora.rank);
            let a = View::new(parameters.values(lora.a), lora.rank, self.n_in);
            if lora.drops(pass) {
                let mut through_a = Numbers::stale(n * self.n_in);
                let target = ViewMut::new(&mut through_a, n, self.n_in);
                matmul(target, Into::Replace, T::ONE, dlow, a, means);
                lora.drop_in_place(&mut through_a, pass, self.n_in);
                add(dx, &through_a);
            } else {
                let target = ViewMut::new(dx, n, self.n_in);
                matmul(target, Into::Add, T::ONE, dlow, a, means);
            }
        }
    }

    /// Adds the gradients of A and B, and returns that of h.
    fn backward_lora<T: Real>(
        &self,
        lora: &Lora,
        parameters: &Parameters<T>,
        gradients: &mut Gradients<T>,
        tape: &LinearTape<T>,
        (x, prepared, pass): (&[T], &Prepared<'_, T>, Pass),
    ) -> Numbers<T> {
        let n = prepared.data().len() / self.n_out;
        let (scale, means) = (T::from_f64(lora.scale), pass.means());
        let dy = View::new(prepared.data(), n, self.n_out);
        if let Some(db) = gradients.get_mut(lora.b) {
            let db = ViewMut::new(db, self.n_out, lora.rank);
            let low = View::new(&tape.low, n, lora.rank);
            matmul(db, Into::Add, scale, dy.transposed(), low, means);
        }
        let mut dlow = Numbers::stale(n * lora.rank);
        let b = View::new(parameters.values(lora.b), self.n_out, lora.rank);
        let target = ViewMut::new(&mut dlow, n, lora.rank);
        matmul(target, Into::Replace, scale, prepared, b, means);
        if let Some(da) = gradients.get_mut(lora.a) {
            let dropped = lora.drop(x, pass, self.n_in);
            let input = View::new(dropped.as_deref().unwrap_or(x), n, self.n_in);
            let da = ViewMut::new(da, lora.rank, self.n_in);
            let dlow = View::new(&dlow, n, lora.rank);
            matmul(da, Into::Add, T::ONE, dlow.transposed(), input, means);
        }
        dlow
    }

    /// For DoRA, adds the gradient of the magnitude and returns that of u.
    fn direct<T: Real>(&self, gradients: &mut Gradients<T>, tape: &LinearTape<T>, dy: &[T]) -> Option<Numbers<T>> {
        let magnitude = self.lora.as_ref()?.magnitude?;
        if let Some(dmagnitude) = gradients.get_mut(magnitude) {
            let rows = dy
                .chunks_exact(self.n_out)
                .zip(tape.undirected.chunks_exact(self.n_out));
            for (dy, u) in rows {
                let columns = dmagnitude.iter_mut().zip(dy).zip(u).zip(&tape.inverse_norms);
                for (((dmagnitude, dy), u), inverse) in columns {
                    *dmagnitude += *dy * *u * *inverse;
                }
            }
        }
        let mut directed = Numbers::copy_of(dy);
        scale_columns(&mut directed, &tape.direction);
        Some(directed)
    }

    /// Computes `1 / |W + s B A|` of every row.
    fn inverse_norms<T: Real>(&self, parameters: &Parameters<T>, lora: &Lora) -> Vec<T> {
        let mut norms = self.row_norms(parameters, lora);
        for norm in &mut norms {
            *norm = T::ONE / *norm;
        }
        norms
    }

    /// Computes `|W + s B A|` of every row: what DoRA's magnitude starts as.
    pub(crate) fn row_norms<T: Real>(&self, parameters: &Parameters<T>, lora: &Lora) -> Vec<T> {
        let means = Means::all(Compute::F32);
        let mut merged = parameters.copied(self.weight);
        matmul(
            ViewMut::new(&mut merged, self.n_out, self.n_in),
            Into::Add,
            T::from_f64(lora.scale),
            View::new(parameters.values(lora.b), self.n_out, lora.rank),
            View::new(parameters.values(lora.a), lora.rank, self.n_in),
            means,
        );
        let rows = merged.chunks_exact(self.n_in);
        rows.map(|row| crate::kernels::dot(row, row).sqrt()).collect()
    }
}

impl Lora {
    fn drops(&self, pass: Pass) -> bool {
        self.dropout > 0.0 && pass.dropout.is_some()
    }

    /// Returns x with dropped values, or nothing where none are dropped.
    fn drop<T: Real>(&self, x: &[T], pass: Pass, width: usize) -> Option<Numbers<T>> {
        self.drops(pass).then(|| {
            let mut dropped = Numbers::copy_of(x);
            self.drop_in_place(&mut dropped, pass, width);
            dropped
        })
    }

    /// Sets a share of values to zero and enlarges the others to keep the mean.
    fn drop_in_place<T: Real>(&self, values: &mut [T], pass: Pass, width: usize) {
        let Some(stream) = pass.dropout else { return };
        let stream = stream.child(self.stream);
        let kept = T::from_f64(1.0 / (1.0 - self.dropout));
        // 32 bits of a hash against this limit.
        let limit = (self.dropout * 4_294_967_296.0) as u64;
        let first = (pass.first_row * width) as u64;
        let tasks = values.par_chunks_mut(TASK_ELEMENTS).enumerate();
        tasks.for_each(|(task, values)| {
            let start = first + (task * TASK_ELEMENTS) as u64;
            vectorised(
                #[inline(always)]
                || {
                    for (index, value) in (start..).zip(values) {
                        let is_kept = (stream.bits(index) >> 32) >= limit;
                        *value = if is_kept { *value * kept } else { T::ZERO };
                    }
                },
            );
        });
    }
}
