//! A small disk: a file system in memory, for tests of one that is full. Needs the right to mount.

use std::path::Path;
use std::process::Command;

/// A mount that is undone when dropped.
pub(crate) struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    /// Mounts so many bytes (`4m`) over a directory; nothing where that is not permitted.
    pub(crate) fn tmpfs(at: &'a Path, bytes: &str) -> Option<Self> {
        let options = format!("size={bytes},mode=0700");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "witness-test"])
            .arg(at)
            .output();
        mount.ok()?.status.success().then_some(Self(at))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}
