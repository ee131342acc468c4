use kvgear::{AttendOptions, Cache};

fn by_a_thread(cache: Cache<'_>) {
    let reader = &cache;
    std::thread::scope(|scope| { //~ E0505
        scope.spawn(move || reader.length(0));
        drop(cache);
    });
}

fn in_a_batch(mut one: Cache<'_>, other: Cache<'_>, q: &[f32], out: &mut [f32]) {
    let batch = [&one, &other];
    one.clear().unwrap(); //~ E0502
    drop(other); //~ E0505
    Cache::attend_batch(&batch, 0, q, out, &AttendOptions::new()).unwrap();
}

fn main() {
    drop(by_a_thread);
    drop(in_a_batch);
}
