//! UDP load: flows that each have one datagram, or one burst of them, under way. Load and backend are one process and one thread, as in
//! `loadgen`, and every byte is checked on both sides.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use benches::poller::{Interest, Poller};
use benches::process;
use benches::report::Measured;
use clap::Parser;
use hdrhistogram::Histogram;
use serde_json::json;

/// Loads a UDP proxy, is its backend too, and checks every byte. Prints one JSON object; exits 1 if any was wrong or lost.
#[derive(Clone, Parser)]
struct Args {
    /// The proxy.
    #[arg(long)]
    target: SocketAddr,
    /// Addresses to echo on as the backend.
    #[arg(long, required = true)]
    backend: Vec<SocketAddr>,
    /// Clients, each of which is a flow.
    #[arg(long, default_value_t = 1_000)]
    flows: usize,
    /// Flows that wait for an answer at once. What the kernel queues per socket by default (208 KiB) holds 277.
    #[arg(long, default_value_t = 128)]
    in_flight: usize,
    /// Datagrams that a flow sends one after the other before it waits for their answers.
    #[arg(long, default_value_t = 1)]
    burst: u64,
    /// Bytes per datagram, at least 16.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Echoes that count; each is two datagrams through the proxy.
    #[arg(long, default_value_t = 200_000)]
    requests: u64,
    /// Echoes before those.
    #[arg(long, default_value_t = 20_000)]
    warmup: u64,
    /// Account the CPU time of this process and its descendants.
    #[arg(long)]
    pid: Option<u32>,
}

struct Client {
    socket: UdpSocket,
    /// Datagrams sent, and answers heard.
    round: u64,
    heard: u64,
    sent: Instant,
}

struct Load {
    args: Args,
    poller: Poller,
    backends: Vec<UdpSocket>,
    clients: Vec<Client>,
    idle: VecDeque<usize>,
    buffer: Vec<u8>,
    question: Vec<u8>,
    latency: Histogram<u64>,
    wrong: u64,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    ensure!(args.size >= 16, "a datagram has at least 16 bytes");
    ensure!(args.in_flight <= args.flows, "a flow has one datagram under way");
    let cpu = |pid: Option<u32>| pid.map(process::cpu_nanos).transpose();
    let mut load = Load::new(args.clone())?;
    load.run(args.warmup.max(args.flows as u64))?;
    load.latency.reset();
    let (before, started) = (cpu(args.pid)?, Instant::now());
    load.run(args.requests)?;
    let (elapsed, after) = (started.elapsed(), cpu(args.pid)?);
    let mut report =
        json!({ "flows": args.flows, "size": args.size, "requests": args.requests, "wrong": load.wrong });
    let cpu = before.zip(after).map(|(before, after)| after.saturating_sub(before));
    let (requests, connections) = (args.requests, args.flows);
    Measured { requests, elapsed, latency: &load.latency, cpu, memory: None, connections }
        .add_to(&mut report);
    println!("{report}");
    Ok(if load.wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Load {
    fn new(args: Args) -> Result<Self> {
        let read = Interest { read: true, write: false };
        let poller = Poller::new()?;
        let mut backends = Vec::new();
        for address in &args.backend {
            let socket = UdpSocket::bind(address).with_context(|| format!("cannot bind {address}"))?;
            socket.set_nonblocking(true)?;
            poller.add(&socket, (args.flows + backends.len()) as u64, read)?;
            backends.push(socket);
        }
        let mut clients = Vec::new();
        for number in 0..args.flows {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.connect(args.target)?;
            socket.set_nonblocking(true)?;
            poller.add(&socket, number as u64, read)?;
            clients.push(Client { socket, round: 0, heard: 0, sent: Instant::now() });
        }
        let (idle, buffer, question) = ((0..args.flows).collect(), vec![0; 65_536], vec![0; args.size]);
        let latency = Histogram::new(3)?;
        Ok(Self { args, poller, backends, clients, idle, buffer, question, latency, wrong: 0 })
    }

    /// What `client` sends in this round: its number, the round, and a pattern of both.
    fn write(out: &mut [u8], number: u64, round: u64) {
        for (at, byte) in out.iter_mut().enumerate() {
            *byte = number.wrapping_mul(31).wrapping_add(round).wrapping_add(at as u64) as u8;
        }
        if let Some((head, rest)) = out.split_first_chunk_mut::<8>() {
            *head = number.to_be_bytes();
            if let Some(head) = rest.first_chunk_mut::<8>() {
                *head = round.to_be_bytes();
            }
        }
    }

    fn run(&mut self, requests: u64) -> Result<()> {
        let (mut begun, mut done) = (0, 0);
        let mut ready = Vec::new();
        while done < begun.max(requests) {
            while begun < requests && (begun - done) < self.args.in_flight as u64 * self.args.burst {
                let Some(number) = self.idle.pop_front() else { break };
                for _ in 0..self.args.burst {
                    self.ask(number)?;
                    begun += 1;
                }
            }
            ready.clear();
            self.poller.wait(&mut ready, Some(Duration::from_secs(2)))?;
            if ready.is_empty() {
                bail!("{} of {requests} echoes were lost", begun - done);
            }
            for token in ready.iter().map(|ready| ready.token as usize) {
                match token.checked_sub(self.args.flows) {
                    Some(backend) => self.echo(backend)?,
                    None => done += self.hear(token)?,
                }
            }
        }
        Ok(())
    }

    fn ask(&mut self, number: usize) -> Result<()> {
        let Some(client) = self.clients.get_mut(number) else { return Ok(()) };
        client.round += 1;
        client.sent = Instant::now();
        Self::write(&mut self.question, number as u64, client.round);
        client.socket.send(&self.question).context("cannot send")?;
        Ok(())
    }

    /// Sends back what has come to a backend, if it is what a client sent.
    fn echo(&mut self, backend: usize) -> Result<()> {
        let Some(socket) = self.backends.get(backend) else { return Ok(()) };
        while let Ok((length, peer)) = socket.recv_from(&mut self.buffer) {
            let received = self.buffer.get(..length).unwrap_or_default();
            if !Self::is_right(&mut self.question, received) {
                self.wrong += 1;
            }
            socket.send_to(received, peer).context("the backend cannot answer")?;
        }
        Ok(())
    }

    /// Whether this is what its first bytes say that it is.
    fn is_right(expected: &mut [u8], received: &[u8]) -> bool {
        let number = received.first_chunk::<8>().map(|head| u64::from_be_bytes(*head));
        let round = received.get(8..).and_then(|rest| rest.first_chunk::<8>());
        let Some((number, round)) = number.zip(round) else { return false };
        Self::write(expected, number, u64::from_be_bytes(*round));
        expected == received
    }

    /// Takes answers of a client; returns how many.
    fn hear(&mut self, number: usize) -> Result<u64> {
        let Some(client) = self.clients.get_mut(number) else { return Ok(0) };
        let mut heard = 0;
        while let Ok(length) = client.socket.recv(&mut self.buffer) {
            client.heard += 1;
            Self::write(&mut self.question, number as u64, client.heard);
            if self.buffer.get(..length) != Some(&self.question[..]) {
                self.wrong += 1;
            }
            self.latency.record(u64::try_from(client.sent.elapsed().as_micros())?)?;
            if client.heard == client.round {
                self.idle.push_back(number);
            }
            heard += 1;
        }
        Ok(heard)
    }
}
