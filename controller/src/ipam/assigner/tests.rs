use config::report::Problem;
use config::resource::{Object, decode, decode_json};

use super::*;

/// An assigner with what it knows.
struct Rig {
    index: Index,
    assigner: Assigner,
    /// Service → what its status should say, as whoever writes it knows
    desired: BTreeMap<String, String>,
}

impl Rig {
    fn new(role: Role) -> Self {
        let requestable = vec!["203.0.113.0/24".parse().unwrap()];
        let settings = ServiceSettings { load_balancer: true, requestable, ..ServiceSettings::default() };
        let settings = ServiceSettings { classless: true, ..settings };
        Self { index: Index::new(), assigner: Assigner::new(settings, role), desired: BTreeMap::new() }
    }

    fn apply(&mut self, text: &str) -> Given {
        let decoded = decode(&"f.yaml".into(), text.as_bytes());
        assert!(decoded.problems.is_empty(), "{:?}", decoded.problems);
        let mut change = Change::default();
        for object in decoded.objects {
            change.merge(self.index.apply(Event::Apply(object)));
        }
        self.give(change)
    }

    fn object(&mut self, object: Object) -> Given {
        let change = self.index.apply(Event::Apply(object));
        self.give(change)
    }

    fn delete(&mut self, kind: Kind, namespace: &str, name: &str) -> Given {
        let object = ObjectRef { kind, namespace: namespace.into(), name: name.into() };
        let change = self.index.apply(Event::Delete(object));
        self.give(change)
    }

    fn become_(&mut self, role: Role) -> Given {
        self.assigner.set_role(role);
        self.give(Change::default())
    }

    fn give(&mut self, mut change: Change) -> Given {
        let given = self.assigner.give(&mut self.index, &mut change);
        for (service, desired) in &given.desired {
            let shown = desired.as_ref().map_or_else(
                || "not ours".to_owned(),
                |desired| {
                    let addresses = desired.addresses.iter().map(ToString::to_string);
                    let lack = desired.lack.as_ref().map(|(reason, _)| (*reason).to_owned());
                    addresses.chain(lack).collect::<Vec<_>>().join(" ")
                },
            );
            self.desired.insert(service.name.to_string(), shown);
        }
        given
    }

    /// `service=address` of everything that is served.
    fn served(&self) -> String {
        let all = self.index.objects().map(|object| &object.reference);
        let mut services: Vec<&ObjectRef> = all.filter(|object| object.kind == Kind::Service).collect();
        services.sort();
        let shown = services.into_iter().flat_map(|service| {
            let addresses = self.assigner.addresses_of(service, || true);
            addresses.into_iter().map(|one| format!("{}={}", service.name, one.address))
        });
        shown.collect::<Vec<_>>().join(" ")
    }
}

fn pool(name: &str, addresses: &str) -> String {
    format!(
        "---\napiVersion: sluicegate.dev/v1alpha1\nkind: AddressPool\nmetadata: {{name: {name}}}\nspec: {{addresses: [{addresses}]}}\n"
    )
}

fn service(name: &str, spec: &str, recorded: &str) -> String {
    let recorded: Vec<String> = recorded
        .split(' ')
        .filter(|ip| !ip.is_empty())
        .map(|ip| format!("{{ip: {ip}, ipMode: Proxy}}"))
        .collect();
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: LoadBalancer, ports: [{{port: 80}}]{spec}}}\n\
         status: {{loadBalancer: {{ingress: [{}]}}}}\n",
        recorded.join(", ")
    )
}

#[test]
fn alone_what_is_decided_is_served_and_remembered() {
    let mut rig = Rig::new(Role::Alone);
    rig.apply(
        &(pool("a", "192.0.2.1-192.0.2.9") + &service("web", "", "192.0.2.7") + &service("db", "", "")),
    );
    assert_eq!(rig.served(), "db=192.0.2.1 web=192.0.2.2", "a status in a file is nobody's record");
    let memory = rig.assigner.memory();
    let mut again = Rig::new(Role::Alone);
    again.assigner.remember(memory.clone());
    again.apply(&(pool("a", "192.0.2.1-192.0.2.9") + &service("web", "", "")));
    assert_eq!(again.served(), "web=192.0.2.2");
}

