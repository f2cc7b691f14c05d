//! What training leaves on disk: a PEFT directory, a whole model's weights, or a checkpoint to resume from.
//!
//! Every file is written beside its place, synced and renamed, so a reader finds a whole file or none. **Invariant:** weights that are infinite or not numbers
//! are never written.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value};
use witness_formats::safetensors::{SafeTensors, Writer};
use witness_formats::{Dtype, TensorRef};

use crate::error::{Result, TrainingError};
use crate::method::Method;
use crate::optimizer::{ArraySource, OptimizerState, Values};
use crate::real::Real;
use crate::trainer::Trainer;

/// The configuration of an adapter.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The weights of an adapter.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// The state of a run.
pub const TRAINER_STATE: &str = "trainer_state.safetensors";

/// The first versions named no optimizer, as there was only AdamW; its arrays are as they were.
const STATE_VERSIONS: [&str; 2] = ["1", "2"];
const STATE_OPTIMIZER_BEFORE: &str = "adamw";

/// The most steps that a run may have made: far beyond any, and countable in an f64.
const STEPS_MAX: u64 = 1 << 53;

/// A named tensor about to be written.
struct Tensor<'a, T> {
    name: String,
    shape: Vec<usize>,
    values: Values<'a, T>,
}

impl<T: Real> Trainer<T> {
    /// Writes the adapter as a directory that PEFT loads; `base_model` is what it names as its base.
    pub fn write_adapter(&self, directory: &Path, base_model: Option<&str>) -> Result<()> {
        let Method::Lora(lora) = &self.method else {
            return Err(TrainingError::unsupported(
                "a whole model, written as an adapter,",
                "write the model itself",
            ));
        };
        let tensors = self.parameters.trained().map(|parameter| Tensor {
            name: peft_name(&parameter.name, &self.adapted_modules()),
            shape: parameter.shape.clone(),
            values: Values::Real(&parameter.values),
        });
        let mut tensors: Vec<_> = tensors.collect();
        tensors.sort_by(|left, right| left.name.cmp(&right.name));
        self.check_finite(&tensors)?;
        create(directory)?;
        write_tensors(directory, ADAPTER_WEIGHTS, &tensors, &[("format", "pt")])?;
        let mut config: Map<String, Value> = lora.written.clone();
        if let Some(base_model) = base_model {
            config.insert(
                "base_model_name_or_path".to_owned(),
                Value::String(base_model.to_owned()),
            );
        }
        config.insert("inference_mode".to_owned(), Value::Bool(true));
        config.sort_keys();
        let mut text = serde_json::to_vec_pretty(&Value::Object(config)).map_err(|error| TrainingError::Io {
            path: directory.join(ADAPTER_CONFIG),
            verb: "written",
            source: error.into(),
        })?;
        text.push(b'\n');
        publish(directory, ADAPTER_CONFIG, |file| {
            file.write_all(&text).map_err(|source| TrainingError::Io {
                path: directory.join(ADAPTER_CONFIG),
                verb: "written",
                source,
            })
        })
    }

    /// Writes all weights of the base as `model.safetensors`, in f32. Adapters are not merged into it.
    pub fn write_model(&self, directory: &Path) -> Result<()> {
        self.write_model_as(directory, Dtype::F32)
    }

    /// Writes all weights of the base as `model.safetensors`, in f32 or rounded to bf16 or f16.
    pub fn write_model_as(&self, directory: &Path, dtype: Dtype) -> Result<()> {
        if matches!(self.method, Method::Lora(_)) {
            return Err(TrainingError::unsupported(
                "an adapter, written as a whole model,",
                "write the adapter itself",
            ));
        }
        let tensors = self.parameters.iter().map(|parameter| Tensor {
            name: parameter.name.clone(),
            shape: parameter.shape.clone(),
            values: Values::Real(&parameter.values),
        });
        let tensors: Vec<_> = tensors.collect();
        self.check_finite(&tensors)?;
        create(directory)?;
        write_tensors_as(dtype, directory, "model.safetensors", &tensors, &[("format", "pt")])
    }

    /// Writes everything that [`Trainer::read_state`] needs to go on to the bit: trained weights, the optimizer's memory and the number of steps. In f32, so exact
    /// for that type.
    pub fn write_state(&self, directory: &Path) -> Result<()> {
        let mut tensors = Vec::new();
        for (parameter, arrays) in self.optimizer.arrays(&self.parameters) {
            tensors.push(Tensor {
                name: format!("weight/{}", parameter.name),
                shape: parameter.shape.clone(),
                values: Values::Real(&parameter.values),
            });
            tensors.extend(arrays.into_iter().map(|array| Tensor {
                name: format!("{}/{}", array.kind, parameter.name),
                shape: array.shape,
                values: array.values,
            }));
        }
        self.check_finite(&tensors)?;
        create(directory)?;
        let (step, seed) = (self.step_count().to_string(), self.options.seed.to_string());
        let metadata = [
            ("version", STATE_VERSIONS[1]),
            ("step", &step),
            ("seed", &seed),
            ("optimizer", self.options.optimizer.name()),
        ];
        write_tensors(directory, TRAINER_STATE, &tensors, &metadata)
    }

