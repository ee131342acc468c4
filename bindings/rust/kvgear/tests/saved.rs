//! Saved caches in files, in memory and through streams, ranges of them, and stores of prefixes.
use std::io::{self, Read, Write};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Arc;

use kvgear::{Cache, Layers, LoadOptions, PrefixStore, SaveOptions, Side, Status};

mod support;
use support::{fill, picture, plan, refused, runtime, SHAPE};

/// A file's name, and its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("kvgear-rust-{name}-{}.kvg", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn files_and_vectors() {
    let (runtime, gear) = (runtime(), plan("gear-2"));
    let mut cache = Cache::new(&runtime, &gear).unwrap();
    fill(&mut cache, 0, 1, 0, 300);
    let before = picture(&cache);
    let bytes = cache.save_to_vec().unwrap();
    let mut back = Cache::load_bytes(&runtime, &gear, &bytes).unwrap();
    assert_eq!(back.save_to_vec().unwrap(), bytes);
    let Scratch(path) = &Scratch::new("files");
    cache.save(path).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), bytes);
    let file = Cache::load(&runtime, &gear, path).unwrap();
    assert_eq!(picture(&file), before);
    refused(back.extend(path), Status::Invalid, "begin at");
    back.truncate(Layers::All, 0).unwrap();
    back.extend_bytes(&bytes).unwrap();
    assert_eq!(back.length(0).unwrap(), 300);
    assert_eq!(picture(&cache), before);
    std::fs::remove_file(path).unwrap();
    refused(Cache::load(&runtime, &gear, path), Status::Io, "open");
    refused(Cache::load(&runtime, &gear, "a\0b"), Status::Invalid, "NUL");
    refused(Cache::load_bytes(&runtime, &gear, &bytes[..99]), Status::Corrupt, "cut off");
    refused(Cache::load_bytes(&runtime, &plan("int4"), &bytes), Status::Invalid, "recipe");
}

#[test]
fn a_loaded_cache_can_be_kept_anywhere() {
    let (runtime, plan) = (Arc::new(runtime()), plan("int8"));
    let mut cache = Cache::new(&runtime, &plan).unwrap();
    fill(&mut cache, 1, 1, 0, 70);
    let (bytes, before) = (cache.save_to_vec().unwrap(), picture(&cache));
    let shared = Arc::clone(&runtime);
    let kept: Cache<'static> = Cache::load_bytes(shared, &plan, &bytes).unwrap();
    drop(cache);
    drop(runtime);
    assert_eq!(std::thread::spawn(move || picture(&kept)).join().unwrap(), before);
}

#[test]
fn ranges_and_fingerprints() {
    let (runtime, plan) = (runtime(), plan("int4"));
    let mut cache = Cache::new(&runtime, &plan).unwrap();
    for layer in 0..SHAPE.layers {
        fill(&mut cache, layer, 1, 0, 300);
    }
    let options = SaveOptions::new().fingerprint(b"tiny");
    let parts = [options.clone().tokens(..192), options.clone().tokens(192..)]
        .map(|part| part.save_to_vec(&cache).unwrap());
    let load = LoadOptions::new().fingerprint(b"tiny");
    let mut back = load.load_bytes(&runtime, &plan, &parts[0]).unwrap();
    assert_eq!(back.length(1).unwrap(), 192);
    load.extend_bytes(&mut back, &parts[1]).unwrap();
    assert_eq!(picture(&back), picture(&cache));

    let second = options.clone().layers(1..=1).save_to_vec(&cache).unwrap();
    let back = load.load_bytes(&runtime, &plan, &second).unwrap();
    assert_eq!((back.length(0).unwrap(), back.length(1).unwrap()), (0, 300));
    refused(Cache::load_bytes(&runtime, &plan, &second), Status::Invalid, "fingerprint");
    let mut other = Cache::new(&runtime, &plan).unwrap();
    refused(other.extend_bytes(&second), Status::Invalid, "fingerprint");
    let bad = |options: SaveOptions<'_>, words: &str| {
        refused(options.save_to_vec(&cache), Status::Invalid, words);
    };
    bad(options.clone().layers(0..0), "the range of layers is empty");
    bad(options.clone().layers(2..), "layer");
    bad(options.clone().layers(0..=u32::MAX), "layer");
    bad(options.clone().tokens(..7), "");
    bad(SaveOptions::new().fingerprint(&[1; 257]), "256");
}

#[test]
fn mapped_files() {
    let (runtime, plan) = (runtime(), plan("gear-4"));
    let mut cache = Cache::new(&runtime, &plan).unwrap();
    fill(&mut cache, 0, 1, 0, 400);
    let Scratch(path) = &Scratch::new("mapped");
    SaveOptions::new().no_sync(true).save(&cache, path).unwrap();
    // SAFETY: nothing else knows the file.
    for options in unsafe { [LoadOptions::new().map(), LoadOptions::new().map_trusted()] } {
        let mapped = options.load(&runtime, &plan, path).unwrap();
        assert!(mapped.stats(Layers::All, Side::Both).unwrap().bytes_mapped > 0);
        assert_eq!(picture(&mapped), picture(&cache));
        let mut grown = Cache::new(&runtime, &plan).unwrap();
        options.extend(&mut grown, path).unwrap();
        assert_eq!(picture(&grown), picture(&cache));
        let bytes = cache.save_to_vec().unwrap();
        refused(options.load_bytes(&runtime, &plan, &bytes), Status::Invalid, "needs a file");
    }
}

