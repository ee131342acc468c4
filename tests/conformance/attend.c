/* kvg_cache_attend: against attention in double precision on the rows that the cache reads back,
 * for every recipe; element types, strides, masks; every refusal. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cases.h"

/* ------------------------------------------------------------------- values */

/* A third of the masks at each length: all of them at every recipe and shape. */
static void masks_of(const kvt_rig *rig, uint64_t length, size_t third) {
  static const kvt_mask masks[] = {
      {0, 0, 0, 0},   {1, 0, 0, 0},    {0, 1, 0, 0},    {0, 17, 0, 0},       {0, 100, 0.5, 0},
      {0, 0, -0.25, 0}, {0, 0, 0, 3.0}, {1, 33, 0.1, 1.0}, {0, 1000000, 0, 50.0},
  };
  size_t i;
  for (i = third % 3; i < sizeof(masks) / sizeof(masks[0]); i += 3) {
    const uint32_t queries = i < 3 ? 1 : i < 6 ? 2 : 5;
    if (queries > length) continue;
    CHECK(kvt_attend_error(rig, rig->cache, 0, queries, &masks[i], (unsigned)i + 40) <
          KVT_ATTEND_BOUND);
  }
}

static void every_recipe(void) {
  static const uint32_t shapes[][3] = {{4, 2, 32}, {3, 1, 72}, {2, 2, 128}};
  static const uint64_t lengths[] = {1, 31, 64, 65, 200, 330};
  uint32_t i, s, l;
  for (i = 0; i < KVG(recipe_count)(); i++) {
    for (s = 0; s < 3; s++) {
      kvt_rig rig;
      uint64_t length = 0;
      kvt_where(KVG(recipe_name)(i));
      if (!kvt_rig_open(&rig, KVG(recipe_name)(i), 1, shapes[s][0], shapes[s][1], shapes[s][2],
                        NULL)) {
        return;
      }
      for (l = 0; l < sizeof(lengths) / sizeof(lengths[0]); l++) {
        OK(kvt_append(&rig, rig.cache, 0, length, lengths[l] - length, 1, &kvt_err));
        length = lengths[l];
        masks_of(&rig, length, l);
      }
      kvt_rig_close(&rig);
    }
  }
  kvt_where("");
}

/* Types and strides of q and out: the same numbers, rounded to the type. */
static void types_and_strides(void) {
  enum { QUERIES = 3, HEADS = 4, DIM = 40, ROW = HEADS * DIM, COUNT = QUERIES * ROW };
  enum { PADDED_DIM = DIM + 8, PADDED_ROW = HEADS * PADDED_DIM + 16, WIDE = QUERIES * PADDED_ROW };
  kvt_rig rig;
  float q[COUNT], want[COUNT], wide_q[WIDE], wide[WIDE];
  unsigned short q16[COUNT], qb[COUNT], out16[COUNT], outb[COUNT];
  kvg_attend_desc desc;
  size_t i, h;
  if (!kvt_rig_open(&rig, "gear-4", 1, HEADS, 2, DIM, NULL)) return;
  OK(kvt_append(&rig, rig.cache, 0, 0, 150, 1, &kvt_err));
  for (i = 0; i < COUNT; i++) {
    q[i] = (float)(int)(kvt_value(6, i) * 16.0f) / 16.0f; /* exact in all types */
    q16[i] = kvt_f16(q[i]);
    qb[i] = kvt_bf16(q[i]);
  }
  KVG(attend_desc_init)(&desc);
  desc.queries = QUERIES;
  desc.q_dtype = desc.out_dtype = KVG_F32;
  OK(KVG(cache_attend)(rig.cache, 0, q, sizeof(q), want, sizeof(want), &desc, &kvt_err));
  desc.q_dtype = desc.out_dtype = KVG_F16;
  OK(KVG(cache_attend)(rig.cache, 0, q16, sizeof(q16), out16, sizeof(out16), &desc, &kvt_err));
  desc.q_dtype = desc.out_dtype = KVG_BF16;
  OK(KVG(cache_attend)(rig.cache, 0, qb, sizeof(qb), outb, sizeof(outb), &desc, &kvt_err));
  for (i = 0; i < COUNT; i++) {
    const double x = (double)want[i], size = x < 0 ? -x : x;
    const double d16 = (double)kvt_f32(out16[i]) - x;
    float fb;
    const uint32_t bits = (uint32_t)outb[i] << 16;
    memcpy(&fb, &bits, sizeof(fb));
    CHECK((d16 < 0 ? -d16 : d16) <= size / 2048 + 1e-7);
    CHECK(((double)fb - x < 0 ? x - (double)fb : (double)fb - x) <= size / 256 + 1e-7);
  }
  /* Padded rows: what lies between them is neither read nor written. */
  memset(wide_q, 0xFF, sizeof(wide_q));
  memset(wide, 0xFF, sizeof(wide));
  for (i = 0; i < QUERIES; i++) {
    for (h = 0; h < HEADS; h++) {
      memcpy(wide_q + i * PADDED_ROW + h * PADDED_DIM, q + i * ROW + h * DIM, DIM * sizeof(float));
    }
  }
  desc.q_dtype = desc.out_dtype = KVG_F32;
  desc.q_token_stride = desc.out_token_stride = PADDED_ROW;
  desc.q_head_stride = desc.out_head_stride = PADDED_DIM;
  OK(KVG(cache_attend)(rig.cache, 0, wide_q, sizeof(wide_q), wide, sizeof(wide), &desc, &kvt_err));
  for (i = 0; i < QUERIES; i++) {
    for (h = 0; h < HEADS; h++) {
      float *row = wide + i * PADDED_ROW + h * PADDED_DIM;
      CHECK(memcmp(row, want + i * ROW + h * DIM, DIM * sizeof(float)) == 0);
      memset(row, 0xFF, DIM * sizeof(float));
    }
  }
  CHECK(kvt_same_bytes(wide, sizeof(wide), 0xFF));
  kvt_rig_close(&rig);
}

