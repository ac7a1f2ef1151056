//! The file system that the machine starts with: a `newc` archive (`Documentation/driver-api/early-userspace/buffer-format.rst`).
use crate::program::{command, succeed};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

const INIT: &str = include_str!("init.sh");
const BUSYBOX: &str = "/bin/busybox";
const COMMAND_MAX: Duration = Duration::from_secs(60);
/// The product's HTTP client does not begin without any certificate, though it is asked for none.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
const CERTIFICATE_END: &str = "-----END CERTIFICATE-----\n";
/// In the order in which they need each other. What is built into the kernel is no file.
const MODULES: [&str; 8] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "dm-mod",
    "dm-log-writes",
];

/// An archive under way.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<PathBuf>,
    count: u32,
}

impl Archive {
    fn entry(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.count += 1;
        // magic, ino, mode, uid, gid, nlink, mtime, size, device twice, length of the name, check
        let name = path.len() as u32 + 1;
        let numbers = [self.count, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, 0, 0, name, 0];
        self.bytes.extend(b"070701");
        numbers.iter().for_each(|n| self.bytes.extend(format!("{n:08x}").bytes()));
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
    fn put(&mut self, path: &Path, mode: u32, data: &[u8]) {
        let path = path.strip_prefix("/").unwrap_or(path);
        let above: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
        for folder in above.into_iter().rev().filter(|f| !f.as_os_str().is_empty()) {
            if self.folders.insert(folder.clone()) {
                self.entry(&folder.to_string_lossy(), 0o040_755, &[]);
            }
        }
        self.entry(&path.to_string_lossy(), 0o100_000 | mode, data);
    }
    fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

/// Libraries a program is linked to, by `ldd`.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let text = succeed(command("ldd").arg(program), COMMAND_MAX)?;
    Ok(text.split_whitespace().filter(|w| w.starts_with('/')).map(PathBuf::from).collect())
}

/// The file of a module below `folder`, decompressed.
fn module(folder: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let find = ["-name", &format!("{name}.ko*")].map(str::to_owned);
    let found = succeed(command("find").arg(folder).args(find), COMMAND_MAX)?;
    let Some(file) = found.lines().next() else { return Ok(None) };
    let out = command("xz").args(["--decompress", "--stdout", file]).stderr(Stdio::inherit()).output();
    let out = if file.ends_with(".xz") { out?.stdout } else { fs::read(file)? };
    ensure!(!out.is_empty(), "{file} is empty");
    Ok(Some(out))
}

/// Makes it: these programs with their libraries, and the modules of the kernel unpacked at `kernel`.
pub fn make(kernel: &Path, programs: [(&str, Result<PathBuf>); 2]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.put(Path::new("/init"), 0o755, INIT.as_bytes());
    let busybox = fs::read(BUSYBOX).context("busybox: install busybox-static")?;
    archive.put(Path::new(BUSYBOX), 0o755, &busybox);
    let certificates = fs::read_to_string(CERTIFICATES).context("certificates: install ca-certificates")?;
    let first = certificates.split_inclusive(CERTIFICATE_END).next().unwrap_or_default();
    archive.put(Path::new(CERTIFICATES), 0o644, first.as_bytes());
    let mut shared = BTreeSet::new();
    for (name, path) in programs {
        let path = path?;
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        archive.put(&Path::new("/bin").join(name), 0o755, &bytes);
        shared.extend(libraries(&path)?);
    }
    for library in shared {
        archive.put(&library, 0o755, &fs::read(&library)?);
    }
    let mut order = String::new();
    for name in MODULES {
        if let Some(bytes) = module(&kernel.join("lib/modules"), name)? {
            archive.put(&Path::new("/modules").join(name), 0o644, &bytes);
            order += &format!("{name}\n");
        }
    }
    ensure!(order.contains("dm-log-writes"), "there is no dm-log-writes in {}", kernel.display());
    archive.put(Path::new("/modules/order"), 0o644, order.as_bytes());
    Ok(archive.end())
}
