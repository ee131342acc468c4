// CRC32C (Castagnoli, reflected polynomial 0x82F63B78), as in iSCSI and ext4.
//
// Called by core/format. Written here because the distributions that the tree is built on package no
// library for it, and it is small: a table where the processor has no instruction for it.
#ifndef KVGEAR_CORE_BASE_CRC32C_H_
#define KVGEAR_CORE_BASE_CRC32C_H_

#include <cstddef>
#include <cstdint>

namespace kvg {

// The CRC of what `crc` is the CRC of (0: nothing) followed by these bytes.
uint32_t ExtendCrc32c(uint32_t crc, const void* data, size_t bytes);

inline uint32_t Crc32c(const void* data, size_t bytes) { return ExtendCrc32c(0, data, bytes); }

// Whether the processor's own instruction is used; and the table alone, for tests.
bool HasFastCrc32c();
uint32_t ExtendCrc32cPortable(uint32_t crc, const void* data, size_t bytes);

}  // namespace kvg

#endif  // KVGEAR_CORE_BASE_CRC32C_H_
