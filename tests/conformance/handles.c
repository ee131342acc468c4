/* Handles that are NULL, destroyed, of another kind or no handles at all, on every function that
 * takes one; and destruction in every order. */
#include <stdlib.h>
#include <string.h>

#include "cases.h"

/* Every function that takes a handle, on a handle of unknown kind, with all else in order. What it
 * would have stored is looked at afterwards: nothing. */
typedef struct answers {
  kvg_runtime *runtime;
  kvg_cache *cache;
  uint64_t number;
  size_t needed;
  char text[64];
  unsigned short out[64];
  kvg_shape shape;
  kvg_stats stats;
} answers;

static kvt_rig rig;
static answers a;

static kvg_status on_set_log(void *h) {
  return KVG(runtime_set_log)((kvg_runtime *)h, NULL, NULL, &kvt_err);
}
static kvg_status on_describe(void *h) {
  return KVG(runtime_describe)((kvg_runtime *)h, a.text, sizeof(a.text), &a.needed, &kvt_err);
}
static kvg_status on_memory(void *h) {
  return KVG(runtime_memory)((kvg_runtime *)h, &a.number, &kvt_err);
}
static kvg_status on_create_runtime(void *h) {
  return KVG(cache_create)((kvg_runtime *)h, rig.plan, &a.cache, &kvt_err);
}
static kvg_status on_create_plan(void *h) {
  return KVG(cache_create)(rig.runtime, (const kvg_plan *)h, &a.cache, &kvt_err);
}
static kvg_status on_plan_shape(void *h) {
  return KVG(plan_shape)((const kvg_plan *)h, &a.shape, &kvt_err);
}
static kvg_status on_plan_recipe(void *h) {
  return KVG(plan_recipe)((const kvg_plan *)h, 0, a.text, sizeof(a.text), &a.needed, &kvt_err);
}
static kvg_status on_plan_latent(void *h) {
  static uint32_t rank, heads;
  return KVG(plan_latent)((const kvg_plan *)h, 0, KVG_SIDE_K, &rank, &heads, &kvt_err);
}
static kvg_status on_append(void *h) {
  unsigned short x[64];
  kvg_append_desc desc;
  memset(x, 0, sizeof(x));
  KVG(append_desc_init)(&desc);
  desc.tokens = 1;
  return KVG(cache_append)((kvg_cache *)h, 0, x, sizeof(x), x, sizeof(x), &desc, &kvt_err);
}
static kvg_status on_attend(void *h) {
  unsigned short q[64];
  kvg_attend_desc desc;
  memset(q, 0, sizeof(q));
  KVG(attend_desc_init)(&desc);
  return KVG(cache_attend)((const kvg_cache *)h, 0, q, sizeof(q), a.out, sizeof(a.out), &desc,
                           &kvt_err);
}
static kvg_status on_read(void *h) {
  return KVG(cache_read)((const kvg_cache *)h, 0, KVG_SIDE_K, 0, 1, KVG_F16, a.out, sizeof(a.out),
                         &kvt_err);
}
static kvg_status on_length(void *h) {
  return KVG(cache_length)((const kvg_cache *)h, 0, &a.number, &kvt_err);
}
static kvg_status on_truncate(void *h) {
  return KVG(cache_truncate)((kvg_cache *)h, 0, 1, &kvt_err);
}
static kvg_status on_clear(void *h) { return KVG(cache_clear)((kvg_cache *)h, &kvt_err); }
static kvg_status on_fork(void *h) {
  return KVG(cache_fork)((const kvg_cache *)h, &a.cache, &kvt_err);
}
static kvg_status on_stats(void *h) {
  return KVG(cache_stats)((const kvg_cache *)h, 0, KVG_SIDE_BOTH, &a.stats, &kvt_err);
}

enum kind { RUNTIME, PLAN, CACHE };
static const char *const kind_names[] = {"kvg_runtime", "kvg_plan", "kvg_cache"};

typedef struct function {
  const char *name;
  enum kind kind;
  kvg_status (*call)(void *h);
} function;

