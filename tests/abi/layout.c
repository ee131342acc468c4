/* Prints the layout that a C compiler gives to every public struct, and the value of every public
 * constant, in the form of capi/abi/layout.txt. Also refuses structs with holes: a field that is
 * missing from the lists below leaves one, and so does padding, which would carry stray bytes. */
#include <kvgear/kvgear.h>
#include <stddef.h>
#include <stdio.h>

static int holes = 0;
static size_t at = 0;

static void begin(void) { at = 0; }

static void field(const char *name, size_t offset, size_t size) {
  if (offset != at) {
    fprintf(stderr, "%s is at %lu but the field before it ends at %lu\n", name,
            (unsigned long)offset, (unsigned long)at);
    holes = 1;
  }
  at = offset + size;
  printf("  %-24s %4lu %4lu\n", name, (unsigned long)offset, (unsigned long)size);
}

static void end(const char *name, size_t size) {
  if (size != at) {
    fprintf(stderr, "%s has %lu bytes but its last field ends at %lu\n", name, (unsigned long)size,
            (unsigned long)at);
    holes = 1;
  }
}

#define STRUCT(s)                                              \
  do {                                                         \
    printf("struct %s %lu\n", #s, (unsigned long)sizeof(s));   \
    begin();                                                   \
  } while (0)
#define FIELD(s, f) field(#f, offsetof(s, f), sizeof(((s *)0)->f))
#define END(s) end(#s, sizeof(s))
#define CONSTANT(c) printf("constant %-24s %lu\n", #c, (unsigned long)(c))

static void print_structs(void) {
  STRUCT(kvg_error);
  FIELD(kvg_error, code);
  FIELD(kvg_error, reserved);
  FIELD(kvg_error, message);
  END(kvg_error);

  STRUCT(kvg_allocator);
  FIELD(kvg_allocator, struct_size);
  FIELD(kvg_allocator, reserved);
  FIELD(kvg_allocator, user);
  FIELD(kvg_allocator, alloc);
  FIELD(kvg_allocator, release);
  END(kvg_allocator);

  STRUCT(kvg_runtime_options);
  FIELD(kvg_runtime_options, struct_size);
  FIELD(kvg_runtime_options, device);
  FIELD(kvg_runtime_options, device_id);
  FIELD(kvg_runtime_options, threads);
  FIELD(kvg_runtime_options, memory_budget);
  FIELD(kvg_runtime_options, allocator);
  FIELD(kvg_runtime_options, device_allocator);
  FIELD(kvg_runtime_options, pinned_allocator);
  END(kvg_runtime_options);

  STRUCT(kvg_shape);
  FIELD(kvg_shape, struct_size);
  FIELD(kvg_shape, layers);
  FIELD(kvg_shape, q_heads);
  FIELD(kvg_shape, kv_heads);
  FIELD(kvg_shape, head_dim);
  END(kvg_shape);

  STRUCT(kvg_append_desc);
  FIELD(kvg_append_desc, struct_size);
  FIELD(kvg_append_desc, dtype);
  FIELD(kvg_append_desc, tokens);
  FIELD(kvg_append_desc, k_token_stride);
  FIELD(kvg_append_desc, k_head_stride);
  FIELD(kvg_append_desc, k_dim_stride);
  FIELD(kvg_append_desc, v_token_stride);
  FIELD(kvg_append_desc, v_head_stride);
  FIELD(kvg_append_desc, v_dim_stride);
  FIELD(kvg_append_desc, stream);
  END(kvg_append_desc);

  STRUCT(kvg_attend_desc);
  FIELD(kvg_attend_desc, struct_size);
  FIELD(kvg_attend_desc, q_dtype);
  FIELD(kvg_attend_desc, out_dtype);
  FIELD(kvg_attend_desc, queries);
  FIELD(kvg_attend_desc, non_causal);
  FIELD(kvg_attend_desc, scale);
  FIELD(kvg_attend_desc, logit_softcap);
  FIELD(kvg_attend_desc, latent_out);
  FIELD(kvg_attend_desc, sliding_window);
  FIELD(kvg_attend_desc, q_token_stride);
  FIELD(kvg_attend_desc, q_head_stride);
  FIELD(kvg_attend_desc, out_token_stride);
  FIELD(kvg_attend_desc, out_head_stride);
  FIELD(kvg_attend_desc, stream);
  END(kvg_attend_desc);

  STRUCT(kvg_stats);
  FIELD(kvg_stats, struct_size);
  FIELD(kvg_stats, reserved);
  FIELD(kvg_stats, tokens);
  FIELD(kvg_stats, elements);
  FIELD(kvg_stats, sealed_elements);
  FIELD(kvg_stats, segments);
  FIELD(kvg_stats, bytes_total);
  FIELD(kvg_stats, bytes_codes);
  FIELD(kvg_stats, bytes_scales);
  FIELD(kvg_stats, bytes_low_rank);
  FIELD(kvg_stats, bytes_sparse);
  FIELD(kvg_stats, bytes_positions);
  FIELD(kvg_stats, bytes_state);
  FIELD(kvg_stats, bytes_window_used);
  FIELD(kvg_stats, bytes_window_allocated);
  FIELD(kvg_stats, bytes_bookkeeping);
  FIELD(kvg_stats, bytes_shared);
  FIELD(kvg_stats, bytes_fp16);
  FIELD(kvg_stats, bits_per_element);
  FIELD(kvg_stats, rel_error_k_mean);
  FIELD(kvg_stats, rel_error_k_worst);
  FIELD(kvg_stats, rel_error_v_mean);
  FIELD(kvg_stats, rel_error_v_worst);
  FIELD(kvg_stats, bytes_mapped);
  FIELD(kvg_stats, tokens_appended);
  FIELD(kvg_stats, tokens_evicted);
  FIELD(kvg_stats, tokens_absorbed);
  FIELD(kvg_stats, bytes_plan);
  END(kvg_stats);

  STRUCT(kvg_save_desc);
  FIELD(kvg_save_desc, struct_size);
  FIELD(kvg_save_desc, first_layer);
  FIELD(kvg_save_desc, layers);
  FIELD(kvg_save_desc, no_sync);
  FIELD(kvg_save_desc, first_token);
  FIELD(kvg_save_desc, tokens);
  FIELD(kvg_save_desc, fingerprint);
  FIELD(kvg_save_desc, fingerprint_bytes);
  END(kvg_save_desc);

  STRUCT(kvg_load_desc);
  FIELD(kvg_load_desc, struct_size);
  FIELD(kvg_load_desc, map);
  FIELD(kvg_load_desc, trust);
  FIELD(kvg_load_desc, reserved);
  FIELD(kvg_load_desc, fingerprint);
  FIELD(kvg_load_desc, fingerprint_bytes);
  END(kvg_load_desc);

  STRUCT(kvg_prefix_stats);
  FIELD(kvg_prefix_stats, struct_size);
  FIELD(kvg_prefix_stats, reserved);
  FIELD(kvg_prefix_stats, entries);
  FIELD(kvg_prefix_stats, bytes);
  FIELD(kvg_prefix_stats, hits);
  FIELD(kvg_prefix_stats, misses);
  FIELD(kvg_prefix_stats, evictions);
  END(kvg_prefix_stats);
}

static void print_constants(void) {
  CONSTANT(KVG_ABI_VERSION);
  CONSTANT(KVG_OK);
  CONSTANT(KVG_E_INVALID);
  CONSTANT(KVG_E_NOMEM);
  CONSTANT(KVG_E_BUFFER_TOO_SMALL);
  CONSTANT(KVG_E_UNSUPPORTED);
  CONSTANT(KVG_E_NONFINITE);
  CONSTANT(KVG_E_STATE);
  CONSTANT(KVG_E_LIMIT);
  CONSTANT(KVG_E_BACKEND);
  CONSTANT(KVG_E_CORRUPT);
  CONSTANT(KVG_E_IO);
  CONSTANT(KVG_E_INTERNAL);
  CONSTANT(KVG_ERROR_MESSAGE_SIZE);
  CONSTANT(KVG_F32);
  CONSTANT(KVG_F16);
  CONSTANT(KVG_BF16);
  CONSTANT(KVG_CPU);
  CONSTANT(KVG_CUDA);
  CONSTANT(KVG_SIDE_K);
  CONSTANT(KVG_SIDE_V);
  CONSTANT(KVG_SIDE_BOTH);
  CONSTANT(KVG_LOG_DEBUG);
  CONSTANT(KVG_LOG_INFO);
  CONSTANT(KVG_LOG_WARN);
  CONSTANT(KVG_LOG_ERROR);
  CONSTANT(KVG_ALL_LAYERS);
  printf("scalar   %-24s %lu\n", "kvg_status", (unsigned long)sizeof(kvg_status));
  printf("scalar   %-24s %lu\n", "kvg_dtype", (unsigned long)sizeof(kvg_dtype));
  printf("scalar   %-24s %lu\n", "kvg_device", (unsigned long)sizeof(kvg_device));
  printf("scalar   %-24s %lu\n", "kvg_side", (unsigned long)sizeof(kvg_side));
  printf("scalar   %-24s %lu\n", "kvg_log_level", (unsigned long)sizeof(kvg_log_level));
}

int main(void) {
  print_structs();
  print_constants();
  return holes;
}
