/* See calls.h. */
#include "calls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 2, Q_HEADS = 2, KV_HEADS = 1, DIM = 32, FIRST = 140 };

/* What a call works on; built anew for every call of the list. */
typedef struct scene {
  kvt_rig rig;
  kvg_cache *fork;  /* of rig.cache, so that something is shared */
  void *made;       /* what the call returned, to be ended by `end` */
  const kvg_runtime_options *options;
} scene;

/* ------------------------------------------------------------- the calls */

static float numbers[600 * KV_HEADS * DIM];
static float result[600 * KV_HEADS * DIM];

static kvg_status append(scene *s, uint32_t layer, uint64_t first, uint64_t tokens) {
  const size_t bytes = kvt_elements(&s->rig, tokens) * sizeof(float);
  kvg_append_desc desc;
  KVG(append_desc_init)(&desc);
  desc.dtype = KVG_F32;
  desc.tokens = tokens;
  /* From a static array: the test itself must not allocate here. */
  return KVG(cache_append)(s->rig.cache, layer, numbers + first, bytes, numbers + 2 * first, bytes,
                           &desc, &kvt_err);
}
static kvg_status append_one(scene *s) { return append(s, 0, 7, 1); }
static kvg_status append_block(scene *s) { return append(s, 0, 7, 70); }
static kvg_status append_prompt(scene *s) { return append(s, 0, 1, 330); }
static kvg_status append_first(scene *s) { return append(s, 1, 1, 1); }
static kvg_status append_first_prompt(scene *s) { return append(s, 1, 1, 200); }
static kvg_status append_wrong(scene *s) {
  kvg_append_desc desc;
  KVG(append_desc_init)(&desc);
  desc.tokens = 3;
  return KVG(cache_append)(s->rig.cache, 0, numbers, 1, numbers, 1, &desc, &kvt_err);
}
static kvg_status append_nan(scene *s) {
  static const uint32_t nan = 0x7FC00000u;
  float x[3 * KV_HEADS * DIM];
  kvg_append_desc desc;
  KVG(append_desc_init)(&desc);
  desc.dtype = KVG_F32;
  desc.tokens = 3;
  memcpy(x, numbers, sizeof(x));
  memcpy(&x[2 * KV_HEADS * DIM + 5], &nan, sizeof(nan));
  return KVG(cache_append)(s->rig.cache, 0, numbers, sizeof(x), x, sizeof(x), &desc, &kvt_err);
}
static kvg_status attend(scene *s) {
  kvg_attend_desc desc;
  KVG(attend_desc_init)(&desc);
  desc.queries = 3;
  desc.q_dtype = desc.out_dtype = KVG_F32;
  return KVG(cache_attend)(s->rig.cache, 0, numbers, 3 * Q_HEADS * DIM * sizeof(float), result,
                           sizeof(result), &desc, &kvt_err);
}
static kvg_status attend_wrong(scene *s) {
  kvg_attend_desc desc;
  KVG(attend_desc_init)(&desc);
  return KVG(cache_attend)(s->rig.cache, 9, numbers, 1, result, 1, &desc, &kvt_err);
}
static kvg_status read_all(scene *s) {
  return KVG(cache_read)(s->rig.cache, 0, KVG_SIDE_V, 0, FIRST, KVG_F32, result, sizeof(result),
                         &kvt_err);
}
static kvg_status length(scene *s) {
  uint64_t tokens;
  return KVG(cache_length)(s->rig.cache, 0, &tokens, &kvt_err);
}
static kvg_status stats(scene *s) {
  kvg_stats stats;
  KVG(stats_init)(&stats);
  return KVG(cache_stats)(s->rig.cache, KVG_ALL_LAYERS, KVG_SIDE_BOTH, &stats, &kvt_err);
}
static kvg_status truncate_window(scene *s) {
  return KVG(cache_truncate)(s->rig.cache, 0, FIRST - 1, &kvt_err);
}
static kvg_status truncate_to_nothing(scene *s) {
  return KVG(cache_truncate)(s->rig.cache, KVG_ALL_LAYERS, 0, &kvt_err);
}
static kvg_status truncate_wrong(scene *s) {
  return KVG(cache_truncate)(s->rig.cache, 0, 10000, &kvt_err);
}
static kvg_status clear(scene *s) { return KVG(cache_clear)(s->rig.cache, &kvt_err); }
static kvg_status fork_cache(scene *s) {
  return KVG(cache_fork)(s->rig.cache, (kvg_cache **)&s->made, &kvt_err);
}
static kvg_status fork_again(scene *s) {
  return KVG(cache_fork)(s->fork, (kvg_cache **)&s->made, &kvt_err);
}
static kvg_status create_cache(scene *s) {
  return KVG(cache_create)(s->rig.runtime, s->rig.plan, (kvg_cache **)&s->made, &kvt_err);
}
static kvg_status create_runtime(scene *s) {
  return KVG(runtime_create)(s->options, (kvg_runtime **)&s->made, &kvt_err);
}
static kvg_status create_wrong_runtime(scene *s) {
  kvg_runtime_options options;
  KVG(runtime_options_init)(&options);
  options.device_id = 7;
  return KVG(runtime_create)(&options, (kvg_runtime **)&s->made, &kvt_err);
}
static kvg_status create_plan(scene *s) {
  kvg_shape shape;
  KVG(shape_init)(&shape);
  OK(KVG(plan_shape)(s->rig.plan, &shape, &kvt_err));
  return KVG(plan_create)(&shape, "gear-2;0:int8,window=96;1:kivi-4", (kvg_plan **)&s->made,
                          &kvt_err);
}
static kvg_status create_wrong_plan(scene *s) {
  kvg_shape shape;
  KVG(shape_init)(&shape);
  OK(KVG(plan_shape)(s->rig.plan, &shape, &kvt_err));
  return KVG(plan_create)(&shape, "gear-2;0:int9", (kvg_plan **)&s->made, &kvt_err);
}
static char text[256];
static kvg_status canonical(scene *s) {
  (void)s;
  return KVG(recipe_canonical)("gear-2,v.bits=3,window=96", text, sizeof(text), NULL, &kvt_err);
}
static kvg_status canonical_wrong(scene *s) {
  (void)s;
  return KVG(recipe_canonical)("gear-2,bits=5", text, sizeof(text), NULL, &kvt_err);
}
static kvg_status canonical_short(scene *s) {
  (void)s;
  return KVG(recipe_canonical)("gear-2,v.bits=3,window=96", text, 4, NULL, &kvt_err);
}
static kvg_status describe(scene *s) {
  return KVG(runtime_describe)(s->rig.runtime, text, sizeof(text), NULL, &kvt_err);
}
static kvg_status recipe_of_layer(scene *s) {
  return KVG(plan_recipe)(s->rig.plan, 0, text, sizeof(text), NULL, &kvt_err);
}
static kvg_status memory(scene *s) {
  uint64_t bytes;
  return KVG(runtime_memory)(s->rig.runtime, &bytes, &kvt_err);
}
static kvg_status set_log(scene *s) {
  return KVG(runtime_set_log)(s->rig.runtime, NULL, NULL, &kvt_err);
}
static kvg_status destroyed(scene *s) {
  (void)s;
  return KVG(cache_clear)((kvg_cache *)text, &kvt_err);
}

