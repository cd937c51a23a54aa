//! What a test does to a cluster from below it: where no API would let anybody.
use super::{Cluster, Space, finished, lifecycle::IMAGES};
use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::{fs, net::Ipv4Addr, process::Command};

impl Cluster {
    /// The process of a pod, by the pod's UID, whose program is called this; as this machine numbers it.
    fn process(uid: &str, program: &str) -> anyhow::Result<Pid> {
        for entry in fs::read_dir("/proc")?.flatten() {
            let path = entry.path();
            // A process may end while it is looked at.
            let read = |name: &str| fs::read(path.join(name)).unwrap_or_default();
            let group = String::from_utf8_lossy(&read("cgroup")).into_owned();
            let command = String::from_utf8_lossy(&read("cmdline")).into_owned();
            if group.contains(uid) && command.split('\0').next().is_some_and(|c| c.trim_start_matches('/') == program) {
                let number = entry.file_name().to_string_lossy().parse()?;
                return Pid::from_raw(number).context("process 0");
            }
        }
        anyhow::bail!("no process {program} in the pod {uid}")
    }

    /// Gives all of Signet's images a second tag, in every node: another version with the same bytes.
    pub fn retag(&self, tag: &str) -> anyhow::Result<()> {
        for name in IMAGES.iter().filter(|name| **name != "signet-workload") {
            let (old, new) = (super::reference(name), format!("docker.io/signet/{name}:{tag}"));
            for node in ["n1", "n2"] {
                let socket = self.dir.join(node).join("containerd.sock");
                let socket = socket.to_string_lossy();
                let arguments = ["-a", &*socket, "-n", "k8s.io", "images", "tag", "--force", &old, &new];
                finished("ctr", &arguments, &self.command("ctr").args(arguments).output()?)?;
            }
        }
        Ok(())
    }

    /// Makes this the address that the node's next pod gets, once its present holder has given it back.
    pub fn next_address(&self, node: u8, address: Ipv4Addr) -> anyhow::Result<()> {
        let taken = self.dir.join(format!("n{node}/addresses/pods"));
        ensure!(!taken.join(address.to_string()).exists(), "{address} is still taken");
        // The allocator goes on after the last one that it gave.
        let before = Ipv4Addr::from(u32::from(address) - 1);
        fs::write(taken.join("last_reserved_ip.0"), before.to_string())?;
        Ok(())
    }
}

impl Space<'_> {
    /// Sends a signal to a program of a pod.
    pub fn signal(&self, pod: &str, program: &str, signal: Signal) -> anyhow::Result<()> {
        let uid = self.kubectl(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"])?;
        kill_process(Cluster::process(&uid, program)?, signal)?;
        Ok(())
    }

    /// Runs `nft` in the network of a pod, such as `add rule ...`.
    pub fn nft(&self, pod: &str, commands: &str) -> anyhow::Result<()> {
        let uid = self.kubectl(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"])?;
        let process = Cluster::process(&uid, "signet-workload")?;
        let network = format!("--net=/proc/{}/ns/net", process.as_raw_nonzero());
        let arguments = [&network, "nft", commands];
        finished("nsenter", &arguments, &Command::new("nsenter").args(arguments).output()?)?;
        Ok(())
    }
}
