//! `capture` in real network namespaces with the real kernel: what is redirected, what is left alone, and that `down` leaves
//! nothing behind. Needs root; without it every test says so and passes, unless `CI=true`.
#![allow(clippy::expect_used)]

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space, set_thread_res_uid};
use signet_sidecar::capture::{self, CaptureError, Plan, PortRange};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);
/// Long enough for a handshake over veth, short enough for tests of what must not answer.
const NO_ANSWER: Duration = Duration::from_millis(700);
/// The workload's namespace, and another machine's.
const HERE: [&str; 2] = ["10.77.0.2", "2001:db8:77::2"];
const THERE: [&str; 2] = ["10.77.0.3", "2001:db8:77::3"];

/// Two network namespaces joined by a cable; removed at the end, also after a panic.
struct World {
    here: String,
    there: String,
}

/// Runs the body as a test with a fresh world, or says why not.
fn with_world(body: impl FnOnce(&World)) {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "this test needs root, and CI must run it");
        // Past the test harness, which shows the output of failed tests alone.
        drop(writeln!(io::stderr(), "SKIPPED: network namespaces need root"));
        return;
    }
    body(&World::new());
}

fn sh(command: &str) -> String {
    let out = Command::new("sh").args(["-ec", command]).output().expect("sh");
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

impl World {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("sgcap{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let world = Self { here: format!("{name}a"), there: format!("{name}b") };
        let Self { here, there } = &world;
        sh(&format!("ip netns add {here}; ip netns add {there}"));
        sh(&format!("ip -n {here} link add eth0 type veth peer name eth0 netns {there}"));
        for (namespace, [v4, v6]) in [(here, HERE), (there, THERE)] {
            sh(&format!(
                "ip -n {namespace} link set lo up; ip -n {namespace} link set eth0 up; \
                 ip -n {namespace} addr add {v4}/24 dev eth0; ip -n {namespace} addr add {v6}/64 dev eth0 nodad"
            ));
        }
        world
    }

    /// Runs in the workload's namespace.
    fn here<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        inside(&self.here, body)
    }

    /// Runs on the other machine.
    fn there<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        inside(&self.there, body)
    }

    fn up(&self, plan: &Plan) -> Result<(), CaptureError> {
        self.here(|| capture::up(plan))
    }

    fn ruleset(&self) -> String {
        sh(&format!("ip netns exec {} nft -n list ruleset", self.here))
    }

    fn addresses(&self) -> String {
        sh(&format!("ip -n {} addr show dev lo", self.here))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for namespace in [&self.here, &self.there] {
            drop(Command::new("ip").args(["netns", "del", namespace]).status());
        }
    }
}