#[test]
fn alone_what_cannot_be_read_at_the_start_keeps_its_address() {
    let (pools, web) = (pool("a", "192.0.2.1-192.0.2.9"), service("web", "", ""));
    let broken = |is_broken: bool| {
        let problem = Problem {
            object: ObjectRef { kind: Kind::File, namespace: "".into(), name: "f".into() },
            location: None,
            field: String::new(),
            severity: Severity::Error,
            reason: "Syntax",
            message: String::new(),
        };
        Event::Problems { source: "f".into(), problems: if is_broken { vec![problem] } else { Vec::new() } }
    };
    let had = BTreeMap::from([(
        ObjectRef { kind: Kind::Service, namespace: "default".into(), name: "web".into() },
        Box::from(["192.0.2.1".parse().unwrap()]),
    )]);
    // The Service, or its pool, cannot be read.
    for (first, later) in [(pools.clone(), &web), (web.clone() + &pool("b", "198.51.100.0/24"), &pools)] {
        let mut rig = Rig::new(Role::Alone);
        rig.assigner.remember(had.clone());
        let change = rig.index.apply(broken(true));
        rig.give(change);
        rig.apply(&first);
        rig.apply(&service("db", "", ""));
        assert!(!rig.served().contains("192.0.2.1") && !rig.served().contains("web"), "{}", rig.served());
        assert!(rig.assigner.memory().iter().any(|(service, _)| *service.name == *"web"));
        rig.apply(later);
        let change = rig.index.apply(broken(false));
        rig.give(change);
        assert!(rig.served().contains("web=192.0.2.1"), "{}", rig.served());
        // The pool goes and comes back.
        for name in ["b", "a"] {
            rig.delete(Kind::AddressPool, "", name);
        }
        rig.apply(&(pools.clone() + &service("old", "", "")));
        assert!(rig.served().contains("web=192.0.2.1"), "{}", rig.served());
    }
}

#[test]
fn an_address_had_by_asking_is_kept_when_a_pool_comes_that_has_it() {
    let mut rig = Rig::new(Role::Alone);
    rig.apply(&service("web", ", loadBalancerIP: 203.0.113.1", ""));
    assert_eq!(rig.served(), "web=203.0.113.1");
    rig.apply(&(service("any", "", "") + &pool("a", "203.0.113.1-203.0.113.2")));
    assert_eq!(rig.served(), "any=203.0.113.2 web=203.0.113.1");
}

#[test]
fn records_are_unexplained_until_there_is_the_pool_and_again_when_it_is_gone() {
    let mut rig = Rig::new(Role::Follower);
    assert!(!rig.assigner.has_unexplained_records());
    rig.apply(&service("web", "", "192.0.2.3"));
    assert!(rig.assigner.has_unexplained_records());
    assert!(rig.assigner.has_unexplained_records(), "once more");
    rig.apply(&pool("all", "192.0.2.0/28"));
    assert!(!rig.assigner.has_unexplained_records());
    rig.delete(Kind::AddressPool, "", "all");
    assert!(rig.assigner.has_unexplained_records());
    rig.apply(&service("web", "", ""));
    assert!(!rig.assigner.has_unexplained_records(), "nothing is recorded any more");
    rig.apply(&service("web", "", "192.0.2.3"));
    assert!(rig.assigner.has_unexplained_records());
    rig.delete(Kind::Service, "default", "web");
    assert!(!rig.assigner.has_unexplained_records());
    rig.apply(&service("web", ", loadBalancerIP: 203.0.113.7", "203.0.113.7"));
    assert!(!rig.assigner.has_unexplained_records(), "it may ask for that");
}

#[test]
fn a_leader_serves_what_is_recorded_and_says_what_should_be() {
    let mut rig = Rig::new(Role::Leader);
    let pools = pool("a", "192.0.2.1-192.0.2.9");
    rig.apply(&(pools.clone() + &service("web", "", "")));
    assert_eq!((rig.served().as_str(), rig.desired["web"].as_str()), ("", "192.0.2.1"));
    let given = rig.apply(&service("web", "", "192.0.2.1"));
    assert_eq!(rig.served(), "web=192.0.2.1");
    assert!(given.desired.is_empty(), "nothing else is to be written");
    // Somebody empties the status: traffic goes on.
    rig.apply(&service("web", "", ""));
    assert_eq!(rig.served(), "web=192.0.2.1");
    rig.apply(&service("web", "", "192.0.2.5"));
    assert_eq!(rig.served(), "web=192.0.2.1", "an address in use is not moved by a status");
    // The next one begins with what is recorded.
    let mut next = Rig::new(Role::Follower);
    next.apply(&(pools + &service("web", "", "192.0.2.3") + &service("young", "", "")));
    assert_eq!(next.served(), "web=192.0.2.3");
    next.become_(Role::Leader);
    assert_eq!(next.served(), "web=192.0.2.3");
    assert_eq!((next.desired["web"].as_str(), next.desired["young"].as_str()), ("192.0.2.3", "192.0.2.1"));
    next.become_(Role::Follower);
    next.apply(&service("young", "", "192.0.2.8"));
    assert_eq!(next.served(), "web=192.0.2.3 young=192.0.2.8", "what was not recorded is forgotten");
}

