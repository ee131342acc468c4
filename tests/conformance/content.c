/* What a cache holds: read, length, truncate, clear, fork and stats; and their refusals. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cases.h"

static kvg_stats stats_of(const kvg_cache *cache, uint32_t layer, kvg_side side) {
  kvg_stats stats;
  KVG(stats_init)(&stats);
  OK(KVG(cache_stats)(cache, layer, side, &stats, &kvt_err));
  return stats;
}

/* -------------------------------------------------------------------- read */

/* Any range is the same part of the whole, in every type. */
static void ranges(const kvt_rig *rig) {
  const uint64_t length = kvt_length(rig->cache, 0);
  const size_t row = kvt_elements(rig, 1);
  float *all = (float *)kvt_malloc(length * row * sizeof(float));
  float *part = (float *)kvt_malloc(length * row * sizeof(float) + 64);
  unsigned short *halves = (unsigned short *)part;
  kvg_side side;
  unsigned n;
  size_t i;
  for (side = KVG_SIDE_K; side <= KVG_SIDE_V; side++) {
    OK(KVG(cache_read)(rig->cache, 0, side, 0, length, KVG_F32, all, length * row * sizeof(float),
                       &kvt_err));
    for (n = 0; n < 40; n++) {
      const uint64_t first = (uint64_t)(kvt_value(1, n) * 256 + 512) % length;
      const uint64_t tokens = 1 + (uint64_t)(kvt_value(2, n) * 256 + 512) % (length - first);
      const size_t count = (size_t)tokens * row;
      memset(part, 0x5A, length * row * sizeof(float) + 64);
      OK(KVG(cache_read)(rig->cache, 0, side, first, tokens, KVG_F32, part, count * sizeof(float),
                         &kvt_err));
      CHECK(memcmp(part, all + first * row, count * sizeof(float)) == 0);
      CHECK(kvt_same_bytes(part + count, 64, 0x5A)); /* nothing behind what was asked for */
      memset(part, 0x5A, length * row * sizeof(float) + 64);
      OK(KVG(cache_read)(rig->cache, 0, side, first, tokens, n % 2 ? KVG_F16 : KVG_BF16, part,
                         count * 2, &kvt_err));
      CHECK(kvt_same_bytes(halves + count, 64, 0x5A));
      for (i = 0; i < count; i++) {
        const double want = (double)all[first * row + i];
        const uint32_t bits = (uint32_t)halves[i] << 16;
        double bound;
        int is_rounded;
        float got;
        memcpy(&got, &bits, sizeof(got));
        if (n % 2) got = kvt_f32(halves[i]);
        bound = (want < 0 ? -want : want) / 256 + 1e-7; /* half a step of bf16 */
        is_rounded = (double)got - want <= bound && want - (double)got <= bound;
        CHECK(is_rounded);
        if (!is_rounded) break;
      }
    }
  }
  free(all);
  free(part);
}

