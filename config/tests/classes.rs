//! Which Ingresses are ours: classes by field, by annotation, by default, and none at all.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure is a failed test")]

mod common;

use common::{compile_with, get, route};
use config::compile::{ClassSettings, Classless, Compiler, Settings};
use config::index::{Change, Event, Index};
use config::report::{Kind, ObjectRef};

const OURS: &str = "sluicegate.dev/ingress-controller";
const NGINX: &str = "k8s.io/ingress-nginx";

fn class(name: &str, controller: &str, is_default: bool) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {{name: {name}, annotations: \
         {{ingressclass.kubernetes.io/is-default-class: \"{is_default}\"}}}}, spec: {{controller: {controller}}}}}\n---\n"
    )
}

/// An Ingress for `a.test`; both classes are left out if empty.
fn ingress(field: &str, annotation: &str) -> String {
    let field = if field.is_empty() { String::new() } else { format!("ingressClassName: {field}, ") };
    let annotation = if annotation.is_empty() {
        String::new()
    } else {
        format!(", annotations: {{kubernetes.io/ingress.class: {annotation}}}")
    };
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: i{annotation}}}, spec: {{{field}rules: \
         [{{host: a.test, http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: s, port: {{number: \
         80}}}}}}}}]}}}}]}}}}\n---\n{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {{type: ExternalName, \
         externalName: a.example}}}}\n"
    )
}

fn with(classes: ClassSettings) -> Settings {
    Settings { classes, ..Settings::default() }
}

fn in_a_cluster() -> ClassSettings {
    ClassSettings { classless: Classless::IfDefault, ..ClassSettings::default() }
}

/// Whether the Ingress is served, and `object reason` of each problem.
fn judge(classes: ClassSettings, text: &str) -> (bool, Vec<String>) {
    let (table, report) = compile_with(with(classes), text);
    let told = report.problems.iter().map(|problem| format!("{} {}", problem.object, problem.reason));
    (route(&table, &get("a.test", "/")) == "default/s:80", told.collect())
}

fn is_served(classes: ClassSettings, text: &str) -> bool {
    judge(classes, text).0
}

#[test]
fn the_controller_of_the_class_decides() {
    for (controller, expected) in [(OURS, true), (NGINX, false), ("sluicegate.dev/other", false)] {
        for ingress in [ingress("gate", ""), ingress("", "gate")] {
            let (served, told) =
                judge(ClassSettings::default(), &(class("gate", controller, false) + &ingress));
            assert_eq!(served, expected, "{controller}");
            assert!(told.is_empty(), "{told:?}");
        }
    }
}

#[test]
fn one_flag_takes_the_classes_of_another_controller_over() {
    let settings = ClassSettings { controller: NGINX.into(), ..in_a_cluster() };
    let classes = class("nginx", NGINX, false) + &class("sluice", OURS, false);
    assert!(is_served(settings.clone(), &(classes.clone() + &ingress("nginx", ""))));
    assert!(is_served(settings.clone(), &(classes.clone() + &ingress("", "nginx"))));
    // What was ours is another's then.
    assert!(!is_served(settings.clone(), &(classes + &ingress("sluice", ""))));
    // Whoever took the class away with its former owner's installation names it by its name.
    let by_name = ClassSettings { name: "nginx".into(), ..settings };
    for ingress in [ingress("nginx", ""), ingress("", "nginx")] {
        assert!(is_served(by_name.clone(), &ingress));
    }
}

#[test]
fn our_name_is_ours_where_no_class_says_otherwise() {
    let named = ClassSettings { name: "edge".into(), ..in_a_cluster() };
    for ingress in [ingress("edge", ""), ingress("", "edge")] {
        assert!(is_served(named.clone(), &ingress));
        assert!(is_served(named.clone(), &(class("other", NGINX, true) + &ingress)));
        assert!(is_served(named.clone(), &(class("edge", OURS, false) + &ingress)));
        let (served, told) = judge(named.clone(), &(class("edge", NGINX, false) + &ingress));
        assert!(!served);
        assert_eq!(told, ["IngressClass edge ForeignController"]);
    }
    // The name that is ours by default is not, once there is another.
    assert!(!is_served(named, &ingress("", "sluicegate")));
}

