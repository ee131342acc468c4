//! What the tests share: inputs, caches with content, and attention by its definition.
#![allow(dead_code)] // each test program uses a part

use std::error::Error as _;

use kvgear::{
    AttendOptions, Cache, Element, Plan, Runtime, RuntimeOptions, Shape, Side, Status, F16,
};

pub const SHAPE: Shape = Shape { layers: 2, q_heads: 4, kv_heads: 2, head_dim: 64 };

pub fn runtime() -> Runtime {
    Runtime::new(&RuntimeOptions::new()).unwrap()
}

pub fn plan(recipe: &str) -> Plan {
    Plan::new(SHAPE, recipe).unwrap()
}

pub fn refused<T>(result: kvgear::Result<T>, status: Status, words: &str) {
    let error = result.err().expect("the call succeeds");
    assert_eq!(error.status(), status, "{error}");
    assert!(error.message().contains(words), "{error}");
    assert_eq!(error.to_string(), error.message());
    assert!(error.source().is_none());
}

/// Values in -2 to 2 that fp16 holds exactly; the same for the same arguments.
pub fn values(seed: u64, first: usize, count: usize) -> Vec<f32> {
    (first..first + count)
        .map(|index| {
            let mut x = (seed << 40) + index as u64 + 0x9E37_79B9_7F4A_7C15;
            x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((x >> 33) % 512) as f32 / 128.0 - 2.0
        })
        .collect()
}

pub fn f16(values: &[f32]) -> Vec<F16> {
    values.iter().map(|&x| F16::from_f32(x)).collect()
}

pub fn row() -> usize {
    (SHAPE.kv_heads * SHAPE.head_dim) as usize
}

/// Elements of K or V of tokens of the endless sequence that `seed` stands for.
pub fn tokens(seed: u64, first: usize, count: usize) -> Vec<f32> {
    values(seed, first * row(), count * row())
}

pub fn fill(cache: &mut Cache<'_>, layer: u32, seed: u64, first: usize, count: usize) {
    cache.append(layer, &tokens(seed, first, count), &tokens(seed + 1, first, count)).unwrap();
}

pub fn queries(seed: u64, count: usize) -> Vec<f32> {
    values(seed, 0, count * (SHAPE.q_heads * SHAPE.head_dim) as usize)
}

pub fn attend(cache: &Cache<'_>, layer: u32, q: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; q.len()];
    cache.attend(layer, q, &mut out).unwrap();
    out
}

pub fn read<T: Element + Default>(cache: &Cache<'_>, layer: u32, side: Side) -> Vec<T> {
    let length = cache.length(layer).unwrap();
    let mut out = vec![T::default(); length as usize * row()];
    cache.read(layer, side, 0..length, &mut out).unwrap();
    out
}

/// All that a cache can be asked for, to the bit.
pub fn picture(cache: &Cache<'_>) -> Vec<u32> {
    let mut bits = Vec::new();
    for layer in 0..SHAPE.layers {
        bits.push(cache.length(layer).unwrap() as u32);
        for side in [Side::K, Side::V] {
            bits.extend(read::<f32>(cache, layer, side).iter().map(|x| x.to_bits()));
        }
        if cache.length(layer).unwrap() > 0 {
            bits.extend(attend(cache, layer, &queries(9, 1)).iter().map(|x| x.to_bits()));
        }
    }
    bits
}

#[derive(Clone, Copy, Default)]
pub struct Mask {
    pub non_causal: bool,
    pub scale: f32,
    pub softcap: f32,
    pub window: u64,
}

impl Mask {
    pub fn options(self) -> AttendOptions {
        AttendOptions::new()
            .non_causal(self.non_causal)
            .scale(self.scale)
            .logit_softcap(self.softcap)
            .sliding_window(self.window)
    }
}

/// Attention in double precision over the rows that the cache gives back.
pub fn attention(cache: &Cache<'_>, layer: u32, q: &[f32], mask: Mask) -> Vec<f64> {
    let (k, v) = (read::<f32>(cache, layer, Side::K), read::<f32>(cache, layer, Side::V));
    let [heads, kv_heads, dim] =
        [SHAPE.q_heads, SHAPE.kv_heads, SHAPE.head_dim].map(|x| x as usize);
    let (length, count) = (k.len() / row(), q.len() / (heads * dim));
    let scale = if mask.scale == 0.0 { 1.0 / (dim as f64).sqrt() } else { f64::from(mask.scale) };
    let mut out = vec![0.0; q.len()];
    for (i, h) in (0..count).flat_map(|i| (0..heads).map(move |h| (i, h))) {
        let at = (i * heads + h) * dim;
        let end = if mask.non_causal { length } else { length - count + i + 1 };
        let begin = if mask.window == 0 { 0 } else { end.saturating_sub(mask.window as usize) };
        let rows = |x: &[f32], t: usize, d: usize| {
            f64::from(x[(t * kv_heads + h / (heads / kv_heads)) * dim + d])
        };
        let logits: Vec<f64> = (begin..end)
            .map(|t| {
                let dot: f64 = (0..dim).map(|d| f64::from(q[at + d]) * rows(&k, t, d)).sum();
                match f64::from(mask.softcap) {
                    cap if cap > 0.0 => cap * (scale * dot / cap).tanh(),
                    _ => scale * dot,
                }
            })
            .collect();
        let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = logits.iter().map(|x| (x - most).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for d in 0..dim {
            let value: f64 = (begin..end).map(|t| weights[t - begin] * rows(&v, t, d)).sum();
            out[at + d] = value / sum;
        }
    }
    out
}

/// SIMD kernels may round queries and weights to 16 bits; values are at most 2.
pub fn assert_near(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*a) - b).abs() < 4e-3, "element {i}: {a} and {b}");
    }
}