static void read_refusals(const kvt_rig *rig) {
  const uint64_t length = kvt_length(rig->cache, 0);
  const size_t row = kvt_elements(rig, 1);
  float out[256];
  const size_t bytes = row * sizeof(float);
#define READ(layer, side, first, tokens, dtype, to, to_bytes) \
  KVG(cache_read)(rig->cache, layer, side, first, tokens, dtype, to, to_bytes, &kvt_err)
  memset(out, 0x5A, sizeof(out));
  CHECK(bytes <= sizeof(out));
  REFUSED(KVG_E_INVALID, "layer is 2", READ(2, KVG_SIDE_K, 0, 1, KVG_F32, out, bytes));
  REFUSED(KVG_E_INVALID, "layer", READ(KVG_ALL_LAYERS, KVG_SIDE_K, 0, 1, KVG_F32, out, bytes));
  REFUSED(KVG_E_INVALID, "KVG_SIDE_BOTH", READ(0, KVG_SIDE_BOTH, 0, 1, KVG_F32, out, bytes));
  REFUSED(KVG_E_UNSUPPORTED, "side is 3", READ(0, 3, 0, 1, KVG_F32, out, bytes));
  REFUSED(KVG_E_UNSUPPORTED, "side", READ(0, 0xFFFFFFFFu, 0, 1, KVG_F32, out, bytes));
  REFUSED(KVG_E_UNSUPPORTED, "dtype is 3", READ(0, KVG_SIDE_K, 0, 1, 3, out, bytes));
  REFUSED(KVG_E_INVALID, "out is NULL", READ(0, KVG_SIDE_K, 0, 1, KVG_F32, NULL, bytes));
  REFUSED(KVG_E_INVALID, "out_bytes", READ(0, KVG_SIDE_K, 0, 1, KVG_F32, out, bytes - 1));
  REFUSED(KVG_E_INVALID, "out_bytes", READ(0, KVG_SIDE_K, 0, 1, KVG_F32, out, 0));
  REFUSED(KVG_E_INVALID, "aligned",
          READ(0, KVG_SIDE_K, 0, 1, KVG_F32, (char *)out + 1, sizeof(out) - 1));
  REFUSED(KVG_E_INVALID, "holds", READ(0, KVG_SIDE_K, length, 1, KVG_F32, out, bytes));
  REFUSED(KVG_E_INVALID, "holds", READ(0, KVG_SIDE_K, 0, length + 1, KVG_F32, out, SIZE_MAX));
  REFUSED(KVG_E_INVALID, "holds", READ(0, KVG_SIDE_K, 1, length, KVG_F32, out, SIZE_MAX));
  REFUSED(KVG_E_INVALID, "holds", READ(0, KVG_SIDE_K, 1, UINT64_MAX, KVG_F32, out, SIZE_MAX));
  REFUSED(KVG_E_INVALID, "holds", READ(0, KVG_SIDE_K, UINT64_MAX, 2, KVG_F32, out, SIZE_MAX));
  REFUSED(KVG_E_INVALID, "holds",
          READ(0, KVG_SIDE_K, (uint64_t)1 << 63, (uint64_t)1 << 63, KVG_F32, out, SIZE_MAX));
  CHECK(kvt_same_bytes(out, sizeof(out), 0x5A));
  OK(READ(0, KVG_SIDE_K, length, 0, KVG_F32, NULL, 0)); /* nothing at the end */
  OK(READ(1, KVG_SIDE_V, 0, 0, KVG_F32, NULL, 0));      /* nothing of nothing */
#undef READ
}

static void length_refusals(const kvt_rig *rig) {
  uint64_t tokens = 77;
  REFUSED(KVG_E_INVALID, "layer is 2", KVG(cache_length)(rig->cache, 2, &tokens, &kvt_err));
  REFUSED(KVG_E_INVALID, "layer",
          KVG(cache_length)(rig->cache, KVG_ALL_LAYERS, &tokens, &kvt_err));
  CHECK(tokens == 77);
}

static void reading(void) {
  kvt_rig rig;
  kvt_picture picture;
  if (!kvt_rig_open(&rig, "gear-k3v2,k.outliers=0.04", 2, 4, 2, 32, NULL)) return;
  OK(kvt_append(&rig, rig.cache, 0, 0, 230, 1, &kvt_err));
  OK(kvt_append(&rig, rig.cache, 0, 230, 100, 1, &kvt_err));
  kvt_picture_take(&picture, &rig, rig.cache, 1);
  ranges(&rig);
  read_refusals(&rig);
  length_refusals(&rig);
  CHECK(kvt_unchanged(&picture, &rig, rig.cache, 1));
  kvt_picture_free(&picture);
  kvt_rig_close(&rig);
}

/* ---------------------------------------------------------------- truncate */

static int number_in(const char *text, uint64_t number) {
  const char *p = text;
  while (*p != '\0') {
    if (*p >= '0' && *p <= '9') {
      uint64_t found = 0;
      for (; *p >= '0' && *p <= '9'; p++) found = found * 10 + (uint64_t)(*p - '0');
      if (found == number) return 1;
    } else {
      p++;
    }
  }
  return 0;
}

/* For every length: either it is exact, and then the cache is the one that was cut, row by row, or
 * it is refused, the nearest lengths are named, nothing changed, and those lengths are exact. */
