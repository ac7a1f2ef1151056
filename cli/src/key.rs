//! `sarsen key`: the cluster key, 32 random bytes that every node and host of a cluster holds.
use crate::failure::{During, Failure, Outcome};
use crate::output::line_out;
use clap::{Args, Subcommand};
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The cluster key
#[derive(Debug, Args)]
pub struct Key {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a key in a new file; copy the file to every node and host of the cluster
    Create {
        /// The file
        file: PathBuf,
    },
    /// Print the administrator's token of the cluster with this key, for SARSEN_TOKEN
    Token {
        /// The file
        file: PathBuf,
    },
}

impl Key {
    /// Does it.
    pub fn run(self) -> Outcome {
        match self.verb {
            Verb::Create { file } => create(&file),
            Verb::Token { file } => line_out(&sarsen_api::token_of(&load(&file)?)),
        }
    }
}

fn create(file: &Path) -> Outcome {
    let mut bytes = [0u8; 32];
    fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes)).during("get random bytes")?;
    let text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .during(format_args!("create {}", file.display()))
        .map_err(|why| {
            why.hint("a key is never overwritten: with the wrong one a node cannot join its cluster")
        })?;
    writeln!(out, "{text}").and_then(|()| out.sync_all()).during(format_args!("write {}", file.display()))?;
    eprintln!("{} holds a new cluster key; keep it secret, and a copy of it safe", file.display());
    Ok(())
}

/// Reads the key in `file`.
pub fn load(file: &Path) -> Outcome<[u8; 32]> {
    let text = fs::read_to_string(file)
        .during(format_args!("read the key {}", file.display()))
        .map_err(|why| why.hint("`sarsen key create FILE` makes one"))?;
    let text = text.trim();
    let digits = |at: usize| text.get(2 * at..2 * at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    let mut key = [0; 32];
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = digits(at).filter(|_| text.len() == 64).ok_or_else(|| {
            Failure::new(format!("{} is not a cluster key", file.display()))
                .hint("a key is one line of 64 hexadecimal digits; `sarsen key create FILE` makes one")
        })?;
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        create(&file).unwrap();
        let first = load(&file).unwrap();
        assert_ne!(first, [0; 32]);
        assert!(create(&file).is_err());
        assert_eq!(load(&file).unwrap(), first);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        let odd = "é".repeat(32);
        for text in ["", "abc", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), &odd] {
            fs::write(&file, text).unwrap();
            assert!(load(&file).is_err(), "{text}");
        }
    }
}
