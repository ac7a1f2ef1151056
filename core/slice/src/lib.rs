//! One slice's machine: replication and store joined, no sockets.
