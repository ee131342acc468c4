/* For every recipe: what a cache holds does not depend on how it came there, as far as the recipe
 * allows. Random histories of appends, forks, cuts and clears against one plain append. */
#include <stdlib.h>
#include <string.h>

#include "cases.h"

/* Whether a cache learns a basis, once, from tokens and queries as they come, and keeps it when it is
 * cut: then how tokens came shows. */
static int learns(const char *recipe) { return strncmp(recipe, "tc-", 3) == 0; }

/* A small generator of numbers in [0, below). */
static uint32_t state;
static uint32_t pick(uint32_t below) {
  state = state * 1664525u + 1013904223u;
  return (state >> 8) % below;
}

/* Whether segments of any length compress a token alike: no part spans more than a block. */
static int is_blockwise(const char *recipe) {
  return strncmp(recipe, "gear", 4) != 0 && strncmp(recipe, "kcvt", 4) != 0;
}

/* Rows of both sides and attention over them, not the stats: lists grow by their history. */
static void check_same(const kvt_picture *want, const kvt_rig *rig, const kvg_cache *cache) {
  CHECK(kvt_unchanged(want, rig, cache, 0));
}

/* What every token decodes to, to the bit. Attention may sum the same tokens in another order where
 * they lie in segments of other lengths. */
static float *all_rows(const kvt_rig *rig, const kvg_cache *cache, uint64_t length) {
  const size_t side = kvt_elements(rig, length);
  float *rows = (float *)kvt_malloc(2 * side * sizeof(float));
  memset(rows, 0, 2 * side * sizeof(float));
  OK(KVG(cache_read)(cache, 0, KVG_SIDE_K, 0, length, KVG_F32, rows, side * sizeof(float),
                     &kvt_err));
  OK(KVG(cache_read)(cache, 0, KVG_SIDE_V, 0, length, KVG_F32, rows + side, side * sizeof(float),
                     &kvt_err));
  return rows;
}

static void check_rows(const float *want, const kvt_rig *rig, uint64_t length) {
  float *rows = all_rows(rig, rig->cache, length);
  CHECK(kvt_length(rig->cache, 0) == length);
  CHECK(memcmp(want, rows, 2 * kvt_elements(rig, length) * sizeof(float)) == 0);
  free(rows);
}

static void append_pieces(const kvt_rig *rig, kvg_cache *cache, uint64_t from, uint64_t to,
                          uint32_t most) {
  while (from < to) {
    uint64_t n = pick(most) + 1;
    if (n > to - from) n = to - from;
    OK(kvt_append(rig, cache, 0, from, n, 1, &kvt_err));
    from += n;
  }
}

/* Pieces of at most a block seal the same segments as single tokens do; longer ones too, where
 * nothing spans more than a block. */
static void pieces(const char *recipe, uint32_t head_dim) {
  enum { LENGTH = 460, ROUNDS = 6 };
  kvt_rig rig;
  kvt_picture attended;
  float *single;
  int round;
  if (!kvt_rig_open(&rig, recipe, 1, 4, 2, head_dim, NULL)) return;
  append_pieces(&rig, rig.cache, 0, LENGTH, 1);
  kvt_picture_take(&attended, &rig, rig.cache, 0);
  single = all_rows(&rig, rig.cache, LENGTH);
  OK(KVG(cache_clear)(rig.cache, &kvt_err));
  OK(kvt_append(&rig, rig.cache, 0, 0, LENGTH, 1, &kvt_err));
  if (is_blockwise(recipe)) check_rows(single, &rig, LENGTH);
  for (round = 0; round < ROUNDS; round++) {
    OK(KVG(cache_clear)(rig.cache, &kvt_err));
    append_pieces(&rig, rig.cache, 0, LENGTH, is_blockwise(recipe) && round % 2 ? 300 : 64);
    check_rows(single, &rig, LENGTH);
  }
  OK(KVG(cache_clear)(rig.cache, &kvt_err));
  append_pieces(&rig, rig.cache, 0, LENGTH, 1);
  check_same(&attended, &rig, rig.cache);
  kvt_picture_free(&attended);
  free(single);
  kvt_rig_close(&rig);
}

/* Append, fork, cut and clear at random, on a family of caches. Each has a twin on which its tokens
 * were appended in the same pieces and nothing else ever happened. */
enum { FAMILY = 4, MOST_PIECES = 64 };

typedef struct member {
  kvg_cache *cache;
  uint64_t ends[MOST_PIECES]; /* of the pieces, so that the twin can be built */
  int count;
} member;

