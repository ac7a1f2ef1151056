//! Failures of the API: what a node says, and what the client adds when none says anything.
use serde::{Deserialize, Serialize};

/// What a node answers when it does not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// A word for programs: `not_found`, `exists`, `attached`, `in_use`, `invalid`, `no_leader`, `unauthorized`, ...
    pub code: String,
    /// What happened, one sentence.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl ErrorBody {
    /// A refusal of kind `code`.
    pub fn new(code: &str, message: impl Into<String>) -> ErrorBody {
        ErrorBody { code: code.to_owned(), message: message.into(), hint: None }
    }
    /// With what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> ErrorBody {
        self.hint = Some(hint.into());
        self
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// A node refused.
    #[error("{}", .body.message)]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        body: ErrorBody,
    },
    /// No node answered.
    #[error("no node answers: {}", .tried.join("; "))]
    Unreachable {
        /// Each URL, with what happened.
        tried: Vec<String>,
    },
    /// The answer is of another version of Sarsen, or not of Sarsen at all.
    #[error("{url} answers with something else than Sarsen's API: {why}")]
    Garbled {
        /// Who.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The list of URLs cannot be used.
    #[error("{0}")]
    Urls(String),
}

impl ApiError {
    /// The code a node gave, for programs.
    pub fn code(&self) -> Option<&str> {
        match self {
            ApiError::Refused { body, .. } => Some(&body.code),
            _ => None,
        }
    }
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            ApiError::Refused { body, .. } => body.hint.clone(),
            ApiError::Unreachable { .. } => {
                Some("check that nodes run, and that SARSEN_API names them (URLs separated by commas)".into())
            }
            ApiError::Garbled { .. } => Some("check the port: it is to be a node's --api address".into()),
            ApiError::Urls(_) => None,
        }
    }
    /// Whether another try may succeed without anybody doing anything.
    pub fn is_passing(&self) -> bool {
        match self {
            ApiError::Refused { status, .. } => *status == 503,
            ApiError::Unreachable { .. } => true,
            _ => false,
        }
    }
}
