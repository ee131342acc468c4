/* Saved caches and prefixes: there and back, by file, buffer and function; and their refusals. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cases.h"

enum { LAYERS = 2, Q = 4, KV = 2, DIM = 40, TOKENS = 700 };

static const char *const path = "kvgear_conformance_saved.kvg";

static unsigned char *save(const kvg_cache *cache, const kvg_save_desc *desc, size_t *size) {
  unsigned char *bytes;
  size_t needed = 0;
  OK(KVG(cache_save_buffer)(cache, NULL, 0, size, desc, &kvt_err));
  bytes = (unsigned char *)kvt_malloc(*size + 1);
  OK(KVG(cache_save_buffer)(cache, bytes, *size + 1, &needed, desc, &kvt_err));
  CHECK(needed == *size);
  return bytes;
}

typedef struct stream {
  unsigned char *bytes;
  size_t size, at, most;
  int64_t answer; /* other than 0: what is returned at the end of `most` bytes */
} stream;

static int64_t write_some(void *user, const void *data, uint64_t bytes) {
  stream *s = (stream *)user;
  size_t some = bytes < 777 ? (size_t)bytes : 777;
  if (s->at + some > s->size) return -7;
  memcpy(s->bytes + s->at, data, some);
  s->at += some;
  return (int64_t)some;
}

static int64_t read_some(void *user, void *data, uint64_t bytes) {
  stream *s = (stream *)user;
  size_t some = bytes < 555 ? (size_t)bytes : 555;
  if (s->at >= s->most) return s->answer;
  if (some > s->size - s->at) some = s->size - s->at;
  memcpy(data, s->bytes + s->at, some);
  s->at += some;
  return (int64_t)some;
}

static int rig_with_tokens(kvt_rig *rig, const char *recipe) {
  if (!kvt_rig_open(rig, recipe, LAYERS, Q, KV, DIM, NULL)) return 0;
  OK(kvt_append(rig, rig->cache, 0, 0, TOKENS, 1, &kvt_err));
  OK(kvt_append(rig, rig->cache, 1, 0, 5, 2, &kvt_err));
  return 1;
}

static void there_and_back(const char *recipe) {
  kvt_rig rig;
  kvt_picture picture;
  kvg_load_desc load;
  kvg_cache *back = NULL;
  kvg_stats stats;
  unsigned char *bytes, *again;
  size_t size = 0, size_again = 0;
  stream s;
  int map;
  kvt_where(recipe);
  if (!rig_with_tokens(&rig, recipe)) return;
  kvt_picture_take(&picture, &rig, rig.cache, 0);
  bytes = save(rig.cache, NULL, &size);

  OK(KVG(cache_load_buffer)(rig.runtime, rig.plan, bytes, size + 1, NULL, &back, &kvt_err));
  CHECK(kvt_unchanged(&picture, &rig, back, 0));
  again = save(back, NULL, &size_again);
  CHECK(size == size_again && memcmp(bytes, again, size) == 0);
  KVG(cache_destroy)(back);

  memset(&s, 0, sizeof(s));
  s.bytes = again;
  s.size = s.most = size;
  memset(again, 0, size);
  OK(KVG(cache_save_stream)(rig.cache, write_some, &s, NULL, &kvt_err));
  CHECK(s.at == size && memcmp(bytes, again, size) == 0);
  s.at = 0;
  OK(KVG(cache_load_stream)(rig.runtime, rig.plan, read_some, &s, NULL, &back, &kvt_err));
  CHECK(kvt_unchanged(&picture, &rig, back, 0));
  KVG(cache_destroy)(back);

  KVG(load_desc_init)(&load);
  OK(KVG(cache_save)(rig.cache, path, NULL, &kvt_err));
  for (map = 0; map < 3; map++) {
    load.map = map > 0;
    load.trust = map > 1;
    OK(KVG(cache_load)(rig.runtime, rig.plan, path, &load, &back, &kvt_err));
    CHECK(kvt_unchanged(&picture, &rig, back, 0));
    KVG(stats_init)(&stats);
    OK(KVG(cache_stats)(back, KVG_ALL_LAYERS, KVG_SIDE_BOTH, &stats, &kvt_err));
    CHECK((stats.bytes_mapped > 0) == (map > 0 && stats.segments > 0));
    /* It goes on as the one that was saved. */
    OK(kvt_append(&rig, back, 1, 5, 300, 2, &kvt_err));
    CHECK(kvt_length(back, 1) == 305);
    KVG(cache_destroy)(back);
  }
  remove(path);
  free(bytes);
  free(again);
  kvt_picture_free(&picture);
  kvt_rig_close(&rig);
}

