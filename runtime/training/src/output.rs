//! What training leaves on disk: a PEFT directory, a whole model's weights, or a checkpoint to resume from.
//!
//! Every file is written beside its place, synced and renamed, so a reader finds a whole file or none. **Invariant:** weights that are infinite or not numbers
//! are never written.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value};
use witness_formats::Dtype;
use witness_formats::safetensors::{SafeTensors, Writer};

use crate::error::{Result, TrainingError};
use crate::method::Method;
use crate::optimizer::Moments;
use crate::real::Real;
use crate::trainer::Trainer;

/// The configuration of an adapter.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The weights of an adapter.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// The state of a run.
pub const TRAINER_STATE: &str = "trainer_state.safetensors";

const STATE_VERSION: &str = "1";

/// A named tensor about to be written.
struct Tensor<'a, T> {
    name: String,
    shape: &'a [usize],
    values: &'a [T],
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
            shape: &parameter.shape,
            values: &parameter.values,
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
        if matches!(self.method, Method::Lora(_)) {
            return Err(TrainingError::unsupported(
                "an adapter, written as a whole model,",
                "write the adapter itself",
            ));
        }
        let tensors = self.parameters.iter().map(|parameter| Tensor {
            name: parameter.name.clone(),
            shape: &parameter.shape,
            values: &parameter.values,
        });
        let tensors: Vec<_> = tensors.collect();
        self.check_finite(&tensors)?;
        create(directory)?;
        write_tensors(directory, "model.safetensors", &tensors, &[("format", "pt")])
    }

    /// Writes everything that [`Trainer::read_state`] needs to go on to the bit: trained weights, moments and the number of steps. In f32, so exact for that type.
    pub fn write_state(&self, directory: &Path) -> Result<()> {
        let mut tensors = Vec::new();
        for (parameter, moments) in self.parameters.trained().zip(&self.optimizer.moments) {
            let parts = [
                ("weight", &parameter.values),
                ("first_moment", &moments.first),
                ("second_moment", &moments.second),
            ];
            for (kind, values) in parts {
                tensors.push(Tensor {
                    name: format!("{kind}/{}", parameter.name),
                    shape: &parameter.shape,
                    values,
                });
            }
        }
        self.check_finite(&tensors)?;
        create(directory)?;
        let (step, seed) = (self.step_count().to_string(), self.options.seed.to_string());
        let metadata = [("version", STATE_VERSION), ("step", &step), ("seed", &seed)];
        write_tensors(directory, TRAINER_STATE, &tensors, &metadata)
    }

    /// Takes over the state of a run with the same method, seed and base. Nothing changes when it does not fit.
    pub fn read_state(&mut self, directory: &Path) -> Result<()> {
        let state = SafeTensors::open_file(&directory.join(TRAINER_STATE))?;
        let said = |key: &str| state.metadata().get(key).map_or("", String::as_str);
        if said("version") != STATE_VERSION {
            let found = said("version");
            return Err(TrainingError::State(format!(
                "its version is `{found}`, this program reads `{STATE_VERSION}`"
            )));
        }
        let (seed, wanted) = (said("seed"), self.options.seed.to_string());
        if seed != wanted {
            return Err(TrainingError::State(format!(
                "its seed is `{seed}`, this run's is `{wanted}`"
            )));
        }
        let step = said("step").parse();
        let step: u64 = step.map_err(|_| TrainingError::State(format!("its step is `{}`", said("step"))))?;
        let mut read = Vec::new();
        for parameter in self.parameters.trained() {
            let part = |kind: &str| -> Result<Vec<T>> {
                let tensor = state.require(&format!("{kind}/{}", parameter.name))?;
                if tensor.shape() != parameter.shape {
                    return Err(TrainingError::Shape {
                        name: parameter.name.clone(),
                        found: tensor.shape().to_vec(),
                        expected: parameter.shape.clone(),
                    });
                }
                Ok(tensor.to_f32()?.into_iter().map(T::from_f32).collect())
            };
            let (first, second) = (part("first_moment")?, part("second_moment")?);
            read.push((part("weight")?, Moments { first, second }));
        }
        if state.len() != 3 * read.len() {
            return Err(TrainingError::State(format!(
                "it holds {} tensors, this run has {}",
                state.len(),
                3 * read.len()
            )));
        }
        let slots = self.parameters.trained_mut().zip(&mut self.optimizer.moments);
        for ((parameter, moments), (values, read_moments)) in slots.zip(read) {
            parameter.values = values;
            *moments = read_moments;
        }
        self.optimizer.n_steps = step;
        Ok(())
    }

    /// Starts from the weights of a PEFT directory with the same modules and ranks, DoRA included.
    pub fn read_adapter(&mut self, directory: &Path) -> Result<()> {
        let weights = SafeTensors::open_file(&directory.join(ADAPTER_WEIGHTS))?;
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
        for name in names {
            let tensor = weights.require(&peft_name(&name, &adapted))?;
            self.parameters.set(&name, tensor.shape(), &tensor.to_f32()?)?;
        }
        Ok(())
    }

    fn adapted_modules(&self) -> Vec<String> {
        let names = self.parameters.trained().map(|parameter| parameter.name.as_str());
        let modules = names.filter_map(|name| name.strip_suffix(".lora_A.weight"));
        modules.map(str::to_owned).collect()
    }

    fn check_finite(&self, tensors: &[Tensor<'_, T>]) -> Result<()> {
        let is_finite = |tensor: &&Tensor<'_, T>| tensor.values.iter().all(|value| value.is_finite());
        match tensors.iter().find(|tensor| !is_finite(tensor)) {
            Some(tensor) => Err(TrainingError::NotFinite {
                what: format!("tensor `{}`", tensor.name),
                step: self.step_count(),
            }),
            None => Ok(()),
        }
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
    let mut writer = Writer::new();
    for (key, value) in metadata {
        writer.metadata(key, value);
    }
    for tensor in tensors {
        writer.tensor(&tensor.name, Dtype::F32, tensor.shape)?;
    }
    publish(directory, name, |file| {
        let mut body = writer.begin(BufWriter::new(file))?;
        for tensor in tensors {
            let values = tensor.values.iter();
            let bytes: Vec<u8> = values.flat_map(|value| value.to_f32().to_le_bytes()).collect();
            body.tensor(&tensor.name, &bytes)?;
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
