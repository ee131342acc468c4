/* Runs the conformance suite on the library that it is linked with, or (built with KVT_DLOPEN or
 * KVT_TABLE) on the one whose path is given. Further arguments name the groups to run; without them all run. */
#include <stdio.h>
#include <string.h>

#include "cases.h"

typedef struct group {
  const char *name;
  void (*run)(void);
} group;

static const group groups[] = {
    {"basics", case_basics},   {"structs", case_structs}, {"handles", case_handles},
    {"append", case_append},   {"attend", case_attend},   {"content", case_content},
    {"history", case_history}, {"saved", case_saved},
    {"select", case_select},   {"plans", case_plans},
};

static int is_wanted(const char *name, int argc, char **argv) {
  int i;
  for (i = 2; i < argc; i++) {
    if (strcmp(argv[i], name) == 0) return 1;
  }
  return argc <= 2;
}

/* A program may close the library, or the last of several may, before it has ended its handles. */
static void outlive_close(const char *path) {
  kvt_rig rig;
  kvg_runtime_options options;
  KVG(runtime_options_init)(&options);
  options.threads = 1;
  if (!kvt_rig_open(&rig, "gear-2", 1, 1, 1, 32, &options)) return;
  OK(kvt_append(&rig, rig.cache, 0, 0, 100, 1, &kvt_err));
  kvt_api_close();
  OK(kvt_append(&rig, rig.cache, 0, 100, 100, 1, &kvt_err));
  CHECK(kvt_api_open(path) == 0);
  CHECK(kvt_length(rig.cache, 0) == 200);
  kvt_rig_close(&rig);
}

int main(int argc, char **argv) {
  size_t i;
  if (argc < 2) {
    fprintf(stderr, "usage: %s <path of libkvgear.so> [group]...\n", argv[0]);
    return 2;
  }
  if (kvt_api_open(argv[1]) != 0) return 1;
  for (i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
    const int before = kvt_failures();
    if (!is_wanted(groups[i].name, argc, argv)) continue;
    kvt_where("");
    groups[i].run();
    printf("%-8s %s\n", groups[i].name, kvt_failures() == before ? "ok" : "FAILED");
  }
  outlive_close(argv[1]);
  kvt_api_close();
  printf("%ld checks, %d failed\n", kvt_checks(), kvt_failures());
  return kvt_checks() > 0 && kvt_failures() == 0 ? 0 : 1;
}
