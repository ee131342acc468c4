/* kvg_cache_append: element types and strides that must give the same cache, and every refusal. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cases.h"

enum { HEADS = 2, DIM = 32, ROW = HEADS * DIM, TOKENS = 5, COUNT = TOKENS * ROW };

static kvt_rig rig;
static kvg_cache *fresh(void) {
  kvg_cache *cache = NULL;
  OK(KVG(cache_create)(rig.runtime, rig.plan, &cache, &kvt_err));
  return cache;
}

/* Values that fp32, fp16 and bf16 all hold exactly. */
static float coarse(size_t i) { return (float)(int)(kvt_value(9, i) * 16.0f) / 16.0f; }

static kvg_status append_as(kvg_cache *cache, kvg_dtype dtype, const void *k, const void *v,
                            size_t bytes) {
  kvg_append_desc desc;
  KVG(append_desc_init)(&desc);
  desc.dtype = dtype;
  desc.tokens = TOKENS;
  return KVG(cache_append)(cache, 0, k, bytes, v, bytes, &desc, &kvt_err);
}

static void types(void) {
  float k32[COUNT], v32[COUNT];
  unsigned short k16[COUNT], v16[COUNT], kb[COUNT], vb[COUNT];
  kvg_cache *a = fresh(), *b = fresh(), *c = fresh();
  kvt_picture picture;
  size_t i;
  for (i = 0; i < COUNT; i++) {
    k32[i] = coarse(i);
    v32[i] = coarse(i + 10000);
    k16[i] = kvt_f16(k32[i]);
    v16[i] = kvt_f16(v32[i]);
    kb[i] = kvt_bf16(k32[i]);
    vb[i] = kvt_bf16(v32[i]);
    CHECK(kvt_f32(k16[i]) - k32[i] == 0);
  }
  OK(append_as(a, KVG_F32, k32, v32, sizeof(k32)));
  OK(append_as(b, KVG_F16, k16, v16, sizeof(k16)));
  OK(append_as(c, KVG_BF16, kb, vb, sizeof(kb)));
  kvt_picture_take(&picture, &rig, a, 1);
  CHECK(kvt_unchanged(&picture, &rig, b, 1));
  CHECK(kvt_unchanged(&picture, &rig, c, 1));
  kvt_picture_free(&picture);
  /* What the window holds is read back as it was given. */
  {
    float back[COUNT];
    OK(KVG(cache_read)(b, 0, KVG_SIDE_V, 0, TOKENS, KVG_F32, back, sizeof(back), &kvt_err));
    CHECK(memcmp(back, v32, sizeof(back)) == 0);
  }
  KVG(cache_destroy)(a);
  KVG(cache_destroy)(b);
  KVG(cache_destroy)(c);
}

