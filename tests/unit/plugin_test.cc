// The CUDA plugin as core finds it: missing, of another kind, lying about itself, without a driver or
// a device; and the memory pool behind a device.
//
// A plugin that was loaded once stays for the life of the process, so each case of that runs in a
// child process.
#include "core/runtime/plugin.h"

#include <cstdlib>
#include <string>
#include <vector>

#include "core/runtime/page_pool.h"
#include "core/runtime/runtime.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/cache_fixture.h"

namespace kvg::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string Folder(const std::string& name) { return std::string(KVG_TEST_PLUGINS) + "/" + name; }

// What a runtime on CUDA says when plugins are looked for in `path`; "" when it can be made.
std::string Outcome(const std::string& path, uint32_t device_id = 0) {
  setenv("KVGEAR_PLUGIN_PATH", path.c_str(), 1);
  RuntimeOptions options;
  options.device = DeviceType::kCuda;
  options.device_id = device_id;
  const auto runtime = Runtime::Create(options);
  unsetenv("KVGEAR_PLUGIN_PATH");
  if (runtime.ok()) return "";
  EXPECT_EQ(runtime.status().code(), absl::StatusCode::kUnavailable);
  return std::string(runtime.status().message());
}

TEST(Plugin, WhatIsMissingIsSaid) {
  EXPECT_THAT(Outcome("/nowhere:/nowhere/else"),
              AllOf(HasSubstr("missing plugin"), HasSubstr("/nowhere:/nowhere/else"),
                    HasSubstr("KVGEAR_PLUGIN_PATH")));
  EXPECT_THAT(Outcome(Folder("text")), AllOf(HasSubstr("missing plugin"), HasSubstr("loaded")));
  EXPECT_THAT(Outcome(Folder("nothing")),
              AllOf(HasSubstr("missing plugin"), HasSubstr("kvgear_plugin_cuda")));
}

TEST(Plugin, OneThatLiesAboutItselfIsRefused) {
  EXPECT_THAT(Outcome(Folder("magic")), AllOf(HasSubstr("missing plugin"), HasSubstr("magic")));
  EXPECT_THAT(Outcome(Folder("version")),
              AllOf(HasSubstr("missing plugin"),
                    HasSubstr("version " + std::to_string(ops::kPluginVersion + 1))));
  EXPECT_THAT(Outcome(Folder("size")),
              AllOf(HasSubstr("missing plugin"), HasSubstr(std::to_string(sizeof(ops::Plugin)))));
  // The first file found counts; none behind it is tried.
  EXPECT_THAT(Outcome(Folder("magic") + ":" + Folder("stand_in")), HasSubstr("magic"));
}

TEST(Plugin, IsLoadedOnceAndSaysWhatElseIsMissing) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        bool good = true;
        setenv("KVGEAR_STAND_IN_OPEN", "1", 1);
        good &= Outcome("/nowhere:" + Folder("stand_in")).find("missing driver") != std::string::npos;
        setenv("KVGEAR_STAND_IN_OPEN", "2", 1);
        good &= Outcome("").find("missing device") != std::string::npos;  // it is loaded by now
        setenv("KVGEAR_STAND_IN_OPEN", "3", 1);
        good &= Outcome("").find("missing device") != std::string::npos;
        unsetenv("KVGEAR_STAND_IN_OPEN");
        good &= Outcome("", 1).find("there is only number 0") != std::string::npos;
        good &= Outcome(Folder("magic")).empty();
        std::exit(good ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

struct Slabs {
  std::vector<void*> taken;
  size_t left = SIZE_MAX;
  PagePool::Source source() {
    return {this,
            [](void* self, size_t bytes) -> void* {
              auto& slabs = *static_cast<Slabs*>(self);
              if (bytes > slabs.left) return nullptr;
              slabs.left -= bytes;
              slabs.taken.push_back(std::malloc(bytes));
              return slabs.taken.back();
            },
            [](void* self, void* slab, size_t) {
              std::erase(static_cast<Slabs*>(self)->taken, slab);
              std::free(slab);
            }};
  }
};

TEST(PagePool, RunsAreApartAndComeTogetherAgain) {
  Slabs slabs;
  {
    PagePool pool(slabs.source(), 64 * PagePool::kPage);
    Random random(1);
    struct Run {
      char* at;
      size_t bytes;
    };
    std::vector<Run> runs;
    size_t used = 0;
    bool recycled = false;
    for (int step = 0; step < 4000; ++step) {
      if (runs.empty() || random.Next() % 5 < 3) {
        const size_t bytes = 1 + random.Next() % (20 * PagePool::kPage);
        runs.push_back({static_cast<char*>(pool.Allocate(bytes, &recycled)), bytes});
        ASSERT_EQ(reinterpret_cast<uintptr_t>(runs.back().at) % 16, 0u);
        used += (bytes + PagePool::kPage - 1) / PagePool::kPage * PagePool::kPage;
        for (size_t i = 0; i + 1 < runs.size(); ++i) {
          ASSERT_TRUE(runs[i].at + runs[i].bytes <= runs.back().at ||
                      runs.back().at + bytes <= runs[i].at);
        }
      } else {
        const size_t i = random.Next() % runs.size();
        pool.Release(runs[i].at, runs[i].bytes);
        used -= (runs[i].bytes + PagePool::kPage - 1) / PagePool::kPage * PagePool::kPage;
        runs[i] = runs.back();
        runs.pop_back();
      }
      ASSERT_EQ(pool.used_bytes(), used);
      if (runs.size() > 200) {
        for (const Run& run : runs) pool.Release(run.at, run.bytes);
        runs.clear();
        used = 0;
      }
    }
    for (const Run& run : runs) pool.Release(run.at, run.bytes);
    // Everything is one run again: each slab takes a request of its whole length.
    const size_t slab_bytes = pool.slab_bytes();
    for (size_t i = 0; i < slab_bytes / (64 * PagePool::kPage); ++i) {
      ASSERT_NE(pool.Allocate(64 * PagePool::kPage, &recycled), nullptr);
    }
    EXPECT_EQ(pool.slab_bytes(), slab_bytes);
  }
  EXPECT_TRUE(slabs.taken.empty());
}

TEST(PagePool, LargeRequestsAndTheLastCorner) {
  Slabs slabs;
  slabs.left = 200 * PagePool::kPage;
  PagePool pool(slabs.source(), 64 * PagePool::kPage);
  bool recycled = true;
  void* const large = pool.Allocate(150 * PagePool::kPage, &recycled);
  ASSERT_NE(large, nullptr);
  EXPECT_FALSE(recycled);
  // No whole slab is left, but this is.
  EXPECT_NE(pool.Allocate(50 * PagePool::kPage, &recycled), nullptr);
  EXPECT_EQ(pool.Allocate(1, &recycled), nullptr);
  pool.Release(large, 150 * PagePool::kPage);
  EXPECT_NE(pool.Allocate(1, &recycled), nullptr);
  EXPECT_TRUE(recycled);
}

}  // namespace
}  // namespace kvg::test
