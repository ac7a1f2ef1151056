//! One child process: it dies with us, writes to a log of its own, and hears no Ctrl-C but ours.
use crate::failure::{During, Failure, Outcome};
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How often a process that was told to end is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A child that was started; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts this very program with `args`; what it prints is added to `log`.
    ///
    /// Must be called on the main thread: the kernel ends the child when the *thread* that started it ends.
    pub fn start(args: &[OsString], env: &[(&str, &str)], log: &Path) -> Outcome<Process> {
        let out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .during(format_args!("open the log {}", log.display()))?;
        let err = out.try_clone().during("share the log")?;
        // The file may be gone, replaced by a newer one: then what runs here is still to be had.
        let own = std::env::current_exe().ok().filter(|path| path.exists());
        let mut command = Command::new(own.unwrap_or_else(|| "/proc/self/exe".into()));
        command.arg0("sarsen").args(args).stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        command.envs(env.iter().copied());
        let parent = std::process::id();
        // SAFETY: only calls that are allowed between fork and exec.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                // The parent may have ended before the line above.
                if libc::getppid() as u32 != parent {
                    return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
                }
                Ok(())
            });
        }
        let child = command.spawn().during("start a process")?;
        Ok(Process { child, log: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Whether it is there.
    pub fn runs(&mut self) -> bool {
        self.ended().is_none()
    }

    /// Asks it to end (SIGTERM).
    pub fn ask_to_end(&self) {
        // SAFETY: no pointers; the child was not waited for, so its id is still its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
    }

    /// Waits for its end; false when it is still there after `most`.
    pub async fn wait(&mut self, most: Duration) -> bool {
        let until = Instant::now() + most;
        while self.ended().is_none() {
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// A failure that says how it ended and what it said last.
    pub fn failure(&mut self, who: &str) -> Failure {
        let how = self.ended().map_or_else(|| "does not answer".to_owned(), how);
        let said = last_lines(&self.log, 3);
        let colon = if said.is_empty() { "" } else { ": " };
        Failure::new(format!("{who} {how}{colon}{said}")).hint(format!("its log is {}", self.log.display()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// In words.
pub fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "ended".to_owned(),
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, Some(libc::SIGKILL)) => "was killed".to_owned(),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The last lines of a log, on one line.
fn last_lines(log: &Path, count: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join(" | ")
}
