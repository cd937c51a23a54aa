//! Certificates made by openssl: good ones, and ones with exactly one fault. Ours would not make them.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A certificate with its key, on disk as PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The chain, leaf first.
    pub chain: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// What the chain holds below the leaf, when there is anything.
    pub between: Option<PathBuf>,
}

/// A directory in which openssl works, with a root of its own or the mesh's.
#[derive(Debug)]
pub struct Workshop {
    dir: PathBuf,
    root: Pair,
}

/// What a leaf says. The default is what a good one says.
#[derive(Debug, Clone)]
pub struct Leaf<'a> {
    /// Lines of an openssl extension section.
    pub extensions: Vec<(&'a str, String)>,
    /// From when and until when, as `YYYYMMDDHHMMSSZ`.
    pub validity: (&'a str, &'a str),
    /// `-subj`; `/` is the empty subject.
    pub subject: &'a str,
}

impl<'a> Leaf<'a> {
    /// A good leaf for an identity and a workload UID.
    pub fn good(identity: &str, uid: &str) -> Self {
        let mut leaf = Self { extensions: Vec::new(), validity: VALID, subject: "/" };
        leaf.set("basicConstraints", "critical,CA:FALSE");
        leaf.set("keyUsage", "critical,digitalSignature");
        leaf.set("extendedKeyUsage", "serverAuth,clientAuth");
        leaf.set("subjectKeyIdentifier", "hash");
        leaf.set("authorityKeyIdentifier", "keyid");
        leaf.set("subjectAltName", &format!("critical,URI:{identity}"));
        if !uid.is_empty() {
            leaf.set(UID_EXTENSION, &format!("ASN1:UTF8String:{uid}"));
        }
        leaf
    }

    /// Sets an extension, or replaces it.
    pub fn set(&mut self, name: &'a str, value: &str) {
        self.extensions.retain(|(n, _)| *n != name);
        self.extensions.push((name, value.into()));
    }

    /// The same without an extension.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.extensions.retain(|(n, _)| *n != name);
        self
    }

    /// The same with an extension set.
    #[must_use]
    pub fn with(mut self, name: &'a str, value: &str) -> Self {
        self.set(name, value);
        self
    }
}

/// The private extension that carries the workload UID, in dotted form; see `signet_identity::profile`.
pub const UID_EXTENSION: &str = "2.25.211395830.1";
/// Now, and for a long time.
pub const VALID: (&str, &str) = ("20250101000000Z", "20450101000000Z");
/// Not any more.
pub const EXPIRED: (&str, &str) = ("20250101000000Z", "20260101000000Z");
/// Not yet.
pub const FUTURE: (&str, &str) = ("20440101000000Z", "20450101000000Z");

impl Workshop {
    /// A workshop that signs with an existing root.
    pub fn with_root(dir: &Path, chain: &Path, key: &Path) -> Self {
        fs::create_dir_all(dir).expect("a directory for openssl");
        Self { dir: dir.into(), root: Pair { chain: chain.into(), key: key.into(), between: None } }
    }

    /// A workshop with a new root of its own, for a trust domain.
    pub fn new(dir: &Path, trust_domain: &str) -> Self {
        fs::create_dir_all(dir).expect("a directory for openssl");
        let (key, chain) = (dir.join("root.key"), dir.join("root.pem"));
        openssl(dir, &["ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", path(&key)]);
        let san = format!("subjectAltName=URI:spiffe://{trust_domain}");
        let args = [
            "req",
            "-x509",
            "-new",
            "-key",
            path(&key),
            "-subj",
            "/O=another root",
            "-days",
            "2",
            "-out",
            path(&chain),
        ];
        let extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign", &san];
        let extensions = extensions.iter().flat_map(|e| ["-addext", e]);
        openssl(dir, &args.into_iter().chain(extensions).collect::<Vec<_>>());
        Self { dir: dir.into(), root: Pair { chain, key, between: None } }
    }

    /// Signs a leaf, right below the root.
    pub fn leaf(&self, name: &str, leaf: &Leaf<'_>) -> Pair {
        self.signed(name, leaf, &self.root.clone())
    }

    /// Signs a certificate below another.
    pub fn signed(&self, name: &str, leaf: &Leaf<'_>, issuer: &Pair) -> Pair {
        let at = |suffix: &str| self.dir.join(format!("{name}.{suffix}"));
        let (key, csr, extensions, chain) = (at("key"), at("csr"), at("cnf"), at("pem"));
        let lines: Vec<String> = leaf.extensions.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        fs::write(&extensions, format!("{CA_SECTIONS}[leaf]\n{}", lines.concat())).expect("writing the extensions");
        fs::write(self.dir.join("index.txt"), "").expect("an empty database");
        openssl(&self.dir, &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path(&key)]);
        openssl(&self.dir, &["req", "-new", "-key", path(&key), "-subj", leaf.subject, "-out", path(&csr)]);
        let (start, end) = leaf.validity;
        let signer = ["-cert", path(&issuer.chain), "-keyfile", path(&issuer.key), "-extensions", "leaf"];
        let request = ["-in", path(&csr), "-startdate", start, "-enddate", end, "-out", path(&chain)];
        let fixed = ["ca", "-batch", "-notext", "-config", path(&extensions)];
        openssl(&self.dir, &[&fixed[..], &signer, &request].concat());
        // What stands below the root goes along, the root does not.
        let between = (issuer.chain != self.root.chain).then(|| issuer.chain.clone());
        if let Some(between) = &between {
            let mut whole = fs::read(&chain).expect("the leaf");
            whole.extend(fs::read(between).expect("the issuer"));
            fs::write(&chain, whole).expect("the chain");
        }
        Pair { chain, key, between }
    }

    /// The root that signs here.
    pub fn root(&self) -> &Pair {
        &self.root
    }
}

/// What `openssl ca` wants to know beside the extensions.
const CA_SECTIONS: &str = "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\npolicy=p\n\
    unique_subject=no\nemail_in_dn=no\n[p]\norganizationName=optional\ncommonName=optional\n";

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn openssl(dir: &Path, args: &[&str]) {
    let out = Command::new("openssl").args(args).current_dir(dir).output().expect("openssl runs");
    assert!(out.status.success(), "openssl {}:\n{}", args.join(" "), String::from_utf8_lossy(&out.stderr));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_leaf_and_a_faulty_one_are_made_as_described() {
        let dir = std::env::temp_dir().join(format!("signet-openssl-test-{}", std::process::id()));
        let shop = Workshop::new(&dir, "a.example");
        let good = Leaf::good("spiffe://a.example/ns/b/sa/c", "c-1");
        let text = |pair: &Pair| {
            let out =
                Command::new("openssl").args(["x509", "-noout", "-text", "-in", path(&pair.chain)]).output().unwrap();
            String::from_utf8(out.stdout).unwrap()
        };
        let shown = text(&shop.leaf("good", &good));
        assert!(shown.contains("URI:spiffe://a.example/ns/b/sa/c") && shown.contains("2.25.211395830.1"), "{shown}");
        let shown =
            text(&shop.leaf("bad", &good.clone().without("keyUsage").with("basicConstraints", "critical,CA:TRUE")));
        assert!(shown.contains("CA:TRUE") && !shown.contains("Key Usage: critical"), "{shown}");
        fs::remove_dir_all(dir).unwrap();
    }
}
