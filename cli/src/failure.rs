//! What went wrong, in one line, and what to do about it, in another.
use std::fmt;
use std::process::ExitCode;

/// The result of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Exit code where no node could be asked.
pub const EXIT_UNREACHABLE: u8 = 3;
/// Exit code where what was waited for did not come in time.
pub const EXIT_TIMEOUT: u8 = 4;

/// Why a command ended without having done its work.
#[derive(Debug)]
pub struct Failure {
    message: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// A failure that says `message`, with exit code 1.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), hint: None, code: 1 }
    }
    /// With what to do about it.
    pub fn hint(self, hint: impl Into<String>) -> Failure {
        Failure { hint: Some(hint.into()), ..self }
    }
    /// With another exit code.
    pub fn code(self, code: u8) -> Failure {
        Failure { code, ..self }
    }
    /// Prints it to stderr.
    pub fn report(&self) -> ExitCode {
        eprintln!("error: {self}");
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}
impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(why: anyhow::Error) -> Failure {
        Failure::new(format!("{why:#}"))
    }
}
impl From<std::io::Error> for Failure {
    fn from(why: std::io::Error) -> Failure {
        Failure::new(why.to_string())
    }
}

/// Says what was being done when something failed.
pub trait During<T> {
    /// With `what` before the reason: "cannot {what}: {why}".
    fn during(self, what: impl fmt::Display) -> Outcome<T>;
}
impl<T, E: fmt::Display> During<T> for Result<T, E> {
    fn during(self, what: impl fmt::Display) -> Outcome<T> {
        self.map_err(|why| Failure::new(format!("cannot {what}: {why}")))
    }
}
