//! `signet check`, `identity` and `edges` as users call them, against a real API server with the chart in it. No node runs there:
//! what controllers and kubelets would write, the test writes, and what only a running pod can answer stays unanswered.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be made ends the test")]
use serde_json::{Value, json};
use signet::demo::process::wait_for;
use signet_apiserver::{ApiServer, PodOptions, make_pod, make_service_account, set_status, token};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const SIDECAR: &str = concat!("signet/signet-sidecar:", env!("CARGO_PKG_VERSION"));

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(program: &Path, arguments: &[&str], input: &str) -> Said {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn signet(kubeconfig: &Path, arguments: &[&str]) -> Said {
    let file = ["--kubeconfig", kubeconfig.to_str().unwrap()];
    run(Path::new(env!("CARGO_BIN_EXE_signet")), &[arguments, &file].concat(), "")
}

/// An API server with a mesh in the namespace `mesh`, or without one.
struct World {
    server: ApiServer,
    bin: PathBuf,
}

impl World {
    async fn start() -> Option<Self> {
        let bin = signet_apiserver::programs()?;
        Some(Self { server: ApiServer::start().await?, bin })
    }

    #[track_caller]
    fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        let kubeconfig = self.server.kubeconfig();
        let file = ["--kubeconfig", kubeconfig.to_str().unwrap()];
        let said = run(&self.bin.join("kubectl"), &[&file[..], arguments].concat(), input);
        assert_eq!(said.code, Some(0), "{arguments:?}: {}", said.err);
        said.out
    }

    #[track_caller]
    fn apply(&self, object: &Value) {
        self.kubectl(&["apply", "-f", "-"], &object.to_string());
    }

    #[track_caller]
    fn status(&self, what: &[&str], status: &Value) {
        let patch = json!({"status": status}).to_string();
        self.kubectl(&[&["patch", "--subresource=status", "--type=merge", "-p", &patch], what].concat(), "");
    }

    /// What `signet check -o json` says, and its exit code.
    #[track_caller]
    fn check(&self, arguments: &[&str]) -> (i32, Value) {
        let said = signet(&self.server.kubeconfig(), &[&["check", "-o", "json"], arguments].concat());
        (
            said.code.unwrap(),
            serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {} {}", said.out, said.err)),
        )
    }

    /// Installs the chart, and writes what controllers, kubelets, CA and operator would.
    async fn install(&self) {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/signet");
        let (home, kubeconfig) = (tempfile::tempdir().unwrap(), self.server.kubeconfig());
        let helm = Command::new(self.bin.join("helm"))
            .args(["install", "signet", chart.to_str().unwrap(), "-n", "mesh", "--create-namespace"])
            .args(["--set", "trustDomain=mesh.example", "--kubeconfig", kubeconfig.to_str().unwrap()])
            .env("HOME", home.path())
            .output()
            .unwrap();
        assert!(helm.status.success(), "{}", String::from_utf8_lossy(&helm.stderr));
        let authority = signet_identity::testing::Authority::new("mesh.example");
        let pem = authority.bundle().to_pem();
        for program in ["signet-ca", "signet-operator"] {
            let status = json!({"replicas": 2, "readyReplicas": 2, "availableReplicas": 2});
            self.status(&["-n", "mesh", "deployment", program], &status);
        }
        for service in ["signet-ca", "signet-operator", "signet-webhook"] {
            self.apply(&json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": [],
                "metadata": {"name": service, "namespace": "mesh", "labels": {"kubernetes.io/service-name": service}},
                "endpoints": [{"addresses": ["10.1.0.9"], "conditions": {"ready": true}}],
            }));
        }
        let state = signet_proto::ca::TrustState {
            sequence: 7,
            bundles: vec![signet_proto::ca::Bundle {
                trust_domain: "mesh.example".into(),
                roots: authority.bundle().roots.iter().map(|root| root.to_vec()).collect(),
            }],
            ..Default::default()
        };
        self.apply(&json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "signet-trust-state", "namespace": "mesh"},
            "binaryData": {"state": k8s_openapi::ByteString(prost::Message::encode_to_vec(&state))},
        }));
        self.bundle("mesh", &pem);
        // By index: a merge would replace both whole.
        let caught = k8s_openapi::ByteString(pem.clone().into_bytes());
        let add = |at: usize, field: &str, value: &Value| json!({"op": "add", "path": format!("/webhooks/{at}/clientConfig/{field}"), "value": value});
        let (caught, path) = (json!(caught), json!("/inject/5ec7e7"));
        let patch: Vec<Value> =
            [0, 1].into_iter().flat_map(|at| [add(at, "caBundle", &caught), add(at, "service/path", &path)]).collect();
        let patch = serde_json::to_string(&patch).unwrap();
        self.kubectl(&["patch", "mutatingwebhookconfiguration", "signet-injector", "--type=json", "-p", &patch], "");
        self.kubectl(&["wait", "--for=condition=Established", "crd/allowrules.signet.dev", "--timeout=60s"], "");
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"signet.dev/inject": "enabled"}}}));
        self.bundle("shop", &pem);
        let client = self.server.client().await;
        make_service_account(&client, "shop", "default").await;
        let injected = json!({"spec": {"initContainers": [
            {"name": "signet-capture", "image": SIDECAR},
            {"name": "signet-sidecar", "image": SIDECAR, "restartPolicy": "Always"},
        ]}});
        let options = PodOptions { addresses: &["10.1.0.7"], more: injected, ..PodOptions::default() };
        make_pod(&client, "shop", "orders", &options).await;
        let status = json!({"initContainerStatuses": [{
            "name": "signet-sidecar", "ready": true, "image": SIDECAR, "imageID": "", "restartCount": 0, "state": {"running": {}},
        }]});
        set_status(&client, "shop", "orders", status).await;
    }

    fn bundle(&self, namespace: &str, pem: &str) {
        self.apply(&json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "signet-trust", "namespace": namespace},
            "data": {"bundle.pem": pem},
        }));
    }
}

