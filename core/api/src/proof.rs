//! Proofs of the cluster key: HMAC-SHA256, and the randomness that goes with them (R42).
use hmac::{Hmac, KeyInit, Mac};
use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::Sha256;

/// HMAC-SHA256 of `bytes` under `key`.
pub fn prove(key: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

/// A nonce nobody can foretell.
pub fn nonce() -> [u8; 32] {
    let mut nonce = [0; 32];
    OsRng.try_fill_bytes(&mut nonce).expect("the system has randomness");
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_is_that_of_the_rfc() {
        // RFC 4231, test case 1, whose key of 20 bytes is padded with zeroes by HMAC itself
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        let proof = prove(&key, b"Hi There");
        assert_eq!(proof[..8], [0xb0, 0x34, 0x4c, 0x61, 0xd8, 0xdb, 0x38, 0x53]);
        assert_ne!(nonce(), nonce());
    }
}