static void ranges(void) {
  kvt_rig rig;
  kvg_save_desc desc;
  kvg_cache *whole = NULL;
  kvt_picture picture;
  unsigned char *bytes;
  size_t size = 0;
  uint32_t layer;
  uint64_t at;
  kvt_where("ranges");
  if (!rig_with_tokens(&rig, "int4")) return;
  kvt_picture_take(&picture, &rig, rig.cache, 0);
  KVG(save_desc_init)(&desc);
  OK(KVG(cache_create)(rig.runtime, rig.plan, &whole, &kvt_err));
  for (layer = 0; layer < LAYERS; layer++) {
    desc.first_layer = layer;
    desc.layers = 1;
    bytes = save(rig.cache, &desc, &size);
    OK(KVG(cache_extend_buffer)(whole, bytes, size, NULL, &kvt_err));
    /* A second time it does not fit. */
    REFUSED(KVG_E_INVALID, "begin at", KVG(cache_extend_buffer)(whole, bytes, size, NULL, &kvt_err));
    free(bytes);
  }
  CHECK(kvt_unchanged(&picture, &rig, whole, 0));
  OK(KVG(cache_clear)(whole, &kvt_err));
  /* int4 seals 64 tokens at a time and keeps at least the newest 64: 640 of 700, of the prompt. */
  desc.first_layer = 0;
  desc.layers = 1;
  for (at = 0; at < TOKENS;) {
    stream s;
    desc.first_token = at;
    desc.tokens = at == 0 ? 576 : TOKENS - at;
    bytes = save(rig.cache, &desc, &size);
    memset(&s, 0, sizeof(s));
    s.bytes = bytes;
    s.size = s.most = size;
    OK(KVG(cache_extend_stream)(whole, read_some, &s, NULL, &kvt_err));
    at += desc.tokens;
    CHECK(kvt_length(whole, 0) == at);
    free(bytes);
  }
  desc.first_layer = 1;
  desc.first_token = desc.tokens = 0;
  OK(KVG(cache_save)(rig.cache, path, &desc, &kvt_err));
  OK(KVG(cache_extend)(whole, path, NULL, &kvt_err));
  remove(path);
  CHECK(kvt_unchanged(&picture, &rig, whole, 0));
  KVG(cache_destroy)(whole);

  desc.first_layer = 0;
  desc.layers = 1;
  desc.first_token = 5;
  REFUSED(KVG_E_INVALID, "nearest",
          KVG(cache_save_buffer)(rig.cache, NULL, 0, &size, &desc, &kvt_err));
  desc.first_token = 701;
  REFUSED(KVG_E_INVALID, "holds 700",
          KVG(cache_save_buffer)(rig.cache, NULL, 0, &size, &desc, &kvt_err));
  desc.first_token = 0;
  desc.layers = 3;
  REFUSED(KVG_E_INVALID, "layers is 3",
          KVG(cache_save_buffer)(rig.cache, NULL, 0, &size, &desc, &kvt_err));
  desc.first_layer = 2;
  REFUSED(KVG_E_INVALID, "first_layer",
          KVG(cache_save_buffer)(rig.cache, NULL, 0, &size, &desc, &kvt_err));
  kvt_picture_free(&picture);
  kvt_rig_close(&rig);
}

