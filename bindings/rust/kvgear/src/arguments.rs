//! What append and attend are told: where their tensors lie, checked, and the description that goes with them.
use kvgear_sys as sys;

use crate::call::init;
use crate::tensor::Place;
use crate::{AttendOptions, Element, Error, Result, Shape, Strided, StridedMut};

/// Keys and values that are appended. Every element that shape and strides reach lies in its slice.
pub(crate) struct Append<T> {
    pub k: Place<*const T>,
    pub v: Place<*const T>,
    pub desc: sys::kvg_append_desc,
}

impl<T: Element> Append<T> {
    pub fn new(shape: Shape, tokens: u64, k: Strided<'_, T>, v: Strided<'_, T>) -> Result<Self> {
        let sizes = [tokens, shape.kv_heads.into(), shape.head_dim.into()];
        let (k, v) = (k.place("k", sizes)?, v.place("v", sizes)?);
        // SAFETY: writes the struct.
        let mut desc = init(|p| unsafe { sys::kvg_append_desc_init(p) });
        desc.dtype = T::DTYPE.raw();
        desc.tokens = tokens;
        [desc.k_token_stride, desc.k_head_stride, desc.k_dim_stride] = k.strides;
        [desc.v_token_stride, desc.v_head_stride, desc.v_dim_stride] = v.strides;
        Ok(Self { k, v, desc })
    }
}

/// Queries, likewise.
pub(crate) struct Query<Q> {
    pub q: Place<*const Q>,
    pub desc: sys::kvg_attend_desc,
}

impl<Q: Element> Query<Q> {
    /// `caches` caches have `queries` queries each.
    #[inline]
    pub fn new(
        shape: Shape,
        caches: u64,
        queries: u32,
        mut q: Strided<'_, Q>,
        options: &AttendOptions,
    ) -> Result<Self> {
        q.layout_mut().require_rows("q")?;
        let q = q.place("q", query_sizes(shape, caches, queries)?)?;
        let mut desc = options.to_raw();
        desc.q_dtype = Q::DTYPE.raw();
        desc.queries = queries;
        [desc.q_token_stride, desc.q_head_stride, _] = q.strides;
        Ok(Self { q, desc })
    }

    /// Adds where the results go.
    #[inline]
    pub fn results<O: Element>(
        &mut self,
        shape: Shape,
        caches: u64,
        mut out: StridedMut<'_, O>,
    ) -> Result<Place<*mut O>> {
        out.layout_mut().require_rows("out")?;
        let out = out.place("out", query_sizes(shape, caches, self.desc.queries)?)?;
        self.desc.out_dtype = O::DTYPE.raw();
        [self.desc.out_token_stride, self.desc.out_head_stride, _] = out.strides;
        Ok(out)
    }
}

fn query_sizes(shape: Shape, caches: u64, queries: u32) -> Result<[u64; 3]> {
    let rows = caches.checked_mul(queries.into());
    let rows = rows.ok_or_else(|| Error::invalid("there are more queries than can be counted"))?;
    Ok([rows, shape.q_heads.into(), shape.head_dim.into()])
}

/// How many tokens contiguous keys and values hold.
pub(crate) fn tokens_of<T>(shape: Shape, k: &[T], v: &[T]) -> Result<u64> {
    let tokens = rows("k", k.len(), shape.kv_heads, shape.head_dim)?;
    same_length("k", k.len(), "v", v.len())?;
    Ok(tokens)
}

/// How many queries contiguous ones of one cache are.
pub(crate) fn queries_of<Q>(shape: Shape, q: &[Q]) -> Result<u32> {
    let queries = rows("q", q.len(), shape.q_heads, shape.head_dim)?;
    u32::try_from(queries)
        .map_err(|_| Error::invalid(format!("q holds {queries} queries; split the call")))
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

pub(crate) fn same_length(a: &str, a_length: usize, b: &str, b_length: usize) -> Result<()> {
    if a_length == b_length {
        return Ok(());
    }
    Err(Error::invalid(format!("{b} has {b_length} elements but {a} has {a_length}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_buffers() {
        assert_eq!(rows("k", 0, 2, 64), Ok(0));
        assert_eq!(rows("k", 384, 2, 64), Ok(3));
        let error = rows("k", 100, 2, 64).unwrap_err();
        assert!(error.message().contains("no multiple of the 128 of one token (2 heads of 64)"));
        assert!(rows("k", 5, 0, 64).is_err());
    }

    #[test]
    fn queries_beyond_counting() {
        let shape = Shape { layers: 1, q_heads: 2, kv_heads: 1, head_dim: 32 };
        assert_eq!(query_sizes(shape, 3, 4), Ok([12, 2, 32]));
        assert!(query_sizes(shape, u64::MAX, 2).is_err());
    }
}