/* One tensor, laid out in several ways in a larger buffer. */
static void strides(void) {
  typedef struct layout {
    long at, token, head, dim; /* in elements */
  } layout;
  static const layout layouts[] = {
      {0, ROW, DIM, 1},                                        /* contiguous, said outright */
      {0, DIM, TOKENS * DIM, 1},                               /* heads outermost */
      {3, ROW + 5, DIM, 1},                                    /* padded tokens */
      {0, 1, TOKENS * DIM, TOKENS},                            /* tokens innermost */
      {0, 2 * ROW, 2 * DIM, 2},                                /* every other element */
      {(TOKENS - 1) * ROW, -ROW, DIM, 1},                      /* tokens backwards */
      {COUNT - 1, -ROW, -DIM, -1},                             /* everything backwards */
      {DIM, ROW, -DIM, 1},                                     /* heads backwards */
  };
  float k[COUNT], v[COUNT];
  kvg_cache *plain = fresh();
  kvt_picture picture;
  size_t i;
  for (i = 0; i < COUNT; i++) k[i] = coarse(i), v[i] = coarse(i + 10000);
  OK(append_as(plain, KVG_F32, k, v, sizeof(k)));
  kvt_picture_take(&picture, &rig, plain, 1);
  for (i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++) {
    const layout *l = &layouts[i];
    float wide[2 * COUNT + 64];
    long t, h, d;
    size_t bytes;
    kvg_append_desc desc;
    kvg_cache *cache = fresh();
    memset(wide, 0xFF, sizeof(wide)); /* NaN: nothing else may be looked at */
    for (t = 0; t < TOKENS; t++) {
      for (h = 0; h < HEADS; h++) {
        for (d = 0; d < DIM; d++) {
          wide[l->at + t * l->token + h * l->head + d * l->dim] = k[t * ROW + h * DIM + d];
        }
      }
    }
    KVG(append_desc_init)(&desc);
    desc.dtype = KVG_F32;
    desc.tokens = TOKENS;
    desc.k_token_stride = l->token;
    desc.k_head_stride = l->head;
    desc.k_dim_stride = l->dim;
    /* exactly what is behind the pointer */
    bytes = sizeof(float);
    if (l->token > 0) bytes += sizeof(float) * (size_t)(l->token * (TOKENS - 1));
    if (l->head > 0) bytes += sizeof(float) * (size_t)(l->head * (HEADS - 1));
    if (l->dim > 0) bytes += sizeof(float) * (size_t)(l->dim * (DIM - 1));
    REFUSED(KVG_E_INVALID, "k_bytes",
            KVG(cache_append)(cache, 0, wide + l->at, bytes - 1, v, sizeof(v), &desc, &kvt_err));
    CHECK(kvt_length(cache, 0) == 0);
    OK(KVG(cache_append)(cache, 0, wide + l->at, bytes, v, sizeof(v), &desc, &kvt_err));
    CHECK(kvt_unchanged(&picture, &rig, cache, 1));
    KVG(cache_destroy)(cache);
  }
  kvt_picture_free(&picture);
  /* A stride of 0 repeats; here one token. */
  {
    kvg_append_desc desc;
    float back[COUNT];
    KVG(append_desc_init)(&desc);
    desc.dtype = KVG_F32;
    desc.tokens = TOKENS;
    desc.v_head_stride = DIM;
    desc.v_dim_stride = 1;
    KVG(cache_clear)(plain, NULL);
    OK(KVG(cache_append)(plain, 0, k, sizeof(k), v, ROW * sizeof(float), &desc, &kvt_err));
    OK(KVG(cache_read)(plain, 0, KVG_SIDE_V, 0, TOKENS, KVG_F32, back, sizeof(back), &kvt_err));
    for (i = 0; i < TOKENS; i++) CHECK(memcmp(back + i * ROW, v, ROW * sizeof(float)) == 0);
  }
  KVG(cache_destroy)(plain);
}

/* ----------------------------------------------------------------- refusals */

static float good[4 * COUNT];

typedef struct call {
  uint32_t layer;
  const void *k, *v;
  size_t k_bytes, v_bytes;
  kvg_append_desc desc;
} call;

static void reset(call *c) {
  c->layer = 0;
  c->k = good;
  c->v = good;
  c->k_bytes = c->v_bytes = COUNT * sizeof(float);
  KVG(append_desc_init)(&c->desc);
  c->desc.dtype = KVG_F32;
  c->desc.tokens = TOKENS;
}

static kvg_status make(const call *c) {
  return KVG(cache_append)(rig.cache, c->layer, c->k, c->k_bytes, c->v, c->v_bytes, &c->desc,
                           &kvt_err);
}

#define REFUSED_CALL(status, words)        \
  do {                                     \
    REFUSED(status, words, make(&c));      \
    CHECK(kvt_length(rig.cache, 0) == 70); \
    reset(&c);                             \
  } while (0)

