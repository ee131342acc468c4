/* What the calls of overhead.rs cost from C. Prints "NAME NANOSECONDS" a line: the best of many rounds. */
#include <kvgear/kvgear.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define LAYER 0
#define TOKENS 1024
#define Q_HEADS 32
#define KV_HEADS 8
#define HEAD_DIM 128

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void need(kvg_status status, const kvg_error *error) {
  if (status == KVG_OK) return;
  fprintf(stderr, "%s: %s\n", kvg_status_string(status), error->message);
  exit(1);
}

static float value(size_t i) { return (float)((i * 2654435761u) % 512) / 128.0f - 2.0f; }

int main(void) {
  static float k[TOKENS * KV_HEADS * HEAD_DIM], v[TOKENS * KV_HEADS * HEAD_DIM];
  static float q[Q_HEADS * HEAD_DIM], out[Q_HEADS * HEAD_DIM];
  kvg_error error;
  kvg_runtime *runtime;
  kvg_plan *plan;
  kvg_cache *cache;
  kvg_shape shape;
  kvg_append_desc append;
  kvg_attend_desc attend;
  uint64_t length = 0;
  double best_attend = 1e18, best_length = 1e18;
  size_t i;
  int round;

  for (i = 0; i < sizeof(k) / sizeof(k[0]); ++i) {
    k[i] = value(i);
    v[i] = value(i + 7);
  }
  for (i = 0; i < sizeof(q) / sizeof(q[0]); ++i) q[i] = value(i + 3);
  need(kvg_runtime_create(NULL, &runtime, &error), &error);
  kvg_shape_init(&shape);
  shape.layers = 1;
  shape.q_heads = Q_HEADS;
  shape.kv_heads = KV_HEADS;
  shape.head_dim = HEAD_DIM;
  need(kvg_plan_create(&shape, "gear-4", &plan, &error), &error);
  need(kvg_cache_create(runtime, plan, &cache, &error), &error);
  kvg_append_desc_init(&append);
  append.dtype = KVG_F32;
  append.tokens = TOKENS;
  need(kvg_cache_append(cache, LAYER, k, sizeof(k), v, sizeof(v), &append, &error), &error);

  for (round = 0; round < 300; ++round) {
    double start = now();
    for (i = 0; i < 10; ++i) {
      kvg_attend_desc_init(&attend);
      attend.q_dtype = KVG_F32;
      attend.out_dtype = KVG_F32;
      need(kvg_cache_attend(cache, LAYER, q, sizeof(q), out, sizeof(out), &attend, &error), &error);
    }
    start = (now() - start) / 10;
    if (start < best_attend) best_attend = start;
  }
  for (round = 0; round < 300; ++round) {
    double start = now();
    for (i = 0; i < 1000; ++i) need(kvg_cache_length(cache, LAYER, &length, &error), &error);
    start = (now() - start) / 1000;
    if (start < best_length) best_length = start;
  }
  printf("attend %.1f\nlength %.2f\n", best_attend, best_length);
  kvg_cache_destroy(cache);
  kvg_plan_destroy(plan);
  kvg_runtime_destroy(runtime);
  return length == TOKENS ? 0 : 1;
}
