//! The functions, looked up in a library that is loaded at run time.
use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use core::ffi::{c_char, c_void};
use libloading::Library;

use crate::error::{check_version, LoadError};
use crate::types::*;

/// The name that the library has among the system's; the number is that of its ABI.
const SONAME: &str = "libkvgear.so.0";
const NAMES: [&str; 2] = [SONAME, "libkvgear.so"];

macro_rules! functions {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        struct Table {
            $($name: unsafe extern "C" fn($($type),*) $(-> $result)?,)*
        }

        impl Table {
            /// # Safety
            /// The library must be libkvgear, whose functions have these types.
            unsafe fn look_up(library: &Library, path: &Path) -> Result<Self, LoadError> {
                Ok(Self { $($name: unsafe { symbol(library, path, stringify!($name))? },)* })
            }
        }

        $($(#[$doc])*
        #[inline]
        pub unsafe fn $name($($arg: $type),*) $(-> $result)? {
            unsafe { (table().$name)($($arg),*) }
        })*

        /// The names of all functions.
        pub const FUNCTIONS: &[&str] = &[$(stringify!($name)),*];
    };
}

include!("functions.rs");

struct Loaded {
    path: PathBuf,
    table: Table,
    _library: Library, // never unloaded: the library may own threads, and its strings are static
}

static LOADED: OnceLock<Loaded> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

#[inline]
fn table() -> &'static Table {
    match LOADED.get() {
        Some(loaded) => &loaded.table,
        None => panic!("a function of libkvgear was called before kvgear_sys::load() succeeded"),
    }
}

/// Loads the library, unless one is in use already. It is looked for
///
/// 1. at the path in the environment variable `KVGEAR_LIBRARY`, and nowhere else if that is set;
/// 2. beside the executable, and in the folder `lib` beside the executable's;
/// 3. where the system looks for libraries.
///
/// [`load_from`] comes before all of these. A failure is not remembered: the next call tries again.
#[inline]
pub fn load() -> Result<(), LoadError> {
    if LOADED.get().is_some() {
        return Ok(());
    }
    search()
}

/// Loads the library at `path` and looks nowhere else.
///
/// Fails if another library is in use already, so call it before anything else of this crate.
pub fn load_from(path: impl AsRef<Path>) -> Result<(), LoadError> {
    let path = path.as_ref();
    let _one_at_a_time = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    match LOADED.get() {
        Some(loaded) if same_file(&loaded.path, path) => Ok(()),
        Some(loaded) => Err(LoadError::AlreadyLoaded(loaded.path.clone())),
        None => open(path),
    }
}

/// Where the library in use was loaded from.
pub fn loaded_path() -> Option<&'static Path> {
    LOADED.get().map(|loaded| loaded.path.as_path())
}

#[cold]
fn search() -> Result<(), LoadError> {
    let _one_at_a_time = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if LOADED.get().is_some() {
        return Ok(());
    }
    if let Some(path) = env::var_os("KVGEAR_LIBRARY").filter(|path| !path.is_empty()) {
        return open(Path::new(&path));
    }
    let mut tried = Vec::new();
    for path in candidates(env::current_exe().ok().as_deref()) {
        match open(&path) {
            Err(LoadError::CannotOpen { path, reason }) => tried.push((path, reason)),
            other => return other,
        }
    }
    Err(LoadError::NotFound(tried))
}

/// Files beside the executable that are there, then the names that the system knows.
fn candidates(executable: Option<&Path>) -> Vec<PathBuf> {
    let beside = executable.and_then(Path::parent);
    let folders =
        [beside.map(Path::to_path_buf), beside.and_then(Path::parent).map(|up| up.join("lib"))];
    folders
        .into_iter()
        .flatten()
        .flat_map(|folder| NAMES.map(|name| folder.join(name)))
        .filter(|path| path.is_file())
        .chain(NAMES.map(PathBuf::from))
        .collect()
}

fn same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Call with `LOADING` held and nothing loaded.
fn open(path: &Path) -> Result<(), LoadError> {
    // SAFETY: loading runs the initialisers of the library that the user named or installed.
    let library = unsafe { Library::new(AsRef::<OsStr>::as_ref(path)) }
        .map_err(|error| LoadError::CannotOpen { path: path.into(), reason: error.to_string() })?;
    // The version comes first: an older library lacks functions, and the version says so better.
    // SAFETY: these two have had these types in every version.
    let (oldest, newest) = unsafe {
        let oldest: unsafe extern "C" fn() -> u32 = symbol(&library, path, "kvg_abi_min")?;
        let newest: unsafe extern "C" fn() -> u32 = symbol(&library, path, "kvg_abi_version")?;
        (oldest(), newest())
    };
    check_version(oldest, newest)?;
    // SAFETY: it has the name of libkvgear's functions and says that it serves this version of them.
    let table = unsafe { Table::look_up(&library, path)? };
    let _ = LOADED.set(Loaded { path: path.into(), table, _library: library });
    Ok(())
}

/// # Safety
/// The symbol must have the type `T`.
unsafe fn symbol<T: Copy>(
    library: &Library,
    path: &Path,
    name: &'static str,
) -> Result<T, LoadError> {
    match unsafe { library.get::<T>(name.as_bytes()) } {
        Ok(found) => Ok(*found),
        Err(_) => Err(LoadError::MissingSymbol { path: path.into(), symbol: name }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beside_the_executable_comes_before_the_system() {
        let root = env::temp_dir().join(format!("kvgear-sys-{}", std::process::id()));
        let (bin, lib) = (root.join("bin"), root.join("lib"));
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir_all(&lib).unwrap();
        let system = NAMES.map(PathBuf::from);
        assert_eq!(candidates(Some(&bin.join("program"))), system);
        std::fs::write(lib.join(SONAME), "").unwrap();
        std::fs::write(bin.join("libkvgear.so"), "").unwrap();
        let found = candidates(Some(&bin.join("program")));
        assert_eq!(found[..2], [bin.join("libkvgear.so"), lib.join(SONAME)]);
        assert_eq!(found[2..], system);
        assert_eq!(candidates(None), system);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