/// Moves at most so many bytes at a time, and fails or panics behind a number of them.
struct Slow<S> {
    inner: S,
    at_once: usize,
    left: usize,
    panics: bool,
}

impl<S> Slow<S> {
    fn new(inner: S, at_once: usize) -> Self {
        Self { inner, at_once, left: usize::MAX, panics: false }
    }

    fn step(&mut self, bytes: usize) -> io::Result<usize> {
        if self.left == 0 && self.panics {
            panic!("half way");
        }
        let bytes = bytes.min(self.at_once).min(self.left);
        self.left -= bytes;
        if bytes == 0 {
            return Err(io::Error::other("the line is dead"));
        }
        Ok(bytes)
    }
}

impl<S: Write> Write for Slow<S> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let bytes = self.step(data.len())?;
        self.inner.write(&data[..bytes])
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<S: Read> Read for Slow<S> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let bytes = self.step(to.len())?;
        self.inner.read(&mut to[..bytes])
    }
}

#[test]
fn streams() {
    let (runtime, plan) = (runtime(), plan("gear-2"));
    let mut cache = Cache::new(&runtime, &plan).unwrap();
    fill(&mut cache, 0, 1, 0, 300);
    let (bytes, before) = (cache.save_to_vec().unwrap(), picture(&cache));
    for at_once in [1, 1000, usize::MAX] {
        let mut to = vec![];
        cache.save_to(Slow::new(&mut to, at_once)).unwrap();
        assert!(to == bytes);
        let mut from = &[&bytes[..], b"what follows"].concat()[..];
        let back = Cache::load_from(&runtime, &plan, Slow::new(&mut from, at_once)).unwrap();
        assert_eq!(picture(&back), before);
        assert_eq!(from, b"what follows");
        let mut grown = Cache::new(&runtime, &plan).unwrap();
        grown.extend_from(Slow::new(&bytes[..], at_once)).unwrap();
        assert_eq!(picture(&grown), before);
    }
    refused(Cache::load_from(&runtime, &plan, io::empty()), Status::Corrupt, "");
    refused(Cache::load_from(&runtime, &plan, &bytes[..999]), Status::Corrupt, "");

    // A writer that holds back and cannot write in the end.
    let tight = &mut [0u8; 100][..];
    let buffered = io::BufWriter::with_capacity(bytes.len(), tight);
    refused(cache.save_to(buffered), Status::Io, "could not be written");
    let held = runtime.memory().unwrap();
    for left in [0, 1, 500, bytes.len() - 1] {
        let broken = |panics| Slow { inner: &bytes[..], at_once: 700, left, panics };
        let full = |panics| Slow { inner: io::sink(), at_once: 700, left, panics };
        refused(cache.save_to(full(false)), Status::Io, "the line is dead");
        refused(Cache::load_from(&runtime, &plan, broken(false)), Status::Io, "the line is dead");
        let mut grown = Cache::new(&runtime, &plan).unwrap();
        refused(grown.extend_from(broken(false)), Status::Io, "the line is dead");
        let panicked = |f: &mut dyn FnMut()| {
            let payload = catch_unwind(AssertUnwindSafe(f)).unwrap_err();
            assert_eq!(payload.downcast_ref::<&str>(), Some(&"half way"));
        };
        panicked(&mut || cache.save_to(full(true)).unwrap());
        panicked(&mut || drop(Cache::load_from(&runtime, &plan, broken(true))));
        panicked(&mut || grown.extend_from(broken(true)).unwrap());
        assert_eq!(grown.length(0).unwrap(), 0);
        drop(grown);
        assert_eq!(runtime.memory().unwrap(), held);
    }
    assert_eq!(picture(&cache), before);
}

#[test]
fn prefixes() {
    let (runtime, plan) = (Arc::new(runtime()), plan("int4"));
    let mut cache = Cache::new(&runtime, &plan).unwrap();
    for layer in 0..SHAPE.layers {
        fill(&mut cache, layer, 1, 0, 50);
    }
    let ids: Vec<u32> = (0..50).collect();
    let store = PrefixStore::new(Arc::clone(&runtime), 0).unwrap();
    assert!(store.find(&plan, &ids).unwrap().is_none());
    store.insert(&ids, &cache).unwrap();
    let (matched, found): (_, Cache<'static>) = store.find(&plan, &ids[..40]).unwrap().unwrap();
    assert_eq!((matched, found.length(0).unwrap()), (40, 40));
    let stats = store.read_stats().unwrap();
    assert_eq!((stats.entries, stats.hits, stats.misses), (1, 1, 1));
    refused(store.insert(&ids[..9], &cache), Status::Invalid, "holds 50");
    // Any number of threads, also for what changes it.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    store.insert(&ids, &cache).unwrap();
                    if let Some((matched, found)) = store.find(&plan, &ids).unwrap() {
                        assert_eq!(found.length(1).unwrap(), matched);
                    }
                    store.clear().unwrap();
                }
            });
        }
    });
    assert_eq!(store.read_stats().unwrap().entries, 0);
}
