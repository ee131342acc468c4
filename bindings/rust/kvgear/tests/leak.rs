//! Memory of the process after very many handles were made and ended. KVGEAR_LEAK_CYCLES says how many; a million is what
//! test.sh asks for. The only test of its program, for the memory of others would count.
use std::sync::Arc;
use std::time::Instant;

use kvgear::{Cache, Layers, Plan, PrefixStore, Runtime, RuntimeOptions, Status};

mod support;
use support::{fill, plan, queries, refused, tokens, SHAPE};

const ROOM: u64 = 1 << 20; // that the process may grow by, for what the allocator does
const OTHERS: u64 = 20; // one of so many cycles does more than make and end a cache

/// Bytes that the process has in memory; None where the system does not say.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

fn cycles(count: u64, runtime: &Arc<Runtime>, plan: &Plan, content: &Content) {
    for i in 0..count {
        let cache = match i % 2 {
            0 => Cache::new(runtime, plan).unwrap(),
            _ => Cache::shared(Arc::clone(runtime), plan).unwrap(),
        };
        if i % OTHERS == 0 {
            whole_way(cache, runtime, plan, content, i / OTHERS);
        }
    }
}

struct Content {
    one: Vec<f32>,
    q: Vec<f32>,
    saved: Vec<u8>,
    selecting: Plan,
}

/// All that makes or ends something, failures included.
fn whole_way(
    mut cache: Cache<'_>,
    runtime: &Arc<Runtime>,
    plan: &Plan,
    content: &Content,
    turn: u64,
) {
    let Content { one, q, saved, selecting } = content;
    let mut out = vec![0f32; q.len()];
    cache.append(0, one, one).unwrap();
    cache.attend(0, q, &mut out).unwrap();
    let fork = cache.fork().unwrap();
    Cache::attend_batch(&[&cache, &fork], 0, &q.repeat(2), &mut out.repeat(2), &Default::default())
        .unwrap();
    refused(cache.truncate(0, 5), Status::Invalid, "");
    refused(Plan::new(SHAPE, "no-such-recipe"), Status::Invalid, "");
    let loaded = Cache::load_from(runtime, plan, &saved[..]).unwrap();
    assert_eq!(loaded.length(0).unwrap(), 1);
    refused(Cache::load_bytes(runtime, plan, &saved[..saved.len() / 2]), Status::Corrupt, "");
    let store = PrefixStore::new(runtime, 0).unwrap();
    for layer in 1..SHAPE.layers {
        cache.append(layer, one, one).unwrap();
    }
    store.insert(&[7], &cache).unwrap();
    assert!(store.find(plan, &[7, 8]).unwrap().is_some());
    let mut selected = Cache::new(runtime, selecting).unwrap();
    selected.append(0, one, one).unwrap();
    selected.select(Layers::All).unwrap();
    assert_eq!(selected.positions(0, 0).unwrap(), [0]);
    if turn % 10 == 0 {
        let options = RuntimeOptions::new().threads(u32::from(turn % 100 == 0));
        let other = Runtime::new(&options).unwrap();
        let kept = Arc::new(());
        other.set_log(move |_, _| drop(Arc::clone(&kept))).unwrap();
        drop(Cache::new(&other, &Plan::new(SHAPE, "gear-2;1:int8").unwrap()).unwrap());
    }
}

#[test]
fn memory_is_steady_over_many_cycles() {
    let count = std::env::var("KVGEAR_LEAK_CYCLES").unwrap_or_else(|_| "50000".into());
    let count: u64 = count.parse().expect("KVGEAR_LEAK_CYCLES is a number");
    let (runtime, plan) = (Arc::new(support::runtime()), plan("gear-2"));
    let mut cache = Cache::new(&runtime, &plan).unwrap();
    fill(&mut cache, 0, 1, 0, 1);
    let content = Content {
        one: tokens(1, 0, 1),
        q: queries(1, 1),
        saved: cache.save_to_vec().unwrap(),
        selecting: support::plan("streaming-llm"),
    };
    drop(cache);

    cycles((count / 5).max(OTHERS * 1000), &runtime, &plan, &content); // until the allocator has what it wants
    let (before, start) = (resident(), Instant::now());
    cycles(count, &runtime, &plan, &content);
    let (after, each) = (resident(), start.elapsed().as_nanos() as u64 / count.max(1));
    assert_eq!(runtime.memory().unwrap(), 0);
    let (Some(before), Some(after)) = (before, after) else { return };
    println!("{count} cycles of {each} ns: {before} bytes resident before, {after} after");
    assert!(after < before + ROOM, "the process has grown by {} bytes", after - before);
}