static void truncate_everywhere(const char *recipe) {
  kvt_rig rig;
  kvt_picture whole;
  const uint64_t length = 300;
  uint64_t tokens, below = 0, refused = 0, last_refused = 0;
  int wait_for_above = 0; /* the last refusal named a length above that is still to come */
  char message[KVG_ERROR_MESSAGE_SIZE];
  kvt_where(recipe);
  if (!kvt_rig_open(&rig, recipe, 1, 2, 1, 32, NULL)) return;
  OK(kvt_append(&rig, rig.cache, 0, 0, 130, 1, &kvt_err));
  for (tokens = 130; tokens < length; tokens += 10) {
    OK(kvt_append(&rig, rig.cache, 0, tokens, 10, 1, &kvt_err));
  }
  kvt_picture_take(&whole, &rig, rig.cache, 0);
  message[0] = '\0';
  for (tokens = 0; tokens <= length; tokens++) {
    kvg_cache *fork = NULL;
    kvg_status status;
    OK(KVG(cache_fork)(rig.cache, &fork, &kvt_err));
    status = KVG(cache_truncate)(fork, 0, tokens, &kvt_err);
    CHECK(status == KVG_OK || status == KVG_E_INVALID);
    if (status == KVG_OK) {
      const size_t bytes = kvt_elements(&rig, tokens) * sizeof(float);
      float *before = (float *)kvt_malloc(bytes);
      float *after = (float *)kvt_malloc(bytes);
      kvg_side side;
      CHECK(kvt_length(fork, 0) == tokens);
      for (side = KVG_SIDE_K; side <= KVG_SIDE_V; side++) {
        OK(KVG(cache_read)(rig.cache, 0, side, 0, tokens, KVG_F32, before, bytes, &kvt_err));
        OK(KVG(cache_read)(fork, 0, side, 0, tokens, KVG_F32, after, bytes, &kvt_err));
        CHECK(memcmp(before, after, bytes) == 0);
      }
      free(before);
      free(after);
      /* It goes on from there. */
      OK(kvt_append(&rig, fork, 0, tokens, 70, 1, &kvt_err));
      CHECK(kvt_length(fork, 0) == tokens + 70);
      if (wait_for_above) CHECK(number_in(message, tokens));
      wait_for_above = 0;
      below = tokens;
    } else {
      CHECK(number_in(kvt_err.message, below));
      CHECK(kvt_unchanged(&whole, &rig, fork, 0));
      memcpy(message, kvt_err.message, sizeof(message));
      wait_for_above = 1;
      last_refused = tokens;
      refused++;
    }
    KVG(cache_destroy)(fork);
  }
  CHECK(refused > 0);           /* there are sealed segments */
  CHECK(last_refused < length); /* the whole length always does */
  CHECK(kvt_unchanged(&whole, &rig, rig.cache, 0));
  kvt_picture_free(&whole);
  REFUSED(KVG_E_INVALID, "holds 300", KVG(cache_truncate)(rig.cache, 0, length + 1, &kvt_err));
  REFUSED(KVG_E_INVALID, "layer", KVG(cache_truncate)(rig.cache, 1, 0, &kvt_err));
  REFUSED(KVG_E_INVALID, "", KVG(cache_truncate)(rig.cache, 0, UINT64_MAX, &kvt_err));
  kvt_rig_close(&rig);
  kvt_where("");
}

/* KVG_ALL_LAYERS: shorter layers keep their length; either every layer is cut or none. */
static void truncate_all_layers(void) {
  kvt_rig rig;
  kvt_picture picture;
  if (!kvt_rig_open(&rig, "int4,window=32,block=32;0:fp16,window=512", 3, 2, 1, 32, NULL)) return;
  OK(kvt_append(&rig, rig.cache, 0, 0, 200, 1, &kvt_err));
  OK(kvt_append(&rig, rig.cache, 1, 0, 200, 2, &kvt_err));
  OK(kvt_append(&rig, rig.cache, 2, 0, 7, 3, &kvt_err));
  kvt_picture_take(&picture, &rig, rig.cache, 1);
  /* Layer 0 could be, and comes first. */
  REFUSED(KVG_E_INVALID, "layer 1",
          KVG(cache_truncate)(rig.cache, KVG_ALL_LAYERS, 50, &kvt_err));
  CHECK(kvt_unchanged(&picture, &rig, rig.cache, 1));
  OK(KVG(cache_truncate)(rig.cache, KVG_ALL_LAYERS, 1000, &kvt_err));
  CHECK(kvt_unchanged(&picture, &rig, rig.cache, 1));
  kvt_picture_free(&picture);
  OK(KVG(cache_truncate)(rig.cache, KVG_ALL_LAYERS, 190, &kvt_err));
  CHECK(kvt_length(rig.cache, 0) == 190);
  CHECK(kvt_length(rig.cache, 1) == 190);
  CHECK(kvt_length(rig.cache, 2) == 7);
  OK(KVG(cache_truncate)(rig.cache, KVG_ALL_LAYERS, 0, &kvt_err));
  CHECK(kvt_length(rig.cache, 0) + kvt_length(rig.cache, 1) + kvt_length(rig.cache, 2) == 0);
  kvt_rig_close(&rig);
}