/// Runs on a thread that has moved into the namespace.
fn inside<T: Send>(namespace: &str, body: impl FnOnce() -> T + Send) -> T {
    let file = std::fs::File::open(format!("/run/netns/{namespace}")).expect("namespace");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
            body()
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn listen(address: &str, port: u16) -> TcpListener {
    TcpListener::bind((address, port)).expect("listener")
}

/// The next connection, if one comes within `patience`.
fn accept(listener: &TcpListener, patience: Duration) -> Option<(TcpStream, SocketAddr)> {
    // Zero would mean for ever.
    let patience = patience.max(Duration::from_millis(1));
    socket2::SockRef::from(listener).set_read_timeout(Some(patience)).expect("timeout");
    match listener.accept() {
        Ok(accepted) => Some(accepted),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => panic!("accept: {error}"),
    }
}

fn connect(address: &str, port: u16) -> io::Result<TcpStream> {
    let address: IpAddr = address.parse().expect("address");
    TcpStream::connect_timeout(&(address, port).into(), PATIENCE)
}

/// Where the connection was going before it was redirected.
fn original_destination(stream: &TcpStream) -> SocketAddr {
    if stream.local_addr().expect("local address").is_ipv4() {
        rustix::net::sockopt::ip_original_dst(stream).expect("SO_ORIGINAL_DST").into()
    } else {
        rustix::net::sockopt::ipv6_original_dst(stream).expect("IP6T_SO_ORIGINAL_DST").into()
    }
}

fn at(address: &str, port: u16) -> SocketAddr {
    (address.parse::<IpAddr>().expect("address"), port).into()
}

fn ports(text: &str) -> Vec<PortRange> {
    text.split(',').map(|range| range.parse().expect("port range")).collect()
}

/// Everything that a plan can hold.
fn rich_plan() -> Plan {
    Plan {
        exclude_outbound_ports: ports("22,8000-8100,8050-8200,9000"),
        exclude_inbound_ports: ports("22,7000-7010"),
        exclude_outbound_cidrs: ["10.1.0.0/16", "10.2.3.0/23", "192.0.2.7/32", "fd00::/8", "2001:db8:5::/44"]
            .map(|n| n.parse().expect("network"))
            .to_vec(),
        include_outbound_cidrs: ["0.0.0.0/0", "2001:db8::/32"].map(|n| n.parse().expect("network")).to_vec(),
        ..Plan::default()
    }
}

#[test]
fn outbound_is_redirected_and_the_original_destination_is_known() {
    with_world(|world| {
        world.up(&Plan::default()).expect("up");
        for (loopback, there) in [("127.0.0.1", THERE[0]), ("::1", THERE[1])] {
            world.here(|| {
                let sidecar = listen(loopback, 15001);
                let mut application = connect(there, 80).expect("captured");
                let (mut captured, _) = accept(&sidecar, PATIENCE).expect("captured");
                assert_eq!(original_destination(&captured), at(there, 80));
                captured.write_all(b"x").expect("write");
                application.read_exact(&mut [0]).expect("the application hears the sidecar");
            });
        }
    });
}

#[test]
fn the_sidecars_own_user_is_not_captured() {
    with_world(|world| {
        world.up(&Plan { uid: 12137, ..Plan::default() }).expect("up");
        for there in THERE {
            let peer = world.there(|| listen(there, 80));
            world.here(|| {
                // For this thread alone.
                let uid = rustix::process::Uid::from_raw(12137);
                set_thread_res_uid(uid, uid, uid).expect("setresuid");
                connect(there, 80).expect("direct");
            });
            accept(&peer, PATIENCE).expect("the peer itself was reached");
        }
    });
}

#[test]
fn the_sidecar_sees_its_own_probe_whatever_is_left_out() {
    with_world(|world| {
        let everything = Plan {
            uid: 12137,
            exclude_outbound_ports: ports("1-65535"),
            exclude_outbound_cidrs: vec!["0.0.0.0/0".parse().expect("network")],
            ..Plan::default()
        };
        world.up(&everything).expect("up");
        world.here(|| {
            let sidecar = listen("127.0.0.1", 15001);
            let uid = rustix::process::Uid::from_raw(12137);
            set_thread_res_uid(uid, uid, uid).expect("setresuid");
            TcpStream::connect_timeout(&capture::PROBE, PATIENCE).expect("redirected");
            let (probe, _) = accept(&sidecar, PATIENCE).expect("redirected");
            assert_eq!(original_destination(&probe), capture::PROBE);
        });
    });
}

#[test]
fn inbound_plaintext_is_redirected_and_the_original_destination_is_known() {
    with_world(|world| {
        world.up(&Plan::default()).expect("up");
        for (every, here) in [("0.0.0.0", HERE[0]), ("::", HERE[1])] {
            let sidecar = world.here(|| listen(every, 15006));
            let application = world.here(|| listen(here, 8080));
            world.there(|| connect(here, 8080)).expect("redirected");
            let (captured, _) = accept(&sidecar, PATIENCE).expect("redirected");
            assert_eq!(original_destination(&captured), at(here, 8080));
            assert!(
                accept(&application, Duration::ZERO).is_none(),
                "the application must not be reached past the sidecar"
            );
        }
    });
}

#[test]
fn tunnel_health_and_excluded_ports_are_reached_directly() {
    with_world(|world| {
        world.up(&rich_plan()).expect("up");
        for here in HERE {
            for port in [15008, 15021, 22, 7000, 7005, 7010] {
                let listener = world.here(|| listen(here, port));
                world.there(|| connect(here, port)).unwrap_or_else(|e| panic!("{here} port {port}: {e}"));
                assert!(accept(&listener, PATIENCE).is_some(), "{here} port {port} was not reached directly");
            }
        }
    });
}

#[test]
fn f13_f22_the_sidecars_closed_ports_are_not_reached_from_outside() {
    with_world(|world| {
        world.up(&Plan::default()).expect("up");
        for (every, here) in [("0.0.0.0", HERE[0]), ("::", HERE[1])] {
            // As wide as a mistake could bind them.
            let [outbound, plaintext, admin] = [15001, 15006, 15020].map(|port| world.here(|| listen(every, port)));
            for port in [15001, 15020] {
                world.there(|| connect(here, port)).expect("redirected");
                let (captured, _) = accept(&plaintext, PATIENCE).expect("redirected");
                // Which the data path refuses as a port of its own.
                assert_eq!(original_destination(&captured).port(), port);
            }
            let straight = world.there(|| TcpStream::connect_timeout(&at(here, 15006), NO_ANSWER));
            assert!(straight.is_err(), "15006 itself answered a connection that was not redirected");
            assert!(accept(&outbound, Duration::ZERO).is_none() && accept(&admin, Duration::ZERO).is_none());
        }
    });
}

/// A TCP segment without payload, from port 41000 of the other machine to port 8080 of this one, at their addresses of a family:
/// 0 is IPv4, 1 is IPv6.
fn segment(family: usize, sequence: u32, acknowledge: u32, flags: u8) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(41000u16.to_be_bytes());
    tcp.extend(8080u16.to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    tcp.extend(acknowledge.to_be_bytes());
    tcp.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    let address = |text: &str| match text.parse::<IpAddr>().expect("address") {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    // Protocol and length: in IPv6 each takes more room, with zeros, which change no sum.
    let pseudo = [address(THERE[family]), address(HERE[family]), vec![0, 6, 0, 20]].concat();
    let words = |bytes: &[u8]| bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum::<u32>();
    let sum = words(&pseudo) + words(&tcp);
    let sum = (sum & 0xffff) + (sum >> 16);
    tcp[16..18].copy_from_slice(&(!(sum as u16 + (sum >> 16) as u16)).to_be_bytes());
    tcp
}

/// Whether the application's port answers these segments with SYN and ACK within `patience`.
fn answers(raw: &socket2::Socket, family: usize, segments: &[Vec<u8>], patience: Duration) -> bool {
    for segment in segments {
        raw.send_to(segment, &at(HERE[family], 0).into()).expect("send");
    }
    // A raw socket gives the header of IPv4 too, and of IPv6 not.
    let tcp = [20, 0][family];
    raw.set_read_timeout(Some(patience)).expect("timeout");
    let mut packet = [0; 256];
    loop {
        match std::io::Read::read(&mut &*raw, &mut packet) {
            // Ports, and the flags at 13.
            Ok(length) if length >= tcp + 20 => {
                if packet[tcp..tcp + 4] == [0x1f, 0x90, 0xa0, 0x28] && packet[tcp + 13] & 0x12 == 0x12 {
                    return true;
                }
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => panic!("raw socket: {error}"),
        }
    }
}

#[test]
fn f22_a_forged_open_connection_does_not_lead_past_the_redirect() {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    for (family, domain) in [(0, socket2::Domain::IPV4), (1, socket2::Domain::IPV6)] {
        with_world(|world| {
            let kind = socket2::Type::RAW;
            let raw =
                world.there(|| socket2::Socket::new(domain, kind, Some(socket2::Protocol::TCP)).expect("raw socket"));
            let _application = world.here(|| listen(HERE[family], 8080));
            let open = [segment(family, 1, 0, SYN)];
            assert!(answers(&raw, family, &open, PATIENCE), "the forgery itself must work where nothing is captured");
            // The workload's refusal of the forged packet would tell conntrack better; an attacker can win that race.
            sh(&format!(
                "ip netns exec {} nft 'add table inet late; \
                 add chain inet late out {{ type filter hook output priority -300; }}; \
                 add rule inet late out tcp flags rst drop'",
                world.here
            ));
            world.up(&Plan::default()).expect("up");
            for all in ["ipv4", "ipv6"] {
                sh(&format!("ip netns exec {} conntrack -F -f {all} 2>/dev/null || true", world.here));
            }
            let forged = [segment(family, 100_000, 1, ACK), segment(family, 200_000, 0, SYN)];
            assert!(
                !answers(&raw, family, &forged, NO_ANSWER),
                "the application answered a connection that was not redirected: {domain:?}"
            );
        });
    }
}

#[test]
fn loopback_and_own_addresses_are_not_captured() {
    with_world(|world| {
        world.up(&Plan::default()).expect("up");
        world.here(|| {
            for own in ["127.0.0.1", "127.8.8.8", "::1", HERE[0], HERE[1]] {
                let application = listen(own, 8080);
                connect(own, 8080).unwrap_or_else(|e| panic!("{own}: {e}"));
                assert!(accept(&application, PATIENCE).is_some(), "{own} was captured");
            }
        });
    });
}

#[test]
fn excluded_and_included_destinations() {
    with_world(|world| {
        let network = |text: &str| vec![text.parse().expect("network")];
        let excluded_port = Plan { exclude_outbound_ports: ports("70-90"), ..Plan::default() };
        let excluded_network = Plan { exclude_outbound_cidrs: network("10.77.0.0/24"), ..Plan::default() };
        let included_network = Plan { include_outbound_cidrs: network("2001:db8:77::/48"), ..Plan::default() };
        // Which of IPv4 and IPv6 is captured then.
        for (plan, captured) in
            [(excluded_port, [false, false]), (excluded_network, [false, true]), (included_network, [false, true])]
        {
            world.up(&plan).expect("up");
            for ((loopback, there), captured) in [("127.0.0.1", THERE[0]), ("::1", THERE[1])].into_iter().zip(captured)
            {
                let sidecar = world.here(|| listen(loopback, 15001));
                let peer = world.there(|| listen(there, 80));
                world.here(|| connect(there, 80)).expect("either way");
                let reached = if captured { &sidecar } else { &peer };
                assert!(accept(reached, PATIENCE).is_some(), "{there} captured: want {captured}, with {plan:?}");
            }
        }
    });
}

#[test]
fn udp_is_untouched() {
    with_world(|world| {
        world.up(&Plan::default()).expect("up");
        let bind = |address: &str| std::net::UdpSocket::bind((address, 5353)).expect("udp");
        let (here, there) = (world.here(|| bind(HERE[0])), world.there(|| bind(THERE[0])));
        for (from, to, name) in [(&here, &there, THERE[0]), (&there, &here, HERE[0])] {
            from.send_to(b"x", (name, 5353)).expect("send");
            to.set_read_timeout(Some(PATIENCE)).expect("timeout");
            to.recv(&mut [0]).unwrap_or_else(|e| panic!("to {name}: {e}"));
        }
    });
}

#[test]
fn connections_that_were_open_before_live_on() {
    with_world(|world| {
        let listener = world.there(|| listen(THERE[0], 80));
        let mut outbound = world.here(|| connect(THERE[0], 80)).expect("before");
        let (mut peer, _) = accept(&listener, PATIENCE).expect("before");
        let listener = world.here(|| listen(HERE[0], 22));
        let mut caller = world.there(|| connect(HERE[0], 22)).expect("before");
        let (mut inbound, _) = accept(&listener, PATIENCE).expect("before");
        world.up(&Plan::default()).expect("up");
        for (from, to) in [(&mut outbound, &mut peer), (&mut caller, &mut inbound)] {
            to.set_read_timeout(Some(PATIENCE)).expect("timeout");
            from.write_all(b"still there?").expect("write");
            to.read_exact(&mut [0; 12]).expect("an open connection was torn by `capture up`");
        }
    });
}

#[test]
fn up_is_idempotent_and_replaces() {
    with_world(|world| {
        world.up(&rich_plan()).expect("up");
        let (rules, addresses) = (world.ruleset(), world.addresses());
        world.up(&rich_plan()).expect("up again");
        assert_eq!(world.ruleset(), rules);
        assert_eq!(world.addresses(), addresses);
        let other = Plan { source_addresses: 1, uid: 4242, ..Plan::default() };
        world.up(&other).expect("up otherwise");
        assert!(
            world.ruleset().contains("meta skuid 4242") && !world.ruleset().contains("2137"),
            "{}",
            world.ruleset()
        );
        assert_eq!(world.addresses().matches("lo:signet").count(), 1, "{}", world.addresses());
    });
}

#[test]
fn down_removes_exactly_what_up_made() {
    with_world(|world| {
        sh(&format!("ip netns exec {} nft add table inet other", world.here));
        sh(&format!("ip -n {} addr add 169.254.113.200/32 dev lo", world.here));
        let before = (world.ruleset(), world.addresses());
        world.here(capture::down).expect("down without up");
        assert_eq!((world.ruleset(), world.addresses()), before);
        world.up(&Plan { source_addresses: 64, ..rich_plan() }).expect("up");
        assert_ne!(world.ruleset(), before.0);
        world.here(capture::down).expect("down");
        assert_eq!((world.ruleset(), world.addresses()), before);
        world.here(capture::down).expect("down again");
    });
}

#[test]
fn a_table_of_somebody_else_is_left_alone() {
    with_world(|world| {
        sh(&format!("ip netns exec {} nft add table inet signet", world.here));
        let before = (world.ruleset(), world.addresses());
        assert!(matches!(world.up(&Plan::default()), Err(CaptureError::ForeignTable)));
        world.here(capture::down).expect("nothing of ours to remove");
        assert_eq!((world.ruleset(), world.addresses()), before);
    });
}

#[test]
fn print_shows_what_up_makes() {
    with_world(|world| {
        for plan in [Plan::default(), rich_plan()] {
            world.up(&plan).expect("up");
            let made = world.ruleset();
            world.here(capture::down).expect("down");
            assert_eq!(world.ruleset(), "");
            let script = capture::script(&plan);
            let file = tempfile::NamedTempFile::new().expect("file");
            std::fs::write(file.path(), &script).expect("script");
            // Twice: the script replaces what it finds.
            for _ in 0..2 {
                sh(&format!("ip netns exec {} nft -f {}", world.here, file.path().display()));
                assert_eq!(world.ruleset(), made, "{script}");
            }
            world.here(capture::down).expect("down takes the printed table for ours, as its comment says");
            assert_eq!(world.ruleset(), "");
        }
    });
}

#[test]
fn without_the_right_to_change_the_network_it_says_so() {
    with_world(|world| {
        let error = world.here(|| {
            let uid = rustix::process::Uid::from_raw(12137);
            set_thread_res_uid(uid, uid, uid).expect("setresuid");
            capture::up(&Plan::default())
        });
        let error = error.expect_err("must be refused");
        assert!(matches!(error, CaptureError::NotPermitted), "{error:?}");
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
        assert_eq!(world.ruleset(), "");
    });
}

#[test]
fn a_loopback_interface_that_is_down_is_named() {
    with_world(|world| {
        sh(&format!("ip -n {} link set lo down", world.here));
        assert!(matches!(world.up(&Plan::default()), Err(CaptureError::LoopbackDown)));
        assert_eq!(world.ruleset(), "");
    });
}

#[test]
fn without_ipv6_the_rest_still_works() {
    with_world(|world| {
        sh(&format!("ip netns exec {} sysctl -qw net.ipv6.conf.all.disable_ipv6=1", world.here));
        world.up(&Plan::default()).expect("up");
        assert!(!world.addresses().contains("inet6"), "{}", world.addresses());
        world.here(capture::down).expect("down");
    });
}

/// Binds without a port, so that only the whole four-tuple must be free, as the data path does.
fn dial_from(source: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket.into())
}

#[test]
fn forty_thousand_short_connections_to_the_application_do_not_run_out_of_ports() {
    with_world(|world| {
        world.up(&Plan::default()).expect("up");
        let sources = capture::sources(Plan::default().source_addresses);
        // One address has 28,232 ports; IPv6 follows the same path, and is only shown to work.
        for (here, count) in HERE.into_iter().zip([40_000, 1_000]) {
            world.here(|| {
                let application = listen(here, 8080);
                let to = at(here, 8080);
                let from: Vec<IpAddr> = sources.iter().copied().filter(|s| s.is_ipv4() == to.is_ipv4()).collect();
                std::thread::scope(|scope| {
                    // The side that closes first keeps the port: ours, as with most HTTP clients.
                    let served = scope.spawn(move || {
                        for _ in 0..count {
                            let (mut stream, _) = application.accept().expect("accept");
                            assert_eq!(stream.read(&mut [0; 8]).expect("end"), 0);
                        }
                    });
                    for (turn, source) in (0..count).zip(from.iter().cycle()) {
                        let stream =
                            dial_from(*source, to).unwrap_or_else(|e| panic!("connection {turn} from {source}: {e}"));
                        assert_eq!(stream.local_addr().expect("local").ip(), *source);
                    }
                    served.join().expect("application");
                });
            });
        }
    });
}

#[test]
fn a_fresh_namespace_is_left_as_it_was_found_when_the_plan_is_wrong() {
    with_world(|world| {
        let before = (world.ruleset(), world.addresses());
        for plan in [
            Plan { source_addresses: 0, ..Plan::default() },
            Plan { source_addresses: 65, ..Plan::default() },
            Plan { exclude_inbound_ports: ports("1-65535"), ..Plan::default() },
        ] {
            assert!(matches!(world.up(&plan), Err(CaptureError::Plan(_))));
        }
        assert_eq!((world.ruleset(), world.addresses()), before);
    });
}
