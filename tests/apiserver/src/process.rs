//! The two programs: their arguments, the files that they need, and a life that ends with ours.
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::{
    fs::{self, File},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
};

/// The bearer token of whoever may do everything.
const ADMIN: &str = "the-administrator-of-this-test";

/// A program below a shell that kills it when our end of its standard input closes: on drop, and when this process dies.
#[derive(Debug)]
pub(crate) struct Process {
    shell: Child,
    stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts a program with its output in `NAME.log`.
    pub(crate) fn start(directory: &Path, name: &str, program: &Path, arguments: &[String]) -> Self {
        let log = File::options().create(true).append(true).open(directory.join(format!("{name}.log")));
        let log = log.expect("a log file");
        let mut shell = Command::new("/bin/sh")
            .args(["-c", r#""$@" & child=$!; read -r _; kill -KILL "$child"; wait "$child""#, "sh"])
            .arg(program)
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("a shell");
        let stdin = shell.stdin.take();
        Self { shell, stdin }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // The shell's exit code is that of a killed program, which is what was wanted.
        let _ = self.shell.wait();
    }
}

/// Arguments of etcd.
pub(crate) fn etcd(at: &Path, port: u16, peer_port: u16) -> Vec<String> {
    let peer = format!("http://127.0.0.1:{peer_port}");
    let client = format!("http://127.0.0.1:{port}");
    [
        format!("--data-dir={}", at.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--unsafe-no-fsync=true".into(),
        "--log-level=warn".into(),
    ]
    .into()
}

/// Arguments of the API server.
pub(crate) fn api_server(at: &Path, port: u16, etcd_port: u16) -> Vec<String> {
    let file = |name: &str| at.join(name).display().to_string();
    [
        format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
        "--bind-address=127.0.0.1".into(),
        "--advertise-address=127.0.0.1".into(),
        // A loopback address may not stand in the endpoints of the Service `kubernetes`.
        "--endpoint-reconciler-type=none".into(),
        format!("--secure-port={port}"),
        format!("--cert-dir={}", file("certificates")),
        format!("--tls-cert-file={}", file("api.pem")),
        format!("--tls-private-key-file={}", file("api.key")),
        format!("--client-ca-file={}", file("ca.pem")),
        format!("--token-auth-file={}", file("tokens.csv")),
        "--authorization-mode=Node,RBAC".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!("--service-account-key-file={}", file("accounts.pub")),
        format!("--service-account-signing-key-file={}", file("accounts.key")),
        "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112".into(),
        "--allow-privileged=true".into(),
        "--profiling=false".into(),
    ]
    .into()
}

/// Keys, certificates and the administrator's token.
pub(crate) fn write_credentials(at: &Path) {
    let write = |name: &str, content: &str| fs::write(at.join(name), content).expect("a file is written");
    let key = || KeyPair::generate().expect("a key");
    let name = |params: &mut CertificateParams, name: &str| params.distinguished_name.push(DnType::CommonName, name);
    let (ca_key, api_key) = (key(), key());
    let mut ca = CertificateParams::default();
    name(&mut ca, "the authority of this test");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let certificate = ca.self_signed(&ca_key).expect("a certificate");
    write("ca.pem", &certificate.pem());
    let names = ["127.0.0.1", "localhost", "kubernetes", "kubernetes.default.svc"].map(String::from);
    let mut api = CertificateParams::new(names).expect("names");
    name(&mut api, "kube-apiserver");
    api.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let issuer = Issuer::new(ca, ca_key);
    write("api.pem", &api.signed_by(&api_key, &issuer).expect("a certificate").pem());
    write("api.key", &api_key.serialize_pem());
    let accounts = key();
    write("accounts.key", &accounts.serialize_pem());
    write("accounts.pub", &accounts.public_key_pem());
    write("tokens.csv", &format!("{ADMIN},admin,admin,\"system:masters\"\n"));
}

/// The administrator's kubeconfig.
pub(crate) fn kubeconfig(at: &Path, port: u16) -> String {
    kubeconfig_with(at, port, ADMIN)
}

/// A kubeconfig with this bearer token.
pub(crate) fn kubeconfig_with(at: &Path, port: u16, token: &str) -> String {
    let ca = at.join("ca.pem");
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
         clusters:\n- name: test\n  cluster:\n    server: https://127.0.0.1:{port}\n    certificate-authority: {}\n\
         users:\n- name: test\n  user:\n    token: {token}\n\
         contexts:\n- name: test\n  context:\n    cluster: test\n    user: test\n",
        ca.display()
    )
}