/* ------------------------------------------------------------- fork, clear */

/* What one does after the fork, the other does not see; and both go on as a lone cache would. */
static void forks(const char *recipe) {
  kvt_rig rig;
  kvg_cache *fork = NULL, *second = NULL, *lone = NULL;
  kvt_picture at_fork, picture;
  kvt_where(recipe);
  if (!kvt_rig_open(&rig, recipe, 1, 2, 1, 32, NULL)) return;
  OK(kvt_append(&rig, rig.cache, 0, 0, 215, 1, &kvt_err));
  kvt_picture_take(&at_fork, &rig, rig.cache, 0);
  OK(KVG(cache_fork)(rig.cache, &fork, &kvt_err));
  CHECK(kvt_unchanged(&at_fork, &rig, fork, 0));
  OK(kvt_append(&rig, fork, 0, 215, 90, 2, &kvt_err)); /* another future */
  CHECK(kvt_unchanged(&at_fork, &rig, rig.cache, 0));
  kvt_picture_take(&picture, &rig, fork, 0);
  OK(kvt_append(&rig, rig.cache, 0, 215, 90, 1, &kvt_err));
  CHECK(kvt_unchanged(&picture, &rig, fork, 0));
  OK(KVG(cache_fork)(fork, &second, &kvt_err));
  OK(KVG(cache_clear)(rig.cache, &kvt_err));
  CHECK(kvt_unchanged(&picture, &rig, fork, 0));
  KVG(cache_destroy)(fork);
  CHECK(kvt_unchanged(&picture, &rig, second, 0));
  OK(KVG(cache_create)(rig.runtime, rig.plan, &lone, &kvt_err));
  OK(kvt_append(&rig, lone, 0, 0, 215, 1, &kvt_err));
  OK(kvt_append(&rig, lone, 0, 215, 90, 2, &kvt_err));
  CHECK(kvt_unchanged(&picture, &rig, lone, 0));
  /* Once alone, the fork has what a lone cache has, byte for byte. */
  CHECK(stats_of(second, 0, KVG_SIDE_BOTH).bytes_shared == 0);
  kvt_picture_free(&at_fork);
  kvt_picture_free(&picture);
  KVG(cache_destroy)(second);
  KVG(cache_destroy)(lone);
  kvt_rig_close(&rig);
  kvt_where("");
}

/* A cleared cache is a new one. */
static void clearing(void) {
  kvt_rig rig;
  kvt_picture empty;
  uint64_t before = 0, after = 1;
  if (!kvt_rig_open(&rig, "kivi-2", 2, 2, 1, 32, NULL)) return;
  kvt_picture_take(&empty, &rig, rig.cache, 1);
  OK(KVG(runtime_memory)(rig.runtime, &before, &kvt_err));
  OK(KVG(cache_clear)(rig.cache, &kvt_err));
  OK(kvt_append(&rig, rig.cache, 0, 0, 300, 1, &kvt_err));
  OK(kvt_append(&rig, rig.cache, 1, 0, 3, 1, &kvt_err));
  OK(KVG(cache_clear)(rig.cache, &kvt_err));
  CHECK(kvt_unchanged(&empty, &rig, rig.cache, 1));
  OK(KVG(runtime_memory)(rig.runtime, &after, &kvt_err));
  CHECK(before == after);
  kvt_picture_free(&empty);
  kvt_rig_close(&rig);
}

/* ------------------------------------------------------------------- stats */

static void check_sums(const kvg_stats *s, uint64_t row) {
  CHECK(s->bytes_total == s->bytes_codes + s->bytes_scales + s->bytes_low_rank + s->bytes_sparse +
                              s->bytes_positions + s->bytes_state + s->bytes_window_allocated +
                              s->bytes_bookkeeping);
  CHECK(s->bytes_window_used <= s->bytes_window_allocated);
  CHECK(s->bytes_shared <= s->bytes_total);
  CHECK(s->sealed_elements <= s->elements);
  CHECK(s->bytes_fp16 == 2 * s->elements);
  CHECK(s->elements % row == 0);
  CHECK(s->reserved == 0 && s->struct_size == (uint32_t)sizeof(*s));
  if (s->elements == 0) {
    CHECK(!(s->bits_per_element > 0));
  } else {
    const double bits = 8.0 * (double)s->bytes_total / (double)s->elements;
    CHECK(s->bits_per_element > bits * 0.999999 && s->bits_per_element < bits * 1.000001);
  }
  CHECK(s->rel_error_k_mean >= 0 && s->rel_error_k_mean <= s->rel_error_k_worst);
  CHECK(s->rel_error_v_mean >= 0 && s->rel_error_v_mean <= s->rel_error_v_worst);
  CHECK(s->rel_error_k_worst < 1 && s->rel_error_v_worst < 1);
}

