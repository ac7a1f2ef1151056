//! The real program on a drive that lost its power: a node and an export with the metadata that the run left.
use super::history::BLOCK;
use super::image::Overlay;
use super::machine::Left;
use crate::nbd::Client;
use crate::program::{command, sarsen, succeed, wait_until};
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

const UP_MAX: Duration = Duration::from_secs(60);
const PIECE: usize = 64;

/// A process that ends with this.
struct Process(Child);
impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(dir: &Path, name: &str, args: &[&str], api: &str) -> Result<Process> {
    let log = File::create(dir.join(format!("{name}.log")))?;
    let mut process = command(sarsen());
    process.args(args).env("SARSEN_API", api).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Ok(Process(process.spawn()?))
}

/// As [`super::reader::read_all`], by processes.
pub fn read_all(
    disk: &Overlay,
    left: &Left,
    ports: (u16, u16),
    blocks: u64,
    mut each: impl FnMut(u64, Option<&[u8]>) -> Result<()>,
) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("sarsen-power-").tempdir()?;
    let (file, node, socket) = (dir.path().join("drive"), dir.path().join("node"), dir.path().join("v.sock"));
    write(disk, &file)?;
    succeed(command("cp").arg("-r").arg(left.out("node")).arg(&node), UP_MAX)?;
    let (listen, api) = (format!("127.0.0.1:{}", ports.0), format!("127.0.0.1:{}", ports.1));
    let [file, node] = [&file, &node].map(|p| p.to_string_lossy().into_owned());
    let place = ["node", "--dir", &node, "--listen", &listen, "--api", &api, "--drive", &file];
    let how = ["--dev", "--dev-copies", "1", "--memory", "32MiB"];
    let api = format!("http://{api}");
    let mut read = || -> Result<()> {
        let _node = spawn(dir.path(), "node", &[&place[..], &how[..]].concat(), "")?;
        let at = socket.to_string_lossy().into_owned();
        let json = |args: &[&str]| -> Result<serde_json::Value> {
            let mut asked = command(sarsen());
            asked.args(args).arg("--json").env("SARSEN_API", &api);
            Ok(serde_json::from_str(&succeed(&mut asked, UP_MAX)?)?)
        };
        wait_until("the drive is up", UP_MAX, || Ok(json(&["status"])?["drives_up"] == 1))?;
        // the host that had the volume lost its power too: it is fenced, which every group has to confirm (R31)
        wait_until("the host that is gone is fenced", UP_MAX, || {
            let all = json(&["attachment", "list"])?;
            let ids = all.as_array().into_iter().flatten().filter_map(|a| a["id"].as_u64());
            let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
            ids.iter().try_for_each(|id| json(&["attachment", "detach", id, "--force"]).map(drop))?;
            Ok(ids.is_empty())
        })?;
        let _export = spawn(dir.path(), "export", &["export", "nbd", "v", "--socket", &at], &api)?;
        wait_until("the export", UP_MAX, || Ok(socket.exists()))?;
        let mut client = Client::connect(&socket, "v")?;
        client.limit(Some(UP_MAX))?;
        let mut bytes = vec![0; PIECE * BLOCK];
        for first in (0..blocks).step_by(PIECE) {
            client.read(first * BLOCK as u64, &mut bytes)?;
            (first..).zip(bytes.chunks_exact(BLOCK)).try_for_each(|(block, held)| each(block, Some(held)))?;
        }
        Ok(())
    };
    read().with_context(|| format!("the node: {}", crate::dev::tail(&dir.path().join("node.log"), 6)))
}

fn write(disk: &Overlay, path: &Path) -> Result<()> {
    let file = File::create(path)?;
    let mut to = BufWriter::new(&file);
    for block in disk.blocks() {
        match block.iter().all(|b| *b == 0) {
            true => drop(to.seek(SeekFrom::Current(BLOCK as i64))?),
            false => to.write_all(block)?,
        }
    }
    to.flush()?;
    Ok(file.set_len(to.stream_position().context("its end")?)?)
}
