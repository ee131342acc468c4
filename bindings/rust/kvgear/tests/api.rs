//! Every operation of the crate, once done right and once refused.
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use kvgear::{
    AttendOptions, Bf16, Cache, Device, Layers, Plan, Policy, Recipe, Runtime, RuntimeOptions,
    Shape, Side, Status, Strided, StridedMut, F16,
};

mod support;
use support::{
    assert_near, attend, attention, f16, fill, picture, plan, queries, read, refused, row, runtime,
    tokens, Mask, SHAPE,
};

#[test]
fn versions() {
    assert_eq!(kvgear::version().unwrap(), env!("CARGO_PKG_VERSION"));
    assert!(kvgear::abi_versions().unwrap().contains(&kvgear_sys::KVG_ABI_VERSION));
    assert_eq!(Status::Invalid.to_string(), "KVG_E_INVALID");
    assert_eq!(Status::NonFinite.to_string(), "KVG_E_NONFINITE");
}

#[test]
fn recipes() {
    let all = Recipe::all().unwrap();
    for recipe in &all {
        assert!(!recipe.summary.is_empty());
        assert_eq!(Recipe::canonical(recipe.name).unwrap(), recipe.name);
    }
    assert!(all.iter().any(|recipe| recipe.name == "gear-2"));
    let text = Recipe::canonical("gear-2,window=64,k.rank=3").unwrap();
    assert_eq!(Recipe::canonical(&text).unwrap(), text);
    refused(Recipe::canonical("gear-77"), Status::Invalid, "gear-77");
    refused(Recipe::canonical("gear\0-2"), Status::Invalid, "NUL");
}

#[test]
fn policies() {
    let all = Policy::all().unwrap();
    assert!(all.len() >= 8 && all.iter().any(|policy| policy.name == "h2o"));
    for policy in &all {
        assert!(!policy.summary.is_empty());
        let text = format!("int8,select={}", policy.name);
        assert_eq!(Recipe::canonical(&text).unwrap(), text);
    }
}

#[test]
fn runtimes() {
    let runtime = Runtime::new(&RuntimeOptions::new().threads(2).memory_budget(1 << 20)).unwrap();
    let line = runtime.describe().unwrap();
    assert!(line.contains("2 worker threads") && line.contains("1048576"), "{line}");
    assert_eq!(runtime.memory().unwrap(), 0);
    let plan = plan("fp16");
    let mut cache = Cache::new(&runtime, &plan).unwrap();
    fill(&mut cache, 0, 1, 0, 64);
    assert!(runtime.memory().unwrap() >= 2 * 64 * row() as u64 * 2);
    let before = picture(&cache);
    let big = tokens(1, 0, 4096);
    refused(cache.append(0, &big, &big), Status::Limit, "budget");
    assert_eq!(picture(&cache), before);
    drop(cache);
    assert_eq!(runtime.memory().unwrap(), 0);
    let options = RuntimeOptions::new().device(Device::Cuda).device_id(0);
    if let Err(error) = Runtime::new(&options) {
        assert_eq!(error.status(), Status::Backend);
    }
}

#[test]
fn plans() {
    let plan = Plan::new(SHAPE, "gear-2;1:fp16,window=96").unwrap();
    assert_eq!(plan.shape().unwrap(), SHAPE);
    assert_eq!(plan.recipe(0).unwrap(), "gear-2");
    assert!(plan.recipe(1).unwrap().starts_with("fp16"));
    refused(plan.recipe(2), Status::Invalid, "2");
    refused(Plan::new(SHAPE, "gear-2;1:nothing"), Status::Invalid, "nothing");
    refused(Plan::new(SHAPE, "a\0b"), Status::Invalid, "recipes holds a NUL");
    refused(Plan::new(Shape { head_dim: 7, ..SHAPE }, "fp16"), Status::Invalid, "head_dim");
}