#[test]
fn a_class_that_does_not_exist_is_told_for_the_field_and_not_for_the_annotation() {
    let (served, told) = judge(in_a_cluster(), &ingress("nosuch", ""));
    assert!(!served);
    assert_eq!(told, ["Ingress default/i ClassNotFound"]);
    let (served, told) = judge(in_a_cluster(), &ingress("", "nosuch"));
    assert!(!served && told.is_empty(), "{told:?}");
}

#[test]
fn the_field_goes_before_the_annotation() {
    let classes = class("gate", OURS, false) + &class("nginx", NGINX, false);
    let (served, told) = judge(in_a_cluster(), &(classes.clone() + &ingress("gate", "nginx")));
    assert!(served);
    assert_eq!(told, ["Ingress default/i IgnoredAnnotation"]);
    let (served, told) = judge(in_a_cluster(), &(classes.clone() + &ingress("nginx", "gate")));
    assert!(!served && told.is_empty(), "{told:?}");
    let (served, told) = judge(in_a_cluster(), &(classes + &ingress("gate", "gate")));
    assert!(served && told.is_empty(), "{told:?}");
}

#[test]
fn empty_classes_are_none() {
    let text = ingress("\"\"", "");
    assert!(is_served(in_a_cluster(), &(class("gate", OURS, true) + &text)));
    let text = ingress("", "\"\"");
    assert!(is_served(in_a_cluster(), &(class("gate", OURS, true) + &text)));
    assert!(!is_served(in_a_cluster(), &(class("gate", OURS, false) + &text)));
}

#[test]
fn without_a_class_the_default_one_decides() {
    let none = ingress("", "");
    let cases = [
        // classes, in files, in a cluster, when told to
        (String::new(), true, false, true),
        (class("gate", OURS, false), false, false, true),
        (class("gate", OURS, true), true, true, true),
        (class("nginx", NGINX, false), false, false, true),
        (class("nginx", NGINX, true), false, false, true),
        (class("gate", OURS, true) + &class("nginx", NGINX, false), true, true, true),
        (class("gate", OURS, false) + &class("nginx", NGINX, true), false, false, true),
    ];
    for (classes, in_files, in_cluster, when_told) in cases {
        let text = classes.clone() + &none;
        let outcome = |classless| is_served(ClassSettings { classless, ..ClassSettings::default() }, &text);
        assert_eq!(outcome(Classless::IfAlone), in_files, "files: {classes}");
        assert_eq!(outcome(Classless::IfDefault), in_cluster, "cluster: {classes}");
        assert_eq!(outcome(Classless::Always), when_told, "always: {classes}");
    }
}