static void sizes_and_pointers(void) {
  call c;
  reset(&c);
  c.layer = 2;
  REFUSED_CALL(KVG_E_INVALID, "layer is 2");
  c.layer = KVG_ALL_LAYERS;
  REFUSED_CALL(KVG_E_INVALID, "layer");
  c.k = NULL;
  REFUSED_CALL(KVG_E_INVALID, "k is NULL");
  c.v = NULL;
  REFUSED_CALL(KVG_E_INVALID, "v is NULL");
  c.k_bytes--;
  REFUSED_CALL(KVG_E_INVALID, "k_bytes");
  c.v_bytes--;
  REFUSED_CALL(KVG_E_INVALID, "v_bytes");
  c.v_bytes = 0;
  REFUSED_CALL(KVG_E_INVALID, "v_bytes");
  c.k = (const char *)good + 1;
  REFUSED_CALL(KVG_E_INVALID, "k must be aligned");
  c.v = (const char *)good + 2;
  REFUSED_CALL(KVG_E_INVALID, "v must be aligned");
  c.desc.dtype = KVG_F16;
  c.v = (const char *)good + 1;
  REFUSED_CALL(KVG_E_INVALID, "v must be aligned");
  c.desc.dtype = 3;
  REFUSED_CALL(KVG_E_UNSUPPORTED, "dtype is 3");
  c.desc.dtype = 0xFFFFFFFFu;
  REFUSED_CALL(KVG_E_UNSUPPORTED, "dtype");
  c.desc.stream = &c;
  REFUSED_CALL(KVG_E_INVALID, "stream");
  /* No tokens are no tokens, with or without tensors; the rest is still checked. */
  c.desc.tokens = 0;
  c.k = c.v = NULL;
  c.k_bytes = c.v_bytes = 0;
  OK(make(&c));
  c.layer = 2;
  REFUSED_CALL(KVG_E_INVALID, "layer is 2");
  c.desc.tokens = 0;
  c.desc.dtype = 3;
  REFUSED_CALL(KVG_E_UNSUPPORTED, "dtype is 3");
}

static void overflows(void) {
  static const int shifts[] = {31, 32, 40, 48, 52, 56, 57, 58, 59, 60, 61, 62, 63};
  call c;
  size_t i;
  int which;
  reset(&c);
  for (i = 0; i < sizeof(shifts) / sizeof(shifts[0]); i++) {
    int around;
    for (around = -1; around <= 1; around++) {
      c.desc.tokens = ((uint64_t)1 << shifts[i]) + (uint64_t)(int64_t)around;
      REFUSED_CALL(KVG_E_INVALID, "");
      /* The same with a length that promises everything. */
      c.desc.tokens = ((uint64_t)1 << shifts[i]) + (uint64_t)(int64_t)around;
      c.k_bytes = c.v_bytes = COUNT * sizeof(float);
      c.desc.k_token_stride = INT64_MAX;
      c.desc.v_token_stride = INT64_MIN;
      REFUSED_CALL(KVG_E_INVALID, "");
    }
  }
  c.desc.tokens = UINT64_MAX;
  REFUSED_CALL(KVG_E_INVALID, "tokens");
  c.desc.tokens = UINT64_MAX - 69; /* wraps to 1 together with the 70 that are there */
  c.k_bytes = c.v_bytes = SIZE_MAX;
  REFUSED_CALL(KVG_E_INVALID, "tokens");
  for (which = 0; which < 6; which++) {
    static const int64_t far[] = {INT64_MAX, INT64_MIN, INT64_MAX / 2, INT64_MIN / 2,
                                  (int64_t)1 << 62, -((int64_t)1 << 61), (int64_t)1 << 33};
    for (i = 0; i < sizeof(far) / sizeof(far[0]); i++) {
      /* Any one of the strides; the others are contiguous. */
      int64_t *stride = &c.desc.k_token_stride;
      stride[0] = stride[3] = ROW;
      stride[1] = stride[4] = DIM;
      stride[2] = stride[5] = 1;
      stride[which] = far[i];
      REFUSED_CALL(KVG_E_INVALID, "");
    }
  }
}

