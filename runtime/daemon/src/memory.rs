//! How much memory models may take: what the machine (or the control group around us) has, less a share for everybody else.

use witness_settings::Settings;

use crate::limits::MEMORY_SHARE_PERCENT;

/// Returns the budget in bytes: the setting, or [`MEMORY_SHARE_PERCENT`] of what there is.
pub(crate) fn budget_bytes(settings: &Settings) -> u64 {
    settings
        .memory_budget_bytes
        .unwrap_or_else(|| machine_bytes() / 100 * MEMORY_SHARE_PERCENT)
}

/// Returns the machine's memory, or the control group's limit when that is smaller.
fn machine_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    #[expect(clippy::useless_conversion, reason = "the field's type differs between targets")]
    let total = u64::from(info.totalram).saturating_mul(u64::from(info.mem_unit));
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    group.map_or(total, |group: u64| group.min(total))
}

/// Returns the resident memory of this process; 0 where the system does not say.
pub(crate) fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    kib.saturating_mul(1024)
}
