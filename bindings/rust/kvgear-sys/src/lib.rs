//! Raw bindings of [kvgear](https://docs.rs/kvgear): what `kvgear.h` declares, as C has it. Use the
//! crate `kvgear` unless you need a call that it leaves out, such as an allocator of your own.
//!
//! Types, constants and functions are generated from the C header through SWIG's parse tree. Every
//! function is `unsafe`: pointers, lengths and the rules on threads below are the caller's to keep.
//!
//! # Which library
//!
//! By default the crate links `libkvgear.so`: from the folder `KVGEAR_LIB_DIR`, else from the build of
//! the source tree that it lies in, else as pkg-config says. With the feature `dlopen` nothing is linked
//! and the library is looked for at run time, see [`load`].
//!
//! In both cases call [`load`] before anything else: it checks that the library serves the version of
//! the interface that the crate was made for ([`KVG_ABI_VERSION`]).
#![doc = include_str!("conventions.md")]
#![allow(non_camel_case_types)]
#![allow(clippy::missing_safety_doc)] // said once above, for all of them
#![allow(clippy::too_many_arguments)]

#[cfg(feature = "dlopen")]
mod dynamic;
mod error;
#[cfg(not(feature = "dlopen"))]
mod linked;
#[rustfmt::skip]
mod types;

#[cfg(feature = "dlopen")]
pub use dynamic::*;
pub use error::LoadError;
#[cfg(not(feature = "dlopen"))]
pub use linked::*;
pub use types::*;
