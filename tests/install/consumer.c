/* The smallest user of an installed kvgear: does the header fit the library, and does the library come to life? */
#include <kvgear/kvgear.h>
#include <stdio.h>
#include <string.h>

int main(void) {
  kvg_runtime_options options;
  kvg_runtime *runtime = NULL;
  kvg_error err;
  char version[64];
  kvg_status status;

  sprintf(version, "%d.%d.%d", KVG_VERSION_MAJOR, KVG_VERSION_MINOR, KVG_VERSION_PATCH);
  if (strcmp(version, kvg_version_string()) != 0) {
    fprintf(stderr, "header %s, library %s\n", version, kvg_version_string());
    return 1;
  }
  if (KVG_ABI_VERSION < kvg_abi_min() || KVG_ABI_VERSION > kvg_abi_version()) {
    fprintf(stderr, "the library does not serve the ABI of its own header\n");
    return 1;
  }
  kvg_runtime_options_init(&options);
  status = kvg_runtime_create(&options, &runtime, &err);
  if (status != KVG_OK) {
    fprintf(stderr, "kvg_runtime_create: %s: %s\n", kvg_status_string(status), err.message);
    return 1;
  }
  kvg_runtime_destroy(runtime);
  kvg_runtime_destroy(NULL);
  printf("kvgear %s works\n", version);
  return 0;
}
