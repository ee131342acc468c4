//! Caches of prompts that were seen, by their token ids.
use std::ptr::{null_mut, NonNull};

use kvgear_sys as sys;

use crate::call::call;
use crate::{Cache, Plan, Result, RuntimeRef};

/// Caches of prompts that were seen, by their token ids, so that the next prompt with the same beginning
/// need not be computed again. May be used by any number of threads at once.
#[derive(Debug)]
pub struct PrefixStore<'r> {
    raw: NonNull<sys::kvg_prefix>,
    runtime: RuntimeRef<'r>,
}

// SAFETY: convention (4) of kvgear.h: any number of threads may use it.
unsafe impl Send for PrefixStore<'_> {}
// SAFETY: as above.
unsafe impl Sync for PrefixStore<'_> {}

impl<'r> PrefixStore<'r> {
    /// Creates an empty store that holds at most `budget` bytes, shared ones counted once; 0 = no limit.
    pub fn new(runtime: impl Into<RuntimeRef<'r>>, budget: u64) -> Result<Self> {
        let (runtime, mut out) = (runtime.into(), null_mut());
        // SAFETY: the handle is alive.
        call(|err| unsafe { sys::kvg_prefix_create(runtime.get().raw(), budget, &mut out, err) })?;
        let raw = NonNull::new(out).expect("a call gives a store or an error");
        Ok(Self { raw, runtime })
    }

    /// Stores a fork of `cache` under the ids of all tokens that it holds. Those that were not used for
    /// longest make room. Cost: O(segments + tokens).
    pub fn insert(&self, tokens: &[u32], cache: &Cache<'_>) -> Result<()> {
        // SAFETY: both handles are alive and the length is that of the slice.
        call(|err| unsafe {
            sys::kvg_prefix_insert(self.raw(), tokens.as_ptr(), tokens.len(), cache.raw(), err)
        })
    }

    /// The stored cache with the longest common beginning with these tokens: how many tokens that are,
    /// and a fork that holds just them. Only caches of `plan` are considered.
    pub fn find(&self, plan: &Plan, tokens: &[u32]) -> Result<Option<(u64, Cache<'r>)>> {
        let (mut matched, mut out, shape) = (0, null_mut(), plan.shape()?);
        // SAFETY: both handles are alive and the length is that of the slice.
        call(|err| unsafe {
            let (ids, count) = (tokens.as_ptr(), tokens.len());
            sys::kvg_prefix_find(self.raw(), plan.raw(), ids, count, &mut matched, &mut out, err)
        })?;
        Ok(NonNull::new(out)
            .map(|raw| (matched, Cache::own(raw.as_ptr(), shape, self.runtime.clone()))))
    }

    /// The handle, for functions of `kvgear-sys`; it lives as long as this does.
    pub fn as_raw(&self) -> *mut sys::kvg_prefix {
        self.raw()
    }

    pub(crate) fn raw(&self) -> *mut sys::kvg_prefix {
        self.raw.as_ptr()
    }
}

impl Drop for PrefixStore<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and ends here.
        unsafe { sys::kvg_prefix_destroy(self.raw()) }
    }
}