#[test]
fn attention_on_every_recipe_is_that_on_the_rows_read_back() {
    let runtime = runtime();
    for recipe in Recipe::all().unwrap() {
        let plan = plan(recipe.name);
        let mut cache = Cache::new(&runtime, &plan).unwrap();
        fill(&mut cache, 1, 1, 0, 200);
        for t in 200..210 {
            fill(&mut cache, 1, 1, t, 1);
        }
        assert_eq!(cache.length(1).unwrap(), 210);
        let q = queries(7, 3);
        assert_near(&attend(&cache, 1, &q), &attention(&cache, 1, &q, Mask::default()));
    }
}

#[test]
fn options_of_attention() {
    let (runtime, plan) = (runtime(), plan("gear-4"));
    let mut cache = Cache::new(&runtime, &plan).unwrap();
    fill(&mut cache, 0, 3, 0, 150);
    let q = queries(8, 4);
    for mask in [
        Mask { non_causal: true, ..Mask::default() },
        Mask { scale: 0.5, ..Mask::default() },
        Mask { softcap: 0.75, ..Mask::default() },
        Mask { window: 70, ..Mask::default() },
        Mask { window: 1, scale: 2.0, softcap: 3.0, non_causal: false },
    ] {
        let mut out = vec![0.0; q.len()];
        cache.attend_with(0, &q, &mut out, &mask.options()).unwrap();
        assert_near(&out, &attention(&cache, 0, &q, mask));
    }
}

#[test]
fn element_types() {
    let (runtime, plan) = (runtime(), plan("gear-4"));
    let (k, v) = (tokens(1, 0, 100), tokens(2, 0, 100));
    let mut single = Cache::new(&runtime, &plan).unwrap();
    single.append(0, &k, &v).unwrap();
    let mut half = Cache::new(&runtime, &plan).unwrap();
    half.append(0, &f16(&k), &f16(&v)).unwrap();
    let (rows, halves) = (read::<f32>(&single, 0, Side::V), read::<F16>(&half, 0, Side::V));
    assert_eq!(f16(&rows), halves); // the values are exact in both
    let mut brain = Cache::new(&runtime, &plan).unwrap();
    let bf16 = |x: &[f32]| x.iter().map(|&x| Bf16::from_f32(x)).collect::<Vec<_>>();
    brain.append(0, &bf16(&k), &bf16(&v)).unwrap();
    let q = queries(5, 1);
    let (mut out_bf16, mut out_f16) =
        (vec![Bf16::default(); q.len()], vec![F16::default(); q.len()]);
    single.attend(0, &f16(&q), &mut out_bf16).unwrap();
    brain.attend(0, &bf16(&q), &mut out_f16).unwrap();
    let expected = attention(&single, 0, &q, Mask::default());
    for ((a, b), x) in out_bf16.iter().zip(&out_f16).zip(expected) {
        assert!((f64::from(a.to_f32()) - x).abs() < 0.02);
        assert!((f64::from(b.to_f32()) - x).abs() < 0.1); // bf16 keys and queries
    }
}

#[cfg(feature = "half")]
#[test]
fn slices_of_the_crate_half() {
    let (runtime, plan) = (runtime(), plan("int8"));
    let (k, v) = (tokens(1, 0, 40), tokens(2, 0, 40));
    let half = |x: &[f32]| x.iter().map(|&x| half::f16::from_f32(x)).collect::<Vec<_>>();
    let (mut a, mut b) =
        (Cache::new(&runtime, &plan).unwrap(), Cache::new(&runtime, &plan).unwrap());
    a.append(0, &half(&k), &half(&v)).unwrap();
    b.append(0, &f16(&k), &f16(&v)).unwrap();
    assert_eq!(picture(&a), picture(&b));
}

