//! The proxy under test as a process: starting it, knowing that it is ready, what CPU time and memory it used, and
//! ending it. Touches only processes that it started or whose id it was given.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How many new tables the workers have taken up.
const SWAPS: &str = "sluicegate_worker_swaps_total";

/// A sluicegate that ends with this value.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    /// Where it serves HTTP.
    pub http: SocketAddr,
    /// Its admin port.
    pub admin: SocketAddr,
}

impl Proxy {
    /// Starts `binary run --config CONFIG` with one worker on free loopback ports and waits until `/readyz` says 200.
    ///
    /// # Errors
    /// If it cannot be started, ends, or is not ready within ten seconds.
    pub fn start(binary: &Path, config: &Path, extra: &[&str]) -> Result<Self> {
        let config = config.to_str().context("path is not UTF-8")?;
        let proxy = Self::spawn(binary, &[&["--config", config], extra].concat())?;
        proxy.ready_within(Duration::from_secs(10))
    }

    /// Starts `binary run ARGS` with one worker on free loopback ports, and does not wait.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(binary: &Path, args: &[&str]) -> Result<Self> {
        let (http, admin) = (free_address()?, free_address()?);
        let child = Command::new(binary)
            .args(["run", "--workers", "1", "--access-log", "off"])
            .args(["--http", &http.to_string(), "--admin", &admin.to_string()])
            .args(if args.contains(&"--https") { &[][..] } else { &["--https", "none"] })
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        Ok(Self { child, http, admin })
    }

    /// Waits until `/readyz` says 200.
    ///
    /// # Errors
    /// If it ends, or is not ready within `patience`.
    pub fn ready_within(mut self, patience: Duration) -> Result<Self> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the proxy ended: {status}");
            }
            if self.admin_get("/readyz").is_ok_and(|(status, _)| status == 200) {
                return Ok(self);
            }
            if Instant::now() > deadline {
                bail!("the proxy is not ready after {patience:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Status and body of `GET path` on the admin port.
    ///
    /// # Errors
    /// Those of the socket, or an answer that is not HTTP.
    pub fn admin_get(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
        Ok((status, body.to_owned()))
    }

    /// The sum of all samples of the metric `name` whose label set contains `label` (empty: any).
    ///
    /// # Errors
    /// If `/metrics` does not answer.
    pub fn metric(&self, name: &str, label: &str) -> Result<Option<f64>> {
        let (_, text) = self.admin_get("/metrics")?;
        Ok(sum_of(&text, name, label))
    }

    /// How many new tables its one worker has taken up.
    ///
    /// # Errors
    /// If `/metrics` does not answer or does not tell.
    pub fn swaps(&self) -> Result<u64> {
        match self.metric(SWAPS, "")? {
            Some(count) => Ok(count as u64),
            None => bail!("the proxy has no metric {SWAPS}"),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The sum of the samples of `name` in Prometheus text whose label set contains `label`; `None` without any.
fn sum_of(text: &str, name: &str, label: &str) -> Option<f64> {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once('}')?,
            None => ("", rest.strip_prefix(' ')?),
        };
        labels.contains(label).then(|| value.trim().parse::<f64>().ok()).flatten()
    };
    text.lines().filter_map(value).fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

/// A loopback address with a port that was free a moment ago.
///
/// # Errors
/// If no port can be bound.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// `pid` and all its descendants.
fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(&pid) = all.get(next) {
        next += 1;
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    all
}

/// CPU time in nanoseconds that all threads of `pid` and of its descendants have had, from `schedstat`.
///
/// # Errors
/// If the process is gone.
pub fn cpu_nanos(pid: u32) -> Result<u64> {
    let mut total = 0;
    for pid in family(pid) {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let stat = fs::read_to_string(task?.path().join("schedstat"))?;
            let nanos = stat.split_whitespace().next().and_then(|field| field.parse::<u64>().ok());
            total += nanos.context("schedstat has no first field")?;
        }
    }
    Ok(total)
}

/// [`cpu_nanos`], with what descendants have had that ended meanwhile, to the tick of a clock (10 ms) for each of them.
///
/// # Errors
/// If the process is gone.
pub fn cpu_nanos_with_ended(pid: u32) -> Result<u64> {
    // One that ends while it is asked makes an error of it; the next time it counts for its parent.
    let mut tries = 0;
    loop {
        match cpu_nanos(pid).and_then(|nanos| Ok(nanos + ended_nanos(pid)?)) {
            Err(_) if tries < 20 && Path::new(&format!("/proc/{pid}")).exists() => tries += 1,
            other => return other,
        }
    }
}

/// CPU time of children that `pid` and its descendants have waited for: `cutime` and `cstime` of `proc_pid_stat(5)`, in ticks
/// of `USER_HZ`, which is 100 on every architecture that Linux has today.
fn ended_nanos(pid: u32) -> Result<u64> {
    let mut ticks = 0;
    for pid in family(pid) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // After the name, which may hold anything, the state is the third field.
        let (_, fields) = stat.rsplit_once(')').context("stat has no name")?;
        let times = fields.split_whitespace().skip(13).take(2).map(str::parse::<u64>);
        ticks += times.sum::<Result<u64, _>>()?;
    }
    Ok(ticks * 10_000_000)
}

/// Proportional memory in bytes of `pid` and its descendants, from `smaps_rollup`.
///
/// # Errors
/// If the process is gone.
pub fn pss_bytes(pid: u32) -> Result<u64> {
    let mut total = 0;
    for pid in family(pid) {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss line")?;
        let kib = line.trim().trim_end_matches(" kB").trim().parse::<u64>()?;
        total += kib * 1_024;
    }
    Ok(total)
}

/// CPU time of this thread, which a busy machine does not lengthen; zero where `/proc` does not tell.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0))
}

/// Resident set of this process in bytes; 0 where `/proc` does not tell.
#[must_use]
pub fn resident_bytes() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4_096
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_name_and_label_are_summed() {
        let text = "# HELP a_total x\na_total{x=\"1\"} 2\na_total{x=\"2\"} 3\na_total_more 9\nb 7\n";
        assert_eq!(sum_of(text, "a_total", ""), Some(5.0));
        assert_eq!(sum_of(text, "a_total", "x=\"2\""), Some(3.0));
        assert_eq!(sum_of(text, "b", ""), Some(7.0));
        assert_eq!(sum_of(text, "c", ""), None);
    }

    #[test]
    fn this_process_has_used_cpu_and_memory() {
        assert!(cpu_nanos(std::process::id()).unwrap() > 0);
        assert!(pss_bytes(std::process::id()).unwrap() > 0);
        // The kernel accounts what a thread has used when the clock ticks, not when it is asked.
        let deadline = Instant::now() + Duration::from_secs(10);
        while thread_cpu_time().is_zero() {
            assert!(Instant::now() < deadline);
        }
        assert!(resident_bytes() > 0);
    }

    #[test]
    fn what_an_ended_child_has_used_still_counts() {
        let pid = std::process::id();
        let before = ended_nanos(pid).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while ended_nanos(pid).unwrap() == before {
            assert!(Instant::now() < deadline);
            let busy = "i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done";
            assert!(Command::new("sh").args(["-c", busy]).status().unwrap().success());
        }
        assert!(cpu_nanos_with_ended(pid).unwrap() > ended_nanos(pid).unwrap());
    }
}
