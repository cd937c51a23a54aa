//! The openssl command line in a directory of its own, and a CA made with it.
#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses its part; what cannot be made ends the test")]
use rustls_pki_types::CertificateDer;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The extensions of a leaf as Signet's profile has them, one a line.
pub(crate) const LEAF: &str = "\
basicConstraints = CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth,clientAuth
subjectAltName = critical,URI:spiffe://prod.example/ns/shop/sa/orders
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
2.25.211395830.1 = ASN1:UTF8String:orders-1";

/// A directory for openssl's files.
pub(crate) struct OpenSsl {
    directory: tempfile::TempDir,
    count: AtomicU32,
}

/// A root and an issuing CA, as files.
pub(crate) struct Ca {
    pub(crate) trust_domain: String,
    pub(crate) root_pem: String,
    pub(crate) issuing: String,
    pub(crate) issuing_key: String,
}

impl OpenSsl {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), count: AtomicU32::new(0) }
    }
    /// Runs openssl with this input; gives its output. Failure of openssl is failure of the test.
    pub(crate) fn run(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let mut child = Command::new("openssl")
            .args(arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl is installed");
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments:?}: {complaint}");
        output.stdout
    }
    /// A new file with this content; gives its path.
    pub(crate) fn file(&self, content: &[u8]) -> String {
        let name = format!("file{}", self.count.fetch_add(1, Ordering::Relaxed));
        let path: PathBuf = self.directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
    /// A new key's file: algorithm, then options.
    pub(crate) fn key(&self, algorithm: &[&str]) -> String {
        let mut arguments = vec!["genpkey", "-algorithm", algorithm[0]];
        for option in &algorithm[1..] {
            arguments.extend(["-pkeyopt", option]);
        }
        let pem = self.run(&arguments, b"");
        self.file(&pem)
    }
    pub(crate) fn ca(&self, trust_domain: &str) -> Ca {
        self.ca_with(trust_domain, "")
    }
    /// A CA whose issuing certificate has one more extension.
    pub(crate) fn ca_with(&self, trust_domain: &str, more: &str) -> Ca {
        let p256 = ["ec", "ec_paramgen_curve:P-256"];
        let (root_key, issuing_key) = (self.key(&p256), self.key(&p256));
        let common = format!(
            "keyUsage = critical,keyCertSign\nsubjectAltName = URI:spiffe://{trust_domain}\nsubjectKeyIdentifier = hash"
        );
        let extensions = self.extensions(&format!("basicConstraints = critical,CA:TRUE\n{common}"));
        let request =
            self.run(&["req", "-new", "-key", &root_key, "-subj", &format!("/CN=root of {trust_domain}")], b"");
        let root = self.run(
            &["x509", "-req", "-signkey", &root_key, "-days", "9", "-extfile", &extensions, "-extensions", "e"],
            &request,
        );
        let root_file = self.file(&root);
        let extensions = self.extensions(&format!(
            "basicConstraints = critical,CA:TRUE,pathlen:0\nauthorityKeyIdentifier = keyid\n{common}\n{more}"
        ));
        let request = self.run(&["req", "-new", "-key", &issuing_key, "-subj", "/CN=issuing"], b"");
        let issuing = self.run(
            &[
                "x509",
                "-req",
                "-CA",
                &root_file,
                "-CAkey",
                &root_key,
                "-days",
                "9",
                "-extfile",
                &extensions,
                "-extensions",
                "e",
            ],
            &request,
        );
        Ca {
            trust_domain: trust_domain.to_owned(),
            root_pem: String::from_utf8(root).unwrap(),
            issuing: self.file(&issuing),
            issuing_key,
        }
    }
    fn extensions(&self, lines: &str) -> String {
        self.file(format!("[e]\n{lines}\n").as_bytes())
    }
    fn der(&self, pem_file: &str) -> CertificateDer<'static> {
        self.run(&["x509", "-in", pem_file, "-outform", "DER"], b"").into()
    }
}

impl Ca {
    /// Leaf and issuing CA for a new P-256 key, with these extensions. `more` goes to `openssl req`.
    pub(crate) fn leaf(&self, openssl: &OpenSsl, extensions: &str, more: &[&str]) -> Vec<CertificateDer<'static>> {
        let key = openssl.key(&["ec", "ec_paramgen_curve:P-256"]);
        self.leaf_of(openssl, &key, extensions, more)
    }
    /// The same with another kind of key.
    pub(crate) fn leaf_with_key(&self, openssl: &OpenSsl, algorithm: &[&str]) -> Vec<CertificateDer<'static>> {
        let key = openssl.key(algorithm);
        self.leaf_of(openssl, &key, LEAF, &[])
    }
    /// The same for a key's file.
    pub(crate) fn leaf_of(
        &self,
        openssl: &OpenSsl,
        key: &str,
        extensions: &str,
        more: &[&str],
    ) -> Vec<CertificateDer<'static>> {
        let subject = if more.is_empty() { &["-subj", "/"][..] } else { more };
        let request = openssl.run(&[&["req", "-new", "-key", key], subject].concat(), b"");
        let extensions = openssl.extensions(extensions);
        let signed =
            ["x509", "-req", "-CA", &self.issuing, "-CAkey", &self.issuing_key, "-days", "1", "-outform", "DER"];
        let leaf = openssl.run(&[&signed[..], &["-extfile", &extensions, "-extensions", "e"]].concat(), &request);
        vec![leaf.into(), openssl.der(&self.issuing)]
    }
    /// A leaf that is valid from and to these moments (YYYYMMDDHHMMSSZ): `openssl x509` knows days alone, `openssl ca` these.
    pub(crate) fn leaf_valid(&self, openssl: &OpenSsl, from: &str, to: &str) -> Vec<CertificateDer<'static>> {
        let key = openssl.key(&["ec", "ec_paramgen_curve:P-256"]);
        let request = openssl.run(&["req", "-new", "-key", &key, "-subj", "/"], b"");
        let request = openssl.file(&request);
        let (index, output, config) = (openssl.file(b""), openssl.file(b""), openssl.file(b""));
        let text = format!(
            "[ca]\ndefault_ca = d\n[d]\ndatabase = {index}\nnew_certs_dir = {directory}\nrand_serial = yes\n\
             default_md = sha256\npolicy = p\nx509_extensions = e\n[p]\ncommonName = optional\n[e]\n{LEAF}\n",
            directory = openssl.directory.path().display(),
        );
        std::fs::write(&config, text).unwrap();
        let arguments =
            ["ca", "-batch", "-notext", "-config", &config, "-cert", &self.issuing, "-keyfile", &self.issuing_key];
        let rest = ["-in", &request, "-startdate", from, "-enddate", to, "-out", &output];
        openssl.run(&[&arguments[..], &rest].concat(), b"");
        vec![openssl.der(&output), openssl.der(&self.issuing)]
    }
}
