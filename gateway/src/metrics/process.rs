//! Figures of the process itself, under the names that every Prometheus client uses.

use std::time::{SystemTime, UNIX_EPOCH};

use super::families as f;
use super::text::Text;

/// Renders what the kernel says; a figure that cannot be read is left out.
pub(super) fn render(text: &mut Text<'_>, started: SystemTime) {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let millis = cpu.tv_nsec / 1_000_000;
    text.single(&f::PROCESS_CPU, format_args!("{}.{millis:03}", cpu.tv_sec));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(kib) = status_value(&status, "VmRSS:") {
        text.single(&f::PROCESS_RESIDENT_MEMORY, kib * 1_024);
    }
    if let Some(threads) = status_value(&status, "Threads:") {
        text.single(&f::PROCESS_THREADS, threads);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        // The listing's own descriptor is among them.
        text.single(&f::PROCESS_OPEN_FDS, entries.count().saturating_sub(1));
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(limit) = limit {
        text.single(&f::PROCESS_MAX_FDS, limit);
    }
    let since_epoch = started.duration_since(UNIX_EPOCH).unwrap_or_default();
    text.single(
        &f::PROCESS_START_TIME,
        format_args!("{}.{:03}", since_epoch.as_secs(), since_epoch.subsec_millis()),
    );
}

/// The number after `key` in the text of `/proc/self/status`.
fn status_value(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::status_value;

    #[test]
    fn a_status_value_is_the_number_after_its_key() {
        let status = "Name:\tx\nVmRSS:\t    5120 kB\nThreads:\t3\n";
        assert_eq!(status_value(status, "VmRSS:"), Some(5_120));
        assert_eq!(status_value(status, "Threads:"), Some(3));
        assert_eq!(status_value(status, "VmSwap:"), None);
    }
}
