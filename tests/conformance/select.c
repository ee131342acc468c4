/* Layers that select tokens, through the public header alone: policies, scores, positions. */
#include <stdlib.h>
#include <string.h>

#include "cases.h"

enum { HEADS = 2, DIM = 32, Q_HEADS = 4 };

static int open_rig(kvt_rig *rig, const char *recipe) {
  return kvt_rig_open(rig, recipe, 2, Q_HEADS, HEADS, DIM, NULL);
}

/* One query, attended and observed. */
static void observe_one(const kvt_rig *rig, uint32_t layer, unsigned seed) {
  float q[Q_HEADS * DIM], out[Q_HEADS * DIM];
  kvg_attend_desc desc;
  KVG(attend_desc_init)(&desc);
  desc.q_dtype = desc.out_dtype = KVG_F32;
  kvt_fill(q, Q_HEADS * DIM, seed, 0);
  OK(KVG(cache_attend_observe)(rig->cache, layer, q, sizeof(q), out, sizeof(out), &desc, &kvt_err));
}

static void names(void) {
  uint32_t i, count = KVG(policy_count)();
  CHECK(count >= 8);
  for (i = 0; i < count; i++) {
    char text[256], again[256];
    kvt_rig rig;
    const char *name = KVG(policy_name)(i);
    CHECK(name != NULL && strlen(name) > 0 && KVG(policy_summary)(i) != NULL);
    /* A policy is a recipe by itself, and a setting of any other. */
    OK(KVG(recipe_canonical)(name, text, sizeof(text), NULL, &kvt_err));
    CHECK(strcmp(text, name) == 0);
    strcpy(text, "int8,select=");
    strcat(text, name);
    OK(KVG(recipe_canonical)(text, again, sizeof(again), NULL, &kvt_err));
    CHECK(strcmp(text, again) == 0);
    if (open_rig(&rig, text)) kvt_rig_close(&rig);
  }
  CHECK(KVG(policy_name)(count) == NULL && KVG(policy_summary)(count) == NULL);
  REFUSED(KVG_E_INVALID, "streaming-llm",
          KVG(recipe_canonical)("int8,select=lottery", NULL, 0, NULL, &kvt_err));
}

/* Sinks and a window: the one policy of which everything is known beforehand. */
static void streaming(void) {
  uint64_t positions[64], slots = 0, token;
  size_t needed = 0, i;
  uint8_t bits[64];
  kvg_stats stats;
  kvt_rig rig;
  kvt_where("streaming-llm");
  if (!open_rig(&rig, "streaming-llm,budget=20")) return;
  OK(kvt_append(&rig, rig.cache, 1, 0, 50, 1, &kvt_err));
  OK(KVG(cache_held)(rig.cache, 1, &slots, &kvt_err));
  CHECK(slots == 50);
  for (token = 50; token < 60; token++) {
    OK(kvt_append(&rig, rig.cache, 1, token, 1, 1, &kvt_err));
    observe_one(&rig, 1, 3);
  }
  OK(KVG(cache_positions)(rig.cache, 1, 0, NULL, 0, &needed, &kvt_err));
  CHECK(needed == 21);
  REFUSED(KVG_E_BUFFER_TOO_SMALL, "21",
          KVG(cache_positions)(rig.cache, 1, 0, positions, 20, &needed, &kvt_err));
  OK(KVG(cache_positions)(rig.cache, 1, 1, positions, 64, NULL, &kvt_err));
  for (i = 0; i < 21; i++) CHECK(positions[i] == (i < 4 ? i : 39 + i));
  OK(KVG(cache_bits)(rig.cache, 1, KVG_SIDE_V, bits, 64, &needed, &kvt_err));
  CHECK(needed == 21 && kvt_same_bytes(bits, needed, 16));
  KVG(stats_init)(&stats);
  OK(KVG(cache_stats)(rig.cache, 1, KVG_SIDE_BOTH, &stats, &kvt_err));
  CHECK(stats.tokens == 21 && stats.tokens_appended == 60 && stats.tokens_evicted == 39);
  CHECK(stats.tokens_absorbed == 0 && stats.bytes_positions >= 21 * 4);
  CHECK(kvt_length(rig.cache, 1) == 60);
  REFUSED(KVG_E_INVALID, "nearest lengths are 0 and 59",
          KVG(cache_truncate)(rig.cache, 1, 30, &kvt_err));
  OK(KVG(cache_truncate)(rig.cache, 1, 59, &kvt_err));
  OK(KVG(cache_select)(rig.cache, KVG_ALL_LAYERS, &kvt_err));
  OK(KVG(cache_held)(rig.cache, 1, &slots, &kvt_err));
  CHECK(slots == 20 && kvt_length(rig.cache, 1) == 59);
  REFUSED(KVG_E_INVALID, "kv_head is 2",
          KVG(cache_positions)(rig.cache, 1, 2, positions, 64, NULL, &kvt_err));
  REFUSED(KVG_E_INVALID, "layer is 2", KVG(cache_select)(rig.cache, 2, &kvt_err));
  REFUSED(KVG_E_INVALID, "slots is NULL", KVG(cache_held)(rig.cache, 1, NULL, &kvt_err));
  REFUSED(KVG_E_INVALID, "positions is NULL",
          KVG(cache_positions)(rig.cache, 1, 0, NULL, 3, NULL, &kvt_err));
  REFUSED(KVG_E_INVALID, "BOTH",
          KVG(cache_bits)(rig.cache, 1, KVG_SIDE_BOTH, bits, 64, NULL, &kvt_err));
  kvt_rig_close(&rig);
}

