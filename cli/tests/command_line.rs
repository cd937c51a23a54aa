//! The command line as users call it: what it prints, and what it ends with.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be made ends the test")]
use serde_json::Value;
use signet_identity::testing::{Authority, leaf_params, now};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn signet(arguments: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_signet")).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

const MESH: &str = "\
apiVersion: signet.dev/v1alpha1
kind: Workload
metadata: {name: orders-1, namespace: shop, labels: {app: orders}}
spec: {serviceAccount: orders, uid: orders-1, addresses: [10.77.0.2], ports: [{name: http, port: 8080}]}
---
apiVersion: signet.dev/v1alpha1
kind: AllowRule
metadata: {name: orders-from-checkout, namespace: shop}
spec:
  target: {podSelector: {matchLabels: {app: orders}}, ports: [http]}
  from:
  - serviceAccount: checkout
  - unauthenticated: {cidrs: [10.20.0.0/16]}
";

fn mesh(text: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mesh.yaml");
    fs::write(&path, text).unwrap();
    (directory, path)
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn every_help_text_has_an_example() {
    for command in [
        &[][..],
        &["rules", "check"],
        &["rules", "explain"],
        &["token", "create"],
        &["token", "list"],
        &["token", "revoke"],
        &["inspect"],
        &["check"],
        &["identity"],
        &["edges"],
        &["demo"],
        &["completion"],
    ] {
        let said = signet(&[command, &["--help"]].concat());
        assert!(said.code == Some(0) && said.out.contains("Example:\n"), "{command:?} has no example");
    }
}

#[test]
fn a_completion_script_names_the_commands() {
    let said = signet(&["completion", "bash"]);
    assert_eq!(said.code, Some(0));
    assert!(said.out.contains("explain") && said.out.contains("inspect"));
}

/// A link to the program under another name, as users make it on their PATH.
fn linked(name: &str, arguments: &[&str]) -> Said {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_signet"), &path).unwrap();
    let output = Command::new(&path).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[test]
fn as_kubectl_s_plugin_it_is_called_kubectl_signet() {
    let said = linked("kubectl-signet", &["check", "--help"]);
    assert!(said.code == Some(0) && said.out.contains("Usage: kubectl signet check"), "{}", said.out);
    let said = linked("kubectl-signet", &["check", "--kubeconfig", "/nowhere"]);
    assert!(said.code == Some(2) && said.err.starts_with("kubectl signet: kubeconfig /nowhere"), "{}", said.err);
    assert!(signet(&["check", "--help"]).out.contains("Usage: signet check"));
}

#[test]
fn kubectl_s_completion_is_offered_commands_and_flags() {
    let commands = linked("kubectl_complete-signet", &["ch"]).out;
    assert!(
        commands.starts_with("check\t") && commands.ends_with(":4\n") && commands.lines().count() == 2,
        "{commands}"
    );
    let flags = linked("kubectl_complete-signet", &["check", "--control"]).out;
    assert_eq!(flags, "--control-namespace\n:4\n");
    assert!(linked("kubectl_complete-signet", &["rules", ""]).out.contains("explain\t"));
}

#[test]
fn without_a_cluster_the_commands_that_need_one_end_with_2_and_say_so() {
    let directory = tempfile::tempdir().unwrap();
    let broken = directory.path().join("broken");
    fs::write(&broken, "not: [a kubeconfig").unwrap();
    // A port that nobody listens on.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = directory.path().join("nobody");
    let text = format!(
        "{{apiVersion: v1, kind: Config, current-context: c, clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}'}}}}], \
         users: [{{name: u, user: {{}}}}], contexts: [{{name: c, context: {{cluster: c, user: u}}}}]}}"
    );
    fs::write(&nobody, text).unwrap();
    for command in [&["check"][..], &["edges"], &["identity", "orders"]] {
        for file in [&broken, &nobody, &directory.path().join("missing")] {
            let said = signet(&[command, &["--kubeconfig", shown(file)]].concat());
            assert!(
                said.code == Some(2) && said.out.is_empty() && !said.err.is_empty(),
                "{command:?} {file:?}: {}",
                said.err
            );
        }
        let said = signet(&[command, &["--kubeconfig", shown(&nobody), "--context", "other"]].concat());
        assert!(said.code == Some(2) && said.err.contains("other"), "{command:?}: {}", said.err);
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    for wrong in [&["rules", "check"][..], &["rules", "explain", "--from", "x"], &["inspect"], &["nothing"]] {
        assert_eq!(signet(wrong).code, Some(2), "{wrong:?}");
    }
}

mod check {
    use super::*;

    #[test]
    fn good_files_end_with_0() {
        let (directory, path) = mesh(MESH);
        for what in [shown(&path), shown(directory.path())] {
            let said = signet(&["rules", "check", what]);
            assert_eq!((said.code, said.out.trim()), (Some(0), "2 documents in 1 file: all well"));
        }
    }

    #[test]
    fn problems_end_with_1_and_name_file_line_field_found_and_want() {
        let (_directory, path) =
            mesh(&MESH.replace("uid: orders-1", "uid: 'a b'").replace("serviceAccount: checkout", "serviceAcount: x"));
        let said = signet(&["rules", "check", shown(&path)]);
        assert_eq!(said.code, Some(1));
        let lines: Vec<&str> = said.out.lines().collect();
        let first = format!("{}:4: Workload shop/orders-1: spec.uid: found \"a b\", want ", path.display());
        assert!(lines[0].starts_with(&first), "{lines:?}");
        assert!(
            lines[1].starts_with(&format!("{}:12: AllowRule shop/orders-from-checkout: spec.from[0]", path.display())),
            "{lines:?}"
        );
    }

    #[test]
    fn as_json_for_machines() {
        let (_directory, path) = mesh(&MESH.replace("uid: orders-1", "uid: 'a b'"));
        let said = signet(&["rules", "check", "-o", "json", shown(&path)]);
        let report: Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!(said.code, Some(1));
        assert_eq!((&report["files"], &report["documents"]), (&1.into(), &2.into()));
        let problem = &report["problems"][0];
        assert_eq!((&problem["field"], &problem["line"]), (&"spec.uid".into(), &4.into()));
        assert!(problem["found"].is_string() && problem["want"].is_string() && problem["file"].is_string());
    }

    #[test]
    fn a_rule_without_a_namespace_is_taken_with_the_one_that_is_given_as_kubectl_takes_it() {
        let (_directory, path) = mesh(
            "apiVersion: signet.dev/v1alpha1\nkind: AllowRule\nmetadata: {name: a}\n\
             spec: {target: {all: true}, from: [{serviceAccount: b}]}\n",
        );
        let said = signet(&["rules", "check", shown(&path)]);
        assert!(said.code == Some(1) && said.out.contains("metadata.namespace"), "{}", said.out);
        let said = signet(&["rules", "check", "-n", "shop", shown(&path)]);
        assert_eq!(said.code, Some(0), "{}", said.out);
        // One that is no namespace is refused as if it stood in the file.
        let said = signet(&["rules", "check", "--namespace", "Shop", shown(&path)]);
        assert!(said.code == Some(1) && said.out.contains("metadata.namespace"), "{}", said.out);
        // It is a default: what stands in the file stays.
        let (_directory, path) = mesh(MESH);
        assert_eq!(signet(&["rules", "check", "-n", "elsewhere", shown(&path)]).code, Some(0));
    }

    #[test]
    fn what_cannot_be_read_ends_with_2_and_the_rest_is_checked() {
        let (directory, path) = mesh(&MESH.replace("uid: orders-1", "uid: 'a b'"));
        let said = signet(&["rules", "check", shown(&directory.path().join("none.yaml")), shown(&path)]);
        assert_eq!(said.code, Some(2));
        assert!(said.err.contains("none.yaml") && said.out.contains("spec.uid"), "{}{}", said.out, said.err);
    }
}

mod explain {
    use super::*;

    fn explain(text: &str, from: &str, more: &[&str]) -> Said {
        let (directory, _) = mesh(text);
        let base = ["rules", "explain", "--from", from, "--to", "shop/orders-1", "--files", shown(directory.path())];
        signet(&[&base[..], more].concat())
    }

    #[test]
    fn who_is_admitted_ends_with_0_and_names_the_rule() {
        let said = explain(MESH, "shop/checkout", &["--port", "http"]);
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert!(
            said.out.contains("verdict   allow") && said.out.contains("shop/orders-from-checkout (decided)"),
            "{}",
            said.out
        );
    }

    #[test]
    fn who_is_refused_ends_with_1_and_hears_what_differed() {
        let said = explain(MESH, "shop/cart", &["--port", "8080"]);
        assert_eq!(said.code, Some(1));
        for part in
            ["verdict   deny", "no_rule_matched", "(came closest)", "wants service account checkout, caller is cart"]
        {
            assert!(said.out.contains(part), "{part} is missing: {}", said.out);
        }
    }

    #[test]
    fn plaintext_is_a_caller_by_address() {
        let plaintext = |address: &str| explain(MESH, &format!("plaintext:{address}"), &["--port", "8080"]).code;
        assert_eq!((plaintext("10.20.3.4"), plaintext("10.21.3.4")), (Some(0), Some(1)));
    }

    #[test]
    fn a_foreign_caller_is_not_taken_for_the_meshs_own() {
        let more = ["--port", "8080", "--trust-domain", "mesh.example"];
        assert_eq!(explain(MESH, "spiffe://partner.example/ns/shop/sa/checkout", &more).code, Some(1));
    }

    #[test]
    fn the_trust_domain_is_never_taken_from_the_caller() {
        let whole = "spiffe://partner.example/ns/shop/sa/checkout";
        let said = explain(MESH, whole, &["--port", "8080"]);
        assert_eq!(said.code, Some(2), "{}", said.out);
        assert!(said.err.contains("--trust-domain") && said.err.contains("--from shop/checkout"), "{}", said.err);
        let own = ["--port", "8080", "--trust-domain", "partner.example"];
        assert_eq!(explain(MESH, whole, &own).code, Some(0));
        // A rule that names whole identities cannot be judged without it.
        let named = MESH.replace("- serviceAccount: checkout", &format!("- identity: {whole}"));
        let said = explain(&named, "shop/checkout", &["--port", "8080"]);
        assert!(
            said.code == Some(2) && said.err.contains("shop/orders-from-checkout names whole identities"),
            "{}",
            said.err
        );
        assert_eq!(explain(&named, "shop/checkout", &own).code, Some(0));
        let other = ["--port", "8080", "--trust-domain", "mesh.example"];
        assert_eq!(explain(&named, "shop/checkout", &other).code, Some(1));
    }

    #[test]
    fn as_json_for_machines() {
        let said = explain(MESH, "shop/cart", &["--port", "8080", "-o", "json"]);
        let answer: Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!((&answer["verdict"], &answer["reason"]), (&"deny".into(), &"no_rule_matched".into()));
        assert_eq!(answer["rule"], "shop/orders-from-checkout");
    }

    #[test]
    fn an_unguarded_port_follows_the_posture_and_shows_the_shadow() {
        let said = explain(MESH, "shop/cart", &["--port", "22"]);
        assert_eq!(said.code, Some(0));
        assert!(said.out.contains("posture_audit") && said.out.contains("shadow    deny"), "{}", said.out);
        let denied = explain(MESH, "shop/cart", &["--port", "22", "--default-posture", "deny"]);
        assert_eq!(denied.code, Some(1));
    }

    #[test]
    fn when_nothing_can_be_said_it_ends_with_2() {
        let from = "shop/cart";
        assert_eq!(explain(&MESH.replace("uid: orders-1", "uid: 'a b'"), from, &["--port", "1"]).code, Some(2));
        assert_eq!(explain(MESH, from, &["--port", "no-such-port"]).code, Some(2));
        let unknown = explain(&MESH.replace("orders-1", "orders-2"), from, &["--port", "1"]);
        assert_eq!(unknown.code, Some(2));
        assert!(unknown.err.contains("there are: shop/orders-2"), "{}", unknown.err);
    }

    #[test]
    fn a_refused_rule_guards_as_it_does_when_the_operator_starts() {
        let said = explain(&MESH.replace("10.20.0.0/16", "10.20.0.0/99"), "shop/checkout", &["--port", "8080"]);
        assert_eq!(said.code, Some(1));
        assert!(
            said.out.contains("guarded_by_unusable_rule") && said.err.contains("cidrs"),
            "{}{}",
            said.out,
            said.err
        );
    }
}

mod inspect {
    use super::*;

    fn pem(chain: &[impl AsRef<[u8]>]) -> String {
        let roots = chain.iter().map(|der| der.as_ref().to_vec().into()).collect();
        signet_identity::Bundle { roots }.to_pem()
    }

    fn file(name: &str, text: &str) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        (directory, path)
    }

    #[test]
    fn a_good_svid_ends_with_0_and_shows_identity_uid_validity_and_usages() {
        let authority = Authority::new("mesh.example");
        let svid = authority.svid(&authority.id("shop", "orders"), Some("orders-1"));
        let (_directory, path) = file("svid.pem", &pem(svid.chain()));
        let said = signet(&["inspect", shown(&path)]);
        assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
        for part in [
            "certificate 1 (leaf)",
            "spiffe://mesh.example/ns/shop/sa/orders",
            "uid       orders-1",
            " left",
            "digitalSignature, serverAuth, clientAuth",
            "certificate 2 (issuing CA)",
            "problems  none",
        ] {
            assert!(said.out.contains(part), "{part:?} is missing:\n{}", said.out);
        }
    }

    #[test]
    fn an_ended_or_wrong_certificate_ends_with_1_and_says_why() {
        let authority = Authority::new("mesh.example");
        let id = authority.id("shop", "orders");
        let (ended, _) = authority.issue(&leaf_params(&id, None, &(now() - 100..now() - 50)));
        let mut params = leaf_params(&id, None, &(now() - 100..now() + 1000));
        params.extended_key_usages.pop();
        let (wrong, _) = authority.issue(&params);
        for (chain, why) in [(ended, "it has ended"), (wrong, "clientAuth")] {
            let (_directory, path) = file("svid.pem", &pem(&chain));
            let said = signet(&["inspect", "-o", "json", shown(&path)]);
            let shown: Value = serde_json::from_str(&said.out).unwrap();
            assert_eq!(said.code, Some(1));
            assert!(shown["certificates"][0]["problems"].to_string().contains(why), "{why}: {shown}");
        }
    }

    #[test]
    fn a_private_key_is_never_shown() {
        let authority = Authority::new("mesh.example");
        let (chain, key) = authority.issue(&leaf_params(&authority.id("a", "b"), None, &(now() - 100..now() + 1000)));
        let secret = key.to_pem();
        let (_directory, path) = file("both.pem", &format!("{}{}", *secret, pem(&chain)));
        let said = signet(&["inspect", shown(&path)]);
        assert!(said.err.contains("private key") && !said.out.contains("PRIVATE"), "{}", said.out);
        let line = secret.lines().nth(1).unwrap().to_owned();
        assert!(!said.out.contains(&line) && !said.err.contains(&line));
    }

    #[test]
    fn a_spiffe_bundle_is_read_too() {
        let (_directory, path) = file("bundle.json", &Authority::new("mesh.example").bundle().to_spiffe_json(7, 300));
        let said = signet(&["inspect", shown(&path)]);
        assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
        assert!(said.out.contains("root 1 (root)") && said.err.contains("sequence 7"), "{}{}", said.out, said.err);
    }

    #[test]
    fn a_running_sidecar_is_asked_for_its_certificates() {
        let authority = Authority::new("mesh.example");
        let svid = authority.svid(&authority.id("shop", "orders"), Some("orders-1"));
        let roots = [serde_json::json!({"trust_domain": "mesh.example", "roots_pem": authority.bundle().to_pem()})];
        let body =
            serde_json::json!({"svid": {"chain_pem": pem(svid.chain())}, "trust": {"sequence": 9, "bundles": roots}});
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap();
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{body}").unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let said = signet(&["inspect", &url]);
        assert!(server.join().unwrap().starts_with("GET /certificates HTTP/1.0\r\n"));
        assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
        assert!(
            said.out.contains("svid 1 (leaf)") && said.out.contains("root of mesh.example 1 (root)"),
            "{}",
            said.out
        );
    }

    #[test]
    fn what_is_no_certificate_ends_with_2() {
        for text in ["", "hello", "{}", "{\"keys\":[]}", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"]
        {
            let (_directory, path) = file("x", text);
            assert_eq!(signet(&["inspect", shown(&path)]).code, Some(2), "{text:?}");
        }
    }
}
