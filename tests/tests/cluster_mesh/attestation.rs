//! Who is given a certificate and who is refused, asked from real pods: each runs the sidecar's program by hand, with a token
//! that somebody chose for it.
use super::*;
use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use signet_tests::cluster::SYSTEM;

/// Where a pod's token comes from.
enum Token<'a> {
    /// The kubelet, for this audience.
    Own(&'a str),
    /// The Secret of the pod's name, which is made when somebody has stolen what to put in.
    Given,
}

/// A pod that does nothing but ask the CA for a certificate, again and again, with this token.
fn asks(space: &Space<'_>, name: &str, account: &str, token: &Token<'_>) -> Value {
    let system = space.cluster.system();
    let domain = system.field("configmap/signet-mesh", ".data.trust-domain");
    let config = format!(
        "runtime_dir = \"/run/signet/sidecar\"\nuid = 2137\n[ca]\naddress = \"signet-ca.{SYSTEM}.svc:15012\"\n\
         trust_domain = \"{domain}\"\nbundle = \"/trust/bundle.pem\"\ntoken_file = \"/token/token\"\n\
         state_dir = \"/run/signet/enroll\"\n[operator]\naddress = \"signet-operator.{SYSTEM}.svc:15010\"\n\
         [log]\nformat = \"json\"\n"
    );
    let image = system.field("configmap/signet-operator", ".data.operator\\.toml");
    let image = image.lines().find_map(|line| line.strip_prefix("image = ")).unwrap().trim_matches('"').to_owned();
    let token = match token {
        Token::Own(audience) => json!({"name": "token", "projected": {"sources": [
            {"serviceAccountToken": {"audience": audience, "expirationSeconds": 600, "path": "token"}}]}}),
        Token::Given => json!({"name": "token", "secret": {"secretName": name, "optional": true}}),
    };
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "serviceAccountName": account,
            "terminationGracePeriodSeconds": 2,
            "securityContext": {"runAsUser": 2137, "fsGroup": 2137},
            "containers": [{
                "name": "app", "image": image, "imagePullPolicy": "IfNotPresent",
                "args": ["run", "--config-env", "SIGNET_CONFIG"],
                "env": [{"name": "SIGNET_CONFIG", "value": config}],
                "volumeMounts": [
                    {"name": "token", "mountPath": "/token"}, {"name": "trust", "mountPath": "/trust"},
                    {"name": "run", "mountPath": "/run/signet"}],
            }],
            "volumes": [token, {"name": "trust", "configMap": {"name": "trust"}},
                {"name": "run", "emptyDir": {"medium": "Memory"}}],
        },
    })
}

