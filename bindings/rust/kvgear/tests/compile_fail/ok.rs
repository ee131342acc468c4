// Compiles: the frame that the other cases break.
use kvgear::{Cache, Plan, Runtime, RuntimeOptions, Shape};
use std::sync::Arc;

fn main() -> kvgear::Result<()> {
    let plan = Plan::new(Shape { layers: 1, q_heads: 1, kv_heads: 1, head_dim: 64 }, "fp16")?;
    let kept: Cache<'static>;
    {
        let runtime = Runtime::new(&RuntimeOptions::new())?;
        let mut cache = Cache::new(&runtime, &plan)?;
        let fork = cache.fork()?;
        cache.clear()?;
        std::thread::scope(|scope| {
            scope.spawn(|| fork.length(0));
            scope.spawn(|| fork.length(0));
        });
        kept = Cache::shared(Arc::new(runtime_of_its_own()?), &plan)?;
    }
    std::thread::spawn(move || kept.length(0));
    Ok(())
}

fn runtime_of_its_own() -> kvgear::Result<Runtime> {
    Runtime::new(&RuntimeOptions::new())
}
