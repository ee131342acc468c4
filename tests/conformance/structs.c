/* struct_size: every struct that a caller passes, as an older or a newer header would have it. */
#include <stddef.h>
#include <string.h>

#include "cases.h"

#define MOST_SIZE 4096u

/* A struct of any size, aligned for all. */
typedef union room {
  uint32_t struct_size;
  double align;
  void *pointer;
  unsigned char bytes[MOST_SIZE + 64];
} room;

/* Makes the room a copy of a good struct that says it has `size` bytes and holds `tail` where the
 * library of today has no field. */
static void dress(room *r, const void *good, size_t good_size, size_t size, int tail) {
  memset(r->bytes, 0xEE, sizeof(r->bytes)); /* not to be looked at */
  if (size > good_size) memset(r->bytes, tail, size);
  memcpy(r->bytes, good, good_size < size || size < 4 ? good_size : size);
  r->struct_size = (uint32_t)size;
}

static kvt_rig rig;

/* Passes the struct in the room to the call that takes it; a pointer that lies in it is `inner`. */
typedef kvg_status (*taker)(room *r);

static kvg_status take_options(room *r) {
  kvg_runtime *runtime = NULL;
  const kvg_status status =
      KVG(runtime_create)((const kvg_runtime_options *)r->bytes, &runtime, &kvt_err);
  CHECK((status == KVG_OK) == (runtime != NULL));
  KVG(runtime_destroy)(runtime);
  return status;
}

static kvg_status take_allocator(room *r) {
  kvg_runtime *runtime = NULL;
  kvg_status status;
  kvg_runtime_options options;
  KVG(runtime_options_init)(&options);
  options.allocator = (const kvg_allocator *)r->bytes;
  status = KVG(runtime_create)(&options, &runtime, &kvt_err);
  CHECK((status == KVG_OK) == (runtime != NULL));
  KVG(runtime_destroy)(runtime);
  return status;
}

static kvg_status take_shape(room *r) {
  kvg_plan *plan = NULL;
  const kvg_status status =
      KVG(plan_create)((const kvg_shape *)r->bytes, "int4", &plan, &kvt_err);
  CHECK((status == KVG_OK) == (plan != NULL));
  KVG(plan_destroy)(plan);
  return status;
}

static unsigned short rows[1024];

static kvg_status take_append(room *r) {
  return KVG(cache_append)(rig.cache, 0, rows, sizeof(rows), rows, sizeof(rows),
                           (const kvg_append_desc *)r->bytes, &kvt_err);
}

static kvg_status take_attend(room *r) {
  unsigned short out[1024];
  return KVG(cache_attend)(rig.cache, 0, rows, sizeof(rows), out, sizeof(out),
                           (const kvg_attend_desc *)r->bytes, &kvt_err);
}

static kvg_status take_stats(room *r) {
  return KVG(cache_stats)(rig.cache, 0, KVG_SIDE_BOTH, (kvg_stats *)r->bytes, &kvt_err);
}

static kvg_status take_save(room *r) {
  size_t needed;
  return KVG(cache_save_buffer)(rig.cache, NULL, 0, &needed, (const kvg_save_desc *)r->bytes,
                                &kvt_err);
}

static unsigned char saved[8192];
static size_t saved_size;

static kvg_status take_load(room *r) {
  kvg_cache *made = NULL;
  kvg_status status = KVG(cache_load_buffer)(rig.runtime, rig.plan, saved, saved_size,
                                             (const kvg_load_desc *)r->bytes, &made, &kvt_err);
  KVG(cache_destroy)(made);
  return status;
}

static kvg_prefix *prefix;

static kvg_status take_prefix_stats(room *r) {
  return KVG(prefix_read_stats)(prefix, (kvg_prefix_stats *)r->bytes, &kvt_err);
}

static kvg_status take_plan_shape(room *r) {
  return KVG(plan_shape)(rig.plan, (kvg_shape *)r->bytes, &kvt_err);
}

/* What holds for every struct. `ends` are the ends of its fields, 0-terminated; `least` is the
 * smallest of them with which the call can succeed, because of what the missing fields default to. */
