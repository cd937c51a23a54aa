//! `signet-images`: writes each program as a container image, see [`signet_tests::oci`]. `make images` calls it.
use anyhow::{Context as _, bail};
use signet_tests::oci::Image;
use std::{path::PathBuf, process::ExitCode};

const USAGE: &str = "usage: signet-images PROGRAMS_DIR OUT_DIR REFERENCE_PREFIX TAG NAME...
  writes OUT_DIR/NAME.tar for each PROGRAMS_DIR/NAME, as REFERENCE_PREFIX/NAME:TAG
  example: signet-images target/fast target/images docker.io/signet 0.1.0 signet-ca signet-sidecar";

/// Size that an image should not exceed, in millions of bytes; the user that it runs as; and its arguments.
fn profile(name: &str) -> (u64, u32, &'static [&'static str]) {
    match name {
        // The redirect rules except this user's connections.
        "signet-sidecar" => (9, 2137, &[]),
        // In the test cluster it is what every pod's sandbox runs, too.
        "signet-workload" => (25, 65532, &["pause"]),
        _ => (25, 65532, &[]),
    }
}

fn run() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context(USAGE);
    let (programs, out, prefix, tag) = (PathBuf::from(next()?), PathBuf::from(next()?), next()?, next()?);
    let names: Vec<_> = arguments.collect();
    if names.is_empty() {
        bail!(USAGE);
    }
    for name in names {
        let (target, user, arguments) = profile(&name);
        let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        let reference = format!("{prefix}/{name}:{tag}");
        let image = Image { program: programs.join(&name), name, reference, arguments, user };
        let written = image.write(&out)?;
        let size = written.size as f64 / 1e6;
        let verdict = if written.size <= target * 1_000_000 { "" } else { ", more than it should be" };
        #[expect(clippy::print_stdout, reason = "the answer of a command")]
        {
            println!("{}  {}", written.path.display(), image.reference);
            println!("  {size:.1} MB (target {target} MB{verdict})  {}", written.digest);
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "why the command failed")]
            {
                eprintln!("signet-images: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
