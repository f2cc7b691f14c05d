//! Goal: every spelling that people use is read, precedence holds for every key, and a mistake names its place and its cure.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use witness_diagnostics::Diagnostic;

use crate::keys::{Default as KeyDefault, KEYS, Shape};
use crate::quantity::{format_duration, format_size, parse_duration, parse_size};
use crate::{HostAddr, KeepAlive, Overrides, Settings, SettingsError, Source, describe, markdown_table, resolve};

fn with(overrides: &Overrides, variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let env = |name: &str| -> Option<OsString> {
        variables
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.into())
    };
    resolve(overrides, &env)
}

fn source(settings: &Settings, key: &str) -> Source {
    describe(settings)
        .into_iter()
        .find(|described| described.key == key)
        .expect("a known key")
        .source
}

#[test]
fn hosts_in_every_spelling() {
    let cases = [
        ("", "127.0.0.1:11535"),
        ("0.0.0.0", "0.0.0.0:11535"),
        (":11434", "127.0.0.1:11434"),
        ("localhost", "localhost:11535"),
        ("localhost:11434", "localhost:11434"),
        ("http://127.0.0.1:11434", "127.0.0.1:11434"),
        ("HTTP://127.0.0.1:11434/", "127.0.0.1:11434"),
        ("http://example.com", "example.com:80"),
        ("[::1]:11535", "[::1]:11535"),
        ("[::1]", "[::1]:11535"),
        ("::1", "[::1]:11535"),
        ("::", "[::]:11535"),
        (" 10.0.0.7:80 ", "10.0.0.7:80"),
        ("\"1.2.3.4\"", "1.2.3.4:11535"),
        ("host:0", "host:0"),
    ];
    for (text, expected) in cases {
        let parsed = HostAddr::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(parsed.to_string(), expected, "{text}");
        assert_eq!(HostAddr::parse(&parsed.to_string()), Ok(parsed), "{text}");
    }
    for text in [
        "https://a",
        "ftp://a",
        "a:b",
        "a:",
        "a:65536",
        "a b",
        "1.2.3",
        "1.2.3.4.5",
        "[::1",
        "[a]:1",
        "-a",
        "a/b",
        "a:1:2",
        "ä",
    ] {
        assert!(HostAddr::parse(text).is_err(), "{text}");
    }
    assert!(HostAddr::parse("[::1]").is_ok_and(|host| host.is_loopback()));
    assert!(HostAddr::parse("localhost").is_ok_and(|host| host.is_loopback()));
    assert!(HostAddr::parse("0.0.0.0").is_ok_and(|host| !host.is_loopback()));
    assert_eq!(
        HostAddr::parse("0.0.0.0").map(|host| host.url()),
        Ok("http://127.0.0.1:11535".into())
    );
    assert_eq!(
        HostAddr::parse("[::]:9").map(|host| host.url()),
        Ok("http://[::1]:9".into())
    );
}

#[test]
fn durations_and_keep_alive() {
    let cases = [
        ("5m", 300_000),
        ("0", 0),
        ("300", 300_000),
        ("1h30m", 5_400_000),
        ("1h 30m", 5_400_000),
        ("1.5s", 1_500),
        (".5s", 500),
        ("250ms", 250),
        ("2d", 172_800_000),
        ("1.5", 1_500),
    ];
    for (text, ms) in cases {
        assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        let printed = format_duration(Duration::from_millis(ms));
        assert_eq!(parse_duration(&printed), Ok(Duration::from_millis(ms)), "{printed}");
    }
    for text in [
        "",
        "m",
        "5x",
        "5 m 3",
        "1.2.3s",
        ".",
        "99999999999999999999",
        "9999999999h",
        "-5",
        "1e3",
        "5mm",
    ] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
    for text in ["-1", "-1s", "-5m"] {
        assert_eq!(KeepAlive::parse(text), Ok(KeepAlive::Forever), "{text}");
    }
    assert_eq!(KeepAlive::parse("0"), Ok(KeepAlive::For(Duration::ZERO)));
    assert!(KeepAlive::parse("-").is_err());
    assert!(KeepAlive::parse("never").is_err());
}

