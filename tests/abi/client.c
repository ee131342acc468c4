/* A program of one version of kvgear.h and a library of another: each function that both know, on structs
 * of the size that the header says. Compiled with the baseline header and run on today's library, and
 * compiled with today's header and run on the baseline library; see capi/abi/baseline/README.md.
 *   client <libkvgear.so>
 * So it uses only what the baseline header has. Its checks are those of the promises in that header. */
#include <dlfcn.h>
#include <kvgear/kvgear.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FUNCTIONS(X)                                                                             \
  X(uint32_t, abi_version, (void))                                                               \
  X(uint32_t, abi_min, (void))                                                                   \
  X(const char *, version_string, (void))                                                        \
  X(const char *, status_string, (kvg_status))                                                   \
  X(void, allocator_init, (kvg_allocator *))                                                     \
  X(void, runtime_options_init, (kvg_runtime_options *))                                         \
  X(kvg_status, runtime_create, (const kvg_runtime_options *, kvg_runtime **, kvg_error *))      \
  X(void, runtime_destroy, (kvg_runtime *))                                                      \
  X(kvg_status, runtime_set_log, (kvg_runtime *, kvg_log_fn, void *, kvg_error *))               \
  X(kvg_status, runtime_describe, (const kvg_runtime *, char *, size_t, size_t *, kvg_error *))  \
  X(kvg_status, runtime_memory, (const kvg_runtime *, uint64_t *, kvg_error *))                  \
  X(uint32_t, recipe_count, (void))                                                              \
  X(const char *, recipe_name, (uint32_t))                                                       \
  X(const char *, recipe_summary, (uint32_t))                                                    \
  X(kvg_status, recipe_canonical, (const char *, char *, size_t, size_t *, kvg_error *))         \
  X(void, shape_init, (kvg_shape *))                                                             \
  X(kvg_status, plan_create, (const kvg_shape *, const char *, kvg_plan **, kvg_error *))        \
  X(void, plan_destroy, (kvg_plan *))                                                            \
  X(kvg_status, plan_shape, (const kvg_plan *, kvg_shape *, kvg_error *))                        \
  X(kvg_status, plan_recipe, (const kvg_plan *, uint32_t, char *, size_t, size_t *, kvg_error *)) \
  X(kvg_status, cache_create, (kvg_runtime *, const kvg_plan *, kvg_cache **, kvg_error *))      \
  X(void, cache_destroy, (kvg_cache *))                                                          \
  X(void, append_desc_init, (kvg_append_desc *))                                                 \
  X(kvg_status, cache_append,                                                                    \
    (kvg_cache *, uint32_t, const void *, size_t, const void *, size_t, const kvg_append_desc *, \
     kvg_error *))                                                                               \
  X(void, attend_desc_init, (kvg_attend_desc *))                                                 \
  X(kvg_status, cache_attend,                                                                    \
    (const kvg_cache *, uint32_t, const void *, size_t, void *, size_t, const kvg_attend_desc *, \
     kvg_error *))                                                                               \
  X(kvg_status, cache_read,                                                                      \
    (const kvg_cache *, uint32_t, kvg_side, uint64_t, uint64_t, kvg_dtype, void *, size_t,       \
     kvg_error *))                                                                               \
  X(kvg_status, cache_length, (const kvg_cache *, uint32_t, uint64_t *, kvg_error *))            \
  X(kvg_status, cache_truncate, (kvg_cache *, uint32_t, uint64_t, kvg_error *))                  \
  X(kvg_status, cache_clear, (kvg_cache *, kvg_error *))                                         \
  X(kvg_status, cache_fork, (const kvg_cache *, kvg_cache **, kvg_error *))                      \
  X(void, stats_init, (kvg_stats *))                                                             \
  X(kvg_status, cache_stats, (const kvg_cache *, uint32_t, kvg_side, kvg_stats *, kvg_error *))

static struct {
#define SLOT(ret, name, args) ret(*name) args;
  FUNCTIONS(SLOT)
#undef SLOT
} kvg;

