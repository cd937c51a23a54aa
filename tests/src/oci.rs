//! Container images without a daemon: one static program becomes an OCI image layout in a tar, which `ctr images import`,
//! `docker load`, `podman load` and `skopeo` read. `signet-images` is the command in front of it; the cluster tests use it
//! for their own workload.
//!
//! The same program gives the same bytes: nothing of the machine, the user or the clock goes in.
//!
//! ```text
//! NAME.tar ─┬─ oci-layout, index.json, manifest.json     (the last for Docker before 25)
//!           └─ blobs/sha256/  layer (a tar with /NAME), configuration, manifest
//! ```
use anyhow::{Context as _, bail};
use aws_lc_rs::digest;
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

const BLOCK: usize = 512;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image of one program and nothing else.
#[derive(Debug, Clone)]
pub struct Image {
    /// The program's name: it lies at `/NAME`, and is the entrypoint.
    pub name: String,
    /// The program's file, which must be static: there is no loader in the image.
    pub program: PathBuf,
    /// The full reference, such as `docker.io/signet/signet-ca:0.1.0`.
    pub reference: String,
    /// What it is told when nobody says otherwise.
    pub arguments: Vec<String>,
    /// UID and GID that it runs as.
    pub user: u32,
}

/// An image that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// The manifest's digest, `sha256:` and 64 hex digits: what a registry would call the image.
    pub digest: String,
    /// The file's size in bytes.
    pub size: u64,
}

impl Image {
    /// Writes `DIR/NAME.tar`, whole or not at all.
    pub fn write(&self, dir: &Path) -> anyhow::Result<Written> {
        let program = fs::read(&self.program).with_context(|| format!("cannot read {}", self.program.display()))?;
        if needs_loader(&program) {
            bail!("{} is not static: an empty image has no loader for it", self.program.display());
        }
        let mut layer = Tar::default();
        layer.file(&self.name, &program, 0o555)?;
        let layer = layer.finish();
        let layer_digest = sha256(&layer);
        let config = self.config(&layer_digest).to_string().into_bytes();
        let config_digest = sha256(&config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config_digest, "size": config.len()},
            "layers": [{"mediaType": LAYER, "digest": layer_digest, "size": layer.len()}],
        })
        .to_string()
        .into_bytes();
        let digest = sha256(&manifest);

        let mut tar = Tar::default();
        tar.file("oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string().as_bytes(), 0o444)?;
        tar.file("index.json", self.index(&digest, manifest.len()).to_string().as_bytes(), 0o444)?;
        let docker = json!([{
            "Config": blob(&config_digest), "RepoTags": [self.reference], "Layers": [blob(&layer_digest)],
        }]);
        tar.file("manifest.json", docker.to_string().as_bytes(), 0o444)?;
        for (digest, bytes) in [(&config_digest, &config), (&digest, &manifest), (&layer_digest, &layer)] {
            tar.file(&blob(digest), bytes, 0o444)?;
        }
        let bytes = tar.finish();

        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let path = dir.join(format!("{}.tar", self.name));
        let part = dir.join(format!(".{}.tar.{}", self.name, std::process::id()));
        fs::write(&part, &bytes).with_context(|| format!("cannot write {}", part.display()))?;
        fs::rename(&part, &path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Written { path, digest, size: bytes.len() as u64 })
    }

    fn config(&self, layer: &str) -> Value {
        json!({
            "created": "1970-01-01T00:00:00Z",
            "architecture": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
            "os": "linux",
            "config": {
                "User": format!("{0}:{0}", self.user),
                "Entrypoint": [format!("/{}", self.name)],
                "Cmd": self.arguments,
                "WorkingDir": "/",
                "Labels": {
                    "org.opencontainers.image.title": self.name,
                    "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                    "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
                },
            },
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        })
    }

    fn index(&self, manifest: &str, size: usize) -> Value {
        let tag = self.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": MANIFEST,
                "digest": manifest,
                "size": size,
                "annotations": {
                    "io.containerd.image.name": self.reference,
                    "org.opencontainers.image.ref.name": tag,
                },
            }],
        })
    }
}

fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn sha256(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().fold("sha256:".to_owned(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether a 64-bit ELF program names a loader (a `PT_INTERP` header; ELF-64 object file format, "Program header").
fn needs_loader(program: &[u8]) -> bool {
    let number = |at: usize, length: usize| -> Option<usize> {
        let bytes = program.get(at..at.checked_add(length)?)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte)))
    };
    let headers = || -> Option<bool> {
        let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        Some((0..count).any(|i| number(start + i * size, 4) == Some(3)))
    };
    program.starts_with(b"\x7fELF\x02\x01") && headers().unwrap_or(true)
}

/// A tar in the `ustar` form (POSIX.1-1988): regular files of root, with no time.
#[derive(Debug, Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn file(&mut self, name: &str, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
        let mut header = [0_u8; BLOCK];
        let fields: [(usize, usize, String); 9] = [
            (0, 100, name.to_owned()),
            (100, 8, format!("{mode:07o}")),
            (108, 8, format!("{:07o}", 0)),
            (116, 8, format!("{:07o}", 0)),
            (124, 12, format!("{:011o}", bytes.len())),
            (136, 12, format!("{:011o}", 0)),
            // The sum is taken with its own field full of spaces.
            (148, 8, " ".repeat(8)),
            (156, 1, "0".to_owned()),
            (257, 8, "ustar\x0000".to_owned()),
        ];
        for (at, room, text) in fields {
            if text.len() > room {
                bail!("{name:?} ({} bytes) does not fit into a tar header", bytes.len());
            }
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        }
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        Ok(())
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}

#[cfg(test)]
mod tests;
