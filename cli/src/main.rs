//! signet: check, explain, inspect, join, demo. Arguments and exit codes; each command is a module of the library. Under the name
//! `kubectl-signet` it is kubectl's plugin, and calls itself `kubectl signet`; as `kubectl_complete-signet` it completes that.
mod complete;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use signet::{check, demo, edges, identity, inspect, rules, selftest, token};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "signet",
    version,
    about = "The command line of Signet, a service mesh for zero-trust internal APIs",
    after_help = "\
Example:
  signet check
  signet identity orders-6d5f7 -n shop
  signet edges -n shop
  signet rules check mesh/*.yaml
  signet rules explain --from shop/cart --to shop/orders-1 --port 8080 --files mesh"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check whether Signet is well in a Kubernetes cluster, and say what mends it.
    Check(check::CheckArgs),
    /// Show who a pod is: its identity and certificate, and the rules that guard it.
    Identity(identity::IdentityArgs),
    /// Show who calls whom, what was admitted and what refused.
    Edges(edges::EdgesArgs),
    /// Check rules before they are in force, and explain what they decide.
    #[command(subcommand)]
    Rules(rules::RulesCommand),
    /// Make, list and revoke join tokens on the CA's machine.
    Token(token::TokenArgs),
    /// Show the certificates of a file, a bundle or a running sidecar.
    Inspect(inspect::InspectArgs),
    /// Watch a zero-trust mesh work on this machine.
    Demo(demo::Arguments),
    /// The two ends of `helm test`.
    #[command(hide = true)]
    Selftest(selftest::SelftestArgs),
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  signet completion bash > /etc/bash_completion.d/signet")]
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    if called() == "kubectl_complete-signet" {
        complete::print(Arguments::command());
        return ExitCode::SUCCESS;
    }
    // What a command that could not do its work ends with: 2 where 1 is an answer.
    let (command, name) = command();
    let (result, unable) = match command {
        Command::Check(arguments) => (check::run(&arguments), 2),
        Command::Identity(arguments) => (identity::run(&arguments), 2),
        Command::Edges(arguments) => (edges::run(&arguments), 2),
        Command::Rules(command) => (rules::run(command), 2),
        Command::Inspect(arguments) => (inspect::run(&arguments), 2),
        Command::Token(arguments) => (token::run(arguments), 1),
        Command::Demo(arguments) => (demo::run(&arguments), 1),
        Command::Selftest(arguments) => (selftest::run(&arguments), 1),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "signet", &mut std::io::stdout());
            (Ok(ExitCode::SUCCESS), 1)
        }
    };
    result.unwrap_or_else(|error| {
        complain(&format!("{name}: {error:#}"));
        ExitCode::from(unable)
    })
}

/// The name under which this program was started.
fn called() -> String {
    let first = std::env::args_os().next().unwrap_or_default();
    Path::new(&first).file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The command, and what this program is called. `kubectl signet` runs `kubectl-signet`, and says so in every usage text.
fn command() -> (Command, &'static str) {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let name = if called() == "kubectl-signet" { "kubectl signet" } else { "signet" };
    let definition = Arguments::command().bin_name(name);
    if let Some(first) = arguments.first_mut() {
        *first = name.into();
    }
    let mut matches = definition.get_matches_from(arguments);
    match Arguments::from_arg_matches_mut(&mut matches) {
        Ok(arguments) => (arguments.command, name),
        Err(error) => error.exit(),
    }
}

#[allow(clippy::print_stderr, reason = "errors of a command line belong there")]
fn complain(message: &str) {
    eprintln!("{message}");
}
