/* kvgear_dl.h: opens libkvgear.so at run time and fetches its table, for programs that are not linked with
 * it. Nothing to link but the system's dlopen. C89 and C++; POSIX.
 *
 *   kvg_error error;
 *   const kvg_api *kvg = kvg_dl_open(NULL, &error);
 *   if (kvg == NULL) { fprintf(stderr, "%s\n", error.message); ... }
 *   kvg->runtime_create(NULL, &runtime, &error);
 */
#ifndef KVGEAR_KVGEAR_DL_H_
#define KVGEAR_KVGEAR_DL_H_

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include <kvgear/kvgear_table.h>

/** The name by which the system's loader finds a library that fits this header. */
#define KVG_DL_NAME "libkvgear.so.0"

#if defined(__cplusplus)
#define KVG_DL_FUNCTION inline
#elif defined(__GNUC__)
#define KVG_DL_FUNCTION static __inline__ /* may stay unused */
#else
#define KVG_DL_FUNCTION static
#endif

/**
 * Opens a library and gives its table. May be called again, and from any thread. The library stays loaded
 * until the process ends, so its table does not expire.
 * @param path  of the library, with a slash; NULL looks for KVG_DL_NAME where the system looks
 * @param err   on failure: KVG_E_IO if it cannot be opened, KVG_E_UNSUPPORTED if it is no kvgear or does
 *              not serve this header. May be NULL.
 * @return the table, or NULL
 */
KVG_DL_FUNCTION const kvg_api *kvg_dl_open(const char *path, kvg_error *err) {
  const char *why;
  void *symbol;
  kvg_get_api_fn get_api;
  const kvg_api *api = NULL;
  kvg_status code = KVG_OK;
  char text[KVG_ERROR_MESSAGE_SIZE];
  void *library = dlopen(path != NULL ? path : KVG_DL_NAME, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    why = dlerror();
    code = KVG_E_IO;
    sprintf(text, "kvgear cannot be opened: %.400s", why != NULL ? why : "unknown reason");
  } else if ((symbol = dlsym(library, "kvg_get_api")) == NULL) {
    code = KVG_E_UNSUPPORTED;
    sprintf(text, "%.400s has no kvg_get_api; it is no kvgear, or one that is too old",
            path != NULL ? path : KVG_DL_NAME);
  } else {
    /* ISO C has no cast from an object pointer to a function pointer; POSIX says the bits are right. */
    memcpy(&get_api, &symbol, sizeof(get_api));
    api = get_api(KVG_ABI_VERSION);
    if (api == NULL) {
      code = KVG_E_UNSUPPORTED;
      sprintf(text, "%.400s does not serve ABI version %d, which this program was built for",
              path != NULL ? path : KVG_DL_NAME, KVG_ABI_VERSION);
    }
  }
  if (api == NULL) {
    if (library != NULL) dlclose(library);
    if (err != NULL) {
      err->code = code;
      err->reserved = 0;
      strcpy(err->message, text);
    }
  }
  return api;
}

#endif /* KVGEAR_KVGEAR_DL_H_ */
