//! Datagrams in batches: one system call for many of them. Decides nothing; never forwards part of a datagram.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg,
    sendmsg, setsockopt, sockopt,
};
use socket2::Socket;

use super::train::{self, Train, Trust};

/// Datagrams per system call.
pub(super) const BATCH: usize = 32;
/// Largest datagram that there is, and one byte more.
pub(super) const LARGEST: usize = 65_536;
/// Distance of receive buffers: not a power of two, or their first bytes would share the same few cache lines.
const STRIDE: usize = LARGEST + 320;
/// Bytes of answers that are sent together.
const ROOM: usize = 4 * LARGEST;
/// Bytes that the kernel queues per socket while the worker is busy; it counts some 768 per small datagram.
const QUEUE: usize = 4 << 20;

/// Who has sent what came without an address, which UDP has none of.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Settings of a socket that is to receive on `address`, before it is bound.
pub(crate) fn prepare(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // Beyond the system's limit only with CAP_NET_ADMIN; what can be had is taken.
    if setsockopt(socket, sockopt::RcvBufForce, &QUEUE).is_err() {
        let _capped = socket.set_recv_buffer_size(QUEUE);
    }
    if setsockopt(socket, sockopt::SndBufForce, &QUEUE).is_err() {
        let _capped = socket.set_send_buffer_size(QUEUE);
    }
    let is_any = address.ip().is_unspecified();
    if address.is_ipv4() {
        setsockopt(socket, sockopt::Ipv4RecvTtl, &true)?;
        setsockopt(socket, sockopt::Ipv4PacketInfo, &is_any)?;
    } else {
        setsockopt(socket, sockopt::Ipv6RecvHopLimit, &true)?;
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &is_any)?;
    }
    Ok(())
}

/// Makes the kernel refuse (ICMP port unreachable) whoever sends to a bound socket that nobody reads: connected to
/// itself, it is nobody else's.
pub(crate) fn refuse(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let to = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::from((Ipv6Addr::LOCALHOST, address.port())),
        IpAddr::V4(_) | IpAddr::V6(_) => address,
    };
    socket.connect(&to.into())
}

/// A received datagram; its bytes are in [`Received::bytes`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    pub(super) from: SocketAddr,
    /// The address that it was sent to, where that can differ.
    pub(super) to: Option<IpAddr>,
    pub(super) len: usize,
    /// Hops that it might still have gone.
    pub(super) hops: u8,
    /// More was sent than there was room for.
    pub(super) is_cut: bool,
}

/// Memory for one batch of a worker.
pub(super) struct Received {
    buffers: Box<[u8]>,
    pub(super) metas: Vec<Meta>,
    /// One for each kind of socket: the kernel shortens what it is given to what it used, so that one memory must always
    /// see addresses and control messages of one size.
    headers: [MultiHeaders<SockaddrStorage>; 4],
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Received").field("metas", &self.metas).finish_non_exhaustive()
    }
}

fn headers_to_receive(local: SocketAddr) -> MultiHeaders<SockaddrStorage> {
    let control = match (local.ip().is_unspecified(), local.is_ipv4()) {
        (false, _) => nix::cmsg_space!(nix::libc::c_int),
        (true, true) => nix::cmsg_space!(nix::libc::in_pktinfo, nix::libc::c_int),
        (true, false) => nix::cmsg_space!(nix::libc::in6_pktinfo, nix::libc::c_int),
    };
    MultiHeaders::preallocate(BATCH, Some(control))
}

fn headers_to_send(local: SocketAddr) -> MultiHeaders<SockaddrStorage> {
    let control = local.ip().is_unspecified().then(|| {
        if local.is_ipv4() {
            nix::cmsg_space!(nix::libc::in_pktinfo)
        } else {
            nix::cmsg_space!(nix::libc::in6_pktinfo)
        }
    });
    MultiHeaders::preallocate(BATCH, control)
}

/// One address of each kind, in the order of [`kind`].
fn kinds() -> [SocketAddr; 4] {
    [
        (Ipv4Addr::LOCALHOST, 0).into(),
        (Ipv4Addr::UNSPECIFIED, 0).into(),
        (Ipv6Addr::LOCALHOST, 0).into(),
        (Ipv6Addr::UNSPECIFIED, 0).into(),
    ]
}

fn kind(local: SocketAddr) -> usize {
    usize::from(local.is_ipv6()) * 2 + usize::from(local.ip().is_unspecified())
}

impl Default for Received {
    fn default() -> Self {
        Self {
            buffers: vec![0; BATCH * STRIDE].into(),
            metas: Vec::with_capacity(BATCH),
            headers: kinds().map(headers_to_receive),
        }
    }
}