static void refusals(void) {
  kvt_rig rig, other;
  kvg_save_desc save_desc;
  kvg_load_desc load;
  kvg_cache *back = NULL;
  unsigned char *bytes, *copy;
  size_t size = 0, needed = 0;
  stream s;
  kvt_where("refusals");
  if (!rig_with_tokens(&rig, "gear-2")) return;
  if (!kvt_rig_open(&other, "gear-4", LAYERS, Q, KV, DIM, NULL)) return;
  KVG(save_desc_init)(&save_desc);
  KVG(load_desc_init)(&load);
  save_desc.fingerprint = "one model";
  save_desc.fingerprint_bytes = 9;
  bytes = save(rig.cache, &save_desc, &size);
  copy = (unsigned char *)kvt_malloc(size);

  REFUSED(KVG_E_BUFFER_TOO_SMALL, "needs",
          KVG(cache_save_buffer)(rig.cache, copy, size - 1, &needed, &save_desc, &kvt_err));
  CHECK(needed == size);
  REFUSED(KVG_E_INVALID, "fingerprint",
          KVG(cache_load_buffer)(rig.runtime, rig.plan, bytes, size, NULL, &back, &kvt_err));
  load.fingerprint = "two model";
  load.fingerprint_bytes = 9;
  REFUSED(KVG_E_INVALID, "fingerprint",
          KVG(cache_load_buffer)(rig.runtime, rig.plan, bytes, size, &load, &back, &kvt_err));
  load.fingerprint = "one model";
  REFUSED(KVG_E_INVALID, "another recipe",
          KVG(cache_load_buffer)(other.runtime, other.plan, bytes, size, &load, &back, &kvt_err));
  REFUSED(KVG_E_CORRUPT, "cut off",
          KVG(cache_load_buffer)(rig.runtime, rig.plan, bytes, size - 1, &load, &back, &kvt_err));
  memcpy(copy, bytes, size);
  copy[size / 2] = (unsigned char)(copy[size / 2] ^ 0x10);
  REFUSED(KVG_E_CORRUPT, "damaged",
          KVG(cache_load_buffer)(rig.runtime, rig.plan, copy, size, &load, &back, &kvt_err));
  REFUSED(KVG_E_CORRUPT, "not a saved cache",
          KVG(cache_load_buffer)(rig.runtime, rig.plan, "12345678", 8, &load, &back, &kvt_err));
  REFUSED(KVG_E_INVALID, "another model",
          (save_desc.fingerprint_bytes = 0, kvt_rig_close(&other),
           kvt_rig_open(&other, "gear-2", LAYERS + 1, Q, KV, DIM, NULL),
           KVG(cache_load_buffer)(other.runtime, other.plan, bytes, size, &load, &back,
                                  &kvt_err)));
  CHECK(back == NULL);

  /* Functions that fail, end early, or lie. */
  memset(&s, 0, sizeof(s));
  s.bytes = bytes;
  s.size = size;
  s.most = size / 2;
  REFUSED(KVG_E_CORRUPT, "cut off",
          KVG(cache_load_stream)(rig.runtime, rig.plan, read_some, &s, &load, &back, &kvt_err));
  s.at = 0;
  s.answer = -1;
  REFUSED(KVG_E_IO, "read function",
          KVG(cache_load_stream)(rig.runtime, rig.plan, read_some, &s, &load, &back, &kvt_err));
  s.at = 0;
  s.answer = (int64_t)1 << 40;
  REFUSED(KVG_E_IO, "read function",
          KVG(cache_load_stream)(rig.runtime, rig.plan, read_some, &s, &load, &back, &kvt_err));
  s.at = 0;
  s.bytes = copy;
  s.size = size / 2;
  REFUSED(KVG_E_IO, "write function",
          KVG(cache_save_stream)(rig.cache, write_some, &s, NULL, &kvt_err));

  /* Files. */
  REFUSED(KVG_E_IO, "open", KVG(cache_load)(rig.runtime, rig.plan, "no/such/file", &load, &back,
                                            &kvt_err));
  REFUSED(KVG_E_IO, "write", KVG(cache_save)(rig.cache, "no/such/folder/file", NULL, &kvt_err));
  REFUSED(KVG_E_IO, "open", KVG(cache_extend)(rig.cache, "no/such/file", &load, &kvt_err));

  /* Arguments. */
  REFUSED(KVG_E_INVALID, "path", KVG(cache_save)(rig.cache, NULL, NULL, &kvt_err));
  REFUSED(KVG_E_INVALID, "path",
          KVG(cache_load)(rig.runtime, rig.plan, NULL, NULL, &back, &kvt_err));
  REFUSED(KVG_E_INVALID, "write", KVG(cache_save_stream)(rig.cache, NULL, NULL, NULL, &kvt_err));
  REFUSED(KVG_E_INVALID, "read",
          KVG(cache_load_stream)(rig.runtime, rig.plan, NULL, NULL, NULL, &back, &kvt_err));
  REFUSED(KVG_E_INVALID, "read", KVG(cache_extend_stream)(rig.cache, NULL, NULL, NULL, &kvt_err));
  REFUSED(KVG_E_INVALID, "data",
          KVG(cache_load_buffer)(rig.runtime, rig.plan, NULL, 5, NULL, &back, &kvt_err));
  REFUSED(KVG_E_INVALID, "data",
          KVG(cache_save_buffer)(rig.cache, NULL, 5, NULL, NULL, &kvt_err));
  REFUSED(KVG_E_INVALID, "out",
          KVG(cache_load_buffer)(rig.runtime, rig.plan, bytes, size, NULL, NULL, &kvt_err));
  load.map = 1;
  REFUSED(KVG_E_INVALID, "map",
          KVG(cache_load_buffer)(rig.runtime, rig.plan, bytes, size, &load, &back, &kvt_err));
  load.map = 2;
  REFUSED(KVG_E_UNSUPPORTED, "map",
          KVG(cache_load)(rig.runtime, rig.plan, path, &load, &back, &kvt_err));
  load.map = 0;
  load.trust = 1;
  REFUSED(KVG_E_INVALID, "trust",
          KVG(cache_load)(rig.runtime, rig.plan, path, &load, &back, &kvt_err));
  load.trust = 0;
  load.reserved = 1;
  REFUSED(KVG_E_UNSUPPORTED, "reserved",
          KVG(cache_load)(rig.runtime, rig.plan, path, &load, &back, &kvt_err));
  save_desc.no_sync = 2;
  REFUSED(KVG_E_UNSUPPORTED, "no_sync",
          KVG(cache_save_buffer)(rig.cache, NULL, 0, &needed, &save_desc, &kvt_err));
  save_desc.no_sync = 0;
  save_desc.fingerprint_bytes = 257;
  REFUSED(KVG_E_INVALID, "fingerprint",
          KVG(cache_save_buffer)(rig.cache, NULL, 0, &needed, &save_desc, &kvt_err));
  CHECK(back == NULL);
  free(bytes);
  free(copy);
  kvt_rig_close(&rig);
  kvt_rig_close(&other);
}