static void sizes(const char *name, taker take, const void *good, size_t good_size,
                  const size_t *ends, size_t least) {
  room r;
  size_t size, i;
  kvt_where(name);
  dress(&r, good, good_size, good_size, 0);
  OK(take(&r));
  for (size = 0; size < good_size; size++) {
    int at_end = 0;
    for (i = 0; ends[i] != 0; i++) at_end = at_end || ends[i] == size;
    if (at_end && size < least) continue;
    dress(&r, good, good_size, size, 0);
    if (at_end) {
      OK(take(&r));
    } else {
      REFUSED(KVG_E_INVALID, "struct_size", take(&r));
    }
  }
  for (size = good_size + 1; size <= good_size + 24; size++) {
    dress(&r, good, good_size, size, 0);
    OK(take(&r));
    r.bytes[size - 1] = 1;
    REFUSED(KVG_E_UNSUPPORTED, "newer header", take(&r));
    dress(&r, good, good_size, size, 0);
    r.bytes[good_size] = 0x80;
    REFUSED(KVG_E_UNSUPPORTED, "newer header", take(&r));
  }
  dress(&r, good, good_size, MOST_SIZE, 0);
  OK(take(&r));
  dress(&r, good, good_size, good_size, 0);
  r.struct_size = MOST_SIZE + 1;
  REFUSED(KVG_E_INVALID, "struct_size", take(&r));
  r.struct_size = 0xFFFFFFFFu; /* as in memory that was never set up */
  REFUSED(KVG_E_INVALID, "struct_size", take(&r));
  kvt_where("");
}

#define END(type, field) (offsetof(type, field) + sizeof(((type *)0)->field))

