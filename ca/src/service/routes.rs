//! Which service of the one listener answers: gRPC health by its path, `signet.ca.v1` for all the rest (and it answers
//! `UNIMPLEMENTED` to what it does not know). Two services need no router.
use std::{
    convert::Infallible,
    task::{Context, Poll},
};
use tonic::{
    body::Body,
    codegen::{BoxFuture, Service, http},
};

const HEALTH: &str = "/grpc.health.v1.Health/";

/// Both services of the listener.
#[derive(Debug, Clone)]
pub struct Routes<C, H> {
    /// `signet.ca.v1.CertificateAuthority`.
    pub ca: C,
    /// `grpc.health.v1.Health`.
    pub health: H,
}

/// A generated tonic server.
trait Grpc: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> {}
impl<S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>> Grpc for S {}

impl<C, H> Service<http::Request<Body>> for Routes<C, H>
where
    C: Grpc<Future = BoxFuture<http::Response<Body>, Infallible>>,
    H: Grpc<Future = BoxFuture<http::Response<Body>, Infallible>>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    /// Generated servers are always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path().starts_with(HEALTH) { self.health.call(request) } else { self.ca.call(request) }
    }
}
