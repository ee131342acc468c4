//! Saved caches: files, bytes in memory, and streams.
use std::ffi::CString;
use std::io::{Read, Write};
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::ptr::null_mut;

use kvgear_sys as sys;

use crate::call::{call, defaults, init};
use crate::stream::{self, Stream};
use crate::{Cache, Error, Plan, Result, RuntimeRef};

/// All of a cache, in the ways that need no options.
impl<'r> Cache<'r> {
    /// Saves the cache to a file, which appears, or takes the place of an older one, as a whole.
    /// Cost: O(tokens); no second copy is made.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        SaveOptions::new().save(self, path)
    }

    /// The bytes that [`Cache::save`] would write.
    pub fn save_to_vec(&self) -> Result<Vec<u8>> {
        SaveOptions::new().save_to_vec(self)
    }

    /// Writes these bytes to a file, a socket, or whatever else takes them.
    pub fn save_to(&self, writer: impl Write) -> Result<()> {
        SaveOptions::new().save_to(self, writer)
    }

    /// Makes a cache of the file that [`Cache::save`] wrote, with the same plan, or one of the same shape
    /// and recipes. What is damaged, or of another model or recipe, is refused. The cache answers with the
    /// same bits as the saved one. Cost: O(tokens).
    ///
    /// The runtime is `&runtime`, or an `Arc<Runtime>` for a cache that can be kept anywhere.
    pub fn load(
        runtime: impl Into<RuntimeRef<'r>>,
        plan: &Plan,
        path: impl AsRef<Path>,
    ) -> Result<Self> {
        LoadOptions::new().load(runtime, plan, path)
    }

    /// The same of bytes in memory, as [`Cache::save_to_vec`] gives them.
    pub fn load_bytes(
        runtime: impl Into<RuntimeRef<'r>>,
        plan: &Plan,
        bytes: &[u8],
    ) -> Result<Self> {
        LoadOptions::new().load_bytes(runtime, plan, bytes)
    }

    /// The same of a reader, which is read to the end of the saved cache and no further.
    pub fn load_from(
        runtime: impl Into<RuntimeRef<'r>>,
        plan: &Plan,
        reader: impl Read,
    ) -> Result<Self> {
        LoadOptions::new().load_from(runtime, plan, reader)
    }

    /// Adds a saved range to the cache: layers that it lacks, or the tokens that follow those that it
    /// holds. Each saved layer must begin where the cache's ends; a range that begins in compressed tokens
    /// needs a cache without uncompressed ones.
    pub fn extend(&mut self, path: impl AsRef<Path>) -> Result<()> {
        LoadOptions::new().extend(self, path)
    }

    /// The same of bytes in memory.
    pub fn extend_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        LoadOptions::new().extend_bytes(self, bytes)
    }

    /// The same of a reader.
    pub fn extend_from(&mut self, reader: impl Read) -> Result<()> {
        LoadOptions::new().extend_from(self, reader)
    }
}

/// What of a cache is to be saved, and how.
///
/// ```
/// # use kvgear::{Cache, LoadOptions, Plan, Runtime, RuntimeOptions, SaveOptions, Shape};
/// # fn main() -> kvgear::Result<()> {
/// # let runtime = Runtime::new(&RuntimeOptions::new())?;
/// # let plan = Plan::new(Shape { layers: 2, q_heads: 2, kv_heads: 2, head_dim: 64 }, "int4")?;
/// # let mut cache = Cache::new(&runtime, &plan)?;
/// # cache.append(0, &[0.5f32; 10 * 128], &[0.5f32; 10 * 128])?;
/// let bytes = SaveOptions::new().layers(0..1).fingerprint(b"my model").save_to_vec(&cache)?;
/// let same = LoadOptions::new().fingerprint(b"my model").load_bytes(&runtime, &plan, &bytes)?;
/// assert_eq!(same.length(0)?, 10);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SaveOptions<'a> {
    layers: Option<Span>,
    tokens: Option<Span>,
    no_sync: bool,
    fingerprint: &'a [u8],
}

type Span = (Bound<u64>, Bound<u64>);

