// The CUDA plugin as core finds it: missing, of another kind, lying about itself, without a driver or
// a device; and the memory pool behind a device.
//
// A plugin that was loaded once stays for the life of the process, so each case of that runs in a
// child process.
#include "core/runtime/plugin.h"

#include <link.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
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

// Whether a constructor of any stand-in has run in this process.
bool CodeRan() { return std::getenv("KVGEAR_STAND_IN_RAN") != nullptr; }

TEST(Plugin, WhatIsMissingIsSaid) {
  EXPECT_THAT(Outcome("/nowhere:/nowhere/else"),
              AllOf(HasSubstr("missing plugin"), HasSubstr("/nowhere:/nowhere/else"),
                    HasSubstr("KVGEAR_PLUGIN_PATH")));
  EXPECT_THAT(Outcome(Folder("text")), AllOf(HasSubstr("missing plugin"), HasSubstr("is no shared library")));
  for (const char* name : {"nothing", "function", "short"}) {
    EXPECT_THAT(Outcome(Folder(name)), AllOf(HasSubstr("missing plugin"), HasSubstr("kvgear_plugin_cuda")))
        << name;
  }
  EXPECT_THAT(Outcome(Folder("zeroes")), HasSubstr("does not hold what it exports"));
}

TEST(Plugin, OneThatLiesAboutItselfIsRefusedBeforeItsCodeRuns) {
  const std::string own = std::to_string(ops::kPluginVersion), next = std::to_string(ops::kPluginVersion + 1);
  const std::string size = std::to_string(sizeof(ops::Plugin));
  const struct {
    const char* folder;
    std::string words;
  } lies[] = {
      {"magic", "magic"},
      {"version", "speaks versions " + next + " to " + next},
      {"earlier", "speaks versions 0 to " + std::to_string(ops::kPluginOldest - 1)},
      {"backwards", "speaks versions " + own + " to " + std::to_string(ops::kPluginVersion - 1)},
      {"size", "bytes, not " + size},
      {"longer", "bytes, not " + size},
      {"later_size", "bytes, not " + size},
      {"beyond", "has " + size + " bytes, and says " + std::to_string(sizeof(ops::Plugin) + 8)},
  };
  for (const auto& lie : lies) {
    EXPECT_THAT(Outcome(Folder(lie.folder)), AllOf(HasSubstr("missing plugin"), HasSubstr(lie.words)))
        << lie.folder;
  }
  // The first file found counts; none behind it is tried.
  EXPECT_THAT(Outcome(Folder("magic") + ":" + Folder("stand_in")), HasSubstr("magic"));
  EXPECT_FALSE(CodeRan());
}

TEST(Plugin, OneWithAFunctionMissingIsRefused) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        bool good = Outcome(Folder("hole")).find("lacks functions") != std::string::npos;
        good &= CodeRan();  // the mark that other tests look for is made
        good &= Outcome(Folder("stand_in")).empty();  // and nothing of it stayed
        std::exit(good ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

TEST(Plugin, LaterOnesThatServeThisLibraryAndOldHashTablesAreTaken) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(std::exit(Outcome(Folder("later")).empty() && CodeRan() ? 0 : 1), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(std::exit(Outcome(Folder("old_hash")).empty() ? 0 : 1), testing::ExitedWithCode(0), "");
}

class PluginFile : public testing::Test {
 protected:
  void SetUp() override {
    std::ifstream in(Folder("stand_in") + "/libkvgear_cuda.so", std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(in), {});
    ASSERT_GT(bytes_.size(), 4096u);
  }
  void TearDown() override { std::remove(name_.c_str()); }
  absl::Status Check(const std::string& bytes) const {
    std::ofstream(name_, std::ios::binary | std::ios::trunc) << bytes;
    return CheckCudaPlugin(name_);
  }
  std::string bytes_;
  const std::string name_ = testing::TempDir() + "kvgear_plugin_" + std::to_string(getpid()) + ".so";
};

TEST_F(PluginFile, ThatIsCutIsRefused) {
  ASSERT_TRUE(Check(bytes_).ok()) << Check(bytes_);
  // The end of what is mapped; behind it lie only tables that nobody needs to run the library.
  size_t mapped = 0;
  ElfW(Ehdr) header;
  std::memcpy(&header, bytes_.data(), sizeof(header));
  for (size_t i = 0; i < header.e_phnum; ++i) {
    ElfW(Phdr) segment;
    std::memcpy(&segment, &bytes_[header.e_phoff + i * sizeof(segment)], sizeof(segment));
    if (segment.p_type == PT_LOAD) mapped = std::max<size_t>(mapped, segment.p_offset + segment.p_filesz);
  }
  EXPECT_TRUE(Check(bytes_.substr(0, mapped)).ok());
  for (size_t size = 0; size < mapped; size += 1 + size / 20) {
    EXPECT_FALSE(Check(bytes_.substr(0, size)).ok()) << size;
  }
  EXPECT_FALSE(Check(bytes_.substr(0, mapped - 1)).ok());
}

// A file with any bytes in its tables is taken or refused, and that soon.
TEST_F(PluginFile, OfAnyContentIsNoHarm) {
  ElfW(Ehdr) header;
  std::memcpy(&header, bytes_.data(), sizeof(header));
  std::vector<std::pair<size_t, size_t>> places = {{0, sizeof(header)},
                                                   {header.e_phoff, header.e_phnum * sizeof(ElfW(Phdr))}};
  for (size_t i = 0; i < header.e_shnum; ++i) {
    ElfW(Shdr) section;
    std::memcpy(&section, &bytes_[header.e_shoff + i * sizeof(section)], sizeof(section));
    if (section.sh_type == SHT_DYNAMIC || section.sh_type == SHT_GNU_HASH || section.sh_type == SHT_DYNSYM) {
      places.emplace_back(section.sh_offset, section.sh_size);
    }
  }
  ASSERT_GE(places.size(), 5u);
  ASSERT_TRUE(Check(bytes_).ok());
  std::fstream file(name_, std::ios::binary | std::ios::in | std::ios::out);
  const auto put = [&file](size_t at, char byte) {
    file.seekp(static_cast<std::streamoff>(at));
    file.put(byte);
  };
  Random random(7);
  size_t refused = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<size_t> changed;
    for (uint64_t n = 1 + random.Next() % 3; n > 0; --n) {
      const auto& [at, size] = places[random.Next() % places.size()];
      changed.push_back(at + random.Next() % size);
      put(changed.back(), static_cast<char>(random.Next() % 3 == 0 ? 0xFF : random.Next()));
    }
    file.flush();
    refused += !CheckCudaPlugin(name_).ok();
    for (const size_t at : changed) put(at, bytes_[at]);
  }
  file.flush();
  EXPECT_TRUE(CheckCudaPlugin(name_).ok());
  EXPECT_GT(refused, 200u);
  EXPECT_FALSE(CodeRan());
}

TEST_F(PluginFile, ThatIsNoFileIsRefusedAtOnce) {
  EXPECT_FALSE(CheckCudaPlugin(name_).ok());
  EXPECT_FALSE(CheckCudaPlugin(testing::TempDir()).ok());
  ASSERT_EQ(mkfifo(name_.c_str(), 0600), 0);
  EXPECT_FALSE(CheckCudaPlugin(name_).ok());
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
