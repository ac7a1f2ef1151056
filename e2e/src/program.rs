//! Where `sarsen` is, and other programs: run, with a time limit, and say what they said.
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The program under test: `SARSEN_BIN`, or built once as this test was.
pub fn sarsen() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(path) = std::env::var_os("SARSEN_BIN") {
            return path.into();
        }
        let own = std::env::current_exe().expect("this program has a path");
        let profile = own
            .ancestors()
            .find(|dir| dir.ends_with("release") || dir.ends_with("debug"))
            .expect("tests live in a cargo target directory");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--locked", "-p", "sarsen-cli", "--target-dir"]);
        cargo.arg(profile.parent().expect("a profile lies in a target directory"));
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo runs");
        assert!(status.success(), "sarsen does not build");
        profile.join("sarsen")
    })
}

/// A command that dies with the thread that starts it.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program);
    // SAFETY: prctl is allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command
}

/// Runs `command` to its end, at most `limit`; what it printed.
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    let what = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {what}"))?;
    // Read beside it, or a full pipe stops it.
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait(&mut child, limit).with_context(|| what.clone());
    let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
    match status {
        Ok(status) => Ok(Output { status, stdout, stderr }),
        Err(why) => {
            bail!("{why:#}\n{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr))
        }
    }
}

/// As [`run`]; a failure unless it succeeded. What it printed to stdout.
pub fn succeed(command: &mut Command, limit: Duration) -> Result<String> {
    let what = format!("{command:?}");
    let output = run(command, limit)?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{what}: {}\n{stdout}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(stdout)
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Waits for the end of `child`; after `limit` it is killed, and that is a failure.
pub fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= until {
            let _ = child.kill();
            let _ = child.wait();
            bail!("not done after {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Looks again and again until `look` is true; a failure that says `what` after `limit`. How long it took.
pub fn wait_until(what: &str, limit: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let start = Instant::now();
    let mut last = None;
    while start.elapsed() < limit {
        match look() {
            Ok(true) => return Ok(start.elapsed()),
            Ok(false) => last = None,
            Err(why) => last = Some(why),
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    match last {
        Some(why) => Err(why.context(format!("{what}: not within {} s", limit.as_secs()))),
        None => bail!("{what}: not within {} s", limit.as_secs()),
    }
}

/// Whether the long variants of tests are asked for (`SARSEN_LONG=1`).
pub fn is_long() -> bool {
    std::env::var_os("SARSEN_LONG").is_some_and(|v| v != "0")
}