/* The same bits for every number of worker threads. */
static void threads(void) {
  static const char *const recipes[] = {"fp16", "kivi-2", "gear-2"};
  size_t i;
  uint32_t threads;
  for (i = 0; i < 3; i++) {
    kvt_picture alone;
    for (threads = 0; threads < 4; threads++) {
      kvt_rig rig;
      kvg_runtime_options options;
      KVG(runtime_options_init)(&options);
      options.threads = threads;
      if (!kvt_rig_open(&rig, recipes[i], 1, 4, 2, 64, &options)) return;
      OK(kvt_append(&rig, rig.cache, 0, 0, 2500, 1, &kvt_err));
      if (threads == 0) {
        kvt_picture_take(&alone, &rig, rig.cache, 1);
      } else {
        CHECK(kvt_unchanged(&alone, &rig, rig.cache, 1));
      }
      kvt_rig_close(&rig);
    }
    kvt_picture_free(&alone);
  }
}

/* ----------------------------------------------------------------- refusals */

enum { Q_HEADS = 4, DIM = 32, ROW = Q_HEADS * DIM, QUERIES = 2, COUNT = QUERIES * ROW };

static kvt_rig rig;
static float q[COUNT + 8], out[COUNT + 8], both[4 * COUNT];

typedef struct call {
  uint32_t layer;
  const void *q;
  void *out;
  size_t q_bytes, out_bytes;
  kvg_attend_desc desc;
} call;

static void reset(call *c) {
  c->layer = 0;
  c->q = q;
  c->out = out;
  c->q_bytes = c->out_bytes = COUNT * sizeof(float);
  KVG(attend_desc_init)(&c->desc);
  c->desc.q_dtype = c->desc.out_dtype = KVG_F32;
  c->desc.queries = QUERIES;
}

static kvg_status make(const call *c) {
  return KVG(cache_attend)(rig.cache, c->layer, c->q, c->q_bytes, c->out, c->out_bytes, &c->desc,
                           &kvt_err);
}

#define REFUSED_CALL(status, words)                 \
  do {                                              \
    memset(out, 0x5A, sizeof(out));                 \
    REFUSED(status, words, make(&c));               \
    CHECK(kvt_same_bytes(out, sizeof(out), 0x5A));  \
    reset(&c);                                      \
  } while (0)

static float bits_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

