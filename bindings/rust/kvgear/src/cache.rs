//! The cache of one sequence.
use std::ffi::CString;
use std::ops::Range;
use std::path::Path;
use std::ptr::{null, null_mut, NonNull};
use std::sync::Arc;

use kvgear_sys as sys;

use crate::call::{call, init};
use crate::{
    AttendOptions, Element, Error, Plan, Result, Runtime, Shape, Side, Strided, StridedMut,
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
    runtime: Hold<'r>,
}

/// How a cache sees to it that its runtime is there.
#[derive(Clone, Debug)]
enum Hold<'r> {
    Borrowed(&'r Runtime),
    Shared(Arc<Runtime>),
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

impl<'r> Cache<'r> {
    /// Creates an empty cache that borrows its runtime.
    pub fn new(runtime: &'r Runtime, plan: &Plan) -> Result<Self> {
        Self::create(Hold::Borrowed(runtime), plan)
    }

    /// Creates an empty cache that shares its runtime, and so can be kept anywhere.
    pub fn shared(runtime: Arc<Runtime>, plan: &Plan) -> Result<Cache<'static>> {
        Cache::create(Hold::Shared(runtime), plan)
    }

    fn create(runtime: Hold<'r>, plan: &Plan) -> Result<Self> {
        let (shape, mut out) = (plan.shape()?, null_mut());
        // SAFETY: both handles are alive.
        call(|err| unsafe {
            sys::kvg_cache_create(runtime.get().raw(), plan.raw(), &mut out, err)
        })?;
        Ok(Self::own(out, shape, runtime))
    }

    fn own(raw: *mut sys::kvg_cache, shape: Shape, runtime: Hold<'r>) -> Self {
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

    /// Makes a cache of the file that [`Cache::save`] wrote, with the same plan. What is damaged, or of
    /// another model or recipe, is refused. Cost: O(tokens).
    pub fn load(runtime: &'r Runtime, plan: &Plan, path: impl AsRef<Path>) -> Result<Self> {
        let path = path_text(path.as_ref())?;
        Self::restore(Hold::Borrowed(runtime), plan, |runtime, plan, out, err| {
            // SAFETY: both handles are alive and the text is terminated.
            unsafe { sys::kvg_cache_load(runtime, plan, path.as_ptr(), null(), out, err) }
        })
    }

    /// The same of bytes in memory, as [`Cache::save_to_vec`] gives them.
    pub fn load_bytes(runtime: &'r Runtime, plan: &Plan, bytes: &[u8]) -> Result<Self> {
        Self::restore(Hold::Borrowed(runtime), plan, |runtime, plan, out, err| {
            // SAFETY: both handles are alive and the length is that of the slice.
            unsafe {
                let data = bytes.as_ptr().cast();
                sys::kvg_cache_load_buffer(runtime, plan, data, bytes.len(), null(), out, err)
            }
        })
    }

    fn restore(
        runtime: Hold<'r>,
        plan: &Plan,
        load: impl Fn(
            *mut sys::kvg_runtime,
            *const sys::kvg_plan,
            *mut *mut sys::kvg_cache,
            *mut sys::kvg_error,
        ) -> sys::kvg_status,
    ) -> Result<Self> {
        let (shape, mut out) = (plan.shape()?, null_mut());
        call(|err| load(runtime.get().raw(), plan.raw(), &mut out, err))?;
        Ok(Self::own(out, shape, runtime))
    }

    /// Saves the cache to a file, which appears, or takes the place of an older one, as a whole.
    /// Cost: O(tokens); no second copy is made.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path_text(path.as_ref())?;
        // SAFETY: the handle is alive and the text is terminated.
        call(|err| unsafe { sys::kvg_cache_save(self.raw(), path.as_ptr(), null(), err) })
    }

    /// The bytes that [`Cache::save`] would write.
    pub fn save_to_vec(&self) -> Result<Vec<u8>> {
        let mut needed = 0;
        // SAFETY: the handle is alive; a length of 0 asks for the needed one.
        call(|err| unsafe {
            sys::kvg_cache_save_buffer(self.raw(), null_mut(), 0, &mut needed, null(), err)
        })?;
        let mut bytes = vec![0; needed];
        // SAFETY: the length is that of the vector.
        call(|err| unsafe {
            let data = bytes.as_mut_ptr().cast();
            sys::kvg_cache_save_buffer(self.raw(), data, bytes.len(), null_mut(), null(), err)
        })?;
        Ok(bytes)
    }

    /// Adds a saved range to the cache: layers that it lacks, or the tokens that follow those that it
    /// holds. Each saved layer must begin where the cache's ends.
    pub fn extend(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path_text(path.as_ref())?;
        // SAFETY: the handle is alive and ours alone, and the text is terminated.
        call(|err| unsafe { sys::kvg_cache_extend(self.raw(), path.as_ptr(), null(), err) })
    }

    /// The same of bytes in memory.
    pub fn extend_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        // SAFETY: the handle is alive and ours alone, and the length is that of the slice.
        call(|err| unsafe {
            let data = bytes.as_ptr().cast();
            sys::kvg_cache_extend_buffer(self.raw(), data, bytes.len(), null(), err)
        })
    }

    pub(crate) fn found(raw: NonNull<sys::kvg_cache>, shape: Shape, runtime: &'r Runtime) -> Self {
        Self { raw, shape, runtime: Hold::Borrowed(runtime) }
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
        let tokens = rows("k", k.len(), self.shape.kv_heads, self.shape.head_dim)?;
        same_length("k", k.len(), "v", v.len())?;
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
        let sizes = [tokens, self.shape.kv_heads.into(), self.shape.head_dim.into()];
        let (k, v) = (k.place("k", sizes)?, v.place("v", sizes)?);
        // SAFETY: writes the struct.
        let mut desc = init(|p| unsafe { sys::kvg_append_desc_init(p) });
        desc.dtype = T::DTYPE.raw();
        desc.tokens = tokens;
        [desc.k_token_stride, desc.k_head_stride, desc.k_dim_stride] = k.strides;
        [desc.v_token_stride, desc.v_head_stride, desc.v_dim_stride] = v.strides;
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
        let queries = rows("q", q.len(), self.shape.q_heads, self.shape.head_dim)?;
        let queries = u32::try_from(queries)
            .map_err(|_| Error::invalid(format!("q holds {queries} queries; split the call")))?;
        same_length("q", q.len(), "out", out.len())?;
        self.attend_strided(layer, queries, q.into(), out.into(), options)
    }

    /// Like [`Cache::attend_with`], of tensors that lie in memory in another way. The stride of their
    /// last dimension must be 1, and rows of `out` must not overlap.
    pub fn attend_strided<Q: Element, O: Element>(
        &self,
        layer: u32,
        queries: u32,
        mut q: Strided<'_, Q>,
        mut out: StridedMut<'_, O>,
        options: &AttendOptions,
    ) -> Result<()> {
        q.layout_mut().require_rows("q")?;
        out.layout_mut().require_rows("out")?;
        let sizes = [queries.into(), self.shape.q_heads.into(), self.shape.head_dim.into()];
        let (q, out) = (q.place("q", sizes)?, out.place("out", sizes)?);
        let mut desc = options.to_raw();
        desc.q_dtype = Q::DTYPE.raw();
        desc.out_dtype = O::DTYPE.raw();
        desc.queries = queries;
        [desc.q_token_stride, desc.q_head_stride, _] = q.strides;
        [desc.out_token_stride, desc.out_head_stride, _] = out.strides;
        // SAFETY: every element that shape and strides reach lies in its slice.
        call(|err| unsafe {
            sys::kvg_cache_attend(
                self.raw(),
                layer,
                q.first.cast(),
                q.bytes,
                out.first.cast(),
                out.bytes,
                &desc,
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

impl Hold<'_> {
    fn get(&self) -> &Runtime {
        match self {
            Self::Borrowed(runtime) => runtime,
            Self::Shared(runtime) => runtime,
        }
    }
}

fn path_text(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| Error::invalid("path holds a NUL character"))
}

/// How many rows `[heads, head_dim]` a contiguous buffer holds.
fn rows(name: &str, length: usize, heads: u32, head_dim: u32) -> Result<u64> {
    let row = u64::from(heads) * u64::from(head_dim);
    let length = length as u64;
    if row == 0 || length % row != 0 {
        return Err(Error::invalid(format!(
            "{name} has {length} elements, which is no multiple of the {row} of one token \
             ({heads} heads of {head_dim})"
        )));
    }
    Ok(length / row)
}

fn same_length(a: &str, a_length: usize, b: &str, b_length: usize) -> Result<()> {
    if a_length == b_length {
        return Ok(());
    }
    Err(Error::invalid(format!("{b} has {b_length} elements but {a} has {a_length}")))
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

    #[test]
    fn rows_of_buffers() {
        assert_eq!(rows("k", 0, 2, 64), Ok(0));
        assert_eq!(rows("k", 384, 2, 64), Ok(3));
        let error = rows("k", 100, 2, 64).unwrap_err();
        assert!(error.message().contains("no multiple of the 128 of one token (2 heads of 64)"));
        assert!(rows("k", 5, 0, 64).is_err());
    }
}
