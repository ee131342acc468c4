/* Functions that give and take a saved cache and fail at any point, are short, or lie: each call for
 * each way to go wrong. Nothing is made or changed then, and the next try works. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kit.h"

enum { LAYERS = 2, Q = 2, KV = 1, DIM = 32, TOKENS = 300 };

static unsigned char *saved;
static size_t saved_size;

/* A function's state: where it is, and what it does in its `at`th call. */
typedef struct stream {
  size_t offset;
  long calls, at;
  int64_t answer; /* what it says then; 0, beyond the length that is asked for, below 0 */
  size_t most;    /* bytes of one call */
  int junk;       /* it gives other bytes than it was given */
} stream;

static int64_t take(void *user, const void *data, uint64_t bytes) {
  stream *s = (stream *)user;
  const size_t some = bytes < s->most ? (size_t)bytes : s->most;
  if (++s->calls == s->at) return s->answer > 0 ? (int64_t)bytes + s->answer : s->answer;
  CHECK(bytes > 0 && s->offset + bytes <= saved_size);
  CHECK(memcmp(saved + s->offset, data, some) == 0);
  s->offset += some;
  return (int64_t)some;
}

static int64_t give(void *user, void *data, uint64_t bytes) {
  stream *s = (stream *)user;
  size_t some = bytes < s->most ? (size_t)bytes : s->most;
  if (++s->calls == s->at && !s->junk) {
    return s->answer > 0 ? (int64_t)bytes + s->answer : s->answer;
  }
  /* It is not asked for what lies behind the end. */
  CHECK(bytes > 0 && (s->junk || s->offset + bytes <= saved_size));
  if (some > saved_size - s->offset) some = saved_size - s->offset;
  memcpy(data, saved + s->offset, some);
  if (s->calls == s->at) ((unsigned char *)data)[some / 2] ^= 0x40;
  s->offset += some;
  return (int64_t)some;
}

/* All that a scene holds. */
static kvt_rig rig;
static kvg_cache *empty;
static kvt_picture picture, of_empty;
static uint64_t held;

static void scene(const char *recipe) {
  memset(&picture, 0, sizeof(picture));
  if (!kvt_rig_open(&rig, recipe, LAYERS, Q, KV, DIM, NULL)) return;
  OK(kvt_append(&rig, rig.cache, 0, 0, TOKENS, 1, &kvt_err));
  OK(kvt_append(&rig, rig.cache, 1, 0, 7, 2, &kvt_err));
  OK(KVG(cache_create)(rig.runtime, rig.plan, &empty, &kvt_err));
  OK(KVG(cache_save_buffer)(rig.cache, NULL, 0, &saved_size, NULL, &kvt_err));
  saved = (unsigned char *)kvt_malloc(saved_size);
  OK(KVG(cache_save_buffer)(rig.cache, saved, saved_size, NULL, NULL, &kvt_err));
  kvt_picture_take(&picture, &rig, rig.cache, 0);
  kvt_picture_take(&of_empty, &rig, empty, 1);
  OK(KVG(runtime_memory)(rig.runtime, &held, &kvt_err));
}

static void scene_end(void) {
  kvt_picture_free(&picture);
  kvt_picture_free(&of_empty);
  free(saved);
  KVG(cache_destroy)(empty);
  kvt_rig_close(&rig);
}

/* Nothing was made, nothing has changed. */
static void check_untouched(const kvg_cache *out) {
  uint64_t bytes = 0;
  CHECK(out == NULL);
  CHECK(kvt_unchanged(&picture, &rig, rig.cache, 0));
  CHECK(kvt_unchanged(&of_empty, &rig, empty, 1));
  OK(KVG(runtime_memory)(rig.runtime, &bytes, &kvt_err));
  CHECK(bytes == held);
}

enum { SAVE, LOAD, EXTEND, CALLS };

static kvg_status call(int which, stream *s, kvg_cache **out) {
  if (which == SAVE) return KVG(cache_save_stream)(rig.cache, take, s, NULL, &kvt_err);
  if (which == LOAD) {
    return KVG(cache_load_stream)(rig.runtime, rig.plan, give, s, NULL, out, &kvt_err);
  }
  return KVG(cache_extend_stream)(empty, give, s, NULL, &kvt_err);
}

static void run(const char *recipe, size_t most) {
  static const int64_t answers[] = {-1, INT64_MIN, 0, 1, INT64_C(1) << 40};
  int which;
  size_t way;
  scene(recipe);
  for (which = 0; which < CALLS; which++) {
    kvg_cache *out = NULL;
    stream s;
    long calls;
    /* Without a fault, in pieces of this length. */
    memset(&s, 0, sizeof(s));
    s.most = most;
    OK(call(which, &s, &out));
    CHECK(s.offset == saved_size);
    calls = s.calls;
    if (which == LOAD) CHECK(kvt_unchanged(&picture, &rig, out, 0));
    if (which == EXTEND) {
      CHECK(kvt_unchanged(&picture, &rig, empty, 0));
      OK(KVG(cache_clear)(empty, &kvt_err));
    }
    KVG(cache_destroy)(out);
    out = NULL;
    CHECK(calls > 0);
    for (way = 0; way < sizeof(answers) / sizeof(answers[0]); way++) {
      for (s.at = 1; s.at <= calls; s.at += 1 + calls / 40) {
        s.offset = 0;
        s.calls = 0;
        s.answer = answers[way];
        /* An end that comes early is a file that was cut; everything else is a function that failed. */
        REFUSED(which != SAVE && s.answer == 0 ? KVG_E_CORRUPT : KVG_E_IO,
                which == SAVE ? "write function" : s.answer == 0 ? "cut off" : "read function",
                call(which, &s, &out));
        CHECK(s.calls == s.at); /* it is not called again after it has failed */
        check_untouched(out);
      }
    }
    if (which == SAVE) continue;
    for (s.at = 1; s.at <= calls; s.at += 1 + calls / 40) {
      kvg_status status;
      s.offset = 0;
      s.calls = 0;
      s.junk = 1;
      kvt_arm();
      status = call(which, &s, &out);
      CHECK(status != KVG_OK && status != KVG_E_INTERNAL && status != KVG_E_NOMEM);
      check_untouched(out);
    }
  }
  scene_end();
}

int main(void) {
  run("gear-2", 1u << 30);
  run("int4", 997);
  run("fp16;1:kivi-2", 1);
  printf("%ld checks, %d failed\n", kvt_checks(), kvt_failures());
  return kvt_checks() > 1000 && kvt_failures() == 0 ? 0 : 1;
}
