//! Coarse deadlines: one slot per connection in a dense array, swept every [`TICK`]. Arming a deadline is one
//! store; no allocation, no timer queue.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

/// Resolution: a deadline fires up to one tick late, never early.
pub(crate) const TICK: Duration = Duration::from_millis(100);
const NEVER: u32 = u32::MAX;

/// All deadlines of one worker.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    now: Cell<u32>,
    slots: RefCell<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    deadlines: Vec<u32>,
    wakers: Vec<Option<Waker>>,
    free: Vec<u32>,
}

impl Timers {
    /// The current tick.
    pub(crate) fn now(&self) -> u32 {
        self.now.get()
    }

    /// Advances to the tick that `elapsed` since start amounts to, and wakes what is due.
    pub(crate) fn advance(&self, elapsed: Duration) {
        let now = ticks(elapsed);
        self.now.set(now);
        let slots = self.slots.borrow();
        for (deadline, waker) in slots.deadlines.iter().zip(&slots.wakers) {
            if *deadline <= now
                && let Some(waker) = waker
            {
                waker.wake_by_ref();
            }
        }
    }

    /// Wakes every connection, so that it looks at the worker's state.
    pub(crate) fn wake_all(&self) {
        self.slots.borrow().wakers.iter().flatten().for_each(Waker::wake_by_ref);
    }

    /// A new timer, not armed.
    pub(crate) fn timer(self: &Rc<Self>) -> Timer {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.deadlines.push(NEVER);
            slots.wakers.push(None);
            u32::try_from(slots.deadlines.len() - 1).unwrap_or(NEVER)
        });
        Timer { slot, deadline: NEVER, timers: Rc::clone(self) }
    }
}

/// The tick in which `elapsed` since start lies.
pub(crate) fn ticks(elapsed: Duration) -> u32 {
    u32::try_from(elapsed.as_millis() / TICK.as_millis()).unwrap_or(NEVER - 1)
}

/// One deadline, owned by one task.
#[derive(Debug)]
pub(crate) struct Timer {
    slot: u32,
    deadline: u32,
    timers: Rc<Timers>,
}

impl Timer {
    /// The tick at which `after` from now has passed for sure; `Duration::ZERO` means never.
    pub(crate) fn tick_after(&self, after: Duration) -> u32 {
        if after.is_zero() {
            return NEVER;
        }
        self.timers.now().saturating_add(ticks(after)).saturating_add(1).min(NEVER - 1)
    }

    /// The tick for `after` from `since`, a tick of the past; `Duration::ZERO` means never.
    pub(crate) fn tick_since(&self, since: u32, after: Duration) -> u32 {
        let ago = self.timers.now().saturating_sub(since);
        match self.tick_after(after) {
            NEVER => NEVER,
            tick => tick.saturating_sub(ago),
        }
    }

    /// Arms for `after` from now; `Duration::ZERO` disarms.
    #[inline]
    pub(crate) fn arm(&mut self, after: Duration) {
        self.arm_at(self.tick_after(after));
    }

    /// Arms for a tick from [`Self::tick_after`].
    #[inline]
    pub(crate) fn arm_at(&mut self, tick: u32) {
        if self.deadline != tick {
            self.deadline = tick;
            if let Some(deadline) = self.timers.slots.borrow_mut().deadlines.get_mut(self.slot as usize) {
                *deadline = tick;
            }
        }
    }

    /// Whether the deadline has passed; if not, the task is woken when it does.
    #[inline]
    pub(crate) fn poll_expired(&self, cx: &Context<'_>) -> bool {
        if self.is_expired() {
            return true;
        }
        let mut slots = self.timers.slots.borrow_mut();
        if let Some(waker) = slots.wakers.get_mut(self.slot as usize)
            && !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
        false
    }

    /// Whether the deadline has passed.
    pub(crate) fn is_expired(&self) -> bool {
        self.deadline <= self.timers.now()
    }

    /// The current tick.
    pub(crate) fn now(&self) -> u32 {
        self.timers.now()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut slots = self.timers.slots.borrow_mut();
        if let Some(deadline) = slots.deadlines.get_mut(self.slot as usize) {
            *deadline = NEVER;
        }
        let waker = slots.wakers.get_mut(self.slot as usize).and_then(Option::take);
        slots.free.push(self.slot);
        drop(slots);
        drop(waker);
    }
}
