/* Appends a prompt, decodes some tokens from the compressed cache, prints what it took.
 *
 * A real host takes k, v and q from its model; here they are random numbers. The same tokens also
 * go into an fp16 cache, so that the last line can say how far the two answers lie apart. */
#include <kvgear/kvgear.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { Q_HEADS = 8, KV_HEADS = 2, HEAD_DIM = 64, PROMPT = 1024, STEPS = 32 };

static float k[PROMPT * KV_HEADS * HEAD_DIM], v[PROMPT * KV_HEADS * HEAD_DIM];
static float q[Q_HEADS * HEAD_DIM], out[2][Q_HEADS * HEAD_DIM];

static void check(kvg_status status, const kvg_error *error) {
  if (status == KVG_OK) return;
  fprintf(stderr, "%s: %s\n", kvg_status_string(status), error->message);
  exit(1);
}

static void fill(float *x, size_t count) {
  while (count-- > 0) *x++ = (float)rand() / (float)RAND_MAX - 0.5f;
}

int main(void) {
  static const char *const recipes[2] = {"gear-4", "fp16"};
  kvg_error error;
  kvg_runtime *runtime;
  kvg_cache *cache[2];
  kvg_append_desc append;
  kvg_attend_desc attend;
  kvg_shape shape;
  kvg_stats stats;
  double difference = 0, norm = 0;
  int c, i, step;

  check(kvg_runtime_create(NULL, &runtime, &error), &error);
  kvg_shape_init(&shape);
  shape.layers = 1;
  shape.q_heads = Q_HEADS;
  shape.kv_heads = KV_HEADS;
  shape.head_dim = HEAD_DIM;
  for (c = 0; c < 2; ++c) {
    kvg_plan *plan;
    check(kvg_plan_create(&shape, recipes[c], &plan, &error), &error);
    check(kvg_cache_create(runtime, plan, &cache[c], &error), &error);
    kvg_plan_destroy(plan); /* the cache keeps what it needs */
  }

  kvg_append_desc_init(&append);
  append.dtype = KVG_F32;
  kvg_attend_desc_init(&attend);
  attend.q_dtype = attend.out_dtype = KVG_F32;
  for (step = 0; step <= STEPS; ++step) { /* step 0 is the prompt */
    size_t numbers;
    append.tokens = step == 0 ? PROMPT : 1;
    numbers = (size_t)append.tokens * KV_HEADS * HEAD_DIM;
    fill(k, numbers);
    fill(v, numbers);
    fill(q, Q_HEADS * HEAD_DIM);
    for (c = 0; c < 2; ++c) {
      check(kvg_cache_append(cache[c], 0, k, numbers * sizeof(float), v, numbers * sizeof(float),
                             &append, &error), &error);
      check(kvg_cache_attend(cache[c], 0, q, sizeof(q), out[c], sizeof(out[c]), &attend, &error),
            &error);
    }
  }

  for (i = 0; i < Q_HEADS * HEAD_DIM; ++i) {
    difference += pow(out[0][i] - out[1][i], 2);
    norm += pow(out[1][i], 2);
  }
  kvg_stats_init(&stats);
  check(kvg_cache_stats(cache[0], KVG_ALL_LAYERS, KVG_SIDE_BOTH, &stats, &error), &error);
  printf("%s: %lu tokens in %lu bytes, %.2f bits per element, %.2f times smaller than fp16\n",
         recipes[0], (unsigned long)stats.tokens, (unsigned long)stats.bytes_total,
         stats.bits_per_element, (double)stats.bytes_fp16 / (double)stats.bytes_total);
  printf("relative distance of the last output from that of fp16: %.4f\n", sqrt(difference / norm));

  for (c = 0; c < 2; ++c) kvg_cache_destroy(cache[c]);
  kvg_runtime_destroy(runtime);
  return stats.tokens == PROMPT + STEPS && sqrt(difference / norm) < 0.5 ? 0 : 1;
}
