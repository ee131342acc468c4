use kvgear::Runtime;

fn case(runtime: &Runtime) {
    let lines = std::sync::Mutex::new(0);
    runtime.set_log(|_, _| *lines.lock().unwrap() += 1).unwrap(); //~ E0373
}

fn main() {
    drop(case);
}
