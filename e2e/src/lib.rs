//! Real processes, real clients, real kill -9.
