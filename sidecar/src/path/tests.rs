//! Two sidecars in one process: real sockets, real handshakes, and peers that are not ours (rustls' own records, the h2 crate).
//! What needs the redirect is tested in network namespaces, not here.
use super::*;
use crate::clock::Clock;
use crate::report::Reporter;
use crate::shared::Settings;
use crate::tls::Framing;
use crate::view::{Named, View, octets};
use bytes::Bytes;
use copy::Side;
use pooled::Pool;
use signet_identity::testing::Authority;
use signet_identity::{Credentials, SpiffeId};
use signet_proto::control as wire;
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;
use tokio::time::timeout;

mod affinity;
mod floods;
mod inbound_head;
mod live;
mod pool;
mod unknown;

pub const SOON: Duration = Duration::from_secs(5);
/// A limit that a test waits for: nobody honest has to keep it.
pub const BRIEF: Duration = Duration::from_millis(500);

/// Runs a test as a data path thread runs.
pub fn local(test: impl Future<Output = ()>) {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap().block_on(test);
}

/// An address of this machine that a workload may have: not loopback. Nothing is sent.
pub fn own_ip() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("203.0.113.1:9").expect("these tests need an address besides loopback");
    socket.local_addr().unwrap().ip()
}

/// Whoever is honest keeps these times though the machine is busy. A test that waits for the end of one sets it.
pub fn settings() -> Settings {
    Settings {
        connect_time: SOON * 4,
        head_time: SOON * 4,
        head_bytes: 8192,
        unknown_wait: SOON * 4,
        idle_tunnel: Duration::from_secs(300),
        streams: 16,
        alone_above: 1 << 20,
        connections: 1000,
        per_identity: 1000,
        handshakes: 16,
        own_ports: vec![15001],
    }
}

/// A configuration for a workload at `own_ip`, with this posture and these rules.
pub fn config(revision: u64, inbound: &str, rules: Vec<wire::Rule>) -> wire::Config {
    wire::Config {
        version: Some(wire::Version { revision, digest: revision.to_string() }),
        addresses: vec![octets(own_ip())],
        posture: Some(wire::Posture { inbound: inbound.into(), egress: "allow".into(), egress_exceptions: vec![] }),
        rules,
        ..wire::Config::default()
    }
}

/// A rule that admits exactly these identities on every port.
pub fn rule(identities: &[&SpiffeId]) -> wire::Rule {
    let source = |id: &&SpiffeId| wire::Source { kind: Some(wire::source::Kind::Identity(id.as_str().into())) };
    wire::Rule {
        namespace: "shop".into(),
        name: "callers".into(),
        all_ports: true,
        mode: "Enforce".into(),
        sources: identities.iter().map(source).collect(),
        ..wire::Rule::default()
    }
}

/// One sidecar: what it shares, its one data path thread, and where its tunnel listens.
pub struct Sidecar {
    pub path: Rc<Path>,
    pub shared: Arc<Shared>,
    pub tunnel: SocketAddr,
    pub phase: watch::Sender<Phase>,
    /// Who serves the next tunnel that is accepted.
    pub serving: Rc<RefCell<Rc<Path>>>,
    /// TCP connections accepted for tunnels so far.
    pub accepted: Rc<Cell<usize>>,
}

pub fn path(shared: &Arc<Shared>) -> (Rc<Path>, watch::Sender<Phase>) {
    let (phase, reached) = watch::channel(Phase::Serving);
    let framings = choose::Framings::new(shared.settings.alone_above);
    let (pool, loads) = (Pool::default(), choose::Loads::default());
    (Rc::new(Path { shared: shared.clone(), pool, loads, framings, phase: reached }), phase)
}

impl Sidecar {
    pub async fn start(credentials: &Arc<Credentials>, settings: Settings) -> Self {
        Self::with_clock(credentials, settings, Clock::machine()).await
    }

    pub async fn with_clock(credentials: &Arc<Credentials>, settings: Settings, clock: Clock) -> Self {
        let (view, _) = View::new();
        let sources = socket::Sources::new(vec![own_ip()]);
        let shared = Shared::with_clock(settings, credentials.clone(), view, sources, Reporter::default(), clock);
        let (path, phase) = path(&shared);
        let listener = TcpListener::bind((own_ip(), 0)).await.unwrap();
        let tunnel = listener.local_addr().unwrap();
        let serving = Rc::new(RefCell::new(path.clone()));
        let accepted = Rc::new(Cell::new(0));
        let (serves, count) = (serving.clone(), accepted.clone());
        spawn_local(async move {
            while let Ok((tcp, from)) = listener.accept().await {
                count.set(count.get() + 1);
                spawn_local(inbound::serve_tunnel(serves.borrow().clone(), tcp, from));
            }
        });
        Self { path, shared, tunnel, phase, serving, accepted }
    }

    /// How the operator names this sidecar to its callers.
    pub fn named(&self) -> Named {
        let svid = self.shared.credentials.svid().unwrap();
        let (id, uid) = (svid.id().clone(), svid.uid().cloned());
        Named { id, uid, tunnel_port: self.tunnel.port(), h2: true, http1: true }
    }
}

