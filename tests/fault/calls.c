/* See calls.h. */
#include "calls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Which functions were called while a request for memory was to be refused. */
enum {
#define NUMBER(ret, name, args) AT_##name,
  KVT_FUNCTIONS(NUMBER)
#undef NUMBER
  FUNCTIONS
};
static int counting;
static long touched[FUNCTIONS];
static void touch(int function) { touched[function] += counting; }
#undef KVG
#define KVG(name) (touch(AT_##name), kvg_##name)

enum { LAYERS = 2, Q_HEADS = 2, KV_HEADS = 1, DIM = 32, FIRST = 140 };

/* What a scene holds beside a cache with FIRST tokens in its first layer, and a fork of it. */
enum { PLAIN, /* nothing */
       FULL,  /* as many tokens in its second layer, and a prefix store with one entry */
       SCORED /* scores for its policy */ };

/* What a call works on; built anew for every call of the list. */
typedef struct scene {
  kvt_rig rig;
  kvg_cache *fork;    /* of rig.cache, so that something is shared */
  kvg_cache *empty;   /* without tokens */
  kvg_prefix *prefix; /* FULL */
  void *made;         /* what the call returned, to be ended by `end` */
  const kvg_runtime_options *options;
} scene;

/* ------------------------------------------------------------- the calls */

