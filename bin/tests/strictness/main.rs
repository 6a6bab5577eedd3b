//! What the gateway does with malformed, ambiguous and hostile HTTP/1.1, row by row: the real binary between a
//! raw client and raw backends that keep every byte they receive.
//!
//! Every row has an id: Q requests, E one hop's fields, Expect and Upgrade, P paths, S responses, L PROXY headers.
//! For each refused request the suite asserts the status, that no backend got anything, that nothing after it is
//! served and that the connection ends; for each forwarded one, the canonical form that the backend received.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "all of it is test code, where a broken assumption must fail loudly"
)]

mod backend;
mod case;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod forwarding;
mod gateway;
mod mixtures;
mod paths;
mod proxies;
mod requests;
mod responses;
mod scenarios;
mod wire;

use case::{Case, Outcome, ResponseCase};
use gateway::Setup;

/// Rows that do not hold yet. Each is asserted to fail, so that it is noticed when it starts to hold.
const KNOWN_FAILING: &[&str] = &[];

/// Fails with every row that went another way than it should.
#[track_caller]
fn judge(setup: &Setup, outcomes: Vec<Outcome>) {
    assert!(!outcomes.is_empty());
    let mut wrong = Vec::new();
    for (id, result) in outcomes {
        match (result, KNOWN_FAILING.contains(&id.as_str())) {
            (Ok(()), false) | (Err(_), true) => {}
            (Ok(()), true) => wrong.push(format!("{id}: holds now; take it off KNOWN_FAILING")),
            (Err(why), false) => wrong.push(format!("{id}: {why}")),
        }
    }
    assert!(wrong.is_empty(), "{} rows\n{}\n\nlog:\n{}", wrong.len(), wrong.join("\n"), setup.log());
}

#[track_caller]
fn check(cases: &[Case]) {
    let setup = Setup::start(&[]);
    judge(&setup, cases.iter().map(|case| case.run(&setup)).collect());
}

#[track_caller]
fn check_responses(cases: &[ResponseCase]) {
    let setup = Setup::start(&[]);
    judge(&setup, cases.iter().map(|case| case.run(&setup)).collect());
}

#[test]
fn request_lines() {
    check(&requests::lines());
}

#[test]
fn request_targets_and_hosts() {
    check(&requests::targets());
}

#[test]
fn request_framing() {
    check(&requests::framing());
}

#[test]
fn chunked_bodies() {
    check(&requests::chunked());
}

#[test]
fn pipelines() {
    check(&requests::pipelines());
}

#[test]
fn both_sides_agree_on_where_requests_end() {
    let setup = Setup::start(&[]);
    judge(&setup, mixtures::run(&setup, 1_000));
}

#[test]
fn paths_have_one_form() {
    check(&paths::paths());
    check(&paths::rewritten());
}

#[test]
fn forwarding() {
    let setup = Setup::start(&[]);
    let cases = forwarding::forwarding(&setup);
    let mut outcomes: Vec<Outcome> = cases.iter().map(|case| case.run(&setup)).collect();
    outcomes.extend(scenarios::run(&setup, scenarios::REQUEST_ID));
    judge(&setup, outcomes);
}

#[test]
fn forwarding_for_trusted_proxies() {
    let setup = Setup::start(&["--trusted-proxy", "127.0.0.0/8"]);
    judge(&setup, scenarios::run(&setup, scenarios::TRUSTED));
}

#[test]
fn bodies_cut_short_or_unwanted() {
    let setup = Setup::start(&[]);
    judge(&setup, scenarios::run(&setup, scenarios::BODIES));
    judge(&setup, scenarios::run(&setup, scenarios::REDIRECTS));
}

#[test]
fn expectations_and_early_answers() {
    let setup = Setup::start(&[]);
    judge(&setup, scenarios::run(&setup, scenarios::EXPECT));
}

#[test]
fn upgrades() {
    let setup = Setup::start(&[]);
    judge(&setup, scenarios::run(&setup, scenarios::UPGRADE));
}

#[test]
fn response_framing() {
    check_responses(&responses::framing());
}

#[test]
fn response_heads() {
    check_responses(&responses::heads());
}

#[test]
fn response_connections() {
    check_responses(&responses::connections());
}

#[test]
fn responses_cut_short_or_out_of_turn() {
    let setup = Setup::start(&[]);
    judge(&setup, scenarios::run(&setup, scenarios::RESPONSES));
}

#[test]
fn slow_clients() {
    let setup = Setup::start(&["--header-timeout", "400ms", "--body-idle-timeout", "400ms"]);
    judge(&setup, scenarios::run(&setup, scenarios::SLOW_CLIENTS));
}

#[test]
fn slow_proxy_headers() {
    let mut setup = Setup::start(&["--proxy-protocol", "--header-timeout", "400ms"]);
    setup.preamble = b"PROXY UNKNOWN\r\n";
    judge(&setup, scenarios::run(&setup, proxies::SLOW_PROXIES));
}

#[test]
fn slow_backends() {
    let setup = Setup::start_with(&[], "sluicegate.dev/response-timeout: 400ms");
    judge(&setup, scenarios::run(&setup, scenarios::SLOW_BACKENDS));
}

#[test]
fn proxy_headers() {
    let mut setup = Setup::start(&["--proxy-protocol"]);
    setup.preamble = b"PROXY UNKNOWN\r\n";
    judge(&setup, scenarios::run(&setup, proxies::PROXY));
}

#[test]
fn proxy_headers_where_none_are_expected() {
    let setup = Setup::start(&[]);
    judge(&setup, scenarios::run(&setup, proxies::NO_PROXY));
}
