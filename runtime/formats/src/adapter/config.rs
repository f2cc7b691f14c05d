//! `adapter_config.json` of PEFT: ranks, scales and targets, and the refusal of everything that cannot be applied exactly.
//!
//! Source: PEFT's LoraConfig up to 0.21 and the way its LoRA model uses each field. A field that this program does not know is
//! harmless only when it says nothing (null, false, empty).

use serde_json::{Map, Value};

use super::{RANK_MAX, pattern::Pattern};
use crate::{
    FormatError, Result,
    error::excerpt,
    hf::json::{Fields, parse_object, whole},
};

/// How many keys `rank_pattern` and `alpha_pattern` may have each: one per module of a very deep model.
const PATTERNS_MAX: usize = 16_384;
/// How many of them may need a regex engine.
const REGEXES_MAX: usize = 256;
/// How many names `target_modules` may list.
const TARGETS_MAX: usize = 16_384;

/// A PEFT LoRA configuration that can be applied exactly.
#[derive(Clone, Debug)]
pub struct PeftConfig {
    /// What errors call the file.
    pub file: String,
    /// The base that the adapter was trained on, as its author called it.
    pub base_model: Option<String>,
    /// The rank where no pattern says another.
    pub rank: usize,
    /// The alpha where no pattern says another.
    pub alpha: f64,
    /// Whether the scale is `alpha / sqrt(rank)`.
    pub use_rslora: bool,
    /// Whether every row of a changed matrix is brought to a trained length (DoRA, arXiv 2402.09353).
    pub use_dora: bool,
    /// Which modules are changed.
    pub targets: Targets,
    /// Modules (or what contains them) that are replaced whole.
    pub modules_to_save: Vec<String>,
    /// Which biases of the base were trained.
    pub bias: Bias,
    /// Whether B has a bias of its own.
    pub lora_bias: bool,
    /// Whether the base stores its matrices transposed. Without effect on matrices of the served families, as in PEFT.
    pub fan_in_fan_out: bool,
    /// What the adapter was made for, such as `CAUSAL_LM`.
    pub task_type: Option<String>,
    /// Everything in the file, in its order.
    pub raw: Map<String, Value>,
    excluded: Option<Targets>,
    layers: Option<Vec<usize>>,
    layers_pattern: Vec<Pattern>,
    rank_pattern: Vec<(Pattern, usize)>,
    alpha_pattern: Vec<(Pattern, f64)>,
}

/// Which modules a configuration names.
#[derive(Clone, Debug)]
pub enum Targets {
    /// Modules with one of these names, or a name that ends in a dot and one of these.
    Names(Vec<String>),
    /// Modules whose whole name matches this regular expression.
    Regex(WholeName),
    /// Every matrix except the output.
    AllLinear,
}

/// A regular expression for whole names.
#[derive(Clone, Debug)]
pub struct WholeName {
    text: String,
    pattern: Pattern,
}

/// Which biases of the base were trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// None.
    None,
    /// All.
    All,
    /// Those of the changed modules.
    LoraOnly,
}

/// Fields without effect on the arithmetic of a trained adapter, whatever they say.
const HARMLESS: [&str; 14] = [
    "auto_mapping",
    "revision",
    "inference_mode",
    "lora_dropout",
    "peft_version",
    "loftq_config",
    "eva_config",
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
    "ephemeral_gpu_offload",
    "merge_weights",
    "unsloth_fixed",
    "lora_ga_config",
];

/// Fields that change the arithmetic in a way that is not applied here, and what they do.
const REFUSED: [(&str, &str); 14] = [
    (
        "alora_invocation_tokens",
        "activated LoRA applies the change only after certain tokens",
    ),
    ("layer_replication", "it builds a deeper model out of repeated layers"),
    ("trainable_token_indices", "it replaces single rows of the embedding"),
    (
        "target_parameters",
        "it changes bare parameters, such as those of experts",
    ),
    ("use_qalora", "QALoRA pools the inputs of A in groups"),
    ("megatron_config", "it was made for the parallel layers of Megatron"),
    ("use_bdlora", "block-diagonal LoRA constrains A and B to blocks"),
    ("arrow_config", "Arrow routes every token through several adapters"),
    ("corda_config", "CorDA changes the base's weights when training starts"),
    ("kasa_config", "KaSA scales the rank dimensions by trained values"),
    ("monteclora_config", "MonteCLoRA samples the change"),
    (
        "velora_config",
        "VeLoRA's compression is not known here to leave the result alone",
    ),
    (
        "ensure_weight_tying",
        "it changes an embedding that is tied to the output",
    ),
    (
        "enable_lora",
        "it changes only some of the matrices that are fused into one",
    ),
];

