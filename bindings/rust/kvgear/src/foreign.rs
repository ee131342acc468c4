//! Tensors in memory that is not Rust's, such as a device's, and the streams that work on them.
use std::ffi::c_void;

use kvgear_sys as sys;

use crate::call::{call, init};
use crate::tensor::Layout;
use crate::{AttendOptions, Cache, Dtype, Error, Result};

/// A tensor `[tokens, heads, head_dim]` in memory that Rust knows nothing of: a device's, or another
/// library's.
#[derive(Clone, Copy, Debug)]
pub struct Foreign {
    first: *mut c_void,
    bytes: usize,
    dtype: Dtype,
    strides: [i64; 3],
}

impl Foreign {
    /// The tensor whose element `[0, 0, 0]` lies at `first`, in a buffer that ends `bytes` behind it.
    /// Strides are in elements, as those of [`Strided`](crate::Strided).
    pub fn new(first: *mut c_void, bytes: usize, dtype: Dtype, strides: [i64; 3]) -> Self {
        Self { first, bytes, dtype, strides }
    }

    /// Its strides, where its rows must be contiguous.
    fn row_strides(&self, name: &str) -> Result<[i64; 2]> {
        let mut layout = Layout { first: 0, strides: self.strides };
        layout.require_rows(name)?;
        Ok([layout.strides[0], layout.strides[1]])
    }
}

/// For caches of device runtimes above all. `stream` is the stream to work on, a `cudaStream_t`; null is the
/// default stream, and the only one that there is on the CPU.
impl Cache<'_> {
    /// As [`Cache::append_strided`].
    ///
    /// # Safety
    /// Both tensors must be in memory that the device of the runtime reaches, with all elements that shape
    /// and strides lead to. Until the work on the stream is done, nothing may change or free them. `stream`
    /// must be a live stream of that device, or null.
    pub unsafe fn append_foreign(
        &mut self,
        layer: u32,
        tokens: u64,
        k: Foreign,
        v: Foreign,
        stream: *mut c_void,
    ) -> Result<()> {
        if k.dtype != v.dtype {
            let (k, v) = (k.dtype, v.dtype);
            return Err(Error::invalid(format!(
                "k is {k:?} but v is {v:?}; they must be the same"
            )));
        }
        // SAFETY: writes the struct.
        let mut desc = init(|p| unsafe { sys::kvg_append_desc_init(p) });
        desc.dtype = k.dtype.raw();
        desc.tokens = tokens;
        [desc.k_token_stride, desc.k_head_stride, desc.k_dim_stride] = k.strides;
        [desc.v_token_stride, desc.v_head_stride, desc.v_dim_stride] = v.strides;
        desc.stream = stream;
        // SAFETY: the handle is ours alone; the rest is as the caller promises.
        call(|err| unsafe {
            sys::kvg_cache_append(self.raw(), layer, k.first, k.bytes, v.first, v.bytes, &desc, err)
        })
    }

    /// As [`Cache::attend_strided`]. On a device calls on one cache from several streams are the caller's to
    /// order; attention may be captured into a graph, by the rules of the header.
    ///
    /// # Safety
    /// As for [`Cache::append_foreign`]; `out` is written, and must not overlap `q`.
    pub unsafe fn attend_foreign(
        &self,
        layer: u32,
        queries: u32,
        q: Foreign,
        out: Foreign,
        options: &AttendOptions,
        stream: *mut c_void,
    ) -> Result<()> {
        let desc = attend_desc(queries, q, out, options, stream)?;
        // SAFETY: the handle is alive; the rest is as the caller promises.
        call(|err| unsafe {
            sys::kvg_cache_attend(
                self.raw(),
                layer,
                q.first,
                q.bytes,
                out.first,
                out.bytes,
                &desc,
                err,
            )
        })
    }

    /// As [`Cache::attend_batch_strided`].
    ///
    /// # Safety
    /// As for [`Cache::attend_foreign`].
    pub unsafe fn attend_batch_foreign(
        caches: &[&Cache<'_>],
        layer: u32,
        queries: u32,
        q: Foreign,
        out: Foreign,
        options: &AttendOptions,
        stream: *mut c_void,
    ) -> Result<()> {
        let desc = attend_desc(queries, q, out, options, stream)?;
        let handles = Self::handles(caches);
        // SAFETY: the handles are alive; the rest is as the caller promises.
        call(|err| unsafe {
            sys::kvg_cache_attend_batch(
                handles.as_ptr(),
                handles.len(),
                layer,
                q.first,
                q.bytes,
                out.first,
                out.bytes,
                &desc,
                err,
            )
        })
    }
}

fn attend_desc(
    queries: u32,
    q: Foreign,
    out: Foreign,
    options: &AttendOptions,
    stream: *mut c_void,
) -> Result<sys::kvg_attend_desc> {
    let mut desc = options.to_raw();
    (desc.q_dtype, desc.out_dtype) = (q.dtype.raw(), out.dtype.raw());
    desc.queries = queries;
    [desc.q_token_stride, desc.q_head_stride] = q.row_strides("q")?;
    [desc.out_token_stride, desc.out_head_stride] = out.row_strides("out")?;
    desc.stream = stream;
    Ok(desc)
}
