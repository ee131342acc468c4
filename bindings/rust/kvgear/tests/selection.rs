//! Caches that select tokens: what they hold, scores from all three sources, and prompts that are pruned on their way.
use kvgear::{AttendOptions, Cache, Layers, Side, Status, Strided, StridedMut};

mod support;
use support::{attend, fill, plan, queries, refused, row, runtime, tokens, SHAPE};

fn observe(cache: &mut Cache<'_>, layer: u32, seed: u64) -> Vec<f32> {
    let q = queries(seed, 1);
    let mut out = vec![0.0; q.len()];
    cache.attend_observe(layer, &q, &mut out, &AttendOptions::new()).unwrap();
    out
}

#[test]
fn sinks_and_a_window() {
    let (runtime, plan) = (runtime(), plan("streaming-llm,budget=20"));
    let mut cache = Cache::new(&runtime, &plan).unwrap();
    fill(&mut cache, 1, 1, 0, 50);
    assert_eq!(cache.held(1).unwrap(), 50);
    for t in 50..60 {
        fill(&mut cache, 1, 1, t, 1);
        let expected = attend(&cache, 1, &queries(3, 1));
        assert_eq!(observe(&mut cache, 1, 3), expected);
    }
    let expected: Vec<u64> = (0..4).chain(43..60).collect();
    assert_eq!(cache.positions(1, 0).unwrap(), expected);
    assert_eq!(cache.positions(1, 1).unwrap(), expected);
    assert_eq!(cache.bits(1, Side::V).unwrap(), [16; 21]);
    assert!(
        cache.positions(0, 0).unwrap().is_empty() && cache.bits(0, Side::K).unwrap().is_empty()
    );
    let stats = cache.stats(1, Side::Both).unwrap();
    assert_eq!((stats.tokens, stats.tokens_appended, stats.tokens_evicted), (21, 60, 39));

    refused(cache.truncate(1, 30), Status::Invalid, "nearest lengths are 0 and 59");
    cache.truncate(1, 59).unwrap();
    cache.select(Layers::All).unwrap();
    assert_eq!((cache.held(1).unwrap(), cache.length(1).unwrap()), (20, 59));
    let fork = cache.fork().unwrap();
    assert_eq!(fork.positions(1, 0).unwrap(), cache.positions(1, 0).unwrap());
    refused(cache.positions(1, 2), Status::Invalid, "kv_head is 2");
    refused(cache.positions(7, 0), Status::Invalid, "layer");
    refused(cache.bits(1, Side::Both), Status::Invalid, "BOTH");
    refused(cache.select(2), Status::Invalid, "layer is 2");
    refused(cache.select(u32::MAX), Status::Invalid, "layer");
    let bytes = cache.save_to_vec().unwrap();
    let back = Cache::load_bytes(&runtime, &plan, &bytes).unwrap();
    assert_eq!(back.positions(1, 1).unwrap(), cache.positions(1, 1).unwrap());
}

#[test]
fn scores_of_the_caller() {
    const TOKENS: usize = 40;
    let (runtime, plan) = (runtime(), plan("h2o,budget=10"));
    let mut cache = Cache::new(&runtime, &plan).unwrap();
    fill(&mut cache, 0, 1, 0, TOKENS);
    let one = tokens(1, TOKENS, 1);
    refused(cache.append(0, &one, &one), Status::State, "needs scores");
    refused(cache.select(Layers::All), Status::State, "needs scores");
    let mut scores: Vec<f32> =
        (0..2 * TOKENS).map(|i| if i % TOKENS % 7 == 3 { 2.0 } else { 1.0 }).collect();
    refused(cache.observe(0, &scores[1..], 40), Status::Invalid, "scores_len is 79");
    refused(cache.observe(0, &scores, 41), Status::Invalid, "rows is 41");
    refused(cache.observe(0, &[], 1), Status::Invalid, "scores_len is 0");
    scores[5] = f32::NAN;
    refused(cache.observe(0, &scores, 40), Status::NonFinite, "");
    scores[5] = 1.0;
    cache.observe(0, &scores, TOKENS as u64).unwrap();
    cache.append(0, &one, &one).unwrap();
    let kept: Vec<u64> = (0..5).map(|i| 3 + 7 * i).chain(35..41).collect(); // those of score 2, and new ones
    assert_eq!(cache.positions(0, 0).unwrap(), kept);
    assert_eq!(cache.positions(0, 1).unwrap(), kept);
}