impl<'a> SaveOptions<'a> {
    /// Everything, and synced to the disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only these layers, such as `0..4`; there must be one.
    #[must_use]
    pub fn layers(mut self, layers: impl RangeBounds<u32>) -> Self {
        let wide = |bound: Bound<&u32>| match bound {
            Bound::Included(&layer) => Bound::Included(layer.into()),
            Bound::Excluded(&layer) => Bound::Excluded(layer.into()),
            Bound::Unbounded => Bound::Unbounded,
        };
        self.layers = Some((wide(layers.start_bound()), wide(layers.end_bound())));
        self
    }

    /// Only these tokens, such as `256..`; there must be one. Both ends must be where an exact cut is
    /// possible, see [`Cache::truncate`].
    #[must_use]
    pub fn tokens(mut self, tokens: impl RangeBounds<u64>) -> Self {
        self.tokens = Some((tokens.start_bound().cloned(), tokens.end_bound().cloned()));
        self
    }

    /// Files: true does not wait until the disk has it; a loss of power may cost it.
    #[must_use]
    pub fn no_sync(mut self, no_sync: bool) -> Self {
        self.no_sync = no_sync;
        self
    }

    /// What tells this model from others of its shape, at most 256 bytes: a hash, say.
    #[must_use]
    pub fn fingerprint(mut self, fingerprint: &'a [u8]) -> Self {
        self.fingerprint = fingerprint;
        self
    }

    fn to_raw(&self) -> Result<sys::kvg_save_desc> {
        // SAFETY: writes the struct.
        let mut desc = init(|p| unsafe { sys::kvg_save_desc_init(p) });
        let (first, count) = first_and_count(self.layers, "layers")?;
        // No cache has so many layers, which is then what C says.
        desc.first_layer = first.try_into().unwrap_or(u32::MAX);
        desc.layers = count.try_into().unwrap_or(u32::MAX);
        (desc.first_token, desc.tokens) = first_and_count(self.tokens, "tokens")?;
        desc.no_sync = self.no_sync.into();
        desc.fingerprint = self.fingerprint.as_ptr().cast();
        desc.fingerprint_bytes = self.fingerprint.len() as u64;
        Ok(desc)
    }

    /// As [`Cache::save`].
    pub fn save(&self, cache: &Cache<'_>, path: impl AsRef<Path>) -> Result<()> {
        let (desc, path) = (self.to_raw()?, path_text(path.as_ref())?);
        // SAFETY: the handle is alive, the text is terminated, and the fingerprint that of a slice.
        call(|err| unsafe { sys::kvg_cache_save(cache.raw(), path.as_ptr(), &desc, err) })
    }

    /// As [`Cache::save_to_vec`].
    pub fn save_to_vec(&self, cache: &Cache<'_>) -> Result<Vec<u8>> {
        let (desc, mut needed) = (self.to_raw()?, 0);
        // SAFETY: the handle is alive; a length of 0 asks for the needed one.
        call(|err| unsafe {
            sys::kvg_cache_save_buffer(cache.raw(), null_mut(), 0, &mut needed, &desc, err)
        })?;
        let mut bytes: Vec<u8> = defaults(needed)?;
        // SAFETY: the length is that of the vector.
        call(|err| unsafe {
            let data = bytes.as_mut_ptr().cast();
            sys::kvg_cache_save_buffer(cache.raw(), data, bytes.len(), null_mut(), &desc, err)
        })?;
        Ok(bytes)
    }

    /// As [`Cache::save_to`]. What the writer fails with is part of the error's message; what it panics
    /// with goes on from here.
    pub fn save_to<W: Write>(&self, cache: &Cache<'_>, writer: W) -> Result<()> {
        let (desc, mut stream) = (self.to_raw()?, Stream::new(writer));
        let user = stream.user();
        // SAFETY: the stream is used by the call alone, on this thread.
        let result = call(|err| unsafe {
            let write: sys::kvg_write_fn = Some(stream::write::<W>);
            sys::kvg_cache_save_stream(cache.raw(), write, user, &desc, err)
        });
        let result = result.and_then(|()| stream.flush());
        stream.end(result)
    }
}

