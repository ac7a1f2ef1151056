//! What a driver needs of a volume.
