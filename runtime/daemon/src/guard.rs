//! Who may talk to us. A web page that the user visits must not drive the models on the user's machine.
//!
//! - Over the unix socket: whoever may open it (0600). No browser can.
//! - Over TCP: the `Host` header must name this machine (a rebound DNS name does not), and an `Origin` header, which browsers set on
//!   every request that can change something, must be local or listed in `WITNESS_ORIGINS`.
//!
//! Pure: takes headers, returns a verdict.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, header};
use witness_diagnostics::{Diagnostic, Kind};

/// How a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// TCP.
    Tcp,
    /// The unix socket.
    Unix,
}

/// The rules in force.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    /// From the settings; `*` matches any text.
    origins: Vec<String>,
    /// Whether we listen on loopback only. Listening to the network is a choice of the user, who then knows the names of the machine.
    is_loopback_only: bool,
}

/// Schemes of desktop applications and editor panels: not the web.
const LOCAL_SCHEMES: [&str; 5] = ["app://", "file://", "tauri://", "vscode-webview://", "vscode-file://"];

impl Guard {
    pub(crate) fn new(origins: Vec<String>, is_loopback_only: bool) -> Self {
        Self {
            origins,
            is_loopback_only,
        }
    }

    /// Checks a request that came over TCP. Returns the origin to name in the answer's CORS headers, if there is one.
    pub(crate) fn check(
        &self,
        headers: &HeaderMap,
        authority: Option<&str>,
    ) -> Result<Option<HeaderValue>, Diagnostic> {
        let host = match headers.get(header::HOST) {
            Some(value) => value.to_str().unwrap_or("\u{fffd}"),
            None => authority.unwrap_or(""),
        };
        if self.is_loopback_only && !is_local_host(host_of(host)) && !self.is_listed_host(host) {
            return Err(Diagnostic::new(
                "witness::daemon::host",
                Kind::Forbidden,
                format!("the request is for the host `{host}`, which is not this machine"),
            )
            .cause("a web page could reach local servers through a DNS name of its own")
            .hint("use `127.0.0.1` or `localhost`, or list the origin in `WITNESS_ORIGINS`"));
        }
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Ok(None);
        };
        if origin.to_str().is_ok_and(|text| self.allows_origin(text)) {
            return Ok(Some(origin.clone()));
        }
        let shown = String::from_utf8_lossy(origin.as_bytes());
        Err(Diagnostic::new(
            "witness::daemon::origin",
            Kind::Forbidden,
            format!("the origin `{shown}` may not use this server"),
        )
        .hint(format!("to allow it, start the daemon with `WITNESS_ORIGINS={shown}`")))
    }

    fn allows_origin(&self, origin: &str) -> bool {
        let web = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        LOCAL_SCHEMES.iter().any(|scheme| origin.starts_with(scheme))
            || web.is_some_and(|host| is_local_host(host_of(host)))
            || self
                .origins
                .iter()
                .any(|pattern| matches(pattern.trim_end_matches('/'), origin))
    }

    /// A host is listed when an origin with it is.
    fn is_listed_host(&self, host: &str) -> bool {
        ["http://", "https://"].iter().any(|scheme| {
            self.origins.iter().any(|pattern| {
                matches(pattern.trim_end_matches('/'), &format!("{scheme}{host}"))
                    || matches(pattern.trim_end_matches('/'), &format!("{scheme}{}", host_of(host)))
            })
        })
    }
}

/// Returns the host of `host:port`, `[::1]:port`, `::1`.
fn host_of(text: &str) -> &str {
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') && port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => text,
    }
}

/// Tells whether a host can only be this machine: a loopback address or a name that never leaves it.
fn is_local_host(host: &str) -> bool {
    let name = host.trim_end_matches('.');
    host.parse::<IpAddr>()
        .is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
        || name.eq_ignore_ascii_case("localhost")
        || name.len() > ".localhost".len()
            && name
                .get(name.len() - ".localhost".len()..)
                .is_some_and(|end| end.eq_ignore_ascii_case(".localhost"))
}

/// Matches a text against a pattern in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = strip_prefix_ignore_case(text, first) else {
        return false;
    };
    let mut has_star = false;
    let mut last = "";
    for part in parts {
        has_star = true;
        last = part;
        match rest.to_ascii_lowercase().find(&part.to_ascii_lowercase()) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.is_empty() || has_star && (last.is_empty() || text.to_ascii_lowercase().ends_with(&last.to_ascii_lowercase()))
}

fn strip_prefix_ignore_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(guard: &Guard, host: &str, origin: Option<&str>) -> Result<bool, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        guard
            .check(&headers, None)
            .map(|origin| origin.is_some())
            .map_err(|d| d.code)
    }

    #[test]
    fn only_this_machine_on_loopback() {
        let guard = Guard::new(vec![], true);
        for host in [
            "127.0.0.1:11535",
            "localhost",
            "LOCALHOST:1",
            "[::1]:11535",
            "::1",
            "a.localhost:80",
            "127.9.9.9",
            "localhost.",
        ] {
            assert_eq!(check(&guard, host, None), Ok(false), "{host}");
        }
        for host in [
            "evil.example:11535",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "xlocalhost",
            "",
            "8.8.8.8",
        ] {
            assert_eq!(
                check(&guard, host, None),
                Err("witness::daemon::host".to_owned()),
                "{host}"
            );
        }
    }

    #[test]
    fn origins() {
        let guard = Guard::new(
            vec![
                "https://chat.example".into(),
                "chrome-extension://*".into(),
                "http://*.lan:3000/".into(),
            ],
            true,
        );
        for origin in [
            "http://localhost:3000",
            "https://127.0.0.1",
            "http://[::1]:5173",
            "app://obsidian.md",
            "vscode-webview://x",
            "https://chat.example",
            "chrome-extension://abc",
            "http://box.lan:3000",
        ] {
            assert_eq!(check(&guard, "localhost", Some(origin)), Ok(true), "{origin}");
        }
        for origin in [
            "null",
            "https://evil.example",
            "https://chat.example.evil",
            "http://localhost.evil.example",
            "http://a.lan:3001",
            "http://evil/.lan:30001",
        ] {
            assert_eq!(
                check(&guard, "localhost", Some(origin)),
                Err("witness::daemon::origin".to_owned()),
                "{origin}"
            );
        }
        assert_eq!(
            check(&guard, "chat.example", None),
            Ok(false),
            "a listed origin's host is a name of this machine"
        );
        assert_eq!(
            check(
                &Guard::new(vec!["*".into()], true),
                "any.example",
                Some("https://x.example")
            ),
            Ok(true)
        );
    }

    #[test]
    fn a_network_listener_takes_any_host_and_no_strange_origin() {
        let guard = Guard::new(vec![], false);
        assert_eq!(check(&guard, "box.lan:11535", None), Ok(false));
        assert!(check(&guard, "box.lan:11535", Some("https://evil.example")).is_err());
    }

    #[test]
    fn no_host_header_gives_no_access_and_no_panic() {
        let guard = Guard::new(vec![], true);
        assert!(guard.check(&HeaderMap::new(), None).is_err());
        assert!(guard.check(&HeaderMap::new(), Some("localhost:1")).is_ok());
        for text in ["[", "]", ":", "é", "[::1", "a:b:c"] {
            let _ = host_of(text);
            let _ = matches(text, "é*");
            let _ = matches("*é*", text);
        }
    }
}
