//! The `[ca]` table: what is read, and that everything wrong is said at once.
use super::*;
use signet_identity::testing::Authority;
use std::fs;

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("bundle.pem"), Authority::new("prod.example").bundle().to_pem()).unwrap();
        Self { directory }
    }
    fn token(&self, content: &str, mode: u32) {
        let path = self.directory.path().join("token");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fn read(&self, text: &str) -> Result<EnrollConfig, String> {
        let mut file = settings::File::parse(&self.directory.path().join("signet.toml"), text).unwrap();
        let config = {
            let mut root = file.root();
            EnrollConfig::read(&mut root.table("ca"))
        };
        file.finish(|| config).map_err(|problems| problems.to_string())
    }
}

const GOOD: &str = r#"
[ca]
address = "ca.example:15012"
trust_domain = "prod.example"
bundle = "bundle.pem"
state_dir = "state"
join_token_file = "token"
"#;

#[test]
fn a_good_table_is_read_with_its_files() {
    let place = Place::new();
    place.token("  secret-token\n", 0o600);
    let config = place.read(GOOD).unwrap();
    assert_eq!(config.ca_address, "ca.example:15012");
    assert_eq!(config.ca_identity().unwrap().as_str(), "spiffe://prod.example/ns/signet-system/sa/signet-ca");
    assert_eq!(config.state_dir, place.directory.path().join("state"));
    assert_eq!(config.join_token.as_ref().unwrap().as_str(), "secret-token");
    assert!(config.bundle_pem.contains("BEGIN CERTIFICATE"));
    assert!(!format!("{config:?}").contains("secret-token"), "a token is never shown");
}

#[test]
fn a_token_file_that_is_gone_is_no_problem() {
    assert!(Place::new().read(GOOD).unwrap().join_token.is_none());
}

#[test]
fn a_token_that_others_can_read_is_refused_with_the_mend() {
    let place = Place::new();
    place.token("secret-token", 0o644);
    let problems = place.read(GOOD).unwrap_err();
    assert!(problems.contains("chmod 600"), "{problems}");
    assert!(!problems.contains("secret-token"), "{problems}");
    place.token("  \n", 0o600);
    assert!(place.read(GOOD).unwrap_err().contains("no token"));
}

#[test]
fn everything_wrong_is_said_at_once() {
    let place = Place::new();
    let problems = place
        .read("[ca]\naddress = \"ca.example\"\ntrust_domain = \"PROD\"\ncontrol_namespace = \"a/b\"\nbundle = \"nowhere.pem\"\nstatedir = \"x\"\n")
        .unwrap_err();
    for part in ["address", "trust_domain", "nowhere.pem", "state_dir", "statedir"] {
        assert!(problems.contains(part), "{part} is missing in:\n{problems}");
    }
    let problems =
        place.read(&GOOD.replace("trust_domain = ", "control_namespace = \"a/b\"\ntrust_domain = ")).unwrap_err();
    assert!(problems.contains("control_namespace"), "{problems}");
}

#[test]
fn a_bundle_that_is_none_is_refused() {
    let place = Place::new();
    fs::write(place.directory.path().join("bundle.pem"), "no certificate").unwrap();
    let problems = place.read(GOOD).unwrap_err();
    assert!(problems.contains("CERTIFICATE"), "{problems}");
}

#[test]
fn addresses_have_a_host_and_a_port() {
    for good in ["ca:1", "ca.example:15012", "127.0.0.1:15012", "[::1]:15012", "signet-ca.signet-system.svc:15012"] {
        assert!(is_host_and_port(good), "{good}");
    }
    for bad in [
        "",
        "ca",
        "ca:",
        ":1",
        "ca:0",
        "ca:99999",
        "::1:15012",
        "[::1]",
        "[ca]:1",
        "http://ca:1",
        "ca/x:1",
        "c a:1",
        "u@ca:1",
    ] {
        assert!(!is_host_and_port(bad), "{bad}");
    }
}

#[test]
fn a_pod_names_its_token_file_which_is_read_when_it_is_needed() {
    let place = Place::new();
    let config = place.read(&GOOD.replace("join_token_file", "token_file")).unwrap();
    let path = config.token_file.unwrap();
    assert!(config.join_token.is_none());
    assert!(read_pod_token(&path).unwrap_err().contains("No such file"), "it need not be there at the start");
    place.token("first\n", 0o644);
    assert_eq!(read_pod_token(&path).unwrap().as_str(), "first", "its mode is the kubelet's business");
    place.token("second", 0o644);
    assert_eq!(read_pod_token(&path).unwrap().as_str(), "second");
    place.token(&"x".repeat(16 * 1024 + 1), 0o644);
    assert!(read_pod_token(&path).unwrap_err().contains("more than 16384 bytes"));
}

#[test]
fn a_join_token_and_a_pods_token_exclude_each_other() {
    let problems = Place::new().read(&format!("{GOOD}token_file = \"pod-token\"\n")).unwrap_err();
    assert!(problems.contains("ca.token_file") && problems.contains("one of the two"), "{problems}");
}