#[test]
fn a_follower_believes_what_a_pool_may_give_and_no_more() {
    let mut rig = Rig::new(Role::Follower);
    rig.apply(&service("early", "", "192.0.2.4"));
    assert_eq!(rig.served(), "", "there is no pool yet");
    let shop = "---\napiVersion: sluicegate.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: shop}\n\
                spec: {addresses: [198.51.100.0/24], serviceAllocation: {namespaces: [shop]}}\n";
    rig.apply(&(pool("a", "192.0.2.1-192.0.2.9") + shop));
    assert_eq!(rig.served(), "early=192.0.2.4");
    rig.apply(&(service("forged", "", "203.0.113.9") + &service("thief", "", "198.51.100.1")));
    assert_eq!(rig.served(), "early=192.0.2.4");
    rig.apply(&service("second", "", "192.0.2.4"));
    assert_eq!(rig.served(), "early=192.0.2.4", "whoever has it keeps it");
    rig.delete(Kind::Service, "default", "early");
    assert_eq!(rig.served(), "second=192.0.2.4");
    assert!(rig.desired.is_empty(), "a follower writes nothing");
}

#[test]
fn a_follower_follows_when_services_swap_addresses() {
    let mut rig = Rig::new(Role::Follower);
    let both = service("one", "", "192.0.2.1") + &service("two", "", "192.0.2.2");
    rig.apply(&(pool("a", "192.0.2.1-192.0.2.9") + &both));
    rig.apply(&service("one", "", "192.0.2.2"));
    assert_eq!(rig.served(), "one=192.0.2.1 two=192.0.2.2", "the other still has it");
    rig.apply(&service("two", "", "192.0.2.1"));
    assert_eq!(rig.served(), "one=192.0.2.2 two=192.0.2.1");
    rig.apply(&service("two", "", "192.0.2.3"));
    assert_eq!(rig.served(), "one=192.0.2.2 two=192.0.2.3");
}

#[test]
fn a_follower_keeps_an_address_whose_record_is_emptied_until_another_has_it_on_record() {
    let mut rig = Rig::new(Role::Follower);
    rig.apply(&(pool("a", "192.0.2.1-192.0.2.9") + &service("one", "", "192.0.2.1")));
    rig.apply(&service("one", "", ""));
    assert_eq!(rig.served(), "one=192.0.2.1");
    rig.apply(&service("two", "", "192.0.2.1"));
    assert_eq!(rig.served(), "two=192.0.2.1");
}

#[test]
fn whoever_is_not_ours_any_more_has_nothing() {
    let mut rig = Rig::new(Role::Leader);
    rig.apply(&(pool("a", "192.0.2.1") + &service("web", "", "192.0.2.1")));
    assert_eq!(rig.served(), "web=192.0.2.1");
    rig.apply("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n");
    assert_eq!((rig.served().as_str(), rig.desired["web"].as_str()), ("", "not ours"));
    rig.apply(&service("theirs", ", loadBalancerClass: example.com/other", "192.0.2.1"));
    assert!(!rig.desired.contains_key("theirs"));
    rig.apply(&service("next", ", loadBalancerClass: sluicegate.dev/load-balancer", ""));
    assert_eq!(rig.desired["next"], "192.0.2.1");
    rig.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: next, deletionTimestamp: '2026-01-01T00:00:00Z'}\n\
         spec: {type: LoadBalancer, ports: [{port: 80}]}\n",
    );
    assert_eq!(rig.desired["next"], "not ours", "it is being deleted");
}

#[test]
fn what_may_be_asked_for_and_is_in_no_pool_is_had_by_asking() {
    let mut rig = Rig::new(Role::Leader);
    let asking = service("web", ", loadBalancerIP: 203.0.113.7", "");
    rig.apply(&asking);
    assert_eq!((rig.served().as_str(), rig.desired["web"].as_str()), ("web=203.0.113.7", "203.0.113.7"));
    rig.apply(&(pool("a", "192.0.2.1") + &service("other", ", loadBalancerIP: 198.51.100.1", "")));
    assert_eq!(rig.served(), "web=203.0.113.7");
    assert_eq!(rig.desired["other"], "AddressNotInPool");
    // A pool that has it decides from now on.
    rig.apply(&(pool("b", "203.0.113.7") + &service("rival", ", loadBalancerIP: 203.0.113.7", "")));
    assert_eq!(rig.desired["rival"], "203.0.113.7");
    assert_eq!(rig.desired["web"], "AddressInUse");
}

