// Generated from bindings/swig/kvgear.i by bindings/swig/rust/regenerate.sh. Do not edit.
//
// The part of the safe layer that follows from the C interface alone.

use kvgear_sys as sys;

use crate::call::{c_text, call, init, text_of};
use crate::{Cache, Layers, Plan, PrefixStore, Recipe, Result, Runtime};

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// An argument is wrong: NULL, out of range, wrong length, bad text.
    Invalid,
    /// An allocation failed.
    NoMemory,
    /// The buffer is too short; the needed length was stored.
    BufferTooSmall,
    /// a value or combination that this library does not know.
    Unsupported,
    /// Input holds NaN, infinity, or a magnitude beyond fp16.
    NonFinite,
    /// The handle is destroyed, of another kind, or not in a fit state.
    State,
    /// The memory budget of the runtime would be exceeded.
    Limit,
    /// a backend or its device is missing or failed.
    Backend,
    /// Stored data is damaged.
    Corrupt,
    /// Reading or writing failed.
    Io,
    /// a defect of the library: please report it.
    Internal,
    /// A value that this version of the crate does not know.
    Unknown(i32),
}

impl Status {
    /// The value that C has for it.
    pub const fn raw(self) -> sys::kvg_status {
        match self {
            Self::Invalid => sys::KVG_E_INVALID,
            Self::NoMemory => sys::KVG_E_NOMEM,
            Self::BufferTooSmall => sys::KVG_E_BUFFER_TOO_SMALL,
            Self::Unsupported => sys::KVG_E_UNSUPPORTED,
            Self::NonFinite => sys::KVG_E_NONFINITE,
            Self::State => sys::KVG_E_STATE,
            Self::Limit => sys::KVG_E_LIMIT,
            Self::Backend => sys::KVG_E_BACKEND,
            Self::Corrupt => sys::KVG_E_CORRUPT,
            Self::Io => sys::KVG_E_IO,
            Self::Internal => sys::KVG_E_INTERNAL,
            Self::Unknown(value) => value,
        }
    }

    pub(crate) const fn from_raw(value: sys::kvg_status) -> Self {
        match value {
            sys::KVG_E_INVALID => Self::Invalid,
            sys::KVG_E_NOMEM => Self::NoMemory,
            sys::KVG_E_BUFFER_TOO_SMALL => Self::BufferTooSmall,
            sys::KVG_E_UNSUPPORTED => Self::Unsupported,
            sys::KVG_E_NONFINITE => Self::NonFinite,
            sys::KVG_E_STATE => Self::State,
            sys::KVG_E_LIMIT => Self::Limit,
            sys::KVG_E_BACKEND => Self::Backend,
            sys::KVG_E_CORRUPT => Self::Corrupt,
            sys::KVG_E_IO => Self::Io,
            sys::KVG_E_INTERNAL => Self::Internal,
            other => Self::Unknown(other),
        }
    }
}

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// Bfloat16.
    Bf16,
}

impl Dtype {
    /// The value that C has for it.
    pub const fn raw(self) -> sys::kvg_dtype {
        match self {
            Self::F32 => sys::KVG_F32,
            Self::F16 => sys::KVG_F16,
            Self::Bf16 => sys::KVG_BF16,
        }
    }
}

/// Where memory lies and work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// Host memory.
    Cpu,
    /// An NVIDIA GPU, through libkvgear_cuda.so.
    Cuda,
}

impl Device {
    /// The value that C has for it.
    pub const fn raw(self) -> sys::kvg_device {
        match self {
            Self::Cpu => sys::KVG_CPU,
            Self::Cuda => sys::KVG_CUDA,
        }
    }
}

/// Which half of a layer's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Side {
    /// Keys.
    K,
    /// Values.
    V,
    /// Only for [`Cache::stats`](crate::Cache::stats).
    Both,
}

