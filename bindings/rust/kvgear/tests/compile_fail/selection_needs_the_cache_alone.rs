use kvgear::{AttendOptions, Cache};

fn case(cache: &Cache<'_>, q: &[f32], out: &mut [f32]) {
    cache.attend(0, q, out).unwrap();
    cache.attend_observe(0, q, out, &AttendOptions::new()).unwrap(); //~ E0596
    cache.select(0).unwrap(); //~ E0596
    cache.observe(0, q, 1).unwrap(); //~ E0596
    let _ = cache.positions(0, 0).unwrap();
}

fn main() {
    drop(case);
}