#[test]
fn a_status_says_no_address_that_is_not_served() {
    let mut rig = Rig::new(Role::Leader);
    rig.assigner.settings.requestable = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    for address in ["127.0.0.1", "169.254.169.254", "100.100.100.200", "::1", "fe80::1"] {
        rig.apply(&service("near", &format!(", loadBalancerIP: '{address}'"), ""));
        assert_eq!(
            (rig.served().as_str(), rig.desired["near"].as_str()),
            ("", "AddressNotAllowed"),
            "{address}"
        );
    }
    rig.delete(Kind::Service, "default", "near");
    let asking = |name: &str, namespace: &str, year: u16, port: u16| {
        let meta =
            format!("{{name: {name}, namespace: {namespace}, creationTimestamp: '{year}-01-01T00:00:00Z'}}");
        let spec = format!("{{type: LoadBalancer, loadBalancerIP: 203.0.113.7, ports: [{{port: {port}}}]}}");
        format!("---\napiVersion: v1\nkind: Service\nmetadata: {meta}\nspec: {spec}\n")
    };
    rig.apply(&asking("young", "a", 2024, 80));
    assert_eq!(rig.desired["young"], "203.0.113.7");
    rig.apply(
        &(asking("old", "b", 2020, 80) + &asking("second", "b", 2021, 443) + &asking("third", "b", 2022, 80)),
    );
    assert_eq!(rig.served(), "old=203.0.113.7 second=203.0.113.7");
    let desired = ["young", "old", "second", "third"].map(|name| rig.desired[name].as_str());
    assert_eq!(desired, ["Conflict", "203.0.113.7", "203.0.113.7", "Conflict"]);
    for name in ["old", "second"] {
        rig.delete(Kind::Service, "b", name);
    }
    assert_eq!((rig.desired["third"].as_str(), rig.desired["young"].as_str()), ("203.0.113.7", "Conflict"));
    rig.delete(Kind::Service, "b", "third");
    assert_eq!(rig.desired["young"], "203.0.113.7");
}

/// A Service of a namespace, made in that year.
fn of_year(name: &str, namespace: &str, year: u16, recorded: &str) -> String {
    let meta = format!(
        "metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{year}-01-01T00:00:00Z'}}"
    );
    service(name, "", recorded).replace(&format!("metadata: {{name: {name}}}"), &meta)
}

#[test]
fn a_record_that_is_made_up_takes_no_address_from_who_has_it_whatever_its_age() {
    let pools = pool("a", "192.0.2.1-192.0.2.9");
    let victim = of_year("victim", "a", 2024, "192.0.2.7");
    let forged = of_year("older", "b", 2020, "192.0.2.7");
    for first in [Role::Follower, Role::Leader] {
        let mut rig = Rig::new(first);
        rig.apply(&(pools.clone() + &victim + &of_year("older", "b", 2020, "")));
        // Both change at once.
        rig.apply(&(forged.clone() + &victim.replace("port: 80", "port: 81")));
        assert_eq!(rig.served(), "victim=192.0.2.7", "{first:?}");
        for next in [Role::Leader, Role::Follower, Role::Leader] {
            rig.become_(next);
            assert_eq!(rig.served(), "victim=192.0.2.7", "{first:?} becomes {next:?}");
        }
        assert_eq!(
            (rig.desired["victim"].as_str(), rig.desired["older"].as_str()),
            ("192.0.2.7", "192.0.2.1")
        );
    }
}

#[test]
fn who_sees_two_records_of_an_address_first_of_all_serves_none_of_them_until_one_is_gone() {
    let both = of_year("victim", "a", 2024, "192.0.2.1") + &of_year("older", "b", 2020, "192.0.2.1");
    for role in [Role::Follower, Role::Leader] {
        let mut rig = Rig::new(role);
        rig.apply(&(pool("a", "192.0.2.1-192.0.2.2") + &both));
        rig.apply(&of_year("third", "c", 2019, ""));
        assert_eq!(rig.served(), "", "{role:?}");
        assert!(!rig.desired.contains_key("victim"), "its record stays");
        rig.apply(&of_year("third", "c", 2019, "192.0.2.2"));
        // The one that is emptied or replaced is the wrong one.
        rig.apply(&of_year("older", "b", 2020, ""));
        assert_eq!(rig.served(), "victim=192.0.2.1 third=192.0.2.2", "{role:?}");
    }
}

/// A pool as an API server sends it.
fn received(spec: &str) -> Object {
    let json = format!("{{\"metadata\": {{\"name\": \"a\"}}, \"spec\": {spec}}}");
    decode_json(Kind::AddressPool, json.as_bytes()).object.unwrap()
}

