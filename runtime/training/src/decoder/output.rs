//! The end of the decoder: last norm, output matrix and loss, on the tokens that predict a target alone and by chunks of rows.
//!
//! Logits of all tokens at once would be the largest tensor of the whole pass (1,024 tokens of a vocabulary of 152,000: 0.6 GB); a chunk's become their own
//! gradient in place and are gone with it.

use super::{Context, Decoder};
use crate::kernels::{cross_entropy_rows, rms_norm, rms_norm_backward, rms_statistics};
use crate::linear::{Flow, Pass};
use crate::matmul::Into;
use crate::numbers::Numbers;
use crate::parameters::Gradients;
use crate::real::Real;

/// How much one chunk of logits may take.
const LOGITS_BYTES_MAX: usize = 256 << 20;
/// The most rows of a chunk: from here on the output matrix, which is read once a chunk, costs little beside what is done with it.
const CHUNK_ROWS_MAX: usize = 512;
/// At least so many rows, whatever the vocabulary: fewer would read the whole matrix for a few products.
const CHUNK_ROWS_MIN: usize = 64;

/// Returns the most rows whose logits exist at a time.
pub(crate) fn chunk_rows_max<T>(vocab_size: usize) -> usize {
    (LOGITS_BYTES_MAX / (vocab_size.max(1) * size_of::<T>())).clamp(CHUNK_ROWS_MIN, CHUNK_ROWS_MAX)
}

impl Decoder {
    /// Returns how many of `n` rows a chunk has: about the same in each.
    fn chunk_rows<T>(&self, n: usize) -> usize {
        let most = chunk_rows_max::<T>(self.config.vocab_size);
        n.div_ceil(n.div_ceil(most).max(1)).max(1)
    }

    /// Returns the rows of `x`, `[n, d]`, that predict a target, with the statistics of their norm.
    fn predicting<T: Real>(&self, x: &[T], tokens: &[usize]) -> (Numbers<T>, Numbers<T>) {
        let d = self.config.hidden_size;
        let mut rows = Numbers::stale(tokens.len() * d);
        for (row, token) in rows.chunks_exact_mut(d).zip(tokens) {
            row.copy_from_slice(&x[token * d..(token + 1) * d]);
        }
        let statistics = rms_statistics(&rows, d, self.config.rms_norm_eps);
        (rows, statistics)
    }

    /// Returns the sum of losses.
    pub(super) fn loss<T: Real>(&self, context: &Context<'_, T>, x: &[T]) -> f64 {
        let d = self.config.hidden_size;
        let (rows, statistics) = self.predicting(x, context.batch.predicting());
        let normed = rms_norm(&rows, context.parameters.values(self.norm), &statistics);
        let n_rows = self.chunk_rows::<T>(context.batch.targets().len());
        let chunks = normed
            .chunks(n_rows * d)
            .zip(context.batch.targets().chunks(n_rows))
            .enumerate();
        let losses = chunks.map(|(chunk, (normed, targets))| {
            let pass = pass_of_chunk(context.pass, chunk * n_rows);
            let (mut logits, _) = self
                .head
                .forward(context.parameters, &self.head.prepared(normed, pass), pass);
            cross_entropy_rows(&mut logits, self.config.vocab_size, targets, None)
        });
        losses.sum()
    }

    /// Returns the sum of losses and the gradient of `scale` times it with respect to `x`; adds those of norm and output matrix.
    pub(super) fn loss_backward<T: Real>(
        &self,
        context: &Context<'_, T>,
        gradients: &mut Gradients<T>,
        x: &[T],
        scale: f64,
    ) -> (f64, Numbers<T>) {
        let (parameters, d) = (context.parameters, self.config.hidden_size);
        let weight = parameters.values(self.norm);
        let (rows, statistics) = self.predicting(x, context.batch.predicting());
        let normed = rms_norm(&rows, weight, &statistics);
        let mut dnormed = Numbers::stale(normed.len());
        let n_rows = self.chunk_rows::<T>(context.batch.targets().len());
        let targets = context.batch.targets().chunks(n_rows);
        let chunks = normed
            .chunks(n_rows * d)
            .zip(dnormed.chunks_mut(n_rows * d))
            .zip(targets);
        let mut loss = 0.0;
        for (chunk, ((normed, dnormed), targets)) in chunks.enumerate() {
            let pass = pass_of_chunk(context.pass, chunk * n_rows);
            let (mut logits, tape) = self.head.forward(parameters, &self.head.prepared(normed, pass), pass);
            let scale = Some(T::from_f64(scale));
            loss += cross_entropy_rows(&mut logits, self.config.vocab_size, targets, scale);
            let flow = Flow {
                x: normed,
                dy: &logits,
                pass,
            };
            self.head
                .backward(parameters, gradients, &tape, flow, Some((dnormed, Into::Replace)));
        }
        let mut drows = Numbers::zeros(rows.len());
        let dweight = gradients.get_mut(self.norm);
        rms_norm_backward(&mut drows, dweight, &dnormed, &rows, weight, &statistics);
        let mut dx = Numbers::zeros(x.len());
        for (token, drow) in context.batch.predicting().iter().zip(drows.chunks_exact(d)) {
            dx[token * d..(token + 1) * d].copy_from_slice(drow);
        }
        (loss, dx)
    }

    /// Returns the logits of some tokens.
    pub(super) fn logits_of<T: Real>(&self, context: &Context<'_, T>, x: &[T], tokens: &[usize]) -> Vec<T> {
        let (rows, statistics) = self.predicting(x, tokens);
        let normed = rms_norm(&rows, context.parameters.values(self.norm), &statistics);
        {
            let input = self.head.prepared(&normed, context.pass);
            self.head.forward(context.parameters, &input, context.pass).0.to_vec()
        }
    }
}

fn pass_of_chunk(pass: Pass, first_row: usize) -> Pass {
    Pass { first_row, ..pass }
}