#[test]
fn strides() {
    let (runtime, plan) = (runtime(), plan("gear-4"));
    let (heads, dim, count) = (SHAPE.kv_heads as usize, SHAPE.head_dim as usize, 90);
    let (k, v) = (tokens(1, 0, count), tokens(2, 0, count));
    let mut expected = Cache::new(&runtime, &plan).unwrap();
    expected.append(0, &k, &v).unwrap();

    // k: heads outside, as [heads, tokens, dim]; v: everything backwards, with a margin on both ends.
    let mut k_heads = vec![0.0; k.len()];
    for (t, h, d) in
        (0..count).flat_map(|t| (0..heads).flat_map(move |h| (0..dim).map(move |d| (t, h, d))))
    {
        k_heads[(h * count + t) * dim + d] = k[(t * heads + h) * dim + d];
    }
    let mut v_back = vec![f32::NAN; 5];
    v_back.extend(v.iter().rev());
    v_back.extend([f32::NAN; 3]);
    let (row, dim, count) = (row() as i64, dim as i64, count as i64);
    let k_view = Strided::new(&k_heads, 0, [dim, count * dim, 1]);
    let v_view = Strided::new(&v_back, 5 + v.len() - 1, [-row, -dim, -1]);
    let mut cache = Cache::new(&runtime, &plan).unwrap();
    cache.append_strided(0, count as u64, k_view, v_view).unwrap();
    assert_eq!(picture(&cache), picture(&expected));

    // One element more would lie outside, before or behind.
    let outside = Strided::new(&v_back, v.len() - 2, [-row, -dim, -1]);
    refused(
        cache.append_strided(0, count as u64, k_view, outside),
        Status::Invalid,
        "v reaches from element -1 ",
    );
    refused(
        cache.append_strided(0, count as u64 + 1, k_view, v_view),
        Status::Invalid,
        "k reaches",
    );
    assert_eq!(picture(&cache), picture(&expected));

    // Queries backwards into every second row of out.
    let (q, width) = (queries(4, 3), (SHAPE.q_heads * SHAPE.head_dim) as usize);
    let mut q_back: Vec<f32> = Vec::new();
    q.chunks(width).rev().for_each(|row| q_back.extend(row));
    let mut out = vec![-7.0f32; 2 * q.len()];
    let w = width as i64;
    let options = AttendOptions::new();
    let q_view = Strided::new(&q_back, 2 * width, [-w, dim, 1]);
    cache
        .attend_strided(0, 3, q_view, StridedMut::new(&mut out, 0, [2 * w, dim, 1]), &options)
        .unwrap();
    let straight = attend(&cache, 0, &q);
    for (i, row) in out.chunks(width).enumerate() {
        match i % 2 {
            0 => assert_eq!(row, &straight[i / 2 * width..][..width]),
            _ => assert!(row.iter().all(|&x| x == -7.0)),
        }
    }
    let mut try_out = |strides, words: &str| {
        let before = out.clone();
        let to = StridedMut::new(&mut out, 0, strides);
        refused(cache.attend_strided(0, 3, q_view, to, &options), Status::Invalid, words);
        assert_eq!(out, before);
    };
    try_out([-w, dim, 1], "out reaches");
    try_out([3 * w, dim, 1], "out reaches");
    try_out([2 * w, dim, 2], "last dimension of out");
    try_out([1, dim, 1], "overlap");
}

