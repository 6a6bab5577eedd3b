//! Objects of an API server: any bytes are an object or a reason, and an object also compiles.
#![no_main]

use config::compile::{Compiler, Settings};
use config::index::{Change, Event, Index};
use config::report::Kind;
use config::resource::decode_json;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, json)) = bytes.split_first() else { return };
    let kinds =
        [Kind::Ingress, Kind::IngressClass, Kind::Service, Kind::EndpointSlice, Kind::Secret, Kind::ConfigMap];
    let kind = kinds[usize::from(*kind) % kinds.len()];
    let received = decode_json(kind, json);
    let Some(object) = received.object else {
        assert!(!received.problems.is_empty(), "nothing is dropped in silence");
        return;
    };
    assert_eq!(Some(&object.reference), received.reference.as_ref());
    assert!(object.material().iter().all(|named| named.namespace == object.reference.namespace));
    let mut index = Index::new();
    let change: Change = index.apply(Event::Apply(object));
    let (_table, _report) = Compiler::new(Settings::default()).compile(&index, &change, 0);
});
