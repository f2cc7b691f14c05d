//! Who could have written a plugin's file: only the user or the administrator may.
//!
//! The path is resolved first, so that no symbolic link is left in it; then every directory above the file and the file itself, as
//! opened, must belong to the user or to root and be writable by nobody else. A shared directory such as `/tmp` may be above the
//! plugin's own directory when it is sticky, for then nobody else can replace what lies in it. Access control lists are not read.

use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use witness_plugin_protocol::{Diagnostic, Kind};

const GROUP_WRITE: u32 = 0o020;
const OTHER_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;
/// Bytes hashed at a time.
const HASH_CHUNK_BYTES: usize = 1 << 20;

/// Opens a plugin's file for reading, having checked that nobody else can write it.
pub(super) fn open_trusted(path: &Path) -> Result<File, Box<Diagnostic>> {
    let user = rustix::process::geteuid().as_raw();
    let real = path.canonicalize().map_err(|error| unreadable(path, &error))?;
    for (depth, directory) in real.ancestors().skip(1).enumerate() {
        let metadata = directory.metadata().map_err(|error| unreadable(directory, &error))?;
        // The directory that holds the file must be closed itself; one above it may be shared when it is sticky.
        let may_be_shared = depth > 0;
        judge(directory, &metadata, user, may_be_shared)?;
    }
    let file = File::options()
        .read(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed() | OFlags::NONBLOCK.bits().cast_signed())
        .open(&real)
        .map_err(|error| unreadable(&real, &error))?;
    let metadata = file.metadata().map_err(|error| unreadable(&real, &error))?;
    if !metadata.is_file() {
        return Err(Box::new(Diagnostic::new(
            "witness::plugin::not_a_file",
            Kind::Invalid,
            format!("the plugin `{}` is not a regular file", real.display()),
        )));
    }
    judge(&real, &metadata, user, false)?;
    Ok(file)
}

/// Returns why `metadata` is not safe, if it is not.
fn judge(path: &Path, metadata: &Metadata, user: u32, may_be_shared: bool) -> Result<(), Box<Diagnostic>> {
    let (owner, group, mode) = (metadata.uid(), metadata.gid(), metadata.mode());
    match verdict(owner, group, mode, user, may_be_shared) {
        None => Ok(()),
        Some(Fault::Owner) => Err(Box::new(
            Diagnostic::new(
                "witness::plugin::untrusted",
                Kind::Forbidden,
                format!(
                    "`{}` belongs to user {owner}, neither to you (user {user}) nor to root",
                    path.display()
                ),
            )
            .cause("a plugin is loaded only from files and directories that nobody else can write")
            .hint("copy the plugin to a directory of your own, such as the plugins directory under WITNESS_HOME"),
        )),
        Some(Fault::Writable(who)) => Err(Box::new(
            Diagnostic::new(
                "witness::plugin::untrusted",
                Kind::Forbidden,
                format!(
                    "`{}` can be written by {who} (mode {:o})",
                    path.display(),
                    mode & 0o7777
                ),
            )
            .cause("a plugin is loaded only from files and directories that nobody else can write")
            .hint(format!(
                "run `chmod go-w '{}'`, or copy the plugin to a directory of your own",
                path.display()
            )),
        )),
    }
}

/// What is wrong with the owner or the mode of a file.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Owner,
    Writable(&'static str),
}

/// Decides from numbers alone. A group whose number is the owner's is the owner's private group and counts as the owner.
fn verdict(owner: u32, group: u32, mode: u32, user: u32, may_be_shared: bool) -> Option<Fault> {
    if owner != 0 && owner != user {
        return Some(Fault::Owner);
    }
    if may_be_shared && mode & STICKY != 0 {
        return None;
    }
    if mode & OTHER_WRITE != 0 {
        return Some(Fault::Writable("everybody"));
    }
    (mode & GROUP_WRITE != 0 && group != owner).then_some(Fault::Writable("its group"))
}

/// Returns the digest of the opened file, as `sha256:<hex>`.
pub(super) fn sha256(path: &Path, mut file: &File) -> Result<String, Box<Diagnostic>> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; HASH_CHUNK_BYTES];
    file.seek(SeekFrom::Start(0))
        .map_err(|error| unreadable(path, &error))?;
    loop {
        let bytes = file.read(&mut chunk).map_err(|error| unreadable(path, &error))?;
        if bytes == 0 {
            break;
        }
        hasher.update(&chunk[..bytes]);
    }
    let mut text = String::from("sha256:");
    for byte in hasher.finalize() {
        text.push_str(&format!("{byte:02x}"));
    }
    Ok(text)
}

/// Returns the diagnostic of a file that cannot be opened or read.
pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Box<Diagnostic> {
    let kind = if error.kind() == std::io::ErrorKind::NotFound {
        Kind::NotFound
    } else {
        Kind::Environment
    };
    Box::new(
        Diagnostic::new(
            "witness::plugin::unreadable",
            kind,
            format!("the plugin file `{}` cannot be read", path.display()),
        )
        .cause(error.to_string()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Owner, group, mode, may be shared -> what is wrong, for user 1000.
    #[test]
    fn only_the_user_and_root_may_write() {
        const ME: u32 = 1000;
        for (owner, group, mode, may_be_shared, expected) in [
            (ME, ME, 0o755, false, None),
            (0, 0, 0o755, false, None),
            (ME, ME, 0o775, false, None),
            (ME, 50, 0o755, false, None),
            (ME, 50, 0o775, false, Some(Fault::Writable("its group"))),
            (ME, ME, 0o757, false, Some(Fault::Writable("everybody"))),
            (0, 0, 0o1777, true, None),
            (0, 0, 0o1777, false, Some(Fault::Writable("everybody"))),
            (0, 0, 0o777, true, Some(Fault::Writable("everybody"))),
            (1001, ME, 0o755, true, Some(Fault::Owner)),
            (1001, 1001, 0o1777, true, Some(Fault::Owner)),
        ] {
            assert_eq!(
                verdict(owner, group, mode, ME, may_be_shared),
                expected,
                "{owner}:{group} {mode:o} {may_be_shared}"
            );
        }
    }
}
