//! What the chart renders.
use crate::helm::{self, objects, template};
use serde_json::{Value, json};
use signet_identity::testing::Authority;
use signet_operator::config::Config;
use std::path::Path;

const DOMAIN: &str = "trustDomain=prod.example";
const EVERYTHING: [&str; 8] = [
    DOMAIN,
    "networkPolicy.enabled=true",
    "serviceMonitor.enabled=true",
    "podMonitor.enabled=true",
    "ca.purge=true",
    "uninstall.force=true",
    "listenAddress=::",
    "sidecar.resources.limits.memory=128Mi",
];

fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    let Some(helm) = helm::program() else { return };
    let chart = helm::chart();
    let output = helm::run(&helm, &["lint", "--strict", chart.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_rendering_is_the_same_twice() {
    let Some(helm) = helm::program() else { return };
    for set in [&[DOMAIN][..], &EVERYTHING] {
        assert_eq!(template(&helm, "signet-system", set), template(&helm, "signet-system", set));
    }
}

#[test]
fn without_a_cluster_to_ask_the_trust_domain_must_be_given() {
    let Some(helm) = helm::program() else { return };
    let refused = template(&helm, "signet-system", &[]).unwrap_err();
    assert!(refused.contains("trustDomain: this rendering has no cluster to ask"), "{refused}");
    let refused = template(&helm, "signet-system", &["trustDomain=cluster.local"]).unwrap_err();
    assert!(refused.contains("trustDomain"), "{refused}");
}

#[test]
fn f35_a_value_that_nobody_knows_is_refused() {
    let Some(helm) = helm::program() else { return };
    for wrong in [
        "posture.inbund=deny",
        "posture.inbound=denny",
        "ca.replica=3",
        "sidecar.resources.requests.cpu=lots",
        "ca.lifetimes.leaf=1hour",
        "image.pullPolicy=Sometimes",
        "sidecar.excludeInboundPorts={http}",
        "ca.limits.connection=1",
        "ca.limits.connections=0",
        "ca.limits.connectionAge=long",
        "operator.limits.streams=many",
        "injection.limits.connectionsPerAddress=3",
        "sidecar.excludeInboundPorts={70000-80000}",
        "sidecar.excludeOutboundPorts={0}",
        "sidecar.excludeOutboundPorts={8100-8000}",
        "sidecar.excludeOutboundCidrs={10.0.0.1/8}",
        "sidecar.resources.requests.cpu=0",
        "sidecar.resources.requests.memory=0Mi",
        "sidecar.resources.limits.cpu=1.2.3",
        "sidecar.resources.limits.cpu=19m",
        "sidecar.resources.limits.memory=32M",
        "sidecar.logLevel=verbose",
        "sidecar.drainTime=2h",
        "sidecar.drainTime=3601s",
        "operator.logLevel=verbose",
        "ca.lifetimes.leaf=500ms",
        "meshRanges={10.244.0.0/999}",
        "meshRanges={10.244.0.0/33}",
        "meshRanges={10.244.0.1/16}",
        "meshRanges={300.0.0.0/8}",
        "meshRanges={fd00::1/64}",
        "meshRanges={fd00:1:8000::/32}",
        "meshRanges={fd00::/129}",
        "meshRanges={1:2:3/64}",
    ] {
        assert!(template(&helm, "signet-system", &[DOMAIN, wrong]).is_err(), "{wrong}");
    }
}

/// What the operator says of the `operator.toml` that is rendered with these settings.
fn operators_word(helm: &Path, set: &[&str]) -> Result<(), String> {
    let rendered = template(helm, "signet-system", &[&[DOMAIN], set].concat())?;
    let objects = objects(&rendered);
    let text = named(&objects, "ConfigMap", "signet-operator")["data"]["operator.toml"].as_str().unwrap();
    // As the pod would have it: a root to begin with, and a directory of its own.
    let directory = tempfile::tempdir().unwrap();
    let pem = Authority::new("prod.example").bundle().to_pem();
    std::fs::write(directory.path().join("bundle.pem"), pem).unwrap();
    let own = directory.path().to_str().unwrap();
    let text = text.replace("/var/run/secrets/signet.dev", own).replace("/run/signet", own);
    let file = directory.path().join("operator.toml");
    std::fs::write(&file, text).unwrap();
    Config::read(&file, None).map(drop).map_err(|problems| problems.to_string())
}

#[test]
fn what_the_schema_lets_through_the_operator_takes() {
    let Some(helm) = helm::program() else { return };
    operators_word(&helm, &[]).unwrap();
    for right in [
        "sidecar.resources.requests.cpu=1",
        "sidecar.resources.requests.cpu=0.001",
        "sidecar.resources.requests.cpu=100000000m",
        "sidecar.resources.requests.memory=134217728",
        "sidecar.resources.requests.memory=0.001Ki",
        "sidecar.resources.limits.cpu=2",
        "sidecar.resources.limits.cpu=0.02",
        "sidecar.resources.limits.memory=33554432",
        "sidecar.resources.limits.memory=1Ti",
        "sidecar.logLevel=trace",
        "sidecar.drainTime=0s",
        "sidecar.drainTime=999999ms",
        "sidecar.drainTime=3600s",
        "sidecar.drainTime=60m",
        "sidecar.drainTime=1h",
        "sidecar.excludeInboundPorts={1,65535,8000-8100,65535-65535}",
        "sidecar.excludeOutboundPorts={22}",
        "sidecar.excludeOutboundCidrs={0.0.0.0/0,10.0.0.0/8,192.0.2.1/32}",
        "sidecar.otherImages={reg.example:5000/mine/signet-sidecar}",
        "operator.logLevel=info\\,signet_operator::control=debug",
        "meshRanges={0.0.0.0/0,255.255.255.255/32,10.128.0.0/9}",
        "meshRanges={::/0,fd00::/8,fd00:1:8000::/33,fd00:1:2:3:4:5:6:7/128,::1/128,fe80::1:0/112}",
        "injection.excludedNamespaces={a,b-1}",
        "posture.inbound=deny",
        "logFormat=text",
        "listenAddress=::",
    ] {
        if let Err(refused) = operators_word(&helm, &[right]) {
            panic!("{right}: {refused}");
        }
    }
    // Numbers in a file of values are not those of `--set`.
    let directory = tempfile::tempdir().unwrap();
    let values = directory.path().join("values.yaml");
    let resources = "{requests: {cpu: 0.5, memory: 134217728}, limits: {cpu: 2, memory: 1073741824}}";
    std::fs::write(&values, format!("trustDomain: prod.example\nsidecar: {{resources: {resources}}}\n")).unwrap();
    let chart = helm::chart();
    let arguments = ["template", "signet", chart.to_str().unwrap(), "--values", values.to_str().unwrap()];
    let output = helm::run(&helm, &arguments);
    let objects = objects(&String::from_utf8(output.stdout).unwrap());
    let text = named(&objects, "ConfigMap", "signet-operator")["data"]["operator.toml"].as_str().unwrap();
    for line in ["cpu_request = \"0.5\"", "memory_request = \"134217728\"", "memory_limit = \"1073741824\""] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn f27_no_key_no_ca_bundle_and_no_path_is_rendered() {
    let Some(helm) = helm::program() else { return };
    let text = template(&helm, "signet-system", &EVERYTHING).unwrap();
    assert!(!text.contains("PRIVATE KEY") && !text.contains("BEGIN CERTIFICATE"));
    let objects = objects(&text);
    assert!(objects.iter().all(|object| object["kind"] != "Secret"), "Secrets are made by the programs themselves");
    let webhooks = &named(&objects, "MutatingWebhookConfiguration", "signet-injector")["webhooks"];
    for config in webhooks.as_array().unwrap().iter().map(|webhook| &webhook["clientConfig"]) {
        assert!(config.get("caBundle").is_none() && config["service"].get("path").is_none(), "{config}");
    }
}

#[test]
fn every_own_pod_is_restricted_and_asks_for_resources() {
    let Some(helm) = helm::program() else { return };
    let mut seen = 0;
    for object in objects(&template(&helm, "signet-system", &EVERYTHING).unwrap()) {
        let pod = if object["kind"] == "Pod" { &object["spec"] } else { &object["spec"]["template"]["spec"] };
        let Some(containers) = pod["containers"].as_array() else { continue };
        seen += 1;
        let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        for container in containers {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}), "{name}");
        }
        if object["kind"] == "Deployment" && object["metadata"]["namespace"] == "signet-system" {
            assert_eq!(object["spec"]["replicas"], 2, "{name}");
            assert!(containers[0]["resources"]["requests"].is_object(), "{name}");
            assert!(pod["topologySpreadConstraints"].is_array(), "{name}");
        }
    }
    assert!(seen >= 6, "CA, operator, two hooks, and the test's pods: {seen}");
}

