//! How many certificates a second the CA issues over gRPC: real TLS, real attestation (a nonce and two verified signatures for
//! each), real journal on the disk that holds the temporary directory. Server and clients share the machine's processors.
//!
//! ```sh
//! cargo run --release -p signet-ca --example issue_rate -- [seconds] [connections] [in flight on each]
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement: it prints, and it stops at the first surprise"
)]
#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use support::{ORDERS, TestCa, csr, nonce};
use tokio::time::Instant;

const LIMITS: &str = "[limits]\nper_workload = 1000000\nper_workload_burst = 1000000\nper_address = 1000000\nper_address_burst = 1000000\n";

fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>().expect("a whole number"));
    let seconds = arguments.next().unwrap_or(5);
    let connections = arguments.next().unwrap_or(4);
    let in_flight = arguments.next().unwrap_or(32);
    let server = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let ca = server.block_on(TestCa::start_with(LIMITS));
    let clients = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut times = clients.block_on(load(&ca, seconds, connections, in_flight));
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 1000).copied().unwrap_or_default();
    let rate = times.len() as f64 / seconds as f64;
    println!("certificates_per_second {rate:.0}");
    println!("p50_ms {:.1}", at(500).as_secs_f64() * 1000.0);
    println!("p99_ms {:.1}", at(990).as_secs_f64() * 1000.0);
    let journaled: u32 = ca
        .database()
        .query_row("SELECT count(*) FROM journal WHERE attestor = 'host-key'", [], |row| row.get(0))
        .unwrap();
    assert!(journaled as usize >= times.len(), "{} certificates, {journaled} journal entries", times.len());
    server.block_on(ca.stop());
}

/// Issues until the time is over; returns how long each issuance took, challenge included.
async fn load(ca: &TestCa, seconds: u64, connections: u64, in_flight: u64) -> Vec<Duration> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for connection in 0..connections {
        let host = Arc::new(ca.joined(ORDERS, &format!("orders-{connection}")).await);
        let client = ca.client();
        for _ in 0..in_flight {
            let (mut client, host, stop) = (client.clone(), host.clone(), stop.clone());
            // Making keys and requests is the workloads' work, spread over many machines: not measured here.
            let request = csr();
            tasks.push(tokio::spawn(async move {
                let mut times = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let fresh = nonce(&mut client).await.unwrap();
                    client.issue(host.issue_request(&fresh, request.clone())).await.unwrap();
                    times.push(began.elapsed());
                }
                times
            }));
        }
    }
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    all
}