static void refusals(void) {
  static const uint32_t not_finite[] = {0x7F800000u, 0xFF800000u, 0x7FC00000u};
  static const int64_t far[] = {INT64_MAX, INT64_MIN, (int64_t)1 << 62, (int64_t)1 << 40};
  call c;
  size_t i;
  int which;
  reset(&c);
  OK(make(&c));
  c.layer = 3;
  REFUSED_CALL(KVG_E_INVALID, "layer is 3");
  c.layer = KVG_ALL_LAYERS;
  REFUSED_CALL(KVG_E_INVALID, "layer");
  c.layer = 1; /* empty */
  REFUSED_CALL(KVG_E_INVALID, "holds 0 tokens");
  c.q = NULL;
  REFUSED_CALL(KVG_E_INVALID, "q is NULL");
  c.out = NULL;
  REFUSED_CALL(KVG_E_INVALID, "out is NULL");
  c.q_bytes--;
  REFUSED_CALL(KVG_E_INVALID, "q_bytes");
  c.out_bytes--;
  REFUSED_CALL(KVG_E_INVALID, "out_bytes");
  c.q_bytes = 0;
  REFUSED_CALL(KVG_E_INVALID, "q_bytes");
  c.q = (const char *)q + 1;
  REFUSED_CALL(KVG_E_INVALID, "q must be aligned");
  c.out = (char *)out + 2;
  REFUSED_CALL(KVG_E_INVALID, "out must be aligned");
  c.desc.q_dtype = 3;
  REFUSED_CALL(KVG_E_UNSUPPORTED, "q_dtype is 3");
  c.desc.out_dtype = 0x80000000u;
  REFUSED_CALL(KVG_E_UNSUPPORTED, "out_dtype");
  c.desc.queries = 0;
  REFUSED_CALL(KVG_E_INVALID, "queries is 0");
  c.desc.queries = 101;
  c.q_bytes = c.out_bytes = SIZE_MAX;
  REFUSED_CALL(KVG_E_INVALID, "queries is 101");
  c.desc.queries = 0xFFFFFFFFu;
  REFUSED_CALL(KVG_E_INVALID, "queries");
  c.desc.non_causal = 2;
  REFUSED_CALL(KVG_E_UNSUPPORTED, "non_causal");
  c.desc.latent_out = 1;
  REFUSED_CALL(KVG_E_INVALID, "not latent");
  c.desc.latent_out = 2;
  REFUSED_CALL(KVG_E_UNSUPPORTED, "latent_out");
  c.desc.stream = &c;
  REFUSED_CALL(KVG_E_INVALID, "stream");
  for (i = 0; i < 3; i++) {
    c.desc.scale = bits_float(not_finite[i]);
    REFUSED_CALL(KVG_E_INVALID, "scale");
    c.desc.logit_softcap = bits_float(not_finite[i]);
    REFUSED_CALL(KVG_E_INVALID, "logit_softcap");
  }
  c.desc.logit_softcap = -1;
  REFUSED_CALL(KVG_E_INVALID, "logit_softcap");
  for (which = 0; which < 4; which++) {
    for (i = 0; i < sizeof(far) / sizeof(far[0]); i++) {
      int64_t *stride = &c.desc.q_token_stride;
      stride[0] = stride[2] = ROW;
      stride[1] = stride[3] = DIM;
      stride[which] = far[i];
      REFUSED_CALL(KVG_E_INVALID, "");
    }
  }
  /* Rows of the result that lie upon one another. */
  c.desc.out_token_stride = ROW;
  c.desc.out_head_stride = DIM - 1;
  REFUSED_CALL(KVG_E_INVALID, "overlap");
  c.desc.out_token_stride = 0;
  c.desc.out_head_stride = DIM;
  REFUSED_CALL(KVG_E_INVALID, "overlap");
  c.desc.out_token_stride = ROW - 1;
  c.desc.out_head_stride = DIM;
  REFUSED_CALL(KVG_E_INVALID, "overlap");
  /* NULL for the kvg_error as well. */
  CHECK(KVG(cache_attend)(rig.cache, 0, q, c.q_bytes, out, c.out_bytes, NULL, NULL) ==
        KVG_E_INVALID);
}

