//! When each write of the log was sent, and when it ended: the kernel's events `block_bio_queue` and `block_bio_complete` of the
//! logged device, by a clock that only counts (`trace_clock=counter`), so that any two have an order.
use super::log::{Entry, What};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;

/// A write, discard or flush on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flight {
    /// When it was sent.
    pub sent: u64,
    /// When it ended.
    pub ended: u64,
}

/// An entry's place in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Time {
    /// When it was sent.
    pub sent: u64,
    /// From when on no loss of power takes it.
    pub durable: u64,
}

/// Flights by what was written: (first sector, sectors), in the order they were sent. All flushes are (0, 0).
#[derive(Debug, Default)]
pub struct Trace(BTreeMap<(u64, u64), Vec<Flight>>);

impl Trace {
    /// Reads the text of the kernel's `trace` file.
    pub fn parse(text: &str) -> Result<Trace> {
        let mut sent: BTreeMap<(u64, u64), Vec<u64>> = BTreeMap::new();
        let mut ended = sent.clone();
        for line in text.lines() {
            let queue = line.split_once(": block_bio_queue: ").map(|s| (s, true));
            let Some(((before, after), is_sent)) =
                queue.or_else(|| line.split_once(": block_bio_complete: ").map(|s| (s, false)))
            else {
                continue;
            };
            let mut words = after.split_whitespace().skip(1);
            let (kind, at) = (words.next().context("a kind")?, words.next().context("a sector")?);
            if kind.starts_with('R') {
                continue;
            }
            let count: u64 = words.nth(1).context("sectors")?.parse().with_context(|| line.to_owned())?;
            let time = before.rsplit(' ').next().context("a time")?;
            let time: u64 = time.parse().with_context(|| line.to_owned())?;
            let key = if count == 0 { (0, 0) } else { (at.parse()?, count) };
            let of = if is_sent { &mut sent } else { &mut ended };
            of.entry(key).or_default().push(time);
        }
        let mut trace = Trace::default();
        for (key, sent) in sent {
            // what was sent twice to one place was not there at once, but for flushes: whichever ends first is taken for the first
            let mut ended = ended.remove(&key).unwrap_or_default();
            ended.sort_unstable();
            let flights = sent.into_iter().zip(ended);
            trace.0.insert(key, flights.map(|(sent, ended)| Flight { sent, ended }).collect());
        }
        Ok(trace)
    }

    /// The time of each entry; marks, and what the log ends with when the device goes, have none of their own.
    pub fn of(&self, entries: &[Entry]) -> Result<Vec<Option<Time>>> {
        let mut next: BTreeMap<(u64, u64), usize> = BTreeMap::new();
        let mut flights = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            if matches!(entry.what, What::Mark(_)) {
                flights.push(None);
                continue;
            }
            let key = if entry.sectors == 0 { (0, 0) } else { (entry.sector, entry.sectors) };
            let next = next.entry(key).or_default();
            let flight = self.0.get(&key).and_then(|all| all.get(*next)).copied();
            ensure!(flight.is_some(), "entry {at} of the log, {entry:?}, is not in the trace");
            *next += 1;
            flights.push(flight);
        }
        // without FUA it is durable once a flush ended that is behind it in the log
        let mut flushed = u64::MAX;
        let mut times = vec![None; entries.len()];
        for at in (0..entries.len()).rev() {
            let Some(flight) = flights[at] else { continue };
            if entries[at].what == What::Flush {
                flushed = flight.ended;
            }
            let durable = if entries[at].fua { flight.ended } else { flushed };
            times[at] = Some(Time { sent: flight.sent, durable });
        }
        Ok(times)
    }
}

/// For each place in the log the writes behind it that were on their way at one moment at which all before it was durable, and
/// nothing behind it.
pub fn in_flight(times: &[Option<Time>]) -> Vec<Vec<usize>> {
    /// So far behind a place something that was on its way there is looked for.
    const FAR: usize = 1024;
    let mut least = u64::MAX;
    let mut all = vec![Vec::new(); times.len()];
    for at in (0..times.len()).rev() {
        least = times[at].map_or(least, |t| least.min(t.durable));
        let near = times[at..].iter().take(FAR).enumerate();
        all[at] = near.filter(|(_, t)| t.is_some_and(|t| t.sent < least)).map(|(n, _)| at + n).collect();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# tracer: nop
  slice-0-99  [000] .....   10: block_bio_queue: 253,0 WFS 8 + 8 [slice-0]
  slice-0-99  [000] .....   11: block_bio_queue: 253,0 WS 64 + 8 [a name]
  slice-0-99  [000] .....   12: block_bio_queue: 253,0 R 0 + 8 [slice-0]
   <idle>-0   [001] .....   13: block_bio_complete: 253,0 WS 64 + 8 [0]
   <idle>-0   [001] .....   14: block_bio_complete: 253,0 WFS 8 + 8 [0]
  slice-0-99  [000] .....   15: block_bio_queue: 253,0 FN 0 + 0 [slice-0]
  slice-0-99  [000] .....   16: block_bio_queue: 253,0 WFS 80 + 8 [slice-0]
   <idle>-0   [001] .....   17: block_bio_complete: 253,0 FN 0 + 0 [0]
   <idle>-0   [001] .....   18: block_bio_complete: 253,0 WFS 80 + 8 [0]
";

    fn entry(sector: u64, sectors: u64, fua: bool, what: What) -> Entry {
        Entry { sector, sectors, fua, what }
    }

    #[test]
    fn a_write_without_fua_is_durable_with_the_next_flush() {
        let entries = [
            entry(8, 8, true, What::Write(0)),
            entry(0, 0, false, What::Mark("m".into())),
            entry(64, 8, false, What::Write(0)),
            entry(0, 0, false, What::Flush),
            entry(80, 8, true, What::Write(0)),
        ];
        let times = Trace::parse(TEXT).unwrap().of(&entries).unwrap();
        assert_eq!(times[0], Some(Time { sent: 10, durable: 14 }));
        assert_eq!((times[1], times[2]), (None, Some(Time { sent: 11, durable: 17 })));
        let flying = in_flight(&times);
        assert_eq!(flying[0], [0, 2]);
        assert_eq!(flying[2], [2, 3, 4]);
        assert_eq!(flying[4], [4]);
    }
}
