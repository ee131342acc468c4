/* kvgear_table.h: every function of kvgear.h in one table, for programs that open libkvgear.so with
 * dlopen: one look-up in place of one for each function. kvgear_dl.h does the opening.
 *
 * A slot has the name of its function without kvg_, and is that function: the same address, the same
 * parameters, the same promises, which stand in kvgear.h. Slots are only ever added, at the end. An
 * older library's table is shorter: ask with KVG_API_HAS before using a slot that came after the
 * version that was asked for.
 */
#ifndef KVGEAR_KVGEAR_TABLE_H_
#define KVGEAR_KVGEAR_TABLE_H_

#include <kvgear/kvgear.h>

#ifdef __cplusplus
extern "C" {
#endif

/** The functions of the library. It belongs to the library, never changes and lives as long. */
typedef struct kvg_api {
  uint32_t struct_size; /**< bytes of the library's table */
  uint32_t version;     /**< kvg_abi_version() of the library */

  /* version */
  uint32_t (*abi_version)(void);
  uint32_t (*abi_min)(void);
  const char *(*version_string)(void);

  /* status */
  const char *(*status_string)(kvg_status status);

  /* runtime */
  void (*allocator_init)(kvg_allocator *allocator);
  void (*runtime_options_init)(kvg_runtime_options *options);
  kvg_status (*runtime_create)(const kvg_runtime_options *options, kvg_runtime **out,
                               kvg_error *err);
  void (*runtime_destroy)(kvg_runtime *runtime);
  kvg_status (*runtime_set_log)(kvg_runtime *runtime, kvg_log_fn fn, void *user, kvg_error *err);
  kvg_status (*runtime_describe)(const kvg_runtime *runtime, char *text, size_t text_len,
                                 size_t *needed, kvg_error *err);
  kvg_status (*runtime_memory)(const kvg_runtime *runtime, uint64_t *bytes, kvg_error *err);

  /* recipes, plans */
  uint32_t (*recipe_count)(void);
  const char *(*recipe_name)(uint32_t index);
  const char *(*recipe_summary)(uint32_t index);
  uint32_t (*policy_count)(void);
  const char *(*policy_name)(uint32_t index);
  const char *(*policy_summary)(uint32_t index);
  kvg_status (*recipe_canonical)(const char *recipe, char *text, size_t text_len, size_t *needed,
                                 kvg_error *err);
  void (*shape_init)(kvg_shape *shape);
  kvg_status (*plan_create)(const kvg_shape *shape, const char *recipes, kvg_plan **out,
                            kvg_error *err);
  void (*plan_destroy)(kvg_plan *plan);
  kvg_status (*plan_shape)(const kvg_plan *plan, kvg_shape *out, kvg_error *err);
  kvg_status (*plan_recipe)(const kvg_plan *plan, uint32_t layer, char *text, size_t text_len,
                            size_t *needed, kvg_error *err);

  /* caches */
  kvg_status (*cache_create)(kvg_runtime *runtime, const kvg_plan *plan, kvg_cache **out,
                             kvg_error *err);
  void (*cache_destroy)(kvg_cache *cache);
  void (*append_desc_init)(kvg_append_desc *desc);
  kvg_status (*cache_append)(kvg_cache *cache, uint32_t layer, const void *k, size_t k_bytes,
                             const void *v, size_t v_bytes, const kvg_append_desc *desc,
                             kvg_error *err);
  void (*attend_desc_init)(kvg_attend_desc *desc);
  kvg_status (*cache_attend)(const kvg_cache *cache, uint32_t layer, const void *q, size_t q_bytes,
                             void *out, size_t out_bytes, const kvg_attend_desc *desc,
                             kvg_error *err);
  kvg_status (*cache_attend_batch)(const kvg_cache *const *caches, size_t caches_len,
                                   uint32_t layer, const void *q, size_t q_bytes, void *out,
                                   size_t out_bytes, const kvg_attend_desc *desc, kvg_error *err);
  kvg_status (*cache_read)(const kvg_cache *cache, uint32_t layer, kvg_side side,
                           uint64_t first_token, uint64_t tokens, kvg_dtype dtype, void *out,
                           size_t out_bytes, kvg_error *err);
  kvg_status (*cache_length)(const kvg_cache *cache, uint32_t layer, uint64_t *tokens,
                             kvg_error *err);
  kvg_status (*cache_truncate)(kvg_cache *cache, uint32_t layer, uint64_t tokens, kvg_error *err);
  kvg_status (*cache_clear)(kvg_cache *cache, kvg_error *err);
  kvg_status (*cache_fork)(const kvg_cache *cache, kvg_cache **out, kvg_error *err);
  void (*stats_init)(kvg_stats *stats);
  kvg_status (*cache_stats)(const kvg_cache *cache, uint32_t layer, kvg_side side, kvg_stats *stats,
                            kvg_error *err);

  /* saved caches */
  void (*save_desc_init)(kvg_save_desc *desc);
  void (*load_desc_init)(kvg_load_desc *desc);
  kvg_status (*cache_save)(const kvg_cache *cache, const char *path, const kvg_save_desc *desc,
                           kvg_error *err);
  kvg_status (*cache_save_buffer)(const kvg_cache *cache, void *data, size_t data_bytes,
                                  size_t *needed, const kvg_save_desc *desc, kvg_error *err);
  kvg_status (*cache_save_stream)(const kvg_cache *cache, kvg_write_fn write, void *user,
                                  const kvg_save_desc *desc, kvg_error *err);
  kvg_status (*cache_load)(kvg_runtime *runtime, const kvg_plan *plan, const char *path,
                           const kvg_load_desc *desc, kvg_cache **out, kvg_error *err);
  kvg_status (*cache_load_buffer)(kvg_runtime *runtime, const kvg_plan *plan, const void *data,
                                  size_t data_bytes, const kvg_load_desc *desc, kvg_cache **out,
                                  kvg_error *err);
  kvg_status (*cache_load_stream)(kvg_runtime *runtime, const kvg_plan *plan, kvg_read_fn read,
                                  void *user, const kvg_load_desc *desc, kvg_cache **out,
                                  kvg_error *err);
  kvg_status (*cache_extend)(kvg_cache *cache, const char *path, const kvg_load_desc *desc,
                             kvg_error *err);
  kvg_status (*cache_extend_buffer)(kvg_cache *cache, const void *data, size_t data_bytes,
                                    const kvg_load_desc *desc, kvg_error *err);
  kvg_status (*cache_extend_stream)(kvg_cache *cache, kvg_read_fn read, void *user,
                                    const kvg_load_desc *desc, kvg_error *err);

  /* prefixes */
  kvg_status (*prefix_create)(kvg_runtime *runtime, uint64_t budget, kvg_prefix **out,
                              kvg_error *err);
  void (*prefix_destroy)(kvg_prefix *prefix);
  kvg_status (*prefix_insert)(kvg_prefix *prefix, const uint32_t *tokens, size_t tokens_count,
                              const kvg_cache *cache, kvg_error *err);
  kvg_status (*prefix_find)(kvg_prefix *prefix, const kvg_plan *plan, const uint32_t *tokens,
                            size_t tokens_count, uint64_t *matched, kvg_cache **out,
                            kvg_error *err);
  kvg_status (*prefix_clear)(kvg_prefix *prefix, kvg_error *err);
  void (*prefix_stats_init)(kvg_prefix_stats *stats);
  kvg_status (*prefix_read_stats)(const kvg_prefix *prefix, kvg_prefix_stats *stats,
                                  kvg_error *err);

  /* selection */
  kvg_status (*cache_held)(const kvg_cache *cache, uint32_t layer, uint64_t *slots, kvg_error *err);
  kvg_status (*cache_positions)(const kvg_cache *cache, uint32_t layer, uint32_t kv_head,
                                uint64_t *positions, size_t positions_len, size_t *needed,
                                kvg_error *err);
  kvg_status (*cache_bits)(const kvg_cache *cache, uint32_t layer, kvg_side side, uint8_t *bits,
                           size_t bits_len, size_t *needed, kvg_error *err);
  kvg_status (*cache_select)(kvg_cache *cache, uint32_t layer, kvg_error *err);
  kvg_status (*cache_append_at)(kvg_cache *cache, uint32_t layer, const void *k, size_t k_bytes,
                                const void *v, size_t v_bytes, const uint64_t *positions,
                                size_t positions_len, const kvg_append_desc *desc, kvg_error *err);
  kvg_status (*cache_observe)(kvg_cache *cache, uint32_t layer, const float *scores,
                              size_t scores_len, uint64_t rows, kvg_error *err);
  kvg_status (*cache_probe)(kvg_cache *cache, uint32_t layer, const void *q, size_t q_bytes,
                            const uint64_t *positions, size_t positions_len,
                            const kvg_attend_desc *desc, kvg_error *err);
  kvg_status (*cache_probe_positions)(const kvg_cache *cache, uint32_t layer, uint64_t *positions,
                                      size_t positions_len, size_t *needed, kvg_error *err);
  kvg_status (*cache_attend_observe)(kvg_cache *cache, uint32_t layer, const void *q,
                                     size_t q_bytes, void *out, size_t out_bytes,
                                     const kvg_attend_desc *desc, kvg_error *err);
  kvg_status (*cache_next_tokens)(const kvg_cache *cache, uint32_t layer, uint64_t *slots,
                                  size_t slots_len, size_t *needed, kvg_error *err);

  /* plans from files */
  kvg_status (*plan_load)(const char *path, const kvg_shape *shape, const char *recipes,
                          const void *fingerprint, size_t fingerprint_bytes, kvg_plan **out,
                          kvg_error *err);
  kvg_status (*plan_latent)(const kvg_plan *plan, uint32_t layer, kvg_side side, uint32_t *rank,
                            uint32_t *group_heads, kvg_error *err);
  /* End of version 1. Never change anything above; new functions go below. */
  kvg_status (*cache_append_batch)(kvg_cache *const *caches, size_t caches_len, uint32_t layer,
                                   const void *k, size_t k_bytes, const void *v, size_t v_bytes,
                                   const kvg_append_desc *desc, kvg_error *err);
} kvg_api;

/** Whether the table that a library gave has a slot. */
#define KVG_API_HAS(api, slot) \
  ((size_t)((const char *)&(api)->slot - (const char *)(api)) + sizeof((api)->slot) <= \
   (api)->struct_size)

/**
 * Gives the table of the library's functions, if it serves programs of ABI version `version`: the
 * KVG_ABI_VERSION of the header that the program was compiled with, or an older one that will do.
 * All slots of that version are there then.
 * @return the table, or NULL when version < kvg_abi_min() or version > kvg_abi_version()
 */
KVG_API const kvg_api *kvg_get_api(uint32_t version);

/** Type of kvg_get_api, for a pointer from dlsym. */
typedef const kvg_api *(*kvg_get_api_fn)(uint32_t version);

#ifdef __cplusplus
}
#endif

#endif /* KVGEAR_KVGEAR_TABLE_H_ */
