//! When certificates end. Reading them is `inspect`'s work.
use super::report::Finding;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Earlier than this before an end somebody must look: certificates that replace themselves have long done so by then.
const SOON: i64 = 5 * 24 * 3600;

/// The end of what a PEM text holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It holds nothing.
    None,
    /// Of the one that lasts longest of those that are valid already, in unix seconds.
    At(i64),
    /// It is no PEM of certificates.
    Broken(String),
}

pub(super) fn last_end(pem: &[u8], now: i64) -> End {
    if pem.is_empty() {
        return End::None;
    }
    let mut last = None;
    for der in CertificateDer::pem_slice_iter(pem) {
        let der = match der {
            Ok(der) => der,
            Err(error) => return End::Broken(format!("{error:?}")),
        };
        match X509Certificate::from_der(&der) {
            Ok((_, certificate)) => {
                let validity = certificate.validity();
                if validity.not_before.timestamp() <= now {
                    last = last.max(Some(validity.not_after.timestamp()));
                }
            }
            Err(error) => return End::Broken(error.to_string()),
        }
    }
    last.map_or_else(|| End::Broken("no certificate in it is valid yet, or there is none".to_owned()), End::At)
}

/// Says when something ends.
pub(super) fn judged(id: &'static str, what: &str, end: i64, now: i64, hint: String) -> Finding {
    let at = Timestamp::from_second(end).map_or_else(|_| end.to_string(), |time| time.to_string());
    let days = (end - now) / (24 * 3600);
    match end - now {
        ..=0 => Finding::fail(id, format!("{what} has ended at {at}"), hint),
        1..SOON => Finding::warn(id, format!("{what} ends in {days} days, at {at}"), hint),
        _ => Finding::ok(id, format!("{what} is good until {at} ({days} days)")),
    }
}
