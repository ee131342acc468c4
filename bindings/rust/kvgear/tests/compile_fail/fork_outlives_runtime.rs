use kvgear::{Cache, Plan, Runtime};

fn case(plan: &Plan, runtime: Runtime) {
    let cache = Cache::new(&runtime, plan).unwrap();
    let fork = cache.fork().unwrap();
    drop(cache);
    drop(runtime); //~ E0505
    drop(fork);
}

fn main() {
    drop(case);
}
