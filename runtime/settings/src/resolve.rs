//! From flags, environment and file to one value. The order of precedence is in `Layers::find`, and nowhere else.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::SettingsError;
use crate::host::HostAddr;
use crate::keys::{self, Default as KeyDefault, Key, Shape};
use crate::quantity::{KeepAlive, parse_duration, parse_size};
use crate::{file, paths};

/// Answers for the environment, so that tests need not change that of the process.
pub type Environment<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// Answers with the environment of this process: what the program passes to [`resolve`].
pub fn process_environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// What the command line said. Everything absent is left to the other layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--home`
    pub home: Option<PathBuf>,
    /// `--models`
    pub models: Option<PathBuf>,
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--socket`
    pub socket: Option<PathBuf>,
    /// `--host`
    pub host: Option<String>,
    /// Any other key of the table with its text.
    pub others: Vec<(String, String)>,
}

/// Which layer a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The command line.
    Flag,
    /// An environment variable.
    Env,
    /// The config file.
    File,
    /// Nobody set it.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Flag => "flag",
            Source::Env => "env",
            Source::File => "file",
            Source::Default => "default",
        })
    }
}

/// Ways to store keys and values.
pub const KV_CACHE_TYPES: [&str; 3] = ["f32", "f16", "q8_0"];

/// Every setting, resolved and valid. All paths are absolute; none is created.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory for everything that witness keeps.
    pub home: PathBuf,
    /// Model store.
    pub models: PathBuf,
    /// Directory of the training runs.
    pub runs: PathBuf,
    /// Config file that was looked for; it need not exist.
    pub config_file: PathBuf,
    /// Where the daemon listens.
    pub host: HostAddr,
    /// Unix socket of the daemon; short enough to be bound. Its directory need not exist.
    pub socket: PathBuf,
    /// Directory of log files.
    pub logs: PathBuf,
    /// Further plugin directories, in order.
    pub plugin_path: Vec<PathBuf>,
    /// The user's own plugin directory.
    pub user_plugins: PathBuf,
    /// How long an idle model stays loaded.
    pub keep_alive: KeepAlive,
    /// Requests that may wait.
    pub queue_max: usize,
    /// Models that may be loaded at the same time.
    pub loaded_models_max: usize,
    /// Requests that one loaded model answers at the same time.
    pub parallel: usize,
    /// How keys and values are stored, in the names of ggml's types; nothing = as the plugin sees fit.
    pub kv_cache_type: Option<String>,
    /// Context length in tokens when neither request nor model names one.
    pub context_length: Option<u64>,
    /// Memory that all loaded models may take together.
    pub memory_budget_bytes: Option<u64>,
    /// Bytes that chats may take on disk while their models are not loaded; 0 = they are not kept.
    pub chat_cache_bytes: u64,
    /// Bytes that packed weights may take on disk beside the models' own files; 0 = they are not kept.
    pub packed_cache_bytes: u64,
    /// Longest time that loading may take.
    pub load_timeout: Duration,
    /// Longest time without progress of a worker.
    pub stall_timeout: Duration,
    /// How often a worker must show that it lives.
    pub heartbeat: Duration,
    /// Memory that looking into an untrusted file may take.
    pub inspect_memory_bytes: u64,
    /// Longest time that looking into an untrusted file may take.
    pub inspect_timeout: Duration,
    /// Further web origins that may call the API.
    pub origins: Vec<String>,
    /// Log filter.
    pub log: String,
    /// Instruction set that kernels are held to.
    pub isa: Option<String>,
    /// Where each value came from; a key that is missing here was not set.
    pub(crate) sources: BTreeMap<&'static str, Source>,
}

/// A value before it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Raw {
    /// One text.
    Text(OsString),
    /// A list, which only the config file can write.
    List(Vec<OsString>),
}

/// Resolves every setting.
///
/// # Errors
/// A value that does not parse, an unknown key, an unreadable config file, or no home directory.
pub fn resolve(overrides: &Overrides, env: &Environment<'_>) -> Result<Settings, SettingsError> {
    let mut layers = Layers {
        flags: flags(overrides)?,
        env,
        file: BTreeMap::new(),
        file_dir: None,
        sources: BTreeMap::new(),
    };

    // The config file may set home, but its own place can depend only on what flags and environment say.
    let home_chosen = layers.path("home")?;
    let (config_file, config_named) = match layers.path("config")? {
        Some(path) => (path, true),
        None => (paths::default_config_file(home_chosen.as_deref())?, false),
    };
    layers.file = file::read(&config_file, config_named)?;
    layers.file_dir = config_file.parent().map(Path::to_owned);

    let home = match layers.path("home")? {
        Some(home) => home,
        None => paths::default_home()?,
    };
    let socket = match layers.path("socket")? {
        Some(path) if paths::is_socket_path_short(&path) => path,
        Some(path) => {
            return Err(SettingsError::SocketPathTooLong {
                path,
                bytes_max: paths::SOCKET_PATH_BYTES_MAX,
            });
        }
        None => paths::default_socket(&home)?,
    };
    Ok(Settings {
        models: layers.path("models")?.unwrap_or_else(|| home.join("models")),
        runs: layers.path("runs")?.unwrap_or_else(|| home.join("runs")),
        logs: layers.path("logs")?.unwrap_or_else(|| home.join("logs")),
        user_plugins: layers.path("plugins")?.unwrap_or_else(|| home.join("plugins")),
        plugin_path: layers.paths("plugin_path")?,
        host: layers.needed("host", HostAddr::parse)?,
        keep_alive: layers.needed("keep_alive", KeepAlive::parse)?,
        queue_max: layers.count("max_queue")?,
        loaded_models_max: layers.count("max_loaded_models")?,
        parallel: layers.count("num_parallel")?,
        kv_cache_type: layers.optional("kv_cache_type", |text| {
            let known = KV_CACHE_TYPES.contains(&text);
            known
                .then(|| text.to_owned())
                .ok_or_else(|| format!("one of {}", KV_CACHE_TYPES.join(", ")))
        })?,
        context_length: layers.optional_count("context_length")?,
        chat_cache_bytes: layers.needed("chat_cache", parse_size)?,
        packed_cache_bytes: layers.needed("packed_cache", parse_size)?,
        memory_budget_bytes: layers.optional("memory_budget", parse_size)?,
        load_timeout: layers.needed("load_timeout", parse_timeout)?,
        stall_timeout: layers.needed("stall_timeout", parse_timeout)?,
        heartbeat: layers.needed("heartbeat", parse_timeout)?,
        inspect_memory_bytes: layers.needed("inspect_memory", parse_size)?,
        inspect_timeout: layers.needed("inspect_timeout", parse_timeout)?,
        origins: layers.texts("origins")?,
        log: layers.needed("log", |text| Ok(text.to_owned()))?,
        isa: layers.optional("isa", |text| Ok(text.to_owned()))?,
        home,
        config_file,
        socket,
        sources: layers.sources,
    })
}

/// A timeout of zero would refuse everything, so it is refused itself.
fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("a duration above zero, such as `5m`".into()),
        duration => Ok(duration),
    }
}

fn flags(overrides: &Overrides) -> Result<BTreeMap<&'static str, Raw>, SettingsError> {
    let mut flags = BTreeMap::new();
    for (name, text) in &overrides.others {
        let key = keys::find(name).ok_or_else(|| file::unknown(name, "the command line"))?;
        flags.insert(key.name, Raw::Text(text.into()));
    }
    let paths = [
        ("home", &overrides.home),
        ("models", &overrides.models),
        ("config", &overrides.config),
        ("socket", &overrides.socket),
    ];
    for (name, path) in paths {
        if let Some(path) = path {
            flags.insert(name, Raw::Text(path.into()));
        }
    }
    if let Some(host) = &overrides.host {
        flags.insert("host", Raw::Text(host.into()));
    }
    Ok(flags)
}

struct Layers<'a> {
    flags: BTreeMap<&'static str, Raw>,
    env: &'a Environment<'a>,
    file: BTreeMap<&'static str, Raw>,
    file_dir: Option<PathBuf>,
    sources: BTreeMap<&'static str, Source>,
}

impl Layers<'_> {
    /// Finds the raw value of a key and notes its layer. Flag > environment > file > default; an empty variable counts as unset.
    fn find(&mut self, key: &'static Key) -> Option<(Raw, Source)> {
        let default = || match key.default {
            KeyDefault::Text(text) => Some(Raw::Text(text.into())),
            KeyDefault::Computed(_) | KeyDefault::Unset(_) => None,
        };
        let found = (self.flags.get(key.name).cloned().map(|raw| (raw, Source::Flag)))
            .or_else(|| {
                let text = (self.env)(key.env).filter(|text| !text.is_empty());
                text.map(|text| (Raw::Text(text), Source::Env))
            })
            .or_else(|| self.file.get(key.name).cloned().map(|raw| (raw, Source::File)))
            .or_else(|| default().map(|raw| (raw, Source::Default)));
        if let Some((_, source)) = &found {
            self.sources.insert(key.name, *source);
        }
        found
    }

    fn error(&self, key: &'static Key, source: Source, value: &OsStr, expected: String) -> SettingsError {
        let origin = match source {
            Source::Flag => "the command line".to_owned(),
            Source::Env => format!("the environment variable `{}`", key.env),
            Source::File => "the config file".to_owned(),
            Source::Default => "the program's own default".to_owned(),
        };
        SettingsError::Value {
            key: key.name,
            origin,
            layer: source,
            value: value.to_string_lossy().into_owned(),
            expected,
        }
    }

    fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, SettingsError> {
        let key = key(name);
        let Some((raw, source)) = self.find(key) else {
            return Ok(None);
        };
        let text = match raw {
            Raw::Text(text) => text,
            Raw::List(_) => return Err(self.error(key, source, OsStr::new("[..]"), "one value, not a list".into())),
        };
        let read = match text.to_str() {
            Some(text) => read(text.trim()),
            None => Err("text in UTF-8".into()),
        };
        read.map(Some)
            .map_err(|expected| self.error(key, source, &text, expected))
    }

    fn needed<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, SettingsError> {
        Ok(self
            .optional(name, read)?
            .expect("a key that is needed has a default text in the table"))
    }

    fn optional_count(&mut self, name: &'static str) -> Result<Option<u64>, SettingsError> {
        let Shape::Count { min, max } = key(name).shape else {
            return Ok(None);
        };
        self.optional(name, |text| {
            let number = text.parse().ok().filter(|number| (min..=max).contains(number));
            number.ok_or_else(|| format!("a whole number from {min} to {max}"))
        })
    }

    fn count(&mut self, name: &'static str) -> Result<usize, SettingsError> {
        let number = self
            .optional_count(name)?
            .expect("a count that is needed has a default text in the table");
        Ok(usize::try_from(number).expect("the bounds of a count fit in usize"))
    }

    fn list(&mut self, name: &'static str, split: impl Fn(&OsStr) -> Vec<OsString>) -> (Vec<OsString>, Source) {
        match self.find(key(name)) {
            None => (Vec::new(), Source::Default),
            Some((Raw::Text(text), source)) => (split(&text), source),
            Some((Raw::List(items), source)) => (items, source),
        }
    }

    fn texts(&mut self, name: &'static str) -> Result<Vec<String>, SettingsError> {
        let split = |text: &OsStr| {
            text.to_string_lossy()
                .split(',')
                .map(|part| part.trim().into())
                .collect()
        };
        let (items, _) = self.list(name, split);
        Ok(items
            .iter()
            .map(|item| item.to_string_lossy().into_owned())
            .filter(|item| !item.is_empty())
            .collect())
    }

    fn paths(&mut self, name: &'static str) -> Result<Vec<PathBuf>, SettingsError> {
        let split = |text: &OsStr| std::env::split_paths(text).map(PathBuf::into_os_string).collect();
        let (items, source) = self.list(name, split);
        items
            .iter()
            .filter(|item| !item.is_empty())
            .map(|item| self.expand(item, source))
            .collect()
    }

    fn path(&mut self, name: &'static str) -> Result<Option<PathBuf>, SettingsError> {
        let key = key(name);
        match self.find(key) {
            None => Ok(None),
            Some((Raw::Text(text), source)) => self.expand(&text, source).map(Some),
            Some((Raw::List(_), source)) => {
                Err(self.error(key, source, OsStr::new("[..]"), "one path, not a list".into()))
            }
        }
    }

    fn expand(&self, path: &OsStr, source: Source) -> Result<PathBuf, SettingsError> {
        let base = self.file_dir.as_deref().filter(|_| source == Source::File);
        paths::expand(path, base, self.env)
    }
}

fn key(name: &'static str) -> &'static Key {
    keys::find(name).expect("resolution asks only for keys of the table")
}
