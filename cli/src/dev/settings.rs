//! What a directory of `sarsen dev` was made with: kept in `dev.json`, and held to by later starts.
use crate::failure::{During, Failure, Outcome};
use crate::size::Size;
use sarsen_types::limits::SLICES_MAX;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The format of `dev.json` this program writes and reads.
const FORMAT: u32 = 1;
/// Nodes of a cluster on one machine.
pub const NODES_MAX: u32 = 32;
/// Drives of one node.
pub const DRIVES_MAX: u32 = 32;

/// How reads are leased.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Lease {
    /// By clocks that run at most 1 % apart
    Clock,
    /// By a round of confirmations for each turn of reads
    Confirm,
}

impl Lease {
    /// As it is written on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Lease::Clock => "clock",
            Lease::Confirm => "confirm",
        }
    }
}

/// A volume to create and export.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its bytes when it was asked for.
    pub size: u64,
    /// Whether it was created; one that is gone later was deleted and is not made anew.
    #[serde(default)]
    pub is_created: bool,
}

impl std::str::FromStr for Volume {
    type Err = String;

    fn from_str(text: &str) -> Result<Volume, String> {
        let (name, size) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("'{text}' has no size: write NAME:SIZE, e.g. demo:1GiB"))?;
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || !name.chars().all(fits) || name.starts_with(['.', '-']) {
            return Err(format!(
                "'{name}' cannot name a volume: use letters, digits, '-', '_' and '.', and begin with a letter or digit"
            ));
        }
        let size = size.parse::<Size>().map_err(|why| why.to_string())?;
        if size.0 == 0 {
            return Err(format!("volume '{name}' would have no bytes: write NAME:SIZE, e.g. demo:1GiB"));
        }
        Ok(Volume { name: name.to_owned(), size: size.0, is_created: false })
    }
}

/// The flags as given: nothing where none was.
#[derive(Clone, Default, Debug)]
pub struct Flags {
    /// `--nodes`
    pub nodes: Option<u32>,
    /// `--drives`
    pub drives: Option<u32>,
    /// `--drive-size`
    pub drive_size: Option<Size>,
    /// `--slices`
    pub slices: Option<u8>,
    /// `--copies`
    pub copies: Option<u32>,
    /// `--lease`
    pub lease: Option<Lease>,
    /// `--tcp-only`
    pub tcp_only: bool,
    /// `--volume`
    pub volumes: Vec<Volume>,
}

/// Where a node listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ports {
    /// The data port.
    pub data: u16,
    /// The port of the API.
    pub api: u16,
}

/// What a directory was made with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Settings {
    format: u32,
    /// Nodes.
    pub nodes: u32,
    /// Drives of each node.
    pub drives: u32,
    /// Bytes of each drive.
    pub drive_size: u64,
    /// Slices of each drive.
    #[serde(default = "one")]
    pub slices: u8,
    /// Copies of the default policy.
    pub copies: u32,
    /// How reads are leased; the nodes' own choice where nothing was said.
    pub lease: Option<Lease>,
    /// No unix sockets between nodes and exports.
    #[serde(default)]
    pub tcp_only: bool,
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// Ports of each node, in order.
    pub ports: Vec<Ports>,
    /// Nodes that are members of the cluster: the first so many.
    pub joined: u32,
}

fn one() -> u8 {
    1
}

impl Settings {
    /// What `flags` ask of a new directory. Ports are still to be chosen.
    pub fn new(flags: &Flags) -> Outcome<Settings> {
        let nodes = flags.nodes.unwrap_or(3);
        let drives = flags.drives.unwrap_or(1);
        for (flag, value, max) in [("--nodes", nodes, NODES_MAX), ("--drives", drives, DRIVES_MAX)] {
            if value == 0 || value > max {
                return Err(Failure::new(format!("{flag} {value} is out of bounds: 1 to {max}")));
            }
        }
        let slices = flags.slices.unwrap_or(1);
        if slices == 0 || slices > SLICES_MAX {
            return Err(Failure::new(format!("--slices {slices} is out of bounds: 1 to {SLICES_MAX}")));
        }
        let copies = flags.copies.unwrap_or(nodes.min(3));
        if copies == 0 || copies > nodes {
            return Err(Failure::new(format!("--copies {copies} does not go with --nodes {nodes}"))
                .hint("each node is a fault domain: copies are at least 1, and at most one a node"));
        }
        let mut names: Vec<&str> = flags.volumes.iter().map(|v| v.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|two| two[0] == two[1]) {
            return Err(Failure::new(format!("--volume names '{}' twice", twice[0])));
        }
        Ok(Settings {
            format: FORMAT,
            nodes,
            drives,
            drive_size: flags.drive_size.unwrap_or(Size(10 << 30)).0,
            slices,
            copies,
            lease: flags.lease,
            tcp_only: flags.tcp_only,
            volumes: flags.volumes.clone(),
            ports: Vec::new(),
            joined: 0,
        })
    }

