use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use tempfile::TempDir;

use super::*;

fn folder(files: &[&str]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for file in files {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "{}").unwrap();
    }
    folder
}

fn scan(folder: &TempDir) -> Scan {
    Scan::of(&[folder.path().to_owned()], std::iter::empty())
}

/// Paths relative to the folder.
fn files(folder: &TempDir, scan: &Scan) -> Vec<String> {
    let base = format!("{}/", folder.path().display());
    scan.files.keys().map(|file| file.strip_prefix(&base).unwrap().to_owned()).collect()
}

fn reasons(scan: &Scan) -> Vec<&'static str> {
    scan.problems.values().flatten().map(|problem| problem.reason).collect()
}

#[test]
fn manifests_of_all_folders_are_found_in_order() {
    let folder = folder(&["b.yaml", "a.yml", "sub/deep/c.json", "README.md", "notes.yaml~", "D.YAML"]);
    let scan = scan(&folder);
    assert_eq!(files(&folder, &scan), ["D.YAML", "a.yml", "b.yaml", "sub/deep/c.json"]);
    assert!(scan.problems.is_empty(), "{:?}", scan.problems);
}

#[test]
fn hidden_files_and_folders_are_skipped() {
    let folder = folder(&["a.yaml", ".b.yaml", ".git/c.yaml"]);
    assert_eq!(files(&folder, &scan(&folder)), ["a.yaml"]);
}

#[test]
fn mounted_config_map_is_read_once() {
    let folder = folder(&["..2026_01/a.yaml", "..2026_01/b.yaml"]);
    symlink("..2026_01", folder.path().join("..data")).unwrap();
    symlink("..data/a.yaml", folder.path().join("a.yaml")).unwrap();
    symlink("..data/b.yaml", folder.path().join("b.yaml")).unwrap();
    let scan = scan(&folder);
    assert_eq!(files(&folder, &scan), ["a.yaml", "b.yaml"]);
    let canonical = folder.path().canonicalize().unwrap();
    assert!(scan.folders[&canonical].covers(OsStr::new("..data")));
    assert!(scan.folders[&canonical.join("..2026_01")].covers(OsStr::new("a.yaml")));
}

#[test]
fn cyclic_symlink_to_a_folder_is_reported_and_the_rest_read() {
    let folder = folder(&["a.yaml", "sub/b.yaml"]);
    symlink("..", folder.path().join("sub/loop")).unwrap();
    let scan = scan(&folder);
    assert_eq!(files(&folder, &scan), ["a.yaml", "sub/b.yaml"]);
    assert_eq!(reasons(&scan), ["CyclicSymlink"]);
}

#[test]
fn symlink_to_itself_is_reported() {
    let folder = folder(&["a.yaml"]);
    symlink("b.yaml", folder.path().join("b.yaml")).unwrap();
    assert_eq!(reasons(&scan(&folder)), ["CyclicSymlink"]);
}

#[test]
fn dangling_symlink_is_reported_and_its_folder_watched() {
    let folder = folder(&["a.yaml", "elsewhere/README"]);
    symlink("elsewhere/b.yaml", folder.path().join("b.yaml")).unwrap();
    let scan = scan(&folder);
    assert_eq!(reasons(&scan), ["DanglingSymlink"]);
    let elsewhere = folder.path().canonicalize().unwrap().join("elsewhere");
    assert!(scan.folders[&elsewhere].covers(OsStr::new("b.yaml")));
}

#[test]
fn socket_is_reported_and_not_opened() {
    let folder = folder(&["a.yaml"]);
    let _socket = UnixListener::bind(folder.path().join("b.yaml")).unwrap();
    assert_eq!(reasons(&scan(&folder)), ["NotAFile"]);
}

#[test]
fn empty_folder_is_a_warning() {
    let folder = folder(&["README.md"]);
    let scan = scan(&folder);
    assert_eq!(reasons(&scan), ["EmptyFolder"]);
    assert_eq!(scan.problems.values().next().unwrap()[0].severity, Severity::Warning);
}

#[test]
fn file_that_two_paths_lead_to_is_read_once() {
    let folder = folder(&["a.yaml"]);
    symlink("a.yaml", folder.path().join("b.yaml")).unwrap();
    let scan = Scan::of(&[folder.path().to_owned(), folder.path().join("a.yaml")], std::iter::empty());
    assert_eq!(files(&folder, &scan), ["a.yaml"]);
}

#[test]
fn file_given_by_name_may_have_any_extension() {
    let folder = folder(&["routes.conf"]);
    let scan = Scan::of(&[folder.path().join("routes.conf")], std::iter::empty());
    assert_eq!(files(&folder, &scan), ["routes.conf"]);
}

#[test]
fn missing_root_hides_nothing_else() {
    let folder = folder(&["a.yaml"]);
    let gone = folder.path().join("gone");
    let scan = Scan::of(&[gone.clone(), folder.path().to_owned()], std::iter::empty());
    assert_eq!(files(&folder, &scan), ["a.yaml"]);
    assert_eq!(reasons(&scan), ["PathUnreadable"]);
    assert_eq!(scan.unseen, [gone]);
}

#[test]
fn every_link_on_the_way_to_a_root_is_watched() {
    let folder = folder(&["releases/1/routes/a.yaml", "links/README"]);
    symlink("../releases/1", folder.path().join("links/current")).unwrap();
    let scan = Scan::of(&[folder.path().join("links/current/routes")], std::iter::empty());
    let base = folder.path().canonicalize().unwrap();
    assert!(scan.folders[&base.join("links")].covers(OsStr::new("current")));
    assert!(!scan.folders[&base.join("links")].covers(OsStr::new("other.yaml")));
    assert!(scan.folders[&base.join("releases/1")].covers(OsStr::new("routes")));
    assert!(scan.folders[&base.join("releases/1/routes")].covers(OsStr::new("b.yaml")));
}
