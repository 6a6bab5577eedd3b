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
use std::path::{Path, PathBuf};
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
    let others = (0..args.services.saturating_sub(1)).flat_map(|number| {
        let name = format!("site-{number}");
        let slice = objects::made_up_slice(&name, u32::from(number), args.endpoints, 0);
        [objects::load_balancer(&name, address(number + 256), &[("http", 80)]), slice]
    });
    cluster.apply_all(others).await?;
    let (stays, comes) = (Endpoint::start(1)?, Endpoint::start(2)?);
    let moving = comes.slice()?;
    let service = objects::load_balancer(NAME, address(MOVING), &[("numbers", NUMBERS), ("echo", ECHO)]);
    cluster.apply_all([service, stays.slice()?]).await?;
    let began = Instant::now();
    let proxy = start(&cluster, &args.binary)?;
    let ready = began.elapsed();
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
    for ((written, event), removed) in moves {
        let found = answers.iter().find(|answer| answer.number == 2 && answer.read > written);
        first.push(millis(found.context("the new endpoint never answered")?.read, event));
        let until = removed + Duration::from_millis(90);
        let late = answers.iter().filter(|answer| answer.number == 2 && answer.sent < until);
        last.push(late.map(|answer| millis(answer.sent, removed)).fold(f64::MIN, f64::max));
    }
    Ok(json!({
        "services": args.services, "rounds": args.rounds, "connections": answers.len(),
        "ready_seconds": ready.as_secs_f64(),
        "memory_mib": process::pss_bytes(proxy.pid())? as f64 / f64::from(1 << 20),
        "event_to_first_connection_ms": quantiles(&mut first),
        "removal_to_last_connection_ms": quantiles(&mut last),
        "open_connections": lasting.0, "echoes_on_them": lasting.1,
    }))
}

fn start(cluster: &Cluster, binary: &Path) -> Result<Proxy> {
    let kubeconfig = cluster.kubeconfig().to_str().context("path is not UTF-8")?;
    let args = ["--kubernetes", "--kubeconfig", kubeconfig, "--controller-class", objects::CONTROLLER];
    let rest = ["--election-namespace", NAMESPACE, "--state-dir", "none", "--update-status=false"];
    let network = format!("{}/15", address(0));
    let services = ["--service-types", "load-balancer", "--load-balancer-addresses", &network];
    Proxy::spawn(binary, &[&args[..], &rest, &services].concat())?.ready_within(PATIENCE)
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
