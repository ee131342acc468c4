/* See kit.h: checks, inputs, pictures, attention. The allocator is in heap.c. The counters are
 * atomic (builtins of gcc and clang, for C89 has none), because tests/thread checks on any thread. */
#include "kit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ checks */

kvg_error kvt_err;
static int failures = 0;
static long checks = 0;
static char where[200] = "";

int kvt_failures(void) { return __atomic_load_n(&failures, __ATOMIC_RELAXED); }
long kvt_checks(void) { return __atomic_load_n(&checks, __ATOMIC_RELAXED); }

void kvt_where(const char *what) {
  where[0] = '\0';
  strncat(where, what, sizeof(where) - 1);
}

void kvt_report(const char *file, int line, const char *what) {
  if (__atomic_add_fetch(&failures, 1, __ATOMIC_RELAXED) > 50) return; /* a cause can fail in a loop */
  fprintf(stderr, "%s:%d: FAILED: %s%s%s%s\n", file, line, what, where[0] ? " [" : "", where,
          where[0] ? "]" : "");
}

int kvt_check(int ok) {
  __atomic_add_fetch(&checks, 1, __ATOMIC_RELAXED);
  return ok;
}

void kvt_arm(void) { memset(&kvt_err, 0x5A, sizeof(kvt_err)); }

static void report_status(const char *file, int line, const char *call, const char *wanted,
                          kvg_status got) {
  char text[1200];
  char message[KVG_ERROR_MESSAGE_SIZE + 1];
  message[0] = '\0';
  if (got != KVG_OK) {
    memcpy(message, kvt_err.message, KVG_ERROR_MESSAGE_SIZE);
    message[KVG_ERROR_MESSAGE_SIZE] = '\0';
  }
  sprintf(text, "%.300s: %.100s wanted, got %s: %.400s", call, wanted, KVG(status_string)(got),
          message);
  kvt_report(file, line, text);
}

void kvt_ok(const char *file, int line, const char *call, kvg_status got) {
  size_t i;
  const unsigned char *bytes = (const unsigned char *)&kvt_err;
  if (!kvt_check(got == KVG_OK)) {
    report_status(file, line, call, "KVG_OK", got);
    return;
  }
  for (i = 0; i < sizeof(kvt_err); i++) {
    if (bytes[i] != 0x5A) {
      kvt_report(file, line, "a success touched the kvg_error");
      return;
    }
  }
}

/* No control characters. What is not UTF-8 would not be ASCII either, and all our own words are. */
static int is_clean(const char *message) {
  for (; *message != '\0'; message++) {
    if ((unsigned char)*message < 0x20 || (unsigned char)*message > 0x7E) return 0;
  }
  return 1;
}

void kvt_refused(const char *file, int line, const char *call, kvg_status want, const char *words,
                 kvg_status got) {
  if (!kvt_check(got == want)) {
    report_status(file, line, call, KVG(status_string)(want), got);
    return;
  }
  if (kvt_err.code != want) kvt_report(file, line, "the code in the kvg_error is another");
  if (kvt_err.reserved != 0) kvt_report(file, line, "kvg_error.reserved is not 0");
  if (memchr(kvt_err.message, '\0', sizeof(kvt_err.message)) == NULL) {
    kvt_report(file, line, "the message is not terminated");
  } else if (strlen(kvt_err.message) < 10 || !is_clean(kvt_err.message)) {
    kvt_report(file, line, "the message is no clean sentence");
  } else if (strstr(kvt_err.message, words) == NULL) {
    report_status(file, line, call, words, got);
  }
}

void *kvt_malloc(size_t bytes) {
  void *p = malloc(bytes > 0 ? bytes : 1);
  if (p == NULL) {
    fprintf(stderr, "the test has no memory\n");
    exit(2);
  }
  return p;
}

/* ------------------------------------------------------------------ inputs */

