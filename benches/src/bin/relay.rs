//! The floor: a blind byte relay over one epoll descriptor. It parses nothing, keeps one upstream connection per client
//! connection and does for each small request and its answer two reads and two writes. What a proxy costs is told as
//! a multiple of this. It never checks, retries or times out anything.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use anyhow::Result;
use benches::poller::{Interest, Poller, Ready};
use clap::Parser;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, sockopt};
use rustix::pipe::{self, PipeFlags, SpliceFlags};
use slab::Slab;

/// Copies bytes between clients and one upstream, and does nothing else.
#[derive(Parser)]
struct Args {
    /// Where clients connect.
    #[arg(long)]
    listen: SocketAddr,
    /// Where every client is connected to; several are taken in turn.
    #[arg(long, required = true)]
    upstream: Vec<SocketAddr>,
    /// Move the bytes through pipes in the kernel instead of copying them.
    #[arg(long)]
    splice: bool,
}

const LISTENER: u64 = u64::MAX;
const BUFFER: usize = 64 * 1024;
const PIPE: usize = 1024 * 1024;

/// One way of a pair: from `ends[i]` to `ends[1 - i]`.
#[derive(Default)]
struct Way {
    /// Read and not yet written (copying).
    left: Vec<u8>,
    /// In the pipe and not yet written (splicing).
    pipe: Option<(OwnedFd, OwnedFd)>,
    in_pipe: usize,
    ended: bool,
}

struct Pair {
    ends: [OwnedFd; 2],
    ways: [Way; 2],
    interest: [Interest; 2],
}

struct Relay {
    poller: Poller,
    listener: OwnedFd,
    upstreams: Vec<SocketAddr>,
    turn: usize,
    splice: bool,
    pairs: Slab<Pair>,
    scratch: Vec<u8>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let listener = net::socket_with(family(args.listen), SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    net::bind(&listener, &args.listen)?;
    net::listen(&listener, 4_096)?;
    let poller = Poller::new()?;
    poller.add(&listener, LISTENER, Interest::READ)?;
    let mut relay = Relay {
        poller,
        listener,
        upstreams: args.upstream,
        turn: 0,
        splice: args.splice,
        pairs: Slab::new(),
        scratch: vec![0; BUFFER],
    };
    let mut ready = Vec::new();
    loop {
        relay.poller.wait(&mut ready, None)?;
        for one in &ready {
            if one.token == LISTENER { relay.accept() } else { relay.ready(*one) }
        }
    }
}

fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

impl Relay {
    fn accept(&mut self) {
        while let Ok(client) = net::accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
        {
            // A failed pair closes the client: the load counts it as the error that it is.
            let _ = self.open(client);
        }
    }

    fn open(&mut self, client: OwnedFd) -> rustix::io::Result<()> {
        let Some(address) = self.upstreams.get(self.turn % self.upstreams.len().max(1)).copied() else {
            return Ok(());
        };
        self.turn += 1;
        let upstream = net::socket_with(family(address), SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        net::connect(&upstream, &address)?;
        rustix::io::ioctl_fionbio(&upstream, true)?;
        sockopt::set_tcp_nodelay(&upstream, true)?;
        sockopt::set_tcp_nodelay(&client, true)?;
        let entry = self.pairs.vacant_entry();
        let token = entry.key() as u64 * 2;
        self.poller.add(&client, token, Interest::READ)?;
        self.poller.add(&upstream, token + 1, Interest::READ)?;
        entry.insert(Pair {
            ends: [client, upstream],
            ways: [Way::default(), Way::default()],
            interest: [Interest::READ; 2],
        });
        Ok(())
    }

    fn ready(&mut self, ready: Ready) {
        let (key, side) = ((ready.token / 2) as usize, (ready.token % 2) as usize);
        let Some(pair) = self.pairs.get_mut(key) else { return };
        let scratch = if self.splice { None } else { Some(&mut self.scratch) };
        let done = pair.serve(side, ready, scratch).is_err()
            || pair.ways.iter().all(|way| way.ended && way.is_empty())
            || pair.watch(&self.poller, key as u64 * 2).is_err();
        if done {
            self.pairs.remove(key);
        }
    }
}

impl Way {
    fn is_empty(&self) -> bool {
        self.left.is_empty() && self.in_pipe == 0
    }

