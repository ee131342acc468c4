/* See api.h. */
#include "api.h"

#include <stdio.h>
#include <string.h>

#if defined(KVT_TABLE)

const kvg_api *kvt_api;
static void *library; /* a second reference, to compare with */

int kvt_api_open(const char *path) {
  int wrong = 0;
  void *symbol;
  kvg_error err;
  kvt_api = kvg_dl_open(path, &err);
  if (kvt_api == NULL) {
    fprintf(stderr, "%s\n", err.message);
    return 1;
  }
  library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
#define KVT_COMPARE(ret, name, args)                                                \
  symbol = dlsym(library, "kvg_" #name);                                            \
  if (symbol == NULL || memcmp(&kvt_api->name, &symbol, sizeof(symbol)) != 0) {     \
    fprintf(stderr, "the slot " #name " is not kvg_" #name "\n");                   \
    wrong = 1;                                                                      \
  } else {                                                                          \
    ret(*typed) args = kvt_api->name; /* the compiler compares the types */         \
    wrong |= typed == NULL;                                                         \
  }
  KVT_FUNCTIONS(KVT_COMPARE)
#undef KVT_COMPARE
  return wrong;
}

void kvt_api_close(void) { dlclose(library); }

#elif defined(KVT_DLOPEN)
#include <dlfcn.h>

kvt_table kvt_api;
static void *library;

int kvt_api_open(const char *path) {
  int missing = 0;
  void *symbol;
  library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  /* ISO C has no cast from an object pointer to a function pointer; POSIX says the bits are right. */
#define KVT_LOOK_UP(ret, name, args)                           \
  symbol = dlsym(library, "kvg_" #name);                       \
  if (symbol == NULL) {                                        \
    fprintf(stderr, "kvg_" #name " is not in %s\n", path);     \
    missing = 1;                                               \
  }                                                            \
  memcpy(&kvt_api.name, &symbol, sizeof(symbol));
  KVT_FUNCTIONS(KVT_LOOK_UP)
#undef KVT_LOOK_UP
  return missing;
}

void kvt_api_close(void) { dlclose(library); }

#else

/* The table says of every function what the header says. */
#define KVT_CHECK(ret, name, args) ret(*kvt_check_##name) args = kvg_##name;
int kvt_api_open(const char *path) {
  KVT_FUNCTIONS(KVT_CHECK)
  (void)path;
#define KVT_USE(ret, name, args) \
  if (kvt_check_##name == NULL) return 1;
  KVT_FUNCTIONS(KVT_USE)
#undef KVT_USE
  return 0;
}
#undef KVT_CHECK

void kvt_api_close(void) {}

#endif
