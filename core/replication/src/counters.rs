//! Rare events, counted: a simulator that never meets one proves nothing about it.

macro_rules! counters { ($($(#[$doc:meta])* $name:ident,)*) => {
    /// How often each rare event was met.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Counters { $($(#[$doc])* pub $name: u64,)* }
    impl Counters {
        /// Each with its name.
        pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
            [$((stringify!($name), self.$name)),*].into_iter()
        }
        /// Adds another's.
        pub fn add(&mut self, other: &Counters) { $(self.$name += other.$name;)* }
    }
} }

counters! {
    /// Takeovers that ended.
    takeovers,
    /// Takeovers that wrote something again.
    takeovers_with_tail,
    /// Takeovers that found a request by half and voided it.
    takeovers_with_void,
    /// Takeovers that found an entry below another's at or below a floor.
    takeovers_with_corruption,
    /// Blocks of which two copies hold one version with different contents (R26): a fault of the program, or of the drive.
    contradictions,
    /// Waits of a new primary that ended early because all confirmed (R2).
    waits_ended_early,
    /// Waits of a new primary that ran their time.
    waits_run_out,
    /// A primary went on in a new epoch with uncommitted writes (R16).
    writes_ordered_again,
    /// Joins that began.
    joins,
    /// Joins that began again (R17).
    joins_restarted,
    /// Joins of copies that lack what we forgot, compared from the beginning.
    joins_compared_whole,
    /// A joiner showed that a sole copy lacks what it acknowledged: it gives way (R12, R27).
    leads_behind_a_joiner,
    /// Objects recovered.
    objects_recovered,
    /// Blocks whose data travelled in a recovery.
    blocks_recovered,
    /// Prepares not sent to a joiner whose window was full (R16).
    join_window_full,
    /// Promotions proposed.
    promotions,
    /// Retries answered from a record (R21).
    answered_from_record,
    /// What a join sends waited for a grant (R7).
    recovery_waited,
    /// Writes told to come again for want of memory (R40).
    memory_full,
    /// Writes given up by a group that could not serve them.
    given_up,
    /// Retries that waited for the request in progress.
    retries_joined,
    /// Requests refused for an older session.
    old_sessions_refused,
    /// Requests below the mark with no record.
    below_mark,
    /// Writes that waited for an overlapping one (R8).
    overlaps_waited,
    /// Part-block writes merged.
    merges,
    /// Blocks repaired from another copy (R26).
    repairs,
    /// Blocks that no copy had.
    unrepairable,
    /// Writes sent again as drained (R31).
    drained_writes,
    /// Messages of an old epoch refused (R5).
    behind_refused,
    /// Reads that waited for a round (R4) or a lease.
    reads_waited,
    /// Times another epoch was asked for.
    epochs_renewed,
    /// Writes ordered.
    writes,
    /// Reads answered.
    reads,
    /// Requests held while the group could not serve (R40).
    held,
    /// Prepares sent again after a reconnect.
    prepares_sent_again,
    /// Objects whose lost map page was recovered whole (R26).
    objects_restored,
}
