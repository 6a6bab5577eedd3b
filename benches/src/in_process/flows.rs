//! The flow table of UDP.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use gateway::udp::measure::FlowTable;

use super::{Subject, Work};

const SIZES: &[usize] = &[10, 100, 1_000, 10_000, 100_000];

/// See its description.
pub const KNOWN: Subject = Subject {
    name: "flow-known",
    about: "Finds the flow of a datagram and notes that client and endpoint have spoken, each flow in turn, in no order.",
    counts: "flows",
    sizes: SIZES,
    at_most: 0.6,
    prepare: known,
};

/// See its description.
pub const NEW: Subject = Subject {
    name: "flow-new",
    about: "Gives up the flow that has to go and makes one for a new client: a full table in a flood.",
    counts: "flows",
    sizes: SIZES,
    at_most: 0.6,
    prepare: new,
};

fn client(number: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from((number >> 4) | 10 << 24), 1_024 + (number & 15) as u16))
}

/// Of this many clients.
fn full(flows: usize) -> Result<(FlowTable, u32)> {
    let count = u32::try_from(flows)?;
    let mut table = FlowTable::default();
    for number in 0..count {
        ensure!(!table.exchange(client(number)), "a new client has a flow");
    }
    ensure!(table.len() == flows, "{} flows instead of {flows}", table.len());
    Ok((table, count))
}

fn known(flows: usize) -> Result<Work> {
    let (mut table, count) = full(flows)?;
    let mut clients: Vec<SocketAddr> = (0..count).map(client).collect();
    fastrand::Rng::with_seed(7).shuffle(&mut clients);
    for client in &clients {
        ensure!(table.exchange(*client), "{client} has no flow");
    }
    ensure!(table.len() == flows, "{} flows instead of {flows}", table.len());
    let mut next = 0;
    Ok(Box::new(move |times| {
        for _ in 0..times {
            let Some(client) = clients.get(next) else { return };
            black_box(table.exchange(*client));
            next = if next + 1 == clients.len() { 0 } else { next + 1 };
        }
    }))
}

fn new(flows: usize) -> Result<Work> {
    let (mut table, mut number) = full(flows)?;
    ensure!(table.evict() && !table.exchange(client(number)), "no room was made");
    ensure!(table.len() == flows && !table.exchange(client(0)), "the oldest flow was not the one to go");
    ensure!(table.evict(), "no room was made");
    Ok(Box::new(move |times| {
        for _ in 0..times {
            number = (number + 1) & 0xfff_ffff;
            black_box(table.evict());
            black_box(table.exchange(client(number)));
        }
    }))
}
