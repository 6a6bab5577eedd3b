//! How connections begin and end.

use std::time::{Duration, Instant};

use crate::client::{connect, fetch, get, run, send};
use crate::frames::{
    END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, Outcome, PING, PREFACE, REFUSED_STREAM, Raw, SETTINGS,
    SETTINGS_TIMEOUT, block, frame, get_frame,
};
use crate::origin::{Origin, Setting, Site};

/// An endpoint that answers when told to.
fn slow() -> (Origin, std::sync::mpsc::Sender<()>) {
    let (tell, told) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let origin = Origin::start(move |conn| {
        while let Some(request) = conn.request() {
            if request.head.target().starts_with("/slow") {
                let _ = told.lock().unwrap().recv();
            }
            conn.answer(request.head.target());
        }
    });
    (origin, tell)
}

/// H53, H54.
#[test]
fn a_drain_loses_no_request() {
    let (origin, tell) = slow();
    let mut site = Site::plain(&origin);
    let mut raw = Raw::connect(site.http);
    raw.send(get_frame(1, "/slow"));
    origin.wait("the request", |seen| seen.heads.len() == 1);
    site.gateway.signal("TERM");
    let ping = loop {
        let frame = raw.next().unwrap();
        if frame.kind == GOAWAY {
            assert_eq!(frame.payload[..8], [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        }
        if frame.kind == PING && frame.flags == 0 {
            break frame;
        }
    };
    // On its way before the client has seen the announcement.
    raw.send([get_frame(3, "/late"), frame(PING, 1, 0, &ping.payload)].concat());
    let mut last = None;
    let mut ended = 0;
    tell.send(()).unwrap();
    while let Some(frame) = raw.next() {
        if frame.kind == GOAWAY {
            last = Some(frame.payload[..8].to_vec());
        }
        ended += usize::from(matches!(frame.kind, 0 | 1) && frame.flags & 1 == 1);
    }
    assert_eq!((ended, last), (2, Some(vec![0, 0, 0, 3, 0, 0, 0, 0])));
    assert!(site.gateway.wait_for_exit().success());
}

#[test]
fn a_connection_says_goodbye_after_its_last_request() {
    let origin = Origin::plain();
    let setting = Setting { listener: Some("limits: {maxRequestsPerConnection: 3}"), ..Setting::default() };
    let site = Site::start(setting, &[&origin]);
    run(async {
        let client = connect(site.http).await;
        for _ in 0..3 {
            assert_eq!(fetch(&client, get("/")).await.unwrap().status(), 200);
        }
        while fetch(&client, get("/")).await.is_ok() {}
    });
    assert!(site.metric("sluicegate_limit_hits_total", &["max_requests_per_connection"]) > 0.5);
}

#[test]
fn an_idle_connection_is_closed() {
    let origin = Origin::plain();
    let site = Site::start(Setting { flags: &["--idle-timeout", "500ms"], ..Setting::default() }, &[&origin]);
    let mut raw = Raw::connect(site.http);
    raw.send(get_frame(1, "/"));
    assert_eq!(raw.outcome(1), Outcome::Status(200));
    let began = Instant::now();
    let ping = loop {
        let frame = raw.next().unwrap();
        if frame.kind == PING {
            break frame;
        }
    };
    raw.send(frame(PING, 1, 0, &ping.payload));
    assert_eq!(raw.end(Duration::from_secs(1)), Ok(Some(0)));
    assert!(began.elapsed() > Duration::from_millis(400));
    assert!(site.metric("sluicegate_limit_hits_total", &["idle_timeout"]) > 0.5);
}

/// H01.
#[test]
fn a_preface_that_is_not_completed_is_given_up() {
    let origin = Origin::plain();
    let site =
        Site::start(Setting { flags: &["--header-timeout", "500ms"], ..Setting::default() }, &[&origin]);
    let mut partial = Raw::bare(site.http);
    partial.send(&PREFACE[..20]);
    let mut bad = Raw::bare(site.http);
    bad.send([&PREFACE[..20], b"XXXX"].concat());
    for raw in [&mut bad, &mut partial] {
        raw.end(Duration::from_secs(2)).unwrap();
    }
    // A block that is not completed.
    let mut open = Raw::connect(site.http);
    open.send(frame(HEADERS, 1, 1, block(&crate::frames::get("/"))));
    assert_eq!(open.end(Duration::from_secs(2)), Ok(Some(ENHANCE_YOUR_CALM)));
    assert!(site.metric("sluicegate_limit_hits_total", &["header_timeout"]) > 1.5);
}

/// H09.
#[test]
fn settings_that_are_not_acknowledged_end_the_connection() {
    let origin = Origin::plain();
    let site = Site::plain(&origin);
    let mut raw = Raw::bare(site.http);
    raw.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    raw.send([PREFACE, &frame(SETTINGS, 0, 0, "")].concat());
    assert_eq!(raw.end(Duration::from_secs(13)), Ok(Some(SETTINGS_TIMEOUT)));
}

/// H05.
#[test]
fn a_stream_beyond_the_limit_is_refused() {
    let (origin, tell) = slow();
    let site = Site::plain(&origin);
    let mut raw = Raw::connect(site.http);
    for index in 0..101 {
        raw.send(get_frame(2 * index + 1, "/slow"));
    }
    assert_eq!(raw.outcome(201), Outcome::Reset(REFUSED_STREAM));
    for _ in 0..100 {
        tell.send(()).unwrap();
    }
    assert!(raw.body(1) > 0);
    raw.send(get_frame(203, "/after"));
    assert!(raw.body(203) > 0);
}

/// H52.
#[test]
fn a_goodbye_of_the_client_ends_no_request() {
    let (origin, tell) = slow();
    let site = Site::plain(&origin);
    let mut raw = Raw::connect(site.http);
    raw.send(get_frame(1, "/slow"));
    raw.send(frame(GOAWAY, 0, 0, [0; 8]));
    origin.wait("the request", |seen| seen.heads.len() == 1);
    tell.send(()).unwrap();
    assert_eq!(raw.outcome(1), Outcome::Status(200));
    raw.end(Duration::from_secs(2)).unwrap();
}

#[test]
fn both_versions_share_the_port_and_the_count() {
    let origin = Origin::plain();
    let site = Site::plain(&origin);
    run(async {
        let client = connect(site.http).await;
        let (response, _) = send(&client, get("/"), true).await;
        assert_eq!(response.await.unwrap().status(), 200);
        assert_eq!(site.client().get("/").head.status(), 200);
        assert!(site.metric("sluicegate_connections_open", &[]) > 0.5);
        drop(client);
    });
    site.wait_for_metric("sluicegate_connections_open", &[], 0.0);
}

/// H51.
#[test]
fn stream_identifiers_are_not_used_up() {
    let origin = Origin::plain();
    let site = Site::plain(&origin);
    let mut raw = Raw::connect(site.http);
    raw.send(get_frame((1 << 30) - 1, "/last"));
    assert_eq!(raw.outcome((1 << 30) - 1), Outcome::Status(200));
    let mut raw = Raw::connect(site.http);
    raw.send(get_frame((1 << 30) + 1, "/late"));
    // It is served, and the client asked for a new connection.
    let (mut is_served, mut is_told) = (false, false);
    while !(is_served && is_told) {
        let frame = raw.next().expect("an answer and a goodbye");
        is_served |= frame.stream == (1 << 30) + 1 && frame.flags & END_STREAM != 0;
        is_told |= frame.kind == GOAWAY && frame.payload[4..8] == [0; 4];
    }
}
