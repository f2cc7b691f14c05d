//! One layer: attention and feed-forward block, each behind a norm and added to the residual stream.
//!
//! Normalised inputs and the activation of the feed-forward block are made again in the backward pass: each costs one pass over memory, and keeping them would
//! cost `2 d + f` numbers a token and layer.

use super::{Context, Layer};
use crate::attention::{Attended, Attention, Heads};
use crate::kernels::{add, rms_norm, rms_norm_backward, rms_statistics, swiglu, swiglu_backward};
use crate::linear::{Flow, Linear, LinearTape};
use crate::matmul::Into;
use crate::numbers::Numbers;
use crate::parameters::{Gradients, ParameterId, Parameters};
use crate::real::Real;
use crate::rope::{join_heads, split_heads};

/// What a layer's forward pass leaves for its backward one, beside its input.
pub(super) struct LayerTape<T> {
    input_statistics: Numbers<T>,
    heads: Heads<T>,
    attended: Attended<T>,
    middle: Numbers<T>,
    middle_statistics: Numbers<T>,
    gate: Numbers<T>,
    up: Numbers<T>,
    linears: LinearTapes<T>,
}

struct LinearTapes<T> {
    q: LinearTape<T>,
    k: LinearTape<T>,
    v: LinearTape<T>,
    o: LinearTape<T>,
    gate: LinearTape<T>,
    up: LinearTape<T>,
    down: LinearTape<T>,
}

impl Layer {
    fn attention<'a, T>(&self, context: &Context<'a, T>) -> Attention<'a> {
        Attention {
            n_heads: context.config.n_heads,
            n_kv_heads: context.config.n_kv_heads,
            head_dim: context.config.head_dim,
            window: self.window,
            samples: context.batch.samples(),
            compute: context.pass.compute,
        }
    }

    fn is_attention_trained<T: Real>(&self, parameters: &Parameters<T>) -> bool {
        parameters.is_trained(self.input_norm)
            || [&self.q, &self.k, &self.v, &self.o]
                .iter()
                .any(|linear| linear.is_trained(parameters))
    }

    /// Says whether anything of this layer is trained.
    pub(super) fn is_trained<T: Real>(&self, parameters: &Parameters<T>) -> bool {
        self.is_attention_trained(parameters)
            || parameters.is_trained(self.post_norm)
            || [&self.gate, &self.up, &self.down]
                .iter()
                .any(|linear| linear.is_trained(parameters))
    }

    /// Computes the layer's output, `[n, d]`, from its input.
    pub(super) fn forward<T: Real>(&self, context: &Context<'_, T>, x: &[T]) -> (Numbers<T>, LayerTape<T>) {
        let (parameters, config, pass) = (context.parameters, context.config, context.pass);
        let (d, epsilon) = (config.hidden_size, config.rms_norm_eps);
        let input_statistics = rms_statistics(x, d, epsilon);
        let normed = rms_norm(x, parameters.values(self.input_norm), &input_statistics);
        let input = self.q.prepared(&normed, pass);
        let (q, q_tape) = self.q.forward(parameters, &input, pass);
        let (k, k_tape) = self.k.forward(parameters, &input, pass);
        let (v, v_tape) = self.v.forward(parameters, &input, pass);
        drop(input);
        drop(normed);
        let heads = Heads {
            q: context.rotation.split_and_turn(&q, config.n_heads),
            k: context.rotation.split_and_turn(&k, config.n_kv_heads),
            v: split_heads(&v, config.n_kv_heads, config.head_dim),
        };
        drop((q, k, v));
        let attended = self.attention(context).forward(&heads);
        let joined = join_heads(&attended.output, config.n_heads, config.head_dim);
        let (mut middle, o_tape) = self.o.forward(parameters, &self.o.prepared(&joined, pass), pass);
        drop(joined);
        add(&mut middle, x);
        let middle_statistics = rms_statistics(&middle, d, epsilon);
        let normed = rms_norm(&middle, parameters.values(self.post_norm), &middle_statistics);
        let input = self.gate.prepared(&normed, pass);
        let (gate, gate_tape) = self.gate.forward(parameters, &input, pass);
        let (up, up_tape) = self.up.forward(parameters, &input, pass);
        drop(input);
        drop(normed);
        let activated = swiglu(&gate, &up);
        let input = self.down.prepared(&activated, pass);
        let (mut y, down_tape) = self.down.forward(parameters, &input, pass);
        drop(input);
        drop(activated);
        add(&mut y, &middle);
        let linears = LinearTapes {
            q: q_tape,
            k: k_tape,
            v: v_tape,
            o: o_tape,
            gate: gate_tape,
            up: up_tape,
            down: down_tape,
        };
        let tape = LayerTape {
            input_statistics,
            heads,
            attended,
            middle,
            middle_statistics,
            gate,
            up,
            linears,
        };
        (y, tape)
    }

    /// Adds the layer's gradients and turns `dx`, the gradient of its output, into that of its input; where nothing below is trained (`goes_on` is false), as far
    /// down as the layer's own parameters need it.
    pub(super) fn backward<T: Real>(
        &self,
        context: &Context<'_, T>,
        gradients: &mut Gradients<T>,
        tape: LayerTape<T>,
        x: &[T],
        dx: &mut [T],
        goes_on: bool,
    ) {
        let goes_to_attention = goes_on || self.is_attention_trained(context.parameters);
        let LayerTape {
            input_statistics,
            heads,
            attended,
            middle,
            middle_statistics,
            gate,
            up,
            linears,
        } = tape;
        let normed = Normed {
            weight: self.post_norm,
            x: &middle,
            statistics: &middle_statistics,
        };
        self.backward_feed_forward(context, gradients, &linears, &normed, (gate, up), dx, goes_to_attention);
        if goes_to_attention {
            let normed = Normed {
                weight: self.input_norm,
                x,
                statistics: &input_statistics,
            };
            self.backward_attention(context, gradients, &linears, &normed, (&heads, &attended), dx, goes_on);
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the operands of one formula, each of another meaning"
    )]
    fn backward_feed_forward<T: Real>(
        &self,
        context: &Context<'_, T>,
        gradients: &mut Gradients<T>,
        linears: &LinearTapes<T>,
        normed: &Normed<'_, T>,
        (mut gate, mut up): (Numbers<T>, Numbers<T>),
        dx: &mut [T],
        goes_on: bool,
    ) {
        let (parameters, pass) = (context.parameters, context.pass);
        let activated = match self.down.needs_input(parameters) {
            true => swiglu(&gate, &up),
            false => Numbers::stale(0),
        };
        let mut dactivated = Numbers::stale(gate.len());
        let target = Some((&mut dactivated[..], Into::Replace));
        self.down.backward(
            parameters,
            gradients,
            &linears.down,
            Flow {
                x: &activated,
                dy: dx,
                pass,
            },
            target,
        );
        drop(activated);
        swiglu_backward(&mut gate, &mut up, &dactivated);
        drop(dactivated);
        let modules = [(&self.gate, &linears.gate, &gate), (&self.up, &linears.up, &up)];
        normed.backward(context, gradients, &modules, dx, goes_on);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the operands of one formula, each of another meaning"
    )]
    fn backward_attention<T: Real>(
        &self,
        context: &Context<'_, T>,
        gradients: &mut Gradients<T>,
        linears: &LinearTapes<T>,
        normed: &Normed<'_, T>,
        (heads, attended): (&Heads<T>, &Attended<T>),
        dx: &mut [T],
        goes_on: bool,
    ) {
        let (parameters, config, pass) = (context.parameters, context.config, context.pass);
        let joined = match self.o.needs_input(parameters) {
            true => join_heads(&attended.output, config.n_heads, config.head_dim),
            false => Numbers::stale(0),
        };
        let mut djoined = Numbers::stale(heads.q.len());
        let target = Some((&mut djoined[..], Into::Replace));
        self.o.backward(
            parameters,
            gradients,
            &linears.o,
            Flow {
                x: &joined,
                dy: dx,
                pass,
            },
            target,
        );
        drop(joined);
        let doutput = split_heads(&djoined, config.n_heads, config.head_dim);
        drop(djoined);
        let dheads = self.attention(context).backward(heads, attended, &doutput);
        drop(doutput);
        let dq = context.rotation.turn_back_and_join(&dheads.q, config.n_heads);
        let dk = context.rotation.turn_back_and_join(&dheads.k, config.n_kv_heads);
        let dv = join_heads(&dheads.v, config.n_kv_heads, config.head_dim);
        drop(dheads);
        let modules = [
            (&self.q, &linears.q, &dq),
            (&self.k, &linears.k, &dk),
            (&self.v, &linears.v, &dv),
        ];
        normed.backward(context, gradients, &modules, dx, goes_on);
    }
}

