//! All weights of a model by number, and the gradients of the trained ones.
//!
//! Memory: 4 bytes (f32) a weight, or what its [`Stored`] form takes; a trained one takes 12 more (gradient, two moments of AdamW).

use std::sync::Arc;

use witness_formats::TensorRef;
use witness_formats::hf::four_bit::FourBit;
use witness_formats::safetensors::SafeTensors;
use witness_quantization::Nf4Matrix;

use crate::error::{Result, TrainingError};
use crate::matmul::Matrix;
use crate::numbers::Numbers;
use crate::real::Real;
use crate::stored::{DenseRows, Rows, Stored, decode_all};

/// The number of a parameter; only [`Parameters::add`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ParameterId(usize);

/// One tensor of weights.
#[derive(Clone, Debug)]
pub struct Parameter<T> {
    /// Its name, as in the base model's files or, for an adapter, below `base_model.model.`.
    pub name: String,
    /// Its shape, row-major.
    pub shape: Vec<usize>,
    /// Its values; none where they are [`stored`](Parameter::stored) in another form.
    pub values: Vec<T>,
    /// A frozen matrix in the form that it is kept in.
    pub stored: Option<Stored>,
    /// Whether it is trained.
    pub is_trained: bool,
    /// Whether weight decay applies: not to biases and not to the weights of norms.
    pub is_decayed: bool,
}

/// All parameters of a model.
#[derive(Clone, Debug, Default)]
pub struct Parameters<T> {
    all: Vec<Parameter<T>>,
}

/// The gradients of the trained parameters.
#[derive(Clone, Debug)]
pub struct Gradients<T> {
    all: Vec<Option<Vec<T>>>,
}

/// Where weights come from. Names are those of Hugging Face; rows of queries and keys are in half-split order.
pub trait WeightSource {
    /// Returns the shape and values of a tensor, or nothing where there is none of this name.
    fn weight(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>>;

    /// Returns a matrix in the form that the source has it in, to be used where it lies; nothing where that is plain f32, or where there is none of this name.
    fn stored(&self, name: &str) -> Result<Option<Stored>> {
        let _ = name;
        Ok(None)
    }
}

impl WeightSource for SafeTensors {
    fn weight(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>> {
        if let Some(matrix) = four_bit(self, name)? {
            return Ok(Some((vec![matrix.n_rows(), matrix.n_columns()], decode_all(&matrix))));
        }
        let read = |tensor: &TensorRef| -> Result<_> {
            let values = tensor.to_f32()?;
            tensor.release();
            Ok((tensor.shape().to_vec(), values))
        };
        self.tensor(name).map(read).transpose()
    }

    fn stored(&self, name: &str) -> Result<Option<Stored>> {
        match four_bit(self, name)? {
            Some(matrix) => Ok(Some(Arc::new(matrix))),
            None => Ok(self.tensor(name).and_then(DenseRows::of)),
        }
    }
}

/// Takes a matrix that bitsandbytes quantized; nothing for a dense one.
fn four_bit(tensors: &SafeTensors, name: &str) -> Result<Option<Nf4Matrix>> {
    let stored = FourBit::of(tensors, name)?;
    Ok(stored.map(|stored| Nf4Matrix::of_stored(&stored)).transpose()?)
}

impl<T> Parameter<T> {
    /// Returns how many values it has, whatever the form.
    pub fn n_values(&self) -> usize {
        self.shape.iter().product()
    }
}

impl<T: Real> Parameters<T> {
    /// Returns all of them.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter<T>> {
        self.all.iter()
    }

    /// Returns the trained ones.
    pub fn trained(&self) -> impl Iterator<Item = &Parameter<T>> {
        self.all.iter().filter(|parameter| parameter.is_trained)
    }

    pub(crate) fn trained_mut(&mut self) -> impl Iterator<Item = &mut Parameter<T>> {
        self.all.iter_mut().filter(|parameter| parameter.is_trained)
    }

    /// Returns how many values there are, and how many of them are trained.
    pub fn count(&self) -> (usize, usize) {
        let sum = |trained_only: bool| {
            let counted = self
                .all
                .iter()
                .filter(|parameter| parameter.is_trained || !trained_only);
            counted.map(Parameter::n_values).sum()
        };
        (sum(false), sum(true))
    }

    /// Returns a parameter by name, to look at or change.
    pub fn named_mut(&mut self, name: &str) -> Option<&mut Parameter<T>> {
        self.all.iter_mut().find(|parameter| parameter.name == name)
    }

    pub(crate) fn add(&mut self, parameter: Parameter<T>) -> ParameterId {
        self.all.push(parameter);
        ParameterId(self.all.len() - 1)
    }

    pub(crate) fn get(&self, id: ParameterId) -> &Parameter<T> {
        &self.all[id.0]
    }