static void prefixes(void) {
  kvt_rig rig;
  kvg_prefix *prefix = NULL;
  kvg_prefix_stats stats;
  kvg_cache *found = NULL, *second = NULL;
  kvt_picture picture;
  uint32_t tokens[TOKENS], i;
  uint64_t matched = 7, alone;
  kvt_where("prefixes");
  if (!kvt_rig_open(&rig, "int4", LAYERS, Q, KV, DIM, NULL)) return;
  for (i = 0; i < TOKENS; i++) tokens[i] = i * 3;
  for (i = 0; i < LAYERS; i++) OK(kvt_append(&rig, rig.cache, i, 0, TOKENS, 1, &kvt_err));
  kvt_picture_take(&picture, &rig, rig.cache, 0);
  OK(KVG(prefix_create)(rig.runtime, 0, &prefix, &kvt_err));
  OK(KVG(prefix_find)(prefix, rig.plan, tokens, TOKENS, &matched, &found, &kvt_err));
  CHECK(matched == 0 && found == NULL);
  OK(KVG(prefix_insert)(prefix, tokens, TOKENS, rig.cache, &kvt_err));
  OK(KVG(prefix_insert)(prefix, tokens, TOKENS, rig.cache, &kvt_err));
  OK(KVG(prefix_find)(prefix, rig.plan, tokens, TOKENS, &matched, &found, &kvt_err));
  CHECK(matched == TOKENS && kvt_unchanged(&picture, &rig, found, 0));
  KVG(cache_destroy)(found);
  /* A prompt that goes another way after 690 tokens, in the window, or after 100, in a segment. */
  tokens[690] = 1;
  OK(KVG(prefix_find)(prefix, rig.plan, tokens, TOKENS, &matched, &found, &kvt_err));
  CHECK(matched == 690 && kvt_length(found, 1) == 690);
  KVG(cache_destroy)(found);
  found = NULL;
  tokens[100] = 1;
  OK(KVG(prefix_find)(prefix, rig.plan, tokens, TOKENS, &matched, &found, &kvt_err));
  CHECK(matched == 0 && found == NULL); /* the prompt is one segment */
  OK(KVG(prefix_find)(prefix, rig.plan, NULL, 0, &matched, &found, &kvt_err));
  CHECK(matched == 0 && found == NULL);

  KVG(prefix_stats_init)(&stats);
  OK(KVG(prefix_read_stats)(prefix, &stats, &kvt_err));
  CHECK(stats.entries == 1 && stats.hits == 2 && stats.misses == 3 && stats.evictions == 0);
  alone = stats.bytes;
  CHECK(alone > TOKENS * 4);
  OK(KVG(prefix_clear)(prefix, &kvt_err));
  OK(KVG(prefix_read_stats)(prefix, &stats, &kvt_err));
  CHECK(stats.entries == 0 && stats.bytes == 0);
  KVG(prefix_destroy)(prefix);

  /* A budget for one and a half. */
  OK(KVG(prefix_create)(rig.runtime, alone + alone / 2, &prefix, &kvt_err));
  OK(KVG(prefix_insert)(prefix, tokens, TOKENS, rig.cache, &kvt_err));
  OK(KVG(cache_create)(rig.runtime, rig.plan, &second, &kvt_err));
  for (i = 0; i < LAYERS; i++) OK(kvt_append(&rig, second, i, 0, TOKENS, 2, &kvt_err));
  tokens[0] = 99;
  OK(KVG(prefix_insert)(prefix, tokens, TOKENS, second, &kvt_err));
  OK(KVG(prefix_read_stats)(prefix, &stats, &kvt_err));
  CHECK(stats.entries == 1 && stats.evictions == 1 && stats.bytes <= alone + alone / 2);
  KVG(prefix_destroy)(prefix);
  OK(KVG(prefix_create)(rig.runtime, alone / 2, &prefix, &kvt_err));
  REFUSED(KVG_E_LIMIT, "prefix store",
          KVG(prefix_insert)(prefix, tokens, TOKENS, second, &kvt_err));
  REFUSED(KVG_E_INVALID, "holds 700",
          KVG(prefix_insert)(prefix, tokens, TOKENS - 1, second, &kvt_err));
  REFUSED(KVG_E_INVALID, "empty", KVG(prefix_insert)(prefix, tokens, 0, second, &kvt_err));
  REFUSED(KVG_E_INVALID, "tokens", KVG(prefix_insert)(prefix, NULL, 1, second, &kvt_err));
  REFUSED(KVG_E_INVALID, "matched",
          KVG(prefix_find)(prefix, rig.plan, tokens, 1, NULL, &found, &kvt_err));
  REFUSED(KVG_E_INVALID, "out",
          KVG(prefix_find)(prefix, rig.plan, tokens, 1, &matched, NULL, &kvt_err));
  REFUSED(KVG_E_INVALID, "out", KVG(prefix_create)(rig.runtime, 0, NULL, &kvt_err));
  REFUSED(KVG_E_STATE, "kvg_prefix",
          KVG(prefix_clear)((kvg_prefix *)(void *)rig.cache, &kvt_err));
  KVG(cache_destroy)(second);
  kvt_picture_free(&picture);
  kvt_rig_close(&rig); /* the store may outlive the runtime's handle */
  OK(KVG(prefix_clear)(prefix, &kvt_err));
  KVG(prefix_destroy)(prefix);
  KVG(prefix_destroy)(prefix);
  KVG(prefix_destroy)(NULL);
}

void case_saved(void) {
  uint32_t i;
  for (i = 0; i < KVG(recipe_count)(); i++) {
    /* Files have no place for a basis that a cache has learnt; such caches are refused. */
    there_and_back(KVG(recipe_name)(i));
  }
  there_and_back("gear-4,window=32,select=streaming-llm,budget=200");
  there_and_back("int8,select=zipcache,low=0");
  ranges();
  refusals();
  prefixes();
  kvt_where("");
}