#[test]
fn records_stay_until_the_first_pool_is_heard_of() {
    let mut rig = Rig::new(Role::Leader);
    rig.apply(&(service("web", "", "192.0.2.1") + &service("young", "", "")));
    assert_eq!((rig.served().as_str(), rig.desired.get("web")), ("", None));
    assert_eq!(rig.desired["young"], "NoPool");
    rig.apply(&pool("a", "192.0.2.1-192.0.2.2"));
    assert_eq!((rig.served().as_str(), rig.desired["young"].as_str()), ("web=192.0.2.1", "192.0.2.2"));
    rig.delete(Kind::AddressPool, "", "a");
    assert_eq!((rig.served().as_str(), rig.desired["web"].as_str()), ("", "NoPool"));
}

#[test]
fn a_pool_that_is_damaged_costs_nobody_an_address_after_a_restart_either() {
    let good = r#"{"addresses": ["192.0.2.1-192.0.2.9", "198.51.100.0/24"]}"#;
    let services = service("web", "", "192.0.2.7") + &service("db", "", "198.51.100.3");
    for bad in [
        r#"{"addresses": ["192.0.2.9-192.0.2.1", "198.51.100.0/24"]}"#,
        r#"{"addresses": ["192.0.2.300", "198.51.100.0/24"], "unheard": 1}"#,
        r#"{"addresses": ["198.51.100.0/24", 7], "serviceAllocation": {"unheard": 1}}"#,
    ] {
        let mut rig = Rig::new(Role::Leader);
        rig.object(received(good));
        rig.apply(&services);
        assert_eq!(rig.served(), "db=198.51.100.3 web=192.0.2.7");
        rig.desired.clear();
        rig.object(received(bad));
        rig.apply(&service("young", "", ""));
        assert_eq!(rig.served(), "db=198.51.100.3 web=192.0.2.7", "{bad}");
        assert_eq!(rig.desired["young"], "PoolUnreadable", "nothing is given anew: {bad}");
        for role in [Role::Follower, Role::Leader] {
            let mut next = Rig::new(role);
            next.object(received(bad));
            next.apply(&(services.clone() + &pool("b", "203.0.113.1")));
            assert_eq!(next.served(), "db=198.51.100.3", "what can be read holds: {bad}");
            assert!(!next.desired.contains_key("web"), "its record stays: {bad}");
            next.object(received(good));
            assert_eq!(next.served(), "db=198.51.100.3 web=192.0.2.7", "{bad}");
        }
    }
}

#[test]
fn labels_of_namespaces_choose_pools() {
    let mut rig = Rig::new(Role::Alone);
    rig.apply(
        "---\napiVersion: sluicegate.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: blue}\nspec: {addresses: [192.0.2.1], \
         serviceAllocation: {namespaceSelectors: [{matchLabels: {team: blue}}]}}\n",
    );
    rig.apply(&service("web", "", ""));
    assert_eq!(rig.served(), "");
    rig.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {team: blue}}\n");
    assert_eq!(rig.served(), "web=192.0.2.1");
    rig.delete(Kind::Namespace, "", "default");
    assert_eq!(rig.served(), "");
}

#[test]
fn advertisements_say_from_where_addresses_are_announced() {
    let mut rig = Rig::new(Role::Alone);
    let metallb = "---\napiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: old, namespace: m}\n\
                   spec: {addresses: [192.0.2.1]}\n";
    rig.apply(&(metallb.to_owned() + &service("web", "", "")));
    let web = ObjectRef { kind: Kind::Service, namespace: "default".into(), name: "web".into() };
    let announcements = |rig: &Rig| rig.assigner.addresses_of(&web, || true)[0].announcements.clone();
    assert!(announcements(&rig).is_empty(), "as with MetalLB");
    rig.apply(&pool("ours", "192.0.2.1"));
    rig.delete(Kind::IPAddressPool, "m", "old");
    assert_eq!(*announcements(&rig), [crate::ipam::Announcement::default()]);
    let advertisement = |spec: &str| {
        let text = format!(
            "apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {{name: l, namespace: m}}\nspec: {{{spec}}}\n"
        );
        decode(&"l.yaml".into(), text.as_bytes()).objects.remove(0)
    };
    for (spec, interfaces) in [
        ("ipAddressPools: [ours], interfaces: [eth1]", vec!["eth1"]),
        ("interfaces: [eth2]", vec!["eth2"]),
        ("ipAddressPools: [others], interfaces: [eth1]", vec![]),
    ] {
        let change = rig.index.apply(Event::Apply(advertisement(spec)));
        assert_eq!(rig.give(change).services, [web.clone()].into());
        let all = announcements(&rig);
        assert_eq!(all[0].interfaces.iter().map(|name| &**name).collect::<Vec<_>>(), interfaces, "{spec}");
    }
    let change = rig.index.apply(Event::Apply(advertisement("serviceSelectors: [{matchLabels: {a: b}}]")));
    rig.give(change);
    assert!(announcements(&rig).is_empty());
}