#[test]
fn secrets_are_reached_in_our_own_namespace_alone_and_by_name() {
    let Some(helm) = helm::program() else { return };
    for object in objects(&template(&helm, "signet-system", &EVERYTHING).unwrap()) {
        for rule in object["rules"].as_array().into_iter().flatten() {
            let words = |key: &str| rule[key].as_array().cloned().unwrap_or_default();
            assert!(!words("verbs").contains(&json!("*")) && !words("resources").contains(&json!("*")), "{rule}");
            if words("resources").contains(&json!("secrets")) {
                assert_eq!(object["kind"], "Role", "{rule}");
                let named = !words("resourceNames").is_empty() || words("verbs") == [json!("create")];
                assert!(named, "{rule}");
            }
        }
    }
}

#[test]
fn who_may_look_may_change_nothing_and_nobody_may_by_default() {
    let Some(helm) = helm::program() else { return };
    let objects = objects(&template(&helm, "signet-system", &EVERYTHING).unwrap());
    let view = named(&objects, "ClusterRole", "signet-view");
    for rule in view["rules"].as_array().unwrap() {
        let verbs = rule["verbs"].as_array().unwrap();
        assert!(verbs.iter().all(|verb| verb == "get" || verb == "list"), "{rule}");
    }
    assert!(!view["metadata"]["labels"].to_string().contains("aggregate-to"), "{view}");
    let bound = objects.iter().filter(|object| object["roleRef"]["name"] == "signet-view").count();
    assert_eq!(bound, 0);
}

