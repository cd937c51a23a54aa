//! The `[ca]` table of a program's configuration file.
use crate::{settings, state_dir};
use signet_identity::{Bundle, IdError, SpiffeId, TrustDomain};
use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The largest token file that is read, in bytes. A join token has about 50, a service account's some thousand.
const MAX_TOKEN: u64 = 16 * 1024;

/// Where the CA is, how it is recognised, and how this host joins.
#[derive(Clone)]
pub struct EnrollConfig {
    /// `host:port`.
    pub ca_address: String,
    /// The mesh's.
    pub trust_domain: TrustDomain,
    /// Where the CA's reserved identity lives; `signet-system` by default.
    pub control_namespace: String,
    /// Roots that authenticate first contact, PEM. A newer trust state in the state directory comes before them.
    pub bundle_pem: String,
    /// Holds the host key (not with `token_file`) and the newest trust state. Made with mode 0700 if it is missing.
    pub state_dir: PathBuf,
    /// Joins this host, once. Not needed when the state directory holds a registration.
    pub join_token: Option<Zeroizing<String>>,
    /// A projected service account token, read afresh for every certificate: this is a pod, and Kubernetes answers for it.
    pub token_file: Option<PathBuf>,
}

impl EnrollConfig {
    /// Reads the keys `address`, `trust_domain`, `control_namespace`, `bundle`, `state_dir`, and `join_token_file` or
    /// `token_file`, and the files that they name but the last. Nothing after a problem was recorded.
    pub fn read(table: &mut settings::Table<'_>) -> Option<Self> {
        let address =
            table.required("address", "host:port of the CA, such as ca.example:15012").and_then(|a: String| {
                let good = is_host_and_port(&a);
                table.check("address", good, "host:port of the CA, such as ca.example:15012").then_some(a)
            });
        let trust_domain: Option<TrustDomain> =
            table.required("trust_domain", "the mesh's trust domain, such as prod.example");
        let namespace = table.or("control_namespace", "signet-system".to_owned(), "a namespace");
        let namespace = namespace.filter(|namespace| {
            let id = trust_domain.as_ref().map(|td| SpiffeId::workload(td, namespace, "signet-ca"));
            table.check("control_namespace", !matches!(id, Some(Err(_))), "a namespace such as signet-system")
        });
        let bundle: Option<PathBuf> = table.required("bundle", "path of a PEM file with the mesh's root certificates");
        let bundle = bundle.and_then(|path| {
            let pem = read_text(&path, signet_identity::trust::MAX_BUNDLE_TEXT as u64);
            let problem = match &pem {
                Ok(pem) => Bundle::from_pem(pem).err().map(|error| error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(problem) = problem {
                let found = format!("{}: {problem}", path.display());
                table.refuse("bundle", &found, "a PEM file with the mesh's root certificates");
                return None;
            }
            pem.ok()
        });
        let state_dir: Option<PathBuf> = table.required("state_dir", "path of a directory that only this program uses");
        let state_dir = state_dir.filter(|path| {
            let problem = state_dir::check(path).err();
            if let Some(problem) = &problem {
                table.refuse("state_dir", &problem.to_string(), "a directory that only its owner may enter");
            }
            problem.is_none()
        });
        let join: Option<Option<PathBuf>> = table.optional("join_token_file", "path of a file with a join token");
        let joins = matches!(join, Some(Some(_)));
        let token = join.and_then(|path| {
            let Some(path) = path else { return Some(None) };
            match read_token(&path) {
                Ok(token) => Some(token),
                Err(problem) => {
                    table.refuse(
                        "join_token_file",
                        &problem,
                        "a file with the token that `signet token create` printed",
                    );
                    None
                }
            }
        });
        let token_file: Option<Option<PathBuf>> =
            table.optional("token_file", "path of a projected service account token");
        if joins && matches!(token_file, Some(Some(_))) {
            let found = "a pod's token, and join_token_file is set as well";
            table.refuse("token_file", found, "one of the two: token_file in a pod, join_token_file on a host");
        }
        Some(Self {
            ca_address: address?,
            trust_domain: trust_domain?,
            control_namespace: namespace?,
            bundle_pem: bundle?,
            state_dir: state_dir?,
            join_token: token?,
            token_file: token_file?,
        })
    }

    /// The one identity that the CA must prove.
    pub fn ca_identity(&self) -> Result<SpiffeId, IdError> {
        SpiffeId::workload(&self.trust_domain, &self.control_namespace, "signet-ca")
    }
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host_is_good = match bare {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')),
    };
    host_is_good && port.parse::<u16>().is_ok_and(|port| port != 0)
}

fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(io::Error::other(format!("more than {limit} bytes")));
    }
    Ok(text)
}

/// A file that is gone is no problem: a token is of no more use once the host has joined.
fn read_token(path: &Path) -> Result<Option<Zeroizing<String>>, String> {
    let shown = path.display();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{shown}: {error}")),
    };
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(format!("{shown}, which others may read (mend it with: chmod 600 {shown})"));
    }
    token_text(path).map(Some)
}

/// A service account token, as it is at this moment. Its mode is the kubelet's business.
pub(crate) fn read_pod_token(path: &Path) -> Result<Zeroizing<String>, String> {
    token_text(path)
}

fn token_text(path: &Path) -> Result<Zeroizing<String>, String> {
    let shown = path.display();
    let text = read_token_file(path).map_err(|error| format!("{shown}: {error}"))?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!("{shown}, which holds no token"));
    }
    Ok(Zeroizing::new(token.to_owned()))
}

/// With room for everything at once: a string that grows leaves copies of a secret behind.
fn read_token_file(path: &Path) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(MAX_TOKEN + 1).unwrap_or(0)));
    std::fs::File::open(path)?.take(MAX_TOKEN + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_TOKEN {
        return Err(io::Error::other(format!("more than {MAX_TOKEN} bytes")));
    }
    Ok(text)
}

impl fmt::Debug for EnrollConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrollConfig")
            .field("ca_address", &self.ca_address)
            .field("trust_domain", &self.trust_domain)
            .field("control_namespace", &self.control_namespace)
            .field("state_dir", &self.state_dir)
            .field("join_token", &self.join_token.as_ref().map(|_| "(secret)"))
            .field("token_file", &self.token_file)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
