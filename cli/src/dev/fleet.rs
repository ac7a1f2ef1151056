//! The processes of a cluster on this machine: nodes, and an export for each volume.
use super::process::{Process, how};
use super::settings::Settings;
use super::show::{self, Show};
use super::{control, settings};
use crate::drive::Room;
use crate::failure::{During, Failure, Outcome};
use crate::size::Size;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a node that hands over may take.
const HAND_OVER_MAX: Duration = Duration::from_secs(30);
/// How long an export may take to answer what is under way and to give back its right: a little more than it takes itself.
const EXPORT_END_MAX: Duration = sarsen_host::STOP_MAX.saturating_add(Duration::from_secs(1));
/// How long nodes that stop together may take: nobody is left to hand over to.
const NODES_END_MAX: Duration = Duration::from_secs(10);
/// An export that ends is started again, not sooner than this after its last start.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// All processes, and what they were started from.
#[derive(Debug)]
pub struct Fleet {
    dir: PathBuf,
    settings: Settings,
    nodes: Vec<Node>,
    exports: Vec<Export>,
}

#[derive(Debug)]
struct Node {
    /// Its id in the cluster, once known.
    id: u32,
    process: Option<Process>,
}

#[derive(Debug)]
struct Export {
    name: String,
    size: u64,
    socket: PathBuf,
    process: Option<Process>,
    started: Instant,
}

impl Fleet {
    /// Nothing started yet.
    pub fn new(dir: &Path, settings: Settings) -> Fleet {
        let nodes = (1..=settings.nodes).map(|id| Node { id, process: None }).collect();
        Fleet { dir: dir.to_owned(), settings, nodes, exports: Vec::new() }
    }

    /// What it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Changes what is kept in the directory, durably.
    pub fn change_settings(&mut self, change: impl FnOnce(&mut Settings)) -> Outcome {
        change(&mut self.settings);
        self.settings.save(&self.dir)
    }

    /// The API of each node.
    pub fn api(&self) -> Vec<String> {
        self.settings.ports.iter().map(|p| format!("http://127.0.0.1:{}", p.api)).collect()
    }

    /// The files of the drives of node number `at`, counted from 0.
    pub fn drives(&self, at: usize) -> Vec<PathBuf> {
        let node = self.node_dir(at);
        (1..=self.settings.drives).map(|drive| node.join(format!("drive-{drive}.img"))).collect()
    }

    /// The directory of node number `at`.
    pub fn node_dir(&self, at: usize) -> PathBuf {
        self.dir.join(format!("node-{}", at + 1))
    }

    /// Makes the directories and drives that are not there yet.
    pub fn make_drives(&self) -> Outcome {
        for at in 0..self.nodes.len() {
            let dir = self.node_dir(at);
            fs::create_dir_all(&dir).during(format_args!("make {}", dir.display()))?;
            for drive in self.drives(at) {
                if drive.exists() {
                    continue;
                }
                // Under another name until it is whole: a start that was cut short begins it anew.
                let new = drive.with_extension("new");
                let _ = fs::remove_file(&new);
                let (size, slices) = (Size(self.settings.drive_size), self.settings.slices);
                crate::drive::format_file(&new, Some(size), Some(slices), Room::Sparse)?;
                fs::rename(&new, &drive).during(format_args!("name {}", drive.display()))?;
            }
        }
        Ok(())
    }

    /// Starts node number `at`.
    pub fn start(&mut self, at: usize) -> Outcome {
        let ports = self.settings.ports[at];
        let mut args: Vec<OsString> = vec!["node".into(), "--dir".into(), self.node_dir(at).into()];
        let mut flag = |name: &str, value: OsString| args.extend([name.into(), value]);
        flag("--listen", format!("127.0.0.1:{}", ports.data).into());
        flag("--api", format!("127.0.0.1:{}", ports.api).into());
        for drive in self.drives(at) {
            flag("--drive", drive.into());
        }
        if let Some(lease) = self.settings.lease {
            flag("--lease", lease.word().into());
        }
        flag("--dev-copies", self.settings.copies.to_string().into());
        if at > 0 {
            let others: Vec<String> = self
                .api()
                .into_iter()
                .enumerate()
                .filter(|(other, _)| *other != at)
                .map(|(_, url)| url)
                .collect();
            flag("--join", others.join(",").into());
        }
        if self.settings.tcp_only {
            args.push("--tcp-only".into());
        }
        args.push("--dev".into());
        let log = self.dir.join(format!("node-{}.log", at + 1));
        self.nodes[at].process = Some(Process::start(&args, &[], &log)?);
        Ok(())
    }

    /// Which number the node with this id has.
    pub fn number_of(&self, id: u32) -> Outcome<usize> {
        self.nodes.iter().position(|n| n.id == id).ok_or_else(|| {
            let ids: Vec<String> = self.nodes.iter().map(|n| n.id.to_string()).collect();
            Failure::new(format!("there is no node {id}")).hint(format!("nodes are {}", ids.join(", ")))
        })
    }

    /// The cluster calls node number `at` so.
    pub fn name(&mut self, at: usize, id: u32) {
        self.nodes[at].id = id;
    }

    /// Whether node number `at` runs.
    pub fn runs(&mut self, at: usize) -> bool {
        self.nodes[at].process.as_mut().is_some_and(Process::runs)
    }