/// A norm and what it was computed from.
struct Normed<'a, T> {
    weight: ParameterId,
    x: &'a [T],
    statistics: &'a [T],
}

impl<T: Real> Normed<'_, T> {
    /// Adds the gradients of modules that read the norm, given those of their outputs, then the norm's own, and adds that of its input to `dx`.
    fn backward(
        &self,
        context: &Context<'_, T>,
        gradients: &mut Gradients<T>,
        modules: &[(&Linear, &LinearTape<T>, &Numbers<T>)],
        dx: &mut [T],
        goes_on: bool,
    ) {
        let (parameters, pass) = (context.parameters, context.pass);
        let weight = parameters.values(self.weight);
        let goes_to_norm = goes_on || parameters.is_trained(self.weight);
        let input = match modules.iter().any(|(linear, _, _)| linear.needs_input(parameters)) {
            true => rms_norm(self.x, weight, self.statistics),
            false => Numbers::stale(0),
        };
        let mut dnormed = Numbers::stale(if goes_to_norm { self.x.len() } else { 0 });
        for (index, (linear, tape, dy)) in modules.iter().enumerate() {
            let into = if index == 0 { Into::Replace } else { Into::Add };
            let target = goes_to_norm.then_some((&mut dnormed[..], into));
            linear.backward(parameters, gradients, tape, Flow { x: &input, dy, pass }, target);
        }
        if goes_to_norm {
            let dweight = gradients.get_mut(self.weight);
            rms_norm_backward(dx, dweight, &dnormed, self.x, weight, self.statistics);
        }
    }
}
