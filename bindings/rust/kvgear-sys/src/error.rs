//! Why the library cannot be used, and the check of its version.
use std::fmt;
use std::path::PathBuf;

use crate::KVG_ABI_VERSION;

/// Why libkvgear cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadError {
    /// No library was found; each entry is a place and what was wrong with it.
    NotFound(Vec<(PathBuf, String)>),
    /// A library that was named, by path or by `KVGEAR_LIBRARY`, cannot be loaded.
    CannotOpen {
        /// The library.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The library lacks a function.
    MissingSymbol {
        /// The library.
        path: PathBuf,
        /// The function.
        symbol: &'static str,
    },
    /// The library does not serve the version of the interface that this crate was made for.
    Version {
        /// The oldest version that the library serves.
        oldest: u32,
        /// The newest one.
        newest: u32,
    },
    /// Another library is in use already, and there is one for a process.
    AlreadyLoaded(PathBuf),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(places) => {
                f.write_str("libkvgear was not found; set KVGEAR_LIBRARY to its path. Tried:")?;
                places
                    .iter()
                    .try_for_each(|(path, reason)| write!(f, " {} ({reason});", path.display()))
            }
            Self::CannotOpen { path, reason } => {
                write!(f, "{} cannot be loaded: {reason}", path.display())
            }
            Self::MissingSymbol { path, symbol } => {
                write!(f, "{} is no usable libkvgear: it has no {symbol}", path.display())
            }
            Self::Version { oldest, newest } => write!(
                f,
                "libkvgear serves the ABI versions {oldest} to {newest}, but this program needs \
                 {KVG_ABI_VERSION}; install a{} libkvgear",
                if *newest < KVG_ABI_VERSION { " newer" } else { "n older" }
            ),
            Self::AlreadyLoaded(path) => write!(
                f,
                "{} is in use already; a process can use one libkvgear only",
                path.display()
            ),
        }
    }
}

impl std::error::Error for LoadError {}

pub(crate) fn check_version(oldest: u32, newest: u32) -> Result<(), LoadError> {
    if (oldest..=newest).contains(&KVG_ABI_VERSION) {
        Ok(())
    } else {
        Err(LoadError::Version { oldest, newest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_ranges() {
        assert_eq!(check_version(KVG_ABI_VERSION, KVG_ABI_VERSION), Ok(()));
        assert_eq!(check_version(0, u32::MAX), Ok(()));
        let newer = check_version(KVG_ABI_VERSION + 1, KVG_ABI_VERSION + 4).unwrap_err();
        assert!(newer.to_string().contains("2 to 5, but this program needs 1; install an older"));
        let older = check_version(0, KVG_ABI_VERSION - 1).unwrap_err();
        assert!(older.to_string().contains("install a newer libkvgear"), "{older}");
    }

    #[test]
    fn sentences() {
        let tried = vec![(PathBuf::from("/a/b.so"), "no such file".to_string())];
        let text = LoadError::NotFound(tried).to_string();
        assert!(text.contains("/a/b.so (no such file)") && text.contains("KVGEAR_LIBRARY"));
        let text = LoadError::MissingSymbol { path: "x.so".into(), symbol: "kvg_f" }.to_string();
        assert_eq!(text, "x.so is no usable libkvgear: it has no kvg_f");
    }
}
