/* What one call costs from C: the yardstick for the overhead of the bindings. Prints nanoseconds per call, the least of many rounds:
 *   attend <ns>   decode attention, one query over 1024 tokens of one layer: 32 query heads, 8 KV heads, 128 dims, gear-2
 *   length <ns>   kvg_cache_length, which does next to nothing
 * Usage: attend [seconds] */
#define _POSIX_C_SOURCE 200809L
#include <kvgear/kvgear.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { TOKENS = 1024, Q_HEADS = 32, KV_HEADS = 8, DIM = 128 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void check(kvg_status status, const kvg_error *err) {
  if (status == KVG_OK) return;
  fprintf(stderr, "%s\n", err->message);
  exit(1);
}

static void fill(float *x, size_t n, uint32_t seed) {
  for (size_t i = 0; i < n; i++) {
    seed = seed * 1664525u + 1013904223u;
    x[i] = (float)(int32_t)(seed >> 8) / (1 << 23) - 1.0f;
  }
}

int main(int argc, char **argv) {
  const double seconds = argc > 1 ? atof(argv[1]) : 2.0;
  kvg_error err;
  kvg_runtime *runtime = NULL;
  kvg_plan *plan = NULL;
  kvg_cache *cache = NULL;
  kvg_shape shape;
  kvg_append_desc append;
  kvg_attend_desc attend;
  static float k[TOKENS * KV_HEADS * DIM], v[TOKENS * KV_HEADS * DIM], q[Q_HEADS * DIM], out[Q_HEADS * DIM];
  kvg_shape_init(&shape);
  shape.layers = 1, shape.q_heads = Q_HEADS, shape.kv_heads = KV_HEADS, shape.head_dim = DIM;
  check(kvg_runtime_create(NULL, &runtime, &err), &err);
  check(kvg_plan_create(&shape, "gear-2", &plan, &err), &err);
  check(kvg_cache_create(runtime, plan, &cache, &err), &err);
  fill(k, sizeof(k) / sizeof(k[0]), 1), fill(v, sizeof(v) / sizeof(v[0]), 2), fill(q, sizeof(q) / sizeof(q[0]), 3);
  kvg_append_desc_init(&append);
  append.dtype = KVG_F32, append.tokens = TOKENS;
  check(kvg_cache_append(cache, 0, k, sizeof(k), v, sizeof(v), &append, &err), &err);

  double best[2] = {1e30, 1e30};
  const double end = now() + seconds * 1e9;
  while (now() < end) {
    double start = now();
    for (int i = 0; i < 10; i++) {
      kvg_attend_desc_init(&attend);
      attend.q_dtype = attend.out_dtype = KVG_F32;
      check(kvg_cache_attend(cache, 0, q, sizeof(q), out, sizeof(out), &attend, &err), &err);
    }
    const double attends = (now() - start) / 10;
    if (attends < best[0]) best[0] = attends;
    start = now();
    for (int i = 0; i < 1000; i++) {
      uint64_t tokens;
      check(kvg_cache_length(cache, 0, &tokens, &err), &err);
    }
    const double lengths = (now() - start) / 1000;
    if (lengths < best[1]) best[1] = lengths;
  }
  printf("attend %.1f\nlength %.1f\n", best[0], best[1]);
  kvg_cache_destroy(cache);
  kvg_plan_destroy(plan);
  kvg_runtime_destroy(runtime);
  return 0;
}
