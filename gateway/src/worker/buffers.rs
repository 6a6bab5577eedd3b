//! Pooled buffers: taken when bytes arrive, given back when a connection goes idle, so that an idle connection
//! owns none.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// Size of an ordinary buffer. No power of two: only the first lines of most buffers are touched, and buffers
/// that lie a power of two apart would compete for the same few sets of the processor's caches.
pub(crate) const SMALL: usize = 14 * 1_024;
/// Size of a buffer for large heads and for bodies that are copied.
pub(crate) const LARGE: usize = 128 * 1_024;
/// Capacity asked for a pipe; the kernel may give less.
const PIPE: usize = 1_024 * 1_024;
/// Buffers of each kind that are kept for re-use.
const KEPT_SMALL: usize = 512;
const KEPT_LARGE: usize = 32;
const KEPT_PIPES: usize = 64;

/// The free buffers of one worker.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    small: RefCell<Vec<Box<[u8]>>>,
    large: RefCell<Vec<Box<[u8]>>>,
    heads: RefCell<Vec<Vec<u8>>>,
    pipes: RefCell<Vec<Pipe>>,
}

impl Buffers {
    /// An empty [`SMALL`] buffer.
    pub(crate) fn small(self: &Rc<Self>) -> Buf {
        let data = self.small.borrow_mut().pop().unwrap_or_else(|| vec![0; SMALL].into());
        Buf { data, pos: 0, end: 0, home: Rc::clone(self) }
    }

    /// A buffer that takes its memory when it is first needed.
    pub(crate) fn resting(self: &Rc<Self>) -> Buf {
        Buf { data: Box::default(), pos: 0, end: 0, home: Rc::clone(self) }
    }

    /// A buffer that holds `bytes` and takes memory to read into when it is first needed.
    pub(crate) fn holding(self: &Rc<Self>, bytes: &[u8]) -> Buf {
        Buf { data: bytes.into(), pos: 0, end: bytes.len(), home: Rc::clone(self) }
    }

    /// An empty vector for a head to be written.
    pub(crate) fn head(self: &Rc<Self>) -> Head {
        Head {
            bytes: self.heads.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(2_048)),
            home: Rc::clone(self),
        }
    }

    /// An empty pipe, or `None` if the process has no descriptors left.
    pub(crate) fn pipe(self: &Rc<Self>) -> Option<PipeGuard> {
        let pipe = self.pipes.borrow_mut().pop();
        let pipe = pipe.or_else(|| {
            let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
            let (read, write) = rustix::pipe::pipe_with(flags).ok()?;
            let capacity = rustix::pipe::fcntl_setpipe_size(&write, PIPE)
                .or_else(|_| rustix::pipe::fcntl_getpipe_size(&write))
                .unwrap_or(4_096);
            Some(Pipe { read, write, capacity, filled: 0 })
        })?;
        Some(PipeGuard { pipe: Some(pipe), home: Rc::clone(self) })
    }
}

/// A kernel pipe through which bodies are spliced.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) read: OwnedFd,
    pub(crate) write: OwnedFd,
    pub(crate) capacity: usize,
    /// Bytes inside.
    pub(crate) filled: usize,
}

/// A [`Pipe`] on loan; only an empty one goes back.
#[derive(Debug)]
pub(crate) struct PipeGuard {
    pipe: Option<Pipe>,
    home: Rc<Buffers>,
}

impl PipeGuard {
    pub(crate) fn pipe(&mut self) -> Option<&mut Pipe> {
        self.pipe.as_mut()
    }

    pub(crate) fn filled(&self) -> usize {
        self.pipe.as_ref().map_or(0, |pipe| pipe.filled)
    }
}

impl Drop for PipeGuard {
    fn drop(&mut self) {
        let mut kept = self.home.pipes.borrow_mut();
        if let Some(pipe) = self.pipe.take()
            && pipe.filled == 0
            && kept.len() < KEPT_PIPES
        {
            kept.push(pipe);
        }
    }
}

/// A head on loan, given back when dropped.
#[derive(Debug)]
pub(crate) struct Head {
    bytes: Vec<u8>,
    home: Rc<Buffers>,
}

