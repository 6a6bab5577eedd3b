use proptest::prelude::*;

use super::*;

fn canonical(raw: &str) -> Option<String> {
    canonical_bytes(raw.as_bytes())
}

fn canonical_bytes(raw: &[u8]) -> Option<String> {
    canonical_path(raw, &mut Vec::new()).ok().map(str::to_owned)
}

#[track_caller]
fn becomes(raw: &str, want: &str) {
    assert_eq!(canonical(raw).as_deref(), Some(want), "{raw}");
}

#[track_caller]
fn stays(raw: &str) {
    becomes(raw, raw);
}

#[track_caller]
fn refused(raw: &str) {
    assert_eq!(canonical(raw), None, "{raw}");
}

#[test]
fn dot_segments_are_removed() {
    becomes("/a/../b", "/b");
    becomes("/a/./b", "/a/b");
    becomes("/a/.", "/a/");
    becomes("/a/..", "/");
    becomes("/a/b/../..", "/");
    becomes("/a/b/c/./../../g", "/a/g");
    becomes("/.", "/");
    becomes("/./", "/");
    becomes("/a/../b/../c", "/c");
}

#[test]
fn a_path_above_the_root_is_refused() {
    refused("/../../etc");
    refused("/..");
    refused("/a/../..");
    refused("/a/../../b");
    refused("/./../b");
    refused("//../..");
}

#[test]
fn encoded_dots_are_dots() {
    refused("/%2e%2e/x");
    refused("/%2E./x");
    refused("/.%2e/x");
    becomes("/a/%2e%2e/x", "/x");
    becomes("/a/%2E./x", "/x");
    becomes("/a/.%2e/x", "/x");
    becomes("/a/%2e/x", "/a/x");
}

#[test]
fn decoding_happens_once() {
    stays("/%252e%252e/x");
    stays("/%252F");
}

#[test]
fn encoded_slashes_and_backslashes_are_refused() {
    refused("/a%2fb");
    refused("/a%2F..%2Fadmin");
    refused("/a%5cb");
    refused("/a%5Cb");
    refused("/a\\..\\b");
    refused("/a\\b");
}

#[test]
fn double_slashes_are_kept() {
    stays("//a");
    stays("/a//b");
    stays("/a//");
    becomes("/a//../b", "/a/b");
    becomes("//..", "/");
    becomes("/.//a", "//a");
}

#[test]
fn merged_copy_has_single_slashes() {
    assert_eq!(merge_slashes("//a///b/", &mut vec![1]), "/a/b/");
    assert_eq!(merge_slashes("/a", &mut Vec::new()), "/a");
    assert_eq!(merge_slashes("//", &mut Vec::new()), "/");
}

#[test]
fn dot_segments_with_parameters_are_refused() {
    refused("/..;/admin");
    refused("/a/..;x=y/b");
    refused("/%2e%2e%3b/");
    refused("/a/.;/b");
    refused("/a/.;x");
    refused("/a/..%3Bx");
}

#[test]
fn parameters_of_other_segments_stay() {
    stays("/a;jsessionid=1/b");
    becomes("/a%3bb", "/a%3Bb");
    stays("/...;x");
    stays("/.a;x");
}

#[test]
fn segments_that_only_start_with_dots_stay() {
    stays("/.well-known/acme-challenge/x");
    stays("/...");
    stays("/..a");
    stays("/a..");
    stays("/a.b/.c");
}

#[test]
fn nul_is_refused() {
    refused("/%00");
    refused("/a%00.png");
    assert_eq!(canonical_bytes(b"/\0"), None);
}

#[test]
fn encoded_line_breaks_stay_encoded() {
    becomes("/%0d%0aX:1", "/%0D%0AX:1");
    becomes("/%0a", "/%0A");
}

#[test]
fn incomplete_escapes_are_refused() {
    refused("/%");
    refused("/%2");
    refused("/%zz");
    refused("/%+1");
    refused("/%2/a");
}