/// How a saved cache is to be loaded; see [`SaveOptions`] for an example.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadOptions<'a> {
    map: bool,
    trust: bool,
    fingerprint: &'a [u8],
}

impl<'a> LoadOptions<'a> {
    /// Everything is read and checked.
    pub fn new() -> Self {
        Self::default()
    }

    /// Must be the one that was saved.
    #[must_use]
    pub fn fingerprint(mut self, fingerprint: &'a [u8]) -> Self {
        self.fingerprint = fingerprint;
        self
    }

    /// Files: sealed segments stay in the file, which is mapped read-only.
    ///
    /// # Safety
    /// While a cache uses the file nothing may change it or cut it. Saving under its name again is fine.
    #[must_use]
    pub unsafe fn map(mut self) -> Self {
        self.map = true;
        self
    }

    /// Files: maps as well, checks tables and windows only, and does not read the rest.
    ///
    /// # Safety
    /// As for [`LoadOptions::map`]; and nobody else can have written the file, for a damaged or forged one
    /// can make the process fail.
    #[must_use]
    pub unsafe fn map_trusted(mut self) -> Self {
        self.map = true;
        self.trust = true;
        self
    }

    fn to_raw(&self) -> sys::kvg_load_desc {
        // SAFETY: writes the struct.
        let mut desc = init(|p| unsafe { sys::kvg_load_desc_init(p) });
        desc.map = self.map.into();
        desc.trust = self.trust.into();
        desc.fingerprint = self.fingerprint.as_ptr().cast();
        desc.fingerprint_bytes = self.fingerprint.len() as u64;
        desc
    }

    /// As [`Cache::load`].
    pub fn load<'r>(
        &self,
        runtime: impl Into<RuntimeRef<'r>>,
        plan: &Plan,
        path: impl AsRef<Path>,
    ) -> Result<Cache<'r>> {
        let path = path_text(path.as_ref())?;
        self.restore(runtime.into(), plan, |runtime, plan, desc, out, err| {
            // SAFETY: both handles are alive and the text is terminated.
            unsafe { sys::kvg_cache_load(runtime, plan, path.as_ptr(), desc, out, err) }
        })
    }

    /// As [`Cache::load_bytes`].
    pub fn load_bytes<'r>(
        &self,
        runtime: impl Into<RuntimeRef<'r>>,
        plan: &Plan,
        bytes: &[u8],
    ) -> Result<Cache<'r>> {
        let data = bytes.as_ptr().cast();
        self.restore(runtime.into(), plan, |runtime, plan, desc, out, err| {
            // SAFETY: both handles are alive and the length is that of the slice.
            unsafe { sys::kvg_cache_load_buffer(runtime, plan, data, bytes.len(), desc, out, err) }
        })
    }

    /// As [`Cache::load_from`]. What the reader fails with is part of the error's message; what it panics
    /// with goes on from here.
    pub fn load_from<'r, R: Read>(
        &self,
        runtime: impl Into<RuntimeRef<'r>>,
        plan: &Plan,
        reader: R,
    ) -> Result<Cache<'r>> {
        let mut stream = Stream::new(reader);
        let user = stream.user();
        let result = self.restore(runtime.into(), plan, |runtime, plan, desc, out, err| {
            let read: sys::kvg_read_fn = Some(stream::read::<R>);
            // SAFETY: both handles are alive; the stream is used by the call alone, on this thread.
            unsafe { sys::kvg_cache_load_stream(runtime, plan, read, user, desc, out, err) }
        });
        stream.end(result)
    }

    fn restore<'r>(
        &self,
        runtime: RuntimeRef<'r>,
        plan: &Plan,
        load: impl FnOnce(
            *mut sys::kvg_runtime,
            *const sys::kvg_plan,
            *const sys::kvg_load_desc,
            *mut *mut sys::kvg_cache,
            *mut sys::kvg_error,
        ) -> sys::kvg_status,
    ) -> Result<Cache<'r>> {
        let (shape, desc, mut out) = (plan.shape()?, self.to_raw(), null_mut());
        call(|err| load(runtime.get().raw(), plan.raw(), &desc, &mut out, err))?;
        Ok(Cache::own(out, shape, runtime))
    }

    /// As [`Cache::extend`].
    pub fn extend(&self, cache: &mut Cache<'_>, path: impl AsRef<Path>) -> Result<()> {
        let (desc, path) = (self.to_raw(), path_text(path.as_ref())?);
        // SAFETY: the handle is alive and ours alone, and the text is terminated.
        call(|err| unsafe { sys::kvg_cache_extend(cache.raw(), path.as_ptr(), &desc, err) })
    }

    /// As [`Cache::extend_bytes`].
    pub fn extend_bytes(&self, cache: &mut Cache<'_>, bytes: &[u8]) -> Result<()> {
        let (desc, data) = (self.to_raw(), bytes.as_ptr().cast());
        // SAFETY: the handle is alive and ours alone, and the length is that of the slice.
        call(|err| unsafe {
            sys::kvg_cache_extend_buffer(cache.raw(), data, bytes.len(), &desc, err)
        })
    }

    /// As [`Cache::extend_from`].
    pub fn extend_from<R: Read>(&self, cache: &mut Cache<'_>, reader: R) -> Result<()> {
        let (desc, mut stream) = (self.to_raw(), Stream::new(reader));
        let user = stream.user();
        // SAFETY: the handle is ours alone; the stream is used by the call alone, on this thread.
        let result = call(|err| unsafe {
            let read: sys::kvg_read_fn = Some(stream::read::<R>);
            sys::kvg_cache_extend_stream(cache.raw(), read, user, &desc, err)
        });
        stream.end(result)
    }
}