    /// Refuses flags that are not what the directory was made with, by name.
    pub fn hold_to(&self, flags: &Flags, dir: &Path) -> Outcome {
        let mut others = Vec::new();
        let mut compare = |flag: &str, given: Option<String>, kept: String| {
            if given.is_some_and(|given| given != kept) {
                others.push(format!("{flag} is {kept}"));
            }
        };
        compare("--nodes", flags.nodes.map(|n| n.to_string()), self.nodes.to_string());
        compare("--drives", flags.drives.map(|n| n.to_string()), self.drives.to_string());
        compare("--drive-size", flags.drive_size.map(|s| s.to_string()), Size(self.drive_size).to_string());
        compare("--slices", flags.slices.map(|n| n.to_string()), self.slices.to_string());
        compare("--copies", flags.copies.map(|n| n.to_string()), self.copies.to_string());
        let lease = self.lease.map_or("not set", Lease::word);
        compare("--lease", flags.lease.map(|l| l.word().to_owned()), lease.to_owned());
        let given = |is_given: bool| if is_given { "given" } else { "not given" }.to_owned();
        compare("--tcp-only", flags.tcp_only.then(|| given(true)), given(self.tcp_only));
        let list = |volumes: &[Volume]| {
            let mut all: Vec<String> =
                volumes.iter().map(|v| format!("{}:{}", v.name, Size(v.size))).collect();
            all.sort();
            if all.is_empty() { "not set".to_owned() } else { all.join(" ") }
        };
        compare("--volume", (!flags.volumes.is_empty()).then(|| list(&flags.volumes)), list(&self.volumes));
        if others.is_empty() {
            return Ok(());
        }
        Err(Failure::new(format!("{} was made with other flags: {}", dir.display(), others.join(", "))).hint(
            "leave these flags out to resume with all data, or name another --dir; `sarsen volume create` adds volumes",
        ))
    }

    /// What `dir` was made with; nothing when it is new.
    pub fn load(dir: &Path) -> Outcome<Option<Settings>> {
        let file = file(dir);
        let text = match fs::read_to_string(&file) {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.during(format_args!("read {}", file.display()))?,
        };
        let settings: Settings =
            serde_json::from_str(&text).during(format_args!("understand {}", file.display()))?;
        if settings.format != FORMAT {
            return Err(Failure::new(format!("{} is of format {}", file.display(), settings.format))
                .hint(format!("this program knows format {FORMAT}: use the one that made the directory")));
        }
        Ok(Some(settings))
    }

    /// Writes them, whole or not at all.
    pub fn save(&self, dir: &Path) -> Outcome {
        let (file, new) = (file(dir), dir.join("dev.json.new"));
        let text = serde_json::to_string_pretty(self).during("print JSON")?;
        let write = || {
            let mut out = fs::File::create(&new)?;
            out.write_all(text.as_bytes())?;
            out.sync_all()?;
            fs::rename(&new, &file)?;
            fs::File::open(dir)?.sync_all()
        };
        write().during(format_args!("write {}", file.display()))
    }
}

fn file(dir: &Path) -> PathBuf {
    dir.join("dev.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> Flags {
        Flags { volumes: vec!["demo:1GiB".parse().unwrap()], ..Flags::default() }
    }

    #[test]
    fn the_same_flags_or_none_resume() {
        let settings = Settings::new(&flags()).unwrap();
        let dir = Path::new("d");
        settings.hold_to(&Flags::default(), dir).unwrap();
        settings.hold_to(&flags(), dir).unwrap();
        settings
            .hold_to(&Flags { nodes: Some(3), drive_size: Some(Size(10 << 30)), ..flags() }, dir)
            .unwrap();
    }

    #[test]
    fn other_flags_are_refused_by_name() {
        let settings = Settings::new(&flags()).unwrap();
        let others = Flags { nodes: Some(5), lease: Some(Lease::Clock), ..Flags::default() };
        let why = settings.hold_to(&others, Path::new("d")).unwrap_err().to_string();
        assert!(why.contains("--nodes is 3") && why.contains("--lease is not set"), "{why}");
        assert!(!why.contains("--copies is"), "{why}");
        let volume = Flags { volumes: vec!["other:1GiB".parse().unwrap()], ..Flags::default() };
        let why = settings.hold_to(&volume, Path::new("d")).unwrap_err().to_string();
        assert!(why.contains("--volume is demo:1 GiB"), "{why}");
    }

    #[test]
    fn tcp_alone_is_for_a_new_directory() {
        let tcp = Flags { tcp_only: true, ..flags() };
        let why = Settings::new(&flags()).unwrap().hold_to(&tcp, Path::new("d")).unwrap_err().to_string();
        assert!(why.contains("--tcp-only is not given"), "{why}");
        Settings::new(&tcp).unwrap().hold_to(&flags(), Path::new("d")).unwrap();
    }

    #[test]
    fn settings_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Settings::load(dir.path()).unwrap(), None);
        let mut settings = Settings::new(&flags()).unwrap();
        settings.ports = vec![Ports { data: 1, api: 2 }];
        settings.save(dir.path()).unwrap();
        assert_eq!(Settings::load(dir.path()).unwrap(), Some(settings));
    }

    #[test]
    fn impossible_clusters_are_refused() {
        for bad in [
            Flags { nodes: Some(0), ..Flags::default() },
            Flags { nodes: Some(2), copies: Some(3), ..Flags::default() },
            Flags { copies: Some(0), ..Flags::default() },
            Flags { slices: Some(0), ..Flags::default() },
            Flags { volumes: vec!["a:1M".parse().unwrap(), "a:2M".parse().unwrap()], ..Flags::default() },
        ] {
            assert!(Settings::new(&bad).is_err(), "{bad:?}");
        }
        assert_eq!(Settings::new(&Flags { nodes: Some(1), ..Flags::default() }).unwrap().copies, 1);
    }

    #[test]
    fn volumes_are_a_name_and_a_size() {
        for bad in ["demo", "demo:", ":1GiB", "a/b:1GiB", "-a:1GiB", "demo:0", "demo:lots"] {
            assert!(bad.parse::<Volume>().is_err(), "{bad}");
        }
    }
}