/* Layers make up the whole, and so do the two sides of a layer. */
static void check_parts(const kvt_rig *rig, const kvg_cache *cache) {
  const uint64_t row = kvt_elements(rig, 1);
  const kvg_stats all = stats_of(cache, KVG_ALL_LAYERS, KVG_SIDE_BOTH);
  uint64_t tokens = 0, elements = 0, total = 0, codes = 0, segments = 0;
  uint32_t layer;
  check_sums(&all, row);
  for (layer = 0; layer < rig->layers; layer++) {
    const kvg_stats both = stats_of(cache, layer, KVG_SIDE_BOTH);
    const kvg_stats k = stats_of(cache, layer, KVG_SIDE_K);
    const kvg_stats v = stats_of(cache, layer, KVG_SIDE_V);
    check_sums(&both, row);
    check_sums(&k, row);
    check_sums(&v, row);
    CHECK(both.tokens == kvt_length(cache, layer) && k.tokens == both.tokens);
    CHECK(k.elements == both.tokens * row && v.elements == k.elements);
    CHECK(both.elements == 2 * k.elements);
    CHECK(k.bytes_total + v.bytes_total == both.bytes_total);
    CHECK(k.bytes_window_used + v.bytes_window_used == both.bytes_window_used);
    CHECK(k.segments + v.segments == both.segments);
    CHECK(!(k.rel_error_v_worst > 0) && !(v.rel_error_k_worst > 0));
    CHECK(!(k.rel_error_k_mean < both.rel_error_k_mean) &&
          !(k.rel_error_k_mean > both.rel_error_k_mean));
    tokens += both.tokens;
    elements += both.elements;
    total += both.bytes_total;
    codes += both.bytes_codes;
    segments += both.segments;
  }
  CHECK(all.tokens == tokens && all.elements == elements);
  CHECK(all.bytes_codes == codes && all.segments == segments);
  /* What belongs to no layer is the handle, once. */
  CHECK(all.bytes_total >= total && all.bytes_total <= total + 256);
}

/* Bytes are what was taken from the allocator: to the byte, at every moment. */
static void stats_are_true(const char *recipe) {
  kvt_heap heap;
  kvg_allocator table;
  kvg_runtime_options options;
  kvt_rig rig;
  kvg_cache *other = NULL, *fork = NULL;
  kvg_stats stats;
  uint64_t held = 0;
  size_t runtime_bytes, step;
  static const uint64_t steps[] = {1, 62, 1, 1, 300, 1, 700, 33};
  uint64_t length = 0;
  kvt_where(recipe);
  kvt_heap_table(&heap, &table);
  KVG(runtime_options_init)(&options);
  options.allocator = &table;
  if (!kvt_rig_open(&rig, recipe, 2, 2, 1, 64, &options)) return;
  KVG(cache_destroy)(rig.cache);
  runtime_bytes = heap.bytes; /* the runtime's own handle: no cache's memory */
  rig.cache = NULL;
  OK(KVG(cache_create)(rig.runtime, rig.plan, &rig.cache, &kvt_err));
  for (step = 0; step < sizeof(steps) / sizeof(steps[0]); step++) {
    OK(kvt_append(&rig, rig.cache, 0, length, steps[step], 1, &kvt_err));
    length += steps[step];
    check_parts(&rig, rig.cache);
    stats = stats_of(rig.cache, KVG_ALL_LAYERS, KVG_SIDE_BOTH);
    OK(KVG(runtime_memory)(rig.runtime, &held, &kvt_err));
    CHECK(held == stats.bytes_total);
    CHECK(held + runtime_bytes == heap.bytes);
    CHECK(stats.bytes_shared == 0);
  }
  /* A second cache adds its own; a fork adds what it does not share. */
  OK(KVG(cache_create)(rig.runtime, rig.plan, &other, &kvt_err));
  OK(kvt_append(&rig, other, 1, 0, 200, 1, &kvt_err));
  OK(KVG(runtime_memory)(rig.runtime, &held, &kvt_err));
  stats = stats_of(rig.cache, KVG_ALL_LAYERS, KVG_SIDE_BOTH);
  CHECK(held == stats.bytes_total + stats_of(other, KVG_ALL_LAYERS, KVG_SIDE_BOTH).bytes_total);
  KVG(cache_destroy)(other);
  OK(KVG(cache_fork)(rig.cache, &fork, &kvt_err));
  check_parts(&rig, fork);
  OK(KVG(runtime_memory)(rig.runtime, &held, &kvt_err));
  {
    const kvg_stats a = stats_of(rig.cache, KVG_ALL_LAYERS, KVG_SIDE_BOTH);
    const kvg_stats b = stats_of(fork, KVG_ALL_LAYERS, KVG_SIDE_BOTH);
    CHECK(a.bytes_total == stats.bytes_total && a.bytes_shared > 0);
    CHECK(b.bytes_shared == a.bytes_shared);
    CHECK(held == a.bytes_total + b.bytes_total - b.bytes_shared);
    CHECK(held + runtime_bytes == heap.bytes);
  }
  KVG(cache_destroy)(fork);
  CHECK(stats_of(rig.cache, 0, KVG_SIDE_BOTH).bytes_shared == 0);
  kvt_rig_close(&rig);
  CHECK(heap.blocks == 0);
  kvt_where("");
}

