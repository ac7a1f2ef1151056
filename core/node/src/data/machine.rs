//! What a slice's thread drives: the slice over its store, or in tests something simpler.
use sarsen_buffer::Pool;
use sarsen_control::command::Rot;
use sarsen_slice::{Config, Input, Output};
use sarsen_types::Instant;

/// An opened store, before the drive's registration says which slice it is (R1).
pub trait Opened {
    /// What it becomes.
    type Machine: Machine;
    /// The drive was registered.
    fn begin(self, config: Config, pool: Pool) -> Self::Machine;
    /// The drive is closed without ever having been registered.
    fn close(self);
}

/// A machine without sockets; `sarsen_slice` says in which order it is called in a turn.
pub trait Machine {
    /// Works on one input.
    fn step(&mut self, now: Instant, input: Input, out: &mut Vec<Output>);
    /// Ends the inputs of a turn.
    fn finish(&mut self, now: Instant, out: &mut Vec<Output>);
    /// Gives what was gathered to the disk, after the turn's sends were queued (L4).
    fn submit(&mut self, now: Instant);
    /// When to do a turn though nothing happened.
    fn deadline(&self) -> Option<Instant>;
    /// Whether it leads a group that another copy could lead.
    fn leads_any(&self) -> bool;
    /// Blocks of data it can hold, blocks of them used, and whether clients get no more of them (S16).
    fn space(&self) -> (u64, u64, bool);
    /// Bytes that clients' reads under way take, or will.
    fn read_bytes(&self) -> usize;
    /// The number of the checkpoint under way, if one is.
    fn checkpoint(&self) -> Option<u64>;
    /// Per cent of its journal's ring that a replay would read.
    fn journal_fill(&self) -> u64;
    /// What it found rotten since it began.
    fn rot(&self) -> Rot;
    /// Ends it in order.
    fn close(self);
}
