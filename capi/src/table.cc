// Export: the table of all functions. A function that is missing here is found by tests/abi/table.sh.
#include "kvgear/kvgear_table.h"

#include <cstddef>

namespace {

// The slots that each version of the ABI ended with: programs built for it rely on them.
static_assert(offsetof(kvg_api, abi_version) == 8);
static_assert(offsetof(kvg_api, plan_latent) + sizeof(void*) == 8 + 67 * sizeof(void*));  // version 1

constexpr kvg_api kTable = {
    .struct_size = sizeof(kvg_api),
    .version = KVG_ABI_VERSION,
    .abi_version = kvg_abi_version,
    .abi_min = kvg_abi_min,
    .version_string = kvg_version_string,
    .status_string = kvg_status_string,
    .allocator_init = kvg_allocator_init,
    .runtime_options_init = kvg_runtime_options_init,
    .runtime_create = kvg_runtime_create,
    .runtime_destroy = kvg_runtime_destroy,
    .runtime_set_log = kvg_runtime_set_log,
    .runtime_describe = kvg_runtime_describe,
    .runtime_memory = kvg_runtime_memory,
    .recipe_count = kvg_recipe_count,
    .recipe_name = kvg_recipe_name,
    .recipe_summary = kvg_recipe_summary,
    .policy_count = kvg_policy_count,
    .policy_name = kvg_policy_name,
    .policy_summary = kvg_policy_summary,
    .recipe_canonical = kvg_recipe_canonical,
    .shape_init = kvg_shape_init,
    .plan_create = kvg_plan_create,
    .plan_destroy = kvg_plan_destroy,
    .plan_shape = kvg_plan_shape,
    .plan_recipe = kvg_plan_recipe,
    .cache_create = kvg_cache_create,
    .cache_destroy = kvg_cache_destroy,
    .append_desc_init = kvg_append_desc_init,
    .cache_append = kvg_cache_append,
    .attend_desc_init = kvg_attend_desc_init,
    .cache_attend = kvg_cache_attend,
    .cache_attend_batch = kvg_cache_attend_batch,
    .cache_read = kvg_cache_read,
    .cache_length = kvg_cache_length,
    .cache_truncate = kvg_cache_truncate,
    .cache_clear = kvg_cache_clear,
    .cache_fork = kvg_cache_fork,
    .stats_init = kvg_stats_init,
    .cache_stats = kvg_cache_stats,
    .save_desc_init = kvg_save_desc_init,
    .load_desc_init = kvg_load_desc_init,
    .cache_save = kvg_cache_save,
    .cache_save_buffer = kvg_cache_save_buffer,
    .cache_save_stream = kvg_cache_save_stream,
    .cache_load = kvg_cache_load,
    .cache_load_buffer = kvg_cache_load_buffer,
    .cache_load_stream = kvg_cache_load_stream,
    .cache_extend = kvg_cache_extend,
    .cache_extend_buffer = kvg_cache_extend_buffer,
    .cache_extend_stream = kvg_cache_extend_stream,
    .prefix_create = kvg_prefix_create,
    .prefix_destroy = kvg_prefix_destroy,
    .prefix_insert = kvg_prefix_insert,
    .prefix_find = kvg_prefix_find,
    .prefix_clear = kvg_prefix_clear,
    .prefix_stats_init = kvg_prefix_stats_init,
    .prefix_read_stats = kvg_prefix_read_stats,
    .cache_held = kvg_cache_held,
    .cache_positions = kvg_cache_positions,
    .cache_bits = kvg_cache_bits,
    .cache_select = kvg_cache_select,
    .cache_append_at = kvg_cache_append_at,
    .cache_observe = kvg_cache_observe,
    .cache_probe = kvg_cache_probe,
    .cache_probe_positions = kvg_cache_probe_positions,
    .cache_attend_observe = kvg_cache_attend_observe,
    .cache_next_tokens = kvg_cache_next_tokens,
    .plan_load = kvg_plan_load,
    .plan_latent = kvg_plan_latent,
    .cache_append_batch = kvg_cache_append_batch,
};

}  // namespace

const kvg_api* kvg_get_api(uint32_t version) {
  return version >= kvg_abi_min() && version <= kvg_abi_version() ? &kTable : nullptr;
}