pub(crate) fn path_text(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| Error::invalid("path holds a NUL character"))
}

/// What C calls a range: the first, and how many; 0 stands for all that follow.
fn first_and_count(span: Option<Span>, what: &str) -> Result<(u64, u64)> {
    let Some((start, end)) = span else { return Ok((0, 0)) };
    let first = match start {
        Bound::Included(first) => Some(first),
        Bound::Excluded(before) => before.checked_add(1),
        Bound::Unbounded => Some(0),
    };
    let empty = || Error::invalid(format!("the range of {what} is empty; nothing would be saved"));
    let first = first.ok_or_else(empty)?;
    let last = match end {
        Bound::Included(last) => Some(last),
        Bound::Excluded(end) => Some(end.checked_sub(1).ok_or_else(empty)?),
        Bound::Unbounded => None,
    };
    let Some(last) = last else { return Ok((first, 0)) };
    let count = last.checked_sub(first).ok_or_else(empty)?.saturating_add(1);
    Ok((first, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let layers = |options: SaveOptions<'_>| first_and_count(options.layers, "layers");
        let tokens = |options: SaveOptions<'_>| first_and_count(options.tokens, "tokens");
        let all = SaveOptions::new;
        assert_eq!(layers(all()), Ok((0, 0)));
        assert_eq!(layers(all().layers(..)), Ok((0, 0)));
        assert_eq!(layers(all().layers(3..)), Ok((3, 0)));
        assert_eq!(layers(all().layers(3..5)), Ok((3, 2)));
        assert_eq!(layers(all().layers(..=5)), Ok((0, 6)));
        assert_eq!(layers(all().layers(0..=u32::MAX)), Ok((0, 1 << 32)));
        assert_eq!(tokens(all().tokens((Bound::Excluded(3), Bound::Included(4)))), Ok((4, 1)));
        assert_eq!(tokens(all().tokens(0..=u64::MAX)), Ok((0, u64::MAX)));
        let nothing = (Bound::Excluded(u64::MAX), Bound::Unbounded);
        #[allow(clippy::reversed_empty_ranges)]
        let backwards = 5..3;
        for empty in [all().tokens(0..0), all().tokens(nothing), all().tokens(backwards)] {
            assert!(tokens(empty).unwrap_err().message().contains("tokens is empty"));
        }
    }
}
