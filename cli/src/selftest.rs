//! `signet selftest`: the two ends of `helm test`, hidden from users. One answers, the other calls until it has the answer that
//! is expected, or says which it had. Plain TCP and HTTP/1.1: what stands between them is the mesh.
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nsignet\n";
const PATIENCE: Duration = Duration::from_secs(5);

/// `signet selftest`
#[derive(Debug, Args)]
pub struct SelftestArgs {
    #[command(subcommand)]
    end: End,
}

#[derive(Debug, Subcommand)]
enum End {
    /// Answer every connection
    Serve {
        /// The port
        #[arg(long, default_value_t = 8080)]
        port: u16,
    },
    /// Call until the outcome is the expected one
    Call {
        /// Whom, `host:port`
        address: String,
        /// Expect a refusal instead of an answer
        #[arg(long)]
        refused: bool,
        /// How often, a second apart
        #[arg(long, default_value_t = 60)]
        times: u32,
    },
}

/// Runs one end. Exit code 1 when the outcome never was the expected one.
pub fn run(arguments: &SelftestArgs) -> anyhow::Result<ExitCode> {
    match &arguments.end {
        End::Serve { port } => serve(*port),
        End::Call { address, refused, times } => call(address, *refused, *times),
    }
}

fn serve(port: u16) -> anyhow::Result<ExitCode> {
    let listener = TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)));
    for stream in listener.with_context(|| format!("cannot listen on port {port}"))?.incoming() {
        // Whoever hangs up was not interested; everybody else is answered.
        drop(stream.and_then(answer));
    }
    Ok(ExitCode::SUCCESS)
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut head = [0; 1024];
    if stream.read(&mut head)? > 0 {
        stream.write_all(ANSWER)?;
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the result of the test")]
fn call(address: &str, refused: bool, times: u32) -> anyhow::Result<ExitCode> {
    let mut last = String::new();
    for turn in 0..times.max(1) {
        if turn > 0 {
            thread::sleep(Duration::from_secs(1));
        }
        match (ask(address), refused) {
            (Ok(Some(_)), false) => {
                println!("{address} answered, as it should");
                return Ok(ExitCode::SUCCESS);
            }
            (Ok(None), true) => {
                println!("{address} was refused, as it should be");
                return Ok(ExitCode::SUCCESS);
            }
            (Ok(Some(answer)), true) => last = format!("it answered: {answer}"),
            (Ok(None), false) => "it was refused: the connection ended without an answer".clone_into(&mut last),
            (Err(error), _) => last = format!("{error:#}"),
        }
    }
    bail!("{address}: expected {}, but {last}", if refused { "a refusal" } else { "an answer" })
}

/// The first line of the answer; nothing when the connection ended without one. A name that is not known, or nobody there, is
/// an error: it must not pass for a refusal.
fn ask(address: &str) -> anyhow::Result<Option<String>> {
    let to =
        address.to_socket_addrs().context("the name has no address yet")?.next().context("the name has no address")?;
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).context("no connection")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // A refusal may arrive at any moment of the exchange.
    if stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").is_err() {
        return Ok(None);
    }
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    match (line.is_empty(), ended) {
        (false, _) => Ok(Some(line)),
        (true, Err(error)) if error.kind() == std::io::ErrorKind::WouldBlock => bail!("no answer within {PATIENCE:?}"),
        (true, _) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    //! Both ends against each other and against a peer that refuses.
    use super::*;

    fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    #[test]
    fn an_answer_is_told_from_a_refusal() {
        let (server, address) = listener();
        thread::spawn(move || server.incoming().for_each(|stream| answer(stream.unwrap()).unwrap()));
        assert!(call(&address, false, 1).is_ok());
        assert!(call(&address, true, 1).unwrap_err().to_string().contains("HTTP/1.1 200 OK"));

        let (refusing, address) = listener();
        thread::spawn(move || refusing.incoming().for_each(drop));
        assert!(call(&address, true, 1).is_ok());
        assert!(call(&address, false, 1).unwrap_err().to_string().contains("without an answer"));
    }

    #[test]
    fn nobody_there_is_no_refusal() {
        let (gone, address) = listener();
        drop(gone);
        assert!(call(&address, true, 1).is_err());
        assert!(call("no-such-name.invalid:80", true, 1).is_err());
    }
}