static void build_twin(const kvt_rig *rig, const member *m, kvt_picture *picture) {
  kvg_cache *twin = NULL;
  uint64_t from = 0;
  int i;
  OK(KVG(cache_create)(rig->runtime, rig->plan, &twin, &kvt_err));
  for (i = 0; i < m->count; i++) {
    OK(kvt_append(rig, twin, 0, from, m->ends[i] - from, 1, &kvt_err));
    from = m->ends[i];
  }
  kvt_picture_take(picture, rig, twin, 0);
  KVG(cache_destroy)(twin);
}

static void check_member(const kvt_rig *rig, const member *m) {
  kvt_picture picture;
  build_twin(rig, m, &picture);
  check_same(&picture, rig, m->cache);
  kvt_picture_free(&picture);
}

static void family(const char *recipe) {
  kvt_heap heap;
  kvg_allocator table;
  kvg_runtime_options options;
  kvt_rig rig;
  member members[FAMILY];
  uint64_t held = 0;
  int i, step;
  kvt_heap_table(&heap, &table);
  KVG(runtime_options_init)(&options);
  options.allocator = &table;
  if (!kvt_rig_open(&rig, recipe, 1, 2, 1, 32, &options)) return;
  memset(members, 0, sizeof(members));
  for (i = 0; i < FAMILY; i++) {
    OK(KVG(cache_create)(rig.runtime, rig.plan, &members[i].cache, &kvt_err));
  }
  for (step = 0; step < 60; step++) {
    member *m = &members[pick(FAMILY)];
    const uint64_t length = m->count > 0 ? m->ends[m->count - 1] : 0;
    const uint32_t what = pick(10);
    if (what < 6 && m->count < MOST_PIECES && length < 1200) {
      const uint64_t n = 1 + pick(what < 3 ? 20 : 150);
      OK(kvt_append(&rig, m->cache, 0, length, n, 1, &kvt_err));
      m->ends[m->count++] = length + n;
    } else if (what < 8) {
      member *from = &members[pick(FAMILY)];
      if (from == m) continue;
      KVG(cache_destroy)(m->cache);
      *m = *from;
      m->cache = NULL;
      OK(KVG(cache_fork)(from->cache, &m->cache, &kvt_err));
    } else if (what == 8 && m->count > 1) {
      /* Undo the last append where that is exact: it was all in the window, then as now. */
      const uint64_t to = m->ends[m->count - 2];
      kvg_stats before, after;
      KVG(stats_init)(&before);
      after = before;
      OK(KVG(cache_stats)(m->cache, 0, KVG_SIDE_BOTH, &before, &kvt_err));
      if (KVG(cache_truncate)(m->cache, 0, to, NULL) != KVG_OK) continue;
      OK(KVG(cache_stats)(m->cache, 0, KVG_SIDE_BOTH, &after, &kvt_err));
      CHECK(kvt_length(m->cache, 0) == to);
      if (after.sealed_elements == before.sealed_elements && after.segments == before.segments) {
        /* The same segments, fewer rows; the tokens are then brought back in other words. */
        OK(kvt_append(&rig, m->cache, 0, to, m->ends[m->count - 1] - to, 1, &kvt_err));
      } else {
        OK(KVG(cache_clear)(m->cache, &kvt_err));
        m->count = 0;
      }
    } else if (what == 9 && pick(3) == 0) {
      OK(KVG(cache_clear)(m->cache, &kvt_err));
      m->count = 0;
    }
    if (step % 10 == 9) check_member(&rig, m);
  }
  for (i = 0; i < FAMILY; i++) {
    check_member(&rig, &members[i]);
    KVG(cache_destroy)(members[i].cache);
  }
  OK(KVG(cache_clear)(rig.cache, &kvt_err));
  KVG(cache_destroy)(rig.cache);
  rig.cache = NULL;
  OK(KVG(runtime_memory)(rig.runtime, &held, &kvt_err));
  CHECK(held == 0);
  kvt_rig_close(&rig);
  CHECK(heap.blocks == 0);
}

void case_history(void) {
  /* Beside the named ones: parts and sizes that no named recipe has. */
  static const char *const others[] = {
      "gear-2,group=32,decode_rank=2,block=32", "kivi-4,k.block=32,v.window=5", "int8,bits=6,window=0",
      "int4,bits=1,axis=channel,group=64,window=3", "gear-l-4,rank=16,segment=128",
  };
  const uint32_t named = KVG(recipe_count)();
  uint32_t i;
  for (i = 0; i < named + sizeof(others) / sizeof(others[0]); i++) {
    const char *recipe = i < named ? KVG(recipe_name)(i) : others[i - named];
    if (learns(recipe)) continue;
    state = 1 + i;
    kvt_where(recipe);
    if (i < named) pieces(recipe, i % 2 == 0 ? 32 : 72);
    family(recipe);
  }
  kvt_where("");
}
