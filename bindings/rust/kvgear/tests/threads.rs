//! The promises on threads: readers together, forks apart, everything movable.
use std::sync::{Arc, Barrier, RwLock};
use std::thread;

use kvgear::{AttendOptions, Cache, Runtime, RuntimeOptions, Side};

mod support;
use support::{attend, fill, picture, plan, queries, read, runtime};

#[test]
fn many_readers_see_what_one_sees() {
    let runtime = Runtime::new(&RuntimeOptions::new().threads(2)).unwrap();
    let plan = plan("gear-2");
    let mut cache = Cache::new(&runtime, &plan).unwrap();
    fill(&mut cache, 0, 1, 0, 500);
    let q = queries(3, 2);
    let (expected, rows) = (attend(&cache, 0, &q), read::<f32>(&cache, 0, Side::V));
    let stats = cache.stats(0, Side::Both).unwrap();
    thread::scope(|scope| {
        for reader in 0..8 {
            let (cache, q, expected, rows, stats) = (&cache, &q, &expected, &rows, &stats);
            scope.spawn(move || {
                for round in 0..20 {
                    match (reader + round) % 5 {
                        4 => {
                            let (two, mut out) = (q.repeat(2), vec![0.0f32; 2 * q.len()]);
                            let options = AttendOptions::new();
                            Cache::attend_batch(&[cache, cache], 0, &two, &mut out, &options)
                                .unwrap();
                            assert_eq!(out, expected.repeat(2));
                        }
                        0 => assert_eq!(read::<f32>(cache, 0, Side::V), *rows),
                        1 => {
                            let mut now = cache.stats(0, Side::Both).unwrap();
                            now.bytes_shared = 0; // with the forks that others have at this moment
                            assert_eq!(now, *stats);
                        }
                        2 => assert_eq!(cache.fork().unwrap().length(0).unwrap(), 500),
                        _ => assert_eq!(attend(cache, 0, q), *expected),
                    }
                }
            });
        }
    });
}

#[test]
fn forks_of_one_cache_grow_on_different_threads() {
    let runtime = Arc::new(Runtime::new(&RuntimeOptions::new().threads(1)).unwrap());
    let plan = plan("kivi-4");
    let mut parent = Cache::shared(Arc::clone(&runtime), &plan).unwrap();
    fill(&mut parent, 0, 1, 0, 200);
    let expected: Vec<_> = (0..6)
        .map(|seed| {
            let mut alone = parent.fork().unwrap();
            (0..40).for_each(|t| fill(&mut alone, 0, 10 + seed, 200 + t, 1));
            picture(&alone)
        })
        .collect();
    let start = Arc::new(Barrier::new(6));
    let workers: Vec<_> = (0..6)
        .map(|seed| {
            let (mut fork, start) = (parent.fork().unwrap(), Arc::clone(&start));
            thread::spawn(move || {
                start.wait();
                (0..40).for_each(|t| fill(&mut fork, 0, 10 + seed, 200 + t, 1));
                picture(&fork)
            })
        })
        .collect();
    drop(parent);
    let found: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
    assert!(found == expected);
    assert_eq!(runtime.memory().unwrap(), 0);
}

#[test]
fn readers_and_one_writer_behind_a_lock() {
    let runtime = runtime();
    let plan = plan("int8");
    let cache = RwLock::new(Cache::new(&runtime, &plan).unwrap());
    fill(&mut cache.write().unwrap(), 0, 1, 0, 40);
    thread::scope(|scope| {
        scope.spawn(|| (40..100).for_each(|t| fill(&mut cache.write().unwrap(), 0, 1, t, 1)));
        for _ in 0..3 {
            scope.spawn(|| {
                let mut longest = 0;
                while longest < 100 {
                    let cache = cache.read().unwrap();
                    let length = cache.length(0).unwrap();
                    assert!(length >= longest);
                    attend(&cache, 0, &queries(2, 1));
                    longest = length;
                }
            });
        }
    });
    let mut alone = Cache::new(&runtime, &plan).unwrap();
    fill(&mut alone, 0, 1, 0, 40);
    (40..100).for_each(|t| fill(&mut alone, 0, 1, t, 1));
    assert!(picture(&cache.read().unwrap()) == picture(&alone));
}

#[test]
fn every_thread_gets_its_own_error() {
    let (runtime, plan) = (runtime(), plan("fp16"));
    let cache = Cache::new(&runtime, &plan).unwrap();
    thread::scope(|scope| {
        for number in 100..164 {
            let cache = &cache;
            scope.spawn(move || {
                for _ in 0..200 {
                    let error = cache.length(number).unwrap_err();
                    assert!(error.message().contains(&number.to_string()), "{error}");
                }
            });
        }
    });
}

#[test]
fn the_log_is_set_from_many_threads_while_others_work() {
    let (runtime, plan) = (runtime(), plan("gear-4"));
    thread::scope(|scope| {
        for thread in 0..4 {
            let (runtime, plan) = (&runtime, &plan);
            scope.spawn(move || {
                for round in 0..50 {
                    let kept = Arc::new(thread);
                    runtime.set_log(move |_, _| assert!(*kept < 4)).unwrap();
                    let mut cache = Cache::new(runtime, plan).unwrap();
                    fill(&mut cache, 0, round, 0, 8);
                    if round % 3 == 0 {
                        runtime.remove_log().unwrap();
                    }
                }
            });
        }
    });
}