/* The three sources of scores, and what happens without. */
static void scores(void) {
  enum { TOKENS = 40 };
  float given[HEADS * TOKENS], q[TOKENS * Q_HEADS * DIM];
  uint64_t positions[TOKENS];
  size_t needed = 0, i;
  kvg_attend_desc desc;
  kvt_picture before;
  kvt_rig rig;
  kvt_where("scores");
  if (!open_rig(&rig, "h2o,budget=10")) return;
  OK(kvt_append(&rig, rig.cache, 0, 0, TOKENS, 1, &kvt_err));
  kvt_picture_take(&before, &rig, rig.cache, 1);
  REFUSED(KVG_E_STATE, "needs scores", kvt_append(&rig, rig.cache, 0, TOKENS, 1, 1, &kvt_err));
  REFUSED(KVG_E_STATE, "needs scores", KVG(cache_select)(rig.cache, KVG_ALL_LAYERS, &kvt_err));
  for (i = 0; i < HEADS * TOKENS; i++) given[i] = i % 7 == 3 ? 2.0f : 1.0f;
  REFUSED(KVG_E_INVALID, "scores_len is 79",
          KVG(cache_observe)(rig.cache, 0, given, 79, TOKENS, &kvt_err));
  REFUSED(KVG_E_INVALID, "rows is 41",
          KVG(cache_observe)(rig.cache, 0, given, HEADS * TOKENS, 41, &kvt_err));
  REFUSED(KVG_E_INVALID, "scores is NULL", KVG(cache_observe)(rig.cache, 0, NULL, 0, 1, &kvt_err));
  CHECK(kvt_unchanged(&before, &rig, rig.cache, 1));
  kvt_picture_free(&before);
  OK(KVG(cache_observe)(rig.cache, 0, given, HEADS * TOKENS, TOKENS, &kvt_err));
  OK(kvt_append(&rig, rig.cache, 0, TOKENS, 1, 1, &kvt_err));
  OK(KVG(cache_positions)(rig.cache, 0, 0, positions, TOKENS, &needed, &kvt_err));
  CHECK(needed == 11);
  for (i = 0; i < 5; i++) CHECK(positions[i] == 3 + 7 * i); /* those of score 2 */
  for (i = 5; i < 11; i++) CHECK(positions[i] == 30 + i);
  observe_one(&rig, 0, 5);
  OK(kvt_append(&rig, rig.cache, 0, TOKENS + 1, 1, 1, &kvt_err));

  /* Probes on the other layer. */
  OK(kvt_append(&rig, rig.cache, 1, 0, TOKENS, 1, &kvt_err));
  OK(KVG(cache_probe_positions)(rig.cache, 1, positions, TOKENS, &needed, &kvt_err));
  CHECK(needed == TOKENS && positions[0] == 0 && positions[TOKENS - 1] == TOKENS - 1);
  KVG(attend_desc_init)(&desc);
  desc.q_dtype = KVG_F32;
  desc.queries = TOKENS;
  kvt_fill(q, TOKENS * Q_HEADS * DIM, 9, 0);
  REFUSED(KVG_E_INVALID, "positions_len is 39",
          KVG(cache_probe)(rig.cache, 1, q, sizeof(q), positions, 39, &desc, &kvt_err));
  REFUSED(KVG_E_INVALID, "q_bytes",
          KVG(cache_probe)(rig.cache, 1, q, sizeof(q) - 4, positions, TOKENS, &desc, &kvt_err));
  positions[3] = 1;
  REFUSED(KVG_E_INVALID, "positions[3] is 1",
          KVG(cache_probe)(rig.cache, 1, q, sizeof(q), positions, TOKENS, &desc, &kvt_err));
  positions[3] = 3;
  OK(KVG(cache_probe)(rig.cache, 1, q, sizeof(q), positions, TOKENS, &desc, &kvt_err));
  OK(kvt_append(&rig, rig.cache, 1, TOKENS, 1, 1, &kvt_err));
  REFUSED(KVG_E_STATE, "only pyramidinfer",
          KVG(cache_next_tokens)(rig.cache, 1, NULL, 0, &needed, &kvt_err));
  kvt_rig_close(&rig);
}

