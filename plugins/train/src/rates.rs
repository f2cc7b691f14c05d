//! The learning rate's shape and the optimizer, from their names and numbers as Transformers has them.

use serde_json::Value;
use witness_diagnostics::{Diagnostic, near_miss};
use witness_plugin_protocol::TrainSettings;
use witness_training::{Adafactor, AdamW, Decay, DecayShape, Lion, Optimizer, Schedule, Sgd};

use crate::error::setting;

/// Every shape with the numbers it takes.
const SHAPES: [(&str, &[&str]); 9] = [
    ("linear", &[]),
    ("cosine", &[]),
    ("constant", &[]),
    ("constant_with_warmup", &[]),
    ("polynomial", &["power", "lr_end"]),
    ("inverse_sqrt", &["timescale"]),
    ("cosine_with_restarts", &["num_cycles"]),
    ("cosine_with_min_lr", &["min_lr", "min_lr_rate"]),
    (
        "warmup_stable_decay",
        &["num_decay_steps", "num_stable_steps", "decay_type", "min_lr_ratio"],
    ),
];

const OPTIMIZERS: [&str; 5] = ["adamw", "adamw_8bit", "lion", "adafactor", "sgd"];

/// Returns the rates of all steps.
pub(crate) fn schedule(settings: &TrainSettings, n_steps: u64) -> Result<Schedule, Diagnostic> {
    Ok(Schedule {
        learning_rate: settings.learning_rate.unwrap_or(0.0),
        decay: decay(settings)?,
        warmup_steps: warmup_steps(settings, n_steps),
        n_steps,
    })
}

/// Returns the steps of linear rise. Transformers' `constant` rises never.
pub(crate) fn warmup_steps(settings: &TrainSettings, n_steps: u64) -> u64 {
    if settings.lr_scheduler == "constant" {
        return 0;
    }
    let of_ratio = || Schedule::warmup_steps_of_ratio(settings.warmup_ratio, n_steps);
    settings.warmup_steps.unwrap_or_else(of_ratio)
}

fn decay(settings: &TrainSettings) -> Result<Decay, Diagnostic> {
    let name = settings.lr_scheduler.as_str();
    let Some((_, known)) = SHAPES.iter().find(|(shape, _)| *shape == name) else {
        return Err(unknown("lr_scheduler", name, SHAPES.iter().map(|(shape, _)| *shape)));
    };
    if let Some(key) = settings
        .lr_scheduler_kwargs
        .keys()
        .find(|key| !known.contains(&key.as_str()))
    {
        let diagnostic = setting("lr_scheduler_kwargs", format!("told `{key}`"), told(name, known));
        return Err(match near_miss(key, known.iter().copied()) {
            Some(near) => diagnostic.hint(format!("did you mean `{near}`?")),
            None => diagnostic,
        });
    }
    let numbers = Numbers(settings);
    Ok(match name {
        "linear" => Decay::Linear,
        "cosine" => Decay::Cosine,
        "polynomial" => Decay::Polynomial {
            power: numbers.number("power")?.unwrap_or(1.0),
            end_rate: numbers.number("lr_end")?.unwrap_or(1e-7),
        },
        "inverse_sqrt" => Decay::InverseSqrt {
            timescale: numbers.count("timescale")?,
        },
        "cosine_with_restarts" => Decay::CosineWithRestarts {
            n_cycles: u32::try_from(numbers.count("num_cycles")?.unwrap_or(1)).unwrap_or(u32::MAX),
        },
        "cosine_with_min_lr" => Decay::CosineToMinimum {
            min_ratio: numbers.minimum()?,
        },
        "warmup_stable_decay" => Decay::WarmupStableDecay {
            decay_steps: numbers.count("num_decay_steps")?.ok_or_else(|| {
                setting(
                    "lr_scheduler_kwargs",
                    "without `num_decay_steps`",
                    "told how many steps the decay takes",
                )
            })?,
            stable_steps: numbers.count("num_stable_steps")?,
            shape: numbers.shape()?,
            min_ratio: numbers.number("min_lr_ratio")?.unwrap_or(0.0),
        },
        _ => Decay::Constant,
    })
}

fn told(name: &str, known: &[&str]) -> String {
    match known {
        [] => format!("left out for `{name}`, which takes none"),
        known => format!("made of {}, which `{name}` takes", known.join(", ")),
    }
}

/// The numbers of a shape.
struct Numbers<'a>(&'a TrainSettings);

impl Numbers<'_> {
    fn value(&self, key: &str) -> Option<&Value> {
        self.0.lr_scheduler_kwargs.get(key).filter(|value| !value.is_null())
    }

    fn number(&self, key: &str) -> Result<Option<f64>, Diagnostic> {
        let number = |value: &Value| value.as_f64().ok_or_else(|| wrong(key, value, "a number"));
        self.value(key).map(number).transpose()
    }

    fn count(&self, key: &str) -> Result<Option<u64>, Diagnostic> {
        let count = |value: &Value| {
            let whole = value
                .as_f64()
                .filter(|value| value.fract() == 0.0 && (0.0..1e15).contains(value));
            whole
                .map(|value| value as u64)
                .ok_or_else(|| wrong(key, value, "a whole number from 0"))
        };
        self.value(key).map(count).transpose()
    }

    /// Returns the share that a cosine falls to: one of two numbers says it.
    fn minimum(&self) -> Result<f64, Diagnostic> {
        let rate = self.0.learning_rate.unwrap_or(0.0);
        match (self.number("min_lr")?, self.number("min_lr_rate")?) {
            (Some(least), None) => Ok(least / rate),
            (None, Some(share)) => Ok(share),
            _ => Err(setting(
                "lr_scheduler_kwargs",
                "not clear",
                "told either `min_lr` or `min_lr_rate` for `cosine_with_min_lr`",
            )),
        }
    }

    fn shape(&self) -> Result<DecayShape, Diagnostic> {
        match self.value("decay_type") {
            None => Ok(DecayShape::default()),
            Some(value) => match value.as_str() {
                Some("linear") => Ok(DecayShape::Linear),
                Some("cosine") => Ok(DecayShape::Cosine),
                Some("1-sqrt") => Ok(DecayShape::OneMinusSqrt),
                _ => Err(wrong("decay_type", value, "`linear`, `cosine` or `1-sqrt`")),
            },
        }
    }
}