#[test]
fn wrong_buffers_are_refused_and_change_nothing() {
    let (runtime, plan) = (runtime(), plan("gear-4"));
    let mut cache = Cache::new(&runtime, &plan).unwrap();
    let one = tokens(1, 0, 1);
    refused(cache.attend(0, &queries(1, 1), &mut queries(2, 1)), Status::Invalid, "");
    fill(&mut cache, 0, 1, 0, 100);
    let before = picture(&cache);
    refused(cache.append(0, &one, &one[1..]), Status::Invalid, "v has 127 elements but k has 128");
    refused(cache.append(0, &one[1..], &one), Status::Invalid, "no multiple of the 128");
    refused(cache.append(2, &one, &one), Status::Invalid, "layer");
    refused(cache.append(u32::MAX, &one, &one), Status::Invalid, "layer");
    let mut bad = one.clone();
    bad[5] = f32::NAN;
    refused(cache.append(0, &one, &bad), Status::NonFinite, "");
    bad[5] = 70000.0;
    refused(cache.append(0, &bad, &one), Status::NonFinite, "");
    let (q, mut out) = (queries(1, 1), queries(2, 1));
    refused(cache.attend(0, &q[1..], &mut out), Status::Invalid, "no multiple of the 256");
    refused(
        cache.attend(0, &q, &mut out[1..]),
        Status::Invalid,
        "out has 255 elements but q has 256",
    );
    refused(cache.attend(7, &q, &mut out), Status::Invalid, "layer");
    refused(cache.attend::<f32, f32>(0, &[], &mut []), Status::Invalid, "");
    refused(cache.attend(0, &queries(1, 101), &mut queries(1, 101)), Status::Invalid, "");
    let mut rows = vec![0f32; row()];
    refused(cache.read(0, Side::Both, 0..1, &mut rows), Status::Invalid, "");
    refused(cache.read(0, Side::K, 0..2, &mut rows), Status::Invalid, "");
    refused(cache.read(0, Side::K, 100..101, &mut rows), Status::Invalid, "");
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = 3..2;
    refused(cache.read(0, Side::K, backwards, &mut rows), Status::Invalid, "ends before it begins");
    assert_eq!(picture(&cache), before);
    cache.append::<f32>(0, &[], &[]).unwrap();
    assert_eq!(picture(&cache), before);
}

#[test]
fn batches_have_the_bits_of_single_calls() {
    let runtime = runtime();
    let caches: Vec<Cache<'_>> = [("gear-2", 300), ("int8", 1), ("kivi-2", 77)]
        .into_iter()
        .map(|(recipe, count)| {
            let mut cache = Cache::new(&runtime, &plan(recipe)).unwrap();
            fill(&mut cache, 1, count as u64, 0, count);
            cache
        })
        .collect();
    let batch = [&caches[0], &caches[1], &caches[2], &caches[0]]; // one of them twice
    let (q, options) = (queries(6, 4), AttendOptions::new().scale(0.3));
    let mut out = vec![0.0f32; q.len()];
    Cache::attend_batch(&batch, 1, &q, &mut out, &options).unwrap();
    let width = q.len() / 4;
    for ((cache, q), out) in batch.iter().zip(q.chunks(width)).zip(out.chunks(width)) {
        let mut alone = vec![0.0f32; width];
        cache.attend_with(1, q, &mut alone, &options).unwrap();
        assert_eq!(out, alone);
    }

    // Two queries each, into every second row.
    let pair = [&caches[0], &caches[2]];
    let (w, dim) = (width as i64, i64::from(SHAPE.head_dim));
    let mut apart = vec![7.0f32; 2 * q.len()];
    let to = StridedMut::new(&mut apart, 0, [2 * w, dim, 1]);
    Cache::attend_batch_strided(&pair, 1, 2, q[..].into(), to, &options).unwrap();
    Cache::attend_batch(&pair, 1, &q, &mut out, &options).unwrap();
    for (i, row) in apart.chunks(width).enumerate() {
        match i % 2 {
            0 => assert_eq!(row, &out[i / 2 * width..][..width]),
            _ => assert!(row.iter().all(|&x| x == 7.0)),
        }
    }

    Cache::attend_batch::<f32, f32>(&[], 1, &[], &mut [], &options).unwrap();
    let before = out.clone();
    let mut try_batch = |batch: &[&Cache<'_>], layer, q: &[f32], words: &str| {
        refused(
            Cache::attend_batch(batch, layer, q, &mut out[..q.len()], &options),
            Status::Invalid,
            words,
        );
    };
    try_batch(&[], 1, &q, "as many for each of 0 caches");
    try_batch(&batch[..3], 1, &q[..width], "as many for each of 3 caches");
    try_batch(&batch, 2, &q, "layer");
    try_batch(&batch, 0, &q, ""); // they hold nothing there
    let other = Plan::new(Shape { q_heads: 2, ..SHAPE }, "fp16").unwrap();
    let other = Cache::new(&runtime, &other).unwrap();
    try_batch(&[&caches[0], &other], 1, &q, "cache 1 of the batch has another shape");
    let foreign = support::runtime();
    let foreign = Cache::new(&foreign, &plan("int8")).unwrap();
    try_batch(&[&caches[0], &foreign], 1, &q, "runtime");
    assert_eq!(out, before);
}

