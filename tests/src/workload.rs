//! What `signet-workload` does in a pod of the cluster tests: it serves ([`serve`]) and calls ([`call`]) over plain TCP, HTTP
//! and gRPC, as any application would.
pub mod call;
pub mod serve;

use std::time::Duration;

/// One thing to do, as the command line says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Wait for the end.
    Pause,
    /// Serve a protocol on a port.
    Serve {
        /// On every address.
        port: u16,
        /// What is spoken there.
        protocol: serve::Protocol,
    },
    /// Call others.
    Call(call::Plan),
    /// Look up a name.
    Resolve(String),
    /// End by itself.
    Exit {
        /// The exit code.
        code: u8,
        /// How long it runs before.
        after: Duration,
    },
}

impl Job {
    /// Reads the words of one job.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let serving = |port: &str, protocol| match port.parse() {
            Ok(port) => Ok(Self::Serve { port, protocol }),
            Err(_) => Err(format!("{port:?} is no port")),
        };
        match words.as_slice() {
            ["pause"] => Ok(Self::Pause),
            ["http", port] => serving(port, serve::Protocol::Http("hello".into())),
            ["http", port, words] => serving(port, serve::Protocol::Http((*words).into())),
            ["https", port] => serving(port, serve::Protocol::Https("hello".into())),
            ["first", port, words] => serving(port, serve::Protocol::First((*words).into())),
            ["echo", port] => serving(port, serve::Protocol::Echo),
            ["grpc", port] => serving(port, serve::Protocol::GrpcHealth),
            ["call", rest @ ..] => call::Plan::parse(rest).map(Self::Call),
            ["resolve", name] => Ok(Self::Resolve((*name).into())),
            ["exit", code] => exit(code, "0"),
            ["exit", code, after] => exit(code, after),
            other => Err(format!("not a job: {other:?}")),
        }
    }
}

fn exit(code: &str, after: &str) -> Result<Job, String> {
    let code = code.parse().map_err(|_| format!("{code:?} is no exit code"))?;
    Ok(Job::Exit { code, after: milliseconds(after)? })
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_millis).map_err(|_| format!("{text:?} is no number of milliseconds"))
}
