/* The memory budget: it is never passed, what it refuses has changed nothing, and what is given
 * back can be used again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kit.h"

enum { DIM = 32 };

static uint64_t held(const kvt_rig *rig) {
  uint64_t bytes = 0;
  CHECK(KVG(runtime_memory)(rig->runtime, &bytes, NULL) == KVG_OK);
  return bytes;
}

static const uint64_t pieces[] = {1, 30, 40, 1, 1, 250, 64, 7, 129, 1};
enum { PIECES = sizeof(pieces) / sizeof(pieces[0]) };

/* The same story under a budget: each append either happens whole or not at all, and what there is
 * in the end is what a cache without a budget holds after the same appends. */
static int story(const char *recipe, uint64_t budget) {
  kvt_rig rig, free_rig;
  kvt_picture picture, want;
  kvg_runtime_options options;
  uint64_t length = 0;
  size_t i;
  int refused = 0;
  KVG(runtime_options_init)(&options);
  options.memory_budget = budget;
  if (!kvt_rig_open(&rig, recipe, 1, 2, 1, DIM, &options)) return 0;
  if (!kvt_rig_open(&free_rig, recipe, 1, 2, 1, DIM, NULL)) return 0;
  for (i = 0; i < PIECES; i++) {
    const uint64_t before = held(&rig);
    kvg_status status;
    kvt_picture_take(&picture, &rig, rig.cache, 1);
    status = kvt_append(&rig, rig.cache, 0, length, pieces[i], 1, &kvt_err);
    CHECK(held(&rig) <= budget);
    if (status == KVG_OK) {
      OK(kvt_append(&free_rig, free_rig.cache, 0, length, pieces[i], 1, &kvt_err));
      length += pieces[i];
    } else {
      CHECK(status == KVG_E_LIMIT);
      CHECK(kvt_err.code == KVG_E_LIMIT && strstr(kvt_err.message, "budget") != NULL);
      CHECK(held(&rig) == before);
      CHECK(kvt_unchanged(&picture, &rig, rig.cache, 1));
      refused++;
    }
    kvt_picture_free(&picture);
  }
  kvt_picture_take(&want, &free_rig, free_rig.cache, 0);
  CHECK(kvt_unchanged(&want, &rig, rig.cache, 0));
  kvt_picture_free(&want);
  kvt_rig_close(&free_rig);
  kvt_rig_close(&rig);
  return refused;
}

static uint64_t needed(const char *recipe) {
  kvt_rig rig;
  uint64_t bytes, length = 0;
  size_t i;
  if (!kvt_rig_open(&rig, recipe, 1, 2, 1, DIM, NULL)) return 0;
  for (i = 0; i < PIECES; i++) {
    OK(kvt_append(&rig, rig.cache, 0, length, pieces[i], 1, &kvt_err));
    length += pieces[i];
  }
  bytes = held(&rig);
  kvt_rig_close(&rig);
  return bytes;
}

static void stories(const char *recipe) {
  const uint64_t most = needed(recipe);
  kvt_rig rig;
  uint64_t empty, budget;
  int refused = 0;
  kvt_where(recipe);
  if (!kvt_rig_open(&rig, recipe, 1, 2, 1, DIM, NULL)) return;
  empty = held(&rig);
  kvt_rig_close(&rig);
  for (budget = empty; budget < most; budget += (most - empty) / 23 + 1) {
    const int here = story(recipe, budget);
    CHECK(here > 0); /* less than what all appends need */
    refused += here;
  }
  CHECK(refused > 23);
  CHECK(story(recipe, 2 * most) == 0);
  kvt_where("");
}

