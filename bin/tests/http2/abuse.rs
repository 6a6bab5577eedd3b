//! Floods: the connection that attacks is gone within a second, costs at most a mebibyte, and nobody beside it notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::client::{connect, fetch, get, run};
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, PING, PRIORITY, RST_STREAM, Raw,
    SETTINGS, WINDOW_UPDATE, block, frame, get as get_fields, get_frame, literal, request,
};
use crate::origin::{Origin, Site};

/// What one connection may cost.
const MOST_MEMORY: usize = 1_024 * 1_024;
/// Connections that attack, one after the other. The allocator takes memory in large steps.
const ROUNDS: usize = 6;

/// A client that behaves, on a connection of its own.
struct Bystander {
    over: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<Result<(), String>>,
}

impl Bystander {
    fn start(site: &Site) -> Self {
        let (over, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (to, is_over, count) = (site.http, Arc::clone(&over), Arc::clone(&served));
        let thread = std::thread::spawn(move || {
            run(async {
                let client = connect(to).await;
                while !is_over.load(SeqCst) {
                    let got = fetch(&client, get("/bystander")).await.map_err(|error| error.to_string())?;
                    if got.status() != 200 {
                        return Err(format!("status {}", got.status()));
                    }
                    count.fetch_add(1, SeqCst);
                }
                Ok(())
            })
        });
        Self { over, served, thread }
    }

    fn served(&self) -> usize {
        self.served.load(SeqCst)
    }

    fn finish(self) {
        self.over.store(true, SeqCst);
        self.thread.join().unwrap().unwrap();
    }
}

/// Sends what `attack` gives until the gateway ends the connection; it must do so for one of `limits`.
#[track_caller]
fn repel(origin: &Origin, limits: &[&str], mut attack: impl FnMut(u32) -> Vec<u8>) -> Site {
    let site = Site::plain(origin);
    let bystander = Bystander::start(&site);
    crate::common::eventually("the bystander", || bystander.served() > 10);
    let mut memory = 0;
    for round in 0..ROUNDS {
        if round == 2 {
            // What the first attacks leave behind in the allocator, the others use again.
            memory = site.memory();
        }
        let mut raw = Raw::connect(site.http);
        let began = Instant::now();
        let mut count = 0;
        // Bounded: no budget is as large as this.
        while count < 100_000 && raw.send(attack(count)) {
            count += 1;
            if began.elapsed() > Duration::from_secs(10) {
                break;
            }
        }
        assert!(count < 100_000, "{limits:?}: nothing stops it");
        let code = raw.end(Duration::from_secs(1)).unwrap();
        assert!(began.elapsed() < Duration::from_secs(3), "{limits:?}: open for {:?}", began.elapsed());
        // A reset may overtake the last frame.
        assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{limits:?}: {code:?}");
    }
    let grown = site.memory().saturating_sub(memory);
    assert!(grown <= (ROUNDS - 2) * MOST_MEMORY, "{limits:?}: {ROUNDS} cost {grown} bytes");
    let metrics = site.gateway.admin("/metrics");
    let hits: Vec<&str> =
        metrics.lines().filter(|line| line.contains("limit_hits_total{limit=\"http2")).collect();
    let count = |limit: &&str| site.metric("sluicegate_limit_hits_total", &[&format!("\"{limit}\"")]);
    assert!(limits.iter().map(count).sum::<f64>() > 5.5, "{limits:?}: counted {hits:?}");
    let before = bystander.served();
    crate::common::eventually("the bystander", || bystander.served() > before + 10);
    bystander.finish();
    assert!(site.metric("sluicegate_panics_total", &[]) < 0.5);
    site
}

/// H36.
#[test]
fn rapid_reset() {
    let origin = Origin::plain();
    let site = repel(&origin, &["http2_resets", "http2_other"], |count| {
        let stream = 2 * count + 1;
        [get_frame(stream, "/reset"), frame(RST_STREAM, 0, stream, [0, 0, 0, 8])].concat()
    });
    let opened = site.metric("sluicegate_upstream_connects_total", &[]);
    assert!(opened < 50.0, "{opened} connections to endpoints");
}

/// H36, with requests that have reached an endpoint.
#[test]
fn resets_of_requests_under_way() {
    let origin = Origin::start(|conn| {
        while let Some(request) = conn.request() {
            if request.head.target() == "/reset" {
                std::thread::sleep(Duration::from_millis(300));
            }
            conn.answer("late");
        }
    });
    repel(&origin, &["http2_resets", "http2_other"], |count| {
        let stream = 2 * count + 1;
        std::thread::sleep(Duration::from_millis(2));
        let last = if count > 0 { frame(RST_STREAM, 0, stream - 2, [0, 0, 0, 8]) } else { Vec::new() };
        [get_frame(stream, "/reset"), last].concat()
    });
}

/// H37.
#[test]
fn made_you_reset() {
    let origin = Origin::plain();
    repel(&origin, &["http2_resets", "http2_other"], |count| {
        let stream = 2 * count + 1;
        [
            frame(HEADERS, END_HEADERS, stream, block(&request("POST", "/reset"))),
            frame(WINDOW_UPDATE, 0, stream, 0x7fff_ffff_u32.to_be_bytes()),
        ]
        .concat()
    });
}

#[test]
fn malformed_requests() {
    let origin = Origin::plain();
    repel(&origin, &["http2_malformed", "http2_other"], |count| {
        let mut fields = get_fields("/");
        fields[3].1 = "u@a".into();
        frame(HEADERS, END_STREAM | END_HEADERS, 2 * count + 1, block(&fields))
    });
}

/// H38.
#[test]
fn continuation_flood() {
    let origin = Origin::plain();
    repel(&origin, &["http2_field_block", "http2_other"], |count| match count {
        0 => frame(HEADERS, END_STREAM, 1, block(&get_fields("/"))),
        _ => frame(CONTINUATION, 0, 1, ""),
    });
}

/// H39, H40.
#[test]
fn field_bombs() {
    let origin = Origin::plain();
    // A field of 4 KiB that one byte repeats, 16 KiB of them.
    let mut bomb = block(&get_fields("/"));
    bomb.push(0x40);
    bomb.extend(&literal(b"x", &[b'y'; 3_900])[1..]);
    bomb.extend(vec![0xbe; 12_000]);
    let site = Site::plain(&origin);
    let bystander = Bystander::start(&site);
    let mut memory = 0;
    for round in 0..20 {
        if round == 2 {
            memory = site.memory();
        }
        let mut raw = Raw::connect(site.http);
        raw.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb));
        let _ = raw.end(Duration::from_secs(1)).unwrap();
    }
    let grown = site.memory().saturating_sub(memory);
    assert!(grown <= 18 * MOST_MEMORY, "costs {grown} bytes");
    bystander.finish();
    assert!(origin.lines().iter().all(|line| line.contains("/bystander")));
}