#[test]
fn in_a_cluster_nothing_is_taken_for_ours_because_there_is_no_class() {
    let (served, told) = judge(in_a_cluster(), &ingress("", ""));
    assert!(!served);
    assert_eq!(told, ["Ingress default/i NoClass"]);
    // Where others have classes, and we have none, it is theirs to tell.
    let (_, told) = judge(in_a_cluster(), &(class("nginx", NGINX, false) + &ingress("", "")));
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn k54_two_default_classes_refuse_what_has_no_class_and_say_so() {
    let none = ingress("", "");
    let both = class("gate", OURS, true) + &class("nginx", NGINX, true);
    for classless in [Classless::IfAlone, Classless::IfDefault] {
        let settings = ClassSettings { classless, ..ClassSettings::default() };
        let (served, told) = judge(settings.clone(), &(both.clone() + &none));
        assert!(!served);
        assert_eq!(
            told,
            ["Ingress default/i SeveralDefaultClasses", "IngressClass gate SeveralDefaultClasses"]
        );
        // Both ours is no better: which of them was meant, nobody can know.
        let (served, told) =
            judge(settings.clone(), &(class("gate", OURS, true) + &class("edge", OURS, true) + &none));
        assert!(!served);
        assert_eq!(told.len(), 3, "{told:?}");
        // Others' quarrels are theirs.
        let others = class("a", NGINX, true) + &class("b", "x/y", true) + &class("gate", OURS, false);
        let (served, told) = judge(settings, &(others + &none));
        assert!(!served);
        assert_eq!(told, ["Ingress default/i NoClass"]);
    }
    // What has a class is served as ever.
    assert!(is_served(in_a_cluster(), &(both.clone() + &ingress("gate", ""))));
    let always = ClassSettings { classless: Classless::Always, ..ClassSettings::default() };
    let (served, told) = judge(always, &(both + &none));
    assert!(served && told.is_empty(), "{told:?}");
}

#[test]
fn parameters_of_our_class_are_told_to_have_no_effect() {
    let with_parameters = |controller: &str| {
        class("gate", controller, false).replace(
            &format!("controller: {controller}"),
            &format!("controller: {controller}, parameters: {{apiGroup: x.example, kind: Y, name: z}}"),
        )
    };
    let (served, told) = judge(in_a_cluster(), &(with_parameters(OURS) + &ingress("gate", "")));
    assert!(served);
    assert_eq!(told, ["IngressClass gate Unsupported"]);
    let (_, told) = judge(in_a_cluster(), &with_parameters(NGINX));
    assert!(told.is_empty(), "{told:?}");
}

/// Applies `text` and compiles; returns what became of claims, and whether the Ingress is served.
fn step(index: &mut Index, compiler: &mut Compiler, text: &str) -> (Vec<(String, bool)>, bool) {
    let change = common::apply(index, "f.yaml", text);
    outcome(index, compiler, &change)
}

fn outcome(index: &Index, compiler: &mut Compiler, change: &Change) -> (Vec<(String, bool)>, bool) {
    let (table, _) = compiler.compile(index, change, common::NOW);
    let claims = compiler.take_claims().into_iter().map(|(object, ours)| (object.to_string(), ours));
    (claims.collect(), route(&table, &get("a.test", "/")) == "default/s:80")
}

fn reference(kind: Kind, name: &str) -> ObjectRef {
    let namespace = if kind == Kind::IngressClass { "" } else { "default" };
    ObjectRef { kind, namespace: namespace.into(), name: name.into() }
}

#[test]
fn k53_a_class_that_becomes_anothers_takes_its_ingresses_along_and_claims_say_so() {
    let mut index = Index::new();
    let mut compiler = Compiler::new(with(in_a_cluster()));
    let claimed = vec![("Ingress default/i".to_owned(), true)];
    let left = vec![("Ingress default/i".to_owned(), false)];
    assert_eq!(step(&mut index, &mut compiler, &ingress("gate", "")), (vec![], false));
    assert_eq!(step(&mut index, &mut compiler, &class("gate", OURS, false)), (claimed.clone(), true));
    // The same again is no news.
    assert_eq!(step(&mut index, &mut compiler, &class("gate", OURS, true)), (vec![], true));
    assert_eq!(step(&mut index, &mut compiler, &class("gate", NGINX, false)), (left.clone(), false));
    assert_eq!(step(&mut index, &mut compiler, &class("gate", OURS, false)), (claimed.clone(), true));
    let change = index.apply(Event::Delete(reference(Kind::IngressClass, "gate")));
    assert_eq!(outcome(&index, &mut compiler, &change), (left.clone(), false));
    assert_eq!(step(&mut index, &mut compiler, &class("gate", OURS, false)), (claimed, true));
    // The Ingress itself goes to another class, or goes.
    assert_eq!(step(&mut index, &mut compiler, &ingress("nginx", "")), (left.clone(), false));
    step(&mut index, &mut compiler, &ingress("gate", ""));
    let change = index.apply(Event::Delete(reference(Kind::Ingress, "i")));
    assert_eq!(outcome(&index, &mut compiler, &change), (left, false));
}

#[test]
fn what_was_said_of_a_class_is_taken_back_when_it_goes_or_gets_right() {
    let mut index = Index::new();
    let mut compiler = Compiler::new(with(in_a_cluster()));
    common::apply(&mut index, "f.yaml", &(class("gate", OURS, true) + &class("edge", OURS, true)));
    let (_, report) = compiler.compile(&index, &Change::default(), common::NOW);
    assert_eq!(report.problems.len(), 2);
    let change = index.apply(Event::Delete(reference(Kind::IngressClass, "edge")));
    let (_, report) = compiler.compile(&index, &change, common::NOW);
    assert!(report.problems.is_empty(), "{report:?}");
}