impl Side {
    /// The value that C has for it.
    pub const fn raw(self) -> sys::kvg_side {
        match self {
            Self::K => sys::KVG_SIDE_K,
            Self::V => sys::KVG_SIDE_V,
            Self::Both => sys::KVG_SIDE_BOTH,
        }
    }
}

/// Severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LogLevel {
    /// Of use when looking for a fault.
    Debug,
    /// Worth knowing.
    Info,
    /// Something is not as it should be, and work goes on.
    Warn,
    /// Something failed.
    Error,
}

impl LogLevel {
    /// The value that C has for it.
    pub const fn raw(self) -> sys::kvg_log_level {
        match self {
            Self::Debug => sys::KVG_LOG_DEBUG,
            Self::Info => sys::KVG_LOG_INFO,
            Self::Warn => sys::KVG_LOG_WARN,
            Self::Error => sys::KVG_LOG_ERROR,
        }
    }

    pub(crate) const fn from_raw(value: sys::kvg_log_level) -> Option<Self> {
        match value {
            sys::KVG_LOG_DEBUG => Some(Self::Debug),
            sys::KVG_LOG_INFO => Some(Self::Info),
            sys::KVG_LOG_WARN => Some(Self::Warn),
            sys::KVG_LOG_ERROR => Some(Self::Error),
            _ => None,
        }
    }
}

/// What [`Runtime::new`](crate::Runtime::new) needs to know. What is not set keeps the default of the library.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuntimeOptions {
    device: Option<Device>,
    device_id: Option<u32>,
    threads: Option<u32>,
    memory_budget: Option<u64>,
}

impl RuntimeOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Default [`Device::Cpu`](crate::Device::Cpu); never changed in silence.
    #[must_use]
    pub fn device(mut self, device: Device) -> Self {
        self.device = Some(device);
        self
    }

    /// Ordinal of the device, 0 for the CPU.
    #[must_use]
    pub fn device_id(mut self, device_id: u32) -> Self {
        self.device_id = Some(device_id);
        self
    }

    /// Worker threads beside the caller's, 0 to 1024.
    #[must_use]
    pub fn threads(mut self, threads: u32) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Most bytes that all caches may hold, see [`Runtime::memory`](crate::Runtime::memory).
    #[must_use]
    pub fn memory_budget(mut self, memory_budget: u64) -> Self {
        self.memory_budget = Some(memory_budget);
        self
    }

    pub(crate) fn to_raw(&self) -> sys::kvg_runtime_options {
        let mut raw = init(|p| unsafe { sys::kvg_runtime_options_init(p) });
        if let Some(device) = self.device {
            raw.device = device.raw();
        }
        if let Some(device_id) = self.device_id {
            raw.device_id = device_id;
        }
        if let Some(threads) = self.threads {
            raw.threads = threads;
        }
        if let Some(memory_budget) = self.memory_budget {
            raw.memory_budget = memory_budget;
        }
        raw
    }
}

/// Shape of the attention layers of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// 1 to 65536.
    pub layers: u32,
    /// Query heads, a multiple of kv_heads, at most 64 times as many.
    pub q_heads: u32,
    /// Heads of the cache, 1 to 1024.
    pub kv_heads: u32,
    /// 32 to 256 in steps of 8.
    pub head_dim: u32,
}

impl Shape {
    pub(crate) fn to_raw(self) -> sys::kvg_shape {
        let mut raw = init(|p| unsafe { sys::kvg_shape_init(p) });
        raw.layers = self.layers;
        raw.q_heads = self.q_heads;
        raw.kv_heads = self.kv_heads;
        raw.head_dim = self.head_dim;
        raw
    }

    pub(crate) fn from_raw(raw: &sys::kvg_shape) -> Self {
        Self {
            layers: raw.layers,
            q_heads: raw.q_heads,
            kv_heads: raw.kv_heads,
            head_dim: raw.head_dim,
        }
    }
}

