//! The random numbers of CPython and of torch, bit for bit, so that an order of rows made there is made again here.
//!
//! Both use the Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998); they differ in how a seed fills its state and in how a number
//! below a bound is drawn.

mod mt19937;
mod python;
mod torch;

pub use python::PythonRandom;
pub use torch::TorchGenerator;