#[test]
fn sizes() {
    let cases = [
        ("8GiB", 8 << 30),
        ("8G", 8 << 30),
        ("8gib", 8 << 30),
        ("8GB", 8_000_000_000),
        ("1.5 GiB", 3 << 29),
        ("512MiB", 512 << 20),
        ("1k", 1024),
        ("123", 123),
        ("0", 0),
        ("7B", 7),
    ];
    for (text, bytes) in cases {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
        assert_eq!(parse_size(&format_size(bytes)), Ok(bytes), "{text}");
    }
    for text in ["", "GiB", "8XB", "-1", "99999999TiB", "1,5G"] {
        assert!(parse_size(text).is_err(), "{text}");
    }
}

#[test]
fn the_table_is_sound() {
    for (index, key) in KEYS.iter().enumerate() {
        assert!(
            KEYS[index + 1..]
                .iter()
                .all(|other| other.name != key.name && other.env != key.env),
            "{}",
            key.name
        );
        assert!(
            key.env.starts_with("WITNESS_") && !key.help.ends_with('.'),
            "{}",
            key.name
        );
        assert!(
            !matches!((key.shape, key.default), (Shape::Path, KeyDefault::Text(_))),
            "{}",
            key.name
        );
    }
    let settings = with(&Overrides::default(), &[("WITNESS_HOME", "/h")]).unwrap();
    let described = describe(&settings);
    assert_eq!(described.len(), KEYS.len());
    for (described, key) in described.iter().zip(KEYS) {
        let may_be_empty = matches!(key.default, KeyDefault::Unset(_) | KeyDefault::Text(""));
        assert!(
            may_be_empty || !described.value.is_empty(),
            "{} is not described",
            key.name
        );
    }
    assert_eq!(markdown_table().lines().count(), KEYS.len() + 2);
}

/// One layer after the other is put on top; each time the topmost wins and is named as the source.
#[test]
fn flag_over_environment_over_file_over_default() {
    let home = tempfile::tempdir().unwrap();
    let home_text = home.path().to_str().unwrap();
    let mut variables = vec![("WITNESS_HOME", home_text)];
    let seen = |settings: Settings| (settings.host.port, source(&settings, "host"));
    assert_eq!(
        seen(with(&Overrides::default(), &variables).unwrap()),
        (11535, Source::Default)
    );
    std::fs::write(
        home.path().join("config.toml"),
        "host = ':1'\nmax_queue = 7\norigins = ['http://a', 'http://b']\n",
    )
    .unwrap();
    let settings = with(&Overrides::default(), &variables).unwrap();
    assert_eq!((settings.queue_max, settings.origins.len()), (7, 2));
    assert_eq!(seen(settings), (1, Source::File));
    variables.push(("WITNESS_HOST", ":2"));
    assert_eq!(seen(with(&Overrides::default(), &variables).unwrap()), (2, Source::Env));
    let flags = Overrides {
        host: Some(":3".into()),
        others: vec![("keep_alive".into(), "-1".into())],
        ..Overrides::default()
    };
    let settings = with(&flags, &variables).unwrap();
    assert_eq!(settings.keep_alive, KeepAlive::Forever);
    assert_eq!(seen(settings), (3, Source::Flag));
    variables.push(("WITNESS_MAX_QUEUE", ""));
    assert_eq!(
        with(&flags, &variables).unwrap().queue_max,
        7,
        "an empty variable counts as unset"
    );
}

#[test]
fn paths_follow_home_and_tilde() {
    let settings = with(
        &Overrides::default(),
        &[("WITNESS_HOME", "/h"), ("HOME", "/u"), ("WITNESS_MODELS", "~/m")],
    )
    .unwrap();
    assert_eq!(settings.models, Path::new("/u/m"));
    assert_eq!(settings.socket, Path::new("/h/witness.sock"));
    assert_eq!(settings.config_file, Path::new("/h/config.toml"));
    assert_eq!(
        (settings.logs, settings.user_plugins),
        ("/h/logs".into(), "/h/plugins".into())
    );

    let settings = with(
        &Overrides::default(),
        &[("WITNESS_HOME", "/h"), ("WITNESS_PLUGIN_PATH", "/a::/b")],
    )
    .unwrap();
    assert_eq!(settings.plugin_path, [PathBuf::from("/a"), PathBuf::from("/b")]);

    let flags = Overrides {
        home: Some("relative".into()),
        ..Overrides::default()
    };
    assert!(with(&flags, &[]).unwrap().home.is_absolute());
}