float kvt_value(unsigned seed, size_t index) {
  uint32_t x = (uint32_t)index * 2654435761u + (uint32_t)seed * 2246822519u + 374761393u;
  x ^= x >> 15;
  x *= 2246822519u;
  x ^= x >> 13;
  x *= 3266489917u;
  x ^= x >> 16;
  return (float)((int)(x % 1024u) - 512) / 256.0f;
}

void kvt_fill(float *x, size_t n, unsigned seed, size_t first_index) {
  size_t i;
  for (i = 0; i < n; i++) x[i] = kvt_value(seed, first_index + i);
}

unsigned short kvt_f16(float x) {
  unsigned sign = x < 0 ? 0x8000u : 0u;
  int exponent;
  double fraction = frexp(fabs((double)x), &exponent); /* in [0.5, 1) */
  if (x == 0) return 0;
  if (exponent < -13) { /* subnormal: steps of 2^-24 */
    return (unsigned short)(sign | (unsigned)ldexp(fraction, exponent + 24));
  }
  return (unsigned short)(sign | ((unsigned)(exponent + 14) << 10) |
                          ((unsigned)ldexp(fraction, 11) & 0x3FFu));
}

float kvt_f32(unsigned short half) {
  int exponent = (half >> 10) & 0x1F;
  int mantissa = half & 0x3FF;
  double x = exponent == 0 ? ldexp((double)mantissa, -24)
                           : ldexp((double)(mantissa + 1024), exponent - 25);
  return (float)((half & 0x8000) != 0 ? -x : x);
}

unsigned short kvt_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return (unsigned short)(bits >> 16);
}

int kvt_rig_open(kvt_rig *rig, const char *recipes, uint32_t layers, uint32_t q_heads,
                 uint32_t kv_heads, uint32_t head_dim, const kvg_runtime_options *options) {
  kvg_shape shape;
  memset(rig, 0, sizeof(*rig));
  KVG(shape_init)(&shape);
  rig->layers = shape.layers = layers;
  rig->q_heads = shape.q_heads = q_heads;
  rig->kv_heads = shape.kv_heads = kv_heads;
  rig->head_dim = shape.head_dim = head_dim;
  OK(KVG(runtime_create)(options, &rig->runtime, &kvt_err));
  if (rig->runtime == NULL) return 0;
  OK(KVG(plan_create)(&shape, recipes, &rig->plan, &kvt_err));
  if (rig->plan != NULL) {
    OK(KVG(cache_create)(rig->runtime, rig->plan, &rig->cache, &kvt_err));
  }
  if (rig->cache != NULL) return 1;
  kvt_rig_close(rig);
  return 0;
}

void kvt_rig_close(kvt_rig *rig) {
  KVG(cache_destroy)(rig->cache);
  KVG(plan_destroy)(rig->plan);
  KVG(runtime_destroy)(rig->runtime);
  memset(rig, 0, sizeof(*rig));
}

size_t kvt_elements(const kvt_rig *rig, uint64_t tokens) {
  return (size_t)tokens * rig->kv_heads * rig->head_dim;
}

kvg_status kvt_append(const kvt_rig *rig, kvg_cache *cache, uint32_t layer, uint64_t first,
                      uint64_t tokens, unsigned seed, kvg_error *err) {
  const size_t n = kvt_elements(rig, tokens);
  const size_t bytes = n * sizeof(float);
  float *k = (float *)kvt_malloc(bytes);
  float *v = (float *)kvt_malloc(bytes);
  kvg_append_desc desc;
  kvg_status status;
  kvt_fill(k, n, 2 * seed, kvt_elements(rig, first));
  kvt_fill(v, n, 2 * seed + 1, kvt_elements(rig, first));
  KVG(append_desc_init)(&desc);
  desc.dtype = KVG_F32;
  desc.tokens = tokens;
  status = KVG(cache_append)(cache, layer, k, bytes, v, bytes, &desc, err);
  free(k);
  free(v);
  return status;
}

