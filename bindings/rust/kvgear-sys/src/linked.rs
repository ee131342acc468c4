//! The functions, linked.
use crate::error::{check_version, LoadError};
use crate::types::*;
use core::ffi::{c_char, c_void};

macro_rules! functions {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        extern "C" {
            $($(#[$doc])* pub fn $name($($arg: $type),*) $(-> $result)?;)*
        }

        /// The names of all functions.
        pub const FUNCTIONS: &[&str] = &[$(stringify!($name)),*];
    };
}

include!("functions.rs");

/// Checks that the library serves the version of the interface that this crate was made for.
///
/// Cheap enough to call before every use.
#[inline]
pub fn load() -> Result<(), LoadError> {
    // SAFETY: both only return a number.
    let (oldest, newest) = unsafe { (kvg_abi_min(), kvg_abi_version()) };
    check_version(oldest, newest)
}
