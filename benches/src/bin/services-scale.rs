//! Ten thousand Services of type LoadBalancer, and endpoints of one of them that come and go: how soon a new connection
//! gets there, how late one still does, and whether connections that are open notice anything. Exits 1 if one does.
//!
//! Their addresses are all those of a network of loopback, so it runs in a network of its own, as root:
//!
//! ```sh
//! unshare --net sh -c 'ip link set lo up; ip address add 198.18.0.1/15 dev lo; ip route add default dev lo;
//!     target/release/services-scale'
//! ```

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use benches::cluster::Cluster;
use benches::cluster::backend::host_ip;
use benches::cluster::objects::{self, NAMESPACE};
use benches::process::{self, Proxy};
use benches::report::{millis, quantiles};
use clap::Parser;
use serde_json::{Value, json};

/// Changes of endpoints among many Services, seen by new and by open connections.
#[derive(Debug, Parser)]
struct Args {
    /// The sluicegate to measure
    #[arg(long, default_value = "target/release/sluicegate")]
    binary: PathBuf,
    /// The API server; default: our own, in this process
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Services, each with an address and an EndpointSlice. Each takes a descriptor of the proxy.
    #[arg(long, default_value_t = 10_000)]
    services: u16,
    /// Endpoints of each
    #[arg(long, default_value_t = 10)]
    endpoints: u32,
    /// Times that an endpoint comes and goes
    #[arg(long, default_value_t = 200)]
    rounds: u32,
    /// Services get their addresses from a pool, and their status says so; all of them ask at once, when the proxy starts
    #[arg(long)]
    pool: bool,
}

/// Where all addresses are.
const NETWORK: [u8; 2] = [198, 18];
/// Number of the address of [`NAME`].
const MOVING: u16 = 10;
/// The Service whose endpoints change: each endpoint says its number at the one port, and sends back what it gets at the
/// other.
const NAME: &str = "moving";
const NUMBERS: u16 = 9_000;
const ECHO: u16 = 9_001;
/// Connections that are open all the time, besides one for each round.
const LASTING: usize = 64;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    println!("{}", runtime.block_on(run(&args))?);
    Ok(())
}

