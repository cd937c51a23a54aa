//! `signet-workload`: what the pods of the cluster tests run. One static program that serves, calls, waits and ends as it is
//! told, because busybox crashes on a name look-up in an empty root. It knows nothing of Signet.
//!
//! Several jobs may run in one process: `signet-workload http 8080 hello + first 9000 220-ready`.
use signet_tests::workload::{Job, call, serve};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: signet-workload JOB [+ JOB]...
  pause                      wait for SIGTERM, and reap what is left to process 1
  http PORT [WORDS]          HTTP/1.1 with keep-alive: 200 and WORDS. /slow/MS waits, /status/N answers N, /say/X answers X;
                             /health answers 500 once somebody asked for /fall-ill; /slow/ and /note/ are printed: `asked PATH`
  https PORT                 the same over TLS
  first PORT WORDS           speak first: WORDS and a newline, then echo
  echo PORT                  give back what comes
  grpc PORT                  gRPC health checking: always SERVING
  call URL... [--times N] [--every MS] [--limit MS]
                             a new connection for each call: http://HOST:PORT/PATH, tcp://HOST:PORT (reads a line),
                             echo://HOST:PORT (sends a line, reads it). Prints `ok ...` or `failed ...` for each; exit 1 if
                             any failed. --times 0 calls for ever
  resolve NAME               print the addresses of a name
  exit CODE [MS]             end with CODE, after MS
On SIGTERM what is being answered is finished (20 s at most), then it ends with 0.";

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stderr, reason = "why the command failed")]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let jobs: Result<Vec<Job>, String> = words.split(|word| word == "+").map(Job::parse).collect();
    let jobs = match jobs {
        Ok(jobs) => jobs,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let (Ok(mut end), Ok(mut child)) = (signal(SignalKind::terminate()), signal(SignalKind::child())) else {
        eprintln!("signal handlers cannot be installed");
        return ExitCode::FAILURE;
    };
    let mut running = tokio::task::JoinSet::new();
    for job in jobs {
        match job {
            Job::Pause => {}
            Job::Call(plan) => drop(running.spawn(call::run(plan))),
            Job::Resolve(name) => drop(running.spawn(call::resolve(name))),
            Job::Exit { code, after } => drop(running.spawn(async move {
                tokio::time::sleep(after).await;
                code
            })),
            Job::Serve { port, protocol } => match serve::start(port, protocol).await {
                Ok(()) => {}
                Err(error) => {
                    eprintln!("cannot listen on {port}: {error}");
                    return ExitCode::FAILURE;
                }
            },
        }
    }
    loop {
        tokio::select! {
            _ = end.recv() => {
                serve::finish().await;
                return ExitCode::SUCCESS;
            }
            _ = child.recv() => while rustix::process::wait(rustix::process::WaitOptions::NOHANG).is_ok_and(|x| x.is_some()) {},
            Some(code) = running.join_next() => return ExitCode::from(code.unwrap_or(1)),
        }
    }
}
