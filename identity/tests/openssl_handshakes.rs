//! Handshakes with `openssl s_client` and `openssl s_server`: peers that are not ours.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be made ends the test")]
mod openssl;

use openssl::{Ca, LEAF, OpenSsl};
use rustls::{ClientConnection, ServerConnection, StreamOwned};
use signet_identity::testing::{Authority, Signer};
use signet_identity::{Bundle, ClientAuth, Credentials, PrivateKey, Rejection, Svid, TrustState, tls};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// One CA made by openssl, our credentials from it, and the files of the other end.
struct Bench {
    openssl: OpenSsl,
    credentials: Arc<Credentials>,
    ca: Ca,
}

impl Bench {
    fn new() -> Self {
        let openssl = OpenSsl::new();
        let ca = openssl.ca("prod.example");
        let bundles = [(ca.trust_domain.parse().unwrap(), Bundle::from_pem(&ca.root_pem).unwrap())].into();
        let credentials = Credentials::new(TrustState { sequence: 1, bundles, ..TrustState::default() }).unwrap();
        let key = openssl.key(&["ec", "ec_paramgen_curve:P-256"]);
        let chain = ca.leaf_of(&openssl, &key, LEAF, &[]);
        let key = PrivateKey::from_pem(&std::fs::read_to_string(key).unwrap()).unwrap();
        credentials.set_svid(Svid::new(chain, &key).unwrap());
        Self { openssl, credentials, ca }
    }
    /// Key and certificate files of a peer with these extensions.
    fn peer_files(&self, extensions: &str) -> (String, String) {
        let key = self.openssl.key(&["ec", "ec_paramgen_curve:P-256"]);
        let chain = self.ca.leaf_of(&self.openssl, &key, extensions, &[]);
        let pem = self.openssl.run(&["x509", "-inform", "DER"], chain[0].as_ref());
        (key, self.openssl.file(&pem))
    }
    /// Our server, once: what became of the one connection that it took.
    fn serve_once(&self) -> (u16, std::thread::JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = self.credentials.server_config(ClientAuth::Required, &[]);
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
            let mut line = [0; 6];
            stream.read_exact(&mut line)?;
            assert_eq!(&line, b"hello\n");
            stream.write_all(b"welcome\n")?;
            stream.conn.send_close_notify();
            stream.flush()
        });
        (port, server)
    }
    fn s_client(&self, port: u16, files: &(String, String), more: &[&str]) -> Output {
        let address = format!("127.0.0.1:{port}");
        let mut client = Command::new("openssl")
            .args([
                "s_client",
                "-connect",
                &address,
                "-key",
                &files.0,
                "-cert",
                &files.1,
                "-cert_chain",
                &self.ca.issuing,
            ])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A refused client may be gone before it was told anything.
        let _ = client.stdin.take().unwrap().write_all(b"hello\n");
        client.wait_with_output().unwrap()
    }
    /// `openssl s_server` with these files, ready for connections. Killed when dropped.
    fn s_server(&self, files: &(String, String), more: &[&str]) -> Server {
        let mut child = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-key", &files.0, "-cert", &files.1])
            .args(["-cert_chain", &self.ca.issuing, "-Verify", "3", "-CAfile"])
            .arg(self.openssl.file(self.ca.root_pem.as_bytes()))
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.find_map(|line| line.unwrap().strip_prefix("ACCEPT 127.0.0.1:").map(|p| p.parse().unwrap()));
        std::thread::spawn(move || lines.for_each(drop));
        Server { child, port: port.expect("s_server says where it listens") }
    }
    /// Our client: sends a line and waits for any answer.
    fn connect(&self, port: u16) -> io::Result<ClientConnection> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let config = self.credentials.client_config(&[]);
        let mut stream = StreamOwned::new(ClientConnection::new(config, tls::unnamed()).unwrap(), stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        // Whatever the server has to say behind the handshake, tickets included, comes before the answer to this.
        stream.write_all(b"Q\n")?;
        stream.flush()?;
        Ok(stream.conn)
    }
}

struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn code(error: &io::Error) -> Option<&'static str> {
    tls::rejection(error).map(|rejection: Rejection| rejection.code())
}