static void inputs(void) {
  static const size_t options_ends[] = {END(kvg_runtime_options, struct_size),
                                        END(kvg_runtime_options, device),
                                        END(kvg_runtime_options, device_id),
                                        END(kvg_runtime_options, threads),
                                        END(kvg_runtime_options, memory_budget),
                                        END(kvg_runtime_options, allocator),
                                        END(kvg_runtime_options, device_allocator), 0};
  static const size_t allocator_ends[] = {
      END(kvg_allocator, struct_size), END(kvg_allocator, reserved), END(kvg_allocator, user),
      END(kvg_allocator, alloc), 0};
  static const size_t shape_ends[] = {END(kvg_shape, struct_size), END(kvg_shape, layers),
                                      END(kvg_shape, q_heads), END(kvg_shape, kv_heads), 0};
  static const size_t append_ends[] = {
      END(kvg_append_desc, struct_size),    END(kvg_append_desc, dtype),
      END(kvg_append_desc, tokens),         END(kvg_append_desc, k_token_stride),
      END(kvg_append_desc, k_head_stride),  END(kvg_append_desc, k_dim_stride),
      END(kvg_append_desc, v_token_stride), END(kvg_append_desc, v_head_stride),
      END(kvg_append_desc, v_dim_stride),   0};
  static const size_t attend_ends[] = {
      END(kvg_attend_desc, struct_size),    END(kvg_attend_desc, q_dtype),
      END(kvg_attend_desc, out_dtype),      END(kvg_attend_desc, queries),
      END(kvg_attend_desc, non_causal),     END(kvg_attend_desc, scale),
      END(kvg_attend_desc, logit_softcap),  END(kvg_attend_desc, latent_out),
      END(kvg_attend_desc, sliding_window), END(kvg_attend_desc, q_token_stride),
      END(kvg_attend_desc, q_head_stride),  END(kvg_attend_desc, out_token_stride),
      END(kvg_attend_desc, out_head_stride), 0};
  static const size_t save_ends[] = {
      END(kvg_save_desc, struct_size), END(kvg_save_desc, first_layer), END(kvg_save_desc, layers),
      END(kvg_save_desc, no_sync),     END(kvg_save_desc, first_token), END(kvg_save_desc, tokens),
      END(kvg_save_desc, fingerprint), 0};
  static const size_t load_ends[] = {
      END(kvg_load_desc, struct_size), END(kvg_load_desc, map),         END(kvg_load_desc, trust),
      END(kvg_load_desc, reserved),    END(kvg_load_desc, fingerprint), 0};
  static const size_t prefix_ends[] = {
      END(kvg_prefix_stats, struct_size), END(kvg_prefix_stats, reserved),
      END(kvg_prefix_stats, entries),     END(kvg_prefix_stats, bytes),
      END(kvg_prefix_stats, hits),        END(kvg_prefix_stats, misses), 0};
  kvg_save_desc save;
  kvg_load_desc load;
  kvg_prefix_stats prefix_stats;
  kvg_runtime_options options;
  kvg_allocator table;
  kvt_heap heap;
  kvg_shape shape;
  kvg_append_desc append;
  kvg_attend_desc attend;
  uint64_t before;
  KVG(runtime_options_init)(&options);
  sizes("kvg_runtime_options", take_options, &options, sizeof(options), options_ends, 0);
  kvt_heap_table(&heap, &table);
  sizes("kvg_allocator", take_allocator, &table, sizeof(table), allocator_ends, sizeof(table));
  CHECK(heap.calls > 0 && heap.blocks == 0);
  KVG(shape_init)(&shape);
  shape.layers = 1;
  shape.q_heads = shape.kv_heads = 1;
  shape.head_dim = 32;
  sizes("kvg_shape", take_shape, &shape, sizeof(shape), shape_ends, sizeof(shape));
  KVG(append_desc_init)(&append);
  sizes("kvg_append_desc", take_append, &append, sizeof(append), append_ends, 0);
  CHECK(kvt_length(rig.cache, 0) == 2); /* tokens was 0 in all of them */
  append.tokens = 1;
  before = kvt_length(rig.cache, 0);
  OK(take_append((room *)(void *)&append));
  CHECK(kvt_length(rig.cache, 0) == before + 1);
  KVG(attend_desc_init)(&attend);
  sizes("kvg_attend_desc", take_attend, &attend, sizeof(attend), attend_ends, 0);
  KVG(save_desc_init)(&save);
  sizes("kvg_save_desc", take_save, &save, sizeof(save), save_ends, 0);
  OK(KVG(cache_save_buffer)(rig.cache, saved, sizeof(saved), &saved_size, NULL, &kvt_err));
  KVG(load_desc_init)(&load);
  sizes("kvg_load_desc", take_load, &load, sizeof(load), load_ends, 0);
  OK(KVG(prefix_create)(rig.runtime, 0, &prefix, &kvt_err));
  KVG(prefix_stats_init)(&prefix_stats);
  sizes("kvg_prefix_stats", take_prefix_stats, &prefix_stats, sizeof(prefix_stats), prefix_ends, 0);
  KVG(prefix_destroy)(prefix);
}

/* A shorter struct has the defaults of the missing fields, not zeros: dtype is fp16. */
static void defaults(void) {
  room r;
  kvg_attend_desc desc;
  unsigned short full[32], few[32];
  KVG(attend_desc_init)(&desc);
  OK(KVG(cache_attend)(rig.cache, 0, rows, 64, full, 64, &desc, &kvt_err));
  dress(&r, &desc, sizeof(desc), 4, 0);
  memset(few, 0, sizeof(few));
  OK(KVG(cache_attend)(rig.cache, 0, rows, 64, few, 64, (const kvg_attend_desc *)r.bytes, &kvt_err));
  CHECK(memcmp(full, few, sizeof(full)) == 0);
}

