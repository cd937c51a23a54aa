//! What users may write, and what they are told when they write something else.
use super::{Finding, Reading, Who, read_directory};
use proptest::prelude::*;
use rstest::rstest;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

pub(crate) const SHOP: &str = "\
apiVersion: signet.dev/v1alpha1
kind: Workload
metadata: {name: orders-1, namespace: shop, labels: {app: orders}}
spec: {serviceAccount: orders, uid: orders-1, addresses: [10.77.0.2, 'fd77::2'], ports: [{name: http, port: 8080}]}
---
apiVersion: signet.dev/v1alpha1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {addresses: [10.96.0.10], selector: {app: orders}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: signet.dev/v1alpha1
kind: Posture
metadata: {name: default, namespace: shop}
spec: {inbound: audit, egress: {default: allow, exceptions: [{cidr: 10.0.0.0/8, ports: [443]}]}}
---
apiVersion: signet.dev/v1alpha1
kind: AllowRule
metadata: {name: orders-from-checkout, namespace: shop}
spec:
  target: {service: orders, ports: [8080]}
  from:
  - serviceAccount: checkout
";

fn read(text: &str) -> Reading {
    let mut reading = Reading::default();
    reading.add(&Arc::from("mesh.yaml"), text);
    reading.finish();
    reading
}

fn found(text: &str) -> Vec<String> {
    read(text).findings.iter().map(ToString::to_string).collect()
}

#[test]
fn reads_every_kind_of_document() {
    let reading = read(SHOP);
    assert_eq!(reading.findings, Vec::<Finding>::new());
    let documents = reading.documents;
    let counts = (documents.workloads.len(), documents.services.len(), documents.postures.len(), documents.rules.len());
    assert_eq!(counts, (1, 1, 1, 1));
    assert_eq!(documents.workloads[0].item.who, Who::ServiceAccount("orders".into()));
    assert_eq!(documents.workloads[0].place.line, 1);
    assert_eq!(documents.rules[0].place.line, 16);
}

/// A document with one field changed, the field it must be blamed on, its line, and what would be right.
#[rstest]
#[case::unknown_field("uid: orders-1", "uid: orders-1, tunelPort: 1", "spec.tunelPort", 4, "did you mean tunnelPort?")]
#[case::unknown_kind("kind: Workload", "kind: Deployment", "kind", 2, "Workload, Service, Posture or AllowRule")]
#[case::other_version("v1alpha1\nkind: Workload", "v1\nkind: Workload", "apiVersion", 1, "signet.dev/v1alpha1")]
#[case::no_uid("uid: orders-1, ", "", "spec.uid", 4, "signet token create --uid")]
#[case::bad_uid("uid: orders-1,", "uid: 'a b',", "spec.uid", 4, "1 to 64 characters")]
#[case::number_for_text("uid: orders-1,", "uid: 7,", "spec.uid", 4, "1 to 64 characters")]
#[case::no_address("addresses: [10.77.0.2, 'fd77::2']", "addresses: []", "spec.addresses", 4, "at least one address")]
#[case::bad_address("10.77.0.2,", "10.77.0.256,", "spec.addresses[0]", 4, "an address such as")]
#[case::mapped_address("'fd77::2'", "'::ffff:10.1.2.3'", "spec.addresses[1]", 4, "not loopback")]
#[case::loopback("10.77.0.2,", "127.0.0.1,", "spec.addresses[0]", 4, "not loopback")]
#[case::port_zero("port: 8080", "port: 0", "spec.ports[0].port", 4, "1 to 65535")]
#[case::port_too_big("port: 8080", "port: 65536", "spec.ports[0].port", 4, "1 to 65535")]
#[case::upper_case("name: orders-1,", "name: Orders,", "metadata.name", 3, "lower-case letters")]
#[case::path_in_account(
    "serviceAccount: orders",
    "serviceAccount: ../x",
    "spec.serviceAccount",
    4,
    "lower-case letters"
)]
#[case::identity_without_hbone(
    "serviceAccount: orders",
    "identity: 'spiffe://a/b'",
    "spec.identity",
    4,
    "serviceAccount"
)]
#[case::flag("uid: orders-1", "uid: orders-1, meshed: yes", "spec.meshed", 4, "true or false")]
#[case::label("labels: {app: orders}", "labels: {app: 1}", "metadata.labels.app", 3, "quote it")]
#[case::no_selector("selector: {app: orders}", "selector: {}", "spec.selector", 9, "the labels of the workloads")]
#[case::target_port(
    "targetPort: http",
    "targetPort: 'no such name at all'",
    "spec.ports[0].targetPort",
    9,
    "the name of one"
)]
#[case::f35_unknown_posture(
    "inbound: audit",
    "inbound: permissive",
    "spec.inbound",
    14,
    "allow, audit, authenticated or deny"
)]
#[case::f35_posture_as_boolean(
    "inbound: audit",
    "inbound: true",
    "spec.inbound",
    14,
    "allow, audit, authenticated or deny"
)]
#[case::egress_word("default: allow", "default: maybe", "spec.egress.default", 14, "allow or deny")]
#[case::host_bits("cidr: 10.0.0.0/8", "cidr: 10.0.0.1/8", "spec.egress.exceptions[0].cidr", 14, "without address bits")]
#[case::no_ports_is_not_all("ports: [443]", "ports: []", "spec.egress.exceptions[0].ports", 14, "leave `ports` out")]
#[case::rule("serviceAccount: checkout", "serviceAcount: checkout", "spec.from[0].serviceAcount", 22, "serviceAccount")]
fn names_the_place_of_every_mistake(
    #[case] good: &str,
    #[case] bad: &str,
    #[case] field: &str,
    #[case] line: u64,
    #[case] want: &str,
) {
    assert!(SHOP.contains(good), "the case does not fit the document");
    let reading = read(&SHOP.replacen(good, bad, 1));
    let finding = reading.findings.iter().find(|f| f.field == field);
    let finding = finding.unwrap_or_else(|| panic!("nothing about {field}: {:?}", reading.findings));
    assert_eq!(finding.place.line, line, "{finding}");
    assert!(finding.want.contains(want), "{finding}");
    assert!(!reading.is_good());
}

