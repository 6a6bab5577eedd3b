//! What must hold for every history, over pools and Services so few that they get in each other's way.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;

/// The addresses of the universe.
fn universe(family: Family) -> Vec<IpAddr> {
    let all = 0..12_u8;
    match family {
        Family::V4 => all.map(|low| IpAddr::V4(Ipv4Addr::new(192, 0, 2, low))).collect(),
        Family::V6 => {
            all.map(|low| IpAddr::V6(Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(low)))).collect()
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Pools(BTreeMap<ObjectRef, AddressPool>),
    Request(ObjectRef, Option<Request>),
    Settle,
}

fn a_pool() -> impl Strategy<Value = AddressPool> {
    let range = (any::<bool>(), 0_usize..12, 0_usize..5).prop_map(|(is_v4, first, more)| {
        let all = universe(if is_v4 { Family::V4 } else { Family::V6 });
        let last = (first + more).min(11);
        format!("{}-{}", all[first], all[last]).parse().unwrap()
    });
    let allocation = (0_u32..3, 0_u8..4).prop_map(|(priority, limit)| ServiceAllocation {
        priority,
        namespaces: if limit == 0 { vec!["n0".into()] } else { Vec::new() },
        service_selectors: if limit == 1 {
            vec![serde_json::from_str(r#"{"matchLabels": {"a": "b"}}"#).unwrap()]
        } else {
            Vec::new()
        },
        ..ServiceAllocation::default()
    });
    let ranges = prop::collection::vec(range, 0..3);
    (ranges, prop::bool::weighted(0.8), any::<bool>(), allocation).prop_map(
        |(addresses, auto_assign, avoid_buggy_ips, service_allocation)| AddressPool {
            spec: AddressPoolSpec { addresses, auto_assign, avoid_buggy_ips, service_allocation },
            ..AddressPool::default()
        },
    )
}

fn some_pools() -> impl Strategy<Value = BTreeMap<ObjectRef, AddressPool>> {
    let name = (0_u8..3).prop_map(|name| pool_name(&format!("p{name}")));
    prop::collection::btree_map(name, a_pool(), 0..4)
}

fn some_service() -> impl Strategy<Value = ObjectRef> {
    (0_u8..2, 0_u8..5).prop_map(|(namespace, name)| service(&format!("n{namespace}/s{name}")))
}

fn some_request() -> impl Strategy<Value = Request> {
    let families = prop_oneof![
        Just(Families::One(Family::V4)),
        Just(Families::One(Family::V6)),
        Just(Families::Prefer),
        Just(Families::Require),
    ];
    let address = (any::<bool>(), 0_usize..12)
        .prop_map(|(is_v4, at)| universe(if is_v4 { Family::V4 } else { Family::V6 })[at]);
    let addresses = prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec(address, 1..3),
    ];
    let pool =
        prop_oneof![4 => Just(None), 1 => (0_u8..4).prop_map(|name| Some(Arc::from(format!("p{name}"))))];
    let sharing = prop_oneof![
        2 => Just(None),
        2 => (0_u8..2, 0_u8..3).prop_map(|(key, nodes)| {
            let selector = BTreeMap::from([("app".to_owned(), "a".to_owned())]);
            let nodes = match nodes {
                0 => Nodes::WithPods { namespace: "n0".into(), selector },
                _ => Nodes::All,
            };
            Some(Sharing { key: format!("k{key}").into(), nodes })
        }),
    ];
    let ports =
        prop::collection::vec((prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)], 1_u16..3), 1..2);
    let created = prop_oneof![Just(None), (0_i64..3).prop_map(Some)];
    (families, addresses, pool, sharing, ports, created, any::<bool>()).prop_map(
        |(families, addresses, pool, sharing, ports, created, has_label)| {
            let labels = has_label.then(|| ("a".to_owned(), "b".to_owned())).into_iter().collect();
            Request {
                created,
                families,
                addresses: addresses.into(),
                misread: None,
                pool,
                sharing,
                ports: ports.into(),
                labels: Arc::new(labels),
                namespace_labels: Some(Arc::default()),
                hint: Box::default(),
            }
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => some_pools().prop_map(Step::Pools),
        6 => (some_service(), some_request()).prop_map(|(service, request)| Step::Request(service, Some(request))),
        2 => some_service().prop_map(|service| Step::Request(service, None)),
        4 => Just(Step::Settle),
    ];
    (some_pools(), prop::collection::vec(step, 0..40)).prop_map(|(pools, mut steps)| {
        steps.insert(0, Step::Pools(pools));
        steps.push(Step::Settle);
        steps
    })
}

/// What the rules are about, without any cleverness.
#[derive(Clone, Debug, Default)]
struct World {
    pools: BTreeMap<ObjectRef, AddressPool>,
    requests: BTreeMap<ObjectRef, Request>,
}

type Addresses = BTreeMap<ObjectRef, Vec<IpAddr>>;

impl World {
    fn has(&self, name: &ObjectRef, address: IpAddr) -> bool {
        let spec = &self.pools[name].spec;
        let is_buggy = matches!(address, IpAddr::V4(v4) if matches!(v4.octets()[3], 0 | 255));
        !(spec.avoid_buggy_ips && is_buggy)
            && spec.addresses.iter().any(|range| range.first() <= address && address <= range.last())
    }

    fn admits(&self, name: &ObjectRef, service: &ObjectRef) -> bool {
        let request = &self.requests[service];
        let allocation = &self.pools[name].spec.service_allocation;
        request.pool.as_ref().is_none_or(|wanted| *wanted == name.name)
            && allocation.admits((&service.namespace, request.namespace_labels.as_deref()), &request.labels)
    }

    /// Whether two Services may have one address.
    fn go_together(&self, one: &ObjectRef, two: &ObjectRef) -> bool {
        let (one, two) = (&self.requests[one], &self.requests[two]);
        one.sharing.is_some()
            && one.sharing == two.sharing
            && one.ports.iter().all(|port| !two.ports.contains(port))
    }

    /// Whether `service` may have `address` if only those in `have` have anything.
    fn could_have(&self, service: &ObjectRef, address: IpAddr, have: &Addresses) -> bool {
        let request = &self.requests[service];
        let asked = request.addresses.iter().find(|asked| asked.is_ipv4() == address.is_ipv4());
        let is_offered = self.pools.iter().any(|(name, pool)| {
            let is_asked = asked.is_some() || request.pool.is_some();
            self.has(name, address) && self.admits(name, service) && (pool.spec.auto_assign || is_asked)
        });
        let others = have.iter().filter(|(other, held)| *other != service && held.contains(&address));
        is_offered
            && asked.is_none_or(|asked| *asked == address)
            && not_its_family(request).is_none()
            && others.into_iter().all(|(other, _)| self.go_together(service, other))
    }

    fn check(&self, have: &Addresses) {
        self.check_held(have);
        self.check_waiting(have);
    }

    fn check_held(&self, have: &Addresses) {
        for (service, held) in have {
            let request = &self.requests[service];
            for address in held {
                assert!(request.families.wants(Family::of(*address)), "{service} has {address}");
                let is_inside = |name| self.has(name, *address) && self.admits(name, service);
                assert!(self.pools.keys().any(is_inside), "{service} has {address}, which no pool gives");
                for (other, theirs) in have {
                    let is_shared = other != service && theirs.contains(address);
                    assert!(
                        !is_shared || self.go_together(service, other),
                        "{address}: {service} and {other}"
                    );
                }
            }
            let families: BTreeSet<Family> = held.iter().map(|address| Family::of(*address)).collect();
            assert_eq!(families.len(), held.len(), "one of each family: {service} has {held:?}");
        }
    }

    /// Nobody waits for what is there to be had.
    fn check_waiting(&self, have: &Addresses) {
        for (service, request) in &self.requests {
            let held = &have[service];
            let lacking: Vec<Family> = Family::ALL
                .into_iter()
                .filter(|family| request.families.wants(*family))
                .filter(|family| held.iter().all(|address| Family::of(*address) != *family))
                .collect();
            let can = |family: &Family| {
                universe(*family).into_iter().any(|address| self.could_have(service, address, have))
            };
            if request.families == Families::Require && held.is_empty() {
                assert!(!lacking.iter().all(can), "{service} could have both");
            } else {
                assert!(!lacking.iter().any(can), "{service} could have more than {held:?}");
            }
        }
    }
}

fn addresses(ipam: &Allocator, world: &World) -> Addresses {
    let held = |service: &ObjectRef| {
        let outcome = ipam.outcome(service).unwrap();
        outcome.assigned.iter().map(|one| one.address).collect()
    };
    world.requests.keys().map(|service| (service.clone(), held(service))).collect()
}

/// An allocator that is told everything at once, in an order of its own.
fn started(world: &World, hints: Option<&Addresses>, is_backwards: bool) -> Allocator {
    let mut ipam = Allocator::default();
    let mut requests: Vec<(&ObjectRef, &Request)> = world.requests.iter().collect();
    if is_backwards {
        requests.reverse();
    } else {
        ipam.set_pools(&world.pools, &BTreeSet::new());
    }
    for (service, request) in requests {
        let hint = hints.map(|hints| hints[service].clone().into()).unwrap_or_default();
        ipam.request(service, Some(Request { hint, ..request.clone() }));
    }
    if is_backwards {
        ipam.set_pools(&world.pools, &BTreeSet::new());
    }
    ipam.settle();
    ipam
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn one_owner_inside_the_pools_and_nobody_waits_in_vain(steps in steps()) {
        let (mut world, mut ipam) = (World::default(), Allocator::default());
        let (mut settled, mut have) = (World::default(), Addresses::new());
        for step in steps {
            match step {
                Step::Pools(pools) => {
                    ipam.set_pools(&pools, &BTreeSet::new());
                    world.pools = pools;
                }
                Step::Request(service, Some(request)) => {
                    ipam.request(&service, Some(request.clone()));
                    world.requests.insert(service, request);
                }
                Step::Request(service, None) => {
                    ipam.request(&service, None);
                    world.requests.remove(&service);
                }
                Step::Settle => {
                    let news = ipam.settle();
                    let now = addresses(&ipam, &world);
                    world.check(&now);
                    for (service, held) in &have {
                        // Whoever is left in peace keeps what it has.
                        let is_same = world.pools == settled.pools
                            && world.requests.get(service) == settled.requests.get(service);
                        if is_same {
                            prop_assert!(held.iter().all(|address| now[service].contains(address)));
                        }
                        if now.get(service) != Some(held) {
                            prop_assert!(news.iter().any(|one| one.service == *service), "{} unsaid", service);
                        }
                    }
                    let taken: BTreeSet<IpAddr> = now.values().flatten().copied().collect();
                    for (name, usage) in ipam.usage() {
                        let inside = taken.iter().filter(|address| world.has(name, **address)).count();
                        prop_assert_eq!(usage.assigned_v4 + usage.assigned_v6, inside as u128);
                    }
                    (settled, have) = (world.clone(), now);
                }
            }
        }
        // A restart, in any order of arrival, changes nothing.
        for is_backwards in [false, true] {
            let again = started(&world, Some(&have), is_backwards);
            prop_assert_eq!(&addresses(&again, &world), &have);
        }
        prop_assert_eq!(ipam.settle(), []);
    }

    #[test]
    fn a_first_start_does_not_depend_on_the_order_of_arrival(
        pools in some_pools(),
        requests in prop::collection::btree_map(some_service(), some_request(), 0..10),
    ) {
        let world = World { pools, requests };
        let (one, two) = (started(&world, None, false), started(&world, None, true));
        for service in world.requests.keys() {
            prop_assert_eq!(one.outcome(service), two.outcome(service));
        }
        world.check(&addresses(&one, &world));
    }

    #[test]
    fn what_a_status_claims_is_given_to_one_only(
        pools in some_pools(),
        requests in prop::collection::btree_map(some_service(), some_request(), 0..10),
        claimed in prop::collection::vec(0_usize..12, 10),
    ) {
        let world = World { pools, requests };
        let pairs = world.requests.keys().zip(claimed);
        let hints = pairs.map(|(service, at)| {
            (service.clone(), vec![universe(Family::V4)[at], universe(Family::V6)[at]])
        });
        let hints = hints.collect();
        let (one, two) = (started(&world, Some(&hints), false), started(&world, Some(&hints), true));
        prop_assert_eq!(addresses(&one, &world), addresses(&two, &world));
        // Whoever is in a dispute waits.
        world.check_held(&addresses(&one, &world));
    }
}

/// What everybody has.
fn had(allocator: &Allocator, services: &BTreeSet<ObjectRef>) -> Addresses {
    let of_one = |service: &ObjectRef| {
        let outcome = allocator.outcome(service)?;
        let addresses: Vec<IpAddr> = outcome.assigned.iter().map(|one| one.address).collect();
        (!addresses.is_empty()).then(|| (service.clone(), addresses))
    };
    services.iter().filter_map(of_one).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is recorded, and in whatever order that is heard of: a follower gives an address to one only (or to those
    /// that share it), has nothing that was never recorded, and in the end has what the leader gave.
    #[test]
    fn a_follower_ends_with_what_the_leader_gave(
        pools in some_pools(),
        requests in prop::collection::vec((some_service(), some_request()), 0..12),
        forged in prop::collection::vec((some_service(), 0_usize..12), 0..12),
        seed in any::<u64>(),
    ) {
        let requests: BTreeMap<ObjectRef, Request> = requests.into_iter().collect();
        let mut leader = Allocator::default();
        leader.set_pools(&pools, &BTreeSet::new());
        for (service, request) in &requests {
            leader.request(service, Some(request.clone()));
        }
        leader.settle();
        let services = requests.keys().cloned().collect();
        let given = had(&leader, &services);
        let mut follower = Allocator::default();
        follower.set_pools(&pools, &BTreeSet::new());
        let mut told: BTreeMap<ObjectRef, BTreeSet<IpAddr>> = BTreeMap::new();
        let mut tell = |follower: &mut Allocator, service: &ObjectRef, hint: Vec<IpAddr>| {
            let Some(request) = requests.get(service) else { return };
            told.entry(service.clone()).or_default().extend(&hint);
            follower.request(service, Some(Request { hint: hint.into(), ..request.clone() }));
            follower.follow();
            for (service, addresses) in had(follower, &services) {
                for address in addresses {
                    assert!(told[&service].contains(&address), "{service} has {address}, which nobody recorded");
                }
            }
        };
        for (service, at) in forged {
            tell(&mut follower, &service, vec![universe(Family::V4)[at]]);
        }
        // The record is as the leader has it: whoever has nothing has an empty one.
        let mut order: Vec<&ObjectRef> = requests.keys().collect();
        let mut random = fastrand::Rng::with_seed(seed);
        for service in &order {
            tell(&mut follower, service, Vec::new());
        }
        random.shuffle(&mut order);
        for service in order {
            tell(&mut follower, service, given.get(service).cloned().unwrap_or_default());
        }
        let follows = had(&follower, &services);
        for (service, addresses) in &given {
            for address in addresses {
                prop_assert!(
                    follows.get(service).is_some_and(|had| had.contains(address)),
                    "{service} was given {address}: {follows:?}, {given:?}"
                );
            }
        }
    }
}
