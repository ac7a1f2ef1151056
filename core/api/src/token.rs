//! The API's token of a cluster: derived from the cluster's key, so that who holds the key needs nothing else.
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

fn derive(key: &[u8; 32], purpose: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(purpose.as_bytes());
    mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect()
}

/// The administrator's token of the cluster with this key.
pub fn token_of(key: &[u8; 32]) -> String {
    derive(key, "sarsen admin token 1")
}

/// The token that nodes of the cluster show each other on their API port.
pub fn node_token_of(key: &[u8; 32]) -> String {
    derive(key, "sarsen node token 1")
}

/// Whether two tokens are equal, in a time that does not tell where they differ.
pub fn is_equal(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |all, (x, y)| all | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_by_key_and_by_purpose() {
        assert_ne!(token_of(&[1; 32]), token_of(&[2; 32]));
        assert_ne!(token_of(&[1; 32]), node_token_of(&[1; 32]));
        assert!(is_equal(&token_of(&[1; 32]), &token_of(&[1; 32])));
        assert!(!is_equal("abc", "abd") && !is_equal("abc", "ab"));
    }
}
