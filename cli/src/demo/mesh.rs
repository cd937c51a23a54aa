//! A whole mesh in a `World`: CA and operator in the hub, a sidecar beside each workload, all run from files exactly as a
//! person would on real machines. The files are written here and nowhere else.
pub use super::world::Family;
use super::{
    process::{Process, wait_for},
    world::{Namespace, World, run},
};
use anyhow::{Context as _, bail};
use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

/// The trust domain of every mesh made here.
pub const TRUST_DOMAIN: &str = "demo.signet.dev";
/// The user that sidecars run as, and that the redirect excepts.
pub const SIDECAR_UID: u32 = 2137;
/// How long a program may take to serve.
const START: Duration = Duration::from_secs(20);

/// How a mesh differs from the usual.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the programs lie.
    pub programs: PathBuf,
    /// How long a leaf lives; `None`: the CA's default.
    pub leaf_lifetime: Option<Duration>,
    /// More tables of ca.toml.
    pub ca: String,
    /// More tables of operator.toml.
    pub operator: String,
    /// More tables of each sidecar.toml.
    pub sidecar: String,
    /// More arguments of `capture up`.
    pub capture: Vec<String>,
    /// By which of the hub's addresses CA and operator are called.
    pub control: Family,
}

/// A workload to join: its place in the mesh and how its sidecar differs.
#[derive(Debug, Clone)]
pub struct Join<'a> {
    /// Its name, and its label `app`.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its service account.
    pub service_account: &'a str,
    /// Its ports, each with a name.
    pub ports: &'a [(&'a str, u16)],
}

/// CA, operator, documents, and the network they live in.
#[derive(Debug)]
pub struct Mesh {
    /// The network.
    pub world: World,
    /// How it differs from the usual.
    pub options: Options,
    /// The CA, while it runs.
    pub ca: Option<Process>,
    /// The operator, while it runs.
    pub operator: Option<Process>,
    dir: PathBuf,
}

/// A workload that has joined.
#[derive(Debug)]
pub struct Workload {
    /// Its machine.
    pub machine: Namespace,
    /// Its name; its UID is `<name>-1`.
    pub name: String,
    /// `spiffe://...`.
    pub identity: String,
    /// The sidecar, while it runs.
    pub sidecar: Option<Process>,
    /// Where its files are.
    pub dir: PathBuf,
    program: PathBuf,
    capture: Vec<String>,
}

impl Options {
    /// The usual, with the programs that lie in a directory.
    pub fn new(programs: &Path) -> Self {
        Self {
            programs: programs.into(),
            leaf_lifetime: None,
            ca: String::new(),
            operator: String::new(),
            sidecar: String::new(),
            capture: Vec::new(),
            control: Family::V4,
        }
    }
}

impl Mesh {
    /// A world with CA and operator in its hub, both serving.
    pub fn start(options: Options) -> anyhow::Result<Self> {
        let world = World::new()?;
        Self::start_in(world, options)
    }

    /// The same in a world that is there already.
    pub fn start_in(world: World, options: Options) -> anyhow::Result<Self> {
        let dir = world.dir().join("mesh");
        let mut mesh = Self { world, options, ca: None, operator: None, dir };
        fs::create_dir_all(mesh.documents())?;
        mesh.world.private_dir("ca", 0)?;
        mesh.world.private_dir("operator", 0)?;
        // The operator wants at least one file; this one holds no document.
        mesh.write("empty.yaml", "# Documents lie beside this file.\n")?;
        mesh.write_configuration()?;
        mesh.start_ca()?;
        mesh.start_operator()?;
        Ok(mesh)
    }

    /// Where the operator's documents lie.
    pub fn documents(&self) -> PathBuf {
        self.dir.join("documents")
    }

    /// The CA's directory.
    pub fn ca_dir(&self) -> PathBuf {
        self.world.dir().join("ca")
    }

    /// Writes a file of documents as a careful editor does: whole, then in place.
    pub fn write(&self, file: &str, yaml: &str) -> anyhow::Result<()> {
        let path = self.documents().join(file);
        let new = self.documents().join(format!(".{file}.new"));
        fs::write(&new, yaml)?;
        fs::rename(&new, &path).with_context(|| format!("writing {}", path.display()))
    }

    /// Removes a file of documents.
    pub fn remove(&self, file: &str) -> anyhow::Result<()> {
        fs::remove_file(self.documents().join(file)).with_context(|| format!("removing {file}"))
    }

