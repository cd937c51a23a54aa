//! When certificates end: those that lie in the cluster, and those that programs hold and say the end of. Reading them is
//! `inspect`'s work.
use super::facts::Facts;
use super::programs;
use super::report::Finding;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
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

/// A moment in unix seconds, for people.
fn moment(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

/// Says how long something lasts: until `end`, of which a warning comes so many seconds before (`soon`).
pub(super) fn judged(id: &'static str, what: &str, end: i64, now: i64, soon: i64, hint: String) -> Finding {
    let at = moment(end);
    let left = end - now;
    let days = left / DAY;
    match left {
        ..=0 => Finding::fail(id, format!("{what} has ended at {at}"), hint),
        _ if left < soon => Finding::warn(id, format!("{what} ends in {days} days, at {at}"), hint),
        _ => Finding::ok(id, format!("{what} is good until {at} ({days} days)")),
    }
}

/// A certificate that each pod of a program holds in memory and replaces itself.
pub(super) struct Held {
    /// The check.
    pub(super) id: &'static str,
    /// `ca` or `operator`.
    pub(super) program: &'static str,
    /// What it is, for people.
    pub(super) what: &'static str,
    /// The number on the page of metrics: its end, in unix seconds; 0 while there is none.
    pub(super) metric: &'static str,
    /// The same of its begin, where that is shown: what was issued before a lifetime was changed has the old one.
    pub(super) begin: Option<&'static str>,
    /// The key of `[lifetimes]` in `ca.toml` that says how long it lasts, and what that is where it is not said, in seconds.
    pub(super) life: (&'static str, i64),
}

/// Judges the one that ends first. All are replaced with at least a third of their life left: one that has less than a sixth has
/// not been for long, and a day would be a life for some.
pub(super) fn held(facts: &Facts, of: &Held) -> Finding {
    let Held { id, program, what, .. } = *of;
    let (ends, config) = match (programs::metric(facts, program, of.metric), facts.config("signet-ca")) {
        (Ok(ends), Ok(config)) => (ends, config),
        (Err(lack), _) | (_, Err(lack)) => return Finding::lacking(id, &lack),
    };
    let logs = format!("kubectl -n {} logs -l app.kubernetes.io/component={program} --tail=20", facts.control());
    let ends = ends.iter().map(|(pod, end)| (pod, i64::try_from(*end).unwrap_or(i64::MAX)));
    let Some((pod, end)) = ends.min_by_key(|(_, end)| *end) else {
        return Finding::skipped(
            id,
            format!("no pod of signet-{program} could be asked for {what}"),
            format!("see {program}.health"),
        );
    };
    let at = moment(end);
    let begins = of.begin.map(|begin| programs::metric(facts, program, begin));
    let begin = match &begins {
        Some(Ok(begins)) => begins.get(pod).and_then(|begin| i64::try_from(*begin).ok()).filter(|begin| *begin > 0),
        Some(Err(lack)) => return Finding::lacking(id, lack),
        None => None,
    };
    let said = || config.and_then(|config| lifetime(config, of.life.0)).unwrap_or(of.life.1);
    let life = begin.map_or_else(said, |begin| end - begin);
    let about = |finding: Finding| finding.about(vec![pod.clone()]);
    match end - facts.now {
        _ if end == 0 => about(Finding::fail(id, format!("{pod} has no certificate"), logs)),
        ..=0 => about(Finding::fail(id, format!("{what} of {pod} has ended at {at}"), logs)),
        left if left < life / 6 => {
            about(Finding::warn(id, format!("{what} of {pod} ends at {at} and should long have been replaced"), logs))
        }
        _ => Finding::ok(id, format!("{what} of every pod is good until {at} at least, and replaced before")),
    }
}

/// A duration of `[lifetimes]` in the CA's configuration, in seconds.
fn lifetime(config: &ConfigMap, key: &str) -> Option<i64> {
    let settings = programs::settings(config, "ca.toml")?;
    let text = settings.get("lifetimes")?.get(key)?.as_str()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(unit)
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
