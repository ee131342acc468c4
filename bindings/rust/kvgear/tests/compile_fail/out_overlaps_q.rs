use kvgear::Cache;

fn case(cache: &Cache<'_>, buffer: &mut [f32]) {
    cache.attend(0, &buffer[..64], &mut buffer[..64]).unwrap(); //~ E0502
}

fn main() {
    drop(case);
}