impl Received {
    /// Takes what is queued at `socket`, which is bound to `local`; at most [`BATCH`].
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if there is nothing.
    pub(super) fn receive(&mut self, socket: &UdpSocket, local: SocketAddr) -> io::Result<usize> {
        let Self { buffers, metas, headers } = self;
        metas.clear();
        let Some(headers) = headers.get_mut(kind(local)) else { return Ok(0) };
        let mut free = buffers.chunks_mut(STRIDE);
        let mut slices: [_; BATCH] = std::array::from_fn(|_| {
            let buffer = free.next().and_then(|chunk| chunk.get_mut(..LARGEST)).unwrap_or_default();
            [IoSliceMut::new(buffer)]
        });
        let flags = MsgFlags::MSG_DONTWAIT;
        let messages = recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), flags, None)?;
        for message in messages {
            let from = message.address.and_then(plain).unwrap_or(NOBODY);
            let (mut to, mut hops) = (None, u8::MAX);
            for control in message.cmsgs().into_iter().flatten() {
                match control {
                    // The destination of a broadcast or multicast datagram is nobody's source address.
                    ControlMessageOwned::Ipv4PacketInfo(info) => {
                        to = Some(IpAddr::V4(u32::from_be(info.ipi_spec_dst.s_addr).into()));
                    }
                    ControlMessageOwned::Ipv6PacketInfo(info) => {
                        to = Some(IpAddr::V6(info.ipi6_addr.s6_addr.into()));
                    }
                    ControlMessageOwned::Ipv4Ttl(left) | ControlMessageOwned::Ipv6HopLimit(left) => {
                        hops = u8::try_from(left).unwrap_or(u8::MAX);
                    }
                    _ => {}
                }
            }
            let is_cut = message.flags.contains(MsgFlags::MSG_TRUNC);
            metas.push(Meta { from, to, len: message.bytes, hops, is_cut });
        }
        Ok(metas.len())
    }

    pub(super) fn bytes(&self, index: usize) -> &[u8] {
        let len = self.metas.get(index).map_or(0, |meta| meta.len);
        self.buffers.get(index * STRIDE..).and_then(|rest| rest.get(..len)).unwrap_or_default()
    }

    /// The datagrams from `first` on that one client sent to one address of ours and that can go on together.
    pub(super) fn train(&self, first: usize) -> Train<'_> {
        let metas = self.metas.get(first..).unwrap_or_default();
        let Some(head) = metas.first() else { return Train::new(self, first, 0) };
        let same =
            metas.iter().take_while(|meta| meta.from == head.from && meta.to == head.to && !meta.is_cut);
        Train::new(self, first, train::count(same.map(|meta| meta.len)).max(1))
    }
}

fn plain(address: SockaddrStorage) -> Option<SocketAddr> {
    let v4 = || Some(SocketAddr::V4(SocketAddrV4::from(*address.as_sockaddr_in()?)));
    v4().or_else(|| Some(SocketAddr::V6(SocketAddrV6::from(*address.as_sockaddr_in6()?))))
}

/// Answers that leave together from one socket.
pub(super) struct Answers {
    arena: Box<[u8]>,
    used: usize,
    /// receiver, our address, and the length of each
    list: Vec<(Option<SockaddrStorage>, IpAddr, usize)>,
    trust: Trust,
    control: Vec<u8>,
    headers: [MultiHeaders<SockaddrStorage>; 4],
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answers").field("used", &self.used).finish_non_exhaustive()
    }
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            arena: vec![0; ROOM].into(),
            used: 0,
            list: Vec::with_capacity(BATCH + train::MOST),
            trust: Trust::default(),
            control: train::control(),
            headers: kinds().map(headers_to_send),
        }
    }
}

