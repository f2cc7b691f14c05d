//! Names of models: `[host/][namespace/]name[:tag]`, with Ollama's grammar, lengths and defaults.
//!
//! | part | first byte | further bytes | length | default |
//! | --- | --- | --- | --- | --- |
//! | host | letter, digit, `_` | also `-` `.` `:` | 1-350 | `registry.ollama.ai` |
//! | namespace | letter, digit, `_` | also `-` | 1-80 | `library` |
//! | name | letter, digit, `_` | also `-` `.` | 1-80 | |
//! | tag | letter, digit, `_` | also `-` `.` | 1-80 | `latest` |
//!
//! **Invariant:** no part begins with a dot or holds a slash, so a name is always a path of four plain components.
//! Case is kept but does not tell names apart, as in Ollama.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::RegistryError;

const DEFAULT_HOST: &str = "registry.ollama.ai";
const DEFAULT_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";

/// A complete, valid model name. Compares, orders and hashes without regard to ASCII case.
#[derive(Clone, Debug)]
pub struct ModelName {
    host: String,
    namespace: String,
    name: String,
    tag: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Host,
    Namespace,
    Name,
    Tag,
}

impl ModelName {
    /// Reads a name and fills in the defaults. A scheme before the host (`https://`) is dropped.
    ///
    /// # Errors
    /// [`RegistryError::InvalidName`] that says which part is wrong and why.
    pub fn parse(text: &str) -> Result<Self, RegistryError> {
        let invalid = |reason: String| RegistryError::InvalidName {
            text: shorten(text),
            reason,
        };
        // A slash is no part of a tag, so a colon before the last slash belongs to the host.
        let (rest, tag) = match (text.rfind(':'), text.rfind('/')) {
            (Some(colon), slash) if slash.is_none_or(|slash| colon > slash) => (&text[..colon], &text[colon + 1..]),
            _ => (text, DEFAULT_TAG),
        };
        let (rest, name) = rest
            .rsplit_once('/')
            .map_or((None, rest), |(rest, name)| (Some(rest), name));
        let (host, namespace) = match rest {
            None => (None, DEFAULT_NAMESPACE),
            Some(rest) => rest
                .rsplit_once('/')
                .map_or((None, rest), |(host, namespace)| (Some(host), namespace)),
        };
        let host = host.map_or(DEFAULT_HOST, |host| {
            host.split_once("://").map_or(host, |(_, host)| host)
        });
        Self::from_parts(host, namespace, name, tag).map_err(invalid)
    }

    /// Builds a name from the four components of a manifest's path below `manifests`.
    pub(crate) fn from_relative_path(path: &Path) -> Option<Self> {
        let parts: Vec<&str> = path.iter().map(|part| part.to_str()).collect::<Option<_>>()?;
        let [host, namespace, name, tag] = parts.as_slice() else {
            return None;
        };
        Self::from_parts(host, namespace, name, tag).ok()
    }

    fn from_parts(host: &str, namespace: &str, name: &str, tag: &str) -> Result<Self, String> {
        check(Part::Host, host)?;
        check(Part::Namespace, namespace)?;
        check(Part::Name, name)?;
        check(Part::Tag, tag)?;
        Ok(Self {
            host: host.into(),
            namespace: namespace.into(),
            name: name.into(),
            tag: tag.into(),
        })
    }

    /// Returns the registry host.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the name without host, namespace and tag.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Returns the four parts in the order of the path.
    pub(crate) fn parts(&self) -> [&str; 4] {
        [&self.host, &self.namespace, &self.name, &self.tag]
    }

    /// Returns the path of the manifest below `manifests`.
    pub(crate) fn relative_path(&self) -> PathBuf {
        self.parts().iter().collect()
    }

    /// Returns `host/namespace/name:tag`.
    pub fn display_full(&self) -> String {
        format!("{}/{}/{}:{}", self.host, self.namespace, self.name, self.tag)
    }

    /// Returns the name without a default host and namespace; the tag always stands, as in Ollama's listings.
    pub fn display_short(&self) -> String {
        if !self.host.eq_ignore_ascii_case(DEFAULT_HOST) {
            self.display_full()
        } else if !self.namespace.eq_ignore_ascii_case(DEFAULT_NAMESPACE) {
            format!("{}/{}:{}", self.namespace, self.name, self.tag)
        } else {
            format!("{}:{}", self.name, self.tag)
        }
    }

    /// Returns what a person would type: the short form without `:latest`.
    pub fn display_typed(&self) -> String {
        let short = self.display_short();
        match short.strip_suffix(":latest") {
            Some(typed) => typed.to_owned(),
            None => short,
        }
    }

    fn folded(&self) -> [String; 4] {
        self.parts().map(str::to_ascii_lowercase)
    }
}

fn check(part: Part, text: &str) -> Result<(), String> {
    let (called, bytes_max) = match part {
        Part::Host => ("host", 350),
        Part::Namespace => ("namespace", 80),
        Part::Name => ("name", 80),
        Part::Tag => ("tag", 80),
    };
    if text.is_empty() {
        return Err(format!("its {called} is empty"));
    }
    if text.len() > bytes_max {
        return Err(format!("its {called} has {} bytes, more than {bytes_max}", text.len()));
    }
    let allowed = |index: usize, letter: char| match letter {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => true,
        '-' => index > 0,
        '.' => index > 0 && part != Part::Namespace,
        ':' => index > 0 && part == Part::Host,
        _ => false,
    };
    match text.char_indices().find(|(index, letter)| !allowed(*index, *letter)) {
        None => Ok(()),
        Some((0, letter)) => Err(format!(
            "its {called} begins with {letter:?}; letters, digits and `_` may"
        )),
        Some((_, letter)) => Err(format!("its {called} contains {letter:?}")),
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(120).collect()
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.display_short())
    }
}

impl FromStr for ModelName {
    type Err = RegistryError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl PartialEq for ModelName {
    fn eq(&self, other: &Self) -> bool {
        self.parts()
            .iter()
            .zip(other.parts())
            .all(|(mine, theirs)| mine.eq_ignore_ascii_case(theirs))
    }
}

impl Eq for ModelName {}

impl PartialOrd for ModelName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ModelName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.folded().cmp(&other.folded())
    }
}

impl Hash for ModelName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.folded().hash(state);
    }
}

impl serde::Serialize for ModelName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.display_short())
    }
}

impl<'de> serde::Deserialize<'de> for ModelName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}
