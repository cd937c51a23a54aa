//! `signet rules`: the operator's own reading, index and verdict function, without an operator.
mod check;
mod explain;

use clap::Subcommand;
use std::process::ExitCode;

/// Commands of `signet rules`.
#[derive(Debug, Subcommand)]
pub enum RulesCommand {
    /// Check documents: every problem at once, each with file, line, field, what was found and what would be right.
    #[command(after_help = "\
Exit code: 0 when all is well, 1 when there are problems, 2 when a file cannot be read.

Example:
  signet rules check mesh/*.yaml
  signet rules check -n shop rule.yaml      # what kubectl apply -n shop -f rule.yaml would take
  signet rules check -o json mesh")]
    Check(check::Check),
    /// Explain what would happen to a caller: the verdict, its reason, the rule, and what a refused caller lacked.
    #[command(after_help = "\
Exit code: 0 when the caller is admitted, 1 when it is refused, 2 when nothing can be said.

Example:
  signet rules explain --from shop/cart --to shop/orders-1 --port 8080 --files mesh
  signet rules explain --from plaintext:10.20.0.7 --to shop/orders-1 --port http --files mesh")]
    Explain(explain::Explain),
}

/// Runs one of them.
pub fn run(command: RulesCommand) -> anyhow::Result<ExitCode> {
    match command {
        RulesCommand::Check(arguments) => check::run(&arguments),
        RulesCommand::Explain(arguments) => explain::run(&arguments),
    }
}