/// Lines of both CA replicas: journal and log.
fn ca_lines(cluster: &Cluster) -> anyhow::Result<Vec<Value>> {
    let of = ["logs", "-l", "app.kubernetes.io/component=ca", "--tail=-1", "--prefix=false"];
    let said = cluster.system().kubectl(&of)?;
    Ok(said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// A token for the CA, bound to a pod.
fn token_of(space: &Space<'_>, account: &str, pod: &str) -> String {
    let uid = space.field(&format!("pod/{pod}"), ".metadata.uid");
    let bound =
        ["--bound-object-kind=Pod", &format!("--bound-object-name={pod}"), &format!("--bound-object-uid={uid}")];
    let make = [&["create", "token", account, "--audience=signet-ca", "--duration=10m"][..], &bound].concat();
    space.kubectl(&make).unwrap().trim().to_owned()
}

/// Puts a token where a pod looks for it.
fn give(space: &Space<'_>, pod: &str, token: &str) {
    space.kubectl(&["create", "secret", "generic", pod, &format!("--from-literal=token={token}")]).unwrap();
    // The kubelet looks at a pod's Secrets again when the pod changes.
    space.kubectl(&["annotate", "pod", pod, "test/given=yes"]).unwrap();
}

#[test]
fn a_pod_is_given_the_identity_of_its_own_account_and_refused_with_every_token_that_is_not_its_own() {
    let Some(cluster) = mesh("a_pod_is_given_the_identity_of_its_own_account_and_refused_with_every_other_token")
    else {
        return;
    };
    let space = cluster.space("tokens", &[]);
    let bundle = cluster.system().field("configmap/signet-trust", ".data.bundle\\.pem");
    space.kubectl(&["create", "configmap", "trust", &format!("--from-literal=bundle.pem={bundle}")]).unwrap();
    for account in ["honest", "again", "signet-operator"] {
        space.kubectl(&["create", "serviceaccount", account]).unwrap();
    }
    let audience = "https://kubernetes.default.svc";
    let mut pods = String::new();
    for (name, account, token) in [
        ("honest", "honest", Token::Own("signet-ca")),
        ("own", "honest", Token::Given),
        ("audience", "honest", Token::Own(audience)),
        ("thief", "honest", Token::Given),
        ("heir", "honest", Token::Given),
        ("again", "again", Token::Given),
        ("pretender", "signet-operator", Token::Own("signet-ca")),
        ("dead", "honest", Token::Given),
    ] {
        pods += &asks(&space, name, account, &token).to_string();
        pods += "\n---\n";
    }
    space.apply(&pods);
    for name in ["honest", "own", "audience", "thief", "heir", "again", "pretender", "dead"] {
        // Never ready: nothing is captured here. It runs, and has its address.
        space.wait(&format!("{name} runs"), || {
            let state = space.kubectl(&["get", "pod", name, "-o", "jsonpath={.status.phase} {.status.podIP}"])?;
            ensure!(state.starts_with("Running 10."), "{state}");
            Ok(())
        });
    }
    let (own, stolen, dead, again) = (
        token_of(&space, "honest", "own"),
        token_of(&space, "honest", "honest"),
        token_of(&space, "honest", "dead"),
        token_of(&space, "again", "again"),
    );
    space.kubectl(&["delete", "pod", "dead"]).unwrap();
    space.kubectl(&["delete", "serviceaccount", "again"]).unwrap();
    space.kubectl(&["create", "serviceaccount", "again"]).unwrap();
    for (pod, token) in [("own", own), ("thief", stolen), ("heir", dead), ("again", again)] {
        give(&space, pod, &token);
    }

    let domain = cluster.system().field("configmap/signet-mesh", ".data.trust-domain");
    for (name, account) in [("honest", "honest"), ("own", "honest"), ("pretender", "signet-operator")] {
        let issued = space.wait(&format!("{name} has a certificate"), || {
            let pod = format!("{}/{name}", space.name);
            ca_lines(cluster)?.into_iter().find(|line| line["pod"] == pod).context("no line in the journal")
        });
        let identity = format!("spiffe://{domain}/ns/{}/sa/{account}", space.name);
        assert_eq!(issued["identity"], identity, "{name}: from where the pod is, whatever it is called");
    }
    for (name, reason, words) in [
        ("audience", "pod_token", "audience"),
        ("thief", "pod_address", "is not one of the pod"),
        ("heir", "pod_token", "still exist"),
        ("again", "pod_token", "still exist"),
    ] {
        let address = space.field(&format!("pod/{name}"), ".status.podIP");
        let refusal = space.wait(&format!("{name} is refused"), || {
            let lines = ca_lines(cluster)?;
            let of = |line: &&Value| line["address"] == address && line["reason"].is_string();
            lines.iter().rfind(of).cloned().context("no refusal in the log of the CA")
        });
        assert_eq!(refusal["reason"], reason, "{refusal}");
        assert!(refusal["error"].as_str().is_some_and(|error| error.contains(words)), "{words:?} is not in {refusal}");
        let pod = format!("{}/{name}", space.name);
        let issued = ca_lines(cluster).unwrap().into_iter().find(|line| line["pod"] == pod);
        assert_eq!(issued, None, "{name} has a certificate all the same");
        // It is told the reason, too.
        let log = space.logs(name, "app").unwrap();
        assert!(log.contains(words), "{words:?} is not in {log}");
    }
}