static void stats_refusals(void) {
  kvt_rig rig;
  kvg_stats stats;
  if (!kvt_rig_open(&rig, "int4", 2, 2, 1, 32, NULL)) return;
  memset(&stats, 0x5A, sizeof(stats));
  stats.struct_size = (uint32_t)sizeof(stats);
  REFUSED(KVG_E_INVALID, "layer is 2",
          KVG(cache_stats)(rig.cache, 2, KVG_SIDE_K, &stats, &kvt_err));
  REFUSED(KVG_E_INVALID, "layer",
          KVG(cache_stats)(rig.cache, 0xFFFFFFFEu, KVG_SIDE_K, &stats, &kvt_err));
  REFUSED(KVG_E_UNSUPPORTED, "side is 3",
          KVG(cache_stats)(rig.cache, 0, 3, &stats, &kvt_err));
  CHECK(kvt_same_bytes((char *)&stats + 4, sizeof(stats) - 4, 0x5A));
  kvt_rig_close(&rig);
}

/* How far each recipe may be from the truth on the suite's inputs, as measured by the cache and as
 * found by reading back: the two must agree. */
static void measured_error(const char *recipe) {
  enum { TOKENS = 1000 };
  kvt_rig rig;
  kvg_stats stats;
  kvg_side side;
  kvt_where(recipe);
  if (!kvt_rig_open(&rig, recipe, 1, 2, 1, 64, NULL)) return;
  OK(kvt_append(&rig, rig.cache, 0, 0, TOKENS, 1, &kvt_err));
  stats = stats_of(rig.cache, 0, KVG_SIDE_BOTH);
  for (side = KVG_SIDE_K; side <= KVG_SIDE_V; side++) {
    const kvg_stats one = stats_of(rig.cache, 0, side);
    const size_t sealed = (size_t)one.sealed_elements;
    const double told = side == KVG_SIDE_K ? stats.rel_error_k_mean : stats.rel_error_v_mean;
    const size_t n = kvt_elements(&rig, TOKENS);
    float *back = (float *)kvt_malloc(n * sizeof(float));
    double error = 0, norm = 0;
    size_t i;
    OK(KVG(cache_read)(rig.cache, 0, side, 0, TOKENS, KVG_F32, back, n * sizeof(float), &kvt_err));
    for (i = 0; i < n; i++) {
      const double x = (double)kvt_value(2 + side, i), d = (double)back[i] - x;
      if (i >= sealed) {
        CHECK(!(d > 0) && !(d < 0)); /* the window is exact */
        continue;
      }
      error += d * d;
      norm += x * x;
    }
    if (sealed > 0) {
      const double found = error / norm;
      CHECK(told * told < found * 1.05 + 1e-12 && told * told > found * 0.95 - 1e-12);
    }
    free(back);
  }
  kvt_rig_close(&rig);
  kvt_where("");
}

void case_content(void) {
  uint32_t i;
  reading();
  truncate_all_layers();
  clearing();
  stats_refusals();
  for (i = 0; i < KVG(recipe_count)(); i++) {
    truncate_everywhere(KVG(recipe_name)(i));
    forks(KVG(recipe_name)(i));
    stats_are_true(KVG(recipe_name)(i));
    measured_error(KVG(recipe_name)(i));
  }
}
