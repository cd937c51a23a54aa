//! Options of `capture`, without a kernel.
use super::*;
use clap::Parser;

#[derive(Debug, Parser)]
struct Program {
    #[command(flatten)]
    capture: CaptureArgs,
}

fn plan_of(arguments: &[&str]) -> Result<Plan, String> {
    let program = Program::try_parse_from([&["capture", "print"], arguments].concat()).map_err(|e| e.to_string())?;
    let Action::Print(options) = program.capture.action else { panic!("not print") };
    plan(options).map_err(|wrong| wrong.0)
}

#[test]
fn flags_are_consistent() {
    <Program as clap::CommandFactory>::command().debug_assert();
}

#[test]
fn without_options_the_defaults_hold() {
    assert_eq!(plan_of(&[]), Ok(Plan::default()));
}

#[test]
fn flags_win_over_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let bundle = signet_identity::testing::Authority::new("example.org").bundle().to_pem();
    std::fs::write(directory.path().join("bundle.pem"), bundle).unwrap();
    let file = directory.path().join("sidecar.toml");
    let text = "uid = 4242\n[ca]\naddress = \"ca:1\"\ntrust_domain = \"example.org\"\nbundle = \"bundle.pem\"\n\
                state_dir = \"state\"\n[operator]\naddress = \"operator:1\"\n[listen]\ntunnel = 25008\n[capture]\n\
                exclude_outbound_ports = [22, \"8000-8100\"]\nexclude_inbound_ports = [22]\nsource_addresses = 9\n";
    std::fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    let configured = plan_of(&["--config", path]).unwrap();
    assert_eq!((configured.uid, configured.ports.tunnel, configured.source_addresses), (4242, 25008, 9));
    assert_eq!(configured.exclude_outbound_ports.len(), 2);
    let flags = ["--config", path, "--uid", "7", "--exclude-outbound-ports", "80", "--tunnel-port", "35008"];
    let plan = plan_of(&flags).unwrap();
    assert_eq!((plan.uid, plan.ports.tunnel, plan.source_addresses), (7, 35008, 9));
    assert_eq!(plan.exclude_outbound_ports, [PortRange::one(80)]);
    assert_eq!(plan.exclude_inbound_ports, configured.exclude_inbound_ports);
    std::fs::write(&file, text.replace("uid = 4242", "uid = \"me\"")).unwrap();
    assert!(plan_of(&["--config", path]).unwrap_err().contains("sidecar.toml:1: uid: found \"me\""));
}

#[test]
fn wrong_options_are_refused_with_what_would_be_right() {
    for (arguments, words) in [
        (&["--exclude-inbound-ports", "15000-16000"][..], "15001"),
        (&["--exclude-outbound-ports", "99999"], "neither a port (22) nor a range"),
        (&["--exclude-outbound-cidrs", "10.0.0.0/33"], "10.0.0.0/33"),
        (&["--source-addresses", "65"], "1 to 64"),
        (&["--tunnel-port", "15001"], "five different ports"),
        (&["--health-port", "0"], "five different ports"),
        (&["--uid", "-1"], "-1"),
    ] {
        let refusal = plan_of(arguments).unwrap_err();
        assert!(refusal.contains(words), "{arguments:?}: {refusal}");
    }
}

#[test]
fn port_ranges_are_strict() {
    for good in ["1", "22", "65535", "0", "8000-8100", "7-7"] {
        let range: PortRange = good.parse().unwrap_or_else(|e| panic!("{good}: {e}"));
        assert_eq!(range.to_string().parse(), Ok(range));
    }
    for bad in ["", "-", "1-", "-1", "65536", "9-8", "1-2-3", " 1", "+1", "0x10", "http"] {
        assert!(bad.parse::<PortRange>().is_err(), "{bad:?}");
    }
}

#[test]
fn overlapping_and_touching_ranges_become_one() {
    let ranges: Vec<PortRange> = ["20-30", "65535", "25-40", "41", "1", "22"].map(|r| r.parse().unwrap()).to_vec();
    let joined: Vec<String> = PortRange::joined(&ranges).iter().map(ToString::to_string).collect();
    assert_eq!(joined, ["1", "20-41", "65535"]);
}