#[test]
fn a_batch_of_appends() {
    let (runtime, plans) = (runtime(), [plan("gear-2"), plan("int4"), plan("gear-2")]);
    let make = || [0, 1, 2].map(|i| Cache::new(&runtime, &plans[i]).unwrap());
    let (mut together, mut alone) = (make(), make());
    fill(&mut together[2], 1, 9, 0, 77);
    fill(&mut alone[2], 1, 9, 0, 77);
    for count in [200, 1] {
        let (k, v) = (tokens(1, 0, 3 * count), tokens(2, 0, 3 * count));
        let [a, b, c] = &mut together;
        Cache::append_batch(&mut [a, b, c], 1, &k, &v).unwrap();
        for (i, cache) in alone.iter_mut().enumerate() {
            fill(cache, 1, 1, i * count, count);
        }
    }
    let same = |together: &[Cache<'_>]| {
        for (together, alone) in together.iter().zip(&alone) {
            assert_eq!(picture(together), picture(alone));
        }
    };
    same(&together);

    Cache::append_batch::<f32>(&mut [], 1, &[], &[]).unwrap();
    let x = tokens(1, 0, 3);
    let mut try_batch = |layer, k: &[f32], v: &[f32], status, words: &str| {
        let [a, b, c] = &mut together;
        refused(Cache::append_batch(&mut [a, b, c], layer, k, v), status, words);
    };
    try_batch(1, &x[..2 * row()], &x[..2 * row()], Status::Invalid, "as many for each of 3 caches");
    try_batch(1, &x, &x[..row()], Status::Invalid, "v");
    try_batch(2, &x, &x, Status::Invalid, "layer");
    let mut bad = x.clone();
    *bad.last_mut().unwrap() = f32::NAN; // of the last cache: the others get nothing either
    try_batch(1, &bad, &x, Status::NonFinite, "");
    same(&together);
    let selecting = plan("streaming-llm");
    let mut selecting = Cache::new(&runtime, &selecting).unwrap();
    let k = tokens(1, 0, 1);
    refused(Cache::append_batch(&mut [&mut selecting], 1, &k, &k), Status::Unsupported, "");
}

#[test]
fn forks_go_their_own_ways() {
    let (runtime, plan) = (runtime(), plan("kivi-2"));
    let mut parent = Cache::new(&runtime, &plan).unwrap();
    fill(&mut parent, 0, 1, 0, 300);
    fill(&mut parent, 1, 1, 0, 300);
    let before = picture(&parent);
    let mut fork = parent.fork().unwrap();
    assert_eq!(picture(&fork), before);
    assert!(fork.stats(Layers::All, Side::Both).unwrap().bytes_shared > 0);
    fill(&mut fork, 0, 5, 300, 40);
    assert_eq!(picture(&parent), before);
    let long = picture(&fork);
    drop(parent);
    assert_eq!(picture(&fork), long);
    assert_eq!((fork.shape(), fork.runtime() as *const _), (SHAPE, &runtime as *const _));
}

#[test]
fn truncate_and_clear() {
    let (runtime, plan) = (runtime(), plan("gear-4"));
    let mut cache = Cache::new(&runtime, &plan).unwrap();
    fill(&mut cache, 0, 1, 0, 300);
    fill(&mut cache, 1, 1, 0, 310);
    let before = picture(&cache);
    refused(cache.truncate(0, 7), Status::Invalid, "");
    refused(cache.truncate(u32::MAX, 0), Status::Invalid, "layer");
    refused(cache.truncate(Layers::All, 7), Status::Invalid, "");
    assert_eq!(picture(&cache), before);
    cache.truncate(Layers::One(1), 305).unwrap();
    assert_eq!((cache.length(0).unwrap(), cache.length(1).unwrap()), (300, 305));
    cache.truncate(Layers::All, 302).unwrap();
    assert_eq!((cache.length(0).unwrap(), cache.length(1).unwrap()), (300, 302));
    cache.clear().unwrap();
    assert_eq!((cache.length(0).unwrap(), cache.length(1).unwrap()), (0, 0));
}