#[test]
fn an_image_is_what_its_parts_say() {
    let Some(helm) = helm::program() else { return };
    let images = |set: &[&str]| {
        let objects = objects(&template(&helm, "signet-system", set).unwrap());
        let image = |name: &str| {
            let containers = &named(&objects, "Deployment", name)["spec"]["template"]["spec"]["containers"];
            containers[0]["image"].as_str().unwrap().to_owned()
        };
        let operator = named(&objects, "ConfigMap", "signet-operator")["data"]["operator.toml"].as_str().unwrap();
        let sidecar = operator.lines().find_map(|line| line.strip_prefix("image = ")).unwrap().to_owned();
        [image("signet-ca"), image("signet-operator"), sidecar]
    };
    assert_eq!(
        images(&[DOMAIN]),
        ["signet/signet-ca:0.1.0", "signet/signet-operator:0.1.0", "\"signet/signet-sidecar:0.1.0\""]
    );
    let digest = format!("sha256:{}", "0".repeat(64));
    let own = format!("sidecar.image.digest={digest}");
    assert_eq!(
        images(&[DOMAIN, "image.registry=reg.example:5000", "image.tag=9.9", "ca.image.repository=mine", &own]),
        [
            "reg.example:5000/mine/signet-ca:9.9".to_owned(),
            "reg.example:5000/signet/signet-operator:9.9".to_owned(),
            format!("\"reg.example:5000/signet/signet-sidecar@{digest}\"")
        ]
    );
}

#[test]
fn the_programs_are_told_the_limits_that_are_given_and_start_anew_for_them() {
    let Some(helm) = helm::program() else { return };
    let rendered = |set: &[&str]| objects(&template(&helm, "signet-system", &[&[DOMAIN], set].concat()).unwrap());
    let (usual, limited) = (
        rendered(&[]),
        rendered(&[
            "ca.limits.connections=1000000",
            "ca.limits.connectionsPerAddress=2",
            "ca.limits.connectionAge=5m",
            "ca.limits.watchesPerAddress=1",
            "operator.limits.connectionsPerPeer=3",
            "operator.limits.streamAge=1h",
            "injection.limits.connectionsPerAddress=64",
        ]),
    );
    let file = |objects: &[Value], name: &str, key: &str| {
        named(objects, "ConfigMap", name)["data"][key].as_str().unwrap().to_owned()
    };
    let ca = file(&limited, "signet-ca", "ca.toml");
    let table = "[limits]\nconnection_age = \"5m\"\nconnections = 1000000\nconnections_per_address = 2\n\
                 watches_per_address = 1\n\n";
    assert!(ca.contains(table), "{ca}");
    assert!(!file(&usual, "signet-ca", "ca.toml").contains("[limits]"), "the program's own choice");

    // As the operator reads its file.
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("bundle.pem");
    std::fs::write(&bundle, Authority::new("prod.example").bundle().to_pem()).unwrap();
    let read = |objects: &[Value]| {
        let text = file(objects, "signet-operator", "operator.toml");
        let text = text.replace("/var/run/secrets/signet.dev/bundle.pem", bundle.to_str().unwrap());
        let path = directory.path().join("operator.toml");
        std::fs::write(&path, text).unwrap();
        let config = Config::read(&path, None).unwrap_or_else(|problems| panic!("{problems}"));
        let (door, webhook) = (config.limits.door, config.inject.unwrap());
        (
            door.connections_per_peer,
            config.limits.max_age.as_secs(),
            webhook.connections,
            webhook.connections_per_address,
        )
    };
    assert_eq!((read(&usual), read(&limited)), ((16, 1800, 512, 48), (3, 3600, 512, 64)));

    for program in ["signet-ca", "signet-operator"] {
        let template = |objects: &[Value]| named(objects, "Deployment", program)["spec"]["template"].clone();
        assert_ne!(template(&usual), template(&limited), "{program} starts anew");
    }
}

#[test]
fn rules_outlive_the_chart_unless_told_otherwise() {
    let Some(helm) = helm::program() else { return };
    let kept = |set: &[&str]| {
        let objects = objects(&template(&helm, "signet-system", set).unwrap());
        let definition = objects.into_iter().find(|object| object["kind"] == "CustomResourceDefinition");
        definition.map(|definition| definition["metadata"]["annotations"]["helm.sh/resource-policy"].clone())
    };
    assert_eq!(kept(&[DOMAIN]), Some(json!("keep")));
    assert_eq!(kept(&[DOMAIN, "crds.keep=false"]), Some(Value::Null));
    assert_eq!(kept(&[DOMAIN, "crds.enabled=false"]), None);
}
