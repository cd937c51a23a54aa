//! signet-ca: issues short-lived SVIDs to workloads that it has attested. Arguments, provider, runtime, run, exit code; what
//! runs is in `program`.
use anyhow::Context;
use clap::{Parser, Subcommand};
use signet_ca::{clock::Clock, config::Config, program};
use signet_enroll::settings::{LogFormat, init_logging};
use std::{path::PathBuf, process::ExitCode};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(
    name = "signet-ca",
    version,
    about = "Issues short-lived SPIFFE certificates to workloads that it has attested"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves until SIGTERM; the first run makes the root.
    #[command(
        after_help = "Example:\n  signet-ca run --config /etc/signet/ca.toml\n\nThe smallest ca.toml:\n  trust_domain = \"example.org\"\n\nIn a Kubernetes cluster, whose pods it then attests:\n  trust_domain = \"example.org\"\n  [kubernetes]"
    )]
    Run {
        /// The configuration file (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// How log lines look; wins over the file.
        #[arg(long, value_name = "text|json")]
        log_format: Option<LogFormat>,
    },
}

fn main() -> ExitCode {
    let Command::Run { config, log_format } = Arguments::parse().command;
    let config = match Config::read(&config) {
        Ok(config) => config,
        Err(problems) => {
            complain(&problems.to_string());
            return ExitCode::from(2);
        }
    };
    match run(config, log_format) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("signet-ca: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stderr, reason = "why the program did not start is for whoever started it, log or no log")]
fn complain(message: &str) {
    eprintln!("{}", message.trim_end());
}

fn run(config: Config, log_format: Option<LogFormat>) -> anyhow::Result<()> {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("another TLS provider was installed before ours");
    }
    init_logging(log_format.unwrap_or(config.log.format), &config.log.filter)
        .map_err(|error| anyhow::anyhow!("logging: {error}"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(config.limits.signing + 64)
        .enable_all()
        .build()
        .context("the runtime did not start")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut running = program::start(config, Clock::system()).await?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            error = running.failed() => return Err(error),
        }
        tracing::info!("stopping");
        running.stop().await;
        Ok(())
    })
}