static float numbers[600 * KV_HEADS * DIM];
static float result[600 * KV_HEADS * DIM];
static uint64_t places[2 * FIRST];

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
static kvg_status append_batch(scene *s) {
  kvg_cache *caches[2];
  const size_t bytes = 2 * kvt_elements(&s->rig, 70) * sizeof(float);
  kvg_append_desc desc;
  caches[0] = s->rig.cache;
  caches[1] = s->fork;
  KVG(append_desc_init)(&desc);
  desc.dtype = KVG_F32;
  desc.tokens = 70;
  return KVG(cache_append_batch)(caches, 2, 0, numbers, bytes, numbers + 9, bytes, &desc, &kvt_err);
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
static const char *const plan_file = "kvgear_fault_plan.safetensors";
static kvg_status load_plan(scene *s) {
  return KVG(plan_load)(plan_file, NULL, "", "these", 5, (kvg_plan **)&s->made, &kvt_err);
}
static kvg_status load_plan_of_another(scene *s) {
  return KVG(plan_load)(plan_file, NULL, "", "those", 5, (kvg_plan **)&s->made, &kvt_err);
}
static kvg_status load_no_plan(scene *s) {
  return KVG(plan_load)("no/such/file", NULL, "", NULL, 0, (kvg_plan **)&s->made, &kvt_err);
}
static kvg_status latent(scene *s) {
  uint32_t rank, group_heads;
  return KVG(plan_latent)(s->rig.plan, 0, KVG_SIDE_K, &rank, &group_heads, &kvt_err);
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
static kvg_status attend_batch(scene *s) {
  const kvg_cache *caches[2];
  kvg_attend_desc desc;
  caches[0] = s->rig.cache;
  caches[1] = s->fork;
  KVG(attend_desc_init)(&desc);
  desc.q_dtype = desc.out_dtype = KVG_F32;
  return KVG(cache_attend_batch)(caches, 2, 0, numbers, 2 * Q_HEADS * DIM * sizeof(float), result,
                                 sizeof(result), &desc, &kvt_err);
}

/* Functions that give and take a saved cache, in small pieces. */
static size_t stream_at;
static int64_t take(void *user, const void *data, uint64_t bytes) {
  const size_t some = bytes < 1000 ? (size_t)bytes : 1000;
  (void)user;
  if (stream_at + some > sizeof(saved)) return -1;
  memcpy(saved + stream_at, data, some);
  stream_at += some;
  return (int64_t)some;
}
static int64_t give(void *user, void *data, uint64_t bytes) {
  size_t some = bytes < 1000 ? (size_t)bytes : 1000;
  (void)user;
  if (some > saved_size - stream_at) some = saved_size - stream_at;
  memcpy(data, saved + stream_at, some);
  stream_at += some;
  return (int64_t)some;
}
static kvg_status save_stream(scene *s) {
  stream_at = 0;
  return KVG(cache_save_stream)(s->rig.cache, take, NULL, NULL, &kvt_err);
}
static kvg_status load_stream(scene *s) {
  stream_at = 0;
  return KVG(cache_load_stream)(s->rig.runtime, s->rig.plan, give, NULL, NULL,
                                (kvg_cache **)&s->made, &kvt_err);
}
/* The cache that gets tokens is emptied by end_extended. */
static kvg_status extended(scene *s, kvg_status status) {
  if (status == KVG_OK) s->made = s->empty;
  return status;
}
static kvg_status extend(scene *s) {
  return extended(s, KVG(cache_extend)(s->empty, "kvgear_fault_saved.kvg", NULL, &kvt_err));
}
static kvg_status extend_buffer(scene *s) {
  return extended(s, KVG(cache_extend_buffer)(s->empty, saved, saved_size, NULL, &kvt_err));
}
static kvg_status extend_stream(scene *s) {
  stream_at = 0;
  return extended(s, KVG(cache_extend_stream)(s->empty, give, NULL, NULL, &kvt_err));
}

/* Prefixes: prompts are numbered, by their first token. */
static uint32_t prompt[FIRST];
static kvg_status insert(scene *s, uint32_t number) {
  prompt[0] = number;
  return KVG(prefix_insert)(s->prefix, prompt, FIRST, s->rig.cache, &kvt_err);
}
static kvg_status insert_new(scene *s) { return insert(s, 2); }
static kvg_status insert_again(scene *s) { return insert(s, 1); }
static kvg_status find(scene *s, uint32_t number, uint64_t *matched) {
  prompt[0] = number;
  return KVG(prefix_find)(s->prefix, s->rig.plan, prompt, FIRST, matched, (kvg_cache **)&s->made,
                          &kvt_err);
}
static kvg_status find_whole(scene *s) { return find(s, 1, places); }
static kvg_status find_nothing(scene *s) { return find(s, 3, places); }
static kvg_status clear_prefix(scene *s) { return KVG(prefix_clear)(s->prefix, &kvt_err); }
static kvg_status read_prefix(scene *s) {
  kvg_prefix_stats stats;
  KVG(prefix_stats_init)(&stats);
  return KVG(prefix_read_stats)(s->prefix, &stats, &kvt_err);
}

/* Selection. */
static kvg_status held_slots(scene *s) {
  return KVG(cache_held)(s->rig.cache, 0, places, &kvt_err);
}
static kvg_status positions(scene *s) {
  return KVG(cache_positions)(s->rig.cache, 0, 0, places, FIRST, NULL, &kvt_err);
}
static kvg_status positions_wrong(scene *s) {
  return KVG(cache_positions)(s->rig.cache, 0, 7, places, FIRST, NULL, &kvt_err);
}
static kvg_status bits(scene *s) {
  return KVG(cache_bits)(s->rig.cache, 0, KVG_SIDE_V, (uint8_t *)places, FIRST, NULL, &kvt_err);
}
static kvg_status probe_positions(scene *s) {
  return KVG(cache_probe_positions)(s->rig.cache, 0, places, FIRST, NULL, &kvt_err);
}
static kvg_status next_tokens(scene *s) {
  return KVG(cache_next_tokens)(s->rig.cache, 0, places, FIRST, NULL, &kvt_err);
}
static kvg_status select_all(scene *s) {
  return KVG(cache_select)(s->rig.cache, KVG_ALL_LAYERS, &kvt_err);
}
static float given[FIRST];
static kvg_status observe(scene *s) {
  return KVG(cache_observe)(s->rig.cache, 0, given, FIRST, FIRST, &kvt_err);
}
static uint64_t all_positions[FIRST];
static kvg_status probe(scene *s) {
  kvg_attend_desc desc;
  KVG(attend_desc_init)(&desc);
  desc.q_dtype = KVG_F32;
  desc.queries = FIRST;
  return KVG(cache_probe)(s->rig.cache, 0, numbers, sizeof(numbers), all_positions, FIRST, &desc,
                          &kvt_err);
}
static kvg_status attend_observe(scene *s) {
  kvg_attend_desc desc;
  KVG(attend_desc_init)(&desc);
  desc.q_dtype = desc.out_dtype = KVG_F32;
  return KVG(cache_attend_observe)(s->rig.cache, 0, numbers, Q_HEADS * DIM * sizeof(float), result,
                                   sizeof(result), &desc, &kvt_err);
}
static kvg_status append_at(scene *s) {
  const size_t bytes = kvt_elements(&s->rig, FIRST / 2) * sizeof(float);
  uint64_t odd[FIRST / 2];
  kvg_append_desc desc;
  int i;
  for (i = 0; i < FIRST / 2; i++) odd[i] = (uint64_t)(2 * i + 1);
  KVG(append_desc_init)(&desc);
  desc.dtype = KVG_F32;
  desc.tokens = FIRST / 2;
  return KVG(cache_append_at)(s->rig.cache, 1, numbers, bytes, numbers + 5, bytes, odd, FIRST / 2,
                              &desc, &kvt_err);
}

/* What takes nothing that could fail. */
static kvg_status names(scene *s) {
  kvg_allocator allocator;
  (void)s;
  KVG(allocator_init)(&allocator);
  CHECK(KVG(abi_min)() <= KVG(abi_version)());
  CHECK(KVG(version_string)() != NULL && KVG(status_string)(KVG_E_NOMEM) != NULL);
  CHECK(KVG(recipe_count)() > 0 && KVG(recipe_name)(0) != NULL && KVG(recipe_summary)(0) != NULL);
  CHECK(KVG(policy_count)() > 0 && KVG(policy_name)(0) != NULL && KVG(policy_summary)(0) != NULL);
  return KVG_OK;
}
/* All handles there are, ended while there is no memory, or as soon as one cannot be had. */
static kvg_status make_and_destroy(scene *s) {
  kvg_runtime *runtime = NULL;
  kvg_plan *plan = NULL;
  kvg_cache *cache = NULL;
  kvg_prefix *prefix = NULL;
  kvg_shape shape;
  kvg_status status;
  KVG(shape_init)(&shape);
  shape.layers = shape.q_heads = shape.kv_heads = 1;
  shape.head_dim = 64;
  status = KVG(runtime_create)(s->options, &runtime, &kvt_err);
  if (status == KVG_OK) status = KVG(plan_create)(&shape, "gear-4", &plan, &kvt_err);
  if (status == KVG_OK) status = KVG(cache_create)(runtime, plan, &cache, &kvt_err);
  if (status == KVG_OK) status = KVG(prefix_create)(runtime, 0, &prefix, &kvt_err);
  KVG(runtime_destroy)(runtime);
  KVG(plan_destroy)(plan);
  KVG(cache_destroy)(cache);
  KVG(prefix_destroy)(prefix);
  return status;
}

static void end_extended(void *x) { OK(KVG(cache_clear)((kvg_cache *)x, &kvt_err)); }
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
    {"extend", extend, KVG_OK, 1, end_extended},
    {"extend by a buffer", extend_buffer, KVG_OK, 1, end_extended},
    {"save by a function", save_stream, KVG_OK, 0, NULL},
    {"load by a function", load_stream, KVG_OK, 1, end_cache},
    {"extend by a function", extend_stream, KVG_OK, 1, end_extended},
    {"append to a batch", append_batch, KVG_OK, 1, NULL},
    {"attend to a batch", attend_batch, KVG_OK, 2, NULL},
    {"attend and observe", attend_observe, KVG_OK, 2, NULL},
};

/* On FULL scenes. */
static const call prefix_calls[] = {
    {"insert", insert_new, KVG_OK, 2, NULL},
    {"insert in place of another", insert_again, KVG_OK, 2, NULL},
    {"find", find_whole, KVG_OK, 2, end_cache},
    {"find nothing", find_nothing, KVG_OK, 2, end_cache},
    {"clear a prefix store", clear_prefix, KVG_OK, 2, NULL},
    {"statistics of a prefix store", read_prefix, KVG_OK, 0, NULL},
};

/* On SCORED scenes. */
static const call select_calls[] = {
    {"held", held_slots, KVG_OK, 0, NULL},
    {"positions", positions, KVG_OK, 2, NULL},
    {"positions of no head", positions_wrong, KVG_E_INVALID, 2, NULL},
    {"bits", bits, KVG_OK, 2, NULL},
    {"probe positions", probe_positions, KVG_OK, 2, NULL},
    {"select", select_all, KVG_OK, 2, NULL},
    {"append with a selection", append_one, KVG_OK, 2, NULL},
    {"append a block with a selection", append_block, KVG_OK, 2, NULL},
    {"observe", observe, KVG_OK, 2, NULL},
    {"probe", probe, KVG_OK, 2, NULL},
    {"attend and observe", attend_observe, KVG_OK, 2, NULL},
    {"append at positions", append_at, KVG_OK, 2, NULL},
    {"fork with a selection", fork_cache, KVG_OK, 1, end_cache},
};
/* On SCORED scenes of a policy that prunes prompts. */
static const call prune_calls[] = {
    {"next tokens", next_tokens, KVG_OK, 2, NULL},
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
    {"load a plan", load_plan, KVG_OK, 0, end_plan},
    {"load a plan of another model", load_plan_of_another, KVG_E_INVALID, 0, end_plan},
    {"load no plan", load_no_plan, KVG_E_IO, 0, end_plan},
    {"latents of a plan", latent, KVG_OK, 0, NULL},
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
    {"names and versions", names, KVG_OK, 0, NULL},
    {"make and destroy", make_and_destroy, KVG_OK, 1, NULL},
};

/* ----------------------------------------------------------------- the loop */

static int scene_open(scene *s, int kind, const char *recipe, const kvg_runtime_options *options) {
  memset(s, 0, sizeof(*s));
  s->options = options;
  if (!kvt_rig_open(&s->rig, recipe, LAYERS, Q_HEADS, KV_HEADS, DIM, options)) return 0;
  OK(append(s, 0, 3, FIRST));
  if (kind == FULL) {
    OK(append(s, 1, 3, FIRST));
    OK(KVG(prefix_create)(s->rig.runtime, 0, &s->prefix, &kvt_err));
    OK(insert(s, 1));
  }
  if (kind == SCORED) OK(observe(s));
  OK(KVG(cache_fork)(s->rig.cache, &s->fork, &kvt_err));
  OK(KVG(cache_create)(s->rig.runtime, s->rig.plan, &s->empty, &kvt_err));
  return 1;
}

static void scene_close(scene *s) {
  KVG(cache_destroy)(s->fork);
  KVG(cache_destroy)(s->empty);
  KVG(prefix_destroy)(s->prefix);
  kvt_rig_close(&s->rig);
}

static uint64_t held(const scene *s) {
  uint64_t bytes = 0;
  CHECK(KVG(runtime_memory)(s->rig.runtime, &bytes, NULL) == KVG_OK);
  return bytes;
}

/* All that can be seen of a scene. */
typedef struct view {
  kvt_picture cache, fork;
  kvg_stats empty;
  kvg_prefix_stats prefix;
} view;

static void view_take(view *v, const scene *s) {
  memset(v, 0, sizeof(*v));
  kvt_picture_take(&v->cache, &s->rig, s->rig.cache, 1);
  kvt_picture_take(&v->fork, &s->rig, s->fork, 1);
  KVG(stats_init)(&v->empty);
  CHECK(KVG(cache_stats)(s->empty, KVG_ALL_LAYERS, KVG_SIDE_BOTH, &v->empty, NULL) == KVG_OK);
  KVG(prefix_stats_init)(&v->prefix);
  if (s->prefix != NULL) {
    CHECK(KVG(prefix_read_stats)(s->prefix, &v->prefix, NULL) == KVG_OK);
  }
}

static void view_free(view *v) {
  kvt_picture_free(&v->cache);
  kvt_picture_free(&v->fork);
}

static int is_as(const view *before, const scene *s) {
  view now;
  int same;
  view_take(&now, s);
  same = kvt_picture_same(&before->cache, &now.cache) &&
         kvt_picture_same(&before->fork, &now.fork) &&
         memcmp(&before->empty, &now.empty, sizeof(now.empty)) == 0 &&
         memcmp(&before->prefix, &now.prefix, sizeof(now.prefix)) == 0;
  view_free(&now);
  return same;
}

/* A scene after a call when nothing ever fails. */
static void expected(const call *c, int kind, const char *recipe,
                     const kvg_runtime_options *options, view *v) {
  scene s;
  memset(v, 0, sizeof(*v));
  if (!scene_open(&s, kind, recipe, options)) return;
  CHECK(c->make(&s) == c->wanted);
  if (c->end != NULL && s.made != NULL) c->end(s.made);
  view_take(v, &s);
  scene_close(&s);
}

static void fail_every(const kvt_fault *fault, const call *c, int kind, const char *recipe,
                       int forever) {
  enum { MOST = 5000 };
  scene s;
  view before, after;
  long n, failed = 0, failures = 0, blocks;
  uint64_t bytes;
  kvg_status status = KVG_E_INTERNAL;
  char name[120];
  sprintf(name, "%.50s, %.50s%s", recipe, c->name, forever ? ", for good" : "");
  kvt_where(name);
  expected(c, kind, recipe, fault->options, &after);
  if (!scene_open(&s, kind, recipe, fault->options)) return;
  view_take(&before, &s);
  bytes = held(&s);
  blocks = fault->blocks();
  for (n = 1; n <= MOST; n++) {
    s.made = &s; /* to see that it is not touched */
    memset(result, 0x5A, sizeof(result));
    memset(text, 0x5A, sizeof(text));
    memset(places, 0x5A, sizeof(places));
    kvt_arm();
    fault->arm(n, forever);
    counting = 1;
    status = c->make(&s);
    counting = 0;
    failed = fault->disarm();
    if (failed == 0) break;
    failures += failed;
    CHECK(status == KVG_E_NOMEM);
    CHECK(kvt_err.code == KVG_E_NOMEM && strstr(kvt_err.message, "alloc") != NULL);
    CHECK(s.made == &s);
    CHECK(kvt_same_bytes(result, sizeof(result), 0x5A));
    CHECK(kvt_same_bytes(text, sizeof(text), 0x5A));
    CHECK(kvt_same_bytes(places, sizeof(places), 0x5A));
    CHECK(fault->blocks() == blocks);
    CHECK(held(&s) == bytes);
    CHECK(is_as(&before, &s));
    if (status == c->wanted) break; /* the call was made after all; reported above */
  }
  CHECK(status == c->wanted);
  if (c->wanted != KVG_OK) CHECK(kvt_err.code == c->wanted);
  if (!fault->sees_everything) {
    /* The test must have had something to refuse. */
    if (c->allocates == 1) CHECK(failures > 0);
    if (c->allocates == 0) CHECK(failures == 0);
  }
  if (c->end != NULL && status == KVG_OK && s.made != NULL) c->end(s.made);
  CHECK(is_as(&after, &s));
  view_free(&before);
  view_free(&after);
  scene_close(&s);
}

static void run(const kvt_fault *fault, int kind, const char *recipe, const call *calls,
                size_t count) {
  const long blocks = fault->blocks();
  size_t i;
  kvt_fill(numbers, sizeof(numbers) / sizeof(numbers[0]), 1, 0);
  for (i = 0; i < FIRST; i++) {
    given[i] = i % 7 == 3 ? 2.0f : 1.0f;
    all_positions[i] = i;
    prompt[i] = (uint32_t)i;
  }
  for (i = 0; i < count; i++) {
    fail_every(fault, &calls[i], kind, recipe, 0);
    if (calls[i].allocates > 0 || fault->sees_everything) {
      fail_every(fault, &calls[i], kind, recipe, 1);
    }
  }
  remove("kvgear_fault_saved.kvg");
  CHECK(fault->blocks() == blocks);
  kvt_where("");
}

#define RUN(kind, recipe, calls) run(fault, kind, recipe, calls, sizeof(calls) / sizeof((calls)[0]))

void kvt_fault_run(const kvt_fault *fault, const char *recipe) { RUN(PLAIN, recipe, cache_calls); }

void kvt_fault_run_others(const kvt_fault *fault) {
  static const char *const names[] = {
#define NAME(ret, name, args) #name,
      KVT_FUNCTIONS(NAME)
#undef NAME
  };
  int i;
  kvt_write_plan(plan_file, 0);
  RUN(PLAIN, "kivi-2", other_calls);
  remove(plan_file);
  RUN(FULL, "gear-2", prefix_calls);
  RUN(SCORED, "h2o,budget=40", select_calls);
  RUN(SCORED, "gear-4,select=h2o,budget=40", select_calls);
  RUN(SCORED, "zipcache", select_calls);
  RUN(SCORED, "pyramidinfer,decay=0.5,least=0,recent=10", prune_calls);
  for (i = 0; i < FUNCTIONS; i++) {
    kvt_where(names[i]);
    CHECK(touched[i] > 0);
  }
  kvt_where("");
}