static int failures = 0, checks = 0;
static const char *doing = "";
#define CHECK(cond)                                                                     \
  do {                                                                                  \
    checks++;                                                                           \
    if (!(cond)) {                                                                      \
      fprintf(stderr, "%s:%d: %s: FAILED: %s\n", __FILE__, __LINE__, doing, #cond);      \
      failures++;                                                                       \
    }                                                                                   \
  } while (0)

static int open_library(const char *path) {
  int missing = 0;
  void *symbol, *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 0;
  }
#define LOOK_UP(ret, name, args)                                     \
  symbol = dlsym(library, "kvg_" #name);                             \
  if (symbol == NULL) {                                              \
    fprintf(stderr, "kvg_" #name " is not in %s\n", path);           \
    missing = 1;                                                     \
  }                                                                  \
  memcpy(&kvg.name, &symbol, sizeof(symbol));
  FUNCTIONS(LOOK_UP)
#undef LOOK_UP
  return !missing;
}

enum { LAYERS = 2, Q_HEADS = 4, KV_HEADS = 2, DIM = 64, TOKENS = 300, ROW = KV_HEADS * DIM };
static float k[TOKENS * ROW], v[TOKENS * ROW], q[Q_HEADS * DIM], out[Q_HEADS * DIM];
static float k_back[TOKENS * ROW], v_back[TOKENS * ROW];
static kvg_error err;

/* Structs between two fences that no library may step on. */
#define FENCED(type, name)                                                                     \
  struct {                                                                                     \
    unsigned char before[32];                                                                  \
    type it;                                                                                   \
    unsigned char behind[64];                                                                  \
  } name
#define FENCE(name)                                     \
  memset(&(name), 0xA5, sizeof(name)); \
  memset(&(name).it, 0, sizeof((name).it))
static int is_whole(const unsigned char *fence, size_t size) {
  size_t i;
  for (i = 0; i < size; i++) {
    if (fence[i] != 0xA5) return 0;
  }
  return 1;
}
#define CHECK_FENCE(name) \
  CHECK(is_whole((name).before, sizeof((name).before)) && is_whole((name).behind, sizeof((name).behind)))

static long blocks = 0;
static void *allocate(void *user, size_t size, size_t alignment) {
  void *block;
  (void)user;
  block = aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (block != NULL) blocks++;
  return block;
}
static void release(void *user, void *block, size_t size, size_t alignment) {
  (void)user;
  (void)size;
  (void)alignment;
  blocks--;
  free(block);
}
static int lines = 0;
static void log_line(void *user, kvg_log_level level, const char *message) {
  (void)user;
  (void)level;
  (void)message;
  lines++;
}

static kvg_status append(kvg_cache *cache, uint32_t layer, size_t first, size_t tokens) {
  FENCED(kvg_append_desc, desc);
  FENCE(desc);
  kvg.append_desc_init(&desc.it);
  CHECK(desc.it.struct_size <= sizeof(kvg_append_desc));
  desc.it.dtype = KVG_F32;
  desc.it.tokens = tokens;
  CHECK_FENCE(desc);
  return kvg.cache_append(cache, layer, k + first * ROW, tokens * ROW * sizeof(float),
                          v + first * ROW, tokens * ROW * sizeof(float), &desc.it, &err);
}

/* The largest difference between attention by the library and over the rows that it reads back. */
static double attend_error(const kvg_cache *cache, uint64_t length) {
  FENCED(kvg_attend_desc, desc);
  double worst = 0;
  int h, d;
  uint64_t t;
  FENCE(desc);
  kvg.attend_desc_init(&desc.it);
  CHECK(desc.it.struct_size <= sizeof(kvg_attend_desc) && desc.it.queries == 1);
  desc.it.q_dtype = desc.it.out_dtype = KVG_F32;
  CHECK(kvg.cache_attend(cache, 0, q, sizeof(q), out, sizeof(out), &desc.it, &err) == KVG_OK);
  CHECK_FENCE(desc);
  CHECK(kvg.cache_read(cache, 0, KVG_SIDE_K, 0, length, KVG_F32, k_back, sizeof(k_back), &err) == KVG_OK);
  CHECK(kvg.cache_read(cache, 0, KVG_SIDE_V, 0, length, KVG_F32, v_back, sizeof(v_back), &err) == KVG_OK);
  for (h = 0; h < Q_HEADS; h++) {
    double logits[TOKENS], sum = 0, top = -1e300;
    const size_t head = (size_t)(h / (Q_HEADS / KV_HEADS)) * DIM;
    for (t = 0; t < length; t++) {
      logits[t] = 0;
      for (d = 0; d < DIM; d++) {
        logits[t] += (double)q[h * DIM + d] * (double)k_back[t * ROW + head + (size_t)d] / 8;
      }
      if (logits[t] > top) top = logits[t];
    }
    for (t = 0; t < length; t++) sum += exp(logits[t] - top);
    for (d = 0; d < DIM; d++) {
      double want = 0;
      for (t = 0; t < length; t++) {
        want += exp(logits[t] - top) / sum * (double)v_back[t * ROW + head + (size_t)d];
      }
      if (fabs(want - (double)out[h * DIM + d]) > worst) worst = fabs(want - (double)out[h * DIM + d]);
    }
  }
  return worst;
}

static void life(kvg_runtime *runtime, const char *recipe) {
  FENCED(kvg_shape, shape);
  FENCED(kvg_stats, stats);
  kvg_plan *plan = NULL;
  kvg_cache *cache = NULL, *fork = NULL;
  char text[512];
  size_t needed = 0;
  uint64_t length = 0, tokens;
  kvg_status status;
  doing = recipe;
  FENCE(shape);
  kvg.shape_init(&shape.it);
  CHECK(shape.it.struct_size <= sizeof(kvg_shape));
  shape.it.layers = LAYERS;
  shape.it.q_heads = Q_HEADS;
  shape.it.kv_heads = KV_HEADS;
  shape.it.head_dim = DIM;
  CHECK(kvg.recipe_canonical(recipe, text, sizeof(text), &needed, &err) == KVG_OK);
  CHECK(strcmp(text, recipe) == 0 && needed == strlen(recipe) + 1);
  CHECK(kvg.plan_create(&shape.it, recipe, &plan, &err) == KVG_OK);
  CHECK(kvg.plan_shape(plan, &shape.it, &err) == KVG_OK);
  CHECK(shape.it.layers == LAYERS && shape.it.head_dim == DIM);
  CHECK(kvg.plan_recipe(plan, 1, text, sizeof(text), NULL, &err) == KVG_OK);
  CHECK_FENCE(shape);
  CHECK(kvg.cache_create(runtime, plan, &cache, &err) == KVG_OK);
  if (cache == NULL) return;
  for (tokens = 0; tokens < TOKENS - 40; tokens += 130) {
    CHECK(append(cache, 0, (size_t)tokens, 130) == KVG_OK);
  }
  CHECK(kvg.cache_fork(cache, &fork, &err) == KVG_OK);
  for (; tokens < TOKENS; tokens++) CHECK(append(cache, 0, (size_t)tokens, 1) == KVG_OK);
  CHECK(kvg.cache_length(cache, 0, &length, &err) == KVG_OK && length == TOKENS);
  CHECK(kvg.cache_length(fork, 0, &length, &err) == KVG_OK && length == 260);
  CHECK(attend_error(cache, TOKENS) < 8e-3 * 2);
  CHECK(attend_error(fork, 260) < 8e-3 * 2);

  FENCE(stats); /* zeroes what an older library does not know */
  kvg.stats_init(&stats.it);
  CHECK(stats.it.struct_size <= sizeof(kvg_stats));
  CHECK(kvg.cache_stats(cache, KVG_ALL_LAYERS, KVG_SIDE_BOTH, &stats.it, &err) == KVG_OK);
  CHECK(stats.it.struct_size <= sizeof(kvg_stats));
  CHECK(stats.it.tokens == TOKENS && stats.it.elements == 2 * TOKENS * ROW);
  CHECK(stats.it.bytes_fp16 == 2 * stats.it.elements && stats.it.bytes_total > 0);
  CHECK(stats.it.bytes_shared <= stats.it.bytes_total);
  CHECK(stats.it.bits_per_element > 0 && stats.it.rel_error_v_worst < 2);
  CHECK_FENCE(stats);
  /* A field that neither version knows: refused unless it is 0. */
  {
    FENCED(kvg_append_desc, desc);
    FENCE(desc);
    kvg.append_desc_init(&desc.it);
    desc.it.struct_size = (uint32_t)sizeof(kvg_append_desc) + 64;
    status = kvg.cache_append(cache, 0, k, sizeof(k), v, sizeof(v), &desc.it, &err);
    CHECK(status == KVG_E_UNSUPPORTED && err.code == KVG_E_UNSUPPORTED);
    memset(desc.behind, 0, sizeof(desc.behind));
    status = kvg.cache_append(cache, 0, k, sizeof(k), v, sizeof(v), &desc.it, &err);
    CHECK(status == KVG_OK); /* of no tokens */
  }
  status = kvg.cache_append(cache, 9, k, 0, v, 0, NULL, &err);
  CHECK(status == KVG_E_INVALID && err.code == KVG_E_INVALID && strlen(err.message) > 0);
  CHECK(kvg.cache_truncate(cache, 0, TOKENS - 1, &err) == KVG_OK);
  CHECK(kvg.cache_truncate(cache, KVG_ALL_LAYERS, 0, &err) == KVG_OK);
  CHECK(append(cache, 1, 0, 200) == KVG_OK);
  CHECK(kvg.cache_clear(cache, &err) == KVG_OK);
  kvg.plan_destroy(plan);
  kvg.cache_destroy(fork);
  kvg.cache_destroy(cache);
}

int main(int argc, char **argv) {
  FENCED(kvg_runtime_options, options);
  FENCED(kvg_allocator, allocator);
  kvg_runtime *runtime = NULL;
  char text[200];
  uint64_t bytes = 1;
  uint32_t i, seed = 1;
  if (argc != 2 || !open_library(argv[1])) return 1;
  if (KVG_ABI_VERSION < kvg.abi_min()) {
    fprintf(stderr, "the library serves no header of ABI version %d\n", KVG_ABI_VERSION);
    return 1;
  }
  for (i = 0; i < TOKENS * ROW; i++) {
    seed = seed * 1664525u + 1013904223u;
    k[i] = (float)(seed >> 16) / 32768.0f - 1.0f;
    seed = seed * 1664525u + 1013904223u;
    v[i] = (float)(seed >> 16) / 32768.0f - 1.0f;
    if (i < Q_HEADS * DIM) q[i] = k[i] * v[i];
  }
  FENCE(allocator);
  kvg.allocator_init(&allocator.it);
  CHECK(allocator.it.struct_size <= sizeof(kvg_allocator));
  allocator.it.alloc = allocate;
  allocator.it.release = release;
  FENCE(options);
  kvg.runtime_options_init(&options.it);
  CHECK(options.it.struct_size <= sizeof(kvg_runtime_options));
  options.it.allocator = &allocator.it;
  options.it.threads = 1;
  CHECK(kvg.runtime_create(&options.it, &runtime, &err) == KVG_OK);
  CHECK_FENCE(options);
  CHECK_FENCE(allocator);
  if (runtime == NULL) return 1;
  CHECK(kvg.runtime_set_log(runtime, log_line, NULL, &err) == KVG_OK);
  CHECK(kvg.runtime_describe(runtime, text, sizeof(text), NULL, &err) == KVG_OK);
  CHECK(strcmp(kvg.status_string(KVG_E_NOMEM), "KVG_E_NOMEM") == 0);
  CHECK(strlen(kvg.version_string()) >= 5);
  CHECK(kvg.recipe_count() >= 10 && kvg.recipe_summary(0) != NULL);
  for (i = 0; i < kvg.recipe_count(); i++) life(runtime, kvg.recipe_name(i));
  doing = "the end";
  CHECK(kvg.runtime_memory(runtime, &bytes, &err) == KVG_OK && bytes == 0);
  kvg.runtime_destroy(runtime);
  CHECK(blocks == 0);
  printf("header of ABI version %d, kvg_stats of %d bytes; library %s: %d checks, %d failed\n",
         KVG_ABI_VERSION, (int)sizeof(kvg_stats), argv[1], checks, failures);
  return checks > 100 && failures == 0 ? 0 : 1;
}