    /// Takes over the state of a run with the same method, optimizer, seed and base. Nothing changes when it does not fit.
    pub fn read_state(&mut self, directory: &Path) -> Result<()> {
        let state = SafeTensors::open_file(&directory.join(TRAINER_STATE))?;
        let said = |key: &str| state.metadata().get(key).map_or("", String::as_str);
        let version = said("version");
        if !STATE_VERSIONS.contains(&version) {
            let read = STATE_VERSIONS.join("` and `");
            return Err(TrainingError::State(format!(
                "its version is `{version}`, this program reads `{read}`"
            )));
        }
        let optimizer = match version {
            "1" => STATE_OPTIMIZER_BEFORE,
            _ => said("optimizer"),
        };
        let (seed, wanted_seed) = (said("seed"), self.options.seed.to_string());
        let wanted_optimizer = self.options.optimizer.name();
        for (key, found, wanted) in [
            ("seed", seed, wanted_seed.as_str()),
            ("optimizer", optimizer, wanted_optimizer),
        ] {
            if found != wanted {
                return Err(TrainingError::State(format!(
                    "its {key} is `{found}`, this run's is `{wanted}`"
                )));
            }
        }
        let step = said("step").parse();
        let step: Option<u64> = step.ok().filter(|step| *step <= STEPS_MAX);
        let step = step.ok_or_else(|| TrainingError::State(format!("its step is `{}`", said("step"))))?;
        let saved = |parameter| SavedArrays {
            state: &state,
            parameter,
        };
        let mut weights: Vec<Vec<T>> = Vec::new();
        for parameter in self.parameters.trained() {
            weights.push(saved(&parameter.name).real("weight", &parameter.shape)?);
        }
        let optimizer = OptimizerState::make(&self.options.optimizer, &self.parameters, step, |parameter| {
            saved(&parameter.name)
        })?;
        let arrays = optimizer.arrays(&self.parameters);
        let n_tensors: usize = arrays.map(|(_, arrays)| 1 + arrays.len()).sum();
        if state.len() != n_tensors {
            return Err(TrainingError::State(format!(
                "it holds {} tensors, this run has {n_tensors}",
                state.len()
            )));
        }
        for (parameter, values) in self.parameters.trained_mut().zip(weights) {
            parameter.values = values;
        }
        self.optimizer = optimizer;
        Ok(())
    }

    /// Starts from the weights of a PEFT directory with the same modules and ranks, DoRA included.
    pub fn read_adapter(&mut self, directory: &Path) -> Result<()> {
        self.take_adapter(&SafeTensors::open_file(&directory.join(ADAPTER_WEIGHTS))?)
    }

    /// Starts from the weights of an `adapter_model.safetensors` with the same modules and ranks. Nothing changes when it does not fit.
    pub fn take_adapter(&mut self, weights: &SafeTensors) -> Result<()> {
        let adapted = self.adapted_modules();
        let names: Vec<String> = self
            .parameters
            .trained()
            .map(|parameter| parameter.name.clone())
            .collect();
        if weights.len() != names.len() {
            return Err(TrainingError::State(format!(
                "the adapter holds {} tensors, this recipe trains {}",
                weights.len(),
                names.len()
            )));
        }
        let mut read = Vec::with_capacity(names.len());
        for name in names {
            let peft_name = peft_name(&name, &adapted);
            let tensor = weights.require(&peft_name)?;
            let values = finite(&peft_name, tensor)?;
            self.parameters.check_shape(&name, tensor.shape())?;
            read.push((name, tensor.shape(), values));
        }
        for (name, shape, values) in read {
            self.parameters.set(&name, shape, &values)?;
        }
        Ok(())
    }

    fn adapted_modules(&self) -> Vec<String> {
        let names = self.parameters.trained().map(|parameter| parameter.name.as_str());
        let modules = names.filter_map(|name| name.strip_suffix(".lora_A.weight"));
        modules.map(str::to_owned).collect()
    }

    fn check_finite(&self, tensors: &[Tensor<'_, T>]) -> Result<()> {
        let is_finite = |tensor: &&Tensor<'_, T>| match tensor.values {
            Values::Real(values) => values.iter().all(|value| value.is_finite()),
            Values::F32(values) => values.iter().all(|value| value.is_finite()),
            Values::U8(_) => true,
        };
        match tensors.iter().find(|tensor| !is_finite(tensor)) {
            Some(tensor) => Err(TrainingError::NotFinite {
                what: format!("tensor `{}`", tensor.name),
                step: self.step_count(),
            }),
            None => Ok(()),
        }
    }
}

/// The arrays of one parameter in a saved state.
struct SavedArrays<'a> {
    state: &'a SafeTensors,
    parameter: &'a str,
}

