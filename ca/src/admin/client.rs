//! Asks the CA over its admin socket. Blocking; used by `signet token` and by tests.
use super::{MAX_LINE, Request, Response};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens, or not for us.
    #[error("{socket}: {error}; is signet-ca running there, and are you its user?")]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
    /// The CA refused the request.
    #[error("{0}")]
    Refused(String),
    /// The conversation broke.
    #[error("the CA's answer could not be read: {0}")]
    Answer(#[from] io::Error),
    /// The CA speaks another version.
    #[error("the CA's answer was not understood: {0}")]
    Format(#[from] serde_json::Error),
}

/// Sends one request and returns the answer; an error that the CA states is `ClientError::Refused`.
pub fn call(socket: &Path, request: &Request) -> Result<Response, ClientError> {
    let mut stream =
        UnixStream::connect(socket).map_err(|error| ClientError::Connect { socket: socket.into(), error })?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    // A CA that refuses this user says so and closes, before or after it was asked: what it said can still be read.
    match stream.write_all(&line) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let mut answer = String::new();
    let read = BufReader::new(stream.take(MAX_LINE as u64)).read_line(&mut answer);
    // An end in the middle of what we asked is a reset here; the answer came before it.
    if let Err(error) = read
        && answer.is_empty()
    {
        return Err(error.into());
    }
    if answer.is_empty() {
        return Err(ClientError::Answer(io::ErrorKind::UnexpectedEof.into()));
    }
    match serde_json::from_str(&answer)? {
        Response::Error(message) => Err(ClientError::Refused(message)),
        response => Ok(response),
    }
}
