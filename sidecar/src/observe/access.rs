//! The access log: one line for every connection, written when it ends or is refused.
//!
//! The data path hands over what it knows and goes on; a thread of its own formats and writes. When that thread cannot keep
//! up (standard output is a pipe that nobody reads), records are dropped and counted, and the data path never waits.
//!
//! A line is one line: whatever a peer sent, control characters are escaped (F18).
use super::metrics::{name, word};
use crate::record::Facts;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use signet_enroll::settings::{LogFormat, OneLine};
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

/// Records that may wait for the log thread: about 5 MB, and a tenth of a second at 80,000 connections a second.
const WAITING: usize = 8192;

/// Hands records to the log thread, which ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct AccessLog {
    to_thread: SyncSender<Job>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Job {
    Record(SystemTime, Box<Facts>),
    /// Everything before it is written; answer.
    Flush(SyncSender<()>),
}

impl AccessLog {
    /// Starts the thread. `out` is standard output, but for tests.
    pub fn start(format: LogFormat, out: impl Write + Send + 'static) -> io::Result<Self> {
        Self::with_room(format, out, WAITING)
    }

    fn with_room(format: LogFormat, out: impl Write + Send + 'static, waiting: usize) -> io::Result<Self> {
        let (to_thread, jobs) = sync_channel(waiting);
        let dropped = Arc::new(AtomicU64::new(0));
        let log = Self { to_thread, dropped: dropped.clone() };
        std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(format, out, &jobs, &dropped))?;
        Ok(log)
    }

    /// Writes a record, or drops and counts it when too many are waiting. Never blocks.
    pub fn write(&self, ended: SystemTime, facts: &Facts) {
        if self.to_thread.try_send(Job::Record(ended, Box::new(facts.clone()))).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Records that were not written.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Waits until everything written so far has reached the output, at most for `patience`; whether it has. For the end of the
    /// process: it blocks.
    pub fn flush(&self, patience: Duration) -> bool {
        let (to_thread, (done, wait)) = (self.to_thread.clone(), sync_channel(1));
        // Where there is no room it waits for it, for ever if need be: the process ends with it or without.
        let ask = move || to_thread.send(Job::Flush(done));
        std::thread::Builder::new().name("flush".into()).spawn(ask).is_ok() && wait.recv_timeout(patience).is_ok()
    }
}

fn write_all(format: LogFormat, out: impl Write, jobs: &Receiver<Job>, dropped: &AtomicU64) {
    let mut out = BufWriter::with_capacity(64 * 1024, out);
    while let Ok(first) = jobs.recv() {
        // Everything that is waiting goes out with one write.
        for job in std::iter::once(first).chain(jobs.try_iter()) {
            match job {
                Job::Record(ended, facts) => {
                    let line = line(format, ended, &facts);
                    if OneLine(&mut out).write_all(line.as_bytes()).is_err() {
                        dropped.fetch_add(1, Relaxed);
                    }
                }
                Job::Flush(done) => {
                    // Counted before whoever asked hears of it; he may have gone.
                    if out.flush().is_err() {
                        dropped.fetch_add(1, Relaxed);
                    }
                    _ = done.try_send(());
                }
            }
        }
        if out.flush().is_err() {
            dropped.fetch_add(1, Relaxed);
        }
    }
}

/// The record, with its line feed.
fn line(format: LogFormat, ended: SystemTime, facts: &Facts) -> String {
    let mut line = match format {
        LogFormat::Text => text(ended, facts),
        LogFormat::Json => json(ended, facts).to_string(),
    };
    line.push('\n');
    line
}

fn outcome(facts: &Facts) -> &'static str {
    if facts.admitted { "carried" } else { "refused" }
}

/// RFC 3339, UTC, milliseconds.
fn time(at: SystemTime) -> String {
    Timestamp::try_from(at).unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn some<T: std::fmt::Display>(value: Option<&T>) -> Option<&dyn std::fmt::Display> {
    value.map(|value| value as &dyn std::fmt::Display)
}

fn text(ended: SystemTime, facts: &Facts) -> String {
    let mut line = format!("{} {} {}", time(ended), name(facts.direction), outcome(facts));
    let mut field = |name: &str, value: Option<&dyn std::fmt::Display>| {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            _ = write!(line, " {name}={value}");
        }
    };
    field("reason", Some(&facts.reason));
    field("source", Some(&facts.source));
    field("destination", some(facts.destination.as_ref()));
    field("endpoint", some(facts.endpoint.as_ref()));
    field("own", some(facts.own.as_ref()));
    field("peer", some(facts.peer.as_ref()));
    if let Some(verdict) = &facts.verdict {
        let rule = verdict.rule.as_ref().map(|rule| format!("{}/{}", rule.namespace, rule.name));
        field("rule", some(rule.as_ref()));
        let shadow = verdict.shadow.as_ref().map(|(decision, reason, _)| format!("{}:{reason}", word(*decision)));
        field("shadow", some(shadow.as_ref()));
    }
    field("sent", Some(&facts.sent));
    field("received", Some(&facts.received));
    field("seconds", Some(&format_args!("{:.3}", facts.duration.as_secs_f64())));
    field("group", some(facts.group.as_ref()));
    field("framing", some(facts.framing.map(crate::tls::Framing::name).as_ref()));
    // The only words that may hold what a peer sent: in quotes, so that they cannot pass for a field.
    field("text", some(facts.text.as_ref().map(|text| format!("{text:?}")).as_ref()));
    line
}

fn json(ended: SystemTime, facts: &Facts) -> Value {
    let mut record = Map::new();
    let mut field = |name: &str, value: Value| {
        if !value.is_null() {
            record.insert(name.to_owned(), value);
        }
    };
    field("time", json!(time(ended)));
    field("direction", json!(name(facts.direction)));
    field("outcome", json!(outcome(facts)));
    field("reason", json!(facts.reason));
    field("source", json!(facts.source));
    field("destination", json!(facts.destination));
    field("endpoint", json!(facts.endpoint));
    field("own", json!(facts.own.as_ref().map(signet_identity::SpiffeId::as_str)));
    field("peer", json!(facts.peer.as_ref().map(signet_identity::SpiffeId::as_str)));
    field("verdict", json!(facts.verdict));
    field("sent", json!(facts.sent));
    field("received", json!(facts.received));
    field("seconds", json!((facts.duration.as_secs_f64() * 1e6).round() / 1e6));
    field("group", json!(facts.group));
    field("framing", json!(facts.framing.map(crate::tls::Framing::name)));
    field("text", json!(facts.text));
    Value::Object(record)
}

#[cfg(test)]
mod tests;