static const function functions[] = {
    {"kvg_runtime_set_log", RUNTIME, on_set_log},
    {"kvg_runtime_describe", RUNTIME, on_describe},
    {"kvg_runtime_memory", RUNTIME, on_memory},
    {"kvg_cache_create (runtime)", RUNTIME, on_create_runtime},
    {"kvg_cache_create (plan)", PLAN, on_create_plan},
    {"kvg_plan_shape", PLAN, on_plan_shape},
    {"kvg_plan_recipe", PLAN, on_plan_recipe},
    {"kvg_plan_latent", PLAN, on_plan_latent},
    {"kvg_cache_append", CACHE, on_append},
    {"kvg_cache_attend", CACHE, on_attend},
    {"kvg_cache_read", CACHE, on_read},
    {"kvg_cache_length", CACHE, on_length},
    {"kvg_cache_truncate", CACHE, on_truncate},
    {"kvg_cache_clear", CACHE, on_clear},
    {"kvg_cache_fork", CACHE, on_fork},
    {"kvg_cache_stats", CACHE, on_stats},
};

static void arm_answers(void) {
  memset(&a, 0x5A, sizeof(a));
  a.shape.struct_size = (uint32_t)sizeof(a.shape);
  a.stats.struct_size = (uint32_t)sizeof(a.stats);
}

static int answers_untouched(void) {
  const answers now = a;
  arm_answers();
  return memcmp(&now, &a, sizeof(a)) == 0;
}

/* `live` holds one live handle of each kind; `dead` one destroyed handle of each. */
static void try_all(void **live, void **dead) {
  uint32_t nothing[16]; /* no handle, and nothing that looks like one */
  size_t i;
  int kind;
  memset(nothing, 0xCC, sizeof(nothing));
  for (i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
    const function *f = &functions[i];
    kvt_where(f->name);
    arm_answers();
    REFUSED(KVG_E_INVALID, kind_names[f->kind], f->call(NULL));
    REFUSED(KVG_E_INVALID, "NULL", f->call(NULL));
    for (kind = RUNTIME; kind <= CACHE; kind++) {
      REFUSED(KVG_E_STATE, "destroyed", f->call(dead[kind]));
      if (kind == (int)f->kind) continue;
      REFUSED(KVG_E_STATE, kind_names[kind], f->call(live[kind]));
    }
    REFUSED(KVG_E_STATE, kind_names[f->kind], f->call(nothing));
    REFUSED(KVG_E_STATE, kind_names[f->kind], f->call((char *)live[f->kind] + 8));
    REFUSED(KVG_E_STATE, kind_names[f->kind], f->call((char *)live[f->kind] + 1));
    CHECK(answers_untouched());
    CHECK(kvt_length(rig.cache, 0) == 2);
  }
  kvt_where("");
}

static void misuse(void) {
  kvt_rig ended;
  kvt_picture picture;
  void *live[3], *dead[3];
  int kind;
  if (!kvt_rig_open(&rig, "int4", 1, 1, 1, 64, NULL)) return;
  OK(kvt_append(&rig, rig.cache, 0, 0, 2, 1, &kvt_err));
  live[RUNTIME] = rig.runtime;
  live[PLAN] = rig.plan;
  live[CACHE] = rig.cache;
  if (!kvt_rig_open(&ended, "int4", 1, 1, 1, 64, NULL)) return;
  dead[RUNTIME] = ended.runtime;
  dead[PLAN] = ended.plan;
  dead[CACHE] = ended.cache;
  kvt_rig_close(&ended);
  kvt_picture_take(&picture, &rig, rig.cache, 1);
  try_all(live, dead);

  /* Destroying what is not there, or is something else, does nothing. */
  KVG(runtime_destroy)(NULL);
  KVG(plan_destroy)(NULL);
  KVG(cache_destroy)(NULL);
  for (kind = RUNTIME; kind <= CACHE; kind++) {
    KVG(runtime_destroy)((kvg_runtime *)dead[kind]);
    KVG(plan_destroy)((kvg_plan *)dead[kind]);
    KVG(cache_destroy)((kvg_cache *)dead[kind]);
    if (kind != RUNTIME) KVG(runtime_destroy)((kvg_runtime *)live[kind]);
    if (kind != PLAN) KVG(plan_destroy)((kvg_plan *)live[kind]);
    if (kind != CACHE) KVG(cache_destroy)((kvg_cache *)live[kind]);
  }
  CHECK(kvt_unchanged(&picture, &rig, rig.cache, 1));
  kvt_picture_free(&picture);

  /* A missing out-parameter. */
  REFUSED(KVG_E_INVALID, "out is NULL", KVG(cache_create)(rig.runtime, rig.plan, NULL, &kvt_err));
  REFUSED(KVG_E_INVALID, "out is NULL", KVG(cache_fork)(rig.cache, NULL, &kvt_err));
  REFUSED(KVG_E_INVALID, "tokens is NULL", KVG(cache_length)(rig.cache, 0, NULL, &kvt_err));
  kvt_rig_close(&rig);
}

