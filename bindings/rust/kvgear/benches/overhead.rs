//! What a call costs from safe Rust, to be set beside bindings/bench/attend.c, which makes the same calls. Prints
//! "NAME NANOSECONDS" a line: the best of the rounds that fit into a second.
use std::hint::black_box;
use std::time::{Duration, Instant};

use kvgear::{Cache, Plan, Result, Runtime, RuntimeOptions, Shape};

const TOKENS: usize = 1024;
const SHAPE: Shape = Shape { layers: 1, q_heads: 32, kv_heads: 8, head_dim: 128 };

/// The numbers that attend.c makes of a seed.
fn values(count: usize, mut seed: u32) -> Vec<f32> {
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Nanoseconds of one call in the best round.
fn best(calls: u32, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        let start = Instant::now();
        for _ in 0..calls {
            call()?;
        }
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(calls));
    }
    Ok(best)
}

fn main() -> Result<()> {
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(()); // `cargo test --benches` measures nothing
    }
    let row = (SHAPE.kv_heads * SHAPE.head_dim) as usize;
    let (k, v) = (values(TOKENS * row, 1), values(TOKENS * row, 2));
    let q = values((SHAPE.q_heads * SHAPE.head_dim) as usize, 3);
    let mut out = vec![0f32; q.len()];
    let runtime = Runtime::new(&RuntimeOptions::new())?;
    let plan = Plan::new(SHAPE, "gear-2")?;
    let mut cache = Cache::new(&runtime, &plan)?;
    cache.append(0, &k, &v)?;

    println!("attend {:.1}", best(10, || cache.attend(0, black_box(&q), &mut out))?);
    let length = || {
        black_box(cache.length(0)?);
        Ok(())
    };
    println!("length {:.2}", best(1000, length)?);
    Ok(())
}