/// Fields that are read.
const READ: [&str; 20] = [
    "peft_type",
    "base_model_name_or_path",
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
    "target_modules",
    "exclude_modules",
    "modules_to_save",
    "bias",
    "lora_bias",
    "layers_to_transform",
    "layers_pattern",
    "fan_in_fan_out",
    "init_lora_weights",
    "task_type",
    "loftq_config",
    "megatron_core",
];

impl PeftConfig {
    /// Parses the bytes of an `adapter_config.json`; `file` is for errors.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<PeftConfig> {
        let raw = parse_object(file, bytes)?;
        let fields = Fields { file, map: &raw };
        let kind = fields
            .opt_str("peft_type")?
            .ok_or_else(|| FormatError::missing(file, "`peft_type`"))?;
        if !kind.eq_ignore_ascii_case("LORA") {
            return Err(FormatError::unsupported(
                file,
                format!("`peft_type` is `{}`; only LoRA adapters are applied", excerpt(kind)),
                "train a LoRA, or merge the adapter into its base with PEFT's `merge_and_unload()` and use the merged model",
            ));
        }
        refuse_what_is_not_applied(fields)?;
        let config = PeftConfig {
            file: file.to_owned(),
            base_model: fields.opt_str("base_model_name_or_path")?.map(str::to_owned),
            rank: fields.count_or("r", 8, 1, RANK_MAX as u64)?,
            alpha: fields.opt_number("lora_alpha")?.unwrap_or(8.0),
            use_rslora: fields.opt_bool("use_rslora")?.unwrap_or(false),
            use_dora: fields.opt_bool("use_dora")?.unwrap_or(false),
            targets: targets(fields, "target_modules")?
                .ok_or_else(|| FormatError::missing(file, "`target_modules`"))?,
            modules_to_save: fields.opt_strings("modules_to_save")?.unwrap_or_default(),
            bias: bias(fields)?,
            lora_bias: fields.opt_bool("lora_bias")?.unwrap_or(false),
            fan_in_fan_out: fields.opt_bool("fan_in_fan_out")?.unwrap_or(false),
            task_type: fields.opt_str("task_type")?.map(str::to_owned),
            excluded: targets(fields, "exclude_modules")?,
            layers: layers(fields)?,
            layers_pattern: layers_pattern(fields)?,
            rank_pattern: patterns(fields, "rank_pattern", |value| {
                let rank = usize::try_from(whole(value)?).ok()?;
                (1..=RANK_MAX).contains(&rank).then_some(rank)
            })?,
            alpha_pattern: patterns(fields, "alpha_pattern", Value::as_f64)?,
            raw,
        };
        let alphas = config
            .alpha_pattern
            .iter()
            .map(|(_, alpha)| *alpha)
            .chain([config.alpha]);
        for alpha in alphas {
            if alpha == 0.0 || !alpha.is_finite() {
                return Err(FormatError::malformed(
                    file,
                    "`lora_alpha`",
                    "a finite number other than 0, which would switch the adapter off",
                    alpha.to_string(),
                ));
            }
        }
        Ok(config)
    }

    /// Returns the rank of a module: that of the first pattern that names it, else `r`.
    pub fn rank_of(&self, module: &str) -> Result<usize> {
        first_match(&self.file, &self.rank_pattern, module).map(|rank| rank.unwrap_or(self.rank))
    }

    /// Returns the alpha of a module: that of the first pattern that names it, else `lora_alpha`.
    pub fn alpha_of(&self, module: &str) -> Result<f64> {
        first_match(&self.file, &self.alpha_pattern, module).map(|alpha| alpha.unwrap_or(self.alpha))
    }

    /// Returns what `B @ A` is multiplied by.
    pub fn scale_of(&self, module: &str) -> Result<f64> {
        let (rank, alpha) = (self.rank_of(module)? as f64, self.alpha_of(module)?);
        Ok(if self.use_rslora {
            alpha / rank.sqrt()
        } else {
            alpha / rank
        })
    }

    /// Says whether the configuration names a module, as PEFT decides it: excluded and replaced ones, then names, then layers.
    pub fn targets_module(&self, module: &str) -> Result<bool> {
        if let Some(excluded) = &self.excluded
            && excluded.names(&self.file, module)?
        {
            return Ok(false);
        }
        if self.saves_module(module) || !self.targets.names(&self.file, module)? {
            return Ok(false);
        }
        let (Some(layers), Targets::Names(names)) = (&self.layers, &self.targets) else {
            return Ok(true);
        };
        if names.iter().any(|name| name == module) {
            return Ok(true);
        }
        Ok(self.layer_of(module)?.is_some_and(|layer| layers.contains(&layer)))
    }

    /// Says whether a module, or something that contains it, is replaced whole.
    pub fn saves_module(&self, module: &str) -> bool {
        self.modules_to_save.iter().any(|name| is_or_contains(name, module))
    }

    /// Returns the number of the layer that holds a module: the last number with a name on both sides, or that after `layers_pattern`.
    ///
    /// PEFT asks for something before the name in front of the number, so `layers.0.x` has no layer and `model.layers.0.x` has.
    fn layer_of(&self, module: &str) -> Result<Option<usize>> {
        let numbers = || {
            let dots: Vec<usize> = module.match_indices('.').map(|(at, _)| at).collect();
            // Pairs of neighbouring dots enclose the segments that have something on both sides, the last first.
            let inner: Vec<(usize, usize)> = dots.windows(2).skip(1).map(|pair| (pair[0], pair[1])).rev().collect();
            inner.into_iter().filter_map(|(start, end)| {
                let number = module[start + 1..end].parse::<usize>().ok()?;
                Some((&module[..start], number))
            })
        };
        if self.layers_pattern.is_empty() {
            return Ok(numbers().next().map(|(_, number)| number));
        }
        for pattern in &self.layers_pattern {
            for (above, number) in numbers() {
                if pattern.matches(&self.file, above)? {
                    return Ok(Some(number));
                }
            }
        }
        Ok(None)
    }
}