#[test]
fn reports_all_problems_of_all_documents_at_once() {
    let text = SHOP
        .replace("uid: orders-1,", "uid: 'a b', tunel: 1,")
        .replace("inbound: audit", "inbound: none")
        .replace("addresses: [10.96.0.10]", "addresses: [x]");
    let fields: Vec<String> = read(&text).findings.into_iter().map(|f| f.field).collect();
    assert_eq!(fields, ["spec.uid", "spec.tunel", "spec.addresses[0]", "spec.inbound"]);
}

#[test]
fn a_broken_document_does_not_hide_its_neighbours() {
    let text = format!("{}---\nkind: [\n---\n{}", "kind: Nothing\n", "kind: Nowhere\n");
    let lines: Vec<u64> = read(&text).findings.iter().map(|f| f.place.line).collect();
    assert_eq!(lines, [1, 3, 5], "{:?}", found(&text));
}

#[test]
fn a_marker_inside_a_block_scalar_is_not_mistaken_for_text() {
    // YAML 1.2.2, 9.1.2: a line that starts with --- ends the document wherever it stands.
    let text = "a: |\n  text\n---\nkind: Nowhere\n";
    assert_eq!(read(text).count, 2);
}

#[rstest]
#[case::twice("a: 1\na: 2\n")]
#[case::twice_as_number("1: a\n'1': b\n")]
#[case::merge("a: &x {b: 1}\nc: {<<: *x}\n")]
#[case::deep(&"[".repeat(200))]
#[case::tab("a:\n\t- b\n")]
#[case::huge_number("a: 340282366920938463463374607431768211456\n")]
fn refuses_yaml_that_could_be_read_in_two_ways(#[case] text: &str) {
    let reading = read(text);
    assert!(!reading.is_safe(), "{text:?} was read");
}

#[rstest]
#[case::aliases(
    "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f,*f]\n"
)]
fn refuses_documents_that_grow_when_read(#[case] text: &str) {
    assert!(found(text).iter().any(|f| f.contains("want a YAML document")), "{:?}", found(text));
}

#[rstest]
#[case::name("spec.addresses", &["orders-1", "other"], &["uid: orders-1", "uid: other"])]
#[case::address("metadata.name", &["10.77.0.2, 'fd77::2'", "10.77.0.3"], &["uid: orders-1", "uid: other"])]
#[case::uid("spec.uid", &["name: orders-1", "name: orders-2"], &["10.77.0.2, 'fd77::2'", "10.77.0.3"])]
fn duplicates_name_both_places(#[case] field: &str, #[case] first: &[&str; 2], #[case] second: &[&str; 2]) {
    let workload = SHOP.split("---").next().unwrap();
    let again = workload.replacen(first[0], first[1], 1).replacen(second[0], second[1], 1);
    let findings = read(&format!("{SHOP}---\n{again}")).findings;
    assert!(!findings.is_empty());
    for finding in findings {
        assert_eq!((finding.field.as_str(), finding.place.line), (field, 24), "{finding}");
        assert!(finding.found.ends_with("which Workload shop/orders-1 at mesh.yaml:1 has too"), "{finding}");
    }
}

#[test]
fn a_namespace_has_one_posture() {
    let posture = SHOP.split("---").nth(2).unwrap().replace("name: default", "name: another");
    let findings = found(&format!("{SHOP}---\n{posture}"));
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].contains("which Posture shop/default at"), "{findings:?}");
}

#[test]
fn an_address_belongs_to_one_document_of_any_kind() {
    let findings = found(&SHOP.replace("addresses: [10.96.0.10]", "addresses: [10.77.0.2]"));
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].contains("10.77.0.2, which Workload shop/orders-1 at mesh.yaml:1 has too"), "{findings:?}");
}

