//! The one digest type. A value of it is 64 checked hexadecimal digits: it cannot hold a path separator, a dot or anything else.

use std::fmt;
use std::str::FromStr;

use sha2::Digest as _;

use crate::error::RegistryError;

const PREFIX: &str = "sha256:";
const HEX_BYTES: usize = 64;
const TEXT_BYTES: usize = PREFIX.len() + HEX_BYTES;

/// A SHA-256, in its text form `sha256:<64 lower-case hexadecimal digits>`.
///
/// **Invariant:** the constructor is private to this module; a digest comes from [`Digest::parse`] or from hashing bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    text: [u8; TEXT_BYTES],
}

impl Digest {
    /// Reads `sha256:<hex>` or `sha256-<hex>`; capital digits become small.
    ///
    /// # Errors
    /// [`RegistryError::InvalidDigest`] for anything else.
    pub fn parse(text: &str) -> Result<Self, RegistryError> {
        let invalid = || RegistryError::InvalidDigest {
            text: text.chars().take(2 * TEXT_BYTES).collect(),
        };
        let hex = text
            .strip_prefix(PREFIX)
            .or_else(|| text.strip_prefix("sha256-"))
            .ok_or_else(invalid)?;
        if hex.len() != HEX_BYTES || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        Ok(Self::from_hex_bytes(hex.to_ascii_lowercase().as_bytes()))
    }

    /// Hashes bytes that are in memory.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Returns `sha256:<hex>`: the form of manifests and of the API.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text).expect("a digest is ASCII")
    }

    /// Returns the 64 hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.as_str()[PREFIX.len()..]
    }

    /// Returns `sha256-<hex>`: the name of the blob's file.
    pub fn file_name(&self) -> String {
        format!("sha256-{}", self.hex())
    }

    /// Returns the first 12 digits, for lines that people read.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }

    fn from_hex_bytes(hex: &[u8]) -> Self {
        let mut text = [0; TEXT_BYTES];
        text[..PREFIX.len()].copy_from_slice(PREFIX.as_bytes());
        text[PREFIX.len()..].copy_from_slice(hex);
        Self { text }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Digest {
    type Err = RegistryError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Hashes bytes as they pass by. Uses the CPU's SHA instructions where it has them, chosen at run time.
#[derive(Clone, Default)]
pub struct Hasher(sha2::Sha256);

impl Hasher {
    /// Starts with no bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest of everything added.
    pub fn finish(self) -> Digest {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [0; HEX_BYTES];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0.finalize()) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        Digest::from_hex_bytes(&hex)
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}