#[test]
fn openssl_clients_with_an_svid_are_served() {
    let bench = Bench::new();
    let (port, server) = bench.serve_once();
    let output = bench.s_client(port, &bench.peer_files(LEAF), &["-quiet"]);
    server.join().unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "welcome\n");
}

#[test]
fn f17_a_client_of_tls_1_2_is_refused() {
    let bench = Bench::new();
    for version in ["-tls1_2", "-tls1_1"] {
        let (port, server) = bench.serve_once();
        let output = bench.s_client(port, &bench.peer_files(LEAF), &[version]);
        assert!(!output.status.success(), "{version}: {}", String::from_utf8_lossy(&output.stdout));
        assert!(server.join().unwrap().is_err(), "{version}");
    }
}

#[test]
fn f17_a_server_of_tls_1_2_is_refused() {
    let bench = Bench::new();
    let server = bench.s_server(&bench.peer_files(LEAF), &["-tls1_2"]);
    let error = bench.connect(server.port).unwrap_err();
    assert_eq!(code(&error), None, "no certificate came that far");
    let server = bench.s_server(&bench.peer_files(LEAF), &["-tls1_3"]);
    bench.connect(server.port).expect("the same server with TLS 1.3 is good");
}

#[test]
fn f1_v7_an_openssl_client_gets_no_ticket_and_nothing_to_resume() {
    let bench = Bench::new();
    let (port, server) = bench.serve_once();
    let session = bench.openssl.file(b"");
    let output = bench.s_client(port, &bench.peer_files(LEAF), &["-sess_out", &session, "-ign_eof"]);
    server.join().unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("welcome"), "{said}");
    assert!(!said.contains("Post-Handshake New Session Ticket"), "{said}");
    assert!(said.contains("New, TLSv1.3"), "{said}");
    assert_eq!(std::fs::metadata(session).unwrap().len(), 0, "a session was stored");
}

#[test]
fn bad_openssl_peers_are_refused_on_both_sides_with_the_reason() {
    let bench = Bench::new();
    let uri = "URI:spiffe://prod.example/ns/shop/sa/orders";
    for (what, extensions, wanted) in [
        ("two URIs", LEAF.replace(uri, &format!("{uri},URI:spiffe://prod.example/x")), "peer_cert_two_uri_sans"),
        ("upper case", LEAF.replace("spiffe://prod", "spiffe://PROD"), "peer_cert_spiffe_id"),
        (
            "no EKU",
            LEAF.replace("extendedKeyUsage = serverAuth,clientAuth\n", ""),
            "peer_cert_extended_key_usage_missing",
        ),
        ("keyUsage", LEAF.replace("digitalSignature", "digitalSignature,keyAgreement"), "peer_cert_key_usage"),
        ("unknown critical", format!("{LEAF}\n1.2.3.4 = critical,ASN1:NULL"), "peer_cert_unknown_critical_extension"),
    ] {
        let files = bench.peer_files(&extensions);
        let (port, server) = bench.serve_once();
        bench.s_client(port, &files, &["-quiet"]);
        assert_eq!(code(&server.join().unwrap().unwrap_err()), Some(wanted), "{what} as client");
        let server = bench.s_server(&files, &[]);
        assert_eq!(code(&bench.connect(server.port).unwrap_err()), Some(wanted), "{what} as server");
    }
}

#[test]
fn our_root_is_good_for_openssl_too() {
    let ca = Authority::new("prod.example");
    let openssl = OpenSsl::new();
    let pem = |signer: &Signer| Bundle { roots: vec![signer.certificate.clone()] }.to_pem();
    let svid = ca.svid(&ca.id("shop", "orders"), Some("o-1"));
    let leaf = openssl.run(&["x509", "-inform", "DER"], svid.chain()[0].as_ref());
    let (root, issuing, leaf) =
        (openssl.file(pem(&ca.root).as_bytes()), openssl.file(pem(&ca.issuing).as_bytes()), openssl.file(&leaf));
    let said = openssl.run(&["verify", "-x509_strict", "-CAfile", &root, "-untrusted", &issuing, &leaf], b"");
    assert!(String::from_utf8_lossy(&said).trim().ends_with("OK"));
}
