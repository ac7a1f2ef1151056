//! Free ports on loopback, below the range that outgoing connections take theirs from.
use super::settings::Ports;
use crate::failure::{Failure, Outcome};
use std::net::TcpListener;

/// Where the search begins and ends; Linux gives outgoing connections ports from 32768 on.
const RANGE: std::ops::Range<u16> = 21_000..32_000;

/// Two ports for each of `nodes` nodes. Nobody else takes them before they are used, unless he is very quick.
pub fn choose(nodes: u32) -> Outcome<Vec<Ports>> {
    // Two clusters that start at once look at different places.
    let width = u32::from(RANGE.end - RANGE.start);
    let start = std::process::id().wrapping_mul(64) % width;
    let mut free = (0..width)
        .map(|step| RANGE.start + ((start + step) % width) as u16)
        .filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    (0..nodes)
        .map(|_| match (free.next(), free.next()) {
            (Some(data), Some(api)) => Ok(Ports { data, api }),
            _ => {
                Err(Failure::new(format!("no free ports on 127.0.0.1 from {} to {}", RANGE.start, RANGE.end)))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_are_free() {
        let ports = choose(5).unwrap();
        let mut all: Vec<u16> = ports.iter().flat_map(|p| [p.data, p.api]).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 10);
        assert!(all.iter().all(|p| RANGE.contains(p)));
    }
}