/* A pruned prompt: the caller says which tokens come. */
static void pruned(void) {
  enum { TOKENS = 120 };
  float rows[TOKENS * HEADS * DIM], given[HEADS * TOKENS];
  uint64_t next[TOKENS], positions[TOKENS];
  size_t needed = 0, i;
  kvg_append_desc desc;
  kvt_rig rig;
  kvt_where("pyramidinfer");
  if (!open_rig(&rig, "pyramidinfer,decay=0.5,least=0,recent=10")) return;
  for (i = 0; i < TOKENS; i++) positions[i] = i;
  for (i = 0; i < HEADS * TOKENS; i++) given[i] = (float)(i % TOKENS) / TOKENS;
  kvt_fill(rows, TOKENS * HEADS * DIM, 1, 0);
  KVG(append_desc_init)(&desc);
  desc.dtype = KVG_F32;
  desc.tokens = TOKENS;
  REFUSED(KVG_E_INVALID, "positions_len is 119",
          KVG(cache_append_at)(rig.cache, 0, rows, sizeof(rows), rows, sizeof(rows), positions, 119,
                               &desc, &kvt_err));
  OK(KVG(cache_append_at)(rig.cache, 0, rows, sizeof(rows), rows, sizeof(rows), positions, TOKENS,
                          &desc, &kvt_err));
  OK(KVG(cache_next_tokens)(rig.cache, 0, next, TOKENS, &needed, &kvt_err));
  CHECK(needed == TOKENS); /* behind the first layer all go on */
  OK(KVG(cache_append_at)(rig.cache, 1, rows, sizeof(rows), rows, sizeof(rows), positions, TOKENS,
                          &desc, &kvt_err));
  REFUSED(KVG_E_STATE, "needs scores",
          KVG(cache_next_tokens)(rig.cache, 1, next, TOKENS, &needed, &kvt_err));
  OK(KVG(cache_observe)(rig.cache, 1, given, HEADS * TOKENS, 11, &kvt_err));
  OK(KVG(cache_next_tokens)(rig.cache, 1, next, TOKENS, &needed, &kvt_err));
  /* 11 in the window; of the 109 before it (0.5 + 0.5 * 0.5): the sinks and the highest scores. */
  CHECK(needed == 11 + 81);
  for (i = 0; i < needed; i++) CHECK(next[i] == (i < 4 ? i : 28 + i));
  positions[0] = 500;
  REFUSED(KVG_E_INVALID, "positions[1] is 1",
          KVG(cache_append_at)(rig.cache, 1, rows, sizeof(rows), rows, sizeof(rows), positions,
                               TOKENS, &desc, &kvt_err));
  kvt_rig_close(&rig);

  /* Layers that keep all tokens. */
  if (!open_rig(&rig, "int8")) return;
  OK(kvt_append(&rig, rig.cache, 0, 0, 100, 1, &kvt_err));
  OK(KVG(cache_select)(rig.cache, KVG_ALL_LAYERS, &kvt_err));
  OK(KVG(cache_positions)(rig.cache, 0, 0, positions, TOKENS, &needed, &kvt_err));
  CHECK(needed == 100 && positions[99] == 99);
  OK(KVG(cache_next_tokens)(rig.cache, 0, next, TOKENS, &needed, &kvt_err));
  CHECK(needed == 100 && next[99] == 99);
  OK(KVG(cache_probe_positions)(rig.cache, 0, NULL, 0, &needed, &kvt_err));
  CHECK(needed == 0);
  REFUSED(KVG_E_STATE, "keeps all tokens",
          KVG(cache_observe)(rig.cache, 0, given, 200, 1, &kvt_err));
  REFUSED(KVG_E_STATE, "keeps all tokens",
          KVG(cache_append_at)(rig.cache, 0, rows, sizeof(rows), rows, sizeof(rows), positions,
                               TOKENS, &desc, &kvt_err));
  observe_one(&rig, 0, 3);
  kvt_rig_close(&rig);
}

void case_select(void) {
  names();
  streaming();
  scores();
  pruned();
}
