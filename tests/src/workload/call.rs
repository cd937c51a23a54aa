//! The calling half of the tests' workload: a new connection for each call, and a line that says what came of it.
use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

/// Whom to call, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    targets: Vec<Target>,
    /// Rounds over all targets; 0: without end.
    times: usize,
    every: Duration,
    limit: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    scheme: Scheme,
    /// `HOST:PORT`.
    authority: String,
    path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Tcp,
    Echo,
}

impl Plan {
    /// Reads the words after `call`.
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        let mut plan =
            Self { targets: Vec::new(), times: 1, every: Duration::from_millis(100), limit: Duration::from_secs(10) };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().copied().ok_or_else(|| format!("{word} needs a value"));
            match *word {
                "--times" => plan.times = value()?.parse().map_err(|_| "--times needs a number".to_owned())?,
                "--every" => plan.every = super::milliseconds(value()?)?,
                "--limit" => plan.limit = super::milliseconds(value()?)?,
                url => plan.targets.push(Target::parse(url)?),
            }
        }
        if plan.targets.is_empty() { Err("call whom?".to_owned()) } else { Ok(plan) }
    }
}

impl Target {
    fn parse(url: &str) -> Result<Self, String> {
        let unknown = || format!("{url:?} is not http://HOST:PORT/PATH, tcp://HOST:PORT or echo://HOST:PORT");
        let (scheme, rest) = url.split_once("://").ok_or_else(unknown)?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "tcp" => Scheme::Tcp,
            "echo" => Scheme::Echo,
            _ => return Err(unknown()),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let has_port =
            authority.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !has_port {
            return Err(unknown());
        }
        Ok(Self { scheme, authority: authority.to_owned(), path: format!("/{path}") })
    }

    /// What was answered, on one line.
    async fn call(&self) -> Result<String, String> {
        let connect = async {
            let stream = TcpStream::connect(&self.authority).await?;
            stream.set_nodelay(true)?;
            Ok::<_, io::Error>(stream)
        };
        let mut stream = connect.await.map_err(|e| format!("connect: {e}"))?;
        self.converse(&mut stream).await.map_err(|e| format!("talk: {e}"))
    }

    async fn converse(&self, stream: &mut TcpStream) -> io::Result<String> {
        match self.scheme {
            Scheme::Http => {
                let request =
                    format!("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: keep-alive\r\n\r\n", self.path, self.authority);
                stream.write_all(request.as_bytes()).await?;
                let (head, body) = response(stream).await?;
                let status = head.split(' ').nth(1).unwrap_or("?").to_owned();
                if status == "200" {
                    Ok(format!("{status} {body}"))
                } else {
                    Err(io::Error::other(format!("status {status} {body}")))
                }
            }
            Scheme::Tcp => line(stream).await,
            Scheme::Echo => {
                stream.write_all(b"anybody there?\n").await?;
                line(stream).await
            }
        }
    }
}

/// The head and the body of an answer that gives its length, or ends with the connection.
async fn response(stream: &mut TcpStream) -> io::Result<(String, String)> {
    let mut held = Vec::new();
    let head = loop {
        if let Some(end) = held.windows(4).position(|w| w == b"\r\n\r\n") {
            let body = held.split_off(end + 4);
            break String::from_utf8_lossy(&std::mem::replace(&mut held, body)).into_owned();
        }
        if stream.read_buf(&mut held).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before an answer"));
        }
    };
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok());
    while length.is_none_or(|length| held.len() < length) {
        if stream.read_buf(&mut held).await? == 0 {
            if length.is_some() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed within an answer"));
            }
            break;
        }
    }
    Ok((head, String::from_utf8_lossy(&held).trim_end().to_owned()))
}

async fn line(stream: &mut TcpStream) -> io::Result<String> {
    let mut held = Vec::new();
    loop {
        if let Some(end) = held.iter().position(|byte| *byte == b'\n') {
            held.truncate(end);
            return Ok(String::from_utf8_lossy(&held).into_owned());
        }
        if stream.read_buf(&mut held).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before a line"));
        }
    }
}

/// Calls as planned; gives the exit code.
#[expect(clippy::print_stdout, reason = "the answer of a command")]
pub async fn run(plan: Plan) -> u8 {
    let mut failed = false;
    let mut round = 0;
    loop {
        for target in &plan.targets {
            let outcome =
                timeout(plan.limit, target.call()).await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
            match outcome {
                Ok(answer) => println!("ok {answer}"),
                Err(error) => {
                    failed = true;
                    println!("failed {error}");
                }
            }
        }
        round += 1;
        if round == plan.times {
            return u8::from(failed);
        }
        sleep(plan.every).await;
    }
}

/// Prints the addresses of a name; gives the exit code.
#[expect(clippy::print_stdout, reason = "the answer of a command")]
pub async fn resolve(name: String) -> u8 {
    match tokio::net::lookup_host((name.as_str(), 0)).await {
        Ok(addresses) => {
            let mut addresses: Vec<_> = addresses.map(|a| a.ip().to_string()).collect();
            addresses.sort();
            addresses.dedup();
            println!("{}", addresses.join(" "));
            0
        }
        Err(error) => {
            println!("failed {error}");
            1
        }
    }
}
