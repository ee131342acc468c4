//! kvgear keeps the key/value caches of language models compressed, and computes attention directly on
//! the compressed form.
//!
//! ```
//! use kvgear::{Cache, Plan, Runtime, RuntimeOptions, Shape, Side};
//!
//! # fn main() -> kvgear::Result<()> {
//! let runtime = Runtime::new(&RuntimeOptions::new().threads(1))?;
//! let plan = Plan::new(Shape { layers: 2, q_heads: 8, kv_heads: 2, head_dim: 64 }, "gear-4")?;
//! let mut cache = Cache::new(&runtime, &plan)?;
//!
//! let (k, v) = (vec![0.5f32; 2 * 64], vec![0.25f32; 2 * 64]); // one token
//! cache.append(0, &k, &v)?;
//! let (q, mut out) = (vec![0.1f32; 8 * 64], vec![0f32; 8 * 64]);
//! cache.attend(0, &q, &mut out)?;
//! assert_eq!(out[0], 0.25);
//!
//! let draft = cache.fork()?; // shares what is sealed
//! assert_eq!(draft.length(0)?, 1);
//! println!("{:.2} bits per element", cache.stats(0, Side::Both)?.bits_per_element);
//! # Ok(())
//! # }
//! ```
//!
//! # Handles
//!
//! A [`Runtime`] owns threads and memory, a [`Plan`] says which [`Recipe`] each layer of a model has, and
//! a [`Cache`] holds one sequence. A cache cannot outlive its runtime. All three may be sent to other
//! threads and shared by them; what needs a cache for itself takes `&mut self`.
//!
//! # Element types
//!
//! Buffers are slices of `f32`, [`F16`] or [`Bf16`], and with the feature `half` of `half::f16` and
//! `half::bf16`. The type of the slice decides what C is told, see [`Element`].
//!
//! # Finding the library
//!
//! By default the crate links `libkvgear.so`; how it is found is said in `kvgear-sys`. With the feature
//! `dlopen` it is loaded at the first call instead: from the path given to `load_from`, from
//! `KVGEAR_LIBRARY`, from beside the executable, or from where the system keeps libraries. A library
//! that does not serve this crate's version of the interface is refused with a sentence that says so;
//! [`load`] asks for that early.
//!
//! # Devices
//!
//! Slices lie in host memory, which [`Device::Cuda`] refuses where the device cannot reach it. What lies
//! elsewhere goes by [`Foreign`] to [`Cache::append_foreign`], [`Cache::attend_foreign`] and
//! [`Cache::attend_batch_foreign`], with the stream to work on; these are `unsafe`.
//!
//! # What is left out
//!
//! Allocators of your own (`kvg_allocator`): their functions are called by any thread and must keep C's
//! rules on sizes and alignment to the letter, which no safe signature can promise. They are in
//! `kvgear-sys`, whose functions take the handles that `as_raw` gives.
#![deny(missing_docs)]

mod arguments;
mod cache;
mod call;
mod element;
mod error;
mod foreign;
#[rustfmt::skip]
mod generated;
mod plan;
mod prefix;
mod runtime;
mod saved;
mod select;
mod stream;
mod tensor;

pub use cache::{Cache, Layers};
pub use element::{Bf16, Element, F16};
pub use error::{Error, Result};
pub use foreign::Foreign;
pub use generated::{
    AttendOptions, Device, Dtype, LogLevel, PrefixStats, RuntimeOptions, Shape, Side, Stats, Status,
};
pub use plan::{Latent, Plan, Policy, Recipe};
pub use prefix::PrefixStore;
pub use runtime::{Runtime, RuntimeRef};
pub use saved::{LoadOptions, SaveOptions};
pub use tensor::{Strided, StridedMut};

use std::ffi::CStr;
use std::ops::RangeInclusive;

use kvgear_sys as sys;

/// Checks that the library serves the version of the interface that this crate was made for, and with
/// the feature `dlopen` loads it first. Every entry to the crate does the same, so this is for those
/// who want to know early.
pub fn load() -> Result<()> {
    sys::load().map_err(Error::from)
}

/// Loads the library at `path` and looks nowhere else. Call it before anything else of this crate.
#[cfg(feature = "dlopen")]
pub fn load_from(path: impl AsRef<std::path::Path>) -> Result<()> {
    sys::load_from(path).map_err(Error::from)
}

/// The version of the library, such as "0.1.0".
pub fn version() -> Result<&'static str> {
    load()?;
    // SAFETY: a static string.
    let version = unsafe { CStr::from_ptr(sys::kvg_version_string()) };
    Ok(version.to_str().unwrap_or("?"))
}

/// The versions of the C interface that the library serves.
pub fn abi_versions() -> Result<RangeInclusive<u32>> {
    load()?;
    // SAFETY: both only return a number.
    Ok(unsafe { sys::kvg_abi_min()..=sys::kvg_abi_version() })
}

/// The handles may be sent to and shared by threads, as kvgear.h promises.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Runtime>();
    shared::<Plan>();
    shared::<Cache<'static>>();
    shared::<PrefixStore<'static>>();
    shared::<Error>();
};
