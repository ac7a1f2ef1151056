//! REST types and the typed HTTP client.
