/* Plan files and latent layers: a plan whose factors pick coordinates, so that what caches answer can
 * be compared with those of ordinary ones. */
#include <stdio.h>
#include <string.h>

#include "cases.h"

#ifdef KVT_DLOPEN
static const char *const path = "kvgear_conformance_plan_dlopen.safetensors";
#else
static const char *const path = "kvgear_conformance_plan.safetensors";
#endif

enum { DIM = 32, RANK = 16, HEADS = 2 }; /* as in kvt_write_plan */

static double furthest(const float *a, const float *b, size_t n) {
  double most = 0;
  size_t i;
  for (i = 0; i < n; i++) {
    const double apart = (double)a[i] - (double)b[i];
    if (apart > most) most = apart;
    if (-apart > most) most = -apart;
  }
  return most;
}

static void latents_answer(void) {
  enum { TOKENS = 100, QUERIES = 3 };
  static float q[QUERIES * 4 * DIM], plain[QUERIES * 4 * DIM], whole[QUERIES * 4 * DIM];
  static float latent[QUERIES * 4 * RANK], again[QUERIES * 4 * RANK], rows[TOKENS * HEADS * DIM];
  kvt_rig rig;
  static unsigned char saved[1 << 18];
  size_t saved_size = 0;
  kvg_cache *plain_cache, *back = NULL;
  kvg_plan *plain_plan = NULL;
  kvg_attend_desc desc;
  kvg_stats stats;
  size_t t, h, d;
  if (!kvt_rig_open(&rig, "fp16", 1, 4, 2, DIM, NULL)) return;
  OK(kvt_append(&rig, rig.cache, 0, 0, TOKENS, 1, &kvt_err));
  plain_cache = rig.cache;
  plain_plan = rig.plan;
  rig.plan = NULL;
  rig.cache = NULL;
  OK(KVG(plan_load)(path, NULL, "", NULL, 0, &rig.plan, &kvt_err));
  OK(KVG(cache_create)(rig.runtime, rig.plan, &rig.cache, &kvt_err));
  OK(kvt_append(&rig, rig.cache, 0, 0, TOKENS, 1, &kvt_err));
  kvt_fill(q, sizeof(q) / sizeof(*q), 9, 0);
  KVG(attend_desc_init)(&desc);
  desc.q_dtype = desc.out_dtype = KVG_F32;
  desc.queries = QUERIES;
  OK(KVG(cache_attend)(plain_cache, 0, q, sizeof(q), plain, sizeof(plain), &desc, &kvt_err));
  OK(KVG(cache_attend)(rig.cache, 0, q, sizeof(q), whole, sizeof(whole), &desc, &kvt_err));
  desc.latent_out = 1;
  OK(KVG(cache_attend)(rig.cache, 0, q, sizeof(q), latent, sizeof(latent), &desc, &kvt_err));
  REFUSED(KVG_E_INVALID, "out",
          KVG(cache_attend)(rig.cache, 0, q, sizeof(q), latent, sizeof(latent) - 4, &desc, &kvt_err));
  for (t = 0; t < QUERIES * 4; t++) {
    CHECK(furthest(plain + t * DIM, whole + t * DIM, RANK) < KVT_ATTEND_BOUND);
    CHECK(furthest(latent + t * RANK, whole + t * DIM, RANK) == 0);
    for (d = RANK; d < DIM; d++) CHECK(whole[t * DIM + d] == 0);
  }
  OK(KVG(cache_read)(rig.cache, 0, KVG_SIDE_V, 0, TOKENS, KVG_F32, rows, sizeof(rows), &kvt_err));
  for (t = 0; t < TOKENS; t++) {
    for (h = 0; h < HEADS; h++) CHECK(rows[(t * HEADS + h) * DIM + RANK] == 0);
  }
  KVG(stats_init)(&stats);
  OK(KVG(cache_stats)(rig.cache, KVG_ALL_LAYERS, KVG_SIDE_BOTH, &stats, &kvt_err));
  CHECK(stats.bytes_plan >= (HEADS * DIM * DIM + HEADS * RANK * DIM) * 4);
  CHECK(stats.elements == 2 * TOKENS * HEADS * DIM);
  OK(KVG(cache_stats)(plain_cache, KVG_ALL_LAYERS, KVG_SIDE_BOTH, &stats, &kvt_err));
  CHECK(stats.bytes_plan == 0);
  OK(KVG(cache_save_buffer)(rig.cache, saved, sizeof(saved), &saved_size, NULL, &kvt_err));
  OK(KVG(cache_load_buffer)(rig.runtime, rig.plan, saved, saved_size, NULL, &back, &kvt_err));
  OK(KVG(cache_attend)(back, 0, q, sizeof(q), again, sizeof(again), &desc, &kvt_err));
  CHECK(memcmp(latent, again, sizeof(latent)) == 0);
  KVG(cache_destroy)(back);
  KVG(cache_destroy)(plain_cache);
  KVG(plan_destroy)(plain_plan);
  kvt_rig_close(&rig);
}

