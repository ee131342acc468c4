/* How the conformance suite reaches the library: KVG(cache_append)(...) is kvg_cache_append, either
 * linked; or with KVT_DLOPEN looked up by name in a library that is opened at run time; or with
 * KVT_TABLE from the function table of such a library. The list
 * below lists every function once; in the linked program the compiler checks it against the header.
 * C89, and C++ for the programs in tests/fault and tests/thread, which share the kit. */
#ifndef KVGEAR_TESTS_CONFORMANCE_API_H_
#define KVGEAR_TESTS_CONFORMANCE_API_H_

#include <kvgear/kvgear.h>

#define KVT_FUNCTIONS(X)                                                                           \
  X(uint32_t, abi_version, (void))                                                                 \
  X(uint32_t, abi_min, (void))                                                                     \
  X(const char *, version_string, (void))                                                          \
  X(const char *, status_string, (kvg_status))                                                     \
  X(void, allocator_init, (kvg_allocator *))                                                       \
  X(void, runtime_options_init, (kvg_runtime_options *))                                           \
  X(kvg_status, runtime_create, (const kvg_runtime_options *, kvg_runtime **, kvg_error *))        \
  X(void, runtime_destroy, (kvg_runtime *))                                                        \
  X(kvg_status, runtime_set_log, (kvg_runtime *, kvg_log_fn, void *, kvg_error *))                 \
  X(kvg_status, runtime_describe,                                                                  \
    (const kvg_runtime *, char *, size_t, size_t *, kvg_error *))                                  \
  X(kvg_status, runtime_memory, (const kvg_runtime *, uint64_t *, kvg_error *))                    \
  X(uint32_t, recipe_count, (void))                                                                \
  X(const char *, recipe_name, (uint32_t))                                                         \
  X(const char *, recipe_summary, (uint32_t))                                                      \
  X(kvg_status, recipe_canonical, (const char *, char *, size_t, size_t *, kvg_error *))           \
  X(void, shape_init, (kvg_shape *))                                                               \
  X(kvg_status, plan_create, (const kvg_shape *, const char *, kvg_plan **, kvg_error *))          \
  X(kvg_status, plan_load,                                                                         \
    (const char *, const kvg_shape *, const char *, const void *, size_t, kvg_plan **,             \
     kvg_error *))                                                                                 \
  X(kvg_status, plan_latent,                                                                       \
    (const kvg_plan *, uint32_t, kvg_side, uint32_t *, uint32_t *, kvg_error *))                   \
  X(void, plan_destroy, (kvg_plan *))                                                              \
  X(kvg_status, plan_shape, (const kvg_plan *, kvg_shape *, kvg_error *))                          \
  X(kvg_status, plan_recipe,                                                                       \
    (const kvg_plan *, uint32_t, char *, size_t, size_t *, kvg_error *))                           \
  X(kvg_status, cache_create, (kvg_runtime *, const kvg_plan *, kvg_cache **, kvg_error *))        \
  X(void, cache_destroy, (kvg_cache *))                                                            \
  X(void, append_desc_init, (kvg_append_desc *))                                                   \
  X(kvg_status, cache_append,                                                                      \
    (kvg_cache *, uint32_t, const void *, size_t, const void *, size_t, const kvg_append_desc *,   \
     kvg_error *))                                                                                 \
  X(kvg_status, cache_append_batch,                                                                \
    (kvg_cache *const *, size_t, uint32_t, const void *, size_t, const void *, size_t,             \
     const kvg_append_desc *, kvg_error *))                                                        \
  X(void, attend_desc_init, (kvg_attend_desc *))                                                   \
  X(kvg_status, cache_attend,                                                                      \
    (const kvg_cache *, uint32_t, const void *, size_t, void *, size_t, const kvg_attend_desc *,   \
     kvg_error *))                                                                                 \
  X(kvg_status, cache_attend_batch,                                                                \
    (const kvg_cache *const *, size_t, uint32_t, const void *, size_t, void *, size_t,             \
     const kvg_attend_desc *, kvg_error *))                                                        \
  X(kvg_status, cache_read,                                                                        \
    (const kvg_cache *, uint32_t, kvg_side, uint64_t, uint64_t, kvg_dtype, void *, size_t,         \
     kvg_error *))                                                                                 \
  X(kvg_status, cache_length, (const kvg_cache *, uint32_t, uint64_t *, kvg_error *))              \
  X(kvg_status, cache_truncate, (kvg_cache *, uint32_t, uint64_t, kvg_error *))                    \
  X(kvg_status, cache_clear, (kvg_cache *, kvg_error *))                                           \
  X(kvg_status, cache_fork, (const kvg_cache *, kvg_cache **, kvg_error *))                        \
  X(void, stats_init, (kvg_stats *))                                                               \
  X(kvg_status, cache_stats,                                                                       \
    (const kvg_cache *, uint32_t, kvg_side, kvg_stats *, kvg_error *))                             \
  X(void, save_desc_init, (kvg_save_desc *))                                                       \
  X(void, load_desc_init, (kvg_load_desc *))                                                       \
  X(kvg_status, cache_save,                                                                        \
    (const kvg_cache *, const char *, const kvg_save_desc *, kvg_error *))                         \
  X(kvg_status, cache_save_buffer,                                                                 \
    (const kvg_cache *, void *, size_t, size_t *, const kvg_save_desc *, kvg_error *))             \
  X(kvg_status, cache_save_stream,                                                                 \
    (const kvg_cache *, kvg_write_fn, void *, const kvg_save_desc *, kvg_error *))                 \
  X(kvg_status, cache_load,                                                                        \
    (kvg_runtime *, const kvg_plan *, const char *, const kvg_load_desc *, kvg_cache **,           \
     kvg_error *))                                                                                 \
  X(kvg_status, cache_load_buffer,                                                                 \
    (kvg_runtime *, const kvg_plan *, const void *, size_t, const kvg_load_desc *, kvg_cache **,   \
     kvg_error *))                                                                                 \
  X(kvg_status, cache_load_stream,                                                                 \
    (kvg_runtime *, const kvg_plan *, kvg_read_fn, void *, const kvg_load_desc *, kvg_cache **,    \
     kvg_error *))                                                                                 \
  X(kvg_status, cache_extend, (kvg_cache *, const char *, const kvg_load_desc *, kvg_error *))     \
  X(kvg_status, cache_extend_buffer,                                                               \
    (kvg_cache *, const void *, size_t, const kvg_load_desc *, kvg_error *))                       \
  X(kvg_status, cache_extend_stream,                                                               \
    (kvg_cache *, kvg_read_fn, void *, const kvg_load_desc *, kvg_error *))                        \
  X(kvg_status, prefix_create, (kvg_runtime *, uint64_t, kvg_prefix **, kvg_error *))              \
  X(void, prefix_destroy, (kvg_prefix *))                                                          \
  X(kvg_status, prefix_insert,                                                                     \
    (kvg_prefix *, const uint32_t *, size_t, const kvg_cache *, kvg_error *))                      \
  X(kvg_status, prefix_find,                                                                       \
    (kvg_prefix *, const kvg_plan *, const uint32_t *, size_t, uint64_t *, kvg_cache **,           \
     kvg_error *))                                                                                 \
  X(kvg_status, prefix_clear, (kvg_prefix *, kvg_error *))                                         \
  X(void, prefix_stats_init, (kvg_prefix_stats *))                                                 \
  X(kvg_status, prefix_read_stats, (const kvg_prefix *, kvg_prefix_stats *, kvg_error *)) \
  X(uint32_t, policy_count, (void))                                                                \
  X(const char *, policy_name, (uint32_t))                                                         \
  X(const char *, policy_summary, (uint32_t))                                                      \
  X(kvg_status, cache_held, (const kvg_cache *, uint32_t, uint64_t *, kvg_error *))                \
  X(kvg_status, cache_positions,                                                                   \
    (const kvg_cache *, uint32_t, uint32_t, uint64_t *, size_t, size_t *, kvg_error *))            \
  X(kvg_status, cache_bits,                                                                        \
    (const kvg_cache *, uint32_t, kvg_side, uint8_t *, size_t, size_t *, kvg_error *))             \
  X(kvg_status, cache_select, (kvg_cache *, uint32_t, kvg_error *))                                \
  X(kvg_status, cache_append_at,                                                                   \
    (kvg_cache *, uint32_t, const void *, size_t, const void *, size_t, const uint64_t *, size_t,  \
     const kvg_append_desc *, kvg_error *))                                                        \
  X(kvg_status, cache_observe,                                                                     \
    (kvg_cache *, uint32_t, const float *, size_t, uint64_t, kvg_error *))                         \
  X(kvg_status, cache_probe,                                                                       \
    (kvg_cache *, uint32_t, const void *, size_t, const uint64_t *, size_t,                        \
     const kvg_attend_desc *, kvg_error *))                                                        \
  X(kvg_status, cache_probe_positions,                                                             \
    (const kvg_cache *, uint32_t, uint64_t *, size_t, size_t *, kvg_error *))                      \
  X(kvg_status, cache_attend_observe,                                                              \
    (kvg_cache *, uint32_t, const void *, size_t, void *, size_t, const kvg_attend_desc *,         \
     kvg_error *))                                                                                 \
  X(kvg_status, cache_next_tokens,                                                                 \
    (const kvg_cache *, uint32_t, uint64_t *, size_t, size_t *, kvg_error *))

#if defined(KVT_TABLE)
#include <kvgear/kvgear_dl.h>
extern const kvg_api *kvt_api;
#define KVG(name) kvt_api->name
#elif defined(KVT_DLOPEN)
typedef struct kvt_table {
#define KVT_SLOT(ret, name, args) ret(*name) args;
  KVT_FUNCTIONS(KVT_SLOT)
#undef KVT_SLOT
} kvt_table;
extern kvt_table kvt_api;
#define KVG(name) kvt_api.name
#else
#define KVG(name) kvg_##name
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Called once, first. Linked: path is ignored. Returns 0, or 1 after saying what is missing. */
int kvt_api_open(const char *path);
void kvt_api_close(void);

#ifdef __cplusplus
}
#endif

#endif /* KVGEAR_TESTS_CONFORMANCE_API_H_ */
