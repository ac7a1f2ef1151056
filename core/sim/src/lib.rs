//! A whole cluster on one thread from a seed, with faults and checkers.
