//! Announcing without a cluster: everything is this host's, unless a neighbour has it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use controller::announce::{Board, Left};
use gateway::announce::{Alone, Heard, Hold, Station};
use tokio::sync::{mpsc, watch};

use super::{able, limit};

/// Announces what the `board` says until `orders` ends.
pub(super) async fn run(
    mut station: Station,
    mut board: watch::Receiver<Board>,
    lifetime: Duration,
    mut orders: mpsc::UnboundedReceiver<Left>,
) {
    let mut alone = Alone::default();
    let mut renewal = tokio::time::interval(lifetime / 3);
    renewal.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut is_first = true;
    let mut renewed = Instant::now();
    let mut all = board.borrow_and_update().wanted();
    loop {
        if renewed.elapsed() > lifetime {
            // This was stopped, and somebody else may have the addresses by now.
            station.hold(&BTreeMap::new(), lifetime);
            alone = Alone::default();
            renewed = Instant::now();
        }
        if !is_first || !all.is_empty() {
            limit(&mut station, &all);
            let here = able(&station, &all).collect();
            // Later, what was ours once may be another's.
            let ours = if is_first { station.ours() } else { BTreeSet::new() };
            alone.want(&here, &ours, Instant::now());
            station.listen_for(here);
        }
        let step = alone.step(Instant::now());
        for address in &step.probe {
            station.probe(*address);
        }
        let held: BTreeMap<_, _> = step.hold.iter().map(|address| (*address, Hold::Firm)).collect();
        station.hold(&held, lifetime);
        if std::mem::take(&mut is_first) {
            station.clear(&step.hold);
        }
        let next = step.next.map(tokio::time::Instant::from_std);
        let later = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                // There is nobody to hand anything over to.
                Some(left) => drop(left.send(())),
                None => return,
            },
            _ = renewal.tick() => {
                if renewed.elapsed() <= lifetime {
                    station.renew(&step.hold, lifetime);
                    renewed = Instant::now();
                }
            }
            heard = station.next() => {
                if let Heard::Claim(claim) = heard
                    && alone.claimed(claim.address, Instant::now())
                {
                    tracing::warn!(
                        address = %claim.address,
                        mac = %claim.mac,
                        "another host has an address of a Service, so it is not announced; trying again in {} s",
                        Alone::RETRY.as_secs()
                    );
                }
            }
            Ok(()) = board.changed() => all = board.borrow_and_update().wanted(),
            () = later => {}
        }
    }
}
