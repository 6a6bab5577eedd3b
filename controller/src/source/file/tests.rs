use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn service(name: &str) -> String {
    format!(
        "kind: Service\napiVersion: v1\nmetadata: {{name: {name}, namespace: n}}\nspec: {{ports: [{{port: 80}}]}}\n"
    )
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (file, service_name) in files {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, service(service_name)).unwrap();
    }
    folder
}

/// Events as one line each; file names without their folder, problems by reason.
fn told(events: Vec<Event>) -> Vec<String> {
    events
        .into_iter()
        .filter_map(|event| match event {
            Event::Apply(object) => Some(format!("apply {}", object.reference.name)),
            Event::Delete(reference) => Some(format!("delete {}", reference.name)),
            Event::Problems { source, problems } => {
                let name = source.rsplit('/').next().unwrap_or_default().to_owned();
                let reasons: Vec<&str> = problems.iter().map(|problem| problem.reason).collect();
                (!reasons.is_empty()).then(|| format!("problems {name} {}", reasons.join(",")))
            }
            Event::Loaded { file, content } => {
                let name = file.rsplit('/').next().unwrap_or_default().to_owned();
                Some(format!("loaded {name} {content:?}"))
            }
            Event::Listeners { source, are_known } => {
                let name = source.rsplit('/').next().unwrap_or_default().to_owned();
                Some(format!("{} {name}", if are_known { "known" } else { "obscure" }))
            }
            Event::Resolved { .. }
            | Event::Assigned { .. }
            | Event::Undecoded { .. }
            | Event::Zone(_)
            | Event::Refused(_) => {
                unreachable!("files resolve nothing")
            }
        })
        .collect()
}

async fn next(source: &mut FileSource) -> Vec<String> {
    told(tokio::time::timeout(PATIENCE, source.next()).await.expect("a change is seen").events)
}

/// Batches until one of them says `line`.
async fn until(source: &mut FileSource, line: &str) -> Vec<String> {
    let mut all = Vec::new();
    while !all.iter().any(|told| told == line) {
        all.extend(next(source).await);
    }
    all
}

fn source(folder: &TempDir) -> FileSource {
    FileSource::new(vec![folder.path().to_owned()]).unwrap()
}

#[tokio::test]
async fn first_batch_holds_everything() {
    let folder = folder(&[("b.yaml", "b"), ("sub/a.yaml", "a")]);
    assert_eq!(next(&mut source(&folder)).await, ["apply b", "apply a"]);
}

#[tokio::test]
async fn empty_folder_is_a_problem_and_no_failure() {
    let folder = folder(&[]);
    let mut source = source(&folder);
    let first = next(&mut source).await;
    assert_eq!(first.len(), 1);
    assert!(first[0].ends_with("EmptyFolder"), "{first:?}");
    fs::write(folder.path().join("a.yaml"), service("a")).unwrap();
    until(&mut source, "apply a").await;
}

#[test]
fn path_that_does_not_exist_is_an_error() {
    let error = FileSource::new(vec!["/nowhere/at/all".into()]).unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
}

#[tokio::test]
async fn file_written_in_place_is_read_again() {
    let folder = folder(&[("a.yaml", "a")]);
    let mut source = source(&folder);
    next(&mut source).await;
    fs::write(folder.path().join("a.yaml"), service("b")).unwrap();
    let told = until(&mut source, "apply b").await;
    assert_eq!(told, ["apply b", "delete a"]);
}

#[tokio::test]
async fn file_renamed_over_never_blinks() {
    let folder = folder(&[("a.yaml", "a")]);
    let mut source = source(&folder);
    next(&mut source).await;
    let beside = folder.path().join("a.yaml.tmp");
    fs::write(&beside, format!("{}---\n{}", service("a"), service("b"))).unwrap();
    fs::rename(&beside, folder.path().join("a.yaml")).unwrap();
    assert_eq!(until(&mut source, "apply b").await, ["apply a", "apply b"]);
}

#[tokio::test]
async fn file_moved_away_and_written_anew_never_blinks() {
    let folder = folder(&[("a.yaml", "a")]);
    let mut source = source(&folder);
    next(&mut source).await;
    let path = folder.path().join("a.yaml");
    fs::rename(&path, folder.path().join("a.yaml~")).unwrap();
    fs::write(&path, format!("{}---\n{}", service("a"), service("b"))).unwrap();
    let told = until(&mut source, "apply b").await;
    assert!(!told.contains(&"delete a".to_owned()), "{told:?}");
}

