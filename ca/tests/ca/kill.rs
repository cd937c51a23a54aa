//! `kill -9` of the real program in the middle of its work.
use crate::support::{CHECKOUT, Client, Host, ORDERS, connect, database, token, write_config};
use rustls_pki_types::CertificateDer;
use signet_identity::verify;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

const LIMITS: &str =
    "[limits]\nper_workload = 100000\nper_workload_burst = 100000\nper_address = 100000\nper_address_burst = 100000\n";

/// The program, killed when it goes out of scope.
struct Program {
    child: Child,
    address: SocketAddr,
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    /// Starts it on a port of the system's choice, and waits until its log says which one it serves on.
    async fn start(dir: &Path) -> Self {
        let log = dir.join("log");
        let child = Command::new(env!("CARGO_BIN_EXE_signet-ca"))
            .args(["run", "--config"])
            .arg(write_config(dir, LIMITS))
            .env("RUST_LOG", "info")
            .stderr(Stdio::from(File::create(&log).unwrap()))
            .spawn()
            .unwrap();
        // The port is not known yet; that it is killed at the end counts from here on.
        let mut program = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let said = fs::read_to_string(&log).unwrap();
            if let Some(address) = said.lines().find_map(serves) {
                program.address = address;
                return program;
            }
            assert!(Instant::now() < end, "the program did not serve in 60 s: {said}");
            assert!(program.child.try_wait().unwrap().is_none(), "the program ended: {said}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn client(&self, state: &Path) -> Client {
        connect(state, &self.address.to_string())
    }
}

/// Where the program listens, if this line of its log says it.
fn serves(line: &str) -> Option<SocketAddr> {
    // With what follows: an address whose end is not written yet would be another one.
    let (address, _) = line.split_once(" signet-ca serves listen=")?.1.split_once(' ')?;
    address.parse().ok()
}

fn serial(chain: &[Vec<u8>]) -> Vec<u8> {
    verify::parse_leaf(&CertificateDer::from(chain[0].as_slice())).unwrap().serial
}

#[tokio::test(flavor = "multi_thread")]
async fn f24_after_kill_9_every_certificate_is_in_the_journal_and_every_token_was_used_at_most_once() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let host = Arc::new(Host::new());
    // What clients got, over all lives of the program.
    let handed_out = Arc::new(Mutex::new(Vec::new()));
    let mut registered = Vec::new();
    for life in 0..4 {
        let program = Program::start(dir.path()).await;
        if life == 0 {
            let token = token(&state, ORDERS, "orders-1").await;
            host.join(&mut program.client(&state), &token).await.unwrap();
        }
        let one_use = token(&state, CHECKOUT, &format!("checkout-{life}")).await;
        let before = handed_out.lock().await.len();
        let workers: Vec<_> = (0..8)
            .map(|_| {
                let (mut client, host, handed_out) = (program.client(&state), host.clone(), handed_out.clone());
                tokio::spawn(async move {
                    while let Ok(issued) = host.issue(&mut client).await {
                        handed_out.lock().await.push(serial(&issued.chain));
                    }
                })
            })
            .collect();
        let joiners: Vec<_> = (0..8)
            .map(|_| {
                let (mut client, token) = (program.client(&state), one_use.clone());
                tokio::spawn(async move { Host::new().join(&mut client, &token).await.ok() })
            })
            .collect();
        let end = Instant::now() + Duration::from_secs(30);
        while handed_out.lock().await.len() < before + 100 + 37 * life {
            assert!(Instant::now() < end, "too few certificates in 30 s");
            tokio::task::yield_now().await;
        }
        drop(program); // SIGKILL
        for worker in workers {
            worker.await.unwrap();
        }
        for joiner in joiners {
            registered.extend(joiner.await.unwrap().map(|answer| (answer.workload_uid, answer.host_key_id)));
        }
    }
    let program = Program::start(dir.path()).await;
    let handed_out = handed_out.lock().await;
    let distinct: BTreeSet<_> = handed_out.iter().collect();
    assert_eq!(distinct.len(), handed_out.len(), "serials are unique");
    let database = database(&state);
    let journaled: BTreeSet<Vec<u8>> = database
        .prepare("SELECT serial FROM journal")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let missing = distinct.iter().filter(|serial| !journaled.contains(**serial)).count();
    assert_eq!(missing, 0, "of {} certificates handed out, {missing} are not in the journal", distinct.len());
    let uids: BTreeSet<_> = registered.iter().map(|(uid, _)| uid).collect();
    assert_eq!(uids.len(), registered.len(), "a token registered two keys: {registered:?}");
    for (uid, key) in &registered {
        let held: String =
            database.query_row("SELECT key_id FROM host_keys WHERE uid = ?1", [uid], |row| row.get(0)).unwrap();
        assert_eq!(held, *key, "an answer that was given is remembered");
    }
    host.issue(&mut program.client(&state)).await.expect("the host key outlived every kill");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_with_0_though_a_stream_is_open_and_leaves_no_socket_that_hinders_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    for _ in 0..2 {
        let mut program = Program::start(dir.path()).await;
        let request = signet_proto::ca::WatchTrustRequest { sequence_held: 0 };
        let mut stream = program.client(&state).watch_trust(request).await.unwrap().into_inner();
        stream.message().await.unwrap();
        let pid = rustix::process::Pid::from_child(&program.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        let status = loop {
            if let Some(status) = program.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "still running 10 s after SIGTERM");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(status.code(), Some(0));
    }
}