uint64_t kvt_length(const kvg_cache *cache, uint32_t layer) {
  uint64_t tokens = 0;
  CHECK(KVG(cache_length)(cache, layer, &tokens, NULL) == KVG_OK);
  return tokens;
}

void kvt_write_plan(const char *path, size_t cut) {
  enum { DIM = 32, RANK = 16, HEADS = 2 };
  static const char header[] =
      "{\"__metadata__\":{\"kvgear.plan\":\"1\",\"layers\":\"1\",\"q_heads\":\"4\","
      "\"kv_heads\":\"2\",\"head_dim\":\"32\",\"recipes\":\"palu\",\"fingerprint\":\"these\","
      "\"rope\":\"none\"},"
      "\"layers.0.k.latent\":{\"dtype\":\"F32\",\"shape\":[2,1,32,32],\"data_offsets\":[0,8192]},"
      "\"layers.0.v.latent\":{\"dtype\":\"F32\",\"shape\":[2,1,16,32],\"data_offsets\":[8192,12288]}}";
  static float k[HEADS * DIM * DIM], v[HEADS * RANK * DIM];
  const uint64_t length = sizeof(header) - 1;
  FILE *file = fopen(path, "wb");
  size_t h, r;
  for (h = 0; h < HEADS; h++) {
    for (r = 0; r < DIM; r++) k[(h * DIM + r) * DIM + r] = 1;
    for (r = 0; r < RANK; r++) v[(h * RANK + r) * DIM + r] = 1;
  }
  CHECK(file != NULL);
  if (file == NULL) return;
  CHECK(fwrite(&length, sizeof(length), 1, file) == 1);
  CHECK(fwrite(header, length, 1, file) == 1);
  CHECK(fwrite(k, sizeof(k), 1, file) == 1);
  CHECK(fwrite(v, sizeof(v) - cut, 1, file) == 1);
  CHECK(fclose(file) == 0);
}

/* --------------------------------------------------------- state of a cache */

static void picture_add(kvt_picture *picture, const void *bytes, size_t size) {
  unsigned char *longer = (unsigned char *)kvt_malloc(picture->size + size);
  if (picture->size > 0) memcpy(longer, picture->bytes, picture->size);
  memcpy(longer + picture->size, bytes, size);
  free(picture->bytes);
  picture->bytes = longer;
  picture->size += size;
}

/* Whether slots are in the order of tokens, all of them there, for all that the first head tells. */
static int is_plain(const kvg_cache *cache, uint32_t layer, uint64_t length, uint64_t slots) {
  uint64_t *positions, i;
  if (slots < length) return 0;
  positions = (uint64_t *)kvt_malloc((size_t)slots * sizeof(uint64_t));
  CHECK(KVG(cache_positions)(cache, layer, 0, positions, (size_t)slots, NULL, NULL) == KVG_OK);
  for (i = 0; i < slots && positions[i] == i; i++) continue;
  free(positions);
  return i == slots;
}