/// How [`Cache::attend_with`](crate::Cache::attend_with) is to compute. What is not set keeps the default of the library: causal, no cap, no window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttendOptions {
    non_causal: Option<bool>,
    scale: Option<f32>,
    logit_softcap: Option<f32>,
    sliding_window: Option<u64>,
}

impl AttendOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// False: a query sees its own token and older ones; true: it sees all.
    #[must_use]
    pub fn non_causal(mut self, non_causal: bool) -> Self {
        self.non_causal = Some(non_causal);
        self
    }

    /// Factor on q . k; 0 = 1 / sqrt(head_dim).
    #[must_use]
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = Some(scale);
        self
    }

    /// c \> 0: logits become c \* tanh(logit / c); 0 = none.
    #[must_use]
    pub fn logit_softcap(mut self, logit_softcap: f32) -> Self {
        self.logit_softcap = Some(logit_softcap);
        self
    }

    /// w \> 0: a query sees no token w or more before its own; 0 = none.
    #[must_use]
    pub fn sliding_window(mut self, sliding_window: u64) -> Self {
        self.sliding_window = Some(sliding_window);
        self
    }

    pub(crate) fn to_raw(&self) -> sys::kvg_attend_desc {
        let mut raw = init(|p| unsafe { sys::kvg_attend_desc_init(p) });
        if let Some(non_causal) = self.non_causal {
            raw.non_causal = u32::from(non_causal);
        }
        if let Some(scale) = self.scale {
            raw.scale = scale;
        }
        if let Some(logit_softcap) = self.logit_softcap {
            raw.logit_softcap = logit_softcap;
        }
        if let Some(sliding_window) = self.sliding_window {
            raw.sliding_window = sliding_window;
        }
        raw
    }
}

/// Memory and measured error of a cache. Bytes are bytes allocated. The sides of a layer, and the
/// layers, add up to the whole, but for the handle itself (a few dozen bytes of bookkeeping), which
/// only [`Layers::All`](crate::Layers::All) with [`Side::Both`](crate::Side::Both) counts. That sum is what [`Runtime::memory`](crate::Runtime::memory) counts for the
/// cache; what forks share is counted once there, and in each of the forks here. So
/// bytes_total - bytes_shared is what a fork takes for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Tokens held, summed over the layers asked for.
    pub tokens: u64,
    /// Elements held: tokens \* kv_heads \* head_dim, per side.
    pub elements: u64,
    /// Of these, compressed.
    pub sealed_elements: u64,
    /// Sealed segments.
    pub segments: u64,
    /// Sum of all bytes_\* below but window_used.
    pub bytes_total: u64,
    /// Packed codes, padding included.
    pub bytes_codes: u64,
    /// Scales, minima.
    pub bytes_scales: u64,
    /// Low-rank factors.
    pub bytes_low_rank: u64,
    /// Outliers: values and indices.
    pub bytes_sparse: u64,
    /// Token positions, where a method stores them.
    pub bytes_positions: u64,
    /// Recurrent state, score accumulators, bases.
    pub bytes_state: u64,
    /// Part of window_allocated that holds tokens.
    pub bytes_window_used: u64,
    /// Uncompressed newest tokens and the staging of open pages.
    pub bytes_window_allocated: u64,
    /// Headers, segment lists, alignment.
    pub bytes_bookkeeping: u64,
    /// Part of bytes_total that forks share.
    pub bytes_shared: u64,
    /// What the same elements take in plain fp16.
    pub bytes_fp16: u64,
    /// 8 \* bytes_total / elements; 0 when empty.
    pub bits_per_element: f64,
    /// \|K - K\~\| / \|K\| (Frobenius), mean over sealed segments by tokens.
    pub rel_error_k_mean: f64,
    /// Of the worst segment.
    pub rel_error_k_worst: f64,
    /// \|V - V\~\| / \|V\| (Frobenius), mean over sealed segments by tokens.
    pub rel_error_v_mean: f64,
    /// Of the worst segment.
    pub rel_error_v_worst: f64,
    /// Segments used in place in a mapped file; in no other number of bytes.
    pub bytes_mapped: u64,
    /// Tokens, or positions, that came; = tokens + evicted + absorbed.
    pub tokens_appended: u64,
    /// Of these dropped, or never given to their layer.
    pub tokens_evicted: u64,
    /// Of these kept only as part of a recurrent state.
    pub tokens_absorbed: u64,
    /// What the plan holds from a file, for all its caches; in no other number of bytes.
    pub bytes_plan: u64,
}

