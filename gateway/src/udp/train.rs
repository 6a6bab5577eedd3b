//! Datagrams that pass the kernel in one piece: of one size, but for the last, which may be shorter, from one side of a
//! flow to the other (UDP GSO and GRO, Linux 4.18 and 5.0). Whoever sees them on the wire sees datagrams as they were sent.
//! Where the kernel or the path does not take a train, its datagrams go one by one.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd as _};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg, setsockopt, sockopt,
};

use super::socket::{BATCH, Received};

/// Datagrams of a train; what the kernel takes at least (`UDP_MAX_SEGMENTS`).
pub(super) const MOST: usize = 64;
/// Bytes of a train: those of the largest packet without its headers.
const MOST_BYTES: usize = 65_000;
/// Answers of one flow in one tick from which on it is worth trying to take several at a time.
const BUSY: u16 = 32;
/// Reads of one flow's endpoint before others have their turn.
const MOST_READS: u8 = 16;

/// How many of datagrams with these lengths can go together, counted from the first.
pub(super) fn count(mut lengths: impl Iterator<Item = usize>) -> usize {
    let Some(first) = lengths.next().filter(|len| *len > 0) else { return 0 };
    let (mut count, mut total) = (1, first);
    for len in lengths {
        if len > first || len == 0 || count == MOST || total + len > MOST_BYTES {
            break;
        }
        count += 1;
        total += len;
        if len < first {
            break;
        }
    }
    count
}

/// Room for what [`Pace::receive`] is told besides the bytes; on the heap, since it has to be aligned.
pub(super) fn control() -> Vec<u8> {
    let space = nix::cmsg_space!(nix::libc::c_int);
    vec![0; space.capacity()]
}

/// Whether an error says that this train cannot go as one: too large for the path, or no such thing here.
pub(super) fn is_refused(error: Errno) -> bool {
    matches!(error, Errno::EINVAL | Errno::EIO | Errno::EMSGSIZE | Errno::ENOPROTOOPT | Errno::EOPNOTSUPP)
}

/// Whether trains are worth trying: after each that was refused, more are not even tried.
#[derive(Debug, Default)]
pub(super) struct Trust {
    skip: u16,
    next: u16,
}

impl Trust {
    pub(super) const fn may(&mut self) -> bool {
        if self.skip == 0 {
            return true;
        }
        self.skip -= 1;
        false
    }

    pub(super) fn failed(&mut self) {
        self.next = (self.next * 2 + 1).min(1_023);
        self.skip = self.next;
    }

    pub(super) const fn worked(&mut self) {
        self.next = 0;
    }
}

/// Datagrams of a client that go on together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Train<'a> {
    received: &'a Received,
    first: usize,
    count: usize,
}

impl<'a> Train<'a> {
    pub(super) const fn new(received: &'a Received, first: usize, count: usize) -> Self {
        Self { received, first, count }
    }

    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// Hops that the first of them might still have gone.
    pub(super) fn hops(&self) -> u8 {
        self.received.metas.get(self.first).map_or(u8::MAX, |meta| meta.hops)
    }

    /// Bytes of all.
    pub(super) fn total(&self) -> usize {
        self.lengths().sum()
    }

    pub(super) fn lengths(&self) -> impl Iterator<Item = usize> {
        self.received.metas.iter().skip(self.first).take(self.count).map(|meta| meta.len)
    }

    pub(super) fn at(&self, index: usize) -> &'a [u8] {
        self.received.bytes(self.first + index)
    }

    /// Sends all of it to the peer of `socket`.
    pub(super) fn send(&self, socket: &impl AsFd) -> nix::Result<()> {
        let segment = u16::try_from(self.at(0).len()).map_err(|_| Errno::EMSGSIZE)?;
        let slices: [_; BATCH] =
            std::array::from_fn(|index| IoSlice::new(if index < self.count { self.at(index) } else { &[] }));
        let slices = slices.get(..self.count).unwrap_or_default();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let control = [ControlMessage::UdpGsoSegments(&segment)];
        sendmsg::<()>(socket.as_fd().as_raw_fd(), slices, &control, flags, None).map(|_| ())
    }
}

/// How many answers of a flow are taken at a time.
#[derive(Debug, Default)]
pub(super) struct Pace {
    tick: u32,
    answers: u16,
    reads: u8,
    /// The kernel joins datagrams for it.
    joins: bool,
}