#[test]
fn hbone_peers_have_an_identity_and_no_uid() {
    let hbone = |spec: &str| {
        found(&format!(
            "apiVersion: signet.dev/v1alpha1\nkind: Workload\nmetadata: {{name: z, namespace: a}}\nspec: {{addresses: [10.0.0.1], hbone: true{spec}}}\n"
        ))
    };
    assert_eq!(hbone(", identity: 'spiffe://td/ns/a/sa/b'"), Vec::<String>::new());
    assert_eq!(hbone(", serviceAccount: b"), Vec::<String>::new());
    assert!(hbone(", serviceAccount: b, uid: x")[0].contains("spec.uid"), "an HBONE peer cannot prove a UID");
    assert!(hbone("")[0].contains("spec.serviceAccount"));
    assert!(hbone(", serviceAccount: b, meshed: false")[0].contains("spec.hbone"));
}

#[test]
fn f37_one_bad_network_refuses_the_whole_rule_which_still_guards() {
    let rule = "- unauthenticated: {cidrs: [10.0.0.0/8, 10.0.0.0/99]}";
    let reading = read(&SHOP.replace("- serviceAccount: checkout", rule));
    assert!(!reading.is_good() && reading.is_safe(), "{:?}", reading.findings);
    assert_eq!(reading.findings[0].field, "spec.from[0].unauthenticated.cidrs[1]");
    assert_eq!(reading.documents.rules.len(), 1);
    assert!(reading.documents.rules[0].item.refused().is_some());
}

#[test]
fn what_is_wrong_is_shown_on_one_line_without_control_characters() {
    let findings = found("kind: \"x\\r\\n\\e[31mroot\"\n");
    assert_eq!(findings.len(), 1);
    assert!(findings[0].chars().all(|c| !c.is_control()), "{findings:?}");
}

mod directory {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    #[test]
    fn reads_many_files_by_name_with_two_digits_too() {
        let parts: Vec<&str> = SHOP.split("---\n").collect();
        let mut files = Vec::new();
        for number in 1..=12 {
            let workload = parts[0]
                .replace("orders-1", &format!("orders-{number}"))
                .replace("10.77.0.2, 'fd77::2'", &format!("10.77.1.{number}"));
            files.push((format!("{number}-orders.yaml"), workload));
        }
        let files: Vec<(&str, &str)> = files.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
        let directory = directory(&files);
        let read = read_directory(directory.path());
        assert_eq!(read.reading.findings, []);
        assert_eq!(read.reading.documents.workloads.len(), 12);
        assert!(read.newest > 1_700_000_000_000_000);
    }

    #[test]
    fn leaves_out_what_is_hidden_and_what_is_not_yaml() {
        let directory = directory(&[("a.yml", SHOP), (".b.yaml", "["), ("c.txt", "["), ("d.yaml~", "[")]);
        let read = read_directory(directory.path());
        assert_eq!((read.reading.findings.len(), read.reading.count), (0, 4));
    }

    #[rstest]
    #[case::empty("")]
    #[case::not_text("\u{0}[")]
    fn refuses_a_file_that_is_being_written(#[case] text: &str) {
        let directory = directory(&[("a.yaml", SHOP), ("b.yaml", text)]);
        assert!(!read_directory(directory.path()).reading.is_safe());
    }

    #[test]
    fn refuses_an_empty_and_a_missing_directory() {
        let directory = directory(&[]);
        assert!(!read_directory(directory.path()).reading.is_safe());
        assert!(!read_directory(&directory.path().join("none")).reading.is_safe());
    }

    #[test]
    fn accepts_a_mesh_without_documents_that_was_meant() {
        let directory = directory(&[("a.yaml", "# nothing yet\n")]);
        assert!(read_directory(directory.path()).reading.is_good());
    }

    #[test]
    fn refuses_a_file_that_anybody_may_write_with_the_chmod_that_mends_it() {
        let directory = directory(&[("a.yaml", SHOP)]);
        let path = directory.path().join("a.yaml");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let reading = read_directory(directory.path()).reading;
        assert_eq!(reading.findings[0].want, format!("chmod o-w {}", path.display()));
    }

    #[test]
    fn a_pipe_does_not_stop_it() {
        let directory = directory(&[("a.yaml", SHOP)]);
        let made = std::process::Command::new("mkfifo").arg(directory.path().join("p.yaml")).status();
        assert!(made.is_ok_and(|status| status.success()));
        let reading = read_directory(directory.path()).reading;
        assert!(reading.findings[0].found.contains("no regular file"), "{:?}", reading.findings);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// F20: any text at all ends in findings, never in a panic.
    #[test]
    fn f20_any_text_is_read_or_refused(text in "(?s).{0,400}") {
        read(&text);
    }

    /// F20: as close to the real thing as a slip of the hand.
    #[test]
    fn f20_any_damage_to_a_good_file_is_read_or_refused(at in 0..SHOP.len(), cut in 0..20_usize, put in "(?s).{0,6}") {
        let mut damaged = SHOP.to_owned();
        let end = (at + cut).min(SHOP.len());
        damaged.replace_range(at..end, &put);
        let reading = read(&damaged);
        // Whatever it was: a reading without findings has only documents that could stand in a good file.
        if reading.is_good() {
            prop_assert!(reading.documents.rules.iter().all(|rule| rule.item.refused().is_none()));
        }
    }
}
