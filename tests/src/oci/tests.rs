use super::*;
use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// A directory that vanishes.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("signet-oci-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn image(&self, program: &[u8]) -> Image {
        let file = self.0.join("anything");
        fs::write(&file, program).unwrap();
        Image {
            name: "signet-ca".to_owned(),
            program: file,
            reference: "docker.io/signet/signet-ca:1.2.3".to_owned(),
            arguments: vec!["run".to_owned()],
            user: 65532,
        }
    }
}

/// What another tar program takes out of an image.
fn take(tar: &Path, member: &str) -> Vec<u8> {
    let out = Command::new("tar").arg("xOf").arg(tar).arg(member).output().unwrap();
    assert!(out.status.success(), "tar: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn json_of(tar: &Path, member: &str) -> Value {
    serde_json::from_slice(&take(tar, member)).unwrap()
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_same_program_gives_the_same_bytes_wherever_and_whenever() {
    let (one, two) = (Scratch::new(), Scratch::new());
    let first = one.image(b"a program").write(&one.0.join("out")).unwrap();
    let second = two.image(b"a program").write(&two.0).unwrap();
    assert_eq!(first.digest, second.digest);
    assert_eq!(fs::read(&first.path).unwrap(), fs::read(&second.path).unwrap());
}

#[test]
fn another_program_gives_another_digest() {
    let scratch = Scratch::new();
    let first = scratch.image(b"a program").write(&scratch.0).unwrap();
    let second = scratch.image(b"b program").write(&scratch.0).unwrap();
    assert_ne!(first.digest, second.digest);
}

#[test]
fn every_digest_and_size_is_that_of_the_blob_it_names_and_the_layer_holds_the_program() {
    let scratch = Scratch::new();
    let written = scratch.image(b"a program").write(&scratch.0).unwrap();
    let named = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap().to_owned();
        let bytes = take(&written.path, &blob(&digest));
        assert_eq!(sha256(&bytes), digest);
        assert_eq!(Some(bytes.len() as u64), descriptor["size"].as_u64());
        bytes
    };
    let index = json_of(&written.path, "index.json");
    assert_eq!(index["manifests"][0]["digest"], written.digest.as_str());
    assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "docker.io/signet/signet-ca:1.2.3");
    let manifest: Value = serde_json::from_slice(&named(&index["manifests"][0])).unwrap();
    let config: Value = serde_json::from_slice(&named(&manifest["config"])).unwrap();
    let layer = named(&manifest["layers"][0]);
    assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
    let file = scratch.0.join("layer.tar");
    fs::write(&file, layer).unwrap();
    assert_eq!(take(&file, "signet-ca"), b"a program");
}

#[test]
fn the_program_is_the_entrypoint_and_does_not_run_as_root() {
    let scratch = Scratch::new();
    let written = scratch.image(b"a program").write(&scratch.0).unwrap();
    let docker = json_of(&written.path, "manifest.json");
    let config = json_of(&written.path, docker[0]["Config"].as_str().unwrap());
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"], json!(["/signet-ca"]));
    assert_eq!(config["config"]["Cmd"], json!(["run"]));
}

#[test]
fn a_program_that_needs_a_loader_is_refused() {
    let scratch = Scratch::new();
    let sh = fs::read("/bin/sh").unwrap();
    let refusal = scratch.image(&sh).write(&scratch.0.join("out")).unwrap_err().to_string();
    assert!(refusal.contains("is not static"), "{refusal}");
    assert!(!scratch.0.join("out").exists());
}
