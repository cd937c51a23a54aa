//! The counts of one listener as metrics: for the registries of CA and operator, which both serve through [`super::serve_tls`].
use super::Counters;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

/// What a listener counts by itself, once there is one.
#[derive(Clone, Debug, Default)]
pub struct ListenerMetrics(Arc<OnceLock<Arc<Counters>>>);

impl ListenerMetrics {
    /// Shows these counts from now on.
    pub fn watch(&self, counters: Arc<Counters>) {
        // A program has one such listener; a second one would have no place to be shown.
        _ = self.0.set(counters);
    }
}

impl Collector for ListenerMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(counters) = self.0.get() else { return Ok(()) };
        let table = [
            ("handshakes_accepted", "TLS handshakes that ended well", &counters.accepted),
            ("handshakes_failed", "TLS handshakes that failed", &counters.failed),
            ("handshakes_timed_out", "TLS handshakes that took too long", &counters.timed_out),
            (
                "connections_crowded",
                "Connections closed because their address had too many handshakes",
                &counters.crowded,
            ),
            (
                "connections_refused",
                "Connections closed because their address, or whoever they proved to be, had too many",
                &counters.refused,
            ),
            ("connections_silent", "Connections closed because nothing came from them", &counters.silent),
            ("accept_errors", "Errors of accept, such as no more file descriptors", &counters.accept_errors),
        ];
        for (name, help, count) in table {
            let counter = ConstCounter::new(count.load(Ordering::Relaxed));
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let open = ConstGauge::new(i64::try_from(counters.open.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
        open.encode(encoder.encode_descriptor("connections_open", "Open connections", None, open.metric_type())?)
    }
}