#[test]
fn a_namespace_that_is_not_known_yet_is_admitted_by_no_selector() {
    let mut rig = Rig::new(Role::Leader);
    let open = pool("a", "192.0.2.1-192.0.2.9").replace(
        "]}",
        "], serviceAllocation: {namespaceSelectors: [{matchExpressions: [{key: untrusted, operator: DoesNotExist}]}]}}",
    );
    rig.apply(&(open + &service("web", "", "")));
    assert_eq!(rig.desired["web"], "NoPool");
    let namespace = |labels: &str| {
        let json = format!(
            r#"{{"apiVersion": "v1", "kind": "Namespace", "metadata": {{"name": "default"{labels}}}}}"#
        );
        decode_json(Kind::Namespace, json.as_bytes()).object.unwrap()
    };
    rig.object(namespace(r#", "labels": {"untrusted": "yes"}"#));
    assert_eq!(rig.desired["web"], "NoPool");
    rig.object(namespace(""));
    assert_eq!(rig.desired["web"], "192.0.2.1");
}

#[test]
fn a_range_with_loopback_is_refused_and_the_rest_of_its_pool_is_kept() {
    let mut rig = Rig::new(Role::Leader);
    rig.apply(&(pool("a", "127.0.0.0/8, 192.0.2.1") + &service("web", "", "127.0.0.1")));
    assert_eq!(rig.desired["web"], "192.0.2.1");
    let told: Vec<_> = rig.index.source_problems().map(|one| (one.field.clone(), one.reason)).collect();
    assert_eq!(told, [("spec.addresses[0]".to_owned(), "RefusedAddress")]);
    rig.apply(&pool("a", "192.0.2.1"));
    assert_eq!(rig.index.source_problems().count(), 0);
}

#[test]
fn alone_a_service_that_comes_back_has_its_address_again_unless_somebody_got_it() {
    let mut rig = Rig::new(Role::Alone);
    rig.apply(&(pool("a", "192.0.2.1-192.0.2.3") + &service("a", "", "") + &service("b", "", "")));
    assert_eq!(rig.served(), "a=192.0.2.1 b=192.0.2.2");
    rig.delete(Kind::Service, "default", "a");
    rig.delete(Kind::Service, "default", "b");
    rig.apply(&service("c", "", ""));
    assert_eq!(rig.served(), "c=192.0.2.1");
    let mut again = Rig::new(Role::Alone);
    again.assigner.remember(rig.assigner.memory().clone());
    for rig in [&mut rig, &mut again] {
        rig.apply(&(pool("a", "192.0.2.1-192.0.2.3") + &service("c", "", "") + &service("b", "", "")));
        rig.apply(&service("a", "", ""));
        assert_eq!(rig.served(), "a=192.0.2.3 b=192.0.2.2 c=192.0.2.1");
    }
}

#[test]
fn a_pool_that_overlaps_the_networks_of_the_cluster_is_told() {
    let mut rig = Rig::new(Role::Leader);
    let told = |rig: &Rig| -> Vec<String> {
        rig.index.source_problems().map(|one| format!("{} {}", one.reason, one.object.name)).collect()
    };
    rig.apply(&(pool("a", "10.96.0.1-10.96.0.9") + &pool("b", "10.1.0.0/28")));
    let plain = |ip: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: dns}}\nspec: {{clusterIP: {ip}, clusterIPs: [{ip}], ports: [{{port: 53}}]}}\n"
        )
    };
    let slice = |more: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: s, labels: {{kubernetes.io/service-name: dns}}}}\nports: [{{port: 53}}]\n\
             endpoints: [{{addresses: [10.1.0.7]{more}}}]\n"
        )
    };
    rig.apply(&(plain("10.96.0.7") + &slice("")));
    assert_eq!(told(&rig), ["OverlapsCluster a"], "anybody may write an endpoint that is on no node");
    rig.apply(&(plain("10.97.0.7") + &slice(", nodeName: n")));
    assert_eq!(told(&rig), ["OverlapsCluster b"]);
    rig.apply(&pool("b", "192.0.2.0/28"));
    assert_eq!(told(&rig), [] as [&str; 0]);
}