/* Not even an empty cache fits. */
static void too_small_for_any(void) {
  kvt_rig rig;
  kvg_runtime_options options;
  kvg_cache *cache = NULL;
  uint64_t needs;
  if (!kvt_rig_open(&rig, "int4", 3, 2, 1, DIM, NULL)) return;
  needs = held(&rig);
  KVG(runtime_destroy)(rig.runtime);
  KVG(runtime_options_init)(&options);
  options.memory_budget = needs - 1;
  OK(KVG(runtime_create)(&options, &rig.runtime, &kvt_err));
  REFUSED(KVG_E_LIMIT, "budget", KVG(cache_create)(rig.runtime, rig.plan, &cache, &kvt_err));
  CHECK(cache == NULL && held(&rig) == 0);
  KVG(runtime_destroy)(rig.runtime);
  options.memory_budget = needs;
  OK(KVG(runtime_create)(&options, &rig.runtime, &kvt_err));
  OK(KVG(cache_create)(rig.runtime, rig.plan, &cache, &kvt_err));
  CHECK(held(&rig) == needs);
  REFUSED(KVG_E_LIMIT, "budget", KVG(cache_fork)(cache, &cache, &kvt_err));
  KVG(cache_destroy)(cache);
  CHECK(held(&rig) == 0);
  kvt_rig_close(&rig);
}

/* One budget for all caches of a runtime; forks cost what they do not share. */
static void shared(void) {
  kvt_rig rig;
  kvg_runtime_options options;
  kvg_cache *second = NULL, *fork = NULL;
  kvt_picture picture, fork_picture;
  KVG(runtime_options_init)(&options);
  options.memory_budget = 40000;
  if (!kvt_rig_open(&rig, "fp16", 1, 2, 1, DIM, &options)) return;
  OK(KVG(cache_create)(rig.runtime, rig.plan, &second, &kvt_err));
  OK(kvt_append(&rig, rig.cache, 0, 0, 190, 1, &kvt_err)); /* 24 KB and a window of 16 */
  kvt_picture_take(&picture, &rig, rig.cache, 1);
  REFUSED(KVG_E_LIMIT, "budget", kvt_append(&rig, second, 0, 0, 190, 2, &kvt_err));
  CHECK(kvt_length(second, 0) == 0);
  CHECK(kvt_unchanged(&picture, &rig, rig.cache, 1));
  /* A fork shares all of it, until it goes its own way and needs a window of its own. */
  OK(KVG(cache_fork)(rig.cache, &fork, &kvt_err));
  kvt_picture_take(&fork_picture, &rig, fork, 1);
  REFUSED(KVG_E_LIMIT, "budget", kvt_append(&rig, fork, 0, 190, 1, 1, &kvt_err));
  CHECK(kvt_unchanged(&fork_picture, &rig, fork, 1));
  kvt_picture_free(&fork_picture);
  KVG(cache_destroy)(fork);
  CHECK(kvt_unchanged(&picture, &rig, rig.cache, 1));
  OK(KVG(cache_clear)(rig.cache, &kvt_err));
  OK(kvt_append(&rig, second, 0, 0, 190, 2, &kvt_err));
  OK(KVG(cache_clear)(second, &kvt_err));
  kvt_picture_free(&picture);
  KVG(cache_destroy)(second);

  /* A fork of a fully sealed prompt is cheap, and as good under a tight budget. */
  OK(kvt_append(&rig, rig.cache, 0, 0, 64, 1, &kvt_err));
  OK(KVG(cache_fork)(rig.cache, &fork, &kvt_err));
  kvt_picture_take(&fork_picture, &rig, fork, 0);
  KVG(cache_destroy)(rig.cache);
  rig.cache = NULL;
  CHECK(kvt_unchanged(&fork_picture, &rig, fork, 0));
  kvt_picture_free(&fork_picture);
  KVG(cache_destroy)(fork);
  CHECK(held(&rig) == 0);
  kvt_rig_close(&rig);
}

int main(void) {
  uint32_t i;
  for (i = 0; i < KVG(recipe_count)(); i++) {
    /* Looking at a cache that learns teaches it; unit/cache_fault_test looks without attending. */
    if (strncmp(KVG(recipe_name)(i), "tc-", 3) != 0) stories(KVG(recipe_name)(i));
  }
  too_small_for_any();
  shared();
  printf("%ld checks, %d failed\n", kvt_checks(), kvt_failures());
  return kvt_failures() == 0 ? 0 : 1;
}
