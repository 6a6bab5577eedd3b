//! One epoll loop that is backend and load together. One thread, so that a proxy on the other CPU is alone there.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::backend::{Backend, CONNECTION, LISTENER};
use crate::load::{CLIENT, Load, Plan};
use crate::poller::{Poller, Ready};

/// Backend, loads and the poller that they share.
#[derive(Debug)]
pub struct Engine {
    /// The one poller; a backend and a load register with it.
    pub poller: Poller,
    /// The backend.
    pub backend: Backend,
    /// The loads; each has a share of the token space.
    pub loads: Vec<Load>,
    ready: Vec<Ready>,
}

impl Engine {
    /// An engine without a load.
    ///
    /// # Errors
    /// Those of `epoll_create1`.
    pub fn new(backend: Backend) -> Result<Self> {
        Ok(Self { poller: Poller::new()?, backend, loads: Vec::new(), ready: Vec::new() })
    }

    /// Adds a load that will follow `plan`; it sends nothing before [`Load::restart`].
    ///
    /// # Errors
    /// Those of [`Load::new`].
    pub fn add_load(&mut self, plan: Plan) -> Result<()> {
        self.loads.push(Load::new(plan, self.loads.len())?);
        Ok(())
    }

    /// One turn: send what is due, wait for at most `at_most`, act on what is ready.
    ///
    /// # Errors
    /// Those of `epoll_wait`.
    pub fn turn(&mut self, at_most: Duration) -> Result<()> {
        let now = Instant::now();
        let mut sleep = at_most;
        for load in &mut self.loads {
            sleep = sleep.min(load.tick(&self.poller, now));
        }
        self.poller.wait(&mut self.ready, Some(sleep))?;
        for ready in &self.ready {
            if ready.token & (LISTENER | CONNECTION) != 0 {
                self.backend.ready(&self.poller, *ready);
            } else if ready.token & CLIENT != 0
                && let Some(load) = self.loads.get_mut(crate::load::number_of(ready.token))
            {
                load.ready(&self.poller, *ready);
            }
        }
        Ok(())
    }

    /// Turns until every load is done.
    ///
    /// # Errors
    /// Those of [`turn`](Self::turn), and when `deadline` passes first.
    pub fn finish(&mut self, deadline: Instant) -> Result<()> {
        while !self.loads.iter().all(Load::is_done) {
            if Instant::now() > deadline {
                bail!("the load was not done in time");
            }
            self.turn(Duration::from_millis(200))?;
        }
        Ok(())
    }

    /// Turns for `time`.
    ///
    /// # Errors
    /// Those of [`turn`](Self::turn).
    pub fn run_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.turn(left)?;
        }
        Ok(())
    }
}
