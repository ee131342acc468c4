//! One text and its compressed cache: prefill, and one token after the other.
use std::sync::Arc;

use kvgear::{Cache, F16};

use super::math::{gate, multiply, norm, softmax, Linear};
use super::{Error, Layer, Model};

const BLOCK: usize = 16; // queries whose scores are computed together

/// Who waits for a text.
pub trait Listener {
    /// Takes the next byte. An error ends the text.
    fn put(&mut self, token: u8) -> Result<(), Error>;

    /// Does nobody wait any more? Asked before every token.
    fn gone(&self) -> bool {
        false
    }
}

/// One text and its compressed cache.
#[derive(Debug)]
pub struct Session {
    /// The keys and values of the text's tokens but the pending one.
    pub cache: Cache<'static>,
    /// The last token generated, which the cache does not hold yet.
    pub pending: Option<u8>,
    /// Tokens in the cache.
    pub length: usize,
    model: Arc<Model>,
}

/// What a step computes in, so that it need not be allocated for each.
struct Buffers {
    x: Vec<f32>,
    normed: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    wide: Vec<f32>,
    up: Vec<f32>,
}

impl Buffers {
    fn new(m: &Model, tokens: usize) -> Self {
        let of = |width: usize| vec![0.0; tokens * width];
        let (q_width, kv_width) = (m.q_heads * m.head_dim, m.kv_heads * m.head_dim);
        Self {
            x: of(m.hidden),
            normed: of(m.hidden),
            q: of(q_width),
            k: of(kv_width),
            v: of(kv_width),
            attended: of(q_width),
            wide: of(m.inner),
            up: of(m.inner),
        }
    }

    /// Queries, keys and values of tokens at `position` and after it.
    fn project(&mut self, m: &Model, layer: &Layer, position: usize) {
        norm(&mut self.normed, &self.x, &layer.attention_norm, m.epsilon);
        multiply(&mut self.q, &self.normed, m.hidden, layer.q.view(), false);
        multiply(&mut self.k, &self.normed, m.hidden, layer.k.view(), false);
        multiply(&mut self.v, &self.normed, m.hidden, layer.v.view(), false);
        for (t, heads) in self.q.chunks_exact_mut(m.q_heads * m.head_dim).enumerate() {
            m.rotate(heads, position + t);
        }
        for (t, heads) in self.k.chunks_exact_mut(m.kv_heads * m.head_dim).enumerate() {
            m.rotate(heads, position + t);
        }
    }

    /// What comes behind attention.
    fn finish(&mut self, m: &Model, layer: &Layer) {
        let q_width = m.q_heads * m.head_dim;
        multiply(&mut self.x, &self.attended, q_width, layer.output.view(), true);
        norm(&mut self.normed, &self.x, &layer.mlp_norm, m.epsilon);
        multiply(&mut self.wide, &self.normed, m.hidden, layer.gate.view(), false);
        multiply(&mut self.up, &self.normed, m.hidden, layer.up.view(), false);
        gate(&mut self.wide, &self.up);
        multiply(&mut self.x, &self.wide, m.inner, layer.down.view(), true);
    }
}

impl Session {
    /// Begins an empty text in an empty cache.
    pub fn new(model: Arc<Model>, cache: Cache<'static>) -> Self {
        Self { cache, pending: None, length: 0, model }
    }

    /// Makes a second session with the same text.
    pub fn fork(&self) -> kvgear::Result<Self> {
        Ok(Self { cache: self.cache.fork()?, model: Arc::clone(&self.model), ..*self })
    }

    /// Appends the prompt to the text and continues it, with the likeliest byte each time. A session whose `generate`
    /// failed must not be used further.
    pub fn generate(
        &mut self,
        prompt: &[u8],
        count: usize,
        listener: &mut dyn Listener,
    ) -> Result<(), Error> {
        let tokens: Vec<u8> = self.pending.iter().chain(prompt).copied().collect();
        let Some((&last, before)) = tokens.split_last() else { return Ok(()) };
        let mut buffers = Buffers::new(&self.model, 1);
        if self.length == 0 && !before.is_empty() {
            self.prefill(before, listener)?;
        } else {
            for &token in before {
                self.step(token, &mut buffers, listener)?;
            }
        }
        let mut token = last;
        self.pending = Some(token);
        for _ in 0..count {
            self.step(token, &mut buffers, listener)?;
            token = self.likeliest(&mut buffers);
            self.pending = Some(token);
            listener.put(token)?;
        }
        Ok(())
    }

