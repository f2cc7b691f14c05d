//! The table of keys. Everything that lists settings (resolution, `witness doctor`, the README) reads this table.

/// How the text of a key is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A path; `~` is the user's home, a relative path in the config file starts at that file.
    Path,
    /// Paths separated like `PATH`; in the config file also a list.
    Paths,
    /// Free text.
    Text,
    /// Texts separated by commas; in the config file also a list.
    Texts,
    /// A host with a port.
    Host,
    /// A duration.
    Duration,
    /// A duration where a negative one means forever.
    KeepAlive,
    /// A size in bytes.
    Size,
    /// A whole number within these bounds.
    Count {
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
    },
}

/// What a key is when nobody sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// This text, read like any other value.
    Text(&'static str),
    /// Found at run time; the words describe it.
    Computed(&'static str),
    /// Absent; the words say what that means.
    Unset(&'static str),
}

/// One setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Name in the config file and in listings.
    pub name: &'static str,
    /// Environment variable.
    pub env: &'static str,
    /// How its text is read.
    pub shape: Shape,
    /// Its value when nobody sets it.
    pub default: Default,
    /// One line for people.
    pub help: &'static str,
}

const fn key(name: &'static str, env: &'static str, shape: Shape, default: Default, help: &'static str) -> Key {
    Key {
        name,
        env,
        shape,
        default,
        help,
    }
}

/// Every setting, in the order of listings.
pub const KEYS: &[Key] = &[
    key(
        "home",
        "WITNESS_HOME",
        Shape::Path,
        Default::Computed("the user's data directory"),
        "Directory for everything that witness keeps",
    ),
    key(
        "models",
        "WITNESS_MODELS",
        Shape::Path,
        Default::Computed("`models` in home"),
        "Model store; may be one that Ollama wrote",
    ),
    key(
        "runs",
        "WITNESS_RUNS",
        Shape::Path,
        Default::Computed("`runs` in home"),
        "Training runs: rows, checkpoints and lines of each",
    ),
    key(
        "config",
        "WITNESS_CONFIG",
        Shape::Path,
        Default::Computed("`config.toml` in home if that is set, else in the user's config directory"),
        "Config file (TOML)",
    ),
    key(
        "host",
        "WITNESS_HOST",
        Shape::Host,
        Default::Text("127.0.0.1:11535"),
        "Address that the daemon listens on and clients connect to",
    ),
    key(
        "socket",
        "WITNESS_SOCKET",
        Shape::Path,
        Default::Computed("`witness.sock` in home"),
        "Unix socket of the daemon, for this user only",
    ),
    key(
        "logs",
        "WITNESS_LOGS",
        Shape::Path,
        Default::Computed("`logs` in home"),
        "Directory of the daemon's log files",
    ),
    key(
        "plugin_path",
        "WITNESS_PLUGIN_PATH",
        Shape::Paths,
        Default::Text(""),
        "Further directories to look for plugins in, before the built-in ones",
    ),
    key(
        "plugins",
        "WITNESS_PLUGINS",
        Shape::Path,
        Default::Computed("`plugins` in home"),
        "The user's own plugin directory",
    ),
    key(
        "keep_alive",
        "WITNESS_KEEP_ALIVE",
        Shape::KeepAlive,
        Default::Text("5m"),
        "How long an idle model stays loaded; negative means forever",
    ),
    key(
        "max_queue",
        "WITNESS_MAX_QUEUE",
        Shape::Count { min: 1, max: 65_536 },
        Default::Text("512"),
        "Requests that may wait before further ones are refused",
    ),
    key(
        "max_loaded_models",
        "WITNESS_MAX_LOADED_MODELS",
        Shape::Count { min: 1, max: 1_024 },
        Default::Text("3"),
        "Models that may be loaded at the same time",
    ),
    key(
        "num_parallel",
        "WITNESS_NUM_PARALLEL",
        Shape::Count { min: 1, max: 256 },
        Default::Text("4"),
        "Requests that one loaded model answers at the same time",
    ),
    key(
        "kv_cache_type",
        "WITNESS_KV_CACHE_TYPE",
        Shape::Text,
        Default::Unset("`f32` for weights in f32, else `f16`"),
        "How keys and values are stored: `f32`, `f16` or `q8_0`",
    ),
    key(
        "context_length",
        "WITNESS_CONTEXT_LENGTH",
        Shape::Count { min: 16, max: 1 << 30 },
        Default::Unset("what the model says"),
        "Context length in tokens when a request and a model name none",
    ),
    key(
        "memory_budget",
        "WITNESS_MEMORY_BUDGET",
        Shape::Size,
        Default::Unset("what the machine has free"),
        "Memory that all loaded models may take together",
    ),
    key(
        "chat_cache",
        "WITNESS_CHAT_CACHE",
        Shape::Size,
        Default::Text("1GiB"),
        "Disk that chats may take, so that they go on at once when their model is loaded again; `0` keeps none",
    ),
    key(
        "packed_cache",
        "WITNESS_PACKED_CACHE",
        Shape::Size,
        Default::Text("64GiB"),
        "Disk that packed weights may take beside the models' own files, so that a model is there at once when it is loaded again; `0` keeps none",
    ),
    key(
        "load_timeout",
        "WITNESS_LOAD_TIMEOUT",
        Shape::Duration,
        Default::Text("5m"),
        "Longest time that loading a model may take",
    ),
    key(
        "stall_timeout",
        "WITNESS_STALL_TIMEOUT",
        Shape::Duration,
        Default::Text("2m"),
        "Longest time without progress before a worker is given up",
    ),
    key(
        "heartbeat",
        "WITNESS_HEARTBEAT",
        Shape::Duration,
        Default::Text("5s"),
        "How often a worker must show that it lives",
    ),
    key(
        "inspect_memory",
        "WITNESS_INSPECT_MEMORY",
        Shape::Size,
        Default::Text("2GiB"),
        "Memory that looking into an untrusted file may take",
    ),
    key(
        "inspect_timeout",
        "WITNESS_INSPECT_TIMEOUT",
        Shape::Duration,
        Default::Text("1m"),
        "Longest time that looking into an untrusted file may take",
    ),
    key(
        "origins",
        "WITNESS_ORIGINS",
        Shape::Texts,
        Default::Text(""),
        "Web origins, besides this machine's own, that may call the API",
    ),
    key(
        "log",
        "WITNESS_LOG",
        Shape::Text,
        Default::Text("info"),
        "What is logged: error, warn, info, debug, trace, or a filter such as `witness=debug`",
    ),
    key(
        "isa",
        "WITNESS_ISA",
        Shape::Text,
        Default::Unset("the best that the CPU has"),
        "Instructions that plugins compute with: `scalar`, `avx2`, `avx512`, `avx512vnni`, `avx512bf16`, `amx` or `dotprod`",
    ),
];

/// Returns the key of that name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}
