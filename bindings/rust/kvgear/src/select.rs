//! Caches that hold only some tokens, or hold them at different widths.
//!
//! What such a layer holds lies in slots, the same number for every KV head but not always the same tokens.
use kvgear_sys as sys;

use crate::arguments::{queries_of, same_length, tokens_of, Append, Query};
use crate::call::{call, list_of};
use crate::{AttendOptions, Cache, Element, Result, Side, Strided, StridedMut};

/// Selection of tokens, for recipes such as `h2o` or `gear-4,select=zipcache`; see [`Policy`](crate::Policy).
///
/// The policy of a layer acts on the tokens of earlier steps when the next ones are appended, or at
/// [`Cache::select`]. One that ranks tokens needs scores by then, from [`Cache::attend_observe`],
/// [`Cache::probe`] or [`Cache::observe`]; without them the append is refused with
/// [`Status::State`](crate::Status::State).
impl Cache<'_> {
    /// The original position of the token in each slot of one KV head, in the order in which
    /// [`Cache::read`] gives them: ascending, but that sinks come behind what is compressed, and that a
    /// run compressed in tiers lists one tier after the other. Cost: O(slots).
    pub fn positions(&self, layer: u32, kv_head: u32) -> Result<Vec<u64>> {
        // SAFETY: the handle is alive, and the list has the length that goes with it.
        list_of(|list, length, needed, err| unsafe {
            sys::kvg_cache_positions(self.raw(), layer, kv_head, list, length, needed, err)
        })
    }

    /// The class of each slot of [`Side::K`] or [`Side::V`]: the bits of its codes, 16 where it is not
    /// compressed. Cost: O(slots).
    pub fn bits(&self, layer: u32, side: Side) -> Result<Vec<u8>> {
        // SAFETY: as above.
        list_of(|list, length, needed, err| unsafe {
            sys::kvg_cache_bits(self.raw(), layer, side.raw(), list, length, needed, err)
        })
    }

    /// The positions whose queries the layer's policy wants [`Cache::probe`] to see before it acts: for
    /// example the newest 64, or some drawn at random from a fixed seed. None where it has no use for
    /// scores.
    pub fn probe_positions(&self, layer: u32) -> Result<Vec<u64>> {
        // SAFETY: as above.
        list_of(|list, length, needed, err| unsafe {
            sys::kvg_cache_probe_positions(self.raw(), layer, list, length, needed, err)
        })
    }

    /// Which slots of a layer's prompt go on to the next layer, ascending (PyramidInfer): gather the
    /// hidden states of these tokens, and give them to the next layer with [`Cache::append_at`]. All of
    /// them on a layer that keeps all tokens.
    pub fn next_tokens(&self, layer: u32) -> Result<Vec<u64>> {
        // SAFETY: as above.
        list_of(|list, length, needed, err| unsafe {
            sys::kvg_cache_next_tokens(self.raw(), layer, list, length, needed, err)
        })
    }

    /// Gives a layer scores: for each KV head and slot the attention weights that the slot got, averaged
    /// over the query heads of the KV head and summed over query rows. `scores` are `[kv_heads, slots]`,
    /// not negative, finite; `rows` says how many query rows were summed, the newest ones. For a policy
    /// that reads only the newest row, 1.
    pub fn observe(&mut self, layer: u32, scores: &[f32], rows: u64) -> Result<()> {
        // SAFETY: the handle is alive and ours alone, and the length is that of the slice.
        call(|err| unsafe {
            sys::kvg_cache_observe(self.raw(), layer, scores.as_ptr(), scores.len(), rows, err)
        })
    }

    /// Lets the library work scores out from queries of tokens appended before. `q` are
    /// `[positions.len(), q_heads, head_dim]`, after rotary embedding; `positions` are those of their
    /// tokens, not descending. Of `options` the scale and the cap count. Rows that the policy does not
    /// read are passed over. Cost: O(queries * slots) time, no matrix of that size.
    pub fn probe<Q: Element>(
        &mut self,
        layer: u32,
        q: &[Q],
        positions: &[u64],
        options: &AttendOptions,
    ) -> Result<()> {
        let queries = queries_of(self.shape(), q)?;
        self.probe_rows(layer, queries, q.into(), positions, options)
    }

    /// Like [`Cache::probe`], of queries that lie in memory in another way. The stride of their last
    /// dimension must be 1.
    pub fn probe_strided<Q: Element>(
        &mut self,
        layer: u32,
        q: Strided<'_, Q>,
        positions: &[u64],
        options: &AttendOptions,
    ) -> Result<()> {
        let queries = positions.len().try_into().unwrap_or(u32::MAX); // which C then refuses
        self.probe_rows(layer, queries, q, positions, options)
    }

    fn probe_rows<Q: Element>(
        &mut self,
        layer: u32,
        queries: u32,
        q: Strided<'_, Q>,
        positions: &[u64],
        options: &AttendOptions,
    ) -> Result<()> {
        let Query { q, desc } = Query::new(self.shape(), 1, queries, q, options)?;
        // SAFETY: the handle is ours alone, every element of q lies in its slice, and the length is that
        // of the positions.
        call(|err| unsafe {
            sys::kvg_cache_probe(
                self.raw(),
                layer,
                q.first.cast(),
                q.bytes,
                positions.as_ptr(),
                positions.len(),
                &desc,
                err,
            )
        })
    }

    /// As [`Cache::attend_with`], and gives the layer the scores of these queries, if it has use for
    /// scores.
    pub fn attend_observe<Q: Element, O: Element>(
        &mut self,
        layer: u32,
        q: &[Q],
        out: &mut [O],
        options: &AttendOptions,
    ) -> Result<()> {
        let queries = queries_of(self.shape(), q)?;
        same_length("q", q.len(), "out", out.len())?;
        self.attend_observe_strided(layer, queries, q.into(), out.into(), options)
    }

    /// As [`Cache::attend_strided`], and gives the layer the scores of these queries.
    pub fn attend_observe_strided<Q: Element, O: Element>(
        &mut self,
        layer: u32,
        queries: u32,
        q: Strided<'_, Q>,
        out: StridedMut<'_, O>,
        options: &AttendOptions,
    ) -> Result<()> {
        let mut query = Query::new(self.shape(), 1, queries, q, options)?;
        let out = query.results(self.shape(), 1, out)?;
        // SAFETY: the handle is ours alone, and every element lies in its slice.
        call(|err| unsafe {
            sys::kvg_cache_attend_observe(
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

    /// As [`Cache::append`], for tokens at given positions: of a prompt that was pruned on its way
    /// through the layers, see [`Cache::next_tokens`]. `positions` ascend, lie beyond all that the layer
    /// has seen and below 2^32 - 1; those in between count as evicted. Refused with
    /// [`Status::State`](crate::Status::State) on a layer that keeps all tokens.
    pub fn append_at<T: Element>(
        &mut self,
        layer: u32,
        k: &[T],
        v: &[T],
        positions: &[u64],
    ) -> Result<()> {
        let tokens = tokens_of(self.shape(), k, v)?;
        self.append_rows_at(layer, tokens, k.into(), v.into(), positions)
    }

    /// Like [`Cache::append_at`], of tensors that lie in memory in another way.
    pub fn append_at_strided<T: Element>(
        &mut self,
        layer: u32,
        k: Strided<'_, T>,
        v: Strided<'_, T>,
        positions: &[u64],
    ) -> Result<()> {
        self.append_rows_at(layer, positions.len() as u64, k, v, positions)
    }

    fn append_rows_at<T: Element>(
        &mut self,
        layer: u32,
        tokens: u64,
        k: Strided<'_, T>,
        v: Strided<'_, T>,
        positions: &[u64],
    ) -> Result<()> {
        let Append { k, v, desc } = Append::new(self.shape(), tokens, k, v)?;
        // SAFETY: the handle is ours alone, every element lies in its slice, and the length is that of
        // the positions.
        call(|err| unsafe {
            sys::kvg_cache_append_at(
                self.raw(),
                layer,
                k.first.cast(),
                k.bytes,
                v.first.cast(),
                v.bytes,
                positions.as_ptr(),
                positions.len(),
                &desc,
                err,
            )
        })
    }
}