    pub(crate) fn values(&self, id: ParameterId) -> &[T] {
        &self.all[id.0].values
    }

    /// Returns a matrix, `[out, in]`, in whatever form it is kept.
    pub(crate) fn matrix(&self, id: ParameterId) -> Matrix<'_, T> {
        let parameter = &self.all[id.0];
        match &parameter.stored {
            Some(stored) => Matrix::Stored(stored.as_ref()),
            None => {
                let n_columns = parameter.shape.last().copied().unwrap_or(1);
                Matrix::plain(&parameter.values, parameter.values.len() / n_columns.max(1), n_columns)
            }
        }
    }

    /// Returns a copy of a parameter's values.
    pub(crate) fn copied(&self, id: ParameterId) -> Vec<T> {
        match &self.all[id.0].stored {
            Some(stored) => decode_all(stored.as_ref()).into_iter().map(T::from_f32).collect(),
            None => self.all[id.0].values.clone(),
        }
    }

    /// Copies some rows of a matrix behind each other.
    pub(crate) fn rows(&self, id: ParameterId, rows: impl ExactSizeIterator<Item = usize>) -> Numbers<T> {
        let parameter = &self.all[id.0];
        let width = parameter.shape.last().copied().unwrap_or(1);
        let mut copied = Numbers::stale(rows.len() * width);
        let mut decoded = vec![0.0; if parameter.stored.is_some() { width } else { 0 }];
        for (row, copied) in rows.zip(copied.chunks_exact_mut(width.max(1))) {
            match &parameter.stored {
                None => copied.copy_from_slice(&parameter.values[row * width..][..width]),
                Some(stored) => {
                    stored.decode(row..row + 1, &mut decoded);
                    for (copied, value) in copied.iter_mut().zip(&decoded) {
                        *copied = T::from_f32(*value);
                    }
                }
            }
        }
        copied
    }

    /// Returns how many bytes the weights take.
    pub fn bytes(&self) -> usize {
        let bytes = |parameter: &Parameter<T>| match &parameter.stored {
            Some(stored) => stored.bytes(),
            None => parameter.values.len() * size_of::<T>(),
        };
        self.all.iter().map(bytes).sum()
    }

    pub(crate) fn is_trained(&self, id: ParameterId) -> bool {
        self.all[id.0].is_trained
    }

    /// Returns each trained parameter with its gradient.
    pub(crate) fn trained_with<'a>(
        &'a mut self,
        gradients: &'a mut Gradients<T>,
    ) -> impl Iterator<Item = (&'a mut Parameter<T>, &'a mut Vec<T>)> {
        let pairs = self.all.iter_mut().zip(&mut gradients.all);
        pairs.filter_map(|(parameter, gradient)| Some((parameter, gradient.as_mut()?)))
    }

    /// Sets a trained parameter to values of the same shape.
    pub fn set(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Result<()> {
        self.check_shape(name, shape)?;
        if let Some(parameter) = self.named_mut(name) {
            parameter.values = values.iter().map(|value| T::from_f32(*value)).collect();
        }
        Ok(())
    }

    /// Says whether there is a trained parameter of a name and shape.
    pub(crate) fn check_shape(&self, name: &str, shape: &[usize]) -> Result<()> {
        let Some(parameter) = self.trained().find(|parameter| parameter.name == name) else {
            return Err(TrainingError::MissingTensor { name: name.to_owned() });
        };
        if parameter.shape != shape {
            return Err(TrainingError::Shape {
                name: name.to_owned(),
                found: shape.to_vec(),
                expected: parameter.shape.clone(),
            });
        }
        Ok(())
    }
}

impl<T: Real> Gradients<T> {
    /// Makes zeros for every trained parameter.
    pub fn new(parameters: &Parameters<T>) -> Gradients<T> {
        let zeros = |parameter: &Parameter<T>| parameter.is_trained.then(|| vec![T::ZERO; parameter.values.len()]);
        Gradients {
            all: parameters.all.iter().map(zeros).collect(),
        }
    }

    /// Sets all to zero.
    pub fn clear(&mut self) {
        for gradient in self.all.iter_mut().flatten() {
            gradient.fill(T::ZERO);
        }
    }

    /// Returns the gradients of the trained parameters, in the order of [`Parameters::trained`].
    pub fn iter(&self) -> impl Iterator<Item = &[T]> {
        self.all.iter().flatten().map(Vec::as_slice)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Vec<T>> {
        self.all.iter_mut().flatten()
    }

    /// Returns the gradient of a parameter, where it is trained.
    pub(crate) fn get_mut(&mut self, id: ParameterId) -> Option<&mut [T]> {
        self.all[id.0].as_deref_mut()
    }
}