    /// Writes a rule that admits service accounts of the same namespace to ports of the workloads `app`.
    pub fn allow(&self, namespace: &str, app: &str, ports: &[u16], accounts: &[&str]) -> anyhow::Result<()> {
        self.write(&format!("rule-{namespace}-{app}.yaml"), &rule(namespace, app, ports, accounts))
    }

    /// Runs the command line in the hub, and gives what it printed.
    pub fn signet(&self, args: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(self.options.programs.join("signet"));
        command.args(args);
        self.world.hub().output(command)
    }

    /// Starts the CA and waits until it serves.
    pub fn start_ca(&mut self) -> anyhow::Result<()> {
        let ca = self.start_program("signet-ca", &["run"], &self.dir.join("ca.toml"))?;
        let ca = self.ca.insert(ca);
        serving(ca, self.world.hub(), 15022)
    }

    /// Starts the operator and waits until it serves. It joins the mesh with a token the first time.
    pub fn start_operator(&mut self) -> anyhow::Result<()> {
        let token = self.world.dir().join("operator/token");
        if !token.exists() {
            let identity = format!("spiffe://{TRUST_DOMAIN}/ns/signet-system/sa/signet-operator");
            let text = self.token(&["--identity", &identity, "--control"])?;
            secret(&token, &text, 0)?;
        }
        let documents = self.documents();
        let files = documents.to_str().context("the path of the documents is not UTF-8")?;
        let operator =
            self.start_program("signet-operator", &["run", "--files", files], &self.dir.join("operator.toml"))?;
        let operator = self.operator.insert(operator);
        serving(operator, self.world.hub(), 15023)
    }