fn wrong(key: &str, value: &Value, wanted: &str) -> Diagnostic {
    setting(&format!("lr_scheduler_kwargs.{key}"), value, wanted)
}

/// Returns the optimizer with its numbers.
pub(crate) fn optimizer(settings: &TrainSettings) -> Result<Optimizer, Diagnostic> {
    let (beta1, beta2, weight_decay) = (settings.adam_beta1, settings.adam_beta2, settings.weight_decay);
    let adamw = AdamW {
        beta1,
        beta2,
        epsilon: settings.adam_epsilon,
        weight_decay,
    };
    Ok(match settings.optimizer.as_str() {
        "adamw" => Optimizer::AdamW(adamw),
        "adamw_8bit" => Optimizer::AdamW8bit(adamw),
        "lion" => Optimizer::Lion(Lion {
            beta1,
            beta2,
            weight_decay,
        }),
        "adafactor" => Optimizer::Adafactor(Adafactor {
            weight_decay,
            ..Adafactor::default()
        }),
        "sgd" => Optimizer::Sgd(Sgd {
            momentum: 0.0,
            weight_decay,
        }),
        other => return Err(unknown("optimizer", other, OPTIMIZERS)),
    })
}

fn unknown<'a>(name: &str, found: &str, known: impl IntoIterator<Item = &'a str>) -> Diagnostic {
    let known: Vec<&str> = known.into_iter().collect();
    let diagnostic = setting(name, format!("`{found}`"), format!("one of {}", known.join(", ")));
    match near_miss(found, known.iter().copied()) {
        Some(near) => diagnostic.hint(format!("did you mean `{near}`?")),
        None => diagnostic,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(name: &str, kwargs: Value) -> TrainSettings {
        TrainSettings {
            lr_scheduler: name.to_owned(),
            lr_scheduler_kwargs: kwargs.as_object().unwrap().clone(),
            learning_rate: Some(1e-3),
            warmup_steps: Some(2),
            ..TrainSettings::default()
        }
    }

    #[test]
    fn every_shape_takes_its_numbers() {
        for (name, kwargs, expected) in [
            ("linear", json!({}), Decay::Linear),
            ("constant_with_warmup", json!({}), Decay::Constant),
            (
                "polynomial",
                json!({"power": 2}),
                Decay::Polynomial {
                    power: 2.0,
                    end_rate: 1e-7,
                },
            ),
            ("inverse_sqrt", json!({}), Decay::InverseSqrt { timescale: None }),
            (
                "cosine_with_restarts",
                json!({"num_cycles": 3}),
                Decay::CosineWithRestarts { n_cycles: 3 },
            ),
            (
                "cosine_with_min_lr",
                json!({"min_lr": 1e-4}),
                Decay::CosineToMinimum { min_ratio: 0.1 },
            ),
            (
                "warmup_stable_decay",
                json!({"num_decay_steps": 5, "decay_type": "1-sqrt"}),
                Decay::WarmupStableDecay {
                    decay_steps: 5,
                    stable_steps: None,
                    shape: DecayShape::OneMinusSqrt,
                    min_ratio: 0.0,
                },
            ),
        ] {
            let schedule = schedule(&with(name, kwargs), 10).unwrap();
            assert_eq!((schedule.decay, schedule.warmup_steps), (expected, 2), "{name}");
        }
        assert_eq!(schedule(&with("constant", json!({})), 10).unwrap().warmup_steps, 0);
    }

    #[test]
    fn names_and_numbers_that_there_are_not_are_refused_with_a_near_miss() {
        for (settings, near) in [
            (with("cosin", json!({})), "`cosine`"),
            (with("polynomial", json!({"powr": 1})), "`power`"),
        ] {
            let error = schedule(&settings, 10).unwrap_err();
            assert!(error.hints.iter().any(|hint| hint.contains(near)), "{error:?}");
        }
        for settings in [
            with("linear", json!({"power": 1})),
            with("cosine_with_min_lr", json!({})),
            with("warmup_stable_decay", json!({})),
            with("inverse_sqrt", json!({"timescale": 1.5})),
        ] {
            assert!(schedule(&settings, 10).is_err(), "{settings:?}");
        }
        let settings = TrainSettings {
            optimizer: "adam_w".to_owned(),
            ..TrainSettings::default()
        };
        assert!(
            optimizer(&settings)
                .unwrap_err()
                .hints
                .iter()
                .any(|hint| hint.contains("`adamw`"))
        );
    }
}