/// A version of a Service that does not decode.
fn broken(name: &str, recorded: &str, key: &str) -> Event {
    let json = format!(
        r#"{{"metadata": {{"name": "{name}", "namespace": "default", "annotations": {{"metallb.io/allow-shared-ip": "{key}"}}}},
            "spec": {{"type": "LoadBalancer", "ports": "all"}}, "status": {{"loadBalancer": {{"ingress": [{{"ip": "{recorded}"}}]}}}}}}"#
    );
    let received = decode_json(Kind::Service, json.as_bytes());
    assert!(received.object.is_none());
    let service = ObjectRef { kind: Kind::Service, namespace: "default".into(), name: name.into() };
    Event::Undecoded { service, holding: received.holding }
}

#[test]
fn a_service_that_does_not_decode_keeps_its_address_and_holds_up_nobody_else() {
    let mut rig = Rig::new(Role::Follower);
    let change = rig.index.apply(broken("had", "192.0.2.1", ""));
    rig.give(change);
    rig.apply(&(pool("a", "192.0.2.1-192.0.2.3") + &service("new", "", "")));
    rig.apply(&service("asks", ", loadBalancerIP: 192.0.2.1", ""));
    rig.become_(Role::Leader);
    assert_eq!((&*rig.desired["new"], &*rig.desired["asks"]), ("192.0.2.2", "AddressInUse"));
    assert!(!rig.desired.contains_key("had"), "nothing is written to what cannot be read");
    // Once it can be read, it has its address; once it is gone, others may.
    rig.apply(&service("had", "", "192.0.2.1"));
    assert_eq!((&*rig.desired["had"], rig.served().contains("had=192.0.2.1")), ("192.0.2.1", true));
    let change = rig.index.apply(broken("had", "192.0.2.1", ""));
    rig.give(change);
    assert!(rig.served().contains("had=192.0.2.1"), "its last good version is served");
    rig.delete(Kind::Service, "default", "had");
    assert_eq!(rig.desired["asks"], "192.0.2.1");
}

#[test]
fn an_address_on_record_of_two_of_which_one_does_not_decode_is_moved_nowhere() {
    for (theirs, wanted) in [("", "AddressDisputed"), ("k", "192.0.2.1")] {
        let mut rig = Rig::new(Role::Follower);
        let change = rig.index.apply(broken("had", "192.0.2.1", theirs));
        rig.give(change);
        let web = service("web", "", "192.0.2.1")
            .replace("{name: web}", "{name: web, annotations: {metallb.io/allow-shared-ip: k}}");
        rig.apply(&(pool("a", "192.0.2.1-192.0.2.3") + &web));
        assert_eq!(rig.served().is_empty(), theirs.is_empty(), "{theirs}");
        rig.become_(Role::Leader);
        // What is doubtful is not written.
        assert_eq!(rig.desired.get("web").map_or("AddressDisputed", |it| &**it), wanted);
        let change = rig.index.apply(Event::Delete(ObjectRef {
            kind: Kind::Service,
            namespace: "default".into(),
            name: "had".into(),
        }));
        rig.give(change);
        assert_eq!(rig.desired["web"], "192.0.2.1");
    }
    // Whoever served it before goes on to.
    let mut rig = Rig::new(Role::Follower);
    rig.apply(&(pool("a", "192.0.2.1-192.0.2.3") + &service("web", "", "192.0.2.1")));
    let change = rig.index.apply(broken("late", "192.0.2.1", ""));
    rig.give(change);
    assert_eq!(rig.served(), "web=192.0.2.1");
    rig.become_(Role::Leader);
    assert_eq!((&*rig.desired["web"], rig.served()), ("192.0.2.1", "web=192.0.2.1".to_owned()));
}