/* Handles may go in any order: a cache keeps its plan and its runtime alive, and a fork keeps what
 * it shares. Every one of the 24 orders, on an allocator that must get everything back. */
static void orders(void) {
  int order;
  for (order = 0; order < 24; order++) {
    kvt_heap heap;
    kvg_allocator table;
    kvg_runtime_options options;
    kvt_rig r;
    kvg_cache *fork = NULL;
    kvt_picture picture;
    int gone[4] = {0, 0, 0, 0};
    int n = order, step;
    kvt_heap_table(&heap, &table);
    KVG(runtime_options_init)(&options);
    options.allocator = &table;
    options.threads = 1;
    if (!kvt_rig_open(&r, "gear-2", 2, 2, 1, 32, &options)) return;
    OK(kvt_append(&r, r.cache, 0, 0, 200, 1, &kvt_err));
    OK(kvt_append(&r, r.cache, 1, 0, 3, 2, &kvt_err));
    OK(KVG(cache_fork)(r.cache, &fork, &kvt_err));
    kvt_picture_take(&picture, &r, r.cache, 0);
    for (step = 4; step > 0; step--) {
      int left = n % step, which = 0;
      n /= step;
      for (;; which++) {
        if (gone[which]) continue;
        if (left == 0) break;
        left--;
      }
      gone[which] = 1;
      if (which == 0) KVG(runtime_destroy)(r.runtime);
      if (which == 1) KVG(plan_destroy)(r.plan);
      if (which == 2) KVG(cache_destroy)(r.cache);
      if (which == 3) KVG(cache_destroy)(fork);
      if (!gone[2]) CHECK(kvt_unchanged(&picture, &r, r.cache, 0));
      if (!gone[3]) CHECK(kvt_unchanged(&picture, &r, fork, 0));
    }
    kvt_picture_free(&picture);
    CHECK(heap.blocks == 0);
    CHECK(heap.bytes == 0);
  }
}

/* More handles at once than the library's table of them is likely to have room for at first. */
static void crowd(void) {
  enum { MANY = 6000 };
  kvg_cache **caches = (kvg_cache **)kvt_malloc(MANY * sizeof(*caches));
  kvt_rig r;
  uint64_t empty = 0, after = 1;
  int i;
  if (!kvt_rig_open(&r, "int4", 1, 1, 1, 32, NULL)) return;
  CHECK(KVG(runtime_memory)(r.runtime, &empty, NULL) == KVG_OK);
  for (i = 0; i < MANY; i++) {
    caches[i] = NULL;
    OK(KVG(cache_create)(r.runtime, r.plan, &caches[i], &kvt_err));
  }
  for (i = 0; i < MANY; i++) CHECK(kvt_length(caches[i], 0) == 0);
  for (i = 0; i < MANY; i++) KVG(cache_destroy)(caches[(i * 7) % MANY]);
  CHECK(KVG(runtime_memory)(r.runtime, &after, NULL) == KVG_OK);
  CHECK(after == empty);
  kvt_rig_close(&r);
  free(caches);
}

void case_handles(void) {
  misuse();
  orders();
  crowd();
}
