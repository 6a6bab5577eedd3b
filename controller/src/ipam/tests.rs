use std::sync::Arc;

use config::report::Kind;
use config::resource::{AddressPoolSpec, LabelSelector, ServiceAllocation};
use config::table::Transport;
use proptest::prelude::*;

use super::*;

mod properties;

fn pool_name(name: &str) -> ObjectRef {
    ObjectRef { kind: Kind::AddressPool, namespace: "".into(), name: name.into() }
}

fn service(name: &str) -> ObjectRef {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    ObjectRef { kind: Kind::Service, namespace: namespace.into(), name: name.into() }
}

fn pool(ranges: &str) -> AddressPool {
    let addresses = ranges.split(',').map(|range| range.parse().unwrap()).collect();
    AddressPool {
        spec: AddressPoolSpec { addresses, ..AddressPoolSpec::default() },
        ..AddressPool::default()
    }
}

fn pools<const N: usize>(pools: [(&str, AddressPool); N]) -> BTreeMap<ObjectRef, AddressPool> {
    pools.into_iter().map(|(name, pool)| (pool_name(name), pool)).collect()
}

fn allocator<const N: usize>(known: [(&str, AddressPool); N]) -> Allocator {
    let mut allocator = Allocator::default();
    allocator.set_pools(&pools(known), &BTreeSet::new());
    allocator
}

fn plain() -> Request {
    Request {
        created: None,
        families: Families::One(Family::V4),
        addresses: Box::default(),
        misread: None,
        pool: None,
        sharing: None,
        ports: Box::new([(Transport::Tcp, 80)]),
        labels: Arc::default(),
        namespace_labels: Some(Arc::default()),
        hint: Box::default(),
    }
}

fn asking(address: &str) -> Request {
    Request { addresses: [address.parse().unwrap()].into(), ..plain() }
}

fn sharing(key: &str, port: u16) -> Request {
    let sharing = Some(Sharing { key: key.into(), nodes: Nodes::All });
    Request { sharing, ports: Box::new([(Transport::Tcp, port)]), ..plain() }
}

/// `address pool` of what it has, then the reason for what it has not.
fn shown(allocator: &Allocator, name: &str) -> String {
    let Some(outcome) = allocator.outcome(&service(name)) else { return "nothing asked".to_owned() };
    let assigned = outcome.assigned.iter().map(|one| format!("{} {}", one.address, one.pool.name));
    let lack = outcome.lack.as_ref().map(|lack| lack.reason().to_owned());
    assigned.chain(lack).collect::<Vec<_>>().join(", ")
}

fn give(allocator: &mut Allocator, name: &str, request: Request) -> String {
    allocator.request(&service(name), Some(request));
    allocator.settle();
    shown(allocator, name)
}

#[test]
fn the_lowest_free_address_is_given_and_given_again_after_its_release() {
    let mut ipam = allocator([("a", pool("192.0.2.1-192.0.2.3"))]);
    assert_eq!(give(&mut ipam, "one", plain()), "192.0.2.1 a");
    assert_eq!(give(&mut ipam, "two", plain()), "192.0.2.2 a");
    ipam.request(&service("one"), None);
    let news = ipam.settle();
    assert_eq!(news[0].withdrawn, [("192.0.2.1".parse().unwrap(), Withdrawal::Released)]);
    assert_eq!(news[0].outcome, None);
    assert_eq!(shown(&ipam, "one"), "nothing asked");
    assert_eq!(give(&mut ipam, "three", plain()), "192.0.2.1 a");
    assert_eq!(ipam.usage().next().unwrap().1.available_v4, 1);
}

#[test]
fn the_oldest_is_served_first_whatever_the_order_of_arrival() {
    let old = Request { created: Some(1), ..plain() };
    let young = Request { created: Some(2), ..plain() };
    let mut ipam = allocator([("a", pool("192.0.2.1-192.0.2.2"))]);
    for (name, request) in [("unknown", plain()), ("young", young), ("old", old)] {
        ipam.request(&service(name), Some(request));
    }
    ipam.settle();
    assert_eq!(shown(&ipam, "old"), "192.0.2.1 a");
    assert_eq!(shown(&ipam, "young"), "192.0.2.2 a");
    assert_eq!(shown(&ipam, "unknown"), "PoolExhausted");
    // Whoever waits gets what is given back.
    ipam.request(&service("old"), None);
    let news = ipam.settle();
    assert_eq!(news.len(), 2);
    assert_eq!(shown(&ipam, "unknown"), "192.0.2.1 a");
}