/// H42.
#[test]
fn settings_flood() {
    let origin = Origin::plain();
    repel(&origin, &["http2_settings"], |_| frame(SETTINGS, 0, 0, [0, 4, 0, 0, 0xff, 0xff]));
}

/// H43.
#[test]
fn ping_flood() {
    let origin = Origin::plain();
    repel(&origin, &["http2_pings"], |_| frame(PING, 0, 0, [7; 8]));
}

/// H44.
#[test]
fn empty_data_flood() {
    let origin = Origin::plain();
    repel(&origin, &["http2_other"], |count| match count {
        0 => frame(HEADERS, END_HEADERS, 1, block(&request("POST", "/"))),
        _ => frame(DATA, 0, 1, ""),
    });
}

/// H45, H46, H47.
#[test]
fn floods_of_frames_that_do_nothing() {
    let origin = Origin::plain();
    repel(&origin, &["http2_frames"], |count| {
        frame(PRIORITY, 0, 2 * (count % 1_000) + 1, [0x80, 0, 0, 0, 1])
    });
    repel(&origin, &["http2_frames"], |_| frame(0x10, 0, 0, [0, 0, 0, 1, b'u']));
    repel(&origin, &["http2_frames"], |_| frame(WINDOW_UPDATE, 0, 0, [0, 0, 0, 1]));
    repel(&origin, &["http2_frames"], |_| frame(0xfa, 0, 0, [0; 100]));
}

/// H35.
#[test]
fn padded_requests_in_a_row_are_survived() {
    let origin = Origin::plain();
    let site = Site::plain(&origin);
    let mut padded = vec![255];
    padded.extend(block(&get_fields("/padded")));
    padded.extend([0; 255]);
    let mut raw = Raw::connect(site.http);
    raw.send(
        (0..50)
            .flat_map(|index| frame(HEADERS, 8 | END_STREAM | END_HEADERS, 2 * index + 1, &padded))
            .collect::<Vec<u8>>(),
    );
    assert!(raw.body(99) > 0);
    assert!(site.metric("sluicegate_panics_total", &[]) < 0.5);
}

/// Requests that are refused because the heads of those before them are held: clients may send them again, but not for
/// ever.
#[test]
fn refused_requests_have_a_budget() {
    let origin = Origin::start(|conn| {
        while let Some(request) = conn.request() {
            if request.head.target() == "/held" {
                // Until the gateway leaves.
                conn.wire.end();
                return;
            }
            conn.answer("here");
        }
    });
    repel(&origin, &["head_bytes"], |count| {
        let mut fields = get_fields("/held");
        fields.push(("x-a".to_owned(), "y".repeat(14_000)));
        frame(HEADERS, END_STREAM | END_HEADERS, 2 * count + 1, block(&fields))
    });
}
