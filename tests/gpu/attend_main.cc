// tests/parity/attend_test.cc on a CUDA device, in place of the tables of this processor.
#include <gtest/gtest.h>

#include <cstdio>

#include "tests/gpu/device_table.h"
#include "tests/support/kernel_fixture.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (!kvg::gpu_test::HasDevice()) {
    std::puts("skipped: no CUDA device");
    return 0;
  }
  kvg::kernel_test::TestInstead(&kvg::gpu_test::DeviceTable());
  return RUN_ALL_TESTS();
}