impl Stats {
    pub(crate) fn from_raw(raw: &sys::kvg_stats) -> Self {
        Self {
            tokens: raw.tokens,
            elements: raw.elements,
            sealed_elements: raw.sealed_elements,
            segments: raw.segments,
            bytes_total: raw.bytes_total,
            bytes_codes: raw.bytes_codes,
            bytes_scales: raw.bytes_scales,
            bytes_low_rank: raw.bytes_low_rank,
            bytes_sparse: raw.bytes_sparse,
            bytes_positions: raw.bytes_positions,
            bytes_state: raw.bytes_state,
            bytes_window_used: raw.bytes_window_used,
            bytes_window_allocated: raw.bytes_window_allocated,
            bytes_bookkeeping: raw.bytes_bookkeeping,
            bytes_shared: raw.bytes_shared,
            bytes_fp16: raw.bytes_fp16,
            bits_per_element: raw.bits_per_element,
            rel_error_k_mean: raw.rel_error_k_mean,
            rel_error_k_worst: raw.rel_error_k_worst,
            rel_error_v_mean: raw.rel_error_v_mean,
            rel_error_v_worst: raw.rel_error_v_worst,
            bytes_mapped: raw.bytes_mapped,
            tokens_appended: raw.tokens_appended,
            tokens_evicted: raw.tokens_evicted,
            tokens_absorbed: raw.tokens_absorbed,
            bytes_plan: raw.bytes_plan,
        }
    }
}

/// What a prefix store holds and did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct PrefixStats {
    /// Stored caches.
    pub entries: u64,
    /// That they hold, with their tokens; what they share counts once.
    pub bytes: u64,
    /// Calls of [`PrefixStore::find`](crate::PrefixStore::find) that found something.
    pub hits: u64,
    /// And that found nothing.
    pub misses: u64,
    /// Caches that made room for others.
    pub evictions: u64,
}

impl PrefixStats {
    pub(crate) fn from_raw(raw: &sys::kvg_prefix_stats) -> Self {
        Self {
            entries: raw.entries,
            bytes: raw.bytes,
            hits: raw.hits,
            misses: raw.misses,
            evictions: raw.evictions,
        }
    }
}

impl Runtime {
    /// A line such as "cpu AVX3_ZEN4, 1 worker thread, no budget".
    pub fn describe(&self) -> Result<String> {
        text_of(|text, text_len, needed, err| unsafe { sys::kvg_runtime_describe(self.raw(), text, text_len, needed, err) })
    }

    /// Bytes that the caches of this runtime hold now, as counted against the budget. Scratch memory of
    /// a running call comes from the same allocator but is not counted; it is released before the call
    /// returns.
    pub fn memory(&self) -> Result<u64> {
        let mut bytes: u64 = 0;
        call(|err| unsafe { sys::kvg_runtime_memory(self.raw(), &mut bytes, err) })?;
        Ok(bytes)
    }
}

impl Recipe {
    /// Checks a recipe text and returns its canonical form: the name of the base recipe and the settings
    /// that differ from it, in a fixed order. Parsing the result gives the same recipe. A text is
    /// `NAME[,KEY=VALUE]...`, for example `gear-2,k.rank=4,v.bits=3,window=64`. A key without `k.` or `v.`
    /// sets both sides.
    pub fn canonical(recipe: &str) -> Result<String> {
        crate::load()?;
        let recipe = c_text(recipe, "recipe")?;
        text_of(|text, text_len, needed, err| unsafe { sys::kvg_recipe_canonical(recipe.as_ptr(), text, text_len, needed, err) })
    }
}

