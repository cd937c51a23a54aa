//! The applications that tests put on a machine: servers that run until dropped, and what a caller observes. Each runs on
//! threads inside the machine's namespace, so that its sockets are that machine's; plain blocking sockets of the standard
//! library, so that nothing of ours is between the test and the kernel.
use signet::demo::world::Namespace;
use socket2::{Domain, SockRef, Socket, Type};
use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// A server on every address of a machine. Once dropped it accepts nothing, and its port is free.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    listener: TcpListener,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves each connection on a thread of its own with `serve`.
    pub fn start(machine: &Namespace, port: u16, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener =
            machine.enter(|| listen(port)).expect("entering").unwrap_or_else(|e| panic!("listening on {port}: {e}"));
        let stop = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(AtomicUsize::new(0));
        let (stopped, count, serve) = (Arc::clone(&stop), Arc::clone(&accepted), Arc::new(serve));
        let waiting = listener.try_clone().expect("a second handle of the listener");
        let accepting = std::thread::spawn(move || {
            for stream in waiting.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                count.fetch_add(1, Ordering::Relaxed);
                let serve = Arc::clone(&serve);
                std::thread::Builder::new().stack_size(256 * 1024).spawn(move || serve(stream)).expect("a thread");
            }
        });
        Self { stop, accepted, listener, accepting: Some(accepting) }
    }

    /// Gives back what it gets, and ends when the caller has ended.
    pub fn echo(machine: &Namespace, port: u16) -> Self {
        Self::start(machine, port, |mut stream| {
            let mut buffer = [0; 16 * 1024];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..n]).is_err() {
                    return;
                }
            }
            let _ = stream.shutdown(Shutdown::Write);
        })
    }

    /// Speaks first: says `words`, then waits for the caller's end.
    pub fn banner(machine: &Namespace, port: u16, words: &'static str) -> Self {
        Self::start(machine, port, move |mut stream| {
            let _ = stream.write_all(words.as_bytes());
            let _ = stream.read(&mut [0; 1]);
        })
    }

    /// Speaks HTTP/1.1 with keep-alive: every request without a body gets 200 and `words`.
    pub fn http(machine: &Namespace, port: u16, words: &'static str) -> Self {
        Self::start(machine, port, move |mut stream| {
            let mut held = Vec::new();
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                held.extend_from_slice(&buffer[..n]);
                while let Some(end) = held.windows(4).position(|w| w == b"\r\n\r\n") {
                    held.drain(..end + 4);
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{words}", words.len());
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            }
        })
    }

    /// How many connections have reached the application.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the accept; a listener that is shut down already needs no waking.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        // A thread that panicked has printed why.
        let _ = self.accepting.take().map(JoinHandle::join);
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    // The machine's IPv4 address too.
    socket.set_only_v6(false)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// A connection from a machine, made as its programs make them. Reads and writes fail after 20 s.
pub fn call(from: &Namespace, to: impl Into<IpAddr>, port: u16) -> io::Result<TcpStream> {
    let to = SocketAddr::new(to.into(), port);
    let stream = from.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(20))).expect("entering")?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends `words` and gives what an echo server answered.
pub fn echoed(stream: &mut TcpStream, words: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(words)?;
    let mut answer = vec![0; words.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// One connection, one message, one answer: whether an echo server can be reached from a machine.
pub fn reaches(from: &Namespace, to: impl Into<IpAddr>, port: u16) -> io::Result<()> {
    let mut stream = call(from, to, port)?;
    let answer = echoed(&mut stream, b"anybody there?")?;
    if answer == b"anybody there?" { Ok(()) } else { Err(io::Error::other("another answer")) }
}

/// Whether a failure is what an application sees when its connection was reset, not closed and not timed out.
pub fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionRefused
    )
}

/// Ends a connection with RST.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger");
    drop(stream);
}

/// How a connection ended, for whoever only reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A clean end.
    Closed,
    /// A reset.
    Reset,
    /// Neither, within the time.
    Open,
}

/// Reads until the end, and says how it came.
pub fn end_of(stream: &mut TcpStream, limit: Duration) -> End {
    let deadline = Instant::now() + limit;
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return End::Open;
        }
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).expect("a read timeout");
        match stream.read(&mut buffer) {
            Ok(0) => return End::Closed,
            Ok(_) => {}
            Err(e) if is_reset(&e) => return End::Reset,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return End::Open,
            Err(_) => return End::Reset,
        }
    }
}

/// Bytes that do not repeat soon, the same for the same seed, and cheap.
#[derive(Debug, Clone)]
pub struct Noise(u64);

impl Noise {
    /// A stream of noise.
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next bytes.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            // xorshift64
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Sends `length` bytes of noise, and ends that direction. Gives the hash of what was sent.
pub fn send_noise(mut stream: &TcpStream, seed: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut noise = Noise::new(seed);
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut buffer = vec![0; 64 * 1024];
    let mut left = length;
    while left > 0 {
        let part = left.min(buffer.len());
        noise.fill(&mut buffer[..part]);
        hash.update(&buffer[..part]);
        stream.write_all(&buffer[..part])?;
        left -= part;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(hash.finish().as_ref().to_vec())
}

/// Reads to the end. Gives the number of bytes and their hash.
pub fn receive(mut stream: &TcpStream) -> io::Result<(usize, Vec<u8>)> {
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut buffer = vec![0; 64 * 1024];
    let mut count = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok((count, hash.finish().as_ref().to_vec())),
            n => {
                hash.update(&buffer[..n]);
                count += n;
            }
        }
    }
}