#[test]
fn relative_paths_in_the_file_start_at_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("other.toml");
    std::fs::write(
        &config,
        "models = 'store'\nhome = '/elsewhere'\nplugin_path = ['p', '/q']\n",
    )
    .unwrap();
    let flags = Overrides {
        config: Some(config.clone()),
        ..Overrides::default()
    };
    let settings = with(&flags, &[]).unwrap();
    assert_eq!(settings.models, dir.path().join("store"));
    assert_eq!(settings.home, Path::new("/elsewhere"));
    assert_eq!(settings.plugin_path, [dir.path().join("p"), PathBuf::from("/q")]);
    assert_eq!(settings.config_file, config);
}

#[test]
fn models_alone_leave_home_at_its_default() {
    let empty = tempfile::tempdir().unwrap();
    let config = empty.path().join("config.toml");
    std::fs::write(&config, "").unwrap();
    let flags = Overrides {
        models: Some("/m".into()),
        config: Some(config),
        ..Overrides::default()
    };
    // Without any home directory (some build machines) this is the clear error instead.
    match with(&flags, &[]) {
        Ok(settings) => {
            assert_eq!(settings.models, Path::new("/m"));
            assert_eq!(source(&settings, "home"), Source::Default);
        }
        Err(error) => assert!(matches!(
            error,
            SettingsError::NoHome | SettingsError::SocketPathTooLong { .. }
        )),
    }
}

#[test]
fn a_socket_path_that_is_too_long_moves_or_is_refused() {
    let long = format!("/{}", "x".repeat(120));
    let settings = with(&Overrides::default(), &[("WITNESS_HOME", &long)]);
    if let Ok(settings) = settings {
        assert!(settings.socket.as_os_str().len() <= 100 && !settings.socket.starts_with(&long));
    }
    let refused = with(
        &Overrides::default(),
        &[("WITNESS_HOME", "/h"), ("WITNESS_SOCKET", &long)],
    );
    assert!(matches!(refused, Err(SettingsError::SocketPathTooLong { .. })));
}

#[test]
fn mistakes_name_their_place_and_their_cure() {
    let home = tempfile::tempdir().unwrap();
    let home_text = home.path().to_str().unwrap();
    let config = home.path().join("config.toml");
    let check = |text: &str, code: &str, fragment: &str| {
        std::fs::write(&config, text).unwrap();
        let error = with(&Overrides::default(), &[("WITNESS_HOME", home_text)]).expect_err(text);
        let diagnostic = Diagnostic::from(error);
        assert_eq!(diagnostic.code, format!("witness::settings::{code}"), "{text}");
        assert!(!diagnostic.hints.is_empty(), "{text}");
        let all = format!("{diagnostic} {}", diagnostic.hints.join(" "));
        assert!(all.contains(fragment), "{all}");
    };
    check("keepalive = '5m'", "unknown_key", "did you mean `keep_alive`");
    check("config = 'x'", "unknown_key", "`config` is no setting");
    check("keep_alive = 'soon'", "value", "such as `5m`");
    check("max_queue = 0", "value", "from 1 to 65536");
    check("max_queue = [1]", "value", "max_queue");
    check("host = ['a']", "value", "one value");
    check("load_timeout = 0", "value", "above zero");
    check("[table]\na = 1", "unknown_key", "table");
    check("host = ", "file_syntax", "config.toml");

    let missing = Overrides {
        config: Some("/no/such.toml".into()),
        ..Overrides::default()
    };
    assert!(matches!(with(&missing, &[]), Err(SettingsError::FileUnreadable { .. })));
    let wrong = Overrides {
        others: vec![("max_qeue".into(), "1".into())],
        ..Overrides::default()
    };
    assert!(matches!(with(&wrong, &[]), Err(SettingsError::UnknownKey { near, .. }) if near == ["max_queue"]));
}
