//! Where everything of a cluster on this machine is: for programs one line of JSON, for people how to use it.
use crate::size::Size;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::Path;

/// Where everything is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Show {
    /// The API of each node.
    pub api: Vec<String>,
    /// Exported volumes.
    pub volumes: Vec<Volume>,
    /// The nodes.
    pub nodes: Vec<Node>,
}

/// An exported volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub size: u64,
    /// Its NBD URL.
    pub nbd: String,
}

/// A node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: u32,
    /// Its process; none when it is stopped.
    pub pid: Option<u32>,
}

impl Show {
    /// For people.
    pub fn text(&self, dir: &Path) -> String {
        let mut out = String::new();
        for node in &self.nodes {
            let state = node.pid.map_or_else(|| "stopped".to_owned(), |pid| format!("pid {pid}"));
            let _ = writeln!(out, "node     {}  {state}", node.id);
        }
        let _ = writeln!(out, "api      {}", self.api.join(" "));
        for volume in &self.volumes {
            let _ = writeln!(out, "volume   {}  {}  {}", volume.name, Size(volume.size), volume.nbd);
        }
        let dir = dir.display();
        let _ = writeln!(out, "\nUse it, in another shell:");
        let _ = writeln!(out, "  export SARSEN_API={}", self.api.join(","));
        let _ = writeln!(out, "  sarsen status");
        match self.volumes.first() {
            Some(volume) => {
                let _ = writeln!(out, "  qemu-img info '{}'", volume.nbd);
            }
            None => {
                let _ = writeln!(out, "  sarsen volume create demo --size 1GiB");
                let _ = writeln!(out, "  sarsen export nbd demo --socket {dir}/demo.nbd.sock");
            }
        }
        let first = self.nodes.first().map_or(1, |n| n.id);
        let _ = writeln!(out, "  sarsen dev stop-node {first} --dir {dir}");
        out
    }
}

/// The URL of the NBD export at the socket `path`.
pub fn nbd_url(path: &Path) -> String {
    let mut out = String::from("nbd+unix:///?socket=");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'~' => {
                out.push(char::from(*byte))
            }
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_with_odd_characters_has_a_url() {
        assert_eq!(nbd_url(Path::new("/a b/x.sock")), "nbd+unix:///?socket=/a%20b/x.sock");
    }

    #[test]
    fn a_stopped_node_has_no_pid() {
        let show = Show { api: vec![], volumes: vec![], nodes: vec![Node { id: 2, pid: None }] };
        assert_eq!(
            serde_json::to_string(&show).unwrap(),
            r#"{"api":[],"volumes":[],"nodes":[{"id":2,"pid":null}]}"#
        );
    }
}