    /// Reads once from `from` and writes what came to `to`.
    fn copy(&mut self, from: &OwnedFd, to: &OwnedFd, scratch: &mut [u8]) -> rustix::io::Result<()> {
        let count = match net::recv(from, &mut *scratch, RecvFlags::empty()) {
            Ok((0, _)) => return self.end(to),
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(error) => return Err(error),
        };
        let bytes = scratch.get(..count).unwrap_or_default();
        let sent = send(to, bytes)?;
        self.left.extend_from_slice(bytes.get(sent..).unwrap_or_default());
        Ok(())
    }

    /// Moves what is there into the pipe and on to `to`.
    fn splice(&mut self, from: &OwnedFd, to: &OwnedFd) -> rustix::io::Result<()> {
        if self.pipe.is_none() {
            let pipe = pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
            // Refused beyond the user's budget of pipe pages; the default size works too.
            let _ = pipe::fcntl_setpipe_size(&pipe.1, PIPE);
            self.pipe = Some(pipe);
        }
        let Some((_, into)) = &self.pipe else { return Ok(()) };
        match pipe::splice(from, None, into, None, PIPE, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
            Ok(0) => return self.end(to),
            Ok(count) => self.in_pipe += count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(error) => return Err(error),
        }
        self.flush(to)
    }

    fn end(&mut self, to: &OwnedFd) -> rustix::io::Result<()> {
        self.ended = true;
        if self.is_empty() { net::shutdown(to, Shutdown::Write) } else { Ok(()) }
    }

    fn flush(&mut self, to: &OwnedFd) -> rustix::io::Result<()> {
        if !self.left.is_empty() {
            let sent = send(to, &self.left)?;
            self.left.drain(..sent);
        }
        while self.in_pipe > 0 {
            let Some((out, _)) = &self.pipe else { break };
            match pipe::splice(out, None, to, None, self.in_pipe, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
                Ok(count) => self.in_pipe = self.in_pipe.saturating_sub(count.max(1)),
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if self.ended && self.is_empty() { net::shutdown(to, Shutdown::Write) } else { Ok(()) }
    }
}

fn send(to: &OwnedFd, bytes: &[u8]) -> rustix::io::Result<usize> {
    match net::send(to, bytes, SendFlags::NOSIGNAL) {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        result => result,
    }
}

impl Pair {
    fn serve(&mut self, side: usize, ready: Ready, scratch: Option<&mut Vec<u8>>) -> rustix::io::Result<()> {
        let [client, upstream] = &self.ends;
        let [onward, back] = &mut self.ways;
        let (from, to, way, other) =
            if side == 0 { (client, upstream, onward, back) } else { (upstream, client, back, onward) };
        if ready.writable && !other.is_empty() {
            other.flush(from)?;
        }
        if ready.readable && !way.ended && way.is_empty() {
            match scratch {
                Some(scratch) => way.copy(from, to, scratch)?,
                None => way.splice(from, to)?,
            }
        }
        Ok(())
    }

    /// Waits to read where the way is empty, and to write where it is not.
    fn watch(&mut self, poller: &Poller, token: u64) -> rustix::io::Result<()> {
        let [onward, back] = &self.ways;
        let wanted = [
            Interest { read: onward.is_empty() && !onward.ended, write: !back.is_empty() },
            Interest { read: back.is_empty() && !back.ended, write: !onward.is_empty() },
        ];
        for (side, (end, (now, want))) in
            self.ends.iter().zip(self.interest.iter_mut().zip(wanted)).enumerate()
        {
            if *now != want {
                poller.modify(end, token + side as u64, want)?;
                *now = want;
            }
        }
        Ok(())
    }
}