#[tokio::test]
async fn file_that_is_emptied_and_filled_never_blinks() {
    let folder = folder(&[("a.yaml", "a")]);
    let mut source = source(&folder);
    next(&mut source).await;
    let mut file = File::create(folder.path().join("a.yaml")).unwrap();
    // The writer is slow: everything is looked at while the file is empty.
    source.reread();
    let quiet = tokio::time::timeout(CAP_AND_MORE, source.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    file.write_all(format!("{}---\n{}", service("a"), service("b")).as_bytes()).unwrap();
    drop(file);
    let told = until(&mut source, "apply b").await;
    assert!(!told.contains(&"delete a".to_owned()), "{told:?}");
}

const CAP_AND_MORE: Duration = Duration::from_millis(100);

#[tokio::test]
async fn file_that_stays_empty_loses_its_objects() {
    let folder = folder(&[("a.yaml", "a")]);
    let mut source = source(&folder);
    next(&mut source).await;
    fs::write(folder.path().join("a.yaml"), "").unwrap();
    until(&mut source, "delete a").await;
}

#[tokio::test]
async fn removed_file_takes_its_objects_along() {
    let folder = folder(&[("a.yaml", "a"), ("b.yaml", "b")]);
    let mut source = source(&folder);
    next(&mut source).await;
    fs::remove_file(folder.path().join("a.yaml")).unwrap();
    assert_eq!(until(&mut source, "delete a").await, ["delete a"]);
}

#[tokio::test]
async fn renamed_file_is_not_taken_for_a_duplicate() {
    let folder = folder(&[("a.yaml", "a")]);
    let mut source = source(&folder);
    next(&mut source).await;
    fs::rename(folder.path().join("a.yaml"), folder.path().join("b.yaml")).unwrap();
    let told = until(&mut source, "apply a").await;
    assert!(!told.iter().any(|line| line.contains("DuplicateObject")), "{told:?}");
}

#[tokio::test]
async fn exchanged_symlink_of_a_config_map_is_seen() {
    let folder = folder(&[("..1/a.yaml", "a"), ("..2/a.yaml", "b")]);
    symlink("..1", folder.path().join("..data")).unwrap();
    symlink("..data/a.yaml", folder.path().join("a.yaml")).unwrap();
    let mut source = source(&folder);
    assert_eq!(next(&mut source).await, ["apply a"]);
    symlink("..2", folder.path().join("..data_tmp")).unwrap();
    fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
    assert_eq!(until(&mut source, "apply b").await, ["apply b", "delete a"]);
}

#[tokio::test]
async fn target_of_a_symlink_is_watched() {
    let elsewhere = folder(&[("real.txt", "a")]);
    let folder = folder(&[]);
    symlink(elsewhere.path().join("real.txt"), folder.path().join("a.yaml")).unwrap();
    let mut source = source(&folder);
    assert_eq!(next(&mut source).await, ["apply a"]);
    fs::write(elsewhere.path().join("real.txt"), service("b")).unwrap();
    until(&mut source, "apply b").await;
}

#[tokio::test]
async fn new_folder_is_read() {
    let folder = folder(&[("a.yaml", "a")]);
    let mut source = source(&folder);
    next(&mut source).await;
    fs::create_dir_all(folder.path().join("x/y")).unwrap();
    fs::write(folder.path().join("x/y/b.yaml"), service("b")).unwrap();
    until(&mut source, "apply b").await;
}

#[tokio::test]
async fn vanished_root_keeps_its_objects_and_is_followed_when_it_is_back() {
    let above = folder(&[("routes/a.yaml", "a")]);
    let root = above.path().join("routes");
    let mut source = FileSource::new(vec![root.clone()]).unwrap();
    next(&mut source).await;
    fs::rename(&root, above.path().join("away")).unwrap();
    let told = until(&mut source, "problems routes (tree) PathUnreadable").await;
    assert!(!told.contains(&"delete a".to_owned()), "{told:?}");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("b.yaml"), service("b")).unwrap();
    let mut told = until(&mut source, "apply b").await;
    if !told.contains(&"delete a".to_owned()) {
        told.extend(until(&mut source, "delete a").await);
    }
}

#[tokio::test]
async fn broken_edit_keeps_the_last_good_version() {
    let folder = folder(&[("a.yaml", "a")]);
    let mut source = source(&folder);
    next(&mut source).await;
    fs::write(folder.path().join("a.yaml"), "kind: [").unwrap();
    let told = next(&mut source).await;
    assert!(told.iter().all(|line| line.starts_with("problems a.yaml")), "{told:?}");
    fs::write(folder.path().join("a.yaml"), service("b")).unwrap();
    assert_eq!(until(&mut source, "apply b").await, ["apply b", "delete a"]);
}