    /// Feeds one token; what the last layer says of it is left in `buffers.x`.
    fn step(&mut self, token: u8, b: &mut Buffers, listener: &dyn Listener) -> Result<(), Error> {
        if listener.gone() {
            return Err(Error::Gone);
        }
        let m = &*self.model;
        b.x.copy_from_slice(m.embed(token));
        for (index, layer) in m.layers.iter().enumerate() {
            b.project(m, layer, self.length);
            self.cache.append(index as u32, &to_half(&b.k), &to_half(&b.v))?;
            self.cache.attend(index as u32, &b.q, &mut b.attended)?;
            b.finish(m, layer);
        }
        self.length += 1;
        Ok(())
    }

    fn likeliest(&self, b: &mut Buffers) -> u8 {
        let m = &*self.model;
        let mut logits = [0f32; 256];
        norm(&mut b.normed, &b.x, &m.final_norm, m.epsilon);
        multiply(&mut logits, &b.normed, m.hidden, m.head.view(), false);
        let mut best = 0;
        for (token, logit) in logits.iter().enumerate() {
            if *logit > logits[best] {
                best = token;
            }
        }
        best as u8
    }

    /// Puts the first tokens of a text into the empty cache. Among themselves they attend to the exact fp16 keys and
    /// values; compression is for what comes later.
    fn prefill(&mut self, tokens: &[u8], listener: &dyn Listener) -> Result<(), Error> {
        let m = &*self.model;
        let mut b = Buffers::new(m, tokens.len());
        for (x, &token) in b.x.chunks_exact_mut(m.hidden).zip(tokens) {
            x.copy_from_slice(m.embed(token));
        }
        for (index, layer) in m.layers.iter().enumerate() {
            if listener.gone() {
                return Err(Error::Gone);
            }
            b.project(m, layer, 0);
            let (k, v) = (to_half(&b.k), to_half(&b.v));
            self.cache.append(index as u32, &k, &v)?;
            if index + 1 == m.layers.len() {
                break; // nothing reads what the last layer computes of these
            }
            attention(m, &mut b.attended, &b.q, &k, &v);
            b.finish(m, layer);
        }
        self.length += tokens.len();
        Ok(())
    }
}

/// Rounds to what a cache keeps.
fn to_half(values: &[f32]) -> Vec<F16> {
    values.iter().map(|&value| F16::from_f32(value)).collect()
}

/// Attention of tokens among themselves, causal. `out` and `q` are `[tokens, q_heads, head_dim]`.
fn attention(m: &Model, out: &mut [f32], q: &[f32], k: &[F16], v: &[F16]) {
    let (dim, group) = (m.head_dim, m.q_heads / m.kv_heads);
    let (q_width, kv_width) = (m.q_heads * dim, m.kv_heads * dim);
    let tokens = q.len() / q_width;
    let scale = 1.0 / (dim as f32).sqrt();
    for kv_head in 0..m.kv_heads {
        let at = |x: &[F16], t: usize, i: usize| x[t * kv_width + kv_head * dim + i].to_f32();
        let keys = Linear::from_fn(tokens, dim, |t, i| at(k, t, i));
        let values = Linear::from_fn(dim, tokens, |i, t| at(v, t, i));
        for first in (0..tokens).step_by(BLOCK) {
            let seen = tokens.min(first + BLOCK);
            let mut scores = vec![0.0; (seen - first) * seen];
            let mut result = vec![0.0; (seen - first) * dim];
            for head in kv_head * group..(kv_head + 1) * group {
                let start = first * q_width + head * dim;
                multiply(&mut scores, &q[start..], q_width, keys.part(seen, dim), false);
                let sums: Vec<f32> = scores
                    .chunks_exact_mut(seen)
                    .enumerate()
                    .map(|(r, scores)| softmax(scores, first + r + 1, scale))
                    .collect();
                multiply(&mut result, &scores, seen, values.part(dim, seen), false);
                for ((r, row), sum) in result.chunks_exact(dim).enumerate().zip(sums) {
                    let out = &mut out[start + r * q_width..][..dim];
                    out.iter_mut().zip(row).for_each(|(to, value)| *to = value / sum);
                }
            }
        }
    }
}
