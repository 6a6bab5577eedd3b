//! `explain` names the winner and says why every other candidate lost.

#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use common::{compile, get};
use config::table::explain::{Explanation, Request, explain};

const ROUTES: &str = r#"
listeners: ["127.0.0.1:8000"]
routes:
  - {name: root, hosts: shop.test, pathPrefix: /, backend: app}
  - {name: api, hosts: shop.test, pathPrefix: /api, backend: app}
  - {name: canary, hosts: shop.test, matches: [{pathPrefix: /api, method: POST, headers: {x-canary: "1"}}], backend: app}
  - {name: exact, hosts: shop.test, path: /api/v1, backend: nosuch}
  - {name: twin, hosts: shop.test, pathPrefix: /api/, backend: app}
  - {name: wild, hosts: "*.test", pathPrefix: /api, backend: app}
  - {name: elsewhere, hosts: other.test, pathPrefix: /api, backend: app}
backends:
  - {name: app, endpoints: ["10.0.0.1:80"]}
"#;

fn ask(request: &Request<'_>) -> Explanation {
    let (table, report) = compile(ROUTES);
    explain(&table, &report, request)
}

fn why(explanation: &Explanation, route: &str) -> String {
    let other = explanation.others.iter().find(|other| &*other.route == route);
    other.map_or_else(|| "not listed".to_owned(), |other| other.why.clone())
}

#[test]
fn the_winner_and_every_loser_are_told() {
    let explanation = ask(&get("shop.test", "/api/x"));
    assert_eq!(explanation.verdict, "forwarded by route/api");
    assert_eq!(explanation.host.as_deref(), Some("shop.test"));
    let chosen = explanation.chosen.as_ref().unwrap();
    assert_eq!(chosen.path.as_deref(), Some("Prefix /api"));
    assert_eq!(chosen.backends[0].backend.as_ref().unwrap().endpoints.len(), 1);
    assert_eq!(why(&explanation, "route/root"), "the longer prefix Prefix /api won");
    assert_eq!(why(&explanation, "route/canary"), "the method is not POST");
    assert_eq!(why(&explanation, "route/exact"), "the path does not match");
    assert!(
        why(&explanation, "route/twin").contains("Route api comes first"),
        "{}",
        why(&explanation, "route/twin")
    );
    assert!(why(&explanation, "route/wild").contains("`shop.test` is more specific"));
    assert_eq!(why(&explanation, "route/elsewhere"), "the host does not match");
}

#[test]
fn a_condition_that_is_not_met_is_named() {
    let request = Request { method: "POST", ..get("shop.test", "/api/x") };
    assert_eq!(why(&ask(&request), "route/canary"), "header `x-canary` is absent or has another value");
    let headers = [("X-Canary".to_owned(), "1".to_owned())];
    let explanation = ask(&Request { headers: &headers, ..request });
    assert_eq!(explanation.verdict, "forwarded by route/canary");
    assert_eq!(
        why(&explanation, "route/api"),
        "another rule with the same path has more conditions, or goes first"
    );
}

#[test]
fn what_is_not_served_is_said_with_its_status() {
    assert!(
        ask(&get("shop.test", "/api/v1")).verdict.starts_with("503: route/exact takes it, but is closed")
    );
    assert!(ask(&get("nobody.example", "/")).verdict.starts_with("404: no route has this host"));
    assert!(ask(&get("x.test", "/other")).verdict.starts_with("404: the host is known"));
    let request = Request { bind: Some("127.0.0.1:1".parse().unwrap()), ..get("shop.test", "/") };
    assert_eq!(ask(&request).verdict, "nothing listens on 127.0.0.1:1");
}
