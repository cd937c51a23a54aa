//! signet-sidecar: see `--help`.
use clap::{Parser, Subcommand};
use signet_enroll::settings::Problems;
use signet_sidecar::capture::{self, CaptureArgs};
use signet_sidecar::config::Config;
use signet_sidecar::run;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Transparent mutual TLS and allow rules beside one workload.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:\n  signet-sidecar capture up && setpriv --reuid 2137 --clear-groups signet-sidecar run --config sidecar.toml"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Carry this workload's traffic until SIGTERM
    Run {
        /// The configuration; every problem in it is reported at once, with exit code 2
        #[arg(long, value_name = "FILE", required_unless_present = "config_env")]
        config: Option<PathBuf>,
        /// The environment variable that holds the configuration (TOML), in place of a file: how a pod's sidecar is told
        #[arg(long, value_name = "VARIABLE", conflicts_with = "config")]
        config_env: Option<String>,
    },
    /// Write, remove or show the redirect rules
    Capture(CaptureArgs),
}

fn main() -> ExitCode {
    // The provider is passed explicitly wherever TLS is configured; this covers what a library may do by itself. It can only
    // fail when one is installed already.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let outcome = match Args::parse().command {
        Command::Capture(args) => capture::run(args),
        Command::Run { config, config_env } => match read(config.as_deref(), config_env.as_deref()) {
            Ok(config) => serve(&config),
            Err(problems) => {
                complain(&problems);
                return ExitCode::from(2);
            }
        },
    };
    outcome.unwrap_or_else(|error| {
        complain(&format!("signet-sidecar: {error:#}"));
        ExitCode::FAILURE
    })
}

/// clap has made sure that one of the two is there.
fn read(file: Option<&Path>, variable: Option<&str>) -> Result<Config, Problems> {
    match variable {
        Some(variable) => Config::from_environment(variable),
        None => Config::read(file.unwrap_or(Path::new("sidecar.toml"))),
    }
}

fn serve(config: &Config) -> anyhow::Result<ExitCode> {
    signet_enroll::settings::init_logging(config.log.format, &config.log.filter).map_err(|e| anyhow::anyhow!(e))?;
    run::run(config)?;
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stderr, reason = "the place for what a person must read")]
fn complain(text: &dyn std::fmt::Display) {
    eprintln!("{text}");
}
