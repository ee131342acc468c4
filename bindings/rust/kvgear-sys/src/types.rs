// Generated from bindings/swig/kvgear.i by bindings/swig/rust/regenerate.sh. Do not edit.
//
// Constants and types of kvgear.h.

use core::ffi::{c_char, c_void};

pub const KVG_VERSION_MAJOR: u32 = 0;

pub const KVG_VERSION_MINOR: u32 = 1;

pub const KVG_VERSION_PATCH: u32 = 0;

/// ABI version of this header; a library serves every version from [`kvg_abi_min`](crate::kvg_abi_min) to [`kvg_abi_version`](crate::kvg_abi_version).
pub const KVG_ABI_VERSION: u32 = 1;

/// Result of every fallible call; one of enum `kvg_status_code`. Fixed width.
pub type kvg_status = i32;

pub const KVG_OK: kvg_status = 0;
/// an argument is wrong: NULL, out of range, wrong length, bad text
pub const KVG_E_INVALID: kvg_status = 1;
/// an allocation failed
pub const KVG_E_NOMEM: kvg_status = 2;
/// the buffer is too short; the needed length was stored
pub const KVG_E_BUFFER_TOO_SMALL: kvg_status = 3;
/// a value or combination that this library does not know
pub const KVG_E_UNSUPPORTED: kvg_status = 4;
/// input holds NaN, infinity, or a magnitude beyond fp16
pub const KVG_E_NONFINITE: kvg_status = 5;
/// the handle is destroyed, of another kind, or not in a fit state
pub const KVG_E_STATE: kvg_status = 6;
/// the memory budget of the runtime would be exceeded
pub const KVG_E_LIMIT: kvg_status = 7;
/// a backend or its device is missing or failed
pub const KVG_E_BACKEND: kvg_status = 8;
/// stored data is damaged
pub const KVG_E_CORRUPT: kvg_status = 9;
/// reading or writing failed
pub const KVG_E_IO: kvg_status = 10;
/// a defect of the library: please report it
pub const KVG_E_INTERNAL: kvg_status = 100;

pub const KVG_ERROR_MESSAGE_SIZE: u32 = 504;

/// Detail of a failure; owned by the caller, filled by the call that failed. Needs no init.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvg_error {
    /// the status that the call returned
    pub code: kvg_status,
    /// 0
    pub reserved: u32,
    /// one UTF-8 sentence, always terminated
    pub message: [c_char; 504],
}

/// Element type of a tensor; one of enum `kvg_dtype_value`.
pub type kvg_dtype = u32;

/// IEEE binary32
pub const KVG_F32: kvg_dtype = 0;
/// IEEE binary16
pub const KVG_F16: kvg_dtype = 1;
/// bfloat16
pub const KVG_BF16: kvg_dtype = 2;

/// Where memory lies and work is done; one of enum `kvg_device_value`.
pub type kvg_device = u32;

/// host memory
pub const KVG_CPU: kvg_device = 0;
/// an NVIDIA GPU, through libkvgear_cuda.so
pub const KVG_CUDA: kvg_device = 1;

/// Which half of a layer's cache; one of enum `kvg_side_value`.
pub type kvg_side = u32;

pub const KVG_SIDE_K: kvg_side = 0;
pub const KVG_SIDE_V: kvg_side = 1;
/// only for [`kvg_cache_stats`](crate::kvg_cache_stats)
pub const KVG_SIDE_BOTH: kvg_side = 2;

/// Severity of a log line; one of enum `kvg_log_level_value`.
pub type kvg_log_level = u32;

pub const KVG_LOG_DEBUG: kvg_log_level = 0;
pub const KVG_LOG_INFO: kvg_log_level = 1;
pub const KVG_LOG_WARN: kvg_log_level = 2;
pub const KVG_LOG_ERROR: kvg_log_level = 3;

/// As a layer number: every layer of the cache.
pub const KVG_ALL_LAYERS: u32 = 4294967295;

/// Threads, memory and backends; shared by any number of caches.
#[repr(C)]
pub struct kvg_runtime {
    _private: [u8; 0],
    _marker: core::marker::PhantomData<(*mut u8, core::marker::PhantomPinned)>,
}

/// Allocator table. Both functions must be safe to call from any thread and must not call kvgear.
/// alloc returns memory of at least `size` bytes (size \> 0) aligned to `alignment` (a power of two,
/// at most 4096), or NULL. release gets exactly the size and alignment that alloc got.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvg_allocator {
    pub struct_size: u32,
    pub reserved: u32,
    /// passed to both functions
    pub user: *mut c_void,
    pub alloc: Option<unsafe extern "C" fn(user: *mut c_void, size: usize, alignment: usize) -> *mut c_void>,
    pub release: Option<unsafe extern "C" fn(user: *mut c_void, ptr: *mut c_void, size: usize, alignment: usize)>,
}

