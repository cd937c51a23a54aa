//! What `sidecar.toml` may hold.
use super::*;

const LEAST: &str = r#"
[ca]
address = "10.0.0.1:15012"
trust_domain = "example.org"
bundle = "bundle.pem"
state_dir = "state"
[operator]
address = "[fd00::1]:15010"
"#;

/// Reads `text` as a file with a bundle beside it.
fn parse(text: &str) -> Result<Config, Problems> {
    let directory = tempfile::tempdir().unwrap();
    let bundle = signet_identity::testing::Authority::new("example.org").bundle().to_pem();
    std::fs::write(directory.path().join("bundle.pem"), bundle).unwrap();
    let mut file = File::parse(&directory.path().join("sidecar.toml"), text)?;
    let config = Config::from_root(&mut file.root());
    file.finish(|| config)
}

fn problems(text: &str) -> String {
    parse(text).expect_err("must be refused").to_string()
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    let documentation = include_str!("../config.rs");
    let example: String = documentation
        .lines()
        .skip_while(|line| !line.starts_with("//! ```toml"))
        .skip(1)
        .take_while(|line| !line.starts_with("//! ```"))
        .map(|line| format!("{}\n", line.trim_start_matches("//!")))
        // What has no default: shown with a value that is not one.
        .filter(|line| !["name", "max_age_foreign", "runtime_dir"].iter().any(|k| line.trim().starts_with(k)))
        .collect();
    let (shown, least) = (parse(&example).unwrap(), parse(LEAST).unwrap());
    let settled = |c: &Config| {
        let Config { uid, workers, addresses, ports, capture, limits, tunnel, drain_grace, log, access_log, .. } =
            c.clone();
        (uid, workers, addresses, ports, capture, limits, tunnel, drain_grace, log, access_log)
    };
    assert_eq!(settled(&shown), settled(&least));
}

#[test]
fn only_the_ca_and_the_operator_must_be_given() {
    let missing = problems("");
    let keys = ["ca.address", "ca.trust_domain", "ca.bundle", "ca.state_dir", "operator.address"];
    assert_eq!(missing.lines().count(), keys.len(), "{missing}");
    for key in keys {
        assert!(missing.contains(&format!(": {key}: found no such key")), "{key} in {missing}");
    }
    parse(LEAST).expect("this is enough");
}

#[test]
fn every_problem_is_reported_at_once() {
    let text = format!(
        "workers = 0\nnmae = \"x\"\n{LEAST}\n[listen]\nadmin = 15008\naddresses = []\n[limits]\nconnections = -1\n\
         head_time = \"1h\"\n[tunnel]\nidle = 5\n[capture]\nexclude_inbound_ports = [\"9-8\"]\n[log]\nformat = \"xml\"\n"
    );
    let found = problems(&text);
    for key in [
        "workers",
        "nmae",
        "listen.outbound",
        "listen.addresses",
        "limits.connections",
        "limits.head_time",
        "tunnel.idle",
        "capture.exclude_inbound_ports",
        "log.format",
    ] {
        assert!(found.contains(&format!(" {key}: ")), "{key} in:\n{found}");
    }
    assert_eq!(found.lines().count(), 9, "{found}");
}

#[test]
fn addresses_of_programs_are_host_and_port() {
    for good in ["ca.example:1", "10.0.0.1:65535", "[::1]:15012"] {
        parse(&LEAST.replace("10.0.0.1:15012", good)).unwrap_or_else(|e| panic!("{good}: {e}"));
    }
    for bad in ["ca.example", ":1", "ca.example:0", "ca.example:65536", "::1:15012", "https://ca:1", "a b:1", ""] {
        let found = problems(&LEAST.replace("10.0.0.1:15012", bad));
        assert!(found.contains("ca.address"), "{bad}: {found}");
    }
}

#[test]
fn capture_may_not_open_the_sidecars_own_ports() {
    for range in ["15001", "15000-15010", "15020"] {
        let found = problems(&format!("{LEAST}\n[capture]\nexclude_inbound_ports = [\"{range}\"]\n"));
        assert!(found.contains("capture.exclude_inbound_ports"), "{range}: {found}");
    }
    // Its tunnel and health are open anyway.
    parse(&format!("{LEAST}\n[capture]\nexclude_inbound_ports = [15008, 15021]\n")).unwrap();
}

#[test]
fn a_runtime_directory_that_others_may_enter_is_refused_with_the_mend() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap().to_owned();
    let text = format!("runtime_dir = {path:?}\n{LEAST}");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o750)).unwrap();
    assert!(problems(&text).contains(&format!("chmod 0700 {path}")), "{}", problems(&text));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    parse(&text).unwrap();
    parse(&text.replace(&path, &format!("{path}/new"))).expect("one that does not exist yet is made at start");
}

#[test]
fn capture_in_a_pod_reads_its_own_part_alone() {
    let capture = |text: &str| {
        Config::capture_from_file(File::parse(Path::new("SIGNET_CONFIG"), text).unwrap()).map_err(|e| e.to_string())
    };
    // No bundle and no token lie beside it, and `run` is who looks for them.
    let plan = capture(&format!("uid = 2138\n{LEAST}\n[capture]\nexclude_outbound_ports = [22]\n")).unwrap();
    assert_eq!((plan.uid, plan.exclude_outbound_ports.len()), (2138, 1));
    let wrong = capture("[capture]\nexclude_inbound_ports = [15001]\n[lisen]\n").unwrap_err();
    assert!(wrong.contains("SIGNET_CONFIG:2: capture.exclude_inbound_ports"), "{wrong}");
    assert!(wrong.contains("SIGNET_CONFIG:3: lisen: found an unknown key"), "{wrong}");
}
