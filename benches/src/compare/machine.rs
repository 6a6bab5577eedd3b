//! The machine that is measured on: what the record says of it, and the one setting that is changed for as long as it takes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use super::cpu;
use super::peers::Programs;
use super::record::Machine;

const CONGESTION: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
const SETTINGS: [&str; 7] = [
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.core.somaxconn",
    "net.core.default_qdisc",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_tw_reuse",
];

/// TCP's congestion control is `cubic` while this lives: `bbr` without the `fq` scheduler paces on loopback, which would
/// measure timers.
#[derive(Debug)]
pub struct Congestion {
    path: PathBuf,
    before: Option<String>,
}

impl Congestion {
    /// Sets it. Where that is forbidden, says so and goes on.
    #[must_use]
    pub fn cubic() -> Self {
        Self::set(Path::new(CONGESTION))
    }

    fn set(path: &Path) -> Self {
        let before = fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        if before == "cubic" || before.is_empty() {
            return Self { path: path.into(), before: None };
        }
        let before = match fs::write(path, "cubic") {
            Ok(()) => Some(before),
            Err(error) => {
                eprintln!("congestion control stays {before} ({error}): what is measured may be its pacing");
                None
            }
        };
        Self { path: path.into(), before }
    }
}

impl Drop for Congestion {
    fn drop(&mut self) {
        let Some(before) = &self.before else { return };
        if let Err(error) = fs::write(&self.path, before) {
            eprintln!("congestion control could not be put back to {before}: {error}");
        }
    }
}

/// What the record says of this machine.
///
/// # Errors
/// If the kernel does not tell which CPUs there are.
pub fn describe(programs: &Programs) -> Result<Machine> {
    Ok(Machine { versions: programs.versions(), ..here()? })
}

/// This machine and this tree, without the version of any program.
///
/// # Errors
/// If the kernel does not tell which CPUs there are.
pub fn here() -> Result<Machine> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let git = |args: &[&str]| {
        let output =
            Command::new("git").arg("-C").arg(root).args(args).stderr(Stdio::null()).output().ok()?;
        String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
    };
    let changed = if git(&["status", "--porcelain"]).is_some() { "+" } else { "" };
    Ok(Machine {
        commit: git(&["rev-parse", "HEAD"]).unwrap_or_else(|| "unknown".to_owned()) + changed,
        kernel: read("/proc/sys/kernel/osrelease"),
        cpu: field("/proc/cpuinfo", "model name").unwrap_or_default(),
        cpus: cpu::usable()?.len(),
        memory: field("/proc/meminfo", "MemTotal").as_deref().and_then(kibibytes).unwrap_or(0),
        sysctls: settings(),
        versions: BTreeMap::new(),
    })
}

fn settings() -> BTreeMap<String, String> {
    let path = |name: &str| format!("/proc/sys/{}", name.replace('.', "/"));
    let values = SETTINGS.iter().map(|name| ((*name).to_owned(), read(&path(name)).replace('\t', " ")));
    values.filter(|(_, value)| !value.is_empty()).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let (_, value) =
        text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name)?;
    Some(value.trim().to_owned())
}

fn kibibytes(text: &str) -> Option<u64> {
    text.strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1_024)
}

/// The first line that a command says, on either stream.
pub fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_put_back_even_by_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("congestion");
        fs::write(&path, "bbr\n").unwrap();
        let unwound = std::panic::catch_unwind(|| {
            let _congestion = Congestion::set(&path);
            assert_eq!(fs::read_to_string(&path).unwrap(), "cubic");
            panic!("in the middle");
        });
        assert!(unwound.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "bbr");
    }

    #[test]
    fn this_machine_is_described() {
        let machine = describe(&Programs::new(Path::new("/nowhere"), Path::new("/nowhere"))).unwrap();
        assert!(machine.cpus > 0 && machine.memory > 0 && !machine.kernel.is_empty());
    }
}