/* Of a layer that holds `slots` of `length` tokens. */
static void picture_add_layer(kvt_picture *picture, const kvt_rig *rig, const kvg_cache *cache,
                              uint32_t layer, uint64_t length, uint64_t slots) {
  const int plain = is_plain(cache, layer, length, slots);
  /* Several causal queries may ask for what a policy dropped or reordered. */
  const uint32_t queries = !plain ? 1 : length < 3 ? (uint32_t)length : 3;
  const size_t row = (size_t)rig->q_heads * rig->head_dim;
  const size_t q_bytes = queries * row * sizeof(float);
  const size_t side_bytes = kvt_elements(rig, slots) * sizeof(float);
  float *q = (float *)kvt_malloc(q_bytes);
  float *out = (float *)kvt_malloc(q_bytes);
  void *rows = kvt_malloc(side_bytes);
  kvg_side side;
  kvg_attend_desc desc;
  KVG(attend_desc_init)(&desc);
  desc.q_dtype = KVG_F32;
  desc.out_dtype = KVG_F32;
  desc.queries = queries;
  kvt_fill(q, queries * row, 77 + layer, 0);
  memset(out, 0, q_bytes);
  memset(rows, 0, side_bytes);
  CHECK(KVG(cache_attend)(cache, layer, q, q_bytes, out, q_bytes, &desc, NULL) == KVG_OK);
  picture_add(picture, out, q_bytes);
  for (side = KVG_SIDE_K; side <= KVG_SIDE_V; side++) {
    CHECK(KVG(cache_read)(cache, layer, side, 0, slots, KVG_F32, rows, side_bytes, NULL) ==
          KVG_OK);
    picture_add(picture, rows, side_bytes);
  }
  if (!plain) {
    uint64_t *positions = (uint64_t *)kvt_malloc((size_t)slots * sizeof(uint64_t));
    uint32_t head;
    for (head = 0; head < rig->kv_heads; head++) {
      CHECK(KVG(cache_positions)(cache, layer, head, positions, (size_t)slots, NULL, NULL) ==
            KVG_OK);
      picture_add(picture, positions, (size_t)slots * sizeof(uint64_t));
    }
    free(positions);
  }
  free(q);
  free(out);
  free(rows);
}

void kvt_picture_take(kvt_picture *picture, const kvt_rig *rig, const kvg_cache *cache,
                      int with_stats) {
  uint32_t layer;
  kvg_stats stats;
  picture->bytes = NULL;
  picture->size = 0;
  for (layer = 0; layer < rig->layers; layer++) {
    const uint64_t length = kvt_length(cache, layer);
    uint64_t slots = 0;
    CHECK(KVG(cache_held)(cache, layer, &slots, NULL) == KVG_OK);
    picture_add(picture, &length, sizeof(length));
    if (length > 0) picture_add_layer(picture, rig, cache, layer, length, slots);
  }
  if (with_stats) {
    KVG(stats_init)(&stats);
    CHECK(KVG(cache_stats)(cache, KVG_ALL_LAYERS, KVG_SIDE_BOTH, &stats, NULL) == KVG_OK);
    picture_add(picture, &stats, sizeof(stats));
  }
}

int kvt_picture_same(const kvt_picture *a, const kvt_picture *b) {
  return a->size == b->size && memcmp(a->bytes, b->bytes, a->size) == 0;
}

void kvt_picture_free(kvt_picture *picture) {
  free(picture->bytes);
  picture->bytes = NULL;
  picture->size = 0;
}

int kvt_unchanged(const kvt_picture *before, const kvt_rig *rig, const kvg_cache *cache,
                  int with_stats) {
  kvt_picture now;
  int same;
  kvt_picture_take(&now, rig, cache, with_stats);
  same = kvt_picture_same(before, &now);
  kvt_picture_free(&now);
  return same;
}

/* ---------------------------------------------------------------- attention */

static void attend_one(const float *q, const float *k, const float *v, size_t stride, uint32_t dim,
                       uint64_t from, uint64_t to, double scale, double softcap, double *out) {
  double top = 0, sum = 0;
  double *weight = (double *)kvt_malloc((size_t)(to - from) * sizeof(double));
  uint64_t t;
  uint32_t d;
  for (t = from; t < to; t++) {
    double logit = 0;
    for (d = 0; d < dim; d++) logit += (double)q[d] * (double)k[t * stride + d];
    logit *= scale;
    if (softcap > 0) logit = softcap * tanh(logit / softcap);
    weight[t - from] = logit;
    if (t == from || logit > top) top = logit;
  }
  for (d = 0; d < dim; d++) out[d] = 0;
  for (t = from; t < to; t++) {
    const double w = exp(weight[t - from] - top);
    sum += w;
    for (d = 0; d < dim; d++) out[d] += w * (double)v[t * stride + d];
  }
  for (d = 0; d < dim; d++) out[d] /= sum;
  free(weight);
}