impl Pool {
    pub fn is_empty(&self) -> bool {
        self.open.borrow().is_empty()
    }

    /// Whether a tunnel is left that would take another request, as far as HTTP/2 knows.
    pub fn takes_more(&self) -> bool {
        let noop = &mut Context::from_waker(std::task::Waker::noop());
        let mut takes = |open: &Rc<pooled::Open>| {
            open.requests.borrow().clone().is_some_and(|mut ask| matches!(ask.poll_ready(noop), Poll::Ready(Ok(()))))
        };
        self.open.borrow().values().flatten().any(&mut takes)
    }

    pub fn carried(&self) -> u32 {
        self.open.borrow().values().flatten().map(|open| open.carried.get()).sum()
    }
}

/// A connection through the pool.
pub struct Call {
    pub stream: Talk<pooled::Stream>,
    pub slot: pooled::Slot,
}

/// Reads and writes a side as tests do.
pub struct Talk<S> {
    pub side: S,
    read: Bytes,
}

impl<S> Talk<S> {
    pub fn over(side: S) -> Self {
        Self { side, read: Bytes::new() }
    }
}

impl<S: Side + Unpin> AsyncRead for Talk<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if self.read.is_empty() {
            self.read = std::task::ready!(self.side.poll_take(cx, crate::tls::BUFFER))?;
        }
        let count = self.read.len().min(out.remaining());
        out.put_slice(&self.read.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<S: Side + Unpin> AsyncWrite for Talk<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let mut left = Bytes::copy_from_slice(bytes);
        std::task::ready!(self.side.poll_give(cx, &mut left))?;
        Poll::Ready(Ok(bytes.len() - left.len()))
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.side.poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.side.poll_shutdown(cx)
    }
}

/// A caller (`web`) and a callee (`orders`) that trust each other, and an application behind the callee that echoes.
pub struct Mesh {
    pub authority: Authority,
    pub web: Sidecar,
    pub orders: Sidecar,
    pub application: SocketAddr,
    /// Connections that the application has accepted.
    pub calls: Rc<Cell<usize>>,
}

impl Mesh {
    pub async fn start() -> Self {
        Self::with(settings()).await
    }

    pub async fn with(settings: Settings) -> Self {
        Self::with_clock(settings, Clock::machine()).await
    }

    /// Both by the same clock. Handshakes look at the machine's, whatever it says.
    pub async fn with_clock(settings: Settings, clock: Clock) -> Self {
        let authority = Authority::new("example.org");
        let web = authority.credentials("shop", "web", Some("web-1"));
        let orders = authority.credentials("shop", "orders", Some("orders-1"));
        let web = Sidecar::with_clock(&web, settings.clone(), clock.clone()).await;
        let orders = Sidecar::with_clock(&orders, settings, clock).await;
        web.shared.view.apply(&config(1, "deny", vec![])).unwrap();
        orders.shared.view.apply(&config(1, "allow", vec![])).unwrap();
        let (application, calls) = echo().await;
        Self { authority, web, orders, application, calls }
    }

    /// One connection from `web` to the application behind `orders`, through the pool.
    pub async fn call(&self, peer: &Named) -> Result<Call, crate::refusal::Refusal> {
        let target = Target { peer, application: self.application };
        let (stream, slot) = Pool::open(&self.web.path, &target).await?;
        Ok(Call { stream: Talk::over(stream), slot })
    }

    /// TLS to `orders` by rustls' own record layer, with `web`'s certificate.
    pub async fn foreign(&self, framing: Framing) -> tokio_rustls::client::TlsStream<TcpStream> {
        let config = self.web.shared.credentials.client_config(&[framing.alpn()]);
        let tcp = TcpStream::connect(self.orders.tunnel).await.unwrap();
        tokio_rustls::TlsConnector::from(config).connect(signet_identity::tls::unnamed(), tcp).await.unwrap()
    }

    /// Says these bytes over the framing that carries one connection alone, and gives everything that comes back.
    pub async fn say(&self, bytes: &[u8]) -> String {
        let mut tls = self.foreign(Framing::Alone).await;
        tls.write_all(bytes).await.unwrap();
        tls.flush().await.unwrap();
        let mut answer = Vec::new();
        // An end without close_notify is an end too; what matters is what was said before.
        drop(timeout(SOON, tls.read_to_end(&mut answer)).await.expect("no answer and no end"));
        String::from_utf8(answer).unwrap()
    }
}

/// An application that echoes, at the workload's own address.
async fn echo() -> (SocketAddr, Rc<Cell<usize>>) {
    let listener = TcpListener::bind((own_ip(), 0)).await.unwrap();
    let (address, calls) = (listener.local_addr().unwrap(), Rc::new(Cell::new(0)));
    let count = calls.clone();
    spawn_local(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            count.set(count.get() + 1);
            spawn_local(async move {
                let (mut read, mut write) = tcp.split();
                drop(tokio::io::copy(&mut read, &mut write).await);
            });
        }
    });
    (address, calls)
}

/// Waits until something holds.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, wait).await.unwrap_or_else(|_| panic!("not within {SOON:?}: {what}"));
}
