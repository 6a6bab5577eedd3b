//! What an API server, or somebody who pretends to be one, may send.

use super::*;

/// Whether the object was read, and `field reason` of each problem.
fn outcome(kind: Kind, json: &str) -> (bool, Vec<String>) {
    let received = decode_json(kind, json.as_bytes());
    let problem = |problem: &Problem| format!("{} {}", problem.field, problem.reason);
    (received.object.is_some(), received.problems.iter().map(problem).collect())
}

fn ingress(json: &str) -> Box<crate::resource::Ingress> {
    let received = decode_json(Kind::Ingress, json.as_bytes());
    let Some(Object { spec: ObjectSpec::Ingress(ingress), .. }) = received.object else {
        panic!("no Ingress: {:?}", received.problems)
    };
    ingress
}

const META: &str = r#""metadata":{"name":"a","namespace":"n"}"#;

#[test]
fn object_of_an_api_server_is_read_without_what_nobody_needs() {
    let json = r#"{"metadata":{"name":"a","namespace":"n","managedFields":[{"x":1}],"uid":"u"},
        "spec":{"newField":1,"rules":[{"host":"a.example","http":{"paths":[{"path":"/","pathType":"Prefix",
        "backend":{"service":{"name":"s","port":{"number":80}}}}]}}]},"status":{"loadBalancer":{}}}"#;
    let ingress = ingress(json);
    assert_eq!(ingress.paths.len(), 1);
    assert!(ingress.findings.is_empty(), "{:?}", ingress.findings);
}

#[test]
fn a_null_is_a_field_that_is_not_there() {
    let metas = [
        r#""metadata":{"name":"a","namespace":"n","labels":null,"annotations":null,"creationTimestamp":null}"#,
        r#""metadata":{"name":"a","namespace":"n","labels":{"x":null},"annotations":{"x":null}}"#,
    ];
    let bodies = [
        (Kind::EndpointSlice, r#""addressType":"IPv4","endpoints":null,"ports":null"#),
        (
            Kind::EndpointSlice,
            r#""addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"],"conditions":null,"targetRef":null,
            "hints":null,"zone":null,"nodeName":null,"deprecatedTopology":null}],
            "ports":[{"name":null,"port":null,"protocol":null,"appProtocol":null}]"#,
        ),
        (
            Kind::EndpointSlice,
            r#""addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"],"targetRef":{"uid":null},
            "conditions":{"ready":null,"serving":null,"terminating":null},"hints":{"forZones":null,"forNodes":null}}]"#,
        ),
        (Kind::Service, r#""spec":null"#),
        (
            Kind::Service,
            r#""spec":{"type":null,"externalName":null,"ports":null,"clusterIPs":null,"trafficDistribution":null}"#,
        ),
        (
            Kind::Service,
            r#""spec":{"ports":[{"name":null,"port":80,"targetPort":null,"protocol":null,"appProtocol":null}]}"#,
        ),
        (Kind::IngressClass, r#""spec":{"controller":null,"parameters":null}"#),
        (Kind::Secret, r#""type":null,"data":null,"stringData":null,"immutable":null"#),
        (Kind::Secret, r#""data":{"tls.crt":null}"#),
        (Kind::ConfigMap, r#""data":null,"binaryData":null"#),
    ];
    for meta in metas {
        for (kind, body) in bodies {
            let received = decode_json(kind, format!("{{{meta},{body}}}").as_bytes());
            let odd = |problem: &&Problem| problem.reason != "MissingLabel";
            let problems: Vec<_> = received.problems.iter().filter(odd).collect();
            assert!(received.object.is_some() && problems.is_empty(), "{meta} {body} {problems:?}");
        }
        for spec in [
            r#"{"rules":null,"tls":null,"defaultBackend":{"service":{"name":"s","port":{"number":80,"name":null}},"resource":null}}"#,
            r#"{"ingressClassName":null,"rules":[{"host":null,"http":null},{"http":{"paths":null}}]}"#,
            r#"{"tls":[{"hosts":null,"secretName":null}],"rules":[{"http":{"paths":[{"path":null,"pathType":"Prefix",
            "backend":{"service":{"name":"s","port":{"number":80}},"resource":null}}]}}]}"#,
        ] {
            let ingress = ingress(&format!("{{{meta},\"spec\":{spec}}}"));
            assert!(ingress.findings.is_empty(), "{spec} {:?}", ingress.findings);
        }
    }
}

