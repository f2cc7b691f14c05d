//! Directories: the user's own, by the `directories` crate, and what `~` and relative paths mean. Creates nothing.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use directories::{BaseDirs, ProjectDirs};

use crate::error::SettingsError;
use crate::resolve::Environment;

/// `sun_path` has 108 bytes on Linux and 104 on macOS; the rest is room for a temporary suffix while the socket is put in place.
pub(crate) const SOCKET_PATH_BYTES_MAX: usize = 100;

fn project() -> Option<ProjectDirs> {
    ProjectDirs::from("", "", "witness")
}

/// Returns the default home: the user's data directory of this program.
pub(crate) fn default_home() -> Result<PathBuf, SettingsError> {
    project()
        .map(|dirs| dirs.data_dir().to_owned())
        .ok_or(SettingsError::NoHome)
}

/// Returns the default config file. A home that was chosen explicitly carries its own, so that it is complete and isolated.
pub(crate) fn default_config_file(home_chosen: Option<&Path>) -> Result<PathBuf, SettingsError> {
    match home_chosen {
        Some(home) => Ok(home.join("config.toml")),
        None => project()
            .map(|dirs| dirs.config_dir().join("config.toml"))
            .ok_or(SettingsError::NoHome),
    }
}

/// Returns where the socket goes when nobody says: in home, or, when that path is too long for a socket, under a name derived from
/// home in a directory that belongs to this user alone (never in a shared temporary directory, where another user could wait for us).
pub(crate) fn default_socket(home: &Path) -> Result<PathBuf, SettingsError> {
    let plain = home.join("witness.sock");
    let mut candidates = vec![plain.clone()];
    if let Some(dirs) = project() {
        let name = format!("{:016x}.sock", fnv1a(home.as_os_str()));
        candidates.extend(dirs.runtime_dir().map(|dir| dir.join(&name)));
        candidates.push(dirs.cache_dir().join(&name));
    }
    candidates
        .into_iter()
        .find(|path| is_socket_path_short(path))
        .ok_or(SettingsError::SocketPathTooLong {
            path: plain,
            bytes_max: SOCKET_PATH_BYTES_MAX,
        })
}

/// Returns whether a unix socket can be bound at this path.
pub(crate) fn is_socket_path_short(path: &Path) -> bool {
    path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX
}

/// Resolves `~`, then makes the path absolute from `base` (or the current directory).
pub(crate) fn expand(path: &OsStr, base: Option<&Path>, env: &Environment<'_>) -> Result<PathBuf, SettingsError> {
    let path = Path::new(path);
    let path = match path.strip_prefix("~") {
        Err(_) => path.to_owned(),
        Ok(rest) => user_home(env).ok_or(SettingsError::NoHome)?.join(rest),
    };
    let path = match base {
        Some(base) => base.join(path),
        None => path,
    };
    std::path::absolute(&path).map_err(|source| SettingsError::FileUnreadable { path, source })
}

fn user_home(env: &Environment<'_>) -> Option<PathBuf> {
    let from_env: Option<OsString> = env("HOME").filter(|home| !home.is_empty());
    from_env
        .map(PathBuf::from)
        .or_else(|| BaseDirs::new().map(|dirs| dirs.home_dir().to_owned()))
}

/// FNV-1a, 64 bits: a short stable name for a path. Not a security measure.
fn fnv1a(text: &OsStr) -> u64 {
    text.as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}
