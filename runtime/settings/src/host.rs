//! Where the daemon listens and the client connects: a host and a port, in any of the ways that people write them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Our own port, so that another model server on the same machine is not disturbed.
pub const DEFAULT_PORT: u16 = 11535;

/// Longest host name that DNS allows.
const HOST_NAME_BYTES_MAX: usize = 253;

const EXPECTED: &str =
    "a host such as `127.0.0.1`, `localhost:11435`, `:11434`, `[::1]:11434` or `http://127.0.0.1:11434`";

/// A host name or address with a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostAddr {
    /// An address without brackets, or a host name.
    pub host: String,
    /// The TCP port; 0 lets the operating system choose one.
    pub port: u16,
}

impl Default for HostAddr {
    fn default() -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port: DEFAULT_PORT,
        }
    }
}

impl HostAddr {
    /// Reads a host. A missing host is 127.0.0.1; a missing port is [`DEFAULT_PORT`], or 80 when a `http://` stands before it.
    ///
    /// # Errors
    /// A sentence part that says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim().trim_matches(['"', '\'']);
        let (text, port_default) = match text.split_once("://") {
            None => (text, DEFAULT_PORT),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (rest, 80),
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
                return Err("an address without TLS (`http://`): put a proxy in front for `https://`".into());
            }
            Some(_) => return Err(EXPECTED.into()),
        };
        let text = text.strip_suffix('/').unwrap_or(text);
        let (host, port) = split_port(text).ok_or(EXPECTED)?;
        let port = match port {
            None => port_default,
            Some(port) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().map_err(|_| "a port from 0 to 65535")?
            }
            Some(_) => return Err(EXPECTED.into()),
        };
        let host = if host.is_empty() {
            Ipv4Addr::LOCALHOST.to_string()
        } else {
            host.to_owned()
        };
        if host.parse::<IpAddr>().is_err() && !is_host_name(&host) {
            return Err(EXPECTED.into());
        }
        Ok(Self { host, port })
    }

    /// Returns whether only this machine can reach it. A name other than `localhost` counts as reachable from outside.
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.host.eq_ignore_ascii_case("localhost"),
        }
    }

    /// Returns the address that a client on this machine connects to: an unspecified address becomes the loopback one.
    #[must_use]
    pub fn for_client(&self) -> Self {
        let host = match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) if address.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
            Ok(IpAddr::V6(address)) if address.is_unspecified() => Ipv6Addr::LOCALHOST.to_string(),
            _ => self.host.clone(),
        };
        Self { host, port: self.port }
    }

    /// Returns `http://host:port` for a client on this machine, without a final slash.
    pub fn url(&self) -> String {
        format!("http://{}", self.for_client())
    }
}

impl fmt::Display for HostAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Splits `host`, `host:port`, `:port`, `[v6]`, `[v6]:port` and a bare v6 address.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return match after {
            "" => Some((host, None)),
            _ => Some((host, Some(after.strip_prefix(':')?))),
        };
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Some((text, None));
    }
    match text.split_once(':') {
        None => Some((text, None)),
        Some((host, port)) => Some((host, Some(port))),
    }
}

fn is_host_name(text: &str) -> bool {
    text.len() <= HOST_NAME_BYTES_MAX
        && text.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
        // Four numbers that are no address are a typing error, not a name.
        && !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}