/* NaN, infinities and what fp16 cannot hold, at every corner of both tensors. */
static void nonfinite(void) {
  static const uint32_t bad32[] = {0x7F800000u, 0xFF800000u, 0x7FC00000u, 0xFFC00000u, 0x7F800001u,
                                   0x47800000u /* 65536 */, 0xC7800000u, 0x7F7FFFFFu,
                                   0x477FF000u /* 65520, which rounds to infinity */, 0xC77FF000u};
  static const unsigned short bad16[] = {0x7C00, 0xFC00, 0x7E00, 0x7C01, 0xFFFF};
  static const unsigned short bad_b[] = {0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0x4780, 0xC780, 0x7F7F};
  /* 200 tokens: some go to the window, some are sealed at once. */
  enum { MANY = 200 };
  static const size_t places[] = {0, ROW - 1, 37 * ROW + 5, 150 * ROW, MANY * ROW - 1};
  const size_t n = MANY * ROW;
  float *x = (float *)kvt_malloc(n * sizeof(float));
  float *y = (float *)kvt_malloc(n * sizeof(float));
  unsigned short *x16 = (unsigned short *)x;
  size_t p, b;
  int side;
  call c;
  for (side = 0; side < 2; side++) {
    kvt_fill(y, n, 3, 0);
    reset(&c);
    c.desc.tokens = MANY;
    c.k = side == 0 ? x : y;
    c.v = side == 0 ? y : x;
    c.k_bytes = c.v_bytes = n * sizeof(float);
    for (p = 0; p < sizeof(places) / sizeof(places[0]); p++) {
      kvt_fill(x, n, 4, 0);
      for (b = 0; b < sizeof(bad32) / sizeof(bad32[0]); b++) {
        memcpy(&x[places[p]], &bad32[b], sizeof(float));
        REFUSED(KVG_E_NONFINITE, side == 0 ? "k holds" : "v holds", make(&c));
        CHECK(kvt_length(rig.cache, 0) == 70);
      }
      c.desc.dtype = KVG_F16;
      memset(x, 0, n * sizeof(float));
      memset(y, 0, n * sizeof(float));
      for (b = 0; b < sizeof(bad16) / sizeof(bad16[0]); b++) {
        x16[places[p]] = bad16[b];
        REFUSED(KVG_E_NONFINITE, side == 0 ? "k holds" : "v holds", make(&c));
      }
      c.desc.dtype = KVG_BF16;
      for (b = 0; b < sizeof(bad_b) / sizeof(bad_b[0]); b++) {
        x16[places[p]] = bad_b[b];
        REFUSED(KVG_E_NONFINITE, side == 0 ? "k holds" : "v holds", make(&c));
      }
      c.desc.dtype = KVG_F32;
    }
  }
  CHECK(kvt_length(rig.cache, 0) == 70);
  free(x);
  free(y);
}

/* The largest and the smallest that are allowed. */
static void extremes(void) {
  static const float edge[] = {65504.0f, -65504.0f, 0.0f, -0.0f, 5.9604645e-8f, 65519.996f, 1e-45f};
  static const float stored[] = {65504.0f, -65504.0f, 0.0f, 0.0f, 5.9604645e-8f, 65504.0f, 0.0f};
  kvg_cache *cache = fresh();
  float x[COUNT], back[COUNT];
  size_t i;
  for (i = 0; i < COUNT; i++) x[i] = edge[i % 7];
  OK(append_as(cache, KVG_F32, x, x, sizeof(x)));
  OK(KVG(cache_read)(cache, 0, KVG_SIDE_K, 0, TOKENS, KVG_F32, back, sizeof(back), &kvt_err));
  for (i = 0; i < COUNT; i++) {
    CHECK(!(back[i] < stored[i % 7]) && !(back[i] > stored[i % 7]));
  }
  KVG(cache_destroy)(cache);
}