impl SavedArrays<'_> {
    fn tensor(&self, kind: &str, dtype: Dtype, shape: &[usize]) -> Result<&TensorRef> {
        let name = format!("{kind}/{}", self.parameter);
        let tensor = self.state.require(&name)?;
        if tensor.shape() != shape {
            return Err(TrainingError::Shape {
                name,
                found: tensor.shape().to_vec(),
                expected: shape.to_vec(),
            });
        }
        if tensor.dtype() != dtype {
            return Err(TrainingError::State(format!(
                "tensor `{name}` is of type {}, expected {}",
                tensor.dtype().name(),
                dtype.name()
            )));
        }
        Ok(tensor)
    }
}

impl<T: Real> ArraySource<T> for SavedArrays<'_> {
    fn real(&self, kind: &str, shape: &[usize]) -> Result<Vec<T>> {
        let values = ArraySource::<T>::f32(self, kind, shape)?;
        Ok(values.into_iter().map(T::from_f32).collect())
    }

    fn f32(&self, kind: &str, shape: &[usize]) -> Result<Vec<f32>> {
        finite(
            &format!("{kind}/{}", self.parameter),
            self.tensor(kind, Dtype::F32, shape)?,
        )
    }

    fn u8(&self, kind: &str, shape: &[usize]) -> Result<Vec<u8>> {
        Ok(self.tensor(kind, Dtype::U8, shape)?.bytes().to_vec())
    }
}

/// Returns a tensor's values, which must all be finite.
fn finite(name: &str, tensor: &TensorRef) -> Result<Vec<f32>> {
    let values = tensor.to_f32()?;
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(values),
        false => Err(TrainingError::State(format!(
            "tensor `{name}` holds numbers that are not finite"
        ))),
    }
}

/// Returns the name that PEFT gives a parameter. It wraps an adapted module, whose own parameters then lie below `base_layer`.
fn peft_name(name: &str, adapted: &[String]) -> String {
    match name.rsplit_once('.') {
        Some((module, kind @ ("weight" | "bias"))) if adapted.iter().any(|adapted| adapted == module) => {
            format!("base_model.model.{module}.base_layer.{kind}")
        }
        _ => format!("base_model.model.{name}"),
    }
}

fn create(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).map_err(|source| TrainingError::Io {
        path: directory.to_owned(),
        verb: "created",
        source,
    })
}

fn write_tensors<T: Real>(
    directory: &Path,
    name: &str,
    tensors: &[Tensor<'_, T>],
    metadata: &[(&str, &str)],
) -> Result<()> {
    write_tensors_as(Dtype::F32, directory, name, tensors, metadata)
}

/// Writes tensors, numbers of the computation as `dtype`.
fn write_tensors_as<T: Real>(
    dtype: Dtype,
    directory: &Path,
    name: &str,
    tensors: &[Tensor<'_, T>],
    metadata: &[(&str, &str)],
) -> Result<()> {
    let encode: fn(f32) -> Vec<u8> = match dtype {
        Dtype::F32 => |value| value.to_le_bytes().to_vec(),
        Dtype::BF16 => |value| half::bf16::from_f32(value).to_le_bytes().to_vec(),
        Dtype::F16 => |value| half::f16::from_f32(value).to_le_bytes().to_vec(),
        other => {
            return Err(TrainingError::setting("dtype", other.name(), "F32, BF16 or F16"));
        }
    };
    let mut writer = Writer::new();
    for (key, value) in metadata {
        writer.metadata(key, value);
    }
    for tensor in tensors {
        let dtype = match tensor.values {
            Values::Real(_) => dtype,
            Values::F32(_) => Dtype::F32,
            Values::U8(_) => Dtype::U8,
        };
        writer.tensor(&tensor.name, dtype, &tensor.shape)?;
    }
    publish(directory, name, |file| {
        let mut body = writer.begin(BufWriter::new(file))?;
        for tensor in tensors {
            match tensor.values {
                Values::Real(values) => {
                    let bytes: Vec<u8> = values.iter().flat_map(|value| encode(value.to_f32())).collect();
                    body.tensor(&tensor.name, &bytes)?;
                }
                Values::F32(values) => {
                    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                    body.tensor(&tensor.name, &bytes)?;
                }
                Values::U8(bytes) => body.tensor(&tensor.name, bytes)?,
            }
        }
        body.finish()?;
        Ok(())
    })
}

/// Writes a file under another name and gives it its own when all of it is on disk.
fn publish(directory: &Path, name: &str, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let (path, partial) = (directory.join(name), directory.join(format!(".{name}.partial")));
    let failed = |source| TrainingError::Io {
        path: path.clone(),
        verb: "written",
        source,
    };
    let publish = || {
        let mut file = File::create(&partial).map_err(failed)?;
        write(&mut file)?;
        file.sync_all().map_err(failed)?;
        fs::rename(&partial, &path).map_err(failed)?;
        sync_directory(directory).map_err(failed)
    };
    let result = publish();
    if result.is_err() {
        // The error to tell is the one above; a partial file that stays is overwritten by the next try.
        let _ = fs::remove_file(&partial);
    }
    result
}

#[cfg(unix)]
fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_directory: &Path) -> std::io::Result<()> {
    Ok(())
}
