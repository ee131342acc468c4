use kvgear::Cache;

fn case(cache: &mut Cache<'_>, k: &[f32]) {
    std::thread::scope(|scope| {
        scope.spawn(|| cache.length(0));
        scope.spawn(|| cache.append(0, k, k)); //~ E0502
    });
}

fn through_a_shared_borrow(cache: &Cache<'_>, k: &[f32]) {
    cache.append(0, k, k).unwrap(); //~ E0596
    cache.clear().unwrap(); //~ E0596
}

fn main() {
    drop(case);
    drop(through_a_shared_borrow);
}
