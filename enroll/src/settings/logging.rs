//! The `[log]` table, and the subscriber that every program installs.
//!
//! A log line is one line: whatever a peer sent, no carriage return, line feed or terminal escape of its reaches the log.
use super::{Setting, Table, Unfit, Value};
use std::io::{self, Write};
use std::str::FromStr;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The `[log]` table: `format` (`"text"`, `"json"`) and `filter` (as `RUST_LOG` takes it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// How lines look.
    pub format: LogFormat,
    /// What is logged: `"info"`, or `"info,signet_sidecar=debug"`.
    pub filter: String,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

impl LogSettings {
    /// Reads the table; everything in it has a default.
    pub fn read(table: &mut Table<'_>) -> Option<Self> {
        let format = table.or("format", LogFormat::Text, "\"text\" or \"json\"");
        let want = "a filter such as \"info\" or \"info,signet_sidecar=debug\"";
        let filter = table.or("filter", "info".to_owned(), want);
        let filter = filter.filter(|f| table.check("filter", f.parse::<Targets>().is_ok(), want));
        Some(Self { format: format?, filter: filter? })
    }
}

impl FromStr for LogFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("{other:?} is neither \"text\" nor \"json\"")),
        }
    }
}
impl Setting for LogFormat {
    fn read(value: &Value<'_>) -> Result<Self, Unfit> {
        value.text()?.parse().map_err(|_| Unfit::default())
    }
}

/// Installs the subscriber of this process, which writes to standard error. `RUST_LOG`, where it is set, wins over `filter`.
/// Fails on a filter that does not parse, and when a subscriber is installed already.
pub fn init_logging(format: LogFormat, filter: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(set) if !set.is_empty() => set,
        _ => filter.to_owned(),
    };
    // `Targets`, not `EnvFilter`: levels by target are all that is wanted, and the engine of regular expressions that the other
    // brings along is a tenth of the sidecar.
    let registry = tracing_subscriber::registry().with(filter.parse::<Targets>()?);
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(StderrLines);
    match format {
        LogFormat::Text => registry.with(lines).try_init()?,
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init()?,
    }
    Ok(())
}

/// Standard error through [`OneLine`].
struct StderrLines;

impl MakeWriter<'_> for StderrLines {
    type Writer = OneLine<io::Stderr>;
    fn make_writer(&self) -> Self::Writer {
        OneLine(io::stderr())
    }
}

/// A writer that makes one line of every `write`: control characters within it are written as `\u00NN`, so that no peer can
/// forge a line or steer a terminal (CR, LF, ANSI escapes, and their C1 forms). A trailing line feed stays.
#[derive(Debug)]
pub struct OneLine<W>(pub W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (line, end) = bytes.strip_suffix(b"\n").map_or((bytes, &b""[..]), |line| (line, b"\n"));
        if line.iter().all(|b| (0x20..0x7f).contains(b)) {
            self.0.write_all(bytes)?;
            return Ok(bytes.len());
        }
        let mut safe = Vec::with_capacity(line.len() + 16);
        for c in String::from_utf8_lossy(line).chars() {
            if c.is_control() {
                // The one spelling that is also right within JSON.
                write!(safe, "\\u{:04x}", u32::from(c))?;
            } else {
                safe.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        safe.extend_from_slice(end);
        self.0.write_all(&safe)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
