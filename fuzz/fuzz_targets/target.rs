//! Request targets: the canonical path is a fixed point, holds no dot segment and only printable ASCII.
#![no_main]

use gateway::http1::target::{Target, canonical_path, merge_slashes, split_target, valid_query};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|raw: &[u8]| {
    let path = match split_target(raw) {
        Ok(Target::Origin { path, query }) => {
            query.map(valid_query);
            path
        }
        Ok(Target::Absolute { authority, path, query, .. }) => {
            assert!(!authority.is_empty());
            query.map(valid_query);
            path
        }
        Ok(Target::Asterisk) | Err(_) => raw,
    };
    let mut scratch = Vec::new();
    let Ok(once) = canonical_path(path, &mut scratch).map(str::to_owned) else { return };
    assert!(once.starts_with('/') && once.bytes().all(|byte| matches!(byte, 0x21..=0x7e)));
    assert!(once.split('/').all(|segment| !matches!(segment.split(';').next(), Some("." | ".."))));
    assert!(
        !once.contains(['\\', '?', '#'])
            && !once.contains("%2F")
            && !once.contains("%5C")
            && !once.contains("%00")
    );
    assert_eq!(canonical_path(once.as_bytes(), &mut scratch), Ok(once.as_str()));
    let merged = merge_slashes(&once, &mut scratch).to_owned();
    assert!(!merged.contains("//"));
    assert_eq!(canonical_path(merged.as_bytes(), &mut scratch), Ok(merged.as_str()));
});
