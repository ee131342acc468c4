/* kvgear.i: the one interface file of all bindings. It wraps capi/include/kvgear/kvgear.h and nothing else.
 *
 * Facts that a C header cannot say are stated below by macros: which pointers are slices, which are results, who owns
 * what. A language's typemap file (go.i, java.i) gives the macros their meaning for SWIG's own back end. Elsewhere, for
 * the parse tree of `swig -xml`, each macro becomes a %feature, which the tree shows at the declaration as an attribute:
 *
 *   macro                              attribute                       value
 *   %kvg_handle(H, DESTROY)            feature_kvg_handle              function that ends the handle
 *   %kvg_keeps(H, HANDLES)             feature_kvg_keeps               handles that must outlive this one in safe code
 *   %kvg_versioned(S, INIT)            feature_kvg_versioned           function that sets struct_size and the defaults
 *   %kvg_creates(F, P)                 feature_kvg_creates             parameter: receives a new handle
 *   %kvg_bytes_in(F, P, N)             feature_kvg_bytes_in_P          parameter: length in bytes of const void *P
 *   %kvg_bytes_out(F, P, N)            feature_kvg_bytes_out_P         parameter: length in bytes of void *P
 *   %kvg_text_out(F, P, N, NEEDED)     feature_kvg_text_out_P          "N,NEEDED": capacity, and result needed length
 *   %kvg_value_out(F, T, P)            feature_kvg_value_out           parameter: one result of type T
 *   %kvg_struct_out(F, S, P)           feature_kvg_struct_out          parameter: versioned struct S that is filled
 *   %kvg_optional(F, P)                feature_kvg_optional            parameter: may be NULL
 *   %kvg_list_in(F, T, P, N)           feature_kvg_list_in_P           parameter: elements of const T *P
 *   %kvg_list_out(F, T, P, N, NEEDED)  feature_kvg_list_out_P          "N,NEEDED": room in elements of T *P, and result
 *   %kvg_handles_in(F, H, P, N)        feature_kvg_handles_in_P        parameter: number of handles in const H *const *P
 *   %kvg_raw(F)                        feature_kvg_raw                 wrapped by hand in the idiomatic layer
 *   %kvg_calls_back(F)                 feature_kvg_raw                 takes a function: by hand in the raw layer too
 *
 * Every function that may fail returns kvg_status and takes kvg_error *err last; no macro is needed for that.
 * A const handle parameter means: safe from any number of threads at once (rule 4 of the header). */
%module kvgear

#if !defined(SWIGGO) /* a Go package has its copy of the header beside it */
%{
#include <kvgear/kvgear.h>
%}
#endif

%include <stdint.i>