/* NaN or infinity in one row of q spoils the results of that row and no other. */
static void bad_queries(void) {
  static const uint32_t bad[] = {0x7FC00000u, 0x7F800000u, 0xFF800000u};
  float want[COUNT];
  call c;
  size_t b, row, i;
  reset(&c);
  OK(make(&c));
  memcpy(want, out, sizeof(want));
  for (b = 0; b < 3; b++) {
    for (row = 0; row < QUERIES * Q_HEADS; row++) {
      const float kept = q[row * DIM + 7];
      q[row * DIM + 7] = bits_float(bad[b]);
      OK(make(&c));
      q[row * DIM + 7] = kept;
      for (i = 0; i < QUERIES * Q_HEADS; i++) {
        CHECK(i == row || memcmp(out + i * DIM, want + i * DIM, DIM * sizeof(float)) == 0);
      }
    }
  }
}

/* out must not overlap q: not by one element, whatever their order and types. */
static void overlaps(void) {
  static float now[4 * COUNT];
  call c;
  static const long offsets[] = {-COUNT - 1, -COUNT, -COUNT + 1, -COUNT / 2, -1, 0,
                                 1,          DIM,    COUNT / 2,  COUNT - 1,  COUNT, COUNT + 1};
  size_t i;
  for (i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
    const long offset = offsets[i];
    kvt_fill(both, 4 * COUNT, 8, 0);
    reset(&c);
    c.q = both + COUNT + 8;
    c.out = both + COUNT + 8 + offset;
    if (offset <= -COUNT || offset >= COUNT) {
      OK(make(&c));
    } else {
      REFUSED(KVG_E_INVALID, "overlap", make(&c));
      kvt_fill(now, 4 * COUNT, 8, 0);
      CHECK(memcmp(now, both, sizeof(both)) == 0);
    }
  }
  reset(&c);
  c.q = both;
  c.desc.q_dtype = KVG_F16;
  c.q_bytes = COUNT * 2;
  c.out = (char *)both + COUNT * 2 - 4;
  REFUSED(KVG_E_INVALID, "overlap", make(&c));
  c.out = (char *)both + COUNT * 2;
  OK(make(&c));
}

