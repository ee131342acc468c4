//! The cache of one sequence.
use std::ops::Range;
use std::ptr::{null_mut, NonNull};
use std::sync::Arc;

use kvgear_sys as sys;

use crate::arguments::{queries_of, same_length, tokens_of, Append, Query};
use crate::call::call;
use crate::{
    AttendOptions, Element, Error, Plan, Result, Runtime, RuntimeRef, Shape, Side, Strided,
    StridedMut,
};

/// The compressed cache of one sequence: one compressed object per layer.
///
/// It cannot outlive its runtime: [`Cache::new`] borrows the runtime, [`Cache::shared`] owns a part of
/// it, and [`Cache::fork`] does as its parent did. A method that takes `&self` may run on any number of
/// threads at the same time; one that takes `&mut self` has the cache for itself. Forks are independent
/// of each other and of their parent.
#[derive(Debug)]
pub struct Cache<'r> {
    raw: NonNull<sys::kvg_cache>,
    shape: Shape,
    runtime: RuntimeRef<'r>,
}

// SAFETY: calls with a const handle are safe from any number of threads at a time, and `&mut self` sees
// to it that the others are alone (rule 4 of kvgear.h). No call is bound to a thread.
unsafe impl Send for Cache<'_> {}
unsafe impl Sync for Cache<'_> {}

/// Which layers a call is about. A number stands for that layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layers {
    /// Every layer of the cache.
    All,
    /// One layer.
    One(u32),
}

impl Layers {
    pub(crate) const fn raw(self) -> u32 {
        match self {
            Self::All => sys::KVG_ALL_LAYERS,
            // No cache has so many layers, and the number must not be taken for all of them.
            Self::One(sys::KVG_ALL_LAYERS) => sys::KVG_ALL_LAYERS - 1,
            Self::One(layer) => layer,
        }
    }
}

impl From<u32> for Layers {
    fn from(layer: u32) -> Self {
        Self::One(layer)
    }
}

/// The one shape of a batch, for which the places of its rows are reckoned; none without caches.
fn shape_of_all(mut shapes: impl Iterator<Item = Shape>) -> Result<Option<Shape>> {
    let Some(first) = shapes.next() else { return Ok(None) };
    match shapes.position(|shape| shape != first) {
        None => Ok(Some(first)),
        Some(behind) => Err(Error::invalid(format!(
            "cache {} of the batch has another shape than the first",
            behind + 1
        ))),
    }
}

impl<'r> Cache<'r> {
    /// Creates an empty cache that borrows its runtime.
    pub fn new(runtime: &'r Runtime, plan: &Plan) -> Result<Self> {
        Self::create(runtime.into(), plan)
    }