impl Answers {
    /// Whether there is no room for one more of the largest size.
    pub(super) const fn is_full(&self) -> bool {
        self.list.len() >= BATCH || ROOM - self.used < LARGEST
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Where the next ones are received, and what the kernel says of them; tell their length to [`Self::push_train`].
    pub(super) fn space(&mut self) -> (&mut [u8], &mut [u8]) {
        let space = self.arena.get_mut(self.used..).and_then(|rest| rest.get_mut(..LARGEST));
        (space.unwrap_or_default(), &mut self.control)
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.used = 0;
    }

    fn push(&mut self, to: SocketAddr, from: IpAddr, len: usize) {
        self.list.push((Some(to.into()), from, len));
        self.used += len;
    }

    /// Adds what was received in [`Self::space`]: datagrams of `segment` bytes in a row, the last of which may be shorter.
    pub(super) fn push_train(&mut self, to: SocketAddr, from: IpAddr, len: usize, segment: usize) {
        let mut left = len;
        while left > segment {
            self.push(to, from, segment);
            left -= segment;
        }
        self.push(to, from, left);
    }

    /// Sends all through `socket`, which is bound to `local`; `failed` is told of each that the kernel does not take.
    pub(super) fn send(&mut self, socket: &UdpSocket, local: SocketAddr, mut failed: impl FnMut(Errno)) {
        let (mut first, mut at, mut alone) = (0, 0, 0);
        while let Some((_, from, _)) = self.list.get(first).copied() {
            let together = if first < alone { 1 } else { self.train_at(first) };
            let sent = if together > 1 && self.trust.may() {
                match self.send_train(socket, local, (first, together), at) {
                    Ok(()) => {
                        self.trust.worked();
                        together
                    }
                    Err(Errno::EINTR) => continue,
                    Err(error) if train::is_refused(error) => {
                        self.trust.failed();
                        alone = first + together;
                        continue;
                    }
                    Err(error) => {
                        (0..together).for_each(|_| failed(error));
                        together
                    }
                }
            } else {
                let rest = self.list.iter().enumerate().skip(first);
                let is_in = |&(position, (_, other, _)): &(usize, &(_, IpAddr, _))| {
                    *other == from && (position < alone.max(first + together) || self.train_at(position) < 2)
                };
                let group = rest.take_while(is_in).take(BATCH).count();
                match self.send_group(socket, local, (first, group), at) {
                    Ok(sent) => sent.clamp(1, group),
                    Err(Errno::EINTR) => continue,
                    Err(error) => {
                        // What ails one says nothing about the next.
                        failed(error);
                        1
                    }
                }
            };
            at += self.list.iter().skip(first).take(sent).map(|(_, _, len)| len).sum::<usize>();
            first += sent;
        }
        self.clear();
    }

    /// How many from `first` on can leave together as a train.
    fn train_at(&self, first: usize) -> usize {
        let Some((to, from, _)) = self.list.get(first) else { return 0 };
        let rest = self.list.iter().skip(first);
        train::count(rest.take_while(|(other, ours, _)| other == to && ours == from).map(|(_, _, len)| *len))
    }

    /// Sends those that go to one receiver and are of one size.
    fn send_train(
        &self,
        socket: &UdpSocket,
        local: SocketAddr,
        (first, count): (usize, usize),
        at: usize,
    ) -> nix::Result<()> {
        let group = self.list.get(first..first + count).unwrap_or_default();
        let Some((to, from, segment)) = group.first().copied() else { return Ok(()) };
        let total = group.iter().map(|(_, _, len)| len).sum::<usize>();
        let bytes = [IoSlice::new(self.arena.get(at..at + total).unwrap_or_default())];
        let segment = u16::try_from(segment).map_err(|_| Errno::EMSGSIZE)?;
        let (v4, v6) = (from_v4(from), from_v6(from));
        let source = match from {
            IpAddr::V4(_) => ControlMessage::Ipv4PacketInfo(&v4),
            IpAddr::V6(_) => ControlMessage::Ipv6PacketInfo(&v6),
        };
        let control = [ControlMessage::UdpGsoSegments(&segment), source];
        let control = if local.ip().is_unspecified() { &control[..] } else { &control[..1] };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg(socket.as_raw_fd(), &bytes, control, flags, to.as_ref()).map(|_| ())
    }

    /// Sends those that have one address of ours.
    fn send_group(
        &mut self,
        socket: &UdpSocket,
        local: SocketAddr,
        (first, count): (usize, usize),
        mut at: usize,
    ) -> nix::Result<usize> {
        let Self { arena, list, headers, .. } = self;
        let Some(headers) = headers.get_mut(kind(local)) else { return Ok(count) };
        let group = list.get(first..first + count).unwrap_or_default();
        let mut lengths = group.iter().map(|(_, _, len)| *len);
        let slices: [_; BATCH] = std::array::from_fn(|_| {
            let len = lengths.next().unwrap_or_default();
            let bytes = arena.get(at..at + len).unwrap_or_default();
            at += len;
            [IoSlice::new(bytes)]
        });
        let mut to = [None; BATCH];
        for (slot, (address, _, _)) in to.iter_mut().zip(group) {
            *slot = *address;
        }
        let to = to.get(..count).unwrap_or_default();
        let from = group.first().map_or_else(|| local.ip(), |(_, from, _)| *from);
        let (v4, v6) = (from_v4(from), from_v6(from));
        let control = match from {
            _ if !local.ip().is_unspecified() => None,
            IpAddr::V4(_) => Some(ControlMessage::Ipv4PacketInfo(&v4)),
            IpAddr::V6(_) => Some(ControlMessage::Ipv6PacketInfo(&v6)),
        };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        Ok(sendmmsg(socket.as_raw_fd(), headers, slices.iter(), to, control.as_slice(), flags)?.count())
    }
}

fn from_v4(from: IpAddr) -> nix::libc::in_pktinfo {
    let ip = if let IpAddr::V4(ip) = from { ip.to_bits().to_be() } else { 0 };
    let none = nix::libc::in_addr { s_addr: 0 };
    nix::libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: nix::libc::in_addr { s_addr: ip }, ipi_addr: none }
}

fn from_v6(from: IpAddr) -> nix::libc::in6_pktinfo {
    let ip = if let IpAddr::V6(ip) = from { ip.octets() } else { [0; 16] };
    nix::libc::in6_pktinfo { ipi6_addr: nix::libc::in6_addr { s6_addr: ip }, ipi6_ifindex: 0 }
}
