//! The frames of a bundle: tar headers (POSIX.1-1988 "ustar") of plain files, all alike but for name and length.

use crate::digest::Digest;

/// Tar counts in blocks of this many bytes.
pub(super) const BLOCK_BYTES: usize = 512;

/// Zeros at the end of a tar.
pub(super) const END_BYTES: u64 = 2 * BLOCK_BYTES as u64;

/// What every bundle of any version begins with.
const MAGIC: &str = "witness-bundle-";

/// The first length that eleven octal digits cannot say.
const OCTAL_END: u64 = 1 << 33;

/// One header.
pub(super) type Header = [u8; BLOCK_BYTES];

/// Fields of a header: where each begins and how long it is.
mod field {
    pub(super) const NAME: std::ops::Range<usize> = 0..100;
    pub(super) const MODE: std::ops::Range<usize> = 100..108;
    pub(super) const OWNER: std::ops::Range<usize> = 108..116;
    pub(super) const GROUP: std::ops::Range<usize> = 116..124;
    pub(super) const LENGTH: std::ops::Range<usize> = 124..136;
    pub(super) const TIME: std::ops::Range<usize> = 136..148;
    pub(super) const SUM: std::ops::Range<usize> = 148..156;
    pub(super) const KIND: usize = 156;
    pub(super) const MAGIC: std::ops::Range<usize> = 257..265;
    pub(super) const DEVICE: std::ops::Range<usize> = 329..345;
}

/// Returns the name of an entry of this version.
pub(super) fn entry(path: &str) -> String {
    format!("{MAGIC}{}/{path}", super::FORMAT_VERSION)
}

/// Returns the path of an index below the bundle's directory.
pub(super) fn index_path(digest: &Digest) -> String {
    format!("index-{}.json", digest.file_name())
}

/// Returns the header of a plain file.
///
/// # Panics
/// When the name is longer than 100 bytes, which none of a bundle's is.
pub(super) fn header(name: &str, bytes: u64) -> Header {
    let mut header = [0; BLOCK_BYTES];
    header[field::NAME][..name.len()].copy_from_slice(name.as_bytes());
    put(&mut header[field::MODE], b"0000644");
    put(&mut header[field::OWNER], b"0000000");
    put(&mut header[field::GROUP], b"0000000");
    put(&mut header[field::TIME], b"00000000000");
    if bytes < OCTAL_END {
        put(&mut header[field::LENGTH], format!("{bytes:011o}").as_bytes());
    } else {
        // What tar programs agree on for longer files: a set first bit, then the number with its highest byte first.
        header[field::LENGTH.start] = 0x80;
        header[field::LENGTH.end - 8..field::LENGTH.end].copy_from_slice(&bytes.to_be_bytes());
    }
    header[field::KIND] = b'0';
    put(&mut header[field::MAGIC], b"ustar\x0000");
    put(&mut header[field::DEVICE], b"0000000\x000000000");
    // The sum is taken with blanks in its own place.
    header[field::SUM].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    put(&mut header[field::SUM], format!("{sum:06o}\0").as_bytes());
    header
}

fn put(field: &mut [u8], text: &[u8]) {
    field[..text.len()].copy_from_slice(text);
}

/// Returns how many zeros follow so many bytes.
pub(super) fn padding(bytes: u64) -> u64 {
    bytes.wrapping_neg() % BLOCK_BYTES as u64
}

/// Returns what an entry takes with its header and its zeros; nothing when no file is that long.
pub(super) fn framed(bytes: u64) -> Option<u64> {
    bytes.checked_add(BLOCK_BYTES as u64 + padding(bytes))
}

/// What the first header of a bundle says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First {
    /// The index.
    Index { digest: Digest, bytes: u64 },
    /// A version that is not ours.
    Version(u32),
    /// No bundle.
    Foreign,
    /// A bundle, but not as one is written.
    Damaged,
}

/// Reads the first header. It is that of an index only if it is, byte for byte, the header that the index would get.
pub(super) fn first(header: &Header) -> First {
    let name = header[field::NAME].split(|byte| *byte == 0).next().unwrap_or_default();
    let name = std::str::from_utf8(name).unwrap_or_default();
    let Some((version, path)) = name.strip_prefix(MAGIC).and_then(|rest| rest.split_once('/')) else {
        return First::Foreign;
    };
    match version.parse() {
        Ok(super::FORMAT_VERSION) => {}
        Ok(other) => return First::Version(other),
        Err(_) => return First::Foreign,
    }
    let digest = path.strip_prefix("index-").and_then(|path| path.strip_suffix(".json"));
    let digest = digest.and_then(|digest| Digest::parse(digest).ok());
    let length = std::str::from_utf8(&header[field::LENGTH.start..field::LENGTH.end - 1]).ok();
    let length = length.and_then(|digits| u64::from_str_radix(digits, 8).ok());
    match (digest, length) {
        (Some(digest), Some(bytes)) if *header == self::header(&entry(&index_path(&digest)), bytes) => {
            First::Index { digest, bytes }
        }
        _ => First::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // What GNU tar 1.34 writes: `tar cf - --format=ustar --owner=:0 --group=:0 --numeric-owner --mtime=@0 a/b | head -c 512`, of a file of 4660 bytes
    // whose mode is 644. Its places that are not zero:
    #[test]
    fn a_header_is_as_gnu_tar_writes_it() {
        let mut recorded = [0; BLOCK_BYTES];
        for (at, text) in [
            (0, "a/b"),
            (
                100,
                "0000644\x000000000\x000000000\x0000000011064\x0000000000000\x00007573\0 0",
            ),
            (257, "ustar\x0000"),
            (329, "0000000\x000000000"),
        ] {
            put(&mut recorded[at..], text.as_bytes());
        }
        assert_eq!(header("a/b", 4660), recorded);
        let long = header("a", 10 << 40);
        assert_eq!(&long[124..136], [0x80, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn lengths_are_framed() {
        for (bytes, framed_bytes) in [(0, 512), (1, 1024), (512, 1024), (513, 1536)] {
            assert_eq!(framed(bytes), Some(framed_bytes), "{bytes}");
        }
        assert_eq!(framed(u64::MAX), None);
    }

    #[test]
    fn the_first_header_is_believed_whole_or_not_at_all() {
        let digest = Digest::of(b"index");
        let sound = header(&entry(&index_path(&digest)), 700);
        assert_eq!(first(&sound), First::Index { digest, bytes: 700 });
        for place in 0..BLOCK_BYTES {
            let mut other = sound;
            other[place] ^= 1;
            assert!(!matches!(first(&other), First::Index { .. }), "{place}");
        }
        assert_eq!(first(&header("witness-bundle-2/anything", 0)), First::Version(2));
        for name in [
            "model.gguf",
            "witness-bundle-/x",
            "witness-bundle-x/y",
            "witness-bundle-1",
        ] {
            assert_eq!(first(&header(name, 0)), First::Foreign, "{name}");
        }
        assert_eq!(first(&[0xff; BLOCK_BYTES]), First::Foreign);
    }
}
