// CRC32C by eight tables, or by the processor's instruction on three streams at once. See crc32c.h.
#include "core/base/crc32c.h"

#include <array>
#include <bit>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <arm_acle.h>
#include <sys/auxv.h>
#endif

namespace kvg {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr uint32_t kPolynomial = 0x82F63B78u;

// table[0][b]: the state that byte b leaves behind; table[k][b]: the same with k zero bytes behind it.
using Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Tables MakeTables() {
  Tables tables{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t state = b;
    for (int bit = 0; bit < 8; ++bit) state = (state >> 1) ^ ((state & 1) != 0 ? kPolynomial : 0);
    tables[0][b] = state;
  }
  for (size_t k = 1; k < 8; ++k) {
    for (uint32_t b = 0; b < 256; ++b) {
      const uint32_t state = tables[k - 1][b];
      tables[k][b] = (state >> 8) ^ tables[0][state & 0xFF];
    }
  }
  return tables;
}

constexpr Tables kTables = MakeTables();

// On states, that is, without the inversion at both ends.
uint32_t UpdateByTable(uint32_t state, const std::byte* at, size_t bytes) {
  for (; bytes >= 8; at += 8, bytes -= 8) {
    uint64_t word;
    std::memcpy(&word, at, sizeof(word));
    word ^= state;
    state = 0;
    for (size_t k = 0; k < 8; ++k) state ^= kTables[7 - k][(word >> (8 * k)) & 0xFF];
  }
  for (; bytes > 0; ++at, --bytes) {
    state = (state >> 8) ^ kTables[0][(state ^ static_cast<uint32_t>(*at)) & 0xFF];
  }
  return state;
}

#if defined(__x86_64__)
#define KVG_CRC32C_TARGET __attribute__((target("sse4.2")))
KVG_CRC32C_TARGET inline uint32_t Step8(uint32_t state, const std::byte* at) {
  uint64_t word;
  std::memcpy(&word, at, sizeof(word));
  return static_cast<uint32_t>(_mm_crc32_u64(state, word));
}
KVG_CRC32C_TARGET inline uint32_t Step1(uint32_t state, std::byte b) {
  return _mm_crc32_u8(state, static_cast<uint8_t>(b));
}
bool DetectFast() { return __builtin_cpu_supports("sse4.2") != 0; }
#elif defined(__aarch64__) && defined(__linux__)
#define KVG_CRC32C_TARGET __attribute__((target("+crc")))
KVG_CRC32C_TARGET inline uint32_t Step8(uint32_t state, const std::byte* at) {
  uint64_t word;
  std::memcpy(&word, at, sizeof(word));
  return __crc32cd(state, word);
}
KVG_CRC32C_TARGET inline uint32_t Step1(uint32_t state, std::byte b) {
  return __crc32cb(state, static_cast<uint8_t>(b));
}
bool DetectFast() { return (getauxval(AT_HWCAP) & (1ul << 7)) != 0; }  // HWCAP_CRC32
#endif

#if defined(KVG_CRC32C_TARGET)

// The instruction takes three cycles and one can start in each, so three stretches go side by side.
constexpr size_t kStretch = 2048;

// What a state becomes behind kStretch zero bytes: a linear map, as four tables of its bytes.
using Shift = std::array<std::array<uint32_t, 256>, 4>;

Shift MakeShift() {
  std::array<uint32_t, 32> column{};
  for (uint32_t bit = 0; bit < 32; ++bit) {
    uint32_t state = 1u << bit;
    for (size_t i = 0; i < kStretch; ++i) state = (state >> 8) ^ kTables[0][state & 0xFF];
    column[bit] = state;
  }
  Shift shift{};
  for (size_t byte = 0; byte < 4; ++byte) {
    for (uint32_t value = 0; value < 256; ++value) {
      for (uint32_t bit = 0; bit < 8; ++bit) {
        if ((value >> bit & 1) != 0) shift[byte][value] ^= column[8 * byte + bit];
      }
    }
  }
  return shift;
}

uint32_t BehindStretch(const Shift& shift, uint32_t state) {
  return shift[0][state & 0xFF] ^ shift[1][state >> 8 & 0xFF] ^ shift[2][state >> 16 & 0xFF] ^
         shift[3][state >> 24];
}

KVG_CRC32C_TARGET uint32_t UpdateByInstruction(uint32_t state, const std::byte* at, size_t bytes) {
  static const Shift shift = MakeShift();
  for (; bytes >= 3 * kStretch; at += 3 * kStretch, bytes -= 3 * kStretch) {
    uint32_t second = 0, third = 0;
    for (size_t i = 0; i < kStretch; i += 8) {
      state = Step8(state, at + i);
      second = Step8(second, at + kStretch + i);
      third = Step8(third, at + 2 * kStretch + i);
    }
    state = BehindStretch(shift, state) ^ second;
    state = BehindStretch(shift, state) ^ third;
  }
  for (; bytes >= 8; at += 8, bytes -= 8) state = Step8(state, at);
  for (; bytes > 0; ++at, --bytes) state = Step1(state, *at);
  return state;
}

#endif

}  // namespace

bool HasFastCrc32c() {
#if defined(KVG_CRC32C_TARGET)
  static const bool fast = DetectFast();
  return fast;
#else
  return false;
#endif
}

uint32_t ExtendCrc32cPortable(uint32_t crc, const void* data, size_t bytes) {
  return ~UpdateByTable(~crc, static_cast<const std::byte*>(data), bytes);
}

uint32_t ExtendCrc32c(uint32_t crc, const void* data, size_t bytes) {
#if defined(KVG_CRC32C_TARGET)
  if (HasFastCrc32c()) {
    return ~UpdateByInstruction(~crc, static_cast<const std::byte*>(data), bytes);
  }
#endif
  return ExtendCrc32cPortable(crc, data, bytes);
}

}  // namespace kvg
