use config::resource::decode;

use super::*;

const A: &str =
    "kind: Service\napiVersion: v1\nmetadata: {name: a, namespace: n}\nspec: {ports: [{port: 80}]}\n";
const B: &str =
    "kind: Service\napiVersion: v1\nmetadata: {name: b, namespace: n}\nspec: {ports: [{port: 80}]}\n";
const BAD_A: &str =
    "kind: Service\napiVersion: v1\nmetadata: {name: a, namespace: n}\nspec: {ports: [{port: x}]}\n";

fn replace(catalog: &mut Catalog, file: &str, text: &str) -> Vec<String> {
    let file = file.into();
    told(catalog.replace(&file, decode(&file, text.as_bytes())))
}

fn remove(catalog: &mut Catalog, file: &str) -> Vec<String> {
    told(catalog.remove(&file.into()))
}

/// Events as one line each.
fn told(outcome: Outcome) -> Vec<String> {
    let reread = outcome.reread.into_iter().map(|file| format!("reread {file}"));
    outcome
        .events
        .into_iter()
        .map(|event| match event {
            Event::Apply(object) => format!("apply {}", object.reference.name),
            Event::Delete(reference) => format!("delete {}", reference.name),
            Event::Problems { source, problems } => {
                let reasons: Vec<&str> = problems.iter().map(|problem| problem.reason).collect();
                format!("problems {source} {}", reasons.join(",")).trim_end().to_owned()
            }
            Event::Listeners { source, are_known: true } => format!("known {source}"),
            Event::Listeners { source, are_known: false } => format!("obscure {source}"),
            Event::Resolved { .. }
            | Event::Loaded { .. }
            | Event::Assigned { .. }
            | Event::Undecoded { .. }
            | Event::Zone(_)
            | Event::Refused(_) => {
                unreachable!("files resolve nothing")
            }
        })
        .chain(reread)
        .collect()
}

#[test]
fn object_that_left_its_file_is_deleted() {
    let mut catalog = Catalog::default();
    replace(&mut catalog, "1.yaml", &format!("{A}---\n{B}"));
    assert_eq!(replace(&mut catalog, "1.yaml", B), ["apply b", "delete a", "problems 1.yaml"]);
}

#[test]
fn file_that_is_gone_takes_its_objects_along() {
    let mut catalog = Catalog::default();
    replace(&mut catalog, "1.yaml", A);
    assert_eq!(remove(&mut catalog, "1.yaml"), ["delete a", "problems 1.yaml"]);
    assert!(!catalog.has_objects("1.yaml"));
}

#[test]
fn object_that_no_longer_decodes_is_kept() {
    let mut catalog = Catalog::default();
    replace(&mut catalog, "1.yaml", &format!("{A}---\n{B}"));
    let told = replace(&mut catalog, "1.yaml", &format!("{BAD_A}---\n{B}"));
    assert!(!told.iter().any(|line| line.starts_with("delete")), "{told:?}");
    assert_eq!(replace(&mut catalog, "1.yaml", B), ["apply b", "delete a", "problems 1.yaml"]);
}

#[test]
fn broken_text_deletes_nothing() {
    let mut catalog = Catalog::default();
    replace(&mut catalog, "1.yaml", &format!("{A}---\n{B}"));
    let told = replace(&mut catalog, "1.yaml", "a: [\n");
    assert!(!told.iter().any(|line| line.starts_with("delete")), "{told:?}");
    assert!(catalog.has_objects("1.yaml"));
}

#[test]
fn unreadable_file_keeps_its_objects() {
    let mut catalog = Catalog::default();
    replace(&mut catalog, "1.yaml", A);
    assert_eq!(told(catalog.keep(&"1.yaml".into(), Vec::new())), ["problems 1.yaml"]);
    assert_eq!(remove(&mut catalog, "1.yaml"), ["delete a", "problems 1.yaml"]);
}