static void refusals(void) {
  kvg_plan *plan = NULL;
  kvg_shape shape;
  uint32_t rank = 7, heads = 7;
  KVG(shape_init)(&shape);
  shape.layers = 1;
  shape.q_heads = 4;
  shape.kv_heads = 2;
  shape.head_dim = DIM;
  OK(KVG(plan_load)(path, &shape, "palu-3", "these", 5, &plan, &kvt_err));
  OK(KVG(plan_latent)(plan, 0, KVG_SIDE_V, &rank, &heads, &kvt_err));
  CHECK(rank == RANK && heads == 1);
  REFUSED(KVG_E_INVALID, "layer is 1", KVG(plan_latent)(plan, 1, KVG_SIDE_V, &rank, &heads, &kvt_err));
  REFUSED(KVG_E_INVALID, "side is 2",
          KVG(plan_latent)(plan, 0, KVG_SIDE_BOTH, &rank, &heads, &kvt_err));
  REFUSED(KVG_E_INVALID, "rank", KVG(plan_latent)(plan, 0, KVG_SIDE_K, NULL, &heads, &kvt_err));
  REFUSED(KVG_E_INVALID, "group_heads", KVG(plan_latent)(plan, 0, KVG_SIDE_K, &rank, NULL, &kvt_err));
  CHECK(rank == RANK && heads == 1);
  KVG(plan_destroy)(plan);
  plan = NULL;
  OK(KVG(plan_load)(path, &shape, "fp16", NULL, 0, &plan, &kvt_err));
  OK(KVG(plan_latent)(plan, 0, KVG_SIDE_K, &rank, &heads, &kvt_err));
  CHECK(rank == 0 && heads == 0);
  KVG(plan_destroy)(plan);
  plan = NULL;
  REFUSED(KVG_E_INVALID, "path", KVG(plan_load)(NULL, NULL, "", NULL, 0, &plan, &kvt_err));
  REFUSED(KVG_E_INVALID, "recipes", KVG(plan_load)(path, NULL, NULL, NULL, 0, &plan, &kvt_err));
  REFUSED(KVG_E_INVALID, "fingerprint", KVG(plan_load)(path, NULL, "", NULL, 5, &plan, &kvt_err));
  REFUSED(KVG_E_INVALID, "fingerprint_bytes",
          KVG(plan_load)(path, NULL, "", path, 257, &plan, &kvt_err));
  REFUSED(KVG_E_INVALID, "another model",
          KVG(plan_load)(path, NULL, "", "those", 5, &plan, &kvt_err));
  REFUSED(KVG_E_INVALID, "out", KVG(plan_load)(path, NULL, "", NULL, 0, NULL, &kvt_err));
  shape.q_heads = 2;
  REFUSED(KVG_E_INVALID, "another model",
          KVG(plan_load)(path, &shape, "", NULL, 0, &plan, &kvt_err));
  shape.struct_size = 0;
  REFUSED(KVG_E_INVALID, "struct_size", KVG(plan_load)(path, &shape, "", NULL, 0, &plan, &kvt_err));
  REFUSED(KVG_E_IO, "opened",
          KVG(plan_load)("no such file", NULL, "", NULL, 0, &plan, &kvt_err));
  kvt_write_plan(path, 4);
  REFUSED(KVG_E_CORRUPT, "beyond the end", KVG(plan_load)(path, NULL, "", NULL, 0, &plan, &kvt_err));
  CHECK(plan == NULL);
}

void case_plans(void) {
  kvt_write_plan(path, 0);
  latents_answer();
  refusals();
  remove(path);
}
