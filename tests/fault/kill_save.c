/* For kill.sh: saves caches of two kinds to one file in turn, for ever; or checks that it is one of them. */
#include <stdio.h>
#include <string.h>

#include "kit.h"

enum { DIM = 64 };

static kvg_cache *loaded(kvt_rig *rig, const char *path) {
  kvg_cache *cache = NULL;
  kvg_error err;
  if (KVG(cache_load)(rig->runtime, rig->plan, path, NULL, &cache, &err) != KVG_OK) {
    fprintf(stderr, "%s\n", err.message);
  }
  return cache;
}

int main(int argc, char **argv) {
  kvt_rig rig;
  kvg_cache *longer = NULL, *found;
  unsigned long i;
  uint64_t tokens;
  if (argc != 3) return 2;
  if (!kvt_rig_open(&rig, "int4", 1, 2, 2, DIM, NULL)) return 1;
  if (strcmp(argv[1], "check") == 0) {
    found = loaded(&rig, argv[2]);
    if (found == NULL) return 1;
    tokens = kvt_length(found, 0);
    KVG(cache_destroy)(found);
    kvt_rig_close(&rig);
    return tokens == 700 || tokens == 2500 ? 0 : 1;
  }
  if (kvt_append(&rig, rig.cache, 0, 0, 700, 1, NULL) != KVG_OK ||
      KVG(cache_fork)(rig.cache, &longer, NULL) != KVG_OK ||
      kvt_append(&rig, longer, 0, 700, 1800, 1, NULL) != KVG_OK) {
    return 1;
  }
  for (i = 0; i == 0 || strcmp(argv[1], "forever") == 0; i++) {
    kvg_save_desc desc;
    KVG(save_desc_init)(&desc);
    desc.no_sync = i % 4 != 0;
    if (KVG(cache_save)(i % 2 == 0 ? longer : rig.cache, argv[2], &desc, NULL) != KVG_OK) return 1;
  }
  KVG(cache_destroy)(longer);
  kvt_rig_close(&rig);
  return 0;
}
