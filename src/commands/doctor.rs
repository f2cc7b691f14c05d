//! `witness doctor`: what could be in the way on this machine. Changes nothing and starts nothing.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use witness_api::{PluginsResponse, StatusResponse};
use witness_client::Endpoint;
use witness_diagnostics::Kind;
use witness_settings::Described;

use super::version::VERSION;
use crate::cli::Listing;
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::quantity::{duration, size};
use crate::render::table::Table;

/// Below this much free space a model of usual size does not fit.
const FREE_BYTES_LOW: u64 = 5_000_000_000;

/// How long the daemon may take to answer; another program on its port may never do.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Good,
    Note,
    Problem,
}

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Check {
    fn new(name: &'static str, state: State, found: impl Into<String>) -> Self {
        Self {
            name,
            state,
            found: found.into(),
            hint: None,
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

#[derive(Serialize)]
struct Report {
    checks: Vec<Check>,
    settings: Vec<Described>,
}

/// Looks at everything and prints what it found. A problem also makes the exit code that of the environment.
pub(crate) fn doctor(context: &Context, arguments: &Listing) -> Outcome<ExitCode> {
    let status = context.wait(
        context
            .client
            .get_within::<StatusResponse>("/api/witness/status?disk", PATIENCE),
    );
    let mut checks = vec![
        path(),
        daemon(status.as_ref().ok()),
        port(context, status.as_ref().ok()),
        socket(context),
        store(context, status.as_ref().ok()),
        disk(&context.settings.models, status.as_ref().ok()),
    ];
    if status.is_ok() {
        checks.push(plugins(context));
    }
    let report = Report {
        checks,
        settings: witness_settings::describe(&context.settings),
    };
    if arguments.json {
        output::json(&report)?;
    } else {
        output::print(&text(&report))?;
    }
    let is_sick = report.checks.iter().any(|check| check.state == State::Problem);
    Ok(if is_sick {
        ExitCode::from(Kind::Environment.exit_code())
    } else {
        ExitCode::SUCCESS
    })
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    for check in &report.checks {
        let mark = match check.state {
            State::Good => "ok     ",
            State::Note => "note   ",
            State::Problem => "problem",
        };
        out += &format!("{mark}  {:<8} {}\n", check.name, check.found);
        if let Some(hint) = &check.hint {
            out += &format!("{:18} hint: {hint}\n", "");
        }
    }
    let mut table = Table::new(["SETTING", "VALUE", "FROM", "ENVIRONMENT"]);
    for setting in &report.settings {
        table.row([
            setting.key.to_owned(),
            super::list::dash(&setting.value),
            setting.source.to_string(),
            setting.env_name.to_owned(),
        ]);
    }
    out + "\n" + &table.render(output::width())
}

/// Another program has this name too: the supply-chain tool. Which one does the shell find?
fn path() -> Check {
    let ours = std::env::current_exe().and_then(|path| path.canonicalize()).ok();
    let directories = std::env::var_os("PATH").unwrap_or_default();
    judge_path(find_on_path(&directories), ours)
}

fn find_on_path(directories: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(directories)
        .map(|directory| directory.join("witness"))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

fn judge_path(first: Option<PathBuf>, ours: Option<PathBuf>) -> Check {
    let ours_text = ours.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    match first {
        None => Check::new("path", State::Note, "`witness` is not on PATH")
            .hint(format!("link it: `ln -s {ours_text} ~/.local/bin/witness`")),
        Some(first) if first.canonicalize().ok() == ours => {
            Check::new("path", State::Good, format!("`witness` is this program, `{}`", first.display()))
        }
        Some(first) => Check::new(
            "path",
            State::Problem,
            format!("another `witness` comes first on PATH: `{}`", first.display()),
        )
        .hint(format!(
            "the supply-chain tool has this name too; give this program a second one: `ln -s {ours_text} ~/.local/bin/witness-models`"
        )),
    }
}

fn daemon(status: Option<&StatusResponse>) -> Check {
    match status {
        None => Check::new("daemon", State::Good, "not running; the next command starts it"),
        Some(status) => {
            let uptime = duration(status.uptime_ms.saturating_mul(1_000_000));
            let found = format!(
                "version {} is running (pid {}, for {uptime})",
                status.version, status.pid
            );
            if status.version == VERSION {
                Check::new("daemon", State::Good, found)
            } else {
                Check::new("daemon", State::Note, format!("{found}, this program is {VERSION}"))
                    .hint("`witness stop --daemon`; the next command starts this version")
            }
        }
    }
}

/// The port is either the daemon's or free.
fn port(context: &Context, status: Option<&StatusResponse>) -> Check {
    let host = &context.settings.host;
    if status.is_some_and(|status| status.host == host.to_string()) {
        return Check::new("port", State::Good, format!("`{host}` is the daemon's"));
    }
    match std::net::TcpListener::bind((host.host.as_str(), host.port)) {
        Ok(_) => Check::new("port", State::Good, format!("`{host}` is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Check::new("port", State::Problem, format!("another program listens on `{host}`"))
                .hint("choose another with `--host` or `WITNESS_HOST`, or stop that program")
        }
        Err(error) => Check::new(
            "port",
            State::Problem,
            format!("`{host}` cannot be listened on: {error}"),
        )
        .hint("choose an address of this machine with `--host` or `WITNESS_HOST`"),
    }
}

fn socket(context: &Context) -> Check {
    let path = &context.settings.socket;
    let Endpoint::Unix(_) = context.client.socket() else {
        return Check::new("socket", State::Note, "none");
    };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        Check::new("socket", State::Good, format!("`{}` answers", path.display()))
    } else if path.exists() {
        Check::new(
            "socket",
            State::Note,
            format!("`{}` is left over; nobody answers there", path.display()),
        )
        .hint("nothing to do: the next daemon takes it over")
    } else {
        Check::new("socket", State::Good, format!("`{}` is not there yet", path.display()))
    }
}

fn store(context: &Context, status: Option<&StatusResponse>) -> Check {
    let models = &context.settings.models;
    match status {
        Some(status) if status.models == *models => Check::new(
            "store",
            State::Good,
            format!("`{}` is held by the daemon (pid {})", models.display(), status.pid),
        ),
        Some(status) => Check::new(
            "store",
            State::Note,
            format!(
                "the daemon holds `{}`, the settings here say `{}`",
                status.models.display(),
                models.display()
            ),
        )
        .hint("`witness stop --daemon`; the next command starts it with these settings"),
        None if models.exists() => Check::new("store", State::Good, format!("`{}`", models.display())),
        None => Check::new("store", State::Good, format!("`{}` is not there yet", models.display())),
    }
}

fn disk(models: &Path, status: Option<&StatusResponse>) -> Check {
    let existing = models.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(existing) {
        Ok(data) => {
            let free_bytes = data.f_bavail.saturating_mul(data.f_frsize);
            let mut found = format!("{} free for models", size(free_bytes));
            if let Some(packed_bytes) = status.map(|status| status.packed_bytes).filter(|&bytes| bytes > 0) {
                found += &format!("; packed weights take {} (`packed_cache`)", size(packed_bytes));
            }
            if free_bytes < FREE_BYTES_LOW {
                Check::new("disk", State::Note, found)
                    .hint("`witness rm` models you do not need, or move the store with `--models`")
            } else {
                Check::new("disk", State::Good, found)
            }
        }
        Err(error) => Check::new(
            "disk",
            State::Note,
            format!("`{}` does not say: {error}", existing.display()),
        ),
    }
}

fn plugins(context: &Context) -> Check {
    let answer = match context.wait(context.client.get::<PluginsResponse>("/api/witness/plugins")) {
        Ok(answer) => answer,
        Err(error) => return Check::new("plugins", State::Problem, error.to_string()).hint("`witness plugin list`"),
    };
    let good = answer.plugins.iter().filter(|plugin| plugin.refused.is_none()).count();
    let refused = answer.plugins.len() - good;
    let found = match refused {
        0 => format!("{good} found"),
        _ => format!("{good} found, {refused} refused"),
    };
    let state = match (good, refused) {
        (0, _) => State::Problem,
        (_, 0) => State::Good,
        _ => State::Note,
    };
    let check = Check::new("plugins", state, found);
    if state == State::Good {
        check
    } else {
        check.hint("`witness plugin list` says where was looked, and why others were refused")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The name of the supply-chain tool: the one that the shell finds first decides.
    #[test]
    fn another_program_of_this_name_is_a_problem_only_when_it_comes_first() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("a"), directory.path().join("b"));
        for place in [&first, &second] {
            std::fs::create_dir(place).unwrap();
            let file = place.join("witness");
            std::fs::write(&file, "").unwrap();
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = std::env::join_paths([&first, &second]).unwrap();
        let found = find_on_path(&path);
        assert_eq!(found, Some(first.join("witness")));
        let ours = |place: &Path| place.join("witness").canonicalize().ok();
        assert_eq!(judge_path(found.clone(), ours(&first)).state, State::Good);
        assert_eq!(judge_path(found, ours(&second)).state, State::Problem);
        assert_eq!(judge_path(None, ours(&first)).state, State::Note);
    }
}
