//! A network of our own: a namespace for each node and each export, all on one switch, and links that are cut or slowed.
//!
//! Everything is made inside of a mount namespace that only this process and its children see, names of network
//! namespaces included: when they end, whatever the reason, nothing is left on the machine.
use crate::program::{command, succeed};
use anyhow::{Context, Result};
use std::ffi::CString;
use std::process::Command;
use std::time::Duration;

const SWITCH: &str = "switch";
/// What a tool may take.
const TOOL_MAX: Duration = Duration::from_secs(20);
/// Bytes that a slow link lets through at once.
const SLOW_BURST: &str = "64kb";

/// Who is on the network: nodes from 1, exports after them.
pub type Host = u32;

/// See the module.
#[derive(Debug)]
pub struct Net {
    hosts: u32,
}

/// Leaves the mounts of the machine: what is mounted from now on is seen by this thread and its children only.
/// To be called before other threads are started.
pub fn leave_mounts() -> Result<()> {
    // SAFETY: no pointers.
    let left = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    anyhow::ensure!(left == 0, "a mount namespace: {} (it wants root)", std::io::Error::last_os_error());
    mount("none", "/", "none", libc::MS_REC | libc::MS_PRIVATE)?;
    std::fs::create_dir_all("/run/netns").context("make /run/netns")?;
    mount("names", "/run/netns", "tmpfs", 0)
}

fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong) -> Result<()> {
    let [source, target_c, kind] = [source, target, kind].map(|text| CString::new(text).expect("no zeroes"));
    // SAFETY: the strings live.
    let done =
        unsafe { libc::mount(source.as_ptr(), target_c.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) };
    anyhow::ensure!(done == 0, "mount {target}: {}", std::io::Error::last_os_error());
    Ok(())
}

fn tool(words: &str) -> Result<String> {
    let mut words = words.split_whitespace();
    succeed(command(words.next().expect("a program")).args(words), TOOL_MAX)
}

fn name(host: Host) -> String {
    format!("host-{host}")
}

impl Net {
    /// A switch and `hosts` hosts on it.
    pub fn new(hosts: u32) -> Result<Net> {
        tool(&format!("ip netns add {SWITCH}"))?;
        tool(&format!("ip -n {SWITCH} link add bridge type bridge"))?;
        tool(&format!("ip -n {SWITCH} link set bridge up"))?;
        let net = Net { hosts };
        for host in 1..=hosts {
            let of = name(host);
            tool(&format!("ip netns add {of}"))?;
            tool(&format!("ip -n {SWITCH} link add port-{host} type veth peer name eth netns {of}"))?;
            tool(&format!("ip -n {SWITCH} link set port-{host} master bridge up"))?;
            tool(&format!("ip -n {of} addr add {}/24 dev eth", net.address(host)))?;
            tool(&format!("ip -n {of} link set eth up"))?;
            tool(&format!("ip -n {of} link set lo up"))?;
            let nft = "add table ip cuts; add chain ip cuts in { type filter hook input priority 0; }";
            succeed(net.on(host, "nft").arg(nft), TOOL_MAX)?;
        }
        Ok(net)
    }

    /// The address of a host.
    pub fn address(&self, host: Host) -> String {
        format!("10.231.0.{host}")
    }

    /// A program on a host.
    pub fn on(&self, host: Host, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut on = command("ip");
        on.args(["netns", "exec", &name(host)]).arg(program);
        on
    }

    /// From now on nothing of `from` arrives at `to`.
    pub fn cut(&self, from: Host, to: Host) -> Result<()> {
        let rule = format!("add rule ip cuts in ip saddr {} drop", self.address(from));
        succeed(self.on(to, "nft").arg(rule), TOOL_MAX).map(drop)
    }

    /// From now on nothing arrives at a host, and nothing of it anywhere.
    pub fn isolate(&self, host: Host) -> Result<()> {
        tool(&format!("ip -n {SWITCH} link set port-{host} down")).map(drop)
    }

    /// From now on a host's link carries at most so many KiB per second each way.
    pub fn slow(&self, host: Host, kib: u32) -> Result<()> {
        let rate = format!("rate {}kbit burst {SLOW_BURST} latency 200ms", kib * 8);
        tool(&format!("tc -n {SWITCH} qdisc add dev port-{host} root tbf {rate}"))?;
        tool(&format!("tc -n {} qdisc add dev eth root tbf {rate}", name(host))).map(drop)
    }

    /// All links are whole again.
    pub fn mend(&self) -> Result<()> {
        for host in 1..=self.hosts {
            succeed(self.on(host, "nft").arg("flush chain ip cuts in"), TOOL_MAX)?;
            tool(&format!("ip -n {SWITCH} link set port-{host} up"))?;
            for (place, device) in [(SWITCH, format!("port-{host}")), (&name(host), "eth".to_owned())] {
                if tool(&format!("tc -n {place} qdisc show dev {device}"))?.contains("tbf") {
                    tool(&format!("tc -n {place} qdisc del dev {device} root"))?;
                }
            }
        }
        Ok(())
    }
}
