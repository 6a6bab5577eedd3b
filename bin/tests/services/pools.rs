//! Addresses that pools give, for Services from files.

use super::*;

fn pool(name: &str, addresses: &str) -> String {
    format!(
        "---\n{{apiVersion: sluicegate.dev/v1alpha1, kind: AddressPool, metadata: {{name: {name}}}, spec: {{addresses: \
         ['{addresses}']}}}}\n"
    )
}

fn balancer(name: &str, port: u16, more: &str) -> String {
    service(name, &format!("type: LoadBalancer, ports: [{{port: {port}}}]{more}"))
}

fn at(last: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([127, 9, 0, last], port))
}

fn is_web(address: SocketAddr) -> bool {
    ask(address).is_ok_and(|text| text == "web")
}

#[test]
fn a_service_is_served_at_the_address_that_a_pool_gives_until_it_is_of_another_type() {
    let port = free_address().port();
    let slices = slices("web", &[(named("web"), "")]);
    let rig =
        Rig::start(&(pool("a", "127.9.0.1-127.9.0.3") + &balancer("web", port, "") + &slices), &BALANCED);
    assert!(is_web(at(1, port)));
    // A better pool moves nobody.
    let pools = pool("a", "127.9.0.1-127.9.0.3") + &pool("0", "127.9.0.7");
    rig.write(&(pools + &balancer("web", port, "") + &balancer("late", port, "") + &slices));
    eventually("the other Service", || is_refused(at(7, port)));
    assert!(is_web(at(1, port)));
    rig.write(&(pool("a", "127.9.0.2-127.9.0.3") + &balancer("web", port, "") + &slices));
    eventually("an address that the pool still has", || is_web(at(2, port)));
    assert!(is_refused(at(1, port)));
    rig.write(
        &(pool("a", "127.9.0.2-127.9.0.3")
            + &service("web", &format!("ports: [{{port: {port}}}]"))
            + &slices),
    );
    eventually("the end of it", || is_refused(at(2, port)));
}

#[test]
fn a_restart_keeps_the_address_whoever_came_meanwhile() {
    let port = free_address().port();
    let state = TempDir::new().unwrap();
    let slices = slices("web", &[(named("web"), "")]) + &slices("earlier", &[(named("earlier"), "")]);
    let text = pool("a", "127.9.1.1-127.9.1.9") + &balancer("web", port, "") + &slices;
    let folder = state.path().join("new").to_str().unwrap().to_owned();
    let args = ["--service-types", "load-balancer", "--state-dir", &folder];
    let one = SocketAddr::from(([127, 9, 1, 1], port));
    let two = SocketAddr::from(([127, 9, 1, 2], port));
    let rig = Rig::start(&text, &args);
    assert!(is_web(one));
    rig.gateway.signal("KILL");
    drop(rig);
    let more = text + &balancer("earlier", port, "");
    let again = Rig::start(&more, &args);
    assert!(is_web(one));
    assert_eq!(ask(two).unwrap(), "earlier");
    drop(again);
    // Without a memory, names decide, whatever the order of arrival.
    let forgetful = Rig::start(&more, &BALANCED);
    assert!(is_web(two));
    assert_eq!(ask(one).unwrap(), "earlier");
    drop(forgetful);
}

#[test]
fn check_and_explain_tell_which_address_a_service_has_and_why_it_has_none() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("services.yaml");
    let metallb = "---\n{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {name: old, namespace: m}, spec: \
                   {addresses: [127.9.2.1/32]}}\n";
    let text = metallb.to_owned()
        + &balancer("first", 80, "")
        + &balancer("second", 80, "")
        + &balancer("theirs", 80, ", loadBalancerClass: example.com/other");
    std::fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    let (code, out, _) = run(&["check", path, "--service-types", "load-balancer", "--http", "none"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("Service default/second") && out.contains("(PoolExhausted)"), "{out}");
    assert!(!out.contains("theirs") && out.matches("PoolExhausted").count() == 1, "{out}");
    let explain = |service: &str| {
        run(&["explain", service, "--config", path, "--service-types", "load-balancer", "--http", "none"])
    };
    let (code, out, err) = explain("service/default/first");
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("127.9.2.1, of IPAddressPool m/old") && out.contains("tcp://127.9.2.1:80"), "{out}");
    let (code, out, _) = explain("service/default/second");
    assert!(code == 1 && out.contains("none") && out.contains("PoolExhausted"), "{out}");
    assert!(explain("service/default/missing").2.contains("there is no Service default/missing"));
}

#[test]
fn native_pools_are_shared_by_key_and_requests_are_met_or_refused() {
    let port = free_address().port();
    let other = free_address().port();
    let shared = |name: &str, port: u16| {
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, annotations: {{metallb.io/allow-shared-ip: k}}}}, \
             spec: {{type: LoadBalancer, ports: [{{port: {port}}}]}}}}\n"
        )
    };
    let asking = balancer("asking", port, ", loadBalancerIP: 127.9.3.1");
    let native = "---\naddressPools:\n- name: native\n  addresses: [127.9.3.1-127.9.3.2]\n";
    let text = native.to_owned()
        + &shared("a", port)
        + &shared("b", other)
        + &asking
        + &slices("a", &[(named("a"), "")])
        + &slices("b", &[(named("b"), "")]);
    let rig = Rig::start(&text, &BALANCED);
    assert_eq!(ask(SocketAddr::from(([127, 9, 3, 1], port))).unwrap(), "a");
    assert_eq!(ask(SocketAddr::from(([127, 9, 3, 1], other))).unwrap(), "b");
    let page = rig.gateway.admin("/debug/table");
    assert!(page.contains("AddressInUse"), "{page}");
}