#[test]
fn what_does_not_decode_is_told_by_field_and_keeps_its_name() {
    let cases = [
        (Kind::Ingress, r#""spec":{"rules":"none"}"#, "spec.rules WrongType"),
        (Kind::Ingress, r#""spec":{"rules":[{"host":5}]}"#, "spec.rules[0].host WrongType"),
        (
            Kind::Ingress,
            r#""spec":{"rules":[{"http":{"paths":[{"backend":{"service":{"port":{"number":"80"}}}}]}}]}"#,
            "spec.rules[0].http.paths[0].backend.service.port.number WrongType",
        ),
        (Kind::Ingress, r#""spec":{"tls":[{"hosts":"a"}]}"#, "spec.tls[0].hosts WrongType"),
        (Kind::Ingress, r#""spec":{"ingressClassName":{}}"#, "spec.ingressClassName WrongType"),
        (Kind::Ingress, r#""spec":{"defaultBackend":[]}"#, "spec.defaultBackend WrongType"),
        (Kind::Ingress, r#""spec":[]"#, "spec WrongType"),
        (Kind::IngressClass, r#""spec":{"controller":1}"#, "spec.controller WrongType"),
        (Kind::Service, r#""spec":{"ports":[{"port":"80"}]}"#, "spec.ports[0].port WrongType"),
        (Kind::Service, r#""spec":{"ports":[{}]}"#, "spec.ports[0].port MissingField"),
        (
            Kind::Service,
            r#""spec":{"ports":[{"port":80,"targetPort":[]}]}"#,
            "spec.ports[0].targetPort WrongType",
        ),
        (Kind::Service, r#""spec":{"ports":[{"port":80.5}]}"#, "spec.ports[0].port WrongType"),
        (Kind::Service, r#""spec":{"externalName":7}"#, "spec.externalName WrongType"),
        (Kind::EndpointSlice, r#""endpoints":[{"addresses":[7]}]"#, "endpoints[0].addresses[0] WrongType"),
        (
            Kind::EndpointSlice,
            r#""endpoints":[{"conditions":{"ready":"yes"}}]"#,
            "endpoints[0].conditions.ready WrongType",
        ),
        (Kind::EndpointSlice, r#""endpoints":{}"#, "endpoints WrongType"),
        (Kind::EndpointSlice, r#""ports":[{"port":"http"}]"#, "ports[0].port WrongType"),
        (Kind::Secret, r#""data":{"tls.key":12345}"#, "data[\"tls.key\"] InvalidValue"),
        (Kind::Secret, r#""data":"12345""#, "data InvalidValue"),
        (Kind::ConfigMap, r#""data":[]"#, "data WrongType"),
    ];
    let mut wrong = Vec::new();
    for (kind, body, expected) in cases {
        let received = decode_json(kind, format!("{{{META},{body}}}").as_bytes());
        let told: Vec<_> = received.problems.iter().map(|p| format!("{} {}", p.field, p.reason)).collect();
        let named = received.reference.is_some_and(|reference| &*reference.name == "a");
        if told != [expected] || received.object.is_some() || !named {
            wrong.push(format!("{body}: {told:?}, {named}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn metadata_that_is_none_is_told() {
    for (json, expected) in [
        (r#"{"metadata":[]}"#, "metadata WrongType"),
        (r#"{"metadata":"a"}"#, "metadata WrongType"),
        (r#"{"metadata":null}"#, "metadata MissingField"),
        (r#"{}"#, "metadata MissingField"),
        (r#"{"metadata":{"name":5}}"#, "metadata.name WrongType"),
        (r#"{"metadata":{"namespace":"n"}}"#, "metadata.name MissingField"),
        (r#"{"metadata":{"name":"../x"}}"#, "metadata.name InvalidName"),
        (r#"{"metadata":{"name":"a","namespace":"a/b"}}"#, "metadata.namespace InvalidName"),
        ("[]", " WrongType"),
        ("null", " WrongType"),
        ("5", " WrongType"),
        ("", " WrongType"),
        ("{\"metadata\":", " WrongType"),
    ] {
        let (is_read, told) = outcome(Kind::Service, json);
        assert!(!is_read, "{json}");
        assert_eq!(told, [expected], "{json}");
    }
    // Names of objects have no labels of 63 characters.
    let name = "a".repeat(253);
    let (is_read, told) = outcome(Kind::Service, &format!(r#"{{"metadata":{{"name":"{name}"}}}}"#));
    assert!(is_read, "{told:?}");
    let (is_read, _) = outcome(Kind::Service, &format!(r#"{{"metadata":{{"name":"{name}a"}}}}"#));
    assert!(!is_read);
    // A label of another type costs the object, but not its name.
    let json = r#"{"metadata":{"name":"a","namespace":"n","labels":{"x":5}}}"#;
    let received = decode_json(Kind::Service, json.as_bytes());
    assert_eq!(received.reference.unwrap().to_string(), "Service n/a");
    assert_eq!(received.problems[0].field, "metadata.labels.x");
}

#[test]
fn values_of_newer_versions_cost_no_object() {
    for (kind, body) in [
        (Kind::EndpointSlice, r#""addressType":"Hybrid","endpoints":[{"addresses":["x"]}]"#),
        (
            Kind::EndpointSlice,
            r#""addressType":"IPv4","ports":[{"port":80,"protocol":"QUIC"}],"new":{"a":[1]}"#,
        ),
        (
            Kind::Service,
            r#""spec":{"type":"Mesh","sessionAffinity":"Cookie","ports":[{"port":80,"protocol":"QUIC"}]}"#,
        ),
        (Kind::Service, r#""spec":{"trafficDistribution":"PreferSameRack","internalTrafficPolicy":"Rack"}"#),
        (
            Kind::Ingress,
            r#""spec":{"rules":[{"host":"a.test","tcp":{},"http":{"paths":[{"pathType":"Glob"}]}}]}"#,
        ),
        (Kind::IngressClass, r#""spec":{"controller":"x/y","mode":{"deep":[[[]]]}}"#),
        (Kind::Secret, r#""type":"vendor.example/new","encryption":{"x":1}"#),
    ] {
        let (is_read, told) = outcome(kind, &format!("{{{META},{body}}}"));
        assert!(is_read, "{body} {told:?}");
    }
}

#[test]
fn of_a_key_that_is_there_twice_the_last_one_counts() {
    let json = format!(r#"{{{META},"spec":{{"ports":[{{"port":1}}]}},"spec":{{"ports":[{{"port":2}}]}}}}"#);
    let received = decode_json(Kind::Service, json.as_bytes());
    let Some(Object { spec: ObjectSpec::Service(service), .. }) = received.object else {
        panic!("{:?}", received.problems)
    };
    assert_eq!(service.ports.iter().map(|port| port.port).collect::<Vec<_>>(), [2]);
}

#[test]
fn depth_and_size_cost_neither_stack_nor_the_object() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    // Where it is skipped, it does not matter.
    let (is_read, told) = outcome(Kind::Service, &format!(r#"{{{META},"status":{deep},"spec":{{}}}}"#));
    assert!(is_read, "{told:?}");
    // Where it is read, it is a mistake like any other.
    let (is_read, told) = outcome(Kind::Service, &format!(r#"{{{META},"spec":{{"ports":{deep}}}}}"#));
    assert!(!is_read && told.len() == 1, "{told:?}");
    let long = "9".repeat(1 << 20);
    let (is_read, told) =
        outcome(Kind::Service, &format!(r#"{{{META},"spec":{{"ports":[{{"port":{long}}}]}}}}"#));
    assert!(!is_read && told.len() == 1);
    let many = "[],".repeat(2 << 20);
    let (is_read, told) = outcome(Kind::Service, &format!(r#"{{{META},"spec":{{"ports":[{many}[]]}}}}"#));
    assert!(!is_read && told.len() == 1);
}

#[test]
fn whatever_a_status_says_costs_the_service_nothing() {
    let service = |status: &str| {
        let received = decode_json(
            Kind::Service,
            format!(
                r#"{{{META},"spec":{{"type":"LoadBalancer","ports":[{{"port":1}}]}},"status":{status}}}"#
            )
            .as_bytes(),
        );
        assert!(received.problems.is_empty(), "{status}: {:?}", received.problems);
        let Some(Object { spec: ObjectSpec::Service(service), .. }) = received.object else {
            panic!("{status}")
        };
        service.exposure.unwrap().wish.unwrap().recorded
    };
    let own: [std::net::IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    let entries = r#"{"ip":"192.0.2.1","ipMode":"VIP"},7,{"hostname":"a.example"},{"ip":5},{"ip":"no"},{"ip":"2001:db8::1"}"#;
    assert_eq!(*service(&format!(r#"{{"loadBalancer":{{"ingress":[{entries}]}},"conditions":[]}}"#)), own);
    for odd in [
        "null",
        "5",
        "-5",
        "1.5",
        "true",
        r#""192.0.2.1""#,
        "[]",
        r#"[{"loadBalancer":1}]"#,
        r#"{"loadBalancer":null}"#,
        r#"{"loadBalancer":"x"}"#,
        r#"{"loadBalancer":{"ingress":{"ip":"192.0.2.1"}}}"#,
        r#"{"loadBalancer":{"ingress":[["192.0.2.1"]]}}"#,
    ] {
        assert!(service(odd).is_empty(), "{odd}");
    }
}

#[test]
fn nothing_of_a_secret_is_shown() {
    for body in [
        r#""data":{"tls.key":12345}"#,
        r#""data":{"tls.key":18446744073709551615}"#,
        r#""data":"12345""#,
        r#""data":12345"#,
        r#""data":{"tls.key":{"12345":1}}"#,
        r#""data":{"tls.key":["12345"]}"#,
        r#""stringData":{"tls.key":true,"12345":{}}"#,
        r#""type":["12345"]"#,
        r#""data":{"tls.key":"MTIzNDU=!12345"}"#,
    ] {
        let received = decode_json(Kind::Secret, format!("{{{META},{body}}}").as_bytes());
        let shown = format!("{received:?}");
        assert!(!shown.contains("12345") && !shown.contains("18446744"), "{body}: {shown}");
    }
}

#[test]
fn messages_are_short_whatever_was_sent() {
    let long = "x".repeat(100_000);
    for body in [
        format!(r#""spec":{{"ports":"{long}"}}"#),
        format!(r#""spec":{{"ports":[{{"port":"{long}"}}]}}"#),
        format!(r#""spec":{{"type":"ExternalName","externalName":"{long}"}}"#),
    ] {
        let received = decode_json(Kind::Service, format!("{{{META},{body}}}").as_bytes());
        for problem in &received.problems {
            assert!(problem.message.len() < 800, "{} bytes", problem.message.len());
        }
    }
}