#[test]
fn unreserved_characters_are_decoded() {
    becomes("/%41", "/A");
    becomes("/%7Euser", "/~user");
    becomes("/%2d%5f%30", "/-_0");
}

#[test]
fn reserved_characters_keep_their_form() {
    becomes("/a%20b%3a:", "/a%20b%3A:");
    stays("/!$&'()*+,;=:@");
    stays("/%21%24%26%27%28%29%2A%2B%2C%3B%3D%3A%40%3F%23%25");
}

#[test]
fn overlong_utf8_is_refused() {
    refused("/%c0%af");
    refused("/%C0%AE%C0%AE/");
    refused("/%c1%1c");
    refused("/%e0%80%af");
    refused("/%f0%80%80%af");
    refused("/%f8%80%80%80%af");
    refused("/%fc%80%80%80%80%af");
}

#[test]
fn other_octets_are_opaque() {
    becomes("/%ff", "/%FF");
    becomes("/%c0", "/%C0");
    becomes("/%c3%a9", "/%C3%A9");
    stays("/%E0%A4%B9");
    stays("/caf%C3%A9");
    stays("/cafe%CC%81");
}

#[test]
fn case_is_kept() {
    stays("/Foo");
    stays("/foo");
}

#[test]
fn bytes_outside_printable_ascii_are_refused() {
    for raw in [&b"/\xc3\xa9"[..], b"/\xc0\xaf", b"/a b", b"/a\tb", b"/\x7f", b"/\x1f", b"/a\r\nb"] {
        assert_eq!(canonical_bytes(raw), None, "{raw:?}");
    }
}

#[test]
fn delimiters_are_refused() {
    refused("/a#frag");
    refused("/a?b");
    refused("");
    refused("a");
    refused("*");
}

#[test]
fn printable_characters_that_a_path_may_not_hold_are_encoded() {
    becomes("/a[1]|{x}", "/a%5B1%5D%7C%7Bx%7D");
    becomes("/\"<>^`", "/%22%3C%3E%5E%60");
}

#[test]
fn canonical_paths_are_returned_without_a_copy() {
    for raw in ["/", "/a/b-c_d~e", "/.well-known/x", "/a%20b"] {
        let mut scratch = Vec::new();
        let path = canonical_path(raw.as_bytes(), &mut scratch).unwrap();
        assert!(std::ptr::eq(path.as_ptr(), raw.as_ptr()), "{raw}");
    }
}

#[test]
fn scratch_is_cleared_first() {
    let mut scratch = b"left over".to_vec();
    assert_eq!(canonical_path(b"/%41", &mut scratch), Ok("/A"));
}

#[test]
fn long_paths_take_linear_time() {
    let dots = "/.".repeat(4_000_000);
    becomes(&dots, "/");
    let up = format!("{}{}", "/a".repeat(2_000_000), "/..".repeat(2_000_000));
    becomes(&up, "/");
    stays(&"/a".repeat(4_000));
}

#[test]
fn queries_are_judged_by_their_bytes_only() {
    for query in ["a=../../b", ";", "", "a=%zz&b=\\[]{}", "??"] {
        assert!(valid_query(query.as_bytes()), "{query}");
    }
    assert!(valid_query(&vec![b'a'; 8_192]));
    for query in [&b"a b"[..], b"a#b", b"\xc3\xa9", b"a\0", b"\x7f", b"a\tb", b"a\r"] {
        assert!(!valid_query(query), "{query:?}");
    }
}

#[test]
fn origin_form() {
    assert_eq!(split_target(b"/a?b?c"), Ok(Target::Origin { path: b"/a", query: Some(b"b?c") }));
    assert_eq!(split_target(b"/"), Ok(Target::Origin { path: b"/", query: None }));
    assert_eq!(split_target(b"/?"), Ok(Target::Origin { path: b"/", query: Some(b"") }));
    assert_eq!(split_target(b"//a"), Ok(Target::Origin { path: b"//a", query: None }));
}

