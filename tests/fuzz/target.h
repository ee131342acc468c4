// What each fuzz target defines. main.cc hands it inputs: those of libFuzzer, or files, or changes of files.
#ifndef KVGEAR_TESTS_FUZZ_TARGET_H_
#define KVGEAR_TESTS_FUZZ_TARGET_H_

#include <cstddef>
#include <cstdint>

namespace kvg::test {

// Aborts when something is not as it should be.
void FuzzOne(const uint8_t* data, size_t size);

}  // namespace kvg::test

#endif  // KVGEAR_TESTS_FUZZ_TARGET_H_