static unsigned char saved[1 << 18];
static size_t saved_size;
static kvg_status save(scene *s) {
  return KVG(cache_save_buffer)(s->rig.cache, saved, sizeof(saved), &saved_size, NULL, &kvt_err);
}
static kvg_status save_to_file(scene *s) {
  kvg_save_desc desc;
  KVG(save_desc_init)(&desc);
  desc.no_sync = 1;
  return KVG(cache_save)(s->rig.cache, "kvgear_fault_saved.kvg", &desc, &kvt_err);
}
static kvg_status load(scene *s) {
  return KVG(cache_load_buffer)(s->rig.runtime, s->rig.plan, saved, saved_size, NULL,
                                (kvg_cache **)&s->made, &kvt_err);
}
static kvg_status load_mapped(scene *s) {
  kvg_load_desc desc;
  KVG(load_desc_init)(&desc);
  desc.map = 1;
  return KVG(cache_load)(s->rig.runtime, s->rig.plan, "kvgear_fault_saved.kvg", &desc,
                         (kvg_cache **)&s->made, &kvt_err);
}
static kvg_status extend_wrong(scene *s) {
  return KVG(cache_extend_buffer)(s->rig.cache, saved, saved_size, NULL, &kvt_err);
}
static kvg_status create_prefix(scene *s) {
  return KVG(prefix_create)(s->rig.runtime, 0, (kvg_prefix **)&s->made, &kvt_err);
}

