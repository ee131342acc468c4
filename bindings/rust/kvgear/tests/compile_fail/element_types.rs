use kvgear::{Cache, Element, Dtype, F16};

#[derive(Clone, Copy)]
struct Mine(u16);

impl Element for Mine { //~ E0277
    const DTYPE: Dtype = Dtype::F16;
}

fn case(cache: &mut Cache<'_>, singles: &[f32], halves: &[F16], bits: &[u16], doubles: &[f64]) {
    cache.append(0, singles, halves).unwrap(); //~ E0308
    cache.append(0, bits, bits).unwrap(); //~ E0277
    cache.append(0, doubles, doubles).unwrap(); //~ E0277
}

fn main() {
    drop(case);
    drop(Mine(0).0);
}
