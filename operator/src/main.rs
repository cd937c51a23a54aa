//! signet-operator: arguments, provider, runtime, run, exit code. What runs is in `program`.
use anyhow::Context as _;
use clap::{Parser, Subcommand};
use signet_enroll::settings::{LogFormat, init_logging};
use signet_operator::config::Config;
use signet_operator::program::Program;
use signet_operator::uninstall;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Gives back within ten seconds what nobody uses any more. With 10,000 control streams glibc kept 700 MB after the last had gone:
/// what is freed out of order lies between what is still in use, and only the top of its heaps goes back by itself.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(name = "signet-operator", version, about = "Tells each sidecar who its peers are and what its rules are")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves until SIGTERM.
    #[command(after_help = "\
Example:
  signet-operator run --config /etc/signet/operator.toml --files /etc/signet/mesh

The smallest operator.toml:
  [ca]
  address = \"ca.example:15012\"
  trust_domain = \"example.org\"
  bundle = \"root.pem\"
  state_dir = \"/var/lib/signet/operator\"
  join_token_file = \"operator.token\"")]
    Run {
        /// The configuration file (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The directory of Workload, Service, Posture and AllowRule documents; wins over `files` in the file.
        #[arg(long, value_name = "DIR")]
        files: Option<PathBuf>,
        /// How log lines look; wins over the file.
        #[arg(long, value_name = "text|json")]
        log_format: Option<LogFormat>,
        /// What is logged, such as "info,signet_operator=debug"; wins over the file.
        #[arg(long, value_name = "FILTER")]
        log: Option<String>,
    },
    /// Fails while pods are in the mesh, and names them: `helm uninstall` asks before it begins.
    #[command(hide = true)]
    UninstallCheck {
        /// Names them, and does not fail.
        #[arg(long)]
        force: bool,
    },
    /// Deletes what was made while the mesh ran: `helm uninstall` asks for it at the end.
    #[command(hide = true)]
    UninstallClean {
        /// Where CA and operator were.
        #[arg(long, value_name = "NAMESPACE")]
        namespace: String,
        /// Root key, trust state and bundle too.
        #[arg(long)]
        purge: bool,
    },
    /// Writes the custom resource definition of AllowRule and its admission policy: for who builds the chart.
    #[command(hide = true)]
    Crd {
        /// The directory, such as charts/signet/crd.
        directory: PathBuf,
    },
}

fn main() -> ExitCode {
    let (config, files, log_format, log) = match Arguments::parse().command {
        Command::Run { config, files, log_format, log } => (config, files, log_format, log),
        Command::UninstallCheck { force } => return ended(uninstall_check(force)),
        Command::UninstallClean { namespace, purge } => return ended(uninstall_clean(&namespace, purge)),
        Command::Crd { directory } => return ended(write_crd(&directory)),
    };
    let mut config = match Config::read(&config, files) {
        Ok(config) => config,
        Err(problems) => {
            complain(&problems.to_string());
            return ExitCode::from(2);
        }
    };
    config.log.format = log_format.unwrap_or(config.log.format);
    config.log.filter = log.unwrap_or(config.log.filter);
    ended(run(config))
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("signet-operator: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn uninstall_check(force: bool) -> anyhow::Result<()> {
    in_cluster(async |client| {
        let pods = uninstall::injected(&client).await?;
        if pods.is_empty() {
            return Ok(());
        }
        let refusal = uninstall::refusal(&pods);
        if !force {
            anyhow::bail!(refusal);
        }
        complain(&refusal);
        Ok(())
    })
}

fn uninstall_clean(namespace: &str, purge: bool) -> anyhow::Result<()> {
    in_cluster(async |client| Ok(uninstall::clean(&client, namespace, purge).await?))
}

/// Runs one command with this pod's service account.
fn in_cluster(command: impl AsyncFnOnce(kube::Client) -> anyhow::Result<()>) -> anyhow::Result<()> {
    // The first and only one of this process.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().context("the runtime did not start")?.block_on(async {
        let settings = signet_operator::cluster::Settings { sidecar_images: Vec::new(), kubeconfig: None };
        command(signet_operator::cluster::connect(&settings).await?).await
    })
}

fn write_crd(directory: &Path) -> anyhow::Result<()> {
    for (name, object) in signet_operator::crd::files() {
        let path = directory.join(name);
        std::fs::write(&path, signet_operator::crd::text(&object)?).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

#[allow(clippy::print_stderr, reason = "why the program did not start is for whoever started it, log or no log")]
fn complain(message: &str) {
    eprintln!("{}", message.trim_end());
}

fn run(config: Config) -> anyhow::Result<()> {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("another TLS provider was installed before ours");
    }
    init_logging(config.log.format, &config.log.filter).map_err(|error| anyhow::anyhow!("logging: {error}"))?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all().build().context("the runtime did not start")?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut program = Program::start(config).await?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            error = program.failed() => return Err(error),
        }
        tracing::info!("stopping");
        program.stop().await;
        Ok(())
    })
}
