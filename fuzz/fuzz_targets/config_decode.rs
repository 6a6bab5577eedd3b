//! Configuration files: any bytes decode to objects and problems, and what decodes also compiles.
#![no_main]

use std::sync::Arc;

use config::compile::{Compiler, Settings};
use config::index::{Change, Event, Index};
use config::resource::decode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let file: Arc<str> = "fuzz.yaml".into();
    let decoded = decode(&file, text);
    let mut index = Index::new();
    let mut change = Change::default();
    for object in decoded.objects {
        change.merge(index.apply(Event::Apply(object)));
    }
    let (_table, _report) = Compiler::new(Settings::default()).compile(&index, &change, 0);
});
