// Exports: versions of the ABI and of the library.
#include "kvgear/kvgear.h"

#define KVG_TEXT_OF(x) #x
#define KVG_TEXT(x) KVG_TEXT_OF(x)

uint32_t kvg_abi_version(void) { return KVG_ABI_VERSION; }

uint32_t kvg_abi_min(void) { return 1; }

const char* kvg_version_string(void) {
  return KVG_TEXT(KVG_VERSION_MAJOR) "." KVG_TEXT(KVG_VERSION_MINOR) "." KVG_TEXT(
      KVG_VERSION_PATCH);
}
