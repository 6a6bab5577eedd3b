//! Paths that two parsers could read as two different ones: what was matched is what is forwarded.

use crate::case::{BAD, Case, Want, case, forward};
use crate::gateway::Which;

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
}

fn becomes(id: &str, path: &str, want: &str) -> Case {
    case(id, get(path), forward(&format!("GET {want} HTTP/1.1")))
}

fn stays(id: &str, path: &str) -> Case {
    becomes(id, path, path)
}

fn refused(id: &str, path: &str) -> Case {
    case(id, get(path), BAD)
}

/// Goes to the backend of the more specific path.
fn special(id: &str, path: &str, want: &str) -> Case {
    case(id, get(path), forward(&format!("GET {want} HTTP/1.1")).to(Which::Other))
}

/// P01–P23; P21 is a scenario.
pub(crate) fn paths() -> Vec<Case> {
    let long = "/a".repeat(3_900);
    let dots = "/.".repeat(3_900);
    let query = format!("/?{}", "q".repeat(7_900));
    vec![
        becomes("P01", "/a/../b", "/b"),
        special("P01.route", "/a/../admin", "/admin"),
        becomes("P01.away", "/admin/../b", "/b"),
        refused("P02", "/../../etc"),
        becomes("P03.1", "/a/./b", "/a/b"),
        becomes("P03.2", "/a/.", "/a/"),
        refused("P04.1", "/%2e%2e/x"),
        refused("P04.2", "/%2E./x"),
        refused("P04.3", "/.%2e/x"),
        becomes("P04.4", "/a/%2e%2e/x", "/x"),
        special("P04.5", "/a/%2e%2e/%61dmin", "/admin"),
        stays("P05", "/%252e%252e/x"),
        refused("P06.1", "/a%2fb"),
        refused("P06.2", "/a%2F..%2Fadmin"),
        refused("P07.1", "/a%5cb"),
        refused("P07.2", r"/a\..\b"),
        stays("P08.1", "//a"),
        stays("P08.2", "/a//b"),
        refused("P08.3", "//admin"),
        refused("P08.4", "/%2f/admin"),
        special("P08.5", "/admin//x", "/admin//x"),
        refused("P09.1", "/..;/admin"),
        refused("P09.2", "/a/..;x=y/b"),
        refused("P09.3", "/%2e%2e%3b/"),
        stays("P10.1", "/a;jsessionid=1/b"),
        becomes("P10.2", "/a%3bb", "/a%3Bb"),
        stays("P10.3", "/admin;x"),
        refused("P11.1", "/%00"),
        refused("P11.2", "/a%00.png"),
        becomes("P12.1", "/%0d%0aX:1", "/%0D%0AX:1"),
        becomes("P12.2", "/%0a", "/%0A"),
        refused("P13.1", "/%"),
        refused("P13.2", "/%2"),
        refused("P13.3", "/%zz"),
        becomes("P14", "/%41", "/A"),
        refused("P15.1", "/%c0%af"),
        refused("P15.2", "/%e0%80%af"),
        becomes("P16", "/%ff", "/%FF"),
        stays("P17.1", "/caf%C3%A9"),
        stays("P17.2", "/cafe%CC%81"),
        special("P18.1", "/foo", "/foo"),
        special("P18.2", "/foo/", "/foo/"),
        special("P18.3", "/foo/bar", "/foo/bar"),
        stays("P18.4", "/foobar"),
        stays("P19", "/Foo"),
        stays("P22.1", "/a?a=../../b"),
        stays("P22.2", "/?;"),
        stays("P22.3", &query),
        stays("P22.4", "/a?x=%zz%2f%00&y=\\|[]{}"),
        stays("P22.5", "/a?"),
        stays("P23.1", &long),
        becomes("P23.2", &dots, "/"),
    ]
}

/// P20 and P24: what routes of the native format do with paths.
pub(crate) fn rewritten() -> Vec<Case> {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: n\r\n\r\n");
    let becomes =
        |id: &str, path: &str, want: &str| case(id, get(path), forward(&format!("GET {want} HTTP/1.1")));
    let backtracking = format!("/{}", "a".repeat(7_900));
    vec![
        becomes("P20.1", "/strip", "/"),
        becomes("P20.2", "/strip/", "/"),
        becomes("P20.3", "/strip/a", "/a"),
        becomes("P20.4", "/strip//evil", "/evil"),
        becomes("P20.5", "/strip///evil//x", "/evil//x"),
        becomes("P20.6", "/strip/a/../b?c", "/b?c"),
        becomes("P20.7", "/deep/er/a", "/x/y/a"),
        becomes("P20.8", "/deep/er", "/x/y"),
        case("P20.9", get("/strip/..;/x"), BAD),
        case("P24", get(&backtracking), Want::Local(&[404])),
        becomes("P24.match", "/aaab", "/aaab"),
    ]
}