    /// Creates an empty cache that shares its runtime, and so can be kept anywhere.
    pub fn shared(runtime: Arc<Runtime>, plan: &Plan) -> Result<Cache<'static>> {
        Cache::create(runtime.into(), plan)
    }

    fn create(runtime: RuntimeRef<'r>, plan: &Plan) -> Result<Self> {
        let (shape, mut out) = (plan.shape()?, null_mut());
        // SAFETY: both handles are alive.
        call(|err| unsafe {
            sys::kvg_cache_create(runtime.get().raw(), plan.raw(), &mut out, err)
        })?;
        Ok(Self::own(out, shape, runtime))
    }

    pub(crate) fn own(raw: *mut sys::kvg_cache, shape: Shape, runtime: RuntimeRef<'r>) -> Self {
        let raw = NonNull::new(raw).expect("a call gives a cache or an error");
        Self { raw, shape, runtime }
    }

    /// Makes a second cache with the same content. All of it is shared; what one of the two changes
    /// later it copies first. Cost: independent of the number of tokens, in time and in memory.
    pub fn fork(&self) -> Result<Self> {
        let mut out = null_mut();
        // SAFETY: the handle is alive.
        call(|err| unsafe { sys::kvg_cache_fork(self.raw(), &mut out, err) })?;
        Ok(Self::own(out, self.shape, self.runtime.clone()))
    }

    /// The runtime that the cache lives in.
    pub fn runtime(&self) -> &Runtime {
        self.runtime.get()
    }

    /// The shape of the cache's plan.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Appends tokens to one layer: `k` and `v` are `[tokens, kv_heads, head_dim]`, contiguous. Keys are
    /// given after rotary embedding. Full blocks of the oldest uncompressed tokens are sealed
    /// (compressed, once and for good) in the same call.
    ///
    /// Every element must be finite and at most 65504 in magnitude, else
    /// [`Status::NonFinite`](crate::Status::NonFinite). Cost: O(tokens), amortised.
    pub fn append<T: Element>(&mut self, layer: u32, k: &[T], v: &[T]) -> Result<()> {
        let tokens = tokens_of(self.shape, k, v)?;
        self.append_strided(layer, tokens, k.into(), v.into())
    }

    /// Like [`Cache::append`], of tensors that lie in memory in another way.
    pub fn append_strided<T: Element>(
        &mut self,
        layer: u32,
        tokens: u64,
        k: Strided<'_, T>,
        v: Strided<'_, T>,
    ) -> Result<()> {
        let Append { k, v, desc } = Append::new(self.shape, tokens, k, v)?;
        // SAFETY: every element that shape and strides reach lies in its slice.
        call(|err| unsafe {
            sys::kvg_cache_append(
                self.raw(),
                layer,
                k.first.cast(),
                k.bytes,
                v.first.cast(),
                v.bytes,
                &desc,
                err,
            )
        })
    }

    /// [`Cache::append`] for one layer of several caches in one call, the same number of tokens to each: to
    /// all of them or to none. The caches must be of one runtime and one shape; their recipes may differ, but
    /// those that select tokens are refused with [`Status::Unsupported`](crate::Status::Unsupported). `k` and
    /// `v` are `[caches.len() * tokens, kv_heads, head_dim]`, those of the first cache first. Each cache gets
    /// the bits that a call of its own would give it. Without caches nothing is done. Cost: O(tokens of all
    /// caches), amortised; on a device much less work for the host than a call for each.
    pub fn append_batch<T: Element>(
        caches: &mut [&mut Cache<'_>],
        layer: u32,
        k: &[T],
        v: &[T],
    ) -> Result<()> {
        let Some(shape) = shape_of_all(caches.iter().map(|cache| cache.shape))? else {
            return Ok(());
        };
        let (rows, count) = (tokens_of(shape, k, v)?, caches.len() as u64);
        if rows % count != 0 {
            return Err(Error::invalid(format!(
                "k has {rows} rows, which are not as many for each of {count} caches"
            )));
        }
        let Append { k, v, mut desc } = Append::new(shape, rows, k.into(), v.into())?;
        desc.tokens = rows / count;
        let handles: Vec<_> = caches.iter_mut().map(|cache| cache.raw()).collect();
        // SAFETY: the handles are alive, different and not used by others; all rows lie in the slices.
        call(|err| unsafe {
            sys::kvg_cache_append_batch(
                handles.as_ptr(),
                handles.len(),
                layer,
                k.first.cast(),
                k.bytes,
                v.first.cast(),
                v.bytes,
                &desc,
                err,
            )
        })
    }

    /// Attention of the newest queries over one layer, on the compressed form, causal and with the
    /// factor `1 / sqrt(head_dim)`. `q`, after rotary embedding, and `out` are
    /// `[queries, q_heads, head_dim]`; query `i` belongs to the token at `length - queries + i`, and query
    /// head `h` reads KV head `h / (q_heads / kv_heads)`. Cost: O(tokens); no memory is kept.
    pub fn attend<Q: Element, O: Element>(&self, layer: u32, q: &[Q], out: &mut [O]) -> Result<()> {
        self.attend_with(layer, q, out, &AttendOptions::new())
    }

    /// Like [`Cache::attend`], with options.
    pub fn attend_with<Q: Element, O: Element>(
        &self,
        layer: u32,
        q: &[Q],
        out: &mut [O],
        options: &AttendOptions,
    ) -> Result<()> {
        let queries = queries_of(self.shape, q)?;
        same_length("q", q.len(), "out", out.len())?;
        self.attend_strided(layer, queries, q.into(), out.into(), options)
    }

    /// Like [`Cache::attend_with`], of tensors that lie in memory in another way. The stride of their
    /// last dimension must be 1, and rows of `out` must not overlap.
    pub fn attend_strided<Q: Element, O: Element>(
        &self,
        layer: u32,
        queries: u32,
        q: Strided<'_, Q>,
        out: StridedMut<'_, O>,
        options: &AttendOptions,
    ) -> Result<()> {
        let mut query = Query::new(self.shape, 1, queries, q, options)?;
        let out = query.results(self.shape, 1, out)?;
        // SAFETY: every element that shape and strides reach lies in its slice.
        call(|err| unsafe {
            sys::kvg_cache_attend(
                self.raw(),
                layer,
                query.q.first.cast(),
                query.q.bytes,
                out.first.cast(),
                out.bytes,
                &query.desc,
                err,
            )
        })
    }

    /// Like [`Cache::attend_with`], on a layer whose values are latents of `rank` numbers, see
    /// [`Plan::latent`]: `out` is `[queries, q_heads, rank]`, to be expanded by the projection, and given its
    /// bias, by the caller.
    pub fn attend_latent<Q: Element, O: Element>(
        &self,
        layer: u32,
        q: &[Q],
        out: &mut [O],
        options: &AttendOptions,
    ) -> Result<()> {
        let queries = queries_of(self.shape, q)?;
        let Query { q, mut desc } = Query::new(self.shape, 1, queries, q.into(), options)?;
        desc.out_dtype = O::DTYPE.raw();
        desc.latent_out = 1;
        let bytes = std::mem::size_of_val(out);
        // SAFETY: every query lies in its slice; out is contiguous and that long, and C compares.
        call(|err| unsafe {
            let (q, q_bytes, out) = (q.first.cast(), q.bytes, out.as_mut_ptr().cast());
            sys::kvg_cache_attend(self.raw(), layer, q, q_bytes, out, bytes, &desc, err)
        })
    }

    /// Attention over one layer of several caches in one call, each with its own number of tokens. The
    /// caches must be of one runtime and one shape; their recipes may differ, and a cache may come more
    /// than once. `q` and `out` are `[caches.len() * queries, q_heads, head_dim]`, those of the first cache
    /// first; the number of queries is the same for all. Each result has the bits that a call for its
    /// cache alone would give. Without caches nothing is done. Cost: O(tokens of all caches).
    pub fn attend_batch<Q: Element, O: Element>(
        caches: &[&Cache<'_>],
        layer: u32,
        q: &[Q],
        out: &mut [O],
        options: &AttendOptions,
    ) -> Result<()> {
        same_length("q", q.len(), "out", out.len())?;
        let count = caches.len();
        let queries = match caches.first() {
            Some(first) if q.len() % count == 0 => queries_of(first.shape, &q[..q.len() / count])?,
            None if q.is_empty() => 0,
            _ => {
                return Err(Error::invalid(format!(
                    "q has {} elements, which are not as many for each of {count} caches",
                    q.len()
                )))
            }
        };
        Self::attend_batch_strided(caches, layer, queries, q.into(), out.into(), options)
    }

    /// Like [`Cache::attend_batch`], of tensors that lie in memory in another way, `queries` rows for each
    /// cache. The stride of their last dimension must be 1, and rows of `out` must not overlap.
    pub fn attend_batch_strided<Q: Element, O: Element>(
        caches: &[&Cache<'_>],
        layer: u32,
        queries: u32,
        q: Strided<'_, Q>,
        out: StridedMut<'_, O>,
        options: &AttendOptions,
    ) -> Result<()> {
        let Some(shape) = shape_of_all(caches.iter().map(|cache| cache.shape))? else {
            return Ok(());
        };
        let count = caches.len() as u64;
        let mut query = Query::new(shape, count, queries, q, options)?;
        let out = query.results(shape, count, out)?;
        let handles = Self::handles(caches);
        // SAFETY: the handles are alive, and every element that shape and strides reach lies in its slice.
        call(|err| unsafe {
            sys::kvg_cache_attend_batch(
                handles.as_ptr(),
                handles.len(),
                layer,
                query.q.first.cast(),
                query.q.bytes,
                out.first.cast(),
                out.bytes,
                &query.desc,
                err,
            )
        })
    }

    /// Reads tokens back, decompressed, into `out`: `[tokens, kv_heads, head_dim]`, contiguous. `side` is
    /// [`Side::K`] or [`Side::V`]. Cost: O(tokens).
    pub fn read<T: Element>(
        &self,
        layer: u32,
        side: Side,
        tokens: Range<u64>,
        out: &mut [T],
    ) -> Result<()> {
        let count = tokens.end.checked_sub(tokens.start).ok_or_else(|| {
            Error::invalid(format!("the range of tokens {tokens:?} ends before it begins"))
        })?;
        // SAFETY: the length is that of the slice.
        call(|err| unsafe {
            sys::kvg_cache_read(
                self.raw(),
                layer,
                side.raw(),
                tokens.start,
                count,
                T::DTYPE.raw(),
                out.as_mut_ptr().cast(),
                std::mem::size_of_val(out),
                err,
            )
        })
    }

    pub(crate) fn handles(caches: &[&Cache<'_>]) -> Vec<*const sys::kvg_cache> {
        caches.iter().map(|cache| cache.raw().cast_const()).collect()
    }

    /// The handle, for functions of `kvgear-sys`; it lives as long as this does.
    pub fn as_raw(&self) -> *mut sys::kvg_cache {
        self.raw()
    }

    pub(crate) fn raw(&self) -> *mut sys::kvg_cache {
        self.raw.as_ptr()
    }
}

impl Drop for Cache<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and ends here.
        unsafe { sys::kvg_cache_destroy(self.raw()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_never_taken_for_all() {
        assert_eq!(Layers::All.raw(), sys::KVG_ALL_LAYERS);
        assert_eq!(Layers::from(3).raw(), 3);
        assert_ne!(Layers::from(u32::MAX).raw(), sys::KVG_ALL_LAYERS);
    }
}