static void end_prefix(void *x) { KVG(prefix_destroy)((kvg_prefix *)x); }
static void end_cache(void *x) { KVG(cache_destroy)((kvg_cache *)x); }
static void end_plan(void *x) { KVG(plan_destroy)((kvg_plan *)x); }
static void end_runtime(void *x) { KVG(runtime_destroy)((kvg_runtime *)x); }

typedef struct call {
  const char *name;
  kvg_status (*make)(scene *s);
  kvg_status wanted;       /* when there is memory */
  int allocates;           /* 1: through the allocator table; 2: in some recipes; 0: never */
  void (*end)(void *made); /* of what it returns */
} call;

static const call cache_calls[] = {
    {"append one token", append_one, KVG_OK, 2, NULL},
    {"append past a block", append_block, KVG_OK, 1, NULL},
    {"append a long text", append_prompt, KVG_OK, 1, NULL},
    {"append the first token", append_first, KVG_OK, 1, NULL},
    {"append a first text", append_first_prompt, KVG_OK, 1, NULL},
    {"append NaN", append_nan, KVG_E_NONFINITE, 2, NULL},
    {"attend", attend, KVG_OK, 1, NULL},
    {"read", read_all, KVG_OK, 1, NULL},
    {"truncate", truncate_window, KVG_OK, 0, NULL},
    {"clear", clear, KVG_OK, 0, NULL},
    {"fork", fork_cache, KVG_OK, 1, end_cache},
    {"fork a fork", fork_again, KVG_OK, 1, end_cache},
    {"save", save, KVG_OK, 0, NULL},
    {"load", load, KVG_OK, 1, end_cache}, /* what was just saved */
    {"save to a file", save_to_file, KVG_OK, 0, NULL},
    {"load mapped", load_mapped, KVG_OK, 1, end_cache},
    {"extend wrongly", extend_wrong, KVG_E_INVALID, 1, NULL},
};

static const call other_calls[] = {
    {"append with a wrong size", append_wrong, KVG_E_INVALID, 0, NULL},
    {"attend to no layer", attend_wrong, KVG_E_INVALID, 0, NULL},
    {"length", length, KVG_OK, 0, NULL},
    {"stats", stats, KVG_OK, 0, NULL},
    {"truncate to nothing", truncate_to_nothing, KVG_OK, 0, NULL},
    {"truncate wrongly", truncate_wrong, KVG_E_INVALID, 0, NULL},
    {"create a cache", create_cache, KVG_OK, 1, end_cache},
    {"create a runtime", create_runtime, KVG_OK, 1, end_runtime},
    {"create a wrong runtime", create_wrong_runtime, KVG_E_INVALID, 0, end_runtime},
    {"create a plan", create_plan, KVG_OK, 0, end_plan},
    {"create a wrong plan", create_wrong_plan, KVG_E_INVALID, 0, end_plan},
    {"canonical", canonical, KVG_OK, 0, NULL},
    {"canonical of a wrong text", canonical_wrong, KVG_E_INVALID, 0, NULL},
    {"canonical in a short buffer", canonical_short, KVG_E_BUFFER_TOO_SMALL, 0, NULL},
    {"describe", describe, KVG_OK, 0, NULL},
    {"recipe of a layer", recipe_of_layer, KVG_OK, 0, NULL},
    {"memory", memory, KVG_OK, 0, NULL},
    {"create a prefix store", create_prefix, KVG_OK, 0, end_prefix},
    {"set_log", set_log, KVG_OK, 0, NULL},
    {"clear of no cache", destroyed, KVG_E_STATE, 0, NULL},
};

/* ----------------------------------------------------------------- the loop */

static int scene_open(scene *s, const char *recipe, const kvg_runtime_options *options) {
  memset(s, 0, sizeof(*s));
  s->options = options;
  if (!kvt_rig_open(&s->rig, recipe, LAYERS, Q_HEADS, KV_HEADS, DIM, options)) return 0;
  OK(append(s, 0, 3, FIRST));
  OK(KVG(cache_fork)(s->rig.cache, &s->fork, &kvt_err));
  return 1;
}

static void scene_close(scene *s) {
  KVG(cache_destroy)(s->fork);
  kvt_rig_close(&s->rig);
}

static uint64_t held(const scene *s) {
  uint64_t bytes = 0;
  CHECK(KVG(runtime_memory)(s->rig.runtime, &bytes, NULL) == KVG_OK);
  return bytes;
}

