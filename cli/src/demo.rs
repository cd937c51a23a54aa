//! `signet demo`: a mesh in network namespaces of this machine, told step by step, each step checked. The same `world` and
//! `mesh` carry the tests that need more than one program.
//!
//! ```text
//! demo ── sealed (nothing can be left behind) ── story ─┬─ mesh ── world, process
//!                                                       ├─ programs (curl's and ssh's servers), traffic
//!                                                       └─ wire (what is between the machines), stage (how it looks)
//! ```
pub mod mesh;
pub mod process;
mod programs;
mod sealed;
mod stage;
mod story;
mod traffic;
pub mod wire;
pub mod world;

use anyhow::Context as _;
use std::{path::Path, process::ExitCode};

/// Watch a zero-trust mesh work on this machine, in about a minute. Every step says what is about to happen, shows it, and
/// checks it; a claim that does not hold ends the demo with exit code 1. Nothing is left behind, however it ends.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  sudo signet demo --keep")]
pub struct Arguments {
    /// Leave the mesh running at the end, and print commands to try; Ctrl-C ends it
    #[arg(long)]
    keep: bool,
    /// Used by the demo itself: it runs inside its own namespaces already
    #[arg(long, hide = true)]
    sealed: bool,
}

/// Runs it. The exit code is 1 when a claim did not hold.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if !arguments.sealed {
        let mut again = vec!["demo", "--sealed"];
        if arguments.keep {
            again.push("--keep");
        }
        let status = sealed::run(&again)?;
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let myself = std::env::current_exe().context("finding this program")?;
    let programs = myself.parent().unwrap_or(Path::new("/"));
    let mut stage = stage::Stage::new();
    match story::tell(&mut stage, programs, arguments.keep) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            stage.line(&format!("\nThe demo ends here: {error:#}"));
            Ok(ExitCode::FAILURE)
        }
    }
}
