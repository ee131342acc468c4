use kvgear::{Cache, Plan, Runtime};

fn case(plan: &Plan, runtime: Runtime) {
    let cache = Cache::new(&runtime, plan).unwrap(); //~ E0597
    std::thread::spawn(move || cache.length(0));
}

fn main() {
    drop(case);
}