/* The state of the scene after the call when nothing ever fails. */
static void expected(const call *c, const char *recipe, const kvg_runtime_options *options,
                     kvt_picture *picture, kvt_picture *of_fork) {
  scene s;
  memset(picture, 0, sizeof(*picture));
  memset(of_fork, 0, sizeof(*of_fork));
  if (!scene_open(&s, recipe, options)) return;
  CHECK(c->make(&s) == c->wanted);
  if (c->end != NULL) c->end(s.made);
  kvt_picture_take(picture, &s.rig, s.rig.cache, 1);
  kvt_picture_take(of_fork, &s.rig, s.fork, 1);
  scene_close(&s);
}

static void fail_every(const kvt_fault *fault, const call *c, const char *recipe, int forever) {
  enum { MOST = 5000 };
  scene s;
  kvt_picture before, before_fork, after, after_fork;
  long n, failed = 0, failures = 0, blocks;
  uint64_t bytes;
  kvg_status status = KVG_E_INTERNAL;
  char name[120];
  sprintf(name, "%.50s, %.50s%s", recipe, c->name, forever ? ", for good" : "");
  kvt_where(name);
  expected(c, recipe, fault->options, &after, &after_fork);
  if (!scene_open(&s, recipe, fault->options)) return;
  kvt_picture_take(&before, &s.rig, s.rig.cache, 1);
  kvt_picture_take(&before_fork, &s.rig, s.fork, 1);
  bytes = held(&s);
  blocks = fault->blocks();
  for (n = 1; n <= MOST; n++) {
    s.made = &s; /* to see that it is not touched */
    memset(result, 0x5A, sizeof(result));
    memset(text, 0x5A, sizeof(text));
    kvt_arm();
    fault->arm(n, forever);
    status = c->make(&s);
    failed = fault->disarm();
    if (failed == 0) break;
    failures += failed;
    CHECK(status == KVG_E_NOMEM);
    CHECK(kvt_err.code == KVG_E_NOMEM && strstr(kvt_err.message, "alloc") != NULL);
    CHECK(s.made == &s);
    CHECK(kvt_same_bytes(result, sizeof(result), 0x5A));
    CHECK(kvt_same_bytes(text, sizeof(text), 0x5A));
    CHECK(fault->blocks() == blocks);
    CHECK(held(&s) == bytes);
    CHECK(kvt_unchanged(&before, &s.rig, s.rig.cache, 1));
    CHECK(kvt_unchanged(&before_fork, &s.rig, s.fork, 1));
    if (status == c->wanted) break; /* the call was made after all; reported above */
  }
  CHECK(status == c->wanted);
  if (c->wanted != KVG_OK) CHECK(kvt_err.code == c->wanted);
  if (!fault->sees_everything) {
    /* The test must have had something to refuse. */
    if (c->allocates == 1) CHECK(failures > 0);
    if (c->allocates == 0) CHECK(failures == 0);
  }
  if (c->end != NULL && status == KVG_OK) c->end(s.made);
  CHECK(kvt_unchanged(&after, &s.rig, s.rig.cache, 1));
  CHECK(kvt_unchanged(&after_fork, &s.rig, s.fork, 1));
  kvt_picture_free(&before);
  kvt_picture_free(&before_fork);
  kvt_picture_free(&after);
  kvt_picture_free(&after_fork);
  scene_close(&s);
}

static void run(const kvt_fault *fault, const char *recipe, const call *calls, size_t count) {
  const long blocks = fault->blocks();
  size_t i;
  kvt_fill(numbers, sizeof(numbers) / sizeof(numbers[0]), 1, 0);
  for (i = 0; i < count; i++) {
    fail_every(fault, &calls[i], recipe, 0);
    if (calls[i].allocates > 0 || fault->sees_everything) {
      fail_every(fault, &calls[i], recipe, 1);
    }
  }
  remove("kvgear_fault_saved.kvg");
  CHECK(fault->blocks() == blocks);
  kvt_where("");
}

void kvt_fault_run(const kvt_fault *fault, const char *recipe) {
  run(fault, recipe, cache_calls, sizeof(cache_calls) / sizeof(cache_calls[0]));
}

void kvt_fault_run_others(const kvt_fault *fault) {
  run(fault, "kivi-2", other_calls, sizeof(other_calls) / sizeof(other_calls[0]));
}
