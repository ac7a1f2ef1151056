//! The socket of a running `sarsen dev`: `show`, `start-node` and `stop-node` in, one line of JSON out.
use crate::failure::{During, Failure, Outcome};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// Bytes of a request or an answer.
const LINE_MAX: u64 = 1 << 20;
/// How long somebody who connected may take to ask.
const ASK_MAX: Duration = Duration::from_secs(5);
/// Bytes of a unix socket's path.
const PATH_MAX: usize = 107;

/// What is asked.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Request {
    /// Where everything is.
    Show,
    /// Start a node that is not running.
    StartNode {
        /// Its id.
        id: u32,
    },
    /// Stop a running node; it hands over first.
    StopNode {
        /// Its id.
        id: u32,
    },
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Where everything is now.
    Done(super::show::Show),
    /// It was refused, or failed.
    Refused {
        /// Why, and what to do.
        message: String,
    },
}

/// Where the socket of `dir` is.
pub fn path(dir: &Path) -> PathBuf {
    dir.join("dev.sock")
}

/// Refuses a path that no socket can have.
pub fn check_path(path: &Path) -> Outcome {
    let len = path.as_os_str().len();
    if len > PATH_MAX {
        return Err(Failure::new(format!("the path of the socket {} has {len} bytes", path.display())).hint(
            format!("a socket's path has at most {PATH_MAX}: name a shorter --dir, or shorter volumes"),
        ));
    }
    Ok(())
}

/// Listens for requests; a socket that a dead process left is replaced.
pub fn listen(dir: &Path) -> Outcome<UnixListener> {
    let path = path(dir);
    let _ = fs::remove_file(&path);
    UnixListener::bind(&path).during(format_args!("listen at {}", path.display()))
}

/// The request of a connection.
pub async fn receive(stream: &mut UnixStream) -> Outcome<Request> {
    let mut line = String::new();
    let mut reader = BufReader::new(stream.take(LINE_MAX));
    tokio::time::timeout(ASK_MAX, reader.read_line(&mut line))
        .await
        .during("wait for a request")?
        .during("read a request")?;
    serde_json::from_str(&line).during("understand a request")
}

/// Answers it.
pub async fn answer(stream: &mut UnixStream, result: Outcome<super::show::Show>) {
    let answer = match result {
        Ok(show) => Answer::Done(show),
        Err(why) => Answer::Refused { message: why.to_string() },
    };
    let mut line = serde_json::to_vec(&answer).expect("an answer is JSON");
    line.push(b'\n');
    // Who asked may be gone; what he asked for is done all the same.
    let _ = stream.write_all(&line).await;
}

/// Asks the `sarsen dev` that runs in `dir`.
pub async fn ask(dir: &Path, request: Request) -> Outcome<super::show::Show> {
    let path = path(dir);
    let mut stream = UnixStream::connect(&path).await.map_err(|why| {
        Failure::new(format!("no `sarsen dev` runs in {}: {why}", dir.display()))
            .hint(format!("start it with `sarsen dev --dir {}`", dir.display()))
    })?;
    let mut line = serde_json::to_vec(&request).expect("a request is JSON");
    line.push(b'\n');
    stream.write_all(&line).await.during("ask `sarsen dev`")?;
    let mut text = String::new();
    stream.take(LINE_MAX).read_to_string(&mut text).await.during("hear from `sarsen dev`")?;
    if text.is_empty() {
        return Err(Failure::new("`sarsen dev` ended before it answered"));
    }
    match serde_json::from_str(&text).during("understand `sarsen dev`")? {
        Answer::Done(show) => Ok(show),
        Answer::Refused { message } => Err(Failure::new(message)),
    }
}
