//! The whole program, started as users start it.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be made ends the test")]
use signet_identity::testing::Authority;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);

fn operator(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_signet-operator"));
    command.args(arguments).env_remove("RUST_LOG");
    command
}

fn run(directory: &Path) -> Output {
    operator(&["run", "--config", directory.join("operator.toml").to_str().unwrap()]).output().unwrap()
}

fn configure(directory: &Path, top: &str) {
    fs::create_dir_all(directory.join("mesh")).unwrap();
    fs::write(directory.join("root.pem"), Authority::new("mesh.example").bundle().to_pem()).unwrap();
    // Nobody listens on port 1: the CA is away.
    let ca = "[ca]\naddress = \"127.0.0.1:1\"\ntrust_domain = \"mesh.example\"\nbundle = \"root.pem\"\nstate_dir = \"state\"\n";
    let token = "join_token_file = \"token\"\n[log]\nformat = \"json\"\n";
    fs::write(directory.join("token"), "a-token-of-no-use\n").unwrap();
    Command::new("chmod").arg("600").arg(directory.join("token")).status().unwrap();
    let text = format!("listen = \"127.0.0.1:0\"\nhealth = \"127.0.0.1:0\"\n{top}\n{ca}{token}");
    fs::write(directory.join("operator.toml"), text).unwrap();
}

#[test]
fn a_broken_configuration_ends_with_2_and_names_every_mistake_before_a_socket_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    configure(directory.path(), "files = \"mesh\"\nmesh_ranges = [\"10.77.0.1/16\"]\nstreams = 3");
    let output = run(directory.path());
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(
        said.contains("operator.toml:4: mesh_ranges: found") && said.contains("operator.toml:5: streams"),
        "{said}"
    );
}

#[test]
fn a_configuration_that_others_may_write_is_refused_with_the_chmod_that_mends_it() {
    let directory = tempfile::tempdir().unwrap();
    configure(directory.path(), "files = \"mesh\"");
    Command::new("chmod").arg("666").arg(directory.path().join("operator.toml")).status().unwrap();
    let output = run(directory.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("chmod go-w"));
}

/// The child, who reads its log, what of it was read, and what of that was heard.
struct Running(
    Child,
    Option<std::thread::JoinHandle<()>>,
    std::sync::mpsc::Receiver<String>,
    std::cell::RefCell<Vec<String>>,
);

impl Running {
    fn start(directory: &Path) -> Self {
        let config = directory.join("operator.toml");
        let files = directory.join("mesh");
        let arguments = ["run", "--config", config.to_str().unwrap(), "--files", files.to_str().unwrap()];
        let mut child = operator(&arguments).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (lines, heard) = std::sync::mpsc::channel();
        let reader =
            std::thread::spawn(move || log.lines().map_while(Result::ok).for_each(|line| drop(lines.send(line))));
        Self(child, Some(reader), heard, std::cell::RefCell::default())
    }

    /// The first log line with this text, of those that nobody has asked for yet. Its tasks log side by side: which of two
    /// lines comes first says nothing.
    fn until(&self, text: &str) -> serde_json::Value {
        let end = Instant::now() + SOON;
        let mut heard = self.3.borrow_mut();
        loop {
            if let Some(found) = heard.iter().position(|line| line.contains(text)) {
                return serde_json::from_str(&heard.remove(found)).unwrap();
            }
            let line = self.2.recv_timeout(end.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|_| panic!("no log line with {text:?} came; these did: {heard:#?}"));
            heard.push(line);
        }
    }

    fn terminate(mut self) -> Option<i32> {
        Command::new("kill").arg(self.0.id().to_string()).status().unwrap();
        let code = self.0.wait().unwrap().code();
        self.1.take().unwrap().join().unwrap();
        code
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, in most tests.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn health_and_status_say_what_is_missing_and_sigterm_ends_with_0() {
    let directory = tempfile::tempdir().unwrap();
    configure(directory.path(), "");
    fs::write(directory.path().join("mesh/a.yaml"), "kind: Nonsense\n").unwrap();
    let running = Running::start(directory.path());
    let health = running.until("serving")["health"].as_str().unwrap().to_owned();
    running.until("a.yaml:1: kind: found");

    assert!(get(&health, "/healthz").starts_with("HTTP/1.1 200"));
    let ready = get(&health, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("no certificate yet"), "{ready}");
    let status = get(&health, "/status");
    assert!(
        status.contains("a.yaml") && status.contains("\"line\": 1") && status.contains("\"ready\": false"),
        "{status}"
    );
    let metrics = get(&health, "/metrics");
    assert!(
        metrics.contains("signet_operator_findings 1") && metrics.contains("signet_operator_revision 0"),
        "{metrics}"
    );
    assert!(get(&health, "/debug").starts_with("HTTP/1.1 404"));

    fs::write(directory.path().join("mesh/a.yaml"), "# nothing yet\n").unwrap();
    running.until("in force");
    assert_eq!(running.terminate(), Some(0));
}
