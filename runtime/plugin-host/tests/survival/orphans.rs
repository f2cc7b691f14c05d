//! No process is left behind: not when the host is killed, and not by a plugin that forks.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use crate::stage::{LONG, Stage, start};
use crate::{Case, case};
use witness_plugin_host::{Host, HostConfig, Limits};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("orphans::a_worker_does_not_outlive_its_host", host_killed),
        case("orphans::what_a_plugin_forked_is_ended_with_it", forked),
    ]
}

/// The argument that makes this program a host that is to be killed.
pub(crate) const PARENT: &str = "parent-to-be-killed";

/// Starts a worker, prints its number and waits to be killed.
pub(crate) fn parent(plugins: Option<OsString>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut config = HostConfig::new(std::env::current_exe().unwrap());
        config.directories = plugins.map(Into::into).into_iter().collect();
        let host = Host::new(config);
        let plugin = host.find("hostile").await.unwrap();
        let worker = host
            .start(&plugin, Limits::for_purpose("to be orphaned"))
            .await
            .unwrap();
        println!("{}", worker.pid());
        std::future::pending::<()>().await;
    });
    ExitCode::SUCCESS
}

async fn host_killed() {
    let stage = Stage::new();
    let mut host = Command::new(std::env::current_exe().unwrap())
        .arg(PARENT)
        .arg(stage.plugins())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(host.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let worker: i32 = line.trim().parse().unwrap();
    assert!(!members_of(worker).is_empty());
    host.kill().unwrap();
    host.wait().unwrap();
    until_empty(worker).await;
}

async fn forked() {
    let stage = Stage::new();
    let host = stage.hostile("init:fork", |_| {});
    let worker = start(&host).await.unwrap();
    let group = i32::try_from(worker.pid()).unwrap();
    assert_eq!(members_of(group).len(), 2, "the worker and its child");
    worker.stop(LONG).await.unwrap();
    until_empty(group).await;
}

/// Waits until a process group is empty; the limit is for a test that would otherwise never end.
async fn until_empty(group: i32) {
    for _ in 0..3000 {
        if members_of(group).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("group {group} lives on: {:?}", members_of(group));
}

/// Returns the live processes of a group. One that has ended and was not collected yet does not count.
fn members_of(group: i32) -> Vec<i32> {
    let mut members = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // `pid (name) state parent group ...`; the name may hold anything, so what follows the last `)` is read.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let Some((_, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        if fields.first().is_some_and(|state| *state != "Z" && *state != "X")
            && fields.get(2).and_then(|field| field.parse().ok()) == Some(group)
        {
            members.push(pid);
        }
    }
    members
}