impl Targets {
    /// Says whether a module is named. For "all linear" that is everything but the output and embeddings.
    fn names(&self, file: &str, module: &str) -> Result<bool> {
        match self {
            Targets::Names(names) => Ok(names.iter().any(|name| ends_in(module, name))),
            Targets::Regex(regex) => regex.pattern.matches(file, module),
            Targets::AllLinear => Ok(!ends_in(module, "lm_head") && !ends_in(module, "embed_tokens")),
        }
    }

    /// Shows the targets in an error.
    pub fn describe(&self) -> String {
        match self {
            Targets::Names(names) => excerpt(&names.join(", ")),
            Targets::Regex(regex) => format!("the pattern {}", excerpt(&regex.text)),
            Targets::AllLinear => "all-linear".to_owned(),
        }
    }
}

/// Says whether a dotted name is `tail` or ends in a dot and `tail`.
fn ends_in(module: &str, tail: &str) -> bool {
    module
        .strip_suffix(tail)
        .is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Says whether `name` is a module or the tail of something that contains it.
pub(super) fn is_or_contains(name: &str, module: &str) -> bool {
    ends_in(module, name) || module.match_indices('.').any(|(at, _)| ends_in(&module[..at], name))
}

fn first_match<T: Copy>(file: &str, patterns: &[(Pattern, T)], module: &str) -> Result<Option<T>> {
    for (pattern, value) in patterns {
        if pattern.matches(file, module)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

/// Says whether a field says nothing.
fn is_silent(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn refuse_what_is_not_applied(fields: Fields<'_>) -> Result<()> {
    let merge = "merge the adapter into its base with PEFT's `merge_and_unload()` and use the merged model, or train a plain LoRA";
    for (key, value) in fields.map {
        if is_silent(value) || READ.contains(&key.as_str()) || HARMLESS.contains(&key.as_str()) {
            continue;
        }
        let why = REFUSED.iter().find(|(refused, _)| refused == key).map(|(_, why)| *why);
        let why = why.unwrap_or("this version does not know the field, so it cannot tell what it changes");
        return Err(FormatError::unsupported(
            fields.file,
            format!(
                "the adapter sets `{}` to {}, which the runtime does not apply: {why}",
                excerpt(key),
                excerpt(&value.to_string())
            ),
            merge,
        ));
    }
    match fields.get("init_lora_weights") {
        None | Some(Value::Bool(_)) => Ok(()),
        // These start A and B differently but leave the base as it is.
        Some(Value::String(init))
            if ["gaussian", "eva", "orthogonal", "true", "false"].contains(&init.to_ascii_lowercase().as_str()) =>
        {
            Ok(())
        }
        Some(init) => Err(FormatError::unsupported(
            fields.file,
            format!(
                "the adapter sets `init_lora_weights` to {}, which changes the base's own weights when training starts; on the unchanged base its result is another",
                excerpt(&init.to_string())
            ),
            "convert it with PEFT's `save_pretrained(..., path_initial_model_for_weight_conversion=...)`, which writes a plain LoRA",
        )),
    }
}

fn targets(fields: Fields<'_>, key: &str) -> Result<Option<Targets>> {
    match fields.get(key) {
        None => Ok(None),
        Some(Value::String(text)) if text == "all-linear" => Ok(Some(Targets::AllLinear)),
        Some(Value::String(text)) => {
            let pattern = Pattern::whole(fields.file, key, text)?;
            Ok(Some(Targets::Regex(WholeName {
                text: text.clone(),
                pattern,
            })))
        }
        Some(_) => {
            let names = fields.opt_strings(key)?.unwrap_or_default();
            if names.len() > TARGETS_MAX {
                return Err(FormatError::limit(
                    fields.file,
                    format!("the length of `{key}`"),
                    names.len(),
                    TARGETS_MAX as u64,
                ));
            }
            Ok(Some(Targets::Names(names)))
        }
    }
}

fn bias(fields: Fields<'_>) -> Result<Bias> {
    match fields.opt_str("bias")?.unwrap_or("none") {
        "none" => Ok(Bias::None),
        "all" => Ok(Bias::All),
        "lora_only" => Ok(Bias::LoraOnly),
        other => Err(FormatError::malformed(
            fields.file,
            "`bias`",
            "none, all or lora_only",
            excerpt(other),
        )),
    }
}

fn layers(fields: Fields<'_>) -> Result<Option<Vec<usize>>> {
    const LAYERS_MAX: usize = 1_024;
    let Some(value) = fields.get("layers_to_transform") else {
        return Ok(None);
    };
    let number = |value: &Value| whole(value).and_then(|layer| usize::try_from(layer).ok());
    let layers: Option<Vec<usize>> = match value {
        Value::Array(list) if list.len() <= LAYERS_MAX => list.iter().map(number).collect(),
        single => number(single).map(|layer| vec![layer]),
    };
    let layers = layers.ok_or_else(|| {
        let expected = "a layer's number or a list of them";
        FormatError::malformed(
            fields.file,
            "`layers_to_transform`",
            expected,
            excerpt(&value.to_string()),
        )
    })?;
    // PEFT takes an empty list for "not set".
    Ok(Some(layers).filter(|layers| !layers.is_empty()))
}

fn layers_pattern(fields: Fields<'_>) -> Result<Vec<Pattern>> {
    const KEY: &str = "layers_pattern";
    let texts = match fields.get(KEY) {
        Some(Value::String(text)) => vec![text.clone()],
        _ => fields.opt_strings(KEY)?.unwrap_or_default(),
    };
    if texts.len() > REGEXES_MAX {
        return Err(FormatError::limit(
            fields.file,
            format!("the length of `{KEY}`"),
            texts.len(),
            REGEXES_MAX as u64,
        ));
    }
    texts
        .iter()
        .filter(|text| !text.is_empty())
        .map(|text| Pattern::whole(fields.file, KEY, &format!(".*\\.{text}")))
        .collect()
}

fn patterns<T>(fields: Fields<'_>, key: &str, convert: impl Fn(&Value) -> Option<T>) -> Result<Vec<(Pattern, T)>> {
    let Some(object) = fields.opt_object(key)? else {
        return Ok(Vec::new());
    };
    if object.map.len() > PATTERNS_MAX {
        return Err(FormatError::limit(
            fields.file,
            format!("the length of `{key}`"),
            object.map.len(),
            PATTERNS_MAX as u64,
        ));
    }
    let mut patterns = Vec::new();
    let mut n_regexes = 0;
    for (text, value) in object.map {
        let pattern = Pattern::tail(fields.file, key, text)?;
        n_regexes += usize::from(pattern.is_regex());
        if n_regexes > REGEXES_MAX {
            return Err(FormatError::limit(
                fields.file,
                format!("the regular expressions in `{key}`"),
                n_regexes,
                REGEXES_MAX as u64,
            ));
        }
        let converted = convert(value).ok_or_else(|| {
            FormatError::malformed(
                fields.file,
                format!("`{key}`, `{}`", excerpt(text)),
                "a number above 0",
                excerpt(&value.to_string()),
            )
        })?;
        patterns.push((pattern, converted));
    }
    Ok(patterns)
}