#[test]
fn an_address_in_use_is_not_moved_by_a_better_pool_or_an_older_service() {
    let mut ipam = allocator([("b", pool("192.0.2.1"))]);
    assert_eq!(give(&mut ipam, "young", Request { created: Some(9), ..plain() }), "192.0.2.1 b");
    let mut better = pool("198.51.100.1");
    better.spec.service_allocation.priority = 1;
    ipam.set_pools(&pools([("a", better), ("b", pool("192.0.2.1-192.0.2.9"))]), &BTreeSet::new());
    let older = Request { created: Some(1), ..asking("192.0.2.1") };
    assert_eq!(give(&mut ipam, "old", older), "AddressInUse");
    assert_eq!(shown(&ipam, "young"), "192.0.2.1 b");
    assert_eq!(give(&mut ipam, "other", plain()), "198.51.100.1 a");
}

#[test]
fn a_pool_that_shrinks_withdraws_and_says_why() {
    let mut ipam = allocator([("a", pool("192.0.2.1-192.0.2.4"))]);
    give(&mut ipam, "one", plain());
    give(&mut ipam, "two", plain());
    ipam.set_pools(&pools([("a", pool("192.0.2.2"))]), &BTreeSet::new());
    let news = ipam.settle();
    assert_eq!(news.len(), 1, "{news:?}");
    assert_eq!(news[0].withdrawn, [("192.0.2.1".parse().unwrap(), Withdrawal::PoolChanged)]);
    assert_eq!(shown(&ipam, "one"), "PoolExhausted");
    assert_eq!(shown(&ipam, "two"), "192.0.2.2 a");
    ipam.set_pools(&pools([("renamed", pool("192.0.2.2-192.0.2.3"))]), &BTreeSet::new());
    let news = ipam.settle();
    assert_eq!(news.len(), 2, "the other pool is told: {news:?}");
    assert_eq!(shown(&ipam, "two"), "192.0.2.2 renamed");
    assert_eq!(shown(&ipam, "one"), "192.0.2.3 renamed");
}

#[test]
fn what_is_asked_for_is_given_or_refused_and_never_something_else() {
    let mut reserved = pool("203.0.113.0-203.0.113.9");
    reserved.spec.auto_assign = false;
    let mut ipam = allocator([("a", pool("192.0.2.1-192.0.2.9")), ("reserved", reserved)]);
    assert_eq!(give(&mut ipam, "one", asking("192.0.2.7")), "192.0.2.7 a");
    assert_eq!(give(&mut ipam, "two", asking("192.0.2.7")), "AddressInUse");
    assert_eq!(give(&mut ipam, "three", asking("198.51.100.1")), "AddressNotInPool");
    assert_eq!(give(&mut ipam, "four", asking("203.0.113.5")), "203.0.113.5 reserved");
    assert_eq!(give(&mut ipam, "five", asking("2001:db8::1")), "AddressFamilyMismatch");
    let named = |name: &str| Request { pool: Some(name.into()), ..plain() };
    assert_eq!(give(&mut ipam, "six", named("reserved")), "203.0.113.0 reserved");
    assert_eq!(give(&mut ipam, "seven", named("nowhere")), "PoolNotFound");
    let misread = Request { misread: Some("192.0.2".into()), ..plain() };
    assert_eq!(give(&mut ipam, "eight", misread), "InvalidAddress");
    let elsewhere = Request { pool: Some("reserved".into()), ..asking("192.0.2.8") };
    assert_eq!(give(&mut ipam, "nine", elsewhere), "AddressNotInPool");
    // Another wish takes the old address away, even if it cannot be met.
    assert_eq!(give(&mut ipam, "one", asking("203.0.113.0")), "AddressInUse");
    assert_eq!(shown(&ipam, "two"), "192.0.2.7 a");
    // No wish any more: what it has is good enough.
    assert_eq!(give(&mut ipam, "four", plain()), "203.0.113.5 reserved");
}

