//! The ground that the other tests stand on: namespaces are joined, a capture sees what passes, and nothing is left behind.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]
use signet::demo::{process::wait_for, wire, world::World};
use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn machines_of_a_world_reach_each_other_and_the_hub_over_both_protocols() {
    let mut world = World::new().unwrap();
    let (a, b) = (world.machine("a").unwrap(), world.machine("b").unwrap());
    for address in [b.v4.into(), b.v6.into(), IpAddr::from(world.hub().v4), world.hub().v6.into()] {
        let there = if b.addresses().contains(&address) { &b } else { world.hub() };
        let listener = there.enter(|| TcpListener::bind((address, 7000))).unwrap().unwrap();
        let mut caller = a.enter(|| TcpStream::connect((address, 7000))).unwrap().unwrap();
        caller.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        listener.accept().unwrap().0.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello", "over {address}");
    }
}

#[test]
fn a_capture_in_the_hub_sees_words_that_pass_between_two_machines() {
    let mut world = World::new().unwrap();
    let (a, b) = (world.machine("a").unwrap(), world.machine("b").unwrap());
    let capture = wire::Capture::start(world.hub()).unwrap();
    for address in b.addresses() {
        let listener = b.enter(|| TcpListener::bind((address, 7000))).unwrap().unwrap();
        let mut caller = a.enter(|| TcpStream::connect((address, 7000))).unwrap().unwrap();
        // Two segments share the word.
        caller.set_nodelay(true).unwrap();
        caller.write_all(b"the pass").unwrap();
        caller.write_all(b"word is swordfish").unwrap();
        drop(caller);
        let mut all = String::new();
        listener.accept().unwrap().0.read_to_string(&mut all).unwrap();
    }
    let segments = capture.finish().unwrap();
    assert_eq!(wire::occurrences(&segments, "password"), 2, "{segments:?}");
    assert_eq!(wire::occurrences(&segments, "passport"), 0);
    assert!(!segments.iter().any(wire::Segment::is_tls));
}

#[test]
fn a_world_that_is_dropped_leaves_no_name_no_process_and_no_file() {
    let mut world = World::new().unwrap();
    let a = world.machine("a").unwrap();
    let mut orphan = Command::new("sleep");
    orphan.arg("600");
    let sleeper = a.spawn("sleep", orphan).unwrap();
    let (pid, dir, name) = (sleeper.pid(), world.dir().to_owned(), a.name().to_owned());
    // The world must end it, not the handle.
    let _forgotten = std::mem::ManuallyDrop::new(sleeper);
    drop(world);
    assert!(!dir.exists());
    assert!(!Path::new("/run/netns").join(name).exists());
    let ended =
        || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(Some(()), |s| s.contains(") Z ").then_some(()));
    wait_for("the program has ended", SOON, ended).unwrap();
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next() {
    // A process that is gone, and a namespace and a directory under its name.
    let mut gone = Command::new("true").spawn().unwrap();
    let name = format!("signet-{}x1-0", gone.id());
    gone.wait().unwrap();
    let dir = std::env::temp_dir().join(&name);
    std::fs::create_dir(&dir).unwrap();
    assert!(Command::new("ip").args(["netns", "add", &format!("{name}-orders")]).status().unwrap().success());
    let _world = World::new().unwrap();
    assert!(!dir.exists());
    assert!(!Path::new("/run/netns").join(format!("{name}-orders")).exists());
}
