use std::fs;
use std::os::unix::fs::PermissionsExt;

use config::report::Kind;
use tempfile::TempDir;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn scope() -> Scope {
    Scope { cluster: "https://a".to_owned(), selection: String::new() }
}

fn service(name: &str) -> ObjectRef {
    ObjectRef { kind: Kind::Service, namespace: "n".into(), name: name.into() }
}

fn json(name: &str, port: u16) -> Box<[u8]> {
    let text = format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"n"}},"spec":{{"ports":[{{"port":{port}}}]}}}}"#
    );
    text.into_bytes().into()
}

fn path(state: &TempDir) -> PathBuf {
    state.path().join("kubernetes/objects.journal")
}

fn restored(state: &TempDir) -> (Vec<String>, usize) {
    let restored = restore(state.path(), &scope()).unwrap();
    let mut all: Vec<String> = restored
        .events
        .iter()
        .map(|event| {
            let Event::Apply(object) = event else { panic!("{event:?}") };
            let config::resource::ObjectSpec::Service(service) = &object.spec else { panic!() };
            format!("{}:{}", object.reference.name, service.ports[0].port)
        })
        .collect();
    all.sort();
    (all, restored.damaged)
}

fn until(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn last_version_of_each_object_is_restored() {
    let state = TempDir::new().unwrap();
    let journal = Journal::start(state.path(), scope()).unwrap();
    for port in 1..=3 {
        journal.put(service("a"), json("a", port));
        journal.put(service("b"), json("b", port));
    }
    journal.put(service("c"), json("c", 9));
    journal.complete();
    until(|| path(&state).exists());
    journal.remove(service("b"));
    journal.put(service("a"), json("a", 4));
    drop(journal);
    assert_eq!(restored(&state), (vec!["a:4".to_owned(), "c:9".to_owned()], 0));
}

#[test]
fn incomplete_start_leaves_what_was_there() {
    let state = TempDir::new().unwrap();
    let journal = Journal::start(state.path(), scope()).unwrap();
    journal.put(service("a"), json("a", 1));
    journal.complete();
    drop(journal);
    let journal = Journal::start(state.path(), scope()).unwrap();
    journal.put(service("b"), json("b", 1));
    drop(journal);
    assert_eq!(restored(&state).0, ["a:1"]);
}

#[test]
fn only_the_owner_may_read_what_is_kept() {
    let state = TempDir::new().unwrap();
    let journal = Journal::start(state.path(), scope()).unwrap();
    journal.complete();
    drop(journal);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path(&state)), 0o600);
    assert_eq!(mode(path(&state).parent().unwrap()), 0o700);
}

#[test]
fn file_that_others_could_have_written_is_not_used() {
    let state = TempDir::new().unwrap();
    let journal = Journal::start(state.path(), scope()).unwrap();
    journal.complete();
    drop(journal);
    fs::set_permissions(path(&state), fs::Permissions::from_mode(0o602)).unwrap();
    assert!(matches!(restore(state.path(), &scope()), Err(ReadError::Foreign)));
    fs::rename(path(&state), state.path().join("real")).unwrap();
    std::os::unix::fs::symlink(state.path().join("real"), path(&state)).unwrap();
    assert!(matches!(restore(state.path(), &scope()), Err(ReadError::Io(_))));
}

#[test]
fn volume_that_was_mounted_for_a_group_is_used_and_is_the_owners_alone_again() {
    let state = TempDir::new().unwrap();
    let journal = Journal::start(state.path(), scope()).unwrap();
    journal.put(service("a"), json("a", 1));
    journal.complete();
    drop(journal);
    let folder = path(&state).parent().unwrap().to_owned();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o2770)).unwrap();
    fs::set_permissions(path(&state), fs::Permissions::from_mode(0o660)).unwrap();
    assert_eq!(restored(&state).0, ["a:1"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path(&state)), 0o600);
    store::make_folder(state.path()).unwrap();
    assert_eq!(mode(&folder), 0o700);
}

#[test]
fn folder_of_others_or_for_everybody_or_behind_a_link_is_not_used() {
    let state = TempDir::new().unwrap();
    let journal = Journal::start(state.path(), scope()).unwrap();
    journal.complete();
    drop(journal);
    let folder = path(&state).parent().unwrap().to_owned();
    let is_refused = || {
        assert!(matches!(restore(state.path(), &scope()), Err(ReadError::Io(_))));
        assert!(store::make_folder(state.path()).is_err());
        assert!(prepare(state.path()).is_err());
    };
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o707)).unwrap();
    is_refused();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    // Only root can give things away.
    if std::os::unix::fs::chown(&folder, Some(12_345), None).is_ok() {
        is_refused();
        std::os::unix::fs::chown(&folder, Some(0), None).unwrap();
    }
    fs::rename(&folder, state.path().join("real")).unwrap();
    std::os::unix::fs::symlink(state.path().join("real"), &folder).unwrap();
    is_refused();
}