#[test]
fn pools_are_for_whom_they_admit_and_those_for_few_come_first() {
    let selector = |text: &str| serde_json::from_str::<LabelSelector>(text).unwrap();
    let limited = |allocation: ServiceAllocation, range: &str| {
        let mut pool = pool(range);
        pool.spec.service_allocation = allocation;
        pool
    };
    let team = selector(r#"{"matchExpressions": [{"key": "team", "operator": "In", "values": ["blue"]}]}"#);
    let web = selector(r#"{"matchLabels": {"tier": "web"}}"#);
    let of_shop = ServiceAllocation { namespaces: vec!["shop".into()], ..ServiceAllocation::default() };
    let of_team = ServiceAllocation { namespace_selectors: vec![team], ..ServiceAllocation::default() };
    let of_web =
        ServiceAllocation { service_selectors: vec![web], priority: 1, ..ServiceAllocation::default() };
    let mut ipam = allocator([
        ("all", pool("192.0.2.1-192.0.2.9")),
        ("shop", limited(of_shop, "198.51.100.1-198.51.100.9")),
        ("team", limited(of_team, "203.0.113.1-203.0.113.9")),
        ("web", limited(of_web, "203.0.113.101-203.0.113.109")),
    ]);
    let labels = |key: &str, value: &str| Arc::new(BTreeMap::from([(key.to_owned(), value.to_owned())]));
    assert_eq!(give(&mut ipam, "one", plain()), "192.0.2.1 all");
    assert_eq!(give(&mut ipam, "shop/one", plain()), "198.51.100.1 shop");
    let blue = Request { namespace_labels: Some(labels("team", "blue")), ..plain() };
    assert_eq!(give(&mut ipam, "blue/one", blue), "203.0.113.1 team");
    let web = Request { labels: labels("tier", "web"), ..plain() };
    assert_eq!(give(&mut ipam, "shop/web", web), "203.0.113.101 web");
    assert_eq!(give(&mut ipam, "two", asking("198.51.100.2")), "PoolNotAllowed");
    let named = Request { pool: Some("shop".into()), ..plain() };
    assert_eq!(give(&mut ipam, "three", named), "PoolNotAllowed");
}

#[test]
fn addresses_are_shared_by_key_with_disjoint_ports_and_equal_nodes() {
    let mut ipam = allocator([("a", pool("192.0.2.1-192.0.2.9"))]);
    assert_eq!(give(&mut ipam, "x/one", sharing("k", 80)), "192.0.2.1 a");
    assert_eq!(give(&mut ipam, "y/two", sharing("k", 81)), "192.0.2.1 a");
    assert_eq!(give(&mut ipam, "z/three", sharing("k", 80)), "192.0.2.2 a", "the port is taken");
    let udp = Request { ports: Box::new([(Transport::Udp, 80)]), ..sharing("k", 0) };
    assert_eq!(give(&mut ipam, "x/udp", udp), "192.0.2.1 a");
    assert_eq!(give(&mut ipam, "x/other", sharing("l", 82)), "192.0.2.3 a");
    let local = |selector: &[(&str, &str)]| {
        let selector = selector.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let nodes = Nodes::WithPods { namespace: "x".into(), selector };
        Some(Sharing { key: "k".into(), nodes })
    };
    let local_one = Request { sharing: local(&[("app", "a")]), ..sharing("k", 90) };
    let local_two = Request { sharing: local(&[("app", "a")]), ..sharing("k", 91) };
    let local_three = Request { sharing: local(&[("app", "b")]), ..sharing("k", 92) };
    assert_eq!(give(&mut ipam, "x/l1", local_one), "192.0.2.4 a");
    assert_eq!(give(&mut ipam, "x/l2", local_two), "192.0.2.4 a");
    assert_eq!(give(&mut ipam, "x/l3", local_three), "192.0.2.5 a");
    let unselective = Request { sharing: local(&[]), ..sharing("k", 93) };
    assert_eq!(give(&mut ipam, "x/l4", unselective.clone()), "192.0.2.6 a");
    assert_eq!(give(&mut ipam, "x/l5", Request { ports: Box::default(), ..unselective }), "192.0.2.7 a");
}

#[test]
fn whoever_changes_what_it_shares_yields_to_the_others() {
    let mut ipam = allocator([("a", pool("192.0.2.1-192.0.2.9"))]);
    give(&mut ipam, "old", Request { created: Some(1), ..sharing("k", 80) });
    give(&mut ipam, "young", Request { created: Some(2), ..sharing("k", 81) });
    ipam.request(&service("old"), Some(Request { created: Some(1), ..sharing("k", 81) }));
    let news = ipam.settle();
    assert_eq!(news[0].withdrawn, [("192.0.2.1".parse().unwrap(), Withdrawal::SharingEnded)]);
    assert_eq!(shown(&ipam, "old"), "192.0.2.2 a");
    assert_eq!(shown(&ipam, "young"), "192.0.2.1 a");
}

#[test]
fn both_families_are_had_as_the_policy_says() {
    let dual = |families| Request { families, ..plain() };
    let mut ipam = allocator([("four", pool("192.0.2.1"))]);
    assert_eq!(give(&mut ipam, "prefers", dual(Families::Prefer)), "192.0.2.1 four");
    assert_eq!(give(&mut ipam, "six", dual(Families::One(Family::V6))), "NoPool");
    ipam.set_pools(
        &pools([("four", pool("192.0.2.1-192.0.2.2")), ("six", pool("2001:db8::/127"))]),
        &BTreeSet::new(),
    );
    ipam.settle();
    assert_eq!(shown(&ipam, "prefers"), "192.0.2.1 four, 2001:db8:: six");
    assert_eq!(shown(&ipam, "six"), "2001:db8::1 six");
    assert_eq!(give(&mut ipam, "requires", dual(Families::Require)), "PoolExhausted");
    assert_eq!(ipam.usage().next().unwrap().1.available_v4, 1, "what is not used is not kept");
    assert_eq!(give(&mut ipam, "prefers", plain()), "192.0.2.1 four");
    assert_eq!(shown(&ipam, "requires"), "192.0.2.2 four, 2001:db8:: six");
}

#[test]
fn buggy_addresses_are_left_out_even_if_asked_for() {
    let mut careful = pool("192.0.2.0/24");
    careful.spec.avoid_buggy_ips = true;
    let mut ipam = allocator([("a", careful)]);
    assert_eq!(give(&mut ipam, "one", plain()), "192.0.2.1 a");
    assert_eq!(give(&mut ipam, "two", asking("192.0.2.255")), "AddressNotInPool");
    assert_eq!(ipam.usage().next().unwrap().1.available_v4, 253);
}

#[test]
fn overlapping_pools_are_told_and_give_each_address_once() {
    let mut ipam = Allocator::default();
    let overlaps = ipam.set_pools(
        &pools([
            ("a", pool("192.0.2.0-192.0.2.2")),
            ("b", pool("192.0.2.2-192.0.2.3")),
            ("c", pool("192.0.2.4,2001:db8::/64")),
        ]),
        &BTreeSet::new(),
    );
    let address = "192.0.2.2".parse().unwrap();
    assert_eq!(overlaps, [Overlap { pool: pool_name("a"), other: pool_name("b"), address }]);
    let all: Vec<String> = ["1", "2", "3", "4", "5", "6"].map(|name| give(&mut ipam, name, plain())).into();
    let wanted = ["192.0.2.0 a", "192.0.2.1 a", "192.0.2.2 a", "192.0.2.3 b", "192.0.2.4 c", "PoolExhausted"];
    assert_eq!(all, wanted);
}

#[test]
fn a_large_pool_and_many_services_cost_little() {
    let mut ipam = allocator([("a", pool("2001:db8::/64,10.0.0.0/8"))]);
    let dual = Request { families: Families::Require, ..plain() };
    for number in 0..20_000 {
        ipam.request(&service(&format!("s{number}")), Some(dual.clone()));
        ipam.settle();
    }
    let usage = ipam.usage().next().unwrap().1;
    assert_eq!((usage.assigned_v4, usage.assigned_v6), (20_000, 20_000));
    assert_eq!(usage.available_v6, (1 << 64) - 20_000);
}