async fn run(args: &Args) -> Result<Value> {
    let cluster = Cluster::new(args.kubeconfig.as_deref()).await?;
    for object in objects::ground() {
        cluster.apply(&object).await?;
    }
    if args.pool {
        cluster.define_pools().await?;
        let range = format!("{}-{}", address(256), address(u16::MAX));
        let own = address(MOVING).to_string();
        cluster.apply_all([objects::pool("many", &range, true), objects::pool("one", &own, false)]).await?;
    }
    let others = (0..args.services.saturating_sub(1)).flat_map(|number| {
        let name = format!("site-{number}");
        let slice = objects::made_up_slice(&name, u32::from(number), args.endpoints, 0);
        let address = (!args.pool).then(|| address(number + 256));
        [objects::load_balancer(&name, address, &[("http", 80)]), slice]
    });
    cluster.apply_all(others).await?;
    let (stays, comes) = (Endpoint::start(1)?, Endpoint::start(2)?);
    let moving = comes.slice()?;
    let service =
        objects::load_balancer(NAME, Some(address(MOVING)), &[("numbers", NUMBERS), ("echo", ECHO)]);
    cluster.apply_all([service, stays.slice()?]).await?;
    let began = Instant::now();
    let before = written(&cluster);
    let proxy = start(&cluster, args)?;
    let ready = began.elapsed();
    let given = match args.pool {
        true => Some(all_given(&cluster, args.services, &proxy, began, before).await?),
        false => None,
    };
    let mut events =
        cluster.watch(&format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices")).await?;
    let open = Lasting::start()?;
    let probe = Probe::start();
    let mut moves = Vec::new();
    for _ in 0..args.rounds {
        let written = Instant::now();
        cluster.apply(&moving).await?;
        let added = (written, events.next("ADDED", "moving-2").await?);
        tokio::time::sleep(Duration::from_millis(100)).await;
        // Of these, every other one has an endpoint that goes while it is open.
        open.add()?;
        cluster.delete(&moving).await?;
        moves.push((added, events.next("DELETED", "moving-2").await?));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let answers = probe.stop()?;
    let lasting = open.stop()?;
    let (mut first, mut last) = (Vec::new(), Vec::new());
    let mut slowest = (0, f64::MIN, 0.0);
    for (round, ((written, event), removed)) in moves.into_iter().enumerate() {
        let (took, unasked) = first_answer(&answers, written, event)?;
        first.push(took);
        if took > slowest.1 {
            slowest = (round, took, unasked);
        }
        let until = removed + Duration::from_millis(90);
        let late = answers.iter().filter(|answer| answer.number == 2 && answer.sent < until);
        last.push(late.map(|answer| millis(answer.sent, removed)).fold(f64::MIN, f64::max));
    }
    Ok(json!({
        "services": args.services, "rounds": args.rounds, "connections": answers.len(),
        "ready_seconds": ready.as_secs_f64(), "all_have_addresses": given,
        "memory_mib": process::pss_bytes(proxy.pid())? as f64 / f64::from(1 << 20),
        "event_to_first_connection_ms": quantiles(&mut first),
        "slowest": {"round": slowest.0, "ms": slowest.1, "of_which_nobody_asked_ms": slowest.2},
        "removal_to_last_connection_ms": quantiles(&mut last),
        "open_connections": lasting.0, "echoes_on_them": lasting.1,
    }))
}

/// Writes of Services and of their status so far, if the server is ours.
fn written(cluster: &Cluster) -> [u64; 2] {
    let count = |what| cluster.own().map_or(0, |server| server.requests().writes(what));
    ["services", "services/status"].map(count)
}

/// Waits until all have addresses in their status; says when that was, and what it took since `before`.
async fn all_given(
    cluster: &Cluster,
    services: u16,
    proxy: &Proxy,
    began: Instant,
    before: [u64; 2],
) -> Result<Value> {
    // Lists of all of them, again and again, would be most of the work.
    while cluster.own().is_some() && written(cluster)[1] - before[1] < u64::from(services) {
        ensure!(began.elapsed() < PATIENCE * 10, "too few writes of status");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let list = format!("/api/v1/namespaces/{NAMESPACE}/services");
    cluster.wait_for_status(&list, services.into(), PATIENCE * 10).await?;
    let (took, now) = (began.elapsed().as_secs_f64(), written(cluster));
    let cpu = Duration::from_nanos(process::cpu_nanos(proxy.pid())?);
    Ok(json!({
        "seconds": took, "writes": now[0] - before[0], "writes_of_status": now[1] - before[1],
        "cpu_seconds": cpu.as_secs_f64(), "tables": proxy.metric("sluicegate_config_compiles_total", "")?,
    }))
}

fn start(cluster: &Cluster, Args { binary, pool, .. }: &Args) -> Result<Proxy> {
    let kubeconfig = cluster.kubeconfig().to_str().context("path is not UTF-8")?;
    let args = ["--kubernetes", "--kubeconfig", kubeconfig, "--controller-class", objects::CONTROLLER];
    let rest = ["--election-namespace", NAMESPACE, "--state-dir", "none", "--service-types", "load-balancer"];
    let network = format!("{}/15", address(0));
    let asked = ["--update-status=false", "--load-balancer-addresses", &network];
    let more = if *pool { &[][..] } else { &asked[..] };
    Proxy::spawn(binary, &[&args[..], &rest, more].concat())?.ready_within(PATIENCE)
}

/// An endpoint with both ports, on an address that an EndpointSlice may hold. It lives as long as the process.
struct Endpoint {
    number: u8,
    address: IpAddr,
    ports: (u16, u16),
}

impl Endpoint {
    fn start(number: u8) -> Result<Self> {
        let address = host_ip()?;
        let (numbers, echo) = (TcpListener::bind((address, 0))?, TcpListener::bind((address, 0))?);
        let ports = (numbers.local_addr()?.port(), echo.local_addr()?.port());
        std::thread::spawn(move || {
            // The client ends each as soon as it has read; long before it is dropped here.
            let mut recent = VecDeque::new();
            for mut stream in numbers.incoming().map_while(Result::ok) {
                let _gone = stream.write_all(&[number]);
                recent.push_back(stream);
                if recent.len() > 256 {
                    recent.pop_front();
                }
            }
        });
        std::thread::spawn(move || {
            for stream in echo.incoming().map_while(Result::ok) {
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        Ok(Self { number, address, ports })
    }

    fn slice(&self) -> Result<Value> {
        let ports = [("numbers", self.ports.0), ("echo", self.ports.1)];
        Ok(objects::slice_of_ports(NAME, &self.number.to_string(), self.address, &ports))
    }
}

/// Address `number` of the network.
fn address(number: u16) -> IpAddr {
    let ([a, b], [c, d]) = (NETWORK, number.to_be_bytes());
    Ipv4Addr::new(a, b, c, d).into()
}

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect((address(MOVING), port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// What a new connection got.
struct Answer {
    sent: Instant,
    read: Instant,
    number: u8,
}

/// How long after `event` the new endpoint, which was `written` before, answered for the first time, and for how much of
/// that no connection was asked for, because the probe paused or had no CPU; in milliseconds.
fn first_answer(answers: &[Answer], written: Instant, event: Instant) -> Result<(f64, f64)> {
    let is_first = |answer: &Answer| answer.number == 2 && answer.read > written;
    let at = answers.iter().position(is_first).context("the new endpoint never answered")?;
    let (before, found) = (answers.iter().take(at), answers.iter().skip(1).take(at));
    let unasked = before.zip(found).filter(|(_, next)| next.sent > event);
    let unasked = unasked.map(|(last, next)| millis(next.sent, last.read.max(event))).sum();
    Ok((millis(answers.get(at).context("no such answer")?.read, event), unasked))
}

/// Connects anew all the time and notes who answers.
struct Probe {
    done: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Answer>>>,
}

impl Probe {
    fn start() -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            let mut answers = Vec::new();
            while !flag.load(SeqCst) {
                let sent = Instant::now();
                let mut stream = connect(NUMBERS)?;
                let mut number = [0];
                stream.read_exact(&mut number).context("a new connection got no answer")?;
                answers.push(Answer { sent, read: Instant::now(), number: number[0] });
                // A reset leaves nothing behind that would use up the ports.
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
                drop(stream);
                std::thread::sleep(Duration::from_micros(200));
            }
            Ok(answers)
        });
        Self { done, thread }
    }

    fn stop(self) -> Result<Vec<Answer>> {
        self.done.store(true, SeqCst);
        self.thread.join().map_err(|_| anyhow!("the probe panicked"))?
    }
}

/// Connections that stay open, and a thread that says something on one of them each millisecond.
struct Lasting {
    streams: Arc<Mutex<Vec<TcpStream>>>,
    done: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Lasting {
    fn start() -> Result<Self> {
        let first = (0..LASTING).map(|_| connect(ECHO)).collect::<Result<Vec<TcpStream>>>()?;
        let (streams, done) = (Arc::new(Mutex::new(first)), Arc::new(AtomicBool::new(false)));
        let (shared, flag) = (Arc::clone(&streams), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let mut count = 0_u64;
            while !flag.load(SeqCst) {
                let streams = shared.lock().unwrap_or_else(PoisonError::into_inner);
                let turn = usize::try_from(count)? % streams.len();
                echo(streams.get(turn).context("no such connection")?, count)?;
                drop(streams);
                count += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(count)
        });
        Ok(Self { streams, done, thread })
    }

    fn add(&self) -> Result<()> {
        let stream = connect(ECHO)?;
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        Ok(())
    }

    /// How many there are, and how often one was spoken on; each of them still works.
    fn stop(self) -> Result<(usize, u64)> {
        self.done.store(true, SeqCst);
        let count = self.thread.join().map_err(|_| anyhow!("the connections' thread panicked"))??;
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in &*streams {
            echo(stream, u64::MAX)?;
        }
        Ok((streams.len(), count))
    }
}

fn echo(mut stream: &TcpStream, value: u64) -> Result<()> {
    stream.write_all(&value.to_be_bytes())?;
    let mut back = [0; 8];
    stream.read_exact(&mut back).context("an open connection ended")?;
    ensure!(u64::from_be_bytes(back) == value, "other bytes came back");
    Ok(())
}
