use kvgear::{Cache, Plan, Runtime, RuntimeOptions};

fn returned(plan: &Plan) -> kvgear::Result<Cache<'static>> {
    let runtime = Runtime::new(&RuntimeOptions::new())?;
    Cache::new(&runtime, plan) //~ E0515
}

fn kept(plan: &Plan, runtime: Runtime) {
    let cache;
    {
        let inner = runtime;
        cache = Cache::new(&inner, plan); //~ E0597
    }
    drop(cache);
}

fn main() {
    drop(returned);
    drop(kept);
}
