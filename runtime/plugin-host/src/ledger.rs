//! How often a plugin died, and whether it may be started again. Pure: times are passed in.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use witness_plugin_protocol::{Diagnostic, Kind};

use crate::boot::Identity;
use crate::config::RestartPolicy;
use crate::entry::SetAside;

/// Purposes that are remembered; the one whose last death is longest ago is forgotten first.
const RECORDS_MAX: usize = 1024;

/// Deaths by plugin file and purpose.
#[derive(Default)]
pub(crate) struct Ledger {
    records: BTreeMap<(PathBuf, String), Record>,
}

struct Record {
    identity: Option<Identity>,
    deaths: VecDeque<Duration>,
    last: Diagnostic,
    is_set_aside: bool,
}

/// Whether a worker may be started now.
#[derive(Debug, PartialEq)]
pub(crate) enum Admission {
    /// It may.
    Now,
    /// It may after this pause.
    After(Duration),
    /// It may not, until a reset or another file.
    SetAside(SetAside),
}

impl Ledger {
    /// Notes a death. Returns whether it was the one that sets the plugin aside.
    pub(crate) fn note(
        &mut self,
        path: &Path,
        identity: Option<Identity>,
        purpose: &str,
        death: &Diagnostic,
        now: Duration,
        policy: &RestartPolicy,
    ) -> bool {
        let key = (path.to_owned(), purpose.to_owned());
        if self.records.len() >= RECORDS_MAX && !self.records.contains_key(&key) {
            let oldest = self
                .records
                .iter()
                .min_by_key(|(_, record)| record.deaths.back().copied());
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.records.remove(&oldest);
            }
        }
        let record = self.records.entry(key).or_insert_with(|| Record {
            identity,
            deaths: VecDeque::new(),
            last: death.clone(),
            is_set_aside: false,
        });
        if record.identity != identity {
            record.identity = identity;
            record.deaths.clear();
            record.is_set_aside = false;
        }
        record.deaths.push_back(now);
        record.forget_before(now, policy);
        record.last = death.clone();
        let was_set_aside = record.is_set_aside;
        record.is_set_aside |= record.deaths.len() >= policy.deaths_max.max(1);
        record.is_set_aside && !was_set_aside
    }

    /// Decides whether a worker may be started.
    pub(crate) fn admit(
        &mut self,
        path: &Path,
        identity: Option<Identity>,
        purpose: &str,
        now: Duration,
        policy: &RestartPolicy,
    ) -> Admission {
        let key = (path.to_owned(), purpose.to_owned());
        let Some(record) = self.records.get_mut(&key) else {
            return Admission::Now;
        };
        if record.identity != identity {
            self.records.remove(&key);
            return Admission::Now;
        }
        if record.is_set_aside {
            return Admission::SetAside(record.set_aside(purpose));
        }
        record.forget_before(now, policy);
        let Some(last) = record.deaths.back() else {
            return Admission::Now;
        };
        let ready = *last + pause_after(record.deaths.len(), policy);
        match ready.checked_sub(now) {
            Some(left) if !left.is_zero() => Admission::After(left),
            _ => Admission::Now,
        }
    }

    /// Forgets the deaths of a plugin.
    pub(crate) fn reset(&mut self, path: &Path) {
        self.records.retain(|(known, _), _| known != path);
    }

    /// Returns the purposes for which a plugin is set aside.
    pub(crate) fn set_aside(&self, path: &Path, identity: Option<Identity>) -> Vec<SetAside> {
        self.records
            .iter()
            .filter(|((known, _), record)| known == path && record.is_set_aside && record.identity == identity)
            .map(|((_, purpose), record)| record.set_aside(purpose))
            .collect()
    }
}

impl Record {
    fn forget_before(&mut self, now: Duration, policy: &RestartPolicy) {
        while self.deaths.front().is_some_and(|death| *death + policy.window < now) {
            self.deaths.pop_front();
        }
    }

    fn set_aside(&self, purpose: &str) -> SetAside {
        SetAside {
            purpose: purpose.to_owned(),
            deaths: self.deaths.len(),
            last: self.last.clone(),
        }
    }
}

