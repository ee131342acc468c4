//! A small inference stack behind HTTP: `model` runs the layers of a decoder, with kvgear for the cache and
//! attention over it; `service` keeps conversations and answers requests.
pub mod model;
pub mod service;
