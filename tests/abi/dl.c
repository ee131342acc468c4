/* kvg_get_api and kvgear_dl.h: which versions are served, what is refused, by what name the library is
 * looked for. That every slot is its function, and works, the conformance suite shows.
 *   dl <libkvgear.so> <its soname> <a library without kvg_get_api> <one that serves no version>
 *   dl <a libkvgear.so from before there was a table> */
#include <kvgear/kvgear_dl.h>
#include <stdio.h>
#include <string.h>

static int failures = 0;

#define CHECK(cond)                                                       \
  do {                                                                    \
    if (!(cond)) {                                                        \
      fprintf(stderr, "%s:%d: FAILED: %s\n", __FILE__, __LINE__, #cond); \
      failures++;                                                         \
    }                                                                     \
  } while (0)

static void refused(const char *path, kvg_status code, const char *words) {
  kvg_error err;
  memset(&err, 0x5A, sizeof(err));
  CHECK(kvg_dl_open(path, &err) == NULL);
  CHECK(err.code == code);
  CHECK(err.reserved == 0);
  CHECK(strstr(err.message, words) != NULL);
  CHECK(kvg_dl_open(path, NULL) == NULL);
}

int main(int argc, char **argv) {
  kvg_error err;
  const kvg_api *api;
  kvg_get_api_fn get_api;
  void *symbol, *library;
  char longer[1000];
  if (argc == 2) {
    refused(argv[1], KVG_E_UNSUPPORTED, "too old");
    return failures == 0 ? 0 : 1;
  }
  if (argc != 5) return 2;

  memset(&err, 0x5A, sizeof(err));
  api = kvg_dl_open(argv[1], &err);
  CHECK(api != NULL);
  if (api == NULL) return 1;
  CHECK(err.reserved == 0x5A5A5A5A); /* not touched */
  CHECK(api->version == KVG_ABI_VERSION);
  CHECK(api->struct_size == sizeof(kvg_api));
  CHECK(kvg_dl_open(argv[1], NULL) == api);
  CHECK(strcmp(argv[2], KVG_DL_NAME) == 0);

  /* Every version that is served gets the table, no other does. */
  library = dlopen(argv[1], RTLD_NOW);
  CHECK(library != NULL);
  symbol = library != NULL ? dlsym(library, "kvg_get_api") : NULL;
  CHECK(symbol != NULL);
  if (symbol != NULL) {
    uint32_t version;
    memcpy(&get_api, &symbol, sizeof(get_api));
    for (version = 0; version < 100; version++) {
      const int served = version >= api->abi_min() && version <= api->abi_version();
      CHECK(get_api(version) == (served ? api : NULL));
    }
    CHECK(get_api(0xFFFFFFFFu) == NULL);
  }

  /* A table from a library that ends before a slot does not have it. */
  {
    kvg_api older = *api;
    CHECK(KVG_API_HAS(api, abi_version) && KVG_API_HAS(api, cache_next_tokens));
    older.struct_size = (uint32_t)offsetof(kvg_api, cache_next_tokens);
    CHECK(KVG_API_HAS(&older, cache_attend_observe) && !KVG_API_HAS(&older, cache_next_tokens));
    older.struct_size += 1;
    CHECK(!KVG_API_HAS(&older, cache_next_tokens));
  }

  refused("/nowhere/libkvgear.so", KVG_E_IO, "/nowhere");
  refused(argv[3], KVG_E_UNSUPPORTED, "no kvgear");
  refused(argv[4], KVG_E_UNSUPPORTED, "ABI version");
  memset(longer, 'x', sizeof(longer) - 1);
  longer[0] = '/';
  longer[sizeof(longer) - 1] = '\0';
  refused(longer, KVG_E_IO, "xxxx");
  return failures == 0 ? 0 : 1;
}