#[test]
fn absolute_form() {
    let absolute =
        |scheme_https, authority, path, query| Ok(Target::Absolute { scheme_https, authority, path, query });
    assert_eq!(split_target(b"http://a/"), absolute(false, b"a", b"/", None));
    assert_eq!(split_target(b"HTTP://a:80"), absolute(false, b"a:80", b"/", None));
    assert_eq!(split_target(b"https://a/b?c"), absolute(true, b"a", b"/b", Some(b"c")));
    assert_eq!(split_target(b"http://a?x=1"), absolute(false, b"a", b"/", Some(b"x=1")));
    assert_eq!(split_target(b"http://u:p@a/"), absolute(false, b"u:p@a", b"/", None));
}

#[test]
fn fragments_of_absolute_targets_end_up_in_the_path() {
    let Ok(Target::Absolute { path, .. }) = split_target(b"http://a#x") else { panic!("not absolute") };
    assert_eq!(canonical_bytes(path), None);
}

#[test]
fn asterisk_form() {
    assert_eq!(split_target(b"*"), Ok(Target::Asterisk));
    assert!(split_target(b"*/x").is_err());
}

#[test]
fn other_targets_are_refused() {
    for raw in [
        "",
        "admin",
        "a/b",
        "a:80",
        "ftp://a/",
        "javascript:x",
        "http:a",
        "http:///",
        "http://",
        "http:/a",
        "://a",
        "?x",
    ] {
        assert!(split_target(raw.as_bytes()).is_err(), "{raw}");
    }
}

fn path_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"/".to_vec()),
        Just(b".".to_vec()),
        Just(b"..".to_vec()),
        Just(b"%2e".to_vec()),
        Just(b"%2E".to_vec()),
        Just(b";".to_vec()),
        Just(b"%3b".to_vec()),
        Just(b"%41".to_vec()),
        Just(b"%25".to_vec()),
        Just(b"a".to_vec()),
        Just(b"[".to_vec()),
        any::<u8>().prop_map(|byte| format!("%{byte:02x}").into_bytes()),
        any::<u8>().prop_map(|byte| vec![byte]),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| [b"/".to_vec(), pieces.concat()].concat())
}

proptest! {
    #[test]
    fn any_bytes_are_survived(raw in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = canonical_bytes(&raw);
        let _ = split_target(&raw);
        let _ = valid_query(&raw);
    }

    #[test]
    fn canonical_form_is_a_fixed_point(raw in path_like()) {
        if let Some(once) = canonical_bytes(&raw) {
            prop_assert_eq!(canonical(&once), Some(once));
        }
    }

    #[test]
    fn canonical_form_has_no_dot_segment(raw in path_like()) {
        if let Some(path) = canonical_bytes(&raw) {
            prop_assert!(path.starts_with('/'));
            prop_assert!(path.is_ascii());
            for segment in path.split('/') {
                let name = segment.split(';').next().unwrap_or_default();
                prop_assert!(name != "." && name != "..", "{}", path);
            }
        }
    }

    #[test]
    fn merged_copy_is_canonical_too(raw in path_like()) {
        if let Some(path) = canonical_bytes(&raw) {
            let mut scratch = Vec::new();
            let merged = merge_slashes(&path, &mut scratch).to_owned();
            prop_assert!(!merged.contains("//"));
            prop_assert_eq!(canonical(&merged), Some(merged));
        }
    }

    #[test]
    fn the_short_way_and_the_long_way_agree(raw in path_like()) {
        let mut long = Vec::new();
        let long = write_canonical(&raw, &mut long).map(|()| long.clone());
        prop_assert_eq!(canonical_bytes(&raw), long.ok().map(|path| String::from_utf8(path).unwrap()));
    }
}