    /// Why node number `at` does not answer.
    pub fn failure(&mut self, at: usize) -> Failure {
        let id = self.nodes[at].id;
        match &mut self.nodes[at].process {
            Some(process) => process.failure(&format!("node {id}")),
            None => Failure::new(format!("node {id} is stopped")),
        }
    }

    /// Stops node number `at`: it hands over what it leads, then ends.
    pub async fn stop(&mut self, at: usize) -> Outcome {
        let id = self.nodes[at].id;
        let Some(process) = &mut self.nodes[at].process else {
            return Err(Failure::new(format!("node {id} is stopped already")));
        };
        process.ask_to_end();
        if !process.wait(HAND_OVER_MAX).await {
            eprintln!("node {id} did not end within {} s; it is killed", HAND_OVER_MAX.as_secs());
        }
        self.nodes[at].process = None;
        Ok(())
    }

    /// Exports a volume, and keeps it exported.
    pub fn export(&mut self, name: &str, size: u64) -> Outcome {
        let socket = self.dir.join(format!("{name}.nbd.sock"));
        control::check_path(&socket)?;
        let export = Export { name: name.to_owned(), size, socket, process: None, started: Instant::now() };
        self.exports.push(export);
        let at = self.exports.len() - 1;
        self.start_export(at)
    }

    fn start_export(&mut self, at: usize) -> Outcome {
        let api = self.api().join(",");
        let export = &mut self.exports[at];
        let args: Vec<OsString> = vec![
            "export".into(),
            "nbd".into(),
            export.name.clone().into(),
            "--socket".into(),
            export.socket.clone().into(),
        ];
        let log = self.dir.join(format!("{}.nbd.log", export.name));
        export.started = Instant::now();
        export.process = Some(Process::start(&args, &[("SARSEN_API", &api)], &log)?);
        Ok(())
    }

    /// Whether every export takes connections; a failure when one ended.
    pub fn exports_are_up(&mut self) -> Outcome<bool> {
        for export in &mut self.exports {
            if !export.process.as_mut().is_some_and(Process::runs) {
                let what = format!("the export of volume {}", export.name);
                return Err(match &mut export.process {
                    Some(process) => process.failure(&what),
                    None => Failure::new(format!("{what} was not started")),
                });
            }
            if std::os::unix::net::UnixStream::connect(&export.socket).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sees who ended: a node stays ended, an export is started again. When to look again, if anything waits.
    pub fn reap(&mut self) -> Option<Instant> {
        for node in &mut self.nodes {
            if let Some(status) = node.process.as_mut().and_then(Process::ended) {
                eprintln!("node {} {}; `sarsen dev start-node {0}` starts it again", node.id, how(status));
                node.process = None;
            }
        }
        let mut again = None;
        for at in 0..self.exports.len() {
            let export = &mut self.exports[at];
            if let Some(status) = export.process.as_mut().and_then(Process::ended) {
                eprintln!("the export of volume {} {}; it is started again", export.name, how(status));
                export.process = None;
            }
            if self.exports[at].process.is_none() {
                let due = self.exports[at].started + RESTART_AFTER;
                if due <= Instant::now()
                    && let Err(why) = self.start_export(at)
                {
                    eprintln!("{why}");
                }
                if self.exports[at].process.is_none() {
                    again = Some(
                        Instant::now()
                            + RESTART_AFTER
                                .min(due.saturating_duration_since(Instant::now()))
                                .max(Duration::from_millis(50)),
                    );
                }
            }
        }
        again
    }

    /// Learns how large a volume is now.
    pub fn resized(&mut self, name: &str, size: u64) {
        for export in self.exports.iter_mut().filter(|e| e.name == name) {
            export.size = size;
        }
    }

    /// Where everything is now.
    pub fn show(&mut self) -> Show {
        let api = self.api();
        let nodes = self.nodes.iter_mut().map(|node| {
            let pid = node.process.as_mut().and_then(|p| p.runs().then(|| p.pid()));
            show::Node { id: node.id, pid }
        });
        let nodes = nodes.collect();
        let volumes = self.exports.iter().map(|export| show::Volume {
            name: export.name.clone(),
            size: export.size,
            nbd: show::nbd_url(&export.socket),
        });
        Show { api, volumes: volumes.collect(), nodes }
    }

    /// Ends everything: exports first, so that they answer what is under way.
    pub async fn end(mut self) {
        let mut exports: Vec<Process> = self.exports.iter_mut().filter_map(|e| e.process.take()).collect();
        let mut nodes: Vec<Process> = self.nodes.iter_mut().filter_map(|n| n.process.take()).collect();
        for (processes, most) in [(&mut exports, EXPORT_END_MAX), (&mut nodes, NODES_END_MAX)] {
            processes.iter().for_each(Process::ask_to_end);
            let until = Instant::now() + most;
            for process in processes {
                process.wait(until.saturating_duration_since(Instant::now())).await;
                process.kill();
            }
        }
        for export in &self.exports {
            let _ = fs::remove_file(&export.socket);
        }
        let _ = fs::remove_file(control::path(&self.dir));
    }
}

/// The volumes that are still to be created.
pub fn to_create(settings: &Settings) -> Vec<settings::Volume> {
    settings.volumes.iter().filter(|v| !v.is_created).cloned().collect()
}