/// What [`kvg_runtime_create`](crate::kvg_runtime_create) needs to know.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvg_runtime_options {
    pub struct_size: u32,
    /// default [`KVG_CPU`](crate::KVG_CPU); never changed in silence
    pub device: kvg_device,
    /// ordinal of the device, 0 for the CPU
    pub device_id: u32,
    /// worker threads beside the caller's, 0 to 1024
    pub threads: u32,
    /// most bytes that all caches may hold, see [`kvg_runtime_memory`](crate::kvg_runtime_memory)
    pub memory_budget: u64,
    /// copied; NULL = the system's. Host memory of caches comes from it
    pub allocator: *const kvg_allocator,
    pub device_allocator: *const kvg_allocator,
    pub pinned_allocator: *const kvg_allocator,
}

/// Receives log lines, one at a time; may be called from any thread that calls the library or that
/// it owns. The message is terminated, has no line break at its end and is valid during the call.
pub type kvg_log_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, level: kvg_log_level, message: *const c_char)>;

/// Model shape and the recipe of every layer; immutable, shared by caches and threads.
#[repr(C)]
pub struct kvg_plan {
    _private: [u8; 0],
    _marker: core::marker::PhantomData<(*mut u8, core::marker::PhantomPinned)>,
}

/// Shape of the attention layers of a model.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvg_shape {
    pub struct_size: u32,
    /// 1 to 65536
    pub layers: u32,
    /// query heads, a multiple of kv_heads, at most 64 times as many
    pub q_heads: u32,
    /// heads of the cache, 1 to 1024
    pub kv_heads: u32,
    /// 32 to 256 in steps of 8
    pub head_dim: u32,
}

/// The compressed cache of one sequence: one compressed object per layer.
#[repr(C)]
pub struct kvg_cache {
    _private: [u8; 0],
    _marker: core::marker::PhantomData<(*mut u8, core::marker::PhantomPinned)>,
}

/// How the tensors given to [`kvg_cache_append`](crate::kvg_cache_append) lie in memory. Shapes are \[tokens, kv_heads, head_dim\];
/// strides are in elements, as in DLPack, and may be negative. When the three strides of a tensor
/// are all 0 it is contiguous in that order.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvg_append_desc {
    pub struct_size: u32,
    /// of k and of v
    pub dtype: kvg_dtype,
    /// how many; 0 appends nothing
    pub tokens: u64,
    /// elements from one token to the next
    pub k_token_stride: i64,
    pub k_head_stride: i64,
    pub k_dim_stride: i64,
    pub v_token_stride: i64,
    pub v_head_stride: i64,
    pub v_dim_stride: i64,
    /// device runtimes: the stream to work on; NULL on the CPU
    pub stream: *mut c_void,
}

/// What [`kvg_cache_attend`](crate::kvg_cache_attend) is to compute. Query and output shapes are \[queries, q_heads, head_dim\].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvg_attend_desc {
    pub struct_size: u32,
    /// of the queries
    pub q_dtype: kvg_dtype,
    /// of the result
    pub out_dtype: kvg_dtype,
    /// 1 or more; query i belongs to the token at length - queries + i
    pub queries: u32,
    /// 0: a query sees its own token and older ones; 1: it sees all
    pub non_causal: u32,
    /// factor on q . k; 0 = 1 / sqrt(head_dim)
    pub scale: f32,
    /// c \> 0: logits become c \* tanh(logit / c); 0 = none
    pub logit_softcap: f32,
    /// 1: where values are latent, results are \[queries, q_heads, rank\], to be expanded, and given the projection's bias, by the caller; see [`kvg_plan_load`](crate::kvg_plan_load)
    pub latent_out: u32,
    /// w \> 0: a query sees no token w or more before its own; 0 = none
    pub sliding_window: u64,
    /// strides in elements; all 0 = contiguous
    pub q_token_stride: i64,
    pub q_head_stride: i64,
    pub out_token_stride: i64,
    pub out_head_stride: i64,
    /// device runtimes: the stream to work on; NULL on the CPU
    pub stream: *mut c_void,
}