impl Plan {
    /// The shape that the plan was made for.
    pub fn shape(&self) -> Result<Shape> {
        let mut out = init(|p| unsafe { sys::kvg_shape_init(p) });
        call(|err| unsafe { sys::kvg_plan_shape(self.raw(), &mut out, err) })?;
        Ok(Shape::from_raw(&out))
    }

    /// The canonical recipe text of one layer.
    pub fn recipe(&self, layer: u32) -> Result<String> {
        text_of(|text, text_len, needed, err| unsafe { sys::kvg_plan_recipe(self.raw(), layer, text, text_len, needed, err) })
    }
}

impl Cache<'_> {
    /// Number of tokens appended to a layer and not truncated, evicted ones included.
    pub fn length(&self, layer: u32) -> Result<u64> {
        let mut tokens: u64 = 0;
        call(|err| unsafe { sys::kvg_cache_length(self.raw(), layer, &mut tokens, err) })?;
        Ok(tokens)
    }

    /// Shortens a layer, or all of them, to `tokens`. Exact where the length lies in the uncompressed
    /// window or at the edge of a sealed segment of both K and V; elsewhere refused with [`Status::Invalid`](crate::Status::Invalid)
    /// and the nearest lengths below and above in the message. With [`Layers::All`](crate::Layers::All) layers that are
    /// already shorter keep their length, and either every layer is shortened or none.
    pub fn truncate(&mut self, layers: impl Into<Layers>, tokens: u64) -> Result<()> {
        let layers = layers.into().raw();
        call(|err| unsafe { sys::kvg_cache_truncate(self.raw(), layers, tokens, err) })
    }

    /// Drops all tokens of all layers.
    pub fn clear(&mut self) -> Result<()> {
        call(|err| unsafe { sys::kvg_cache_clear(self.raw(), err) })
    }

    /// The statistics of one layer or of all, for one side or both. Cost: O(segments).
    pub fn stats(&self, layers: impl Into<Layers>, side: Side) -> Result<Stats> {
        let layers = layers.into().raw();
        let mut stats = init(|p| unsafe { sys::kvg_stats_init(p) });
        call(|err| unsafe { sys::kvg_cache_stats(self.raw(), layers, side.raw(), &mut stats, err) })?;
        Ok(Stats::from_raw(&stats))
    }

    /// Number of slots of a layer: tokens that it holds for each KV head.
    pub fn held(&self, layer: u32) -> Result<u64> {
        let mut slots: u64 = 0;
        call(|err| unsafe { sys::kvg_cache_held(self.raw(), layer, &mut slots, err) })?;
        Ok(slots)
    }

    /// Ends the prompt of a layer, or of [`Layers::All`](crate::Layers::All) (all of them or none), and lets its policy act if
    /// it is due. Does nothing on layers that keep all tokens.
    pub fn select(&mut self, layers: impl Into<Layers>) -> Result<()> {
        let layers = layers.into().raw();
        call(|err| unsafe { sys::kvg_cache_select(self.raw(), layers, err) })
    }
}

impl PrefixStore<'_> {
    /// Drops all stored caches.
    pub fn clear(&self) -> Result<()> {
        call(|err| unsafe { sys::kvg_prefix_clear(self.raw(), err) })
    }

    /// What the store holds and did.
    pub fn read_stats(&self) -> Result<PrefixStats> {
        let mut stats = init(|p| unsafe { sys::kvg_prefix_stats_init(p) });
        call(|err| unsafe { sys::kvg_prefix_read_stats(self.raw(), &mut stats, err) })?;
        Ok(PrefixStats::from_raw(&stats))
    }
}