#[test]
fn stats() {
    let (runtime, plan) = (runtime(), plan("gear-4"));
    let mut cache = Cache::new(&runtime, &plan).unwrap();
    let empty = cache.stats(Layers::All, Side::Both).unwrap();
    assert_eq!((empty.tokens, empty.elements, empty.bits_per_element), (0, 0, 0.0));
    fill(&mut cache, 0, 1, 0, 400);
    let [k, v, both] = [Side::K, Side::V, Side::Both].map(|side| cache.stats(0, side).unwrap());
    assert_eq!((k.tokens, k.elements), (400, 400 * row() as u64));
    assert_eq!(both.elements, k.elements + v.elements);
    assert_eq!(both.bytes_fp16, 2 * both.elements);
    assert!(both.sealed_elements > 0 && both.segments > 0 && both.bytes_codes > 0);
    assert!(k.rel_error_k_mean > 0.0 && k.rel_error_k_mean < 0.2);
    assert!(v.rel_error_v_worst >= v.rel_error_v_mean && v.rel_error_v_mean > 0.0);
    let bits = 8.0 * both.bytes_total as f64 / both.elements as f64;
    assert!((both.bits_per_element - bits).abs() < 1e-9);
    let all = cache.stats(Layers::All, Side::Both).unwrap();
    assert_eq!(all.bytes_total, runtime.memory().unwrap());
    refused(cache.stats(2, Side::K), Status::Invalid, "layer");
}

#[test]
fn caches_that_share_their_runtime_can_be_kept_anywhere() {
    let runtime = Arc::new(runtime());
    let plan = plan("int4");
    let mut caches: HashMap<u32, Cache<'static>> = HashMap::new();
    for id in 0..3 {
        caches.insert(id, Cache::shared(Arc::clone(&runtime), &plan).unwrap());
    }
    drop(plan); // a cache keeps its plan
    let observer = Arc::downgrade(&runtime);
    drop(runtime);
    fill(caches.get_mut(&1).unwrap(), 0, 1, 0, 50);
    let fork = caches[&1].fork().unwrap();
    let same = picture(&fork) == picture(&caches[&1]);
    assert!(same && observer.upgrade().is_some());
    caches.clear();
    assert_eq!(fork.length(0).unwrap(), 50);
    drop(fork);
    assert!(observer.upgrade().is_none());
}

#[test]
fn log_sinks_live_as_long_as_they_are_set() {
    let runtime = runtime();
    let first = Arc::new(Mutex::new(0));
    let (counted, watch) = (Arc::clone(&first), Arc::downgrade(&first));
    runtime.set_log(move |_, _| *counted.lock().unwrap() += 1).unwrap();
    drop(first);
    assert!(watch.upgrade().is_some());
    let second = Arc::new(());
    let (held, watch_second) = (Arc::clone(&second), Arc::downgrade(&second));
    drop(second);
    runtime.set_log(move |_, _| drop(Arc::clone(&held))).unwrap();
    assert!(watch.upgrade().is_none() && watch_second.upgrade().is_some());
    runtime.remove_log().unwrap();
    runtime.remove_log().unwrap();
    assert!(watch_second.upgrade().is_none());
    let third = Arc::new(());
    let (held, watch_third) = (Arc::clone(&third), Arc::downgrade(&third));
    drop(third);
    runtime.set_log(move |_, _| drop(Arc::clone(&held))).unwrap();
    drop(runtime);
    assert!(watch_third.upgrade().is_none());
}

#[test]
fn errors_travel_as_any_other() {
    fn fails() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Plan::new(SHAPE, "no-such-recipe")?;
        Ok(())
    }
    assert!(fails().unwrap_err().to_string().contains("no-such-recipe"));
}
