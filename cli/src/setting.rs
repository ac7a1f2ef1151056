//! `sarsen setting`: what of a cluster can be set.
use crate::cluster::Where;
use crate::failure::Outcome;
use crate::output::Output;
use clap::{Args, Subcommand};
use sarsen_api::Settings;
use std::fmt;
use std::str::FromStr;

/// What of the cluster can be set
#[derive(Debug, Args)]
pub struct Setting {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// All settings
    List,
    /// Change those that are named
    Set {
        /// A copy that is out of sync for this long is replaced by one on another drive, e.g. 10m
        #[arg(long, value_name = "TIME")]
        down_out: Span,
    },
}

impl Setting {
    /// Does it.
    pub async fn run(self, place: &Where, output: Output) -> Outcome {
        let cluster = place.cluster()?;
        let settings = match self.verb {
            Verb::List => cluster.api().settings().await?,
            Verb::Set { down_out } => {
                cluster.api().set(&Settings { down_out_seconds: Some(down_out.0) }).await?
            }
        };
        output.show(&settings, |s| {
            let down_out = s.down_out_seconds.map_or_else(|| "not known".into(), |s| Span(s).to_string());
            format!("down-out  {down_out}")
        })
    }
}

/// A time as people write it: `90s`, `10m`, `2h`; seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span(u64);

const UNITS: [(&str, u64); 3] = [("h", 3600), ("m", 60), ("s", 1)];

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let unit = UNITS.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, *seconds)));
        let span = unit.and_then(|(number, seconds)| number.parse::<u64>().ok()?.checked_mul(seconds));
        span.map(Span).ok_or_else(|| format!("'{text}' is no time: write one like 90s, 10m or 2h"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.iter().find(|(_, seconds)| self.0 > 0 && self.0.is_multiple_of(*seconds));
        let (unit, seconds) = whole.unwrap_or(&UNITS[2]);
        write!(f, "{}{unit}", self.0 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_and_print() {
        for text in ["0s", "90s", "10m", "2h"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        for bad in ["", "10", "m", "-1s", "1.5h", "99999999999999999999h"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
