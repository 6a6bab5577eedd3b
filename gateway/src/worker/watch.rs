//! Who wants to know when an endpoint is removed. Nobody pays for it but those who asked.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use slab::Slab;

use crate::live::EndpointState;

/// The tasks of one worker that wait for the removal of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    entries: RefCell<Slab<(Arc<EndpointState>, Option<Waker>)>>,
}

/// A place among [`Watched`], given up when dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    key: usize,
    watched: Rc<Watched>,
}

impl Watched {
    pub(crate) fn watch(self: &Rc<Self>, endpoint: Arc<EndpointState>) -> Watch {
        let key = self.entries.borrow_mut().insert((endpoint, None));
        Watch { key, watched: Rc::clone(self) }
    }

    /// Wakes those whose endpoint is gone. To be called after every swap.
    pub(crate) fn wake_retired(&self) {
        let mut entries = self.entries.borrow_mut();
        let retired = entries.iter_mut().filter(|(_, (endpoint, _))| endpoint.is_retired());
        retired.filter_map(|(_, (_, waker))| waker.take()).for_each(Waker::wake);
    }
}

impl Watch {
    /// Whether the endpoint is gone; if not, the task is woken when it is.
    pub(crate) fn poll_retired(&self, cx: &Context<'_>) -> bool {
        let mut entries = self.watched.entries.borrow_mut();
        let Some((endpoint, waker)) = entries.get_mut(self.key) else { return false };
        if endpoint.is_retired() {
            return true;
        }
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        false
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watched.entries.borrow_mut().try_remove(self.key);
    }
}