/// A Node or a ServiceCIDR.
fn networks(kind: Kind, name: &str, networks: &str) -> Object {
    let json = match kind {
        Kind::Node => format!(
            r#"{{"metadata": {{"name": "{name}"}}, "spec": {{"podCIDRs": ["{networks}"]}}, "status": {{"addresses": [{{"type": "InternalIP", "address": "192.0.2.1"}}]}}}}"#
        ),
        _ => format!(r#"{{"metadata": {{"name": "{name}"}}, "spec": {{"cidrs": ["{networks}"]}}}}"#),
    };
    decode_json(kind, json.as_bytes()).object.unwrap()
}

fn told(rig: &Rig) -> Vec<String> {
    rig.index.source_problems().map(|one| format!("{} {}", one.object.name, one.message)).collect()
}

#[test]
fn no_pool_gives_an_address_of_the_clusters_own_networks() {
    let mut rig = Rig::new(Role::Leader);
    rig.object(networks(Kind::Node, "n1", "192.0.2.4/30"));
    rig.object(networks(Kind::ServiceCIDR, "kubernetes", "192.0.2.8/31"));
    rig.apply(&pool("a", "192.0.2.0/28"));
    let names = ["a", "b", "c", "d"];
    for name in names {
        rig.apply(&service(name, "", ""));
    }
    let given: Vec<&str> = names.iter().map(|name| &*rig.desired[*name]).collect();
    assert_eq!(given, ["192.0.2.0", "192.0.2.2", "192.0.2.3", "192.0.2.10"]);
    let messages = told(&rig);
    assert!(
        messages.iter().any(
            |one| one.starts_with("a 192.0.2.1/32 is the cluster's own, of Node n1 (and 1 more like it)")
        ),
        "{messages:?}"
    );
    assert!(
        messages
            .iter()
            .any(|one| one.starts_with("a 192.0.2.8/31 is the cluster's own, of ServiceCIDR kubernetes:")),
        "{messages:?}"
    );
    // Who asks is told why.
    for (asked, is_refused) in
        [("192.0.2.1", true), ("192.0.2.6", true), ("192.0.2.9", true), ("192.0.2.12", false)]
    {
        rig.apply(&service("asks", &format!(", loadBalancerIP: {asked}"), ""));
        assert_eq!(&*rig.desired["asks"], if is_refused { "OverlapsCluster" } else { asked });
        rig.delete(Kind::Service, "default", "asks");
    }
    let usage = rig.assigner.usage().next().unwrap().1;
    assert_eq!((usage.assigned_v4, usage.available_v4), (4, 16 - 4 - 7));
    // What is no longer theirs is given.
    rig.delete(Kind::Node, "", "n1");
    rig.apply(&service("e", "", ""));
    assert_eq!(&*rig.desired["e"], "192.0.2.1");
    assert_eq!(told(&rig).len(), 1);
}

#[test]
fn an_address_in_use_stays_when_a_network_of_the_cluster_gets_it() {
    let mut rig = Rig::new(Role::Leader);
    rig.apply(&(pool("a", "192.0.2.0/28") + &service("web", "", "")));
    rig.apply(&service("web", "", "192.0.2.0"));
    rig.object(networks(Kind::Node, "n1", "192.0.2.0/30"));
    rig.apply(&service("late", "", ""));
    assert_eq!((&*rig.desired["web"], &*rig.desired["late"]), ("192.0.2.0", "192.0.2.4"));
    assert_eq!(rig.served(), "web=192.0.2.0");
    assert_eq!(told(&rig).len(), 1);
    rig.become_(Role::Follower);
    rig.become_(Role::Leader);
    assert_eq!(rig.served(), "web=192.0.2.0");
    // Nobody else shares it, or gets it afterwards.
    rig.delete(Kind::Service, "default", "web");
    rig.apply(&service("later", "", ""));
    assert_eq!(rig.desired["later"], "192.0.2.5");
}

#[test]
fn an_address_of_the_cluster_is_not_had_by_asking_without_a_pool_either() {
    let mut rig = Rig::new(Role::Follower);
    let node = r#"{"metadata": {"name": "n"}, "spec": {"podCIDR": "203.0.113.0/28"}, "status": {"addresses": [{"address": "203.0.113.77"}]}}"#;
    rig.apply(&service("pod", ", loadBalancerIP: 203.0.113.5", ""));
    rig.apply(&service("node", ", loadBalancerIP: 203.0.113.77", ""));
    rig.apply(&service("fine", ", loadBalancerIP: 203.0.113.99", ""));
    assert_eq!(rig.served(), "fine=203.0.113.99 node=203.0.113.77 pod=203.0.113.5");
    rig.object(decode_json(Kind::Node, node.as_bytes()).object.unwrap());
    assert_eq!(rig.served(), "fine=203.0.113.99");
    rig.become_(Role::Leader);
    assert_eq!((&*rig.desired["pod"], &*rig.desired["node"]), ("OverlapsCluster", "OverlapsCluster"));
    // An operator who names the very address of a node means it; networks of Pods are nobody's to name.
    let requestable = vec!["203.0.113.77/32".parse().unwrap(), "203.0.113.5/32".parse().unwrap()];
    let settings =
        ServiceSettings { load_balancer: true, classless: true, requestable, ..ServiceSettings::default() };
    rig.assigner = Assigner::new(settings, Role::Leader);
    let mut change = Change::default();
    for object in rig.index.objects().cloned().collect::<Vec<_>>() {
        change.merge(rig.index.apply(Event::Delete(object.reference.clone())));
        change.merge(rig.index.apply(Event::Apply(object)));
    }
    rig.give(change);
    assert_eq!((&*rig.desired["pod"], &*rig.desired["node"]), ("OverlapsCluster", "203.0.113.77"));
}
