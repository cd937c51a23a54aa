//! When certificates end. Reading them is `inspect`'s work.
use super::report::Finding;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const DAY: i64 = 24 * 3600;
/// Earlier than this before an end somebody must look: certificates that replace themselves have long done so by then.
pub(super) const SOON: i64 = 5 * DAY;
/// The same for what does not replace itself, the root; of one that was never to last long, a third of its life.
const SOON_BY_HAND: i64 = 30 * DAY;

/// The end of what a PEM text holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It holds nothing.
    None,
    /// Of the one that lasts longest of those that are valid already, in unix seconds.
    At {
        /// Its first.
        begin: i64,
        /// Its last.
        end: i64,
    },
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
                    last = last.max(Some((validity.not_after.timestamp(), validity.not_before.timestamp())));
                }
            }
            Err(error) => return End::Broken(error.to_string()),
        }
    }
    match last {
        Some((end, begin)) => End::At { begin, end },
        None => End::Broken("no certificate in it is valid yet, or there is none".to_owned()),
    }
}

/// How many seconds before its end somebody must look at what does not replace itself.
pub(super) fn soon_by_hand(begin: i64, end: i64) -> i64 {
    SOON_BY_HAND.min((end - begin) / 3)
}

/// Says how long something lasts: until `end`, of which a warning comes so many seconds before (`soon`).
pub(super) fn judged(id: &'static str, what: &str, end: i64, now: i64, soon: i64, hint: String) -> Finding {
    let at = Timestamp::from_second(end).map_or_else(|_| end.to_string(), |time| time.to_string());
    let left = end - now;
    let days = left / DAY;
    match left {
        ..=0 => Finding::fail(id, format!("{what} has ended at {at}"), hint),
        _ if left < soon => Finding::warn(id, format!("{what} ends in {days} days, at {at}"), hint),
        _ => Finding::ok(id, format!("{what} is good until {at} ({days} days)")),
    }
}

#[cfg(test)]
mod tests {
    //! When somebody is told.
    use super::{DAY, SOON, judged, soon_by_hand};
    use crate::check::report::Sign;

    #[test]
    fn a_root_is_warned_of_while_there_is_time_to_act() {
        for (life, soon) in [(365, 30), (90, 30), (9, 3)] {
            assert_eq!(soon_by_hand(0, life * DAY), soon * DAY, "{life} days");
        }
        let sign = |left: i64, soon: i64| judged("certificates.root", "the root", left, 0, soon, String::new()).sign;
        for (left, by_itself, by_hand) in [
            (30 * DAY, Sign::Ok, Sign::Ok),
            (30 * DAY - 1, Sign::Ok, Sign::Warn),
            (5 * DAY - 1, Sign::Warn, Sign::Warn),
            (0, Sign::Fail, Sign::Fail),
        ] {
            assert_eq!((sign(left, SOON), sign(left, soon_by_hand(0, 365 * DAY))), (by_itself, by_hand), "{left}");
        }
    }
}