#if defined(SWIGGO)
%include "go.i"
#elif defined(SWIGJAVA)
%include "java.i"
#else
%define %kvg_handle(H, DESTROY)
%feature("kvg:handle", #DESTROY) H;
%enddef
%define %kvg_keeps(H, HANDLES)
%feature("kvg:keeps", HANDLES) H;
%enddef
%define %kvg_versioned(S, INIT)
%feature("kvg:versioned", #INIT) S;
%enddef
%define %kvg_creates(F, P)
%feature("kvg:creates", #P) F;
%enddef
%define %kvg_bytes_in(F, P, N)
%feature("kvg:bytes_in_" #P, #N) F;
%enddef
%define %kvg_bytes_out(F, P, N)
%feature("kvg:bytes_out_" #P, #N) F;
%enddef
%define %kvg_text_out(F, P, N, NEEDED)
%feature("kvg:text_out_" #P, #N "," #NEEDED) F;
%enddef
%define %kvg_value_out(F, T, P)
%feature("kvg:value_out", #P) F;
%enddef
%define %kvg_struct_out(F, S, P)
%feature("kvg:struct_out", #P) F;
%enddef
%define %kvg_optional(F, P)
%feature("kvg:optional", #P) F;
%enddef
%define %kvg_list_in(F, T, P, N)
%feature("kvg:list_in_" #P, #N) F;
%enddef
%define %kvg_list_out(F, T, P, N, NEEDED)
%feature("kvg:list_out_" #P, #N "," #NEEDED) F;
%enddef
%define %kvg_handles_in(F, H, P, N)
%feature("kvg:handles_in_" #P, #N) F;
%enddef
%define %kvg_raw(F)
%feature("kvg:raw") F;
%enddef
%define %kvg_calls_back(F)
%feature("kvg:raw") F;
%enddef
#endif

/* handles */
%kvg_handle(kvg_runtime, kvg_runtime_destroy)
%kvg_handle(kvg_plan, kvg_plan_destroy)
%kvg_handle(kvg_cache, kvg_cache_destroy)
%kvg_handle(kvg_prefix, kvg_prefix_destroy)
%kvg_keeps(kvg_cache, "kvg_runtime,kvg_plan")
%kvg_keeps(kvg_prefix, "kvg_runtime")
%kvg_creates(kvg_runtime_create, out)
%kvg_creates(kvg_plan_create, out)
%kvg_creates(kvg_plan_load, out)
%kvg_creates(kvg_cache_create, out)
%kvg_creates(kvg_cache_fork, out)
%kvg_creates(kvg_cache_load, out)
%kvg_creates(kvg_cache_load_buffer, out)
%kvg_creates(kvg_prefix_create, out)

/* structs */
%kvg_versioned(kvg_allocator, kvg_allocator_init)
%kvg_versioned(kvg_runtime_options, kvg_runtime_options_init)
%kvg_versioned(kvg_shape, kvg_shape_init)
%kvg_versioned(kvg_append_desc, kvg_append_desc_init)
%kvg_versioned(kvg_attend_desc, kvg_attend_desc_init)
%kvg_versioned(kvg_stats, kvg_stats_init)
%kvg_versioned(kvg_save_desc, kvg_save_desc_init)
%kvg_versioned(kvg_load_desc, kvg_load_desc_init)
%kvg_versioned(kvg_prefix_stats, kvg_prefix_stats_init)

/* parameters */
%kvg_optional(kvg_runtime_create, options)
%kvg_optional(kvg_plan_load, shape)
%kvg_bytes_in(kvg_plan_load, fingerprint, fingerprint_bytes)
%kvg_value_out(kvg_plan_latent, uint32_t, rank)
%kvg_value_out(kvg_plan_latent, uint32_t, group_heads)
%kvg_bytes_in(kvg_cache_append, k, k_bytes)
%kvg_bytes_in(kvg_cache_append, v, v_bytes)
%kvg_bytes_in(kvg_cache_attend, q, q_bytes)
%kvg_bytes_out(kvg_cache_attend, out, out_bytes)
%kvg_bytes_out(kvg_cache_read, out, out_bytes)
%kvg_text_out(kvg_runtime_describe, text, text_len, needed)
%kvg_text_out(kvg_recipe_canonical, text, text_len, needed)
%kvg_text_out(kvg_plan_recipe, text, text_len, needed)
%kvg_value_out(kvg_runtime_memory, uint64_t, bytes)
%kvg_value_out(kvg_cache_length, uint64_t, tokens)
%kvg_struct_out(kvg_plan_shape, kvg_shape, out)
%kvg_struct_out(kvg_cache_stats, kvg_stats, stats)
%kvg_struct_out(kvg_prefix_read_stats, kvg_prefix_stats, stats)
%kvg_bytes_in(kvg_cache_load_buffer, data, data_bytes)
%kvg_bytes_in(kvg_cache_extend_buffer, data, data_bytes)
%kvg_optional(kvg_cache_save, desc)
%kvg_optional(kvg_cache_load, desc)
%kvg_optional(kvg_cache_load_buffer, desc)
%kvg_optional(kvg_cache_extend, desc)
%kvg_optional(kvg_cache_extend_buffer, desc)

%kvg_value_out(kvg_cache_held, uint64_t, slots)
%kvg_bytes_in(kvg_cache_append_at, k, k_bytes)
%kvg_bytes_in(kvg_cache_append_at, v, v_bytes)
%kvg_bytes_in(kvg_cache_probe, q, q_bytes)
%kvg_bytes_in(kvg_cache_attend_observe, q, q_bytes)
%kvg_bytes_out(kvg_cache_attend_observe, out, out_bytes)

%kvg_bytes_in(kvg_cache_append_batch, k, k_bytes)
%kvg_bytes_in(kvg_cache_append_batch, v, v_bytes)
%kvg_bytes_in(kvg_cache_attend_batch, q, q_bytes)
%kvg_bytes_out(kvg_cache_attend_batch, out, out_bytes)
%kvg_bytes_out(kvg_cache_save_buffer, data, data_bytes)
%kvg_optional(kvg_cache_save_buffer, desc)
%kvg_value_out(kvg_prefix_find, uint64_t, matched)
%kvg_list_in(kvg_prefix_insert, uint32_t, tokens, tokens_count)
%kvg_list_in(kvg_prefix_find, uint32_t, tokens, tokens_count)
%kvg_list_in(kvg_cache_append_at, uint64_t, positions, positions_len)
%kvg_list_in(kvg_cache_probe, uint64_t, positions, positions_len)
%kvg_list_in(kvg_cache_observe, float, scores, scores_len)
%kvg_list_out(kvg_cache_positions, uint64_t, positions, positions_len, needed)
%kvg_list_out(kvg_cache_probe_positions, uint64_t, positions, positions_len, needed)
%kvg_list_out(kvg_cache_next_tokens, uint64_t, slots, slots_len, needed)
%kvg_list_out(kvg_cache_bits, uint8_t, bits, bits_len, needed)
%kvg_handles_in(kvg_cache_append_batch, kvg_cache, caches, caches_len)
%kvg_handles_in(kvg_cache_attend_batch, kvg_cache, caches, caches_len)

/* Functions that take functions: each language has its own way to call back. */
%kvg_calls_back(kvg_runtime_set_log)
%kvg_calls_back(kvg_cache_save_stream)
%kvg_calls_back(kvg_cache_load_stream)
%kvg_calls_back(kvg_cache_extend_stream)
/* Signatures that do not say all: lists, and results of two parts. */
%kvg_raw(kvg_plan_latent)
%kvg_raw(kvg_cache_append_batch)
%kvg_raw(kvg_cache_attend_batch)
%kvg_raw(kvg_cache_save_buffer)
%kvg_raw(kvg_prefix_insert)
%kvg_raw(kvg_prefix_find)
%kvg_raw(kvg_cache_positions)
%kvg_raw(kvg_cache_bits)
%kvg_raw(kvg_cache_append_at)
%kvg_raw(kvg_cache_observe)
%kvg_raw(kvg_cache_probe)
%kvg_raw(kvg_cache_probe_positions)
%kvg_raw(kvg_cache_next_tokens)

%include "kvgear/kvgear.h"
