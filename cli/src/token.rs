//! `signet token`: makes, lists and revokes join tokens and host keys, over the admin socket of the CA on this machine.
//! Called by `main`; whoever runs it must be the user that the CA runs as.
use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use jiff::Timestamp;
use signet_ca::admin::{DEFAULT_SOCKET, Host, Request, Response, Token, client};
use std::{io::Write, path::PathBuf, process::ExitCode};

/// Arguments of `signet token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The CA's admin socket: `admin.sock` in its state directory.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET, global = true)]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a token with which one machine may join, once.
    #[command(after_help = "\
Example:
  signet token create --identity spiffe://example.org/ns/shop/sa/orders --uid orders-1 > join-token

Standard output is the token alone; what it is for goes to standard error. Give it to the machine as the file that
`join_token_file` names; it is worth nothing after its first use.")]
    Create {
        /// The identity that the token gives: spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
        #[arg(long, value_name = "ID")]
        identity: String,
        /// The workload UID that the token gives [default: a random one]. A UID that joined before, for the same identity,
        /// has its host key replaced.
        #[arg(long)]
        uid: Option<String>,
        /// How long it may be used: 90s, 10m, 2h [default: the CA's, 10m].
        #[arg(long, value_name = "DURATION", value_parser = seconds)]
        ttl: Option<u64>,
        /// Needed for the reserved identities of CA and operator.
        #[arg(long)]
        control: bool,
        /// How to print it.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Lists the tokens that can still be used.
    #[command(after_help = "Example:\n  signet token list -o json")]
    List {
        /// How to print them.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Makes a token worthless.
    #[command(after_help = "Example:\n  signet token revoke 1f2e3d4c5b6a")]
    Revoke {
        /// The token's id, as `signet token list` shows it.
        id: String,
    },
    /// Lists the machines that joined.
    #[command(after_help = "Example:\n  signet token hosts")]
    Hosts {
        /// How to print them.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Makes a machine's host key worthless: it gets no further certificate; the one it has ends by itself.
    #[command(after_help = "Example:\n  signet token revoke-host orders-1")]
    RevokeHost {
        /// The workload UID, as `signet token hosts` shows it.
        uid: String,
    },
    /// Prints the CA's root certificates, for machines that join.
    #[command(after_help = "Example:\n  signet token bundle > bundle.pem")]
    Bundle,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

/// Runs the command. Exit code 0, or an error with what to do about it.
pub fn run(args: TokenArgs) -> anyhow::Result<ExitCode> {
    let ask = |request: &Request| client::call(&args.socket, request);
    match args.command {
        Command::Create { identity, uid, ttl, control, output } => {
            let Response::Token { token, about } =
                ask(&Request::CreateToken { identity, uid, ttl_seconds: ttl, control })?
            else {
                return unexpected();
            };
            match output {
                Output::Json => print(&json(&Created { token: &token, about: &about })?)?,
                Output::Text => {
                    let lines = format!(
                        "for {} with the uid {}, one use, until {}; revoke with: signet token revoke {}\n",
                        about.identity,
                        about.uid,
                        time(about.expires_at),
                        about.id
                    );
                    std::io::stderr().write_all(lines.as_bytes())?;
                    print(&token)?;
                }
            }
        }
        Command::List { output } => {
            let Response::Tokens(tokens) = ask(&Request::ListTokens {})? else { return unexpected() };
            print(&match output {
                Output::Json => json(&tokens)?,
                Output::Text => token_table(&tokens),
            })?;
        }
        Command::Hosts { output } => {
            let Response::Hosts(hosts) = ask(&Request::ListHosts {})? else { return unexpected() };
            print(&match output {
                Output::Json => json(&hosts)?,
                Output::Text => host_table(&hosts),
            })?;
        }
        Command::Revoke { id } => {
            ask(&Request::RevokeToken { id })?;
        }
        Command::RevokeHost { uid } => {
            ask(&Request::RevokeHost { uid })?;
        }
        Command::Bundle => {
            let Response::Bundle { pem, .. } = ask(&Request::Bundle {})? else { return unexpected() };
            print(pem.trim_end())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What `create -o json` prints.
#[derive(serde::Serialize)]
struct Created<'a> {
    token: &'a str,
    #[serde(flatten)]
    about: &'a Token,
}

fn unexpected<T>() -> anyhow::Result<T> {
    bail!("the CA answered something else than was asked; do this command and the CA have the same version?")
}

fn print(text: &str) -> std::io::Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        // Whoever reads has seen enough, as `head` does.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

fn json(value: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)?)
}

fn table<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    table.trim_fmt()
}

fn token_table(tokens: &[Token]) -> String {
    let kind = |token: &Token| if token.control { "control" } else { "" }.to_owned();
    let rows = tokens.iter().map(|t| [t.id.clone(), t.identity.clone(), t.uid.clone(), kind(t), time(t.expires_at)]);
    table(["ID", "IDENTITY", "UID", "KIND", "UNTIL"], rows)
}

fn host_table(hosts: &[Host]) -> String {
    let state = |host: &Host| host.revoked_at.map_or_else(String::new, |at| format!("revoked {}", time(at)));
    let rows = hosts.iter().map(|h| [h.uid.clone(), h.identity.clone(), time(h.registered_at), state(h)]);
    table(["UID", "IDENTITY", "JOINED", "STATE"], rows)
}

/// Unix seconds as UTC.
fn time(seconds: u64) -> String {
    let stamp = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    stamp.map_or_else(|| seconds.to_string(), |stamp| stamp.to_string())
}

/// A whole number with a unit.
fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a duration such as 90s, 10m or 2h");
    let split = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(split);
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        for (text, want) in [("90s", Some(90)), ("10m", Some(600)), ("2h", Some(7200)), ("0s", Some(0))] {
            assert_eq!(seconds(text).ok(), want, "{text}");
        }
        for text in ["", "10", "m", "-1s", "1d", "1.5h", "99999999999999999999s", "9999999999999999h", "1 m"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn tables_name_every_column() {
        let token = Token {
            id: "1f2e".into(),
            identity: "spiffe://example.org/ns/shop/sa/orders".into(),
            uid: "orders-1".into(),
            control: true,
            expires_at: 1_800_000_000,
        };
        let table = token_table(&[token]);
        for want in ["ID", "UNTIL", "1f2e", "orders-1", "control", "2027-01-15T08:00:00Z"] {
            assert!(table.contains(want), "{want} is not in:\n{table}");
        }
    }
}
