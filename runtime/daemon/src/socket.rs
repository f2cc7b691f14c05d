//! The listeners: TCP where the settings say, and the unix socket at 0600.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};
use witness_diagnostics::{Diagnostic, Kind};
use witness_settings::HostAddr;

/// Binds the TCP listener.
pub(crate) async fn tcp(host: &HostAddr) -> Result<TcpListener, Diagnostic> {
    TcpListener::bind((host.host.as_str(), host.port))
        .await
        .map_err(|error| {
            let diagnostic = Diagnostic::new(
                "witness::daemon::listen",
                Kind::Environment,
                format!("cannot listen on `{host}`"),
            )
            .cause(error.to_string());
            match error.kind() {
                std::io::ErrorKind::AddrInUse => diagnostic
                    .hint("another daemon may be running: `witness ps` shows it")
                    .hint("choose another address with `WITNESS_HOST` or `--host`"),
                _ => diagnostic.hint("choose another address with `WITNESS_HOST` or `--host`"),
            }
        })
}

/// A bound unix socket; its file goes when this is dropped, unless another daemon has put its own there.
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path) == Some(self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds the unix socket: under another name first, closed to others, then moved into place, so that it is never open to anyone else.
/// A socket that nobody answers on is replaced.
pub(crate) fn unix(path: &Path) -> Result<(UnixListener, SocketFile), Diagnostic> {
    let failed = |what: &str, error: &std::io::Error| {
        Diagnostic::new(
            "witness::daemon::socket",
            Kind::Environment,
            format!("{what} the socket `{}`", path.display()),
        )
        .cause(error.to_string())
        .hint("choose another place with `WITNESS_SOCKET`")
    };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(|error| failed("cannot make the directory of", &error))?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(Diagnostic::new(
            "witness::daemon::socket_in_use",
            Kind::Conflict,
            format!("another daemon answers on the socket `{}`", path.display()),
        )
        .hint("stop it first, or choose another place with `WITNESS_SOCKET`"));
    }
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        return Err(failed(
            "a directory is in the place of",
            &std::io::ErrorKind::IsADirectory.into(),
        ));
    }
    let mut staged = path.as_os_str().to_owned();
    staged.push(format!(".{}", std::process::id()));
    let staged = PathBuf::from(staged);
    let _ = fs::remove_file(&staged);
    let bound = (|| {
        let listener = UnixListener::bind(&staged)?;
        fs::set_permissions(&staged, fs::Permissions::from_mode(0o600))?;
        fs::rename(&staged, path)?;
        Ok(listener)
    })();
    let listener = bound.map_err(|error| {
        let _ = fs::remove_file(&staged);
        failed("cannot listen on", &error)
    })?;
    let identity = identity(path).unwrap_or_default();
    Ok((
        listener,
        SocketFile {
            path: path.to_owned(),
            identity,
        },
    ))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path)
        .ok()
        .map(|metadata| (metadata.dev(), metadata.ino()))
}