#[test]
fn first_file_wins_and_the_other_is_told() {
    let mut catalog = Catalog::default();
    replace(&mut catalog, "1.yaml", A);
    assert_eq!(replace(&mut catalog, "2.yaml", A), ["problems 2.yaml DuplicateObject"]);
}

#[test]
fn second_file_takes_over_when_the_first_lets_go() {
    let mut catalog = Catalog::default();
    replace(&mut catalog, "1.yaml", A);
    replace(&mut catalog, "2.yaml", A);
    assert_eq!(remove(&mut catalog, "1.yaml"), ["apply a", "problems 1.yaml", "problems 2.yaml"]);
    assert_eq!(remove(&mut catalog, "2.yaml"), ["delete a", "problems 2.yaml"]);
}

#[test]
fn file_that_sorts_first_takes_over_when_it_appears() {
    let mut catalog = Catalog::default();
    replace(&mut catalog, "2.yaml", A);
    assert_eq!(
        replace(&mut catalog, "1.yaml", A),
        ["apply a", "problems 1.yaml", "problems 2.yaml", "reread 2.yaml"]
    );
    assert_eq!(replace(&mut catalog, "2.yaml", A), ["problems 2.yaml DuplicateObject"]);
    assert_eq!(remove(&mut catalog, "1.yaml"), ["apply a", "problems 1.yaml", "problems 2.yaml"]);
}

#[test]
fn object_twice_in_one_file_is_told_and_the_first_kept() {
    let mut catalog = Catalog::default();
    let told = replace(&mut catalog, "1.yaml", &format!("{A}---\n{A}"));
    assert_eq!(told, ["apply a", "problems 1.yaml DuplicateObject"]);
}

const LISTENER: &str = "listeners: [{name: edge, address: '127.0.0.1:1'}]\n";
const BAD_LISTENER: &str =
    "listeners: [{name: edge, address: '127.0.0.1:1', tls: {clientVerify: require}}]\n";
const ROUTES: &str = "routes: []\n";

#[test]
fn a_listener_that_was_never_good_leaves_its_file_obscure_until_it_is_good_or_gone() {
    let mut catalog = Catalog::default();
    assert_eq!(replace(&mut catalog, "1.yaml", BAD_LISTENER)[0], "obscure 1.yaml");
    assert!(
        !replace(&mut catalog, "1.yaml", &format!("{BAD_LISTENER}# \n"))
            .iter()
            .any(|one| one.contains("obscure"))
    );
    assert!(replace(&mut catalog, "1.yaml", LISTENER).contains(&"known 1.yaml".to_owned()));
    // Its last good version is in force.
    for bad in [BAD_LISTENER, "listener: ['127.0.0.1:1']\nroutes: []\n", "listeners: [\n"] {
        assert!(!replace(&mut catalog, "1.yaml", bad).iter().any(|one| one.contains("obscure")), "{bad}");
    }
    replace(&mut catalog, "2.yaml", "listeners: [\n");
    assert!(remove(&mut catalog, "2.yaml").contains(&"known 2.yaml".to_owned()));
}

#[test]
fn a_file_that_breaks_later_is_no_reason_to_close_what_is_served() {
    let mut catalog = Catalog::default();
    replace(&mut catalog, "1.yaml", ROUTES);
    assert!(!replace(&mut catalog, "1.yaml", "routes: [\n").iter().any(|one| one.contains("obscure")));
    assert!(told(catalog.keep(&"1.yaml".into(), Vec::new())).iter().all(|one| !one.contains("obscure")));
    // But what is new in it would be served without what a misread listener asks.
    assert!(
        replace(&mut catalog, "1.yaml", &format!("{ROUTES}listner: []\n"))
            .contains(&"obscure 1.yaml".to_owned())
    );
    assert!(told(catalog.keep(&"2.yaml".into(), Vec::new())).contains(&"obscure 2.yaml".to_owned()));
}
