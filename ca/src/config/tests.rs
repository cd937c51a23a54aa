use super::*;

fn read(text: &str) -> Result<Config, Problems> {
    Config::from_file(File::parse(Path::new("/etc/signet/ca.toml"), text)?)
}

#[test]
fn one_line_is_enough() {
    let config = read("trust_domain = \"example.org\"\n").unwrap();
    assert_eq!(config.listen.port(), 15012);
    assert_eq!(config.health.to_string(), "127.0.0.1:15022");
    assert_eq!(config.admin_socket, Path::new("/var/lib/signet-ca/admin.sock"));
    assert_eq!(config.lifetimes.leaf, Duration::from_hours(1));
    assert_eq!(config.lifetimes.issuing, Duration::from_hours(7 * 24));
}

#[test]
fn every_problem_is_told_at_once_with_its_line() {
    let text = "trust_domain = \"Example.org\"\nlistn = \"x\"\nhealth = \"0.0.0.0:1\"\n[lifetimes]\nleaf = \"1500ms\"\nissuing = \"1m\"\n[limits]\nsigning = 0\n";
    let problems = read(text).unwrap_err();
    let lines: Vec<_> = problems.0.iter().map(|problem| (problem.line, problem.key.as_str())).collect();
    for want in [(1, "trust_domain"), (2, "listn"), (3, "health"), (5, "lifetimes.leaf"), (8, "limits.signing")] {
        assert!(lines.contains(&(Some(want.0), want.1)), "{want:?} is not among {lines:?}");
    }
}

#[test]
fn a_cluster_needs_an_empty_table_and_nothing_of_a_host() {
    let with = |more: &str| read(&format!("trust_domain = \"a\"\n{more}"));
    assert!(with("").unwrap().kubernetes.is_none());
    let kubernetes =
        with("health = \"0.0.0.0:15022\"\n[kubernetes]\ninstance = \"ca-1\"\n").unwrap().kubernetes.unwrap();
    assert_eq!((kubernetes.peer_address, kubernetes.instance.as_str()), (PeerAddress::Require, "ca-1"));
    let record = with("[kubernetes]\ninstance = \"ca-1\"\npeer_address = \"record\"\n").unwrap().kubernetes.unwrap();
    assert_eq!(record.peer_address, PeerAddress::Record);
    for (bad, key) in [
        ("state_dir = \"x\"\n[kubernetes]\ninstance = \"ca-1\"\n", "state_dir"),
        ("admin_socket = \"x\"\n[kubernetes]\ninstance = \"ca-1\"\n", "admin_socket"),
        ("[kubernetes]\ninstance = \"ca-1\"\npeer_address = \"required\"\n", "kubernetes.peer_address"),
        ("[kubernetes]\ninstance = \"ca-1\"\naudience = \"x\"\n", "kubernetes.audience"),
        ("[kubernetes]\ninstance = \"\"\n", "kubernetes.instance"),
    ] {
        let problems = with(bad).unwrap_err();
        assert_eq!(problems.0.iter().map(|problem| problem.key.as_str()).collect::<Vec<_>>(), [key], "{problems}");
    }
}

#[test]
fn f25_both_sides_of_every_relation_between_lifetimes() {
    let with = |leaf, issuing, root| {
        read(&format!(
            "trust_domain = \"a\"\n[lifetimes]\nleaf = \"{leaf}\"\nissuing = \"{issuing}\"\nroot = \"{root}\"\n"
        ))
    };
    assert!(with("2s", "6s", "7s").is_ok());
    assert!(with("2s", "5s", "7s").is_err(), "an issuing CA lives three leaves");
    assert!(with("2s", "6s", "6s").is_err(), "a root outlives its issuing CAs");
    assert!(with("1s", "6s", "7s").is_err(), "a leaf lives two seconds");
}
