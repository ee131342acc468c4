//! Runs the conformance vectors of the project, in tests/conformance/vectors; the README there says what
//! their lines mean.
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvgear::{
    AttendOptions, Bf16, Cache, Element, Error, Layers, Plan, Recipe, Runtime, RuntimeOptions,
    Shape, Side, Strided, StridedMut, F16,
};

/// A line: the call and the name of its object, which results do not have; its keys; and how it fails.
struct Line<'a> {
    op: &'a str,
    name: &'a str,
    keys: HashMap<&'a str, &'a str>,
    fails: Option<(&'a str, &'a str)>,
}

impl<'a> Line<'a> {
    fn parse(text: &'a str) -> Self {
        let (call, fails) = match text.split_once(" ! ") {
            Some((call, fail)) => (call, Some(fail.split_once(' ').unwrap_or((fail, "")))),
            None => (text, None),
        };
        let mut words = call.split(' ').peekable();
        let mut plain = || words.next_if(|word| !word.contains('=')).unwrap_or("");
        let (op, name) = (plain(), plain());
        Self { op, name, keys: words.map(|word| word.split_once('=').unwrap()).collect(), fails }
    }

    fn get(&self, key: &str, default: &'a str) -> &'a str {
        self.keys.get(key).copied().unwrap_or(default)
    }

    fn number<N: std::str::FromStr>(&self, key: &str, default: &'a str) -> N {
        let text = self.get(key, default);
        text.parse().unwrap_or_else(|_| panic!("{key} is {text:?}"))
    }

    fn layers(&self) -> Layers {
        match self.get("layer", "") {
            "all" => Layers::All,
            _ => Layers::One(self.number("layer", "")),
        }
    }

    fn side(&self) -> Side {
        match self.get("side", "") {
            "k" => Side::K,
            "v" => Side::V,
            "both" => Side::Both,
            other => panic!("side is {other:?}"),
        }
    }
}

/// An element type of the vectors.
trait Number: Element + Default {
    fn of(value: f32) -> Self;
    fn bytes(self) -> Vec<u8>;
    fn value(self) -> f64;
    fn of_hex(text: &str) -> Self;
}

impl Number for f32 {
    fn of(value: f32) -> Self {
        value
    }
    fn bytes(self) -> Vec<u8> {
        self.to_le_bytes().into()
    }
    fn value(self) -> f64 {
        self.into()
    }
    fn of_hex(text: &str) -> Self {
        f32::from_bits(u32::from_str_radix(text, 16).unwrap())
    }
}

macro_rules! number {
    ($type:ident) => {
        impl Number for $type {
            fn of(value: f32) -> Self {
                $type::from_f32(value)
            }
            fn bytes(self) -> Vec<u8> {
                self.to_bits().to_le_bytes().into()
            }
            fn value(self) -> f64 {
                self.to_f32().into()
            }
            fn of_hex(text: &str) -> Self {
                $type::from_bits(u16::from_str_radix(text, 16).unwrap())
            }
        }
    };
}

number!(F16);
number!(Bf16);

/// A call with the element type that a key names.
macro_rules! with_type {
    ($text:expr, $type:ident => $call:expr) => {
        match $text {
            "f32" => {
                type $type = f32;
                $call
            }
            "f16" => {
                type $type = F16;
                $call
            }
            "bf16" => {
                type $type = Bf16;
                $call
            }
            other => panic!("unknown element type {other:?}"),
        }
    };
}

fn input(seed: u32, index: u32) -> f32 {
    let mut x = index.wrapping_mul(2_654_435_761);
    x = x.wrapping_add(seed.wrapping_mul(2_246_822_519)).wrapping_add(374_761_393);
    x = (x ^ (x >> 15)).wrapping_mul(2_246_822_519);
    x = (x ^ (x >> 13)).wrapping_mul(3_266_489_917);
    x ^= x >> 16;
    let value = ((x & 255) as f32 - 128.0) / 64.0;
    if (x >> 8) & 63 == 0 {
        8.0 * value
    } else {
        value
    }
}

/// How `[tokens, heads, dims]` lies in memory: in that order, or with the heads outside.
fn strides(line: &Line<'_>, [tokens, heads, dims]: [usize; 3]) -> [i64; 3] {
    match line.get("layout", "thd") {
        "thd" => [heads * dims, dims, 1].map(|x| x as i64),
        "htd" => [dims, tokens * dims, 1].map(|x| x as i64),
        other => panic!("unknown layout {other:?}"),
    }
}

/// The place of each element in memory, in the order [tokens, heads, dims].
fn places([tokens, heads, dims]: [usize; 3], strides: [i64; 3]) -> impl Iterator<Item = usize> {
    (0..tokens * heads * dims).map(move |i| {
        let at = [i / dims / heads, i / dims % heads, i % dims];
        at.iter().zip(strides).map(|(&at, stride)| at * stride as usize).sum()
    })
}

fn tensor<T: Number>(sizes: [usize; 3], strides: [i64; 3], seed: u32, first: u32) -> Vec<T> {
    let mut data = vec![T::default(); sizes.iter().product()];
    for (index, place) in (0u32..).zip(places(sizes, strides)) {
        data[place] = T::of(input(seed, first + index));
    }
    data
}

fn append<T: Number>(cache: &mut Cache<'_>, line: &Line<'_>) -> Result<String, Error> {
    let shape = cache.shape();
    let tokens: usize = line.number("tokens", "");
    let sizes = [tokens, shape.kv_heads as usize, shape.head_dim as usize];
    let strides = strides(line, sizes);
    let first = line.number::<u32>("first", "0") * shape.kv_heads * shape.head_dim;
    let k = tensor::<T>(sizes, strides, line.number("k", ""), first);
    let mut v = tensor::<T>(sizes, strides, line.number("v", ""), first);
    match line.get("poison", "") {
        "" => {}
        "nan" => *v.last_mut().unwrap() = T::of(f32::NAN),
        "inf" => *v.last_mut().unwrap() = T::of(f32::INFINITY),
        "big" => *v.last_mut().unwrap() = T::of(70000.0),
        other => panic!("unknown poison {other:?}"),
    }
    let v = &v[..v.len() - line.number::<usize>("cut", "0")];
    let (k, v) = (Strided::new(&k, 0, strides), Strided::new(v, 0, strides));
    cache.append_strided(line.number("layer", ""), tokens as u64, k, v)?;
    Ok(String::new())
}

fn attend<Q: Number>(cache: &Cache<'_>, line: &Line<'_>, expected: &str) -> Result<String, Error> {
    with_type!(line.get("out_dtype", "f32"), O => attend_to::<Q, O>(cache, line, expected))
}

fn attend_to<Q: Number, O: Number>(
    cache: &Cache<'_>,
    line: &Line<'_>,
    expected: &str,
) -> Result<String, Error> {
    let shape = cache.shape();
    let queries: u32 = line.number("queries", "1");
    let sizes = [queries as usize, shape.q_heads as usize, shape.head_dim as usize];
    let strides = strides(line, sizes);
    let q = tensor::<Q>(sizes, strides, line.number("q", ""), 0);
    let mut out = vec![O::default(); q.len() - line.number::<usize>("cut", "0")];
    let options = AttendOptions::new()
        .non_causal(line.number::<u32>("non_causal", "0") != 0)
        .scale(line.number("scale", "0"))
        .logit_softcap(line.number("softcap", "0"))
        .sliding_window(line.number("window", "0"));
    let (q, to) = (Strided::new(&q, 0, strides), StridedMut::new(&mut out, 0, strides));
    cache.attend_strided(line.number("layer", ""), queries, q, to, &options)?;
    let in_order: Vec<O> = places(sizes, strides).map(|place| out[place]).collect();
    Ok(compared(line, &in_order, expected))
}

fn read<T: Number>(cache: &Cache<'_>, line: &Line<'_>, expected: &str) -> Result<String, Error> {
    let shape = cache.shape();
    let [first, tokens] = ["first", "tokens"].map(|key| line.number::<u64>(key, ""));
    let row = (shape.kv_heads * shape.head_dim) as usize;
    let mut out = vec![T::default(); tokens as usize * row - line.number::<usize>("cut", "0")];
    cache.read(line.number("layer", ""), line.side(), first..first + tokens, &mut out)?;
    if line.keys.contains_key("bound") {
        return Ok(compared(line, &out, expected));
    }
    let hash = out.iter().flat_map(|x| x.bytes()).fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    Ok(format!("fnv={hash:016x}"))
}

/// `expected` if the output is near it.
fn compared<T: Number>(line: &Line<'_>, out: &[T], expected: &str) -> String {
    let words = Line::parse(expected);
    let (every, bound) = (words.number("every", "1"), line.number::<f64>("bound", "0"));
    let values: Vec<&str> = words.get("values", "").split(',').collect();
    assert_eq!(values.len(), out.len().div_ceil(every), "number of values");
    for (i, text) in values.iter().enumerate() {
        let (found, wanted) = (out[i * every].value(), T::of_hex(text).value());
        let off = (found - wanted).abs();
        assert!(off <= bound, "element {} is {found} instead of {wanted}", i * every);
    }
    expected.to_string()
}

/// `expected` if the statistics are those.
fn stats(cache: &Cache<'_>, line: &Line<'_>, expected: &str) -> Result<String, Error> {
    let s = cache.stats(line.layers(), line.side())?;
    let sum = s.bytes_codes
        + s.bytes_scales
        + s.bytes_low_rank
        + s.bytes_sparse
        + s.bytes_positions
        + s.bytes_state
        + s.bytes_window_allocated
        + s.bytes_bookkeeping;
    assert_eq!(s.bytes_total, sum);
    let bits = if s.elements == 0 { 0.0 } else { 8.0 * sum as f64 / s.elements as f64 };
    assert!((s.bits_per_element - bits).abs() <= 1e-9 * bits);
    let words = Line::parse(expected);
    for (key, value) in [
        ("tokens", s.tokens),
        ("elements", s.elements),
        ("sealed_elements", s.sealed_elements),
        ("segments", s.segments),
        ("bytes_codes", s.bytes_codes),
        ("bytes_scales", s.bytes_scales),
        ("bytes_low_rank", s.bytes_low_rank),
        ("bytes_fp16", s.bytes_fp16),
    ] {
        assert_eq!(value, words.number::<u64>(key, ""), "{key}");
    }
    for (key, value) in
        [("rel_error_k_mean", s.rel_error_k_mean), ("rel_error_v_mean", s.rel_error_v_mean)]
    {
        let wanted: f64 = words.number(key, "");
        assert!((value - wanted).abs() <= 0.02 * wanted + 1e-6, "{key} is {value}, not {wanted}");
    }
    Ok(expected.to_string())
}

/// The objects of a case.
#[derive(Default)]
struct Objects {
    runtimes: HashMap<String, Arc<Runtime>>,
    plans: HashMap<String, Plan>,
    caches: HashMap<String, Cache<'static>>,
}

impl Objects {
    /// Makes a call; `expected` is the line of results behind it. Gives the results.
    fn call(&mut self, line: &Line<'_>, expected: &str) -> Result<String, Error> {
        let name = line.name.to_string();
        let cache = || &self.caches[line.name];
        let nothing = String::new();
        Ok(match line.op {
            "abi" => {
                assert!(kvgear::abi_versions()?.contains(&line.number("version", "")));
                nothing
            }
            "status" => {
                // SAFETY: gives a static string.
                let name = unsafe {
                    std::ffi::CStr::from_ptr(kvgear_sys::kvg_status_string(line.number("code", "")))
                };
                format!("name={}", name.to_str().unwrap())
            }
            "recipes" => {
                let names: Vec<_> = Recipe::all()?.iter().map(|recipe| recipe.name).collect();
                format!("names={}", names.join(","))
            }
            "canonical" => format!("text={}", Recipe::canonical(line.get("text", ""))?),
            "runtime" => {
                let options = RuntimeOptions::new()
                    .threads(line.number("threads", "0"))
                    .memory_budget(line.number("budget", "0"));
                self.runtimes.insert(name, Arc::new(Runtime::new(&options)?));
                nothing
            }
            "plan" => {
                let [layers, q_heads, kv_heads, head_dim] =
                    ["layers", "q_heads", "kv_heads", "head_dim"].map(|key| line.number(key, ""));
                let shape = Shape { layers, q_heads, kv_heads, head_dim };
                self.plans.insert(name, Plan::new(shape, line.get("recipes", ""))?);
                nothing
            }
            "plan_shape" => {
                let Shape { layers, q_heads, kv_heads, head_dim } =
                    self.plans[line.name].shape()?;
                format!("layers={layers} q_heads={q_heads} kv_heads={kv_heads} head_dim={head_dim}")
            }
            "plan_recipe" => {
                format!("text={}", self.plans[line.name].recipe(line.number("layer", ""))?)
            }
            "cache" => {
                let runtime = Arc::clone(&self.runtimes[line.get("runtime", "")]);
                self.caches
                    .insert(name, Cache::shared(runtime, &self.plans[line.get("plan", "")])?);
                nothing
            }
            "append" => {
                let cache = self.caches.get_mut(line.name).unwrap();
                with_type!(line.get("dtype", "f32"), T => append::<T>(cache, line)?)
            }
            "length" => format!("tokens={}", cache().length(line.number("layer", ""))?),
            "attend" => {
                with_type!(line.get("q_dtype", "f32"), Q => attend::<Q>(cache(), line, expected)?)
            }
            "read" => {
                with_type!(line.get("dtype", "f32"), T => read::<T>(cache(), line, expected)?)
            }
            "stats" => stats(cache(), line, expected)?,
            "truncate" => {
                let cache = self.caches.get_mut(line.name).unwrap();
                cache.truncate(line.layers(), line.number("tokens", ""))?;
                nothing
            }
            "clear" => {
                self.caches.get_mut(line.name).unwrap().clear()?;
                nothing
            }
            "fork" => {
                let fork = self.caches[line.get("of", "")].fork()?;
                self.caches.insert(name, fork);
                nothing
            }
            "memory" => {
                let held = self.runtimes[line.name].memory()?;
                assert_eq!(held, line.number::<u64>("bytes", ""));
                nothing
            }
            "close" => {
                let closed = self.caches.remove(line.name).is_some()
                    || self.plans.remove(line.name).is_some()
                    || self.runtimes.remove(line.name).is_some();
                assert!(closed, "there is nothing to close");
                nothing
            }
            other => panic!("unknown call {other:?}"),
        })
    }
}

/// Runs a file; gives the number of its calls.
fn run(path: &Path) -> usize {
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let (mut objects, mut calls) = (Objects::default(), 0);
    for (number, text) in lines.iter().enumerate() {
        if text.is_empty() || text.starts_with(['#', '>']) {
            continue;
        }
        if text.starts_with("case ") {
            objects = Objects::default();
            continue;
        }
        // Shown with the panic of a check that fails.
        println!("{}:{}: {text}", path.display(), number + 1);
        let line = Line::parse(text);
        let expected = lines.get(number + 1).and_then(|next| next.strip_prefix("> ")).unwrap_or("");
        calls += 1;
        match (objects.call(&line, expected), line.fails) {
            (Ok(results), None) => assert_eq!(results, expected),
            (Err(error), Some((status, words))) => {
                assert_eq!(error.status().to_string(), status, "{error}");
                assert!(error.message().contains(words), "{error} does not hold {words:?}");
            }
            (Ok(_), Some(_)) => panic!("succeeded but must fail"),
            (Err(error), None) => panic!("{error}"),
        }
    }
    calls
}

#[test]
fn all_vectors() {
    let folder =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../tests/conformance/vectors");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "vec"))
        .collect();
    files.sort();
    assert!(files.len() >= 4);
    for file in files {
        assert!(run(&file) > 10, "{} has next to no calls", file.display());
    }
}
