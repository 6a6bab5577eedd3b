//! Compile at scale: 100,000 Ingresses (one host and path each) over 10,000 Services, then single changes.
//! Prints JSON and fails if a figure is out of bounds. Heap is counted by the allocator, not guessed from
//! the process's size.

use std::alloc::System;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use benches::in_process::objects::{apply, endpoints_of, host, index, ingress, slice};
use benches::process::thread_cpu_time;
use clap::Parser;
use config::compile::{Compiler, Settings};
use config::index::{Change, Event, Index};
use config::report::{Kind, ObjectRef};
use config::table::RouteTable;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[derive(Parser)]
struct Args {
    /// Ingresses, one host and one path each.
    #[arg(long, default_value_t = 100_000)]
    routes: usize,
    /// Services with one EndpointSlice each.
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Endpoints of each Service.
    #[arg(long, default_value_t = 10)]
    endpoints: usize,
    /// Single changes of each kind to time.
    #[arg(long, default_value_t = 200)]
    changes: usize,
    /// Print the figures without judging them.
    #[arg(long)]
    no_assert: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let (decode_time, index, index_heap) = timed(|| index(args.services, args.endpoints, args.routes))?;
    let mut compiler = Compiler::new(Settings::default());
    let mut full = None;
    let (full_time, (), compile_heap) = timed(|| {
        full = Some(compiler.compile(&index, &Change::default(), 0));
        Ok(())
    })?;
    let (table, report) = full.context("compiled")?;
    ensure!(report.problems.is_empty(), "{:?}", report.problems.first());
    check(&args, &table)?;
    let mut index = index;
    let endpoints = endpoint_changes(&args, &mut index, &mut compiler, &table)?;
    let routes = route_changes(&args, &mut index, &mut compiler)?;
    let (last, _) = compiler.compile(&index, &Change::default(), 0);
    drop(table);
    // What is left when the compiler and the index are gone is the table alone.
    let before = live_bytes();
    let total = before;
    drop((compiler, index, report));
    let table_heap = table_bytes(last);
    let per_route = table_heap / args.routes.max(1);
    let figures = serde_json::json!({
        "routes": args.routes,
        "services": args.services,
        "decode_cpu_ms": millis(decode_time),
        "full_compile_cpu_ms": millis(full_time),
        "index_heap_bytes_per_route": index_heap / args.routes.max(1),
        "compile_heap_bytes_per_route": compile_heap / args.routes.max(1),
        "table_heap_bytes_per_route": per_route,
        "total_heap_bytes": total,
        "endpoint_change_us": percentiles(endpoints.clone()),
        "route_change_us": percentiles(routes),
    });
    println!("{}", serde_json::to_string_pretty(&figures)?);
    if !args.no_assert {
        ensure!(full_time <= Duration::from_secs(1), "a full compile took {full_time:?}");
        ensure!(per_route <= 1_536, "the table takes {per_route} bytes per route");
        let median = percentile(endpoints, 50);
        ensure!(median <= Duration::from_micros(100), "an EndpointSlice change took {median:?}");
    }
    Ok(())
}

/// CPU time, result and growth of the heap.
fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(Duration, T, usize)> {
    let (heap, start) = (live_bytes(), thread_cpu_time());
    let value = work()?;
    Ok((thread_cpu_time().saturating_sub(start), value, live_bytes().saturating_sub(heap)))
}

fn live_bytes() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

/// What is freed with the last reference to the table.
fn table_bytes(table: Arc<RouteTable>) -> usize {
    let before = live_bytes();
    drop(table);
    before.saturating_sub(live_bytes())
}

/// The backend that a request for host number `number` goes to has the endpoints that it must have.
fn check(args: &Args, table: &RouteTable) -> anyhow::Result<()> {
    for number in (0..args.routes).step_by(997) {
        let host = host(number);
        let count = endpoints_of(table, &host, "/x").with_context(|| format!("no route for {host}"))?;
        ensure!(count == args.endpoints, "{host} has {count} endpoints");
    }
    ensure!(endpoints_of(table, "nobody.example.com", "/").is_none(), "an unknown host has a route");
    Ok(())
}

fn endpoint_changes(
    args: &Args,
    index: &mut Index,
    compiler: &mut Compiler,
    before: &Arc<RouteTable>,
) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut old = Arc::clone(before);
    for round in 0..args.changes {
        let number = (round * 7_919) % args.services.max(1);
        let change = apply(index, &slice(number, args.endpoints, 1 + round / args.services.max(1)))?;
        let start = Instant::now();
        let (new, _) = compiler.compile(index, &change, 0);
        times.push(start.elapsed());
        ensure!(new.version > old.version, "an endpoint change changed nothing");
        let same = old.binds.iter().zip(&new.binds).all(|(a, b)| Arc::ptr_eq(a, b));
        ensure!(same, "an endpoint change rebuilt a bind");
        let host = host(number);
        ensure!(endpoints_of(&new, &host, "/") > Some(args.endpoints), "{host} has the old endpoints");
        old = black_box(new);
    }
    Ok(times)
}

fn route_changes(args: &Args, index: &mut Index, compiler: &mut Compiler) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    for round in 0..args.changes {
        let number = (round * 7_919) % args.routes.max(1);
        let change = if round % 4 == 3 {
            let service = number % args.services.max(1);
            let (namespace, name) = (format!("n{}", service % 100).into(), format!("i{number}").into());
            index.apply(Event::Delete(ObjectRef { kind: Kind::Ingress, namespace, name }))
        } else {
            apply(index, &ingress(number, args.services, "/changed"))?
        };
        let start = Instant::now();
        let (new, _) = compiler.compile(index, &change, 0);
        times.push(start.elapsed());
        let host = host(number);
        let found = endpoints_of(&new, &host, "/changed").is_some();
        ensure!(found == (round % 4 != 3), "{host} is not as changed");
    }
    Ok(times)
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

fn percentile(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort_unstable();
    let at = (times.len().saturating_sub(1)) * percent / 100;
    times.get(at).copied().unwrap_or_default()
}

fn percentiles(times: Vec<Duration>) -> serde_json::Value {
    let at = |percent| (percentile(times.clone(), percent).as_secs_f64() * 10_000_000.0).round() / 10.0;
    serde_json::json!({"p50": at(50), "p99": at(99), "max": at(100)})
}