    /// A one-time token, from `signet token create`.
    pub fn token(&self, args: &[&str]) -> anyhow::Result<String> {
        let socket = self.ca_dir().join("admin.sock");
        let socket = socket.to_str().context("the path of the CA's socket is not UTF-8")?;
        let out = self.signet(&[&["token", "create", "--socket", socket], args].concat())?;
        if !out.status.success() {
            bail!("signet token create: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(String::from_utf8(out.stdout)?.trim().to_owned())
    }

    /// A new machine with a workload that has a document, a token, a redirect, and a sidecar that is ready.
    pub fn join(&mut self, join: &Join<'_>) -> anyhow::Result<Workload> {
        let machine = self.world.machine(join.name)?;
        self.join_machine(machine, join)
    }

    /// The same for a machine that is there already.
    pub fn join_machine(&mut self, machine: Namespace, join: &Join<'_>) -> anyhow::Result<Workload> {
        let mut workload = self.prepare(machine, join)?;
        workload.capture("up")?;
        workload.start_sidecar()?;
        workload.ready(START)?;
        Ok(workload)
    }

    /// Everything but the redirect and the running sidecar.
    pub fn prepare(&mut self, machine: Namespace, join: &Join<'_>) -> anyhow::Result<Workload> {
        let Join { name, namespace, service_account, .. } = *join;
        self.write(&format!("workload-{namespace}-{name}.yaml"), &workload_document(join, &machine.addresses()))?;
        let identity = format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{service_account}");
        let dir = self.world.private_dir(&format!("sidecar-{name}"), SIDECAR_UID)?;
        // The sidecar's user must be able to run it, wherever the programs lie.
        let program = self.world.dir().join("signet-sidecar");
        if !program.exists() {
            let from = self.options.programs.join("signet-sidecar");
            // By another process: a program that another thread starts while we write would hold the copy open for writing, and
            // what is written to cannot be run ("text file busy").
            run("install", &["-m", "755", &from.to_string_lossy(), &program.to_string_lossy()])?;
        }
        secret(
            &dir.join("token"),
            &self.token(&["--identity", &identity, "--uid", &format!("{name}-1")])?,
            SIDECAR_UID,
        )?;
        fs::copy(self.ca_dir().join("bundle.pem"), dir.join("bundle.pem")).context("copying the CA's bundle.pem")?;
        std::os::unix::fs::chown(dir.join("bundle.pem"), Some(SIDECAR_UID), Some(SIDECAR_UID))?;
        secret(&dir.join("sidecar.toml"), &self.sidecar_toml(&dir), SIDECAR_UID)?;
        Ok(Workload {
            machine,
            name: name.into(),
            identity,
            sidecar: None,
            dir,
            program,
            capture: self.options.capture.clone(),
        })
    }

    fn start_program(&self, name: &str, args: &[&str], config: &Path) -> anyhow::Result<Process> {
        let mut command = Command::new(self.options.programs.join(name));
        command.args(args).arg("--config").arg(config);
        self.world.hub().spawn(name, command)
    }

    fn write_configuration(&self) -> anyhow::Result<()> {
        let hub = self.world.hub().address(self.options.control);
        let every = if hub.is_ipv4() { "0.0.0.0" } else { "[::]" };
        let dir = self.world.dir().display();
        let lifetime =
            self.options.leaf_lifetime.map_or(String::new(), |l| format!("[lifetimes]\nleaf = \"{}s\"\n", l.as_secs()));
        let ca = format!(
            "trust_domain = \"{TRUST_DOMAIN}\"\nlisten = \"{every}:15012\"\nstate_dir = \"{dir}/ca\"\n{lifetime}{}",
            self.options.ca
        );
        let operator = format!(
            "listen = \"{every}:15010\"\nmesh_ranges = [\"10.77.0.0/16\", \"fd77::/64\"]\n[posture]\ninbound = \"deny\"\n{}\n{}",
            self.options.operator,
            ca_table(
                hub,
                &format!("{dir}/ca/bundle.pem"),
                &format!("{dir}/operator"),
                &format!("{dir}/operator/token")
            ),
        );
        secret(&self.dir.join("ca.toml"), &ca, 0)?;
        secret(&self.dir.join("operator.toml"), &operator, 0)
    }

    fn sidecar_toml(&self, dir: &Path) -> String {
        let hub = self.world.hub().address(self.options.control);
        let operator = SocketAddr::new(hub, 15010);
        let path = dir.display();
        format!(
            "runtime_dir = \"{path}/run\"\n{}\n[operator]\naddress = \"{operator}\"\n\n{}",
            self.options.sidecar,
            ca_table(hub, &format!("{path}/bundle.pem"), &path.to_string(), &format!("{path}/token"))
        )
    }
}

impl Workload {
    /// Runs `signet-sidecar capture up`, `down` or `print`, as root, and gives what it printed.
    pub fn capture(&self, verb: &str) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        command.args(["capture", verb]);
        if verb != "down" {
            command.arg("--config").arg(self.dir.join("sidecar.toml")).args(&self.capture);
        }
        let out = self.machine.output(command)?;
        if !out.status.success() {
            bail!("signet-sidecar capture {verb}: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Starts the sidecar as its own user, without waiting.
    pub fn start_sidecar(&mut self) -> anyhow::Result<()> {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(&self.program);
        command.arg("run").arg("--config").arg(self.dir.join("sidecar.toml")).uid(SIDECAR_UID).gid(SIDECAR_UID);
        self.sidecar = Some(self.machine.spawn("sidecar", command)?);
        Ok(())
    }

    /// Waits until the sidecar says that it is ready.
    pub fn ready(&mut self, limit: Duration) -> anyhow::Result<()> {
        let sidecar = self.sidecar.as_mut().context("the sidecar does not run")?;
        let machine = &self.machine;
        wait_for(&format!("the sidecar of {} is ready", self.name), limit, || {
            sidecar.ended().is_some().then_some(false).or_else(|| answers(machine, 15021, "/readyz").then_some(true))
        })?
        .then_some(())
        .with_context(|| format!("the sidecar of {} ended:\n{}", self.name, sidecar.log()))
    }

    /// What the sidecar's admin port answers to a GET from its own machine.
    pub fn admin(&self, path: &str) -> anyhow::Result<String> {
        let answer = self.machine.enter(|| http_get(15020, path))??;
        Ok(answer)
    }

    /// The value of a metric, with its labels if it has any; 0 when the page does not have it, an error when there is no page.
    pub fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let page = self.admin("/metrics")?;
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
        Ok(value.unwrap_or_default())
    }

    /// The serial number of the certificate in use.
    pub fn serial(&self) -> anyhow::Result<String> {
        let page = serde_json::from_str(&self.admin("/certificates")?).context("reading /certificates")?;
        find_serial(&page).context("no serial number in /certificates")
    }

    /// Everything that the sidecar has said.
    pub fn log(&self) -> String {
        self.sidecar.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Its address of a family.
    pub fn address(&self, family: Family) -> IpAddr {
        self.machine.address(family)
    }
}

/// The document of a workload.
pub fn workload_document(join: &Join<'_>, addresses: &[IpAddr]) -> String {
    let Join { name, namespace, service_account, ports } = *join;
    let mut text = format!(
        "apiVersion: signet.dev/v1alpha1\nkind: Workload\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  labels: {{app: {name}}}\n\
         spec:\n  serviceAccount: {service_account}\n  uid: {name}-1\n  addresses:\n"
    );
    for address in addresses {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  - \"{address}\"");
    }
    if !ports.is_empty() {
        text.push_str("  ports:\n");
    }
    for (port_name, port) in ports {
        let _ = writeln!(text, "  - {{name: {port_name}, port: {port}}}");
    }
    text
}

/// The document of a Service whose every port leads to the same port of the workloads `app`.
pub fn service_document(namespace: &str, app: &str, addresses: &[IpAddr], ports: &[(u16, u16)]) -> String {
    let addresses: Vec<String> = addresses.iter().map(|a| format!("\"{a}\"")).collect();
    let ports: Vec<String> =
        ports.iter().map(|(port, target)| format!("{{port: {port}, targetPort: {target}}}")).collect();
    format!(
        "apiVersion: signet.dev/v1alpha1\nkind: Service\nmetadata: {{name: {app}, namespace: {namespace}}}\n\
         spec:\n  addresses: [{}]\n  selector: {{app: {app}}}\n  ports: [{}]\n",
        addresses.join(", "),
        ports.join(", ")
    )
}

/// A rule that admits service accounts of its own namespace to ports of the workloads `app`.
pub fn rule(namespace: &str, app: &str, ports: &[u16], accounts: &[&str]) -> String {
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "apiVersion: signet.dev/v1alpha1\nkind: AllowRule\nmetadata: {{name: {app}-callers, namespace: {namespace}}}\n\
         spec:\n  target:\n    podSelector: {{matchLabels: {{app: {app}}}}}\n    ports: [{}]\n",
        ports.join(", ")
    );
    text.push_str(if accounts.is_empty() { "  from: []\n" } else { "  from:\n" });
    for account in accounts {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  - serviceAccount: {account}");
    }
    text
}

fn ca_table(hub: IpAddr, bundle: &str, state: &str, token: &str) -> String {
    let address = SocketAddr::new(hub, 15012);
    format!(
        "[ca]\naddress = \"{address}\"\ntrust_domain = \"{TRUST_DOMAIN}\"\nbundle = \"{bundle}\"\nstate_dir = \"{state}\"\n\
         join_token_file = \"{token}\"\n"
    )
}

/// A file that its owner alone can read.
fn secret(path: &Path, text: &str, owner: u32) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.as_mut().map_err(|e| anyhow::anyhow!("writing {}: {e}", path.display()))?.write_all(text.as_bytes())?;
    std::os::unix::fs::chown(path, Some(owner), Some(owner))
        .with_context(|| format!("giving {} to {owner}", path.display()))
}

/// The first `serial` of a JSON document.
fn find_serial(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::Object(map) => match map.get("serial") {
            Some(serde_json::Value::String(serial)) => Some(serial.clone()),
            _ => map.values().find_map(find_serial),
        },
        serde_json::Value::Array(items) => items.iter().find_map(find_serial),
        _ => None,
    }
}

/// Waits until a program of the control plane says that it serves.
fn serving(program: &mut Process, hub: &Namespace, port: u16) -> anyhow::Result<()> {
    let name = program.name().to_owned();
    let up = wait_for(&format!("{name} serves"), START, || {
        program.ended().is_some().then_some(false).or_else(|| answers(hub, port, "/readyz").then_some(true))
    });
    match up {
        Ok(true) => Ok(()),
        Ok(false) => bail!("{name} ended:\n{}", program.log()),
        Err(e) => bail!("{e}; it said:\n{}", program.log()),
    }
}

/// Whether a GET of `path` on a loopback port gets a 200.
fn answers(space: &Namespace, port: u16, path: &str) -> bool {
    space.enter(|| http_get(port, path)).is_ok_and(|answer| answer.is_ok())
}

/// The body of a GET on a loopback port of the namespace that this thread is in.
pub fn http_get(port: u16, path: &str) -> anyhow::Result<String> {
    use std::io::{Read as _, Write as _};
    // Far above what an answer takes: a machine that does much else is not one on which nobody answers.
    let limit = Duration::from_secs(20);
    let mut stream = std::net::TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), limit)?;
    stream.set_read_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP head")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}
