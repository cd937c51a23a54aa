//! What `operator.toml` may say.
use super::{Config, Source};
use rstest::rstest;
use signet_enroll::settings::File;
use signet_identity::testing::Authority;
use std::path::{Path, PathBuf};

fn read(top: &str, tables: &str) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("root.pem"), Authority::new("mesh.example").bundle().to_pem()).unwrap();
    let ca =
        "[ca]\naddress = \"ca:15012\"\ntrust_domain = \"mesh.example\"\nbundle = \"root.pem\"\nstate_dir = \"state\"\n";
    let path = directory.path().join("operator.toml");
    let file = File::parse(&path, &format!("{top}\n{ca}{tables}")).map_err(|e| e.to_string())?;
    Config::from_file(file, None).map_err(|e| e.to_string())
}

#[test]
fn the_smallest_file_is_enough() {
    let config = read("files = \"mesh\"", "").unwrap();
    let Source::Files(files) = &config.source else { panic!("{:?}", config.source) };
    assert!(files.ends_with("mesh") && files.is_absolute());
    assert_eq!((config.listen.port(), config.health.port()), (15010, 15023));
    assert_eq!(config.settings.inbound, signet_policy::Posture::Audit);
}

#[test]
fn the_directory_of_the_command_line_wins() {
    let path = Path::new("operator.toml");
    let problems = Config::from_file(File::parse(path, "").unwrap(), Some(PathBuf::from("x"))).unwrap_err().to_string();
    assert!(!problems.contains("files"), "{problems}");
    let problems = Config::from_file(File::parse(path, "").unwrap(), None).unwrap_err().to_string();
    assert!(problems.contains("--files DIR"), "{problems}");
}

#[rstest]
#[case::f35_unknown_posture("", "[posture]\ninbound = \"permissive\"", "posture.inbound")]
#[case::f8_health_for_everybody("health = \"0.0.0.0:15023\"", "", "health")]
#[case::host_bits("mesh_ranges = [\"10.77.0.1/16\"]", "", "mesh_ranges")]
#[case::age("", "[limits]\nstream_age = \"1s\"", "limits.stream_age")]
#[case::no_connections("", "[limits]\nconnections = 0", "limits.connections: found 0; want 1 to 1000000")]
#[case::fewer_connections_than_streams(
    "",
    "[limits]\nstreams = 200\nconnections = 199",
    "limits.connections: found 199; want at least `streams`, 200"
)]
#[case::more_streams_than_connections(
    "",
    "[limits]\nstreams = 20001",
    "limits.connections: found no such key; want at least `streams`, 20001"
)]
#[case::of_address("", "[limits]\nconnections_per_address = 0", "limits.connections_per_address: found 0; want 1 to")]
#[case::of_peer(
    "",
    "[limits]\nconnections_per_peer = \"many\"",
    "limits.connections_per_peer: found \"many\"; want 1 to"
)]
#[case::few_for_the_webhook(
    "",
    "[inject]\nimage = \"x\"\nconnections = 31",
    "inject.connections: found 31; want 32 to 65536"
)]
#[case::few_of_an_api_server(
    "",
    "[inject]\nimage = \"x\"\nconnections_per_address = 3",
    "inject.connections_per_address: found 3; want 4 to 65536"
)]
#[case::more_of_one_than_of_all(
    "",
    "[inject]\nimage = \"x\"\nconnections = 40",
    "inject.connections_per_address: found no such key; want at most `connections`, 40"
)]
#[case::unknown("fils = \"x\"", "", "fils")]
fn a_mistake_is_named(#[case] top: &str, #[case] tables: &str, #[case] key: &str) {
    let problems = read(&format!("files = \"mesh\"\n{top}"), tables).unwrap_err();
    assert!(problems.contains(key), "{problems}");
}

#[test]
fn all_mistakes_are_named_at_once() {
    let problems = read("files = 7\nhealth = \"x\"", "[posture]\negress = \"maybe\"").unwrap_err();
    assert_eq!(problems.lines().count(), 3, "{problems}");
}

#[test]
fn in_a_cluster_health_may_listen_for_everybody() {
    let config = read("health = \"0.0.0.0:15023\"", "[kubernetes]\n").unwrap();
    let Source::Cluster(cluster) = config.source else { panic!("{:?}", config.source) };
    assert_eq!(cluster.sidecar_images, ["signet/signet-sidecar"]);
    assert!(cluster.kubeconfig.is_none());
}

#[test]
fn what_the_doors_take_can_be_set() {
    let limits = "[limits]\nconnections = 30000\nconnections_per_address = 9\nconnections_per_peer = 3\n";
    let webhook = "[inject]\nimage = \"x\"\nconnections = 64\nconnections_per_address = 8\n";
    let config = read("", &format!("[kubernetes]\n{limits}{webhook}")).unwrap();
    let door = config.limits.door;
    assert_eq!((door.connections, door.handshakes_per_address, door.connections_per_peer), (30_000, 9, 3));
    assert!(door.whole_ipv6, "the pods of a node share a /64");
    let inject = config.inject.unwrap();
    assert_eq!((inject.connections, inject.connections_per_address), (64, 8));
    assert!(!read("files = \"mesh\"", limits).unwrap().limits.door.whole_ipv6, "a host has a /64");
}

#[test]
fn files_and_a_cluster_exclude_each_other() {
    let problems = read("files = \"mesh\"", "[kubernetes]\n").unwrap_err();
    assert!(problems.contains("either `files` or [kubernetes]"), "{problems}");
}
