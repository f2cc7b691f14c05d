//! The listeners: TCP where the settings say, and the unix socket at 0600.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpSocket, UnixListener};
use witness_diagnostics::{Diagnostic, Kind};
use witness_settings::HostAddr;

/// Connections that may wait to be accepted.
const WAITING_MAX: u32 = 1024;

/// Takes the TCP address for this daemon. Whoever dials it is refused until [`listen`]: clients take an address that accepts for a daemon that is all there, so
/// the unix socket comes between the two.
pub(crate) async fn reserve(host: &HostAddr) -> Result<TcpSocket, Diagnostic> {
    let failed = |error| cannot_listen(host, &error);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host((host.host.as_str(), host.port))
        .await
        .map_err(failed)?
    {
        match bind(address) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // Connections of a daemon before this one, which linger for a minute, do not keep the address.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Lets clients in at a reserved address.
pub(crate) fn listen(socket: TcpSocket, host: &HostAddr) -> Result<TcpListener, Diagnostic> {
    socket.listen(WAITING_MAX).map_err(|error| cannot_listen(host, &error))
}

fn cannot_listen(host: &HostAddr, error: &io::Error) -> Diagnostic {
    let diagnostic = Diagnostic::new(
        "witness::daemon::listen",
        Kind::Environment,
        format!("cannot listen on `{host}`"),
    )
    .cause(error.to_string());
    match error.kind() {
        io::ErrorKind::AddrInUse => diagnostic
            .hint("another daemon may be running: `witness ps` shows it")
            .hint("choose another address with `WITNESS_HOST` or `--host`"),
        _ => diagnostic.hint("choose another address with `WITNESS_HOST` or `--host`"),
    }
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
    let failed = |what: &str, error: &io::Error| {
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
            &io::ErrorKind::IsADirectory.into(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reserved_address_lets_nobody_in_before_it_is_listened_at() {
        let host = HostAddr {
            host: "127.0.0.1".to_owned(),
            port: 0,
        };
        let socket = reserve(&host).await.unwrap();
        let address = socket.local_addr().unwrap();
        assert!(std::net::TcpStream::connect(address).is_err());
        let listener = listen(socket, &host).unwrap();
        std::net::TcpStream::connect(address).unwrap();
        let taken = HostAddr {
            port: address.port(),
            ..host
        };
        let refused = match reserve(&taken).await {
            Ok(socket) => listen(socket, &taken).map(drop),
            Err(refused) => Err(refused),
        };
        assert_eq!(refused.unwrap_err().code, "witness::daemon::listen");
        drop(listener);
    }
}