/// Memory and measured error of a cache. Bytes are bytes allocated. The sides of a layer, and the
/// layers, add up to the whole, but for the handle itself (a few dozen bytes of bookkeeping), which
/// only [`KVG_ALL_LAYERS`](crate::KVG_ALL_LAYERS) with [`KVG_SIDE_BOTH`](crate::KVG_SIDE_BOTH) counts. That sum is what [`kvg_runtime_memory`](crate::kvg_runtime_memory) counts for the
/// cache; what forks share is counted once there, and in each of the forks here. So
/// bytes_total - bytes_shared is what a fork takes for itself.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvg_stats {
    pub struct_size: u32,
    /// 0
    pub reserved: u32,
    /// tokens held, summed over the layers asked for
    pub tokens: u64,
    /// elements held: tokens \* kv_heads \* head_dim, per side
    pub elements: u64,
    /// of these, compressed
    pub sealed_elements: u64,
    /// sealed segments
    pub segments: u64,
    /// sum of all bytes_\* below but window_used
    pub bytes_total: u64,
    /// packed codes, padding included
    pub bytes_codes: u64,
    /// scales, minima
    pub bytes_scales: u64,
    /// low-rank factors
    pub bytes_low_rank: u64,
    /// outliers: values and indices
    pub bytes_sparse: u64,
    /// token positions, where a method stores them
    pub bytes_positions: u64,
    /// recurrent state, score accumulators, bases
    pub bytes_state: u64,
    /// part of window_allocated that holds tokens
    pub bytes_window_used: u64,
    /// uncompressed newest tokens and the staging of open pages
    pub bytes_window_allocated: u64,
    /// headers, segment lists, alignment
    pub bytes_bookkeeping: u64,
    /// part of bytes_total that forks share
    pub bytes_shared: u64,
    /// what the same elements take in plain fp16
    pub bytes_fp16: u64,
    /// 8 \* bytes_total / elements; 0 when empty
    pub bits_per_element: f64,
    /// \|K - K\~\| / \|K\| (Frobenius), mean over sealed segments by tokens
    pub rel_error_k_mean: f64,
    /// of the worst segment
    pub rel_error_k_worst: f64,
    pub rel_error_v_mean: f64,
    pub rel_error_v_worst: f64,
    /// segments used in place in a mapped file; in no other number of bytes
    pub bytes_mapped: u64,
    /// tokens, or positions, that came; = tokens + evicted + absorbed
    pub tokens_appended: u64,
    /// of these dropped, or never given to their layer
    pub tokens_evicted: u64,
    /// of these kept only as part of a recurrent state
    pub tokens_absorbed: u64,
    /// what the plan holds from a file, for all its caches; in no other number of bytes
    pub bytes_plan: u64,
}

/// What is to be saved.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvg_save_desc {
    pub struct_size: u32,
    /// counts from 0
    pub first_layer: u32,
    /// 0 = all from first_layer on
    pub layers: u32,
    /// files: 1 = do not wait until the disk has it; a loss of power may cost it
    pub no_sync: u32,
    /// where an exact cut is possible, see [`kvg_cache_truncate`](crate::kvg_cache_truncate); 0 for layers that select tokens, which are saved whole
    pub first_token: u64,
    /// 0 = all from first_token on; the end is an exact cut too
    pub tokens: u64,
    /// what tells this model from others of its shape; may be NULL
    pub fingerprint: *const c_void,
    /// 0 to 256
    pub fingerprint_bytes: u64,
}

/// How a saved cache is to be loaded.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvg_load_desc {
    pub struct_size: u32,
    /// files: 1 = sealed segments stay in the file, which is mapped read-only. It must then neither be changed nor cut while a cache uses it; saving under its name again is fine.
    pub map: u32,
    /// with map: 1 = checks tables and windows only and does not read the rest. For files that nobody else can have written: a damaged or forged one can then make the process fail.
    pub trust: u32,
    /// 0
    pub reserved: u32,
    /// must be the one that was saved
    pub fingerprint: *const c_void,
    /// 0 to 256
    pub fingerprint_bytes: u64,
}

/// Takes bytes of a saved cache.
///
/// Returns how many were taken, 1 to `bytes`; anything else ends the save with [`KVG_E_IO`](crate::KVG_E_IO)
pub type kvg_write_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, data: *const c_void, bytes: u64) -> i64>;

/// Gives the next bytes of a saved cache.
///
/// Returns how many were given, 1 to `bytes`; 0 at the end; below 0 for a failure
pub type kvg_read_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, data: *mut c_void, bytes: u64) -> i64>;

/// Caches of prompts that were seen, by their token ids. Keeps its runtime alive.
#[repr(C)]
pub struct kvg_prefix {
    _private: [u8; 0],
    _marker: core::marker::PhantomData<(*mut u8, core::marker::PhantomPinned)>,
}

/// What a prefix store holds and did.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvg_prefix_stats {
    pub struct_size: u32,
    /// 0
    pub reserved: u32,
    /// stored caches
    pub entries: u64,
    /// that they hold, with their tokens; what they share counts once
    pub bytes: u64,
    /// calls of [`kvg_prefix_find`](crate::kvg_prefix_find) that found something
    pub hits: u64,
    /// and that found nothing
    pub misses: u64,
    /// caches that made room for others
    pub evictions: u64,
}