/* Structs that the library fills in: it writes what the caller's struct has, and no byte more. */
static void outputs(void) {
  static const size_t shape_ends[] = {END(kvg_shape, struct_size), END(kvg_shape, layers),
                                      END(kvg_shape, q_heads), END(kvg_shape, kv_heads), 0};
  static const size_t stats_ends[] = {
      END(kvg_stats, struct_size),        END(kvg_stats, reserved),
      END(kvg_stats, tokens),             END(kvg_stats, elements),
      END(kvg_stats, sealed_elements),    END(kvg_stats, segments),
      END(kvg_stats, bytes_total),        END(kvg_stats, bytes_codes),
      END(kvg_stats, bytes_scales),       END(kvg_stats, bytes_low_rank),
      END(kvg_stats, bytes_sparse),       END(kvg_stats, bytes_positions),
      END(kvg_stats, bytes_state),        END(kvg_stats, bytes_window_used),
      END(kvg_stats, bytes_window_allocated), END(kvg_stats, bytes_bookkeeping),
      END(kvg_stats, bytes_shared),       END(kvg_stats, bytes_fp16),
      END(kvg_stats, bits_per_element),   END(kvg_stats, rel_error_k_mean),
      END(kvg_stats, rel_error_k_worst),  END(kvg_stats, rel_error_v_mean),
      END(kvg_stats, rel_error_v_worst),  END(kvg_stats, bytes_mapped),
      END(kvg_stats, tokens_appended),    END(kvg_stats, tokens_evicted),
      END(kvg_stats, tokens_absorbed),    0};
  kvg_shape shape;
  kvg_stats stats;
  room r;
  size_t i;
  KVG(shape_init)(&shape);
  sizes("kvg_shape out", take_plan_shape, &shape, sizeof(shape), shape_ends, 0);
  OK(KVG(plan_shape)(rig.plan, &shape, &kvt_err));
  KVG(stats_init)(&stats);
  sizes("kvg_stats", take_stats, &stats, sizeof(stats), stats_ends, 0);
  OK(KVG(cache_stats)(rig.cache, 0, KVG_SIDE_BOTH, &stats, &kvt_err));
  CHECK(stats.tokens == 3 && stats.bytes_total > 0);
  for (i = 0; stats_ends[i] != 0; i++) {
    memset(r.bytes, 0xEE, sizeof(r.bytes));
    r.struct_size = (uint32_t)stats_ends[i];
    OK(take_stats(&r));
    CHECK(r.struct_size == (uint32_t)stats_ends[i]);
    CHECK(memcmp(r.bytes + 4, (const char *)&stats + 4, stats_ends[i] - 4) == 0);
    CHECK(kvt_same_bytes(r.bytes + stats_ends[i], sizeof(stats), 0xEE));
  }
  dress(&r, &stats, sizeof(stats), sizeof(stats) + 16, 0);
  memset(r.bytes + 4, 0, sizeof(stats) - 4);
  OK(take_stats(&r));
  CHECK(memcmp(r.bytes + 4, (const char *)&stats + 4, sizeof(stats) - 4) == 0);
  CHECK(kvt_same_bytes(r.bytes + sizeof(stats), 16, 0));
  CHECK(r.bytes[sizeof(stats) + 16] == 0xEE);
  /* Refused: untouched. */
  memset(r.bytes, 0xEE, sizeof(r.bytes));
  r.struct_size = 13;
  REFUSED(KVG_E_INVALID, "struct_size", take_stats(&r));
  r.struct_size = 0xEEEEEEEEu;
  CHECK(kvt_same_bytes(r.bytes, sizeof(r.bytes), 0xEE));
}

static void nulls(void) {
  unsigned short out[32];
  REFUSED(KVG_E_INVALID, "kvg_append_desc is NULL",
          KVG(cache_append)(rig.cache, 0, rows, 64, rows, 64, NULL, &kvt_err));
  REFUSED(KVG_E_INVALID, "kvg_attend_desc is NULL",
          KVG(cache_attend)(rig.cache, 0, rows, 64, out, 64, NULL, &kvt_err));
  REFUSED(KVG_E_INVALID, "kvg_stats is NULL",
          KVG(cache_stats)(rig.cache, 0, KVG_SIDE_BOTH, NULL, &kvt_err));
  REFUSED(KVG_E_INVALID, "kvg_shape is NULL", KVG(plan_shape)(rig.plan, NULL, &kvt_err));
}

void case_structs(void) {
  size_t i;
  for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) rows[i] = kvt_f16(kvt_value(5, i));
  if (!kvt_rig_open(&rig, "int4", 1, 1, 1, 32, NULL)) return;
  OK(kvt_append(&rig, rig.cache, 0, 0, 2, 1, &kvt_err));
  inputs();
  defaults();
  outputs();
  nulls();
  kvt_rig_close(&rig);
}
