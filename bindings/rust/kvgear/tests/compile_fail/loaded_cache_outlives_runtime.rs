use kvgear::{Cache, LoadOptions, Plan, PrefixStore, Runtime};

fn loaded(plan: &Plan, runtime: Runtime, bytes: &[u8]) -> Cache<'static> {
    Cache::load_bytes(&runtime, plan, bytes).unwrap() //~ E0515
}

fn with_options(plan: &Plan, runtime: Runtime) {
    let cache = LoadOptions::new().load(&runtime, plan, "file").unwrap();
    drop(runtime); //~ E0505
    drop(cache);
}

fn found(plan: &Plan, runtime: Runtime) {
    let store = PrefixStore::new(&runtime, 0).unwrap();
    let found = store.find(plan, &[1]).unwrap();
    drop(store);
    drop(runtime); //~ E0505
    drop(found);
}

fn main() {
    drop(loaded);
    drop(with_options);
    drop(found);
}