#[test]
fn of_two_processes_one_writes_and_the_other_one_takes_over() {
    let state = TempDir::new().unwrap();
    let first = Journal::start(state.path(), scope()).unwrap();
    first.put(service("a"), json("a", 1));
    first.complete();
    until(|| path(&state).exists());
    let second = Journal::start(state.path(), scope()).unwrap();
    second.put(service("b"), json("b", 1));
    second.complete();
    let third = Journal::start(state.path(), scope()).unwrap();
    third.put(service("c"), json("c", 1));
    third.complete();
    // It ends without having written anything.
    drop(third);
    assert_eq!(restored(&state).0, ["a:1"]);
    drop(first);
    until(|| restored(&state).0 == ["b:1"]);
    drop(second);
    assert_eq!(restored(&state).0, ["b:1"]);
}

#[test]
fn objects_that_go_while_another_process_writes_leave_nothing_in_memory() {
    let state = TempDir::new().unwrap();
    let folder = store::make_folder(state.path()).unwrap();
    let lock = store::lock(&folder).unwrap().unwrap();
    let journal = Journal::start(state.path(), scope()).unwrap();
    journal.put(service("stays"), json("stays", 1));
    journal.remove(service("unheard of"));
    for number in 0..100 {
        let name = format!("preview{number}");
        journal.put(service(&name), json(&name, 1));
        journal.remove(service(&name));
    }
    journal.complete();
    let pending = journal.desk.lock();
    assert_eq!((pending.news.len(), pending.bytes), (1, json("stays", 1).len()));
    drop((pending, lock));
    until(|| path(&state).exists());
    journal.remove(service("stays"));
    drop(journal);
    assert_eq!(restored(&state), (Vec::new(), 0));
}

#[test]
fn nothing_on_disk_is_no_error_of_the_disk() {
    let state = TempDir::new().unwrap();
    assert!(matches!(restore(state.path(), &scope()), Err(ReadError::None)));
}

#[test]
fn damage_is_told_and_the_rest_is_used() {
    let state = TempDir::new().unwrap();
    let journal = Journal::start(state.path(), scope()).unwrap();
    for name in ["a", "b", "c"] {
        journal.put(service(name), json(name, 1));
    }
    journal.complete();
    drop(journal);
    let mut bytes = fs::read(path(&state)).unwrap();
    let end = bytes.len();
    bytes[end - 5] ^= 1;
    fs::write(path(&state), &bytes).unwrap();
    let (objects, damaged) = restored(&state);
    assert_eq!((objects.len(), damaged), (2, 1));
}

#[test]
fn file_is_written_anew_when_most_of_it_is_of_no_use() {
    let state = TempDir::new().unwrap();
    let folder = store::make_folder(state.path()).unwrap();
    let mut store = Store::begin(folder, scope()).unwrap();
    let large = |fill: u8| -> Box<[u8]> {
        let text = format!(
            r#"{{"metadata":{{"name":"a","namespace":"n"}},"x":"{}","spec":{{"ports":[{{"port":{fill}}}]}}}}"#,
            "x".repeat(300_000)
        );
        text.into_bytes().into()
    };
    store.append(&[(service("b"), Some(json("b", 7)))]).unwrap();
    store.commit().unwrap();
    let mut compactions = 0;
    for port in 1..=20 {
        store.append(&[(service("a"), Some(large(port)))]).unwrap();
        if store.wants_compaction() {
            store.compact().unwrap();
            compactions += 1;
        }
        assert!(store.length() < 2_500_000, "{}", store.length());
    }
    assert!((2..=8).contains(&compactions), "{compactions}");
    store.append(&[(service("b"), None)]).unwrap();
    assert_eq!(restored(&state).0, ["a:20"]);
}

#[test]
fn file_that_another_process_replaced_is_put_back() {
    let state = TempDir::new().unwrap();
    let folder = store::make_folder(state.path()).unwrap();
    let mut store = Store::begin(folder.clone(), scope()).unwrap();
    store.append(&[(service("a"), Some(json("a", 1)))]).unwrap();
    store.commit().unwrap();
    let mut other = Store::begin(folder, scope()).unwrap();
    other.append(&[(service("b"), Some(json("b", 1)))]).unwrap();
    other.commit().unwrap();
    assert_eq!(restored(&state).0, ["b:1"]);
    assert!(store.wants_compaction());
    store.compact().unwrap();
    assert_eq!(restored(&state).0, ["a:1"]);
    assert!(!store.wants_compaction());
}

#[test]
fn disk_that_cannot_be_written_to_loses_nothing_when_it_can_be_again() {
    let state = TempDir::new().unwrap();
    let folder = store::make_folder(state.path()).unwrap();
    fs::remove_dir(&folder).unwrap();
    fs::write(&folder, "in the way").unwrap();
    let desk = Arc::<Desk>::default();
    let mut writer = Writer::new(Arc::clone(&desk), folder.clone(), scope());
    let work = |port| Work {
        news: vec![(service("a"), Some(json("a", port)))],
        completes: true,
        is_confirmed: false,
        is_over: false,
    };
    let first = work(1);
    let error = writer.write(&first).unwrap_err();
    desk.lock().news.insert(service("a"), Some(json("a", 2)));
    writer.failed(&error, first);
    assert_eq!(desk.lock().news.get(&service("a")).unwrap().as_deref(), Some(&*json("a", 2)));
    assert_eq!(desk.figures.failures.load(Relaxed), 1);
    fs::remove_file(&folder).unwrap();
    store::make_folder(state.path()).unwrap();
    writer.write(&work(2)).unwrap();
    assert_eq!(restored(&state).0, ["a:2"]);
}
