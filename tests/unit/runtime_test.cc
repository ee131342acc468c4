// Runtime: what options are refused, what it says of itself, and the promises about the log sink.
#include "core/runtime/runtime.h"

#include <stdlib.h>

#include <atomic>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvg {
namespace {

using ::testing::HasSubstr;

constexpr char kTargetVariable[] = "KVGEAR_CPU_TARGET";

std::shared_ptr<Runtime> Make(const RuntimeOptions& options = {}) {
  absl::StatusOr<std::shared_ptr<Runtime>> runtime = Runtime::Create(options);
  EXPECT_TRUE(runtime.ok()) << runtime.status();
  return runtime.ok() ? *std::move(runtime) : nullptr;
}

// The processor's own choice, also where the variable is set for the whole test run.
class RuntimeTest : public ::testing::Test {
 protected:
  RuntimeTest() {
    const char* value = getenv(kTargetVariable);
    if (value != nullptr) saved_ = value;
    unsetenv(kTargetVariable);
  }
  ~RuntimeTest() override {
    if (saved_.empty()) {
      unsetenv(kTargetVariable);
    } else {
      setenv(kTargetVariable, saved_.c_str(), 1);
    }
  }

 private:
  std::string saved_;
};

TEST_F(RuntimeTest, Defaults) {
  const std::shared_ptr<Runtime> runtime = Make();
  size_t count = 0;
  EXPECT_EQ(&runtime->table(), ops::CpuTables(&count)[0]);
  EXPECT_EQ(runtime->pool().threads(), 0u);
  EXPECT_EQ(runtime->memory().budget(), 0u);
  EXPECT_EQ(runtime->memory().held(), 0u);
  EXPECT_EQ(runtime->Describe(), std::string("cpu ") + runtime->table().name +
                                     ", 0 worker threads, no budget");
}

TEST_F(RuntimeTest, DescribesThreadsAndBudget) {
  RuntimeOptions options;
  options.threads = 1;
  options.memory_budget = 4096;
  EXPECT_THAT(Make(options)->Describe(), HasSubstr(", 1 worker thread, budget 4096 bytes"));
  options.threads = 2;
  EXPECT_THAT(Make(options)->Describe(), HasSubstr(", 2 worker threads, budget 4096 bytes"));
}

TEST_F(RuntimeTest, CudaIsRefusedAndSaysWhatIsMissing) {
  RuntimeOptions options;
  options.device = DeviceType::kCuda;
  const absl::Status status = Runtime::Create(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("libkvgear_cuda.so"));
}

TEST_F(RuntimeTest, BadOptionsAreRefused) {
  RuntimeOptions options;
  options.device = static_cast<DeviceType>(7);
  EXPECT_EQ(Runtime::Create(options).status().code(), absl::StatusCode::kUnimplemented);
  options = {};
  options.device_id = 1;
  EXPECT_EQ(Runtime::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
  options = {};
  options.threads = 1025;
  const absl::Status status = Runtime::Create(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("1024"));
  options = {};
  options.allocator.alloc = nullptr;
  EXPECT_EQ(Runtime::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
  options = {};
  options.allocator.release = nullptr;
  EXPECT_EQ(Runtime::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(RuntimeTest, EveryTargetCanBeAskedForByName) {
  size_t count = 0;
  const ops::Table* const* tables = ops::CpuTables(&count);
  std::vector<const ops::Table*> wanted(tables, tables + count);
  wanted.push_back(&ops::ReferenceTable());
  for (const ops::Table* table : wanted) {
    setenv(kTargetVariable, table->name, 1);
    EXPECT_EQ(&Make()->table(), table);
  }
  setenv(kTargetVariable, "", 1);
  EXPECT_EQ(&Make()->table(), tables[0]);
}

TEST_F(RuntimeTest, AnUnknownTargetIsRefusedWithTheList) {
  setenv(kTargetVariable, "AVX1024\n", 1);
  const absl::Status status = Runtime::Create({}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  const std::string message(status.message());
  EXPECT_THAT(message, HasSubstr("AVX1024\\n"));
  EXPECT_THAT(message, HasSubstr("reference"));
  size_t count = 0;
  const ops::Table* const* tables = ops::CpuTables(&count);
  for (size_t i = 0; i < count; ++i) EXPECT_THAT(message, HasSubstr(tables[i]->name));
}

TEST_F(RuntimeTest, MemoryComesFromTheHostsAllocator) {
  static uint64_t calls;
  calls = 0;
  RuntimeOptions options;
  options.memory_budget = 100;
  options.allocator.alloc = [](void*, size_t size, size_t alignment) {
    ++calls;
    return SystemAllocator().alloc(nullptr, size, alignment);
  };
  const std::shared_ptr<Runtime> runtime = Make(options);
  {
    const Buffer buffer(runtime->memory(), 60);
    EXPECT_EQ(calls, 1u);
    EXPECT_EQ(runtime->memory().held(), 60u);
    EXPECT_THROW(Buffer(runtime->memory(), 41), BudgetExceeded);
    std::pmr::vector<char> v(&runtime->resource());
    EXPECT_THROW(v.reserve(41), BudgetExceeded);
  }
  EXPECT_EQ(runtime->memory().held(), 0u);
}

struct Sink {
  std::vector<std::pair<uint32_t, std::string>> lines;
  Runtime* runtime = nullptr;
  static void Write(void* user, uint32_t level, const char* message) {
    static_cast<Sink*>(user)->lines.emplace_back(level, message);
  }
};

TEST_F(RuntimeTest, LogReachesTheSinkThatIsSet) {
  const std::shared_ptr<Runtime> runtime = Make();
  runtime->Log(LogLevel::kError, "nobody listens");
  Sink first, second;
  runtime->SetLog(Sink::Write, &first);
  runtime->Log(LogLevel::kWarn, std::string_view("one and more").substr(0, 3));
  runtime->SetLog(Sink::Write, &second);
  runtime->Log(LogLevel::kInfo, "two");
  runtime->SetLog(nullptr, nullptr);
  runtime->Log(LogLevel::kInfo, "three");
  ASSERT_EQ(first.lines.size(), 1u);
  EXPECT_EQ(first.lines[0], std::make_pair(2u, std::string("one")));
  ASSERT_EQ(second.lines.size(), 1u);
  EXPECT_EQ(second.lines[0], std::make_pair(1u, std::string("two")));
}

TEST_F(RuntimeTest, LongLinesAreCut) {
  const std::shared_ptr<Runtime> runtime = Make();
  Sink sink;
  runtime->SetLog(Sink::Write, &sink);
  runtime->Log(LogLevel::kInfo, std::string(5000, 'x'));
  runtime->Log(LogLevel::kInfo, "");
  ASSERT_EQ(sink.lines.size(), 2u);
  EXPECT_EQ(sink.lines[0].second, std::string(511, 'x'));
  EXPECT_EQ(sink.lines[1].second, "");
}

TEST_F(RuntimeTest, ASinkThatThrowsOrLogsDoesNoHarm) {
  const std::shared_ptr<Runtime> runtime = Make();
  runtime->SetLog([](void*, uint32_t, const char*) { throw std::runtime_error("sink"); }, nullptr);
  runtime->Log(LogLevel::kInfo, "lost");
  Sink sink;
  sink.runtime = runtime.get();
  runtime->SetLog(
      [](void* user, uint32_t level, const char* message) {
        Sink::Write(user, level, message);
        static_cast<Sink*>(user)->runtime->Log(LogLevel::kInfo, "from within");
      },
      &sink);
  runtime->Log(LogLevel::kInfo, "one");
  runtime->Log(LogLevel::kInfo, "two");
  ASSERT_EQ(sink.lines.size(), 2u);
  EXPECT_EQ(sink.lines[1].second, "two");
}

TEST_F(RuntimeTest, AReplacedSinkIsNotRunningAndNotCalledAgain) {
  const std::shared_ptr<Runtime> runtime = Make();
  struct Guarded {
    std::atomic<bool> live{true};
    std::atomic<bool> called_dead{false};
  };
  std::atomic<bool> stop{false};
  std::vector<std::thread> loggers;
  for (int i = 0; i < 2; ++i) {
    loggers.emplace_back([&] {
      while (!stop.load()) runtime->Log(LogLevel::kInfo, "line");
    });
  }
  for (int i = 0; i < 200; ++i) {
    Guarded guarded;
    runtime->SetLog(
        [](void* user, uint32_t, const char*) {
          Guarded& g = *static_cast<Guarded*>(user);
          for (int look = 0; look < 3; ++look) {
            if (!g.live.load()) g.called_dead = true;
            std::this_thread::yield();
          }
        },
        &guarded);
    std::this_thread::yield();
    runtime->SetLog(nullptr, nullptr);
    guarded.live = false;
    std::this_thread::yield();
    ASSERT_FALSE(guarded.called_dead.load());
  }
  stop = true;
  for (std::thread& logger : loggers) logger.join();
}

}  // namespace
}  // namespace kvg