/* Several caches in one call: the bits of calls for each alone, in either order; every refusal. */
static void batches(void) {
  enum { CACHES = 5, HEADS = 4, DIM = 64, QUERIES = 2, PADDED = HEADS * DIM + 24 };
  enum { EACH = QUERIES * HEADS * DIM, ALL = CACHES * EACH };
  static const uint64_t lengths[CACHES] = {2, 700, 65, 1, 333};
  static const char *const recipes[] = {"gear-2", "kivi-4", "fp16"};
  static float q[ALL], one[ALL], all[ALL], wide[CACHES * QUERIES * PADDED];
  size_t r, i, row;
  for (r = 0; r < sizeof(recipes) / sizeof(recipes[0]); r++) {
    kvt_rig rig, other, shaped;
    const kvg_cache *caches[CACHES];
    kvg_cache *forks[CACHES];
    kvg_attend_desc desc;
    kvt_where(recipes[r]);
    if (!kvt_rig_open(&rig, recipes[r], 2, HEADS, 2, DIM, NULL)) return;
    if (!kvt_rig_open(&other, recipes[r], 2, HEADS, 2, DIM, NULL)) return;
    if (!kvt_rig_open(&shaped, recipes[r], 2, HEADS, 1, DIM, NULL)) return;
    kvt_fill(q, ALL, 9, 0);
    KVG(attend_desc_init)(&desc);
    desc.q_dtype = desc.out_dtype = KVG_F32;
    for (i = 0; i < CACHES; i++) {
      OK(KVG(cache_fork)(rig.cache, &forks[i], &kvt_err));
      caches[i] = forks[i];
      OK(kvt_append(&rig, forks[i], 1, 0, lengths[i], (unsigned)i, &kvt_err));
    }
    OK(kvt_append(&other, other.cache, 1, 0, 40, 1, &kvt_err));
    OK(kvt_append(&shaped, shaped.cache, 1, 0, 40, 1, &kvt_err));
    /* One query each, then two of those that are long enough. */
    for (i = 0; i < CACHES; i++) {
      OK(KVG(cache_attend)(caches[i], 1, q + i * HEADS * DIM, sizeof(float) * HEADS * DIM,
                           one + i * HEADS * DIM, sizeof(float) * HEADS * DIM, &desc, &kvt_err));
    }
    OK(KVG(cache_attend_batch)(caches, CACHES, 1, q, sizeof(q), all, sizeof(all), &desc, &kvt_err));
    CHECK(memcmp(one, all, sizeof(float) * CACHES * HEADS * DIM) == 0);
    desc.out_token_stride = PADDED;
    desc.out_head_stride = DIM;
    memset(wide, 0xFF, sizeof(wide));
    OK(KVG(cache_attend_batch)(caches, CACHES, 1, q, sizeof(q), wide, sizeof(wide), &desc, &kvt_err));
    for (row = 0; row < CACHES; row++) {
      CHECK(memcmp(one + row * HEADS * DIM, wide + row * PADDED, sizeof(float) * HEADS * DIM) == 0);
      CHECK(kvt_same_bytes(wide + row * PADDED + HEADS * DIM, sizeof(float) * 24, 0xFF));
    }
    desc.out_token_stride = desc.out_head_stride = 0;
    desc.queries = QUERIES;
    REFUSED(KVG_E_INVALID, "cache 3",
            KVG(cache_attend_batch)(caches, CACHES, 1, q, sizeof(q), all, sizeof(all), &desc, &kvt_err));
    caches[3] = caches[1]; /* a cache may come twice */
    for (i = 0; i < CACHES; i++) {
      OK(KVG(cache_attend)(caches[i], 1, q + i * EACH, sizeof(float) * EACH, one + i * EACH,
                           sizeof(float) * EACH, &desc, &kvt_err));
    }
    OK(KVG(cache_attend_batch)(caches, CACHES, 1, q, sizeof(q), all, sizeof(all), &desc, &kvt_err));
    CHECK(memcmp(one, all, sizeof(all)) == 0);
    /* Nothing is written by what is refused. */
    memset(all, 0xFF, sizeof(all));
    OK(KVG(cache_attend_batch)(NULL, 0, 1, NULL, 0, NULL, 0, NULL, &kvt_err));
    REFUSED(KVG_E_INVALID, "caches",
            KVG(cache_attend_batch)(NULL, 1, 1, q, sizeof(q), all, sizeof(all), &desc, &kvt_err));
    REFUSED(KVG_E_INVALID, "q_bytes",
            KVG(cache_attend_batch)(caches, CACHES, 1, q, sizeof(q) - 4, all, sizeof(all), &desc, &kvt_err));
    REFUSED(KVG_E_INVALID, "layer",
            KVG(cache_attend_batch)(caches, CACHES, 2, q, sizeof(q), all, sizeof(all), &desc, &kvt_err));
    REFUSED(KVG_E_INVALID, "desc",
            KVG(cache_attend_batch)(caches, CACHES, 1, q, sizeof(q), all, sizeof(all), NULL, &kvt_err));
    caches[2] = other.cache;
    REFUSED(KVG_E_INVALID, "runtime",
            KVG(cache_attend_batch)(caches, CACHES, 1, q, sizeof(q), all, sizeof(all), &desc, &kvt_err));
    caches[2] = shaped.cache;
    REFUSED(KVG_E_INVALID, "cache 2",
            KVG(cache_attend_batch)(caches, CACHES, 1, q, sizeof(q), all, sizeof(all), &desc, &kvt_err));
    caches[2] = NULL;
    REFUSED(KVG_E_INVALID, "cache 2",
            KVG(cache_attend_batch)(caches, CACHES, 1, q, sizeof(q), all, sizeof(all), &desc, &kvt_err));
    CHECK(kvt_same_bytes(all, sizeof(all), 0xFF));
    for (i = 0; i < CACHES; i++) KVG(cache_destroy)(forks[i]);
    kvt_rig_close(&shaped);
    kvt_rig_close(&other);
    kvt_rig_close(&rig);
  }
  kvt_where("");
}

void case_attend(void) {
  kvt_picture picture;
  every_recipe();
  batches();
  types_and_strides();
  threads();
  if (!kvt_rig_open(&rig, "gear-2,group=32,window=16,block=32", 3, Q_HEADS, 2, DIM, NULL)) return;
  kvt_fill(q, COUNT, 7, 0);
  OK(kvt_append(&rig, rig.cache, 0, 0, 100, 1, &kvt_err));
  kvt_picture_take(&picture, &rig, rig.cache, 1);
  refusals();
  bad_queries();
  overlaps();
  CHECK(kvt_unchanged(&picture, &rig, rig.cache, 1));
  kvt_picture_free(&picture);
  kvt_rig_close(&rig);
}