/* Several caches in one call: the bits of a call for each; all of them or none. */
static void batches(void) {
  enum { CACHES = 4, EACH = 70, ALL = CACHES * EACH * ROW };
  static const uint64_t before[CACHES] = {0, 5, 300, 64};
  static float k[ALL], v[ALL];
  kvg_cache *caches[CACHES], *alone[CACHES], *same[CACHES];
  kvt_picture picture;
  kvt_rig other, selects;
  kvg_append_desc desc;
  size_t i, step;
  kvt_fill(k, ALL, 4, 0);
  kvt_fill(v, ALL, 5, 0);
  KVG(append_desc_init)(&desc);
  desc.dtype = KVG_F32;
  for (i = 0; i < CACHES; i++) {
    caches[i] = fresh();
    alone[i] = fresh();
    OK(kvt_append(&rig, caches[i], 1, 0, before[i], (unsigned)i, &kvt_err));
    OK(kvt_append(&rig, alone[i], 1, 0, before[i], (unsigned)i, &kvt_err));
  }
  for (step = 0; step < 3; step++) {
    const uint64_t tokens = step == 1 ? EACH : 1;
    const size_t bytes = (size_t)tokens * ROW * sizeof(float);
    desc.tokens = tokens;
    OK(KVG(cache_append_batch)(caches, CACHES, 1, k, CACHES * bytes, v, CACHES * bytes, &desc, &kvt_err));
    for (i = 0; i < CACHES; i++) {
      OK(KVG(cache_append)(alone[i], 1, k + i * tokens * ROW, bytes, v + i * tokens * ROW, bytes, &desc,
                           &kvt_err));
      kvt_picture_take(&picture, &rig, alone[i], 1);
      CHECK(kvt_unchanged(&picture, &rig, caches[i], 1));
      kvt_picture_free(&picture);
    }
  }
  /* Refusals change none of them. */
  if (!kvt_rig_open(&other, "fp16", 2, 4, HEADS, DIM, NULL)) return;
  if (!kvt_rig_open(&selects, "fp16;1:h2o", 2, 4, HEADS, DIM, NULL)) return;
  desc.tokens = EACH;
  kvt_picture_take(&picture, &rig, caches[0], 1);
#define REFUSED_BATCH(status, words, list, count)                                                    \
  REFUSED(status, words,                                                                             \
          KVG(cache_append_batch)(list, count, 1, k, sizeof(k), v, sizeof(v), &desc, &kvt_err));     \
  CHECK(kvt_unchanged(&picture, &rig, caches[0], 1))
  memcpy(same, caches, sizeof(same));
  same[2] = caches[0];
  REFUSED_BATCH(KVG_E_INVALID, "twice", same, CACHES);
  same[2] = other.cache;
  REFUSED_BATCH(KVG_E_INVALID, "cache 2", same, CACHES);
  same[2] = NULL;
  REFUSED_BATCH(KVG_E_INVALID, "cache 2", same, CACHES);
  REFUSED_BATCH(KVG_E_INVALID, "caches", NULL, CACHES);
  desc.tokens = EACH + 1;
  REFUSED_BATCH(KVG_E_INVALID, "k_bytes", caches, CACHES);
  desc.tokens = EACH;
  v[ALL - 3] *= 1e30f;
  v[ALL - 3] += 1e30f;
  REFUSED_BATCH(KVG_E_NONFINITE, "cache 3", caches, CACHES);
  REFUSED(KVG_E_UNSUPPORTED, "selects",
          KVG(cache_append_batch)(&selects.cache, 1, 1, k, sizeof(k), k, sizeof(k), &desc, &kvt_err));
  OK(KVG(cache_append_batch)(NULL, 0, 1, NULL, 0, NULL, 0, NULL, &kvt_err));
#undef REFUSED_BATCH
  kvt_picture_free(&picture);
  kvt_rig_close(&selects);
  kvt_rig_close(&other);
  for (i = 0; i < CACHES; i++) {
    KVG(cache_destroy)(caches[i]);
    KVG(cache_destroy)(alone[i]);
  }
}

void case_append(void) {
  kvt_picture picture;
  kvt_fill(good, sizeof(good) / sizeof(good[0]), 1, 0);
  if (!kvt_rig_open(&rig, "int4,window=8,block=32;1:gear-2", 2, 4, HEADS, DIM, NULL)) return;
  types();
  strides();
  extremes();
  batches();
  OK(kvt_append(&rig, rig.cache, 0, 0, 70, 1, &kvt_err));
  OK(kvt_append(&rig, rig.cache, 1, 0, 300, 1, &kvt_err));
  kvt_picture_take(&picture, &rig, rig.cache, 1);
  sizes_and_pointers();
  overflows();
  nonfinite();
  CHECK(kvt_unchanged(&picture, &rig, rig.cache, 1));
  /* And it still works. */
  OK(kvt_append(&rig, rig.cache, 0, 70, 40, 1, &kvt_err));
  kvt_picture_free(&picture);
  kvt_rig_close(&rig);
}
