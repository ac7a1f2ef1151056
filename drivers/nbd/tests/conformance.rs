//! The workload of `sarsen-block` through the protocol and back.
mod support;
use sarsen_block::{Limits, conformance};
use support::Client;

#[test]
fn a_volume_over_nbd_with_simple_replies_conforms() {
    conformance::run(&mut Client::new(Limits::default(), false));
}

#[test]
fn a_volume_over_nbd_with_structured_replies_conforms() {
    conformance::run(&mut Client::new(Limits::default(), true));
}

#[test]
fn a_read_only_volume_over_nbd_refuses_what_changes_it() {
    let limits = Limits { is_read_only: true, ..Limits::default() };
    conformance::read_only(&mut Client::new(limits, true));
}