/// Returns the pause after so many deaths: none after the first, then doubling.
fn pause_after(deaths: usize, policy: &RestartPolicy) -> Duration {
    match deaths.checked_sub(2) {
        None => Duration::ZERO,
        Some(doublings) => {
            let factor = 1u32
                .checked_shl(u32::try_from(doublings).unwrap_or(u32::MAX))
                .unwrap_or(u32::MAX);
            policy.pause_base.saturating_mul(factor).min(policy.pause_max)
        }
    }
}

/// Returns the refusal of a start during a pause.
pub(crate) fn pausing(plugin: &str, purpose: &str, left: Duration) -> Diagnostic {
    Diagnostic::new(
        "witness::plugin::pausing",
        Kind::Busy,
        format!(
            "plugin `{plugin}` crashed again and again for `{purpose}` and is not started for another {:.1} s",
            left.as_secs_f64()
        ),
    )
    .hint("try again then")
}

/// Returns the refusal of a start of a plugin that was set aside.
pub(crate) fn set_aside(plugin: &str, record: &SetAside) -> Diagnostic {
    let mut diagnostic = Diagnostic::new(
        "witness::plugin::set_aside",
        Kind::Plugin,
        format!(
            "plugin `{plugin}` is set aside for `{}`: its worker died {} times",
            record.purpose, record.deaths
        ),
    )
    .cause(format!("the last time: {}", record.last.message));
    diagnostic.causes.extend(record.last.causes.iter().cloned());
    diagnostic.hint(format!(
        "replace the plugin's file, or run `witness plugin check {plugin}` to have it tried again"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RestartPolicy = RestartPolicy {
        pause_base: Duration::from_secs(1),
        pause_max: Duration::from_secs(3),
        wait_max: Duration::ZERO,
        deaths_max: 5,
        window: Duration::from_secs(100),
    };

    fn death() -> Diagnostic {
        Diagnostic::new("witness::plugin::worker_died", Kind::Plugin, "ended by SIGSEGV")
    }

    #[test]
    fn pauses_double_up_to_the_limit_and_then_the_plugin_is_set_aside() {
        let (mut ledger, path) = (Ledger::default(), Path::new("/p"));
        let mut now = Duration::from_secs(1000);
        for pause in [0u64, 1, 2, 3] {
            assert!(!ledger.note(path, None, "m", &death(), now, &POLICY));
            let expected = match pause {
                0 => Admission::Now,
                seconds => Admission::After(Duration::from_secs(seconds)),
            };
            assert_eq!(ledger.admit(path, None, "m", now, &POLICY), expected, "pause {pause}");
            now += Duration::from_secs(pause);
            assert_eq!(ledger.admit(path, None, "m", now, &POLICY), Admission::Now);
        }
        assert!(ledger.note(path, None, "m", &death(), now, &POLICY));
        now += Duration::from_secs(10_000);
        assert!(matches!(
            ledger.admit(path, None, "m", now, &POLICY),
            Admission::SetAside(_)
        ));
        assert_eq!(ledger.admit(path, None, "another model", now, &POLICY), Admission::Now);
        assert_eq!(ledger.set_aside(path, None).len(), 1);
        ledger.reset(path);
        assert_eq!(ledger.admit(path, None, "m", now, &POLICY), Admission::Now);
    }

    #[test]
    fn old_deaths_do_not_count() {
        let (mut ledger, path) = (Ledger::default(), Path::new("/p"));
        for round in 0..20 {
            let now = Duration::from_secs(1000 + round * 101);
            assert_eq!(ledger.admit(path, None, "m", now, &POLICY), Admission::Now);
            assert!(!ledger.note(path, None, "m", &death(), now, &POLICY));
        }
    }

    #[test]
    fn the_number_of_records_is_bounded() {
        let mut ledger = Ledger::default();
        for number in 0..RECORDS_MAX + 10 {
            let now = Duration::from_secs(number as u64);
            ledger.note(Path::new("/p"), None, &number.to_string(), &death(), now, &POLICY);
        }
        assert_eq!(ledger.records.len(), RECORDS_MAX);
    }
}