#[tokio::test]
async fn too_large_file_is_a_problem_and_keeps_its_objects() {
    let folder = folder(&[("a.yaml", "a")]);
    let mut source = source(&folder);
    next(&mut source).await;
    // Put there whole: an empty file that grows would be seen as two.
    let elsewhere = folder.path().with_extension("new");
    File::create(&elsewhere).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
    fs::rename(&elsewhere, folder.path().join("b.yaml")).unwrap();
    assert_eq!(next(&mut source).await, ["obscure b.yaml", "problems b.yaml FileTooLarge"]);
}

#[tokio::test]
async fn changes_are_found_without_the_kernels_help() {
    let folder = folder(&[("a.yaml", "a")]);
    let mut source = FileSource::with_watch(vec![folder.path().to_owned()], Watch::blind()).unwrap();
    next(&mut source).await;
    fs::write(folder.path().join("a.yaml"), service("b")).unwrap();
    until(&mut source, "apply b").await;
}

#[tokio::test]
async fn reread_looks_at_once() {
    let folder = folder(&[("a.yaml", "a"), ("b.yaml", "b")]);
    let mut source = FileSource::with_watch(vec![folder.path().to_owned()], Watch::blind()).unwrap();
    next(&mut source).await;
    fs::write(folder.path().join("b.yaml"), service("c")).unwrap();
    source.reread();
    let immediately = tokio::time::timeout(POLL / 2, source.next()).await;
    assert_eq!(told(immediately.expect("no poll is waited for").events), ["apply c", "delete b"]);
}

#[tokio::test]
async fn burst_of_files_is_seen_whole() {
    let folder = folder(&[]);
    let mut source = source(&folder);
    next(&mut source).await;
    for number in 0..300 {
        fs::write(folder.path().join(format!("{number}.yaml")), service(&format!("s{number}"))).unwrap();
    }
    let mut seen = BTreeSet::new();
    while seen.len() < 300 {
        seen.extend(next(&mut source).await.into_iter().filter(|line| line.starts_with("apply")));
    }
}

fn files(folder: &TempDir, names: &[&str]) -> BTreeSet<Arc<str>> {
    names.iter().map(|name| folder.path().join(name).to_string_lossy().into()).collect()
}

#[tokio::test]
async fn file_of_a_certificate_is_read_when_it_is_wanted_and_when_it_changes() {
    let folder = folder(&[("a.yaml", "a")]);
    fs::write(folder.path().join("c.pem"), "old").unwrap();
    let mut source = source(&folder);
    next(&mut source).await;
    let wanted = files(&folder, &["c.pem", "gone.pem"]);
    let first = told(source.want(&wanted, &wanted));
    assert_eq!(first[0], "loaded c.pem 3 bytes");
    assert!(first[1].starts_with("loaded gone.pem No such file"), "{first:?}");
    fs::write(folder.path().join("c.pem"), "newer").unwrap();
    assert_eq!(until(&mut source, "loaded c.pem 5 bytes").await, ["loaded c.pem 5 bytes"]);
    fs::write(folder.path().join("gone.pem"), "there").unwrap();
    assert_eq!(until(&mut source, "loaded gone.pem 5 bytes").await, ["loaded gone.pem 5 bytes"]);
    fs::remove_file(folder.path().join("c.pem")).unwrap();
    assert!(next(&mut source).await[0].starts_with("loaded c.pem No such file"));
    // What is known is told again to who does not know it.
    let again = files(&folder, &["gone.pem"]);
    assert_eq!(told(source.want(&again, &again)), ["loaded gone.pem 5 bytes"]);
    assert!(source.want(&again, &BTreeSet::new()).is_empty());
}

#[tokio::test]
async fn certificate_and_key_behind_an_exchanged_symlink_are_read_together() {
    let folder = folder(&[("a.yaml", "a")]);
    let path = |name: &str| folder.path().join(name);
    for (version, text) in [("v1", "one"), ("v2", "three")] {
        fs::create_dir(path(version)).unwrap();
        fs::write(path(version).join("c.pem"), text).unwrap();
        fs::write(path(version).join("c.key"), text).unwrap();
    }
    symlink("v1", path("..data")).unwrap();
    for name in ["c.pem", "c.key"] {
        symlink(Path::new("..data").join(name), path(name)).unwrap();
    }
    let mut source = source(&folder);
    next(&mut source).await;
    let wanted = files(&folder, &["c.pem", "c.key"]);
    assert_eq!(told(source.want(&wanted, &wanted)), ["loaded c.key 3 bytes", "loaded c.pem 3 bytes"]);
    symlink("v2", path("..new")).unwrap();
    fs::rename(path("..new"), path("..data")).unwrap();
    assert_eq!(next(&mut source).await, ["loaded c.key 5 bytes", "loaded c.pem 5 bytes"]);
}