impl std::ops::Deref for Head {
    type Target = Vec<u8>;
    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl std::ops::DerefMut for Head {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        let mut kept = self.home.heads.borrow_mut();
        if kept.len() < KEPT_SMALL && self.bytes.capacity() <= SMALL {
            self.bytes.clear();
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// A buffer on loan: `pos..end` is unread.
#[derive(Debug)]
pub(crate) struct Buf {
    data: Box<[u8]>,
    pos: usize,
    end: usize,
    home: Rc<Buffers>,
}

impl Buf {
    /// Bytes not yet consumed.
    #[inline]
    pub(crate) fn unread(&self) -> &[u8] {
        self.data.get(self.pos..self.end).unwrap_or_default()
    }

    /// Bytes not yet consumed, to be changed in place.
    #[inline]
    pub(crate) fn unread_mut(&mut self) -> &mut [u8] {
        self.data.get_mut(self.pos..self.end).unwrap_or_default()
    }

    /// Bytes at `from..to`, consumed or not.
    #[inline]
    pub(crate) fn range(&self, from: usize, to: usize) -> &[u8] {
        self.data.get(from..to).unwrap_or_default()
    }

    /// As [`Self::range`], to be changed in place.
    pub(crate) fn range_mut(&mut self, from: usize, to: usize) -> &mut [u8] {
        self.data.get_mut(from..to).unwrap_or_default()
    }

    /// Everything up to the last filled byte, consumed or not.
    pub(crate) fn all_filled(&self) -> &[u8] {
        self.data.get(..self.end).unwrap_or_default()
    }

    /// Free space behind the unread bytes.
    #[inline]
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        self.data.get_mut(self.end..).unwrap_or_default()
    }

    /// Marks `n` bytes of [`Self::spare`] as filled.
    #[inline]
    pub(crate) fn filled(&mut self, n: usize) {
        self.end = (self.end + n).min(self.data.len());
    }

    /// Marks `n` unread bytes as consumed.
    #[inline]
    pub(crate) fn consume(&mut self, n: usize) {
        self.pos = (self.pos + n).min(self.end);
    }

    /// Makes everything from `position` on unread again; only for bytes that were not overwritten since.
    pub(crate) fn unconsume_to(&mut self, position: usize) {
        self.pos = position.min(self.pos);
    }

    /// Position of the first unread byte.
    #[inline]
    pub(crate) fn position(&self) -> usize {
        self.pos
    }

    /// Moves bytes `from..to` to `at` (for closing gaps in decoded data).
    pub(crate) fn move_down(&mut self, from: usize, to: usize, at: usize) {
        if from <= to && to <= self.data.len() && at <= from {
            self.data.copy_within(from..to, at);
        }
    }

    /// Forgets everything from `floor` on; only when nothing there is unread.
    pub(crate) fn rewind(&mut self, floor: usize) {
        if self.pos == self.end {
            self.pos = floor.min(self.end);
            self.end = self.pos;
        }
    }

    /// Moves the unread bytes down to `floor`.
    pub(crate) fn compact_to(&mut self, floor: usize) {
        if self.pos > floor {
            self.data.copy_within(self.pos..self.end, floor);
            self.end -= self.pos - floor;
            self.pos = floor;
        }
    }

    /// Forgets everything.
    pub(crate) fn discard(&mut self) {
        self.pos = 0;
        self.end = 0;
    }

    /// If nothing is unread: gives the memory back, but for the bytes before `floor`.
    pub(crate) fn rest(&mut self, floor: usize) {
        if self.pos != self.end || self.is_resting() {
            return;
        }
        self.rewind(floor);
        let kept = self.data.get(..self.end).unwrap_or_default().into();
        give_back(&self.home, std::mem::replace(&mut self.data, kept));
    }

    /// Gives the memory back, but for what is unread: for waits in the midst of something.
    pub(crate) fn shelve(&mut self) {
        if self.is_resting() {
            return;
        }
        let kept: Box<[u8]> = self.unread().into();
        (self.pos, self.end) = (0, kept.len());
        give_back(&self.home, std::mem::replace(&mut self.data, kept));
    }

    /// Has no memory to read into since [`Self::rest`].
    pub(crate) fn is_resting(&self) -> bool {
        self.data.len() < SMALL
    }

    /// True if nothing is unread.
    pub(crate) fn is_empty(&self) -> bool {
        self.pos == self.end
    }

    /// Exchanges the memory for a [`LARGE`] one ([`SMALL`] after [`Self::rest`]), keeping content and positions.
    pub(crate) fn enlarge(&mut self) {
        let (kept, size) = match self.data.len() {
            ..SMALL => (&self.home.small, SMALL),
            SMALL..LARGE => (&self.home.large, LARGE),
            LARGE.. => return,
        };
        let mut data = kept.borrow_mut().pop().unwrap_or_else(|| vec![0; size].into());
        if let (Some(to), Some(from)) = (data.get_mut(..self.end), self.data.get(..self.end)) {
            to.copy_from_slice(from);
        }
        let small = std::mem::replace(&mut self.data, data);
        give_back(&self.home, small);
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        give_back(&self.home, std::mem::take(&mut self.data));
    }
}

fn give_back(home: &Buffers, data: Box<[u8]>) {
    let (kept, most) = match data.len() {
        SMALL => (&home.small, KEPT_SMALL),
        LARGE => (&home.large, KEPT_LARGE),
        _ => return,
    };
    let mut kept = kept.borrow_mut();
    if kept.len() < most {
        kept.push(data);
    }
}
