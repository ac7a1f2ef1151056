//! The initiator: volume to chunk to group to primary.
