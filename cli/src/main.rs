//! signet: check, explain, inspect, join, demo. Arguments and exit codes; each command is a module of the library.
use clap::{CommandFactory as _, Parser, Subcommand};
use signet::{demo, inspect, rules, selftest, token};
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "signet",
    version,
    about = "The command line of Signet, a service mesh for zero-trust internal APIs",
    after_help = "\
Example:
  signet rules check mesh/*.yaml
  signet rules explain --from shop/cart --to shop/orders-1 --port 8080 --files mesh"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
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
    // What a command that could not do its work ends with: 2 where 1 is an answer.
    let (result, unable) = match Arguments::parse().command {
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
        complain(&format!("signet: {error:#}"));
        ExitCode::from(unable)
    })
}

#[allow(clippy::print_stderr, reason = "errors of a command line belong there")]
fn complain(message: &str) {
    eprintln!("{message}");
}