#[test]
fn scores_of_probes() {
    const TOKENS: usize = 40;
    let (runtime, plan) = (runtime(), plan("h2o,budget=10"));
    let mut caches: Vec<_> = (0..3).map(|_| Cache::new(&runtime, &plan).unwrap()).collect();
    let (q, options) = (queries(9, TOKENS), AttendOptions::new());
    for cache in &mut caches {
        fill(cache, 1, 1, 0, TOKENS);
    }
    let positions = caches[0].probe_positions(1).unwrap();
    assert!(positions.iter().copied().eq(0..TOKENS as u64));
    let cache = &mut caches[0];
    refused(cache.probe(1, &q, &positions[1..], &options), Status::Invalid, "positions_len is 39");
    refused(
        cache.probe(1, &q[1..], &positions, &options),
        Status::Invalid,
        "no multiple of the 256",
    );
    let mut wrong = positions.clone();
    wrong[3] = 1;
    refused(cache.probe(1, &q, &wrong, &options), Status::Invalid, "positions[3] is 1");
    let short = Strided::new(&q[1..], 0, [0; 3]);
    refused(cache.probe_strided(1, short, &positions, &options), Status::Invalid, "q reaches");

    cache.probe(1, &q, &positions, &options).unwrap();
    // The same with the rows in the opposite order in memory, and by attention of each query to the tokens up to its own.
    let width = q.len() / TOKENS;
    let back: Vec<f32> = q.chunks(width).rev().flatten().copied().collect();
    let strides = [-(width as i64), i64::from(SHAPE.head_dim), 1];
    let view = Strided::new(&back, (TOKENS - 1) * width, strides);
    caches[1].probe_strided(1, view, &positions, &options).unwrap();
    let mut out = vec![0.0f32; q.len()];
    let to = StridedMut::new(&mut out, 0, [0; 3]);
    caches[2].attend_observe_strided(1, TOKENS as u32, q[..].into(), to, &options).unwrap();
    assert_eq!(out, attend(&caches[2], 1, &q));
    let kept: Vec<_> = caches
        .iter_mut()
        .map(|cache| {
            cache.select(1).unwrap();
            assert!(cache.held(1).unwrap() < TOKENS as u64);
            [0, 1].map(|head| cache.positions(1, head).unwrap())
        })
        .collect();
    assert!(kept[0] == kept[1] && kept[0] == kept[2], "{kept:?}");
}

#[test]
fn prompts_that_are_pruned_on_their_way() {
    const TOKENS: usize = 120;
    let (runtime, plan) = (runtime(), plan("pyramidinfer,decay=0.5,least=0,recent=10"));
    let mut cache = Cache::new(&runtime, &plan).unwrap();
    let rows = tokens(1, 0, TOKENS);
    let mut positions: Vec<u64> = (0..TOKENS as u64).collect();
    refused(
        cache.append_at(0, &rows, &rows, &positions[1..]),
        Status::Invalid,
        "positions_len is 119",
    );
    cache.append_at(0, &rows, &rows, &positions).unwrap();
    assert_eq!(cache.next_tokens(0).unwrap(), positions); // behind the first layer all go on
    let (view, back) = (Strided::from(&rows[..]), rows.len() / row());
    assert_eq!(back, TOKENS);
    cache.append_at_strided(1, view, view, &positions).unwrap();
    refused(cache.next_tokens(1), Status::State, "needs scores");
    let scores: Vec<f32> = (0..2 * TOKENS).map(|i| (i % TOKENS) as f32 / TOKENS as f32).collect();
    cache.observe(1, &scores, 11).unwrap();
    let next = cache.next_tokens(1).unwrap();
    assert!(next.iter().copied().eq((0..4).chain(32..120)), "{next:?}");
    positions[0] = 500;
    refused(cache.append_at(1, &rows, &rows, &positions), Status::Invalid, "positions[1] is 1");
}

#[test]
fn layers_that_keep_all_tokens() {
    let (runtime, plan) = (runtime(), plan("int8"));
    let mut cache = Cache::new(&runtime, &plan).unwrap();
    fill(&mut cache, 0, 1, 0, 200);
    cache.select(Layers::All).unwrap();
    assert_eq!(cache.held(0).unwrap(), 200);
    assert!(cache.positions(0, 1).unwrap().into_iter().eq(0..200));
    assert!(cache.next_tokens(0).unwrap().into_iter().eq(0..200));
    let bits = cache.bits(0, Side::K).unwrap();
    assert!(bits.len() == 200 && bits.iter().all(|bits| [8, 16].contains(bits)) && bits[0] == 8);
    assert!(cache.probe_positions(0).unwrap().is_empty());
    let expected = attend(&cache, 0, &queries(3, 1));
    assert_eq!(observe(&mut cache, 0, 3), expected);
    let (scores, one) = (vec![1.0; 400], tokens(1, 0, 1));
    refused(cache.observe(0, &scores, 1), Status::State, "keeps all tokens");
    refused(cache.append_at(0, &one, &one, &[200]), Status::State, "keeps all tokens");
    let (q, mut out) = (queries(1, 1), vec![0.0f32; 255]);
    let options = AttendOptions::new();
    refused(cache.attend_observe(0, &q, &mut out, &options), Status::Invalid, "out has 255");
}
