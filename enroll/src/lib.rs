//! What every program of the mesh but the CA needs from the CA, and what all of them share at their edges:
//!
//! - [`Enroller`] registers this host, or shows this pod's token, obtains and renews its SVID, and follows the trust state into [`Credentials`];
//! - [`connector`] and [`channel`] dial a server whose exact identity is known, [`serve_tls`] accepts for a gRPC server;
//! - [`settings`] reads configuration files;
//! - [`places`] and [`rates`] bound what strangers can hold and cause.
//!
//! [`Credentials`]: signet_identity::Credentials

mod ca;
mod config;
mod connect;
mod enroller;
#[cfg(test)]
mod fake_ca;
pub mod places;
mod pod;
pub mod rates;
mod schedule;
mod serve;
pub mod settings;
mod state_dir;
mod status;
mod wire;

pub use ca::CallError;
pub use config::EnrollConfig;
pub use connect::{ConnectError, Connector, channel, connector};
pub use enroller::{EnrollError, Enroller};
pub use schedule::{LONGEST_ASKED, LONGEST_RETRY, SHORTEST_RETRY};
pub use serve::{Connection, ConnectionInfo, Counters, Incoming, Limits, ListenerMetrics, caller, serve_tls};
pub use state_dir::StateError;
pub use status::Status;
pub use wire::{WireError, trust_state_from_wire, trust_state_to_wire};

/// An error with everything below it, in one line that may stand in a log: peers' bytes escaped, at most 400 characters.
pub(crate) fn escaped(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    for _ in 0..8 {
        let Some(source) = next else { break };
        let below = source.to_string();
        // Many errors already say what their source says.
        if !text.contains(&below) {
            text.push_str(": ");
            text.push_str(&below);
        }
        next = source.source();
    }
    printable(&text, 400)
}

/// Without anything that could end a line or steer a terminal, and cut. What has been through it stays as it is: an error says
/// what the one below it says, and is shown by the one above.
pub(crate) fn printable(text: &str, most: usize) -> String {
    let harmless = |c: char| matches!(c, '\\' | '"' | '\'');
    let escaped = |c: char| -> String { if harmless(c) { c.into() } else { c.escape_debug().collect() } };
    text.chars().take(most).map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn f18_a_peers_words_are_escaped_once_however_often_they_are_passed_on() {
        let once = printable("the caller's \"name\" is C:\\x\n\u{1b}[31m forged", 400);
        assert_eq!(once, "the caller's \"name\" is C:\\x\\n\\u{1b}[31m forged");
        assert_eq!(printable(&once, 400), once);
        assert_eq!(printable("long", 2), "lo");
    }
}
