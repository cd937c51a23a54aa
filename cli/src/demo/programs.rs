//! The demo's workloads: programs that the machine happens to have, none of which knows of the mesh.
use super::{
    process::{Process, wait_for},
    world::{Namespace, World},
};
use anyhow::{Context as _, bail};
use std::{
    fs,
    net::{IpAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// Where system programs lie that are not on everybody's path.
const SYSTEM: [&str; 3] = ["/usr/sbin", "/usr/bin", "/bin"];

/// An HTTP server on a port that answers every request with `page`, and says a line with `GET` for each: nginx, python3 or perl,
/// whichever is there and works.
pub(super) fn http_server(
    world: &World,
    machine: &Namespace,
    port: u16,
    page: &str,
) -> anyhow::Result<(&'static str, Process)> {
    let dir = world.dir().join("www");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("index.html"), page)?;
    let d = dir.display();
    let nginx = format!(
        "daemon off; master_process off; pid {d}/nginx.pid; error_log stderr;\nevents {{}}\nhttp {{ access_log /dev/stdout;\n\
         client_body_temp_path {d}/b; proxy_temp_path {d}/p; fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u; scgi_temp_path {d}/s;\n\
         server {{ listen {port}; listen [::]:{port}; root {d}; default_type text/plain; }} }}\n"
    );
    fs::write(dir.join("nginx.conf"), nginx)?;
    fs::write(dir.join("server.pl"), PERL_HTTP)?;
    let mut candidates: Vec<(&'static str, Command)> = Vec::new();
    if let Some(program) = find("nginx") {
        let mut command = Command::new(program);
        command.arg("-c").arg(dir.join("nginx.conf")).arg("-e").arg("stderr");
        candidates.push(("nginx", command));
    }
    if let Some(program) = find("python3") {
        let mut command = Command::new(program);
        command.args(["-m", "http.server", &port.to_string(), "--directory"]).arg(&dir);
        candidates.push(("python3 -m http.server", command));
    }
    if let Some(program) = find("perl") {
        let mut command = Command::new(program);
        command.arg(dir.join("server.pl")).arg(port.to_string()).arg(dir.join("index.html"));
        candidates.push(("perl", command));
    }
    first_that_serves(machine, port, "HTTP server (nginx, python3 or perl)", candidates)
}

/// A server that speaks before its caller does: sshd, or a few lines of perl that greet as a mail server does.
pub(super) fn speaks_first(world: &World, machine: &Namespace, port: u16) -> anyhow::Result<(&'static str, Process)> {
    let dir = world.private_dir("sshd", 0)?;
    let mut candidates: Vec<(&'static str, Command)> = Vec::new();
    let key = dir.join("host_key");
    if let (Some(sshd), Some(keygen)) = (find("sshd"), find("ssh-keygen")) {
        let made = Command::new(keygen)
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key)
            .output()
            .context("running ssh-keygen")?;
        let config = format!("Port {port}\nHostKey {}\nPidFile none\nLoginGraceTime 0\nUsePAM no\n", key.display());
        fs::write(dir.join("sshd_config"), config)?;
        if made.status.success() {
            let mut command = Command::new(sshd);
            command.arg("-D").arg("-e").arg("-f").arg(dir.join("sshd_config"));
            candidates.push(("sshd", command));
        }
    }
    if let Some(program) = find("perl") {
        fs::write(dir.join("server.pl"), PERL_GREETER)?;
        let mut command = Command::new(program);
        command.arg(dir.join("server.pl")).arg(port.to_string());
        candidates.push(("perl", command));
    }
    first_that_serves(machine, port, "server that speaks first (sshd or perl)", candidates)
}

/// Starts one after the other until one accepts a connection.
fn first_that_serves(
    machine: &Namespace,
    port: u16,
    kind: &str,
    candidates: Vec<(&'static str, Command)>,
) -> anyhow::Result<(&'static str, Process)> {
    let mut said = Vec::new();
    for (name, command) in candidates {
        let file = name.split_whitespace().next().unwrap_or(name);
        let mut process = machine.spawn(file, command)?;
        let own = (IpAddr::from(machine.v4), port).into();
        let up = wait_for(&format!("{name} listens"), Duration::from_secs(5), || {
            if process.ended().is_some() {
                return Some(false);
            }
            let reached = machine.enter(|| TcpStream::connect_timeout(&own, Duration::from_millis(200)));
            reached.is_ok_and(|r| r.is_ok()).then_some(true)
        });
        if let Ok(true) = up {
            return Ok((name, process));
        }
        said.push(format!("{name}: {}", process.log().trim()));
    }
    bail!("this machine has no {kind} that starts\n{}", said.join("\n"))
}

/// Where a program lies.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> =
        std::env::split_paths(&path).chain(SYSTEM.iter().map(|d| Path::new(d).to_path_buf())).collect();
    let runs = |p: &PathBuf| fs::metadata(p).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    dirs.into_iter().map(|dir| dir.join(program)).find(runs)
}

/// perl-base is on every Debian.
const PERL_HTTP: &str = r#"use strict; use IO::Socket::INET; $SIG{CHLD} = 'IGNORE';
my ($port, $file) = @ARGV; open(my $f, '<', $file) or die; my $page = do { local $/; <$f> };
my $l = IO::Socket::INET->new(LocalPort => $port, Listen => 128, ReuseAddr => 1) or die "listen: $!";
while (1) { my $c = $l->accept or next; if (fork) { close $c; next }
  while (my $line = <$c>) { print STDERR $line if $line =~ /^GET/; if ($line =~ /^\r?\n$/) {
    print $c "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: " . length($page) . "\r\n\r\n$page"; $c->flush; } }
  exit }
"#;

/// The same, greeting first.
const PERL_GREETER: &str = r#"use strict; use IO::Socket::INET; $SIG{CHLD} = 'IGNORE';
my $l = IO::Socket::INET->new(LocalPort => $ARGV[0], Listen => 128, ReuseAddr => 1) or die "listen: $!";
while (1) { my $c = $l->accept or next; if (fork) { close $c; next }
  print $c "220 orders.shop speaks first\r\n"; $c->flush; while (<$c>) {} exit }
"#;