impl Pace {
    /// How often to read from `socket` now. One that has little to say is read once; there is no more most of the time.
    pub(super) fn reads(&mut self, socket: &impl AsFd, now: u32) -> u8 {
        if self.tick != now {
            (self.tick, self.answers, self.reads) = (now, 0, 1);
        }
        if self.answers < BUSY {
            return 1;
        }
        if !self.joins {
            self.joins = true;
            // Without it, they come one by one.
            let _kept = setsockopt(&socket.as_fd(), sockopt::UdpGroSegment, &true);
        }
        self.reads
    }

    /// `got` of `tried` reads had something.
    pub(super) fn had(&mut self, got: u8, tried: u8) {
        self.answers = self.answers.saturating_add(u16::from(got));
        self.reads = if got < tried { got.max(1) } else { (tried * 2).min(MOST_READS) };
    }

    /// Reads once: the bytes that came, and how many each of several datagrams has.
    ///
    /// # Errors
    /// As the kernel says.
    pub(super) fn receive(
        &self,
        socket: &impl AsFd,
        (into, control): (&mut [u8], &mut [u8]),
    ) -> nix::Result<(usize, usize)> {
        if !self.joins {
            let flags = rustix::net::RecvFlags::DONTWAIT;
            let (_, len) = rustix::net::recv(socket.as_fd(), into, flags)
                .map_err(|error| Errno::from_raw(error.raw_os_error()))?;
            return Ok((len, len));
        }
        let mut slices = [std::io::IoSliceMut::new(into)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut slices, Some(control), flags)?;
        let segment = message.cmsgs().ok().and_then(|mut all| {
            all.find_map(|one| match one {
                ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
                _ => None,
            })
        });
        let len = message.bytes;
        Ok((len, segment.filter(|size| *size > 0).unwrap_or(len)))
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::{BUSY, MOST, Pace, Trust, control, count};
    use crate::udp::socket::Answers;

    fn of(lengths: &[usize]) -> usize {
        count(lengths.iter().copied())
    }

    #[test]
    fn datagrams_of_one_size_go_together_and_a_shorter_one_is_the_last() {
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[100]), 1);
        assert_eq!(of(&[100, 100, 100]), 3);
        assert_eq!(of(&[100, 100, 40, 40]), 3);
        assert_eq!(of(&[100, 101]), 1);
        assert_eq!(of(&[100; 200]), MOST);
    }

    #[test]
    fn an_empty_datagram_goes_alone() {
        assert_eq!(of(&[0, 0]), 0);
        assert_eq!(of(&[100, 0]), 1);
    }

    #[test]
    fn a_train_is_no_larger_than_a_packet() {
        assert_eq!(of(&[30_000; 10]), 2);
        assert_eq!(of(&[65_507, 10]), 1);
    }

    #[test]
    fn answers_to_one_client_leave_together_and_are_taken_together_where_there_are_many() {
        let (ours, theirs) =
            (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let (from, to) = (ours.local_addr().unwrap(), theirs.local_addr().unwrap());
        theirs.connect(from).unwrap();
        let mut pace = Pace::default();
        assert_eq!(pace.reads(&theirs, 1), 1);
        for _ in 0..BUSY {
            pace.had(1, 1);
        }
        // From now on.
        assert!(pace.reads(&theirs, 1) > 1);
        let mut answers = Answers::default();
        let text = "abcdefghij".repeat(2);
        answers.space().0[..20].copy_from_slice(text.as_bytes());
        answers.push_train(to, from.ip(), 20, 8);
        answers.send(&ours, from, |error| panic!("{error}"));
        let (mut buf, mut control) = (vec![0; 65_536], control());
        theirs.set_nonblocking(false).unwrap();
        assert_eq!(theirs.peek(&mut buf).unwrap(), 20, "as one");
        assert_eq!(pace.receive(&theirs, (&mut buf, &mut control)).unwrap(), (20, 8));
        assert_eq!(&buf[..20], text.as_bytes());
    }

    #[test]
    fn trains_that_are_refused_are_tried_ever_more_seldom() {
        let mut trust = Trust::default();
        let mut tried = 0;
        for _ in 0..10_000 {
            if trust.may() {
                tried += 1;
                trust.failed();
            }
        }
        assert!((10..25).contains(&tried), "{tried}");
        while !trust.may() {}
        trust.worked();
        assert!(trust.may());
    }
}
