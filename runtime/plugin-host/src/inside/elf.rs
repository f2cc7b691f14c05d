//! A look at the first bytes of a library before the dynamic linker gets it: a foreign or truncated file is refused with the
//! reason, where `dlopen` would say little, or die of SIGBUS on a mapping beyond the end of the file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use witness_plugin_protocol::{Diagnostic, Kind};

use crate::frame::u64_at;

/// Program headers that are looked at; a shared library has about ten.
const PROGRAM_HEADERS_MAX: u16 = 1024;
const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: u16 = 56;
const TYPE_SHARED: u16 = 3;
const SEGMENT_LOAD: u32 = 1;

/// Checks that the file is a whole shared library for this machine.
pub(super) fn check(path: &Path, file: &File) -> Result<(), Box<Diagnostic>> {
    let bytes = file
        .metadata()
        .map_err(|error| super::trust::unreadable(path, &error))?
        .len();
    let mut head = [0; HEADER_BYTES];
    let read = |at: u64, into: &mut [u8]| file.read_exact_at(into, at);
    let found = if bytes < HEADER_BYTES as u64 {
        Err(format!("the file has {bytes} bytes, fewer than a library's header"))
    } else if let Err(error) = read(0, &mut head) {
        Err(error.to_string())
    } else {
        examine(&head, bytes, read)
    };
    found.map_err(|reason| {
        Box::new(
            Diagnostic::new(
                "witness::plugin::not_a_library",
                Kind::Invalid,
                format!(
                    "`{}` is not a shared library that this machine can load",
                    path.display()
                ),
            )
            .cause(reason)
            .hint("build the plugin again for this machine, or copy the file again if it was cut short"),
        )
    })
}

#[cfg(target_os = "macos")]
fn examine(
    head: &[u8; HEADER_BYTES],
    _bytes: u64,
    _read: impl Fn(u64, &mut [u8]) -> std::io::Result<()>,
) -> Result<(), String> {
    // 64-bit Mach-O in this byte order, or a universal file, which is big endian.
    match [head[0], head[1], head[2], head[3]] {
        [0xcf, 0xfa, 0xed, 0xfe] | [0xca, 0xfe, 0xba, 0xbe] => Ok(()),
        other => Err(format!("it starts with {other:02x?}, which is not Mach-O")),
    }
}

/// Machine number of ELF for the processor this program was built for; 0 = not known, then it is not compared.
#[cfg(not(target_os = "macos"))]
const MACHINE: u16 = if cfg!(target_arch = "x86_64") {
    62
} else if cfg!(target_arch = "aarch64") {
    183
} else if cfg!(target_arch = "riscv64") {
    243
} else {
    0
};

#[cfg(not(target_os = "macos"))]
fn examine(
    head: &[u8; HEADER_BYTES],
    bytes: u64,
    read: impl Fn(u64, &mut [u8]) -> std::io::Result<()>,
) -> Result<(), String> {
    let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let word = |at: usize| u64_at(head, at).unwrap_or(u64::MAX);
    if head[..4] != *b"\x7fELF" {
        return Err(format!(
            "it starts with {:02x?}, and ELF with [7f, 45, 4c, 46]",
            &head[..4]
        ));
    }
    if head[4] != 2 || head[5] != 1 {
        return Err(format!(
            "ELF class {} and byte order {} where 2 (64-bit) and 1 (little) are needed",
            head[4], head[5]
        ));
    }
    if MACHINE != 0 && half(18) != MACHINE {
        return Err(format!(
            "it is for ELF machine {} and this is machine {MACHINE}",
            half(18)
        ));
    }
    if half(16) != TYPE_SHARED {
        return Err(format!("ELF type {} where 3 (shared library) is needed", half(16)));
    }
    let within = |what: &str, at: u64, length: u64| match at.checked_add(length) {
        Some(end) if end <= bytes => Ok(()),
        _ => Err(format!("it is cut short: {what} ends beyond its {bytes} bytes")),
    };
    let (segments, count, size) = (word(32), half(56), half(54));
    if count == 0 || count > PROGRAM_HEADERS_MAX || size != PROGRAM_HEADER_BYTES {
        return Err(format!("it has {count} program headers of {size} bytes"));
    }
    within(
        "the table of its segments",
        segments,
        u64::from(count) * u64::from(size),
    )?;
    if word(40) != 0 {
        within(
            "the table of its sections",
            word(40),
            u64::from(half(60)) * u64::from(half(58)),
        )?;
    }
    for index in 0..u64::from(count) {
        let mut segment = [0; PROGRAM_HEADER_BYTES as usize];
        read(segments + index * u64::from(size), &mut segment).map_err(|error| error.to_string())?;
        if u32::from_le_bytes([segment[0], segment[1], segment[2], segment[3]]) == SEGMENT_LOAD {
            let at = |offset: usize| u64_at(&segment, offset).unwrap_or(u64::MAX);
            within(&format!("segment {index}"), at(8), at(32))?;
        }
    }
    Ok(())
}

#[cfg(all(test, not(target_os = "macos")))]
mod tests {
    use super::*;

    /// This test's own program is a position-independent ELF file like a library. Cut anywhere, it is refused; with any byte of its
    /// tables changed, it is refused or accepted, and nothing panics.
    #[test]
    fn a_cut_file_is_refused_and_a_changed_one_does_no_harm() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        check(&path, &file).unwrap();
        let original = file.metadata().unwrap().len();
        for at in 0..1024 {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            for changed in [0x00, 0x7f, 0xff, byte[0] ^ 1] {
                file.write_all_at(&[changed], at).unwrap();
                let _ = check(&path, &file);
            }
            file.write_all_at(&byte, at).unwrap();
        }
        check(&path, &file).unwrap();
        let lengths = (0..original)
            .rev()
            .step_by(usize::try_from(original / 200).unwrap() + 1);
        for length in lengths.chain((0..4096).rev()) {
            file.set_len(length).unwrap();
            assert!(check(&path, &file).is_err(), "cut to {length} of {original} bytes");
        }
    }
}
