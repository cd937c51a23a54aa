//! What applications get from a connection that a mesh carries, in both families: the bytes, the ends and the resets of a direct
//! one. The tests of both framings ask for the same.
use crate::{
    FAMILIES, SOON,
    apps::{End, Server, call, echoed, end_of, receive, reset, send_noise},
};
use signet::demo::mesh::Workload;
use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    sync::mpsc,
};

/// `bytes` of noise each way at once arrive unchanged.
pub fn bulk_both_ways_at_once(checkout: &Workload, orders: &Workload, bytes: usize) {
    let (tell, hear) = mpsc::channel();
    let _server = Server::start(&orders.machine, 8080, move |stream| {
        let back = stream.try_clone().expect("a clone");
        let sender = std::thread::spawn(move || send_noise(&back, 2, bytes).expect("the server sends"));
        let received = receive(&stream).expect("the server receives");
        tell.send((received, sender.join().expect("the sender"))).expect("somebody listens");
    });
    for family in FAMILIES {
        let stream = call(&checkout.machine, orders.address(family), 8080).expect("the client connects");
        let there = stream.try_clone().expect("a clone");
        let sender = std::thread::spawn(move || send_noise(&there, 1, bytes).expect("the client sends"));
        let (count, hash) = receive(&stream).expect("the client receives");
        let sent = sender.join().expect("the sender");
        let ((count_there, hash_there), sent_back) = hear.recv_timeout(SOON).expect("the server has it all");
        assert_eq!((count, count_there), (bytes, bytes), "{family:?}");
        assert_eq!(hash, sent_back, "{family:?}: what the client received");
        assert_eq!(hash_there, sent, "{family:?}: what the server received");
    }
}

/// The client ends its direction and gets the answer; the server ends its direction and hears the rest.
pub fn half_close_in_both_directions(checkout: &Workload, orders: &Workload) {
    // The server reads to the end before it says its first word.
    let late = Server::start(&orders.machine, 8080, |mut stream| {
        let mut all = String::new();
        stream.read_to_string(&mut all).expect("the client's words");
        // What the client then reads is the test.
        let _ = stream.write_all(format!("you said: {all}").as_bytes());
    });
    for family in FAMILIES {
        let mut stream = call(&checkout.machine, orders.address(family), 8080).expect("the client connects");
        stream.write_all(b"all I have").expect("the client's words");
        stream.shutdown(Shutdown::Write).expect("the client's end");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the server's answer");
        assert_eq!(answer, "you said: all I have", "{family:?}");
    }
    drop(late);
    // The server ends its direction first, and goes on listening.
    let (tell, hear) = mpsc::channel();
    let _early = Server::start(&orders.machine, 8080, move |mut stream| {
        stream.shutdown(Shutdown::Write).expect("the server's end");
        let mut all = String::new();
        stream.read_to_string(&mut all).expect("the client's words");
        tell.send(all).expect("somebody listens");
    });
    for family in FAMILIES {
        let mut stream = call(&checkout.machine, orders.address(family), 8080).expect("the client connects");
        let heard = stream.read(&mut [0; 1]).expect("an end");
        assert_eq!(heard, 0, "{family:?}: the server's end arrives though the client has not ended");
        stream.write_all(b"after your end").expect("the client's words");
        stream.shutdown(Shutdown::Write).expect("the client's end");
        assert_eq!(hear.recv_timeout(SOON).expect("the server has it all"), "after your end", "{family:?}");
    }
}

/// The client resets, and the server sees a reset.
pub fn a_reset_by_the_client(checkout: &Workload, orders: &Workload) {
    let (tell, hear) = mpsc::channel();
    let _server = Server::start(&orders.machine, 8080, move |mut stream| {
        // What the client then gets is the test.
        let _ = stream.read(&mut [0; 4]);
        let _ = stream.write_all(b"pong");
        tell.send(end_of(&mut stream, SOON)).expect("somebody listens");
    });
    for family in FAMILIES {
        let mut stream = call(&checkout.machine, orders.address(family), 8080).expect("the client connects");
        echoed(&mut stream, b"ping").expect("an answer");
        reset(stream);
        assert_eq!(hear.recv_timeout(SOON * 2).expect("the server sees an end"), End::Reset, "{family:?}");
    }
}

/// The server resets, and the client sees a reset.
pub fn a_reset_by_the_server(checkout: &Workload, orders: &Workload) {
    let _server = Server::start(&orders.machine, 8080, |mut stream| {
        // What the client then gets is the test.
        let _ = stream.read(&mut [0; 4]);
        let _ = stream.write_all(b"pong");
        let _ = stream.read(&mut [0; 1]);
        reset(stream);
    });
    for family in FAMILIES {
        let mut stream = call(&checkout.machine, orders.address(family), 8080).expect("the client connects");
        echoed(&mut stream, b"ping").expect("an answer");
        stream.write_all(b"!").expect("the client's last word");
        assert_eq!(end_of(&mut stream, SOON), End::Reset, "{family:?}");
    }
}
