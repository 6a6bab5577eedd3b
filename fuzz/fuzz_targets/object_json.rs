//! Objects of an API server: any bytes are an object or a reason, and objects also compile, with every kind of Service
//! served; what is deleted leaves nothing behind.
#![no_main]

use std::sync::Arc;

use config::compile::{Compiler, ServiceSettings, Settings};
use config::index::{Change, Event, Index};
use config::report::Kind;
use config::resource::{Object, decode_json};
use libfuzzer_sys::fuzz_target;

const KINDS: [Kind; 6] =
    [Kind::Ingress, Kind::IngressClass, Kind::Service, Kind::EndpointSlice, Kind::Secret, Kind::ConfigMap];

fuzz_target!(|bytes: &[u8]| {
    // No JSON has a NUL in it.
    let objects: Vec<Object> = bytes.split(|byte| *byte == 0).filter_map(object).collect();
    let mut index = Index::new();
    let mut compiler = Compiler::new(settings(&objects));
    let references: Vec<_> = objects.iter().map(|object| object.reference.clone()).collect();
    for object in objects {
        let change: Change = index.apply(Event::Apply(object));
        let (_table, _report) = compiler.compile(&index, &change, 0);
    }
    for reference in references {
        let change = index.apply(Event::Delete(reference));
        let (_table, _report) = compiler.compile(&index, &change, 0);
    }
    let (table, report) = compiler.compile(&index, &Change::default(), 0);
    assert_eq!(table.l4.iter().count(), 0);
    assert_eq!(table.service_checks.iter().count(), 0);
    assert_eq!(table.routes.iter().count(), 0);
    assert_eq!(table.backends.iter().count(), 0);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
});

fn object(bytes: &[u8]) -> Option<Object> {
    let (kind, json) = bytes.split_first()?;
    let received = decode_json(KINDS[usize::from(*kind) % KINDS.len()], json);
    let Some(object) = received.object else {
        assert!(!received.problems.is_empty(), "nothing is dropped in silence");
        return None;
    };
    assert_eq!(Some(&object.reference), received.reference.as_ref());
    assert!(object.material().iter().all(|named| named.namespace == object.reference.namespace));
    Some(object)
}

/// Everything is served: all kinds of Services, at whatever addresses they ask for, and the first ConfigMap is the one of
/// `tcp-services` and of `udp-services`.
fn settings(objects: &[Object]) -> Settings {
    let map = objects.iter().map(|object| &object.reference).find(|object| object.kind == Kind::ConfigMap);
    let map = map.map(|map| (Arc::clone(&map.namespace), Arc::clone(&map.name)));
    Settings {
        services: ServiceSettings {
            load_balancer: true,
            node_port: true,
            cluster_ip: true,
            classless: true,
            requestable: ["0.0.0.0/0", "::/0"].map(|net| net.parse().expect("a network")).into(),
            node_addresses: None,
            tcp_map: map.clone(),
            udp_map: map,
        },
        ..Settings::default()
    }
}
