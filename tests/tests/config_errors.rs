//! Bad configuration: every program names all that is wrong at once, with line and mend, exits with 2, and has not opened a
//! socket.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]
use signet::demo::process::wait_for;
use signet_tests::{SOON, programs};
use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("signet-config-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
    fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const PROGRAMS: [&str; 3] = ["signet-ca", "signet-operator", "signet-sidecar"];

fn run(program: &str, config: &Path, documents: &Path) -> Output {
    let mut command = Command::new(programs().join(program));
    command.arg("run").arg("--config").arg(config);
    if program == "signet-operator" {
        command.arg("--files").arg(documents);
    }
    command.output().unwrap()
}

/// Runs a program on a bad file; it must exit with 2 and name everything.
fn refused(program: &str, text: &str, mode: u32, names: &[&str]) {
    let scratch =
        Scratch::new(&format!("{program}-{}", names.join("-").replace(|c: char| !c.is_ascii_alphanumeric(), "_")));
    let documents = scratch.0.join("documents");
    fs::create_dir_all(&documents).unwrap();
    let config = scratch.file("config.toml", text, mode);
    let out = run(program, &config, &documents);
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.status.code(), Some(2), "{program}: {said}");
    for name in names {
        assert!(said.contains(name), "{program}: {name:?} is not in: {said}");
    }
    assert!(said.contains("config.toml"), "{program} names the file: {said}");
}

#[test]
fn an_unknown_key_a_wrong_type_and_a_missing_key_are_all_reported_at_once_with_their_lines() {
    for program in PROGRAMS {
        refused(
            program,
            "# a comment\nno_such_key = 1\nlisten = [\n 7\n]\n[ca]\naddress = 5\n",
            0o600,
            &["no_such_key", ":2", "listen"],
        );
    }
}

#[test]
fn what_is_not_toml_is_refused_with_its_line() {
    for program in PROGRAMS {
        refused(program, "# fine\n\nthis is not toml\n", 0o600, &[":3"]);
    }
}

#[test]
fn a_file_that_others_may_write_is_refused_with_the_chmod_that_mends_it() {
    for program in PROGRAMS {
        refused(program, "", 0o666, &["chmod"]);
    }
}

#[test]
fn a_file_that_is_not_there_is_refused_by_name() {
    for program in PROGRAMS {
        let out = run(program, Path::new("/nowhere/config.toml"), Path::new("/nowhere"));
        let said = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
        assert_eq!(out.status.code(), Some(2), "{program}: {said}");
        assert!(said.contains("/nowhere/config.toml"), "{program}: {said}");
    }
}

#[test]
fn a_bad_configuration_is_refused_before_any_socket_is_opened() {
    // Every port that the file names is taken: a program that opened one first would complain of that instead.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (program, listen) in [
        ("signet-ca", format!("listen = \"127.0.0.1:{port}\"\nhealth = \"127.0.0.1:{port}\"\n")),
        ("signet-operator", format!("listen = \"127.0.0.1:{port}\"\nhealth = \"127.0.0.1:{port}\"\n")),
        ("signet-sidecar", format!("[listen]\naddresses = [\"127.0.0.1\"]\nhealth = {port}\n")),
    ] {
        refused(program, &format!("no_such_key = 1\n{listen}"), 0o600, &["no_such_key"]);
        let scratch = Scratch::new(&format!("{program}-socket"));
        let config = scratch.file("config.toml", &format!("no_such_key = 1\n{listen}"), 0o600);
        let out = run(program, &config, &scratch.0);
        assert!(!String::from_utf8_lossy(&out.stderr).contains("listen on"), "{program}");
    }
    // Nor has anybody called.
    taken.set_nonblocking(true).unwrap();
    assert!(taken.accept().is_err());
}

#[test]
fn a_state_directory_that_others_may_enter_is_refused_like_every_other_setting() {
    for program in PROGRAMS {
        let scratch = Scratch::new(&format!("{program}-state"));
        let state = scratch.0.join("state");
        fs::create_dir_all(&state).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
        let line = format!("state_dir = {:?}\n", state.display().to_string());
        let text = if program == "signet-ca" { line } else { format!("[ca]\n{line}") };
        refused(
            program,
            &text,
            0o600,
            &["state_dir", "0755", &format!("chmod 0700 {}", state.display()), "trust_domain"],
        );
        assert_eq!(fs::read_dir(&state).unwrap().count(), 0, "{program} wrote into it");
    }
}

#[test]
fn another_user_than_the_cas_own_is_told_whom_to_be() {
    let scratch = Scratch::new("ca-user");
    let owner = 2137;
    fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o755)).unwrap();
    let program = scratch.0.join("signet-ca");
    // By another process: a child that a test beside this one starts would for a moment hold what is open for writing here,
    // and the kernel runs no file that somebody may still write (ETXTBSY).
    assert!(Command::new("cp").arg(programs().join("signet-ca")).arg(&program).status().unwrap().success());
    let state = scratch.0.join("state");
    fs::create_dir_all(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    let text =
        "trust_domain = \"a.example\"\nlisten = \"127.0.0.1:0\"\nhealth = \"127.0.0.1:0\"\nstate_dir = \"state\"\n";
    let config = scratch.file("ca.toml", text, 0o600);
    for path in [&state, &config] {
        std::os::unix::fs::chown(path, Some(owner), Some(owner)).unwrap();
    }
    let mut ca = Command::new(&program);
    ca.args(["run", "--config"]).arg(&config).uid(owner).gid(owner).stderr(Stdio::null());
    let mut ca = ca.spawn().unwrap();
    let socket = state.join("admin.sock");
    let served = wait_for("the CA serves", SOON * 2, || socket.exists().then_some(()));
    let out =
        Command::new(programs().join("signet")).args(["token", "list", "--socket"]).arg(&socket).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ca.kill().unwrap();
    ca.wait().unwrap();
    served.unwrap();
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("this CA runs as user 2137") && said.contains("setpriv --reuid 2137"), "{said}");
}

#[test]
fn every_program_says_its_version_and_explains_itself() {
    for program in ["signet", "signet-ca", "signet-operator", "signet-sidecar"] {
        let version = Command::new(programs().join(program)).arg("--version").output().unwrap();
        assert!(String::from_utf8_lossy(&version.stdout).contains(env!("CARGO_PKG_VERSION")), "{program}");
        let help = Command::new(programs().join(program)).arg("--help").output().unwrap();
        assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("Usage"), "{program}");
    }
}
