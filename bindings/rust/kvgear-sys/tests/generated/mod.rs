// Generated from bindings/swig/kvgear.i by bindings/swig/rust/regenerate.sh. Do not edit.
//
// What Rust makes of the structs and constants of kvgear.h; abi.rs compares it with C.

use crate::{layout_of, Struct};
use kvgear_sys::*;

pub fn structs() -> Vec<Struct> {
    vec![
        layout_of!(kvg_error: code, reserved, message),
        layout_of!(kvg_allocator: struct_size, reserved, user, alloc, release),
        layout_of!(kvg_runtime_options: struct_size, device, device_id, threads, memory_budget, allocator, device_allocator, pinned_allocator),
        layout_of!(kvg_shape: struct_size, layers, q_heads, kv_heads, head_dim),
        layout_of!(kvg_append_desc: struct_size, dtype, tokens, k_token_stride, k_head_stride, k_dim_stride, v_token_stride, v_head_stride, v_dim_stride, stream),
        layout_of!(kvg_attend_desc: struct_size, q_dtype, out_dtype, queries, non_causal, scale, logit_softcap, latent_out, sliding_window, q_token_stride, q_head_stride, out_token_stride, out_head_stride, stream),
        layout_of!(kvg_stats: struct_size, reserved, tokens, elements, sealed_elements, segments, bytes_total, bytes_codes, bytes_scales, bytes_low_rank, bytes_sparse, bytes_positions, bytes_state, bytes_window_used, bytes_window_allocated, bytes_bookkeeping, bytes_shared, bytes_fp16, bits_per_element, rel_error_k_mean, rel_error_k_worst, rel_error_v_mean, rel_error_v_worst, bytes_mapped, tokens_appended, tokens_evicted, tokens_absorbed, bytes_plan),
        layout_of!(kvg_save_desc: struct_size, first_layer, layers, no_sync, first_token, tokens, fingerprint, fingerprint_bytes),
        layout_of!(kvg_load_desc: struct_size, map, trust, reserved, fingerprint, fingerprint_bytes),
        layout_of!(kvg_prefix_stats: struct_size, reserved, entries, bytes, hits, misses, evictions),
    ]
}

pub fn constants() -> Vec<(&'static str, i64)> {
    vec![
        ("KVG_VERSION_MAJOR", i64::from(KVG_VERSION_MAJOR)),
        ("KVG_VERSION_MINOR", i64::from(KVG_VERSION_MINOR)),
        ("KVG_VERSION_PATCH", i64::from(KVG_VERSION_PATCH)),
        ("KVG_ABI_VERSION", i64::from(KVG_ABI_VERSION)),
        ("KVG_OK", i64::from(KVG_OK)),
        ("KVG_E_INVALID", i64::from(KVG_E_INVALID)),
        ("KVG_E_NOMEM", i64::from(KVG_E_NOMEM)),
        ("KVG_E_BUFFER_TOO_SMALL", i64::from(KVG_E_BUFFER_TOO_SMALL)),
        ("KVG_E_UNSUPPORTED", i64::from(KVG_E_UNSUPPORTED)),
        ("KVG_E_NONFINITE", i64::from(KVG_E_NONFINITE)),
        ("KVG_E_STATE", i64::from(KVG_E_STATE)),
        ("KVG_E_LIMIT", i64::from(KVG_E_LIMIT)),
        ("KVG_E_BACKEND", i64::from(KVG_E_BACKEND)),
        ("KVG_E_CORRUPT", i64::from(KVG_E_CORRUPT)),
        ("KVG_E_IO", i64::from(KVG_E_IO)),
        ("KVG_E_INTERNAL", i64::from(KVG_E_INTERNAL)),
        ("KVG_ERROR_MESSAGE_SIZE", i64::from(KVG_ERROR_MESSAGE_SIZE)),
        ("KVG_F32", i64::from(KVG_F32)),
        ("KVG_F16", i64::from(KVG_F16)),
        ("KVG_BF16", i64::from(KVG_BF16)),
        ("KVG_CPU", i64::from(KVG_CPU)),
        ("KVG_CUDA", i64::from(KVG_CUDA)),
        ("KVG_SIDE_K", i64::from(KVG_SIDE_K)),
        ("KVG_SIDE_V", i64::from(KVG_SIDE_V)),
        ("KVG_SIDE_BOTH", i64::from(KVG_SIDE_BOTH)),
        ("KVG_LOG_DEBUG", i64::from(KVG_LOG_DEBUG)),
        ("KVG_LOG_INFO", i64::from(KVG_LOG_INFO)),
        ("KVG_LOG_WARN", i64::from(KVG_LOG_WARN)),
        ("KVG_LOG_ERROR", i64::from(KVG_LOG_ERROR)),
        ("KVG_ALL_LAYERS", i64::from(KVG_ALL_LAYERS)),
    ]
}

pub fn scalars() -> Vec<(&'static str, usize)> {
    vec![
        ("kvg_status", core::mem::size_of::<kvg_status>()),
        ("kvg_dtype", core::mem::size_of::<kvg_dtype>()),
        ("kvg_device", core::mem::size_of::<kvg_device>()),
        ("kvg_side", core::mem::size_of::<kvg_side>()),
        ("kvg_log_level", core::mem::size_of::<kvg_log_level>()),
    ]
}