void kvt_attention(const kvt_rig *rig, const float *q, uint32_t queries, const float *k,
                   const float *v, uint64_t length, const kvt_mask *mask, double *out) {
  const uint32_t dim = rig->head_dim;
  const uint32_t group = rig->q_heads / rig->kv_heads;
  const double scale = mask->scale != 0 ? mask->scale : 1.0 / sqrt((double)dim);
  uint32_t i, h;
  for (i = 0; i < queries; i++) {
    const uint64_t position = length - queries + i;
    const uint64_t to = mask->non_causal ? length : position + 1;
    uint64_t from = 0;
    if (mask->sliding_window > 0 && position + 1 > mask->sliding_window) {
      from = position + 1 - mask->sliding_window;
    }
    for (h = 0; h < rig->q_heads; h++) {
      const size_t row = ((size_t)i * rig->q_heads + h) * dim;
      const size_t head = (size_t)(h / group) * dim;
      attend_one(q + row, k + head, v + head, (size_t)rig->kv_heads * dim, dim, from, to, scale,
                 mask->softcap, out + row);
    }
  }
}

int kvt_same_bytes(const void *x, size_t size, int byte) {
  const unsigned char *p = (const unsigned char *)x;
  size_t i;
  for (i = 0; i < size; i++) {
    if (p[i] != (unsigned char)byte) return 0;
  }
  return 1;
}

double kvt_attend_error(const kvt_rig *rig, const kvg_cache *cache, uint32_t layer,
                        uint32_t queries, const kvt_mask *mask, unsigned seed) {
  const uint64_t length = kvt_length(cache, layer);
  const size_t n = (size_t)queries * rig->q_heads * rig->head_dim;
  const size_t rows = kvt_elements(rig, length);
  float *q = (float *)kvt_malloc(n * sizeof(float));
  float *out = (float *)kvt_malloc(n * sizeof(float));
  float *k = (float *)kvt_malloc(rows * sizeof(float));
  float *v = (float *)kvt_malloc(rows * sizeof(float));
  double *want = (double *)kvt_malloc(n * sizeof(double));
  double worst = 0, largest = 0;
  size_t i;
  kvg_attend_desc desc;
  kvt_fill(q, n, seed, 0);
  memset(out, 0xFF, n * sizeof(float)); /* NaN, in case nothing is written */
  KVG(attend_desc_init)(&desc);
  desc.q_dtype = KVG_F32;
  desc.out_dtype = KVG_F32;
  desc.queries = queries;
  desc.non_causal = mask->non_causal ? 1 : 0;
  desc.scale = (float)mask->scale;
  desc.logit_softcap = (float)mask->softcap;
  desc.sliding_window = mask->sliding_window;
  OK(KVG(cache_read)(cache, layer, KVG_SIDE_K, 0, length, KVG_F32, k, rows * sizeof(float),
                     &kvt_err));
  OK(KVG(cache_read)(cache, layer, KVG_SIDE_V, 0, length, KVG_F32, v, rows * sizeof(float),
                     &kvt_err));
  OK(KVG(cache_attend)(cache, layer, q, n * sizeof(float), out, n * sizeof(float), &desc,
                       &kvt_err));
  kvt_attention(rig, q, queries, k, v, length, mask, want);
  for (i = 0; i < rows; i++) {
    if (fabs((double)v[i]) > largest) largest = fabs((double)v[i]);
  }
  for (i = 0; i < n; i++) {
    const double difference = fabs((double)out[i] - want[i]);
    if (!(difference <= worst)) worst = difference; /* NaN counts as worst, and stays */
    if (difference != difference) break;
  }
  free(q);
  free(out);
  free(k);
  free(v);
  free(want);
  return worst / largest;
}
