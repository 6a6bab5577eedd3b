//! The programs that people use.

use crate::common::programs::output;
use crate::origin::{Origin, Site};

fn curl(site: &Site, path: &str, more: &[&str]) -> Option<String> {
    let url = format!("http://{}{path}", site.http);
    output("curl", &[&["-sS", "-m", "20", "--http2-prior-knowledge", &url], more].concat())
}

#[test]
fn curl_gets_posts_and_heads() {
    let origin = Origin::plain();
    let site = Site::plain(&origin);
    let version = ["-w", " %{http_version} %{http_code}"];
    let Some(answer) = curl(&site, "/a", &version) else { return };
    assert_eq!(answer, "/a 2 200");
    let head = curl(&site, "/a", &["-I"]).unwrap();
    assert!(head.starts_with("HTTP/2 200"), "{head}");
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(10 * 1_024 * 1_024).unwrap();
    let upload = format!("@{}", file.path().display());
    assert_eq!(curl(&site, "/b", &["--data-binary", &upload]).unwrap(), "/b 10485760");
    assert_eq!(curl(&site, "/c", &["-T", file.path().to_str().unwrap()]).unwrap(), "/c 10485760");
    // The same port takes the other version, and an offer to upgrade is not taken up.
    let url = format!("http://{}/d", site.http);
    assert_eq!(output("curl", &["-sS", "--http2", "-w", " %{http_version}", &url]).unwrap(), "/d 1.1");
}

#[test]
fn h2load_finds_no_failure() {
    let origin = Origin::plain();
    let site = Site::plain(&origin);
    let url = format!("http://{}/x", site.http);
    let Some(text) = output("h2load", &["-n", "5000", "-c", "4", "-m", "32", &url]) else { return };
    assert!(text.contains("5000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
}