fn ids(report: &Value, sign: &str) -> Vec<String> {
    let checks = report["checks"].as_array().unwrap().iter();
    checks.filter(|check| check["sign"] == sign).map(|check| check["id"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn found<'a>(report: &'a Value, id: &str) -> (&'a str, &'a str) {
    let check = report["checks"].as_array().unwrap().iter().find(|check| check["id"] == id).unwrap();
    (check["found"].as_str().unwrap(), check["hint"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn check_ends_with_what_it_found_and_each_broken_thing_is_found_by_its_own_check() {
    let Some(world) = World::start().await else { return };
    let client = world.server.client().await;

    let (code, report) = world.check(&[]);
    assert_eq!((code, ids(&report, "fail")), (1, vec!["install.namespace".to_owned()]), "{report:#}");
    assert!(found(&report, "install.namespace").1.starts_with("helm install signet charts/signet"));

    world.install().await;
    // No controller makes the pods of CA and operator: what only they can tell is all that is left.
    let unanswered = [
        "certificates.issuing",
        "certificates.operator",
        "trust.sequence",
        "ca.health",
        "operator.health",
        "network.ca",
        "network.operator",
        "network.addresses",
        "network.ranges",
    ]
    .map(str::to_owned);
    let (code, report) = world.check(&[]);
    assert_eq!((code, ids(&report, "fail"), ids(&report, "warn")), (0, vec![], vec![]), "{report:#}");
    assert_eq!((ids(&report, "skipped"), &report["control_namespace"]), (unanswered.to_vec(), &json!("mesh")));
    let (code, report) = world.check(&["--control-namespace", "elsewhere"]);
    assert_eq!((code, found(&report, "install.namespace").1), (1, "signet check --control-namespace mesh"));

    // One after the other, each mended again.
    let failing = |arguments: &[&str]| {
        let (code, report) = world.check(arguments);
        (code, ids(&report, "fail"), ids(&report, "warn"), report)
    };
    let binding = world.kubectl(&["get", "validatingadmissionpolicybinding", "signet-guard", "-o", "json"], "");
    world.kubectl(&["delete", "validatingadmissionpolicybinding", "signet-guard"], "");
    let (code, fail, warn, report) = failing(&[]);
    assert_eq!((code, fail, warn), (1, vec!["install.guard".to_owned()], vec![]));
    assert!(found(&report, "install.guard").0.contains("ValidatingAdmissionPolicyBinding signet-guard is missing"));
    let mut again: Value = serde_json::from_str(&binding).unwrap();
    for field in ["resourceVersion", "uid"] {
        again["metadata"].as_object_mut().unwrap().remove(field);
    }
    world.kubectl(&["create", "-f", "-"], &again.to_string());

    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "only-8080", "namespace": "shop"},
        "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 8080}]}]},
    });
    world.apply(&policy);
    let (code, fail, warn, report) = failing(&["-n", "shop"]);
    assert_eq!((code, fail, warn), (1, vec!["network.tunnel".to_owned()], vec![]));
    let (said, hint) = found(&report, "network.tunnel");
    assert!(said.contains("NetworkPolicy shop/only-8080 blocks port 15008"), "{said}");
    // What the hint says can be typed as it is.
    let command = hint.split(" (no `from`").next().unwrap();
    let kubectl = format!(
        "kubectl() {{ {} --kubeconfig {} \"$@\"; }}; {command}",
        world.bin.join("kubectl").display(),
        world.server.kubeconfig().display()
    );
    let typed = run(Path::new("bash"), &["-c", &kubectl], "");
    assert_eq!(typed.code, Some(0), "{command}: {}", typed.err);
    assert_eq!(failing(&[]).1, Vec::<String>::new());

    world.apply(&json!({
        "apiVersion": "signet.dev/v1alpha1", "kind": "AllowRule", "metadata": {"name": "idle", "namespace": "shop"},
        "spec": {"target": {"service": "gone"}, "from": []},
    }));
    let (code, fail, warn, report) = failing(&[]);
    assert_eq!(
        (code, fail, warn),
        (0, vec![], vec!["rules.status".to_owned(), "rules.targets".to_owned()]),
        "{report:#}"
    );
    assert!(found(&report, "rules.targets").0.contains("shop/idle targets the Service gone, which does not exist"));
    assert_eq!(failing(&["-n", "mesh"]).2, Vec::<String>::new(), "rules of other namespaces are not looked at");
    world.kubectl(&["-n", "shop", "delete", "allowrule", "idle"], "");

    // Started before its namespace opted in.
    let late = world.server.namespace("late").await;
    make_pod(&client, &late, "web", &PodOptions::default()).await;
    world.kubectl(&["label", "namespace", &late, "signet.dev/inject=enabled"], "");
    let (code, fail, _, report) = failing(&[]);
    assert_eq!((code, fail), (1, vec!["trust.bundles".to_owned(), "pods.injected".to_owned()]));
    assert!(found(&report, "pods.injected").0.ends_with(&format!("{late}/web")), "{report:#}");
    world.kubectl(&["label", "namespace", &late, "signet.dev/inject-"], "");

    world
        .status(&["-n", "mesh", "deployment", "signet-operator"], &json!({"availableReplicas": 0, "readyReplicas": 0}));
    assert_eq!(failing(&[]).1, ["operator.available"]);
    world.kubectl(&["delete", "mutatingwebhookconfiguration", "signet-injector"], "");
    assert_eq!(failing(&[]).1, ["install.webhook", "operator.available"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_nothing_is_told_so_and_what_to_ask_for() {
    let Some(world) = World::start().await else { return };
    world.install().await;
    let client = world.server.client().await;
    make_service_account(&client, "shop", "visitor").await;
    let token = token(&client, "shop", "visitor", json!({"audiences": []})).await;
    let visitor = world.server.kubeconfig_for("visitor", &token);
    let said = signet(&visitor, &["check", "-o", "json", "--control-namespace", "mesh"]);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.code, ids(&report, "fail")), (Some(2), vec![]), "{report:#}");
    assert_eq!(ids(&report, "ok"), ["api.version", "api.groups"]);
    let (lacks, hint) = found(&report, "api.permissions");
    assert!(lacks.contains("list pods") && lacks.contains("create pods/portforward"), "{lacks}");
    assert!(hint.contains("--user=system:serviceaccount:shop:visitor"), "{hint}");
    // What the hint says can be typed as it is, and is all that is needed: here in a namespace.
    let typed = |hint: &str| {
        let command = hint.strip_prefix("somebody who may grant it runs: ").unwrap_or_else(|| panic!("{hint}"));
        let (kubectl, kubeconfig) = (world.bin.join("kubectl"), world.server.kubeconfig());
        let kubectl = format!("kubectl() {{ {} --kubeconfig {} \"$@\"; }}", kubectl.display(), kubeconfig.display());
        let said = run(Path::new("bash"), &["-c", &format!("{kubectl}; {command}")], "");
        assert_eq!(said.code, Some(0), "{command}: {}", said.err);
    };
    // The API server hears of a new binding from its own watch, a moment after.
    let may = |words: &[&str]| {
        let kubeconfig = world.server.kubeconfig();
        let fixed = ["--kubeconfig", kubeconfig.to_str().unwrap(), "--as=system:serviceaccount:shop:visitor"];
        let asked = [&fixed[..], &["auth", "can-i"], words].concat();
        let yes = || (run(&world.bin.join("kubectl"), &asked, "").code == Some(0)).then_some(());
        wait_for(&format!("the visitor may {words:?}"), Duration::from_secs(20), yes).unwrap();
    };
    let check = |more: &[&str]| {
        let said = signet(&visitor, &[&["check", "-o", "json", "--control-namespace", "mesh"], more].concat());
        (said.code, serde_json::from_str::<Value>(&said.out).unwrap())
    };
    let of_namespace = ["pods.injected", "pods.ready", "rules.status", "rules.targets", "network.tunnel"];
    let are =
        |report: &Value, sign: &str| of_namespace.iter().all(|id| ids(report, sign).iter().any(|other| other == id));
    let said = signet(&visitor, &["edges", "--control-namespace", "mesh"]);
    assert!(said.code == Some(2) && said.err.contains("not allowed to get leases"), "{}", said.err);
    let (code, report) = check(&["-n", "shop"]);
    assert!(code == Some(2) && are(&report, "skipped"), "{report:#}");
    typed(found(&report, "api.permissions").1);
    may(&["list", "pods", "-n", "shop"]);
    let (code, report) = check(&["-n", "shop"]);
    assert!(code == Some(0) && are(&report, "ok"), "{report:#}");
    assert!(ids(&report, "skipped").contains(&"install.guard".to_owned()), "what is the cluster's stays unseen");
    // And in the whole cluster.
    let (code, report) = check(&[]);
    assert_eq!((code, ids(&report, "fail")), (Some(2), vec![]), "{report:#}");
    typed(found(&report, "api.permissions").1);
    may(&["list", "pods", "--all-namespaces"]);
    may(&["create", "pods", "--subresource=portforward", "-n", "mesh"]);
    let ((code, report), (_, admins)) = (check(&[]), world.check(&[]));
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(report["checks"], admins["checks"], "as the administrator sees it");
    let said = signet(&visitor, &["identity", "orders", "-n", "shop"]);
    assert!(said.code == Some(2) && said.err.contains("not allowed to get pods"), "{}", said.err);
    // He may ask who has the counters; nobody has here.
    let said = signet(&visitor, &["edges", "--control-namespace", "mesh"]);
    assert!(said.code == Some(2) && said.err.contains("no operator holds the lease signet-operator"), "{}", said.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_and_edges_say_why_there_is_nothing_to_show() {
    let Some(world) = World::start().await else { return };
    world.install().await;
    let client = world.server.client().await;
    let (admin, plain) = (world.server.kubeconfig(), world.server.namespace("plain").await);
    make_pod(&client, &plain, "web", &PodOptions::default()).await;
    let said = signet(&admin, &["identity", "order", "-n", "shop"]);
    assert!(
        said.code == Some(2) && said.err.ends_with("there is no pod shop/order; did you mean orders?\n"),
        "{}",
        said.err
    );
    let said = signet(&admin, &["identity", &format!("{plain}/web")]);
    assert!(said.code == Some(1) && said.err.contains("web is not in the mesh: it has no sidecar"), "{}", said.err);
    for command in ["check", "edges"] {
        let said = signet(&admin, &[command, "-n", "shpo"]);
        let words = "there is no namespace shpo; did you mean shop?\n";
        assert!(said.code == Some(2) && said.err.ends_with(words), "{command}: {}", said.err);
    }
    let said = signet(&admin, &["edges"]);
    assert!(
        said.code == Some(2) && said.err.contains("no operator holds the lease signet-operator in mesh"),
        "{}",
        said.err
    );
}
