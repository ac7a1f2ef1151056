//! What a node answers over HTTP: types of the REST API, its errors, its token, and a typed client.
//!
//! `Client::new(urls, token)` asks any node that lives; whatever changes something carries a request id, so that a
//! call repeated at another node takes effect once (R30).
pub mod client;
pub mod error;
pub mod proof;
pub mod token;
pub mod types;

pub use client::Client;
pub use error::{ApiError, ErrorBody};
pub use token::token_of;
pub use types::*;

/// The environment variable with the nodes' URLs, separated by commas.
pub const URLS_VARIABLE: &str = "SARSEN_API";
/// The environment variable with the token.
pub const TOKEN_VARIABLE: &str = "SARSEN_TOKEN";
/// The header that names a request, 32 hexadecimal digits: repeated with the same, it takes effect once (R30).
pub const REQUEST_HEADER: &str = "sarsen-request";
/// The longest that `GET .../map` waits for a change, seconds.
pub const MAP_WAIT_SECONDS: u64 = 20;
